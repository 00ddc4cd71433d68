"""The files that a run leaves in its workdir, but for its checkpoints.

config.json      the resolved config: the run's identity
model.json       statistics of features and target, for new rows
env.json         what it ran on
metrics.jsonl    training and validation, as they go (`files/metrics_log.py`)
evaluation/      predictions per stage and split, all seeds
results.csv      every metric; rewritten after each stage
predictions.csv  of the test rows, last stage, all seeds together
run.json         what was run; its presence says that the run is finished
profile/         traces, where asked for (`profiling.py`)
report.html      and figures/ (`report/page.py`)
"""

import dataclasses
import hashlib
import json
import pathlib

from ml_collections import ConfigDict

from genre2_jax.data import targets
from genre2_jax.errors import InputError
from genre2_jax.experiment import experiment
from genre2_jax.files import atomic
from genre2_jax.metrics import results

# Fields that do not change what a run computes.
_FREE_FIELDS = (
  'checkpoint',
  'mesh',
  'profile',
  'report',
  'steps_per_dispatch',
  'text.cache',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun:
  """A finished run, read back.

  Attributes:
    workdir: where it is.
    config: its ConfigDict.
    model: its `experiment.Model`.
    stages: names of its stages, in order.
    seeds: its seeds.
    target_name: name of the target column.
  """

  workdir: pathlib.Path
  config: ConfigDict
  model: experiment.Model
  stages: tuple[str, ...]
  seeds: tuple[int, ...]
  target_name: str


def locate(workdir, config, table, stages):
  """The workdir's path; without a name `runs/<task>_<stage>_<hash>`."""
  if not workdir:
    workdir = pathlib.Path('runs') / _default_name(config, table, stages)
  return pathlib.Path(workdir)


def identity(config, table):
  """A text that is the same for the same config and data."""
  return json.dumps(config.to_dict(), sort_keys=True) + _digest(table)


def create(workdir, config, table, model):
  """Makes the workdir, or checks that it belongs to this config.

  Args:
    workdir: its path.
    config: resolved.
    table: the data.
    model: of the data.

  Raises:
    InputError: it belongs to another config or data, or cannot be made.
  """
  path = workdir / 'config.json'
  digest = _digest(table)
  if path.exists():
    differences = sorted(_differences(_read_json(path), config.to_dict()))
    if differences:
      raise InputError(
        f'{workdir} belongs to another config, which differs in '
        f'{", ".join(differences[:5])}: give another --workdir or delete it'
      )
    if _read_json(workdir / 'model.json').get('data_digest', digest) != digest:
      raise InputError(
        f'the data of {table.name} is not what {workdir} was begun with: '
        'give another --workdir or restore the data'
      )
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    atomic.write_json(
      workdir / 'model.json',
      {
        'target_name': table.target_name,
        'features': model.features.to_json(),
        'scaler': model.scaler.to_json(),
        'data_digest': digest,
      },
    )
    atomic.write_json(path, config.to_dict())
  except OSError as error:
    raise InputError(
      f'cannot make the workdir {workdir} ({error.strerror}): '
      'give another --workdir'
    ) from error


def check_seen(workdir):
  """Raises InputError where this process does not see a workdir that is there.

  Each process of a run writes its part of the checkpoints into it.
  """
  if not (workdir / 'config.json').exists():
    raise InputError(
      f'{workdir.absolute()} is not the folder that process 0 writes: give a '
      '--workdir that all hosts share'
    )


def open_finished(workdir):
  """Reads a finished run back.

  Raises:
    InputError: it is not there, not finished, or its files are damaged.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / 'config.json').exists():
    raise InputError(f'{workdir} is no workdir: it has no config.json')
  if not (workdir / 'run.json').exists():
    raise InputError(
      f'the run in {workdir} is not finished: run its command again first'
    )
  config = experiment.with_defaults(_read_json(workdir / 'config.json'))
  saved = _read_json(workdir / 'model.json')
  run = _read_json(workdir / 'run.json')
  try:
    model = experiment.model_of(
      config,
      experiment.features_from_json(saved['features']),
      targets.from_json(saved['scaler']),
    )
    return FinishedRun(
      workdir=workdir,
      config=config,
      model=model,
      stages=tuple(run['stages']),
      seeds=tuple(run['seeds']),
      target_name=saved['target_name'],
    )
  except (AttributeError, KeyError, TypeError) as error:
    raise InputError(
      f'{workdir} has a damaged config.json, model.json or run.json '
      f'({error}): train again'
    ) from error


def write_evaluation(workdir, stage, split, predicted, target, scaler):
  """Keeps what a stage predicted for a split, in float32.

  Of exact distributions results.csv keeps what there is to say.
  """
  kept = {k: v for k, v in predicted.items() if k != 'log_p'}
  atomic.write_npz(
    workdir / 'evaluation' / f'{stage}_{split}.npz',
    **kept,
    target=target,
    target_z=scaler.standardize(target),
    mean=scaler.mean,
    std=scaler.std,
    low=scaler.low,
    high=scaler.high,
    **({} if scaler.is_linear else scaler.to_json()),
  )


def write_results(workdir, rows):
  """Writes results.csv: all rows so far, each with all of its columns."""
  atomic.write_csv(workdir / 'results.csv', results.COLUMNS, rows)


def write_predictions(path, columns, target=None):
  """Writes a predictions file: row, target if known, and the columns."""
  head = {'row': range(len(next(iter(columns.values()))))}
  if target is not None:
    head['target'] = target
  columns = head | columns
  rows = zip(*(list(column) for column in columns.values()), strict=True)
  atomic.write_csv(path, tuple(columns), rows)


def write_run(
  workdir, table, model, stages, seeds, num_parameters, num_results
):
  """Writes run.json, which says that the run is finished.

  `num_results` is the number of rows of results.csv: fewer are a torn file.
  """
  atomic.write_json(
    workdir / 'run.json',
    {
      'task': table.name,
      'target': table.target_name,
      'stages': list(stages),
      'seeds': list(seeds),
      'num_train': len(table.train),
      'num_val': len(table.val),
      'num_test': len(table.test),
      'parameters': num_parameters,
      'constant_target': model.scaler.is_constant,
      'num_results': num_results,
    },
  )


def _default_name(config, table, stages):
  fields = {k: v for k, v in config.to_dict().items() if k not in _FREE_FIELDS}
  fields['text'] = {k: v for k, v in fields['text'].items() if k != 'cache'}
  text = json.dumps(fields, sort_keys=True, default=list)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  task = ''.join(c if c.isalnum() or c in '-_+.' else '_' for c in table.name)
  stage = stages[-1].name if stages else 'zero_shot'
  return f'{task}_{stage}_{digest}'


def _digest(table):
  """A hash of every cell: the same on every machine, unlike a mean's bits."""
  digest = hashlib.sha256()
  for rows in (table.train, table.val, table.test):
    for cells in rows.cells():
      digest.update(cells)
  return digest.hexdigest()


def _differences(old, new, prefix=''):
  """Dotted names of the fields in which two nested configs differ."""
  for key in old.keys() | new.keys():
    name = prefix + key
    if name in _FREE_FIELDS:
      continue
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      yield from _differences(a, b, name + '.')
    elif json.dumps(a) != json.dumps(b):
      yield f'{name} ({a} there, {b} here)'


def _read_json(path):
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise InputError(f'cannot read {path} ({error})') from error
  if not isinstance(value, dict):
    raise InputError(f'{path} is damaged: it holds no JSON object')
  return value
