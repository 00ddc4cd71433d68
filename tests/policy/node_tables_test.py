"""Tables of logits: the same policy as any other that gives those logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from genre2_jax import tokenizers
from genre2_jax.policy import (
  Policy,
  sampling,
  scoring,
  tables,
  teacher_forced,
  trie,
)

pytestmark = pytest.mark.usefixtures('quick_compiles')

TOKENIZERS = {
  'even': tokenizers.build('normalized', base=3, digits=3),
  'one': tokenizers.build('normalized', base=5, digits=1),
  'grammar': tokenizers.build(
    'ieee', base=2, digits=2, exponent_digits=1, specials=False
  ),
}


@functools.cache
def table(name):
  """(a policy whose context is its inputs, logits [2, N, V])."""
  tokenizer = TOKENIZERS[name]
  allowed = tables.allowed_at_nodes(tokenizer)
  draw = np.random.default_rng(3)
  logits = draw.normal(0, 1.5, (2, *allowed.shape)).astype(np.float32)
  policy = Policy(
    tokenizer,
    init=lambda key, inputs: {},
    encode=lambda params, inputs, dropout_key=None: inputs,
    decode=tables.decode_of(tokenizer),
    is_table=True,
  )
  return policy, jnp.where(allowed, logits, -1e9)


def log_probs_by_hand(tokenizer, logits):
  """log p of every number, prefix by prefix, in float64: [B, K]."""
  sequences = trie.sequences(tokenizer)
  nodes = {}
  for length in range(tokenizer.num_tokens):
    for prefix in trie.sequences(tokenizer, length):
      nodes[tuple(prefix.tolist())] = len(nodes)
  found = []
  for tokens in sequences.tolist():
    rows = [nodes[tuple(tokens[:t])] for t in range(len(tokens))]
    log_p = special.log_softmax(np.float64(logits)[:, rows], axis=-1)
    found.append(log_p[:, np.arange(len(tokens)), tokens].sum(-1))
  return np.stack(found, -1)


@pytest.mark.parametrize('name', sorted(TOKENIZERS))
@pytest.mark.parametrize('is_table', [True, False])
def test_every_number_has_the_probability_of_its_nodes(name, is_table):
  """Read at once, and decoded level by level with a cache."""
  policy, logits = table(name)
  policy = policy._replace(is_table=is_table)
  got = trie.log_probs(policy, {}, logits)
  np.testing.assert_allclose(
    got, log_probs_by_hand(policy.tokenizer, logits), rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(jnp.exp(got).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize('name', sorted(TOKENIZERS))
def test_decoding_is_the_same_however_numbers_are_asked_for(name):
  policy, logits = table(name)
  tokenizer = policy.tokenizer
  expected = log_probs_by_hand(tokenizer, logits)
  draw = np.random.default_rng(0)
  index = draw.integers(0, tokenizer.num_sequences, (2, 7))
  tokens = trie.sequences(tokenizer)[index]
  log_p = np.take_along_axis(expected, index, -1)
  scored = scoring.score(policy, {}, logits, tokens).token_log_probs().sum(-1)
  np.testing.assert_allclose(scored, log_p, rtol=1e-4, atol=1e-5)
  own = teacher_forced(policy, {}, logits, tokens[:, 0])
  own = jnp.take_along_axis(
    jax.nn.log_softmax(own), tokens[:, 0, :, None], -1
  ).sum((-1, -2))
  np.testing.assert_allclose(own, log_p[:, 0], rtol=1e-4, atol=1e-5)
  keys = jax.random.split(jax.random.key(0), 2)
  written = sampling.sample(
    policy, {}, logits, keys, num_samples=5, greedy=True
  )
  again = scoring.score(policy, {}, logits, written.tokens)
  np.testing.assert_allclose(
    written.token_log_probs(), again.token_log_probs(), rtol=1e-4, atol=1e-5
  )
  rest = np.take_along_axis(
    expected,
    np.array(
      [
        [(trie.sequences(tokenizer) == row).all(-1).argmax() for row in rows]
        for rows in np.asarray(written.tokens)
      ]
    ),
    -1,
  )
  np.testing.assert_allclose(
    again.token_log_probs().sum(-1), rest, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('name', sorted(TOKENIZERS))
def test_a_distribution_is_a_table_and_comes_back(name):
  policy, _ = table(name)
  count = policy.tokenizer.num_sequences
  draw = np.random.default_rng(1)
  p = draw.dirichlet(np.full(count, 0.3), 2).astype(np.float32)
  log_p = jnp.log(p + 1e-12)
  logits = tables.logits_of(policy.tokenizer, log_p)
  allowed = tables.allowed_at_nodes(policy.tokenizer)
  assert logits.shape == (2, *allowed.shape)
  assert (np.asarray(logits)[:, ~allowed] == -1e9).all()
  back = jnp.exp(trie.log_probs(policy, {}, logits))
  np.testing.assert_allclose(back, p, atol=1e-6)


def test_a_number_without_mass_keeps_gradients_finite():
  policy, _ = table('even')
  log_p = jnp.zeros((1, 27)).at[:, 9:].set(-1e9)

  def loss(log_p):
    logits = tables.logits_of(policy.tokenizer, log_p)
    return jnp.sum(jnp.exp(trie.log_probs(policy, {}, logits)) ** 2)

  value, gradient = jax.value_and_grad(loss)(log_p)
  np.testing.assert_allclose(value, 1 / 9, rtol=1e-5)
  assert np.isfinite(np.asarray(gradient)).all()
