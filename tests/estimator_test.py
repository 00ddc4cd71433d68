"""The scikit-learn face: the same run, its distribution, its files."""

import decimal
import json
import pathlib
import pickle
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from checks import assert_refused
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
  GridSearchCV,
  ShuffleSplit,
  cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
  check_estimator,
  check_regressors_int,
  check_regressors_train,
)
from tiny import TINY_REGRESSOR as TINY

from genre2_jax import DecodingRegressor, estimator
from genre2_jax.data import columns as data_columns
from genre2_jax.data import frames
from genre2_jax.data.features import Features
from genre2_jax.data.wording import DataWarning
from genre2_jax.errors import InputError
from genre2_jax.experiment import defaults, recipes
from genre2_jax.runs import estimates, prediction, workdirs
from genre2_jax.runs.finished import FinishedRun
from genre2_jax.training import evaluation

pytestmark = [
  pytest.mark.usefixtures('quick_compiles'),
  pytest.mark.xdist_group('estimator'),  # One worker fits for all.
]


def make_frame(num_rows, seed=0):
  """Numbers, dates, text and categories with gaps, and a target of them."""
  draw = np.random.RandomState(seed)
  frame = pd.DataFrame(
    {
      'area': draw.uniform(30, 200, num_rows),
      'city': draw.choice(['Ulm', 'Köln', 'Bonn'], num_rows),
      'sold': pd.Timestamp('2020-01-01')
      + pd.to_timedelta(draw.randint(0, 900, num_rows), unit='D'),
      'class': pd.Categorical(draw.randint(0, 3, num_rows)),
      'new': draw.rand(num_rows) < 0.5,
    }
  )
  y = 9 * frame['area'] + 300 * (frame['city'] == 'Ulm') + 100 * frame['new']
  frame.loc[3::11, 'area'] = np.nan
  frame.loc[5::13, 'city'] = None
  frame.loc[7::17, 'class'] = np.nan
  return frame, (y + draw.normal(0, 30, num_rows)).rename('price')


@pytest.fixture(scope='module')
def rows():
  return make_frame(150)


@pytest.fixture(scope='module')
def fitted(rows, quick_compiles):
  """Cross-entropy, then CRPS, two seeds, on frames."""
  model = DecodingRegressor(objective='crps', n_seeds=2, random_state=3, **TINY)
  return model.fit(*rows)


@pytest.fixture
def saved(fitted, tmp_path):
  fitted.save(tmp_path / 'model')
  return tmp_path / 'model'


def grid(model, frame):
  """p [n, K] of the ensemble and the numbers [K] in the unit of y, float64."""
  table = frames.rows(frame.rename(columns=str), model._columns, 'X')
  log_p = model._run.predict(table, num_samples=1)['log_p'].astype(
    np.float64
  )  # [S, n, K]
  p = np.exp(log_p).mean(0)
  run = model._run.model
  values = run.scaler.restore(run.codec.values())
  return p / p.sum(1, keepdims=True), values


# ---------------------------------------------------------------- predictions


def test_it_learns_from_frames_with_gaps_dates_and_categories(fitted, rows):
  X, y = rows
  assert fitted.score(X, y) > 0.5
  assert fitted.n_features_in_ == 5
  assert list(fitted.feature_names_in_) == list(X)
  features = fitted._run.model.features
  assert features.numeric_names == (
    'area', 'sold', 'sold.month', 'sold.weekday', 'new',
  )  # fmt: skip
  assert features.kinds == (
    'number', 'date', 'month', 'weekday', 'boolean', 'category', 'category',
  )  # fmt: skip
  assert features.category_names == ('city', 'class')
  assert features.categories[1] == ('0', '1', '2')


def test_the_validation_rows_are_a_fifth_and_not_trained_on(fitted, rows):
  X, y = rows
  train, val = frames.split(len(X), 3)
  assert len(val) == 30
  assert sorted([*train, *val]) == list(range(150))
  assert fitted._run.model.scaler.mean == pytest.approx(y.iloc[train].mean())


def test_point_estimates_are_those_of_the_whole_distribution(fitted, rows):
  X, _ = rows
  p, values = grid(fitted, X)
  assert fitted.exact_
  np.testing.assert_allclose(fitted.predict(X), p @ values, rtol=1e-6)
  order = np.argsort(values)
  median = [
    values[order][np.searchsorted(np.cumsum(row[order]), 0.5)] for row in p
  ]
  np.testing.assert_allclose(fitted.predict(X, 'exact_median'), median)


