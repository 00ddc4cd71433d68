"""Predictions of a finished run for new rows."""

import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from checks import assert_refused

from genre2_jax import DecodingRegressor, errors
from genre2_jax.data import pieces, tables
from genre2_jax.devices import interrupts
from genre2_jax.runs import estimates, prediction
from genre2_jax.runs import finished as finished_run


@pytest.fixture(scope='module')
def rows(data_file):
  """The file's rows as text, without the target."""
  frame = pd.read_csv(data_file, dtype=str, keep_default_na=False).drop(
    columns='price'
  )
  frame.attrs['path'] = str(data_file)
  return frame


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
    'row', 'prediction', 'lower90', 'upper90', 'greedy', 'sample', 'mean',
    'median', 'clipped_mean', 'clipped_median', 'exact_mean', 'exact_median',
    'conformal_lower90', 'conformal_upper90', 'model_lower90', 'model_upper90',
  ]  # fmt: skip
  assert list(table['row']) == list(range(1, len(rows) + 1))
  assert (table['prediction'] == table['exact_mean']).all()
  assert (table['lower90'] <= table['exact_median']).all()
  assert (table['exact_median'] <= table['upper90']).all()
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


def test_both_doors_say_the_same(forecast, finished, data_file):
  frame = pd.read_csv(data_file)  # In the file's order, with its target.
  table = forecast(frame)
  loaded = DecodingRegressor.load(finished)
  np.testing.assert_array_equal(table['prediction'], loaded.predict(frame))
  np.testing.assert_array_equal(
    table[['lower90', 'upper90']], loaded.predict_interval(frame)
  )
  np.testing.assert_array_equal(
    table[['model_lower90', 'model_upper90']],
    loaded.predict_interval(frame, method='model'),
  )
  np.testing.assert_array_equal(
    table['exact_median'], loaded.predict(frame, 'exact_median')
  )
  np.testing.assert_array_equal(
    table[['prediction', 'lower90', 'upper90']],
    table[['exact_mean', 'conformal_lower90', 'conformal_upper90']],
  )
  assert_refused(
    lambda: loaded.predict(frame.rename(columns={'rooms': 'room'})),
    "'rooms'",
    "did you mean 'room'?",
  )


def test_margins_are_those_of_the_validation_rows(forecast, finished, rows):
  prices = pd.read_csv(rows.attrs['path'])['price']
  val = tables.read_file(rows.attrs['path'], 'price').val.target
  order = [int(np.flatnonzero(prices == y)[0]) for y in val]
  table = forecast(rows.iloc[order])
  low, high = table['model_lower90'], table['model_upper90']
  scores = np.sort(np.maximum(low - val, val - high))
  margin = scores[int(np.ceil(21 * 0.9)) - 1]
  np.testing.assert_allclose(
    table['lower90'],
    np.minimum(low - margin, table['exact_median']),
    rtol=1e-5,
  )
  assert np.mean((table['lower90'] <= val) & (val <= table['upper90'])) >= 0.9


def test_a_run_without_margins_has_the_models_own_interval(
  copy, finished, data_file, tmp_path, capsys
):
  (copy / 'margins.json').unlink()
  prediction.predict_file(copy, data_file, tmp_path / 'old.csv')
  assert "model's own" in capsys.readouterr().out
  prediction.predict_file(finished, data_file, tmp_path / 'new.csv')
  old, new = (pd.read_csv(tmp_path / f'{n}.csv') for n in ('old', 'new'))
  gone = [name for name in new if name not in old]
  assert gone == [
    'lower90', 'upper90', 'conformal_lower90', 'conformal_upper90',
  ]  # fmt: skip
  pd.testing.assert_frame_equal(old, new[list(old)])
  loaded, frame = DecodingRegressor.load(copy), pd.read_csv(data_file)
  with pytest.warns(UserWarning, match="model's own"):
    found = loaded.predict_interval(frame)
  np.testing.assert_array_equal(found, old[['model_lower90', 'model_upper90']])
  assert_refused(
    lambda: loaded.predict_interval(frame, method='conformal'),
    "method='model'",
  )


def test_damaged_margins_are_refused(copy, data_file, tmp_path):
  (copy / 'margins.json').write_text('{"margins": [1.0]}')
  assert_refused(
    lambda: prediction.predict_file(copy, data_file, tmp_path / 'out.csv'),
    'margins.json is damaged',
  )


