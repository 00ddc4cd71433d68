"""Rewards of decoded numbers: how near they come to the target.

Every reward has one face: `(predictions [..., R], target [..., 1]) -> [..., R]`
for R numbers written for one input, in z-scores.
"""

import jax.numpy as jnp


def negative_squared_error(predictions, target):
  """r = −(ŷ − y)²: GenRe²'s reward (arXiv 2512.06533, eq. 6)."""
  return -jnp.square(predictions - target)


def negative_absolute_error(predictions, target):
  """r = −|ŷ − y|: its optimum is the median, not the mean."""
  return -jnp.abs(predictions - target)


def clipped_squared_error(predictions, target, limit=50.0):
  """r = −min((ŷ − y)², 50), as GenRe² rewards code metrics.

  For tokenizers of the real line: one wild exponent, and −(ŷ − y)² outweighs
  all else in a batch.
  """
  return -jnp.minimum(jnp.square(predictions - target), limit)


def negative_rank(predictions, target):
  """r = −(share of the other numbers that come nearer, ties by half).

  In [−1, 0] whatever the target's scale; says nothing beyond its group.
  """
  errors = jnp.abs(predictions - target)
  mine, others = errors[..., :, None], errors[..., None, :]
  nearer = jnp.where(others < mine, 1.0, jnp.where(others == mine, 0.5, 0.0))
  count = max(errors.shape[-1] - 1, 1)
  return -(jnp.sum(nearer, -1) - 0.5) / count


REWARDS = {
  'squared': negative_squared_error,
  'clipped': clipped_squared_error,
  'absolute': negative_absolute_error,
  'rank': negative_rank,
}


def comparable(name):
  """The reward that compares policies: a rank knows its own group only."""
  return REWARDS['squared' if name == 'rank' else name]
