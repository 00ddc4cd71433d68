"""Errors and correlations of point predictions.

Arrays are float64 numpy: targets `y` [n], predictions `x` [n]. Every function
returns a number for every finite input: where a textbook formula is 0/0, the
docstring gives the answer. With `weight` [n] a row counts as if it came so many
times.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

Weight = ArrayLike | None


def rmse(x: ArrayLike, y: ArrayLike, weight: Weight = None) -> float:
  """√mean (x − y)², in the unit of y."""
  return float(np.sqrt(mean_of_all(np.square(error(x, y)), weight)))


def mae(x: ArrayLike, y: ArrayLike, weight: Weight = None) -> float:
  """mean |x − y|, in the unit of y."""
  return float(mean_of_all(np.abs(error(x, y)), weight))


def r2(x: ArrayLike, y: ArrayLike, weight: Weight = None) -> float:
  """1 − Σ(x − y)² / Σ(y − ȳ)²; constant y: 1 if x is exact, else 0."""
  if weight is not None:
    x, y, weight = _counted(x, y, weight)
    residual = np.sum(weight * np.square(error(x, y)))
    if _is_constant(y):
      return float(residual == 0)
    spread = np.square(error(y, mean(y, weight)))
    return float(1 - residual / np.sum(weight * spread))
  residual = np.sum(np.square(error(x, y)))
  if _is_constant(y):
    return float(residual == 0)
  y = np.asarray(y, np.float64)
  return float(1 - residual / np.sum(np.square(y - y.mean())))


def spearman(x: ArrayLike, y: ArrayLike, weight: Weight = None) -> float:
  """Spearman's ρ in [−1, 1]; 0 if x or y is constant: nothing is ranked."""
  if weight is not None:
    x, y, weight = _counted(x, y, weight)
    return pearson(_mid_ranks(x, weight), _mid_ranks(y, weight), weight)
  if _is_constant(x) or _is_constant(y):
    return 0.0
  return float(stats.spearmanr(x, y).statistic)


def kendall(x: ArrayLike, y: ArrayLike, weight: Weight = None) -> float:
  """Kendall's τ-b in [−1, 1]; 0 if x or y is constant: nothing is ranked."""
  if weight is not None:
    return _weighted_kendall(*_counted(x, y, weight))
  if _is_constant(x) or _is_constant(y):
    return 0.0
  return float(stats.kendalltau(x, y).statistic)


def pearson(x: ArrayLike, y: ArrayLike, weight: Weight = None) -> float:
  """Pearson's r in [−1, 1]; 0 if x or y is constant: nothing varies."""
  if weight is not None:
    return _weighted_pearson(*_counted(x, y, weight))
  if _is_constant(x) or _is_constant(y):
    return 0.0
  return float(stats.pearsonr(x, y).statistic)


def evaluate(
  name: str,
  x: ArrayLike,
  target_z: ArrayLike,
  *,
  std: float,
  restore: Callable | None = None,
  weight: Weight = None,
) -> list[tuple[str, str, float]]:
  """Every metric of one point estimate [n]: [(name, metric, value)].

  Errors in the original unit are z times std, or with `restore`, z-scores to
  that unit, those of what it restores.
  """
  z_rmse, z_mae = rmse(x, target_z, weight), mae(x, target_z, weight)
  unit_rmse, unit_mae = z_rmse * std, z_mae * std
  if restore is not None:
    own = restore(x), restore(target_z)
    unit_rmse, unit_mae = rmse(*own, weight), mae(*own, weight)
  values = {
    'rmse': z_rmse,
    'mae': z_mae,
    'r2': r2(x, target_z, weight),
    'spearman': spearman(x, target_z, weight),
    'kendall': kendall(x, target_z, weight),
    'pearson': pearson(x, target_z, weight),
    'rmse_unit': unit_rmse,
    'mae_unit': unit_mae,
    'reward': -(z_rmse**2),
  }
  return [(name, metric, float(value)) for metric, value in values.items()]


def error(x: ArrayLike, y: ArrayLike) -> np.ndarray:
  """x − y in float64, broadcast."""
  # Integer dtypes would wrap around: convert before subtracting.
  return np.asarray(x, np.float64) - np.asarray(y, np.float64)


def mean(values: Any, weight: Any = None, axis: int = 0) -> Any:
  """The mean over rows, an axis, by their weights where they have some."""
  if weight is None:
    return np.mean(values, axis=axis)
  return np.average(values, axis=axis, weights=weight)


def mean_of_all(values: np.ndarray, weight: Weight = None) -> float:
  """Of [n, ...]: the mean over rows, by their weights, and over the rest."""
  if weight is None:
    return float(np.mean(values))
  return float(np.mean(mean(values, weight)))


def _counted(x, y, weight):
  """Arrays of the rows that count, float64."""
  x, y, weight = (np.asarray(a, np.float64) for a in (x, y, weight))
  kept = weight > 0
  return x[kept], y[kept], weight[kept]


def _weighted_pearson(x, y, weight):
  if _is_constant(x) or _is_constant(y):
    return 0.0
  x, y = x - mean(x, weight), y - mean(y, weight)
  norms = np.sum(weight * x**2) * np.sum(weight * y**2)
  return float(np.clip(np.sum(weight * x * y) / np.sqrt(norms), -1, 1))


def _weighted_kendall(x, y, weight):
  if _is_constant(x) or _is_constant(y):
    return 0.0
  alike, opposed = _concordant(x, y, weight), _concordant(x, -y, weight)
  apart = _apart(x, weight) * _apart(y, weight)
  return float((alike - opposed) / np.sqrt(apart))


def _mid_ranks(x, weight):
  """Weight below each number, and half of that of its equals."""
  _, place = np.unique(x, return_inverse=True)
  own = np.bincount(place, weight)
  return (np.cumsum(own) - own / 2)[place]


def _apart(x, weight):
  """Σ w_i·w_j over pairs of different numbers."""
  _, place = np.unique(x, return_inverse=True)
  own = np.bincount(place, weight)
  # From the one below: differences of squares would cancel.
  return float(np.sum(own[1:] * np.cumsum(own)[:-1]))


def _concordant(x, y, weight):
  """Σ w_i·w_j over pairs with x_i < x_j and y_i < y_j.

  By the bits of y's rank, from the first: two ranks part at one bit, and there
  a pair is counted if the row of the lower comes before in the order of x.
  """
  rank = np.unique(y, return_inverse=True)[1]
  order = np.lexsort((-rank, x))  # Equal x never count: the higher y first.
  rank, weight = rank[order], weight[order]
  total = 0.0
  for bit in range(int(rank.max()).bit_length()):
    group = np.argsort(rank >> (bit + 1), kind='stable')
    head, w = rank[group] >> (bit + 1), weight[group]
    upper = (rank[group] >> bit & 1).astype(bool)
    below = np.cumsum(np.where(upper, 0.0, w))
    starts = np.searchsorted(head, head, side='left')
    before = np.concatenate([[0.0], below])[starts]
    total += np.sum((w * (below - before))[upper])
  return float(total)


def _is_constant(x: ArrayLike) -> bool:
  # By range: the variance of equal numbers can round to more than 0.
  return bool(np.min(x) == np.max(x))
