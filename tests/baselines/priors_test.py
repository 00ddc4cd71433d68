"""Baselines that are kept: what they say is there again, bit by bit."""

import dataclasses

import numpy as np
import pytest

from genre2_jax.baselines import distributions, points, priors
from genre2_jax.baselines.priors import Prior
from genre2_jax.data import tables
from genre2_jax.data.features import TargetScaler
from genre2_jax.errors import InputError

VALUES = np.linspace(-4, 4, 33)
PACKAGES = {'catboost_residuals': 'catboost', 'xgboost_residuals': 'xgboost'}


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
  monkeypatch.setattr(points, 'MAX_TREES', 30)


def make_table(target, seed=0):
  """Numbers with gaps, a constant column, labels that are not everywhere."""
  n = len(target)
  draw = np.random.RandomState(seed)
  numeric = np.stack([target + draw.normal(size=n), np.full(n, 2.0)], axis=1)
  numeric[::7, 0] = np.nan
  labels = draw.choice(['a', 'b', 'c'], n).astype(object)
  labels[::5] = None
  labels[-3:] = 'new'
  ends = [int(0.6 * n), int(0.8 * n)]
  parts = zip(
    tables.SPLITS,
    *(np.split(x, ends) for x in (numeric, labels[:, None], target)),
    strict=True,
  )
  return tables.build(
    'drawn',
    {split: part for split, *part in parts},
    numeric_names=('x', 'constant'),
    category_names=('label',),
    target_name='y',
  )


def fit(name, table):
  scaler = TargetScaler.fit(table.train.target)
  options = {'seed': 0, 'num_threads': 1}
  return Prior.fit(name, table, scaler, VALUES, **options)


@pytest.mark.parametrize('name', priors.NAMES)
def test_what_is_kept_says_what_the_baseline_does(name, tmp_path):
  pytest.importorskip(PACKAGES[name])
  table = make_table(np.random.RandomState(1).normal(size=150))
  scaler = TargetScaler.fit(table.train.target)
  fitted = fit(name, table)
  baseline = distributions.fit_predict(
    name, table, scaler, VALUES, seed=0, num_threads=1
  )
  expected = {
    split: of.log_p.astype(np.float32) for split, of in baseline.items()
  }
  fitted.write(tmp_path / 'prior')
  for prior in (fitted, Prior.read(tmp_path / 'prior')):
    np.testing.assert_array_equal(prior.train_log_p(), expected['train'])
    for split in ('val', 'test'):
      found = prior.log_p(getattr(table, split))
      np.testing.assert_array_equal(found, expected[split])
  # A row alone, as new ones come.
  one = dataclasses.replace(
    table.test,
    numeric=table.test.numeric[-1:],
    categories=table.test.categories[-1:],
    target=None,
  )
  np.testing.assert_array_equal(fitted.log_p(one), expected['test'][-1:])
  assert not any(b'pickle' in content for content in fitted.files().values())


def test_a_training_row_does_not_know_its_own_target():
  """Of pure noise nothing can be known; the trees themselves know much."""
  pytest.importorskip('xgboost')
  draw = np.random.RandomState(2)
  n = 240
  table = make_table(draw.normal(size=n))
  noise = dataclasses.replace(
    table.train, numeric=draw.normal(size=(len(table.train), 2))
  )
  table = dataclasses.replace(table, train=noise)
  prior = fit('xgboost_residuals', table)
  z = prior.train_target

  def known(log_p):
    return np.corrcoef(np.exp(log_p) @ VALUES, z)[0, 1]

  assert known(prior.log_p(table.train)) > 0.4
  assert known(prior.train_log_p()) < 0.2


@pytest.mark.parametrize('rows', ['few', 'constant', 'columns'])
def test_nothing_to_learn_has_no_trees(rows, tmp_path):
  pytest.importorskip('catboost')
  target = np.full(60, 2.0) if rows == 'constant' else np.arange(60.0)
  table = make_table(target[:12] if rows == 'few' else target)
  if rows == 'columns':
    same = dataclasses.replace(
      table.train,
      numeric=np.ones_like(table.train.numeric),
      categories=np.full_like(table.train.categories, 'a'),
    )
    table = dataclasses.replace(table, train=same)
  prior = fit('catboost_residuals', table)
  assert prior.trees == b''
  prior.write(tmp_path)
  log_p = Prior.read(tmp_path).log_p(table.test)
  assert log_p.shape == (len(table.test), len(VALUES))
  np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, rtol=1e-5)
  assert np.ptp(log_p, axis=0).max() == 0


def test_no_rows_have_no_distributions():
  pytest.importorskip('catboost')
  table = make_table(np.arange(60.0))
  none = dataclasses.replace(
    table.test,
    numeric=np.zeros((0, 2)),
    categories=np.zeros((0, 1), object),
    target=None,
  )
  assert fit('catboost_residuals', table).log_p(none).shape == (0, 33)


def test_pickles_are_refused():
  with pytest.raises(InputError, match='catboost_residuals'):
    fit('random_forest_residuals', make_table(np.arange(60.0)))


@pytest.mark.parametrize('name', ['prior.json', 'prior.npz', 'trees'])
def test_damage_is_said_in_a_line(name, tmp_path):
  pytest.importorskip('catboost')
  table = make_table(np.arange(60.0))
  fit('catboost_residuals', table).write(tmp_path)
  (tmp_path / name).write_bytes(b'{"name": 3')
  with pytest.raises(InputError, match='damaged'):
    Prior.read(tmp_path).log_p(table.test)
