"""What a report is made of: a finished run, read back from its workdir."""

import dataclasses
import functools
import itertools
import math
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genre2_jax.data import targets
from genre2_jax.errors import InputError
from genre2_jax.files import metrics_log, reading
from genre2_jax.files.atomic import PathLike
from genre2_jax.metrics import joint, sampled
from genre2_jax.metrics.results import COLUMNS
from genre2_jax.report import numbers
from genre2_jax.report.palette import COLORS

SPLIT = 'test'
NOMINAL = 0.9  # of the intervals behind coverage90 and width90 in results.csv
_COUNTS = ('num_train', 'num_val', 'num_test', 'parameters')  # of run.json
MAX_CELLS = 12  # different targets, of what is a grade rather than a quantity
# Of objectives and baselines; what is not here goes by its own name.
TERM_NAMES = {
  'catboost': 'CatBoost',
  'catboost_quantiles': 'CatBoost quantiles',
  'catboost_residuals': 'CatBoost + errors',
  'catboost_uncertainty': 'CatBoost uncertainty',
  'ce': 'CE',
  'crps': 'CRPS loss',  # beside the metric
  'dar': 'DAR',
  'dist2': 'DIST²',
  'dr_grpo': 'Dr. GRPO',
  'tabm': 'TabM',
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
  'ngboost': 'NGBoost',
  'ntl_mse': 'NTL-MSE',
  'ntl_was': 'NTL-WAS',
  'ppo': 'PPO',
  'raft': 'RAFT',
  'quantile_forest': 'quantile forest',
  'random_forest': 'random forest',
  'random_forest_residuals': 'random forest + errors',
  'real': 'REAL',
  'reinforce': 'REINFORCE',
  'realmlp': 'RealMLP',
  'realmlp_residuals': 'RealMLP + errors',
  'remax': 'ReMax',
  'rloo': 'RLOO',
  'soft_ce': 'soft CE',
  'xgboost': 'XGBoost',
  'xgboost_residuals': 'XGBoost + errors',
}


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of the run, and what it predicts for the test rows."""

  key: str  # in files and tables
  name: str
  color: str
  samples_z: np.ndarray  # float32 [S, n, G]


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a reader would use of the last stage, in the target's own unit.

  Attributes:
    estimator: its name in results.csv.
    value: [n].
    low: [n], of the 90% interval; None: there is none.
    high: [n], likewise.
    is_conformal: whether validation rows gave the interval its margin.
  """

  estimator: str
  value: np.ndarray
  low: np.ndarray | None = None
  high: np.ndarray | None = None
  is_conformal: bool = False


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
  prediction: Prediction | None = None
  # stage of references.csv -> metric -> value, means over seeds
  references: Mapping[str, Mapping[str, float]] = dataclasses.field(
    default_factory=dict
  )
  columns: Sequence[Mapping[str, Any]] = ()  # of columns.json
  importances: Mapping[str, Any] | None = None  # importances.json
  weight: np.ndarray | None = None  # [n], of the rows, if they have some

  @property
  def last(self) -> Stage:
    return self.stages[-1]

  @property
  def best(self) -> Prediction:
    """What a reader would use; of runs of old the mean of all samples."""
    if self.prediction is not None:
      return self.prediction
    samples = self.in_unit(np.concatenate(self.last.samples_z, axis=-1))
    if self.is_point:
      return Prediction('mean', samples.mean(axis=-1))
    low, high = sampled.central_interval(samples, NOMINAL)
    return Prediction('mean', samples.mean(axis=-1), low, high)

  @property
  def together(self) -> str:
    """The seed, in results.csv, of what is predicted: all of them at once."""
    return 'ensemble' if len(self.seeds) > 1 else self.seeds[0]

  @property
  def cells(self) -> np.ndarray | None:
    """The values that the target takes, if they are few; None: many."""
    values = np.unique(self.target)
    is_few = len(values) <= min(MAX_CELLS, len(self.target) // 3)
    return values if is_few else None

  @functools.cached_property
  def _decimals(self) -> dict[str, int]:
    """Of a metric, those that give a typical value of it three digits."""
    found: dict[str, list[float]] = {}
    for (seed, _, _, metric), value in self.results.items():
      if seed != 'std':
        found.setdefault(metric, []).append(value)
    return {metric: numbers.decimals(v) for metric, v in found.items()}

  def decimals(self, metric: str) -> int:
    """Of a metric, wherever the page prints it."""
    # Errors in the same unit read best with the same decimals.
    name = 'rmse_unit' if metric.endswith('_unit') else metric
    return self._decimals.get(name, 3)

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


def target_names(workdir: PathLike) -> list[str]:
  """Of a finished run's several targets; [] of one.

  Raises:
    InputError: run.json is missing or damaged.
  """
  path = pathlib.Path(workdir) / 'run.json'
  try:
    return _read_info(path).get('targets', [])
  except FileNotFoundError as error:
    raise InputError(
      f'{path} is missing: a report needs a finished run'
    ) from error


def overall(workdir: PathLike, run: Run) -> Run:
  """A run of several targets, its results the means over them and joint ones.

  Args:
    workdir: of the run.
    run: of any of its targets.
  """
  results: dict[tuple[str, ...], float] = {
    (row['seed'], row['stage'], row['estimator'], row['metric']): value
    for row, value in read_results(pathlib.Path(workdir))
    if row['split'] == SPLIT and joint.OF not in row['metric']
  }
  return dataclasses.replace(run, results=results)


def load(workdir: PathLike, target: str = '') -> Run:
  """Reads a finished run.

  Args:
    workdir: of the run.
    target: of several, the one to look at.

  Raises:
    InputError: a file of it is missing or damaged.
  """
  workdir = pathlib.Path(workdir)
  of = f'{joint.OF}{target}' if target else ''
  try:
    info = _read_info(workdir / 'run.json')
    if target:
      info = info | {'target': target}
    config = _read_config(workdir / 'config.json')
    env = reading.read_json(workdir / 'env.json')
    results = read_results(workdir, info.get('num_results'))
    _check_complete(workdir / 'results.csv', results, info)
    predictions = [
      _read_predictions(workdir, key, info, target) for key in info['stages']
    ]
  except FileNotFoundError as error:
    raise InputError(
      f'{error.filename} is missing: a report needs a finished run'
    ) from error
  prediction = _read_prediction(
    workdir, info, predictions[-1]['samples_z'].shape[-1], of
  )
  kept = np.isfinite(predictions[-1]['target'])
  if not kept.all():
    predictions, prediction = _of_numbers(kept, predictions, prediction)
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
      (
        row['seed'],
        row['stage'],
        row['estimator'],
        row['metric'].removesuffix(of),
      ): value
      for row, value in results
      if row['split'] == SPLIT and row['metric'].endswith(of)
    },
    stages=stages,
    target_z=truth['target_z'].astype(np.float64),
    target=truth['target'].astype(np.float64),
    mean=float(truth['mean']),
    std=float(truth['std']),
    scaler=_scaler(truth),
    operations=_read_operations(workdir, stages),
    prediction=prediction,
    references=_read_references(workdir, truth, of),
    columns=_read_columns(workdir),
    importances=_read_importances(workdir, target),
    weight=truth.get('weight'),
  )


