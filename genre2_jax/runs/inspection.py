"""What a run's predictions hang on, and its columns as they were read.

columns.json: kind, range, gaps and unseen labels of every column.
importances.json: permutation importances (Breiman 2001, Machine Learning 45,
as scikit-learn's `permutation_importance`) and partial dependence (Friedman
2001, Annals of Statistics 29) of the most important columns, on validation
rows. A column is one of the file: a date goes with its month, weekday and hour.
Of several targets one of each, by name.

The work is bounded by rows to predict and by their FLOPs, not by seconds: the
same run gives the same numbers on every machine.
"""

import dataclasses
import datetime
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from genre2_jax.data import columns as table_columns
from genre2_jax.data import tables
from genre2_jax.data.columns import TEXT, Column
from genre2_jax.data.features import Features
from genre2_jax.data.tables import SPLITS, Rows, Table
from genre2_jax.devices import processes, sharding
from genre2_jax.experiment import costs
from genre2_jax.experiment.experiment import Prepared
from genre2_jax.files import atomic
from genre2_jax.metrics import points
from genre2_jax.runs import estimates
from genre2_jax.training import evaluation

COLUMNS_FILE = 'columns.json'
FILE = 'importances.json'
MAX_ROWS = 150  # of validation, whose columns are shuffled
MAX_PREDICTED = 4000  # shuffled rows
MAX_FLOPS = 1.2e12  # of predicting them
MIN_PREDICTED = 500  # however much one costs
MIN_ROWS = 20  # fewer say nothing
REPEATS = 3
NUM_DEPENDENCES = 3
MAX_AVERAGED = 30  # rows behind a point of a dependence
NUM_GRID = 9  # values that a column is set to
_TENTHS = np.linspace(0, 1, 11)
_MAX_LABELS = 8

# Rows -> predictions [n], in the target's own unit.
Predict = Callable[[Rows], np.ndarray]


def write(
  workdir: pathlib.Path,
  experiment: Prepared,
  params: Any,
  interrupts: object = (),
) -> None:
  """Writes columns.json and importances.json of a run of a table.

  Every process predicts, the first one writes. Texts have no columns, and a
  run without a network of its own no importances.

  Args:
    workdir: of the run.
    experiment: with its data.
    params: of the last stage, stacked over seeds; None: a baseline.
    interrupts: true once the run is asked to leave.
  """
  table, model = experiment.table, experiment.model
  features = model.features
  if not isinstance(table, Table) or not isinstance(features, Features):
    return
  is_first = processes.is_first()
  if is_first:
    write_columns(workdir, table, features)
    (workdir / FILE).unlink(missing_ok=True)
  if params is None or experiment.baseline:
    return

  # The exact mean needs no samples.
  predict_block = experiment.predictor(
    experiment.mesh, num_samples=0 if experiment.evaluation.exact else None
  )
  most = _max_predicted(experiment, features)

  def predict_all(rows: Rows) -> np.ndarray:
    predicted = evaluation.predict(
      predict_block,
      params,
      model.inputs(rows),
      block_size=experiment.block_size,
      sharding=sharding.batch_sharding(experiment.mesh),
      interrupts=interrupts,
    )
    named = estimates.points(predicted, model)
    return model.scaler.restore(named[estimates.default_name(named)])

  def inspected(place: int) -> dict[str, Any] | None:
    rows = tables.with_target(table, place).val
    return inspect(
      rows, features, lambda x: predict_all(x)[:, place], max_predicted=most
    )

  with processes.at_once(interrupts, 'predicting shuffled columns'):
    if model.target_names:
      names = enumerate(model.target_names)
      of_each = {name: inspected(place) for place, name in names}
      found = None if None in of_each.values() else of_each
    else:
      found = inspect(table.val, features, predict_all, max_predicted=most)
  if is_first and found is not None:
    atomic.write_json(workdir / FILE, found)


def write_columns(
  workdir: pathlib.Path, table: Table, features: Features
) -> None:
  """Writes columns.json."""
  found = [
    _described(table, features, column) for column in source_columns(features)
  ]
  atomic.write_json(workdir / COLUMNS_FILE, {'columns': found})


def source_columns(features: Features) -> list[Column]:
  """The columns of the file, without the parts of its dates."""
  return table_columns.of_features(
    features.numeric_names, features.category_names, features.kinds
  )


