"""All that a stage of training carries from step to step: arrays only."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genre2_jax.objectives.objective import StageParams
from genre2_jax.policy import Params

# On the host numpy, on the device JAX: [S] of stacked states, else a scalar.
_Number = Any
_IsFrozen = Callable[[tuple[str, ...]], bool]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
  """One seed's state; the states of S seeds are stacked along a leading axis.

  What a stage still does is a function of its state and its rows: who saves
  the state can go on where it was.

  Attributes:
    step: int32, steps taken.
    epoch: int32, epochs finished and validated.
    key: uint32 [2], key data; step t draws from fold_in(key, t), shuffling and
      validation from streams of their own.
    params: what is trained, a dict as `objective.init_params` gives it; None
      stands where a parameter is frozen.
    frozen: the network's frozen parameters, None where one is trained; None
      without any. `StageCheckpoints` saves them apart, once.
    opt_state: of the optimizer.
    totals: sums of the training metrics since the epoch began, float32,
      {name: scalar}.
    bad_step: int32, first step whose loss or updated parameters were not
      finite; −1 while none.
    best_params: `params` of the best validation so far.
    best_score: float32, its score; higher is better.
    best_epoch: int32, its epoch.
    reference: `params` that a KL term holds on to, or None.
  """

  step: jax.Array
  epoch: jax.Array
  key: jax.Array
  params: StageParams
  frozen: Params
  opt_state: optax.OptState
  totals: dict[str, jax.Array]
  bad_step: jax.Array
  best_params: StageParams
  best_score: jax.Array
  best_epoch: jax.Array
  reference: StageParams | None


def create(
  params: StageParams,
  key: jax.Array,
  optimizer: optax.GradientTransformation,
  metric_names: Sequence[str],
  keep_reference: bool = False,
  is_frozen: _IsFrozen | None = None,
) -> TrainState:
  """The state before the first step of a stage.

  Args:
    params: all of them, a dict as `objective.init_params` gives it.
    key: a PRNG key.
    optimizer: an optax transformation.
    metric_names: of a training step.
    keep_reference: whether a KL term wants one.
    is_frozen: `Policy.frozen`.
  """
  zero = jnp.zeros((), jnp.int32)
  params, frozen = split(params, is_frozen)
  return TrainState(
    step=zero,
    epoch=zero - 1,
    key=jax.random.key_data(key),
    params=params,
    frozen=frozen,
    opt_state=optimizer.init(params),
    totals={name: jnp.zeros(()) for name in metric_names},
    bad_step=zero - 1,
    best_params=params,
    best_score=jnp.array(-jnp.inf),
    best_epoch=zero,
    reference=params if keep_reference else None,
  )


def split(
  params: StageParams, is_frozen: _IsFrozen | None
) -> tuple[StageParams, Params]:
  """(what is trained, the network's frozen parameters or None).

  Both are trees like the whole, None where the other has the parameter. A
  critic is a network like the policy and shares what is frozen of it.

  Args:
    params: a dict as `objective.init_params` gives it.
    is_frozen: `Policy.frozen`.
  """
  if is_frozen is None:
    return params, None

  def part(network, frozen):
    def pick(path, x):
      names = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
      return x if bool(is_frozen(names)) == frozen else None

    return jax.tree_util.tree_map_with_path(pick, network)

  trained = {
    name: x if name == 'numbers' else part(x, frozen=False)
    for name, x in params.items()
  }
  return trained, part(params['policy'], frozen=True)


def merge(trained: StageParams, frozen: Params) -> StageParams:
  """The parameters that `split` took apart."""
  if frozen is None:
    return trained

  def whole(network):
    return jax.tree.map(
      lambda x, y: y if x is None else x,
      network,
      frozen,
      is_leaf=lambda x: x is None,
    )

  return {
    name: x if name == 'numbers' else whole(x) for name, x in trained.items()
  }


def each_seed(
  function: Callable[..., Any], in_axes: tuple[int | None, ...] = (0, 0)
) -> Callable[..., Any]:
  """`jax.vmap` over stacked seeds; a single one goes without their axis.

  Scanned layers lie behind that axis, and to bring them before it XLA would
  copy all weights, those in bfloat16 on a CPU by way of float32.

  Args:
    function: of one seed.
    in_axes: of each argument 0, if it is stacked, or None.
  """

  def run(*args: Any) -> Any:
    given = list(zip(args, in_axes, strict=True))
    stacked = jax.tree.leaves([x for x, axis in given if axis == 0])
    if len(stacked[0]) > 1:
      return jax.vmap(function, in_axes)(*args)
    alone = [
      x if axis is None else jax.tree.map(lambda x: jnp.squeeze(x, 0), x)
      for x, axis in given
    ]
    return jax.tree.map(lambda x: jnp.expand_dims(x, 0), function(*alone))

  return run


class Counters(NamedTuple):
  """What the loop on the host looks at: fields of a stacked state, [S]."""

  step: _Number
  epoch: _Number
  best_epoch: _Number
  bad_step: _Number


def counters(state: TrainState) -> Counters:
  """The `Counters` of a stacked state."""
  return Counters(*(getattr(state, name) for name in Counters._fields))


def is_patient(state: TrainState | Counters, patience: int) -> _Number:
  """Whether fewer than `patience` epochs passed since the best; 0 is forever.

  Of one state a boolean, of stacked ones bool [S].
  """
  return (patience == 0) | (state.epoch - state.best_epoch < patience)


def validated(state: TrainState, score: jax.Array, patience: int) -> TrainState:
  """The state after an epoch's validation: keeps the best, restarts the sums.

  A state that ran out of patience keeps its best for good: seeds that train
  side by side stop where each of them would have stopped alone.
  """
  better = (score > state.best_score) & is_patient(state, patience)
  epoch = state.epoch + 1

  def newer(new, old):
    return jax.tree.map(lambda x, y: jnp.where(better, x, y), new, old)

  return dataclasses.replace(
    state,
    epoch=epoch,
    totals=jax.tree.map(jnp.zeros_like, state.totals),
    best_params=newer(state.params, state.best_params),
    best_score=newer(score, state.best_score),
    best_epoch=newer(epoch, state.best_epoch),
  )
