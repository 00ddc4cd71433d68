"""Validation on padded blocks of rows, on the device."""

import jax
import jax.numpy as jnp

from genre2_jax.data.batches import Examples
from genre2_jax.objectives.objective import (
  Objective,
  StageParams,
  supervised,
)
from genre2_jax.objectives.rewards import comparable
from genre2_jax.objectives.rollouts import rewarded, written
from genre2_jax.policy import Pointwise, Policy, sampling
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training.evaluation import prepared, row_keys, text_length


def validate(
  params: StageParams,
  examples: Examples | tuple[Examples, ...],
  numbers: jax.Array | tuple[jax.Array, ...],
  key: jax.Array,
  *,
  network: Policy | Pointwise,
  codec: Codec,
  objective: Objective,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Means over the rows of padded blocks, by their weights, without dropout.

  An objective on whole numbers is judged by its reward; others by their loss.
  The same key at every call: what changes between epochs is the policy.

  Args:
    params: of one seed.
    examples: `Examples` cut into blocks [blocks, b, ...]; a tuple of them
      where rows have several widths.
    numbers: int32 [blocks, b], −1 where padded; a tuple of them, likewise.
    key: of this evaluation.
    network: a `Policy` or a `Pointwise`.
    codec: between tokens and z-scores.
    objective: an `Objective`.

  Returns:
    (score, higher is better, {name: scalar}).
  """
  params = prepared(params, network)

  def losses(rows, keys):
    values = supervised(
      params, rows, keys, network=network, codec=codec, objective=objective
    )
    weighted = [t.weight * values[t.name] for t in objective.terms]
    return values | {'loss': sum(weighted)}

  def sampled(rows, keys):
    assert isinstance(network, Policy)  # No other writes numbers.
    rollout = written(params, rows, keys, network, objective)
    reward = comparable(objective.rollouts.reward)
    rewards, *_ = rewarded(reward, rollout.tokens, rows.target, codec)
    samples, _ = sampling.without_greedy(rollout)
    return {
      'reward': jnp.mean(rewards[:, :-1], -1),
      'greedy_reward': rewards[:, -1],
      'entropy': jnp.mean(samples.entropy(), -1),
      **text_length(samples),
    }

  def block(args):
    rows, number = args
    values = sampled if objective.is_sequence else losses
    return values(rows, row_keys(key, number))

  means = _mean_over_rows(block, examples, numbers)
  if objective.is_sequence:
    return means['reward'], means
  return -means['loss'], means


def _mean_over_rows(block, examples, numbers):
  if not isinstance(numbers, tuple):
    examples, numbers = (examples,), (numbers,)
  sums, count = [], jnp.zeros((), jnp.int32)
  for part, number in zip(examples, numbers, strict=True):
    sums.append(_sums(block, part, number))
    if part.weight is None:
      count += jnp.sum(number >= 0)
    else:
      count += jnp.sum(jnp.where(number >= 0, part.weight, 0.0))
  return jax.tree.map(lambda *x: sum(x) / count, *sums)


def _sums(block, examples, numbers):
  """Sums over the rows of blocks; those without rows behind cost nothing."""

  def own(index):
    rows, number = jax.tree.map(
      lambda x: jnp.asarray(x)[index], (examples, numbers)
    )
    values = block((rows, number))
    if rows.weight is not None:
      values = jax.tree.map(lambda x: rows.weight * x, values)
    return jax.tree.map(lambda x: jnp.where(number >= 0, x, 0.0), values)

  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(own, 0)
  )
  sums = jax.lax.fori_loop(
    0,
    jnp.sum(jnp.any(numbers >= 0, axis=1)),
    lambda index, sums: jax.tree.map(jnp.add, sums, own(index)),
    zeros,
  )
  return jax.tree.map(jnp.sum, sums)
