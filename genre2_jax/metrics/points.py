"""Errors and correlations of point predictions.

Arrays are float64 numpy: targets `y` [n], predictions `x` [n]. Every function
returns a number for every finite input: where a textbook formula is 0/0, the
docstring gives the answer.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def rmse(x: ArrayLike, y: ArrayLike) -> float:
  """√mean (x − y)², in the unit of y."""
  return float(np.sqrt(np.mean(np.square(error(x, y)))))


def mae(x: ArrayLike, y: ArrayLike) -> float:
  """mean |x − y|, in the unit of y."""
  return float(np.mean(np.abs(error(x, y))))


def r2(x: ArrayLike, y: ArrayLike) -> float:
  """1 − Σ(x − y)² / Σ(y − ȳ)²; constant y: 1 if x is exact, else 0."""
  residual = np.sum(np.square(error(x, y)))
  if _is_constant(y):
    return float(residual == 0)
  y = np.asarray(y, np.float64)
  return float(1 - residual / np.sum(np.square(y - y.mean())))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
  """Spearman's ρ in [−1, 1]; 0 if x or y is constant: nothing is ranked."""
  if _is_constant(x) or _is_constant(y):
    return 0.0
  return float(stats.spearmanr(x, y).statistic)


def kendall(x: ArrayLike, y: ArrayLike) -> float:
  """Kendall's τ-b in [−1, 1]; 0 if x or y is constant: nothing is ranked."""
  if _is_constant(x) or _is_constant(y):
    return 0.0
  return float(stats.kendalltau(x, y).statistic)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
  """Pearson's r in [−1, 1]; 0 if x or y is constant: nothing varies."""
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
) -> list[tuple[str, str, float]]:
  """Every metric of one point estimate [n]: [(name, metric, value)].

  Errors in the original unit are z times std, or with `restore`, z-scores to
  that unit, those of what it restores.
  """
  z_rmse, z_mae = rmse(x, target_z), mae(x, target_z)
  unit_rmse, unit_mae = z_rmse * std, z_mae * std
  if restore is not None:
    own = restore(x), restore(target_z)
    unit_rmse, unit_mae = rmse(*own), mae(*own)
  values = {
    'rmse': z_rmse,
    'mae': z_mae,
    'r2': r2(x, target_z),
    'spearman': spearman(x, target_z),
    'kendall': kendall(x, target_z),
    'pearson': pearson(x, target_z),
    'rmse_unit': unit_rmse,
    'mae_unit': unit_mae,
    'reward': -(z_rmse**2),
  }
  return [(name, metric, float(value)) for metric, value in values.items()]


def error(x: ArrayLike, y: ArrayLike) -> np.ndarray:
  """x − y in float64, broadcast."""
  # Integer dtypes would wrap around: convert before subtracting.
  return np.asarray(x, np.float64) - np.asarray(y, np.float64)


def _is_constant(x: ArrayLike) -> bool:
  # By range: the variance of equal numbers can round to more than 0.
  return bool(np.min(x) == np.max(x))
