"""One stage of training: its state, its step, its loop and its checkpoints."""
