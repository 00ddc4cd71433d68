"""Results of predictions: rows of results.csv.

Distributions come as samples, and exactly where the tokenizer's trie is small
enough. Estimators are named: 'greedy', 'sample', 'mean', ... are of samples,
'exact_mean' and 'exact_median' of the whole trie, 'tempered' of the trie at a
temperature and 'conformal' of its interval with a margin, both fitted on
validation rows, 'learned_mean' of RAFT's trained numbers, 'rail' and
'rail_normalized' of evenly spaced numbers. 'sample' also has the grid_mass of a
policy whose softmax has more than numbers, and the text_length of one that
writes free text first, in subwords.
"""

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError
from genre2_jax.metrics import (
  exact,
  joint,
  kinds,
  points,
  recalibration,
  sampled,
)

# Of results.csv.
COLUMNS = ('task', 'seed', 'stage', 'split', 'estimator', 'metric', 'value')


_logger = logging.getLogger('genre2_jax')

# Name -> array; of one seed, or with an axis of seeds before.
Predicted = Mapping[str, np.ndarray]


class Scaler(Protocol):
  """Between z-scores and the target's own unit, as `data` has it."""

  @property
  def low(self) -> float: ...
  @property
  def high(self) -> float: ...
  @property
  def std(self) -> float: ...
  @property
  def is_linear(self) -> bool: ...
  def restore(self, z: ArrayLike, /) -> np.ndarray: ...


class Codec(Protocol):
  """The numbers that can be written, as `tokenizers` has them."""

  def grid(self) -> tuple[np.ndarray, np.ndarray]: ...
  def within(self, z: np.ndarray, /) -> np.ndarray: ...
  def index(self, z: ArrayLike, /) -> np.ndarray: ...


class Target(Protocol):
  """What the rows need of a target."""

  @property
  def scaler(self) -> Scaler: ...
  @property
  def codec(self) -> Codec: ...


class Model(Protocol):
  """What the rows need of a model."""

  @property
  def target_names(self) -> Sequence[str]: ...
  def by_target(self) -> Sequence[Target]: ...


# What a seed's weight in the ensemble is.
SHARE = 'share'
# P(NaN), P(+inf) and P(−inf), [S, n, 3], beside what is predicted of numbers.
NON_FINITE = 'non_finite'
# Numbers that a model gives by itself, where it has them: `<name>_z` [S, n].
LEARNED_AND_RAIL = ('learned_mean', 'rail', 'rail_normalized')


# Free texts of the greedy and the first sampled number, `<name>_text`.
TEXTS = ('greedy', 'sample')


def pooled(predicted: Predicted) -> dict[str, np.ndarray]:
  """The ensemble of S seeds: their samples in one pool, the others' mean.

  Samples alternate between the seeds, so that the first k are fair. Exact
  distributions are mixed; free texts are the first seed's. Seeds have equal
  weights, or those of their share.

  Args:
    predicted: samples_z [S, n, G] and log_p [S, n, K], those that are known,
      share [S, n], the same for all rows, where seeds have one, and others
      [S, n].

  Returns:
    The same without the axis of seeds, with G·S samples; fewer, at least G,
    where seeds have other shares.
  """
  weights = _weights(predicted)
  texts = {
    name: values
    for name, values in predicted.items()
    if name.removesuffix('_text') in TEXTS
  }
  member = {
    name: np.average(values, axis=0, weights=weights)
    for name, values in predicted.items()
    if name not in ('samples_z', 'log_p', SHARE, *texts)
  }
  member |= {name: values[0] for name, values in texts.items()}
  if 'samples_z' in predicted:
    samples = predicted['samples_z']  # [S, n, G], of k targets [S, n, G, k].
    num_seeds, _, group = samples.shape[:3]
    alike = np.full(num_seeds, 1 / num_seeds)
    seeds, places = _turns(alike if weights is None else weights, group)
    pool = np.moveaxis(samples[seeds, :, places], 0, 1)
    member['samples_z'] = np.ascontiguousarray(pool)
  if 'log_p' in predicted:
    member['log_p'] = exact.mixture(predicted['log_p'], weights)
  return member


def _weights(predicted):
  """Of the seeds, [S], their sum one; None where all are alike."""
  share = predicted.get(SHARE)
  if share is None or not share.shape[1]:
    return None
  share = share[:, 0].astype(np.float64)
  if np.ptp(share) == 0:
    return None
  return share / share.sum()


def _turns(weights, group):
  """Whose sample comes when, and which of its G: (int [N], int [N]).

  The first k are as near to k·w as whole numbers get, for every k.
  """
  total = int(group / weights.max() + 1e-6)
  taken = np.zeros(len(weights), int)
  seeds, places = [], []
  for turn in range(1, total + 1):
    owed = np.where(taken < group, turn * weights - taken, -np.inf)
    seed = int(np.argmax(np.round(owed, 9)))
    seeds.append(seed)
    places.append(taken[seed])
    taken[seed] += 1
  return np.array(seeds), np.array(places)


