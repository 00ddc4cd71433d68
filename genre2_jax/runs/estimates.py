"""What is predicted by default, and how sure: for every way to ask a run.

The command line's files and the estimator say the same of the same rows. The
default number is the mean: Σ p · y where every number is scored, else of
samples. The default interval is conformal: the model's, moved by a margin that
was fitted on validation rows when the run ended (`metrics/recalibration.py`).
"""

import json
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.data.subwords import JudgeFeatures
from genre2_jax.errors import InputError
from genre2_jax.files import atomic
from genre2_jax.metrics import exact, joint, recalibration, results, sampled
from genre2_jax.models.model import Model
from genre2_jax.policy import Pointwise

# Coverages whose conformal margins are kept: others are rounded up to one.
COVERAGES = (*(np.arange(1, 100) / 100).tolist(), 0.995, 0.999)
DEFAULT_COVERAGE = 0.9
FILE = 'margins.json'

_INTERVALS = ('lower90', 'upper90')
# Probabilities of what is no number; all else is given that it is one.
NON_FINITE_NAMES = ('p_nan', 'p_plus_inf', 'p_minus_inf')
# All that `columns` may have a column for.
NAMES = (
  'prediction',
  *(
    f'{kind}{name}'
    for kind in ('', 'conformal_', 'model_')
    for name in _INTERVALS
  ),
  *sampled.POINT_ESTIMATORS,
  'exact_mean',
  'exact_median',
  *results.LEARNED_AND_RAIL,
  *(f'{name}_rationale' for name in results.TEXTS),
  *NON_FINITE_NAMES,
)

Arrays = Mapping[str, np.ndarray]
# Of each of `COVERAGES`: z-scores, or None where rows were too few; those of
# several targets one after another.
Margins = Sequence[float | None]


def has_distribution(model: Model) -> bool:
  """Whether there is more to say than one number per row."""
  return not isinstance(model.network, Pointwise)


def points(
  predicted: Arrays, model: Model, *, needless: Collection[str] = ()
) -> dict[str, np.ndarray]:
  """Every point estimate, of all seeds together: name -> [n], z-scores.

  Those of samples where there are some. Of several targets [n, k].

  Args:
    predicted: what `evaluation.predict` gave.
    model: of the run.
    needless: names of exact ones that nobody asks for.
  """
  pairs = _members(predicted, model)
  own = [_points(member, target, needless) for member, target in pairs]
  return {name: _stacked([part[name] for part in own]) for name in own[0]}


def _members(predicted, model):
  """All seeds together, of each target: [(arrays, `Target`)]."""
  member, targets = results.pooled(predicted), model.by_target()
  if not model.target_names:
    return [(member, targets[0])]
  return [
    (joint.of_target(member, place), target)
    for place, target in enumerate(targets)
  ]


def _stacked(parts):
  """Arrays of each target as one, targets last; one target's as it is."""
  return parts[0] if len(parts) == 1 else np.stack(parts, axis=-1)


def _points(member, target, needless):
  """`points` of one target."""
  scaler = target.scaler
  found: dict[str, np.ndarray] = {}
  if 'samples_z' in member:
    found |= sampled.point_estimates(
      member['samples_z'],
      member['greedy_z'],
      sampled.widened(scaler.low, scaler.high),
    )
  if 'log_p' in member:
    p = np.exp(member['log_p'].astype(np.float64))
    values, _ = target.grid
    weighted = p * values
    # Row by row, so that its bits do not depend on the rows beside it.
    found['exact_mean'] = weighted.sum(axis=1) / p.sum(axis=1)
    if 'exact_median' not in needless:
      found['exact_median'] = _quantiles(member, target, [0.5])[:, 0]
  for name in results.LEARNED_AND_RAIL:
    if f'{name}_z' in member:
      found[name] = member[f'{name}_z'].astype(np.float64)
  return found


def default_name(names: Collection[str]) -> str:
  """The estimator that is meant where none is named."""
  return 'exact_mean' if 'exact_mean' in names else 'mean'


def in_words(names: Collection[str]) -> str:
  """What a file's `prediction`, `lower90` and `upper90` are."""
  names = {name.partition(joint.OF)[0] for name in names}
  said = f'prediction is {default_name(names)}'
  if 'lower90' in names:
    return said + ', lower90 and upper90 the conformal 90 % interval'
  if 'model_lower90' in names:
    return (
      f"{said}; the run kept no margins for a conformal interval: the model's "
      'own 90 % interval is model_lower90 and model_upper90'
    )
  return said + ', without an interval'


