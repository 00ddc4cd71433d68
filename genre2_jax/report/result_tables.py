"""The tables of a report: every test metric, by estimator, stage and seed."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genre2_jax.data import targets
from genre2_jax.metrics import sampled
from genre2_jax.report.inputs import NOMINAL, Run, Stage


def _higher(value: float) -> float:
  return value


def _lower(value: float) -> float:
  return -value


def _nominal(value: float) -> float:
  return -abs(value - NOMINAL)


@dataclasses.dataclass(frozen=True)
class Column:
  """A metric under its name and unit, and how good a value is (None: neither).

  In units {z} stands for that of the target as it is learnt. An empty
  estimator: each row has its own.
  """

  name: str
  unit: str
  metric: str
  goodness: Callable[[float], float] | None = None
  estimator: str = ''


POINT_COLUMNS = (
  Column('RMSE', '{z}', 'rmse', _lower),
  Column('MAE', '{z}', 'mae', _lower),
  Column('R²', '', 'r2', _higher),
  Column('Spearman', 'rank', 'spearman', _higher),
  Column('Kendall', 'τ-b', 'kendall', _higher),
  Column('RMSE', 'original unit', 'rmse_unit', _lower),
  Column('MAE', 'original unit', 'mae_unit', _lower),
)
DISTRIBUTION_COLUMNS = (
  Column('CRPS', '{z}', 'crps', _lower),
  Column('NLL', 'nats', 'nll', _lower),
  Column('Outside', 'share of targets', 'outside'),
  Column('Coverage', 'of 90%', 'coverage90', _nominal),
  Column('Width', 'of 90%, {z}', 'width90'),
  Column('Entropy', 'nats', 'entropy'),
  Column('Reward', '{z}²', 'reward', _higher),
  Column('Grid mass', 'share of p', 'grid_mass'),
)
SEED_COLUMNS = (
  Column('RMSE of the mean', '{z}', 'rmse', estimator='mean'),
  Column('R² of the mean', '', 'r2', estimator='mean'),
  Column('R² of the median', '', 'r2', estimator='median'),
  Column('CRPS', '{z}', 'crps', estimator='sample'),
  Column('Coverage', 'of 90%', 'coverage90', estimator='sample'),
)
OPERATION_COLUMNS = (
  Column('Time', 'ms per step', 'milliseconds'),
  Column('Calls', 'per step', 'calls'),
  Column('Share', 'of all operations', 'share'),
)
# Meaningless where each row has a single number.
SPREAD_METRICS = ('coverage90', 'width90', 'entropy')
ESTIMATOR_NAMES = {'sample': 'one sample'}
DISTRIBUTION_NAMES = {'sample': 'samples'}
# What results.csv has only where all numbers are enumerated.
EXACT_POINTS = ('exact_mean', 'exact_median', 'learned_mean')
EXACT_METRICS = ('nll', 'outside')
EXACT_DISTRIBUTIONS = ('exact', 'tempered', 'conformal')

Label = Stage | str
Number = tuple[float, float]  # and its spread over seeds
Row = tuple[Label, Sequence[Number]]


def points(run: Run) -> dict[str, Any]:
  """Point estimates: a group per estimator, a row per stage."""
  names = {
    name: ESTIMATOR_NAMES.get(name, name.replace('_', ' '))
    for name in sampled.POINT_ESTIMATORS
  }
  if run.is_point and not run.has('exact'):  # All estimates are the same.
    names = {'mean': 'prediction'}
  names |= {n: n.replace('_', ' ') for n in EXACT_POINTS if run.has(n)}
  columns = _columns(run, POINT_COLUMNS)
  if run.unit == targets.UNITS['none']:  # Once is enough.
    columns = [c for c in columns if not c.metric.endswith('_unit')]
  groups = [
    (name, _stage_rows(run, columns, estimator))
    for estimator, name in names.items()
  ]
  return _table(('Estimator', 'Stage'), columns, groups)


def distributions(run: Run) -> dict[str, Any] | None:
  """Predictive distributions: a group per way to know them, a row per stage.

  None where all that is predicted is one number.
  """
  exact = [name for name in EXACT_DISTRIBUTIONS if run.has(name)]
  if run.is_point and not exact:
    return None
  columns = _columns(run, DISTRIBUTION_COLUMNS)
  columns = [c for c in columns if exact or c.metric not in EXACT_METRICS]
  if not run.has('sample', 'grid_mass'):  # A softmax over numbers alone.
    columns = [c for c in columns if c.metric != 'grid_mass']
  groups = [
    (
      DISTRIBUTION_NAMES.get(name, name),
      _stage_rows(run, columns, name),
    )
    for name in ('sample', *exact)
  ]
  heads = ('Distribution', 'Stage') if exact else ('Stage',)
  return _table(heads, columns, groups)


def seeds(run: Run) -> dict[str, Any]:
  """A group per stage, a row per seed and per summary of the seeds."""
  present = {seed for seed, *_ in run.results}
  names = [s for s in (*run.seeds, 'mean', 'std', 'ensemble') if s in present]
  groups = [
    (
      stage,
      [
        (
          seed,
          [
            (_value(run, stage, c.estimator, c.metric, seed), math.nan)
            for c in SEED_COLUMNS
          ],
        )
        for seed in names
      ],
    )
    for stage in run.stages
  ]
  return _table(('Stage', 'Seed'), _columns(run, SEED_COLUMNS), groups)


def operations(run: Run) -> dict[str, Any] | None:
  """What traced steps took their time for: a group per stage.

  None where no step was traced.
  """
  groups = [
    (
      stage,
      [
        (
          _operation(found),
          [(found[c.metric], math.nan) for c in OPERATION_COLUMNS],
        )
        for found in run.operations[stage.key]['operations']
      ],
    )
    for stage in run.stages
    if stage.key in run.operations
  ]
  groups = [(stage, rows) for stage, rows in groups if rows]
  if not groups:
    return None
  return _table(('Stage', 'Operation'), OPERATION_COLUMNS, groups)


def _operation(found: dict[str, Any]) -> str:
  """'dot.3, jvp(decode)/dot_general': the name, and the end of where it is."""
  source = '/'.join(found['source'].split('/')[-3:])
  return f'{found["name"]}, {source}' if source else found['name']


def _columns(run: Run, columns: Sequence[Column]) -> list[Column]:
  """The columns with the run's unit."""
  return [
    dataclasses.replace(column, unit=column.unit.format(z=run.unit.name))
    for column in columns
  ]