def members(
  predicted: Predicted, seeds: Sequence[int]
) -> list[tuple[int | str, dict[str, np.ndarray]]]:
  """Each seed's predictions, and of several the ensemble: [(seed, arrays)]."""
  found: list[tuple[int | str, dict[str, np.ndarray]]] = [
    (seed, {name: values[i] for name, values in predicted.items()})
    for i, seed in enumerate(seeds)
  ]
  if len(seeds) > 1:
    found.append(('ensemble', pooled(predicted)))
  return found


def rows(
  predicted: Predicted,
  target_z: np.ndarray,
  *,
  model: Model,
  seeds: Sequence[int],
  task: str,
  stage: str,
  split: str,
  validation: tuple[Predicted, np.ndarray] | None = None,
  weight: points.Weight = None,
  validation_weight: points.Weight = None,
) -> list[tuple]:
  """Rows of results.csv for one stage and split.

  Each seed by itself; of several seeds their 'mean' and 'std' (ddof 1), and
  the 'ensemble' that pools them. Of several targets the means over them, each
  by name, and 'energy' of the joint samples (`joint.together`). Rows whose
  target is no number count for 'non_finite' alone (`kinds.py`). Too few
  validation rows for an interval of nine in ten: no rows 'conformal', and one
  warning.

  Args:
    predicted: of S seeds, as `pooled` takes it.
    target_z: [n], of several targets [n, k].
    model: of the run.
    seeds: S integers.
    task: its name.
    stage: its name.
    split: its name.
    validation: (predicted, target_z) of other rows, to recalibrate on.
    weight: [n], how much each row counts; None: all alike.
    validation_weight: the same of the other rows.
  """
  targets, names = model.by_target(), model.target_names
  of_kinds: dict[int | str, list] = {}
  if NON_FINITE in predicted:
    for seed, member in members(predicted, seeds):
      of_kinds[seed] = kinds.evaluate(member[NON_FINITE], target_z, weight)
  if not names:  # Several targets are numbers in every row.
    kept = np.isfinite(target_z)
    predicted, target_z, weight = _rows_of(kept, predicted, target_z, weight)
    if validation is not None:
      kept = np.isfinite(validation[1])
      *validation, validation_weight = _rows_of(
        kept, *validation, validation_weight
      )
  found: list[tuple] = []
  fitted_on: dict[int | str, dict[str, np.ndarray]] = {}
  fitted_to = target_z[:0]
  if validation is not None:
    fitted_on, fitted_to = dict(members(validation[0], seeds)), validation[1]
  for seed, member in members(predicted, seeds):
    others = fitted_on.get(seed), fitted_to, validation_weight
    if not names:
      values = _of_target(member, target_z, weight, targets[0], *others)
      values += of_kinds.get(seed, [])
    else:
      by_name = {}
      for place, name in enumerate(names):
        fitted, fitted_z, fitted_weight = others
        by_name[name] = _of_target(
          joint.of_target(member, place),
          target_z[:, place],
          weight,
          targets[place],
          fitted and joint.of_target(fitted, place),
          fitted_z[:, place],
          fitted_weight,
        )
      values = joint.together(by_name, names)
      samples = member['samples_z']
      score = joint.energy_score(samples, target_z, weight=weight)
      values.append(('sample', 'energy', score))
    found += [(task, seed, stage, split, *value) for value in values]
  return over_seeds(found)


def _of_target(
  member, target_z, weight, target, fitted, fitted_to, fitted_weight
):
  """[(estimator, metric, value)] of one target; `fitted`: other rows' own."""
  scaler, codec = target.scaler, target.codec
  unit = _unit(scaler) | {'weight': weight}
  values = sampled.evaluate(
    member['samples_z'],
    member['greedy_z'],
    member['entropy'],
    target_z,
    low=scaler.low,
    high=scaler.high,
    **unit,
  )
  if 'grid_mass' in member:
    shares = np.asarray(member['grid_mass'], np.float64)
    mass = float(points.mean(shares, weight))
    values.append(('sample', 'grid_mass', mass))
  if 'text_length' in member:
    lengths = member['text_length'].astype(np.float64)
    length = float(points.mean(lengths, weight))
    values.append(('sample', 'text_length', length))
  for name in LEARNED_AND_RAIL:
    if f'{name}_z' in member:
      values += points.evaluate(name, member[f'{name}_z'], target_z, **unit)
  if 'log_p' in member:
    grid, index = _grid(codec), codec.index(target_z)
    summary = exact.summarize(member['log_p'], grid, target_z, index)
    values += exact.evaluate(summary, target_z, **unit)
    if fitted is not None:
      values += _recalibrated(
        member['log_p'],
        summary,
        target_z,
        weight,
        fitted['log_p'],
        fitted_to,
        fitted_weight,
        target,
      )
  return values


