"""Results of predictions: rows of results.csv.

Distributions come as samples, and exactly where the tokenizer's trie is small
enough. Estimators are named: 'greedy', 'sample', 'mean', ... are of samples,
'exact_mean' and 'exact_median' of the whole trie, 'tempered' of the trie at a
temperature and 'conformal' of its interval with a margin, both fitted on
validation rows, 'learned_mean' of RAFT's trained numbers, 'rail' and
'rail_normalized' of evenly spaced numbers.
"""

import numpy as np

from genre2_jax.metrics import exact, recalibration, sampled


def pooled(predicted):
  """The ensemble of S seeds: their samples in one pool, the others' mean.

  Samples alternate between the seeds, so that the first k are fair. Exact
  distributions are mixed with equal weights.
  """
  samples = predicted['samples_z']  # [S, n, G]
  num_seeds, num_rows, group = samples.shape
  member = {
    name: values.mean(axis=0)
    for name, values in predicted.items()
    if name not in ('samples_z', 'log_p')
  }
  member['samples_z'] = samples.transpose(1, 2, 0).reshape(
    num_rows, group * num_seeds
  )
  if 'log_p' in predicted:
    member['log_p'] = exact.mixture(predicted['log_p'])
  return member


def members(predicted, seeds):
  """Each seed's predictions, and of several the ensemble: [(seed, arrays)]."""
  found = [
    (seed, {name: values[i] for name, values in predicted.items()})
    for i, seed in enumerate(seeds)
  ]
  if len(seeds) > 1:
    found.append(('ensemble', pooled(predicted)))
  return found


def rows(
  predicted, target_z, *, model, seeds, task, stage, split, validation=None
):
  """Rows of results.csv for one stage and split.

  Each seed by itself; of several seeds their 'mean' and 'std' (ddof 1), and
  the 'ensemble' that pools them.

  Args:
    predicted: of S seeds.
    target_z: [n].
    model: with `codec` and `scaler`.
    seeds: S integers.
    task: its name.
    stage: its name.
    split: its name.
    validation: (predicted, target_z) of other rows, to recalibrate on.
  """
  scaler, found = model.scaler, []
  unit = _unit(scaler)
  fitted_on = {}
  if validation is not None:
    fitted_on = dict(members(validation[0], seeds))
  for seed, member in members(predicted, seeds):
    values = sampled.evaluate(
      member['samples_z'],
      member['greedy_z'],
      member['entropy'],
      target_z,
      low=scaler.low,
      high=scaler.high,
      **unit,
    )
    for name in ('learned_mean', 'rail', 'rail_normalized'):
      if f'{name}_z' in member:
        values += sampled.point_metrics(
          name, member[f'{name}_z'], target_z, **unit
        )
    if 'log_p' in member:
      grid, index = _grid(model.codec), model.codec.index(target_z)
      summary = exact.summarize(member['log_p'], grid, target_z, index)
      values += exact.evaluate(summary, target_z, **unit)
      if seed in fitted_on:
        values += _recalibrated(
          member['log_p'],
          summary,
          target_z,
          fitted_on[seed]['log_p'],
          validation[1],
          model,
        )
    found += [(task, seed, stage, split, *value) for value in values]
  return sampled.summarize(found)


# What the summary shows: (estimator, metric).
_SUMMARY = (
  *(
    (e, m)
    for e in ('greedy', 'mean', 'median', 'exact_mean')
    for m in ('r2', 'rmse')
  ),
  *(('sample', m) for m in ('reward', 'crps', 'coverage90', 'width90')),
  *(('exact', m) for m in ('reward', 'crps', 'nll', 'coverage90', 'width90')),
)


def summary(rows, stages):
  """Test metrics of the stages side by side, as text.

  Args:
    rows: of results.csv.
    stages: names, in order.
  """
  seeds = {row[1] for row in rows}
  seed = 'mean' if 'mean' in seeds else min(seeds)
  of = 'mean over seeds' if seed == 'mean' else f'seed {seed}'
  values = {
    (stage, estimator, metric): value
    for _, s, stage, split, estimator, metric, value in rows
    if s == seed and split == 'test'
  }
  lines = [
    f'Test rows, {of}; z-scores; "sample" is of all samples',
    f'{"":24}' + ''.join(f'{stage:>14}' for stage in stages),
  ]
  for estimator, metric in _SUMMARY:
    cells = [values.get((s, estimator, metric)) for s in stages]
    if any(cell is not None for cell in cells):
      lines.append(
        f'{estimator + " " + metric:24}'
        + ''.join(f'{"" if c is None else f"{c:.4f}":>14}' for c in cells)
      )
  return '\n'.join(lines)


def _unit(scaler):
  """How errors in z become errors in the target's own unit."""
  restore = None if scaler.is_linear else scaler.restore
  return {'std': scaler.std, 'restore': restore}


def _grid(codec):
  return exact.Grid(codec.values(), codec.cells())


def _recalibrated(log_p, summary, target_z, val_log_p, val_target, model):
  """Rows 'tempered' and 'conformal', fitted on validation rows."""
  grid = _grid(model.codec)
  index = model.codec.index
  fit = val_log_p, grid, val_target, index(val_target)
  temperature = recalibration.fit_temperature(*fit)
  tempered = exact.summarize(
    recalibration.temper(log_p, temperature), grid, target_z, index(target_z)
  )
  found = exact.evaluate(
    tempered, target_z, name='tempered', **_unit(model.scaler)
  )
  found.append(('tempered', 'temperature', temperature))
  val = exact.summarize(*fit)
  margin = recalibration.conformal_margin(val.low, val.high, val_target)
  low = np.minimum(summary.low - margin, summary.median)
  high = np.maximum(summary.high + margin, summary.median)
  covered = (low <= target_z) & (target_z <= high)
  found.append(('conformal', 'coverage90', float(covered.mean())))
  found.append(('conformal', 'width90', float((high - low).mean())))
  return found
