"""What a report is made of: a finished run, read back from its workdir."""

import dataclasses
import itertools
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genre2_jax.data import targets
from genre2_jax.errors import InputError
from genre2_jax.files import metrics_log, reading
from genre2_jax.files.atomic import PathLike
from genre2_jax.metrics.results import COLUMNS

SPLIT = 'test'
NOMINAL = 0.9  # of the intervals behind coverage90 and width90 in results.csv
_COUNTS = ('num_train', 'num_val', 'num_test', 'parameters')  # of run.json
# Okabe & Ito's colours, dark ones first: they keep apart for colour-blind eyes.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
# Of objectives and baselines; what is not here goes by its own name.
TERM_NAMES = {
  'catboost': 'CatBoost',
  'ce': 'CE',
  'crps': 'CRPS loss',  # beside the metric
  'dar': 'DAR',
  'dist2': 'DIST²',
  'dr_grpo': 'Dr. GRPO',
  'train_mean': 'train mean',
  'histogram_trees': 'histogram trees',
  'exact': 'exact gradient',
  'expert': 'expert',
  'grpo': 'GRPO',
  'kl': 'KL',
  'lightgbm': 'LightGBM',
  'linear': 'linear regression',
  'log_loss': 'log loss',
  'zero_shot': 'zero-shot',
  'mbr': 'MBR',
  'mse': 'MSE',
  'no_baseline': 'no baseline',
  'ntl_mse': 'NTL-MSE',
  'ntl_was': 'NTL-WAS',
  'ppo': 'PPO',
  'raft': 'RAFT',
  'random_forest': 'random forest',
  'real': 'REAL',
  'reinforce': 'REINFORCE',
  'remax': 'ReMax',
  'rloo': 'RLOO',
  'soft_ce': 'soft CE',
  'xgboost': 'XGBoost',
}


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of the run, and what it predicts for the test rows."""

  key: str  # in files and tables
  name: str
  color: str
  samples_z: np.ndarray  # float32 [S, n, G]


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything the report reads."""

  info: Mapping[str, Any]  # run.json
  config: Mapping[str, Any]
  env: Mapping[str, Any]
  records: Sequence[Mapping[str, Any]]  # of metrics.jsonl
  results: Mapping[tuple[str, ...], float]  # seed, stage, estimator, metric
  stages: Sequence[Stage]
  target_z: np.ndarray  # [n]
  target: np.ndarray  # [n], original unit
  mean: float  # original unit = z · std + mean
  std: float
  scaler: targets.QuantileScaler | None = None  # in their place
  # stage -> profile/<stage>/operations.json, where steps were traced
  operations: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def seeds(self) -> list[str]:
    return [str(seed) for seed in self.info['seeds']]

  @property
  def num_samples(self) -> int:
    return self.stages[0].samples_z.shape[-1]

  @property
  def is_point(self) -> bool:
    """Whether a row has one number, which has no spread to speak of."""
    return self.num_samples == 1

  @property
  def unit(self) -> targets.Unit:
    """What errors in z are measured in."""
    data = self.config.get('data', {})
    return targets.UNITS[data.get('transform', 'standard')]

  def has(self, estimator: str, metric: str = '') -> bool:
    """Whether some stage has test metrics of an estimator, or this metric."""
    return any(
      key[2] == estimator and metric in ('', key[3]) for key in self.results
    )

  def value(
    self, stage: Stage, estimator: str, metric: str, seed: str = ''
  ) -> float:
    """A test metric, NaN if absent: of one seed, 'mean', 'std' or 'ensemble'.

    By default of the only seed, or the mean over seeds.
    """
    seed = seed or ('mean' if len(self.seeds) > 1 else self.seeds[0])
    return self.results.get((seed, stage.key, estimator, metric), math.nan)

  def in_unit(self, z: np.ndarray) -> np.ndarray:
    """z-scores in the original unit."""
    if self.scaler is not None:
      return self.scaler.restore(z)
    return z * self.std + self.mean


