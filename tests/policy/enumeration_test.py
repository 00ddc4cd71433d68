"""Grids: numbers that stand for the whole trie, against the trie."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_policy import BATCH, drawn_policy

from genre2_jax import tokenizers
from genre2_jax.policy import trie
from genre2_jax.policy.enumeration import (
  Enumeration,
  enumerate_numbers,
  subset_numbers,
)
from genre2_jax.tokenizers.codec import Codec

TERNARY, OCTAL = (
  Codec(tokenizers.build('normalized', base=base, digits=3), -1.0, 1.0)
  for base in (3, 8)
)
pytestmark = pytest.mark.usefixtures('quick_compiles')


def test_a_whole_enumeration_is_the_trie():
  policy, params, context = drawn_policy(TERNARY.tokenizer)
  whole = Enumeration(depth=3)
  codec = TERNARY
  log_p, values = jax.jit(
    lambda p: enumerate_numbers(policy, codec, p, context, None, whole)
  )(params)
  exact = jax.jit(functools.partial(trie.log_probs, policy))(params, context)
  np.testing.assert_allclose(log_p, exact, atol=1e-6)
  np.testing.assert_allclose(values, TERNARY.values(), rtol=1e-6)


@pytest.mark.parametrize('depth', [0, 2])
def test_partial_enumerations_are_unbiased_with_their_gradients(depth):
  """The mean number and its gradient, on average over many draws."""
  policy, params, context = drawn_policy(TERNARY.tokenizer)
  codec = TERNARY
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


@pytest.mark.slow
def test_deeper_enumerations_vary_less():
  policy, params, context = drawn_policy(TERNARY.tokenizer)
  codec = TERNARY
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
  policy, params, context = drawn_policy(OCTAL.tokenizer)
  codec = OCTAL
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
