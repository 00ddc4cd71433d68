"""Tables for regression: features and a target, split in three."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from genre2_jax.data import cells, columns
from genre2_jax.data import weights as weights_
from genre2_jax.data.cells import MISSING, labels
from genre2_jax.data.columns import Column
from genre2_jax.data.reading import (
  Reading,
  extension_of,
  header_hint,
  path_of,
  read_frame,
  refuse_duplicates,
)
from genre2_jax.data.wording import DataWarning, located, place_of
from genre2_jax.errors import InputError, listed, one_line, suggestion

__all__ = [
  'MISSING',
  'SPLITS',
  'Column',
  'DataWarning',
  'Rows',
  'Table',
  'build',
  'cut',
  'describe',
  'extension_of',
  'labels',
  'load_openml',
  'load_sklearn',
  'located',
  'no_column',
  'numbers',
  'read_file',
  'read_frame',
  'read_rows',
  'split_rows',
  'target_column',
  'weighted',
  'with_target',
]

SPLITS = ('train', 'val', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """Rows of one split, or rows to predict.

  numeric: [n, F_num] float64, NaN where missing; may hold ±inf.
  categories: [n, F_cat] object: str, None where missing.
  target: [n] float64, finite; of several targets [n, k]; None for rows to
    predict.
  text: [n, T] object: str, None where missing; None without text columns.
  num_embedded: numeric columns, the last ones, that were made of the text.
  weight: [n] float64, of mean 1 over the train rows; None: all count alike.
  """

  numeric: np.ndarray
  categories: np.ndarray
  target: np.ndarray | None
  text: np.ndarray | None = None
  num_embedded: int = 0
  weight: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.numeric)

  @property
  def known_target(self) -> np.ndarray:
    """The target of rows that have one."""
    assert self.target is not None
    return self.target

  def part(self, index: slice | np.ndarray) -> 'Rows':
    """Some of them."""
    return dataclasses.replace(
      self,
      numeric=self.numeric[index],
      categories=self.categories[index],
      target=None if self.target is None else self.target[index],
      text=None if self.text is None else self.text[index],
      weight=None if self.weight is None else self.weight[index],
    )

  @classmethod
  def joined(cls, parts: Sequence['Rows']) -> 'Rows':
    """Rows of one table, one part after the other."""

    def together(name: str) -> Any:
      found = [getattr(part, name) for part in parts]
      return None if found[0] is None else np.concatenate(found)

    return dataclasses.replace(
      parts[0],
      numeric=together('numeric'),
      categories=together('categories'),
      target=together('target'),
      text=together('text'),
      weight=together('weight'),
    )

  def cells(self) -> Iterator[bytes]:
    """Every cell, to tell data from other data."""
    own = self.numeric[:, : self.numeric.shape[1] - self.num_embedded]
    yield own.tobytes() + self.known_target.tobytes()
    yield repr(self.categories.tolist()).encode()
    if self.text is not None:
      yield repr(self.text.tolist()).encode()
    if self.weight is not None:
      yield self.weight.tobytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A regression task. Loaders make it by `build`, which checks it.

  kinds: of the columns, numeric first, as in `cells`; () if they don't matter.
  text_names: of the columns of text, whose numbers are yet to be made.
  drawn_from: train rows that there were before `cut`; 0 if all are here.
  target_names: of several targets; () of one.
  """

  name: str
  numeric_names: tuple[str, ...]
  category_names: tuple[str, ...]
  target_name: str
  train: Rows
  val: Rows
  test: Rows
  kinds: tuple[str, ...] = ()
  text_names: tuple[str, ...] = ()
  drawn_from: int = 0
  target_names: tuple[str, ...] = ()


