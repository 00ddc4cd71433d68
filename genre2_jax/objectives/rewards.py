"""Rewards of a decoded number: how near it comes to the target."""

import jax.numpy as jnp


def negative_squared_error(predictions, target):
  """r = −(ŷ − y)² in z-scores: GenRe²'s reward (arXiv 2512.06533, eq. 6)."""
  return -jnp.square(predictions - target)


def negative_absolute_error(predictions, target):
  """r = −|ŷ − y| in z-scores: its optimum is the median, not the mean."""
  return -jnp.abs(predictions - target)


def clipped_squared_error(predictions, target, limit=50.0):
  """r = −min((ŷ − y)², 50), as GenRe² rewards code metrics.

  For tokenizers of the real line: one wild exponent, and −(ŷ − y)² outweighs
  all else in a batch.
  """
  return -jnp.minimum(jnp.square(predictions - target), limit)


REWARDS = {
  'squared': negative_squared_error,
  'clipped': clipped_squared_error,
  'absolute': negative_absolute_error,
}
