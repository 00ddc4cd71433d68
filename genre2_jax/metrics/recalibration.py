"""Recalibration of predictive distributions on validation rows.

Training that sharpens leaves intervals too narrow. A temperature mends the
whole distribution, a conformal margin the interval alone. Both are fitted on
validation rows and change nothing else.
"""

import numpy as np
from scipy import optimize

from genre2_jax.metrics import exact


def fit_temperature(log_p, grid, target, index, limits=(0.2, 20.0)):
  """τ of p^(1/τ) / Z that minimises the mean CRPS of rows [n, K].

  CRPS and not NLL: it is finite where a distribution puts nothing on a target,
  and it is what the table reports. Guo et al. 2017 for classes.

  Returns:
    τ in `limits`; above 1 is wider.
  """

  def loss(log_tau):
    summary = exact.summarize(
      temper(log_p, np.exp(log_tau)), grid, target, index
    )
    return summary.crps.mean()

  found = optimize.minimize_scalar(
    loss, bounds=np.log(limits), method='bounded', options={'xatol': 1e-2}
  )
  # As it was, unless a temperature is better.
  return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def temper(log_p, temperature):
  """log of p^(1/τ) / Z: [n, K]."""
  log_p = np.asarray(log_p, np.float64) / temperature
  log_p = log_p - log_p.max(axis=1, keepdims=True)
  return log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))


def conformal_margin(low, high, target, coverage=0.9):
  """How far to widen intervals [n] so that they cover (Romano et al. 2019).

  The ⌈(n + 1) · coverage⌉-th least of max(low − y, y − high): with exchangeable
  rows a new one is covered with at least that probability. Negative narrows.
  With too few rows for that, the largest.
  """
  scores = np.sort(np.maximum(low - target, target - high))
  rank = int(np.ceil((len(scores) + 1) * coverage))
  return float(scores[min(rank, len(scores)) - 1])
