"""Objectives of several targets: what they are of each one by itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_policy import (
  batch_of,
  brute_force,
  expected_gradient,
  log_probs,
  objective_of,
  random_table,
  table_policy,
)

from genre2_jax import tokenizers
from genre2_jax.objectives import grid
from genre2_jax.objectives.objective import (
  check_objective,
  init_params,
  supervised,
)
from genre2_jax.objectives.rewards import REWARDS, summed
from genre2_jax.objectives.rollouts import roll_out, sequence_losses
from genre2_jax.objectives.sequence import leave_one_out_credit
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.tokenizers.codec import Codec, JointCodec

PART = tokenizers.build('normalized', base=2, digits=2)
CODECS = Codec(PART, -1.0, 1.0), Codec(PART, -3.0, 2.0)
CODEC = JointCodec.of(CODECS)
TABLE = random_table(CODEC.tokenizer)
TARGETS = np.array([[0.3, 1.2], [-1.0, -2.9], [0.9, -0.4]])
SCALES = np.array([1.0, -0.5, 2.0], np.float32)
BATCH = batch_of(CODEC, SCALES, TARGETS)
pytestmark = pytest.mark.usefixtures('quick_compiles')


def losses(*terms, **more):
  objective = objective_of(*terms)
  enumeration = Enumeration(depth=PART.num_tokens)
  objective = dataclasses.replace(objective, enumeration=enumeration)
  found = supervised(
    {'policy': jnp.asarray(TABLE), **more},
    BATCH,
    jax.random.split(jax.random.key(0), 3),
    network=table_policy(CODEC.tokenizer),
    codec=CODEC,
    objective=objective,
  )
  return {name: np.asarray(x) for name, x in found.items()}


def conditionals():
  """log p of each number, given the true ones before: [B, k, K]."""
  p = np.exp(np.asarray(log_probs(CODEC.tokenizer, TABLE, SCALES), float))
  p = p.reshape(3, 4, 4)
  place = CODECS[0].index(TARGETS[:, 0])
  second = p[np.arange(3), place]
  second = second / second.sum(axis=1, keepdims=True)
  return np.log(np.stack([p.sum(axis=2), second], axis=1))


def test_cross_entropy_is_over_all_tokens():
  found = losses('ce')['ce']
  for row, scale in enumerate(SCALES):
    tokens = np.asarray(BATCH.tokens)[row]
    p = brute_force(CODEC.tokenizer, TABLE, scale, tokens[None])[0]
    wanted = -np.mean(p[np.arange(4), tokens])
    np.testing.assert_allclose(found[row], wanted, rtol=1e-5)


@pytest.mark.parametrize(
  'name, loss',
  [
    ('crps', grid.CRPS()),
    ('raft', grid.RAFT()),
    ('mbr', grid.MBR()),
    ('exact', grid.ExpectedReward()),
  ],
)
def test_the_grid_level_is_the_mean_over_conditionals(name, loss):
  found = losses(name)[name]
  log_p = conditionals()
  wanted = [
    loss(
      jnp.asarray(log_p[:, place], jnp.float32),
      codec.values().astype(np.float32),
      jnp.asarray(TARGETS[:, place], jnp.float32),
    )
    for place, codec in enumerate(CODECS)
  ]
  np.testing.assert_allclose(found, np.mean(wanted, axis=0), rtol=2e-5)


def test_numbers_are_learnt_of_each_target():
  objective = objective_of(('raft', 1.0, {'learnable': True}))
  params = init_params(
    jax.random.key(0),
    None,
    network=table_policy(CODEC.tokenizer),
    codec=CODEC,
    objective=objective,
    start=jnp.asarray(TABLE),
  )
  np.testing.assert_allclose(params['numbers'], CODEC.values(), rtol=1e-6)
  term = ('raft', 1.0, {'learnable': True})
  moved = params['numbers'].at[1].add(5.0)
  first = losses(term, numbers=params['numbers'])['raft']
  second = losses(term, numbers=moved)['raft']
  np.testing.assert_allclose(first, losses('raft')['raft'], rtol=1e-5)
  assert (abs(second - first) > 1e-3).all()


def test_a_subset_is_spaced_over_each_targets_own_range():
  found = losses(('raft', 1.0, {'subset': 9}))['raft']
  np.testing.assert_allclose(found, losses('raft')['raft'], rtol=1e-5)


@pytest.mark.parametrize('name', REWARDS)
def test_rewards_are_summed_over_targets(name):
  draw = np.random.default_rng(0)
  predictions = jnp.asarray(draw.normal(size=(3, 5, 2)))
  target = jnp.asarray(TARGETS[:, None])
  found = summed(REWARDS[name], predictions, target, 2)
  wanted = sum(
    REWARDS[name](predictions[..., i], target[..., i]) for i in range(2)
  )
  np.testing.assert_allclose(found, wanted)


@pytest.mark.slow
def test_a_rollout_is_rewarded_for_all_numbers_and_every_token_is_moved():
  policy = table_policy(CODEC.tokenizer)
  objective = objective_of('remax', ('expert', 0.1, {}), group_size=6)
  params = {'policy': jnp.asarray(TABLE)}
  tokens, judgement, _ = roll_out(
    params,
    None,
    BATCH,
    jax.random.split(jax.random.key(1), 3),
    policy=policy,
    codec=CODEC,
    objective=objective,
  )
  assert judgement.predictions.shape == (3, 6, 2)
  errors = np.asarray(judgement.predictions) - TARGETS[:, None]
  np.testing.assert_allclose(
    judgement.rewards, -np.square(errors).sum(axis=-1), rtol=1e-5
  )
  # Each number's expert looks at its own target.
  for place, codec in enumerate(CODECS):
    span = slice(2 * place, 2 * place + 2)
    wanted = codec.tokenizer.best_tokens(
      np.asarray(tokens)[..., span], np.asarray(BATCH.tokens)[:, None, span]
    )
    np.testing.assert_array_equal(judgement.best_tokens[..., span], wanted)
  grads = jax.grad(
    lambda params: sequence_losses(
      params, BATCH, tokens, judgement, policy=policy, objective=objective
    )[0]['remax']
  )(params)['policy']
  assert (abs(np.asarray(grads)[:3]).sum(axis=1) > 0).all()
  assert abs(np.asarray(grads)[7:]).sum() > 0  # The second number's nodes.


def energy(x, y):
  """The fair energy score of a set [G, k]."""
  group = len(x)
  near = np.linalg.norm(x - y, axis=-1).mean()
  apart = np.linalg.norm(x[:, None] - x[None], axis=-1).sum()
  return near - apart / (2 * group * (group - 1))


def test_dars_credit_is_in_the_energy_score_of_the_set():
  draw = np.random.default_rng(0)
  x, y = draw.normal(size=(2, 5, 3)), draw.normal(size=(2, 3))
  found = leave_one_out_credit(jnp.asarray(x), jnp.asarray(y))
  for row in range(2):
    whole = energy(x[row], y[row])
    for i in range(5):
      without = energy(np.delete(x[row], i, axis=0), y[row])
      np.testing.assert_allclose(
        found[row, i], 4 * (without - whole), rtol=1e-4, atol=1e-5
      )


def test_what_learns_one_number_says_so():
  check = functools.partial(check_objective, tokenizer='normalized')
  check(objective_of('real'))
  with pytest.raises(ValueError, match='real learns one target'):
    check(objective_of('real'), num_targets=2)


@pytest.mark.parametrize('advantage', ['remax', 'no_baseline'])
def test_credit_of_later_numbers_has_the_same_expected_gradient(advantage):
  """What a number cannot change is noise, no bias."""
  batch = jax.tree.map(lambda x: x[:1], BATCH)
  params = {'policy': jnp.asarray(TABLE)}
  found = [
    expected_gradient(
      objective_of(advantage, group_size=1, credit=credit),
      batch,
      params,
      codec=CODEC,
    )['policy']
    for credit in ('all', 'later')
  ]
  assert abs(found[0]).max() > 0.01
  np.testing.assert_allclose(found[1], found[0], atol=2e-5)


def test_credit_of_later_numbers_is_the_sum_of_their_rewards():
  objective = objective_of('remax', group_size=4, credit='later')
  _, judgement, _ = roll_out(
    {'policy': jnp.asarray(TABLE)},
    None,
    BATCH,
    jax.random.split(jax.random.key(1), 3),
    policy=table_policy(CODEC.tokenizer),
    codec=CODEC,
    objective=objective,
  )
  own = -np.square(np.asarray(judgement.predictions) - TARGETS[:, None])
  rewards, greedy = judgement.later
  np.testing.assert_allclose(rewards[..., 1], own[..., 1], rtol=1e-5)
  np.testing.assert_allclose(rewards[..., 0], own.sum(axis=-1), rtol=1e-5)
  np.testing.assert_allclose(greedy[:, 0], judgement.greedy_rewards, rtol=1e-5)
