"""Cross-entropy against what reinforcement learning makes of it, on real tasks.

    python benchmarks/talent.py --root=../shared/data/talent

Runs each method on each task, all seeds in one program, reinforcement learning
always from the same cross-entropy base, and writes

    benchmarks/results/talent_ten.csv   every test metric of every seed
    benchmarks/results/talent_ten.md    the table, with commands and machine

Stopped and started again, it goes on where it was; a task that fails is named
at the end and the others are run. Tasks and sizes stand below and were fixed
before any of these tasks was run; the learning rates were chosen by validation
on diabetes, which is not among the tasks.
"""

import argparse
import csv
import importlib
import json
import pathlib
import shutil
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from genre2_jax import train, writers
from genre2_jax.errors import InputError

# The ten smallest tasks of the folder by training rows (336 .. 1023).
TASKS = (
  'chscase_foot',
  'housing_price_prediction',
  'sensory',
  'qsar_fish_toxicity',
  'concrete_compressive_strength',
  'treasury',
  'MIP-2016-regression',
  'Moneyball',
  'airfoil_self_noise',
  'Wine_Quality_red',
)
# Method -> recipe. Those after the first start from the first's weights.
METHODS = {
  'ce': 'ce_talent',
  'remax': 'remax_talent',
  'grpo': 'grpo_talent',
  'remax_expert': 'genre2_talent',
}
# A model for a few hundred rows, and sizes that finish on 2 CPU cores.
SETTINGS = {
  'model.width': 128,
  'model.num_layers': 2,
  'model.feedforward': 256,
  'model.encoder_hidden': 256,
  'tokenizer.base': 4,
  'tokenizer.digits': 4,
  'ce.learning_rate': 1e-4,
  'rl.learning_rate': 3e-4,
  'rl.epochs': 30,
}
# Columns of the table: (title, estimator, metric, whether higher is better).
COLUMNS = (
  ('R² greedy', 'greedy', 'r2', True),
  ('R² mean', 'mean', 'r2', True),
  ('R² median', 'median', 'r2', True),
  ('RMSE mean', 'mean', 'rmse', False),
  ('Spearman mean', 'mean', 'spearman', True),
  ('reward', 'sample', 'reward', True),
  ('CRPS', 'sample', 'crps', False),
  ('coverage 90 %', 'sample', 'coverage90', None),
  ('width 90 %', 'sample', 'width90', None),
)


def configure(method, task, args):
  """The config of one run."""
  module = importlib.import_module(f'configs.{METHODS[method]}')
  config = module.get_config()
  config.update_from_flattened_dict(SETTINGS)
  config.data.root, config.data.name = args.root, task
  config.num_seeds = args.seeds
  if method != 'ce':
    config.init_from = str(args.workdir / task / 'ce')
  return config


def run(method, task, args):
  """Test rows of results.csv, from the run's workdir if it is finished."""
  workdir = args.workdir / task / method
  if not (workdir / 'report.html').exists():
    train.train_and_evaluate(configure(method, task, args), str(workdir))
    if method != 'ce':  # The base's are what the others start from.
      shutil.rmtree(workdir / 'checkpoints')
  with open(workdir / 'results.csv', encoding='utf-8') as file:
    rows = [row for row in csv.DictReader(file) if row['split'] == 'test']
  return [row for row in rows if row['stage'] == method]


def seconds(method, task, args):
  """Seconds of training, all seeds together, without compilation."""
  lines = writers.read_metrics(args.workdir / task / method)
  return max(line['seconds'] for line in lines if line['stage'] == method)


