"""Features and target scaling."""

import json
import math
import warnings

import numpy as np
import pytest
from checks import assert_refused
from hypothesis import given, settings
from hypothesis import strategies as st

from genre2_jax.data.features import LEAST_BIN, LIMIT, Features, TargetScaler
from genre2_jax.data.tables import Rows

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(autouse=True)
def _no_numpy_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    yield


def _rows(numeric=None, categories=None) -> Rows:
  n = len(categories if numeric is None else numeric)
  return Rows(
    numeric=np.empty((n, 0)) if numeric is None else np.array(numeric, float),
    categories=np.empty((n, 0), object)
    if categories is None
    else np.array(categories, object),
    target=None,
  )


def _fit(rows: Rows) -> Features:
  return Features.fit(
    rows,
    [f'N_{i}' for i in range(rows.numeric.shape[1])],
    [f'C_{i}' for i in range(rows.categories.shape[1])],
  )


def test_numeric_by_hand():
  nan = np.nan
  train = [[1, 5, nan, 0.1], [nan, 5, nan, 0.1], [3, nan, nan, 0.1]]
  features = _fit(_rows(train))
  # Column 0 fills to 1, 2, 3: mean 2, deviation sqrt(2/3).
  assert features.means == (2, 5, 0, 0.1)
  np.testing.assert_allclose(features.stds, (math.sqrt(2 / 3), 1, 1, 1))
  out = features.transform(_rows([*train, [np.inf, 7, 3, 0.1]]))
  s = math.sqrt(1.5)
  expected = [[-s, 0, 0, 0], [0] * 4, [s, 0, 0, 0], [0, 2, 3, 0]]
  assert out['numeric'].dtype == np.float32
  np.testing.assert_allclose(out['numeric'], expected, rtol=1e-6)
  assert out['categories'].shape == (4, 0)
  assert out['categories'].dtype == np.int32


def test_infinite_train_values_count_as_missing():
  a = _fit(_rows([[1], [np.inf], [3], [-np.inf]]))
  b = _fit(_rows([[1], [np.nan], [3], [np.nan]]))
  assert a == b
  assert a.means == (2,)


def test_categories_by_hand():
  train = [['b', None, 'x'], ['a', None, None], ['b', None, 'y']]
  features = _fit(_rows(categories=train))
  assert features.categories == (('a', 'b'), (), ('x', 'y'))
  assert features.cardinalities == (3, 1, 3)
  assert features.num_features == 3
  new = [['b', 'q', 'y'], ['zzz', None, 'zzz'], [None, 'r', None]]
  out = features.transform(_rows(categories=new))['categories']
  # Unknown: b is most frequent; of x and y, equally frequent, the first.
  assert out.tolist() == [[1, 0, 1], [1, 0, 0], [2, 0, 2]]
  assert out.dtype == np.int32


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
  train=st.lists(st.floats(), min_size=1, max_size=12),
  test=st.lists(st.floats(), min_size=1, max_size=4),
)
def test_numeric_is_always_finite_and_bounded(train, test):
  features = _fit(_rows([[x] for x in train]))
  for values in (train, test):
    out = features.transform(_rows([[x] for x in values]))['numeric']
    assert np.isfinite(out).all()
    assert (np.abs(out) <= LIMIT).all()


_SKEWED = [[x] for x in np.random.default_rng(0).lognormal(0, 2, 400)]


def _beside(train, test, **options):
  names = [f'N_{i}' for i in range(len(train[0]))]
  features = Features.fit(_rows(train), names, [], **options)
  return features, features.transform(_rows(test)).get('beside')


def test_ranks_of_any_increasing_map_are_the_same_and_normal():
  _, a = _beside(_SKEWED, _SKEWED, with_ranks=True)
  logs = [[math.log(x)] for (x,) in _SKEWED]
  _, b = _beside(logs, logs, with_ranks=True)
  assert a.dtype == np.float32 and a.shape == (400, 1)
  inner = np.abs(b) < 2  # Beyond, quantiles lie far apart.
  np.testing.assert_allclose(a[inner], b[inner], atol=0.05)
  assert abs(a.mean()) < 0.02 and abs(a.std() - 1) < 0.05
  order = np.argsort(np.ravel(_SKEWED))
  assert (np.diff(a[order, 0]) >= 0).all()
  # Beyond train, and where all values are one, there is an end, or the middle.
  _, ends = _beside(_SKEWED, [[-1e9], [1e9]], with_ranks=True)
  assert ends.tolist() == [[-3], [3]]
  _, constant = _beside([[5.0]] * 4, [[5.0], [np.nan]], with_ranks=True)
  assert constant.tolist() == [[0], [0]]


