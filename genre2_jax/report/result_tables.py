"""The tables of a report: every test metric, by estimator, stage and seed."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from genre2_jax.data import targets, wording
from genre2_jax.metrics import sampled
from genre2_jax.report import numbers, words
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


PERCENT_METRICS = ('coverage90', 'outside', 'grid_mass')
OWN_COLUMNS = (
  Column('RMSE', 'own unit', 'rmse_unit', _lower),
  Column('MAE', 'own unit', 'mae_unit', _lower),
  Column('R²', '', 'r2', _higher),
  Column('Spearman', 'rank', 'spearman', _higher),
  Column('Kendall', 'τ-b', 'kendall', _higher),
)
POINT_COLUMNS = (
  *OWN_COLUMNS,
  Column('RMSE', '{z}', 'rmse', _lower),
  Column('MAE', '{z}', 'mae', _lower),
)
DISTRIBUTION_COLUMNS = (
  Column('CRPS', '{z}', 'crps', _lower),
  Column('NLL', 'nats', 'nll', _lower),
  Column('Outside', 'of targets', 'outside'),
  Column('Coverage', 'of 90%', 'coverage90', _nominal),
  Column('Width', 'of 90%, {z}', 'width90'),
  Column('Entropy', 'nats', 'entropy'),
  Column('Reward', '{z}²', 'reward', _higher),
  Column('Grid mass', 'of p', 'grid_mass'),
)
# Meaningless where each row has a single number.
SPREAD_METRICS = ('coverage90', 'width90', 'entropy')
MAX_IMPORTANCES = 20
DISTRIBUTION_NAMES = {'sample': 'samples'}
# What results.csv has only where all numbers are enumerated, or trained.
EXACT_POINTS = ('exact_mean', 'exact_median', 'learned_mean')
RAIL_POINTS = ('rail', 'rail_normalized')
EXACT_METRICS = ('nll', 'outside')
EXACT_DISTRIBUTIONS = ('exact', 'tempered', 'conformal')


class Link(NamedTuple):
  """A row's name that leads to another page."""

  name: str
  href: str


Label = Stage | Link | str
Number = tuple[float, float]  # and its spread over seeds
Row = tuple[Label, Sequence[Number]]


@dataclasses.dataclass(frozen=True)
class Table:
  """What the template draws.

  Attributes:
    heads: of the columns that name a row; two where rows have groups.
    columns: of numbers or texts.
    groups: (label, rows), of which a row is (label, cells); a cell is
      {'text', 'spread', 'best'}.
    bars: a share in [0, 1] for each row of the only group; (): none are drawn.
  """

  heads: Sequence[str]
  columns: list[Column]
  groups: Sequence[tuple[Label, Sequence[tuple[Label, list[dict[str, Any]]]]]]
  bars: Sequence[float] = ()


def stages(run: Run) -> Table | None:
  """What each stage reached, by one estimator: a row per stage.

  None where there is one stage, which the verdict speaks of.
  """
  if len(run.stages) < 2:
    return None
  estimator, kind = run.best.estimator, words.distribution(run)
  columns = [
    Column('RMSE', 'own unit', 'rmse_unit', _lower, estimator),
    Column('R²', '', 'r2', _higher, estimator),
  ]
  if not run.is_point:
    columns += [
      Column('CRPS', '{z}', 'crps', _lower, kind),
      Column('Coverage', "model's own 90%", 'coverage90', _nominal, kind),
    ]
  columns = _columns(run, columns)
  rows = [
    (stage, [_number(run, stage, c.estimator, c.metric) for c in columns])
    for stage in run.stages
  ]
  table = _table(run, ('Stage',), columns, [('', rows)])
  seconds = [words.seconds(run, stage) for stage in run.stages]
  _append(table, 'Kept epoch', [words.epochs(run, s) for s in run.stages])
  _append(
    table,
    'Training',
    [wording.duration(s) if math.isfinite(s) else '' for s in seconds],
  )
  return table


def of_targets(runs: Sequence[Run], links: Sequence[Link]) -> Table:
  """What the last stage reached of each of several targets: a row each."""
  first = runs[0]
  columns = [
    *(dataclasses.replace(c, estimator='best') for c in OWN_COLUMNS[:4]),
    Column('CRPS', '{z}', 'crps', _lower, words.distribution(first)),
    Column('Coverage', "model's own 90%", 'coverage90', _nominal, 'spread'),
  ]
  rows = []
  for run, link in zip(runs, links, strict=True):
    of = {'best': run.best.estimator, 'spread': words.distribution(run)}
    values = [
      run.value(
        run.last, of.get(c.estimator, c.estimator), c.metric, run.together
      )
      for c in columns
    ]
    cells = [
      _cells(run, column, [(value, math.nan)])[0]
      for column, value in zip(columns, values, strict=True)
    ]
    rows.append((link, cells))
  return Table(('Target',), _columns(first, columns), [('', rows)])


