"""What finished runs and benchmarks leave behind, drawn instead of trained."""

import json

import numpy as np

from genre2_jax.files import atomic, metrics_log
from genre2_jax.metrics import exact as exact_metrics
from genre2_jax.metrics import points, results, sampled

LOW, HIGH = -2.5, 2.5
TOKENIZER = {'name': 'normalized', 'base': 2, 'digits': 8}
POINT_METHODS = ('pointwise', 'catboost', 'xgboost', 'random_forest')


def make_workdir(
  folder,
  *,
  stages=('ce', 'remax'),
  seeds=(0,),
  n=24,
  G=16,
  num_epochs=5,
  constant=False,
  task='concrete',
  target='strength',
  exact=(),
):
  """What a run leaves behind: ReMax is made sharper and a little better.

  Stages in `exact` have rows of exact distributions as well; with G = 1 stages
  are point masses, as regression heads and trees leave them.
  """
  generator = np.random.default_rng(0)
  mean, std = (7.0, 1.0) if constant else (35.8, 16.7)
  truth = generator.uniform(-2, 2, n)
  y = np.zeros(n) if constant else truth + 0.35 * generator.normal(size=n)
  rows, records = [], []
  for stage in stages:
    error, spread = (0.28, 0.35) if stage == 'ce' else (0.18, 0.14)
    samples = []
    for _ in seeds:
      centre = 0 if constant else truth + error * generator.normal(size=n)
      scale = spread * generator.uniform(0.5, 1.5, n)
      z = centre + scale * generator.standard_t(4, (G, n))
      samples.append((np.round(z.T * 51) / 51).clip(LOW, HIGH))
    samples = np.array(samples, np.float32)  # [S, n, G]
    greedy = samples[..., -1]
    nats = 0 if G == 1 else 3.1 if stage == 'ce' else 1.9
    entropy = np.full((len(seeds), n), nats)
    atomic.write_npz(
      folder / 'evaluation' / f'{stage}_test.npz',
      target_z=y,
      target=y * std + mean,
      samples_z=samples,
      greedy_z=greedy,
      entropy=entropy,
      mean=np.float64(mean),
      std=np.float64(std),
      low=np.float64(LOW),
      high=np.float64(HIGH),
    )
    for i, seed in enumerate(seeds):
      values = sampled.evaluate(
        samples[i], greedy[i], entropy[i], y, low=LOW, high=HIGH, std=std
      )
      if stage in exact:
        values += exact_values(samples[i], y, std)
      rows += [(task, seed, stage, 'test', *value) for value in values]
      for epoch in range(num_epochs):
        fade = np.exp(-4 * epoch / num_epochs)
        noise = 0.02 * generator.normal(size=4)
        if not {'remax', 'grpo'} & set(stage.split('_')):
          curves = {
            'train/loss': 0.9 + fade + noise[0],
            'val/loss': 1.0 + fade + 0.1 * epoch / num_epochs + noise[1],
          }
        else:
          curves = {
            'train/loss': noise[0],
            'train/reward': -0.2 - 0.1 * fade + noise[2] / 4,
            'val/reward': -0.22 - 0.1 * fade + noise[3] / 4,
          }
        if epoch == 0:  # before the first step there is only validation
          curves = {k: v for k, v in curves.items() if k.startswith('val/')}
        place = {'stage': stage, 'seed': seed, 'epoch': epoch}
        records.append(place | {'step': 8 * epoch, 'seconds': 0.5} | curves)
  rows = results.over_seeds(rows)
  atomic.write_csv(folder / 'results.csv', results.COLUMNS, rows)
  atomic.write_text(
    folder / metrics_log.METRICS_FILE,
    ''.join(json.dumps(record) + '\n' for record in records),
  )
  atomic.write_json(
    folder / 'run.json',
    {
      'task': task,
      'target': target,
      'stages': stages,
      'seeds': seeds,
      'num_train': 721,
      'num_val': 103,
      'num_test': n,
      'parameters': 5_462_018,
      'constant_target': constant,
    },
  )
  atomic.write_json(
    folder / 'config.json',
    {'seed': 0, 'model': {'width': 256}, 'tokenizer': TOKENIZER},
  )
  atomic.write_json(
    folder / 'env.json',
    {
      'python': '3.11.9',
      'jax': '0.10.2',
      'git_commit': '8f3c2e1',
      'num_devices': 1,
      'mesh': {'data': 1, 'model': 1},
      'command': "python -m genre2_jax.main '--config=a b'",
    },
  )
  return folder


def exact_values(samples, y, std):
  """Metrics of a grid that is known exactly, and of its recalibration."""
  values = np.linspace(LOW, HIGH, 17)
  centre = samples.mean(axis=1, keepdims=True)
  summary = exact_metrics.summarize(
    -np.square(values - centre),
    exact_metrics.Grid(values, np.full(17, values[1] - values[0])),
    y,
    np.abs(values - y[:, None]).argmin(axis=1),
  )
  return [
    *exact_metrics.evaluate(summary, y, std=std),
    *exact_metrics.evaluate(summary, y, std=std, name='tempered'),
    ('tempered', 'temperature', 1.25),
    ('conformal', 'coverage90', 0.875),
    ('conformal', 'width90', 1.5),
  ]


