"""Exact distributions: against brute force, quadrature and many samples."""

import numpy as np
import pytest
from scipy import special, stats

from genre2_jax import tokenizers
from genre2_jax.metrics import exact, points, sampled
from genre2_jax.metrics.exact import Grid
from genre2_jax.tokenizers.codec import Codec

RNG = np.random.default_rng(0)
VALUES = np.linspace(-2, 2, 16, endpoint=False)
GRID = Grid(VALUES, np.full(16, 0.25))
LOG_P = special.log_softmax(2 * RNG.normal(size=(7, 16)), axis=1)
TARGET = RNG.uniform(-2, 2, 7)
INDEX = np.clip(np.floor((TARGET + 2) / 0.25), 0, 15).astype(int)


def summarize(log_p=LOG_P, grid=GRID, target=TARGET, index=INDEX):
  return exact.summarize(log_p, grid, target, index)


def test_moments_and_quantiles_by_brute_force():
  found, p = summarize(), np.exp(LOG_P)
  np.testing.assert_allclose(found.mean, p @ VALUES)
  for row in range(7):
    below = np.cumsum(p[row])
    for value, level in (
      (found.low, 0.05),
      (found.median, 0.5),
      (found.high, 0.95),
    ):
      assert value[row] == VALUES[np.flatnonzero(below >= level)[0]]
    expected = sum(
      p[row, i] * (VALUES[i] - TARGET[row]) ** 2 for i in range(16)
    )
    assert found.squared_error[row] == pytest.approx(expected)
  np.testing.assert_allclose(found.entropy, stats.entropy(p, axis=1))


def test_crps_is_the_integral_of_its_definition():
  found, p = summarize().crps, np.exp(LOG_P)
  t = np.linspace(-3, 3, 240_001)
  for row in range(7):
    F = np.concatenate([[0], np.cumsum(p[row])])[
      np.searchsorted(VALUES, t, side='right')
    ]
    integral = np.trapezoid((F - (t >= TARGET[row])) ** 2, t)
    assert found[row] == pytest.approx(integral, abs=1e-4)


def test_order_and_scale_of_the_grid_do_not_matter():
  order = RNG.permutation(16)
  back = np.argsort(order)
  one = summarize()
  two = summarize(
    LOG_P[:, order],
    Grid(VALUES[order], GRID.cells[order]),
    index=back[INDEX],
  )
  for x, y in zip(one, two, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-12)
  big = summarize(grid=Grid(10 * VALUES, 10 * GRID.cells), target=10 * TARGET)
  np.testing.assert_allclose(big.crps, 10 * one.crps)
  np.testing.assert_allclose(big.log_density, one.log_density - np.log(10))


def test_the_density_is_the_mass_of_a_cell_over_its_width():
  found = summarize().log_density
  np.testing.assert_allclose(
    found, LOG_P[np.arange(7), INDEX] - np.log(0.25), rtol=1e-9
  )


def test_targets_beyond_the_last_cells_are_counted():
  """Their density is that of the edge, and they are not passed over."""
  target = np.array([-2.2, -2.1, 0.0, 1.8, 1.9, 5.0, -9.0])
  found = summarize(target=target, index=np.array([0, 0, 8, 15, 15, 15, 0]))
  # Cells reach from −2.125 to 1.875.
  np.testing.assert_array_equal(found.outside, [1, 0, 0, 0, 1, 1, 1])
  np.testing.assert_allclose(
    found.log_density[-1], LOG_P[-1, 0] - np.log(0.25), rtol=1e-9
  )
  rows = {(e, m): v for e, m, v in exact.evaluate(found, target, std=1.0)}
  assert rows['exact', 'outside'] == pytest.approx(4 / 7)


@pytest.mark.parametrize(
  ('tokenizer', 'inside', 'beyond'),
  [
    (tokenizers.Bins(6), [-3.7, 0.0, 3.7], [-3.9, 3.9]),
    (
      tokenizers.Repetition(tokenizers.Normalized(3, 2)),
      [-2.1, 1.7],
      [-2.3, 1.9],
    ),
    (
      tokenizers.Scientific('ieee', 10, 1, specials=True),
      [-9.4e9, 9.4e9],
      [-9.6e9, 9.6e9],
    ),
  ],
)
def test_the_cells_of_every_tokenizer_have_an_end(tokenizer, inside, beyond):
  """Tails, numbers that are written in many ways, NaN and infinities."""
  codec = Codec(tokenizer, low=-2.0, high=2.0)
  grid = Grid(codec.values(), codec.cells())
  log_p = np.where(np.isfinite(grid.values), 0.0, -np.inf)[None]
  for target in inside + beyond:
    with np.errstate(all='ignore'):
      found = exact.summarize(log_p, grid, [target], codec.index([target]))
    assert found.outside == (target in beyond), target