def test_sampled_estimates_are_of_the_samples(fitted, rows):
  X, _ = rows
  samples = fitted.sample(X, 16)  # 8 of each seed, as `predict` takes them
  assert samples.shape == (150, 16)
  np.testing.assert_allclose(fitted.predict(X, 'mean'), samples.mean(1))
  np.testing.assert_allclose(fitted.predict(X, 'median'), np.median(samples, 1))
  np.testing.assert_array_equal(samples, fitted.sample(X, 16))
  assert fitted.sample(X, 3).shape == (150, 3)
  _, values = grid(fitted, X)
  nearest = np.abs(samples[..., None] - values).min(-1)
  assert nearest.max() < 1e-5 * np.ptp(values)
  p, _ = grid(fitted, X)
  # 16 samples of 150 rows: the mean of all is the mean of the distributions.
  sd = np.sqrt((p @ values**2 - (p @ values) ** 2).mean() / samples.size)
  assert abs(samples.mean() - (p @ values).mean()) < 5 * sd


def test_the_constructors_estimator_is_what_predict_returns(fitted, rows):
  X, _ = rows
  copy = pickle.loads(pickle.dumps(fitted)).set_params(estimator='greedy')
  np.testing.assert_array_equal(copy.predict(X), fitted.predict(X, 'greedy'))
  assert not np.array_equal(copy.predict(X), fitted.predict(X))


def test_quantiles_are_those_of_the_distribution(fitted, rows):
  X, _ = rows
  p, values = grid(fitted, X)
  order = np.argsort(values)
  levels = [0.9, 0.0, 0.37]
  found = fitted.predict_quantiles(X, levels)
  assert found.shape == (150, 3)
  for column, q in zip(found.T, levels, strict=True):
    for x, row in zip(column, p, strict=True):
      below = np.cumsum(row[order])
      expected = values[order][np.argmax(below >= q - 1e-9)]
      assert x == pytest.approx(expected)
  assert fitted.predict_quantiles(X, 0.5).shape == (150, 1)


def test_intervals_of_the_model_are_its_quantiles(fitted, rows):
  X, _ = rows
  np.testing.assert_allclose(
    fitted.predict_interval(X, 0.8, method='model'),
    fitted.predict_quantiles(X, [0.1, 0.9]),
  )


@pytest.mark.parametrize('coverage', [0.5, 0.8, 0.9])
def test_conformal_intervals_hold_on_the_validation_rows(
  fitted, rows, coverage
):
  X, y = rows
  _, val = frames.split(len(X), 3)
  X, y = X.iloc[val], y.iloc[val].to_numpy()
  low, high = fitted.predict_interval(X, coverage, method='model').T
  scores = np.sort(np.maximum(low - y, y - high))
  margin = scores[int(np.ceil(31 * coverage)) - 1]
  median = fitted.predict(X, 'exact_median')
  found = fitted.predict_interval(X, coverage)
  np.testing.assert_allclose(
    found.T,
    [np.minimum(low - margin, median), np.maximum(high + margin, median)],
    rtol=1e-5,
  )
  held = (found[:, 0] - 1e-3 <= y) & (y <= found[:, 1] + 1e-3)
  assert held.mean() >= coverage


def test_more_coverage_than_the_validation_rows_can_promise_is_refused(
  fitted, rows, tmp_path
):
  """Thirty rows: at best 30 in 31."""
  fitted.save(tmp_path / 'saved')
  for model in (fitted, DecodingRegressor.load(tmp_path / 'saved')):
    model.predict_interval(rows[0], 0.96)
    with pytest.raises(InputError, match='takes 33 validation rows'):
      model.predict_interval(rows[0], 0.97)


def test_coverages_are_rounded_up_to_whole_percent(fitted, rows):
  X, _ = rows
  a, b = (fitted.predict_interval(X, c) for c in (0.893, 0.9))
  np.testing.assert_array_equal(a, b)


def test_unseen_and_missing_cells_are_predicted(fitted, rows):
  X = rows[0].iloc[:4].assign(city='Atlantis', area=np.nan)
  found = fitted.predict(X)
  assert np.isfinite(found).all() and len(found) == 4


def test_unseen_labels_are_said_where_they_are_given(fitted, rows):
  X = rows[0].iloc[:40]
  with pytest.warns(DataWarning, match="'city': 3. of 40 .*'ULM'") as caught:
    fitted.predict(X.assign(city=X['city'].str.upper()))
  assert caught[0].filename == __file__
  assert 'upper and lower case' in str(caught[0].message)
  with warnings.catch_warnings():
    warnings.simplefilter('error', DataWarning)
    fitted.predict(X)


