"""Which members a mixture has: those of the least CRPS."""

import itertools

import numpy as np
import pytest

from genre2_jax.metrics import exact, mixing


def members(seed, count=3):
  """Distributions that know the target more or less, log p [M, n, K]."""
  draw = np.random.default_rng(seed)
  values = draw.permutation(np.sort(draw.normal(size=9)))
  target = draw.normal(size=20)
  away = np.abs(values - target[:, None])
  noise = draw.gumbel(size=(count, 20, 9))
  log_p = -np.linspace(0.2, 1.5, count)[:, None, None] * away + 0.7 * noise
  log_p -= np.logaddexp.reduce(log_p, axis=-1, keepdims=True)
  return log_p, values, target


def crps_of(weights, log_p, values, target):
  """By `exact.summarize` of what is really mixed."""
  grid = exact.Grid(values, np.ones_like(values))
  index = np.abs(values - target[:, None]).argmin(axis=1)
  mixed = exact.mixture(log_p, weights)
  return exact.summarize(mixed, grid, target, index).crps.mean()


@pytest.mark.parametrize('seed', range(3))
def test_the_crps_of_a_mixture_is_known_without_mixing(seed):
  given = members(seed)
  found = mixing.distances(*given)
  for weights in ([1, 0, 0], [0.2, 0.5, 0.3], [1 / 3] * 3):
    weights = np.array(weights)
    expected = crps_of(weights, *given)
    assert found.crps(weights) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('seed', range(6))
def test_members_are_added_until_none_helps(seed):
  """And what comes out is the best of all ways to add as many."""
  found = mixing.distances(*members(seed))
  start = np.ones(3)
  weights = mixing.greedy(found, start, most=6)
  assert weights.sum() == pytest.approx(1)
  assert found.crps(weights) <= found.crps(start / 3)
  ways = [
    start + np.bincount(added, minlength=3)
    for more in range(4)
    for added in itertools.combinations_with_replacement(range(3), more)
  ]
  best = min(found.crps(counts / counts.sum()) for counts in ways)
  assert found.crps(weights) == pytest.approx(best, rel=1e-9)


def test_a_gain_that_is_too_small_changes_nothing():
  found = mixing.distances(*members(0))
  start = np.ones(3)
  np.testing.assert_allclose(
    mixing.greedy(found, start, most=6, least_gain=0.9), start / 3
  )


def test_a_member_that_errs_is_left_behind():
  values, target = np.arange(5.0), np.array([1.0, 3.0])
  right = np.log(np.eye(5)[[1, 3]] * 0.9 + 0.02)
  wrong = np.log(np.eye(5)[[4, 0]] * 0.9 + 0.02)
  found = mixing.distances([wrong, right], values, target)
  weights = mixing.greedy(found, np.ones(2), most=20)
  np.testing.assert_allclose(weights, [0.05, 0.95])
