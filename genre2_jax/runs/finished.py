"""A finished run: its weights, and predictions from them."""

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from genre2_jax.baselines import priors
from genre2_jax.data import targets
from genre2_jax.data.reading import path_of
from genre2_jax.data.tables import Rows
from genre2_jax.data.texts import TextRows
from genre2_jax.devices import compilation, sharding
from genre2_jax.errors import InputError, one_line, shortened
from genre2_jax.experiment import experiment, networks
from genre2_jax.experiment.experiment import Experiment
from genre2_jax.files import atomic, reading
from genre2_jax.models.model import Model
from genre2_jax.models.text_columns import TextColumns
from genre2_jax.runs import estimates, weights
from genre2_jax.training import evaluation

_JSON_FILES = ('config.json', 'model.json', 'run.json')
# So few rows do not wait for a whole block: they have a program of their own.
_FEW_ROWS = 8
# Predicted at once, on the host: rows, and float32 numbers of them all.
_MAX_ROWS = 10_000
_MAX_NUMBERS = 2**24


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun:
  """A finished run, read back from its workdir.

  Attributes:
    workdir: where it is.
    experiment: what was run, without its data.
    stages: names of what was evaluated, in order.
    seeds: S integers.
    target_name: name of the target column.
    margins: of conformal intervals (`estimates.py`), () if there are none.
    content: what `files` gives, of a run that needs no folder any more.
  """

  workdir: pathlib.Path
  experiment: Experiment
  stages: tuple[str, ...]
  seeds: tuple[int, ...]
  target_name: str
  margins: tuple[float, ...] = ()
  content: Mapping[str, bytes] | None = None

  @property
  def model(self) -> Model:
    """Of its training rows."""
    return self.experiment.model

  def weights(
    self, stage: str = '', mesh: jax.sharding.Mesh | None = None
  ) -> dict[str, Any]:
    """The best parameters of a stage, stacked [S, ...].

    Args:
      stage: its name; '': the last.
      mesh: where they will live; None: the devices at hand.

    Raises:
      InputError: the stage kept none, or they are damaged.
    """
    stage = stage or self.stages[-1]
    mesh = sharding.mesh_at_hand() if mesh is None else mesh
    if stage == weights.ZERO_SHOT:
      params = weights.pretrained(self.experiment, self.seeds, mesh)
      return {'policy': params}
    by_name = {s.name: s for s in self.experiment.stages}
    if stage not in by_name:
      raise InputError(
        f'{self.workdir} was made by {stage}, which keeps no weights: '
        'give the workdir of a network'
      )
    params = weights.read(self.workdir, by_name[stage], self.experiment, mesh)
    if params is None:
      raise weights.missing(self.workdir, stage)
    return params

  def predict(
    self, rows: Rows | TextRows, *, num_samples: int | None = None
  ) -> dict[str, np.ndarray]:
    """What the last stage predicts: `evaluation.predict`, all seeds.

    Weights and programs stay in memory from the first call on. Eight rows and
    fewer are computed in a small block, more in blocks of the run's size:
    programs that round differently, so that a row predicted alone agrees with
    itself among many to float32's rounding and not to the bit.

    Args:
      rows: of the run's columns, without targets.
      num_samples: instead of the run's; 0, of an exact run: nothing is sampled.
    """
    blocks = list(self.predict_blocks(rows, num_samples=num_samples))
    return {
      name: np.concatenate([block[name] for block in blocks], axis=1)
      for name in blocks[0]
    }

  def predict_blocks(
    self,
    rows: Rows | TextRows,
    *,
    num_samples: int | None = None,
    first: int = 0,
  ) -> Iterator[dict[str, np.ndarray]]:
    """`predict`, some thousand rows at a time, in order.

    What is predicted of a row, every number's probability and many samples, is
    kilobytes: whoever reduces it block by block needs the memory of one.

    Args:
      rows: of the run's columns, without targets.
      num_samples: instead of the run's.
      first: number of the first row, where others come before it.
    """
    mesh, params = self._loaded
    if num_samples is None:
      num_samples = self.experiment.evaluation.num_samples
    if num_samples not in self._predictors:
      self._predictors[num_samples] = self.experiment.predictor(
        num_samples=num_samples
      )
    inputs = self.model.own_inputs(rows)
    block_size = self.experiment.block_size
    if first + len(rows) <= _FEW_ROWS:
      block_size = min(block_size, _FEW_ROWS)
    block_size = -(-block_size // mesh.size) * mesh.size
    step = self._rows_at_once(num_samples, block_size)
    for start in range(0, len(rows), step):
      yield evaluation.predict(
        self._predictors[num_samples],
        params,
        self._block(inputs, rows, slice(start, start + step)),
        block_size=block_size,
        sharding=self._sharding,
        widths=self.model.widths,
        first=first + start,
      )

  def _block(self, inputs, rows, part):
    """Inputs of some rows; only they have their prior, K numbers each."""
    block = jax.tree.map(lambda x: x[part], inputs)
    if self.model.prior is None:
      return block
    return self.model.with_prior(block, rows.part(part))

  def reduced(
    self,
    rows: Rows | TextRows,
    reduce: Callable[[dict[str, np.ndarray]], np.ndarray],
    *,
    num_samples: int | None = None,
  ) -> np.ndarray:
    """`reduce` of what `predict` gives, in bounded memory: [n, ...]."""
    blocks = self.predict_blocks(rows, num_samples=num_samples)
    return np.concatenate([reduce(block) for block in blocks])

  def _rows_at_once(self, num_samples, block_size):
    """Whole device blocks, so that a row has its bits whatever comes after."""
    num_targets = len(self.model.codec.parts)
    each = len(self.seeds) * (num_samples * num_targets + self._num_numbers)
    rows = min(_MAX_ROWS, _MAX_NUMBERS // each)
    return max(1, rows // block_size) * block_size

  def files(self) -> Mapping[str, bytes]:
    """{path: content} of what predicts: JSON and the last stage's weights."""
    if self.content is not None:
      return self.content
    folder = self.workdir / weights.FOLDER
    parts = [folder / self.stages[-1]]
    if not parts[0].exists():  # From before there were weights.
      parts = [self.workdir / 'checkpoints']
    if self.model.prior is not None:
      parts.append(self.workdir / priors.FOLDER)
    paths = [self.workdir / name for name in _JSON_FILES]
    paths += [p for part in parts for p in sorted(part.rglob('*'))]
    paths += weights.frozen_files(self.workdir)
    root = self.workdir.absolute()
    kept = {estimates.FILE: estimates.content(self.margins)}
    return (kept if self.margins else {}) | {
      path.absolute().relative_to(root).as_posix(): path.read_bytes()
      for path in paths
      if path.is_file()
    }

  @classmethod
  def of_files(cls, files: Mapping[str, bytes]) -> 'FinishedRun':
    """The run of `files`, in memory: it needs no folder any more."""
    with tempfile.TemporaryDirectory() as folder:
      write_files(folder, files)
      run = dataclasses.replace(open_run(folder), content=files)
      _ = run._loaded
    return run

  def __reduce__(self):
    """Pickles as its files: JSON and weights, no program."""
    return FinishedRun.of_files, (self.files(),)

  @functools.cached_property
  def _loaded(self):
    """(mesh, weights of the last stage): the devices at hand."""
    compilation.keep_programs()
    mesh = sharding.mesh_at_hand()
    return mesh, self.weights(mesh=mesh)

  @functools.cached_property
  def _sharding(self):
    """Of a block's rows."""
    return sharding.batch_sharding(self._loaded[0])

  @functools.cached_property
  def _num_numbers(self):
    """Numbers that every row has the probability of."""
    exact = self.experiment.evaluation.exact
    return self.model.codec.values().size if exact else 0

  @functools.cached_property
  def _predictors(self):
    """Number of samples -> program."""
    return {}


def write_files(
  workdir: str | os.PathLike[str], files: Mapping[str, bytes]
) -> None:
  """Writes what `FinishedRun.files` gave; run.json last: then it is whole."""
  for name in sorted(files, key=lambda name: name == 'run.json'):
    atomic.write_bytes(pathlib.Path(workdir, name), files[name])


def open_run(workdir: str | os.PathLike[str]) -> FinishedRun:
  """Reads a finished run back.

  Raises:
    InputError: it is not there, not finished, or its files are damaged.
  """
  workdir = path_of(workdir)
  if not (workdir / 'config.json').exists():
    raise InputError(f'{workdir} is no workdir: it has no config.json')
  if not (workdir / 'run.json').exists():
    raise InputError(
      f'the run in {workdir} is not finished: run its command again first'
    )
  fields, saved, run = (read_json(workdir / name) for name in _JSON_FILES)
  try:
    reopened = experiment.reopened(
      fields,
      networks.features_from_json(saved['features']),
      targets.from_json(saved['scaler']),
      str(workdir / 'config.json'),
      saved.get('numbers', ()),  # Older runs had none.
      # Older runs had no more room than rows.
      run.get('num_memory') or run['num_train'],
      TextColumns.from_json(saved['texts']) if 'texts' in saved else None,
      saved.get('compute_dtype', ''),
      run.get('weighted', False),  # Older runs had no weights.
    )
    if reopened.model.prior is not None:
      reopened = _with_prior(reopened, workdir / priors.FOLDER)
    _check_written(workdir / 'run.json', run, reopened.seeds)
    if not isinstance(saved['target_name'], str):
      raise TypeError('target_name is no text')
    return FinishedRun(
      workdir=workdir,
      experiment=reopened,
      stages=tuple(run['stages']),
      seeds=reopened.seeds,
      target_name=saved['target_name'],
      margins=_margins(workdir),
    )
  except InputError:
    raise
  # Parts that do not fit together fail in as many ways as there are parts.
  except Exception as error:
    raise InputError(
      f'{workdir} has a damaged config.json, model.json or run.json '
      f'({one_line(error)}): train again'
    ) from error


def _with_prior(reopened, folder):
  """The experiment, its model with the prior that the run fitted."""
  prior = priors.Prior.read(folder)
  model = dataclasses.replace(reopened.model, prior=prior)
  return dataclasses.replace(reopened, model=model)


def _check_written(path, run, seeds):
  """Raises InputError where run.json does not say what was run."""
  stages = run.get('stages')
  if not (
    isinstance(stages, list)
    and stages
    and all(isinstance(name, str) for name in stages)
  ):
    raise InputError(f'{path} is damaged: stages names no stage: train again')
  if run.get('seeds') != list(seeds):
    raise InputError(
      f'{path} is damaged: its seeds are {shortened(run.get("seeds"))}, those '
      f'of config.json {list(seeds)}: train again'
    )


def _margins(workdir):
  """Of a run; () of one from before they were kept."""
  path = workdir / estimates.FILE
  if not path.exists():
    path = workdir / 'estimator.json'  # Where estimators kept them once.
  values = read_json(path).get('margins', []) if path.exists() else []
  try:
    return estimates.checked_margins(values)
  except ValueError as error:
    raise InputError(f'{path} is damaged ({error}): train again') from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The JSON object in a file that every workdir has.

  Raises:
    InputError: it is not there, or damaged.
  """
  try:
    return reading.read_json(path)
  except FileNotFoundError as error:
    raise InputError(f'{path} is missing: train again') from error