def joint(run: Run) -> Table:
  """What each stage reached over all of several targets: a row per stage."""
  estimator, kind = run.best.estimator, words.distribution(run)
  columns = [
    Column('RMSE', 'mean, {z}', 'rmse', _lower, estimator),
    Column('R²', 'mean', 'r2', _higher, estimator),
    Column('CRPS', 'mean, {z}', 'crps', _lower, kind),
    Column('Coverage', 'mean, of 90%', 'coverage90', _nominal, kind),
    Column('Energy score', 'joint, {z}', 'energy', _lower, 'sample'),
  ]
  rows: list[Row] = [
    (
      stage.name,
      [
        (_value(run, stage, c.estimator, c.metric, run.together), math.nan)
        for c in columns
      ],
    )
    for stage in run.stages
  ]
  return _table(run, ('Stage',), _columns(run, columns), [('', rows)])


def estimates(run: Run) -> Table:
  """What the last stage predicts, three ways: greedy, one sample, the best."""
  best = run.best.estimator
  is_point = run.is_point and not run.has('exact')
  names = [best] if is_point else ['greedy', 'sample', best]
  rows: list[Row] = []
  for name in names:
    label = 'prediction' if is_point else words.estimator_name(name)
    if name == best and not is_point and len(run.seeds) == 1:
      label += ' (what is predicted)'
    rows.append(
      (label, [_number(run, run.last, name, c.metric) for c in OWN_COLUMNS])
    )
  if len(run.seeds) > 1:
    together = [
      (run.value(run.last, best, c.metric, run.together), math.nan)
      for c in OWN_COLUMNS
    ]
    label = f'{words.estimator_name(best)} of all seeds (what is predicted)'
    rows.append((label, together))
  return _table(run, ('Estimator',), OWN_COLUMNS, [('', rows)])


def points(run: Run) -> Table | None:
  """Point estimates: a group per estimator, a row per stage.

  None where every estimate is the same.
  """
  if run.is_point and not run.has('exact') and len(run.stages) == 1:
    return None
  names = list(sampled.POINT_ESTIMATORS)
  if run.is_point and not run.has('exact'):
    names = ['mean']
  names += [n for n in (*EXACT_POINTS, *RAIL_POINTS) if run.has(n)]
  columns = _columns(run, POINT_COLUMNS)
  if run.unit == targets.UNITS['none']:  # Once is enough.
    columns = [c for c in columns if not c.metric.endswith('_unit')]
  groups: list[tuple[Label, Sequence[Row]]] = [
    (
      words.estimator_name(name) if names != ['mean'] else 'prediction',
      _stage_rows(run, columns, name),
    )
    for name in names
  ]
  return _table(run, ('Estimator', 'Stage'), columns, groups)


def distributions(run: Run) -> Table | None:
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
  groups: list[tuple[Label, Sequence[Row]]] = [
    (DISTRIBUTION_NAMES.get(name, name), _stage_rows(run, columns, name))
    for name in ('sample', *exact)
  ]
  heads = ('Distribution', 'Stage') if exact else ('Stage',)
  return _table(run, heads, columns, groups)


def seeds(run: Run) -> Table:
  """A group per stage, a row per seed and per summary of the seeds."""
  best, kind = run.best.estimator, words.distribution(run)
  columns = [
    Column('RMSE', 'own unit', 'rmse_unit', estimator=best),
    Column('R²', '', 'r2', estimator=best),
    Column('CRPS', '{z}', 'crps', estimator=kind),
    Column('Coverage', 'of 90%', 'coverage90', estimator=kind),
  ]
  present = {seed for seed, *_ in run.results}
  names = [s for s in (*run.seeds, 'mean', 'std', 'ensemble') if s in present]
  groups: list[tuple[Label, Sequence[Row]]] = [
    (
      stage,
      [
        (
          seed,
          [
            (_value(run, stage, c.estimator, c.metric, seed), math.nan)
            for c in columns
          ],
        )
        for seed in names
      ],
    )
    for stage in run.stages
  ]
  return _table(run, ('Stage', 'Seed'), _columns(run, columns), groups)


