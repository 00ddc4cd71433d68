"""What a stage compiles: pure functions of stacked states."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from genre2_jax.data import batches
from genre2_jax.devices import sharding
from genre2_jax.models.model import Form, form_of
from genre2_jax.training import orders, train_state, validation
from genre2_jax.training.initialization import Trainable
from genre2_jax.training.stages import Stage, optimizer_of
from genre2_jax.training.train_state import TrainState

# A stream of a stage's key, beside those of its steps, which come not this far.
_VALIDATION = 2**31 - 2

# (state, batch, what is bound once) -> state, of one seed.
Step = Callable[..., TrainState]


class Extent(NamedTuple):
  """How much data a stage has: arguments of its programs, int32.

  Attributes:
    num_rows: of the training split; what stands behind them is none.
    epoch_steps: steps in an epoch.
    num_steps: of the stage, for the learning rate.
  """

  num_rows: Any
  epoch_steps: Any
  num_steps: Any

  @classmethod
  def of(
    cls, stage: Stage, num_rows: int, batch_size: int, buckets: orders.Buckets
  ) -> 'Extent':
    """Of a stage and its rows."""
    epoch_steps = orders.count_steps(num_rows, batch_size, buckets)
    return cls(
      np.int32(num_rows),
      np.int32(epoch_steps),
      np.int32(stage.num_steps(epoch_steps)),
    )


def functions(
  step: Step,
  stage: Stage,
  model: Trainable,
  *,
  num_rows: int,
  batch_size: int,
  mesh: jax.sharding.Mesh,
  buckets: orders.Buckets = (),
) -> tuple[
  Callable[..., TrainState],
  Callable[..., tuple[TrainState, dict[str, jax.Array]]],
  optax.GradientTransformation,
]:
  """What a stage compiles, of one model and one number of rows.

  Args:
    step: `step.train_step`.
    stage: a `Stage`.
    model: what is trained.
    num_rows: of the training split.
    batch_size: B, rows of a step.
    mesh: where it runs.
    buckets: (row numbers, width) of texts; with several a batch comes from
      one of them, padded to its width, the same one for every seed.

  Returns:
    (`run(state, training rows, number of steps) -> state`,
    `validate(state, blocks of rows, their numbers) -> (state, metrics)`,
    the optimizer).
  """
  form = form_of(model)
  extent = Extent.of(stage, num_rows, batch_size, buckets)
  found = open_functions(
    step, stage, form, batch_size=batch_size, mesh=mesh, buckets=buckets
  )
  given = form.numbers, extent
  return (
    functools.partial(found.run, given),
    functools.partial(found.validate, given),
    optimizer_of(stage, int(extent.num_steps)),
  )


class Functions(NamedTuple):
  """Pure functions of stacked states, for any model of a form.

  Before their own arguments they take (the form's numbers, `Extent`).

  Attributes:
    run: `(state, training rows, number of steps) -> state`; behind them the
      order of the epoch [S, rows], or it is drawn in every call.
    run_block: `(state, a block, place of the first batch to take, number of
      steps) -> state`, of a `streaming.Block` without its first step.
    validate: `(state, blocks of rows, their numbers) -> (state, metrics)`.
  """

  run: Callable[..., TrainState]
  run_block: Callable[..., TrainState]
  validate: Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def open_functions(
  step: Step,
  stage: Stage,
  form: Form,
  *,
  batch_size: int,
  mesh: jax.sharding.Mesh,
  buckets: orders.Buckets = (),
) -> Functions:
  """What a stage compiles.

  Args:
    step: `step.train_step`.
    stage: a `Stage`, whose length is not looked at.
    form: of what is trained.
    batch_size: B, rows of a step.
    mesh: where it runs.
    buckets: as `functions` has them.
  """
  build = form.build  # Without the numbers: programs outlive them.

  def parts(held):
    network, codec = build(held)
    return {
      'network': sharding.constrained(network, mesh),
      'codec': codec,
      'objective': stage.objective,
    }

  rows_sharding = sharding.batch_sharding(mesh, 'seed', num_rows=batch_size)

  def on_batch(given):
    """`(state, batch, its bucket) -> state`, of all seeds."""
    held, extent = given
    of_seed = functools.partial(
      step,
      optimizer=optimizer_of(stage, extent.num_steps),
      accumulation=stage.accumulation,
      **parts(held),
    )
    one_step = train_state.each_seed(of_seed)
    if len(buckets) < 2:
      return lambda state, batch, _: one_step(state, batch)
    branches = [
      lambda state, batch, width=width: one_step(
        state, batch._replace(inputs=batches.crop(batch.inputs, width))
      )
      for _, width in buckets
    ]
    return lambda state, batch, bucket: jax.lax.switch(
      bucket, branches, state, batch
    )

  def run_block(given, state, block, first, num_steps):
    rows, which = block
    all_seeds = on_batch(given)

    def body(index, state):
      place = first + index
      batch = jax.tree.map(lambda x: x[:, place], rows)
      batch = jax.lax.with_sharding_constraint(batch, rows_sharding)
      return all_seeds(state, batch, which[place])

    return jax.lax.fori_loop(0, num_steps, body, state)

  def run(given, state, train, num_steps, order=None):
    _, extent = given
    all_seeds = on_batch(given)
    which = None
    if len(buckets) > 1:
      indices, which = orders.drawn_by_bucket(
        state.key, state.epoch, buckets, batch_size
      )
    elif order is None:
      order = orders.drawn(
        state.key, state.epoch, extent.num_rows, len(train.target)
      )

    def body(_, state):
      place = state.step[0] - state.epoch[0] * extent.epoch_steps
      if which is None:
        chosen = batches.batch_at(order, place, extent.num_rows, batch_size)
        bucket = None
      else:
        chosen, bucket = indices[:, place], which[place]
      batch = batches.take(train, chosen)  # [S, B, ...]
      batch = jax.lax.with_sharding_constraint(batch, rows_sharding)
      return all_seeds(state, batch, bucket)

    return jax.lax.fori_loop(0, num_steps, body, state)

  def validate(given, state, rows, numbers):
    held, extent = given
    of_seed: Callable[..., Any] = functools.partial(
      validation.validate, **parts(held)
    )
    # An epoch that is cut short has fewer steps than others.
    count = state.step - state.epoch * extent.epoch_steps
    means = jax.tree.map(lambda x: x / count, state.totals)
    keys = jax.vmap(jax.random.wrap_key_data)(state.key)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _VALIDATION)
    score, values = train_state.each_seed(of_seed, (0, None, None, 0))(
      train_state.merge(state.params, state.frozen), rows, numbers, keys
    )
    state = jax.vmap(train_state.validated, (0, 0, None))(
      state, score, stage.patience
    )
    metrics = {f'train/{k}': v for k, v in means.items()}
    return state, metrics | {f'val/{k}': v for k, v in values.items()}

  return Functions(run, run_block, validate)
