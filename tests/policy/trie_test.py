"""The trie: log p of every number, against scoring them one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_policy import BATCH, drawn_policy

from genre2_jax import tokenizers
from genre2_jax.policy import sampling, scoring, trie
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
pytestmark = pytest.mark.usefixtures('quick_compiles')


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
  policy, params, context = drawn_policy(TOKENIZERS[name])
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
  policy, params, context = drawn_policy(TOKENIZERS['ternary'])
  exact, alone = (
    jax.jit(functools.partial(f, policy, temperature=0.6))(params, context)
    for f in (trie.log_probs, scored)
  )
  np.testing.assert_allclose(exact, alone, atol=2e-5)


def test_gradients_are_those_of_the_numbers_one_by_one(monkeypatch):
  monkeypatch.setattr(trie, '_DENSE_NODES', 4)
  policy, params, _ = drawn_policy(TOKENIZERS['ternary'])
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


@pytest.mark.slow
def test_frequencies_of_samples_are_those_of_the_trie():
  policy, params, context = drawn_policy(TOKENIZERS['ternary'])
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
