"""Advantages: how much better a sample did than was to be expected.

Every estimator is a function `(rewards [B, G], greedy_rewards [B]) ->
advantages [B, G]`; one that compares the numbers of a group with each other
says with `needs_group_of` how many it takes.

An estimator whose baseline does not depend on the sample that it is taken from
leaves the policy gradient unbiased: ReMax and RLOO exactly, Dr. GRPO and
REINFORCE up to the constant factors (G−1)/G and (BG−1)/(BG), GRPO not at all.
Without a baseline it is unbiased too, and noisy.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

Estimator = Callable[[jax.Array, jax.Array], jax.Array]


def needs_group_of(least: int) -> Callable[[Estimator], Estimator]:
  """Declares that an estimator learns nothing from groups of fewer numbers."""

  def declared(estimator: Any) -> Estimator:
    estimator.least_group = least
    return estimator

  return declared


def least_group(name: str) -> int:
  """The smallest group that an estimator of `ADVANTAGES` learns from."""
  return getattr(ADVANTAGES[name], 'least_group', 1)


def weighed(
  name: str,
  rewards: jax.Array,
  greedy_rewards: jax.Array,
  weight: jax.Array | None,
) -> jax.Array:
  """The advantages of an estimator of `ADVANTAGES`, of rows that may weigh.

  What is compared within a row does not depend on weights; a mean over the
  batch does.
  """
  if name in _OVER_BATCH and weight is not None:
    return _OVER_BATCH[name](rewards, weight)
  return ADVANTAGES[name](rewards, greedy_rewards)


def _above_mean(rewards: jax.Array, weight: jax.Array) -> jax.Array:
  """r less its mean over the batch by weights [B]."""
  rewards = rewards - jnp.max(rewards)
  total = jnp.maximum(jnp.sum(weight), 1e-12)
  return rewards - jnp.sum(weight * jnp.mean(rewards, -1)) / total


def remax(rewards: jax.Array, greedy_rewards: jax.Array) -> jax.Array:
  """A = r − r(greedy), no division (ReMax: Li et al., ICML 2024)."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  return rewards - greedy_rewards[:, None]


@needs_group_of(2)
def grpo(
  rewards: jax.Array, greedy_rewards: jax.Array, epsilon: float = 1e-6
) -> jax.Array:
  """A = (r − mean_G r) / (std_G r + ε) (GRPO: arXiv 2402.03300).

  The standard deviation has ddof 0.
  """
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  centred = _centred(rewards, -1)
  std = jnp.sqrt(jnp.mean(jnp.square(centred), -1, keepdims=True))
  return centred / (std + epsilon)


@needs_group_of(2)
def dr_grpo(rewards: jax.Array, greedy_rewards: jax.Array) -> jax.Array:
  """A = r − mean_G r (Dr. GRPO: arXiv 2503.20783)."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  return _centred(rewards, -1)


@needs_group_of(2)
def rloo(rewards: jax.Array, greedy_rewards: jax.Array) -> jax.Array:
  """A_i = r_i − mean of the others (RLOO: Ahmadian et al. 2024)."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  group = rewards.shape[-1]
  return _centred(rewards, -1) * (group / (group - 1))


def reinforce(rewards: jax.Array, greedy_rewards: jax.Array) -> jax.Array:
  """A = r − mean_{B,G} r: REINFORCE with the batch's mean for a baseline."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  return _centred(rewards, None)


def no_baseline(rewards: jax.Array, greedy_rewards: jax.Array) -> jax.Array:
  """A = r: REINFORCE as it was (Williams 1992), for ablations."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  return rewards


def _centred(rewards: jax.Array, axis: int | None) -> jax.Array:
  """r − mean r; exactly 0 where all are equal, whatever their mean rounds to.

  Adam would scale what rounding leaves up to the size of a true gradient.
  """
  rewards = rewards - jnp.max(rewards, axis, keepdims=True)
  return rewards - jnp.mean(rewards, axis, keepdims=True)


ADVANTAGES: dict[str, Estimator] = {
  'remax': remax,
  'grpo': grpo,
  'dr_grpo': dr_grpo,
  'rloo': rloo,
  'reinforce': reinforce,
  'no_baseline': no_baseline,
}
# Of those that compare rows with each other: the same by the rows' weights [B].
_OVER_BATCH: dict[str, Estimator] = {'reinforce': _above_mean}
