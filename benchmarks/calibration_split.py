"""Conformal intervals from the rows that chose the epoch, and from others.

    python benchmarks/calibration_split.py --root=TALENT

A conformal margin covers what it promises where its rows and new rows are
exchangeable. The rows that chose the epoch are not: the epoch that was kept is
the one that suits them. On the smallest tasks of a folder of TALENT tasks (by
training rows, at equal rows by name) two runs each, cross-entropy at the sizes
of configs/talent_twenty.py, both seeds in one program:

* whole: all validation rows choose the epoch, and the margin is theirs;
* halves: one half of the validation rows, drawn at random, chooses the epoch.
  The margin is of the other half; beside it, for the number of rows alone, that
  of the half that chose.

Nothing is chosen by test rows: they are predicted at the end. Writes

    benchmarks/results/calibration_split.csv   a row per task, seed and margin
    benchmarks/results/calibration_split.md

Stopped and started again, it goes on where it was. --minutes begins no task
after so long; what is finished is written.
"""

import argparse
import csv
import dataclasses
import json
import pathlib
import platform
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from genre2_jax import train
from genre2_jax.benchmark import protocols
from genre2_jax.data import talent
from genre2_jax.errors import InputError
from genre2_jax.experiment import recipes
from genre2_jax.files import atomic
from genre2_jax.metrics import exact, points, recalibration
from genre2_jax.runs import environment
from genre2_jax.runs.finished import open_run

RESULTS = ROOT / 'benchmarks' / 'results'
COLUMNS = (
  'task', 'train_rows', 'seed', 'margin_of', 'margin_rows', 'coverage90',
  'width90', 'margin', 'crps', 'r2',
)  # fmt: skip
# What the margin is fitted on: name in the CSV -> in words.
MARGINS = {
  'none': 'no margin, all rows choose the epoch',
  'chose': 'all validation rows, which chose the epoch',
  'half_none': 'no margin, half of the rows choose the epoch',
  'half_chose': 'the half that chose the epoch',
  'half_apart': 'the half that did not',
}


def smallest_tasks(root, count):
  """[(training rows, name)] of a folder's smallest regression tasks."""
  found = []
  for folder in sorted(pathlib.Path(root).iterdir()):
    info = folder / 'info.json'
    if not info.exists():
      continue
    if (
      json.loads(info.read_text(encoding='utf-8'))['task_type'] != 'regression'
    ):
      continue
    found.append((len(talent.read_array(folder / 'y_train.npy')), folder.name))
  if len(found) < count:
    raise InputError(
      f'--root={root} has {len(found)} tasks, fewer than {count}'
    )
  return sorted(found)[:count]


def halves(rows, seed):
  """(Rows that choose the epoch, rows that calibrate), drawn at random."""
  order = np.random.default_rng(seed).permutation(len(rows))
  cut = (len(rows) + 1) // 2
  return tuple(
    dataclasses.replace(
      rows,
      numeric=rows.numeric[part],
      categories=rows.categories[part],
      target=rows.target[part],
    )
    for part in (np.sort(order[:cut]), np.sort(order[cut:]))
  )


def config_of(root, name, seeds):
  config = recipes.get_config('talent', 'ce')
  source = {'data.root': str(root), 'data.name': name, 'num_seeds': seeds}
  config.update_from_flattened_dict(dict(protocols.FIELDS) | source)
  return config


def interval(log_p, values):
  """Low, median and high [n] of the central 90 % of distributions [n, K]."""
  tail = (1 - exact.NOMINAL) / 2
  return exact.quantiles(log_p, values, [tail, 0.5, 1 - tail]).T


def widened(low, median, high, margin):
  """The interval with a margin; it never leaves its median."""
  return np.minimum(low - margin, median), np.maximum(high + margin, median)


def judged(test, target, calibration=None):
  """(coverage, width, margin) of test intervals [n].

  Args:
    test: low, median and high, [n] each.
    target: [n].
    calibration: (low, median, high, target) of the rows of the margin, or None.
  """
  margin = 0.0
  if calibration is not None:
    low, _, high, known = calibration
    margin = recalibration.conformal_margin(low, high, known, exact.NOMINAL)
  low, high = widened(*test, margin)
  covered = (low <= target) & (target <= high)
  return float(covered.mean()), float((high - low).mean()), margin


def rows_of_task(root, size, name, seeds, workdir):
  """Rows of the CSV: two runs, or what is left of them."""
  table = talent.load(root, name)
  chooses, apart = halves(table.val, 0)
  config, found = config_of(root, name, seeds), []
  for kind, val, margins in (
    ('whole', table.val, {'none': None, 'chose': table.val}),
    (
      'halves',
      chooses,
      {'half_none': None, 'half_chose': chooses, 'half_apart': apart},
    ),
  ):
    split = dataclasses.replace(table, val=val)
    folder = workdir / name / kind
    if not (folder / 'run.json').exists():
      train.train_and_evaluate(config, folder, table=split, verbose=0)
    run = open_run(folder)
    standardize, codec = run.model.scaler.standardize, run.model.codec
    values, cells = codec.grid()
    target = standardize(table.test.target)
    tested = run.predict(table.test)['log_p']
    fitted = {
      margin_of: None if rows is None else run.predict(rows)['log_p']
      for margin_of, rows in margins.items()
    }
    for place, seed in enumerate(run.seeds):
      summary = exact.summarize(
        tested[place], exact.Grid(values, cells), target, codec.index(target)
      )
      test = interval(tested[place], values)
      for margin_of, rows in margins.items():
        calibration = None
        if rows is not None:
          known = standardize(rows.target)
          calibration = *interval(fitted[margin_of][place], values), known
        found.append(
          (
            name, size, seed, margin_of, 0 if rows is None else len(rows),
            *judged(test, target, calibration),
            float(summary.crps.mean()), points.r2(summary.mean, target),
          )
        )  # fmt: skip
  return found


