"""Baselines of a run: instead of a network, or beside it as references."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from genre2_jax.baselines import distributions, points
from genre2_jax.data import tables
from genre2_jax.data.tables import SPLITS, Rows, Table
from genre2_jax.errors import InputError
from genre2_jax.experiment.experiment import Prepared
from genre2_jax.files import atomic, reading
from genre2_jax.metrics import results
from genre2_jax.runs import workdirs

# Numbers of text that trees are fitted to, at most; columns, and cells of
# training rows, beyond which a minute would not do.
_MOST_EMBEDDED = 256
_MOST_COLUMNS = 256
_MOST_CELLS = 2**24
# Beside every run; texts have the first.
REFERENCES = ('train_mean', 'histogram_trees')
# Between the seeds of two targets.
_APART = 2**20


def fit(
  experiment: Prepared, name: str, seeds: Sequence[int], interrupts: object
) -> dict[str, dict[str, np.ndarray]]:
  """What a baseline predicts, every seed's, split by split.

  Point masses, or distributions over the numbers that the model can write; as
  `evaluation.predict` gives them. Of several targets each is fitted by itself,
  and what is drawn of them is independent.

  Args:
    experiment: with its data.
    name: of the baseline.
    seeds: S integers.
    interrupts: true once the run is asked to leave.

  Raises:
    InputError: no such baseline, a missing package, or too many numbers.
    InterruptedRunError: asked to leave.
  """
  experiment, is_number = _of_numbers(experiment)
  if is_number is not None:
    found = fit(experiment, name, seeds, interrupts)['test']
    cuts = [len(is_number['val'])]
    cut = {n: np.split(x, cuts, axis=1) for n, x in found.items()}
    return {
      split: {n: x[place] for n, x in cut.items()}
      for place, split in enumerate(('val', 'test'))
    }
  parts = []
  for place, target in enumerate(experiment.model.by_target()):
    table = experiment.table
    if isinstance(table, Table) and table.target_names:
      table = tables.with_target(table, place)
    fit_one = _fit_points
    if name in distributions.NAMES:
      fit_one = _fit_distributions
    # Targets that drew alike would rise and fall together.
    own = [(seed + _APART * place) % 2**32 for seed in seeds]
    parts.append(fit_one(experiment, table, target, name, own, interrupts))
  if not experiment.model.target_names:
    return parts[0]
  return {
    split: _together([part[split] for part in parts]) for split in parts[0]
  }


def _together(parts):
  """What is predicted of several targets, each by itself."""
  return {
    name: np.stack(
      [part[name] for part in parts], axis=-2 if name == 'log_p' else -1
    )
    for name in parts[0]
  }


def _fit_points(experiment, table, target, name, seeds, interrupts):
  fitted = [
    points.fit_predict(
      name,
      table,
      target.scaler,
      seed=seed,
      num_trials=experiment.baseline_trials,
      interrupts=interrupts,
    )
    for seed in seeds
  ]
  predicted: dict[str, dict[str, np.ndarray]] = {}
  for split in ('val', 'test'):
    z = np.stack([member[split] for member in fitted]).astype(np.float32)
    predicted[split] = {
      'samples_z': z[..., None],
      'greedy_z': z,
      'entropy': np.zeros_like(z),
    }
  return predicted


def _of_numbers(experiment):
  """The experiment without targets that are none, for libraries that take none.

  Returns:
    (it, None), if all are numbers; else (it with all rows of validation and
    test to predict as 'test', {split: whether targets are numbers}).
  """
  table = experiment.table
  kept = {s: np.isfinite(getattr(table, s).target) for s in SPLITS}
  if all(x.all() for x in kept.values()):
    return experiment, None
  assert isinstance(table, Table)
  asked = Rows.joined([table.val, table.test])
  # Its targets are never read.
  asked = dataclasses.replace(asked, target=np.zeros(len(asked)))
  table = dataclasses.replace(
    table,
    train=table.train.part(kept['train']),
    val=table.val.part(kept['val']),
    test=asked,
  )
  return dataclasses.replace(experiment, table=table), kept


def references(
  experiment: Prepared, workdir: pathlib.Path, interrupts: object
) -> list[tuple]:
  """Rows of references.csv, written once: what anybody has in seconds.

  Their number alone, as `greedy`. None beside a baseline, which is one, and
  none where no report will show them. A text has no columns for trees, and
  vectors and very large tables have too many for seconds.
  """
  if experiment.baseline or not experiment.report:
    return []
  path = workdir / workdirs.REFERENCES
  if path.exists():  # Of the same run, before it was stopped.
    return [
      (
        row['task'],
        int(row['seed']),
        *(row[name] for name in results.COLUMNS[2:-1]),
        reading.number(path, row['value']),
      )
      for row in reading.read_csv(path, results.COLUMNS)
    ]
  table, model, seeds = experiment.table, experiment.model, experiment.seeds[:1]
  rows: list[tuple] = []
  has_trees = isinstance(table, Table) and _is_quick(table)
  for name in REFERENCES[: 2 if has_trees else 1]:
    predicted = fit(experiment, name, seeds, interrupts)
    for split, arrays in predicted.items():
      target = getattr(table, split).target
      found = results.rows(
        arrays,
        model.scaler.standardize(target),
        model=model,
        seeds=seeds,
        task=table.name,
        stage=name,
        split=split,
        weight=getattr(table, split).weight,
      )
      rows += [row for row in found if row[4] == 'greedy']
  atomic.write_csv(path, results.COLUMNS, rows)
  return rows


def _is_quick(table):
  """Whether trees take less than a minute."""
  width = len(table.numeric_names) + len(table.category_names)
  return (
    table.train.num_embedded <= _MOST_EMBEDDED
    and width <= _MOST_COLUMNS
    and width * len(table.train) <= _MOST_CELLS
  )


def _fit_distributions(experiment, table, target, name, seeds, interrupts):
  if not experiment.evaluation.exact:
    raise InputError(
      f'baseline.name={name} has a probability for every number: raise '
      'trie.max_nodes, or take fewer tokenizer.digits'
    )
  values = target.codec.grid()[0]
  fitted = [
    distributions.fit_predict(
      name,
      table,
      target.scaler,
      values,
      seed=seed,
      interrupts=interrupts,
    )
    for seed in seeds
  ]
  predicted = {}
  for split in ('val', 'test'):
    log_p = np.stack([member[split].log_p for member in fitted])
    mean = np.stack([member[split].mean for member in fitted])
    samples = [
      distributions.samples(
        values, member, experiment.evaluation.num_samples, seed
      )
      for seed, member in zip(seeds, log_p, strict=True)
    ]
    predicted[split] = {
      'samples_z': np.stack(samples).astype(np.float32),
      'greedy_z': mean.astype(np.float32),
      'entropy': -np.sum(np.exp(log_p) * log_p, -1),
      'log_p': log_p,
    }
  return predicted