def load(workdir: PathLike) -> Run:
  """Reads a finished run.

  Raises:
    InputError: a file of it is missing or damaged.
  """
  workdir = pathlib.Path(workdir)
  try:
    info = _read_info(workdir / 'run.json')
    config = _read_config(workdir / 'config.json')
    env = reading.read_json(workdir / 'env.json')
    results = read_results(workdir, info.get('num_results'))
    _check_complete(workdir / 'results.csv', results, info)
    predictions = [
      _read_predictions(workdir, key, info) for key in info['stages']
    ]
  except FileNotFoundError as error:
    raise InputError(
      f'{error.filename} is missing: a report needs a finished run'
    ) from error
  colors = itertools.cycle(COLORS[1:])
  stages = [
    Stage(
      key=key,
      name=stage_name(key),
      # CE looks the same in every report, whatever it is compared with.
      color=COLORS[0] if key == 'ce' else next(colors),
      samples_z=arrays['samples_z'],
    )
    for key, arrays in zip(info['stages'], predictions, strict=True)
  ]
  truth = predictions[-1]  # The same in all.
  return Run(
    info=info,
    config=config,
    env=env,
    records=metrics_log.read_intact(workdir),
    results={
      (row['seed'], row['stage'], row['estimator'], row['metric']): value
      for row, value in results
      if row['split'] == SPLIT
    },
    stages=stages,
    target_z=truth['target_z'].astype(np.float64),
    target=truth['target'].astype(np.float64),
    mean=float(truth['mean']),
    std=float(truth['std']),
    scaler=_scaler(truth),
    operations=_read_operations(workdir, stages),
  )


def read_results(
  workdir: pathlib.Path, num_rows: int | None = None
) -> list[tuple[dict[str, str], float]]:
  """Rows of results.csv, each with its value as a number.

  Args:
    workdir: of a run.
    num_rows: that there must be; None where run.json does not say.

  Raises:
    InputError: it is damaged, or rows are missing.
  """
  path = workdir / 'results.csv'
  rows = reading.read_csv(path, COLUMNS, num_rows)
  return [(row, reading.number(path, row['value'])) for row in rows]


def _check_complete(path, results, info):
  """Raises InputError where a stage or a seed has no rows: they were lost."""
  found = {
    (row['stage'], row['seed']) for row, _ in results if row['split'] == SPLIT
  }
  for stage in info['stages']:
    for seed in info['seeds']:
      if (stage, str(seed)) not in found:
        raise InputError(
          f'{path} is damaged: no {SPLIT} rows of stage {stage}, seed {seed}, '
          'which run.json names; run again, in a new workdir'
        )


def check_stages(path: pathlib.Path, stages: Any) -> list[str]:
  """`stages` of a run.json, checked to be names of files.

  Raises:
    InputError: they are not.
  """
  if (
    not isinstance(stages, list)
    or not stages
    or not all(isinstance(stage, str) for stage in stages)
    or not all(re.fullmatch(r'[\w+-]+', stage) for stage in stages)
  ):
    raise InputError(f'{path} is damaged: its stages are no names')
  return stages


def _read_info(path: pathlib.Path) -> dict[str, Any]:
  """run.json, with the type of every field checked."""
  info = reading.read_json(path)
  check_stages(path, info.get('stages'))
  seeds = info.get('seeds')
  checks = {
    'task': isinstance(info.get('task'), str),
    'target': isinstance(info.get('target'), str),
    'seeds': isinstance(seeds, list) and seeds and all(map(_is_count, seeds)),
    **{name: _is_count(info.get(name)) for name in _COUNTS},
    'constant_target': isinstance(info.get('constant_target'), bool),
    # Runs of earlier versions lack it.
    'num_results': _is_count(info.get('num_results', 0)),
  }
  _refuse(path, [name for name, is_sound in checks.items() if not is_sound])
  return info


def _read_config(path: pathlib.Path) -> dict[str, Any]:
  """config.json, with the fields checked that the report puts in words."""
  config = reading.read_json(path)
  sections = {
    name: config.get(name, {}) for name in ('data', 'model', 'baseline')
  }
  tokenizer = sections['tokenizer'] = config.get('tokenizer')
  wrong = [
    key for key, value in sections.items() if not isinstance(value, dict)
  ]
  if isinstance(sections['data'], dict):
    transform = sections['data'].get('transform', 'standard')
    wrong += ['data.transform'] * (transform not in targets.TRANSFORMS)
  if isinstance(tokenizer, dict):
    wrong += [
      f'tokenizer.{name}'
      for name in ('name', *_tokenizer_fields(tokenizer.get('name')))
      if not isinstance(tokenizer.get(name), str | int)
    ]
  _refuse(path, wrong)
  return config