def test_blocks_of_rows_have_the_bits_of_one_go(forecast, rows, monkeypatch):
  """Samples among them, which depend on a row's number."""
  whole = forecast(rows)
  monkeypatch.setattr(finished_run, '_MAX_ROWS', 33)  # Two device blocks.
  sizes = []
  predict = finished_run.evaluation.predict

  def counted(*arguments, **options):
    found = predict(*arguments, **options)
    sizes.append(found['greedy_z'].shape[1])
    return found

  monkeypatch.setattr(finished_run.evaluation, 'predict', counted)
  pd.testing.assert_frame_equal(forecast(rows), whole, check_exact=True)
  assert sizes == [32, 32, 32, 24]


@pytest.mark.parametrize('kind', ['.csv', '.csv.gz', '.tsv', '.parquet'])
def test_a_file_in_pieces_gives_what_it_gives_at_once(
  finished, rows, tmp_path, monkeypatch, kind
):
  """Bits and kept columns, in the memory of a piece, however many they are."""
  rows = rows.assign(
    note=[None if i < 60 else f'"{i}"' for i in range(len(rows))],
    code=[i if i % 50 else None for i in range(len(rows))],
  )
  rows['code'] = rows['code'].astype('Int64')
  source = tmp_path / f'in{kind}'
  if kind == '.parquet':
    rows.to_parquet(source, index=False)
  else:
    rows.to_csv(source, index=False, sep='\t' if kind == '.tsv' else ',')
  outputs = [tmp_path / f'{name}{o}' for name in 'ab' for o in ('.csv', '.pq')]
  for output in outputs[:2]:
    prediction.predict_file(finished, source, output, ['all'])
  sizes = []
  plain = prediction.read_pieces

  def counted(*arguments):
    for frame in plain(*arguments):
      sizes.append(len(frame))
      yield frame

  monkeypatch.setattr(prediction, 'read_pieces', counted)
  monkeypatch.setattr(pieces, '_LETTERS', 900)
  monkeypatch.setattr(pieces, '_CELLS', 210)
  for output in outputs[2:]:
    prediction.predict_file(finished, source, output, ['all'])
  assert max(sizes) < 50 and sum(sizes) == 4 * len(rows)  # Each is read twice.
  assert outputs[0].read_bytes() == outputs[2].read_bytes()
  pd.testing.assert_frame_equal(
    pd.read_parquet(outputs[1]), pd.read_parquet(outputs[3])
  )


def test_what_is_wrong_far_below_is_said_before_the_work(
  finished, rows, tmp_path, monkeypatch
):
  monkeypatch.setattr(pieces, '_LETTERS', 900)
  source, output = tmp_path / 'in.csv', tmp_path / 'out.csv'
  rooms = rows['rooms'].mask(rows.index == 110, 'two')
  rows.assign(rooms=rooms).to_csv(source, index=False)
  predicted = []
  monkeypatch.setattr(
    finished_run.FinishedRun,
    'predict_blocks',
    lambda *arguments, **options: predicted.append(1),
  )
  message = assert_refused(
    lambda: prediction.predict_file(finished, source, output),
    "column 'rooms'",
    "'two'",
    'after row',
  )
  first = int(message.split('after row ')[1].split(':')[0])
  row = int(message.split('1 row: ')[1].split()[0])
  assert first + row == 111
  assert not predicted and not output.exists()


KINDS = {
  '.csv': (pd.DataFrame.to_csv, lambda path: pd.read_csv(path, dtype=str)),
  '.tsv': (
    lambda frame, path, index: frame.to_csv(path, index=index, sep='\t'),
    lambda path: pd.read_csv(path, dtype=str, sep='\t'),
  ),
  '.parquet': (pd.DataFrame.to_parquet, pd.read_parquet),
  '.xlsx': (
    pd.DataFrame.to_excel,
    lambda path: pd.read_excel(path, dtype={'id': str}),
  ),
  '.jsonl': (
    lambda frame, path, index: frame.to_json(
      path, orient='records', lines=True
    ),
    lambda path: pd.read_json(path, lines=True, dtype={'id': str}),
  ),
}


