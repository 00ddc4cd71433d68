"""Several targets at once: joint samples, and metrics of each by name.

A metric of one target is `<metric>:<target>`; its plain name is the mean over
targets, of what is in z or in no unit.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.metrics import points
from genre2_jax.metrics.points import Weight

_CHUNK = 2**22  # Differences of samples that are looked at together.
# Between a metric and its target, and between a column and its.
OF = ':'

Values = list[tuple[str, str, float]]


def energy_score(
  samples: ArrayLike,
  target: ArrayLike,
  *,
  fair: bool = True,
  weight: Weight = None,
) -> float:
  """mean_i ‖x_i − y‖ − ΣΣ ‖x_i − x_j‖ / (2G(G − 1)), averaged over rows.

  The energy score (Gneiting & Raftery 2007), proper for joint distributions;
  of one target it is the CRPS. The fair form (Ferro 2014) does not depend on G
  in expectation; the other divides by 2G², and is the score of the samples as
  they are. One sample has no spread: its distance.

  Args:
    samples: [n, G, k], in one unit.
    target: [n, k].
    fair: which form.
    weight: of the rows, [n], or None.
  """
  x, y = np.asarray(samples, np.float64), np.asarray(target, np.float64)
  n, group, width = x.shape
  distance = _norm(x - y[:, None]).mean(axis=1)
  pairs = group * (group - 1) if fair else group**2
  step = max(1, _CHUNK // (group * group * width))
  spread = np.zeros(n)
  if pairs:
    for start in range(0, n, step):
      own = x[start : start + step]
      apart = _norm(own[:, :, None] - own[:, None])
      spread[start : start + step] = apart.sum(axis=(1, 2)) / (2 * pairs)
  return float(points.mean(distance - spread, weight))


def of_target(predicted: Mapping[str, np.ndarray], place: int) -> dict:
  """One target's part of what is predicted for several.

  Args:
    predicted: log_p [..., k, K] and others [..., k]; share, of seeds.
    place: of the target.
  """
  return {
    name: values[..., place, :] if name == 'log_p' else values[..., place]
    for name, values in predicted.items()
    if name != 'share'
  }


def named(metric: str, target: str) -> str:
  """The name of a metric, or of a column, of one of several targets."""
  return f'{metric}{OF}{target}'


def together(values: Mapping[str, Values], targets: Sequence[str]) -> Values:
  """The mean over targets, then each by name: [(estimator, metric, value)].

  What is in a target's own unit, or fitted to it, has no mean.

  Args:
    values: of each target.
    targets: their names, in order.
  """
  groups: dict[tuple[str, str], list[float]] = {}
  for own in values.values():
    for estimator, metric, value in own:
      groups.setdefault((estimator, metric), []).append(value)
  means = [
    (*key, float(np.mean(found)))
    for key, found in groups.items()
    if len(found) == len(targets)
    and not key[1].endswith('_unit')
    and key[1] != 'temperature'
  ]
  return means + [
    (estimator, named(metric, target), value)
    for target in targets
    for estimator, metric, value in values[target]
  ]


def _norm(x: np.ndarray) -> np.ndarray:
  return np.sqrt(np.sum(np.square(x), axis=-1))
