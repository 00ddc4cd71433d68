"""Temperatures and margins: what they promise, over many draws."""

import numpy as np
import pytest
from scipy import special, stats

from genre2_jax.errors import InputError
from genre2_jax.metrics import exact, recalibration
from genre2_jax.metrics.exact import Grid

RNG = np.random.default_rng(0)
VALUES = np.linspace(-2, 2, 16, endpoint=False)
GRID = Grid(VALUES, np.full(16, 0.25))
LOG_P = special.log_softmax(2 * RNG.normal(size=(7, 16)), axis=1)
TARGET = RNG.uniform(-2, 2, 7)
INDEX = np.clip(np.floor((TARGET + 2) / 0.25), 0, 15).astype(int)


def summarize(log_p=LOG_P):
  return exact.summarize(log_p, GRID, TARGET, INDEX)


def normal_grid(means, std):
  """Distributions about means [n] on a fine grid, and the grid."""
  values = np.linspace(-6, 6, 241)
  log_p = stats.norm.logpdf(values, np.asarray(means)[:, None], std)
  grid = Grid(values, np.full(241, 0.05))
  return special.log_softmax(log_p, axis=1), grid


@pytest.mark.parametrize('claimed', [0.3, 1.0, 2.0])
def test_the_temperature_mends_a_wrong_spread(claimed):
  """Normals of standard deviation s at temperature τ have s √τ."""
  rng = np.random.default_rng(1)
  means = rng.uniform(-2, 2, 600)
  target = means + rng.normal(size=600)
  log_p, grid = normal_grid(means, claimed)
  index = np.rint((target + 6) / 0.05).astype(int)
  found = recalibration.fit_temperature(log_p, grid, target, index)
  assert found == pytest.approx(1 / claimed**2, rel=0.25)
  tempered = recalibration.temper(log_p, found)
  np.testing.assert_allclose(np.exp(tempered).sum(1), 1)
  summary = exact.summarize(tempered, grid, target, index)
  covered = (summary.low <= target) & (target <= summary.high)
  assert covered.mean() == pytest.approx(0.9, abs=0.03)


def test_a_temperature_is_never_worse_on_the_rows_it_is_fitted_to():
  tau = recalibration.fit_temperature(LOG_P, GRID, TARGET, INDEX)
  before = summarize().crps.mean()
  after = summarize(recalibration.temper(LOG_P, tau)).crps.mean()
  assert after <= before
  np.testing.assert_allclose(recalibration.temper(LOG_P, 1.0), LOG_P)


def test_the_conformal_margin_covers_as_promised():
  """Over many calibration sets, of nine rows in ten."""
  rng = np.random.default_rng(2)
  covered = []
  for _ in range(400):
    y = rng.normal(size=50)
    margin = recalibration.conformal_margin(
      np.full(49, -0.2), np.full(49, 0.2), y[:49]
    )
    covered.append(abs(y[49]) <= 0.2 + margin)
  assert np.mean(covered) == pytest.approx(0.9, abs=0.04)


def test_the_conformal_margin_by_hand():
  low, high = np.zeros(9), np.ones(9)
  target = np.array([0.5, 0.9, 1.1, 1.2, -0.3, 0.2, 0.4, 0.6, 1.5])
  # Ten times 0.9 is the ninth least score: 0.5.
  assert recalibration.conformal_margin(low, high, target) == 0.5
  assert recalibration.conformal_margin(low, high, low + 0.5) == -0.5


@pytest.mark.parametrize('coverage', [0.5, 0.55, 0.7, 0.9, 0.95, 0.99, 0.999])
def test_a_margin_is_refused_where_it_could_not_keep_its_promise(coverage):
  """With k scores the greatest covers a new row with probability k/(k + 1)."""
  needed = recalibration.rows_needed(coverage)
  assert needed / (needed + 1) >= coverage - 1e-12
  assert needed == 1 or (needed - 1) / needed < coverage
  scores = np.arange(float(needed))
  zero = 0 * scores
  margin = recalibration.conformal_margin(zero, zero, scores, coverage)
  assert margin == scores[-1]
  with pytest.raises(InputError, match=f'takes {needed} cal') as caught:
    recalibration.conformal_margin(zero[1:], zero[1:], scores[1:], coverage)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('coverage', [0.0, 1.0, -0.1, float('nan')])
def test_a_coverage_is_a_share(coverage):
  with pytest.raises(InputError, match='between 0 and 1'):
    recalibration.conformal_margin(
      np.zeros(9), np.ones(9), np.ones(9), coverage
    )