@pytest.mark.parametrize('kind', KINDS)
def test_kept_columns_go_along_from_every_kind_to_every_kind(
  finished, rows, tmp_path, kind
):
  if kind == '.xlsx':
    pytest.importorskip('openpyxl')
  put, get = KINDS[kind]
  ids = [f'00{i}' for i in range(len(rows))]
  source, output = (tmp_path / f'{name}{kind}' for name in ('in', 'out'))
  put(rows.assign(id=ids, note='a, "b"'), source, index=False)
  prediction.predict_file(finished, source, output, ['id', 'note'])
  table = get(output)
  assert list(table)[:4] == ['row', 'id', 'note', 'prediction']
  assert list(table['id']) == ids and set(table['note']) == {'a, "b"'}
  assert table['row'].astype(int).tolist() == list(range(1, len(rows) + 1))


def test_all_columns_go_along(finished, data_file, rows, tmp_path, capsys):
  output = tmp_path / 'out.csv'
  prediction.predict_file(finished, data_file, output, ['all'])
  table = pd.read_csv(output, dtype=str, keep_default_na=False)
  pd.testing.assert_frame_equal(
    table[list(rows)], rows, check_dtype=False, check_like=True
  )
  assert list(table)[:7] == ['row', *rows, 'price', 'prediction']
  out = capsys.readouterr().out
  assert 'prediction is exact_mean' in out and 'conformal 90 %' in out


@pytest.mark.parametrize(
  ('keep', 'parts'),
  [
    (['roms'], ['--keep=roms', "did you mean 'rooms', 'row'?"]),
    (['area', 'exact_mean'], ['--keep=area,exact_mean', "'exact_mean' too"]),
    (['all'], ["'exact_mean' too", 'rename it']),
    (['row'], ["'row' too"]),
  ],
)
def test_what_cannot_be_kept_is_refused_before_the_work(
  finished, rows, tmp_path, keep, parts
):
  source, output = tmp_path / 'in.csv', tmp_path / 'out.csv'
  rows.assign(exact_mean=1, row=2).to_csv(source, index=False)
  assert_refused(
    lambda: prediction.predict_file(finished, source, output, keep), *parts
  )
  assert not output.exists()


def test_every_column_of_predictions_has_a_name_that_is_known(forecast, rows):
  assert set(forecast(rows.iloc[:1])) - {'row'} <= set(estimates.NAMES)


def test_cells_of_several_types_are_kept_as_text():
  found = prediction._cells(pd.Series([1, 'a', None, 2**70], dtype=object))
  assert found.to_pylist() == ['1', 'a', None, str(2**70)]


@pytest.mark.parametrize('kind', ['.parquet', '.xlsx'])
def test_the_output_is_what_its_name_says(
  forecast, finished, data_file, rows, tmp_path, kind
):
  if kind == '.xlsx':
    pytest.importorskip('openpyxl')
  path = tmp_path / f'out{kind}'
  prediction.predict_file(finished, data_file, path)
  read = pd.read_excel if kind == '.xlsx' else pd.read_parquet
  pd.testing.assert_frame_equal(read(path), forecast(rows), rtol=1e-15)


def test_an_unknown_kind_of_output_is_refused_before_the_work(tmp_path):
  assert_refused(
    lambda: prediction.predict_file(
      tmp_path / 'nowhere', tmp_path / 'in.csv', tmp_path / 'out.docx'
    ),
    'out.docx',
    '.parquet',
  )


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


def test_a_signal_ends_it_in_a_line_and_leaves_nothing_behind(
  finished, data_file, tmp_path, monkeypatch
):
  received = interrupts.Interrupts(leaves=True)
  left = []

  def leave(error):
    left.append((str(error), error.exit_code, [*tmp_path.iterdir()]))
    raise KeyboardInterrupt  # The process would be gone.

  def columns(*args, **kwargs):
    assert (tmp_path / '.out.csv.tmp').exists()
    received.receive(signal.SIGINT, None)

  monkeypatch.setattr(errors, 'leave', leave)
  monkeypatch.setattr(prediction.estimates, 'columns', columns)
  output = tmp_path / 'out.csv'
  with pytest.raises(KeyboardInterrupt):
    prediction.predict_file(finished, data_file, output, interrupts=received)
  ((message, code, files),) = left
  assert f'interrupted while predicting, {output} is not written' in message
  assert (code, files) == (75, [])


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
