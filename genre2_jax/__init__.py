"""Decoding-based regression: models that write numbers, token by token."""

__version__ = '0.1.0'
