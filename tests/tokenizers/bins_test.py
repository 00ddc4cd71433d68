"""Bins: one token per number, and two tails."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused
from scipy import stats

from genre2_jax import tokenizers
from genre2_jax.errors import InputError

BINS = tokenizers.Bins()
FEW = tokenizers.Bins(bins=4, low=-1.0, high=1.0)


def test_defaults_are_those_of_the_riemann_head():
  assert (BINS.num_tokens, BINS.vocab_size, BINS.num_sequences) == (1, 258, 258)
  tail = 0.5 * np.sqrt(2 / np.pi)
  np.testing.assert_allclose(BINS.centers[[0, -1]], [-3 - tail, 3 + tail])
  np.testing.assert_allclose(np.diff(BINS.edges[1:-1]), 6 / 256)
  assert BINS.domain == 'real'


@pytest.mark.parametrize('tokenizer', [BINS, FEW], ids=repr)
def test_table(tokenizer):
  V = tokenizer.vocab_size
  assert tokenizer.allowed.shape == (1, V) and tokenizer.allowed.all()
  assert len(set(tokenizer.token_names)) == V
  assert tokenizer.edges.shape == (V + 1,) and tokenizer.centers.shape == (V,)
  assert tokenizer.edges.dtype == tokenizer.centers.dtype == np.float64
  assert tokenizer.edges[0] == -np.inf and tokenizer.edges[-1] == np.inf
  assert (tokenizer.edges[:-1] < tokenizer.centers).all()
  assert (tokenizer.centers < tokenizer.edges[1:]).all()
  np.testing.assert_array_equal(tokenizer.token_values, np.arange(V))
  np.testing.assert_array_equal(tokenizer.token_kinds, np.zeros(V))
  same = dataclasses.replace(tokenizer)
  assert same == tokenizer and hash(same) == hash(tokenizer)


def test_every_value_is_in_the_bin_it_is_given():
  z = np.concatenate(
    [np.random.default_rng(0).normal(0, 2, 500), BINS.edges[1:-1]]
  )
  tokens = BINS.encode(z)
  assert tokens.shape == (*z.shape, 1) and tokens.dtype == np.int32
  assert (BINS.edges[tokens[:, 0]] <= z).all()
  assert (z < BINS.edges[tokens[:, 0] + 1]).all()
  inside = abs(z) < 3
  error = abs(BINS.decode(tokens) - z)[inside]
  assert error.max() <= 3 / 256 + 1e-12


def test_by_hand():
  z = np.array([[-7.0, -1.0, -0.51], [-0.5, 0.99, 1.0]])
  tokens = FEW.encode(z)
  assert tokens[..., 0].tolist() == [[0, 1, 1], [2, 4, 5]]
  tail = 0.5 * np.sqrt(2 / np.pi)
  expected = [[-1 - tail, -0.75, -0.75], [-0.25, 0.75, 1 + tail]]
  np.testing.assert_allclose(FEW.decode(tokens), expected)
  assert FEW.token_names == ('<low>', 'bin0', 'bin1', 'bin2', 'bin3', '<high>')


def test_every_token_comes_back_and_jax_decodes_as_numpy():
  tokens = np.arange(BINS.vocab_size)[:, None]
  values = BINS.decode(tokens)
  np.testing.assert_array_equal(BINS.encode(values), tokens)
  on_device = jax.jit(BINS.decode)(jnp.asarray(tokens))
  assert on_device.dtype == jnp.float32
  np.testing.assert_allclose(on_device, values, rtol=3e-7)


def test_tails_decode_to_the_mean_of_a_half_normal():
  tokenizer = tokenizers.Bins(bins=2, low=-2.0, high=2.0, tail_scale=0.7)
  mean = stats.halfnorm(scale=0.7).mean()
  np.testing.assert_allclose(tokenizer.centers[[0, -1]], [-2 - mean, 2 + mean])


def test_the_expert_answers_with_the_target():
  tokens = np.arange(6)[:, None, None]
  best = FEW.best_tokens(tokens, tokens[None, :, 0])
  np.testing.assert_array_equal(
    best[..., 0], np.broadcast_to(np.arange(6), (6, 6))
  )


def test_build_ignores_base_and_digits():
  assert tokenizers.build('bins', base=2, digits=8) == BINS
  assert tokenizers.build('bins', base=10, digits=3, bins=64).vocab_size == 66


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'bins': 0}, 'bins=0: give an integer from 1 to 65536'),
    ({'low': 3.0}, 'low=3.0 to high=3.0: give finite numbers, the lower first'),
    ({'high': np.inf}, 'high=inf: give finite'),
    ({'low': np.nan}, 'low=nan'),
    ({'tail_scale': 0.0}, 'tail_scale=0.0: give a finite number above 0'),
    ({'edge': 'left'}, "unknown option of tokenizer 'bins' 'edge'"),
  ],
)
def test_errors(options, message):
  assert_refused(
    lambda: tokenizers.build('bins', base=2, digits=8, **options), message
  )


def test_not_finite():
  with pytest.raises(InputError, match='2 of 3 values are NaN or infinite'):
    BINS.encode([np.nan, 0.0, np.inf])