def build(
  name: str,
  splits: Mapping[str, tuple],
  *,
  numeric_names: Sequence[str],
  category_names: Sequence[str],
  target_name: str,
  kinds: Sequence[str] = (),
  text_names: Sequence[str] = (),
  target_names: Sequence[str] = (),
  weights: Mapping[str, np.ndarray] | None = None,
  non_finite: bool = False,
) -> Table:
  """Checked table from raw arrays: every loader ends here.

  splits: for each of `SPLITS` (numeric [n, F_num] or None, categories
  [n, F_cat] or None, target [n], [n, 1] or [n, k]), of any plain dtype; with
  `text_names` behind them the text [n, T].
  target_names: of k targets; without, those of several count from y_0.
  weights: for each of `SPLITS` [n], as `weights.checked` gives them.
  non_finite: whether targets may be NaN or infinite.
  Raises InputError for a table that cannot be trained on.
  """
  names = (*numeric_names, *category_names, *text_names)
  if not names:
    raise InputError(f'{name}: no feature columns; at least one is needed')
  refuse_duplicates(name, names)
  widths = len(numeric_names), len(category_names)
  train, val, test = (
    _rows(f'{name}: {split}', splits[split], widths, non_finite)
    for split in SPLITS
  )
  shapes = {rows.known_target.shape[1:] for rows in (train, val, test)}
  if len(shapes) > 1:
    raise InputError(f'{name}: splits differ in their targets; align them')
  (shape,) = shapes
  if shape:
    if len(target_names) != shape[0]:
      target_names = [f'{target_name}_{i}' for i in range(shape[0])]
    refuse_duplicates(f'{name}: targets', target_names)
    target_name = ', '.join(target_names)
  if weights is not None:
    train, val, test = weighted((train, val, test), weights)
  return Table(
    name=name,
    numeric_names=tuple(numeric_names),
    category_names=tuple(category_names),
    target_name=target_name,
    kinds=tuple(kinds),
    text_names=tuple(text_names),
    target_names=tuple(target_names) if shape else (),
    train=train,
    val=val,
    test=test,
  )


def read_file(
  path: str | os.PathLike,
  target: str,
  *,
  seed: int = 0,
  kinds: Mapping[str, str] | str | None = None,
  reading: Reading | Mapping | str | None = None,
  text_columns: Sequence[str] = (),
  weight: str = '',
  non_finite: bool = False,
) -> Table:
  """Table from a CSV, TSV, JSONL (all may be gzipped), Parquet or .xlsx file.

  A column is numeric if all its present values are numbers or dates (then
  seconds since 1970, UTC, beside month, weekday and hour), otherwise a
  category. What looks like numbers and is read as categories is said. Rows are
  split 64/16/20.

  Args:
    path: of the file.
    target: name of the target column, or of several as 'a,b'.
    seed: of the split.
    kinds: of columns, as 'size=number,zip=category'; the others are found.
    reading: how the file is written, as 'separator=; decimal=,'.
    text_columns: names of columns of free text.
    weight: name of the column of weights, which is no feature; '': none.
    non_finite: whether targets may be missing, which is NaN, or infinite.

  Raises InputError.
  """
  path = path_of(path)
  name = path.name.removesuffix(extension_of(path))
  reading = Reading.parse(reading)
  kinds = columns.parse_kinds(kinds)
  return _from_frame(
    read_frame(path, reading),
    name,
    target,
    seed,
    str(path),
    kinds=columns.with_texts(kinds, text_columns),
    formats=reading,
    weight=weight,
    non_finite=non_finite,
  )


def load_sklearn(
  name: str = 'diabetes',
  *,
  seed: int = 0,
  kinds: Mapping[str, str] | str | None = None,
) -> Table:
  """Table bundled with scikit-learn: diabetes, in its original units."""
  if name != 'diabetes':
    raise InputError(
      f"scikit-learn bundles no regression set {name!r}; use 'diabetes'"
    )
  # Imported where used: it takes a second that other sources need not pay.
  from sklearn import datasets

  frame = datasets.load_diabetes(as_frame=True, scaled=False).frame
  frame['sex'] = frame['sex'].astype('category')
  kinds = columns.parse_kinds(kinds)
  return _from_frame(frame, name, 'target', seed, name, kinds=kinds)


