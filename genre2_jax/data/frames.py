"""X and y, as Python has them, as tables: what the estimator reads."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.utils import check_array

from genre2_jax.data import cells, columns, tables
from genre2_jax.data.columns import Column
from genre2_jax.data.reading import Reading
from genre2_jax.errors import InputError, listed, suggestion


def frame_or_array(X: Any) -> pd.DataFrame | np.ndarray:
  """X as a pandas frame or an array [n, F], neither of them empty."""
  if not isinstance(X, pd.DataFrame):
    if type(X).__name__ == 'LazyFrame':
      raise InputError('X is a LazyFrame, not read yet: give X.collect()')
    if hasattr(X, 'to_pandas'):
      X = X.to_pandas()
    elif hasattr(X, '__dataframe__'):
      from pyarrow import interchange

      X = interchange.from_dataframe(X).to_pandas()
  if not isinstance(X, pd.DataFrame):
    X = cells.unmasked(X)
    return check_array(X, dtype=None, ensure_all_finite=False, input_name='X')
  if X.columns.nlevels > 1:
    raise InputError(
      f'X has column names of {X.columns.nlevels} levels: give each column one '
      "name, as in X.columns = ['_'.join(map(str, c)) for c in X.columns]"
    )
  check_array(np.broadcast_to(0.0, X.shape))  # Rows and columns, at least one.
  twice = sorted({str(name) for name in X.columns[X.columns.duplicated()]})
  if twice:
    raise InputError(f'duplicate column names {", ".join(twice)}: rename them')
  complex_ones = [str(n) for n, dtype in X.dtypes.items() if dtype.kind == 'c']
  if complex_ones:
    raise InputError(f'Complex data not supported: {", ".join(complex_ones)}')
  return X


def say_index(X: pd.DataFrame | np.ndarray, y: Any) -> None:
  """Says what of the indices of X and y, which are not used, looks meant."""
  if not isinstance(X, pd.DataFrame):
    return
  columns.say_index('X', X, 'give X.reset_index() to make a column of it')
  if isinstance(y, pd.Series | pd.DataFrame):
    columns.say_order('X', X.index, y.index)


def by_name(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
  """The columns that a run of the command line was trained on."""
  absent = [name for name in names if name not in frame]
  if absent:
    near = suggestion(absent[0], [n for n in frame if n not in names])
    near = f' ({near})' if near.startswith('did') else ''
    raise InputError(
      f'X: {len(absent)} columns are missing: {listed(absent)}{near}; add them'
    )
  return frame[list(names)]


class HowRead(NamedTuple):
  """How text in X is read, and the kinds of columns that a user gave."""

  formats: Reading
  by_hand: dict[str, str]


def how_read(fields: Mapping[str, Any]) -> HowRead:
  """Of the fields of a config."""
  data = fields['data']
  names = columns.parse_names('data.text_columns', data['text_columns'])
  return HowRead(
    Reading.parse(data['reading']),
    columns.with_texts(columns.parse_kinds(data['kinds']), names),
  )


def arrays(
  frame: pd.DataFrame,
  planned: Sequence[Column],
  where: str,
  reading: HowRead | None = None,
  are_new: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers [n, F_num], labels [n, F_cat]; as `columns.arrays`."""
  formats, by_hand = reading or HowRead(Reading(), {})
  return columns.arrays(
    frame,
    planned,
    formats,
    where=where,
    by_hand=by_hand,
    are_new=are_new,
  )


def rows(
  frame: pd.DataFrame,
  planned: Sequence[Column],
  where: str,
  reading: HowRead | None = None,
) -> tables.Rows:
  """Rows to predict."""
  numeric, categories = arrays(frame, planned, where, reading, are_new=True)
  text = columns.texts(frame, planned)
  return tables.Rows(
    numeric=numeric,
    categories=categories,
    target=None,
    text=text[0] if text else None,
  )


def table(
  parts: Mapping[str, tuple[pd.DataFrame, np.ndarray]],
  planned: Sequence[Column],
  *,
  target_name: str,
  target_names: Sequence[str] = (),
  reading: HowRead,
  val_is_new: bool,
  weights: Mapping[str, np.ndarray] | None = None,
  non_finite: bool = False,
) -> tables.Table:
  """A table of the parts 'train' and 'val', without test rows.

  val_is_new: whether the columns were planned without the validation rows.
  weights: of the same parts, [n], or None.
  non_finite: whether targets may be NaN or infinite.
  """
  splits = {}
  for split, (frame, y) in parts.items():
    are_new = val_is_new and split == 'val'
    splits[split] = (
      *arrays(frame, planned, split, reading, are_new),
      y,
      *columns.texts(frame, planned),
    )
  numeric = columns.numeric_columns(planned)
  categories = columns.category_columns(planned)
  made = tables.build(
    'data',
    splits | {'test': splits['val']},
    numeric_names=[column.name for column in numeric],
    category_names=[column.name for column in categories],
    target_name=target_name,
    target_names=target_names,
    kinds=[column.kind for column in (*numeric, *categories)],
    text_names=columns.text_names(planned),
    weights=weights and {**weights, 'test': weights['val']},
    non_finite=non_finite,
  )
  return dataclasses.replace(made, test=made.val.part(slice(0)))


def refuse_target(y: Any) -> None:
  """Raises InputError for masked targets, and for what float64 makes equal."""
  masked = np.ma.getmaskarray(y).ravel() if np.ma.isMaskedArray(y) else None
  if masked is not None and masked.any():
    raise InputError(f'y: masked in {tables.located(masked)}; drop these rows')
  column = y if isinstance(y, pd.Series) else np.asarray(y)
  if column.ndim == 2:
    for own in column.T:
      refuse_target(own)
    return
  if column.ndim != 1 or column.dtype.kind not in 'iuO':
    return
  try:
    values = np.asarray(column, np.float64)
  except (TypeError, ValueError, OverflowError):
    return  # scikit-learn says what is wrong with it.
  tables.refuse_lost('y', pd.Series(column), values)


def split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Row numbers of train and validation: ⌈n / 5⌉ validate."""
  if n < 2:
    raise InputError(
      f'n_samples={n}: one sample cannot both train and validate; give more, '
      'or X_val and y_val'
    )
  order = np.random.RandomState(seed).permutation(n)
  num_val = -(-n // 5)
  return order[:-num_val], order[-num_val:]


def names_of(y: Any) -> list[str]:
  """Of several targets; [] where their columns have no names."""
  names = list(map(str, getattr(y, 'columns', ())))
  return names if getattr(y, 'ndim', 1) == 2 and len(names) > 1 else []


def name_of(y: Any) -> str:
  """Of a target; 'y' if it has none."""
  name = getattr(y, 'name', None)
  return name if isinstance(name, str) and name else 'y'
