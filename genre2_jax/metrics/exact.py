"""Metrics of exact predictive distributions on a grid of numbers.

Where `sampled.py` looks at samples, these functions know log p of every number:
they have no sampling error. Arrays are numpy, sums are float64; numbers are
z-scores in the order of the trie. Sequences that mean no finite number (NaN and
±inf of IEEE tokenizers) are left out: all is said of p given that the number is
finite.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.metrics import points

_CHUNK = 2**22  # cells of [rows, K] that are looked at together
NOMINAL = 0.9


class Grid(NamedTuple):
  """The numbers that a tokenizer can write.

  Attributes:
    values: [K], z-scores, in the order of the trie.
    cells: [K], widths of the numbers' cells (`Codec.cells`).
  """

  values: np.ndarray
  cells: np.ndarray


class Summary(NamedTuple):
  """What each row's distribution says: arrays [n]."""

  mean: np.ndarray
  median: np.ndarray
  low: np.ndarray  # of the central 90 % interval
  high: np.ndarray
  crps: np.ndarray
  log_density: np.ndarray  # of the target's cell, per z
  entropy: np.ndarray  # nats
  squared_error: np.ndarray  # E (X − y)²
  outside: np.ndarray  # whether the target lies beyond the outermost cells


def mixture(log_p: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
  """log of the mean of S distributions [S, ..., K], or Σ w·p by [S]."""
  log_p = np.asarray(log_p)
  if weights is None:
    return np.logaddexp.reduce(log_p, axis=0) - np.log(len(log_p))
  used = np.flatnonzero(weights)
  log_w = np.log(np.asarray(weights)[used]).astype(log_p.dtype)
  log_w = log_w.reshape(-1, *(1,) * (log_p.ndim - 1))
  return np.logaddexp.reduce(log_p[used] + log_w, axis=0)


def quantiles(log_p: ArrayLike, values: ArrayLike, q: ArrayLike) -> np.ndarray:
  """Least number whose distribution function reaches q [Q]: [n, Q]."""
  levels = np.atleast_1d(q)
  log_p, numbers, _ = _finite(log_p, values)
  order = np.argsort(numbers, kind='stable')
  ordered = numbers[order]
  found = []
  for rows in _chunks(log_p):
    below = np.cumsum(_probabilities(rows)[:, order], axis=1)
    found.append(ordered[_reaches(below, levels)])
  return np.concatenate(found)


def summarize(
  log_p: ArrayLike, grid: Grid, target: ArrayLike, index: ArrayLike
) -> Summary:
  """Every row's `Summary`.

  CRPS is ∫ (F(t) − 1{t ≥ y})² dt
  = Σ p |v − y| − Σ_k F_k (1 − F_k) (v_{k+1} − v_k).

  A target beyond the outermost cells, where the density is 0, is given that of
  the cell at the edge, and marked as `outside`.

  Args:
    log_p: [n, K].
    grid: the numbers.
    target: [n], z-scores.
    index: int [n], the numbers that stand for the targets.
  """
  target = np.asarray(target, np.float64)
  log_p, values, places = _finite(log_p, grid.values)
  cells = np.asarray(grid.cells, np.float64)[places >= 0]
  nearest = places[np.asarray(index)]
  order = np.argsort(values, kind='stable')
  ordered, gaps = values[order], np.diff(values[order])
  # Sequences that mean the same number pool their probabilities.
  twins = np.unique(values, return_inverse=True)[1]
  widths = np.bincount(twins, cells)[twins]
  bottom, top = _span(values, widths)
  parts, start = [], 0
  for rows in _chunks(log_p):
    p = _probabilities(rows)
    y = target[start : start + len(p), None]
    here = nearest[start : start + len(p)]
    below = np.cumsum(p[:, order], axis=1)
    ends = _reaches(
      below, np.array([0.5, (1 - NOMINAL) / 2, (1 + NOMINAL) / 2])
    )
    below = np.minimum(below[:, :-1], 1)
    if twins.max() + 1 == len(values):
      log_mass = np.log(np.maximum(p, 1e-300))[np.arange(len(p)), here]
      # Far from the mode float64 underflows before log_p does.
      exact = np.asarray(rows, np.float64)[np.arange(len(p)), here]
      log_mass = np.where(log_mass < -600, exact, log_mass)
    else:
      same = twins[None] == twins[here][:, None]
      log_mass = np.log(np.maximum(np.sum(p * same, 1), 1e-300))
    log_q = np.log(np.maximum(p, 1e-300))
    parts.append(
      Summary(
        mean=p @ values,
        median=ordered[ends[:, 0]],
        low=ordered[ends[:, 1]],
        high=ordered[ends[:, 2]],
        crps=np.sum(p * np.abs(values - y), 1) - (below * (1 - below)) @ gaps,
        log_density=log_mass - np.log(widths[here]),
        entropy=-np.sum(p * log_q, 1),
        squared_error=np.sum(p * np.square(values - y), 1),
        outside=((y < bottom) | (y > top))[:, 0],
      )
    )
    start += len(p)
  return Summary(*map(np.concatenate, zip(*parts, strict=True)))


def evaluate(
  summary: Summary,
  target: ArrayLike,
  *,
  std: float,
  restore: Callable | None = None,
  name: str = 'exact',
  weight: points.Weight = None,
) -> list[tuple[str, str, float]]:
  """Metrics of distributions: [(estimator, metric, value)].

  Estimators `<name>_mean` and `<name>_median` carry the point metrics of
  `points.evaluate`; `<name>` carries those of the distribution: crps, width90
  (z), coverage90 (share), nll (nats, of the density per z), outside (share of
  targets whose nll is that of the cell at the edge), entropy (nats) and reward,
  −E (X − y)². All are means by the rows' weights [n], if they have some.
  """
  target = np.asarray(target, np.float64)
  rows = []
  for estimator in ('mean', 'median'):
    rows += points.evaluate(
      f'{name}_{estimator}',
      getattr(summary, estimator),
      target,
      std=std,
      restore=restore,
      weight=weight,
    )
  covered = (summary.low <= target) & (target <= summary.high)
  values = {
    'crps': summary.crps,
    'nll': -summary.log_density,
    'outside': summary.outside,
    'coverage90': covered,
    'width90': summary.high - summary.low,
    'entropy': summary.entropy,
    'reward': -summary.squared_error,
  }
  rows += [(name, m, float(points.mean(v, weight))) for m, v in values.items()]
  return rows


def _span(values, widths):
  """Where the first cell of a grid begins and its last one ends.

  Both reach as far outwards as inwards; what is not finite has no place.
  """
  finite = np.isfinite(values) & np.isfinite(widths)
  values, widths = values[finite], widths[finite]
  first, last = values.argmin(), values.argmax()
  return values[first] - widths[first] / 2, values[last] + widths[last] / 2


def _chunks(log_p):
  log_p = np.asarray(log_p)
  size = max(1, _CHUNK // log_p.shape[1])
  for start in range(0, len(log_p), size):
    yield log_p[start : start + size]


def _finite(
  log_p: ArrayLike, values: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """log p and values of the finite numbers; each number's place among them.

  int [K], −1 for what is left out. Log p is that of the rest alone.
  """
  log_p, values = np.asarray(log_p), np.asarray(values, np.float64)
  kept = np.isfinite(values)
  places = np.where(kept, np.cumsum(kept) - 1, -1)
  if kept.all():
    return log_p, values, places
  log_p = log_p.astype(np.float64)[:, kept]
  total = np.logaddexp.reduce(log_p, axis=1, keepdims=True)
  return log_p - total, values[kept], places


def _probabilities(log_p):
  p = np.exp(np.asarray(log_p, np.float64))
  return p / p.sum(axis=1, keepdims=True)


def _reaches(below, levels):
  """First index at which each row's sums reach each level: int [n, Q]."""
  # Sums end a rounding error off one.
  ends = np.minimum(levels, 1 - 1e-9) - 1e-12
  found = [np.searchsorted(row, ends) for row in below]
  return np.minimum(np.reshape(found, (-1, len(ends))), below.shape[1] - 1)
