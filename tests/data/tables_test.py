"""Tables from files, scikit-learn and OpenML."""

import datetime
import decimal
import gzip
import http.client
import math
import types
import urllib.error

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets, utils

from genre2_jax.data import tables
from genre2_jax.errors import InputError

SPLITS = ('train', 'val', 'test')


def _frame(n: int = 10) -> pd.DataFrame:
  return pd.DataFrame(
    {
      'size': np.arange(n) + 0.5,
      'city': [f'c{i % 3}' for i in range(n)],
      'y': np.arange(n) * 10,
    }
  )


def _write(path, text: str):
  path.write_text(text, encoding='utf-8')
  return path


def _columns(table: tables.Table, split: str = 'all') -> dict:
  """Values by name in the order of the target, to compare with the file."""
  splits = SPLITS if split == 'all' else (split,)
  rows = [getattr(table, name) for name in splits]
  order = np.argsort(np.concatenate([r.target for r in rows]))
  numeric = np.concatenate([r.numeric for r in rows])[order]
  categories = np.concatenate([r.categories for r in rows])[order]
  return dict(zip(table.numeric_names, numeric.T, strict=True)) | dict(
    zip(table.category_names, categories.T, strict=True)
  )


def _refused(action, *parts: str) -> None:
  with pytest.raises(InputError) as caught:
    action()
  text = str(caught.value)
  assert '\n' not in text
  for part in parts:
    assert part in text, text


@pytest.mark.parametrize(
  'extension',
  ['.csv', '.csv.gz', '.tsv', '.tsv.gz', '.parquet', '.pq', '.CSV'],
)
def test_every_format_reads_alike(tmp_path, extension):
  path = tmp_path / f'my.table{extension}'
  frame = _frame()
  if extension in ('.parquet', '.pq'):
    frame.to_parquet(path)
  else:
    frame.to_csv(path, index=False, sep='\t' if 'tsv' in extension else ',')
  table = tables.read_file(path, 'y', seed=3)
  assert table.name == 'my.table'
  assert table.numeric_names == ('size',)
  assert table.category_names == ('city',)
  assert table.target_name == 'y'
  columns = _columns(table)
  assert columns['size'].tolist() == frame['size'].tolist()
  assert columns['city'].tolist() == frame['city'].tolist()
  order = np.random.RandomState(3).permutation(10)
  assert table.train.target.tolist() == (order[:6] * 10).tolist()
  assert table.val.target.tolist() == (order[6:8] * 10).tolist()
  assert table.test.target.tolist() == (order[8:] * 10).tolist()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(n=st.integers(3, 400), seed=st.integers(0, 2**32 - 1))
def test_split_is_a_partition_of_the_promised_sizes(n, seed):
  frame = pd.DataFrame({'x': range(n), 'y': range(n)})
  table = tables._from_frame(frame, 't', 'y', seed, 't')
  n_test = math.ceil(n * 2 / 10)
  n_val = math.ceil((n - n_test) * 2 / 10)
  assert len(table.test) == n_test
  assert len(table.val) == n_val
  seen = np.concatenate([getattr(table, s).target for s in SPLITS])
  assert sorted(seen) == list(range(n))


@pytest.mark.parametrize('n', [1, 2])
def test_too_few_rows_to_split(tmp_path, n):
  path = tmp_path / 't.csv'
  _frame(n).to_csv(path, index=False)
  _refused(lambda: tables.read_file(path, 'y'), f'{n} rows', '3 or more')


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
  values=st.lists(
    st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=20
  )
)
def test_csv_keeps_every_bit(tmp_path_factory, values):
  path = tmp_path_factory.mktemp('csv') / 't.csv'
  pd.DataFrame({'x': values, 'y': range(len(values))}).to_csv(path, index=False)
  columns = _columns(tables.read_file(path, 'y'))
  assert columns['x'].tolist() == values