def test_what_is_missing_is_said_of_columns_where_train_lacks_some():
  nan = np.nan
  train = [[1, nan, 3], [nan, nan, 4], [np.inf, nan, 5]]
  features, beside = _beside(train, [[nan, 1, nan], [2, nan, 2]])
  assert beside is None
  features, beside = _beside(
    train, [[nan, 1, nan], [2, nan, 2]], with_missing=True
  )
  assert features.missing == (0,)
  assert beside.tolist() == [[1], [0]]
  assert features.example_inputs()['beside'].shape == (1, 1)


def test_frequent_labels_are_counted_on_train():
  train = [['b', None], ['a', None], ['b', None], [None, 'x']]
  features = _fit(_rows(categories=train))
  assert features.counts == ((1, 2, 1), (1, 3))
  assert features.frequent(0) == ((0, 1, 2), (0, 1))
  assert features.frequent(2) == ((1,), (1,))
  older = Features.from_json(
    {k: v for k, v in features.to_json().items() if k != 'counts'}
  )
  assert older.frequent(2) == ((0, 1, 2), (0, 1))


def test_what_is_beside_survives_json():
  rows = _rows([[1, np.nan], [2, 3], [9, 4]], [['a'], ['b'], ['b']])
  features = Features.fit(
    rows, ['x', 'y'], ['c'], with_ranks=True, with_missing=True
  )
  saved = json.loads(json.dumps(features.to_json()))
  assert Features.from_json(saved) == features
  for damage in (
    {'counts': [[1]]},
    {'ranks': [[1, 2]]},
    {'ranks': [[1, 0], [1, 2]]},
    {'missing': [2]},
    {'missing': [True]},
  ):
    assert_refused(lambda d=damage: Features.from_json(saved | d), 'save it')


def test_no_statistic_of_other_rows():
  train = _rows([[1.0], [2.0]], [['a'], ['b']])
  features = _fit(train)
  one = features.transform(_rows([[9.0]], [['c']]))
  many = features.transform(
    _rows([[9.0], [1e9], [np.nan]], [['c'], ['c'], [None]])
  )
  assert one['numeric'][0] == many['numeric'][0]
  assert one['categories'][0] == many['categories'][0] == 0


def test_transform_refuses_other_columns():
  features = _fit(_rows([[1.0], [2.0]]))
  assert_refused(lambda: features.transform(_rows([[1.0, 2.0]])), '2 numeric')


def test_features_survive_json():
  features = _fit(
    _rows([[0.1, np.nan], [1e300, 2]], [['é', None], ['\ud800', 'b']])
  )
  text = json.dumps(features.to_json(), allow_nan=False)
  assert Features.from_json(json.loads(text)) == features


@pytest.mark.parametrize(
  'change',
  [
    {'means': [1.0, 2.0]},
    {'means': ['1']},
    {'means': [math.nan]},
    {'means': 1.0},
    {'stds': [0.0]},
    {'stds': [True]},
    {'numeric_names': [1]},
    {'numeric_names': 'x'},
    {'category_names': []},
    {'categories': [['b', 'a']]},
    {'categories': [['a', 'a']]},
    {'categories': [[1, 2]]},
    {'categories': ['ab']},
    {'most_frequent': [2]},
    {'most_frequent': [-1]},
    {'most_frequent': [0.0]},
    {'more': []},
    {'means': [10**400]},
    {'quantiles': [[-1.0, 1.0]] * 2},
    {'quantiles': []},
    {'quantiles': [[]]},
    {'quantiles': [1.0]},
    {'quantiles': [[1.0, -1.0]]},
    {'quantiles': [[1.0, 1.0]]},
    {'quantiles': [[0.0, LEAST_BIN / 2]]},
    {'quantiles': [[0.0, 0.1]]},  # 0.1 is no float32
    {'quantiles': [['-1', '1']]},
    {'quantiles': [[-1.0, math.inf]]},
    {'quantiles': [[-1.0, math.nan]]},
    {'quantiles': [[0.0, 2 * LIMIT]]},
    {'quantiles': [[0.0, 10**400]]},
    {'quantiles': [[False, 1.0]]},
    {'quantiles': '0'},
  ],
)
def test_features_from_wrong_json(change):
  data = _fit(_rows([[1], [2]], [['a'], ['b']])).to_json()
  assert Features.from_json(data).means == (1.5,)
  assert_refused(lambda: Features.from_json(data | change), 'saved Features')


