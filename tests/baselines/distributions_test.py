"""Baselines that predict distributions: mass where it belongs, and no leak."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from genre2_jax.baselines import distributions
from genre2_jax.baselines.distributions import NAMES
from genre2_jax.data import tables
from genre2_jax.data.features import TargetScaler
from genre2_jax.errors import InputError, InterruptedRunError

PACKAGES = {
  'catboost_residuals': 'catboost',
  'xgboost_residuals': 'xgboost',
  'random_forest_residuals': 'sklearn',
  'realmlp_residuals': 'pytabkit',
  'catboost_uncertainty': 'catboost',
  'catboost_quantiles': 'catboost',
  'ngboost': 'ngboost',
  'quantile_forest': 'quantile_forest',
}
VALUES = np.linspace(-4, 4, 65)
# Few trees: what is tested is around them.
SIZES = {'FOREST_TREES': 30, 'MAX_TREES': 60, 'PATIENCE': 10}


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
  for name, value in SIZES.items():
    monkeypatch.setattr(distributions.points, name, value)


def make_table(x, y, sizes=(0.6, 0.2)):
  ends = np.cumsum(np.round(np.array(sizes) * len(y)).astype(int))
  parts = zip(tables.SPLITS, np.split(x, ends), np.split(y, ends), strict=True)
  return tables.build(
    'drawn',
    {s: (numeric, None, target) for s, numeric, target in parts},
    numeric_names=[f'x{i}' for i in range(x.shape[1])],
    category_names=(),
    target_name='y',
  )


def noisy(n=400):
  draw = np.random.RandomState(0)
  x = draw.uniform(-1, 1, (n, 2))
  return make_table(x, 3 * x[:, 0] + draw.normal(0, 0.5, n))


def fit(name, table, **options):
  scaler = TargetScaler.fit(table.train.target)
  return distributions.fit_predict(
    name, table, scaler, VALUES, seed=0, num_threads=1, **options
  )


def test_every_name_has_a_package():
  assert set(NAMES) == set(PACKAGES)


@pytest.mark.parametrize('name', NAMES)
def test_a_distribution_is_one_and_holds_the_targets(name):
  pytest.importorskip(PACKAGES[name])
  table = noisy()
  scaler = TargetScaler.fit(table.train.target)
  found = fit(name, table)
  for split, (mean, log_p) in found.items():
    assert log_p.shape == (len(getattr(table, split)), len(VALUES))
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(np.exp(log_p) @ VALUES, mean, atol=0.1)
  z = scaler.standardize(table.test.target)
  mean, log_p = found['test']
  assert np.corrcoef(mean, z)[0, 1] > 0.9
  below = np.cumsum(np.exp(log_p), axis=1)
  low, high = (
    VALUES[np.argmax(below >= level, axis=1)] for level in (0.05, 0.95)
  )
  held = np.mean((z >= low) & (z <= high))
  assert 0.7 < held <= 1
  # One that knew nothing would be 3.3 wide.
  assert np.mean(high - low) < 2.7


def test_errors_of_train_rows_are_out_of_fold():
  """Nothing can be learnt: rows that were seen would look predictable."""
  draw = np.random.RandomState(1)
  table = make_table(draw.uniform(size=(200, 3)), draw.normal(size=200))
  z = TargetScaler.fit(table.train.target).standardize(table.train.target)
  mean, log_p = fit('random_forest_residuals', table)['train']
  assert np.corrcoef(mean, z)[0, 1] < 0.3
  assert np.std(z - mean) > 0.9
  spread = np.sqrt(np.exp(log_p) @ VALUES**2 - (np.exp(log_p) @ VALUES) ** 2)
  assert spread.mean() > 0.8


def test_the_targets_of_the_test_rows_are_not_read():
  table = noisy()
  other = dataclasses.replace(
    table, test=dataclasses.replace(table.test, target=-table.test.target)
  )
  for ours, theirs in zip(
    fit('random_forest_residuals', table).values(),
    fit('random_forest_residuals', other).values(),
    strict=True,
  ):
    np.testing.assert_array_equal(ours.log_p, theirs.log_p)


def test_a_cell_has_the_mass_between_the_midpoints():
  values = np.array([2.0, -1.0, 0.0, 2.0, 0.5])  # unsorted, with twins
  mean, std = np.array([0.3, -0.7]), np.array([1.0, 0.4])
  found = distributions.on_grid(*distributions._normal(mean, std), values)
  edges = [-0.5, 0.25, 1.25]
  below = stats.norm.cdf((np.array(edges) - mean[:, None]) / std[:, None])
  mass = np.diff(np.pad(below, ((0, 0), (1, 1)), constant_values=(0, 1)))
  mass[:, -1] = 1 - below[:, -1]
  expected = np.zeros((2, 5))
  expected[:, [1, 2, 4, 0]] = mass
  floor = distributions._FLOOR
  np.testing.assert_allclose(
    np.exp(found.log_p), (1 - floor) * expected + floor / 5, rtol=1e-9
  )


def test_crossing_quantiles_are_sorted():
  levels = distributions._LEVELS
  straight = stats.uniform.ppf(levels, -1, 2)[None]
  shuffled = np.random.RandomState(0).permutation(straight[0])[None]
  edges = np.linspace(-2, 2, 9)
  for quantiles in (straight, shuffled):
    mean, cdf = distributions._quantiles(quantiles, -1.0, 1.0)
    np.testing.assert_allclose(mean, 0, atol=1e-9)
    np.testing.assert_allclose(
      cdf(edges)[0], stats.uniform.cdf(edges, -1, 2), atol=1e-9
    )


def test_samples_have_the_distribution():
  log_p = np.log(np.array([[0.2, 0.5, 0.3], [0.98, 0.01, 0.01]]))
  values = np.array([3.0, 1.0, 2.0])
  drawn = distributions.samples(values, log_p, 4000, seed=5)
  assert drawn.shape == (2, 4000)
  for row, p in zip(drawn, np.exp(log_p), strict=True):
    shares = [np.mean(row == value) for value in values]
    np.testing.assert_allclose(shares, p, atol=0.03)


@pytest.mark.parametrize('rows', ['constant', 'few'])
def test_nothing_to_learn_is_the_distribution_of_the_targets(rows):
  x = np.arange(60.0)[:, None]
  y = np.full(60, 2.0) if rows == 'constant' else np.arange(60.0)
  table = make_table(x, y, sizes=(0.1, 0.1) if rows == 'few' else (0.6, 0.2))
  for mean, log_p in fit('xgboost_residuals', table).values():
    np.testing.assert_allclose(mean, 0, atol=1e-9)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1)


def test_wrong_arguments():
  with pytest.raises(InputError, match='ngboost'):
    fit('ngbost', noisy(40))


@pytest.mark.parametrize('name', ['random_forest_residuals', 'ngboost'])
def test_leaves_between_fits(name):
  pytest.importorskip(PACKAGES[name])
  with pytest.raises(InterruptedRunError, match=name.partition('_res')[0]):
    fit(name, noisy(60), interrupts=(1,))
