"""Files of a workdir: written whole, read back checked."""