@pytest.mark.parametrize(
  ('cells', 'expected'),
  [
    (['1', '2.5', '-1e3'], [1, 2.5, -1000]),
    (['1', '', 'NA'], [1, np.nan, np.nan]),
    (['?', 'nan', '<NA>'], [np.nan] * 3),
    (['1', 'inf', '-inf'], [1, np.inf, -np.inf]),
    (['True', 'False', ''], ['True', 'False', None]),
    (['1', 'x', 'null'], ['1', 'x', None]),
    (['01', '1_0', '2'], ['01', '1_0', '2']),
    (['1970-01-02', '', '1969-12-31'], [86400, np.nan, -86400]),
    (['1970-01-01 00:00:01', '1970-01-01T00:01:00Z', '1970-01-01'], [1, 60, 0]),
    (['2020-01-01', '2020-13-01', ''], ['2020-01-01', '2020-13-01', None]),
    (['2020-01-01', '5', '6'], ['2020-01-01', '5', '6']),
    (['1/2/2020', '1/3/2020', ''], ['1/2/2020', '1/3/2020', None]),
    (['"a,b"', '"c ""d"""', 'é'], ['a,b', 'c "d"', 'é']),
  ],
)
def test_types_of_text_columns(tmp_path, cells, expected):
  rows = '\n'.join(f'{cell},{i}' for i, cell in enumerate(cells))
  path = _write(tmp_path / 't.csv', f'\ufeffx,y\n{rows}\n')
  values = _columns(tables.read_file(path, 'y'))['x']
  if any(isinstance(value, str) for value in expected):
    assert values.tolist() == expected
  else:
    np.testing.assert_array_equal(values.astype(np.float64), expected)
    assert values.dtype == np.float64


day = pd.Timestamp('1970-01-02')


@pytest.mark.parametrize(
  ('column', 'expected'),
  [
    (pd.Series([True, False, True]), ['True', 'False', 'True']),
    (pd.Series([True, None, False], dtype=object), ['True', None, 'False']),
    (pd.Series([1, None, 3], dtype='Int64'), [1, np.nan, 3]),
    (pd.Series([1, 2, 255], dtype='uint8'), [1, 2, 255]),
    (pd.Series([day, None, day]), [86400, np.nan, 86400]),
    (pd.Series([day] * 3).dt.tz_localize('Etc/GMT-1'), [82800] * 3),
    (pd.Series([day - pd.Timestamp(0)] * 3), [86400] * 3),
    (pd.Series([datetime.date(1970, 1, 2)] * 3, dtype=object), [86400] * 3),
    (pd.Series([decimal.Decimal('1.5')] * 3, dtype=object), [1.5] * 3),
    (pd.Series(['1', '2', '1'], dtype='category'), ['1', '2', '1']),
    (pd.Series([None] * 3, dtype=object), [np.nan] * 3),
    (pd.Series([[1], [2], None], dtype=object), ['[1]', '[2]', None]),
  ],
)
def test_types_of_typed_columns(tmp_path, column, expected):
  path = tmp_path / 't.parquet'
  pd.DataFrame({'x': column, 'y': range(3)}).to_parquet(path)
  values = _columns(tables.read_file(path, 'y'))['x']
  if any(isinstance(value, str) for value in expected):
    assert values.tolist() == expected
  else:
    np.testing.assert_array_equal(values.astype(np.float64), expected)


