"""Token-level objectives: against float64 numpy, token by token."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused
from scipy import special, stats

from genre2_jax.objectives.token import (
  DIST2,
  NTLMSE,
  NTLWAS,
  CrossEntropy,
  SoftCrossEntropy,
)

FORBIDDEN = -1e9


@pytest.fixture(autouse=True, scope='module')
def no_implicit_broadcasts():
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  yield
  jax.config.update('jax_numpy_rank_promotion', 'allow')


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
  """What objectives know of a tokenizer."""

  allowed: np.ndarray
  token_values: np.ndarray
  token_kinds: np.ndarray
  num_special: ClassVar[int] = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Bins(Tokens):
  edges: np.ndarray
  centers: np.ndarray


# Digits 0-3, signs + and −, exponents E−1, E0, E1: sign, a position that takes
# digits and exponents, and one that takes digits but 3.
SCIENTIFIC = Tokens(
  allowed=np.array(
    [
      [0, 0, 0, 0, 1, 1, 0, 0, 0],
      [1, 1, 1, 1, 0, 0, 1, 1, 1],
      [1, 1, 1, 0, 0, 0, 0, 0, 0],
    ],
    bool,
  ),
  token_values=np.array([0, 1, 2, 3, 0, 0, -1, 0, 1], np.float64),
  token_kinds=np.array([0, 0, 0, 0, -1, -1, 1, 1, 1]),
)


def bins(edges, tail=0.4):
  """Bins between inner edges, and a tail on either side."""
  edges = np.asarray(edges, np.float64)
  centers = (edges[1:] + edges[:-1]) / 2
  V = len(edges) + 1
  return Bins(
    allowed=np.ones((1, V), bool),
    token_values=np.arange(V, dtype=np.float64),
    token_kinds=np.zeros(V, int),
    edges=np.concatenate([[-np.inf], edges, [np.inf]]),
    centers=np.concatenate([[edges[0] - tail], centers, [edges[-1] + tail]]),
  )


UNIFORM = bins(np.linspace(-3, 3, 25))
UNEVEN = bins([-2.0, -0.5, -0.4, 0.0, 1.5])

TOKENS = np.array([[4, 2, 0], [5, 7, 2], [5, 0, 1]])
ALL = [CrossEntropy(), NTLMSE(), NTLWAS(), DIST2(), DIST2(temperature=0.3)]
DISTANCES = ALL[1:]


def some_logits(tokenizer, B=3, seed=0):
  T, V = tokenizer.allowed.shape
  logits = np.random.default_rng(seed).normal(size=(B, T, V)) * 2
  return np.where(tokenizer.allowed, logits, FORBIDDEN).astype(np.float32)


_COMPILED = jax.jit(
  lambda objective, tokenizer, *arrays: objective(*arrays, tokenizer),
  static_argnums=(0, 1),
)


def compiled(objective, tokenizer):
  return functools.partial(_COMPILED, objective, tokenizer)


def scientific_loss(objective, logits, tokens=TOKENS):
  target = jnp.zeros(len(tokens))
  return compiled(objective, SCIENTIFIC)(logits, tokens, target)


def brute_force(objective, logits, tokens):
  """[B] in float64, token by token."""
  losses = []
  for row, numbers in zip(np.float64(logits), tokens, strict=True):
    terms = []
    for t, own in enumerate(numbers):
      kind = SCIENTIFIC.token_kinds[own]
      if isinstance(objective, CrossEntropy):
        terms.append(-special.log_softmax(row[t])[own])
        continue
      if kind < 0:
        continue
      alike = [
        v
        for v in range(len(row[t]))
        if SCIENTIFIC.allowed[t, v] and SCIENTIFIC.token_kinds[v] == kind
      ]
      p = special.softmax(row[t][alike])
      gap = SCIENTIFIC.token_values[alike] - SCIENTIFIC.token_values[own]
      if isinstance(objective, NTLMSE):
        terms.append(np.sum(p * gap) ** 2)
      elif isinstance(objective, NTLWAS):
        terms.append(np.sum(p * abs(gap)))
      else:
        q = special.softmax(-(gap**2) / objective.temperature)
        terms.append(special.rel_entr(q, p).sum())
    losses.append(np.mean(terms) if terms else 0)
  return np.array(losses)


@pytest.mark.parametrize('objective', ALL, ids=str)
def test_losses_equal_brute_force(objective):
  logits = some_logits(SCIENTIFIC)
  expected = brute_force(objective, logits, TOKENS)
  assert (expected > 0).all()
  found = scientific_loss(objective, logits)
  np.testing.assert_allclose(found, expected, rtol=2e-5)
  uncompiled = objective(
    jnp.asarray(logits), jnp.asarray(TOKENS), jnp.zeros(3), SCIENTIFIC
  )
  np.testing.assert_allclose(uncompiled, found, rtol=1e-5)


@pytest.mark.parametrize('objective', DISTANCES, ids=str)
def test_only_allowed_tokens_of_the_targets_kind_have_a_say(objective):
  logits = some_logits(SCIENTIFIC)
  other = logits.copy()
  other[0, 1, 6:] += [3, -2, 1]  # exponents where the target is a digit
  other[1, 1, :4] -= [2, 1, 0, 4]  # digits where it is an exponent
  other[:, 0, 4] += 5  # signs
  np.testing.assert_allclose(
    scientific_loss(objective, other),
    scientific_loss(objective, logits),
    rtol=1e-5,
  )
  gradient = jax.jit(jax.grad(lambda x: scientific_loss(objective, x).sum()))(
    logits
  )
  assert not gradient[:, 0].any()
  assert not gradient[0, 1, 4:].any()
  assert not gradient[1, 1, :6].any()
  assert gradient[0, 1, :4].all()
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('objective', DISTANCES, ids=str)
def test_a_number_without_magnitudes_costs_nothing(objective):
  signs = dataclasses.replace(
    SCIENTIFIC, token_kinds=np.full(9, -1), allowed=SCIENTIFIC.allowed[:1]
  )
  logits = jnp.asarray(some_logits(signs))

  def loss(x):
    tokens = jnp.array([[4], [5], [5]])
    return compiled(objective, signs)(x, tokens, jnp.zeros(3)).sum()

  value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
  assert value == 0
  assert not gradient.any()


def test_cross_entropy_by_hand():
  tokenizer = Tokens(np.ones((2, 3), bool), np.arange(3.0), np.zeros(3, int))
  probs = np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]])
  loss = compiled(CrossEntropy(), tokenizer)(
    np.log(probs) + 3, np.array([[1, 2]]), np.zeros(1)
  )
  assert loss.tolist() == pytest.approx([-(np.log(0.25) + np.log(0.7)) / 2])


def test_only_ntl_was_sees_errors_that_cancel():
  """Half on 0 and half on 2, for the target 1."""
  tokenizer = Tokens(np.ones((1, 3), bool), np.arange(3.0), np.zeros(3, int))
  logits = jnp.array([[[0.0, -40.0, 0.0]]])
  arguments = logits, jnp.array([[1]]), jnp.zeros(1)
  assert compiled(NTLMSE(), tokenizer)(*arguments) < 1e-10
  assert compiled(NTLWAS(), tokenizer)(*arguments) == pytest.approx(1)


@pytest.mark.parametrize('objective', ALL, ids=str)
def test_gradients_are_finite_for_one_hot_predictions(objective):
  value_and_gradient = jax.jit(
    jax.value_and_grad(lambda x: scientific_loss(objective, x).sum())
  )
  logits = np.full((3, 3, 9), -1e4, np.float32)
  for hot in (TOKENS, np.array([[5, 3, 2], [4, 6, 0], [4, 8, 2]])):
    sure = logits.copy()
    np.put_along_axis(sure, hot[..., None], 1e4, axis=-1)
    sure = np.where(SCIENTIFIC.allowed, sure, FORBIDDEN).astype(np.float32)
    loss, gradient = value_and_gradient(sure)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_dist2_is_least_at_its_own_soft_targets():
  """And 0 there; a cold q is one-hot, so KL(q‖p) is −log p of the target."""
  values = np.arange(4.0)
  tokenizer = Tokens(np.ones((1, 4), bool), values, np.zeros(4, int))
  token, target = jnp.array([[1]]), jnp.zeros(1)
  soft = jnp.asarray(-((values - 1) ** 2) / 2.5)[None, None]
  loss, gradient = jax.jit(
    jax.value_and_grad(lambda x: DIST2(2.5)(x, token, target, tokenizer)[0])
  )(soft)
  assert loss == pytest.approx(0, abs=1e-6)
  np.testing.assert_allclose(gradient, 0, atol=1e-6)
  logits = jnp.array([[[0.3, -1.0, 2.0, 0.0]]])
  cold = compiled(DIST2(1e-3), tokenizer)(logits, token, target)
  expected = CrossEntropy()(logits, token, target, tokenizer)
  np.testing.assert_allclose(cold, expected, rtol=1e-6)


# -------------------------------------------------------------- soft targets


def soft_loss(objective, logits, target, tokenizer):
  token = np.searchsorted(tokenizer.edges[1:-1], target)[:, None]
  return compiled(objective, tokenizer)(logits, token, target)


def soft_targets(objective, target, tokenizer):
  """[B, V], from what a logit's gradient is: p − q."""
  V = len(tokenizer.centers)
  gradient = jax.jit(
    jax.grad(lambda x: soft_loss(objective, x, target, tokenizer).sum())
  )(np.zeros((len(target), 1, V), np.float32))
  return 1 / V - np.asarray(gradient[:, 0])


