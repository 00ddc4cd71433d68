"""Baselines: right where the answer is known, unharmed by hostile tables."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from genre2_jax.baselines import points
from genre2_jax.baselines.points import BASELINES, fit_predict
from genre2_jax.data import tables
from genre2_jax.data.features import TargetScaler
from genre2_jax.errors import InputError, InterruptedRunError
from genre2_jax.metrics import points as point_metrics

PACKAGES = {
  'linear': 'sklearn',
  'random_forest': 'sklearn',
  'histogram_trees': 'sklearn',
  'catboost': 'catboost',
  'xgboost': 'xgboost',
  'lightgbm': 'lightgbm',
  'realmlp': 'pytabkit',
  'tabm': 'pytabkit',
}
BOOSTERS = ('catboost', 'xgboost', 'lightgbm')


@pytest.fixture(autouse=True)
def _small_ensembles(monkeypatch):
  monkeypatch.setattr(points, 'MAX_TREES', 100)
  monkeypatch.setattr(points, 'FOREST_TREES', 50)


@pytest.fixture(params=BASELINES)
def name(request):
  if request.param in PACKAGES:
    pytest.importorskip(PACKAGES[request.param])
  return request.param


@pytest.fixture(params=BOOSTERS)
def booster(request):
  pytest.importorskip(request.param)
  return request.param


def make_table(target, numeric=None, categories=None, sizes=None):
  """Rows in order: 60 % train, 20 % val, 20 % test, or `sizes`."""
  n = len(target)
  cuts = np.cumsum(sizes)[:2] if sizes else [n * 3 // 5, n * 4 // 5]

  def part(array, split):
    return None if array is None else np.split(array, cuts)[split]

  def width(array):
    return 0 if array is None else array.shape[1]

  return tables.build(
    'made',
    {
      split: tuple(part(a, place) for a in (numeric, categories, target))
      for place, split in enumerate(tables.SPLITS)
    },
    # Characters that XGBoost or LightGBM refuse in names.
    numeric_names=[f'[{i}]<"{{:,\n' for i in range(width(numeric))],
    category_names=[f'{{"é": {i}}}' for i in range(width(categories))],
    target_name='y',
  )


def run(name, table, **options):
  scaler = TargetScaler.fit(table.train.target)
  return fit_predict(name, table, scaler, **({'seed': 0} | options))


def r2(table, predicted, split='test'):
  scaler = TargetScaler.fit(table.train.target)
  target = scaler.standardize(getattr(table, split).target)
  return point_metrics.r2(predicted[split], target)


def assert_usable(table, predicted):
  assert predicted.keys() == {'val', 'test'}
  for split, values in predicted.items():
    assert values.dtype == np.float64
    assert values.shape == (len(getattr(table, split)),)
    assert np.isfinite(values).all()


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for split in a:
    np.testing.assert_array_equal(a[split], b[split])


def smooth_table(n=200):
  """Nearly linear, with a category that matters and gaps."""
  draw = np.random.RandomState(0)
  numeric = draw.randn(n, 3)
  labels = draw.choice(['Ulm', 'Köln', ''], n)
  target = 2 * numeric[:, 0] + numeric[:, 1] + 3.0 * (labels == 'Ulm')
  numeric[::9, 2] = np.nan
  categories = np.array(labels, object)[:, None]
  return make_table(250 + 40 * target, numeric, categories)


def hostile_table(n=100):
  draw = np.random.RandomState(1)
  numeric = draw.randn(n, 7)
  target = 3 * numeric[:, 0] + draw.randn(n)
  numeric[:, 1] = np.nan
  numeric[:, 2] = 7.0
  numeric[3, 3], numeric[4, 3], numeric[n - 1, 3] = np.inf, -np.inf, np.inf
  numeric[5, 4], numeric[6, 4], numeric[n - 2, 4] = 1e300, -1e300, 1e308
  numeric[:, 5] *= 1e-320
  numeric[: n * 3 // 5, 6] = np.nan  # absent in train only
  categories = np.full((n, 5), None, object)
  categories[:, 0] = draw.choice(['a"\n', '[b]<', '{c', '\ud800', 'é,'], n)
  categories[:, 1] = [f'row {i}' for i in range(n)]
  categories[:, 2] = 'same'
  categories[n * 3 // 5 :, 3] = 'new'  # absent in train
  return make_table(target, numeric, categories)  # Column 4 is empty.


def test_names_begin_with_the_floor():
  assert points.names() == BASELINES
  assert set(BASELINES) == {'train_mean', *PACKAGES}


def test_all_but_the_floor_learn(name):
  table = smooth_table()
  predicted = run(name, table)
  assert_usable(table, predicted)
  if name == 'train_mean':
    assert abs(predicted['test']).max() < 1e-12
  else:
    assert r2(table, predicted) > 0.7


def test_hostile_tables(name):
  table = hostile_table()
  predicted = run(name, table)
  assert_usable(table, predicted)
  if name in ('catboost', 'lightgbm', 'random_forest'):
    assert r2(table, predicted) > 0.5


def test_infinite_means_missing(name):
  table = hostile_table()

  def without(rows):
    numeric = np.where(np.isinf(rows.numeric), np.nan, rows.numeric)
    return dataclasses.replace(rows, numeric=numeric)

  cleaned = dataclasses.replace(
    table, **{s: without(getattr(table, s)) for s in tables.SPLITS}
  )
  assert_equal(run(name, table), run(name, cleaned))


@pytest.mark.parametrize(
  'table',
  [
    make_table(np.full(20, 5.0), np.random.RandomState(0).randn(20, 2)),
    make_table(np.arange(20.0), np.full((20, 1), np.nan)),
    make_table(np.arange(20.0), None, np.array([['x']] * 20, object)),
    make_table(np.arange(3.0), np.arange(3.0)[:, None]),  # one row each
  ],
  ids=['constant target', 'all missing', 'one category', 'one row'],
)
def test_nothing_to_learn_is_the_train_mean(name, table):
  predicted = run(name, table, num_trials=2)
  assert_usable(table, predicted)
  for values in predicted.values():
    np.testing.assert_allclose(values, 0, atol=1e-12)


@pytest.mark.parametrize('sizes', [(2, 1, 1), (4, 1, 1)])
def test_a_handful_of_rows(name, sizes):
  n = sum(sizes)
  categories = np.array([[f'{i}'] for i in range(n)], object)
  table = make_table(np.arange(n) ** 2.0, None, categories, sizes)
  assert_usable(table, run(name, table))


def test_linear_is_least_squares():
  pytest.importorskip('sklearn')
  draw = np.random.RandomState(3)
  x = draw.randn(100, 3) * [1, 50, 1e-3] + [0, 1000, 1]
  y = draw.randn(100) + x[:, 0]
  table = make_table(y, x)
  predicted = run('linear', table)
  scaler = TargetScaler.fit(y[:60])
  z = scaler.standardize(y)
  # Centred and scaled for the conditioning; the predictions don't change.
  design = (x - x[:60].mean(axis=0)) / x[:60].std(axis=0)
  design = np.column_stack([design, np.ones(100)])
  weights = np.linalg.lstsq(design[:60], z[:60], rcond=None)[0]
  # The features are float32.
  np.testing.assert_allclose(
    predicted['test'], design[80:] @ weights, atol=1e-5
  )
  np.testing.assert_allclose(
    predicted['val'], design[60:80] @ weights, atol=1e-5
  )


def test_linear_on_one_category_is_the_mean_of_each():
  pytest.importorskip('sklearn')
  labels = np.array(
    ['a', 'b', None] * 20 + ['a', None, 'b', 'new'] * 10, object
  )
  y = np.random.RandomState(0).randn(100)
  table = make_table(y, None, labels[:, None])
  z = TargetScaler.fit(y[:60]).standardize(y)
  predicted = run('linear', table)
  means = {
    label: z[:60][labels[:60] == label].mean() for label in ('a', 'b', None)
  }
  known = labels[80:] != 'new'
  expected = [means[label] for label in labels[80:][known]]
  np.testing.assert_allclose(predicted['test'][known], expected, atol=1e-5)


@pytest.mark.parametrize('other', ['xgboost', 'lightgbm', 'linear'])
def test_an_unseen_category(other):
  """To XGBoost and LightGBM a missing one, to one-hot none of the seen."""
  pytest.importorskip(PACKAGES[other])
  table = smooth_table()
  categories = table.test.categories.copy()
  categories[:] = 'Atlantis'
  unseen = dataclasses.replace(
    table, test=dataclasses.replace(table.test, categories=categories)
  )
  missing = dataclasses.replace(
    table,
    test=dataclasses.replace(
      table.test, categories=np.full(categories.shape, None, object)
    ),
  )
  a, b = run(other, unseen), run(other, missing)
  if other == 'linear':
    assert_usable(table, a)
    assert np.ptp(a['test'] - b['test']) < 1e-9  # one offset
    assert not np.allclose(a['test'], b['test'])
  else:
    assert_equal(a, b)


def test_test_rows_stay_unseen(name):
  """Their targets are not read, their features change nothing else."""
  table = smooth_table()
  reference = run(name, table, num_trials=1)
  blind = dataclasses.replace(
    table, test=dataclasses.replace(table.test, target=None)
  )
  assert_equal(run(name, blind, num_trials=1), reference)
  fewer = dataclasses.replace(
    table,
    test=tables.Rows(
      numeric=table.test.numeric[:1] + 50,
      categories=table.test.categories[:1],
      target=None,
    ),
  )
  np.testing.assert_array_equal(
    run(name, fewer, num_trials=1)['val'], reference['val']
  )


def test_boosting_stops_by_the_validation_rows(booster):
  table = smooth_table()
  noise = np.random.RandomState(0).permutation(table.val.target)
  other = dataclasses.replace(
    table, val=dataclasses.replace(table.val, target=noise)
  )
  # Noise can't be learnt, so that the best ensemble is a small one.
  long, short = run(booster, table)['test'], run(booster, other)['test']
  assert short.std() < 0.8 * long.std()


def test_deterministic(name):
  table = hostile_table()
  first = run(name, table, seed=5, num_threads=2)
  assert_equal(run(name, table, seed=5, num_threads=2), first)
  # Seeds of any size; only these methods draw by default.
  other = run(name, table, seed=2**40 + 1)
  if name in ('random_forest', 'xgboost', 'catboost'):
    assert not np.array_equal(other['test'], first['test'])


def test_search_improves_on_validation_rows():
  pytest.importorskip('optuna')
  pytest.importorskip('sklearn')
  # As many features as rows: least squares fits noise, ridge does not.
  draw = np.random.RandomState(2)
  x = draw.randn(100, 55)
  table = make_table(x[:, 0] + draw.randn(100), x)
  default = run('linear', table)
  searched = run('linear', table, num_trials=8)
  assert_usable(table, searched)
  assert r2(table, searched, 'val') > r2(table, default, 'val') + 0.1
  assert_equal(run('linear', table, num_trials=8), searched)


def test_search_never_ends_below_the_defaults(name):
  pytest.importorskip('optuna')
  table = smooth_table(60)
  default = r2(table, run(name, table), 'val')
  searched = run(name, table, num_trials=2)
  assert r2(table, searched, 'val') >= default
  assert_equal(run(name, table, num_trials=2), searched)


@pytest.mark.parametrize(
  ('name', 'package', 'num_trials'),
  [
    *((name, package, 0) for name, package in PACKAGES.items()),
    ('linear', 'optuna', 1),
  ],
)
def test_a_missing_package_names_its_installation(
  monkeypatch, name, package, num_trials
):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(InputError) as caught:
    run(name, smooth_table(40), num_trials=num_trials)
  installed = 'scikit-learn' if package == 'sklearn' else package
  assert f"pip install '{installed}>=" in str(caught.value)


@pytest.mark.parametrize(
  ('options', 'part'),
  [
    ({'name': 'forest'}, 'random_forest'),
    ({'name': 'train_mean', 'seed': -1}, 'seed=-1'),
    ({'name': 'train_mean', 'num_trials': -1}, 'num_trials=-1'),
  ],
)
def test_wrong_arguments(options, part):
  with pytest.raises(InputError, match=part):
    run(table=smooth_table(40), **options)


def test_leaves_when_asked_to(name):
  if name == 'train_mean':
    pytest.skip('there is nothing to fit')
  with pytest.raises(InterruptedRunError, match=name):
    run(name, smooth_table(40), interrupts=(1,))


def test_no_jax():
  code = 'import genre2_jax.baselines, sys; sys.exit("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def weighted_table(weight, index):
  rng = np.random.default_rng(0)
  numeric = rng.normal(size=(90, 3))
  target = numeric[:, 0] ** 2 + numeric[:, 1] + rng.normal(size=90)
  table = make_table(target[index], numeric[index])
  if weight is None:
    return table
  cuts = np.cumsum([len(table.train), len(table.val)])
  parts = zip(tables.SPLITS, np.split(weight, cuts), strict=True)
  splits = table.train, table.val, table.test
  train, val, test = tables.weighted(splits, dict(parts))
  return dataclasses.replace(table, train=train, val=val, test=test)


def test_rows_that_weigh_are_fitted_as_such(name):
  """Train rows with a high target count: predictions are higher; or refused."""
  everything = np.arange(90)
  plain = weighted_table(None, everything)
  scaler = TargetScaler.fit(plain.train.target)
  weight = np.ones(90)
  weight[:54] = np.where(plain.train.target > 1, 50.0, 1.0)
  table = weighted_table(weight, everything)
  if name in ('realmlp', 'tabm'):
    with pytest.raises(InputError, match='takes no weights'):
      fit_predict(name, table, scaler, seed=0)
    return
  found = fit_predict(name, table, scaler, seed=0, num_threads=1)['test']
  alike = fit_predict(name, plain, scaler, seed=0, num_threads=1)['test']
  assert found.mean() > alike.mean() + 0.1


def test_a_line_through_rows_that_weigh_is_that_of_their_copies():
  weight = np.arange(90) % 3 + 1.0
  index = np.arange(90)
  table = weighted_table(weight, index)
  scaler = TargetScaler.fit(table.train.target)
  copies = np.repeat(np.arange(54), weight[:54].astype(int))
  rest = np.arange(54, 90)
  rng = np.random.default_rng(0)
  numeric = rng.normal(size=(90, 3))
  target = numeric[:, 0] ** 2 + numeric[:, 1] + rng.normal(size=90)
  index = np.concatenate([copies, rest])
  repeated = make_table(
    target[index], numeric[index], sizes=(len(copies), 18, 18)
  )
  for name in ('train_mean', 'linear'):
    np.testing.assert_allclose(
      fit_predict(name, table, scaler, seed=0)['test'],
      fit_predict(name, repeated, scaler, seed=0)['test'],
      atol=1e-5,  # Features are float32.
    )
