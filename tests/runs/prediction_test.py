"""Predictions of a finished run for new rows."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from checks import assert_refused

from genre2_jax.data import tables
from genre2_jax.runs import prediction


@pytest.fixture(scope='module')
def rows(data_file):
  """The file's rows as text, without the target."""
  return pd.read_csv(data_file, dtype=str, keep_default_na=False).drop(
    columns='price'
  )


@pytest.fixture
def forecast(finished, tmp_path):
  """`rows -> predictions` by way of files."""

  def run(rows):
    rows.to_csv(tmp_path / 'in.csv', index=False)
    prediction.predict_file(finished, tmp_path / 'in.csv', tmp_path / 'out.csv')
    return pd.read_csv(tmp_path / 'out.csv')

  return run


def test_every_row_gets_a_prediction_in_the_original_unit(
  forecast, rows, data_file
):
  table = forecast(rows)
  assert list(table) == [
    'row', 'prediction', 'greedy', 'sample', 'mean', 'median', 'clipped_mean',
    'clipped_median', 'exact_mean', 'exact_median', 'lower90', 'upper90',
  ]  # fmt: skip
  assert list(table['row']) == list(range(len(rows)))
  assert (table['prediction'] == table['exact_median']).all()
  assert (table['lower90'] <= table['prediction']).all()
  assert (table['prediction'] <= table['upper90']).all()
  price = pd.read_csv(data_file)['price']
  train = tables.read_file(data_file, 'price').train.target
  # A normalized tokenizer cannot leave the range of the training targets.
  slack = 1e-3 * np.ptp(train)
  assert (
    table['prediction'].between(train.min() - slack, train.max() + slack).all()
  )
  assert np.corrcoef(table['prediction'], price)[0, 1] > 0.5


def test_the_test_rows_get_the_numbers_of_predictions_csv(
  forecast, finished, rows, data_file
):
  """Same rows, same places in the file, same keys: the same samples."""
  prices = pd.read_csv(data_file)['price']
  known = pd.read_csv(finished / 'predictions.csv')
  assert prices.is_unique
  order = [int(np.flatnonzero(prices == y)[0]) for y in known['target']]
  table = forecast(rows.iloc[order])
  for column in known.columns.drop('target'):
    np.testing.assert_array_equal(table[column], known[column])


def test_a_row_is_predicted_by_its_cells_and_its_place_alone(forecast, rows):
  whole = forecast(rows)
  part = forecast(rows.iloc[:50])
  pd.testing.assert_frame_equal(part, whole.iloc[:50], rtol=1e-6)


def test_columns_match_by_name_and_others_are_ignored(forecast, rows):
  expected = forecast(rows)
  shuffled = rows[['city', 'age', 'rooms', 'area']].assign(
    price='unknown', note='x'
  )
  pd.testing.assert_frame_equal(forecast(shuffled), expected)


def test_unseen_and_missing_cells_are_predicted(forecast, rows):
  strange = rows.assign(city='Atlantis', area='')
  assert np.isfinite(forecast(strange)).all(axis=None)
  assert len(forecast(strange.iloc[:1])) == 1


@pytest.mark.parametrize(
  ('text', 'parts'),
  [
    ('area,rooms,age\n1,2,3\n', ["'city'", 'missing']),
    ('area,rooms,age,city\n', ['no data rows']),
    ('', ['not readable']),
    ('area,rooms,age,city\n1,2,3,a\n1,two,3,a\n', ["'rooms'", '1 row: 2']),
  ],
)
def test_unusable_rows_are_refused_and_nothing_is_written(
  finished, tmp_path, text, parts
):
  source, output = tmp_path / 'in.csv', tmp_path / 'out.csv'
  source.write_text(text)
  output.write_text('mine')
  assert_refused(
    lambda: prediction.predict_file(finished, source, output), *parts
  )
  assert output.read_text() == 'mine'
  assert {path.name for path in tmp_path.iterdir()} == {'in.csv', 'out.csv'}


def test_an_output_without_a_place_is_refused_before_the_work(
  finished, data_file, tmp_path
):
  def start(output):
    return lambda: prediction.predict_file(finished, data_file, output)

  assert_refused(start(tmp_path / 'new' / 'out.csv'), 'no folder', 'new')
  assert_refused(start(tmp_path), 'is a folder')
  before = data_file.read_bytes()
  assert_refused(start(data_file), 'is the input')
  assert data_file.read_bytes() == before
  assert list(tmp_path.iterdir()) == []
  assert_refused(
    lambda: prediction.predict_file(
      finished, tmp_path / 'nowhere.csv', tmp_path / 'out.csv'
    ),
    'nowhere.csv',
    'no such file',
  )


@pytest.fixture
def copy(finished, tmp_path):
  """The finished run, without what predictions don't need."""
  return shutil.copytree(
    finished,
    tmp_path / 'copy',
    ignore=shutil.ignore_patterns('evaluation', 'tensorboard', 'figures'),
  )


@pytest.mark.parametrize(
  'damage',
  [
    lambda text: text[: len(text) // 2],
    lambda text: '[]',
    lambda text: '{}',
    lambda text: text.replace('"most_frequent"', '"most_common"'),
    lambda text: json.dumps(json.loads(text) | {'features': '__import__'}),
    lambda text: json.dumps(json.loads(text) | {'scaler': {'mean': 'x'}}),
    lambda text: '\x80\x04cposix\nsystem\n(S"touch pwned"\ntR.',
  ],
)
def test_a_damaged_model_json_is_refused(copy, data_file, tmp_path, damage):
  path = copy / 'model.json'
  path.write_text(damage(path.read_text()))
  assert_refused(
    lambda: prediction.predict_file(copy, data_file, tmp_path / 'out.csv')
  )
  assert not (tmp_path / 'out.csv').exists()


def test_a_run_without_its_files_is_refused(copy, data_file, tmp_path):
  def start():
    prediction.predict_file(copy, data_file, tmp_path / 'out.csv')

  shutil.rmtree(copy / 'checkpoints')
  start()  # They are to go on from: nothing else needs them.
  shutil.rmtree(copy / 'weights' / 'remax')
  assert_refused(start, 'remax', 'no whole weights')
  (copy / 'run.json').unlink()
  assert_refused(start, 'not finished')
  (copy / 'config.json').unlink()
  assert_refused(start, 'no workdir')


def test_a_run_from_before_there_were_weights_still_predicts(
  copy, finished, data_file, tmp_path
):
  shutil.rmtree(copy / 'weights')
  for workdir, name in ((copy, 'old.csv'), (finished, 'new.csv')):
    prediction.predict_file(workdir, data_file, tmp_path / name)
  old, new = (tmp_path / name for name in ('old.csv', 'new.csv'))
  assert old.read_bytes() == new.read_bytes()


def test_damaged_weights_are_refused(copy, data_file, tmp_path):
  for path in (copy / 'weights' / 'remax').rglob('d/*'):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
  assert_refused(
    lambda: prediction.predict_file(copy, data_file, tmp_path / 'out.csv'),
    'no whole weights',
  )