def _of_numbers(kept, predictions, prediction):
  """Predictions of the rows whose target is a number: what is drawn."""
  found = []
  for arrays in predictions:
    own = {**arrays, 'samples_z': arrays['samples_z'][:, kept]}
    for name in ('target', 'target_z', 'weight'):
      if name in own:
        own[name] = own[name][kept]
    found.append(own)
  if prediction is not None:
    ends = {
      name: None if end is None else end[kept]
      for name, end in (('low', prediction.low), ('high', prediction.high))
    }
    value = prediction.value[kept]
    prediction = dataclasses.replace(prediction, value=value, **ends)
  return found, prediction


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
    'drawn_from': _is_count(info.get('drawn_from', 0)),
    'out_of_time': _are(info.get('out_of_time', []), _is_text),
    'targets': _are(info.get('targets', []), _is_text),
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
  workdir: pathlib.Path, stage: str, info: Mapping[str, Any], target: str
) -> dict[str, np.ndarray]:
  """Arrays of a stage's predictions, with every shape checked.

  Of several targets those of the one that is looked at.
  """
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
  if 'weight' in arrays:
    shapes |= {'weight': (n,)}
  if 'quantiles' in arrays:
    shapes |= {'quantiles': (None,), 'normal': ()}
  if not target:
    check_shapes(path, arrays, shapes)
    return arrays
  k, place = len(info['targets']), info['targets'].index(target)
  for name in shapes.keys() - {'weight'}:
    own = shapes[name]
    shapes[name] = (k, *own) if name == 'quantiles' else (*own, k)
  check_shapes(path, arrays, shapes)
  of = {name: (..., place) for name in shapes} | {'quantiles': (place,)}
  of['weight'] = (...,)
  return {name: arrays[name][of[name]] for name in shapes}


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