def write_references(workdir, **rmse):
  rows = [
    ('concrete', 0, stage, split, 'greedy', 'rmse', value)
    for stage, value in rmse.items()
    for split in ('val', 'test')
  ]
  atomic.write_csv(workdir / 'references.csv', results.COLUMNS, rows)


def write_inspection(workdir):
  """What `runs/inspection.py` leaves, of two columns."""
  column = {'kind': 'number', 'distinct': 9, 'range': '1 to 9', 'unseen': {}}
  atomic.write_json(
    workdir / 'columns.json',
    {
      'columns': [
        column | {'name': name, 'missing': {'train': 3, 'test': 0}}
        for name in ('area', 'city')
      ]
    },
  )
  dependence = {'kind': 'number', 'predictions': [1.0, 2.0]}
  atomic.write_json(
    workdir / 'importances.json',
    {
      'rows': 20,
      'repeats': 3,
      'importances': [
        {'column': 'area', 'mean': 4.0, 'std': 0.5},
        {'column': 'city', 'mean': -0.1, 'std': 0.1},
      ],
      'dependences': [
        dependence | {'column': 'area', 'grid': [1, 2], 'quantiles': [1, 2]},
        dependence | {'column': 'city', 'grid': ['a', 'b'], 'quantiles': []},
      ],
    },
  )


def write_run(
  folder,
  *,
  task='sensory',
  method='ce',
  seeds=(0, 1),
  error=0.4,
  spread=0.4,
  n=24,
  G=16,
  seconds=12.5,
):
  """What a finished run leaves that a comparison reads."""
  is_point = method.partition('@')[0] in POINT_METHODS
  stages = ['pretrain']
  if method in ('remax', 'grpo', 'crps'):
    stages.append('finetune')
  truth = np.random.default_rng(len(task)).normal(size=n)  # of the task alone
  noise = np.random.default_rng(sum(map(ord, task + method)))
  mean, std = 35.0, 16.0
  rows = []
  for stage in stages:
    centre = truth + error * noise.normal(size=(len(seeds), n))
    draws = centre[..., None] + (
      0 if is_point else spread * noise.normal(size=(len(seeds), n, G))
    )
    arrays = {
      'target': truth * std + mean,
      'target_z': truth,
      'mean': np.float64(mean),
      'std': np.float64(std),
      'low': np.float64(-4),
      'high': np.float64(4),
      'greedy_z': centre.astype(np.float32),
    }
    if not is_point:
      arrays['samples_z'] = draws.astype(np.float32)
    atomic.write_npz(folder / 'evaluation' / f'{stage}_test.npz', **arrays)
    for i, seed in enumerate(seeds):
      if is_point:
        values = [
          ('mean', 'r2', points.r2(centre[i], truth)),
          ('mean', 'rmse', points.rmse(centre[i], truth)),
          ('mean', 'spearman', points.spearman(centre[i], truth)),
          ('mean', 'rmse_unit', std * points.rmse(centre[i], truth)),
        ]
      else:
        values = sampled.evaluate(
          draws[i], centre[i], np.ones(n), truth, low=-4, high=4, std=std
        )
        if method in ('crps', 'raft'):
          values += [
            ('exact_mean', 'r2', points.r2(centre[i], truth)),
            ('exact_mean', 'rmse', points.rmse(centre[i], truth)),
            ('exact_mean', 'spearman', points.spearman(centre[i], truth)),
            ('exact_mean', 'rmse_unit', std * points.rmse(centre[i], truth)),
          ]
      rows += [(task, seed, stage, 'test', *value) for value in values]
      rows += [(task, seed, stage, 'val', *value) for value in values]
  atomic.write_csv(
    folder / 'results.csv', results.COLUMNS, results.over_seeds(rows)
  )
  atomic.write_json(
    folder / 'env.json',
    {
      'processor': 'AMD EPYC',
      'jax': '0.10.2',
      'git_commit': '8f3c2e1',
      'num_devices': 1,
      'device_kind': 'cpu',
    },
  )
  atomic.write_json(folder / 'seconds.json', {'seconds': seconds})
  atomic.write_json(
    folder / 'run.json', {'task': task, 'stages': stages, 'seeds': seeds}
  )
  return folder


def write_benchmark(
  workdir, methods, tasks, *, missing=(), seeds=(0, 1), n=24, G=16
):
  """A benchmark whose later methods are better."""
  for i, task in enumerate(tasks):
    for j, method in enumerate(methods):
      if (task, method) not in missing:
        write_run(
          workdir / task / method,
          task=task,
          method=method,
          seeds=seeds,
          n=n,
          G=G,
          error=(0.3 + 0.1 * (i % 5)) * (1.2 - 0.5 * j / len(methods)),
          spread=0.5 - 0.3 * j / len(methods),
        )
  atomic.write_json(
    workdir / 'benchmark.json',
    {
      'command': 'python -m genre2_jax.benchmark --workdir=x',
      'tasks': tasks,
      'methods': methods,
    },
  )
  return workdir