@pytest.mark.parametrize(
  'change',
  [
    lambda X: X.assign(**{'class': X['class'].astype(float)}),
    lambda X: X.assign(**{'class': X['class'].astype('Int64')}),
    lambda X: X.assign(**{'class': X['class'].astype(object)}),
    lambda X: X.assign(**{'class': X['class'].astype(str)}),
    lambda X: X.assign(new=X['new'].astype(object)),
    lambda X: X.assign(new=X['new'].map(np.bool_).astype(object)),
    lambda X: X.assign(new=X['new'].astype(str)),
    lambda X: X.assign(new=X['new'].astype(int)),
    lambda X: X.assign(sold=X['sold'].dt.date),
    lambda X: X.assign(sold=X['sold'].astype(str)),
    lambda X: X.assign(sold=X['sold'].dt.tz_localize('UTC')),
    lambda X: X.assign(area=X['area'].astype(str)),
    lambda X: X.convert_dtypes(dtype_backend='pyarrow'),
  ],
)
def test_a_value_means_the_same_in_every_dtype(fitted, rows, change):
  X = rows[0].iloc[:30]
  with warnings.catch_warnings():
    warnings.simplefilter('error', DataWarning)
    found = fitted.predict(change(X))
  np.testing.assert_allclose(found, fitted.predict(X), rtol=1e-6)


@pytest.mark.parametrize(
  ('change', 'parts'),
  [
    ({'sold': 3}, ['sold', 'numbers instead of dates']),
    ({'area': pd.Timestamp('2020-01-01')}, ['area', 'dates instead of num']),
    ({'new': 2}, ['new', 'numbers instead of booleans']),
  ],
)
def test_another_kind_than_in_fit_is_refused(fitted, rows, change, parts):
  assert_refused(lambda: fitted.predict(rows[0].assign(**change)), *parts)


def test_kinds_are_kept_and_runs_without_them_still_open(fitted, rows, saved):
  X, _ = rows
  loaded = DecodingRegressor.load(saved)
  assert_refused(lambda: loaded.predict(X.assign(sold=3)), 'instead of dates')
  for name in ('estimator.json', 'model.json'):
    path = saved / name
    own = json.loads(path.read_text())
    if name == 'model.json':
      assert own['features'].pop('kinds')
    else:
      own['columns'] = [column[:2] for column in own['columns']]
    path.write_text(json.dumps(own))
  model = json.loads((saved / 'model.json').read_text())['features']
  features = Features.from_json(model)
  assert features.kinds == ()


def test_kinds_are_set_by_hand():
  frame = pd.DataFrame(
    {'size': ['1,5 €', '2,5 €', 'n.k.'], 'id': [1, 2, 3], 'code': [7, 8, 7]}
  )
  model = DecodingRegressor(
    kinds={'size': 'number', 'id': 'ignore', 'code': 'category'},
    config={'data.reading': 'decimal=,'},
  )
  reading = frames.how_read(model._config(0))
  with pytest.warns(DataWarning, match="'n.k.'"):
    columns = data_columns.plan(
      frame, reading.by_hand, reading.formats, where='X'
    )
    numeric, labels = frames.arrays(frame, columns, 'X', reading)
  assert [column.kind for column in columns] == [
    'number €', 'ignore', 'category',
  ]  # fmt: skip
  np.testing.assert_array_equal(numeric[:, 0], [1.5, 2.5, np.nan])
  assert labels.tolist() == [['7'], ['8'], ['7']]
  model = DecodingRegressor(kinds={'sise': 'number'})
  assert_refused(lambda: model.fit(frame, [1, 2, 3]), "mean 'size'")
  model = DecodingRegressor(kinds={'size': 'int'})
  assert_refused(lambda: model.fit(frame, [1, 2, 3]), "'int'", 'number')


def test_what_looks_like_numbers_is_said_in_python():
  frame = pd.DataFrame({'size': ['1,5', '2,5', '3,5']})
  with pytest.warns(DataWarning, match='decimal=,') as caught:
    data_columns.plan(frame, {}, where='X')
  assert caught[0].filename == __file__


def test_what_an_index_seems_to_mean_is_said():
  def said(X, y):
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      DecodingRegressor()._read(X, y, reset=True)
    return [str(warning.message) for warning in caught]

  X, y = pd.DataFrame({'a': [1, 2, 3]}), pd.Series([1.0, 2.0, 3.0])
  assert not said(X, y) and not said(X.iloc[[2, 0, 1]], y.iloc[[2, 0, 1]])
  (message,) = said(X.rename_axis('day'), [1.0, 2.0, 3.0])
  assert "'day'" in message and 'X.reset_index()' in message
  (message,) = said(X.set_index(np.array(['u', 'v', 'w'])), y)
  assert "'u'" in message
  (message,) = said(X.iloc[[2, 0, 1]], y)
  assert 'y.loc[X.index]' in message
  assert not said(X.to_numpy(), y.iloc[[2, 0, 1]])


def test_what_counts_as_missing_in_rows_to_predict_is_said(fitted, rows):
  X = rows[0].iloc[:4]
  with pytest.warns(DataWarning, match="'area': inf.* 1 row: 2") as caught:
    fitted.predict(X.assign(area=[1.0, np.inf, 2.0, 3.0]))
  assert caught[0].filename == __file__


