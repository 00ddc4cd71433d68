"""The files that a run leaves in its workdir, but for its arrays.

.lock            held by the process that runs there
config.json      the resolved config: the run's identity
model.json       what was fitted to features and target, for new rows
env.json         what it ran on
metrics.jsonl    training and validation, as they go (`files/metrics_log.py`)
evaluation/      predictions per stage and split, all seeds
references.csv   the same of two baselines, on the same rows
results.csv      every metric; rewritten after each stage
predictions.csv  of the test rows, last stage, all seeds together
columns.json     of a table, as they were read (`inspection.py`)
importances.json of its columns, on validation rows (`inspection.py`)
margins.json     of conformal intervals, last stage (`estimates.py`)
run.json         what was run; its presence says that the run is finished
prior/           trees that the model starts from (`baselines/priors.py`)
weights/         of each stage, enough to predict (`weights.py`)
checkpoints/     of each stage, to go on from (`training/checkpoints.py`)
profile/         traces, where asked for (`profiling.py`)
report.html      and figures/; of several targets a page of each, beside it
                 (`report/page.py`)
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from genre2_jax.data import targets
from genre2_jax.data.reading import path_of
from genre2_jax.data.tables import Table
from genre2_jax.data.texts import Texts
from genre2_jax.errors import InputError
from genre2_jax.experiment import networks
from genre2_jax.experiment.experiment import Prepared, with_defaults
from genre2_jax.files import atomic, locks
from genre2_jax.metrics import results
from genre2_jax.runs.finished import read_json
from genre2_jax.training.stages import Stage

PathLike = str | os.PathLike[str]

_logger = logging.getLogger('genre2_jax')

_LOCK = '.lock'
REFERENCES = 'references.csv'
# Fields that do not change what a run computes.
_FREE_FIELDS = (
  'checkpoint',
  'compilation_cache',
  'device_share',
  'max_seconds',
  'mesh',
  'profile',
  'report',
  'steps_per_dispatch',
  'text.cache',
)


class InUseError(InputError):
  """Another process runs in the workdir."""


def locate(
  workdir: PathLike, experiment: Prepared, stages: Sequence[Stage]
) -> pathlib.Path:
  """The workdir's path; without a name `runs/<task>_<stage>_<hash>`."""
  if not workdir:
    workdir = pathlib.Path('runs') / _default_name(experiment, stages)
  return path_of(workdir)


def identity(fields: Mapping[str, Any], table: Table | Texts) -> str:
  """A text that is the same for the same config and data."""
  return json.dumps(fields, sort_keys=True) + _digest(table)


def create(workdir: pathlib.Path, experiment: Prepared) -> None:
  """Makes the workdir, or checks that it belongs to this experiment.

  Args:
    workdir: its path.
    experiment: with its data.

  Raises:
    InputError: it belongs to another config or data, or cannot be made.
  """
  fields, table = experiment.fields, experiment.table
  path = workdir / 'config.json'
  digest = _digest(table)
  if path.exists():
    # Of a run that was begun before there were some of the fields.
    there = with_defaults(read_json(path), str(path))
    differences = sorted(_differences(there, fields))
    if differences:
      raise InputError(
        f'{workdir} belongs to another config, which differs in '
        f'{", ".join(differences[:5])}: give another --workdir or delete it'
      )
    if read_json(workdir / 'model.json').get('data_digest', digest) != digest:
      raise InputError(
        f'the data of {table.name} is not what {workdir} was begun with: '
        'give another --workdir or restore the data'
      )
    return
  texts = experiment.model.texts
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    atomic.write_json(
      workdir / 'model.json',
      ({'texts': texts.to_json()} if texts else {})
      | {
        'target_name': table.target_name,
        'features': experiment.model.features.to_json(),
        'scaler': experiment.model.scaler.to_json(),
        'numbers': list(experiment.model.codec.tokenizer.numbers),
        'data_digest': digest,
        **_decided(experiment),
      },
    )
    atomic.write_json(path, fields)
  except OSError as error:
    raise _unmade(workdir, error) from error


def _decided(experiment):
  """The dtype of products, where the config leaves it to this machine."""
  fields, dtype = experiment.fields, experiment.compute_dtype
  if fields['model']['compute_dtype'] != 'auto' or experiment.baseline:
    return {}
  if dtype == 'auto':  # Not that of `init_from`.
    dtype = networks.faster_dtype(fields)
    _logger.info('model.compute_dtype=auto: %s is the faster here', dtype)
  return {'compute_dtype': dtype}