def over_seeds(rows: Iterable[Sequence]) -> list[tuple]:
  """The result rows, followed by their mean and std over seeds.

  Rows are (task, seed, ..., value). Those that differ only in a numeric seed
  form a group; one of two or more gains a row with seed 'mean' and one with
  'std' (ddof 1). Other seeds, such as 'ensemble', pass through.
  """
  found: list[tuple] = [tuple(row) for row in rows]
  groups: dict[tuple, list[float]] = {}
  for task, seed, *key, value in found:
    if str(seed).isdecimal():
      groups.setdefault((task, *key), []).append(float(value))
  summary = [
    (task, name, *key, float(value))
    for (task, *key), values in groups.items()
    if len(values) > 1
    for name, value in (
      ('mean', np.mean(values)),
      ('std', np.std(values, ddof=1)),
    )
  ]
  return found + summary


# What the summary shows: (estimator, metric).
_SUMMARY = (
  *(
    (e, m)
    for e in ('greedy', 'mean', 'median', 'exact_mean')
    for m in ('r2', 'rmse')
  ),
  *(('sample', m) for m in ('reward', 'crps', 'coverage90', 'width90')),
  *(('exact', m) for m in ('reward', 'crps', 'nll', 'coverage90', 'width90')),
  ('sample', 'energy'),
  ('sample', 'grid_mass'),
  ('sample', 'text_length'),
  *(('non_finite', m) for m in ('share', 'predicted', 'brier', 'log_loss')),
)


def summary(
  rows: Iterable[Sequence], stages: Sequence[str], unit: str = 'z'
) -> str:
  """Test metrics of the stages side by side, as text.

  Of several seeds those of the ensemble, which is what predicts; a stage of one
  seed stands beside as it is.

  Args:
    rows: of results.csv, numbers as numbers.
    stages: names, in order.
    unit: what errors are in, in words.
  """
  rows = list(rows)
  seeds = {row[1] for row in rows}
  numbers = [seed for seed in seeds if str(seed).isdecimal()]
  together = {row[2] for row in rows if row[1] == 'ensemble'}
  of = f'seed {min(numbers)}'
  if together:
    of = f'{len(numbers)} seeds together'
  values = {
    (stage, estimator, metric): value
    for _, seed, stage, split, estimator, metric, value in rows
    if split == 'test'
    and seed == ('ensemble' if stage in together else min(numbers))
  }
  head = f'Test rows, {of}; errors in {unit}; "sample" is of all samples'
  table = [['', *stages]]
  for estimator, metric in _SUMMARY:
    cells = [values.get((s, estimator, metric)) for s in stages]
    if any(cell is not None for cell in cells):
      table.append([f'{estimator} {metric}', *map(_shown, cells)])
  first, *others = (
    max(map(len, column)) for column in zip(*table, strict=True)
  )
  # Wider than the longest cell, so that no two of them touch.
  widths = [max(12, width) + 2 for width in others]
  return '\n'.join(
    [head]
    + [
      name.ljust(max(24, first))
      + ''.join(x.rjust(w) for x, w in zip(cells, widths, strict=True))
      for name, *cells in table
    ]
  )


def _rows_of(kept, predicted, target_z, weight):
  """Arrays of some rows [n], those of predictions [S, n, ...]."""
  if kept.all():
    return predicted, target_z, weight
  predicted = {name: x[:, kept] for name, x in predicted.items()}
  return predicted, target_z[kept], None if weight is None else weight[kept]


def _shown(value):
  if value is None:
    return ''
  # What is small beside these is nothing, of z-scores and shares alike.
  return f'{value:.4f}' if abs(value) < 1e6 else f'{value:.4e}'


def _unit(scaler):
  """How errors in z become errors in the target's own unit."""
  restore = None if scaler.is_linear else scaler.restore
  return {'std': scaler.std, 'restore': restore}


def _grid(codec):
  return exact.Grid(*codec.grid())


@functools.cache
def _warn_once(text: str) -> None:
  """A warning that each stage and seed of a run would repeat."""
  _logger.warning('%s', text)


def _recalibrated(
  log_p, summary, target_z, weight, val_log_p, val_target, val_weight, own
):
  """Rows 'tempered' and 'conformal', fitted on validation rows."""
  grid = _grid(own.codec)
  index = own.codec.index
  fit = val_log_p, grid, val_target, index(val_target)
  temperature = recalibration.fit_temperature(*fit, weight=val_weight)
  tempered = exact.summarize(
    recalibration.temper(log_p, temperature), grid, target_z, index(target_z)
  )
  found = exact.evaluate(
    tempered, target_z, name='tempered', weight=weight, **_unit(own.scaler)
  )
  found.append(('tempered', 'temperature', temperature))
  val = exact.summarize(*fit)
  try:
    margin = recalibration.conformal_margin(
      val.low, val.high, val_target, exact.NOMINAL, val_weight
    )
  except InputError as error:
    _warn_once(f'no conformal interval: {error}')
    return found
  within = own.codec.within
  low = within(np.minimum(summary.low - margin, summary.median))
  high = within(np.maximum(summary.high + margin, summary.median))
  covered = (low <= target_z) & (target_z <= high)
  shown = {'coverage90': covered, 'width90': high - low}
  found += [
    ('conformal', name, float(points.mean(values, weight)))
    for name, values in shown.items()
  ]
  return found