def test_masked_cells_are_missing_and_masked_targets_refused():
  X = np.ma.masked_equal([[-9], [1], [2]], -9)
  frame, _ = DecodingRegressor()._read(X, [1, 2, 3], reset=True)
  np.testing.assert_array_equal(frame['x0'], [np.nan, 1, 2])
  mixed = np.ma.array([['u'], ['v']], dtype=object, mask=[[True], [False]])
  frame, _ = DecodingRegressor()._read(mixed, [1, 2], reset=True)
  assert frame['x0'].isna().tolist() == [True, False]
  y = np.ma.masked_equal([1, -9, 3], -9)
  model = DecodingRegressor()
  assert_refused(lambda: model.fit(X, y), 'masked', '1 row: 2')


def test_targets_that_float64_makes_one_are_refused():
  model = DecodingRegressor()
  X = np.arange(6.0)[:, None]
  y = 2**60 + np.arange(6)
  assert_refused(lambda: model.fit(X, y), '6 different', 'float64')
  y = [decimal.Decimal(1) + decimal.Decimal(i) / 10**20 for i in range(6)]
  assert_refused(lambda: model.fit(X, np.array(y)), '6 different')


def test_column_levels_are_refused():
  X = pd.DataFrame(
    np.ones((4, 2)), columns=pd.MultiIndex.from_product([['a'], ['x', 'y']])
  )
  assert_refused(lambda: DecodingRegressor().fit(X, range(4)), 'levels')
  flat = X.set_axis(['x', 'y'], axis=1)
  assert_refused(
    lambda: DecodingRegressor().fit(flat, range(4), X, range(4)), 'levels'
  )


def test_rows_are_predicted_by_their_cells_alone(fitted, rows):
  X, _ = rows
  np.testing.assert_allclose(
    fitted.predict(X.iloc[::-1])[::-1], fitted.predict(X), rtol=1e-6
  )


