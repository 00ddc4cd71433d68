"""The training step: a pure function (state, batch) -> state.

It is one XLA program. With objectives on whole numbers it encodes the batch,
samples the groups, reads the numbers, rewards them, takes the gradient and
updates, and never leaves the device.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from genre2_jax.objectives.objective import supervised, total
from genre2_jax.objectives.rollouts import roll_out, sequence_losses
from genre2_jax.training.train_state import merge


def train_step(
  state, batch, *, network, codec, optimizer, objective, accumulation=1
):
  """One batch: a rollout if the objective wants one, and the updates from it.

  Sampling goes level by level with a cache and keeps nothing for a gradient;
  what was sampled is then scored in one pass over its distinct prefixes, and
  that pass is differentiated, once per update.

  With accumulation the batch is cut into micro-batches: numbers are sampled and
  gradients taken one micro-batch after the other, and their mean makes the
  update, which is then that of the whole batch up to rounding and the draws of
  dropout. What centres or normalises over the batch ('reinforce', 'ppo') does
  so over the micro-batch.

  Args:
    state: a `TrainState`.
    batch: `Examples` of B rows.
    network: a `Policy` or a `Pointwise`.
    codec: between tokens and z-scores.
    optimizer: an optax transformation.
    objective: an `Objective`.
    accumulation: micro-batches; divides B.

  Returns:
    The next state, `objective.metrics` added to its totals.
  """
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
  rows_key, dropout_key = jax.random.split(key)
  keys = jax.random.split(rows_key, len(batch.target))
  frozen = state.frozen

  def sampled(rows, keys):
    return roll_out(
      merge(state.params, frozen),
      None if state.reference is None else merge(state.reference, frozen),
      rows,
      keys,
      policy=network,
      codec=codec,
      objective=objective,
    )

  def loss_fn(params, rows, keys, dropout_key, tokens=None, judgement=None):
    params = merge(params, frozen)
    if judgement is not None:  # An array once it went through a scan.
      judgement = judgement._replace(num_updates=objective.num_updates)
    losses = supervised(
      params,
      rows,
      keys,
      network=network,
      codec=codec,
      objective=objective,
      dropout_key=dropout_key if objective.dropout else None,
    )
    more = {}
    if objective.is_sequence:
      written, more = sequence_losses(
        params, rows, tokens, judgement, policy=network, objective=objective
      )
      losses |= written
    means = jax.tree.map(jnp.mean, losses)
    return total(losses, objective), more | means

  metrics = {}
  if accumulation == 1:
    parts = (batch, keys, dropout_key)
    if objective.is_sequence:
      tokens, judgement, metrics = sampled(batch, keys)
      parts += (tokens, judgement)
  else:
    rows = _micro_batches((batch, keys), accumulation)
    parts = (*rows, jax.random.split(dropout_key, accumulation))
    if objective.is_sequence:
      tokens, judgement, metrics = jax.lax.map(lambda x: sampled(*x), rows)
      parts += (tokens, judgement)
      metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

  def update(state, _):
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if accumulation == 1:
      (loss, metrics), grads = gradient(state.params, *parts)
    else:
      (loss, metrics), grads = _mean_over_parts(
        lambda part: gradient(state.params, *part), parts, accumulation
      )
    return _updated(state, loss, metrics, grads, optimizer)

  if objective.num_updates == 1:
    state, more = update(state, None)
  else:
    state, more = jax.lax.scan(update, state, length=objective.num_updates)
    more = jax.tree.map(jnp.mean, more)
  divergence = metrics.get('kl')
  metrics |= more
  if divergence is not None:  # The sampled divergence, whatever the term's.
    metrics['kl'] = divergence
  return _finished(state, metrics)


def _micro_batches(rows, count):
  """[B, ...] as [count, B / count, ...].

  Every `count`-th row is one micro-batch's: a batch that is sharded over its
  rows then falls apart without a row leaving its device.
  """

  def cut(x):
    return jnp.swapaxes(x.reshape(len(x) // count, count, *x.shape[1:]), 0, 1)

  return jax.tree.map(cut, rows)


def _mean_over_parts(function, parts, count):
  """The mean of a function of each part: one part in memory at a time."""
  first = jax.tree.map(lambda x: x[0], parts)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first)
  )

  def add(sums, part):
    return jax.tree.map(jnp.add, sums, function(part)), None

  sums, _ = jax.lax.scan(add, zeros, parts)
  return jax.tree.map(lambda x: x / count, sums)


def _updated(state, loss, metrics, grads, optimizer):
  """One update by a gradient."""
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics |= {'loss': loss, 'grad_norm': optax.tree.norm(grads)}
  return dataclasses.replace(state, params=params, opt_state=opt_state), metrics


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
