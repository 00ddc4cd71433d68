"""Which members a mixture has, and how often: those of the least CRPS.

With A_i = E|X_i − y| and D_ij = E|X_i − X_j'|, means over rows, the CRPS of
Σ w_i·F_i is Σ w_i·A_i − ½ Σ w_i·w_j·D_ij: what a mixture loses is known without
mixing it. Members are taken greedily, with repetition (Caruana et al., ICML
2004). Arrays are numpy, sums are float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.metrics import points


class Distances(NamedTuple):
  """Of M distributions, means over rows.

  Attributes:
    away: [M], E|X_i − y|.
    apart: [M, M], E|X_i − X_j'|.
  """

  away: np.ndarray
  apart: np.ndarray

  def crps(self, weights: ArrayLike) -> float:
    """Of the mixture with weights [M], whose sum is one."""
    w = np.asarray(weights, np.float64)
    return float(w @ self.away - 0.5 * w @ self.apart @ w)


def distances(
  log_p: ArrayLike,
  values: ArrayLike,
  target: ArrayLike,
  weight: ArrayLike | None = None,
) -> Distances:
  """The `Distances` of M members on n rows.

  E|X − X'| = ∫ F + F' − 2·F·F' dt.

  Args:
    log_p: [M, n, K], of finite numbers.
    values: [K], the numbers.
    target: [n].
    weight: of the rows, [n], or None.
  """
  order = np.argsort(values, kind='stable')
  numbers = np.asarray(values, np.float64)[order]
  gaps = np.diff(numbers)
  off = np.abs(numbers - np.asarray(target, np.float64)[:, None])
  away, below = [], []
  for member in np.asarray(log_p):
    p = np.exp(np.asarray(member, np.float64)[:, order])
    p /= p.sum(axis=1, keepdims=True)
    away.append(points.mean(np.sum(p * off, axis=1), weight))
    below.append(np.cumsum(p, axis=1)[:, :-1].ravel())
  tall = np.stack(below)  # [M, n·(K − 1)]
  weights = np.tile(gaps, len(off)) / len(off)
  if weight is not None:
    share = np.asarray(weight, np.float64) / np.sum(weight)
    weights = np.outer(share, gaps).ravel()
  areas = tall @ weights
  products = (tall * weights) @ tall.T
  apart = areas[:, None] + areas - 2 * products
  return Distances(np.array(away), np.maximum(apart, 0))


def greedy(
  found: Distances, start: ArrayLike, most: int, least_gain: float = 0.0
) -> np.ndarray:
  """Weights [M] of the mixture: a member is added as long as the CRPS falls.

  Args:
    found: of the members.
    start: [M], how often each is in the mixture at first.
    most: that are in it at last.
    least_gain: share of its CRPS by which the mixture must get better.

  Returns:
    Weights whose sum is one, and whose CRPS is at most that of the start.
  """
  counts = np.array(start, np.float64)
  score = found.crps(counts / counts.sum())
  while counts.sum() < most:
    tried = counts + np.eye(len(counts))
    scores = [found.crps(c / c.sum()) for c in tried]
    best = int(np.argmin(scores))
    if not scores[best] < score * (1 - least_gain):
      break
    counts, score = tried[best], scores[best]
  return counts / counts.sum()