@pytest.mark.parametrize('estimator', ['exact_mean', 'mean', 'greedy'])
def test_few_rows_are_predicted_as_they_are_among_many(
  fitted, rows, estimator, monkeypatch
):
  """In a small block, which does not wait for rows that are not there."""
  X = rows[0].iloc[:12]
  many = fitted.predict(X, estimator)
  sizes = []
  predict = evaluation.predict

  def spy(*args, block_size, **more):
    sizes.append(block_size)
    return predict(*args, block_size=block_size, **more)

  monkeypatch.setattr(evaluation, 'predict', spy)
  few = fitted.predict(X.iloc[:1], estimator)
  np.testing.assert_allclose(few, many[:1], rtol=1e-5)
  fitted.predict(X, estimator)
  mesh_size = len(jax.devices())
  assert sizes[0] == 8 * -(-mesh_size // 8)
  assert sizes[1] == fitted._run.experiment.block_size


def test_the_mean_of_a_row_waits_for_no_median(fitted, rows, monkeypatch):
  """Of one row the numbers' order and their sorting would be a third of it."""
  expected = fitted.predict(rows[0].iloc[:1])
  monkeypatch.setattr(estimates, '_quantiles', None)
  monkeypatch.setattr(type(fitted._run.model.codec), 'grid', None)
  np.testing.assert_array_equal(fitted.predict(rows[0].iloc[:1]), expected)
  with pytest.raises(TypeError):
    fitted.predict(rows[0].iloc[:1], 'exact_median')


def test_where_every_number_is_scored_none_is_sampled(
  fitted, rows, monkeypatch
):
  assert fitted.exact_
  asked = []
  blocks = FinishedRun.predict_blocks

  def spy(run, rows, *, num_samples=None):
    asked.append(num_samples)
    return blocks(run, rows, num_samples=num_samples)

  monkeypatch.setattr(FinishedRun, 'predict_blocks', spy)
  X = rows[0].iloc[:3]
  for name in ('exact_mean', 'exact_median', 'greedy', 'mean'):
    fitted.predict(X, name)
  fitted.predict_interval(X)
  fitted.predict_quantiles(X)
  assert asked == [0, 0, 1, fitted.num_samples, 0, 0]


class Foreign:
  """A frame of some other library."""

  def __init__(self, frame):
    self.frame, self.shape = frame, frame.shape

  def to_pandas(self):
    return self.frame


class Interchange:
  """A frame that only speaks the interchange protocol."""

  def __init__(self, frame):
    self.frame = frame

  def __dataframe__(self, **options):
    import pyarrow

    return pyarrow.Table.from_pandas(self.frame).__dataframe__(**options)


@pytest.mark.parametrize('wrap', [Foreign, Interchange])
def test_frames_of_other_libraries_are_read(fitted, rows, wrap):
  X = rows[0].iloc[:20].reset_index(drop=True)
  if wrap is Interchange:  # whose numpy-backed text the protocol can't say
    X = X.assign(city=X['city'].astype('str'))
    X['class'] = X['class'].astype('float')
    X['new'] = X['new'].astype('int')
  np.testing.assert_array_equal(fitted.predict(wrap(X)), fitted.predict(X))


def test_polars_frames_are_read(fitted, rows):
  polars = pytest.importorskip('polars')
  X = rows[0].iloc[:20].reset_index(drop=True)
  X['class'] = X['class'].astype(object).map(str).replace('nan', None)
  theirs = polars.from_pandas(X)
  np.testing.assert_array_equal(fitted.predict(theirs), fitted.predict(X))
  assert_refused(lambda: fitted.predict(theirs.lazy()), 'LazyFrame', 'collect')


# ---------------------------------------------------------------- same bits


def test_same_random_state_same_bits_and_clones_are_unfitted(fitted, rows):
  X, y = rows
  again = clone(fitted)
  with pytest.raises(NotFittedError):
    again.predict(X)
  again.fit(X, y)
  np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
  np.testing.assert_array_equal(
    again.predict_interval(X), fitted.predict_interval(X)
  )


def test_a_pickle_predicts_the_same_bits(fitted, rows):
  X, _ = rows
  copy = pickle.loads(pickle.dumps(fitted))
  np.testing.assert_array_equal(copy.predict(X), fitted.predict(X))
  np.testing.assert_array_equal(copy.sample(X, 4), fitted.sample(X, 4))


# --------------------------------------------------------------------- files


def test_what_is_saved_is_loaded(fitted, rows, saved, monkeypatch):
  """Without unpickling anything, which could run code."""
  X, _ = rows

  def refuse(*_, **options):
    raise AssertionError('something was unpickled')

  with monkeypatch.context() as patch:
    for name in ('load', 'loads', 'Unpickler'):
      patch.setattr(pickle, name, refuse)
    loaded = DecodingRegressor.load(saved)
  assert loaded.get_params() == fitted.get_params() | {
    'objective': loaded.objective
  }
  np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
  np.testing.assert_array_equal(
    loaded.predict_interval(X), fitted.predict_interval(X)
  )
  assert list(loaded.feature_names_in_) == list(X)


def test_what_is_kept_is_weights_alone(fitted):
  """No checkpoint, no moment of an optimizer."""
  names = {pathlib.PurePath(name).parts[0] for name in fitted._run.files()}
  assert names == {
    'config.json', 'model.json', 'run.json', 'margins.json', 'weights',
  }  # fmt: skip


@pytest.mark.slow
def test_an_estimator_of_the_default_size_is_below_five_megabytes(tmp_path):
  x = np.random.RandomState(0).normal(size=(200, 8))
  model = DecodingRegressor(max_steps=4, finetune_max_steps=4, random_state=0)
  model.fit(x, x @ np.arange(8.0))
  assert len(pickle.dumps(model)) < 5e6
  model.save(tmp_path / 'saved')
  files = [path for path in (tmp_path / 'saved').rglob('*') if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 5e6


def test_what_is_saved_is_the_workdir_of_a_finished_run(
  fitted, rows, saved, tmp_path
):
  X, _ = rows
  X.assign(new=X['new'].astype(int)).to_csv(tmp_path / 'in.csv', index=False)
  prediction.predict_file(saved, tmp_path / 'in.csv', tmp_path / 'out.csv')
  table = pd.read_csv(tmp_path / 'out.csv', float_precision='round_trip')
  np.testing.assert_array_equal(table['prediction'], fitted.predict(X))
  np.testing.assert_array_equal(
    table[['lower90', 'upper90']], fitted.predict_interval(X)
  )


def test_any_finished_run_is_loaded(fitted, rows, saved):
  """As one of the command line: without this module's own file."""
  (saved / 'estimator.json').unlink()
  loaded = DecodingRegressor.load(saved)
  assert (loaded.width, loaded.digits, loaded.random_state) == (16, 2, 3)
  assert loaded.objective == [('crps', 1.0, {})]
  names = ['area', 'sold', 'new', 'city', 'class']
  assert list(loaded.feature_names_in_) == names
  X = rows[0]
  shuffled = X[names[::-1]].assign(price=rows[1], note='x')
  for frame in (X, shuffled):
    np.testing.assert_array_equal(loaded.predict(frame), fitted.predict(X))
    np.testing.assert_array_equal(
      loaded.predict_interval(frame), fitted.predict_interval(X)
    )
  again = pickle.loads(pickle.dumps(loaded))
  np.testing.assert_array_equal(again.predict(shuffled), fitted.predict(X))


def test_a_folder_that_is_there_stays_as_it_is(fitted, saved):
  before = {path: path.stat().st_mtime_ns for path in saved.rglob('*')}
  assert_refused(lambda: fitted.save(saved), 'there already')
  assert before == {path: path.stat().st_mtime_ns for path in saved.rglob('*')}


@pytest.mark.parametrize(
  'damage',
  [
    lambda own: own | {'params': {'wide': 3}},
    lambda own: own | {'params': {'num_samples': 'x'}},
    lambda own: own | {'params': 3},
    lambda own: own | {'columns': own['columns'][1:]},
    lambda own: {},
    lambda own: [],
  ],
)
def test_a_damaged_file_is_refused(saved, damage):
  path = saved / 'estimator.json'
  path.write_text(json.dumps(damage(json.loads(path.read_text()))))
  assert_refused(lambda: DecodingRegressor.load(saved), 'estimator.json')


def test_margins_of_an_estimator_saved_before_they_were_the_runs(
  fitted, rows, saved
):
  margins = json.loads((saved / 'margins.json').read_text())['margins']
  (saved / 'margins.json').unlink()
  path = saved / 'estimator.json'
  path.write_text(
    json.dumps(json.loads(path.read_text()) | {'margins': margins})
  )
  loaded = DecodingRegressor.load(saved)
  np.testing.assert_array_equal(
    loaded.predict_interval(rows[0]), fitted.predict_interval(rows[0])
  )


def test_arrays_are_the_columns_of_a_frame_in_its_order(arrays):
  X, y = arrays
  frame = pd.DataFrame(X, columns=['b', 'a'])
  model = DecodingRegressor(objective='mse', random_state=0, **TINY)
  model.fit(frame, y)
  with pytest.warns(UserWarning, match='feature names'):
    found = model.predict(X)
  np.testing.assert_array_equal(found, model.predict(frame))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
  assert_refused(lambda: DecodingRegressor.load(tmp_path), 'no workdir')


# --------------------------------------------------------- arrays, workdirs


@pytest.fixture(scope='module')
def arrays():
  draw = np.random.RandomState(1)
  X = draw.normal(size=(60, 2))
  return X, X[:, 0] + 0.1 * draw.normal(size=60)


@pytest.mark.slow
def test_too_many_numbers_are_sampled_and_the_workdir_is_kept(
  arrays, tmp_path, capsys
):
  X, y = arrays
  tiny = TINY | {'max_steps': 20, 'config': {'trie.max_nodes': 4}}
  model = DecodingRegressor(
    objective='ce', workdir=tmp_path / 'run', random_state=0, **tiny
  )
  model.fit(X[:40], y[:40], X[40:], y[40:])
  assert capsys.readouterr() == ('', '')
  assert not model.exact_
  assert not hasattr(model, 'feature_names_in_')
  samples = model.sample(X, 8)
  np.testing.assert_allclose(model.predict(X), samples.mean(1))
  np.testing.assert_allclose(
    model.predict(X, 'exact_median'), np.median(samples, 1)
  )
  low, high = model.predict_interval(X, 0.5, method='model').T
  expected = np.quantile(samples, [0.25, 0.75], axis=1, method='weibull')
  np.testing.assert_allclose([low, high], expected, rtol=1e-5)
  info = json.loads((tmp_path / 'run' / 'run.json').read_text())
  counts = [info[f'num_{split}'] for split in ('train', 'val', 'test')]
  assert (info['stages'], counts) == (['ce'], [40, 20, 0])
  assert (tmp_path / 'run' / 'metrics.jsonl').exists()
  before = (tmp_path / 'run' / 'metrics.jsonl').read_bytes()
  model.fit(X[:40], y[:40], X[40:], y[40:])  # finished: nothing to train
  assert (tmp_path / 'run' / 'metrics.jsonl').read_bytes() == before
  np.testing.assert_array_equal(model.sample(X, 8), samples)
  assert_refused(
    lambda: model.fit(X[:40], -y[:40], X[40:], y[40:]), 'not what', 'begun'
  )


def test_a_regression_head_has_no_distribution(arrays, capsys):
  X, y = arrays
  model = DecodingRegressor(objective='mse', random_state=0, **TINY)
  model.set_params(verbose=1).fit(X, y)
  out, progress = capsys.readouterr()
  assert not out and 'mse: step 60 in' in progress and 'val/loss' in progress
  assert model.predict(X).shape == (60,)
  for action in (model.predict_interval, model.predict_quantiles, model.sample):
    assert_refused(lambda action=action: action(X), 'no distribution')


@pytest.mark.parametrize(
  ('objective', 'stages', 'terms'),
  [
    ('ce', ('pretrain',), {'ce': 1.0}),
    ('ntl_was', ('pretrain',), {'ce': 1.0, 'ntl_was': 0.3}),
    ('remax', ('pretrain', 'finetune'), {'remax': 1.0}),
    ('genre2', ('pretrain', 'finetune'), {'remax': 1.0, 'expert': 0.05}),
    (
      [('crps', 1, {}), ['ce', 0.05, {}]],
      ('pretrain', 'finetune'),
      {'crps': 1.0, 'ce': 0.05},
    ),
  ],
)
def test_an_objective_says_what_is_trained(objective, stages, terms):
  config = DecodingRegressor(objective=objective)._config(0)
  assert config.stages == stages
  found = config[stages[-1]].objective
  assert {name: weight for name, weight, _ in found} == terms


@pytest.mark.parametrize('name', recipes.TALENT.recipes)
def test_a_recipes_objective_is_the_same_by_both_doors(name):
  recipe = recipes.get_config('talent', name)
  if recipe.baseline.name:
    assert_refused(
      lambda: DecodingRegressor(objective=name, random_state=0).fit(
        np.zeros((4, 1)), np.arange(4.0)
      ),
      f'objective {name!r} is not one of',
    )
    return
  tokenizer = recipe.tokenizer.name
  config = DecodingRegressor(objective=name, tokenizer=tokenizer)._config(0)
  assert config.stages == recipe.stages
  for stage in recipe.stages:
    assert config[stage].objective == recipe[stage].objective
  assert config.model.head == recipe.model.head
  assert config.model.prior == recipe.model.prior


def test_arguments_are_config_fields():
  model = DecodingRegressor(
    objective='ce',
    width=np.int64(32),
    learning_rate=np.float64(0.1),
    tokenizer='bins',
    config={'optimizer.weight_decay': 0.5, 'model.num_layers': 7},
  )
  config = model._config(11)
  assert (config.seed, config.model.width, config.model.num_layers) == (
    11,
    32,
    7,
  )
  assert config.pretrain.learning_rate == 0.1
  assert config.optimizer.weight_decay == 0.5
  assert config.model.head == 'histogram'


def test_sections_of_a_config_are_merged():
  nested = {'optimizer': {'weight_decay': 0.5}, 'eval.batch_size': 8}
  config = DecodingRegressor(config=nested)._config(0)
  expected = defaults.get_config()
  assert config.optimizer.weight_decay == 0.5
  assert config.optimizer.warmup_steps == expected.optimizer.warmup_steps
  assert config.eval.batch_size == 8
  assert config.eval.num_samples == 128


def test_clones_have_a_folder_each(arrays, tmp_path):
  X, y = arrays
  tiny = TINY | {'max_steps': 2}
  model = DecodingRegressor(
    objective='mse', workdir=tmp_path / 'run', random_state=0, **tiny
  )
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # A fold that is refused warns.
    scores = cross_val_score(model, X, y, cv=2)
  assert np.isfinite(scores).all()
  folders = sorted((tmp_path / 'run').iterdir())
  assert len(folders) == 2
  again = clone(model).fit(X[30:], y[30:])  # As the first fold: finished.
  assert pathlib.Path(again.workdir_) in folders
  # The model itself has the folder, and so has its pickle.
  with workdirs.held(pathlib.Path(again.workdir_)):
    other = pickle.loads(pickle.dumps(clone(model))).fit(X[30:], y[30:])
  assert other.workdir_ == again.workdir_ + '_2'
  assert model.fit(X, y).workdir_ == str(tmp_path / 'run')
  assert (tmp_path / 'run' / 'run.json').exists()


def test_home_is_home_in_paths(fitted, rows, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.chdir(tmp_path)
  fitted.save('~/model')
  X = rows[0]
  X.assign(new=X['new'].astype(int)).to_csv(tmp_path / 'home' / 'in.csv')
  loaded = DecodingRegressor.load(pathlib.Path('~/model'))
  prediction.predict_file('~/model', '~/in.csv', '~/out.csv')
  table = pd.read_csv(
    tmp_path / 'home' / 'out.csv', float_precision='round_trip'
  )
  np.testing.assert_array_equal(loaded.predict(X), table['prediction'])
  path = tmp_path / 'home' / 'in.csv'
  before = path.read_bytes()
  assert_refused(
    lambda: prediction.predict_file('~/model', '~/in.csv', path), 'the input'
  )
  assert path.read_bytes() == before
  assert [path.name for path in tmp_path.iterdir()] == ['home']


@pytest.mark.parametrize(
  ('arguments', 'parts'),
  [
    ({'objective': 'remaxx'}, ['remaxx', 'remax']),
    ({'objective': [('ce', 1.0)]}, ['objective', 'weight']),
    ({'estimator': 'mode'}, ['mode', 'exact_mean']),
    ({'width': 'wide'}, ['model.width', 'wide']),
    ({'width': 0}, ['model.width']),
    ({'base': 1}, ['base']),
    ({'config': {'modle.width': 3}}, ['modle.width', 'mean model.width']),
    ({'config': {'model.widht': 3}}, ['model.widht', 'mean model.width']),
    ({'config': {'model': {'widht': 3}}}, ['mean model.width']),
    ({'config': {'weight_decay': 3}}, ['or optimizer.weight_decay']),
    ({'config': {'batch_size': {'a': 3}}}, ["no field 'batch_size.a'"]),
    ({'config': {'batch_size': None}}, ['batch_size=None']),
    ({'config': {'optimizer': 3}}, ['optimizer=3']),
    ({'config': [('batch_size', 3)]}, ['{field: value}']),
    ({'config': {'report': True}}, ['report', 'command line']),
    ({'config': {'language_model.name': 'gemma2'}}, ['command line']),
    ({'objective': 'soft_ce'}, ['tokenizer']),
    ({'random_state': -1}, ['seed']),
  ],
)
def test_wrong_arguments_are_refused_by_fit(arrays, arguments, parts):
  model = DecodingRegressor(**{'random_state': 0} | arguments)
  assert_refused(lambda: model.fit(*arrays), *parts)


def test_wrong_data_is_refused(fitted, rows, arrays):
  X, y = rows
  model = clone(fitted)
  assert_refused(lambda: model.fit(X, y, X), 'X_val', 'y_val')
  assert_refused(lambda: model.fit(X.iloc[:1], y.iloc[:1]), 'n_samples=1')
  twice = pd.concat([X[['area']], X[['area']]], axis=1)
  assert_refused(lambda: model.fit(twice, y), 'duplicate', 'area')
  assert_refused(lambda: model.fit(X.assign(new=1j), y), 'Complex', 'new')
  assert_refused(
    lambda: model.fit(X, y, X.assign(area='wide'), y), 'area', 'text'
  )
  with pytest.raises(ValueError, match='feature names'):
    fitted.predict(X.rename(columns={'area': 'size'}))
  assert_refused(lambda: fitted.predict(X.assign(area='x')), 'area', 'text')
  for q in (1.5, [[0.1]], np.nan):
    assert_refused(lambda q=q: fitted.predict_quantiles(X, q), 'q=')
  for coverage in (0, 1, 90, np.nan):
    assert_refused(lambda c=coverage: fitted.predict_interval(X, c), 'share')
  assert_refused(lambda: fitted.predict_interval(X, 0.9999), '0.999')
  assert_refused(lambda: fitted.predict_interval(X, method='x'), 'conformal')
  for n in (0, 1.5):
    assert_refused(lambda n=n: fitted.sample(X, n), 'positive')


def test_other_generators_draw_a_seed():
  seeds = {estimator._seed(np.random.RandomState(i)) for i in range(5)}
  assert len(seeds) == 5
  assert estimator._seed(np.int32(7)) == 7


# ------------------------------------------------------------- scikit-learn's


@pytest.mark.slow
def test_scikit_learns_checks():
  """All of them but the equivalence of weights and copies.

  A fit of copies sets aside other rows, and shuffles more of them; that a row
  of weight 0 is absent to the bit, `weighted_run_test.py` sees.

  They fit some forty times, so a regression head, which compiles three times
  as fast as a decoder: what they look at is the same for every objective.
  """
  tiny = TINY | {'max_steps': 80, 'dropout': 0.0}
  check_estimator(
    DecodingRegressor(objective='mse', **tiny),
    expected_failed_checks={
      'check_sample_weight_equivalence_on_dense_data': 'copies are other rows'
    },
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'check', [check_regressors_train, check_regressors_int]
)
def test_scikit_learns_checks_of_learning(check):
  """Again with digits, for what objectives do differ in."""
  tiny = TINY | {'max_steps': 80, 'dropout': 0.0}
  check('DecodingRegressor', DecodingRegressor(objective='ce', **tiny))


@pytest.mark.slow
def test_pipelines_and_searches(arrays):
  X, y = arrays
  model = DecodingRegressor(objective='ce', random_state=0, **TINY)
  pipeline = make_pipeline(StandardScaler(), model)
  once = ShuffleSplit(1, test_size=0.5, random_state=0)
  (score,) = cross_val_score(pipeline, X, y, cv=once)
  digits = 'decodingregressor__digits'
  search = GridSearchCV(pipeline, {digits: np.array([1, 2])}, cv=once)
  search.fit(X, y)
  found = search.cv_results_['split0_test_score']
  assert found[1] == score  # TINY's two digits
  assert np.isfinite(found).all() and found[0] != score
  best = search.best_estimator_
  assert search.best_params_ == {digits: 1 + found.argmax()}
  assert len(best[-1]._run.model.codec.values()) == 4 ** best[-1].digits
  assert search.predict(X).shape == (60,)
