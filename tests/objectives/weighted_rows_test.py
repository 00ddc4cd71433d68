"""A row of weight 2 is the row twice, to every loss and to validation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_policy import (
  batch_of,
  greedy_numbers,
  objective_of,
  random_table,
  table_policy,
)

from genre2_jax import tokenizers
from genre2_jax.data import batches
from genre2_jax.objectives.catalog import GRID, SEQUENCE, TOKEN
from genre2_jax.objectives.rollouts import judge
from genre2_jax.policy import Pointwise, scoring
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import step, validation

pytestmark = pytest.mark.usefixtures('quick_compiles')

CODEC = Codec(tokenizers.build('normalized', base=3, digits=2), -1.0, 1.5)
BINS = Codec(tokenizers.build('bins', base=2, digits=1, bins=4), -1.0, 1.5)
SCALES = np.array([0.5, -1.0, 1.5, 0.7], np.float32)
TARGETS = np.array([0.3, -0.6, 1.2, 0.1], np.float32)
WEIGHTS = np.array([2.0, 1.0, 0.0, 3.0], np.float32)
TWICE = np.repeat(np.arange(4), WEIGHTS.astype(int))
GROUP = 4


def codec_of(name):
  return BINS if name == 'soft_ce' else CODEC


def rows_of(codec, index, weight):
  rows = batch_of(codec, SCALES[index], TARGETS[index])
  return rows._replace(weight=None if weight is None else jnp.asarray(weight))


def loss_of(objective, codec, index, weight=None):
  """Loss, metrics and gradient of a batch whose numbers are given."""
  policy = table_policy(codec.tokenizer)
  table = jnp.asarray(random_table(codec.tokenizer))
  params = {'policy': table}
  rows = rows_of(codec, index, weight)
  written = None
  if objective.is_sequence:
    shape = 4, GROUP, codec.tokenizer.num_tokens
    draw = np.random.default_rng(1)
    tokens = draw.integers(codec.tokenizer.vocab_size, size=shape)[index]
    tokens = jnp.asarray(tokens, jnp.int32)

    def score(table):
      return scoring.score(policy, table, rows.inputs, tokens, 1.0)

    values = reference = None
    if 'critic' in objective.needs:
      params['critic'] = jnp.asarray(random_table(codec.tokenizer, 3))
      logits = scoring.logits_along(
        policy, params['critic'], rows.inputs, tokens
      )
      values = jnp.mean(logits, -1, where=codec.tokenizer.allowed)
    if 'reference' in objective.needs:
      reference = score(random_table(codec.tokenizer, 2)).token_log_probs()
    at = table * 0.9  # So that ratios are not 1.
    judgement, _ = judge(
      score(at),
      greedy_numbers(codec.tokenizer, at, rows.inputs),
      reference,
      values,
      rows,
      codec,
      objective,
    )
    written = tokens, judgement
  keys = jax.random.split(jax.random.key(0), len(index))
  part = step.MicroBatch(rows, keys, jax.random.key(1), written)
  (loss, metrics), gradient = jax.value_and_grad(step.loss, has_aux=True)(
    params,
    part,
    frozen=None,
    network=policy,
    codec=codec,
    objective=objective,
  )
  return {'loss': loss, **metrics}, gradient


@pytest.mark.parametrize(
  'name',
  [
    # One of each kind is enough for a quick look.
    name
    if name in ('ce', 'crps', 'reinforce')
    else pytest.param(name, marks=pytest.mark.slow)
    for name in (*TOKEN, *GRID, *SEQUENCE)
  ],
)
def test_a_row_of_weight_two_is_the_row_twice(name):
  more = {'num_updates': 2} if name in ('remax', 'ppo', 'reinforce') else {}
  terms = ('ce', (name, 1.0, {})) if name == 'kl' else (name,)
  objective = objective_of(*terms, group_size=GROUP, **more)
  objective = dataclasses.replace(
    objective, enumeration=Enumeration(depth=2, samples=0)
  )
  codec = codec_of(name)
  found, gradient = loss_of(
    objective, codec, np.arange(4), WEIGHTS / WEIGHTS.mean()
  )
  expected, its_gradient = loss_of(objective, codec, TWICE)
  assert found.keys() == expected.keys()
  for metric, value in expected.items():
    assert float(found[metric]) == pytest.approx(float(value), rel=1e-4), metric
  for own, its in zip(
    jax.tree.leaves(gradient), jax.tree.leaves(its_gradient), strict=True
  ):
    np.testing.assert_allclose(own, its, rtol=1e-3, atol=1e-5)
  assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) > 1e-3


def test_weights_of_one_are_no_weights():
  objective = objective_of('ce', 'remax', 'expert', group_size=GROUP)
  ones, gradient = loss_of(objective, CODEC, np.arange(4), np.ones(4))
  none, its_gradient = loss_of(objective, CODEC, np.arange(4))
  assert {k: float(x) for k, x in ones.items()} == pytest.approx(
    {k: float(x) for k, x in none.items()}, rel=1e-6
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    gradient,
    its_gradient,
  )


@pytest.mark.parametrize('name', ['ce', 'crps', 'remax', 'mse'])
def test_validation_counts_rows_by_their_weights(name):
  """Whatever their scale, and blocks that are padded or of weight 0."""
  network = table_policy(CODEC.tokenizer)
  params = {'policy': random_table(CODEC.tokenizer)}
  if name == 'mse':
    network = Pointwise(None, lambda params, inputs, key=None: params * inputs)
    params = {'policy': np.float32(0.8)}
  objective = objective_of(name, group_size=1)
  if name == 'crps':
    objective = dataclasses.replace(
      objective, enumeration=Enumeration(depth=2, samples=0)
    )
  validate = functools.partial(
    validation.validate, network=network, codec=CODEC, objective=objective
  )

  def validated(index, weight, block_size):
    rows = jax.tree.map(np.asarray, rows_of(CODEC, index, weight))
    blocks, numbers = batches.blocks(rows, block_size)
    return validate(params, blocks, numbers, jax.random.key(0))

  score, values = validated(np.arange(4), 5 * WEIGHTS, 3)
  _, expected = validated(TWICE, None, 4)
  # What is sampled differs between the copies of a row.
  keep = ('greedy_reward',) if name == 'remax' else ('loss', name)
  for metric in keep:
    assert float(values[metric]) == pytest.approx(
      float(expected[metric]), rel=1e-5
    )
  sign = values['reward'] if name == 'remax' else -values['loss']
  assert float(score) == float(sign)


def test_a_step_of_weights_learns_from_the_rows_that_count():
  """Three rows of weight 0 beside one: the gradient is that of the one."""
  objective = objective_of('ce')
  alone, gradient = loss_of(objective, CODEC, np.array([1]))
  weight = np.array([0, 4, 0, 0], np.float32)
  found, among = loss_of(objective, CODEC, np.arange(4), weight)
  assert float(found['loss']) == pytest.approx(float(alone['loss']), rel=1e-6)
  np.testing.assert_allclose(
    gradient['policy'], among['policy'], rtol=1e-5, atol=1e-8
  )