def load_openml(
  name_or_id: str | int,
  target: str = '',
  *,
  seed: int = 0,
  kinds: Mapping[str, str] | str | None = None,
  text_columns: Sequence[str] = (),
  weight: str = '',
  non_finite: bool = False,
) -> Table:
  """Table from OpenML by name or number; '' takes its default target.

  The other arguments are those of `read_file`.

  Raises InputError, also when OpenML cannot be reached.
  """
  from sklearn import datasets

  key = str(name_or_id)
  where = f'OpenML {key}'
  which = {'data_id': int(key)} if key.isdecimal() else {'name': key}
  # One column that a comma is in is not to be had here.
  targets = columns.target_names(target, ())
  wanted = targets[0] if len(targets) == 1 else list(targets)
  try:
    bunch = datasets.fetch_openml(
      **which,
      target_column=wanted or 'default-target',
      as_frame=True,
      parser='auto',
    )
  # scikit-learn documents no closed set of errors: the network, the
  # server's answers and three parsers are behind this call.
  except Exception as error:
    raise InputError(
      f'{where}: not loaded, {one_line(error)}; check the name, the target '
      'and the network'
    ) from error
  is_one = isinstance(bunch.target, pd.Series)
  if not is_one and len(targets) == 1:
    raise InputError(
      f'{where}: has no single default target; name one of '
      f'{listed(map(str, bunch.frame.columns))}'
    )
  name = (bunch.get('details') or {}).get('name', key)
  found = {bunch.target.name: bunch.target} if is_one else dict(bunch.target)
  frame = bunch.data.assign(**found)
  kinds = columns.with_texts(columns.parse_kinds(kinds), text_columns)
  return _from_frame(
    frame,
    name,
    bunch.target.name if is_one else target,
    seed,
    where,
    kinds=kinds,
    weight=weight,
    non_finite=non_finite,
  )


def cut(table: Table, max_train_rows: int, seed: int) -> Table:
  """At most so many train rows, drawn at random, in their order; 0: all."""
  n = len(table.train)
  if not 0 < max_train_rows < n:
    return table
  order = np.random.RandomState(seed).permutation(n)
  kept = np.sort(order[:max_train_rows])
  found = dataclasses.replace(table, train=table.train.part(kept), drawn_from=n)
  if table.train.weight is None:
    return found
  splits = found.train, found.val, found.test
  of_kept = {s: getattr(found, s).weight for s in SPLITS}
  train, val, test = weighted(splits, of_kept)
  return dataclasses.replace(found, train=train, val=val, test=test)


def with_target(table: Table, place: int) -> Table:
  """A table of several targets as one of its `place`-th alone."""
  train, val, test = (
    dataclasses.replace(rows, target=rows.known_target[:, place])
    for rows in (table.train, table.val, table.test)
  )
  return dataclasses.replace(
    table,
    target_name=table.target_names[place],
    target_names=(),
    train=train,
    val=val,
    test=test,
  )


