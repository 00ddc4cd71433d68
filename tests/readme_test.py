"""The code that README.md shows runs, and what README.md names is there."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from genre2_jax import sampling, steps, train_state
from genre2_jax.codec import Codec
from genre2_jax.data.batches import Examples
from genre2_jax.objective import Enumeration, Objective, Rollouts
from genre2_jax.objectives import catalog
from genre2_jax.objectives.catalog import build_term
from genre2_jax.tokenizers import Normalized

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


def block(word):
  (found,) = (code for code in BLOCKS if word in code)
  assert len(found.splitlines()) < 30
  names = {'__name__': word}  # dataclasses look their module up
  exec(compile(found, f'README.md:{word}', 'exec'), names)
  return names


@pytest.fixture
def rows():
  numeric = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
  categories = np.zeros((32, 0), np.int32)
  target = np.tanh(numeric[:, 0])
  return {'numeric': numeric, 'categories': categories}, target


def trained(policy, codec, inputs, target, num_steps, name='ce', **options):
  """Mean reward on the rows before and after."""
  batch = Examples(
    inputs, jnp.asarray(target, jnp.float32), jnp.asarray(codec.encode(target))
  )
  optimizer = optax.adam(0.05)
  objective = Objective(
    terms=(build_term(name, 1.0, options),),
    rollouts=Rollouts(group_size=8),
    enumeration=Enumeration(depth=codec.tokenizer.num_tokens),
  )
  params = {'policy': policy.init(jax.random.key(0), inputs)}
  key = jax.random.key(1)
  step = jax.jit(
    functools.partial(
      steps.train_step,
      network=policy,
      codec=codec,
      optimizer=optimizer,
      objective=objective,
    )
  )

  def reward(params):
    rollout = sampling.sample(
      policy,
      params['policy'],
      policy.encode(params['policy'], inputs),
      jax.random.split(key, len(target)),
      num_samples=32,
    )
    errors = codec.decode(rollout.tokens) - target[:, None]
    return -float(jnp.mean(errors**2))

  state = train_state.create(params, key, optimizer, objective.metrics)
  before = reward(state.params)
  for _ in range(num_steps):
    state = step(state, batch)
  return before, reward(state.params)


def test_the_model_shown_is_a_policy_that_learns(rows):
  policy = block('def independent_digits')['independent_digits'](
    Normalized(2, 4)
  )
  codec = Codec(policy.tokenizer, -1.0, 1.0)
  for name in ('ce', 'remax', 'crps'):
    before, after = trained(policy, codec, *rows, num_steps=60, name=name)
    assert after > before + 0.1, name


def test_the_tokenizer_shown_round_trips_and_learns(rows):
  tokenizer = block('class Cells')['Cells'](count=16)
  codec = Codec(tokenizer, -1.0, 1.0)
  inputs, target = rows
  assert np.abs(codec.decode(codec.encode(target)) - target).max() <= 1 / 16
  policy = block('def independent_digits')['independent_digits'](tokenizer)
  before, after = trained(policy, codec, inputs, target, num_steps=60)
  assert after > before + 0.1


def test_the_objective_shown_raises_the_reward(rows):
  try:
    block('class ExpectedError')
    assert 'expected_error' in catalog.GRID
    policy = block('def independent_digits')['independent_digits'](
      Normalized(2, 4)
    )
    codec = Codec(policy.tokenizer, -1.0, 1.0)
    before, after = trained(
      policy, codec, *rows, num_steps=60, name='expected_error', power=1.5
    )
    assert after > before + 0.1
  finally:
    del catalog.GRID['expected_error']


def test_every_recipe_is_named():
  start = README.index('Recipes, in')
  table = README[start : README.index('Every field', start)]
  named = set(re.findall(r'`(\w+)`', table))
  paths = (ROOT / 'configs').glob('*_talent.py')
  assert named == {path.stem.removesuffix('_talent') for path in paths}


def test_commands_name_fields_and_files_that_are_there():
  config = base.get_config()
  fields = set(re.findall(r'--config\.([\w.]+)=', README)) - {'root'}
  assert len(fields) > 5
  for field in fields:  # `root` is the benchmark's.
    value = config
    for part in field.split('.'):
      value = value[part]
  for path in re.findall(
    r'(?:--config=|\]\()((?:configs|genre2_jax)/[\w/.]+)', README
  ):
    assert (ROOT / path).is_file(), path
