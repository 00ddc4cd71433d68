"""A stage of training as compiled programs over stacked seeds."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax import evaluate, optimizers, sharding, steps, train_state
from genre2_jax.data import batches

# Streams of random numbers: each seed's key is folded with one of these.
_CE_STREAM, _RL_STREAM, _EVALUATION_STREAM = range(3)
_SHUFFLE = 2**31 - 1  # no step comes this far


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """What to train, how long and how fast.

  Attributes:
    name: in files and tables: 'ce', 'remax', 'grpo', 'remax_expert', ...
    objective: a `steps.SequenceObjective`, or None for cross-entropy.
    epochs: at most.
    learning_rate: peak of a linear warm-up and a cosine to a tenth.
    patience: epochs without a better validation before it stops; 0: never.
    warmup_steps: of the learning rate.
    weight_decay: of AdamW.
    max_grad_norm: gradients are clipped to it; 0: not.
  """

  name: str
  objective: steps.SequenceObjective | None
  epochs: int
  learning_rate: float
  patience: int
  warmup_steps: int
  weight_decay: float
  max_grad_norm: float

  def is_finished(self, state):
    """Whether a stacked state has no epoch left, or no seed has patience."""
    patient = train_state.is_patient(state, self.patience)
    return bool(state.epoch[0] >= self.epochs or not np.any(patient))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
  """A stage, compiled for one data set, mesh and number of seeds.

  Attributes:
    abstract_state: shapes, dtypes and shardings of the stacked state.
    init: `(stacked params or None) -> state` before the first step.
    run: `(state, number of steps) -> state`; donates the state. One program
      for any number of steps, which must not go past the end of the epoch.
    validate: `state -> (state, metrics [S])` at the end of an epoch; donates
      the state.
    epoch_steps: steps in an epoch.
  """

  abstract_state: train_state.TrainState
  init: Callable
  run: Callable
  validate: Callable
  epoch_steps: int


def seed_keys(seeds, stream):
  """One key per seed, [S], for a stream of random numbers."""
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  return jax.vmap(jax.random.fold_in, (0, None))(keys, stream)


def evaluation_keys(seeds):
  """The seeds' keys for predictions."""
  return seed_keys(seeds, _EVALUATION_STREAM)


def optimizer_of(stage, epoch_steps):
  """The stage's optax transformation."""
  updates = stage.objective.num_updates if stage.objective else 1
  schedule = optimizers.warmup_cosine(
    stage.learning_rate,
    warmup_steps=stage.warmup_steps,
    total_steps=stage.epochs * epoch_steps * updates,
  )
  return optimizers.adamw(
    schedule,
    weight_decay=stage.weight_decay,
    max_grad_norm=stage.max_grad_norm,
  )


def state_program(stage, model, *, seeds, mesh, optimizer):
  """How a stage's state begins, never whole on one device under FSDP.

  Args:
    stage: a `Stage`.
    model: with `policy` and `example_inputs`.
    seeds: S integers.
    mesh: where it will live.
    optimizer: an optax transformation.

  Returns:
    (abstract state with shardings, `(stacked params or None) -> state`).
  """
  policy, inputs = model.policy, model.example_inputs()
  stream = _CE_STREAM if stage.objective is None else _RL_STREAM
  metric_names = steps.RL_METRICS if stage.objective else steps.CE_METRICS

  def create(params, key):
    init_key, loop_key = jax.random.split(key)
    if params is None:
      params = nn.unbox(policy.init(init_key, inputs))
    return train_state.create(
      params,
      loop_key,
      optimizer,
      metric_names,
      keep_reference=bool(stage.objective and stage.objective.kl_weight),
    )

  keys = seed_keys(seeds, stream)
  stacked = jax.vmap(create, (None, 0))
  abstract = jax.eval_shape(stacked, None, keys)
  boxed = jax.eval_shape(policy.init, jax.random.key(0), inputs)
  shardings = sharding.state_sharding(boxed, abstract, optimizer, mesh)
  sharding.check_shapes(abstract, shardings)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )

  def init(params):
    axes = (None if params is None else 0, 0)
    function = jax.jit(jax.vmap(create, axes), out_shardings=shardings)
    return function(params, keys)

  return abstract, init


