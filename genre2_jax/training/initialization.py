"""How a stage's state begins, and what lives where."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import flax.linen as nn
import jax
import numpy as np
import optax

from genre2_jax.data import batches
from genre2_jax.devices import compilation, sharding
from genre2_jax.models import pack
from genre2_jax.models.model import form_of
from genre2_jax.objectives.objective import init_params
from genre2_jax.policy import Inputs, Params, Pointwise, Policy
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import train_state
from genre2_jax.training.stages import Stage, optimizer_of, seed_keys
from genre2_jax.training.train_state import TrainState

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
    key = form.key and (
      'init',
      form.key,
      stage.without_length(),
      len(seeds),
      mesh,
      start is None,
      compilation.signature(held),
    )
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
