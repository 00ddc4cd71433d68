"""The training step: a pure function (state, batch) -> state.

It is one XLA program. With objectives on whole numbers it encodes the batch,
samples the groups, reads the numbers, rewards them, takes the gradient and
updates, and never leaves the device.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genre2_jax.data.batches import Examples
from genre2_jax.objectives.objective import (
  Objective,
  StageParams,
  supervised,
  total,
)
from genre2_jax.objectives.rollouts import roll_out, sequence_losses
from genre2_jax.objectives.sequence import Judgement, Metrics
from genre2_jax.policy import Params, Pointwise, Policy
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training.train_state import TrainState, merge


class MicroBatch(NamedTuple):
  """B/A rows of a batch with what is random about them.

  All A of a batch are one `MicroBatch` too, with a leading axis A.

  Attributes:
    rows: the rows.
    keys: [B/A], of what is sampled for each row.
    dropout_key: of the whole micro-batch.
    written: tokens [B/A, G, T] of numbers that the policy wrote for the rows,
      and what is known of them; None unless the objective asks for numbers.
  """

  rows: Examples
  keys: jax.Array
  dropout_key: jax.Array
  written: tuple[jax.Array, Judgement] | None = None


def train_step(
  state: TrainState,
  batch: Examples,
  *,
  network: Policy | Pointwise,
  codec: Codec,
  optimizer: optax.GradientTransformation,
  objective: Objective,
  accumulation: int = 1,
) -> TrainState:
  """One batch: a rollout if the objective wants one, and the updates from it.

  Sampling goes level by level with a cache and keeps nothing for a gradient;
  what was sampled is then scored, without waiting for one token after the
  other, and that is differentiated, once per update.

  The batch is cut into A micro-batches, often one: numbers are sampled and
  gradients taken one micro-batch after the other, and the mean gradient makes
  the update. It is that of the whole batch up to rounding and the draws of
  dropout, but for what centres or normalises over the batch ('reinforce',
  'ppo'), which does so over the micro-batch.

  Args:
    state: of one seed.
    batch: B rows.
    network: what is trained.
    codec: between tokens and z-scores.
    optimizer: an optax transformation.
    objective: what is minimised.
    accumulation: A; divides B.

  Returns:
    The next state: `objective.num_updates` updates, one step, and
    `objective.metrics` added to its totals, of several updates their mean.
  """
  parts = _micro_batches(state, batch, accumulation)
  metrics: Metrics = {}
  if objective.is_sequence:
    parts, metrics = _rolled_out(
      state, parts, policy=network, codec=codec, objective=objective
    )
  gradient = jax.value_and_grad(
    functools.partial(
      loss,
      frozen=state.frozen,
      network=network,
      codec=codec,
      objective=objective,
    ),
    has_aux=True,
  )

  def update(state, _):
    (value, more), grads = _mean(
      functools.partial(gradient, state.params), parts
    )
    return _updated(state, value, more, grads, optimizer)

  if objective.num_updates == 1:  # A scan would fuse, and round, otherwise.
    state, more = update(state, None)
  else:
    state, more = jax.lax.scan(update, state, length=objective.num_updates)
    more = jax.tree.map(jnp.mean, more)
  # Of the divergence the sampled one, whatever the term estimates.
  return _finished(state, metrics | more | _only(metrics, 'kl'))


def loss(
  params: StageParams,
  part: MicroBatch,
  *,
  frozen: Params,
  network: Policy | Pointwise,
  codec: Codec,
  objective: Objective,
) -> tuple[jax.Array, Metrics]:
  """Σ weight · mean of a term over a micro-batch, and the metrics beside it.

  Rows that have weights count by them in every mean (`objectives.means`).

  Args:
    params: what is trained.
    part: one micro-batch.
    frozen: what is not, or None.
    network: what is trained.
    codec: between tokens and z-scores.
    objective: what is minimised.

  Returns:
    (scalar, {name: scalar}: each term's mean, not weighted, and what the terms
    tell beside it).
  """
  params = merge(params, frozen)
  weight = part.rows.weight
  losses = supervised(
    params,
    part.rows,
    part.keys,
    network=network,
    codec=codec,
    objective=objective,
    dropout_key=part.dropout_key if objective.dropout else None,
  )
  if weight is not None:
    losses = {name: weight * x for name, x in losses.items()}
  more: Metrics = {}
  if part.written is not None:
    assert isinstance(network, Policy)  # No other writes numbers.
    tokens, judgement = part.written
    # A scan has made an array of it, and losses ask it in Python.
    judgement = judgement._replace(num_updates=objective.num_updates)
    of_numbers, more = sequence_losses(
      params,
      part.rows,
      tokens,
      judgement,
      policy=network,
      objective=objective,
    )
    losses |= of_numbers
  return total(losses, objective), more | jax.tree.map(jnp.mean, losses)


def _micro_batches(
  state: TrainState, batch: Examples, count: int
) -> MicroBatch:
  """The batch as [A, B / A, ...], with the keys of this step.

  Row i is in micro-batch i mod A: a batch that is sharded over its rows then
  falls apart without a row leaving its device.
  """
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
  rows_key, dropout_key = jax.random.split(key)

  def cut(x):
    return jnp.swapaxes(x.reshape(len(x) // count, count, *x.shape[1:]), 0, 1)

  rows, keys = jax.tree.map(
    cut, (batch, jax.random.split(rows_key, len(batch.target)))
  )
  # Of one micro-batch the step's own, so that it is the batch to the bit.
  dropout_keys = (
    jax.random.split(dropout_key, count) if count > 1 else dropout_key[None]
  )
  return MicroBatch(rows, keys, dropout_keys)


def _rolled_out(state, parts, *, policy, codec, objective):
  """The micro-batches with numbers written for them, and their metrics."""
  params = merge(state.params, state.frozen)
  reference = state.reference
  if reference is not None:
    reference = merge(reference, state.frozen)

  def one(_, part):
    return None, roll_out(
      params,
      reference,
      part.rows,
      part.keys,
      policy=policy,
      codec=codec,
      objective=objective,
    )

  _, (tokens, judgement, metrics) = _scan(one, None, parts)
  metrics = jax.tree.map(lambda x: jnp.mean(x, 0), metrics)
  return parts._replace(written=(tokens, judgement)), metrics


def _mean(function, parts):
  """The mean of a function of one part over all: one in memory at a time."""
  count = len(parts.keys)
  first = jax.tree.map(lambda x: x[0], parts)
  if count == 1:  # XLA would add every gradient to zeros.
    return function(first)
  # Traced once, for the shapes and for the values.
  function = jax.jit(function, inline=True)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first)
  )

  def add(sums, part):
    return jax.tree.map(jnp.add, sums, function(part)), None

  sums, _ = _scan(add, zeros, parts)
  return jax.tree.map(lambda x: x / count, sums)


def _scan(function, carry, xs):
  """`lax.scan`; a single turn is no loop, so that XLA fuses across it."""
  length = len(jax.tree.leaves(xs)[0])
  return jax.lax.scan(function, carry, xs, length, unroll=length == 1)


def _only(metrics, name):
  return {name: metrics[name]} if name in metrics else {}


def _updated(state, loss, metrics, grads, optimizer):
  """One update by a gradient: (state, metrics with its loss and norm)."""
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  state = dataclasses.replace(state, params=params, opt_state=opt_state)
  norm = optax.tree.norm(grads)
  return state, metrics | {'loss': loss, 'grad_norm': norm}


def _finished(state, metrics):
  """Counts the step, adds its metrics, notes the first that is not finite."""
  finite = jnp.array(True)
  for x in jax.tree.leaves((metrics['loss'], state.params)):
    finite &= jnp.all(jnp.isfinite(x))
  first = (state.bad_step < 0) & ~finite
  return dataclasses.replace(
    state,
    step=state.step + 1,
    totals=jax.tree.map(jnp.add, state.totals, metrics),
    bad_step=jnp.where(first, state.step, state.bad_step),
  )
