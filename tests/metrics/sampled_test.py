import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from genre2_jax.metrics import points, sampled

SETTINGS = hypothesis.settings(derandomize=True, deadline=None, max_examples=60)

# Decoded numbers lie on a grid, so ties are the rule.
GRID = st.integers(-40, 40).map(lambda i: i / 8)


@st.composite
def ensembles(draw, max_samples=9):
  """Samples [n, G] and targets [n]."""
  n, G = draw(st.integers(1, 6)), draw(st.integers(1, max_samples))
  samples = draw(hnp.arrays(np.float64, (n, G), elements=GRID))
  return samples, draw(hnp.arrays(np.float64, n, elements=GRID))


def test_crps_by_hand():
  assert sampled.crps([[3.0]], [1.0]) == 2.0
  assert sampled.crps([[0.0, 2.0]], [1.0]) == pytest.approx(1 - 2 / 2)
  assert sampled.crps([[0.0, 1.0, 3.0]], [1.0]) == pytest.approx(1 - 6 / 6)
  assert sampled.crps([[5.0, 5.0], [0.0, 2.0]], [4.0, 4.0]) == pytest.approx(
    (1 + (3 - 1)) / 2
  )


@SETTINGS
@hypothesis.given(ensembles())
def test_crps_equals_brute_force(ensemble):
  samples, y = ensemble
  G = samples.shape[1]
  pairs = np.abs(samples[:, :, None] - samples[:, None]).sum(axis=(1, 2))
  spread = pairs / (2 * G * (G - 1)) if G > 1 else 0
  brute = np.mean(np.abs(samples - y[:, None]).mean(axis=1) - spread)
  np.testing.assert_allclose(sampled.crps(samples, y), brute, atol=1e-12)


def test_crps_is_fair():
  # The exact score of N(0, 1) at 0 is (√2 − 1)/√π, for any number of samples.
  draws = np.random.default_rng(0).normal(size=120_000)
  for G in (2, 5, 40):
    score = sampled.crps(draws.reshape(-1, G), np.zeros(len(draws) // G))
    assert score == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), abs=0.006)


def test_crps_far_from_the_origin_keeps_its_digits():
  samples = np.array([[0.0, 1.0, 3.0, 7.0]])
  near = sampled.crps(samples, [2.0])
  assert sampled.crps(samples + 2.0**40, [2.0 + 2.0**40]) == near


def test_central_interval_by_hand():
  # 19 samples: the 5 % and 95 % quantiles are the extremes.
  samples = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))
  low, high = sampled.central_interval([samples, samples + 1], 0.9)
  np.testing.assert_allclose(low, [1, 2])
  np.testing.assert_allclose(high, [19, 20])
  low, high = sampled.central_interval([samples], [0.5, 0.9])
  np.testing.assert_allclose(low, [[5], [1]])
  np.testing.assert_allclose(high, [[15], [19]])


def test_coverage_and_width_by_hand():
  samples = np.tile(np.arange(1.0, 20.0), (4, 1))
  y = [0.9, 1.0, 10.0, 19.1]
  assert sampled.coverage(samples, y) == 0.5  # the ends are inside
  assert sampled.width(samples) == pytest.approx(18)
  np.testing.assert_array_equal(
    sampled.coverage_curve(samples, y, [0.5, 0.9]), [0.25, 0.5]
  )


@pytest.mark.parametrize('G', [19, 32, 128])
def test_calibrated_samples_cover_what_they_claim(G):
  draws = np.random.default_rng(G).normal(size=(20_000, G + 1))
  samples, y = draws[:, :-1], draws[:, -1]
  assert sampled.coverage(samples, y) == pytest.approx(0.9, abs=0.007)


def test_pit_histogram():
  draws = np.random.default_rng(0).integers(0, 5, size=(20_000, 17))
  flat = sampled.pit_histogram(draws[:, 1:], draws[:, 0], num_bins=10)
  np.testing.assert_allclose(flat, 1, atol=0.05)
  # Below all samples: all the mass in [0, 1/(G + 1)], half of a bin of 10.
  low = sampled.pit_histogram(np.ones((1, 19)), [0.0], num_bins=10)
  np.testing.assert_allclose(low, [10] + [0] * 9)


@SETTINGS
@hypothesis.given(ensembles(), st.integers(1, 12))
def test_pit_histogram_is_a_density(ensemble, num_bins):
  density = sampled.pit_histogram(*ensemble, num_bins)
  assert density.shape == (num_bins,)
  assert np.all(density >= -1e-12)
  assert np.mean(density) == pytest.approx(1)


