"""The code that README.md shows runs as it stands."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genre2_jax import sampling, steps, train_state
from genre2_jax.codec import Codec
from genre2_jax.data.batches import Examples
from genre2_jax.objectives.advantages import ADVANTAGES
from genre2_jax.tokenizers import Normalized

README = pathlib.Path(__file__).parent.parent / 'README.md'
BLOCKS = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)


def block(word):
  (found,) = (code for code in BLOCKS if word in code)
  assert len(found.splitlines()) < 30
  names = {}
  exec(compile(found, f'README.md:{word}', 'exec'), names)
  return names


@pytest.fixture
def rows():
  numeric = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
  categories = np.zeros((32, 0), np.int32)
  target = np.tanh(numeric[:, 0])
  return {'numeric': numeric, 'categories': categories}, target


def trained(policy, codec, inputs, target, num_steps, advantage=None):
  """Mean reward on the rows before and after."""
  batch = Examples(
    inputs, jnp.asarray(target, jnp.float32), jnp.asarray(codec.encode(target))
  )
  optimizer = optax.adam(0.05)
  params = policy.init(jax.random.key(0), inputs)
  key = jax.random.key(1)
  if advantage:
    objective = steps.SequenceObjective(advantage=advantage, group_size=8)
    names = steps.RL_METRICS
    step = jax.jit(
      lambda state: steps.rl_step(
        state,
        batch,
        policy=policy,
        codec=codec,
        optimizer=optimizer,
        objective=objective,
      )
    )
  else:
    names = steps.CE_METRICS
    step = jax.jit(
      lambda state: steps.ce_step(
        state, batch, policy=policy, optimizer=optimizer
      )
    )

  def reward(params):
    rollout = sampling.sample(
      policy,
      params,
      policy.encode(params, inputs),
      jax.random.split(key, len(target)),
      num_samples=32,
    )
    errors = codec.decode(rollout.tokens) - target[:, None]
    return -float(jnp.mean(errors**2))

  state = train_state.create(params, key, optimizer, names)
  before = reward(state.params)
  for _ in range(num_steps):
    state = step(state)
  return before, reward(state.params)


def test_the_model_shown_is_a_policy_that_learns(rows):
  policy = block('def independent_digits')['independent_digits'](
    Normalized(2, 4)
  )
  codec = Codec(policy.tokenizer, -1.0, 1.0)
  before, after = trained(policy, codec, *rows, num_steps=60)
  assert after > before + 0.1


def test_the_tokenizer_shown_round_trips_and_learns(rows):
  tokenizer = block('class Bins')['Bins'](bins=16)
  codec = Codec(tokenizer, -1.0, 1.0)
  inputs, target = rows
  assert np.abs(codec.decode(codec.encode(target)) - target).max() <= 1 / 16
  policy = block('def independent_digits')['independent_digits'](tokenizer)
  before, after = trained(policy, codec, inputs, target, num_steps=60)
  assert after > before + 0.1


def test_the_objective_shown_raises_the_reward(rows):
  shown = block('def best_of_group')['best_of_group']
  assert 'best_of_group' in ADVANTAGES
  del ADVANTAGES['best_of_group']
  ADVANTAGES['shown'] = shown
  try:
    policy = block('def independent_digits')['independent_digits'](
      Normalized(2, 4)
    )
    codec = Codec(policy.tokenizer, -1.0, 1.0)
    before, after = trained(
      policy, codec, *rows, num_steps=60, advantage='shown'
    )
    assert after > before + 0.1
  finally:
    del ADVANTAGES['shown']
