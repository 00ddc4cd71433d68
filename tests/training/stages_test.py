"""Stages: their length, their learning rate, their random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_stage

from genre2_jax.objectives.objective import Rollouts
from genre2_jax.training import stages

SEEDS = (3, 4, 5, 6)


def test_streams_of_random_numbers_are_apart():
  keys = [
    np.asarray(jax.random.key_data(stages.seed_keys(SEEDS, stream)))
    for stream in ('pretrain', 'finetune', 'evaluation')
  ]
  assert len(np.unique(np.concatenate(keys), axis=0)) == 3 * len(SEEDS)
  np.testing.assert_array_equal(
    keys[2], jax.random.key_data(stages.evaluation_keys(SEEDS))
  )


@pytest.mark.parametrize(
  ('max_steps', 'epochs', 'steps'),
  [(0, 9, 27), (1, 1, 1), (3, 1, 3), (4, 2, 4), (27, 9, 27), (99, 9, 27)],
)
def test_a_bound_on_steps_is_one(max_steps, epochs, steps):
  stage = tiny_stage('ce', epochs=9, max_steps=max_steps)
  bounded = stage.bounded(3)
  assert (bounded.epochs, bounded.num_steps(3)) == (epochs, steps)
  if steps % 3 == 0:  # Whole epochs: as if they had been asked for.
    assert bounded == tiny_stage('ce', epochs=epochs)


def test_the_learning_rate_ends_with_the_last_update():
  """A tenth of the peak after all epochs, several updates per step or not."""

  def decayed(num_updates):
    stage = tiny_stage(
      'remax',
      Rollouts(num_updates=num_updates),
      weight_decay=0,
      warmup_steps=1,
    )
    optimizer = stages.optimizer_of(stage, stage.num_steps(3))
    params = {'x': jnp.zeros(())}
    state, sizes = optimizer.init(params), []
    for _ in range(12 * num_updates):
      update, state = optimizer.update({'x': jnp.ones(())}, state, params)
      sizes.append(abs(float(update['x'])))
    return np.array(sizes)

  once, twice = decayed(1), decayed(2)
  assert once.max() == pytest.approx(1e-2, rel=1e-3)
  assert twice.max() == pytest.approx(1e-2, rel=1e-3)
  assert 1e-3 < once[-1] < 1.5e-3 and 1e-3 < twice[-1] < 1.5e-3
  assert (np.diff(twice[2:]) < 0).all()
