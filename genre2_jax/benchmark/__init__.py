"""Many methods on many tasks: runs them, then compares them."""
