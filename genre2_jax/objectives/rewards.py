"""Rewards of a decoded number: how near it comes to the target."""

import jax.numpy as jnp


def negative_squared_error(predictions, target):
  """r = −(ŷ − y)² in z-scores: GenRe²'s reward (arXiv 2512.06533, eq. 6)."""
  return -jnp.square(predictions - target)


def negative_absolute_error(predictions, target):
  """r = −|ŷ − y| in z-scores: its optimum is the median, not the mean."""
  return -jnp.abs(predictions - target)


REWARDS = {
  'squared': negative_squared_error,
  'absolute': negative_absolute_error,
}
