"""The report of a run: its numbers in words, tables and figures."""