def read_rows(
  path: str | os.PathLike,
  *,
  numeric_names: Sequence[str],
  category_names: Sequence[str],
  target_name: str = '',
  kinds: Sequence[str] = (),
  by_hand: Mapping[str, str] | str | None = None,
  reading: Reading | Mapping | str | None = None,
  frame: pd.DataFrame | None = None,
  first_row: int = 0,
) -> Rows:
  """Rows to predict from a file; columns match by name, others are ignored.

  The target column may be absent and is never read.

  Args:
    path: of the file.
    numeric_names: of the features.
    category_names: of the features.
    target_name: of the run.
    kinds: of the features, numeric first; () if the run did not keep them.
    by_hand: kinds that the user gave; others of their cells are missing.
    reading: how the file is written.
    frame: what `read_frame` gave of it, or None to read it.
    first_row: rows of the file that come before those of the frame.

  Raises InputError: also where a column has another kind than in training.
  """
  path = path_of(path)
  reading = Reading.parse(reading)
  frame = read_frame(path, reading) if frame is None else frame
  known = columns.of_features(numeric_names, category_names, kinds)
  names = [column.name for column in known]
  absent = [name for name in names if name not in frame]
  if absent:
    near = suggestion(absent[0], [n for n in frame if n not in names])
    near = f' ({near})' if near.startswith('did') else ''
    needless = f'; {target_name!r} is not needed' if target_name else ''
    raise InputError(
      f'{path}: {len(absent)} columns are missing: {listed(absent)}{near}; '
      f'add them{needless}{header_hint(list(frame))}'
    )
  numeric, categories = columns.arrays(
    frame,
    known,
    reading,
    where=place_of(path, first_row),
    by_hand=columns.parse_kinds(by_hand),
    are_new=True,
  )
  return _rows(
    str(path),
    (numeric, categories, None, *columns.texts(frame, known)),
    (numeric.shape[1], len(category_names)),
  )


def describe(table: Table, *, limit: int = 30) -> str:
  """Summary to print: rows, then type, missing and distinct per column."""
  splits = [getattr(table, split) for split in SPLITS]
  numeric = np.concatenate([rows.numeric for rows in splits])
  categories = np.concatenate([rows.categories for rows in splits])
  lines, codes = [], []
  kinds = table.kinds or ('',) * len(table.numeric_names)
  for name, kind, values in zip(  # Numbers of text are told as one.
    table.numeric_names, kinds, numeric.T, strict=False
  ):
    if kind == columns.TEXT:
      continue
    present = values[~np.isnan(values)]
    lines.append(_column_line(name, 'numeric', values, present))
  for name, values in zip(table.category_names, categories.T, strict=True):
    present = values[~pd.isna(values)]
    lines.append(_column_line(name, 'category', values, present))
    if _looks_like_id(present):
      codes.append(name)
  counts = ', '.join(
    f'{split} {len(rows)}' for split, rows in zip(SPLITS, splits, strict=True)
  )
  drawn = ''
  if table.drawn_from:
    drawn = f'; train rows drawn at random from {table.drawn_from}'
  for place, name in enumerate(table.text_names):
    cells_ = np.concatenate([rows.text[:, place] for rows in splits])
    present = cells_[~pd.isna(cells_)]
    lines.append(_column_line(name, 'text', cells_, present))
  num_embedded = table.train.num_embedded
  kinds_there = (
    f'{len(table.numeric_names) - num_embedded} numeric and '
    f'{len(table.category_names)} category columns'
  )
  if table.text_names:
    count = len(table.text_names)
    kinds_there += f', {count} of text as {num_embedded} numbers'
  head = [
    f'{table.name}: target {table.target_name}, {kinds_there}',
    f'rows: {counts}{drawn}',
    *lines[:limit],
  ]
  if len(lines) > limit:
    head.append(f'  ... and {len(lines) - limit} more columns')
  if codes:
    ignored = ','.join(f'{name}=ignore' for name in codes)
    head.append(
      f'looks like an identifier: {listed(codes)}; data.kinds={ignored!r} '
      'leaves it out'
    )
  return '\n'.join(head)


def numbers(where: str, cells_: np.ndarray) -> np.ndarray:
  """Cells of any plain dtype as float64 of the same shape, NaN if missing.

  Raises InputError with the count and first rows of what is no number.
  """
  cells_ = cells.unmasked(cells_)
  if cells_.dtype.kind in 'biuf':
    return cells_.astype(np.float64)
  if cells_.dtype.kind not in 'OU':
    raise InputError(f'{where}: {cells_.dtype} are no numbers; convert them')
  flat = cells_.astype(object).ravel()
  rows = np.arange(flat.size) // (flat.size // max(len(cells_), 1) or 1)
  column = pd.Series(flat, dtype=object)
  return columns.read_as(where, column, rows=rows).reshape(cells_.shape)


