"""Recalibration of predictive distributions on validation rows.

Training that sharpens leaves intervals too narrow. A temperature mends the
whole distribution, a conformal margin the interval alone. Both are fitted on
validation rows and change nothing else.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from genre2_jax.errors import InputError
from genre2_jax.metrics import exact, points

# What a product may be off by and still be a whole number.
_ROUNDING = 1e-9


def fit_temperature(
  log_p: ArrayLike,
  grid: exact.Grid,
  target: ArrayLike,
  index: ArrayLike,
  limits: tuple[float, float] = (0.2, 20.0),
  weight: points.Weight = None,
) -> float:
  """τ of p^(1/τ) / Z that minimises the mean CRPS.

  CRPS and not NLL, by which Guo et al. 2017 (arXiv 1706.04599) fit it for
  classes: it is finite where a distribution puts nothing on a target, and it is
  what the results report.

  Args:
    log_p: [n, K].
    grid: the numbers.
    target: [n], z-scores.
    index: int [n], the numbers that stand for the targets.
    limits: least and greatest τ.
    weight: of the rows, [n], or None.

  Returns:
    τ; above 1 is wider.
  """

  def loss(log_tau: float) -> float:
    tempered = temper(log_p, np.exp(log_tau))
    crps = exact.summarize(tempered, grid, target, index).crps
    return float(points.mean(crps, weight))

  found = optimize.minimize_scalar(
    loss, bounds=np.log(limits), method='bounded', options={'xatol': 1e-2}
  )
  # As it was, unless a temperature is better.
  return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def temper(log_p: ArrayLike, temperature: float) -> np.ndarray:
  """log of p^(1/τ) / Z, of rows [n, K]: [n, K]."""
  log_p = np.asarray(log_p, np.float64) / temperature
  log_p = log_p - log_p.max(axis=1, keepdims=True)
  return log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))


def rows_needed(coverage: float) -> int:
  """Least n for which ⌈(n + 1) · coverage⌉ ≤ n: 9 for 0.9.

  Raises:
    InputError: the coverage is not between 0 and 1.
  """
  if not 0 < coverage < 1:
    raise InputError(f'coverage={coverage}: give a share between 0 and 1')
  return math.ceil(coverage / (1 - coverage) - _ROUNDING)


def num_effective(weight: ArrayLike) -> float:
  """Rows alike that tell as much as rows of weights: (Σw)² / Σw² (Kish 1965).

  As many as there are rows where the weights are equal.
  """
  weight = np.asarray(weight, np.float64)
  return float(np.sum(weight) ** 2 / np.sum(np.square(weight)))


def conformal_margin(
  low: ArrayLike,
  high: ArrayLike,
  target: ArrayLike,
  coverage: float = 0.9,
  weight: points.Weight = None,
) -> float:
  """How far to widen intervals [n] so that they cover (Romano et al. 2019).

  The ⌈(n + 1) · coverage⌉-th least of max(low − y, y − high): with exchangeable
  rows a new one is covered with at least that probability. Negative narrows.

  With weights [n], the least score that those at or below it reach
  coverage · (Σw + w') of, where w' stands for the new row (Tibshirani et al.
  2019) and is Σw² / Σw, the mean of weights where rows are drawn by them.

  Raises:
    InputError: with so few rows no margin keeps that promise.
  """
  low, high, target = (np.asarray(x, np.float64) for x in (low, high, target))
  scores = np.maximum(low - target, target - high)
  needed, weights = rows_needed(coverage), np.ones(len(scores))
  if weight is not None:
    weights = np.asarray(weight, np.float64)
  known = num_effective(weights) if len(scores) else 0
  if known < needed - _ROUNDING:
    raise InputError(
      f'coverage={coverage} takes {needed} calibration rows, and there are '
      f'{known:.4g}: give more rows, or a lower coverage'
    )
  order = np.argsort(scores, kind='stable')
  reached = np.cumsum(weights[order]) / weights.sum() * known
  # The first that reaches it, as rank by rank where all weigh 1.
  rank = int(np.searchsorted(reached, (known + 1) * coverage - _ROUNDING))
  return float(scores[order][min(rank, len(scores) - 1)])