def inspect(
  rows: Rows,
  features: Features,
  predict: Predict,
  max_predicted: int = MAX_PREDICTED,
) -> dict[str, Any] | None:
  """What importances.json holds; None where the rows or the work forbid it.

  Args:
    rows: of validation.
    features: that the model has.
    predict: what a reader would use, of any number of rows at once.
    max_predicted: rows that are shuffled, and half as many for dependences.
  """
  columns = source_columns(features)
  rows = rows.part(np.isfinite(rows.known_target))
  repeats, count = _budget(len(columns), len(rows), max_predicted)
  if count < MIN_ROWS:
    return None
  draw = np.random.default_rng(0)
  rows = rows.part(np.sort(draw.permutation(len(rows))[:count]))
  target = rows.known_target
  places = {column.name: _places(features, column) for column in columns}

  def rmse(values: np.ndarray) -> float:
    return points.rmse(values, target, rows.weight)

  shuffled = [
    _replaced(rows, rows, draw.permutation(count), places[column.name])
    for column in columns
    for _ in range(repeats)
  ]
  # Together, as what does not fill a block costs as much as one.
  values = predict(_stacked([rows, *shuffled])).reshape(-1, count)
  base, *errors = (rmse(row) for row in values)
  increases = np.reshape(errors, (len(columns), repeats)) - base
  importances: list[dict[str, Any]] = [
    {
      'column': column.name,
      'mean': float(own.mean()),
      'std': float(own.std(ddof=1)) if repeats > 1 else 0.0,
    }
    for column, own in zip(columns, increases, strict=True)
  ]
  importances.sort(key=lambda found: -found['mean'])
  by_name = {column.name: column for column in columns}
  averaged = max_predicted // (2 * NUM_DEPENDENCES * NUM_GRID)
  settings = [
    _settings(
      rows, by_name[found['column']], places, min(averaged, MAX_AVERAGED)
    )
    for found in importances[:NUM_DEPENDENCES]
    if found['mean'] > 0
  ]
  return {
    'rows': count,
    'repeats': repeats,
    'rmse': base,
    'importances': importances,
    'dependences': _dependences([x for x in settings if x], predict),
  }


def _max_predicted(experiment: Prepared, features: Features) -> int:
  """Shuffled rows that a run may predict: fewer where each costs more."""
  row = costs.row_flops(
    experiment.fields,
    len(features.numeric_names) + len(features.category_names),
    exact=experiment.evaluation.exact,
  )
  if not MAX_FLOPS < MAX_PREDICTED * row:  # Nor where nobody knows: nan.
    return MAX_PREDICTED
  return max(MIN_PREDICTED, int(MAX_FLOPS / row))


