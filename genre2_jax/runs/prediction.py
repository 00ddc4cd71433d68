"""Predictions of a finished run for rows of a new file."""

import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from genre2_jax.data import cells
from genre2_jax.data.reading import Reading, path_of, read_frame
from genre2_jax.devices import processes
from genre2_jax.errors import InputError, suggestion
from genre2_jax.experiment import tasks
from genre2_jax.files import formats
from genre2_jax.runs import estimates, finished

_ROW, _ALL = 'row', 'all'


def predict_file(
  workdir: str | os.PathLike[str],
  input_path: str | os.PathLike[str],
  output_path: str | os.PathLike[str],
  keep: Sequence[str] = (),
) -> None:
  """Writes predictions of the run's last stage for the rows of a file.

  The columns are those of `estimates.columns`: numbers and intervals are those
  of `DecodingRegressor.load(workdir)`. All seeds of the run predict together.
  `row` counts from 1, as errors do. Rows are predicted and written some
  thousand at a time.

  Args:
    workdir: of a finished run.
    input_path: a table or text file with the run's columns.
    output_path: file to write, of a kind of `formats.EXTENSIONS`; replaced only
      once it is whole.
    keep: columns of the input to carry along, or 'all' of them.

  Raises:
    InputError: the run, a file or its columns cannot be used.
  """
  source, output = path_of(input_path), path_of(output_path)
  with processes.together():
    _check_output(source, output)
    run = finished.open_run(workdir)
    data = run.experiment.fields['data']
    frame = None
    if keep:
      frame = read_frame(source, Reading.parse(data['reading']))
    reserved = estimates.names_for(run.model.target_names)
    kept = {} if frame is None else _kept(frame, keep, source, reserved)
    rows = tasks.read_rows(
      run.model,
      run.target_name,
      source,
      kinds=data['kinds'],
      reading=data['reading'],
      frame=frame,
    )
    formats.check(output, len(rows))
  is_first = processes.is_first()
  has_interval = estimates.has_distribution(run.model)
  place = 0
  with contextlib.ExitStack() as held:
    if is_first:
      write = held.enter_context(formats.growing(output))
    columns: dict[str, np.ndarray] = {}
    for predicted in run.predict_blocks(rows):
      columns = estimates.columns(
        predicted, run.model, run.margins, has_interval=has_interval
      )
      count = len(next(iter(columns.values())))
      if is_first:
        part = {name: x.slice(place, count) for name, x in kept.items()}
        write({_ROW: np.arange(place, place + count) + 1} | part | columns)
      place += count
  if is_first:
    print(f'{place} rows predicted: {output}')
    print(f'{output.name}: {estimates.in_words(columns)}')


def _kept(
  frame: pd.DataFrame,
  keep: Sequence[str],
  source: pathlib.Path,
  reserved: Sequence[str],
) -> Any:
  """{name: its cells, an arrow array [n]} of what is to be carried along."""
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
  return {name: _cells(frame[name]) for name in names}


def _cells(column: pd.Series) -> pyarrow.Array:
  """A column as it is, or as text where its cells are of several types."""
  values = cells.plain(column)
  try:
    return pyarrow.array(values)
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
