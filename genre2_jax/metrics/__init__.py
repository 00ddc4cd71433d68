"""Metrics of points, samples and exact distributions; the rows of results."""