def _stage_rows(
  run: Run, columns: Sequence[Column], estimator: str
) -> list[Row]:
  return [
    (
      stage,
      [
        (
          _value(run, stage, estimator, column.metric),
          _value(run, stage, estimator, column.metric, 'std'),
        )
        for column in columns
      ],
    )
    for stage in run.stages
  ]


def _value(
  run: Run, stage: Stage, estimator: str, metric: str, seed: str = ''
) -> float:
  if run.is_point and estimator == 'sample' and metric in SPREAD_METRICS:
    return math.nan
  return run.value(stage, estimator, metric, seed)


def _table(
  heads: Sequence[str],
  columns: Sequence[Column],
  groups: Sequence[tuple[Label, Sequence[Row]]],
) -> dict[str, Any]:
  """What the template draws; a column has one number of decimals."""
  numbers = [numbers for _, rows in groups for _, numbers in rows]  # by row
  decimals = [
    _decimals([value for value, _ in column])
    for column in zip(*numbers, strict=True)
  ]
  drawn = []
  for label, rows in groups:
    labels, values = zip(*rows, strict=True)
    by_column = map(_cells, columns, zip(*values, strict=True), decimals)
    by_row = zip(*by_column, strict=True)
    drawn.append((label, list(zip(labels, by_row, strict=True))))
  return {'heads': heads, 'columns': columns, 'groups': drawn}


def _cells(
  column: Column, numbers: Sequence[Number], decimals: int
) -> list[dict[str, Any]]:
  """A group's part of a column, the best marked.

  Only printed digits count: what reads equal is equal.
  """
  texts = [_text(value, decimals) for value, _ in numbers]
  best = None
  if column.goodness and len(set(texts) - {''}) > 1:
    defined = [value for value, _ in numbers if math.isfinite(value)]
    best = _text(max(defined, key=column.goodness), decimals)
  return [
    {'text': text, 'spread': _text(spread, decimals), 'best': text == best}
    for text, (_, spread) in zip(texts, numbers, strict=True)
  ]


def _text(value: float, decimals: int) -> str:
  if not math.isfinite(value):
    return ''
  is_plain = value == 0 or 1e-4 <= abs(value) < 1e6
  text = f'{value:,.{decimals}f}' if is_plain else f'{value:.2e}'
  return text.replace('-', '\N{MINUS SIGN}')


def _decimals(values: Sequence[float]) -> int:
  """Decimals that give a typical value of the column three digits."""
  sizes = [abs(value) for value in values if math.isfinite(value) and value]
  if not sizes:
    return 3
  return min(max(2 - math.floor(math.log10(np.median(sizes))), 0), 6)