def test_numbers_that_are_not_finite_have_no_part():
  """However likely: what is said is said of the others."""
  tokenizer = tokenizers.Scientific('ieee', 4, 1, specials=True)
  codec = Codec(tokenizer, low=-2.0, high=2.0)
  grid = Grid(codec.values(), codec.cells())
  finite = np.isfinite(grid.values)
  assert 0 < finite.sum() < len(finite)
  log_p = RNG.normal(size=(7, len(finite)))
  log_p[0, ~finite] = 1000
  log_p = special.log_softmax(log_p, axis=1)
  index = codec.index(TARGET)
  found = summarize(log_p, grid, index=index)
  places = np.cumsum(finite) - 1
  alone = summarize(
    special.log_softmax(log_p[:, finite], axis=1),
    Grid(grid.values[finite], grid.cells[finite]),
    index=places[index],
  )
  for one, two in zip(found, alone, strict=True):
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, two, rtol=1e-9)
  np.testing.assert_array_equal(
    exact.quantiles(log_p, grid.values, [0.5])[:, 0], alone.median
  )


def test_sequences_that_mean_one_number_pool_their_mass():
  values = np.repeat(VALUES, 2)
  log_p = np.repeat(LOG_P, 2, axis=1) + np.log(np.tile([0.3, 0.7], 16))
  twice = summarize(log_p, Grid(values, np.full(32, 0.125)), index=2 * INDEX)
  for name in ('mean', 'median', 'crps', 'log_density', 'squared_error'):
    np.testing.assert_allclose(
      getattr(twice, name), getattr(summarize(), name), atol=1e-9
    )


def test_improbable_targets_keep_a_finite_density():
  log_p = np.full((1, 16), -1000.0)
  log_p[0, 0] = 0
  found = summarize(log_p, target=np.array([1.9]), index=np.array([15]))
  assert found.log_density[0] == pytest.approx(-1000 - np.log(0.25))
  assert found.mean[0] == pytest.approx(-2)
  assert found.entropy[0] == pytest.approx(0)


def test_many_rows_go_by_in_chunks(monkeypatch):
  whole = summarize()
  monkeypatch.setattr(exact, '_CHUNK', 32)
  for x, y in zip(summarize(), whole, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-12)
  levels = [0.1, 0.9]
  parts = exact.quantiles(LOG_P, VALUES, levels)
  monkeypatch.undo()
  whole = exact.quantiles(LOG_P, VALUES, levels)
  np.testing.assert_array_equal(parts, whole)


def test_metrics_agree_with_those_of_many_samples():
  draws = np.stack(
    [RNG.choice(VALUES, size=40_000, p=np.exp(row)) for row in LOG_P]
  )
  found = dict(
    ((e, m), v) for e, m, v in exact.evaluate(summarize(), TARGET, std=3.0)
  )
  assert found['exact', 'crps'] == pytest.approx(
    sampled.crps(draws, TARGET), abs=0.01
  )
  assert found['exact', 'reward'] == pytest.approx(
    -np.mean((draws - TARGET[:, None]) ** 2), abs=0.02
  )
  assert found['exact_mean', 'rmse'] == pytest.approx(
    points.rmse(draws.mean(1), TARGET), abs=0.01
  )
  assert found['exact_mean', 'rmse_unit'] == pytest.approx(
    3 * found['exact_mean', 'rmse']
  )
  assert found['exact', 'coverage90'] == pytest.approx(
    sampled.coverage(draws, TARGET), abs=0.01
  )


def test_a_mixture_is_the_mean_of_probabilities():
  members = np.stack([LOG_P, LOG_P[::-1]])
  found = np.exp(exact.mixture(members))
  np.testing.assert_allclose(found, np.exp(members).mean(0))