def quantiles(predicted: Arrays, model: Model, levels: ArrayLike) -> np.ndarray:
  """z-scores [n, Q] of Q levels, exact where the distribution is.

  Of several targets those of the marginals, [n, Q, k].
  """
  pairs = _members(predicted, model)
  return _stacked([_quantiles(x, target, levels) for x, target in pairs])


def interval(
  predicted: Arrays,
  model: Model,
  coverage: float = DEFAULT_COVERAGE,
  margins: Margins = (),
) -> np.ndarray:
  """Central intervals, low and high, z-scores [n, 2]; of several [n, 2, k].

  Args:
    predicted: what `evaluation.predict` gave.
    model: of the run.
    coverage: of the interval, of each target by itself.
    margins: of `fit_margins`; (): the quantiles (1 ∓ coverage)/2 as they are.

  Raises:
    InputError: a coverage that has no margin.
  """
  pairs = _members(predicted, model)
  own = margins_by_target(margins, len(pairs))
  return _stacked(
    [
      _interval(member, target, coverage, x)
      for (member, target), x in zip(pairs, own, strict=True)
    ]
  )


def _interval(member, target, coverage, margins):
  """`interval` of one target."""
  margin = 0.0
  if margins:
    coverage, margin = _margin(margins, coverage)
  levels = [(1 - coverage) / 2, 0.5, (1 + coverage) / 2]
  low, median, high = _quantiles(member, target, levels).T
  # A negative margin may not turn an interval inside out.
  ends = np.minimum(low - margin, median), np.maximum(high + margin, median)
  return np.stack(ends, axis=1)


def columns(
  predicted: Arrays,
  model: Model,
  margins: Margins = (),
  *,
  has_interval: bool = True,
) -> dict[str, np.ndarray]:
  """Columns of a predictions file, in the target's own unit: name -> [n].

  `prediction`, `lower90` and `upper90` are the defaults; behind them every
  estimate has its own name, and so have the intervals, `conformal_lower90` and
  `model_lower90`. Without margins there is the model's own interval, under
  that name alone. Of several targets each has its own, as `prediction:price`.
  What a judge wrote before its greedy and its first sampled number are
  `greedy_rationale` and `sample_rationale`.

  Args:
    predicted: what `evaluation.predict` gave.
    model: of the run.
    margins: of the run.
    has_interval: whether what was predicted is a distribution.
  """
  named = points(predicted, model)
  default = {'prediction': named[default_name(named)]}
  if has_interval:
    if _has_default(margins, len(model.by_target())):
      ends = interval(predicted, model, margins=margins)
      default |= _ends('', ends)
      named |= _ends('conformal_', ends)
    named |= _ends('model_', interval(predicted, model))
  found = {
    name: model.scaler.restore(z) for name, z in (default | named).items()
  }
  found = by_name(found, model.target_names)
  return found | _rationales(predicted, model) | _of_kinds(predicted)


def _rationales(predicted, model):
  """Columns of text, where any was written."""
  if not isinstance(model.features, JudgeFeatures):
    return {}
  member = results.pooled(predicted)
  return {
    f'{name}_rationale': np.array(
      model.features.decode(member[f'{name}_text']), object
    )
    for name in results.TEXTS
  }


def non_finite(predicted: Arrays) -> np.ndarray:
  """P(NaN), P(+inf) and P(−inf) of all seeds together: [n, 3]."""
  return results.pooled(
    {
      n: predicted[n]
      for n in (results.NON_FINITE, results.SHARE)
      if n in predicted
    }
  )[results.NON_FINITE]


def _of_kinds(predicted):
  """Columns of what is no number, where that is predicted."""
  if results.NON_FINITE not in predicted:
    return {}
  return dict(zip(NON_FINITE_NAMES, non_finite(predicted).T, strict=True))


def names_for(target_names: Sequence[str]) -> tuple[str, ...]:
  """All that `columns` may have a column for, of several targets too."""
  if not target_names:
    return NAMES
  return tuple(joint.named(x, name) for name in target_names for x in NAMES)


