"""Importances and partial dependence against what a known function gives."""

import json

import numpy as np
import pytest

from genre2_jax.data import tables
from genre2_jax.data.features import Features
from genre2_jax.data.tables import Rows
from genre2_jax.runs import estimates, inspection
from genre2_jax.runs import finished as finished_runs

DAY = 86_400.0


def drawn(n=120):
  """Rows of a number, a useless one, a date with its parts and a category."""
  draw = np.random.default_rng(0)
  day = draw.integers(0, 3000, n)
  numeric = np.stack(
    [
      draw.uniform(0, 10, n),
      draw.normal(size=n),
      day * DAY,
      day % 12 + 1,
      day % 7,
    ],
    axis=1,
  ).astype(float)
  numeric[3, 0] = np.nan
  city = draw.choice(np.array(['Ulm', 'Köln', None], object), n)
  return Rows(numeric=numeric, categories=city[:, None], target=None)


NAMES = ('area', 'noise', 'sold', 'sold.month', 'sold.weekday')
KINDS = ('number', 'number', 'date', 'month', 'weekday', 'category')


def known(rows):
  area = np.nan_to_num(rows.numeric[:, 0], nan=5.0)
  city = (rows.categories[:, 0] == 'Ulm').astype(float)
  return 3 * area + 10 * city + 2 * rows.numeric[:, 4]


@pytest.fixture(scope='module')
def inspected():
  rows = drawn()
  rows = Rows(
    numeric=rows.numeric, categories=rows.categories, target=known(rows)
  )
  features = Features.fit(rows, NAMES, ('city',), kinds=KINDS)
  return rows, inspection.inspect(rows, features, known)


def test_importances_are_the_increase_of_the_error(inspected):
  rows, found = inspected
  assert found['rows'] == 120 and found['repeats'] == 3
  assert found['rmse'] == 0
  by_name = {i['column']: i for i in found['importances']}
  # One column of the file each: a date with all of its parts.
  assert set(by_name) == {'area', 'noise', 'sold', 'city'}
  assert by_name['noise'] == {'column': 'noise', 'mean': 0, 'std': 0}
  # Shuffled, an independent column misses by √2 deviations of its part.
  area = np.sqrt(2) * 3 * np.nanstd(rows.numeric[:, 0])
  assert by_name['area']['mean'] == pytest.approx(area, rel=0.15)
  weekday = np.sqrt(2) * 2 * np.std(rows.numeric[:, 4])
  assert by_name['sold']['mean'] == pytest.approx(weekday, rel=0.15)
  assert found['importances'][0]['column'] == 'area'
  assert by_name['area']['std'] > 0


def test_dependences_follow_the_function(inspected):
  rows, found = inspected
  by_name = {d['column']: d for d in found['dependences']}
  assert set(by_name) == {'area', 'sold', 'city'}  # not what does nothing
  grid, predictions = by_name['area']['grid'], by_name['area']['predictions']
  assert len(grid) == inspection.NUM_GRID
  np.testing.assert_allclose(np.diff(predictions), 3 * np.diff(grid))
  assert grid[0] == np.nanmin(rows.numeric[:, 0])
  assert len(by_name['area']['quantiles']) == 11
  city = dict(zip(by_name['city']['grid'], by_name['city']['predictions'],
                  strict=True))  # fmt: skip
  assert city['Ulm'] - city['Köln'] == pytest.approx(10)
  assert city['missing'] == pytest.approx(city['Köln'])


def test_many_columns_or_few_rows_are_less_work_or_none():
  names = tuple(f'x{i}' for i in range(100))
  draw = np.random.default_rng(0)
  numeric = draw.normal(size=(80, 100))
  predicted = []

  def predict(rows):
    predicted.append(len(rows))
    return rows.numeric[:, 0]

  rows = Rows(
    numeric=numeric,
    categories=np.empty((80, 0), object),
    target=numeric[:, 0],
  )
  features = Features.fit(rows, names, ())
  found = inspection.inspect(rows, features, predict)
  assert found['repeats'] == 1 and found['rows'] == 40
  assert sum(predicted) < 1.5 * inspection.MAX_PREDICTED
  predicted.clear()  # Where a row costs more, no fewer than say something.
  found = inspection.inspect(rows, features, predict, max_predicted=500)
  assert found['repeats'] == 1 and found['rows'] == inspection.MIN_ROWS
  assert sum(predicted) < inspection.MIN_ROWS * 101 + 500
  few = Rows(
    numeric=numeric[:5],
    categories=rows.categories[:5],
    target=numeric[:5, 0],
  )
  assert inspection.inspect(few, features, predict) is None


def test_a_run_leaves_what_its_own_predictions_give(finished, data_file):
  found = json.loads((finished / inspection.FILE).read_text())
  run = finished_runs.open_run(finished)
  table = tables.read_file(data_file, 'price')
  assert found['rows'] == len(table.val)
  # The error that importances add to is that of the run on these rows.

  named = estimates.points(run.predict(table.val), run.model)
  values = run.model.scaler.restore(named[estimates.default_name(named)])
  error = np.sqrt(np.mean(np.square(values - table.val.target)))
  assert found['rmse'] == pytest.approx(error, rel=1e-5)
  columns = json.loads((finished / inspection.COLUMNS_FILE).read_text())
  by_name = {c['name']: c for c in columns['columns']}
  assert by_name['city']['kind'] == 'category'
  gaps = sum(by_name['area']['missing'].values())
  assert gaps == sum(i % 11 == 3 for i in range(120))