def importances(run: Run) -> Table | None:
  """Columns by what shuffling them costs, the costliest first, not all."""
  if run.importances is None or not run.importances['importances']:
    return None
  column = Column('Increase', 'of RMSE, own unit', 'rmse_unit')
  found = run.importances['importances'][:MAX_IMPORTANCES]
  rows: list[Row] = [
    (value['column'], [(value['mean'], value['std'])]) for value in found
  ]
  table = _table(run, ('Column',), (column,), [('', rows)])
  most = max(value['mean'] for value in found)
  shares = [max(v['mean'], 0) / most if most > 0 else 0 for v in found]
  return dataclasses.replace(table, bars=shares)


def data(run: Run) -> Table | None:
  """The columns as they were read; None where nobody kept that."""
  if not run.columns:
    return None
  heads = ('Kind', 'Different', 'From, to', 'Missing', 'Unseen')
  rows = [
    (
      column['name'],
      [
        {'text': text, 'spread': '', 'best': False}
        for text in (
          column['kind'],
          f'{column["distinct"]:,}',
          column['range'],
          _by_split(column['missing']),
          _by_split(column['unseen']),
        )
      ],
    )
    for column in run.columns
  ]
  columns = [Column(name, '', '') for name in heads]
  return Table(('Column',), columns, [('', rows)])


def _by_split(counts: dict[str, int]) -> str:
  """'12 train, 3 test'; '' where there are none."""
  return ', '.join(f'{n:,} {split}' for split, n in counts.items() if n)


def operations(run: Run) -> Table | None:
  """What traced steps took their time for: a group per stage.

  By module of the network; of runs of earlier versions by operation. None
  where no step was traced.
  """
  columns = (
    Column('Share', 'of all operations', 'share'),
    Column('Time', 'ms per step', 'milliseconds'),
    Column('Calls', 'per step', 'calls'),
  )
  groups: list[tuple[Label, list]] = []
  for stage in run.stages:
    found = run.operations.get(stage.key, {})
    listed = (found.get('modules') or found.get('operations') or [])[:15]
    times = numbers.decimals(value['milliseconds'] for value in listed)
    rows = [
      (
        value['name'],
        [
          {'text': text, 'spread': '', 'best': False}
          for text in (
            f'{value["share"]:.1%}',
            numbers.text(value['milliseconds'], times),
            numbers.text(value['calls'], 0),
          )
        ],
      )
      for value in listed
    ]
    if rows:
      groups.append((stage, rows))
  if not groups:
    return None
  heads = ('Stage', 'Module')
  return Table(heads, list(columns), groups)


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
    (stage, [_number(run, stage, estimator, c.metric) for c in columns])
    for stage in run.stages
  ]


def _number(run: Run, stage: Stage, estimator: str, metric: str) -> Number:
  return (
    _value(run, stage, estimator, metric),
    _value(run, stage, estimator, metric, 'std'),
  )


def _value(
  run: Run, stage: Stage, estimator: str, metric: str, seed: str = ''
) -> float:
  if run.is_point and estimator == 'sample' and metric in SPREAD_METRICS:
    return math.nan
  return run.value(stage, estimator, metric, seed)


def _table(
  run: Run,
  heads: Sequence[str],
  columns: Sequence[Column],
  groups: Sequence[tuple[Label, Sequence[Row]]],
) -> Table:
  """What the template draws."""
  drawn = []
  for label, rows in groups:
    labels, values = zip(*rows, strict=True)
    by_column = [
      _cells(run, column, found)
      for column, found in zip(columns, zip(*values, strict=True), strict=True)
    ]
    by_row = [list(row) for row in zip(*by_column, strict=True)]
    drawn.append((label, list(zip(labels, by_row, strict=True))))
  return Table(heads, list(columns), drawn)


def _append(table: Table, name: str, texts: Sequence[str]) -> None:
  """A last column of text, where there is any, in a table of one group."""
  if not any(texts):
    return
  table.columns.append(Column(name, '', ''))
  ((_, rows),) = table.groups
  for (_, cells), text in zip(rows, texts, strict=True):
    cells.append({'text': text, 'spread': '', 'best': False})


def _cells(
  run: Run, column: Column, found: Sequence[Number]
) -> list[dict[str, Any]]:
  """A group's part of a column, the best marked.

  Only printed digits count: what reads equal is equal.
  """

  def text(value: float) -> str:
    if column.metric in PERCENT_METRICS:
      return numbers.percent(value)
    return numbers.text(value, run.decimals(column.metric))

  texts = [text(value) for value, _ in found]
  best = None
  if column.goodness and len(set(texts) - {''}) > 1:
    defined = [value for value, _ in found if math.isfinite(value)]
    best = text(max(defined, key=column.goodness))
  return [
    {'text': written, 'spread': text(spread), 'best': written == best}
    for written, (_, spread) in zip(texts, found, strict=True)
  ]
