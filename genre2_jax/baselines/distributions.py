"""Baselines that predict a distribution, on the numbers that a model can write.

A fair field for decoders: the same grid, so the same CRPS, coverage and width.
A distribution function is cut at the midpoints between the numbers, so that
each has the probability of its cell. Any row's is a plain array [K], which is
what a decoder can take as its prior, too.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from genre2_jax.baselines import frames, packages, points
from genre2_jax.data.tables import SPLITS, Rows, Table
from genre2_jax.data.targets import Scaler
from genre2_jax.errors import InputError, InterruptedRunError
from genre2_jax.metrics import points as metrics

# Out-of-fold errors of the train rows: folds.
_FOLDS = 5
# Levels of quantile regressions.
_LEVELS = np.round(
  np.concatenate([[0.01], np.arange(0.05, 1, 0.05), [0.99]]), 2
)
# Spread evenly over all numbers, so that none is impossible.
_FLOOR = 1e-4

Cdf = Callable[[np.ndarray], np.ndarray]  # edges [E] -> [n, E]


class Predicted(NamedTuple):
  """What a baseline says of n rows.

  mean: [n], z-scores.
  log_p: [n, K], of the numbers; sums to one.
  """

  mean: np.ndarray
  log_p: np.ndarray


def fit_predict(
  name: str,
  table: Table,
  scaler: Scaler,
  values: np.ndarray,
  *,
  seed: int,
  num_threads: int | None = None,
  interrupts: Any = (),
) -> dict[str, Predicted]:
  """Distributions of one baseline for 'train', 'val' and 'test'.

  Those of the train rows are out of fold, where the baseline has folds; with
  others they are of rows that it was fitted to. The targets of the test rows
  are not read.

  Args:
    name: one of `NAMES`.
    table: the data.
    scaler: of the train targets.
    values: [K], z-scores of the numbers, in any order, twins allowed.
    seed: of ensemble and folds.
    num_threads: of the library; None: all cores.
    interrupts: true once the run is asked to leave; looked at between fits.

  Raises:
    InputError: an unknown name or a missing package.
    InterruptedRunError: asked to leave.
  """
  if name not in NAMES:
    raise InputError(
      f'unknown baseline {name!r}: choose from {", ".join(NAMES)}'
    )
  z, weight = scaler.standardize(table.train.known_target), table.train.weight
  if not has_folds(z):
    # That of the targets.
    def alike(rows: Rows) -> Predicted:
      cdf = Errors.smoothed(z, weight).around(np.zeros(len(rows)))
      mean = metrics.mean(z, weight)
      return on_grid(np.full(len(rows), mean), cdf, values)

    return {s: alike(getattr(table, s)) for s in SPLITS}
  options = _Options(seed, num_threads or os.cpu_count() or 1, interrupts)
  if name.endswith(RESIDUALS):
    found = _residuals(name.removesuffix(RESIDUALS), table, scaler, options)
  else:
    found = _direct(_DIRECT[name], table, scaler, options)
  return {s: on_grid(mean, cdf, values) for s, (mean, cdf) in found.items()}


class _Options(NamedTuple):
  seed: int
  num_threads: int
  interrupts: Any


def package_of(name: str) -> str:
  """What one of `NAMES` needs."""
  if name in _DIRECT:
    return _DIRECT[name].package
  return points.package_of(name.removesuffix(RESIDUALS))


def samples(
  values: np.ndarray, log_p: np.ndarray, count: int, seed: int
) -> np.ndarray:
  """Numbers drawn from distributions [n, K] over values [K]: [n, count]."""
  order = np.argsort(values, kind='stable')
  below = np.cumsum(np.exp(log_p[:, order]), axis=1)
  draws = np.random.RandomState(seed % 2**32).uniform(size=(len(log_p), count))
  index = [np.searchsorted(a, b) for a, b in zip(below, draws, strict=True)]
  return values[order][np.minimum(index, len(values) - 1)]


# ------------------------------------------------------------------ residuals


def _residuals(name, table, scaler, options):
  """A point baseline, and around its numbers its out-of-fold errors.

  Train rows stand around what the folds without them say.
  """
  fit = dict(zip(_Options._fields, options, strict=True))
  predicted = points.fit_predict(name, table, scaler, **fit)
  predicted['train'] = out_of_fold(name, table, scaler, **fit)
  z = scaler.standardize(table.train.known_target)
  errors = Errors.smoothed(z - predicted['train'], table.train.weight)
  return {s: (predicted[s], errors.around(predicted[s])) for s in SPLITS}


def out_of_fold(
  name: str, table: Table, scaler: Scaler, *, seed: int, **options: Any
) -> np.ndarray:
  """What the folds without a train row say of it: z-scores [n].

  Args:
    name: of a baseline of one number.
    table: the data.
    scaler: of the train targets.
    seed: of folds and ensembles.
    **options: what else `points.fit_predict` takes.
  """
  found = np.empty(len(table.train))
  folds = np.random.RandomState(seed % 2**32).permutation(len(found))
  for fold in np.array_split(folds, _FOLDS):
    rest = np.setdiff1d(folds, fold)
    part = dataclasses.replace(
      table, train=table.train.part(rest), test=table.train.part(fold)
    )
    predicted = points.fit_predict(name, part, scaler, seed=seed, **options)
    found[fold] = predicted['test']
  return found


def has_folds(z: np.ndarray) -> bool:
  """Whether train targets are enough for folds, and more than one number."""
  return np.ptp(z) > 0 and len(z) >= 2 * _FOLDS


class Errors(NamedTuple):
  """The smoothed distribution function of errors.

  at: errors, ascending.
  below: the share below each.
  """

  at: np.ndarray
  below: np.ndarray

  @classmethod
  def smoothed(
    cls, errors: np.ndarray, weight: np.ndarray | None = None
  ) -> Self:
    """By a Gaussian kernel of Silverman's width, on a fine grid.

    The width is that of the errors alike, whatever they weigh.
    """
    from scipy import stats

    spread = min(np.std(errors), stats.iqr(errors) / 1.349) or np.std(errors)
    width = 0.9 * spread * len(errors) ** -0.2 or 1e-6
    reach = 4 * width
    at = np.linspace(errors.min() - reach, errors.max() + reach, 2048)
    kernel = stats.norm.cdf
    num_parts = -(-len(errors) // 1024)
    parts = np.array_split(errors, num_parts)
    if weight is None:
      below = sum(kernel((at[:, None] - part) / width).sum(1) for part in parts)
      return cls(at, below / len(errors))
    below = sum(
      kernel((at[:, None] - part) / width) @ w
      for part, w in zip(parts, np.array_split(weight, num_parts), strict=True)
    )
    return cls(at, below / weight.sum())

  def around(self, centers: np.ndarray) -> Cdf:
    """The distribution functions of centers [n] that err so."""

    def cdf(edges: np.ndarray) -> np.ndarray:
      return np.interp(edges - centers[:, None], self.at, self.below, 0.0, 1.0)

    return cdf


# --------------------------------------------------------------------- direct


def _direct(baseline, table, scaler, options):
  """{split: (mean, distribution function)} of one fit."""
  packages.require(baseline.package)
  if options.interrupts:
    raise InterruptedRunError(f'interrupted at baseline {baseline.package}')
  columns = frames.columns_of(table)
  y = {
    s: scaler.standardize(getattr(table, s).target) for s in ('train', 'val')
  }
  inputs = baseline.inputs(columns, table)
  predict = baseline.fit(
    {
      s: points.Fold(inputs[s], y[s], getattr(table, s).weight)
      for s in ('train', 'val')
    },
    seed=options.seed % 2**31,
    num_threads=options.num_threads,
  )
  return {s: predict(inputs[s]) for s in SPLITS}


def _normal(mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, Cdf]:
  from scipy import stats

  std = np.maximum(std, 1e-4)
  return mean, lambda edges: stats.norm.cdf(
    (edges - mean[:, None]) / std[:, None]
  )


def _quantiles(
  quantiles: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, Cdf]:
  """Linear between quantiles [n, Q], and to the extremes of the targets.

  Crossing ones are sorted (Chernozhukov et al. 2010).
  """
  ends = np.full((len(quantiles), 1), low), np.full((len(quantiles), 1), high)
  at = np.concatenate([ends[0], np.sort(quantiles, axis=1), ends[1]], axis=1)
  at = np.maximum.accumulate(np.clip(at, low, high), axis=1)
  levels = np.concatenate([[0.0], _LEVELS, [1.0]])
  mean = np.sum(np.diff(levels) * (at[:, 1:] + at[:, :-1]) / 2, axis=1)

  def cdf(edges: np.ndarray) -> np.ndarray:
    # Of numbers that several levels share, the highest.
    return np.stack([np.interp(edges, row, levels) for row in at])

  return mean, cdf


def _fit_catboost_uncertainty(data, *, seed, num_threads):
  """CatBoost's RMSEWithUncertainty: a normal distribution."""
  model = points.fit_catboost(
    data,
    {'loss_function': 'RMSEWithUncertainty'},
    seed=seed,
    num_threads=num_threads,
  )

  def predict(x):
    mean, variance = np.asarray(model.predict(x), np.float64).T
    return _normal(mean, np.sqrt(np.maximum(variance, 0)))

  return predict


