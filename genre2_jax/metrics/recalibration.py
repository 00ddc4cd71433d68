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
from genre2_jax.metrics import exact

# What a product may be off by and still be a whole number.
_ROUNDING = 1e-9


def fit_temperature(
  log_p: ArrayLike,
  grid: exact.Grid,
  target: ArrayLike,
  index: ArrayLike,
  limits: tuple[float, float] = (0.2, 20.0),
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

  Returns:
    τ; above 1 is wider.
  """

  def loss(log_tau: float) -> float:
    tempered = temper(log_p, np.exp(log_tau))
    return float(exact.summarize(tempered, grid, target, index).crps.mean())

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


def conformal_margin(
  low: ArrayLike, high: ArrayLike, target: ArrayLike, coverage: float = 0.9
) -> float:
  """How far to widen intervals [n] so that they cover (Romano et al. 2019).

  The ⌈(n + 1) · coverage⌉-th least of max(low − y, y − high): with exchangeable
  rows a new one is covered with at least that probability. Negative narrows.

  Raises:
    InputError: with so few rows no margin keeps that promise.
  """
  low, high, target = (np.asarray(x, np.float64) for x in (low, high, target))
  scores = np.sort(np.maximum(low - target, target - high))
  needed = rows_needed(coverage)
  if len(scores) < needed:
    raise InputError(
      f'coverage={coverage} takes {needed} calibration rows, and there are '
      f'{len(scores)}: give more rows, or a lower coverage'
    )
  rank = math.ceil((len(scores) + 1) * coverage - _ROUNDING)
  return float(scores[max(rank, 1) - 1])
