"""Metrics of how likely a value was to be no number: NaN, +inf or −inf.

Arrays are float64 numpy. Metrics of numbers are of the rows whose target is
one, and of distributions given that it is.
"""

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.metrics import points

_LEAST = 1e-12  # A probability of 0 has no logarithm.


def evaluate(
  probabilities: ArrayLike, target: ArrayLike, weight: points.Weight = None
) -> list[tuple[str, str, float]]:
  """[('non_finite', metric, value)], lower is better but for the shares.

  share: of the targets that are no numbers; predicted: mean P of it; brier:
  mean (P(no number) − 1{no number})² (Brier 1950); log_loss: mean −log P(kind)
  of the four kinds of a value, finite, NaN, +inf and −inf, in nats.

  Args:
    probabilities: [n, 3], of NaN, +inf and −inf.
    target: [n], NaN or infinite where it is no number.
    weight: [n], or None.
  """
  p = np.asarray(probabilities, np.float64)
  y = np.asarray(target, np.float64)
  is_special = ~np.isfinite(y)
  any_of_them = np.minimum(p.sum(axis=1), 1)
  of_kind = 1 - any_of_them
  for place, is_own in enumerate((np.isnan(y), y == np.inf, y == -np.inf)):
    of_kind = np.where(is_own, p[:, place], of_kind)
  values = {
    'share': is_special,
    'predicted': any_of_them,
    'brier': np.square(any_of_them - is_special),
    'log_loss': -np.log(np.maximum(of_kind, _LEAST)),
  }
  return [
    ('non_finite', name, float(points.mean(value, weight)))
    for name, value in values.items()
  ]