@pytest.mark.parametrize(
  ('text', 'parts'),
  [
    ('', ['not readable']),
    ('\n', ['not readable']),
    ('x,y\n', ['no data rows']),
    ('x,x,y\n1,2,3\n', ['duplicate', "'x'"]),
    ('x,target\n1,2\n', ["'y'", "there is 'x', 'target'"]),
    ('x,Y\n1,2\n', ["mean 'Y'?"]),
    ('x,y\n1,2\n1,z\n1,w\n', ['text', '2 rows: 2, 3']),
    ('x,y\n1,2\n1,\n1,3\n', ['missing or infinite', '1 row: 2']),
    ('x,y\n1,2\n1,2\n1,inf\n', ['missing or infinite', '1 row: 3']),
    ('y\n1\n2\n3\n', ['no feature columns']),
    ('x,y\n1,2\n1,2,3\n', ['not readable', 'line 3']),
    ('x,y\n1,"2\n1,2\n', ['not readable']),
  ],
)
def test_bad_csv(tmp_path, text, parts):
  path = _write(tmp_path / 't.csv', text)
  _refused(lambda: tables.read_file(path, 'y'), 't', *parts)


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('t.csv', 'x,y\né,1\n'.encode('latin1')),
    ('t.csv', bytes(range(256)) * 4),
    ('t.csv', gzip.compress(b'x,y\n1,2\n', mtime=0)),
    ('t.csv.gz', b'x,y\n1,2\n'),
    ('t.csv.gz', gzip.compress(b'x,y\n' * 999, mtime=0)[:-20]),
    ('t.parquet', b''),
    ('t.parquet', b'x,y\n1,2\n'),
    ('t.pq', b'PAR1' + b'\0' * 40 + b'PAR1'),
  ],
)
def test_foreign_bytes(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  _refused(lambda: tables.read_file(path, 'y'), str(path), 'not readable')


def test_paths_that_are_no_tables(tmp_path):
  _refused(
    lambda: tables.read_file(tmp_path / 'no.csv', 'y'), 'no.csv', 'no such file'
  )
  _refused(lambda: tables.read_file(tmp_path / 't.xls', 'y'), '.csv, .csv.gz')
  (tmp_path / 'd.csv').mkdir()
  _refused(lambda: tables.read_file(tmp_path / 'd.csv', 'y'), 'no such file')


def test_unnamed_columns_get_names(tmp_path):
  path = tmp_path / 't.csv'
  _frame().to_csv(path)  # with pandas' unnamed index
  assert tables.read_file(path, 'y').numeric_names == ('column_1', 'size')


def test_wide_rows_are_no_index(tmp_path):
  path = _write(tmp_path / 't.csv', 'x,y\n1,2,3\n4,5,6\n7,8,9\n')
  _refused(lambda: tables.read_file(path, 'y'), 'not readable')


def test_describe(tmp_path):
  n = 60
  frame = pd.DataFrame(
    {
      'x': [None, *range(n - 1)],
      'kind': ['a', 'b', None] * (n // 3),
      'code': [f'id{i}' for i in range(n)],
      'y': range(n),
    }
  )
  path = tmp_path / 't.csv'
  frame.to_csv(path, index=False)
  table = tables.read_file(path, 'y')
  assert tables.describe(table).splitlines() == [
    't: target y, 1 numeric and 2 category columns',
    'rows: train 38, val 10, test 12',
    f'  {"x":32} numeric   missing 1, distinct 59',
    f'  {"kind":32} category  missing 20, distinct 2',
    f'  {"code":32} category  missing 0, distinct 60',
    "looks like an identifier: 'code'",
  ]
  short = tables.describe(table, limit=1).splitlines()
  assert short[3:] == [
    '  ... and 2 more columns',
    "looks like an identifier: 'code'",
  ]


def test_diabetes():
  table = tables.load_sklearn('diabetes', seed=1)
  assert [len(getattr(table, s)) for s in SPLITS] == [282, 71, 89]
  assert table.category_names == ('sex',)
  assert set(table.train.categories[:, 0]) == {'1', '2'}
  assert table.train.numeric[:, 0].max() > 60  # years, not z-scores
  assert len(table.numeric_names) == 9
  _refused(lambda: tables.load_sklearn('boston'), "'boston'", "'diabetes'")


def test_openml(monkeypatch):
  calls = []

  def fetch(**options):
    calls.append(options)
    frame = _frame()
    frame['city'] = frame['city'].astype('category')
    frame['code'] = pd.Categorical(['1', '2'] * 5)
    y = frame.pop('y')
    return utils.Bunch(
      data=frame, target=y, frame=frame.assign(y=y), details={'name': 'homes'}
    )

  monkeypatch.setattr(datasets, 'fetch_openml', fetch)
  table = tables.load_openml('homes', seed=0)
  assert table.name == 'homes'
  assert table.numeric_names == ('size',)
  assert table.category_names == ('city', 'code')
  assert table.target_name == 'y'
  assert tables.load_openml('531', 'y').name == 'homes'
  assert tables.load_openml(531, 'y').name == 'homes'
  assert calls[0]['name'] == 'homes'
  assert 'data_id' not in calls[0]
  assert calls[0]['target_column'] == 'default-target'
  for call in calls[1:]:
    assert call['data_id'] == 531
    assert 'name' not in call
    assert call['target_column'] == 'y'


@pytest.mark.parametrize(
  'error',
  [
    urllib.error.URLError('Name or service\nnot known'),
    urllib.error.HTTPError('http://x', 404, 'Not Found', None, None),
    http.client.IncompleteRead(b''),
    TimeoutError(),
    ValueError('No active dataset homes found.'),
    KeyError("Could not find target_column='z'"),
  ],
)
def test_openml_failures(monkeypatch, error):
  def fetch(**options):
    raise error

  monkeypatch.setattr(datasets, 'fetch_openml', fetch)
  _refused(lambda: tables.load_openml('homes'), 'OpenML homes', 'network')


@pytest.mark.parametrize('target', [None, _frame()[['size', 'y']]])
def test_openml_without_one_target(monkeypatch, target):
  bunch = types.SimpleNamespace(target=target, frame=_frame())
  monkeypatch.setattr(datasets, 'fetch_openml', lambda **options: bunch)
  _refused(lambda: tables.load_openml('homes'), "'size', 'city', 'y'")


NAMES = {'numeric_names': ('b', 'a'), 'category_names': ('k',)}


def test_read_rows_matches_by_name(tmp_path):
  path = _write(
    tmp_path / 't.csv', 'k,a,extra,b,y\nu,1,?,2,zzz\n7,,x,1970-01-02,\n,3,,4,\n'
  )
  # Dates and numbers do not share a column.
  _refused(lambda: tables.read_rows(path, **NAMES), "'b'", 'text', '1 row: 2')
  _write(path, 'k,a,extra,b,y\nu,1,?,2,zzz\n7,,x,5,\n,3,,4,\n')
  rows = tables.read_rows(path, **NAMES, target_name='y')
  np.testing.assert_array_equal(rows.numeric, [[2, 1], [5, np.nan], [4, 3]])
  assert rows.categories.tolist() == [['u'], ['7'], [None]]
  assert rows.target is None
  assert len(rows) == 3


def test_read_rows_dates_as_in_training(tmp_path):
  path = _write(tmp_path / 't.csv', 'when,y\n1970-01-02,1\n1970-01-03,2\n')
  rows = tables.read_rows(path, numeric_names=['when'], category_names=[])
  assert rows.numeric.tolist() == [[86400], [172800]]
  assert rows.categories.shape == (2, 0)


@pytest.mark.parametrize(
  ('text', 'parts'),
  [
    ('a,y\n1,2\n', ['2 columns are missing', "'b', 'k'", "'y' is not needed"]),
    ('a,b,k\n', ['no data rows']),
    ('a,b,k\n1,2,u\nx,3,u\nz,4,u\n', ["'a'", 'text', '2 rows: 2, 3']),
    ('a,a,b,k\n1,2,3,u\n', ['duplicate']),
  ],
)
def test_read_rows_refuses(tmp_path, text, parts):
  path = _write(tmp_path / 't.csv', text)
  _refused(
    lambda: tables.read_rows(path, **NAMES, target_name='y'), str(path), *parts
  )


def test_first_rows_only_are_listed():
  cells = np.array(['x'] * 7 + ['1'], object)
  _refused(
    lambda: tables.numbers('here', cells), 'here', '7 rows: 1, 2, 3, 4, 5, ...'
  )


@pytest.mark.parametrize('dtype', ['complex128', 'M8[s]', 'S3'])
def test_numbers_refuses_other_dtypes(dtype):
  _refused(lambda: tables.numbers('here', np.ones(2).astype(dtype)), 'here')


def test_labels_of_integral_floats_are_those_of_integers():
  cells = np.array([[3, 3.0], [np.float64(3), '3'], [np.nan, 1e300]], object)
  assert tables.labels(cells).tolist() == [
    ['3', '3'],
    ['3', '3'],
    [None, str(int(1e300))],
  ]


def test_build_refuses_duplicate_names():
  splits = dict.fromkeys(
    SPLITS, (np.ones((2, 1)), np.ones((2, 1), object), np.ones(2))
  )
  _refused(
    lambda: tables.build(
      't', splits, numeric_names=['a'], category_names=['a'], target_name='y'
    ),
    'duplicate',
    "'a'",
  )