TARGETS = np.array([0.1, -2.85, 3.2, -7.0, 40.0, 1.25], np.float32)


@pytest.mark.parametrize('tokenizer', [UNIFORM, UNEVEN], ids=['even', 'uneven'])
@pytest.mark.parametrize('kind', ['density', 'cdf'])
def test_soft_targets_equal_scipys_normal(kind, tokenizer):
  sigma = 0.6
  found = soft_targets(SoftCrossEntropy(sigma, kind), TARGETS, tokenizer)
  inner = tokenizer.edges[1:-1]
  for y, q in zip(np.float64(TARGETS), found, strict=True):
    at = min(max(np.searchsorted(inner, y), 1), len(inner) - 1)
    normal = stats.norm(y, sigma * (inner[at] - inner[at - 1]))
    if kind == 'density':
      expected = special.softmax(normal.logpdf(tokenizer.centers))
    else:
      expected = np.diff(normal.cdf(tokenizer.edges))
    np.testing.assert_allclose(q, expected, atol=2e-6)


@pytest.mark.parametrize('kind', ['density', 'cdf'])
def test_soft_targets_are_distributions_around_the_target(kind):
  q = soft_targets(SoftCrossEntropy(kind=kind), TARGETS, UNIFORM)
  np.testing.assert_allclose(q.sum(-1), 1, atol=1e-5)
  assert (q > -1e-6).all()
  nearest = np.searchsorted(UNIFORM.edges[1:-1], TARGETS)
  np.testing.assert_array_equal(np.argmax(q, -1), nearest)


