"""Tables for regression: features and a target, split in three."""

import collections
import dataclasses
import difflib
import gzip
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from genre2_jax.errors import InputError

SPLITS = ('train', 'val', 'test')

# Spellings of "no value", in every source alike: 'nan', 'None', 'NaT' and
# '<NA>' are what Python makes of missing values as text, '?' is ARFF's mark.
MISSING = frozenset(
  '? NA N/A n/a #N/A <NA> NULL null None NaN nan -nan NaT'.split()
) | {''}

_SEPARATORS = {'.csv': ',', '.csv.gz': ',', '.tsv': '\t', '.tsv.gz': '\t'}
_PARQUET = ('.parquet', '.pq')
_JSON_LINES = ('.jsonl', '.jsonl.gz')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """Rows of one split, or rows to predict.

  numeric: [n, F_num] float64, NaN where missing; may hold ±inf.
  categories: [n, F_cat] object: str, None where missing.
  target: [n] float64, finite; None for rows to predict.
  """

  numeric: np.ndarray
  categories: np.ndarray
  target: np.ndarray | None

  def __len__(self) -> int:
    return len(self.numeric)

  def cells(self) -> Iterator[bytes]:
    """Every cell, to tell data from other data."""
    yield self.numeric.tobytes() + self.target.tobytes()
    yield repr(self.categories.tolist()).encode()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A regression task. Loaders make it by `build`, which checks it."""

  name: str
  numeric_names: tuple[str, ...]
  category_names: tuple[str, ...]
  target_name: str
  train: Rows
  val: Rows
  test: Rows


def build(
  name: str,
  splits: Mapping[str, tuple],
  *,
  numeric_names: Sequence[str],
  category_names: Sequence[str],
  target_name: str,
) -> Table:
  """Checked table from raw arrays: every loader ends here.

  splits: for each of `SPLITS` (numeric [n, F_num] or None, categories
  [n, F_cat] or None, target [n] or [n, 1]), of any plain dtype.
  Raises InputError for a table that cannot be trained on.
  """
  names = (*numeric_names, *category_names)
  if not names:
    raise InputError(f'{name}: no feature columns; at least one is needed')
  _refuse_duplicates(name, names)
  widths = len(numeric_names), len(category_names)
  return Table(
    name=name,
    numeric_names=tuple(numeric_names),
    category_names=tuple(category_names),
    target_name=target_name,
    **{
      split: _rows(f'{name}: {split}', *splits[split], widths)
      for split in SPLITS
    },
  )


def read_file(path: str | os.PathLike, target: str, *, seed: int = 0) -> Table:
  """Table from a CSV, TSV, JSONL (all may be gzipped) or Parquet file.

  A column is numeric if all its present values are numbers or dates (then
  seconds since 1970, UTC), otherwise a category. Rows are split 64/16/20.
  Raises InputError.
  """
  path = pathlib.Path(path)
  name = path.name.removesuffix(extension_of(path))
  return _from_frame(read_frame(path), name, target, seed, str(path))


def load_sklearn(name: str = 'diabetes', *, seed: int = 0) -> Table:
  """Table bundled with scikit-learn: diabetes, in its original units."""
  if name != 'diabetes':
    raise InputError(
      f"scikit-learn bundles no regression set {name!r}; use 'diabetes'"
    )
  # Imported where used: it takes a second that other sources need not pay.
  from sklearn import datasets

  frame = datasets.load_diabetes(as_frame=True, scaled=False).frame
  frame['sex'] = frame['sex'].astype('category')
  return _from_frame(frame, name, 'target', seed, name)


def load_openml(
  name_or_id: str | int, target: str = '', *, seed: int = 0
) -> Table:
  """Table from OpenML by name or number; '' takes its default target.

  Raises InputError, also when OpenML cannot be reached.
  """
  from sklearn import datasets

  key = str(name_or_id)
  where = f'OpenML {key}'
  which = {'data_id': int(key)} if key.isdecimal() else {'name': key}
  try:
    bunch = datasets.fetch_openml(
      **which,
      target_column=target or 'default-target',
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
  if not isinstance(bunch.target, pd.Series):
    raise InputError(
      f'{where}: has no single default target; name one of '
      f'{listed(map(str, bunch.frame.columns))}'
    )
  name = (bunch.get('details') or {}).get('name', key)
  frame = bunch.data.assign(**{bunch.target.name: bunch.target})
  return _from_frame(frame, name, bunch.target.name, seed, where)


def read_rows(
  path: str | os.PathLike,
  *,
  numeric_names: Sequence[str],
  category_names: Sequence[str],
  target_name: str = '',
) -> Rows:
  """Rows to predict from a file; columns match by name, others are ignored.

  The target column may be absent and is never read. Raises InputError.
  """
  path = pathlib.Path(path)
  frame = read_frame(path)
  names = (*numeric_names, *category_names)
  absent = [name for name in names if name not in frame]
  if absent:
    needless = f'; {target_name!r} is not needed' if target_name else ''
    raise InputError(
      f'{path}: {len(absent)} columns are missing: {listed(absent)}; '
      f'add them{needless}'
    )
  numeric = [
    _finished(f'{path}: column {name!r}', *_numbers(frame[name]))
    for name in numeric_names
  ]
  categories = [frame[name].to_numpy(object) for name in category_names]
  n = len(frame)
  return _rows(
    str(path),
    _stacked(numeric, n, np.float64),
    _stacked(categories, n, object),
    None,
    (len(numeric_names), len(category_names)),
  )


def describe(table: Table, *, limit: int = 30) -> str:
  """Summary to print: rows, then type, missing and distinct per column."""
  splits = [getattr(table, split) for split in SPLITS]
  numeric = np.concatenate([rows.numeric for rows in splits])
  categories = np.concatenate([rows.categories for rows in splits])
  lines, codes = [], []
  for name, values in zip(table.numeric_names, numeric.T, strict=True):
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
  head = [
    f'{table.name}: target {table.target_name}, {len(table.numeric_names)} '
    f'numeric and {len(table.category_names)} category columns',
    f'rows: {counts}',
    *lines[:limit],
  ]
  if len(lines) > limit:
    head.append(f'  ... and {len(lines) - limit} more columns')
  if codes:
    head.append(f'looks like an identifier: {listed(codes)}')
  return '\n'.join(head)


def numbers(where: str, cells: np.ndarray) -> np.ndarray:
  """Cells of any plain dtype as float64 of the same shape, NaN if missing.

  Raises InputError with the count and first rows of what is no number.
  """
  if cells.dtype.kind in 'biuf':
    return cells.astype(np.float64)
  if cells.dtype.kind not in 'OU':
    raise InputError(f'{where}: {cells.dtype} are no numbers; convert them')
  flat = cells.astype(object).ravel()
  # A frame of numeric and boolean columns becomes one object array.
  flat[:] = [int(cell) if isinstance(cell, bool) else cell for cell in flat]
  values, bad = _numbers(pd.Series(flat, dtype=object))
  return _finished(where, values.reshape(cells.shape), bad.reshape(cells.shape))


def labels(cells: np.ndarray) -> np.ndarray:
  """Text of every cell as object of the same shape, None where missing.

  An integral float reads like the integer: a column of integers turns into
  floats in a split that has missing values.
  """
  flat = cells.astype(object).ravel()
  out = np.empty(flat.shape, object)
  out[:] = [
    None if missing or (text := label(cell)) in MISSING else text
    for cell, missing in zip(flat, pd.isna(flat), strict=True)
  ]
  return out.reshape(cells.shape)


def target_column(where: str, column: pd.Series) -> np.ndarray:
  """A target as float64 [n]. Raises InputError unless all are finite."""
  return _target(where, _finished(where, *_numbers(column)))


def suggestion(name: str, names: Sequence[str]) -> str:
  """'did you mean ...?' for near names, otherwise what there is."""
  lower = {known.lower(): known for known in names}
  near = difflib.get_close_matches(name.lower(), lower, cutoff=0.5)
  if near:
    return f'did you mean {listed([lower[match] for match in near])}?'
  return f'there is {listed(names) or "none"}'


def _rows(where, numeric, categories, target, widths: tuple[int, int]) -> Rows:
  arrays = [
    array for array in (numeric, categories, target) if array is not None
  ]
  if any(array.ndim == 0 for array in arrays):
    raise InputError(f'{where}: an array is a single value; give it rows')
  lengths = {len(array) for array in arrays}
  if len(lengths) > 1:
    raise InputError(
      f'{where}: features and target differ in rows, '
      f'{" against ".join(str(len(array)) for array in arrays)}; they must '
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
    target=None if target is None else _target(f'{where}: target', target),
  )


def _target(where: str, target: np.ndarray) -> np.ndarray:
  if target.ndim == 2 and target.shape[1] == 1:
    target = target[:, 0]
  if target.ndim != 1:
    raise InputError(f'{where} has shape {target.shape}; it must be one column')
  target = numbers(where, target)
  bad = ~np.isfinite(target)
  if bad.any():
    raise InputError(
      f'{where}: missing or infinite in {located(bad)}; remove these rows'
    )
  return target


def _from_frame(
  frame: pd.DataFrame, name: str, target: str, seed: int, where: str
) -> Table:
  frame = frame.rename(columns=str)
  if target not in frame:
    raise InputError(
      f'{where}: no column {target!r} to be the target; '
      f'{suggestion(target, list(frame))}'
    )
  # Checked before the split, so that errors count rows as the file does.
  y = target_column(f'{where}: target {target!r}', frame.pop(target))
  numeric, categories = {}, {}
  for column in frame:
    values, bad = _numbers(frame[column])
    if bad.any() or isinstance(frame[column].dtype, pd.CategoricalDtype):
      categories[column] = frame[column].to_numpy(object)
    else:
      numeric[column] = values
  n = len(frame)
  n_array = _stacked(list(numeric.values()), n, np.float64)
  c_array = _stacked(list(categories.values()), n, object)
  return build(
    name,
    {
      split: (n_array[index], c_array[index], y[index])
      for split, index in split_rows(n, seed, where).items()
    },
    numeric_names=list(numeric),
    category_names=list(categories),
    target_name=target,
  )


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


def extension_of(path: pathlib.Path) -> str:
  """'.csv', '.csv.gz', ... as it stands. Raises InputError for others."""
  known = (*_SEPARATORS, *_PARQUET, *_JSON_LINES)
  for extension in known:
    if path.name.lower().endswith(extension):
      return path.name[-len(extension) :]
  raise InputError(
    f'{path}: unknown kind of file; its name must end in {", ".join(known)}'
  )


def read_frame(path: pathlib.Path) -> pd.DataFrame:
  """Columns of a file, with unique names of type str, at least one row.

  Cells of CSV and TSV are text. Raises InputError.
  """
  extension = extension_of(path).lower()
  if not path.is_file():
    raise InputError(f'{path}: no such file; check the path')
  try:
    if extension in _PARQUET:
      frame = pd.read_parquet(path)
    elif extension in _JSON_LINES:
      frame = _read_json_lines(path)
    else:
      frame = _read_text(path, _SEPARATORS[extension])
  # Decompressors, decoders and parsers fail on foreign bytes in many ways,
  # all of which mean the same to the user.
  except Exception as error:
    raise InputError(
      f'{path}: not readable as {extension}, {one_line(error)}; check the file'
    ) from error
  frame.columns = [str(name) for name in frame.columns]
  _refuse_duplicates(str(path), frame.columns)
  if frame.empty:
    raise InputError(f'{path}: no data rows; at least one is needed')
  return frame


def _read_text(path: pathlib.Path, separator: str) -> pd.DataFrame:
  # The header is read as data: pandas would rename duplicates and take
  # leading columns for an index. All is text, so that `_numbers` decides on
  # types the same way for every source.
  cells = pd.read_csv(
    path,
    sep=separator,
    header=None,
    dtype=str,
    keep_default_na=False,
    encoding='utf-8',
  )
  frame = cells.iloc[1:].reset_index(drop=True)
  frame.columns = [
    name or f'column_{place}' for place, name in enumerate(cells.iloc[0], 1)
  ]
  return frame


def _read_json_lines(path: pathlib.Path) -> pd.DataFrame:
  opened = gzip.open if path.name.lower().endswith('.gz') else open
  records = []
  with opened(path, 'rt', encoding='utf-8') as file:
    for number, line in enumerate(file, 1):
      if line.strip():
        try:
          record = json.loads(line)
        except ValueError as error:
          raise ValueError(f'line {number}: {error}') from error
        if not isinstance(record, dict):
          raise ValueError(f'line {number} is no object')
        records.append(record)
  return pd.DataFrame.from_records(records)


def _numbers(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
  """Values float64 [n], NaN if missing; bool [n]: neither number nor date."""
  kind = column.dtype.kind
  good = np.zeros(len(column), bool)
  if kind in 'iuf':
    return column.to_numpy(np.float64, na_value=np.nan), good
  if kind == 'M':
    return _seconds(column), good
  if kind == 'm':
    return column.dt.total_seconds().to_numpy(np.float64), good
  text = pd.Series(labels(column.to_numpy(object)), dtype=object)
  present = text.notna().to_numpy()
  values = np.asarray(pd.to_numeric(text, errors='coerce'), np.float64)
  if _are_dates(text[present]):
    values = _seconds(
      pd.to_datetime(text, format='ISO8601', utc=True, errors='coerce')
    )
  return values, present & np.isnan(values)


def _are_dates(text: pd.Series) -> bool:
  # Only this order of year, month and day reads one way everywhere.
  return len(text) > 0 and bool(text.str.match(r'\d{4}-\d\d-\d\d').all())


def _seconds(times: pd.Series) -> np.ndarray:
  times = pd.to_datetime(times, utc=True)
  since = times - pd.Timestamp(0, tz='UTC')
  return since.dt.total_seconds().to_numpy(np.float64)


def label(cell) -> str:
  """Text of a cell; an integral float reads like the integer."""
  if isinstance(cell, float) and cell.is_integer():
    cell = int(cell)
  return str(cell)


def _stacked(columns: list, n: int, dtype) -> np.ndarray:
  out = np.empty((n, len(columns)), dtype)
  for place, column in enumerate(columns):
    out[:, place] = column
  return out


def _finished(where: str, values: np.ndarray, bad: np.ndarray) -> np.ndarray:
  if bad.any():
    rows = bad.reshape(len(bad), -1).any(axis=1) if bad.ndim > 1 else bad
    raise InputError(
      f'{where}: text instead of numbers in {located(rows)}; correct or '
      'clear these cells'
    )
  return values


def _refuse_duplicates(where: str, names: Sequence[str]) -> None:
  twice = [name for name, n in collections.Counter(names).items() if n > 1]
  if twice:
    raise InputError(
      f'{where}: duplicate column names {listed(twice)}; rename them'
    )


def _column_line(name, kind, values, present) -> str:
  name = name if len(name) <= 32 else f'{name[:31]}…'
  distinct = len(pd.unique(present))
  missing = len(values) - len(present)
  return f'  {name:32} {kind:8}  missing {missing}, distinct {distinct}'


def _looks_like_id(present: np.ndarray) -> bool:
  return len(present) >= 20 and len(pd.unique(present)) > 0.5 * len(present)


def located(bad: np.ndarray) -> str:
  """'3 rows: 1, 5, 9' of a mask [n]; rows count from 1."""
  first = ', '.join(map(str, np.flatnonzero(bad)[:5] + 1))
  n = int(bad.sum())
  more = ', ...' if n > 5 else ''
  return f'{n} {"row" if n == 1 else "rows"}: {first}{more} (the first is 1)'


def listed(names, limit: int = 8) -> str:
  """Names in quotes, of many the first."""
  names = list(names)
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(repr(name) for name in names[:limit]) + more


def one_line(error: Exception) -> str:
  """What an error says, in one line."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 160 else f'{text[:159]}…'
