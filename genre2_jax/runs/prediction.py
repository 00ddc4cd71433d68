"""Predictions of a finished run for rows of a new file."""

import contextlib
import os
import pathlib

import numpy as np

from genre2_jax.data.reading import path_of
from genre2_jax.devices import processes
from genre2_jax.errors import InputError
from genre2_jax.experiment import tasks
from genre2_jax.files import formats
from genre2_jax.runs import estimates, finished


def predict_file(
  workdir: str | os.PathLike[str],
  input_path: str | os.PathLike[str],
  output_path: str | os.PathLike[str],
) -> None:
  """Writes predictions of the run's last stage for the rows of a file.

  The columns are those of `estimates.columns`: numbers and intervals are those
  of `DecodingRegressor.load(workdir)`. All seeds of the run predict together.
  Rows are predicted and written some thousand at a time.

  Args:
    workdir: of a finished run.
    input_path: a table or text file with the run's columns.
    output_path: file to write, .csv, .tsv, .parquet or .xlsx; replaced only
      once it is whole.

  Raises:
    InputError: the run, a file or its columns cannot be used.
  """
  source, output = path_of(input_path), path_of(output_path)
  with processes.together():
    _check_output(source, output)
    run = finished.open_run(workdir)
    data = run.experiment.fields['data']
    rows = tasks.read_rows(
      run.model.features,
      run.target_name,
      source,
      kinds=data['kinds'],
      reading=data['reading'],
    )
    formats.check(output, len(rows))
  is_first = processes.is_first()
  has_interval = estimates.has_distribution(run.model)
  place = 0
  with contextlib.ExitStack() as held:
    if is_first:
      write = held.enter_context(formats.growing(output))
    for predicted in run.predict_blocks(rows):
      columns = estimates.columns(
        predicted, run.model, run.margins, has_interval=has_interval
      )
      count = len(columns['prediction'])
      if is_first:
        write({'row': np.arange(place, place + count)} | columns)
      place += count
  if is_first:
    print(f'{place} rows predicted: {output}')
    if has_interval and not run.margins:
      print("Intervals are the model's own: the run kept no margins for them")


def _check_output(source: pathlib.Path, output: pathlib.Path) -> None:
  """Finds out before the work, not after it, that its fruit has no place."""
  if not output.parent.is_dir():
    raise InputError(f'{output}: no folder {output.parent}; make it first')
  if output.is_dir():
    raise InputError(f'{output} is a folder; give the name of a file')
  if output.exists() and source.exists() and output.samefile(source):
    raise InputError(f'{output} is the input; give --output another name')
  formats.check(output)
