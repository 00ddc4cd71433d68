"""Methods compared over tasks: statistics, and their report."""
