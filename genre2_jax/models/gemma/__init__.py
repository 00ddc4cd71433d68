"""Gemma: backbone, policy, predictive heads, pretraining."""
