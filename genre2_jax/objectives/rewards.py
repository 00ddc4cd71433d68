"""Rewards of decoded numbers: how near they come to the target.

Every reward is a function `(predictions [..., R], target [..., 1]) ->
[..., R]` of R numbers written for one input, in z-scores. That of the numbers
of several targets is the sum of theirs (`summed`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Reward = Callable[[jax.Array, jax.Array], jax.Array]


def negative_squared_error(
  predictions: jax.Array, target: jax.Array
) -> jax.Array:
  """r = −(ŷ − y)²: GenRe²'s reward (arXiv 2512.06533, eq. 6)."""
  return -jnp.square(predictions - target)


def negative_absolute_error(
  predictions: jax.Array, target: jax.Array
) -> jax.Array:
  """r = −|ŷ − y|: its optimum is the median, not the mean."""
  return -jnp.abs(predictions - target)


def clipped_squared_error(
  predictions: jax.Array, target: jax.Array, limit: float = 50.0
) -> jax.Array:
  """r = −min((ŷ − y)², 50), as GenRe² rewards code metrics.

  For tokenizers of the real line, where one number with a large exponent would
  outweigh all else in a batch.
  """
  return -jnp.minimum(jnp.square(predictions - target), limit)


def negative_rank(predictions: jax.Array, target: jax.Array) -> jax.Array:
  """r = −(share of the other numbers that come nearer, ties by half).

  In [−1, 0] whatever the target's scale; says nothing beyond its group.
  """
  errors = jnp.abs(predictions - target)
  mine, others = errors[..., :, None], errors[..., None, :]
  nearer = jnp.where(others < mine, 1.0, jnp.where(others == mine, 0.5, 0.0))
  count = max(errors.shape[-1] - 1, 1)
  return -(jnp.sum(nearer, -1) - 0.5) / count


REWARDS: dict[str, Reward] = {
  'squared': negative_squared_error,
  'clipped': clipped_squared_error,
  'absolute': negative_absolute_error,
  'rank': negative_rank,
}


def summed(
  reward: Reward, predictions: jax.Array, target: jax.Array, num_targets: int
) -> jax.Array:
  """Σ over the targets of a number's reward.

  Args:
    reward: of one number.
    predictions: [..., R], of several targets [..., R, k].
    target: [..., 1], of several [..., 1, k].
    num_targets: k.

  Returns:
    [..., R].
  """
  if num_targets == 1:
    return reward(predictions, target)
  places = range(num_targets)
  parts = [reward(predictions[..., i], target[..., i]) for i in places]
  return sum(parts[1:], parts[0])


def comparable(name: str) -> Reward:
  """The reward to compare policies by: a rank knows its own group only."""
  return REWARDS['squared' if name == 'rank' else name]
