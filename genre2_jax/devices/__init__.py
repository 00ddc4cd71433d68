"""Meshes, processes, memory, signals and profiles."""
