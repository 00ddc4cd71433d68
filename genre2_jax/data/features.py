"""Features and target as a network reads them; statistics of train only."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from genre2_jax.data import cells
from genre2_jax.data.columns import TEXT
from genre2_jax.data.tables import Rows
from genre2_jax.data.wording import counted, say
from genre2_jax.errors import InputError, shortened

# Standardised features beyond this are as good as infinite, and float32
# holds their squares.
LIMIT = 1e6
# Quantiles nearer than this are one: (z − edge) / (next edge − edge) is at most
# 2e12 then, and float32 holds its square.
LEAST_BIN = 1e-6
# Of a rank made normal, on both sides: the ends of a column are no outliers.
RANK_LIMIT = 3.0
_NUM_RANKS = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
  """Statistics of the train features.

  means, stds: of each numeric column, missing values filled by the mean.
  categories: sorted train labels of each category column.
  most_frequent: index into these, for labels that train lacks.
  quantiles: ascending edges of the bins of each numeric column, standardised,
    exact in float32, the least and the greatest value with them; one edge,
    so no bin, where all values are equal.
  kinds: of the columns, numeric first, as in `cells`; () of runs that did not
    keep them.
  counts: train rows of each code of each category column, the missing last; ()
    of runs that did not keep them.
  ranks: ascending quantiles of each numeric column, standardised, if numbers
    get a copy by their rank; () if not.
  missing: places of the numeric columns that get an indicator of what is
    missing: those where train lacks some but not all values.
  """

  numeric_names: tuple[str, ...]
  category_names: tuple[str, ...]
  means: tuple[float, ...]
  stds: tuple[float, ...]
  categories: tuple[tuple[str, ...], ...]
  most_frequent: tuple[int, ...]
  quantiles: tuple[tuple[float, ...], ...]
  kinds: tuple[str, ...] = ()
  counts: tuple[tuple[int, ...], ...] = ()
  ranks: tuple[tuple[float, ...], ...] = ()
  missing: tuple[int, ...] = ()

  @classmethod
  def fit(
    cls,
    rows: Rows,
    numeric_names: Sequence[str],
    category_names: Sequence[str],
    num_quantiles: int = 12,
    kinds: Sequence[str] = (),
    *,
    with_ranks: bool = False,
    with_missing: bool = False,
  ) -> Self:
    """Features of train rows.

    Bins have the edges q_0, q_1/Q, ..., q_1, the empirical quantiles of a
    column (Gorishniy et al. 2022, arXiv 2203.05556, section 3.2.1). A column
    of few values has fewer.

    Args:
      rows: of train.
      numeric_names: of the numeric columns.
      category_names: of the category columns.
      num_quantiles: Q, bins of a numeric column at most.
      kinds: of all columns, numeric first; (): not known.
      with_ranks: whether numbers get a copy by their rank.
      with_missing: whether missing numbers are said.

    Raises:
      InputError: other columns than named, or num_quantiles below 1.
    """
    _check_widths(rows, len(numeric_names), len(category_names))
    if type(num_quantiles) is not int or num_quantiles < 1:
      raise InputError(
        f'num_quantiles={num_quantiles!r}: give a positive integer'
      )
    means, stds, quantiles, ranks, missing = [], [], [], [], []
    for place, column in enumerate(rows.numeric.T):
      finite = np.isfinite(column)
      is_text = bool(kinds) and kinds[place] == TEXT
      mean = _moments(column[finite])[0] if finite.any() else 0.0
      filled = np.where(finite, column, mean)
      std = _moments(filled)[1]
      means.append(mean)
      stds.append(std)
      z = np.clip(_standardized(filled, mean, std), -LIMIT, LIMIT)
      quantiles.append(_edges(z, num_quantiles))
      if with_ranks:
        levels = np.linspace(0, 1, max(2, min(_NUM_RANKS, len(z))))
        ranks.append(tuple(np.quantile(z, levels).tolist()))
      if with_missing and 0 < finite.sum() < len(finite):
        # The numbers of a text are missing together.
        if not is_text or numeric_names[place].endswith('.1'):
          missing.append(place)
    categories, most_frequent, frequency = [], [], []
    for column in rows.categories.T:
      present = [label for label in column if label is not None]
      labels, counts = np.unique(
        np.array(present, dtype=object), return_counts=True
      )
      categories.append(tuple(labels))
      most_frequent.append(int(counts.argmax()) if present else 0)
      frequency.append((*counts.tolist(), len(column) - len(present)))
    return cls(
      numeric_names=tuple(numeric_names),
      category_names=tuple(category_names),
      means=tuple(means),
      stds=tuple(stds),
      categories=tuple(categories),
      most_frequent=tuple(most_frequent),
      quantiles=tuple(quantiles),
      kinds=tuple(kinds),
      counts=tuple(frequency),
      ranks=tuple(ranks),
      missing=tuple(missing),
    )

  @property
  def cardinalities(self) -> tuple[int, ...]:
    """Codes of each category column; the last one stands for missing."""
    return tuple(len(labels) + 1 for labels in self.categories)

  def frequent(self, least_rows: int) -> tuple[tuple[int, ...], ...]:
    """Codes of each category column with so many train rows or more.

    All of them, of runs that did not keep counts.
    """
    if not self.counts:
      return tuple(tuple(range(n)) for n in self.cardinalities)
    return tuple(
      tuple(code for code, n in enumerate(counts) if n >= least_rows)
      for counts in self.counts
    )

  @property
  def num_features(self) -> int:
    """Columns, numeric and categories together."""
    return len(self.numeric_names) + len(self.category_names)

  def fits(self, table: object) -> bool:
    """Whether a task has the same columns."""
    return (self.numeric_names, self.category_names) == (
      getattr(table, 'numeric_names', None),
      getattr(table, 'category_names', None),
    )

  def example_inputs(self) -> dict[str, np.ndarray]:
    """Inputs of one row, all zero: for shapes."""
    inputs = {
      'numeric': np.zeros((1, len(self.numeric_names)), np.float32),
      'categories': np.zeros((1, len(self.category_names)), np.int32),
    }
    if self.ranks or self.missing:
      width = len(self.ranks) + len(self.missing)
      inputs['beside'] = np.zeros((1, width), np.float32)
    return inputs

  def transform(self, rows: Rows) -> dict[str, np.ndarray]:
    """'numeric': float32 [n, F_num], 'categories': int32 [n, F_cat].

    And 'beside', float32 [n, E], where there are ranks, Φ⁻¹(F(x)) within
    ±`RANK_LIMIT` with F that of train, or indicators of what is missing.
    """
    _check_widths(rows, len(self.means), len(self.categories))
    means = np.array(self.means, np.float64)
    filled = np.where(np.isfinite(rows.numeric), rows.numeric, means)
    z = _standardized(filled, means, np.array(self.stds, np.float64))
    codes = np.empty(rows.categories.shape, np.int32)
    for place in range(len(self.categories)):
      lookup = self._codes(place)
      unknown = self.most_frequent[place]
      codes[:, place] = [
        lookup.get(label, unknown) for label in rows.categories[:, place]
      ]
    z = np.clip(z, -LIMIT, LIMIT)
    inputs = {'numeric': z.astype(np.float32), 'categories': codes}
    if self.ranks or self.missing:
      columns = [
        _normal_ranks(z[:, place], edges)
        for place, edges in enumerate(self.ranks)
      ]
      columns += [~np.isfinite(rows.numeric[:, i]) for i in self.missing]
      inputs['beside'] = np.stack(columns, axis=1).astype(np.float32)
    return inputs

  def _codes(self, place: int) -> dict[str | None, int]:
    """{label: code} of a category column."""
    known = self.categories[place]
    # Labels of older runs are as their source wrote them.
    codes = {cells.label(name): code for code, name in enumerate(known)}
    codes.update((name, code) for code, name in enumerate(known))
    return codes | {None: len(known)}

  def unseen(self, rows: Rows) -> list[str]:
    """What to say of labels that training did not have, one line a column."""
    _check_widths(rows, len(self.means), len(self.categories))
    said = []
    for place, name in enumerate(self.category_names):
      lookup = self._codes(place)
      column = rows.categories[:, place]
      new = [label for label in column if label not in lookup]
      if not new:
        continue
      known = self.categories[place]
      as_what = 'missing'
      if known:
        most = known[self.most_frequent[place]]
        as_what = f'{shortened(most)!r}, the most frequent label'
      folded = {label.casefold() for label in known}
      alike = sum(label.casefold() in folded for label in new)
      hint = f'; {alike} differ in upper and lower case only' if alike else ''
      said.append(
        f'column {name!r}: {len(new)} of {len(column)} cells have labels that '
        f'training did not have, {counted(new)}: read as {as_what}{hint}'
      )
    return said

  def say_unseen(self, rows: Rows, where: str) -> None:
    """Warns of labels that training did not have, of many columns the first."""
    said = self.unseen(rows)
    for line in said[:8]:
      say(f'{where}: {line}')
    if len(said) > 8:
      say(f'{where}: {len(said) - 8} more columns have labels that are new')

  def to_json(self) -> dict[str, Any]:
    """Plain lists and numbers, for json.dump."""
    return {
      **dataclasses.asdict(self),
      'kinds': list(self.kinds),
      'categories': [list(labels) for labels in self.categories],
      'quantiles': [list(edges) for edges in self.quantiles],
      'counts': [list(counts) for counts in self.counts],
      'ranks': [list(edges) for edges in self.ranks],
      'missing': list(self.missing),
    }

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`. Raises InputError for anything else."""
    if isinstance(data, Mapping):
      # Older runs did not keep them.
      later = ('kinds', 'counts', 'ranks', 'missing')
      data = {**{name: [] for name in later}, **data}
    _check_keys(cls, data)
    for key, value in data.items():
      _require(isinstance(value, list | tuple), cls, f'{key} must be a list')
    for key in ('numeric_names', 'category_names', 'kinds'):
      _require(_are_text(data[key]), cls, f'{key} must hold text')
    for key, names in (
      ('means', 'numeric_names'),
      ('stds', 'numeric_names'),
      ('quantiles', 'numeric_names'),
      ('categories', 'category_names'),
      ('most_frequent', 'category_names'),
    ):
      _require(
        len(data[key]) == len(data[names]),
        cls,
        f'{key} and {names} differ in length',
      )
    num_columns = len(data['numeric_names']) + len(data['category_names'])
    _require(
      len(data['kinds']) in (0, num_columns),
      cls,
      'kinds and the names differ in length',
    )
    for key in ('means', 'stds'):
      _require(
        all(map(_is_number, data[key])), cls, f'{key} must hold finite numbers'
      )
    _require(all(std > 0 for std in data['stds']), cls, 'stds must be positive')
    for labels, code in zip(
      data['categories'], data['most_frequent'], strict=True
    ):
      _require(
        isinstance(labels, list | tuple)
        and _are_text(labels)
        and list(labels) == sorted(set(labels)),
        cls,
        'categories must be sorted lists of text',
      )
      _require(
        type(code) is int and 0 <= code < max(len(labels), 1),
        cls,
        'most_frequent must index categories',
      )
    for edges in data['quantiles']:
      _require(
        isinstance(edges, list | tuple)
        and len(edges) > 0
        and all(map(_is_number, edges)),
        cls,
        'quantiles must be lists of finite numbers, none of them empty',
      )
      _require(
        max(map(abs, edges)) <= LIMIT and tuple(edges) == _apart(edges),
        cls,
        f'quantiles must ascend within ±{LIMIT:g} by more than {LEAST_BIN:g} '
        'and be exact in float32',
      )
    _require(
      data['counts'] in ([], ())
      or [len(counts) for counts in data['counts']]
      == [len(labels) + 1 for labels in data['categories']],
      cls,
      'counts must have one of each code',
    )
    _require(
      len(data['ranks']) in (0, len(data['numeric_names']))
      and all(
        isinstance(edges, list | tuple)
        and len(edges) > 1
        and all(map(_is_number, edges))
        and (np.diff(edges) >= 0).all()
        for edges in data['ranks']
      ),
      cls,
      'ranks must be ascending numbers of each numeric column',
    )
    _require(
      all(
        type(place) is int and 0 <= place < len(data['numeric_names'])
        for place in data['missing']
      ),
      cls,
      'missing must index numeric_names',
    )
    return cls(
      numeric_names=tuple(data['numeric_names']),
      category_names=tuple(data['category_names']),
      means=tuple(map(float, data['means'])),
      stds=tuple(map(float, data['stds'])),
      categories=tuple(map(tuple, data['categories'])),
      most_frequent=tuple(data['most_frequent']),
      quantiles=tuple(tuple(map(float, q)) for q in data['quantiles']),
      kinds=tuple(data['kinds']),
      counts=tuple(map(tuple, data['counts'])),
      ranks=tuple(tuple(map(float, q)) for q in data['ranks']),
      missing=tuple(data['missing']),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetScaler:
  """Scales of the target: original y, z-score z, and u in [0, 1] on train.

  mean, std: of train y, std with ddof 0, 1 if y is constant.
  low, high: least and greatest train z; both 0 if y is constant.
  """

  mean: float
  std: float
  low: float
  high: float

  @classmethod
  def fit(cls, y: np.ndarray) -> Self:
    """Scales of train targets y [n]. Raises InputError if not finite."""
    y = np.asarray(y, np.float64)
    if y.ndim != 1 or y.size == 0 or not np.isfinite(y).all():
      raise InputError(
        f'target: shape {y.shape} with {(~np.isfinite(y)).sum()} values not '
        'finite; it must be one column of numbers'
      )
    mean, std = _moments(y)
    low, high = _standardized(np.array([y.min(), y.max()]), mean, std)
    return cls(mean=mean, std=std, low=float(low), high=float(high))

  @property
  def is_constant(self) -> bool:
    return self.low == self.high

  @property
  def is_linear(self) -> bool:
    """Whether z is a straight line of the target."""
    return True

  @property
  def bounds(self) -> tuple[float, float] | None:
    """Of z; None: a target may be any number."""
    return None

  def standardize(self, y: npt.ArrayLike) -> np.ndarray:
    """z = (y − mean) / std, of y [...]."""
    return _standardized(np.asarray(y, np.float64), self.mean, self.std)

  def restore(self, z: npt.ArrayLike) -> np.ndarray:
    """y = z·std + mean, of z [...]."""
    # In halves, because z·std may leave float64 where y does not; the largest
    # y must not leave it by a rounding error either.
    half = np.asarray(z, np.float64) * (self.std / 2) + self.mean / 2
    most = np.finfo(np.float64).max / 2
    return 2 * np.clip(half, -most, most)

  def to_unit(self, z: npt.ArrayLike) -> np.ndarray:
    """u = (z − low) / (high − low), of z [...]; 0 if y is constant."""
    z = np.asarray(z, np.float64)
    if self.is_constant:
      return np.zeros_like(z)
    return (z - self.low) / (self.high - self.low)

  def from_unit(self, u: npt.ArrayLike) -> np.ndarray:
    """z = u·(high − low) + low, of u [...]."""
    return np.asarray(u, np.float64) * (self.high - self.low) + self.low

  def to_json(self) -> dict[str, float]:
    """Plain numbers, for json.dump."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`. Raises InputError for anything else."""
    _check_keys(cls, data)
    for key, value in data.items():
      _require(_is_number(value), cls, f'{key} must be a finite number')
    _require(data['std'] > 0, cls, 'std must be positive')
    _require(data['low'] <= data['high'], cls, 'low must not exceed high')
    return cls(**{key: float(value) for key, value in data.items()})


def _moments(values: np.ndarray) -> tuple[float, float]:
  """Mean and ddof-0 deviation of values [n]; the deviation of a constant is 1.

  Free of overflow and underflow for every finite input.
  """
  low, high = values.min(), values.max()
  # By the ends: a rounded mean gives 0.1, 0.1, 0.1 a deviation of 1e-17.
  if low == high:
    return float(low), 1.0
  # A power of two brings the values below 1/2 without rounding.
  exponent = int(np.frexp(max(-low, high))[1]) + 1
  small = np.ldexp(values, -exponent)
  mean = small.mean()
  std = np.sqrt(np.square(small - mean).mean())
  return (
    float(np.clip(np.ldexp(mean, exponent), low, high)),
    float(max(np.ldexp(std, exponent), np.finfo(np.float64).tiny)),
  )


def _standardized(
  values: np.ndarray, mean: npt.ArrayLike, std: npt.ArrayLike
) -> np.ndarray:
  # In halves, because values of both signs may be 1e308 apart and more; a
  # quotient that is infinite even so is meant.
  with np.errstate(over='ignore'):
    return (values / 2 - np.asarray(mean) / 2) / (np.asarray(std) / 2)


def mid_ranks(values: npt.ArrayLike, edges: npt.ArrayLike) -> np.ndarray:
  """F(x) in [0, 1] of values [...], linear between its quantiles [Q].

  At a value that many rows share, the middle of its step.
  """
  values, edges = np.asarray(values), np.asarray(edges)
  levels = np.linspace(0, 1, len(edges))
  # From both sides: a step of F is met at its middle.
  below = np.interp(values, edges, levels)
  above = -np.interp(-values, -edges[::-1], -levels[::-1])
  return (below + above) / 2


def _normal_ranks(z: np.ndarray, edges: npt.ArrayLike) -> np.ndarray:
  """Φ⁻¹(F(z)) of z [n], within ±`RANK_LIMIT`."""
  from scipy import special

  with np.errstate(divide='ignore'):
    normal = special.ndtri(mid_ranks(z, edges))
  return np.clip(normal, -RANK_LIMIT, RANK_LIMIT)


def _edges(z: np.ndarray, num_bins: int) -> tuple[float, ...]:
  """Edges of at most `num_bins` bins with equally many of z [n] in each."""
  return _apart(np.quantile(z, np.linspace(0, 1, num_bins + 1)))


def _apart(edges: npt.ArrayLike) -> tuple[float, ...]:
  """Edges as float32 holds them, without those too near to the one before."""
  kept: list[float] = []
  for edge in np.asarray(edges, np.float32).astype(np.float64).tolist():
    if not kept or edge - kept[-1] > LEAST_BIN:
      kept.append(edge)
  return tuple(kept)


def _check_widths(rows: Rows, n_numeric: int, n_categories: int) -> None:
  have = rows.numeric.shape[1], rows.categories.shape[1]
  if have != (n_numeric, n_categories):
    raise InputError(
      f'rows have {have[0]} numeric and {have[1]} category columns, not '
      f'{n_numeric} and {n_categories}; use the columns of the train rows'
    )


def _check_keys(cls: Any, data: object) -> None:
  expected = {field.name for field in dataclasses.fields(cls)}
  _require(
    isinstance(data, Mapping) and set(data) == expected,
    cls,
    f'the keys must be {", ".join(sorted(expected))}',
  )


def _require(condition: bool, cls: type, rule: str) -> None:
  if not condition:
    raise InputError(f'saved {cls.__name__}: {rule}; save it again')


def _are_text(values: Iterable[object]) -> bool:
  return all(isinstance(value, str) for value in values)


def _is_number(value: Any) -> bool:
  # Compared, because math.isfinite fails at integers beyond float64.
  most = sys.float_info.max
  return type(value) in (int, float) and -most <= value <= most
