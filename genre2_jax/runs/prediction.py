"""Predictions of a finished run for rows of a new file."""

import contextlib
import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow

from genre2_jax.data import cells
from genre2_jax.data.features import Features
from genre2_jax.data.pieces import read_pieces
from genre2_jax.data.reading import Reading, path_of, read_frame
from genre2_jax.data.tables import Rows
from genre2_jax.data.texts import TextRows
from genre2_jax.data.wording import DataWarning
from genre2_jax.devices import processes
from genre2_jax.devices.interrupts import leaving_with
from genre2_jax.errors import InputError, suggestion
from genre2_jax.experiment import tasks
from genre2_jax.files import atomic, formats
from genre2_jax.runs import estimates, finished

_ROW, _ALL = 'row', 'all'


def predict_file(
  workdir: str | os.PathLike[str],
  input_path: str | os.PathLike[str],
  output_path: str | os.PathLike[str],
  keep: Sequence[str] = (),
  interrupts: object = False,
) -> None:
  """Writes predictions of the run's last stage for the rows of a file.

  The columns are those of `estimates.columns`: numbers and intervals are those
  of `DecodingRegressor.load(workdir)`. All seeds of the run predict together.
  `row` counts from 1, as errors do. Rows are read, predicted and written some
  thousand at a time; texts are read at once.

  Args:
    workdir: of a finished run.
    input_path: a table or text file with the run's columns.
    output_path: file to write, of a kind of `formats.EXTENSIONS`; replaced only
      once it is whole.
    keep: columns of the input to carry along, or 'all' of them.
    interrupts: an `Interrupts` ends the process, and nothing is left behind.

  Raises:
    InputError: the run, a file or its columns cannot be used.
  """
  source, output = path_of(input_path), path_of(output_path)
  doing = f'predicting, {output} is not written'
  with (
    leaving_with(interrupts, functools.partial(atomic.discard, output)),
    processes.at_once(interrupts, doing),
  ):
    _predict_file(workdir, source, output, keep)


def _predict_file(
  workdir: str | os.PathLike[str],
  source: pathlib.Path,
  output: pathlib.Path,
  keep: Sequence[str],
) -> None:
  with processes.together():
    _check_output(source, output)
    run = finished.open_run(workdir)
    given = _look_through(run, source, keep)
    formats.check(output, given.num_rows)
  is_first = processes.is_first()
  has_interval = estimates.has_distribution(run.model)
  place = 0
  with contextlib.ExitStack() as held:
    if is_first:
      write = held.enter_context(formats.growing(output))
    columns: dict[str, np.ndarray] = {}
    for frame, rows in given.pieces():
      kept = {n: _cells(frame[n], kind) for n, kind in given.kept.items()}
      begin = place
      for predicted in run.predict_blocks(rows, first=begin):
        columns = estimates.columns(
          predicted, run.model, run.margins, has_interval=has_interval
        )
        count = len(next(iter(columns.values())))
        if is_first:
          part = {n: x.slice(place - begin, count) for n, x in kept.items()}
          write({_ROW: np.arange(place, place + count) + 1} | part | columns)
        place += count
  if is_first:
    print(f'{place} rows predicted: {output}')
    print(f'{output.name}: {estimates.in_words(columns)}')


class _Given(NamedTuple):
  """Rows to predict, found to be whole and right.

  num_rows: of all pieces.
  kept: {name: arrow type of its cells} of what is to be carried along.
  pieces: gives (frame, rows) of some rows after the others.
  """

  num_rows: int
  kept: dict[str, pyarrow.DataType]
  pieces: Callable[[], Iterable[tuple[pd.DataFrame, Rows | TextRows]]]


def _look_through(
  run: finished.FinishedRun, source: pathlib.Path, keep: Sequence[str]
) -> _Given:
  """Reads a file once, so that what is wrong is said before the work.

  A long one is read again for the work, piece by piece: its memory is that of
  a piece. What texts are turned into is computed once, so they stay.
  """
  how = Reading.parse(run.experiment.fields['data']['reading'])

  def pieces() -> Iterator[pd.DataFrame]:
    if run.model.texts is None and isinstance(run.model.features, Features):
      return read_pieces(source, how)
    return iter([read_frame(source, how)])

  def read(first: int, frame: pd.DataFrame) -> Rows | TextRows:
    data = run.experiment.fields['data']
    return tasks.read_rows(
      run.model,
      run.target_name,
      source,
      kinds=data['kinds'],
      reading=data['reading'],
      frame=frame,
      first_row=first,
    )

  def again() -> Iterator[tuple[pd.DataFrame, Rows | TextRows]]:
    first = 0
    for frame in pieces():
      with warnings.catch_warnings():
        warnings.simplefilter('ignore', DataWarning)  # They were said.
        rows = read(first, frame)
      yield frame, rows
      first += len(frame)

  names: list[str] = []
  types: list[pyarrow.Schema] = []
  num_rows = 0
  for frame in pieces():
    if not types:
      reserved = estimates.names_for(run.model.target_names)
      names = _names_kept(frame, keep, source, reserved)
    rows = read(num_rows, frame)
    types.append(pyarrow.schema([(n, _cells(frame[n]).type) for n in names]))
    num_rows += len(frame)
  if len(types) == 1:
    only = frame, rows
    return _Given(num_rows, _joined(types), lambda: [only])
  return _Given(num_rows, _joined(types), again)


def _names_kept(
  frame: pd.DataFrame,
  keep: Sequence[str],
  source: pathlib.Path,
  reserved: Sequence[str],
) -> list[str]:
  """Names of the columns that are to be carried along."""
  names = list(frame) if list(keep) == [_ALL] else list(dict.fromkeys(keep))
  for name in names:
    if name not in frame:
      raise InputError(
        f'--keep={name}: {source} has no such column; '
        f'{suggestion(name, list(frame))}'
      )
    if name in (_ROW, *reserved):
      raise InputError(
        f'--keep={",".join(keep)}: the predictions have a column {name!r} too; '
        f'leave yours out, or rename it in {source}'
      )
  return names


def _joined(schemas: Sequence[pyarrow.Schema]) -> dict[str, pyarrow.DataType]:
  """{name: the type that holds the cells of all pieces}, text if need be."""
  found = {}
  for name in schemas[0].names:
    parts = [pyarrow.schema([schema.field(name)]) for schema in schemas]
    try:
      whole = pyarrow.unify_schemas(parts, promote_options='permissive')
      found[name] = whole.field(name).type
    except pyarrow.ArrowException:
      found[name] = pyarrow.string()
  return found


def _cells(
  column: pd.Series, kind: pyarrow.DataType | None = None
) -> pyarrow.Array:
  """A column as it is, or as text where its cells are of several types."""
  values = cells.plain(column)
  try:
    return pyarrow.array(values, kind)
  except (pyarrow.ArrowException, OverflowError):
    texts = [None if x is None else cells.text_of(x) for x in values]
    return pyarrow.array(texts, pyarrow.string())


def _check_output(source: pathlib.Path, output: pathlib.Path) -> None:
  """Finds out before the work, not after it, that its fruit has no place."""
  if not output.parent.is_dir():
    raise InputError(f'{output}: no folder {output.parent}; make it first')
  if output.is_dir():
    raise InputError(f'{output} is a folder; give the name of a file')
  if output.exists() and source.exists() and output.samefile(source):
    raise InputError(f'{output} is the input; give --output another name')
  formats.check(output)
