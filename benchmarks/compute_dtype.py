"""What products of bfloat16 factors cost in accuracy: `model.compute_dtype`.

    python benchmarks/compute_dtype.py --root=TALENT

On the smallest tasks of a folder of TALENT tasks (by training rows, at equal
rows by name) the decoder of `size=small` is trained on the sum of cross-entropy
and CRPS, once in float32 and once in bfloat16, all seeds of a run in one
program, from the same first weights and with the same batches. Test rows are
predicted at the end and choose nothing. Writes

    benchmarks/results/compute_dtype.csv   a row per task, seed and dtype
    benchmarks/results/compute_dtype.md

Stopped and started again, it goes on where it was.
"""

import argparse
import csv
import json
import pathlib
import platform
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from configs import base
from genre2_jax import train
from genre2_jax.files import atomic
from genre2_jax.models.products import DTYPES

RESULTS = ROOT / 'benchmarks' / 'results'
# Column -> (estimator, metric) of results.csv.
METRICS = {
  'r2': ('exact_mean', 'r2'),
  'crps': ('exact', 'crps'),
  'coverage90': ('exact', 'coverage90'),
}
COLUMNS = ('task', 'train_rows', 'seed', 'dtype', *METRICS)


def smallest(root, count):
  """(training rows, name) of a folder's smallest tasks."""
  sizes = [
    (len(np.load(path, allow_pickle=True)), path.parent.name)
    for path in root.glob('*/y_train.npy')
  ]
  return sorted(sizes)[:count]


def trained(args, task, dtype):
  """The workdir of a run, there or made now."""
  config = base.get_config()
  config.update_from_flattened_dict(
    {
      'data.root': str(args.root),
      'data.name': task,
      'num_seeds': args.seeds,
      'stages': ('pretrain',),
      'pretrain.objective': (('ce', 1.0, {}), ('crps', 1.0, {})),
      'pretrain.max_steps': args.steps,
      'model.compute_dtype': dtype,
      'eval.num_samples': 8,
      'report': False,
    }
  )
  workdir = args.workdir / f'{task}_{dtype}'
  if not (workdir / 'run.json').exists():
    train.train_and_evaluate(config, workdir, verbose=0)
  return workdir


def rows_of(workdir, task, train_rows, dtype):
  """Of results.csv, a row a seed."""
  with open(workdir / 'results.csv', encoding='utf-8', newline='') as file:
    found = {
      (row['seed'], row['estimator'], row['metric']): float(row['value'])
      for row in csv.DictReader(file)
      if row['split'] == 'test' and row['seed'].isdigit()
    }
  seeds = sorted({int(seed) for seed, _, _ in found})
  return [
    (
      *(task, train_rows, seed, dtype),
      *(found[str(seed), *name] for name in METRICS.values()),
    )
    for seed in seeds
  ]


def page(args, rows, processor):
  """The results as Markdown."""
  values = {row[:1] + row[2:4]: np.array(row[4:]) for row in rows}
  tasks = list(dict.fromkeys(row[0] for row in rows))
  seeds = sorted({row[2] for row in rows})
  heads = ' | '.join(f'{n}, float32 | seeds | bfloat16' for n in METRICS)
  lines = [
    '# Products of bfloat16 factors: accuracy',
    '',
    f'`python benchmarks/compute_dtype.py --root=TALENT --tasks={args.tasks} '
    f'--seeds={args.seeds} --steps={args.steps}`: the smallest tasks by '
    'training rows, chosen before anything was run; seeds '
    f'{", ".join(map(str, seeds))}; decoder of `size=small`, cross-entropy + '
    'CRPS, at most '
    f'{args.steps} steps; {processor}, Python {platform.python_version()}.',
    '',
    'Test rows, of the exact distribution. "Seeds" is the standard deviation '
    'over seeds in float32, "bfloat16" the mean over seeds of bfloat16 less '
    'float32 of the same seed (± the standard deviation of it).',
    '',
    f'| task | {heads} |',
    '|---|' + '---:|' * (3 * len(METRICS)),
  ]
  shares = []
  for task in tasks:
    exact = np.stack([values[task, seed, 'float32'] for seed in seeds])
    apart = np.stack([values[task, s, 'bfloat16'] for s in seeds]) - exact
    noise = exact.std(0, ddof=1)
    # Seeds may have the same coverage.
    shares.append(np.abs(apart).mean(0) / np.maximum(noise, 1e-12))
    cells = [
      f'{mean:.3f} | {own:.4f} | {gap:+.4f} ± {spread:.4f}'
      for mean, own, gap, spread in zip(
        exact.mean(0), noise, apart.mean(0), apart.std(0, ddof=1), strict=True
      )
    ]
    lines.append(f'| {task} | ' + ' | '.join(cells) + ' |')
  shares = np.median(shares, 0)
  lines += [
    '',
    'Median over tasks of the mean distance between the dtypes, in standard '
    'deviations over seeds: '
    + ', '.join(f'{n} {s:.2f}' for n, s in zip(METRICS, shares, strict=True))
    + '.',
  ]
  return '\n'.join(lines) + '\n'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--root', type=pathlib.Path, required=True)
  parser.add_argument('--tasks', type=int, default=5)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument(
    '--workdir', type=pathlib.Path, default=pathlib.Path('runs/compute_dtype')
  )
  args = parser.parse_args()
  rows = []
  for train_rows, task in smallest(args.root, args.tasks):
    for dtype in DTYPES:
      workdir = trained(args, task, dtype)
      rows += rows_of(workdir, task, train_rows, dtype)
      print(task, dtype, file=sys.stderr)
  seen = json.loads((workdir / 'env.json').read_text())
  atomic.write_csv(RESULTS / 'compute_dtype.csv', COLUMNS, rows)
  text = page(args, rows, seen['processor'] or seen['device_kind'])
  atomic.write_text(RESULTS / 'compute_dtype.md', text)


if __name__ == '__main__':
  main()
