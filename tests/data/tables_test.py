"""Tables from files, scikit-learn and OpenML."""

import datetime
import decimal
import gzip
import http.client
import math
import sys
import types
import urllib.error
import warnings

import numpy as np
import pandas as pd
import pytest
from checks import assert_refused
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
  assert_refused(lambda: tables.read_file(path, 'y'), f'{n} rows', '3 or more')


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
  assert_refused(lambda: tables.read_file(path, 'y'), 't', *parts)


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
  assert_refused(lambda: tables.read_file(path, 'y'), str(path), 'not readable')


def test_paths_that_are_no_tables(tmp_path):
  assert_refused(
    lambda: tables.read_file(tmp_path / 'no.csv', 'y'), 'no.csv', 'no such file'
  )
  assert_refused(
    lambda: tables.read_file(tmp_path / 't.xls', 'y'), '.csv, .csv.gz'
  )
  (tmp_path / 'd.csv').mkdir()
  assert_refused(
    lambda: tables.read_file(tmp_path / 'd.csv', 'y'), 'no such file'
  )


def test_unnamed_columns_get_names(tmp_path):
  path = tmp_path / 't.csv'
  _frame().to_csv(path)  # with pandas' unnamed index
  assert tables.read_file(path, 'y').numeric_names == ('column_1', 'size')


def test_wide_rows_are_no_index(tmp_path):
  path = _write(tmp_path / 't.csv', 'x,y\n1,2,3\n4,5,6\n7,8,9\n')
  assert_refused(lambda: tables.read_file(path, 'y'), 'not readable')


def test_train_rows_are_cut_at_random_and_others_are_not():
  whole = tables.load_sklearn()
  cut = tables.cut(whole, 100, seed=3)
  assert (len(cut.train), cut.drawn_from) == (100, len(whole.train))
  assert cut.val is whole.val and cut.test is whole.test
  numeric = whole.train.numeric
  places = [
    int(np.flatnonzero((numeric == row).all(1))[0]) for row in cut.train.numeric
  ]
  assert places == sorted(set(places)) and places != list(range(100))
  np.testing.assert_array_equal(
    cut.train.target, whole.train.known_target[places]
  )
  again, other = (tables.cut(whole, 100, seed=s).train for s in (3, 4))
  np.testing.assert_array_equal(again.target, cut.train.target)
  assert (other.known_target != cut.train.known_target).any()
  rows = f'train 100, val {len(whole.val)}, test {len(whole.test)}'
  assert tables.describe(cut).splitlines()[1] == (
    f'rows: {rows}; train rows drawn at random from {len(whole.train)}'
  )
  for enough in (0, len(whole.train)):
    assert tables.cut(whole, enough, seed=3) is whole


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
    "looks like an identifier: 'code'; data.kinds='code=ignore' leaves it out",
  ]
  short = tables.describe(table, limit=1).splitlines()
  assert short[3:] == [
    '  ... and 2 more columns',
    "looks like an identifier: 'code'; data.kinds='code=ignore' leaves it out",
  ]


def test_diabetes():
  table = tables.load_sklearn('diabetes', seed=1)
  assert [len(getattr(table, s)) for s in SPLITS] == [282, 71, 89]
  assert table.category_names == ('sex',)
  assert set(table.train.categories[:, 0]) == {'1', '2'}
  assert table.train.numeric[:, 0].max() > 60  # years, not z-scores
  assert len(table.numeric_names) == 9
  assert_refused(
    lambda: tables.load_sklearn('boston'), "'boston'", "'diabetes'"
  )


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
  assert_refused(lambda: tables.load_openml('homes'), 'OpenML homes', 'network')


@pytest.mark.parametrize('target', [None, _frame()[['size', 'y']]])
def test_openml_without_one_target(monkeypatch, target):
  bunch = types.SimpleNamespace(target=target, frame=_frame())
  monkeypatch.setattr(datasets, 'fetch_openml', lambda **options: bunch)
  assert_refused(lambda: tables.load_openml('homes'), "'size', 'city', 'y'")


NAMES = {'numeric_names': ('b', 'a'), 'category_names': ('k',)}


def test_read_rows_matches_by_name(tmp_path):
  path = _write(
    tmp_path / 't.csv', 'k,a,extra,b,y\nu,1,?,2,zzz\n7,,x,1970-01-02,\n,3,,4,\n'
  )
  # Dates and numbers do not share a column.
  assert_refused(
    lambda: tables.read_rows(path, **NAMES), "'b'", 'text', '1 row: 2'
  )
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
  assert_refused(
    lambda: tables.read_rows(path, **NAMES, target_name='y'), str(path), *parts
  )


