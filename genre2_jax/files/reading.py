"""Reads files of a workdir; damage is an InputError of one line.

A missing file is a FileNotFoundError: the caller knows what it is needed for.
"""

import csv
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from genre2_jax.errors import InputError, one_line
from genre2_jax.files.atomic import PathLike


def read_json(path: PathLike) -> dict[str, Any]:
  """A JSON object.

  Raises:
    InputError: it is damaged, or something else.
  """
  try:
    value = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    # Half a surrogate pair can be written in JSON, and not in a page.
    json.dumps(value, ensure_ascii=False).encode()
  except FileNotFoundError:
    raise
  except (OSError, RecursionError, ValueError) as error:
    raise InputError(f'{path} is damaged ({one_line(error)})') from error
  if not isinstance(value, dict):
    raise InputError(f'{path} is damaged: it holds no JSON object')
  return value


def read_csv(
  path: PathLike, columns: Sequence[str], num_rows: int | None = None
) -> list[dict[str, str]]:
  """Rows of a table that `atomic.write_csv` wrote.

  Args:
    path: of it.
    columns: that it must have, in order.
    num_rows: that it must have; None: any.

  Raises:
    InputError: it is damaged, or rows are missing.
  """
  try:
    text = pathlib.Path(path).read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline=''), strict=True))
  except FileNotFoundError:
    raise
  except (OSError, ValueError, csv.Error) as error:
    raise InputError(f'{path} is damaged ({one_line(error)})') from error
  if not rows or tuple(rows[0]) != tuple(columns):
    raise InputError(f'{path} is damaged: its first line is no {columns}')
  for number, row in enumerate(rows[1:], start=1):
    if len(row) != len(columns):
      raise InputError(
        f'{path} is damaged: row {number} has {len(row)} of {len(columns)} '
        'cells'
      )
  if not text.endswith('\n'):
    raise InputError(f'{path} is damaged: its last line is torn')
  if num_rows is not None and len(rows) - 1 != num_rows:
    raise InputError(
      f'{path} is not whole: it has {len(rows) - 1} rows of {num_rows}'
    )
  return [dict(zip(columns, row, strict=True)) for row in rows[1:]]


def read_columns(path: PathLike) -> dict[str, list[str]]:
  """Columns of a table, whichever it has: name -> cells.

  Raises:
    InputError: it is damaged.
  """
  try:
    with open(path, encoding='utf-8', newline='') as file:
      header = next(csv.reader(file), [])
  except FileNotFoundError:
    raise
  except (OSError, ValueError, csv.Error) as error:
    raise InputError(f'{path} is damaged ({one_line(error)})') from error
  rows = read_csv(path, header)
  return {name: [row[name] for row in rows] for name in header}


def read_npz(path: PathLike) -> dict[str, np.ndarray]:
  """Named arrays that `atomic.write_npz` wrote.

  Raises:
    InputError: it is damaged.
  """
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except FileNotFoundError:
    raise
  except Exception as error:  # Those of numpy and zipfile share no base class.
    raise InputError(f'{path} is damaged ({one_line(error)})') from error


def number(path: PathLike, text: str) -> float:
  """A number as `atomic.write_csv` writes it.

  Raises:
    InputError: naming the file.
  """
  try:
    return float(text)
  except ValueError as error:
    raise InputError(f'{path} is damaged: {text!r:.40} is no number') from error
