"""A stage as compiled programs over stacked seeds."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genre2_jax.data import batches
from genre2_jax.data.batches import Examples
from genre2_jax.devices import processes, sharding
from genre2_jax.models import pack
from genre2_jax.objectives.objective import init_params
from genre2_jax.policy import Inputs, Params, Pointwise, Policy
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import evaluation, train_state
from genre2_jax.training.stages import Stage, optimizer_of, seed_keys
from genre2_jax.training.train_state import TrainState

# Streams of a stage's key, beside those of its steps, which come not this far.
_SHUFFLE = 2**31 - 1
_VALIDATION = 2**31 - 2

# (state, batch, what is bound once) -> state, of one seed.
Step = Callable[..., TrainState]

# (row numbers, padded width) of texts that a batch may be taken from.
Buckets = Sequence[tuple[np.ndarray, int]]
# Before the first step: the network's stacked parameters, None to draw them.
Init = Callable[[Params], TrainState]


class Trainable(Protocol):
  """What a stage wants of a model: a `Model`, or less than one."""

  @property
  def network(self) -> Policy | Pointwise:
    """What is trained."""

  @property
  def codec(self) -> Codec:
    """Between tokens and z-scores; never asked where no number is written."""

  @property
  def widths(self) -> Sequence[int]:
    """That texts are padded to, ascending; () where all rows have one."""

  def example_inputs(self) -> Inputs:
    """Inputs of one row, for shapes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
  """A stage, compiled for one data set, mesh and number of seeds.

  Attributes:
    abstract_state: shapes, dtypes and shardings of the stacked state.
    init: `(the network's stacked parameters or None) -> state` before the
      first step.
    run: `(state, number of steps) -> state`; donates the state. One program
      for any number of steps, which must not go past the end of the epoch.
    validate: `state -> (state, metrics [S])` at the end of an epoch; donates
      the state.
    epoch_steps: steps in an epoch.
    num_steps: of the stage, at most: its last epoch may be cut short.
    compiled: the program of `run`, for what it says of itself.
  """

  abstract_state: TrainState
  init: Init
  run: Callable[[TrainState, int], TrainState]
  validate: Callable[[TrainState], tuple[TrainState, dict[str, jax.Array]]]
  epoch_steps: int
  num_steps: int
  compiled: jax.stages.Compiled

  def end_of_epoch(self, epoch: int) -> int:
    """The step that ends the epoch after so many finished ones."""
    return min((epoch + 1) * self.epoch_steps, self.num_steps)


def state_program(
  stage: Stage,
  model: Trainable,
  *,
  seeds: Sequence[int],
  mesh: jax.sharding.Mesh,
  optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Init]:
  """How a stage's state begins, never whole on one device under FSDP.

  Args:
    stage: a `Stage`.
    model: what is trained.
    seeds: S integers.
    mesh: where it will live.
    optimizer: an optax transformation.

  Returns:
    (abstract state with shardings, `(the network's stacked parameters or None)
    -> state`, which donates them).

  Raises:
    InputError: an array does not split over the mesh.
  """
  objective, init_one = stage.objective, _init_one(stage, model)

  def create(start, key, factors):
    init_key, loop_key = jax.random.split(key)
    params = nn.unbox(init_one(init_key, start=start))
    if start is None:  # What was trained has its member's numbers.
      params = pack.placed(params, factors)
    state = train_state.create(
      params,
      loop_key,
      optimizer,
      objective.metrics,
      keep_reference='reference' in objective.needs,
      is_frozen=model.network.frozen,
    )
    opt_state = pack.placed(state.opt_state, factors)
    return dataclasses.replace(state, opt_state=opt_state)

  keys = seed_keys(seeds, stage.section)
  factors = stage.pack.factors(seeds)
  stacked = jax.vmap(create, (None, 0, 0))
  abstract = jax.eval_shape(stacked, None, keys, factors)
  boxed = jax.eval_shape(init_one, jax.random.key(0))
  shardings = sharding.state_sharding(boxed, abstract, optimizer, mesh)
  sharding.check_shapes(abstract, shardings)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )

  def init(start):
    axes = (None if start is None else 0, 0, 0)
    function = jax.jit(
      jax.vmap(create, axes), out_shardings=shardings, donate_argnums=0
    )
    return function(start, keys, factors)

  return abstract, init