def test_point_estimates_by_hand():
  samples = [[3.0, 1.0, 9.0, 2.0], [0.0, -8.0, 0.5, 0.5]]
  estimates = sampled.point_estimates(samples, [2.0, 0.0], (-4.0, 5.0))
  assert tuple(estimates) == sampled.POINT_ESTIMATORS
  expected = {
    'greedy': [2, 0],
    'sample': [3, 0],
    'mean': [3.75, -1.75],
    'median': [2.5, 0.25],
    'clipped_mean': [2.75, -0.75],
    'clipped_median': [2.5, 0.25],
  }
  for name, values in expected.items():
    np.testing.assert_array_equal(estimates[name], values)


def test_clip_range_is_a_tenth_wider():
  np.testing.assert_allclose(sampled.widened(-1.0, 3.0), (-1.2, 3.2))
  assert sampled.widened(2.0, 2.0) == (2.0, 2.0)


def test_evaluate_by_hand():
  rows = sampled.evaluate(
    np.array([[0.0, 2.0], [1.0, 1.0]], np.float32),
    np.array([0.0, 1.0], np.float32),
    np.array([1.5, 0.5], np.float32),
    np.array([0.0, 2.0]),
    low=0.0,
    high=2.0,
    std=10.0,
  )
  assert all(type(value) is float for _, _, value in rows)
  values = {(estimator, metric): value for estimator, metric, value in rows}
  assert len(values) == len(rows) == 6 * 9 + 4
  assert list(dict.fromkeys(e for e, _, _ in rows)) == list(
    sampled.POINT_ESTIMATORS
  )
  expected = {
    ('greedy', 'rmse'): np.sqrt(1 / 2),
    ('greedy', 'reward'): -1 / 2,
    ('greedy', 'rmse_unit'): 10 * np.sqrt(1 / 2),
    ('greedy', 'mae_unit'): 5.0,
    ('greedy', 'spearman'): 1.0,
    ('greedy', 'pearson'): 1.0,
    ('mean', 'rmse'): 1.0,
    ('mean', 'r2'): 0.0,
    ('mean', 'kendall'): 0.0,
    ('mean', 'pearson'): 0.0,
    ('sample', 'rmse'): np.sqrt(1 / 2),
    ('sample', 'reward'): -(0 + 4 + 1 + 1) / 4,
    ('sample', 'crps'): ((1 - 1) + (1 - 0)) / 2,
    ('sample', 'coverage90'): 0.5,
    ('sample', 'width90'): 1.0,
    ('sample', 'entropy'): 1.0,
  }
  for key, value in expected.items():
    assert values[key] == pytest.approx(value), key


@SETTINGS
@hypothesis.given(ensembles())
def test_every_metric_is_finite(ensemble):
  samples, y = ensemble
  rows = sampled.evaluate(
    samples, samples[:, 0], np.zeros(len(y)), y, low=-1, high=1, std=0.0
  )
  assert np.all(np.isfinite([value for _, _, value in rows]))


def test_sampling_efficiency_by_hand():
  best, mean = sampled.sampling_efficiency(
    [[3.0, 1.0, -1.0, 1.0], [2.0, 4.0, 0.0, 6.0]], [0.0, 2.0], [1, 2, 4]
  )
  np.testing.assert_allclose(best, np.sqrt([9 / 2, 1 / 2, 1 / 2]))
  np.testing.assert_allclose(mean, np.sqrt([9 / 2, 5 / 2, 2 / 2]))


@SETTINGS
@hypothesis.given(ensembles())
def test_sampling_efficiency_ends_in_known_numbers(ensemble):
  samples, y = ensemble
  G = samples.shape[1]
  best, mean = sampled.sampling_efficiency(samples, y, range(1, G + 1))
  assert best[0] == mean[0] == pytest.approx(points.rmse(samples[:, 0], y))
  assert np.all(np.diff(best) <= 1e-12)
  assert mean[-1] == pytest.approx(points.rmse(samples.mean(axis=1), y))


def test_a_target_on_the_grid_ties_with_its_float32():
  """Grades 1..5 as z-scores: a network's are in float32."""
  grades = np.arange(1, 6)
  z = (grades - 3.026) / 1.007
  draw = np.random.default_rng(0)
  y = z[draw.integers(0, 5, 2000)]
  samples = np.float32(z)[draw.integers(0, 5, (2000, 99))]
  samples = np.nextafter(samples, np.float32(9))  # the last bit, as on devices
  # Uniform over five: the closed interval holds all of them.
  assert sampled.coverage(samples, y) == 1
  np.testing.assert_allclose(
    sampled.pit_histogram(samples, y, 5), np.ones(5), atol=0.1
  )
  levels = [0.2, 0.5, 0.9]
  np.testing.assert_allclose(
    sampled.shared_coverage_curve(samples, y, levels), levels, atol=0.02
  )
