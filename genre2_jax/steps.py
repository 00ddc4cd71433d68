"""The training step: a pure function (state, batch) -> state.

It is one XLA program. With objectives on whole numbers it encodes the batch,
samples the groups, reads the numbers, rewards them, takes the gradient and
updates, and never leaves the device.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from genre2_jax.objective import (
  roll_out,
  sequence_losses,
  supervised,
  total,
)


def train_step(state, batch, *, network, codec, optimizer, objective):
  """One batch: a rollout if the objective wants one, and the updates from it.

  Sampling goes level by level with a cache and keeps nothing for a gradient;
  what was sampled is then scored in one pass over its distinct prefixes, and
  that pass is differentiated, once per update.

  Args:
    state: a `TrainState`.
    batch: `Examples` of B rows.
    network: a `Policy` or a `Pointwise`.
    codec: between tokens and z-scores.
    optimizer: an optax transformation.
    objective: an `Objective`.

  Returns:
    The next state, `objective.metrics` added to its totals.
  """
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
  rows_key, dropout_key = jax.random.split(key)
  keys = jax.random.split(rows_key, len(batch.target))
  tokens, judgement, metrics = None, None, {}
  if objective.is_sequence:
    tokens, judgement, metrics = roll_out(
      state.params,
      state.reference,
      batch,
      keys,
      policy=network,
      codec=codec,
      objective=objective,
    )

  def loss_fn(params):
    losses = supervised(
      params,
      batch,
      keys,
      network=network,
      codec=codec,
      objective=objective,
      dropout_key=dropout_key if objective.dropout else None,
    )
    more = {}
    if objective.is_sequence:
      written, more = sequence_losses(
        params, batch, tokens, judgement, policy=network, objective=objective
      )
      losses |= written
    means = jax.tree.map(jnp.mean, losses)
    return total(losses, objective), more | means

  def update(state, _):
    return _updated(state, loss_fn, optimizer)

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


def _updated(state, loss_fn, optimizer):
  """One gradient and one update."""
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  (loss, metrics), grads = grad_fn(state.params)
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
