"""A stage as compiled programs over stacked seeds."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence

import jax
import numpy as np

from genre2_jax.data import batches
from genre2_jax.data.batches import Examples
from genre2_jax.devices import compilation, processes, sharding
from genre2_jax.models.model import form_of
from genre2_jax.training import orders, streaming
from genre2_jax.training.initialization import Init, Trainable, state_program
from genre2_jax.training.stage_functions import Extent, Step, open_functions
from genre2_jax.training.stages import Stage, optimizer_of
from genre2_jax.training.train_state import TrainState


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
    block_size: rows that are validated at once, at most.
    mesh: where it runs.
    device_share: of a device's memory, that training rows may take; beyond it
      they stay on the host, with the same batches.
  """
  form = form_of(model)
  rows, num_rows = examples['train'], len(examples['train'].target)
  parts = [
    batches.blocks(
      examples['val']._replace(inputs=inputs),
      _filled(len(chosen), block_size, mesh),
      chosen,
    )
    for chosen, inputs in batches.by_width(examples['val'].inputs, model.widths)
  ]
  block = parts[0] if len(parts) == 1 else tuple(zip(*parts, strict=True))
  buckets = orders.buckets_of(rows, model.widths)
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
  compiler_options = compilation.options(mesh)

  def compiled(function, *args):
    own = key and (
      function.__name__,
      key,
      compilation.signature((given, abstract, *args)),
    )
    out = _shardings(abstract)
    if function is found.validate:
      out = out, None
    return compilation.shared(
      own,
      lambda: (
        jax.jit(function, donate_argnums=1, out_shardings=out)
        .lower(given, abstract, *args)
        .compile(compiler_options)
      ),
    )

  room = streaming.bytes_for_rows(device_share)
  run: Callable[[TrainState, int], TrainState]
  if streaming.size_of(rows) <= room:
    # Whole on every device, over several processes too: a table is small
    # beside a model, every process reads it anyway, and which rows a batch has
    # is drawn on the device: each gathers its own and nothing is sent.
    train = processes.place(rows, sharding.replicated(mesh))
    if key is None:  # As it is compiled for machines that are not there.
      fixed = functools.partial(found.run, (form.numbers, extent))
      compiled_run = lower_run(fixed, abstract, train).compile(compiler_options)

      def run(state, num_steps):
        return compiled_run(state, train, np.int32(num_steps))
    else:
      drawn = orders.Orders(
        len(seeds), num_rows, len(rows.target), abstract.step.sharding
      )
      compiled_run = compiled(found.run, train, np.int32(1), drawn.example)

      def run(state, num_steps):
        keys, epoch = processes.fetch((state.key, state.epoch))
        order = drawn.of(keys, int(epoch[0]))
        return compiled_run(given, state, train, np.int32(num_steps), order)
  else:
    stream = _stream(
      examples['train'],
      len(seeds),
      batch_size,
      mesh,
      room,
      abstract.step.sharding,
      buckets,
    )
    example = stream.example(len(seeds))
    compiled_run = compiled(found.run_block, example, np.int32(0), np.int32(1))

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


def _filled(num_rows, block_size, mesh):
  """Rows of a block that so many fill, or nearly: padding is computed, too."""
  return min(block_size, -(-batches.ladder(num_rows) // mesh.size) * mesh.size)


def _stream(rows, num_seeds, batch_size, mesh, room, like, buckets):
  num_rows = len(rows.target)
  order: streaming.Order
  if len(buckets) > 1:
    order = functools.partial(
      orders.batches_by_bucket, buckets=buckets, batch_size=batch_size
    )
  else:
    drawn = orders.Orders(num_seeds, num_rows, batches.ladder(num_rows), like)
    order = functools.partial(
      orders.batches_of, drawn, num_rows=num_rows, batch_size=batch_size
    )
  return streaming.Stream(
    rows,
    order,
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


def _shardings(abstract):
  return jax.tree.map(lambda x: x.sharding, abstract)
