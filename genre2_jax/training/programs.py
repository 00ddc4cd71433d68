"""A stage as compiled programs over stacked seeds."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genre2_jax.data import batches
from genre2_jax.data.batches import Examples
from genre2_jax.devices import compilation, processes, sharding
from genre2_jax.models import pack
from genre2_jax.models.model import Form, form_of
from genre2_jax.objectives.objective import init_params
from genre2_jax.policy import Inputs, Params, Pointwise, Policy
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import evaluation, streaming, train_state
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
  form, example = form_of(model), model.example_inputs()
  held, build = (form.numbers, form.memory), form.build

  def create(held, start, key, factors):
    init_key, loop_key = jax.random.split(key)
    network, codec = build(*held)
    params = nn.unbox(
      init_params(
        init_key,
        example,
        network=network,
        codec=codec,
        objective=stage.objective,
        start=start,
      )
    )
    if start is None:  # What was trained has its member's numbers.
      params = pack.placed(params, factors)
    state = train_state.create(
      params,
      loop_key,
      optimizer,
      stage.objective.metrics,
      keep_reference='reference' in stage.objective.needs,
      is_frozen=network.frozen,
    )
    opt_state = pack.placed(state.opt_state, factors)
    return dataclasses.replace(state, opt_state=opt_state)

  keys = seed_keys(seeds, stage.section)
  factors = stage.pack.factors(seeds)
  stacked = jax.vmap(create, (None, None, 0, 0))
  abstract = jax.eval_shape(stacked, held, None, keys, factors)
  boxed = jax.eval_shape(_init_one(stage, model), jax.random.key(0))
  shardings = sharding.state_sharding(boxed, abstract, optimizer, mesh)
  sharding.check_shapes(abstract, shardings)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )

  def init(start):
    axes = (None, None if start is None else 0, 0, 0)
    length = stage.without_length()
    key = form.key and (
      'init', form.key, length, len(seeds), mesh, start is None, _shapes(held)
    )  # fmt: skip
    function = compilation.shared(
      key,
      lambda: jax.jit(
        jax.vmap(create, axes), out_shardings=shardings, donate_argnums=1
      ),
    )
    return function(held, start, keys, factors)

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
  count = len(model.codec.parts)
  batch = batches.Examples(
    inputs=model.example_inputs(),
    target=np.zeros((1, count)[: 1 + (count > 1)], np.float32),
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
    cls, stage: Stage, num_rows: int, batch_size: int, buckets: Buckets
  ) -> 'Extent':
    """Of a stage and its rows."""
    epoch_steps = _count_steps(num_rows, batch_size, buckets)
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
  buckets: Buckets = (),
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
    run_block: `(state, batches [S, K, B, ...], place of the first to take,
      number of steps) -> state`, of rows that `streaming` brings.
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
  buckets: Buckets = (),
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

  def step_of(given):
    held, extent = given
    return functools.partial(
      step,
      optimizer=optimizer_of(stage, extent.num_steps),
      accumulation=stage.accumulation,
      **parts(held),
    )

  def run_block(given, state, rows, first, num_steps):
    one_step = step_of(given)

    def body(index, state):
      batch = jax.tree.map(lambda x: x[:, first + index], rows)
      batch = jax.lax.with_sharding_constraint(batch, rows_sharding)
      return train_state.each_seed(one_step)(state, batch)

    return jax.lax.fori_loop(0, num_steps, body, state)

  def run(given, state, train, num_steps, order=None):
    _, extent = given
    one_step = step_of(given)
    which = None
    if len(buckets) > 1:
      keys = _shuffle_keys(state.key, state.epoch)
      rows, widths = zip(*buckets, strict=True)
      # Without a seed in it: the buckets come in one order for all of them,
      # which a seed that trains alone has too.
      order_key = jax.random.fold_in(jax.random.key(_SHUFFLE), state.epoch[0])
      indices, which = jax.vmap(
        lambda key: batches.bucketed_epoch(key, order_key, rows, batch_size),
        out_axes=(0, None),
      )(keys)  # [S, steps, B]
    elif order is None:
      keys = _shuffle_keys(state.key, state.epoch)
      order = _order(keys, extent.num_rows, len(train.target))  # [S, size]

    def body(_, state):
      place = state.step[0] - state.epoch[0] * extent.epoch_steps
      if which is None:
        chosen = batches.batch_at(order, place, extent.num_rows, batch_size)
      else:
        chosen = indices[:, place]
      batch = batches.take(train, chosen)  # [S, B, ...]
      batch = jax.lax.with_sharding_constraint(batch, rows_sharding)
      if which is None:
        return train_state.each_seed(one_step)(state, batch)
      branches = [
        lambda state, batch, width=width: train_state.each_seed(one_step)(
          state, batch._replace(inputs=batches.crop(batch.inputs, width))
        )
        for width in widths
      ]
      return jax.lax.switch(which[place], branches, state, batch)

    return jax.lax.fori_loop(0, num_steps, body, state)

  def validate(given, state, rows, numbers):
    held, extent = given
    validation: Callable[..., Any] = functools.partial(
      evaluation.validation, **parts(held)
    )
    # An epoch that is cut short has fewer steps than others.
    count = state.step - state.epoch * extent.epoch_steps
    means = jax.tree.map(lambda x: x / count, state.totals)
    keys = jax.vmap(jax.random.wrap_key_data)(state.key)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _VALIDATION)
    score, values = train_state.each_seed(validation, (0, None, None, 0))(
      train_state.merge(state.params, state.frozen), rows, numbers, keys
    )
    state = jax.vmap(train_state.validated, (0, 0, None))(
      state, score, stage.patience
    )
    metrics = {f'train/{k}': v for k, v in means.items()}
    return state, metrics | {f'val/{k}': v for k, v in values.items()}

  return Functions(run, run_block, validate)


def _shuffle_keys(keys, epochs):
  """Of the seeds' epochs; keys are data [S, 2]."""
  keys = jax.vmap(jax.random.wrap_key_data)(keys)
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _SHUFFLE)
  return jax.vmap(jax.random.fold_in)(keys, epochs)


