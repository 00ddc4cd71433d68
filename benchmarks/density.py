"""Distributions that a number's digits can draw, on one-dimensional curves.

    python benchmarks/density.py

After DBR's density estimation (Song & Bahri, arXiv 2501.19383): points (x, y)
with x uniform on [0, 1] and noise that grows, forks, leans or closes a circle.
Each method learns p(y | x) from the points of a table and is drawn as a heat
map of its samples under points that it has not seen; the first column is drawn
from the law itself. The titles give the CRPS on the unseen points. Writes

    docs/figures/density.png
    benchmarks/results/density.csv   curve, method, CRPS on unseen points

Stopped and started again, it goes on where it was (some 20 minutes on 2 CPU
cores). The constants of the curves are this script's own, fixed before any run.
"""

import argparse
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from genre2_jax.files import atomic
from genre2_jax.metrics import sampled
from genre2_jax.runs.finished import open_run

_NUM_ROWS = 2000  # of a table, of which 64 % are trained on
_NUM_HELD_OUT = 1000
_NUM_SAMPLES = 256  # of p(y | x), per x
_GRID = np.linspace(0, 1, 120)  # x of the heat map's columns
_NUM_BINS = 60  # rows of the heat map: several of 256 numbers in each

# Same encoder, same training; only what a number is differs.
SETTINGS = {
  'stages': ('pretrain',),
  'model.width': 64,
  'model.num_layers': 2,
  'model.feedforward': 128,
  'model.encoder_hidden': 128,
  'model.encoder_layers': 2,
  'model.head_hidden': 256,
  'model.head_layers': 2,
  'model.dropout': 0.0,
  'model.numeric_embedding': 'piecewise_linear',
  'pretrain.epochs': 60,
  'pretrain.learning_rate': 1e-3,
  'eval.num_samples': 32,
}
METHODS = {
  'digits': {'tokenizer.name': 'normalized'},
  'digits, 3 times': {'tokenizer.name': 'repetition', 'tokenizer.repeats': 3},
  'histogram': {
    'tokenizer.name': 'bins',
    'model.head': 'histogram',
    'pretrain.objective': (('soft_ce', 1.0, {'kind': 'density'}),),
  },
}


# ----------------------------------------------------------------------- curves


def growing_noise(x, random):
  """y = sin 2πx + N(0, (0.05 + 0.45·x)²)."""
  return np.sin(2 * np.pi * x) + (0.05 + 0.45 * x) * random.normal(size=x.shape)


def two_branches(x, random):
  """y = s·(0.2 + x) + N(0, 0.08²); s = 1 with probability 0.7, else −1."""
  sign = np.where(random.uniform(size=x.shape) < 0.7, 1, -1)
  return sign * (0.2 + x) + 0.08 * random.normal(size=x.shape)


def skewed_step(x, random):
  """y = e for x < ½, and 2 − e from there on; e exponential with mean 0.25."""
  excess = random.exponential(0.25, size=x.shape)
  return np.where(x < 0.5, excess, 2 - excess)


def circle(x, random):
  """y = ±√(¼ − (x − ½)²) + N(0, 0.03²), both signs equally likely."""
  sign = np.where(random.uniform(size=x.shape) < 0.5, 1, -1)
  height = np.sqrt(0.25 - (x - 0.5) ** 2)
  return sign * height + 0.03 * random.normal(size=x.shape)


CURVES = {f.__name__: f for f in (growing_noise, two_branches, skewed_step)}
CURVES[circle.__name__] = circle


def sample(name, n, seed):
  """`n` points of a curve, float64: x [n], uniform on [0, 1], and y [n]."""
  random = np.random.default_rng(seed)
  x = random.uniform(size=n)
  return x, CURVES[name](x, random)


def sample_given(name, x, num_samples, seed):
  """Samples of the curve's own p(y | x), float64 [n, G]."""
  x = np.broadcast_to(np.asarray(x)[:, None], (len(x), num_samples))
  return CURVES[name](x, np.random.default_rng(seed))


# ------------------------------------------------------------------------ model


def fit_and_predict(path, x, method, workdir, num_samples=_NUM_SAMPLES):
  """Samples [n, G] of p(y | x [n]), from a model trained on a table's x and y.

  The only place that knows how a run is configured, trained and asked.
  """
  from configs import base
  from genre2_jax import train
  from genre2_jax.data import tables

  config = base.get_config()
  fields = SETTINGS | METHODS[method]
  fields |= {'size': 'paper', 'data.path': str(path), 'data.target': 'y'}
  config.update_from_flattened_dict(fields)
  workdir = train.train_and_evaluate(config, workdir)
  run = open_run(workdir)
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, 'x.csv')
    atomic.write_csv(file, ('x',), np.asarray(x)[:, None].tolist())
    rows = tables.read_rows(
      file, numeric_names=('x',), category_names=(), target_name='y'
    )
  predicted = run.predict(rows, num_samples=num_samples)
  samples = np.asarray(predicted['samples_z'][0], np.float64)
  return samples * run.model.scaler.std + run.model.scaler.mean


