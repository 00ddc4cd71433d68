"""The trie: log p of every number, against scoring them one by one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.policy import sampling, scoring, trie
from genre2_jax.policy.enumeration import (
  Enumeration,
  enumerate_numbers,
  subset_numbers,
)
from genre2_jax.tokenizers.codec import Codec

TOKENIZERS = {
  'binary': tokenizers.build('normalized', base=2, digits=7),
  'ternary': tokenizers.build('normalized', base=3, digits=3),
  'octal': tokenizers.build('normalized', base=8, digits=3),
  'single': tokenizers.build('normalized', base=5, digits=1),
  'p10': tokenizers.build('p10', base=10, digits=1, max_exponent=2),
  'ieee': tokenizers.build('ieee', base=4, digits=2),
  'repetition': tokenizers.build('repetition', base=2, digits=3, repeats=2),
}
BATCH = 3
pytestmark = pytest.mark.usefixtures('quick_compiles')


@functools.cache
def network(name):
  """A tiny policy with two layers, its parameters, and contexts."""
  policy = tabular_policy(
    TOKENIZERS[name],
    cardinalities=(),
    width=16,
    num_layers=2,
    num_heads=2,
    feedforward=16,
    encoder_hidden=16,
    encoder_layers=1,
    dropout=0.0,
  )
  numeric = np.random.default_rng(0).normal(size=(BATCH, 3))
  inputs = {
    'numeric': numeric.astype(np.float32),
    'categories': np.zeros((BATCH, 0), np.int32),
  }
  params = nn.unbox(jax.jit(policy.init)(jax.random.key(0), inputs))
  params = jax.tree.map(lambda x: 1.5 * x, params)
  return policy, params, jax.jit(policy.encode)(params, inputs)


def scored(policy, params, context, temperature=1.0):
  """log p of all numbers, each decoded by itself along its own prefix."""

  def score(number):
    rows = jnp.broadcast_to(number, (BATCH, 1, len(number)))
    found = scoring.score(policy, params, context, rows, temperature)
    return found.token_log_probs().sum(-1)[:, 0]

  rows = jnp.asarray(trie.sequences(policy.tokenizer))
  return jax.vmap(score, out_axes=1)(rows)


@pytest.mark.parametrize('name', TOKENIZERS)
def test_sequences_are_the_grammar_in_order(name):
  tokenizer = TOKENIZERS[name]
  found = trie.sequences(tokenizer)
  assert found.shape == (tokenizer.num_sequences, tokenizer.num_tokens)
  positions = np.arange(tokenizer.num_tokens)
  assert tokenizer.allowed[positions, found].all()
  weights = tokenizer.vocab_size ** positions[::-1].astype(float)
  assert (np.diff(found @ weights) > 0).all()
  values = Codec(tokenizer, -1.0, 1.0).values()
  np.testing.assert_allclose(
    Codec(tokenizer, -1.0, 1.0).decode(found), values, rtol=1e-12
  )


@pytest.mark.parametrize('dense_nodes', [1, 32, 1000])
@pytest.mark.parametrize('name', ['binary', 'p10', 'ieee', 'single'])
def test_log_probs_are_those_of_the_numbers_one_by_one(
  name, dense_nodes, monkeypatch
):
  monkeypatch.setattr(trie, '_DENSE_NODES', dense_nodes)
  policy, params, context = network(name)
  exact = jax.jit(functools.partial(trie.log_probs, policy))(params, context)
  sums = np.exp(np.float64(exact)).sum(axis=1)
  np.testing.assert_allclose(sums, 1, rtol=1e-5)
  rows = trie.sequences(policy.tokenizer)
  rows = np.broadcast_to(rows, (BATCH, *rows.shape))
  score = jax.jit(
    lambda p: scoring.score(policy, p, context, rows).token_log_probs().sum(-1)
  )
  np.testing.assert_allclose(exact, score(params), atol=2e-5)


def test_log_probs_of_a_small_trie_against_lone_numbers():
  policy, params, context = network('ternary')
  exact, alone = (
    jax.jit(functools.partial(f, policy, temperature=0.6))(params, context)
    for f in (trie.log_probs, scored)
  )
  np.testing.assert_allclose(exact, alone, atol=2e-5)


def test_gradients_are_those_of_the_numbers_one_by_one(monkeypatch):
  monkeypatch.setattr(trie, '_DENSE_NODES', 4)
  policy, params, _ = network('ternary')
  numeric = np.random.default_rng(1).normal(size=(BATCH, 3))
  inputs = {
    'numeric': numeric.astype(np.float32),
    'categories': np.zeros((BATCH, 0), np.int32),
  }
  values = np.linspace(-1, 1, 27)

  def mean(log_probs, params):
    context = policy.encode(params, inputs)
    return jnp.sum(jnp.exp(log_probs(policy, params, context)) @ values)

  ours, theirs = (
    jax.jit(jax.grad(functools.partial(mean, f)))(params)
    for f in (trie.log_probs, scored)
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), ours, theirs
  )


def test_frequencies_of_samples_are_those_of_the_trie():
  policy, params, context = network('ternary')
  keys = jax.random.split(jax.random.key(0), BATCH)
  sample = functools.partial(sampling.sample, policy, num_samples=4000)
  tokens = jax.jit(sample)(params, context, keys).tokens
  index = np.asarray(tokens) @ [9, 3, 1]
  exact = np.exp(trie.log_probs(policy, params, context))
  for row in range(BATCH):
    found = np.bincount(index[row], minlength=27) / 4000
    assert np.abs(found - exact[row]).max() < 0.03


@pytest.mark.parametrize(
  ('base', 'digits', 'nodes'),
  [(2, 8, 255), (4, 4, 85), (8, 3, 73), (10, 3, 111), (6, 4, 259), (8, 4, 585)],
)
def test_number_of_nodes(base, digits, nodes):
  tokenizer = tokenizers.build('normalized', base=base, digits=digits)
  assert trie.num_nodes(tokenizer) == nodes
  assert len(trie.trunk(tokenizer.allowed).tokens) == nodes


def test_prefixes_that_are_given_are_kept_and_the_rest_is_sampled():
  policy, params, context = network('binary')
  prefixes = trie.sequences(policy.tokenizer, 2)
  keys = jax.random.split(jax.random.key(1), BATCH)
  sample = functools.partial(
    sampling.sample, policy, num_samples=4, prefixes=prefixes
  )
  found = jax.jit(sample)(params, context, keys)
  assert (np.asarray(found.tokens)[..., :2] == prefixes).all()
  assert len(np.unique(np.asarray(found.tokens)[..., 2:])) == 2
  score = functools.partial(scoring.score, policy)
  again = jax.jit(score)(params, context, found.tokens)
  np.testing.assert_allclose(found.log_probs, again.log_probs, atol=2e-5)


# ------------------------------------------------- partial enumerations


def codec_of(name):
  return Codec(TOKENIZERS[name], -1.0, 1.0)


def test_a_whole_enumeration_is_the_trie():
  policy, params, context = network('ternary')
  whole = Enumeration(depth=3)
  codec = codec_of('ternary')
  log_p, values = jax.jit(
    lambda p: enumerate_numbers(policy, codec, p, context, None, whole)
  )(params)
  exact = jax.jit(functools.partial(trie.log_probs, policy))(params, context)
  np.testing.assert_allclose(log_p, exact, atol=1e-6)
  np.testing.assert_allclose(values, codec_of('ternary').values(), rtol=1e-6)


@pytest.mark.parametrize('depth', [0, 2])
def test_partial_enumerations_are_unbiased_with_their_gradients(depth):
  """The mean number and its gradient, on average over many draws."""
  policy, params, _ = network('ternary')
  codec, context = codec_of('ternary'), network('ternary')[2]
  samples = 9 if depth == 0 else 3
  enumeration = Enumeration(depth=depth, samples=samples)
  draws = 600

  def estimate(shift, key):
    # A parameter that moves every distribution: logits times 1 + shift.
    moved = policy._replace(
      decode=lambda *a, **k: scale(policy.decode(*a, **k), 1 + shift)
    )
    log_w, values = enumerate_numbers(
      moved, codec, params, context, jax.random.split(key, BATCH), enumeration
    )
    return jnp.sum(jnp.exp(log_w) * values, -1)

  def scale(answer, factor):
    logits, cache = answer
    return logits * factor, cache

  def exact(shift):
    moved = policy._replace(
      decode=lambda *a, **k: scale(policy.decode(*a, **k), 1 + shift)
    )
    log_p = trie.log_probs(moved, params, context)
    return jnp.exp(log_p) @ codec.values()

  keys = jax.random.split(jax.random.key(3), draws)
  slope = jax.jacfwd(lambda s, k: (estimate(s, k),) * 2, has_aux=True)
  slopes, values = jax.jit(jax.vmap(slope, (None, 0)))(0.0, keys)
  np.testing.assert_allclose(
    values.mean(0), jax.jit(exact)(0.0), atol=4 * values.std() / draws**0.5
  )
  # Centring by the weights' mean costs a factor of (R − 1) / R in the part
  # of the gradient that is sampled.
  expected = jax.jit(jax.jacfwd(exact))(0.0)
  if depth == 0:
    expected = expected * (samples - 1) / samples
    atol = 4 * slopes.std() / draws**0.5
    np.testing.assert_allclose(slopes.mean(0), expected, atol=atol)
  else:
    atol = 4 * slopes.std() / draws**0.5 + 0.04 * np.abs(expected).max()
    np.testing.assert_allclose(slopes.mean(0), expected, atol=atol)
  assert np.abs(expected).max() > 0.01


def test_deeper_enumerations_vary_less():
  policy, params, context = network('ternary')
  codec = codec_of('ternary')
  spreads = []
  for depth in (0, 1, 2):
    enumeration = Enumeration(depth=depth, samples=9 if depth == 0 else 1)

    def mean(key, enumeration=enumeration):
      log_w, values = enumerate_numbers(
        policy,
        codec,
        params,
        context,
        jax.random.split(key, BATCH),
        enumeration,
      )
      return jnp.sum(jnp.exp(log_w) * values, -1)

    keys = jax.random.split(jax.random.key(5), 200)
    spreads.append(float(jax.jit(jax.vmap(mean))(keys).std(0).mean()))
  assert spreads[0] > 2 * spreads[1] > 4 * spreads[2] > 0


def test_a_subset_is_evenly_spaced_numbers_and_their_own_probabilities():
  policy, params, context = network('octal')
  codec = codec_of('octal')
  _, values = subset_numbers(policy, codec, params, context, 9)
  log_p, exact = jax.jit(
    lambda p: (
      subset_numbers(policy, codec, p, context, 9)[0],
      trie.log_probs(policy, p, context),
    )
  )(params)
  assert values.shape == (9,)
  np.testing.assert_allclose(values, np.linspace(-1, 1, 9), atol=1 / 256)
  index = np.searchsorted(codec.values(), values - 1e-6)
  np.testing.assert_allclose(log_p, exact[:, index], atol=2e-5)