def compute_dtype(workdir: pathlib.Path) -> str:
  """What a run decided on when it began; '' where it had nothing to decide."""
  return read_json(workdir / 'model.json').get('compute_dtype', '')


def _unmade(workdir, error):
  return InputError(
    f'cannot make the workdir {workdir} ({error.strerror}): '
    'give another --workdir'
  )


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
  """Makes the workdir; within it no other process of this machine runs there.

  Raises:
    InputError: one does, or the folder cannot be made.
  """
  try:
    lock = locks.take_if_free(workdir / _LOCK)
  except locks.NoLocksError as error:
    _logger.warning('%s is not locked: %s', workdir, error)
    lock = io.BytesIO()
  except OSError as error:
    raise _unmade(workdir, error) from error
  if lock is None:
    raise InUseError(
      f'another process runs in {workdir}: wait for its end, or give another '
      '--workdir'
    )
  with lock:
    yield


def check_seen(workdir: pathlib.Path) -> None:
  """Raises InputError where this process does not see a workdir that is there.

  Each process of a run writes its part of the checkpoints into it.
  """
  if not (workdir / 'config.json').exists():
    raise InputError(
      f'{workdir.absolute()} is not the folder that process 0 writes: give a '
      '--workdir that all hosts share'
    )


def write_evaluation(
  workdir: pathlib.Path,
  stage: str,
  split: str,
  predicted: Mapping[str, np.ndarray],
  target: np.ndarray,
  scaler: targets.AnyScaler,
  weight: np.ndarray | None = None,
) -> None:
  """Keeps what a stage predicted for a split, in float32.

  Of exact distributions results.csv keeps what there is to say. Of several
  targets all arrays have their axis, the last one.
  """
  kept = {k: v for k, v in predicted.items() if k != 'log_p'}
  if weight is not None:
    kept['weight'] = weight
  parts = [_scales(part) for part in targets.parts_of(scaler)]
  scales = parts[0]
  if targets.names_of(scaler):
    scales = {name: np.stack([x[name] for x in parts]) for name in scales}
  atomic.write_npz(
    workdir / 'evaluation' / f'{stage}_{split}.npz',
    **kept,
    target=target,
    target_z=scaler.standardize(target),
    **scales,
  )


def _scales(scaler):
  """What takes one target's z-scores back to its unit."""
  return {
    'mean': scaler.mean,
    'std': scaler.std,
    'low': scaler.low,
    'high': scaler.high,
    **({} if scaler.is_linear else scaler.to_json()),
  }


def write_results(workdir: pathlib.Path, rows: Sequence[Sequence]) -> None:
  """Writes results.csv: all rows so far, each with all of its columns."""
  atomic.write_csv(workdir / 'results.csv', results.COLUMNS, rows)


def write_run(
  workdir: pathlib.Path,
  experiment: Prepared,
  stages: Sequence[str],
  num_parameters: int,
  num_results: int,
  out_of_time: Sequence[str] = (),
) -> None:
  """Writes run.json, which says that the run is finished.

  Args:
    workdir: its path.
    experiment: with its data.
    stages: names of what was evaluated, in order.
    num_parameters: of one seed's network.
    num_results: rows of results.csv: fewer are a torn file.
    out_of_time: names of the stages that `max_seconds` ended.
  """
  table = experiment.table
  atomic.write_json(
    workdir / 'run.json',
    {
      'task': table.name,
      'target': table.target_name,
      **_several(table),
      'stages': list(stages),
      'seeds': list(experiment.seeds),
      'num_train': len(table.train),
      'num_memory': experiment.model.num_memory,
      'weighted': table.train.weight is not None,
      'drawn_from': table.drawn_from if isinstance(table, Table) else 0,
      'num_val': len(table.val),
      'num_test': len(table.test),
      'parameters': num_parameters,
      'constant_target': experiment.model.scaler.is_constant,
      'num_results': num_results,
      'out_of_time': list(out_of_time),
    },
  )


def _several(table):
  """The names of several targets; {} of one."""
  names = table.target_names if isinstance(table, Table) else ()
  return {'targets': list(names)} if names else {}


def _default_name(experiment, stages):
  table = experiment.table
  fields = {k: v for k, v in experiment.fields.items() if k not in _FREE_FIELDS}
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