def target_column(
  where: str,
  column: pd.Series,
  formats: cells.Formats = cells.PLAIN,
  kind: str = '',
  non_finite: bool = False,
) -> np.ndarray:
  """A target as float64 [n].

  Args:
    where: begins every message.
    column: of any dtype.
    formats: of text.
    kind: by hand, 'number' or 'date'.
    non_finite: whether missing and infinite ones are let through.

  Raises InputError unless all are finite, and different where they differ.
  """
  if kind:
    if kind.partition(' ')[0] not in ('number', 'date', 'time'):
      raise InputError(f'{where}: kind {kind!r} gives no numbers to predict')
    found = columns.column_of('target', column, kind, formats, where=where)
    values = columns.read_as(where, column, found.kind, formats)
  else:
    values = columns.read_as(where, column, '', formats)
  refuse_lost(where, column, values)
  return _target(where, values, non_finite)


def refuse_lost(where: str, column: pd.Series, values: np.ndarray) -> None:
  """Raises InputError where different targets are one float64."""
  lost = columns.distinct_lost(column, values)
  if lost:
    raise InputError(
      f'{where}: {lost[0]} different targets are {lost[1]} in float64, which '
      'keeps 15 to 17 digits; subtract a constant first, or take a smaller unit'
    )


def no_column(where: str, target: str, names: Sequence[str]) -> InputError:
  """The error of a target that no column has."""
  return InputError(
    f'{where}: no column {target!r} to be the target; '
    f'{suggestion(target, list(names))}{header_hint(list(names))}'
  )


def _rows(
  where: str,
  arrays: Sequence[np.ndarray | None],
  widths: tuple[int, int],
  non_finite: bool = False,
) -> Rows:
  """Checked rows of (numeric, categories, target); None where there is none."""
  numeric, categories, target, *text = arrays
  there = [array for array in arrays if array is not None]
  if any(array.ndim == 0 for array in there):
    raise InputError(f'{where}: an array is a single value; give it rows')
  lengths = {len(array) for array in there}
  if len(lengths) > 1:
    raise InputError(
      f'{where}: features and target differ in rows, '
      f'{" against ".join(str(len(array)) for array in there)}; they must '
      'agree'
    )
  n = lengths.pop()
  if n == 0:
    raise InputError(f'{where}: no rows; at least one is needed')
  numeric = np.empty((n, 0)) if numeric is None else numeric
  categories = np.empty((n, 0), object) if categories is None else categories
  for kind, array, width in (
    ('numeric', numeric, widths[0]),
    ('category', categories, widths[1]),
  ):
    if array.ndim != 2 or array.shape[1] != width:
      raise InputError(
        f'{where}: {kind} features have shape {array.shape}, not '
        f'{(n, width)}; splits must have the same columns'
      )
  return Rows(
    numeric=numbers(f'{where}: numeric features', numeric),
    categories=labels(categories),
    target=None
    if target is None
    else _target(f'{where}: target', target, non_finite),
    text=text[0] if text else None,
  )


def _target(
  where: str, target: np.ndarray, non_finite: bool = False
) -> np.ndarray:
  if np.ma.is_masked(target):
    raise InputError(
      f'{where}: masked in {located(np.ma.getmaskarray(target).ravel())}; '
      'remove these rows'
    )
  if target.ndim == 2 and target.shape[1] == 1:
    target = target[:, 0]
  if target.ndim not in (1, 2) or not target.shape[-1]:
    raise InputError(
      f'{where} has shape {target.shape}; it must be one column, or several'
    )
  target = numbers(where, target)
  bad = ~np.isfinite(target)
  bad = bad if bad.ndim == 1 else bad.any(axis=1)
  if bad.all():
    raise InputError(f'{where}: no row has a finite number; one at least must')
  if bad.any() and not non_finite:
    raise InputError(
      f'{where}: missing or infinite in {located(bad)}; remove these rows, or '
      'set tokenizer.non_finite=tokens'
    )
  return target


