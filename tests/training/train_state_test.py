"""States: the best validation, and the end of a stage."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tiny import tiny_stage

from genre2_jax.training import train_state


def states_of(num_seeds):
  """Stacked states without a model: the parameter counts the epochs."""

  def create(key):
    return train_state.create(
      {'x': jnp.zeros(())}, key, optax.sgd(0.1), ('loss',)
    )

  return jax.vmap(create)(jax.random.split(jax.random.key(0), num_seeds))


def validate_all(scores, patience):
  """States after each of the validations with scores [epochs, S]."""
  state, states = states_of(np.shape(scores)[1]), []
  for epoch, score in enumerate(np.array(scores, np.float32)):
    state = dataclasses.replace(
      state,
      params={'x': jnp.full(len(score), float(epoch))},
      totals={'loss': jnp.ones(len(score))},
    )
    state = jax.vmap(train_state.validated, (0, 0, None))(
      state, score, patience
    )
    states.append(state)
  return states


def test_the_best_validation_is_kept_for_every_seed():
  scores = [[-3.0, -1.0], [-2.0, -2.0], [-2.5, -0.5], [-2.0, -0.6]]
  states = validate_all(scores, patience=0)
  assert [s.epoch.tolist() for s in states] == [[e, e] for e in range(4)]
  best = [[0, 0], [1, 0], [1, 2], [1, 2]]  # an equal score is not better
  assert [s.best_epoch.tolist() for s in states] == best
  assert [s.best_params['x'].tolist() for s in states] == best
  assert states[-1].best_score.tolist() == [-2.0, -0.5]
  assert not states[-1].totals['loss'].any()


def test_a_score_that_is_not_a_number_is_never_the_best():
  states = validate_all([[np.nan], [-1.0], [np.nan]], patience=0)
  assert states[-1].best_epoch.tolist() == [1]
  assert states[-1].best_score.tolist() == [-1.0]


def test_patience_is_each_seeds_own():
  """The first seed gives up after epoch 2; its rise in 3 comes too late."""
  stage = tiny_stage('ce', patience=2, epochs=9)
  scores = [[-1, -4], [-2, -3], [-2, -2], [0, -2], [0, -2]]
  states = validate_all(scores, patience=2)
  patient = [train_state.is_patient(s, 2).tolist() for s in states]
  assert patient == [
    [True, True],
    [True, True],
    [False, True],
    [False, True],
    [False, False],
  ]
  finished = [stage.is_finished(s) for s in states]
  assert finished == [False, False, False, False, True]
  assert states[-1].best_epoch.tolist() == [0, 2]
  assert states[-1].best_params['x'].tolist() == [0, 2]


def test_a_stage_ends_with_its_epochs_and_without_patience_not_before():
  states = validate_all([[0.0], [-1.0], [-1.0], [-1.0]], patience=0)
  stage = tiny_stage('ce', epochs=3, patience=0)
  finished = [stage.is_finished(s) for s in states]
  assert finished == [False, False, False, True]


def test_a_single_seed_is_what_vmap_gives_without_copies_of_its_layers():
  """The weights of scanned layers, in bfloat16, of a stack of one seed."""

  def model(layers, x):
    def layer(x, kernel):
      y = jax.lax.dot(x, kernel, preferred_element_type=jnp.float32)
      return jnp.tanh(y).astype(jnp.bfloat16), None

    return jax.lax.scan(layer, x, layers)[0]

  keys = jax.random.split(jax.random.key(0), 2)
  layers = jax.random.normal(keys[0], (1, 6, 64, 64), jnp.bfloat16)
  x = jax.random.normal(keys[1], (1, 8, 64), jnp.bfloat16)
  found = {}
  for name, over_seeds in (
    ('vmap', lambda f: jax.vmap(f)), ('each', train_state.each_seed)
  ):  # fmt: skip
    compiled = jax.jit(over_seeds(model)).lower(layers, x).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    found[name] = compiled(layers, x).astype(jnp.float32), temporary
  np.testing.assert_allclose(found['each'][0], found['vmap'][0], atol=0.02)
  assert found['each'][1] < 0.7 * found['vmap'][1]
  two = jnp.concatenate([layers, layers]), jnp.concatenate([x, x])
  both = train_state.each_seed(model)(*two)
  assert both.shape == (2, 8, 64)