def abstract_state(
  stage: Stage,
  model: Trainable,
  *,
  seeds: Sequence[int],
  mesh: jax.sharding.Mesh,
) -> TrainState:
  """Shapes, dtypes and shardings of a stage's state, for any number of rows.

  Raises:
    InputError: an array does not split over the mesh.
  """
  abstract, _ = state_program(
    stage, model, seeds=seeds, mesh=mesh, optimizer=optimizer_of(stage, 1)
  )
  return abstract


def describe_layout(
  stage: Stage,
  model: Trainable,
  abstract_state: TrainState,
  *,
  batch_size: int,
  mesh: jax.sharding.Mesh,
) -> str:
  """What lives where, as text: `sharding.describe` of a stage.

  Args:
    stage: a `Stage`.
    model: what is trained.
    abstract_state: of `state_program`.
    batch_size: B, rows of a step.
    mesh: the mesh.
  """
  rows = sharding.batch_sharding(mesh, 'seed', num_rows=batch_size)
  batch = batches.Examples(
    inputs=model.example_inputs(),
    target=np.zeros(1, np.float32),
    tokens=np.zeros((1, model.codec.tokenizer.num_tokens), np.int32),
  )
  stacked = (len(abstract_state.step), batch_size)
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      stacked + x.shape[1:], x.dtype, sharding=rows
    ),
    batch,
  )
  boxed = jax.eval_shape(_init_one(stage, model), jax.random.key(0))
  return sharding.describe(boxed, abstract_state, batch, mesh)


def _init_one(stage, model):
  """`(key, start=None) -> boxed parameters` of one seed."""
  return functools.partial(
    init_params,
    inputs=model.example_inputs(),
    network=model.network,
    codec=model.codec,
    objective=stage.objective,
  )