def _from_frame(
  frame: pd.DataFrame,
  name: str,
  target: str,
  seed: int,
  where: str,
  *,
  kinds: Mapping[str, str] | None = None,
  formats: cells.Formats = cells.PLAIN,
  weight: str = '',
  non_finite: bool = False,
) -> Table:
  frame, kinds = frame.rename(columns=str), dict(kinds or {})
  names = columns.target_names(target, list(frame))
  for own in names:
    if own not in frame:
      raise no_column(where, own, list(frame))
  columns.check_kinds(where, kinds, list(frame))
  row_weights = None
  if weight:
    frame, row_weights, where = weights_.counted(
      where, frame, weight, names, formats
    )
    frame = frame.drop(columns=weight)
    kinds.pop(weight, None)
  # Checked before the split, so that errors count rows as the file does.
  ys = []
  for own in names:
    column, kind = frame.pop(own), kinds.pop(own, '')
    of = f'{where}: target {own!r}'
    ys.append(target_column(of, column, formats, kind, non_finite))
    if not kind:
      columns.say_of_target(where, own, ys[-1][np.isfinite(ys[-1])])
  y = ys[0] if len(ys) == 1 else np.stack(ys, axis=1)
  # A frame would look for each column among all others to let it go.
  parts = {str(name): column for name, column in frame.items()}
  del frame
  plan, n_array, c_array = columns.read(
    parts, kinds, formats, num_rows=len(y), where=where
  )
  numeric = columns.numeric_columns(plan)
  categories = columns.category_columns(plan)
  texts = columns.texts(pd.DataFrame(parts), plan)
  splits = split_rows(len(y), seed, where)
  return build(
    name,
    {
      split: (
        n_array[index],
        c_array[index],
        y[index],
        *(t[index] for t in texts),
      )
      for split, index in splits.items()
    },
    numeric_names=[column.name for column in numeric],
    category_names=[column.name for column in categories],
    target_name=names[0],
    target_names=names,
    kinds=[column.kind for column in (*numeric, *categories)],
    text_names=columns.text_names(plan),
    weights=None
    if row_weights is None
    else {split: row_weights[index] for split, index in splits.items()},
    non_finite=non_finite,
  )


def weighted(
  splits: Iterable[Any], weights: Mapping[str, np.ndarray]
) -> list[Any]:
  """Rows of `SPLITS` with weights [n], of mean 1 over the train rows.

  `Rows`, or `texts.TextRows`: whatever has a `weight`.
  """
  found = weights_.normalized(weights)
  return [
    dataclasses.replace(rows, weight=found[split])
    for split, rows in zip(SPLITS, splits, strict=True)
  ]


def split_rows(n: int, seed: int, where: str) -> dict[str, np.ndarray]:
  """Row indices per split: test ⌈0.2 n⌉, val ⌈0.2 (n − test)⌉, train rest."""
  if n < 3:
    raise InputError(f'{where}: {n} rows; 3 or more are needed to split')
  # Integer arithmetic: 0.2 * n rounds up wrongly for some n.
  n_test = -(-n // 5)
  n_val = -(-(n - n_test) // 5)
  order = np.random.RandomState(seed).permutation(n)
  cuts = [n - n_test - n_val, n - n_test]
  return dict(zip(SPLITS, np.split(order, cuts), strict=True))


def _column_line(
  name: str, kind: str, values: np.ndarray, present: np.ndarray
) -> str:
  name = name if len(name) <= 32 else f'{name[:31]}…'
  distinct = len(pd.unique(present))
  missing = len(values) - len(present)
  return f'  {name:32} {kind:8}  missing {missing}, distinct {distinct}'


def _looks_like_id(present: np.ndarray) -> bool:
  return len(present) >= 20 and len(pd.unique(present)) > 0.5 * len(present)