def test_wide_bins_of_both_kinds_agree_where_sigma_is_large():
  """Density times width is the integral, as bins become small against σ."""
  target = np.array([0.1, -0.3], np.float32)
  found = [
    soft_targets(SoftCrossEntropy(3.0, kind), target, UNIFORM)
    for kind in ('density', 'cdf')
  ]
  np.testing.assert_allclose(*found, atol=1e-3)


@pytest.mark.parametrize('kind', ['density', 'cdf'])
def test_a_narrow_sigma_is_cross_entropy(kind):
  target = np.array([0.12, -1.13], np.float32)
  logits = some_logits(UNIFORM, B=2)
  token = np.searchsorted(UNIFORM.edges[1:-1], target)[:, None]
  expected = compiled(CrossEntropy(), UNIFORM)(logits, token, target)
  found = soft_loss(SoftCrossEntropy(0.05, kind), logits, target, UNIFORM)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('kind', ['density', 'cdf'])
def test_soft_cross_entropy_knows_no_unit(kind):
  """Bins and targets, all times 10 plus 3."""
  target = np.array([0.1, -1.4], np.float32)
  logits = some_logits(UNEVEN, B=2)
  other = dataclasses.replace(
    UNEVEN, edges=UNEVEN.edges * 10 + 3, centers=UNEVEN.centers * 10 + 3
  )
  objective = SoftCrossEntropy(kind=kind)
  np.testing.assert_allclose(
    soft_loss(objective, logits, target * 10 + 3, other),
    soft_loss(objective, logits, target, UNEVEN),
    rtol=1e-5,
  )


@pytest.mark.parametrize('kind', ['density', 'cdf'])
def test_soft_cross_entropy_compiles_with_finite_gradients(kind):
  logits = some_logits(UNIFORM, B=len(TARGETS)) * 1e3
  objective = SoftCrossEntropy(kind=kind)
  token = jnp.zeros((len(TARGETS), 1), int)

  @jax.jit
  def loss(x, target):
    return objective(x, token, target, UNIFORM)

  np.testing.assert_allclose(
    loss(logits, TARGETS),
    objective(jnp.asarray(logits), token, jnp.asarray(TARGETS), UNIFORM),
    rtol=1e-5,
  )
  gradient = jax.jit(jax.grad(lambda x: loss(x, TARGETS).sum()))(logits)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('tokenizer', [SCIENTIFIC, bins([0.0])])
def test_soft_targets_need_bins(tokenizer):
  T, V = tokenizer.allowed.shape
  with pytest.raises(ValueError, match='three or more bins'):
    SoftCrossEntropy()(
      jnp.zeros((1, T, V)), jnp.zeros((1, T), int), jnp.zeros(1), tokenizer
    )


@pytest.mark.parametrize(
  ('objective', 'options'),
  [
    (DIST2, {'temperature': 0}),
    (DIST2, {'temperature': float('nan')}),
    (SoftCrossEntropy, {'sigma': -1.0}),
    (SoftCrossEntropy, {'sigma': float('inf')}),
    (SoftCrossEntropy, {'kind': 'gaussian'}),
  ],
)
def test_bad_options_are_named_in_one_line(objective, options):
  assert_refused(lambda: objective(**options), *options, error=ValueError)


def test_logits_of_another_shape_are_refused():
  for shape in ((3, 2, 9), (3, 3, 8), (2, 3, 9)):
    with pytest.raises(AssertionError):
      scientific_loss(CrossEntropy(), np.zeros(shape, np.float32))
