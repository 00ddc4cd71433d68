"""What a run leaves behind, and what it is good for afterwards."""