def _read_prediction(
  workdir: pathlib.Path, info: Mapping[str, Any], num_samples: int, of: str
) -> Prediction | None:
  """The defaults of predictions.csv; None of runs that kept none."""
  path = workdir / 'predictions.csv'
  if not path.exists():
    return None
  table = {
    name.removesuffix(of): cells
    for name, cells in reading.read_columns(path).items()
    if name.endswith(of)
  }
  if 'prediction' not in table:
    return None

  def column(name):
    found = np.array([reading.number(path, cell) for cell in table[name]])
    check_shapes(path, {name: found}, {name: (info['num_test'],)})
    return found

  value = column('prediction')
  names = [n for n in ('exact_mean', 'mean') if n in table]
  same = [n for n in names if table[n] == table['prediction']]
  estimator = (same or names or ['mean'])[0]
  for prefix in ('', 'model_') if num_samples > 1 else ():
    ends = f'{prefix}lower90', f'{prefix}upper90'
    if set(ends) <= table.keys():
      low, high = map(column, ends)
      return Prediction(estimator, value, low, high, is_conformal=not prefix)
  return Prediction(estimator, value)


def _read_references(
  workdir: pathlib.Path, truth: Mapping[str, np.ndarray], of: str
) -> dict[str, dict[str, float]]:
  """What the references reach on test; errors in the target's own unit too."""
  path = workdir / 'references.csv'
  if not path.exists():
    return {}
  found: dict[str, dict[str, list[float]]] = {}
  for row in reading.read_csv(path, COLUMNS):
    is_own = row['split'] == SPLIT and row['metric'].endswith(of)
    if is_own and row['seed'].isdecimal():
      metrics = found.setdefault(row['stage'], {})
      value = reading.number(path, row['value'])
      metrics.setdefault(row['metric'].removesuffix(of), []).append(value)
  means = {
    stage: {metric: float(np.mean(v)) for metric, v in metrics.items()}
    for stage, metrics in found.items()
  }
  if 'quantiles' not in truth:
    for reached in means.values():
      for metric in ('rmse', 'mae'):
        if metric in reached:
          in_unit = reached[metric] * float(truth['std'])
          reached.setdefault(f'{metric}_unit', in_unit)
  return means


def _read_columns(workdir: pathlib.Path) -> list[dict[str, Any]]:
  path = workdir / 'columns.json'
  if not path.exists():
    return []
  columns = reading.read_json(path).get('columns')
  if not isinstance(columns, list) or not all(map(_is_column, columns)):
    raise InputError(f'{path} is damaged (see columns): delete it')
  return columns


def _is_column(value: Any) -> bool:
  return (
    isinstance(value, dict)
    and all(
      isinstance(value.get(key), str) for key in ('name', 'kind', 'range')
    )
    and all(
      isinstance(value.get(key), dict)
      and all(map(_is_count, value[key].values()))
      for key in ('missing', 'unseen')
    )
    and _is_count(value.get('distinct'))
  )


def _read_importances(
  workdir: pathlib.Path, target: str
) -> dict[str, Any] | None:
  path = workdir / 'importances.json'
  if not path.exists():
    return None
  found: Any = reading.read_json(path)
  if target:
    found = found.get(target)
    if not isinstance(found, dict):
      raise InputError(f'{path} is damaged: delete it')
  sound = (
    all(_is_count(found.get(key)) for key in ('rows', 'repeats'))
    and _are(found.get('importances'), _is_importance)
    and _are(found.get('dependences'), _is_dependence)
  )
  if not sound:
    raise InputError(f'{path} is damaged: delete it')
  return found


def _are(values: Any, is_sound: Callable[[Any], bool]) -> bool:
  return isinstance(values, list) and all(map(is_sound, values))


def _is_importance(value: Any) -> bool:
  return (
    isinstance(value, dict)
    and isinstance(value.get('column'), str)
    and all(_is_number(value.get(key)) for key in ('mean', 'std'))
  )


def _is_dependence(value: Any) -> bool:
  if not isinstance(value, dict):
    return False
  grid, predictions = value.get('grid'), value.get('predictions')
  return (
    isinstance(value.get('column'), str)
    and isinstance(value.get('kind'), str)
    and isinstance(grid, list)
    and isinstance(predictions, list)
    and (_are(grid, _is_number) or _are(grid, _is_text))
    and _are(predictions, _is_number)
    and len(grid) == len(predictions) > 0
    and _are(value.get('quantiles'), _is_number)
  )


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _read_operations(
  workdir: pathlib.Path, stages: Sequence[Stage]
) -> dict[str, Any]:
  found = {}
  for stage in stages:
    path = workdir / 'profile' / stage.key / 'operations.json'
    if path.exists():
      found[stage.key] = reading.read_json(path)
      # Runs of earlier versions have no modules.
      lists = [found[stage.key].get('modules', [])]
      lists.append(found[stage.key].get('operations'))
      if not all(_are(values, _is_operation) for values in lists):
        raise InputError(f'{path} is damaged (see operations): delete it')
  return found


def _is_operation(value: Any) -> bool:
  return (
    isinstance(value, dict)
    and isinstance(value.get('name'), str)
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
