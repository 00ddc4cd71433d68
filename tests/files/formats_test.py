"""Tables that grow block by block: the kind that the name says, or none."""

import datetime
import importlib.util
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow
import pytest
from checks import assert_refused

from genre2_jax.files import formats

READERS = {
  '.csv': pd.read_csv,
  '.tsv': lambda path: pd.read_csv(path, sep='\t'),
  '.parquet': pd.read_parquet,
  '.pq': pd.read_parquet,
  '.XLSX': pd.read_excel,
  '.jsonl': lambda path: pd.read_json(path, lines=True, precise_float=True),
}

KINDS = [
  pytest.param(
    kind,
    marks=pytest.mark.skipif(
      kind == '.XLSX' and not importlib.util.find_spec('openpyxl'),
      reason='openpyxl is not installed',
    ),
  )
  for kind in READERS
]


def blocks():
  x = np.random.default_rng(0).normal(size=7) * 1e-9
  for start in (0, 3, 6):
    rows = np.arange(7)[start : start + 3]
    yield {'row': rows, 'prediction': x[rows]}


@pytest.mark.parametrize('kind', KINDS)
def test_a_file_is_what_its_name_says_and_keeps_bits(tmp_path, kind):
  path = tmp_path / f'out{kind}'
  with formats.growing(path) as write:
    for columns in blocks():
      write(columns)
      assert not path.exists()
  found = READERS[kind](path)
  assert list(found) == ['row', 'prediction']
  assert list(found['row']) == list(range(7))
  expected = np.concatenate([columns['prediction'] for columns in blocks()])
  # A sheet has 16 digits.
  rtol = 1e-15 if kind == '.XLSX' else 0
  np.testing.assert_allclose(found['prediction'], expected, rtol=rtol)


@pytest.mark.parametrize('kind', KINDS)
def test_cells_of_every_type_are_there_again(tmp_path, kind):
  path = tmp_path / f'out{kind}'
  day = datetime.datetime(2024, 2, 29, 12, 30)
  columns = {
    'text': pyarrow.array(['=1+1', None, 'a,"b"\nä\t']),
    'count': pyarrow.array([1, None, 2**53 - 1]),
    'day': pyarrow.array([day, None, day]),
  }
  with formats.growing(path) as write:
    write({name: cells.slice(0, 1) for name, cells in columns.items()})
    write({name: cells.slice(1) for name, cells in columns.items()})
  found = READERS[kind](path)
  assert list(found) == list(columns)
  assert [x for x in found['text'] if isinstance(x, str)] == [
    '=1+1',
    'a,"b"\nä\t',
  ]
  for column in found.values.T:
    assert pd.isna(column).tolist() == [False, True, False]
  assert found['count'].dropna().tolist() == [1, 2**53 - 1]
  assert pd.to_datetime(found['day'].dropna()).tolist() == [day] * 2


@pytest.mark.parametrize('kind', KINDS)
def test_what_goes_wrong_leaves_the_file_as_it_was(tmp_path, kind):
  path = tmp_path / f'out{kind}'
  path.write_text('before')

  def fail():
    with formats.growing(path) as write:
      write(next(blocks()))
      raise KeyError

  with pytest.raises(KeyError):
    fail()
  assert path.read_text() == 'before'
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('name', ['out', 'out.xls', 'out.json', 'out.csv.gz'])
def test_other_kinds_are_refused(tmp_path, name):
  path = tmp_path / name
  assert_refused(lambda: formats.check(path), name, '.csv, .tsv, .parquet')


def test_an_xlsx_says_what_it_needs(tmp_path, monkeypatch):
  path = tmp_path / 'out.xlsx'
  monkeypatch.setitem(sys.modules, 'openpyxl', ModuleType('openpyxl'))
  assert_refused(lambda: formats.check(path, 2**20), '1048575 rows', '.parquet')
  monkeypatch.setitem(sys.modules, 'openpyxl', None)
  assert_refused(lambda: formats.check(path), 'pip install openpyxl')
