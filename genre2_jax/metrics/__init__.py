"""Errors of points, honesty of distributions, and the rows of results."""