def _tokenizer_fields(name: Any) -> tuple[str, ...]:
  """Those that the report speaks of."""
  match name:
    case 'bins':
      return ('bins',)
    case 'strings':
      return ('strings',)
    case 'decimal':
      return ('integer_digits', 'fraction_digits')
  return ('base', 'digits')


def _read_predictions(
  workdir: pathlib.Path, stage: str, info: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Arrays of a stage's predictions, with every shape checked."""
  path = workdir / 'evaluation' / f'{stage}_{SPLIT}.npz'
  arrays = reading.read_npz(path)
  S, n = len(info['seeds']), info['num_test']
  shapes: dict[str, tuple[int | None, ...]] = {
    'samples_z': (S, n, None),
    'target_z': (n,),
    'target': (n,),
    'mean': (),
    'std': (),
  }
  if 'quantiles' in arrays:
    shapes |= {'quantiles': (None,), 'normal': ()}
  check_shapes(path, arrays, shapes)
  return arrays


def check_shapes(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[int | None, ...]],
) -> None:
  """Checks that arrays are there, and are numbers of a shape.

  Args:
    path: of the arrays.
    arrays: by name.
    shapes: that they must have; None is any size but 0.

  Raises:
    InputError: naming the file and the arrays.
  """
  _refuse(
    path,
    [
      name
      for name, shape in shapes.items()
      if name not in arrays or not _has_shape(arrays[name], shape)
    ],
  )


def _has_shape(array: np.ndarray, shape: Sequence[int | None]) -> bool:
  return (
    array.dtype.kind in 'biuf'
    and array.ndim == len(shape)
    and all(
      size == (wanted or size) and size > 0
      for size, wanted in zip(array.shape, shape, strict=True)
    )
  )


def _scaler(arrays: Mapping[str, np.ndarray]) -> targets.QuantileScaler | None:
  """What takes z-scores to the target's unit, if no straight line does."""
  if 'quantiles' not in arrays:
    return None
  return targets.QuantileScaler.from_json(
    {
      'quantiles': arrays['quantiles'].tolist(),
      'normal': bool(arrays['normal']),
    }
  )


def _read_operations(
  workdir: pathlib.Path, stages: Sequence[Stage]
) -> dict[str, Any]:
  found = {}
  for stage in stages:
    path = workdir / 'profile' / stage.key / 'operations.json'
    if path.exists():
      found[stage.key] = reading.read_json(path)
      operations = found[stage.key].get('operations')
      if not isinstance(operations, list) or not all(
        map(_is_operation, operations)
      ):
        raise InputError(f'{path} is damaged (see operations): delete it')
  return found


def _is_operation(value: Any) -> bool:
  return (
    isinstance(value, dict)
    and all(isinstance(value.get(key), str) for key in ('name', 'source'))
    and all(
      isinstance(value.get(key), int | float)
      for key in ('milliseconds', 'calls', 'share')
    )
  )


def _is_count(value: Any) -> bool:
  return type(value) is int and value >= 0


def _refuse(path: pathlib.Path, names: Sequence[str]) -> None:
  if names:
    raise InputError(
      f'{path} is damaged (see {", ".join(names)}): run the same command again'
    )


def stage_name(key: str) -> str:
  """A stage's key in words: 'ntl_was_expert' → 'NTL-WAS + expert'."""
  base = key.removesuffix('_again')
  words, names = base.split('_'), []
  while words:
    for length in range(len(words), 0, -1):  # 'dr_grpo' is one term.
      name = TERM_NAMES.get('_'.join(words[:length]))
      if name or length == 1:
        names.append(name or words[0])
        words = words[length:]
        break
  return ' + '.join(names) + (', again' if base != key else '')
