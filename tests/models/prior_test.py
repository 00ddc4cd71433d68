"""Networks that start from a distribution that somebody else has."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_takes_a_step
from tiny import tiny_stage

from genre2_jax import tokenizers
from genre2_jax.data.batches import Examples
from genre2_jax.models.encoders import feature_embedding
from genre2_jax.models.heads import histogram_policy, trie_policy
from genre2_jax.models.neighbours import Memory, neighbour_policy
from genre2_jax.models.prior import PRIOR, Blank, with_prior
from genre2_jax.policy import sampling, trie
from genre2_jax.tokenizers.codec import Codec

pytestmark = pytest.mark.usefixtures('quick_compiles')

TOKENIZER = tokenizers.build('normalized', base=3, digits=2)
FEATURES = {'cardinalities': (3,), 'category_embedding': 'one_hot'}
K = 9


def inputs_of(count, seed=0):
  draw = np.random.default_rng(seed)
  log_p = np.log(draw.dirichlet(np.full(K, 0.2), count) + 1e-6)
  return {
    'numeric': draw.normal(size=(count, 2)).astype(np.float32),
    'categories': draw.integers(0, 3, (count, 1)).astype(np.int32),
    PRIOR: log_p.astype(np.float32),
  }


@functools.cache
def fresh(members=1):
  """A policy with a prior, and the parameters that it starts with."""
  policy = with_prior(
    trie_policy(
      TOKENIZER,
      hidden=8,
      num_layers=1,
      dropout=0.0,
      ensemble_members=members,
      starts_at_zero=True,
      **FEATURES,
    )
  )
  return policy, nn.unbox(policy.init(jax.random.key(0), inputs_of(1)))


def log_probs(policy, params, inputs):
  context = policy.encode(params, inputs)
  return np.asarray(trie.log_probs(policy, params, context))


@pytest.mark.parametrize('members', [1, 3])
def test_before_the_first_step_the_distribution_is_the_prior(members):
  policy, params = fresh(members)
  inputs = inputs_of(5)
  wanted = inputs[PRIOR] - np.log(np.exp(inputs[PRIOR]).sum(1, keepdims=True))
  found = log_probs(policy, params, inputs)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  # What it is scaled by does not matter.
  moved = {**inputs, PRIOR: inputs[PRIOR] + 3}
  np.testing.assert_allclose(
    log_probs(policy, params, moved), wanted, atol=1e-5
  )


def test_a_prior_that_knows_nothing_is_no_prior():
  policy, params = fresh()
  inputs = inputs_of(4) | {PRIOR: Blank(K, 4).train_log_p()}
  moved = jax.tree.map(
    lambda x: x + 0.1 * jnp.arange(x.size).reshape(x.shape), params
  )
  plain = trie_policy(
    TOKENIZER, hidden=8, num_layers=1, dropout=0.0, **FEATURES
  )
  del_prior = {name: x for name, x in inputs.items() if name != PRIOR}
  np.testing.assert_allclose(
    log_probs(policy, moved, inputs),
    log_probs(plain, moved, del_prior),
    atol=1e-4,
  )
  assert Blank(K).log_p(range(3)).shape == (3, K)


def test_samples_are_those_of_the_prior():
  policy, params = fresh()
  inputs = inputs_of(2)
  rollout = sampling.sample(
    policy,
    params,
    policy.encode(params, inputs),
    jax.random.split(jax.random.key(1), 2),
    num_samples=3000,
  )
  codes = np.asarray(rollout.tokens) @ [3, 1]
  shares = np.stack([np.bincount(row, minlength=K) / 3000 for row in codes])
  np.testing.assert_allclose(shares, np.exp(inputs[PRIOR]), atol=0.04)


@pytest.mark.parametrize('name', ['ce', 'crps', 'raft', 'remax'])
def test_objectives_run_from_it(name):
  policy, _ = fresh()
  codec = Codec(TOKENIZER, -3.0, 3.0)
  z = np.linspace(-2, 2, 6, dtype=np.float32)
  examples = Examples(inputs_of(6), z, codec.encode(z))
  model = types.SimpleNamespace(
    network=policy, codec=codec, example_inputs=lambda: inputs_of(1)
  )
  assert_takes_a_step(tiny_stage(name), model, examples)


def test_the_first_gradient_leads_on_from_the_prior():
  policy, params = fresh()
  inputs = inputs_of(6)

  def loss(params):
    context = policy.encode(params, inputs)
    return -trie.log_probs(policy, params, context)[:, 4].mean()

  before, gradient = jax.value_and_grad(loss)(params)
  np.testing.assert_allclose(before, -inputs[PRIOR][:, 4].mean(), rtol=1e-3)
  moved = jax.tree.map(lambda x, g: x - 0.1 * g, params, gradient)
  assert loss(moved) < before - 0.01


def test_neighbours_are_mixed_with_what_starts_from_a_prior():
  """Where nothing is learnt yet half of the mixture is the prior's."""
  base, _ = fresh()
  rows = {k: x for k, x in inputs_of(7, seed=3).items() if k != PRIOR}
  mixed = neighbour_policy(
    base,
    Memory(rows, np.arange(7, dtype=np.int32)),
    embedding=feature_embedding(**FEATURES),
    width=2,
    candidates=100,
  )
  inputs = inputs_of(4)
  params = nn.unbox(mixed.init(jax.random.key(0), inputs))
  other = {**inputs, PRIOR: inputs[PRIOR][::-1]}
  apart = np.exp(inputs[PRIOR]) - np.exp(other[PRIOR])
  found = np.exp(log_probs(mixed, params, inputs))
  found -= np.exp(log_probs(mixed, params, other))
  np.testing.assert_allclose(found, 0.5 * apart, atol=1e-4)


def test_only_tables_take_a_prior():
  bins = tokenizers.build('normalized', base=9, digits=1)
  with pytest.raises(ValueError, match='table'):
    with_prior(histogram_policy(bins, **FEATURES))