def table_of(rows):
  """A line per kind of margin: means over tasks and seeds, spread over tasks.

  Beside the mean coverage stands how far it is from 0.9 on a typical task.
  """
  lines = [
    '| margin of | coverage | mean distance from 0.90 | least task | width (z) '
    '| CRPS (z) | R² |',
    '|---|---:|---:|---:|---:|---:|---:|',
  ]
  for name, words in MARGINS.items():
    by_task = {}
    for row in rows:
      if row[3] == name:
        by_task.setdefault(row[0], []).append(
          [row[5], abs(row[5] - exact.NOMINAL), row[6], row[8], row[9]]
        )
    tasks = np.array([np.mean(values, 0) for values in by_task.values()])
    coverage, distance, width, crps, r2 = tasks.mean(0)
    lines.append(
      f'| {words} | {coverage:.3f} | {distance:.3f} | {tasks[:, 0].min():.3f} '
      f'| {width:.3f} | {crps:.3f} | {r2:.3f} |'
    )
  return '\n'.join(lines)


def paired(rows, one, other, column, draws=10_000):
  """Mean over tasks of one − other, and its bootstrap 95 % interval."""
  by_task = {}
  for row in rows:
    if row[3] in (one, other):
      sign = 1 if row[3] == one else -1
      by_task.setdefault(row[0], []).append(sign * row[column])
  # Two entries per seed: their sum over seeds is seeds · the difference.
  difference = np.array([2 * np.mean(v) for v in by_task.values()])
  drawn = np.random.default_rng(0).choice(difference, (draws, len(difference)))
  return float(difference.mean()), np.quantile(drawn.mean(1), [0.025, 0.975])


def page(rows, args):
  """benchmarks/results/calibration_split.md, but for the reading."""
  tasks = list(dict.fromkeys(row[0] for row in rows))
  seeds = sorted({row[2] for row in rows})
  lines = [
    '# A calibration split of its own',
    '',
    f'`python benchmarks/calibration_split.py --root=TALENT`: {len(tasks)} of '
    f'the {args.tasks} smallest tasks ({", ".join(tasks)}), seeds '
    f'{" and ".join(map(str, seeds))}, cross-entropy at the sizes of '
    f'configs/talent_twenty.py; {environment._processor()}, Python '
    f'{platform.python_version()}.',
    '',
    'Test rows; the central 90 % interval of the exact distribution, with a '
    'conformal margin fitted on the rows named. Means over tasks of means over '
    'seeds; the distance is of each seed and task from 0.90.',
    '',
    table_of(rows),
    '',
    'Differences, paired by task, with a bootstrap 95 % interval over tasks:',
    '',
    '| | coverage | width (z) |',
    '|---|---:|---:|',
  ]
  for one, other in (
    ('half_apart', 'half_chose'),
    ('half_apart', 'chose'),
    ('half_chose', 'chose'),
  ):
    cells = []
    for column in (5, 6):
      mean, (low, high) = paired(rows, one, other, column)
      cells.append(f'{mean:+.3f} ({low:+.3f} .. {high:+.3f})')
    lines.append(
      f'| {MARGINS[one]}, less {MARGINS[other]} | {cells[0]} | {cells[1]} |'
    )
  return '\n'.join([*lines, ''])


def read_rows(path):
  """Rows of a CSV that `main` wrote, numbers as numbers."""
  kinds = (str, int, int, str, int, float, float, float, float, float)
  with open(path, encoding='utf-8', newline='') as file:
    _, *lines = csv.reader(file)
  return [
    tuple(kind(cell) for kind, cell in zip(kinds, line, strict=True))
    for line in lines
  ]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--root', type=pathlib.Path, required=True)
  parser.add_argument(
    '--workdir',
    type=pathlib.Path,
    default=pathlib.Path('runs/calibration_split'),
  )
  parser.add_argument('--tasks', type=int, default=10)
  parser.add_argument('--seeds', type=int, default=2)
  parser.add_argument('--minutes', type=float, default=float('inf'))
  args = parser.parse_args()
  began, rows = time.monotonic(), []
  for size, name in smallest_tasks(args.root, args.tasks):
    kept = args.workdir / name / 'rows.csv'
    if not kept.exists():
      if time.monotonic() - began > 60 * args.minutes:
        continue
      found = rows_of_task(args.root, size, name, args.seeds, args.workdir)
      atomic.write_csv(kept, COLUMNS, found)
    rows += read_rows(kept)
    print(f'{name}: {(time.monotonic() - began) / 60:.1f} min', flush=True)
  if not rows:
    raise SystemExit('no task is finished: give more --minutes')
  atomic.write_csv(RESULTS / 'calibration_split.csv', COLUMNS, rows)
  path, reading = RESULTS / 'calibration_split.md', ''
  if path.exists():  # What was written under it stays.
    reading = path.read_text(encoding='utf-8').partition('\n## Reading')[2]
  text = page(rows, args) + ('\n## Reading' + reading if reading else '')
  atomic.write_text(path, text)
  print(text)


if __name__ == '__main__':
  main()
