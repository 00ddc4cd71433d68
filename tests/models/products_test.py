"""Products with weights whose factors are bfloat16."""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.models import products
from genre2_jax.models.heads import trie_policy
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.policy import sampling, scoring, trie

# Axes of x before its last, and of W behind its first.
SHAPES = {
  'rows': ((24,), (7,)),
  'nodes': ((3, 2, 4), (7,)),
  'several': ((3, 1, 8), (3, 5)),
  # Fewer columns of a gradient than of x.
  'narrow': ((24,), (4,)),
  'narrow_nodes': ((3, 2, 4), (2, 2)),
  'narrow_odd': ((3, 8), (5,)),
}
WIDTH = 6
TOKENIZER = tokenizers.build('normalized', base=3, digits=3)
POLICIES = {
  'decoder': functools.partial(
    tabular_policy,
    width=16,
    num_layers=2,
    num_heads=2,
    feedforward=24,
    encoder_hidden=16,
    encoder_layers=1,
  ),
  'trie': functools.partial(trie_policy, hidden=16, num_layers=2),
  'members': functools.partial(
    trie_policy, hidden=16, num_layers=2, ensemble_members=3
  ),
}


def drawn(*shape, seed=0):
  numbers = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(numbers, jnp.float32)


def rounded(x):
  return x.astype(jnp.bfloat16).astype(jnp.float32)


def factors(name):
  """(x, W, a gradient of the product)."""
  rows, outs = SHAPES[name]
  return (
    drawn(*rows, WIDTH),
    drawn(WIDTH, *outs, seed=1),
    drawn(*rows, *outs, seed=2),
  )


def exact(x, kernel):
  return jnp.tensordot(x, kernel, 1, precision='highest')


@pytest.mark.parametrize('name', SHAPES)
def test_a_rough_product_is_that_of_rounded_factors(name):
  x, kernel, gradient = factors(name)
  value, pull = jax.vjp(jax.jit(products.rough_product), x, kernel)
  wanted, pull_exact = jax.vjp(exact, rounded(x), rounded(kernel))
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)
  for found, other in zip(
    pull(gradient), pull_exact(rounded(gradient)), strict=True
  ):
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', SHAPES)
def test_its_derivative_is_near_that_of_float32(name):
  x, kernel, gradient = factors(name)
  _, pull = jax.vjp(products.rough_product, x, kernel)
  _, pull_exact = jax.vjp(exact, x, kernel)
  for found, other in zip(pull(gradient), pull_exact(gradient), strict=True):
    error = np.linalg.norm(found - other) / np.linalg.norm(other)
    assert 0 < error < 0.01


@pytest.mark.parametrize('name', ['nodes', 'narrow'])
def test_stacked_seeds_are_products_side_by_side(name):
  x, kernel, gradient = (
    jnp.stack([part, 1 - 2 * part]) for part in factors(name)
  )

  def both(x, kernel, gradient):
    value, pull = jax.vjp(products.rough_product, x, kernel)
    return value, *pull(gradient)

  stacked = jax.jit(jax.vmap(both))(x, kernel, gradient)
  for seed in (0, 1):
    alone = jax.jit(both)(x[seed], kernel[seed], gradient[seed])
    for whole, part in zip(stacked, alone, strict=True):
      np.testing.assert_allclose(whole[seed], part, rtol=1e-5, atol=1e-5)


def gradients_of_two_uses(x, kernel):
  def loss(x, kernel):
    once = products.rough_product(x, kernel)
    return jnp.sum(jnp.sin(once) + jnp.cos(products.rough_product(-x, kernel)))

  return jax.grad(loss, (0, 1))(x, kernel)


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_no_factor_is_float32_and_only_a_cpu_lays_transposes_out(platform):
  x, kernel, _ = factors('rows')
  traced = jax.jit(gradients_of_two_uses).trace(x, kernel)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  dots = [line for line in text.splitlines() if 'dot_general' in line]
  assert len(dots) == 6
  for line in dots:
    assert re.search(r': \(tensor<\S*xbf16>, tensor<\S*xbf16>\) -> ', line)
    assert line.rstrip().endswith('xf32>')
  assert ('LayoutConstraint' in text) == (platform == 'cpu')


@pytest.mark.parametrize(
  ('name', 'laid_out'), [('rows', '6x24xbf16'), ('narrow', '4x24xbf16')]
)
def test_the_narrower_factor_is_laid_out(name, laid_out):
  x, kernel, _ = factors(name)
  traced = jax.jit(gradients_of_two_uses).trace(x, kernel)
  text = traced.lower(lowering_platforms=('cpu',)).as_text()
  calls = [line for line in text.splitlines() if 'LayoutConstraint' in line]
  assert len(calls) == 2  # One for each use.
  assert all(line.endswith(f'-> tensor<{laid_out}>') for line in calls)


def policies(name):
  """The policy in float32, in bfloat16, and parameters of both."""
  pair = [
    POLICIES[name](
      TOKENIZER, dropout=0.0, cardinalities=(3,), compute_dtype=dtype
    )
    for dtype in products.DTYPES
  ]
  inputs = {'numeric': drawn(5, 4), 'categories': jnp.arange(5)[:, None] % 3}
  params = nn.unbox(jax.jit(pair[0].init)(jax.random.key(0), inputs))
  # Weights at which rounding shows.
  params = jax.tree.map(lambda x: x + 0.3 * drawn(*x.shape, seed=3), params)
  return *pair, params, inputs


@pytest.mark.parametrize('name', POLICIES)
def test_a_policy_is_near_that_of_float32(name):
  exact_policy, policy, params, inputs = policies(name)
  shapes = [jax.eval_shape(p.init, jax.random.key(0), inputs) for p in
            (exact_policy, policy)]  # fmt: skip
  assert shapes[0] == shapes[1]

  def log_p(policy):
    return np.asarray(
      trie.log_probs(policy, params, policy.encode(params, inputs))
    )

  wanted, found = log_p(exact_policy), log_p(policy)
  assert found.dtype == np.float32
  np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
  assert 0 < np.abs(np.exp(found) - np.exp(wanted)).max() < 0.05


@pytest.mark.slow
def test_samples_are_scored_by_the_logits_that_they_were_drawn_from():
  _, policy, params, inputs = policies('decoder')
  context = policy.encode(params, inputs)
  keys = jax.random.split(jax.random.key(1), 5)
  drawn_at_once = sampling.sample(policy, params, context, keys, num_samples=6)
  scored = scoring.score(policy, params, context, drawn_at_once.tokens)
  np.testing.assert_allclose(
    drawn_at_once.log_probs, scored.log_probs, atol=0.02
  )


def test_what_is_faster_is_measured():
  """The clock decides: by it bfloat16 takes half of the time, or as much."""
  for share, faster in ((0.5, 'bfloat16'), (1.0, 'float32')):
    # Beginning and end of float32, then of bfloat16.
    times = itertools.cycle((0, 1, 0, share))
    clock = functools.partial(next, times)
    assert products.faster_dtype(4, 8, 16, clock) == faster