def _fit_catboost_quantiles(data, *, seed, num_threads):
  """CatBoost's MultiQuantile at 21 levels."""
  levels = ','.join(map(str, _LEVELS))
  model = points.fit_catboost(
    data,
    {'loss_function': f'MultiQuantile:alpha={levels}'},
    seed=seed,
    num_threads=num_threads,
  )
  y = data['train'].y

  def predict(x):
    found = np.asarray(model.predict(x), np.float64)
    return _quantiles(found, y.min(), y.max())

  return predict


def _fit_ngboost(data, *, seed, num_threads):
  """NGBoost (Duan et al., ICML 2020): a normal distribution."""
  del num_threads
  import ngboost

  (x, y, weight), val = data['train'], data['val']
  model = ngboost.NGBRegressor(
    n_estimators=points.MAX_TREES, random_state=seed, verbose=False
  )
  model.fit(
    x,
    y,
    X_val=val.x,
    Y_val=val.y,
    sample_weight=weight,
    val_sample_weight=val.weight,
    early_stopping_rounds=points.PATIENCE,
  )

  def predict(x):
    found = model.pred_dist(x, max_iter=model.best_val_loss_itr)
    return _normal(found.params['loc'], found.params['scale'])

  return predict


def _fit_quantile_forest(data, *, seed, num_threads):
  """A quantile regression forest (Meinshausen 2006), 500 trees."""
  import quantile_forest

  x, y, weight = data['train']
  model = quantile_forest.RandomForestQuantileRegressor(
    n_estimators=points.FOREST_TREES,
    min_samples_leaf=5,
    random_state=seed,
    n_jobs=num_threads,
  )
  model.fit(x, y, sample_weight=weight)

  def predict(x):
    found = np.asarray(model.predict(x, quantiles=list(_LEVELS)), np.float64)
    return _quantiles(found.reshape(len(x), -1), y.min(), y.max())

  return predict