def test_first_rows_only_are_listed():
  cells = np.array(['x'] * 7 + ['1'], object)
  assert_refused(
    lambda: tables.numbers('here', cells), 'here', '7 rows: 1, 2, 3, 4, 5, ...'
  )


@pytest.mark.parametrize('dtype', ['complex128', 'M8[s]', 'S3'])
def test_numbers_refuses_other_dtypes(dtype):
  assert_refused(
    lambda: tables.numbers('here', np.ones(2).astype(dtype)), 'here'
  )


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
  assert_refused(
    lambda: tables.build(
      't', splits, numeric_names=['a'], category_names=['a'], target_name='y'
    ),
    'duplicate',
    "'a'",
  )


# ------------------------------------------------------------------ strangers


def _said(action):
  """What an action returns, and the warnings of data that it gives."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    result = action()
  said = [w for w in caught if issubclass(w.category, tables.DataWarning)]
  assert all('\n' not in str(w.message) for w in said)
  assert all(w.filename == __file__ for w in said)
  return result, [str(w.message) for w in said]


def _with_column(tmp_path, cell, n=60, **options):
  """A table with the column 'size' of cells `cell(row)`, and what is said."""
  rows = ''.join(f'{i},{cell(i)},{i}\n' for i in range(n))
  path = _write(tmp_path / 't.csv', f'x,size,y\n{rows}')
  return _said(lambda: tables.read_file(path, 'y', **options))


@pytest.mark.parametrize(
  ('cell', 'words', 'options', 'second'),
  [
    (
      lambda i: f'"1,{i:03d}"',
      ['thousands=,'],
      {'reading': 'thousands=,'},
      1001,
    ),
    (lambda i: f'"{i},5"', ['decimal=,'], {'reading': 'decimal=,'}, 1.5),
    (
      lambda i: f'"1.{i:03d},5"',
      ['decimal=, thousands=.'],
      {'reading': {'decimal': ',', 'thousands': '.'}},
      1001.5,
    ),
    (
      lambda i: f"1'{i:03d}",
      ['apostrophe'],
      {'reading': 'thousands=apostrophe'},
      1001,
    ),
    (
      lambda i: f'1\N{NO-BREAK SPACE}{i:03d}',
      ['thousands=space'],
      {'reading': 'thousands=space'},
      1001,
    ),
    (lambda i: f'{i} €', ["'€'", 'size=number'], {'kinds': 'size=number'}, 1),
    (lambda i: f'${i}.5', ["'$'"], {'kinds': {'size': 'number'}}, 1.5),
    (lambda i: f'{i}.5%', ["'%'"], {'kinds': 'size=number'}, 1.5),
    (
      lambda i: f'"{i},5 kg"',
      ["'kg'", 'decimal=,', 'size=number'],
      {'kinds': 'size=number', 'reading': 'decimal=,'},
      1.5,
    ),
    (
      lambda i: 'n.k.' if i == 17 else i,
      ['59 of 60', "'n.k.' (1)", '1 row: 18', 'size=number'],
      {'kinds': 'size=number'},
      1,
    ),
    (
      lambda i: f'{i % 28 + 1:02d}.03.2020',
      ['dates', "size='date %d.%m.%Y'"],
      {'kinds': "size='date %d.%m.%Y'"},
      1583107200,
    ),
    (
      lambda i: f'3/{i % 28 + 1}/2020',
      ['dates', '%m/%d/%Y'],
      {'kinds': 'size=date'},
      1583107200,
    ),
    (
      lambda i: f'0{i % 9 + 1}/0{i % 7 + 1}/2020',
      ['day or month first', '%d/%m/%Y', '%m/%d/%Y'],
      {'kinds': {'size': 'date %d/%m/%Y'}},
      1580601600,
    ),
    (
      lambda i: f'{i % 28 + 1}.3.2020 10:30',
      ['dates', '%H:%M'],
      {'reading': "date_format='%d.%m.%Y %H:%M'"},
      1583145000,
    ),
    (
      lambda i: 'open' if i == 3 else f'2020-03-{i % 28 + 1:02d}',
      ['59 of 60', 'dates', 'size=date'],
      {'kinds': 'size=date'},
      1583107200,
    ),
    (lambda i: f'{i % 24:02d}:30', ['times'], {'kinds': 'size=time'}, 5400),
    (
      lambda i: f'{i:04d}',
      ['leading zeros', 'size=number'],
      {'kinds': 'size=number'},
      1,
    ),
  ],
)
def test_what_looks_like_numbers_is_said_and_read_by_hand(
  tmp_path, cell, words, options, second
):
  table, said = _with_column(tmp_path, cell)
  assert table.category_names == ('size',)
  (message,) = said
  for word in ("column 'size'", *words):
    assert word in message, message
  table, _ = _with_column(tmp_path, cell, **options)
  assert _columns(table)['size'][1] == second


@pytest.mark.parametrize(
  'cell',
  [
    lambda i: f'({i})',
    lambda i: f'{i}-',
    lambda i: f'{i}-{i + 5}',
    lambda i: f'<{i}',
    lambda i: f'=""{i}""',
    lambda i: f'{i % 28 + 1}.1.2020' if i % 2 else f'2020-01-{i % 28 + 1:02d}',
  ],
)
def test_other_notations_are_said(tmp_path, cell):
  table, said = _with_column(tmp_path, cell)
  assert table.category_names == ('size',)
  assert 'numbers or dates' in said[0] and 'size=category' in said[0]
  _, said = _with_column(tmp_path, cell, kinds='size=category')
  assert not said


@pytest.mark.parametrize(
  'cell',
  [
    lambda i: f'0x{i:02x}',
    lambda i: f'1_{i:03d}',
    lambda i: f'{i}.5D+03',
    lambda i: f'2020-W{i % 50 + 1:02d}',
    lambda i: f'2020Q{i % 4 + 1}',
    lambda i: f'Q{i % 4 + 1} 2020',
    lambda i: f'Jan-{i:02d}',
    lambda i: f'{i}h30m',
    lambda i: f'{i} min 5 s',
    lambda i: f'{i} days 03:04:05',
    lambda i: f'PT{i}H',
    lambda i: f'({i}+1j)',
  ],
)
def test_notations_that_are_not_read_are_said(tmp_path, cell):
  table, said = _with_column(tmp_path, cell)
  assert table.category_names == ('size',)
  assert 'not read' in said[0] and 'size=category' in said[0]


def test_different_units_are_said(tmp_path):
  _, (message,) = _with_column(
    tmp_path, lambda i: f'{i} kg' if i % 3 else f'{1000 * i} g'
  )
  assert "'kg' (40), 'g' (20)" in message


def test_points_that_may_be_of_thousands_are_said(tmp_path):
  def cell(i):
    return f'1.{i:03d}' if i % 2 else 850 + i

  _, (message,) = _with_column(tmp_path, cell)
  assert "'1.001'" in message and 'thousands=.' in message and '1001' in message
  _, said = _with_column(
    tmp_path, lambda i: f'"{cell(i)}"', reading='decimal=. '
  )
  assert len(said) == 1
  table, said = _with_column(
    tmp_path, cell, reading={'thousands': '.', 'decimal': ','}
  )
  assert _columns(table)['size'][1] == 1001 and not said
  for other in (0.125, 1.5, 1250, 1.0625):
    assert not _with_column(tmp_path, lambda i, o=other: cell(i) if i else o)[1]


def test_lists_and_objects_are_said(tmp_path):
  path = tmp_path / 't.jsonl'
  lines = (f'{{"x": {{"u": {i}}}, "y": {i}}}' for i in range(9))
  path.write_text('\n'.join(lines))
  _, (message,) = _said(lambda: tables.read_file(path, 'y'))
  assert "'x': 9 cells" in message and 'column of its own' in message


def test_a_name_twice_in_a_line_of_json_is_refused(tmp_path):
  path = _write(tmp_path / 't.jsonl', '{"x": 1, "y": 2}\n{"x": 1, "x": 2}\n')
  assert_refused(lambda: tables.read_file(path, 'y'), 'line 2', "'x'", 'twice')


def test_months_are_dates(tmp_path):
  _, said = _with_column(tmp_path, lambda i: f'2020-{i % 12 + 1:02d}')
  assert "size='date %Y-%m'" in said[0]


@pytest.mark.parametrize('cell', ['inf', '-Infinity', '1e400', '9' * 400])
def test_infinite_numbers_are_said(tmp_path, cell):
  table, (message,) = _with_column(tmp_path, lambda i: cell if i == 7 else i)
  assert np.isinf(_columns(table)['size'][7])
  for word in ("'size'", cell[:20], '1 row: 8', 'missing'):
    assert word in message


def test_integers_beyond_float64_are_numbers(tmp_path):
  path = tmp_path / 't.jsonl'
  lines = (f'{{"x": 1{"0" * 400 * (i == 2)}, "y": {i}}}' for i in range(9))
  path.write_text('\n'.join(lines))
  table, (message,) = _said(lambda: tables.read_file(path, 'y'))
  assert table.numeric_names == ('x',)
  assert '1 row: 3' in message


def test_numbers_below_float64_are_said(tmp_path):
  _, (message,) = _with_column(
    tmp_path, lambda i: '-3e-400' if i == 7 else i + 1
  )
  assert not _with_column(tmp_path, lambda i: '0e-9' if i == 7 else i)[1]
  assert "'-3e-400' are too small" in message


@pytest.mark.parametrize(
  ('cell', 'how', 'second'),
  [
    (lambda i: f'202001{i % 31 + 1:02d}', '%Y%m%d', 1577923200),
    (lambda i: 99991231 if i % 20 == 0 else 20200102, None, None),
    (
      lambda i: 99991231 if i % 20 == 0 else 20200101 + i % 28,
      '%Y%m%d',
      1577923200,
    ),
    (lambda i: f'2020{i % 12 + 1:02d}', '%Y%m', 1580515200),
    (
      lambda i: f'202001021030{i % 60:02d}',
      '%Y%m%d%H%M%S',
      1577961001,
    ),
    (lambda i: f'2020{i % 60:02d}15', None, None),
    (lambda i: 20200000 + 97 * i, None, None),
    (lambda i: 200000 + i, None, None),
  ],
)
def test_dates_of_digits_alone_are_said_and_read_by_hand(
  tmp_path, cell, how, second
):
  table, said = _with_column(tmp_path, cell)
  assert table.kinds == ('number', 'number')
  if how is None:
    assert not said
    return
  assert f"size='date {how}'" in said[0] and 'numbers' in said[0]
  for kind in ('date', f'date {how}'):
    table, _ = _with_column(tmp_path, cell, kinds={'size': kind})
    assert _columns(table)['size'][1] == second
  # Typed, and with a gap that makes them floats, they are the same.
  frame = pd.DataFrame({'x': [int(cell(i)) for i in range(60)]})
  for dtype in ('int64', 'float64', 'Int64'):
    path = tmp_path / 't.parquet'
    typed = frame.astype(dtype).assign(y=range(60))
    typed.to_parquet(path)
    table, said = _said(lambda p=path: tables.read_file(p, 'y'))
    assert table.kinds == ('number',) and how in said[0]
    table = tables.read_file(path, 'y', kinds='x=date')
    assert _columns(table)['x'][1] == second


def test_a_target_of_dates_in_digits_is_said(tmp_path):
  rows = ''.join(f'{i},{20200101 + i}\n' for i in range(9))
  path = _write(tmp_path / 't.csv', f'x,y\n{rows}')
  _, (message,) = _said(lambda: tables.read_file(path, 'y'))
  assert "target 'y'" in message and '%Y%m%d' in message


@pytest.mark.parametrize(
  ('index', 'said'),
  [
    (pd.Index(range(9), name='day'), ["'day'"]),
    (pd.date_range('2020-01-01', periods=9), ['2020-01-01']),
    (pd.Index(list('abcdefghi')), ["'a'"]),
    (
      pd.MultiIndex.from_product([range(3), range(3)], names=['u', None]),
      ["'u'", '0, 0'],
    ),
    (pd.Index([8, 2, 1, 0, 3, 4, 5, 6, 7]), []),
    (pd.Index(range(9), name='x'), []),
  ],
)
def test_an_index_is_no_feature_and_that_is_said(tmp_path, index, said):
  path = tmp_path / 't.parquet'
  frame = pd.DataFrame({'x': range(9), 'y': range(9)}).set_index(index)
  if index.name == 'x':
    frame.index.name = 'x'
  else:
    assert list(frame) == ['x', 'y']
  frame.to_parquet(path)
  _, messages = _said(lambda: tables.read_file(path, 'y'))
  assert len(messages) == bool(said)
  for word in (*said, 'reset_index') if said else ():
    assert word in messages[0]


def test_a_target_with_a_unit_is_read_by_hand(tmp_path):
  rows = ''.join(f'{i},{i} €\n' for i in range(9))
  path = _write(tmp_path / 't.csv', f'x,y\n{rows}')
  assert_refused(lambda: tables.read_file(path, 'y'), "'number' by hand", "'€'")
  table = tables.read_file(path, 'y', kinds='y=number')
  assert sorted(_columns(table)['x']) == list(range(9))


@pytest.mark.parametrize(
  'cell',
  [
    lambda i: 'abc'[i % 3],
    lambda i: f'A{i}',
    lambda i: f'{i % 5}A-{i}',
    lambda i: f'第{i}类',
  ],
)
def test_labels_are_no_doubt(tmp_path, cell):
  table, said = _with_column(tmp_path, cell)
  assert table.category_names == ('size',)
  assert not said


def test_gaps_among_numbers_are_missing_and_said(tmp_path):
  for gap in ('-', 'n.a.', ' ', 'NA', '#DIV/0!', ' #REF!', '#N/A'):
    doubts = gap not in (' ', 'NA')
    table, said = _with_column(tmp_path, lambda i, g=gap: g if i % 5 else i)
    assert np.isnan(_columns(table)['size'][1])
    assert len(said) == doubts
    for message in said:
      assert f'{gap.strip()!r} (48) among numbers' in message
      assert 'missing' in message


def test_errors_among_labels_and_dates_are_missing_and_said(tmp_path):
  for cell, among in (('u', 'labels'), ('2020-01-02', 'dates')):
    _, (message,) = _with_column(
      tmp_path, lambda i, c=cell: '#REF!' if i < 3 else c
    )
    assert f"'#REF!' (3) among {among} are read as missing" in message


def test_gaps_in_rows_to_predict_are_said(tmp_path):
  path = _write(
    tmp_path / 't.csv', 'n,d,b,c\n-,02.01.1970,1,#N/A\n1e999,,FALSE,x\n'
  )
  rows, said = _said(lambda: tables.read_rows(path, **KINDS))
  assert np.isnan(rows.numeric[0, 0]) and np.isinf(rows.numeric[1, 0])
  for words in (("'n'", "'-' (1)", "'1e999'", '1 row: 2'), ("'c'", "'#N/A'")):
    (message,) = (m for m in said if words[0] in m)
    assert all(word in message for word in words), message


def test_an_ambiguous_order_of_dates_is_not_guessed(tmp_path):
  assert_refused(
    lambda: _with_column(
      tmp_path, lambda i: f'0{i % 9 + 1}/02/2020', kinds='size=date'
    ),
    'day or the month',
    '%d/%m/%Y',
  )


def test_most_cells_must_be_of_the_kind_by_hand(tmp_path):
  assert_refused(
    lambda: _with_column(tmp_path, lambda i: 'abc', kinds='size=number'),
    'text instead of numbers',
    '60 rows',
  )


@pytest.mark.parametrize('date', ['9999-12-31', '0001-01-01', '1492-10-12'])
def test_dates_beyond_nanoseconds_are_missing_and_said(tmp_path, date):
  table, said = _with_column(
    tmp_path, lambda i: date if i % 9 == 0 else f'2020-03-{i % 28 + 1:02d}'
  )
  values = _columns(table)['size']
  assert np.isnan(values[::9]).all() and np.isfinite(values).sum() == 53
  (message,) = said
  assert date in message and '7 rows: 1, 10' in message


def test_dates_give_month_weekday_and_hour(tmp_path):
  table, _ = _with_column(tmp_path, lambda i: f'2024-02-{i % 28 + 1:02d}')
  names = ('x', 'size', 'size.month', 'size.weekday')
  assert table.numeric_names == names
  assert table.kinds == ('number', 'date', 'month', 'weekday')
  columns = _columns(table)
  # 1 February 2024 was a Thursday.
  assert columns['size.month'].tolist()[:2] == [2, 2]
  assert columns['size.weekday'].tolist()[:5] == [3, 4, 5, 6, 0]
  table, _ = _with_column(tmp_path, lambda i: f'1969-12-31 {i % 24:02d}:59')
  columns = _columns(table)
  assert columns['size.hour'].tolist()[:3] == [0, 1, 2]
  assert columns['size.month'][0] == 12
  assert columns['size.weekday'][0] == 2


def test_long_integers_and_row_numbers_are_said(tmp_path):
  _, said = _with_column(tmp_path, lambda i: f'12345678901234567{i:03d}')
  assert '60 different numbers are 1' in said[0] and 'category' in said[0]
  path = tmp_path / 'i.csv'
  _frame(30).to_csv(path)
  table, said = _said(lambda: tables.read_file(path, 'y'))
  assert 'counts the rows' in said[0] and 'column_1=ignore' in said[0]
  table = tables.read_file(path, 'y', kinds='column_1=ignore')
  assert table.numeric_names == ('size',)


def test_many_doubts_are_a_few_lines(tmp_path):
  frame = pd.DataFrame({f'c{i}': ['1,5', '2,5'] * 5 for i in range(30)})
  path = tmp_path / 't.csv'
  frame.assign(y=range(10)).to_csv(path, index=False)
  _, said = _said(lambda: tables.read_file(path, 'y'))
  assert len(said) == 9 and '22 more columns' in said[-1]


@pytest.mark.parametrize(
  ('options', 'parts'),
  [
    ({'kinds': 'sise=number'}, ["'sise'", "mean 'size'?"]),
    ({'kinds': 'size=int'}, ["'int'", 'number, date']),
    ({'kinds': 'size'}, ["'size'", 'size=number']),
    ({'kinds': '{1}'}, ['size=number']),
    ({'kinds': '{"size"'}, ['size=number']),
    ({'reading': 'seperator=;'}, ["'seperator'", "'separator'"]),
    ({'reading': 'separator=;;'}, ['one character']),
    ({'reading': 'encoding=utf9'}, ['utf9', 'cp1252']),
    ({'reading': 'skip_lines=x'}, ['skip_lines']),
    ({'reading': "decimal='"}, ['decimal=,']),
    ({'reading': 'header=second'}, ["'first', 'none'"]),
  ],
)
def test_options_that_cannot_be(tmp_path, options, parts):
  assert_refused(lambda: _with_column(tmp_path, str, **options), *parts)


def test_quotation_marks_take_no_rows(tmp_path):
  rows = ['"big', *(f'w{i}' for i in range(20)), '"small', 'end']
  text = 'a\ty\n' + ''.join(f'{cell}\t{i}\n' for i, cell in enumerate(rows))
  path = _write(tmp_path / 't.tsv', text)
  columns = _columns(tables.read_file(path, 'y'))
  assert columns['a'].tolist() == rows
  # One that opens and one that closes: said, whichever way it is read.
  path = _write(path, text.replace('"small', '6"'))
  table, said = _said(lambda: tables.read_file(path, 'y'))
  assert len(_columns(table)['a']) == 23
  assert 'line 2' in said[0] and 'quotes=cells' in said[0]
  table = tables.read_file(path, 'y', reading='quotes=text')
  assert len(_columns(table)['a']) == 23
  # In CSV a quotation mark that opens must close.
  path = _write(tmp_path / 't.csv', text.replace('\t', ','))
  assert_refused(
    lambda: tables.read_file(path, 'y'), 'line 2, 23', 'quotes=text'
  )
  table = tables.read_file(path, 'y', reading='quotes=text')
  assert _columns(table)['a'].tolist() == rows


def test_cells_of_several_lines_are_read(tmp_path):
  cells = [f'one {i}\nand "two", three\t' for i in range(9)]
  frame = pd.DataFrame({'a': cells, 'y': range(9)})
  for name, separator in (('t.csv', ','), ('t.tsv', '\t')):
    path = tmp_path / name
    frame.to_csv(path, index=False, sep=separator)
    found = _columns(tables.read_file(path, 'y'))['a']
    assert found.tolist() == [cell.strip() for cell in cells]


def _lines(head, row, n=40):
  return head + '\n' + ''.join(row(i) + '\n' for i in range(n))


@pytest.mark.parametrize(
  ('data', 'parts', 'reading'),
  [
    (
      _lines('a;b;y', lambda i: f'{i},5;u;{i},25'),
      ['semicolon', 'separator=;'],
      'separator=; decimal=,',
    ),
    (_lines('a;y', lambda i: f'{i};{i}'), ['semicolon'], {'sep': ';'}),
    (_lines('a\ty', lambda i: f'{i}\t{i}'), ['a tab'], 'separator=tab'),
    (
      _lines('größe,y', lambda i: f'{i},{i}').encode('latin-1'),
      ['UTF-8', 'line 1', '0xf6', 'encoding=cp1252'],
      'encoding=latin-1',
    ),
    (
      _lines('a,y', lambda i: f'{i},{i}').encode('utf-16-le'),
      ['UTF-16'],
      'encoding=utf-16-le',
    ),
    (
      _lines('# 2020\na,y', lambda i: f'{i},{i}'),
      ['title', 'skip_lines=1', '# 2020'],
      'skip_lines=1',
    ),
    (
      _lines('2020,,\na,b,y', lambda i: f'{i},{i},{i}'),
      ['title', 'skip_lines=1'],
      'skip_lines=1',
    ),
  ],
)
def test_files_of_other_habits_are_named_then_read(
  tmp_path, data, parts, reading
):
  path = tmp_path / 't.csv'
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  assert_refused(lambda: tables.read_file(path, 'y'), *parts)
  table = tables.read_file(path, 'y', reading=reading)
  assert sum(len(getattr(table, split)) for split in SPLITS) == 40


def test_no_parser_is_quoted_and_a_missing_header_is_named(tmp_path):
  text = ''.join(f'{i},{2 * i}\n' for i in range(3, 40))
  path = _write(tmp_path / 't.csv', text)
  assert_refused(lambda: tables.read_file(path, 'y'), 'header', 'header=none')
  table = tables.read_file(path, 'column_2', reading='header=none')
  assert sum(len(getattr(table, split)) for split in SPLITS) == 37
  path = _write(path, 'a,y\n1,2\n1,2,3\n')
  with pytest.raises(InputError) as caught:
    tables.read_file(path, 'y')
  assert 'line 3 has 3 cells' in str(caught.value)
  assert 'a comma' in str(caught.value)
  assert 'tokeniz' not in str(caught.value).lower()


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32'])
def test_byte_order_marks_are_read(tmp_path, encoding):
  path = tmp_path / 't.csv'
  path.write_bytes(_lines('größe,y', lambda i: f'{i},{i}').encode(encoding))
  assert tables.read_file(path, 'y').numeric_names == ('größe',)


def test_blanks_ends_and_short_rows(tmp_path):
  path = tmp_path / 't.csv'
  path.write_bytes(
    b' a ,b,y,\r\r' + b''.join(b' %d ,u ,1,\r' % i for i in range(9))
  )
  table = tables.read_file(path, 'y')
  assert table.numeric_names == ('a',) and table.category_names == ('b',)
  assert set(table.train.categories[:, 0]) == {'u'}
  path = _write(path, 'y,a,b\n1,2,3\n1,2\n1,2,3\n')
  _, said = _said(lambda: tables.read_file(path, 'y'))
  assert 'fewer cells' in said[0] and '1 row: 2' in said[0]


def test_home_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  _frame().to_csv(tmp_path / 't.csv', index=False)
  assert tables.read_file('~/t.csv', 'y').name == 't'
  names = {'numeric_names': ['size'], 'category_names': ['city']}
  assert len(tables.read_rows('~/t.csv', **names)) == 10
  assert_refused(
    lambda: tables.read_file('~nobody-here/t.csv', 'y'), 'no such file'
  )


def test_column_levels_are_refused(tmp_path):
  frame = pd.DataFrame(
    np.ones((4, 2)), columns=pd.MultiIndex.from_product([['a'], ['x', 'y']])
  )
  path = tmp_path / 't.parquet'
  frame.to_parquet(path)
  assert_refused(lambda: tables.read_file(path, 'y'), 'levels')


def test_a_workbook(tmp_path):
  frame = _frame(20).assign(when=pd.date_range('2020-01-01', periods=20))
  path = tmp_path / 't.xlsx'
  with pd.ExcelWriter(path) as book:
    pd.DataFrame({'note': [1]}).to_excel(book, sheet_name='about')
    frame.to_excel(book, sheet_name='data', index=False, startrow=2)
  with pytest.warns(tables.DataWarning, match="'about'"):
    assert_refused(lambda: tables.read_file(path, 'y'), "'note'")
  assert_refused(
    lambda: tables.read_file(path, 'y', reading='sheet=date'), "mean 'data'?"
  )
  table = tables.read_file(path, 'y', reading='sheet=data')
  assert table.kinds == ('number', 'date', 'month', 'weekday', 'category')


def test_cells_of_a_workbook_that_look_full_are_said(tmp_path):
  import openpyxl

  path, book = tmp_path / 't.xlsx', openpyxl.Workbook()
  sheet = book.active
  sheet.append(['a title'])
  sheet.merge_cells('A1:D1')
  sheet.append(['group', 'x', 'double', 'y'])
  for i in range(9):
    sheet.append(['u' if i < 5 else 'v', i, f'=2*B{i + 3}', i])
  sheet['B5'] = '#DIV/0!'
  book.save(path)
  _, said = _said(lambda: tables.read_file(path, 'y', reading='skip_lines=1'))
  assert not any('merged' in message for message in said)
  (message,) = (m for m in said if 'formulas' in m)
  assert "9 formulas without a value, 'C3'" in message
  (message,) = (m for m in said if 'DIV' in m)
  assert "'#DIV/0!' (1) in 'B5'" in message
  sheet.merge_cells('A3:A7')
  book.save(path)
  table, said = _said(
    lambda: tables.read_file(path, 'y', reading='skip_lines=1')
  )
  (message,) = (m for m in said if 'merged' in m)
  assert "'A3:A7'" in message
  assert _columns(table)['group'][:3].tolist() == ['u', None, None]


def test_a_workbook_without_openpyxl(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'openpyxl', None)
  path = _write(tmp_path / 't.xlsx', '')
  assert_refused(lambda: tables.read_file(path, 'y'), 'pip install openpyxl')


# ---------------------------------------------------------------- one meaning


DAY = datetime.date(2020, 12, 31)


@pytest.mark.parametrize(
  ('cells', 'expected'),
  [
    ([1, 1.0, np.int8(1), np.float32(1), '1', '1.0', ' 1 ', b'1'], '1'),
    ([decimal.Decimal('1.00'), decimal.Decimal('1E0')], '1'),
    ([0.1, np.float32(0.1), '0.1', decimal.Decimal('0.10')], '0.1'),
    ([True, np.True_, 'True', 'true', 'TRUE'], 'True'),
    (
      [
        DAY,
        datetime.datetime(2020, 12, 31),
        pd.Timestamp(DAY),
        pd.Timestamp(DAY, tz='UTC'),
        np.datetime64('2020-12-31'),
        '2020-12-31',
        '2020-12-31 00:00:00',
        '2020-12-31T00:00:00Z',
      ],
      '2020-12-31',
    ),
    (
      [pd.Timestamp('2020-12-31 10:30'), '2020-12-31T10:30'],
      '2020-12-31 10:30:00',
    ),
    (['007'], '007'),
    ([None, np.nan, pd.NA, pd.NaT, 'NA', ' ', decimal.Decimal('nan')], None),
  ],
)
def test_one_label_for_a_value(cells, expected):
  array = np.empty(len(cells), object)
  array[:] = cells
  assert set(tables.labels(array)) == {expected}


def test_labels_of_float32_arrays_are_short():
  assert tables.labels(np.array([0.1], np.float32)).tolist() == ['0.1']


def test_numpy_booleans_are_booleans():
  for true in (True, np.True_):
    cells = np.array([[true, None], [1.5, 2]], object)
    np.testing.assert_array_equal(
      tables.numbers('here', cells), [[1, np.nan], [1.5, 2]]
    )


def test_masked_numbers_are_missing():
  cells = np.ma.masked_equal([[1, 2], [3, 1]], 1)
  np.testing.assert_array_equal(
    tables.numbers('here', cells), [[np.nan, 2], [3, np.nan]]
  )


@pytest.mark.parametrize(
  'target',
  [
    [2**60 + i for i in range(6)],
    [decimal.Decimal(1) + decimal.Decimal(i) / 10**20 for i in range(6)],
    [f'1.0000000000000000000{i}' for i in range(6)],
  ],
)
def test_targets_that_float64_makes_one_are_refused(target):
  frame = pd.DataFrame({'x': range(6), 'y': pd.Series(target, dtype=object)})
  assert_refused(
    lambda: tables._from_frame(frame, 't', 'y', 0, 't'),
    '6 different',
    'float64',
  )


def test_one_number_written_twice_is_one_target():
  frame = pd.DataFrame({'x': range(4), 'y': ['1', '1.0', '1e0', '2']})
  table = tables._from_frame(frame, 't', 'y', 0, 't')
  assert len(table.train) == 2


KINDS = {
  'numeric_names': ['n', 'd', 'd.month', 'd.weekday'],
  'category_names': ['b', 'c'],
  'kinds': [
    'number',
    'date %d.%m.%Y',
    'month',
    'weekday',
    'boolean',
    'category',
  ],
}


def test_rows_to_predict_are_read_by_the_kinds_of_the_run(tmp_path):
  path = _write(
    tmp_path / 't.csv', 'n,d,b,c\n1,02.01.1970,1,1.0\n-,1970-01-02,FALSE,x\n'
  )
  rows = tables.read_rows(path, **KINDS)
  np.testing.assert_array_equal(
    rows.numeric, [[1, 86400, 1, 4], [np.nan, 86400, 1, 4]]
  )
  assert rows.categories.tolist() == [['True', '1'], ['False', 'x']]
  typed = pd.DataFrame(
    {
      'n': [True],
      'd': [datetime.date(1970, 1, 2)],
      'b': [True],
      'c': pd.Categorical([1.0]),
    }
  )
  typed.to_parquet(tmp_path / 't.parquet')
  rows = tables.read_rows(tmp_path / 't.parquet', **KINDS)
  assert rows.numeric.tolist() == [[1, 86400, 1, 4]]
  assert rows.categories.tolist() == [['True', '1']]


@pytest.mark.parametrize(
  ('change', 'parts'),
  [
    ({'d': [5, 6]}, ["'d'", 'numbers instead of dates', '2 rows', '%d.%m.%Y']),
    ({'d': ['5', '6']}, ["'d'", 'text instead of dates', '%d.%m.%Y']),
    ({'n': [DAY, DAY]}, ["'n'", 'dates instead of numbers']),
    ({'n': ['1', 'x']}, ["'n'", 'text instead of numbers', '1 row: 2']),
  ],
)
def test_another_kind_than_in_training_is_refused(tmp_path, change, parts):
  frame = pd.DataFrame(
    {'n': [1, 2], 'd': [DAY] * 2, 'b': [1, 0], 'c': ['u'] * 2}
  )
  path = tmp_path / 't.parquet'
  frame.assign(**change).to_parquet(path)
  assert_refused(lambda: tables.read_rows(path, **KINDS), *parts)


def test_a_unit_is_part_of_the_kind(tmp_path):
  kinds = {'numeric_names': ['n'], 'category_names': [], 'kinds': ['number %']}
  path = _write(tmp_path / 't.csv', 'n,o\n12.5 %,1\n3%,1\n')
  assert tables.read_rows(path, **kinds).numeric.tolist() == [[12.5], [3]]
  path = _write(path, 'n,o\n0.125,1\n0.03,1\n')
  assert_refused(lambda: tables.read_rows(path, **kinds), "'%'", '2 rows')


def test_a_missing_column_gets_a_near_name(tmp_path):
  path = _write(tmp_path / 't.csv', 'A,b,k\n1,2,u\n')
  assert_refused(lambda: tables.read_rows(path, **NAMES), "'a'", "mean 'A'?")
