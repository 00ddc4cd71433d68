"""Rows as the libraries of baselines read them: frames of float32 and codes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from genre2_jax.data.features import Features
from genre2_jax.data.tables import SPLITS, Rows, Table

# Labels of a category that scikit-learn's histograms take.
_MAX_BINS = 255
# Features are clipped to this: the libraries read float32, and add up all cells
# to look for infinities.
_LIMIT = 1e30
# Codes of what is no label of the train rows.
_ABSENT, _UNSEEN = -1, -2

Frames = Mapping[str, pd.DataFrame]


@dataclasses.dataclass(frozen=True)
class Columns:
  """How rows become a frame that the trees read, as the train rows say.

  Columns are f0, f1, ..., because libraries refuse some characters: float32
  with NaN for missing, then int32 codes of the train labels (`_ABSENT`,
  `_UNSEEN`). Without those that do not vary over the train rows, on which no
  tree can split and which CatBoost refuses to be left with.

  Attributes:
    labels: of each category column, sorted.
    varying: whether a column varies over the train rows, numeric first.
  """

  labels: tuple[tuple[str, ...], ...]
  varying: tuple[bool, ...]

  @classmethod
  def fit(cls, rows: Rows) -> Self:
    """Of train rows."""
    labels = tuple(
      tuple(sorted(set(column) - {None})) for column in rows.categories.T
    )
    varying = _frame(rows, labels).nunique(dropna=False) > 1
    return cls(labels, tuple(varying.tolist()))

  def frame(self, rows: Rows) -> pd.DataFrame:
    """Rows of any split, or new ones."""
    return _frame(rows, self.labels).loc[:, list(self.varying)]

  @property
  def counts(self) -> dict[str, int]:
    """Name of each column of codes -> how many labels it has."""
    first = len(self.varying) - len(self.labels)
    return {f'f{i}': len(names) for i, names in enumerate(self.labels, first)}


def columns_of(table: Table) -> dict[str, pd.DataFrame]:
  """Features of every split as the trees read them."""
  columns = Columns.fit(table.train)
  return {s: columns.frame(getattr(table, s)) for s in SPLITS}


def _frame(rows: Rows, labels: Sequence[Sequence[str]]) -> pd.DataFrame:
  finite = np.isfinite(rows.numeric)
  numeric = np.clip(rows.numeric, -_LIMIT, _LIMIT)
  numeric = np.where(finite, numeric, np.nan).astype(np.float32)
  columns = list(numeric.T)
  for names, column in zip(labels, rows.categories.T, strict=True):
    known = {name: code for code, name in enumerate(names)} | {None: _ABSENT}
    columns.append(
      np.array([known.get(label, _UNSEEN) for label in column], np.int32)
    )
  return pd.DataFrame({f'f{i}': column for i, column in enumerate(columns)})


def category_names(frame: pd.DataFrame) -> list[str]:
  """Names of the columns of codes."""
  return [name for name in frame if frame[name].dtype == np.int32]


def as_they_are(columns: Frames, table: Table) -> Mapping[str, Any]:
  """Codes for CatBoost, to which an unseen code is an unseen category."""
  del table
  return columns


def with_category_types(columns: Frames, table: Table) -> Mapping[str, Any]:
  """Codes as pandas categories of the train rows, NaN for all others."""
  del table
  train = columns['train']
  counts = {name: train[name].max() + 1 for name in category_names(train)}
  return {s: categorical(frame, counts) for s, frame in columns.items()}


def categorical(frame: pd.DataFrame, counts: Mapping[str, int]) -> pd.DataFrame:
  """The same of one frame, whose columns of codes have so many labels."""
  out = frame.copy()
  for name in category_names(frame):
    codes = frame[name].clip(lower=-1)
    labels = np.arange(counts[name])
    out[name] = pd.Categorical.from_codes(codes, categories=labels)
  return out


def with_small_category_types(
  columns: Frames, table: Table
) -> Mapping[str, Any]:
  """The same, but codes where there are more labels than a histogram's bins."""
  out = with_category_types(columns, table)
  for name in category_names(columns['train']):
    if len(out['train'][name].cat.categories) > _MAX_BINS:
      for split, frame in columns.items():
        out[split][name] = frame[name].astype(np.float32)
  return out


def filled(columns: Frames, table: Table) -> Mapping[str, Any]:
  """Numbers only: missing ones become the train mean, codes stay."""
  del table
  train = columns['train'].astype(np.float64)
  return {
    s: frame.astype(np.float64).fillna(train.mean()).to_numpy(np.float32)
    for s, frame in columns.items()
  }


def filled_with_category_types(
  columns: Frames, table: Table
) -> Mapping[str, Any]:
  """Codes as pandas categories, and missing numbers as the train mean."""
  out = with_category_types(columns, table)
  for name in columns['train']:
    if name not in category_names(columns['train']):
      mean = columns['train'][name].astype(np.float64).mean()
      for frame in out.values():
        frame[name] = frame[name].fillna(np.float32(mean))
  return out


def standardized_and_one_hot(
  columns: Frames, table: Table
) -> Mapping[str, Any]:
  """Numbers as a network reads them, and a column for each train label."""
  from scipy import sparse
  from sklearn import preprocessing

  features = Features.fit(
    table.train, table.numeric_names, table.category_names
  )
  out = {
    s: np.asarray(features.transform(getattr(table, s))['numeric'], np.float64)
    for s in SPLITS
  }
  categories = category_names(columns['train'])
  if categories:
    encoder = preprocessing.OneHotEncoder(handle_unknown='ignore')
    encoder.fit(columns['train'][categories].to_numpy())
    out = {
      s: sparse.hstack(
        [numeric, encoder.transform(columns[s][categories].to_numpy())],
        format='csr',
      )
      for s, numeric in out.items()
    }
  return out