def _budget(
  num_columns: int, num_rows: int, max_predicted: int
) -> tuple[int, int]:
  """(shuffles of a column, rows): fewer of both where columns are many."""
  for repeats in range(REPEATS, 0, -1):
    count = min(num_rows, MAX_ROWS, max_predicted // (num_columns * repeats))
    if count >= min(num_rows, 2 * MIN_ROWS):
      return repeats, count
  fewest = min(MIN_ROWS, MAX_PREDICTED // num_columns)
  return 1, max(max_predicted // num_columns, fewest)


def _places(features: Features, column: Column) -> tuple[list[int], list[int]]:
  """Of a column and its parts: among the numeric ones, among the others."""
  kinds = features.kinds or ('',) * len(features.numeric_names)
  if column.kind == TEXT:
    return [
      place
      for place, name in enumerate(features.numeric_names)
      if kinds[place] == TEXT
      and table_columns.text_of_part(name) == column.name
    ], []
  if not column.is_numeric:
    return [], [features.category_names.index(column.name)]
  return [
    place
    for place, name in enumerate(features.numeric_names)
    if name == column.name
    or (name == f'{column.name}.{kinds[place]}' and kinds[place])
  ], []


def _replaced(
  rows: Rows, source: Rows, order: np.ndarray, places: tuple[list, list]
) -> Rows:
  """Rows with the columns at `places` of other rows, in another order."""
  numeric, categories = rows.numeric.copy(), rows.categories.copy()
  numeric[:, places[0]] = source.numeric[order][:, places[0]]
  categories[:, places[1]] = source.categories[order][:, places[1]]
  return dataclasses.replace(rows, numeric=numeric, categories=categories)


def _stacked(parts: list[Rows]) -> Rows:
  return Rows(
    numeric=np.concatenate([part.numeric for part in parts]),
    categories=np.concatenate([part.categories for part in parts]),
    target=None,
  )


class _Settings(NamedTuple):
  """Rows with one column set to each value of a grid, n rows a value."""

  column: Column
  grid: list[Any]
  quantiles: list[float]
  rows: list[Rows]


def _dependences(
  settings: list[_Settings], predict: Predict
) -> list[dict[str, Any]]:
  """Mean prediction by each column's value."""
  if not settings:
    return []
  rows = [part for of_column in settings for part in of_column.rows]
  means = predict(_stacked(rows)).reshape(len(rows), -1).mean(axis=1)
  ends = np.cumsum([len(of_column.rows) for of_column in settings])
  return [
    {
      'column': of_column.column.name,
      'kind': of_column.column.kind,
      'grid': of_column.grid,
      'predictions': own.tolist(),
      'quantiles': of_column.quantiles,
    }
    for of_column, own in zip(settings, np.split(means, ends[:-1]), strict=True)
  ]


def _settings(
  rows: Rows,
  column: Column,
  places: dict[str, tuple[list[int], list[int]]],
  averaged: int,
) -> _Settings | None:
  """Of a column; None where it has one value alone.

  A value is that of a row which has it, so that a date keeps its weekday.
  """
  own = places[column.name]
  if column.kind == TEXT:
    return None  # Texts have no order.
  if column.is_numeric:
    (first, *_) = own[0]
    values = rows.numeric[:, first]
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
      return None
    order = known[np.argsort(values[known], kind='stable')]
    ends = np.linspace(0, len(order) - 1, NUM_GRID).round().astype(int)
    _, unique = np.unique(values[order[ends]], return_index=True)
    chosen = order[ends][unique]
    grid = values[chosen].tolist()
    quantiles = np.quantile(values[known], _TENTHS).tolist()
  else:
    labels = rows.categories[:, own[1][0]]
    found, index, counts = np.unique(
      np.array([label or '' for label in labels], dtype=object),
      return_index=True,
      return_counts=True,
    )
    most = np.argsort(-counts, kind='stable')[:_MAX_LABELS]
    chosen = index[most]
    grid = [found[place] or 'missing' for place in most]
    quantiles = []
  if len(grid) < 2:
    return None
  n = min(len(rows), averaged)
  others = rows.part(np.linspace(0, len(rows) - 1, n).round().astype(int))
  parts = [_replaced(others, rows, np.full(n, c), own) for c in chosen]
  return _Settings(column, grid, quantiles, parts)


# -------------------------------------------------------------------- columns


def _described(
  table: Table, features: Features, column: Column
) -> dict[str, Any]:
  """How a column was read: counts are of cells, kinds and range of train."""
  unseen: dict[str, int] = {}
  if column.kind == TEXT:
    own = _places(features, column)[0]
    numbers = {s: getattr(table, s).numeric[:, own] for s in SPLITS}
    missing = {s: int(np.isnan(x[:, 0]).sum()) for s, x in numbers.items()}
    there = numbers['train'][np.isfinite(numbers['train'][:, 0])]
    present = [row.tobytes() for row in there]
    ends = f'{len(own)} numbers of its vector'
  elif column.is_numeric:
    place = features.numeric_names.index(column.name)
    cells = {s: getattr(table, s).numeric[:, place] for s in SPLITS}
    missing = {s: int(np.isnan(values).sum()) for s, values in cells.items()}
    present = cells['train'][np.isfinite(cells['train'])]
    ends = ''
    if len(present):
      ends = ' to '.join(
        _written(value, column.kind) for value in (present.min(), present.max())
      )
  else:
    place = features.category_names.index(column.name)
    labels = {s: getattr(table, s).categories[:, place] for s in SPLITS}
    missing = {
      s: sum(label is None for label in values) for s, values in labels.items()
    }
    present = [label for label in labels['train'] if label is not None]
    known = {*present, None}
    unseen = {
      s: sum(label not in known for label in labels[s]) for s in SPLITS[1:]
    }
    shown = list(dict.fromkeys(sorted(set(present))))
    ends = ', '.join(label[:20] for label in shown[:3])
    ends += ', …' if len(shown) > 3 else ''
  return {
    'name': column.name,
    'kind': column.kind or ('number' if column.is_numeric else 'category'),
    'distinct': len(set(np.asarray(present, object).tolist())),
    'range': ends,
    'missing': missing,
    'unseen': unseen,
  }


def _written(value: float, kind: str) -> str:
  if kind.partition(' ')[0] in ('date', 'datetime'):
    start = datetime.datetime(1970, 1, 1)
    try:
      return f'{start + datetime.timedelta(seconds=float(value)):%Y-%m-%d}'
    except OverflowError:
      return f'{value:g}'
  return f'{value:,.6g}'