def table(rows, tasks, command, environment, times):
  """The results in Markdown: means over seeds per task, and over tasks."""
  values = {
    (r['task'], r['stage'], r['seed'], r['estimator'], r['metric']): float(
      r['value']
    )
    for r in rows
  }
  seeds = sorted({r['seed'] for r in rows if r['seed'].isdecimal()}, key=int)

  def of(task, method, estimator, metric, seed):
    return values[task, method, seed, estimator, metric]

  def mean(task, method, estimator, metric):
    cells = [of(task, method, estimator, metric, s) for s in seeds]
    return statistics.mean(cells), (
      statistics.stdev(cells) if len(cells) > 1 else 0.0
    )

  lines = [
    '# Cross-entropy base, ReMax, GRPO, ReMax + expert on ten tasks',
    '',
    f'`{command}`, seeds {", ".join(seeds)}.',
    f'Machine: {environment["processor"]}, jax {environment["jax"]}, commit '
    f'{environment["git_commit"]}.',
    '',
    'Test rows; targets in z-scores; mean, median, reward, CRPS, coverage and '
    'width from 128 samples at temperature 1; greedy is the likeliest token at '
    'every step. Settings: '
    + ', '.join(f'{k}={v}' for k, v in SETTINGS.items())
    + '; everything else as in `configs/`.',
    '',
    '## Mean over tasks (of means over seeds)',
    '',
    '| method | '
    + ' | '.join(title for title, *_ in COLUMNS)
    + ' | training s |',
    '|---' * (len(COLUMNS) + 2) + '|',
  ]
  for method in METHODS:
    cells = [
      statistics.mean(mean(t, method, e, m)[0] for t in tasks)
      for _, e, m, _ in COLUMNS
    ]
    lines.append(
      f'| {method} | '
      + ' | '.join(f'{c:.3f}' for c in cells)
      + f' | {times[method]:.0f} |'
    )
  lines += [
    '',
    '## Against the base: wins of tasks x seeds, and mean change',
    '',
    '| method | '
    + ' | '.join(t for t, *_, h in COLUMNS if h is not None)
    + ' |',
    '|---' * (1 + sum(h is not None for *_, h in COLUMNS)) + '|',
  ]
  for method in list(METHODS)[1:]:
    cells = []
    for _, estimator, metric, higher in COLUMNS:
      if higher is None:
        continue
      changes = [
        of(t, method, estimator, metric, s) - of(t, 'ce', estimator, metric, s)
        for t in tasks
        for s in seeds
      ]
      wins = sum((c > 0) == higher and c != 0 for c in changes)
      cells.append(f'{wins}/{len(changes)}, {statistics.mean(changes):+.3f}')
    lines.append(f'| {method} | ' + ' | '.join(cells) + ' |')
  for title, estimator, metric, _ in COLUMNS:
    lines += [
      '',
      f'## {title} per task, mean ± standard deviation over seeds',
      '',
      '| task | ' + ' | '.join(METHODS) + ' |',
      '|---' * (len(METHODS) + 1) + '|',
    ]
    for task in tasks:
      cells = [mean(task, method, estimator, metric) for method in METHODS]
      lines.append(
        f'| {task} | '
        + ' | '.join(f'{m:.3f} ± {s:.3f}' for m, s in cells)
        + ' |'
      )
  return '\n'.join(lines) + '\n'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--root', required=True, help='folder of TALENT tasks')
  parser.add_argument('--seeds', type=int, default=2)
  parser.add_argument(
    '--workdir', type=pathlib.Path, default=pathlib.Path('runs/talent_ten')
  )
  parser.add_argument(
    '--out', type=pathlib.Path, default=pathlib.Path('benchmarks/results')
  )
  args = parser.parse_args()
  began, rows, done, failed = time.monotonic(), [], [], {}
  for place, task in enumerate(TASKS, 1):
    try:
      found = [row for method in METHODS for row in run(method, task, args)]
    except InputError as error:
      failed[task] = str(error)
      continue
    rows += found
    done.append(task)
    minutes = (time.monotonic() - began) / 60
    left = minutes / place * (len(TASKS) - place)
    print(f'{place}/{len(TASKS)} {task}: {minutes:.0f} min, {left:.0f} to go')
  for task, reason in failed.items():
    print(f'failed: {task}: {reason}')
  if not done:
    return
  writers.write_csv(
    args.out / 'talent_ten.csv',
    writers.RESULT_COLUMNS,
    [[row[c] for c in writers.RESULT_COLUMNS] for row in rows],
  )
  # Of the run itself, which may have been on another day.
  env = json.loads((args.workdir / done[0] / 'ce' / 'env.json').read_text())
  times = {
    m: statistics.mean(seconds(m, t, args) for t in done) for m in METHODS
  }
  command = f'python benchmarks/talent.py --root={args.root}'
  writers.write_text(
    args.out / 'talent_ten.md', table(rows, done, command, env, times)
  )
  print(args.out / 'talent_ten.md')


if __name__ == '__main__':
  main()
