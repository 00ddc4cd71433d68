"""Models that write no digits, to compare with."""