# ----------------------------------------------------------------------- figure


def density(samples, edges):
  """Share of samples [n, G] per bin and unit of y: float64 [bins, n]."""
  bins = len(edges) - 1
  index = np.searchsorted(edges, samples, side='right') - 1  # [n, G]
  inside = (index >= 0) & (index < bins)
  rows = np.broadcast_to(np.arange(len(samples))[:, None], index.shape)
  flat = rows[inside] * bins + index[inside]
  counts = np.bincount(flat, minlength=len(samples) * bins)
  share = counts.reshape(len(samples), bins) / samples.shape[1]
  return (share / np.diff(edges)).T


def plot(panels, held_out, scores=None, x=_GRID, max_points=300):
  """Heat maps of predicted samples with unseen points on top.

  Args:
    panels: {curve: {method: samples [len(x), G]}}, all curves of one list of
      methods.
    held_out: {curve: (x [n], y [n])}.
    scores: {curve: {method: CRPS}}, for the titles.
    x: of the samples' rows, equally spaced.
    max_points: shown of a curve.

  Returns:
    A matplotlib figure, a row per curve and a column per method.
  """
  from matplotlib.figure import Figure

  methods = list(next(iter(panels.values())))
  figure = Figure(
    figsize=(2.6 * len(methods) + 0.3, 2.1 * len(panels) + 0.2),
    layout='constrained',
  )
  axes = figure.subplots(
    len(panels), len(methods), sharex=True, sharey='row', squeeze=False
  )
  half = (x[1] - x[0]) / 2
  for row, (curve, by_method) in zip(axes, panels.items(), strict=True):
    points = [v[:max_points] for v in held_out[curve]]
    low, high = points[1].min(), points[1].max()
    margin = 0.08 * (high - low)
    edges = np.linspace(low - margin, high + margin, _NUM_BINS + 1)
    maps = {m: density(s, edges) for m, s in by_method.items()}
    # One scale per row; a few sharp columns must not bleach all others.
    first = next(iter(maps.values()))
    top = np.quantile(first[first > 0], 0.97)
    for ax, method in zip(row, methods, strict=True):
      ax.imshow(
        np.sqrt(maps[method]),
        origin='lower',
        aspect='auto',
        interpolation='nearest',
        extent=(x[0] - half, x[-1] + half, edges[0], edges[-1]),
        cmap='Blues',
        vmin=0,
        vmax=np.sqrt(top) * 1.1,
      )
      ax.scatter(*points, s=2.5, color='#c0392b', linewidth=0, alpha=0.6)
      ax.set(xlim=(0, 1), ylim=(edges[0], edges[-1]))
      title = method if ax in axes[0] else ''
      if scores is not None:
        title += f'{", " if title else ""}CRPS {scores[curve][method]:.3f}'
      ax.set_title(title, fontsize=9)
      ax.tick_params(labelsize=7)
    row[0].set_ylabel(curve.replace('_', ' '), fontsize=9)
  for ax in axes[-1]:
    ax.set_xlabel('x', fontsize=8)
  return figure


# ------------------------------------------------------------------------- main


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--runs', default='runs/density', help='workdirs')
  parser.add_argument(
    '--figure', default=str(ROOT / 'docs/figures/density.png')
  )
  parser.add_argument(
    '--results', default=str(ROOT / 'benchmarks/results/density.csv')
  )
  args = parser.parse_args()

  panels, scores, held_out, rows = {}, {}, {}, []
  for curve in CURVES:
    table = pathlib.Path(args.runs, f'{curve}.csv')
    points = np.transpose(sample(curve, _NUM_ROWS, seed=0))
    atomic.write_csv(table, ('x', 'y'), points.tolist())
    held_out[curve] = sample(curve, _NUM_HELD_OUT, seed=1)
    x = np.concatenate([_GRID, held_out[curve][0]])
    panels[curve], scores[curve] = {}, {}
    for method in ('the law itself', *METHODS):
      if method in METHODS:
        name = method.replace(', ', '_').replace(' ', '_')
        workdir = pathlib.Path(args.runs, f'{curve}_{name}')
        samples = fit_and_predict(table, x, method, workdir)
      else:
        samples = sample_given(curve, x, _NUM_SAMPLES, seed=2)
      panels[curve][method] = samples[: len(_GRID)]
      score = sampled.crps(samples[len(_GRID) :], held_out[curve][1])
      scores[curve][method] = score
      rows.append((curve, method, score))
  figure = plot(panels, held_out, scores)
  path = pathlib.Path(args.figure)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=130, metadata={'Software': None})
  atomic.write_csv(args.results, ('curve', 'method', 'crps'), rows)


if __name__ == '__main__':
  main()