# ----------------------------------------------------------------------- grid


def on_grid(mean: np.ndarray, cdf: Cdf, values: np.ndarray) -> Predicted:
  """A distribution function's mass in the cell of each number.

  Of several sequences that mean one number, the first has it all.
  """
  distinct, first = np.unique(np.asarray(values, np.float64), return_index=True)
  edges = (distinct[1:] + distinct[:-1]) / 2
  below = np.asarray(cdf(edges), np.float64)
  ends = np.zeros((len(mean), 1)), np.ones((len(mean), 1))
  mass = np.diff(np.concatenate([ends[0], below, ends[1]], axis=1), axis=1)
  mass = np.maximum(mass, 0)
  p = np.full((len(mean), len(values)), _FLOOR / len(values))
  p[:, first] += (1 - _FLOOR) * mass / mass.sum(axis=1, keepdims=True)
  return Predicted(np.asarray(mean, np.float64), np.log(p))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Distribution:
  """How one of `_DIRECT` is fitted.

  package: what it needs.
  inputs: `(columns, table) -> {split: x [n, F]}`.
  fit: `(data, *, seed, num_threads) -> (x -> (mean, distribution function))`.
  """

  package: str
  inputs: Callable[..., Any]
  fit: Callable[..., Callable[[Any], tuple[np.ndarray, Cdf]]]


RESIDUALS = '_residuals'
_DIRECT = {
  'catboost_uncertainty': _Distribution(
    package='catboost',
    inputs=frames.as_they_are,
    fit=_fit_catboost_uncertainty,
  ),
  'catboost_quantiles': _Distribution(
    package='catboost', inputs=frames.as_they_are, fit=_fit_catboost_quantiles
  ),
  'ngboost': _Distribution(
    package='ngboost', inputs=frames.filled, fit=_fit_ngboost
  ),
  'quantile_forest': _Distribution(
    package='quantile_forest', inputs=frames.filled, fit=_fit_quantile_forest
  ),
}
NAMES = (
  *(
    f'{name}{RESIDUALS}'
    for name in ('catboost', 'xgboost', 'random_forest', 'realmlp')
  ),
  *_DIRECT,
)
