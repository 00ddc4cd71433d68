"""Metrics of rows that weigh: as if a row came so many times."""

import numpy as np
import pytest
from scipy import stats

from genre2_jax.errors import InputError
from genre2_jax.metrics import exact, mixing, points, recalibration, sampled
from genre2_jax.models import marginal

RNG = np.random.default_rng(0)
N, K = 40, 9
WEIGHT = RNG.integers(0, 4, N)
TWICE = np.repeat(np.arange(N), WEIGHT)
Y = RNG.normal(size=N).round(1)  # With ties.
X = (0.7 * Y + RNG.normal(size=N)).round(1)
SAMPLES = RNG.normal(size=(N, 12)).round(1)
VALUES = np.sort(RNG.normal(size=K))
LOG_P = np.log(RNG.dirichlet(np.ones(K), size=(3, N)))
GRID = exact.Grid(VALUES, np.full(K, 0.3))
INDEX = abs(VALUES - Y[:, None]).argmin(1)


@pytest.mark.parametrize(
  'metric', ['rmse', 'mae', 'r2', 'spearman', 'kendall', 'pearson']
)
def test_point_metrics_count_a_row_as_often_as_it_weighs(metric):
  function = getattr(points, metric)
  expected = function(X[TWICE], Y[TWICE])
  for scale in (1.0, 0.3):
    assert function(X, Y, scale * WEIGHT) == pytest.approx(expected, rel=1e-9)
  assert function(X, Y, np.ones(N)) == pytest.approx(function(X, Y), rel=1e-9)
  assert abs(expected - function(X, Y)) > 1e-4


@pytest.mark.parametrize('metric', ['r2', 'spearman', 'kendall', 'pearson'])
def test_constants_among_the_rows_that_count_rank_nothing(metric):
  y = np.where(WEIGHT > 0, 2.0, Y)
  assert getattr(points, metric)(X, y, WEIGHT) == 0


def test_kendalls_pairs_by_the_bit_are_all_pairs():
  for seed in range(5):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, (2, 30)).astype(float)
    expected = stats.kendalltau(x, y).statistic
    assert points.kendall(x, y, np.full(30, 0.5)) == pytest.approx(expected)


def test_sampled_metrics_count_a_row_as_often_as_it_weighs():
  more = {'low': -2.0, 'high': 2.0, 'std': 3.0}
  entropy = abs(SAMPLES[:, 2])
  arrays = SAMPLES, SAMPLES[:, 1], entropy, Y
  found = sampled.evaluate(*arrays, **more, weight=0.2 * WEIGHT)
  expected = sampled.evaluate(*(x[TWICE] for x in arrays), **more)
  assert [row[:2] for row in found] == [row[:2] for row in expected]
  np.testing.assert_allclose(
    [row[2] for row in found], [row[2] for row in expected], rtol=1e-9
  )
  levels, ks = np.array([0.3, 0.9]), [1, 4, 12]
  for function, argument in (
    (sampled.coverage_curve, levels),
    (sampled.shared_coverage_curve, levels),
    (sampled.pit_histogram, 5),
    (sampled.sampling_efficiency, ks),
  ):
    np.testing.assert_allclose(
      function(SAMPLES, Y, argument, WEIGHT),
      function(SAMPLES[TWICE], Y[TWICE], argument),
      rtol=1e-9,
    )


def test_exact_metrics_count_a_row_as_often_as_it_weighs():
  def evaluated(rows, weight=None):
    summary = exact.summarize(LOG_P[0][rows], GRID, Y[rows], INDEX[rows])
    found = exact.evaluate(summary, Y[rows], std=2.0, weight=weight)
    return {row[:2]: row[2] for row in found}

  everything = slice(None)
  assert evaluated(everything, WEIGHT) == pytest.approx(evaluated(TWICE))
  assert evaluated(everything, np.ones(N)) == pytest.approx(
    evaluated(everything)
  )


def test_members_and_marginal_are_chosen_by_weights():
  found = mixing.distances(LOG_P, VALUES, Y, WEIGHT)
  expected = mixing.distances(LOG_P[:, TWICE], VALUES, Y[TWICE])
  np.testing.assert_allclose(found.away, expected.away)
  np.testing.assert_allclose(found.apart, expected.apart)
  shares = marginal.log_shares(INDEX, K, WEIGHT / WEIGHT.mean())
  np.testing.assert_allclose(
    shares, marginal.log_shares(INDEX[TWICE], K), rtol=1e-6
  )
  weight = marginal.best_weight(LOG_P[0], shares, VALUES, Y, WEIGHT)
  assert 0 < weight < 1
  assert weight == pytest.approx(
    marginal.best_weight(LOG_P[0][TWICE], shares, VALUES, Y[TWICE])
  )
  assert recalibration.fit_temperature(
    LOG_P[0], GRID, Y, INDEX, weight=WEIGHT
  ) == pytest.approx(
    recalibration.fit_temperature(LOG_P[0][TWICE], GRID, Y[TWICE], INDEX[TWICE])
  )


# ------------------------------------------------------------------- conformal


def test_equal_weights_give_the_margin_of_none():
  low, high = X - 0.5, X + 0.5
  for coverage in (0.3, 0.8, 0.9, 0.95):
    plain = recalibration.conformal_margin(low, high, Y, coverage)
    for size in (1.0, 0.3):
      weights = np.full(N, size)
      assert plain == recalibration.conformal_margin(
        low, high, Y, coverage, weights
      )


def test_a_margin_covers_its_share_of_the_weight():
  """Of all weight and that of a new row, in the middle Σw² / Σw."""
  weight = RNG.exponential(size=N)
  scores = abs(X - Y)
  margin = recalibration.conformal_margin(X, X, Y, 0.8, weight)
  new = np.sum(weight**2) / np.sum(weight)
  owed = 0.8 * (weight.sum() + new)
  assert weight[scores <= margin].sum() >= owed
  assert weight[scores < margin].sum() < owed


def test_few_rows_that_count_are_few_rows():
  weight = np.where(np.arange(N) < 5, 1.0, 1e-6)
  assert recalibration.num_effective(weight) == pytest.approx(5, rel=1e-3)
  with pytest.raises(InputError, match='9 calibration rows, and there are 5'):
    recalibration.conformal_margin(X, X, Y, 0.9, weight)


def test_errors_of_samples_are_over_rows_and_samples():
  errors = np.arange(6.0).reshape(3, 2)
  zeros, weight = np.zeros((3, 2)), np.array([1.0, 0.0, 3.0])
  assert points.mae(errors, zeros) == 2.5
  assert points.rmse(errors, zeros) == np.sqrt(55 / 6)
  expected = (0.5 * 1 + 4.5 * 3) / 4
  assert points.mae(errors, zeros, weight) == pytest.approx(expected)