def _order(keys, num_rows, size):
  return jax.vmap(lambda key: batches.shuffled(key, size, num_rows))(keys)


def _order_of_epoch(keys, epoch, num_rows, size):
  """The order in which `run` would take the rows: int32 [S, size]."""
  epochs = jnp.full(len(keys), epoch)
  return _order(_shuffle_keys(keys, epochs), num_rows, size)


class _Orders:
  """The order of an epoch, drawn once: sorting many rows outlasts a dispatch.

  Args:
    num_seeds: S.
    num_rows: of the training split.
    size: of an order; what stands behind the rows is none.
    like: the sharding of an array [S].
  """

  def __init__(
    self,
    num_seeds: int,
    num_rows: int,
    size: int,
    like: jax.sharding.Sharding,
  ) -> None:
    self.example = jax.ShapeDtypeStruct(
      (num_seeds, size), jnp.int32, sharding=like
    )
    self._num_rows, self._size = np.int32(num_rows), size
    self._draw = compilation.shared(
      ('order', num_seeds, size, like),
      lambda: jax.jit(_order_of_epoch, static_argnums=3, out_shardings=like),
    )
    self._last: tuple[Hashable, jax.Array] | None = None

  def of(self, keys: np.ndarray, epoch: int) -> jax.Array:
    """Int32 [S, size], of the seeds' keys."""
    which = epoch, keys.tobytes()
    if self._last is None or self._last[0] != which:
      order = self._draw(keys, epoch, self._num_rows, self._size)
      self._last = which, order
    return self._last[1]


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
    (rows, inputs['tokens'].shape[-1])
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
  device_share: float = 1.0,
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
    device_share: of a device's memory, that training rows may take; beyond it
      they stay on the host, with the same batches.
  """
  form = form_of(model)
  rows, num_rows = examples['train'], len(examples['train'].target)
  parts = [
    batches.blocks(examples['val']._replace(inputs=inputs), block_size, chosen)
    for chosen, inputs in batches.by_width(examples['val'].inputs, model.widths)
  ]
  block = parts[0] if len(parts) == 1 else tuple(zip(*parts, strict=True))
  buckets = buckets_of(rows, model.widths)
  extent = Extent.of(stage, num_rows, batch_size, buckets)
  key: Hashable = None
  if form.key is not None and not buckets:
    # Tables of nearly as many rows have one shape.
    rows = batches.padded(rows, batches.ladder(num_rows))
    block = batches.padded_blocks(*block)
    stage = stage.without_length()
    key = (step, stage, form.key, len(seeds), batch_size, mesh)
  block = processes.place(block, sharding.batch_sharding(mesh, None))
  given = processes.place((form.numbers, extent), sharding.replicated(mesh))
  found = open_functions(
    step, stage, form, batch_size=batch_size, mesh=mesh, buckets=buckets
  )
  abstract, init = state_program(
    stage, model, seeds=seeds, mesh=mesh, optimizer=optimizer_of(stage, 1)
  )
  epoch_steps = int(extent.epoch_steps)

  def compiled(function, *args):
    own = key and (function.__name__, key, _shapes((given, abstract, *args)))
    out = _shardings(abstract)
    if function is found.validate:
      out = out, None
    return compilation.shared(
      own,
      lambda: (
        jax.jit(function, donate_argnums=1, out_shardings=out)
        .lower(given, abstract, *args)
        .compile()
      ),
    )

  room = streaming.bytes_for_rows(device_share)
  run: Callable[[TrainState, int], TrainState]
  if buckets or streaming.size_of(rows) <= room:
    # Whole on every device, over several processes too: a table is small
    # beside a model, every process reads it anyway, and which rows a batch has
    # is drawn on the device: each gathers its own and nothing is sent.
    train = processes.place(rows, sharding.replicated(mesh))
    if key is None:  # As it is compiled for machines that are not there.
      fixed = functools.partial(found.run, (form.numbers, extent))
      compiled_run = lower_run(fixed, abstract, train).compile()

      def run(state, num_steps):
        return compiled_run(state, train, np.int32(num_steps))
    else:
      orders = _Orders(
        len(seeds), num_rows, len(rows.target), abstract.step.sharding
      )
      compiled_run = compiled(found.run, train, np.int32(1), orders.example)

      def run(state, num_steps):
        keys, epoch = processes.fetch((state.key, state.epoch))
        order = orders.of(keys, int(epoch[0]))
        return compiled_run(given, state, train, np.int32(num_steps), order)
  else:
    stream = _stream(
      examples['train'],
      len(seeds),
      batch_size,
      mesh,
      room,
      abstract.step.sharding,
    )
    shape = stream.example(len(seeds))
    compiled_run = compiled(found.run_block, shape, np.int32(0), np.int32(1))

    def run(state, num_steps):
      return streaming.run(
        stream,
        functools.partial(compiled_run, given),
        state,
        num_steps,
        epoch_steps,
      )

  compiled_validate = compiled(found.validate, *block)
  return Programs(
    abstract_state=abstract,
    init=init,
    run=run,
    validate=lambda state: compiled_validate(given, state, *block),
    epoch_steps=epoch_steps,
    num_steps=int(extent.num_steps),
    compiled=compiled_run,
  )


def _stream(rows, num_seeds, batch_size, mesh, room, like):
  num_rows = len(rows.target)
  orders = _Orders(num_seeds, num_rows, batches.ladder(num_rows), like)
  return streaming.Stream(
    rows,
    orders.of,
    batch_size=batch_size,
    num_steps=streaming.steps_of_block(
      rows, num_seeds=num_seeds, batch_size=batch_size, room=room
    ),
    sharding=sharding.batch_sharding(mesh, 'seed', None, num_rows=batch_size),
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


def _shapes(tree):
  """What a compiled program depends on of its arguments, hashable."""
  leaves, structure = jax.tree.flatten(tree)
  found = (
    (x.shape, str(x.dtype), getattr(x, 'sharding', None)) for x in leaves
  )
  return structure, tuple(found)


def _shardings(abstract):
  return jax.tree.map(lambda x: x.sharding, abstract)
