"""Predictions of a finished run for rows of a new file."""

import pathlib

from genre2_jax import train
from genre2_jax.devices import processes, sharding
from genre2_jax.errors import InputError
from genre2_jax.experiment import experiment
from genre2_jax.metrics import results
from genre2_jax.runs import workdirs
from genre2_jax.training import evaluation, stages


def predict_file(workdir, input_path, output_path):
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
    run = workdirs.open_finished(workdir)
    rows = experiment.read_rows(run, input_path)
  # The devices at hand, whatever the run was trained on.
  mesh = sharding.make_mesh({'replica': 1, 'data': -1, 'fsdp': 1, 'model': 1})
  predicted = evaluation.predict(
    evaluation.predictor(
      run.model,
      stages.evaluation_keys(run.seeds),
      **experiment.evaluation_options(run.config, run.model),
    ),
    train.restore_params(run, run.stages[-1], mesh),
    run.model.features.transform(rows),
    block_size=-(-run.config.eval.batch_size // mesh.size) * mesh.size,
    sharding=sharding.batch_sharding(mesh),
    widths=run.model.widths,
  )
  columns = results.prediction_columns(predicted, run.model)
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
