"""All that a stage of training carries from step to step: arrays only."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
  """One seed's state; `train.py` stacks several along a leading axis S.

  A run is a function of this and of the data, so saving it is saving the run.

  Attributes:
    step: int32, steps taken.
    epoch: int32, epochs finished and validated.
    key: uint32 [2], key data; step t draws from fold_in(key, t).
    params: of the policy.
    opt_state: of the optimizer.
    totals: sums of the training metrics since the epoch began, float32.
    bad_step: int32, first step whose loss or updated parameters were not
      finite; −1 while none.
    best_params: the parameters of the best validation so far.
    best_score: float32, its score; higher is better.
    best_epoch: int32, its epoch.
    reference: parameters that a KL term holds on to, or None.
  """

  step: jax.Array
  epoch: jax.Array
  key: jax.Array
  params: Any
  opt_state: Any
  totals: dict[str, jax.Array]
  bad_step: jax.Array
  best_params: Any
  best_score: jax.Array
  best_epoch: jax.Array
  reference: Any


def create(params, key, optimizer, metric_names, keep_reference=False):
  """The state before the first step of a stage."""
  zero = jnp.zeros((), jnp.int32)
  return TrainState(
    step=zero,
    epoch=zero - 1,
    key=jax.random.key_data(key),
    params=params,
    opt_state=optimizer.init(params),
    totals={name: jnp.zeros(()) for name in metric_names},
    bad_step=zero - 1,
    best_params=params,
    best_score=jnp.array(-jnp.inf),
    best_epoch=zero,
    reference=params if keep_reference else None,
  )


class Counters(NamedTuple):
  """What the loop on the host looks at: fields of a stacked state, [S]."""

  step: Any
  epoch: Any
  best_epoch: Any
  bad_step: Any


def counters(state):
  """The `Counters` of a stacked state."""
  return Counters(*(getattr(state, name) for name in Counters._fields))


def is_patient(state, patience):
  """Whether fewer than `patience` epochs passed since the best; 0 is forever.

  Holds for one state and for stacked ones, on the host and on the device.
  """
  return (patience == 0) | (state.epoch - state.best_epoch < patience)


def validated(state, score, patience):
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
