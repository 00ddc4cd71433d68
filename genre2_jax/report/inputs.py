"""What a report is made of: a finished run, read back from its workdir."""

import csv
import dataclasses
import itertools
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genre2_jax import errors
from genre2_jax.data import targets
from genre2_jax.files import metrics_log

SPLIT = 'test'
NOMINAL = 0.9  # of the intervals behind coverage90 and width90 in results.csv
RUN_FIELDS = (  # of run.json
  'task',
  'target',
  'stages',
  'seeds',
  'num_train',
  'num_val',
  'num_test',
  'parameters',
  'constant_target',
)

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
  'dummy': 'train mean',
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

  def has(self, estimator: str) -> bool:
    """Whether some stage has test metrics of an estimator."""
    return any(key[2] == estimator for key in self.results)

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


def load(workdir: str | pathlib.Path) -> Run:
  """Reads a finished run; missing or damaged files raise InputError."""
  workdir = pathlib.Path(workdir)
  try:
    info, config, env = (
      json.loads((workdir / name).read_text(encoding='utf-8'))
      for name in ('run.json', 'config.json', 'env.json')
    )
    info = {name: info[name] for name in RUN_FIELDS}
    with open(workdir / 'results.csv', encoding='utf-8', newline='') as file:
      results = {
        (row['seed'], row['stage'], row['estimator'], row['metric']): float(
          row['value']
        )
        for row in csv.DictReader(file)
        if row['split'] == SPLIT
      }
    stages = []
    colors = itertools.cycle(COLORS[1:])
    for key in info['stages']:
      with np.load(workdir / 'evaluation' / f'{key}_{SPLIT}.npz') as arrays:
        # CE looks the same in every report, whatever it is compared with.
        color = COLORS[0] if key == 'ce' else next(colors)
        stages.append(Stage(key, stage_name(key), color, arrays['samples_z']))
        truth = {  # of every stage
          'target_z': arrays['target_z'].astype(np.float64),
          'target': arrays['target'].astype(np.float64),
          'mean': float(arrays['mean']),
          'std': float(arrays['std']),
        }
        if 'quantiles' in arrays:
          truth['scaler'] = targets.QuantileScaler(
            quantiles=tuple(arrays['quantiles'].tolist()),
            normal=bool(arrays['normal']),
          )
  except FileNotFoundError as error:
    raise errors.InputError(
      f'{error.filename} is missing: a report needs a finished run'
    ) from error
  except (EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise errors.InputError(f'{workdir} is damaged: {error!r}') from error
  records = metrics_log.read(workdir)
  return Run(
    info,
    config,
    env,
    records,
    results,
    stages,
    **truth,
    operations=_read_operations(workdir, stages),
  )


def _read_operations(workdir: pathlib.Path, stages: Sequence[Stage]) -> dict:
  found = {}
  for stage in stages:
    path = workdir / 'profile' / stage.key / 'operations.json'
    if path.exists():
      try:
        found[stage.key] = json.loads(path.read_text(encoding='utf-8'))
      except ValueError as error:
        raise errors.InputError(
          f'{path} is damaged ({error}): delete it'
        ) from error
  return found


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
