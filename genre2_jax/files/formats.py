"""Tables that are written block by block, in the kind their name says."""

import contextlib
import csv
import datetime
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from genre2_jax.errors import InputError
from genre2_jax.files import atomic

EXTENSIONS = ('.csv', '.tsv', '.parquet', '.pq', '.xlsx', '.jsonl')
# What a sheet holds, the header among it.
_XLSX_ROWS = 2**20

# Name -> numpy or arrow array [n].
Columns = Mapping[str, Any]


def check(path: str | os.PathLike[str], num_rows: int = 0) -> None:
  """Raises InputError where a table of so many rows has no such file."""
  kind = _kind(path)
  if kind not in EXTENSIONS:
    raise InputError(
      f'{path}: unknown kind of file; its name must end in '
      f'{", ".join(EXTENSIONS)}'
    )
  if kind != '.xlsx':
    return
  try:
    import openpyxl  # noqa: F401
  except ImportError as error:
    raise InputError(
      f'{path}: an .xlsx needs openpyxl: pip install openpyxl, or write .csv'
    ) from error
  if num_rows >= _XLSX_ROWS:
    raise InputError(
      f'{path}: an .xlsx holds {_XLSX_ROWS - 1} rows, not {num_rows}: write '
      '.parquet or .csv'
    )


@contextlib.contextmanager
def growing(
  path: str | os.PathLike[str],
) -> Iterator[Callable[[Columns], None]]:
  """A function that appends columns [n] to a file: there once it is whole.

  Floats keep every bit, or, in .xlsx, 16 digits.

  Raises:
    InputError: the name ends in no kind of `EXTENSIONS`.
  """
  check(path)
  kind = _kind(path)
  with atomic.replacing(path) as file, contextlib.ExitStack() as held:
    if kind in ('.parquet', '.pq'):
      yield _parquet(file, held)
    elif kind == '.xlsx':
      yield _xlsx(file, held)
    elif kind == '.jsonl':
      yield _json_lines(file, held)
    else:
      yield _text(file, held, '\t' if kind == '.tsv' else ',')


def _kind(path):
  return pathlib.Path(path).suffix.lower()


def _opened(file, held):
  text = io.TextIOWrapper(file, encoding='utf-8', newline='')
  held.callback(text.detach)  # Who opened the file closes it.
  return text


def _text(file, held, separator):
  text = _opened(file, held)
  writer = csv.writer(text, delimiter=separator, lineterminator='\n')
  first = iter([True])

  def write(columns):
    if next(first, False):
      writer.writerow(columns)
    writer.writerows(_rows(columns))

  return write


def _json_lines(file, held):
  text = _opened(file, held)

  def write(columns):
    for row in _rows(columns):
      record = dict(zip(columns, row, strict=True))
      text.write(json.dumps(record, ensure_ascii=False, default=str) + '\n')

  return write


def _parquet(file, held):
  import pyarrow
  from pyarrow import parquet

  opened: list[Any] = []

  def write(columns):
    table = pyarrow.table(dict(columns))
    if not opened:
      opened.append(
        held.enter_context(parquet.ParquetWriter(file, table.schema))
      )
    opened[0].write_table(table)

  return write


def _xlsx(file, held):
  import openpyxl

  book = openpyxl.Workbook(write_only=True)
  sheet = book.create_sheet('predictions')
  held.callback(book.save, file)
  first = iter([True])

  def write(columns):
    if next(first, False):
      sheet.append(list(columns))
    for row in _rows(columns):
      sheet.append([_sheet_cell(cell, sheet) for cell in row])

  return write


def _sheet_cell(cell, sheet):
  """As a sheet can hold it: a text is no formula, whatever it begins with."""
  if cell is None or isinstance(cell, int | float):
    return cell
  if isinstance(cell, datetime.date | datetime.time) and not getattr(
    cell, 'tzinfo', None
  ):
    return cell
  from openpyxl.cell import WriteOnlyCell
  from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE as ILLEGAL

  text = ILLEGAL.sub('\N{REPLACEMENT CHARACTER}', str(cell))
  found = WriteOnlyCell(sheet, text)
  found.data_type = 's'
  return found


def _rows(columns):
  return zip(
    *(
      column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
      for column in columns.values()
    ),
    strict=True,
  )
