"""A stage of training, and the random numbers that its seeds draw from."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genre2_jax.models.pack import Pack
from genre2_jax.objectives.objective import Objective
from genre2_jax.training import optimizers, train_state
from genre2_jax.training.train_state import Counters, TrainState

# Streams of random numbers: each seed's key is folded with one of these.
_STREAMS = ('pretrain', 'finetune', 'evaluation')
_ALIKE = Pack()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """What to train, how long and how fast.

  Attributes:
    section: 'pretrain' or 'finetune', as in the config.
    name: in files and tables: 'ce', 'remax', 'grpo', 'remax_expert', ...
    objective: what it minimises.
    epochs: at most.
    max_steps: if not 0, at most; the epoch that passes it is cut short.
    learning_rate: peak, after a linear warm-up.
    patience: epochs without a better validation before it stops; 0: never.
    warmup_steps: updates until the learning rate is at its peak.
    weight_decay: of AdamW.
    max_grad_norm: gradients are clipped to it; 0: not.
    optimizer: a name of `optimizers.NAMES`.
    schedule: of the learning rate, of `optimizers.SCHEDULES`.
    accumulation: micro-batches of a step; divides the batch.
    fast_parameters: names of those with a greater rate and no decay.
    pack: how the seeds differ.
  """

  section: str
  name: str
  objective: Objective
  epochs: int
  max_steps: int
  learning_rate: float
  patience: int
  warmup_steps: int
  weight_decay: float
  max_grad_norm: float
  optimizer: str = 'adamw'
  schedule: str = 'cosine'
  accumulation: int = 1
  fast_parameters: tuple[str, ...] = ()
  pack: Pack = _ALIKE

  def bounded(self, epoch_steps: int) -> Self:
    """The stage with the epochs that it begins, of so many steps.

    `max_steps` stays only where it cuts the last one short.
    """
    if not self.max_steps:
      return self
    epochs = min(self.epochs, -(-self.max_steps // epoch_steps))
    cuts = self.max_steps < epochs * epoch_steps
    return dataclasses.replace(
      self, epochs=epochs, max_steps=self.max_steps if cuts else 0
    )

  def num_steps(self, epoch_steps: int) -> int:
    """Steps of a stage that never loses patience, epochs of so many."""
    whole = self.epochs * epoch_steps
    return min(whole, self.max_steps) if self.max_steps else whole

  def without_length(self) -> Self:
    """What stages of other lengths, which are arguments, have in common."""
    return dataclasses.replace(self, epochs=1, max_steps=0)

  def is_finished(self, state: TrainState | Counters) -> bool:
    """Whether no epoch is left, or no seed has patience; stacked, [S]."""
    patient = train_state.is_patient(state, self.patience)
    return bool(state.epoch[0] >= self.epochs or not np.any(patient))


def seed_keys(seeds: Sequence[int], stream: str) -> jax.Array:
  """One key per seed, [S], for a stream of random numbers."""
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  number = _STREAMS.index(stream)
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def evaluation_keys(seeds: Sequence[int]) -> jax.Array:
  """The seeds' keys for predictions."""
  return seed_keys(seeds, 'evaluation')


def optimizer_of(
  stage: Stage, num_steps: optimizers.Count
) -> optax.GradientTransformation:
  """The stage's optax transformation, for so many steps."""
  schedule = optimizers.schedule(
    stage.schedule,
    stage.learning_rate,
    warmup_steps=stage.warmup_steps,
    total_steps=num_steps * stage.objective.num_updates,
  )
  return optimizers.build(
    stage.optimizer,
    schedule,
    weight_decay=stage.weight_decay,
    max_grad_norm=stage.max_grad_norm,
    fast_parameters=stage.fast_parameters,
    own=[
      name
      for name in ('learning_rate', 'weight_decay')
      if stage.pack.varies(name)
    ],
  )