def _fit_column(values, num_quantiles=12):
  rows = _rows([[x] for x in values])
  return Features.fit(rows, ['x'], [], num_quantiles=num_quantiles)


def test_quantiles_by_hand():
  features = _fit_column([4, 0, 2, 6, 8], num_quantiles=4)
  z = np.array([-4, -2, 0, 2, 4]) / math.sqrt(8)
  np.testing.assert_array_equal(features.quantiles, [z.astype(np.float32)])
  # A missing value is filled by the mean, 4, before.
  with_gap = _fit_column([4, 0, 2, 6, 8, np.nan, np.inf], num_quantiles=6)
  values = np.array([0, 2, 4, 4, 4, 6, 8])
  z = np.unique((values - 4) / values.std())
  np.testing.assert_allclose(with_gap.quantiles, [z], rtol=1e-6)


def test_quantiles_share_the_rows_out():
  values = np.random.default_rng(0).lognormal(size=1200)
  features = _fit_column(values)
  z = features.transform(_rows(values[:, None]))['numeric'][:, 0]
  (edges,) = features.quantiles
  assert len(edges) == 12 + 1
  np.testing.assert_array_equal([edges[0], edges[-1]], [z.min(), z.max()])
  counts, _ = np.histogram(z, np.array(edges, np.float32))
  assert (np.abs(counts - 100) <= 1).all()


@pytest.mark.parametrize(
  ('values', 'num_edges'),
  [
    ([5, 5, 5], 1),
    ([np.nan, np.nan], 1),
    ([0, 1] * 12, 3),  # the median of two values lies between them
    ([0] * 100 + [1], 2),
    ([0] * 100 + [1, 2, 3], 2),
    ([0] * 12 + [1e-9] * 12 + [1], 2),
    ([1, 2], 13),
  ],
)
def test_a_column_of_few_values_has_few_bins(values, num_edges):
  assert [len(edges) for edges in _fit_column(values).quantiles] == [num_edges]


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
  values=st.lists(st.floats(), min_size=1, max_size=12),
  num_quantiles=st.integers(1, 20),
)
def test_quantiles_ascend_in_float32(values, num_quantiles):
  features = _fit_column(values, num_quantiles)
  (edges,) = features.quantiles
  assert 1 <= len(edges) <= num_quantiles + 1
  single = np.array(edges, np.float32)
  np.testing.assert_array_equal(single, edges)
  assert (np.diff(np.array(edges)) > LEAST_BIN).all()
  z = features.transform(_rows([[x] for x in values]))['numeric']
  assert single[0] == z.min()
  assert z.max() - single[-1] <= LEAST_BIN
  text = json.dumps(features.to_json(), allow_nan=False)
  assert Features.from_json(json.loads(text)) == features


@pytest.mark.parametrize('number', [0, -1, 2.0, True, None])
def test_the_number_of_quantiles_is_a_positive_integer(number):
  assert_refused(
    lambda: _fit_column([1, 2], number), 'num_quantiles', 'positive'
  )


def test_json_of_another_kind():
  assert_refused(lambda: Features.from_json({'means': []}), 'keys')
  assert_refused(lambda: Features.from_json([]), 'keys')
  assert_refused(lambda: TargetScaler.from_json(None), 'keys')


def test_target_by_hand():
  scaler = TargetScaler.fit(np.array([1, 2, 3, 6], np.uint8))
  assert scaler.mean == 3
  assert scaler.std == pytest.approx(math.sqrt(3.5))
  z = scaler.standardize([1, 3, 6])
  np.testing.assert_allclose(z, np.array([-2, 0, 3]) / math.sqrt(3.5))
  np.testing.assert_allclose(scaler.to_unit(z), [0, 0.4, 1], atol=1e-15)
  np.testing.assert_allclose(scaler.from_unit([0, 0.4, 1]), z, atol=1e-15)
  assert not scaler.is_constant
  # Beyond train there is no clipping.
  assert scaler.to_unit(scaler.standardize(11)) == pytest.approx(2)


@pytest.mark.parametrize('value', [0.1, 0.0, -1e308, 1e-307, 1e300, 250])
@pytest.mark.parametrize('n', [1, 3, 10, 1000])
def test_constant_target(value, n):
  scaler = TargetScaler.fit(np.full(n, value))
  assert scaler == TargetScaler(mean=value, std=1.0, low=0.0, high=0.0)
  assert scaler.is_constant
  z = scaler.standardize(np.full(n, value))
  assert scaler.to_unit(z).tolist() == [0] * n
  assert scaler.from_unit([0.0, 0.7]).tolist() == [0, 0]
  np.testing.assert_array_equal(scaler.restore(z), np.full(n, value))