def functions(
  step: Step,
  stage: Stage,
  model: Trainable,
  *,
  num_rows: int,
  batch_size: int,
  mesh: jax.sharding.Mesh,
  buckets: Buckets = (),
) -> tuple[
  Callable[..., TrainState],
  Callable[..., tuple[TrainState, dict[str, jax.Array]]],
  optax.GradientTransformation,
]:
  """What a stage compiles: pure functions of stacked states.

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
  epoch_steps = _count_steps(num_rows, batch_size, buckets)
  optimizer = optimizer_of(stage, epoch_steps)
  network = sharding.constrained(model.network, mesh)
  one_step = functools.partial(
    step,
    network=network,
    codec=model.codec,
    optimizer=optimizer,
    objective=stage.objective,
    accumulation=stage.accumulation,
  )
  validation = functools.partial(
    evaluation.validation,
    network=network,
    codec=model.codec,
    objective=stage.objective,
  )
  rows_sharding = sharding.batch_sharding(mesh, 'seed', num_rows=batch_size)

  def run(state, train, num_steps):
    keys = jax.vmap(jax.random.wrap_key_data)(state.key)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _SHUFFLE)
    keys = jax.vmap(jax.random.fold_in)(keys, state.epoch)
    which = None
    if len(buckets) > 1:
      rows, widths = zip(*buckets, strict=True)
      # Without a seed in it: the buckets come in one order for all of them,
      # which a seed that trains alone has too.
      order_key = jax.random.fold_in(jax.random.key(_SHUFFLE), state.epoch[0])
      indices, which = jax.vmap(
        lambda key: batches.bucketed_epoch(key, order_key, rows, batch_size),
        out_axes=(0, None),
      )(keys)
    else:
      indices = jax.vmap(
        lambda key: batches.epoch_indices(key, num_rows, batch_size)
      )(keys)  # [S, steps, B]

    def body(_, state):
      place = state.step[0] - state.epoch[0] * epoch_steps
      batch = batches.take(train, indices[:, place])  # [S, B, ...]
      batch = jax.lax.with_sharding_constraint(batch, rows_sharding)
      if which is None:
        return jax.vmap(one_step)(state, batch)
      branches = [
        lambda state, batch, width=width: jax.vmap(one_step)(
          state, batch._replace(inputs=batches.crop(batch.inputs, width))
        )
        for width in widths
      ]
      return jax.lax.switch(which[place], branches, state, batch)

    return jax.lax.fori_loop(0, num_steps, body, state)

  def validate(state, rows, numbers):
    # An epoch that is cut short has fewer; of a whole one the bits stay.
    count = state.step - state.epoch * epoch_steps
    means = jax.tree.map(
      lambda x: jnp.where(count == epoch_steps, x / epoch_steps, x / count),
      state.totals,
    )
    keys = jax.vmap(jax.random.wrap_key_data)(state.key)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _VALIDATION)
    score, values = jax.vmap(validation, (0, None, None, 0))(
      train_state.merge(state.params, state.frozen), rows, numbers, keys
    )
    state = jax.vmap(train_state.validated, (0, 0, None))(
      state, score, stage.patience
    )
    metrics = {f'train/{k}': v for k, v in means.items()}
    return state, metrics | {f'val/{k}': v for k, v in values.items()}

  return run, validate, optimizer


def steps_per_epoch(
  examples: Examples, widths: Sequence[int], batch_size: int
) -> int:
  """Batches in which every row comes at least once, bucket by bucket.

  Args:
    examples: of the training split, on the host.
    widths: that texts are padded to.
    batch_size: B.
  """
  return _count_steps(
    len(examples.target), batch_size, buckets_of(examples, widths)
  )


def _count_steps(num_rows, batch_size, buckets):
  sizes = [len(rows) for rows, _ in buckets] or [num_rows]
  return sum(batches.steps_per_epoch(size, batch_size) for size in sizes)


def buckets_of(examples: Examples, widths: Sequence[int]) -> Buckets:
  """(row numbers, width) of `Examples` of texts, by `batches.by_width`."""
  if len(widths) < 2:
    return ()
  return tuple(
    (rows, inputs['tokens'].shape[1])
    for rows, inputs in batches.by_width(examples.inputs, widths)
  )


def compile_stage(
  step: Step,
  stage: Stage,
  model: Trainable,
  examples: Mapping[str, Examples],
  *,
  seeds: Sequence[int],
  batch_size: int,
  block_size: int,
  mesh: jax.sharding.Mesh,
) -> Programs:
  """Compiles a stage.

  Args:
    step: `step.train_step`.
    stage: with its number of epochs settled.
    model: what is trained.
    examples: of the splits 'train' and 'val', on the host.
    seeds: S integers.
    batch_size: B, rows of a step.
    block_size: rows that are validated at once.
    mesh: where it runs.
  """
  # Whole on every device, over several processes too: a table is small beside
  # a model, every process reads it anyway, and which rows a batch has is drawn
  # on the device, so that each device gathers its own and nothing is sent.
  train = processes.place(examples['train'], sharding.replicated(mesh))
  parts = [
    batches.blocks(examples['val']._replace(inputs=inputs), block_size, rows)
    for rows, inputs in batches.by_width(examples['val'].inputs, model.widths)
  ]
  block = parts[0] if len(parts) == 1 else tuple(zip(*parts, strict=True))
  block = processes.place(block, sharding.batch_sharding(mesh, None))
  num_rows = len(train.target)
  buckets = buckets_of(examples['train'], model.widths)
  run, validate, optimizer = functions(
    step,
    stage,
    model,
    num_rows=num_rows,
    batch_size=batch_size,
    mesh=mesh,
    buckets=buckets,
  )
  abstract, init = state_program(
    stage, model, seeds=seeds, mesh=mesh, optimizer=optimizer
  )
  compiled_run = lower_run(run, abstract, train).compile()
  compiled_validate = (
    jax.jit(
      validate, donate_argnums=0, out_shardings=(_shardings(abstract), None)
    )
    .lower(abstract, *block)
    .compile()
  )
  epoch_steps = _count_steps(num_rows, batch_size, buckets)
  return Programs(
    abstract_state=abstract,
    init=init,
    run=lambda state, num_steps: compiled_run(
      state, train, np.int32(num_steps)
    ),
    validate=lambda state: compiled_validate(state, *block),
    epoch_steps=epoch_steps,
    num_steps=stage.num_steps(epoch_steps),
    compiled=compiled_run,
  )


def trace_run(
  run: Callable[..., TrainState], abstract_state: TrainState, train: Examples
) -> jax.stages.Traced:
  """`run` of `functions`, traced for where the state and the rows live."""
  function = jax.jit(
    run, donate_argnums=0, out_shardings=_shardings(abstract_state)
  )
  return function.trace(abstract_state, train, np.int32(1))


def lower_run(
  run: Callable[..., TrainState], abstract_state: TrainState, train: Examples
) -> jax.stages.Lowered:
  """`run` of `functions`, lowered."""
  return trace_run(run, abstract_state, train).lower()


def _shardings(abstract):
  return jax.tree.map(lambda x: x.sharding, abstract)
