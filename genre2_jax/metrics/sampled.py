"""Metrics of predictive distributions that are known by samples.

Arrays are float64 numpy: targets `y` [n], samples of the predictive
distribution [n, G]. Unless a name says otherwise the unit is the z-score of the
train target. Every function returns a number for every finite input.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.metrics import points
from genre2_jax.metrics.points import Weight

POINT_ESTIMATORS = (
  'greedy',
  'sample',
  'mean',
  'median',
  'clipped_mean',
  'clipped_median',
)
CLIP_WIDENING = 1.1  # clip range, as a multiple of the train range


def crps(samples: ArrayLike, y: ArrayLike, weight: Weight = None) -> float:
  """Continuous ranked probability score, lower is better, in the unit of y.

  mean_i |x_i − y| − ΣΣ|x_i − x_j| / (2G(G−1)), averaged over rows: the fair
  ensemble score (Ferro 2014), unbiased for the distribution behind the
  samples, so its value doesn't depend on G in expectation (and can fall below
  0). With x sorted, ΣΣ|x_i − x_j| = 2 Σ_i (2i − G − 1) x_i: O(G log G).
  One sample has no spread: the absolute error.
  """
  errors = np.sort(points.error(samples, np.expand_dims(y, -1)))  # [n, G]
  G = errors.shape[-1]
  score = np.mean(np.abs(errors), axis=-1)
  if G > 1:
    # The weights sum to 0, so errors serve as well as samples, and are smaller.
    score -= errors @ np.arange(1 - G, G, 2) / (G * (G - 1))
  return float(points.mean(score, weight))


def central_interval(
  samples: ArrayLike, coverage: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """The (1 ∓ coverage)/2 quantiles of samples [..., G]: low, high [...].

  Quantiles at Weibull's plotting positions i/(G + 1): the i-th of G samples
  exceeds another draw with exactly that probability, so that calibrated
  samples cover as often as they claim, for every G. Below 2/(1 − coverage) − 1
  samples (19 for 0.9) the ends are the extremes, and cover less. Coverages
  [C] give low, high [C, ...].
  """
  tail = (1 - np.asarray(coverage)) / 2
  low, high = np.quantile(
    np.asarray(samples, np.float64),
    np.stack([tail, 1 - tail]),
    axis=-1,
    method='weibull',
  )
  return low, high


def coverage_curve(
  samples: ArrayLike, y: ArrayLike, nominal: ArrayLike, weight: Weight = None
) -> np.ndarray:
  """Share of rows whose y lies in the closed central interval: [C] → [C]."""
  low, high = central_interval(samples, nominal)
  slack = _slack(samples, y)
  covered = (low <= y + slack) & (y - slack <= high)
  return points.mean(covered, weight, axis=-1)


def _slack(samples: ArrayLike, y: ArrayLike) -> np.ndarray:
  """How far a sample that is y may lie from it: y's shape.

  Samples are in the precision of the device that drew them: on a grid, the
  targets' own values differ from them in the last bits.
  """
  kind = np.asarray(samples).dtype
  eps = np.finfo(kind).eps if kind.kind == 'f' else 0.0
  return 4 * eps * np.maximum(np.abs(y), 1)


def shared_coverage_curve(
  samples: ArrayLike, y: ArrayLike, nominal: ArrayLike, weight: Weight = None
) -> np.ndarray:
  """Coverage where numbers tie, as on a grid: [C] → [C], C if calibrated.

  A closed interval of few values covers more than it says. Here a row counts
  by the part of its probability integral transform, spread evenly as in
  `pit_histogram`, that lies within (1 ∓ coverage)/2.
  """
  low, high = _transforms(samples, y)
  nominal = np.asarray(nominal)
  inside = np.minimum(high, (1 + nominal) / 2) - np.maximum(
    low, (1 - nominal) / 2
  )
  return points.mean(np.clip(inside / (high - low), 0, 1), weight)


def coverage(
  samples: ArrayLike,
  y: ArrayLike,
  nominal: float = 0.9,
  weight: Weight = None,
) -> float:
  """The coverage curve at one nominal coverage; a share in [0, 1]."""
  return float(coverage_curve(samples, y, nominal, weight))


def width(
  samples: ArrayLike, nominal: float = 0.9, weight: Weight = None
) -> float:
  """Mean width of the central interval, in the unit of the samples."""
  low, high = central_interval(samples, nominal)
  return float(points.mean(high - low, weight))


def pit_histogram(
  samples: ArrayLike,
  y: ArrayLike,
  num_bins: int = 10,
  weight: Weight = None,
) -> np.ndarray:
  """Density of the probability integral transform: [bins], 1 if calibrated.

  Nonrandomised (Czado et al. 2009): a row spreads its mass evenly over
  [#{x < y}, #{x ≤ y} + 1] / (G + 1), for numbers on a grid do tie.
  """
  low, high = _transforms(samples, y)
  edges = np.linspace(0, 1, num_bins + 1)
  below = np.clip((edges - low) / (high - low), 0, 1)  # [n, bins + 1]
  return np.diff(points.mean(below, weight)) * num_bins


def _transforms(
  samples: ArrayLike, y: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """Where the probability integral transforms of rows begin and end: [n, 1]."""
  samples, y = np.asarray(samples), np.expand_dims(y, -1)
  G, slack = samples.shape[-1], _slack(samples, y)
  low = np.sum(samples < y - slack, axis=-1, keepdims=True) / (G + 1)
  high = (np.sum(samples <= y + slack, axis=-1, keepdims=True) + 1) / (G + 1)
  return low, high


def point_estimates(
  samples: ArrayLike, greedy: ArrayLike, clip_range: tuple[float, float]
) -> dict[str, np.ndarray]:
  """What to predict, given samples [n, G] and greedy [n]: name → [n].

  'sample' is the first one. The clipped estimates clip the *samples* to the
  range `clip_range`, so that a single outlier does not move a mean far; see
  `widened`.
  """
  samples = np.asarray(samples, np.float64)
  clipped = np.clip(samples, *clip_range)
  estimates = (
    np.asarray(greedy, np.float64),
    samples[:, 0],
    samples.mean(axis=1),
    np.median(samples, axis=1),
    clipped.mean(axis=1),
    np.median(clipped, axis=1),
  )
  return dict(zip(POINT_ESTIMATORS, estimates, strict=True))


def widened(
  low: float, high: float, factor: float = CLIP_WIDENING
) -> tuple[float, float]:
  """The range [low, high], `factor` times as wide about the same midpoint."""
  middle, radius = (low + high) / 2, factor * (high - low) / 2
  return middle - radius, middle + radius


def evaluate(
  samples_z: ArrayLike,
  greedy_z: ArrayLike,
  entropy: ArrayLike,
  target_z: ArrayLike,
  *,
  low: float,
  high: float,
  std: float,
  restore: Callable | None = None,
  weight: Weight = None,
) -> list[tuple[str, str, float]]:
  """Every metric of one policy on one split: [(estimator, metric, value)].

  samples_z [n, G], greedy_z [n], target_z [n] and the train range low, high
  are z-scores; std is the train standard deviation in the original unit, and
  `restore` takes z-scores there where they are no straight line of it.

  For each of POINT_ESTIMATORS: rmse, mae, reward = −mse (z, z, z²); r2,
  spearman, kendall, pearson; rmse_unit, mae_unit (original unit: z times std).
  'sample' stands for the policy itself. Its point errors are the first
  sample's, but its reward is the expected one, −mean (x − y)² over all
  samples, and it carries the distribution's metrics: crps, width90 (z),
  coverage90 (share in [0, 1]) and entropy (nats per token sequence, the mean
  of entropy [n]). All are means by the rows' weights [n], if they have some.
  """
  rows = []
  estimates = point_estimates(samples_z, greedy_z, widened(low, high))
  for name, x in estimates.items():
    rows += points.evaluate(
      name, x, target_z, std=std, restore=restore, weight=weight
    )
  rows.remove(next(row for row in rows if row[:2] == ('sample', 'reward')))
  errors = points.error(samples_z, np.expand_dims(target_z, -1))
  values = {
    'reward': -points.mean_of_all(np.square(errors), weight),
    'crps': crps(samples_z, target_z, weight),
    'coverage90': coverage(samples_z, target_z, weight=weight),
    'width90': width(samples_z, weight=weight),
    'entropy': points.mean(np.asarray(entropy, np.float64), weight),
  }
  rows += [('sample', metric, float(v)) for metric, v in values.items()]
  return rows


def sampling_efficiency(
  samples: ArrayLike,
  y: ArrayLike,
  ks: Sequence[int] | np.ndarray,
  weight: Weight = None,
) -> tuple[np.ndarray, np.ndarray]:
  """RMSE of the best, and of the mean, of the first k ≤ G samples.

  Best-of-k knows the target: a bound on what reranking could reach. Returns
  two arrays [len(ks)], in the unit of y.
  """
  errors = points.error(samples, np.expand_dims(y, -1))  # [n, G]
  counts = np.arange(1, errors.shape[1] + 1)
  best = np.minimum.accumulate(np.abs(errors), axis=1)
  mean = np.cumsum(errors, axis=1) / counts
  at_ks = np.asarray(ks) - 1
  best_rmse, mean_rmse = (
    np.sqrt(points.mean(np.square(running[:, at_ks]), weight))
    for running in (best, mean)
  )
  return best_rmse, mean_rmse