@pytest.mark.parametrize('scale', [1e-300, 1e-30, 1.0, 1e30, 1e300])
@pytest.mark.parametrize('offset', [0, 1])
def test_target_of_any_magnitude(scale, offset):
  base = np.array([-1.5, -0.25, 0.5, 1.7]) + offset
  scaler = TargetScaler.fit(base * scale)
  assert scaler.mean == pytest.approx(base.mean() * scale, rel=1e-14)
  assert scaler.std == pytest.approx(base.std() * scale, rel=1e-14)


def test_values_further_apart_than_float64_reaches():
  y = np.array([-1.7e308, 1.7e308, 1.7e308, 1.7e308])
  scaler = TargetScaler.fit(y)
  z = scaler.standardize(y)
  np.testing.assert_allclose(z, np.array([-3, 1, 1, 1]) / math.sqrt(3))
  np.testing.assert_allclose(scaler.restore(z), y, rtol=1e-15)


def test_tiny_spread_far_from_zero():
  y = 1e8 + np.array([0, 1, 2, 3]) * 1e-7
  scaler = TargetScaler.fit(y)
  assert not scaler.is_constant
  z = scaler.standardize(y)
  assert z.mean() == pytest.approx(0, abs=0.2)
  assert z.std() == pytest.approx(1, abs=0.05)
  np.testing.assert_array_equal(scaler.restore(z), y)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(y=st.lists(finite, min_size=1, max_size=10))
def test_target_scales_invert(y):
  y = np.array(y)
  scaler = TargetScaler.fit(y)
  assert scaler.is_constant == (y.min() == y.max())
  z = scaler.standardize(y)
  assert np.isfinite(z).all()
  assert z.min() == scaler.low <= 0 <= scaler.high == z.max()
  u = scaler.to_unit(z)
  assert u.min() == 0
  assert u.max() == (0 if scaler.is_constant else 1)
  size = np.abs(y).max()
  np.testing.assert_allclose(
    scaler.restore(z) / 4, y / 4, rtol=0, atol=4e-16 * size + 1e-323
  )
  np.testing.assert_allclose(
    scaler.from_unit(u), z, rtol=0, atol=1e-15 * (scaler.high - scaler.low)
  )
  text = json.dumps(scaler.to_json(), allow_nan=False)
  assert TargetScaler.from_json(json.loads(text)) == scaler


@pytest.mark.parametrize(
  'y', [[], [1.0, np.nan], [np.inf], [[1.0], [2.0]]], ids=str
)
def test_target_must_be_finite(y):
  assert_refused(lambda: TargetScaler.fit(np.array(y)), 'target')


@pytest.mark.parametrize(
  'change',
  [{'std': 0}, {'std': math.inf}, {'mean': '1'}, {'low': 9}, {'low': None}],
)
def test_target_from_wrong_json(change):
  data = TargetScaler.fit(np.arange(4.0)).to_json()
  assert_refused(
    lambda: TargetScaler.from_json(data | change), 'saved TargetScaler'
  )


def test_unseen_labels_are_counted():
  features = _fit(_rows(categories=[['b', None], ['a', None], ['b', None]]))
  rows = _rows(categories=[['A', 'u'], ['q', 'u'], ['q', None], [None, None]])
  first, second = features.unseen(rows)
  assert "'C_0': 3 of 4 cells" in first and "'q' (2), 'A' (1)" in first
  assert "read as 'b', the most frequent" in first
  assert '1 differ in upper and lower case only' in first
  assert "'C_1': 2 of 4 cells" in second and 'read as missing' in second
  assert features.unseen(_rows(categories=[['a', None]])) == []


def test_labels_of_older_runs_are_met_by_their_value():
  labels = [['1.0'], ['2020-01-01 00:00:00'], ['true'], [' x']]
  features = _fit(_rows(categories=labels))
  rows = _rows(categories=[['1'], ['2020-01-01'], ['True'], ['x'], [None]])
  assert features.unseen(rows) == []
  codes = features.transform(rows)['categories'][:, 0].tolist()
  known = features.categories[0]
  assert [known[code] for code in codes[:4]] == [row[0] for row in labels]


def test_kinds_survive_json_and_may_be_absent():
  features = Features.fit(_rows([[1.0]], [['a']]), ['n'], ['c'], kinds='xy')
  data = json.loads(json.dumps(features.to_json()))
  assert Features.from_json(data) == features
  del data['kinds']
  assert Features.from_json(data).kinds == ()
  assert_refused(
    lambda: Features.from_json(data | {'kinds': ['number']}), 'kinds'
  )
