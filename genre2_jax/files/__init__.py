"""Files of a workdir: written whole, and checked when read."""