def by_name(
  columns: dict[str, np.ndarray], names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Columns [n, k] of several targets as `<column>:<target>`, [n] each."""
  if not names:
    return columns
  return {
    joint.named(column, name): values[:, place]
    for place, name in enumerate(names)
    for column, values in columns.items()
  }


def _ends(prefix, ends):
  return {f'{prefix}{x}': ends[:, i] for i, x in enumerate(_INTERVALS)}


# -------------------------------------------------------------------- margins


def fit_margins(
  predicted: Arrays,
  model: Model,
  target: np.ndarray,
  weight: np.ndarray | None = None,
) -> Margins:
  """Of each of `COVERAGES`, in z-scores; () without a distribution or rows.

  None where the rows are too few for it. Of several targets one after another.

  Args:
    predicted: of validation rows.
    model: of the run.
    target: [n], in its own unit; of several [n, k].
    weight: of the rows, [n], or None.
  """
  kept = np.isfinite(target)
  if not kept.all():  # A margin is of intervals, which hold numbers.
    predicted = {name: x[:, kept] for name, x in predicted.items()}
    target = target[kept]
    weight = None if weight is None else weight[kept]
  if not has_distribution(model) or not len(target):
    return ()
  z = model.scaler.standardize(target).reshape(len(target), -1).T
  pairs = zip(_members(predicted, model), z, strict=True)
  return tuple(
    margin
    for (member, own), x in pairs
    for margin in _fit_margins(member, own, x, weight)
  )


def _fit_margins(member, target, z, weight):
  """`fit_margins` of one target, z-scores [n]."""
  coverages = np.array(COVERAGES)
  levels = np.concatenate([(1 - coverages) / 2, (1 + coverages) / 2])
  low, high = np.split(_quantiles(member, target, levels), 2, axis=1)
  known = len(z) if weight is None else recalibration.num_effective(weight)
  return tuple(
    recalibration.conformal_margin(low[:, i], high[:, i], z, coverage, weight)
    if known >= recalibration.rows_needed(coverage)
    else None
    for i, coverage in enumerate(COVERAGES)
  )


def write_margins(workdir: pathlib.Path, margins: Margins) -> None:
  """Writes margins.json, or removes what a run before left."""
  path = workdir / FILE
  if not margins:
    path.unlink(missing_ok=True)
    return
  atomic.write_bytes(path, content(margins))


def content(margins: Margins) -> bytes:
  """What margins.json holds."""
  value = {'coverages': COVERAGES, 'margins': list(margins)}
  return (json.dumps(value, indent=2) + '\n').encode()


def checked_margins(values: object) -> Margins:
  """Margins as a file has them. Raises ValueError where they are damaged."""
  if not isinstance(values, list) or len(values) % len(COVERAGES):
    raise ValueError(f'margins: a list of {len(COVERAGES)} numbers is needed')
  most = sys.float_info.max
  found: list[float | None] = []
  for x in values:
    if x is not None and not (type(x) in (int, float) and abs(x) <= most):
      raise ValueError('margins: one of them is no finite number')
    found.append(None if x is None else float(x))
  return tuple(found)


def margins_by_target(margins: Margins, num_targets: int) -> list[Margins]:
  """Each target's own."""
  if not margins:
    return [()] * num_targets
  count = len(COVERAGES)
  return [margins[i * count : (i + 1) * count] for i in range(num_targets)]


def _has_default(margins, num_targets):
  """Whether every target has a margin of the default coverage."""
  place = COVERAGES.index(DEFAULT_COVERAGE)
  own = margins_by_target(margins, num_targets)
  return all(part and part[place] is not None for part in own)


def _margin(margins, coverage):
  """(Coverage rounded up, its margin)."""
  place = np.searchsorted(COVERAGES, coverage - 1e-9)
  if place == len(COVERAGES):
    raise InputError(
      f'coverage={coverage}: a conformal interval goes up to '
      f"{COVERAGES[-1]}: give less, or method='model'"
    )
  if margins[place] is None:
    raise InputError(
      f'coverage={coverage}: a conformal interval takes '
      f'{recalibration.rows_needed(COVERAGES[place])} validation rows, and the '
      "run had fewer: give less, train with more rows, or method='model'"
    )
  return COVERAGES[place], margins[place]


def _quantiles(member, target, levels):
  """`quantiles` of one target, of what `results.pooled` gave."""
  if 'log_p' in member:
    values, _ = target.grid
    return exact.quantiles(member['log_p'], values, levels)
  samples = np.asarray(member['samples_z'], np.float64)
  return np.quantile(samples, levels, axis=-1, method='weibull').T