def compile_stage(
  stage, model, examples, *, seeds, batch_size, block_size, mesh
):
  """Compiles a stage.

  Args:
    stage: a `Stage`.
    model: with `policy` and `codec`.
    examples: `Examples` of the splits 'train' and 'val', on the host.
    seeds: S integers.
    batch_size: B, rows of a step.
    block_size: rows that are validated at once.
    mesh: where it runs.

  Returns:
    `Programs`.
  """
  train = jax.device_put(examples['train'], sharding.replicated(mesh))
  num_rows = len(train.target)
  epoch_steps = batches.steps_per_epoch(num_rows, batch_size)
  optimizer = optimizer_of(stage, epoch_steps)
  abstract, init = state_program(
    stage, model, seeds=seeds, mesh=mesh, optimizer=optimizer
  )
  step = functools.partial(
    steps.ce_step, policy=model.policy, optimizer=optimizer
  )
  validation = functools.partial(evaluate.validation_loss, policy=model.policy)
  if stage.objective is not None:
    step = functools.partial(
      steps.rl_step,
      policy=model.policy,
      codec=model.codec,
      optimizer=optimizer,
      objective=stage.objective,
    )
    validation = functools.partial(
      evaluate.validation_reward,
      policy=model.policy,
      codec=model.codec,
      objective=stage.objective,
    )
  rows_sharding = sharding.batch_sharding(mesh, 'seed')

  def run(state, train, num_steps):
    keys = jax.vmap(jax.random.wrap_key_data)(state.key)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _SHUFFLE)
    keys = jax.vmap(jax.random.fold_in)(keys, state.epoch)
    indices = jax.vmap(
      lambda key: batches.epoch_indices(key, num_rows, batch_size)
    )(keys)  # [S, steps, B]

    def body(_, state):
      place = state.step[0] - state.epoch[0] * epoch_steps
      batch = batches.take(train, indices[:, place])  # [S, B, ...]
      batch = jax.lax.with_sharding_constraint(batch, rows_sharding)
      return jax.vmap(step)(state, batch)

    return jax.lax.fori_loop(0, num_steps, body, state)

  def validate(state, rows, numbers):
    means = jax.tree.map(lambda x: x / epoch_steps, state.totals)
    if stage.objective is None:
      values = jax.vmap(validation, (0, None, None))(
        state.params, rows, numbers
      )
      score = -values['loss']
    else:
      keys = jax.vmap(jax.random.wrap_key_data)(state.key)
      values = jax.vmap(validation, (0, None, None, 0))(
        state.params, rows, numbers, keys
      )
      score = values['reward']
    state = jax.vmap(train_state.validated, (0, 0, None))(
      state, score, stage.patience
    )
    metrics = {f'train/{k}': v for k, v in means.items()}
    return state, metrics | {f'val/{k}': v for k, v in values.items()}

  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  block = batches.blocks(examples['val'], block_size)
  block = jax.device_put(block, sharding.batch_sharding(mesh, None))
  compiled_run = (
    jax.jit(run, donate_argnums=0, out_shardings=shardings)
    .lower(abstract, train, np.int32(1))
    .compile()
  )
  compiled_validate = (
    jax.jit(validate, donate_argnums=0, out_shardings=(shardings, None))
    .lower(abstract, *block)
    .compile()
  )
  return Programs(
    abstract_state=abstract,
    init=init,
    run=lambda state, num_steps: compiled_run(
      state, train, np.int32(num_steps)
    ),
    validate=lambda state: compiled_validate(state, *block),
    epoch_steps=epoch_steps,
  )
