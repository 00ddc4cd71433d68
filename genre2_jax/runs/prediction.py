"""Predictions of a finished run for rows of a new file."""

import os
import pathlib

from genre2_jax.devices import processes
from genre2_jax.errors import InputError
from genre2_jax.experiment import tasks
from genre2_jax.metrics import results
from genre2_jax.runs import finished, workdirs


def predict_file(
  workdir: str | os.PathLike[str],
  input_path: str | os.PathLike[str],
  output_path: str | os.PathLike[str],
) -> None:
  """Writes predictions of the run's last stage for the rows of a file.

  All seeds of the run predict together. Every column is in the target's own
  unit: `prediction` (the median), the other estimates, and `lower90` and
  `upper90`, the central 90 % interval.

  Args:
    workdir: of a finished run.
    input_path: a table or text file with the run's columns.
    output_path: CSV to write; replaced only once it is whole.

  Raises:
    InputError: the run, a file or its columns cannot be used.
  """
  with processes.together():
    _check_output(pathlib.Path(input_path), pathlib.Path(output_path))
    run = finished.open_run(workdir)
    data = run.experiment.fields['data']
    rows = tasks.read_rows(
      run.model.features,
      run.target_name,
      input_path,
      kinds=data['kinds'],
      reading=data['reading'],
    )
  columns = results.prediction_columns(run.predict(rows), run.model)
  # Exact where the interval is: it lies inside.
  median = columns.get('exact_median', columns['median'])
  columns = {'prediction': median, **columns}
  if processes.is_first():
    workdirs.write_predictions(output_path, columns)
    print(f'{len(rows)} rows predicted: {output_path}')


def _check_output(source, output):
  """Finds out before the work, not after it, that its fruit has no place."""
  if not output.parent.is_dir():
    raise InputError(f'{output}: no folder {output.parent}; make it first')
  if output.is_dir():
    raise InputError(f'{output} is a folder; give the name of a file')
  if output.exists() and source.exists() and output.samefile(source):
    raise InputError(f'{output} is the input; give --output another name')
