"""The report of a run: its numbers in words, tables and figures, on one page.

`write(workdir)` reads only what the run left in the workdir (run.json,
config.json, env.json, results.csv, metrics.jsonl, evaluation/*_test.npz) and
writes figures/*.png and report.html, which carries its figures inside and
asks the network for nothing. Again, later, elsewhere:
`python -m genre2_jax.report --workdir=DIR`.
"""

import argparse
import base64
import csv
import dataclasses
import io
import json
import math
import pathlib
import re
import shlex
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from genre2_jax import errors, metrics, writers

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

SPLIT = 'test'
REQUIRED = frozenset(  # fields of run.json
  'task target stages seeds num_train num_val num_test parameters '
  'tokenizer'.split()
)
NOMINAL = 0.9

# Okabe & Ito's colours, dark ones first: they keep apart for colour-blind eyes.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
MINUS = '\N{MINUS SIGN}'
INK, FAINT = '#222222', '#8a8a8a'

STAGE_NAMES = {
  'ce': 'CE',
  'crps': 'CRPS loss',
  'dr_grpo': 'Dr. GRPO',
  'exact': 'exact gradient',
  'grpo': 'GRPO',
  'ppo': 'PPO',
  'raft': 'RAFT',
  'reinforce': 'REINFORCE',
  'remax': 'ReMax',
  'rloo': 'RLOO',
}

ESTIMATOR_NAMES = {
  'greedy': 'greedy',
  'sample': 'one sample',
  'mean': 'mean',
  'median': 'median',
  'clipped_mean': 'clipped mean',
  'clipped_median': 'clipped median',
}

PANEL_SIZE = (4.8, 3.5)  # inches; two fit side by side, one fits a phone
STYLE = {
  'axes.axisbelow': True,
  'axes.edgecolor': FAINT,
  'axes.grid': True,
  'axes.labelsize': 9.5,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlesize': 10,
  'font.size': 9,
  'grid.color': '#e8e8e8',
  'legend.fontsize': 8.5,
  'legend.frameon': False,
  'text.parse_math': False,  # a column may be called '$'
  'xtick.color': '#444444',
  'ytick.color': '#444444',
}


@dataclasses.dataclass(frozen=True)
class Metric:
  """A column: its name, its unit, and how good a value is (None: neither)."""

  key: str
  name: str
  unit: str = ''
  goodness: Callable[[float], float] | None = None


def _higher(value: float) -> float:
  return value


def _lower(value: float) -> float:
  return -value


def _nominal(value: float) -> float:
  return -abs(value - NOMINAL)


RMSE = Metric('rmse', 'RMSE', 'z', _lower)
MAE = Metric('mae', 'MAE', 'z', _lower)
R2 = Metric('r2', 'R²', '', _higher)
SPEARMAN = Metric('spearman', 'Spearman', 'rank', _higher)
KENDALL = Metric('kendall', 'Kendall', 'τ-b', _higher)
CRPS = Metric('crps', 'CRPS', 'z', _lower)
COVERAGE = Metric('coverage90', 'Coverage', 'of 90%', _nominal)
WIDTH = Metric('width90', 'Width', 'of 90%, z')
ENTROPY = Metric('entropy', 'Entropy', 'nats')
REWARD = Metric('reward', 'Reward', 'z²', _higher)


@dataclasses.dataclass(frozen=True)
class Claim:
  """What the verdict speaks of, in words; `format` prints its values."""

  words: str
  estimator: str
  metric: Metric
  format: str


CLAIMS = (
  Claim('the RMSE of the mean', 'mean', RMSE, '{:.3f} z'),
  Claim('the R² of the median', 'median', R2, '{:.3f}'),
  Claim('CRPS', 'sample', CRPS, '{:.3f} z'),
  Claim(
    'the coverage of the central 90% interval', 'sample', COVERAGE, '{:.0%}'
  ),
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a stage predicts for the test rows: S seeds, n rows, G samples."""

  target_z: np.ndarray  # [n]
  target: np.ndarray  # [n], original unit
  samples_z: np.ndarray  # [S, n, G]
  mean: float  # original unit = z · std + mean
  std: float

  def in_unit(self, z: np.ndarray) -> np.ndarray:
    """z-scores in the original unit."""
    return z * self.std + self.mean


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything the report reads."""

  info: Mapping[str, Any]  # run.json
  config: Mapping[str, Any]
  env: Mapping[str, Any]
  records: Sequence[Mapping[str, Any]]  # of metrics.jsonl
  results: Mapping[tuple[str, ...], float]  # seed, stage, estimator, metric
  evaluations: Mapping[str, Evaluation]  # by stage

  @property
  def stages(self) -> list[str]:
    return list(self.evaluations)

  @property
  def seeds(self) -> list[str]:
    return [str(seed) for seed in self.info['seeds']]

  @property
  def unit(self) -> str:
    """The target's unit in words."""
    return self.info.get('unit') or 'original unit'

  def value(self, stage: str, estimator: str, metric: str) -> float:
    """A test metric: of the one seed, or the mean over seeds."""
    seed = self.seeds[0] if len(self.seeds) == 1 else 'mean'
    return self.results.get((seed, stage, estimator, metric), math.nan)

  def spread(self, stage: str, estimator: str, metric: str) -> float:
    """Its standard deviation over seeds; NaN for one seed."""
    return self.results.get(('std', stage, estimator, metric), math.nan)

  def color(self, stage: str) -> str:
    """The colour of a stage: CE has the first, in every report."""
    others = [name for name in self.stages if name != 'ce']
    return COLORS[['ce', *others].index(stage) % len(COLORS)]


def write(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes figures/*.png and report.html; returns the path of the latter.

  Missing or damaged inputs raise InputError.
  """
  workdir = pathlib.Path(workdir)
  run = load(workdir)
  sections = []
  for title, text, panels in _figure_sections(run):
    figures = []
    for name, caption, figure in panels:
      png = _render(figure)
      writers.write_bytes(workdir / 'figures' / f'{name}.png', png)
      data = base64.b64encode(png).decode()
      figures.append({'name': name, 'caption': caption, 'data': data})
    sections.append({'title': title, 'text': text, 'figures': figures})
  html = _template().render(
    title=run.info['task'],
    verdict=verdict(run),
    notes=_notes(run),
    facts=_facts(run),
    points=_point_table(run),
    distributions=_distribution_table(run),
    sections=sections,
    seeds=_seed_table(run),
    config=_flatten(run.config),
    env=[item for item in _flatten(run.env) if item[0] != 'command'],
    command=_command(run.env),
  )
  path = workdir / 'report.html'
  writers.write_text(path, html)
  return path


def load(workdir: str | pathlib.Path) -> Run:
  """Reads the inputs of the report; a missing one raises InputError."""
  workdir = pathlib.Path(workdir)
  try:
    run, config, env = (
      json.loads((workdir / name).read_text(encoding='utf-8'))
      for name in ('run.json', 'config.json', 'env.json')
    )
    with open(workdir / 'results.csv', encoding='utf-8', newline='') as file:
      results = {
        (row['seed'], row['stage'], row['estimator'], row['metric']): float(
          row['value']
        )
        for row in csv.DictReader(file)
        if row['split'] == SPLIT
      }
    evaluations = {
      stage: _load_evaluation(workdir / 'evaluation' / f'{stage}_{SPLIT}.npz')
      for stage in run['stages']
    }
  except FileNotFoundError as error:
    raise errors.InputError(
      f'{error.filename} is missing: a report needs a finished run'
    ) from error
  except (ValueError, KeyError) as error:
    raise errors.InputError(f'{workdir} is damaged: {error!r}') from error
  missing = REQUIRED - run.keys()
  if missing:
    raise errors.InputError(
      f'{workdir / "run.json"} lacks {", ".join(sorted(missing))}'
    )
  records = writers.read_metrics(workdir)
  return Run(run, config, env, records, results, evaluations)


def _load_evaluation(path: pathlib.Path) -> Evaluation:
  with np.load(path) as arrays:
    return Evaluation(
      target_z=arrays['target_z'].astype(np.float64),
      target=arrays['target'].astype(np.float64),
      samples_z=arrays['samples_z'],  # float32: the one large array
      mean=float(arrays['mean']),
      std=float(arrays['std']),
    )


# Words.


def verdict(run: Run) -> str:
  """One sentence: what the last stage did to the first, on test."""
  first, last = run.stages[0], run.stages[-1]
  rows = run.info['num_test']
  where = f'On {rows:,} test row{"s" * (rows != 1)}'
  if first == last:
    states = [f'{c.words} is {_value(run, c, last)}' for c in CLAIMS]
    return f'{where} with {_stage_name(last)}, {_enumerate(states)}.'
  *gains, coverage = (_change(run, claim) for claim in CLAIMS)
  # Accuracy and honesty that move in opposite directions deserve a 'but'.
  accuracy, *_, honesty = (_gain(run, claim) for claim in CLAIMS)
  turn = 'but' if accuracy * honesty < 0 else 'and'
  return (
    f'{where}, {_stage_name(last)} after {_stage_name(first)} '
    f'{", ".join(gains)}, {turn} {coverage}.'
  )


def _value(run: Run, claim: Claim, stage: str) -> str:
  value = run.value(stage, claim.estimator, claim.metric.key)
  if not math.isfinite(value):
    return 'undefined'
  return claim.format.format(value).replace('-', MINUS)


def _change(run: Run, claim: Claim) -> str:
  """For example 'lowered CRPS by 3.4% from 0.233 z to 0.225 z'."""
  ends = run.stages[0], run.stages[-1]
  before, after = (_value(run, claim, stage) for stage in ends)
  if before == after:  # as far as one can read
    return f'left {claim.words} at {before}'
  old, new = (
    run.value(stage, claim.estimator, claim.metric.key) for stage in ends
  )
  verb = 'raised' if new > old else 'lowered'
  is_error = claim.metric.goodness is _lower and old > 0
  percent = f' by {abs(new / old - 1):.1%}' if is_error else ''
  return f'{verb} {claim.words}{percent} from {before} to {after}'


def _gain(run: Run, claim: Claim) -> float:
  old, new = (
    claim.metric.goodness(run.value(stage, claim.estimator, claim.metric.key))
    for stage in (run.stages[0], run.stages[-1])
  )
  return new - old


def _notes(run: Run) -> list[str]:
  """What a reader must know before believing the verdict."""
  notes = []
  if len(run.seeds) == 1:
    notes.append('One seed: there is no spread to judge the numbers by.')
  else:
    notes.append(f'Numbers are means over {len(run.seeds)} seeds.')
    doubtful = [c.words for c in CLAIMS if _is_within_noise(run, c)]
    if doubtful:
      notes.append(
        f'The change in {_enumerate(doubtful)} is less than two standard '
        'errors of the paired differences between seeds.'
      )
  if run.info.get('constant_target'):
    notes.append(
      'The train target is constant. Where the test target is constant too, '
      'R² is 1 for exact predictions and 0 for others, and rank correlations '
      'are 0.'
    )
  if run.info['num_test'] == 1:
    notes.append('One test row: R², ranks and coverage mean nothing.')
  return notes


def _is_within_noise(run: Run, claim: Claim) -> bool:
  first, last = (
    np.array(
      [
        run.results.get(
          (seed, stage, claim.estimator, claim.metric.key), math.nan
        )
        for seed in run.seeds
      ]
    )
    for stage in (run.stages[0], run.stages[-1])
  )
  change = last - first
  standard_error = np.std(change, ddof=1) / math.sqrt(len(change))
  return bool(abs(np.mean(change)) < 2 * standard_error)


def _enumerate(words: Sequence[str]) -> str:
  *head, tail = words
  return f'{", ".join(head)} and {tail}' if head else tail


def _facts(run: Run) -> list[tuple[str, str]]:
  info = run.info
  samples = next(iter(run.evaluations.values())).samples_z.shape[-1]
  return [
    ('Target', f'{info["target"]} ({run.unit})'),
    (
      'Rows',
      f'{info["num_train"]:,} train, {info["num_val"]:,} validation, '
      f'{info["num_test"]:,} test',
    ),
    ('Stages', ' → '.join(_stage_name(stage) for stage in run.stages)),
    ('Tokenizer', str(info['tokenizer'])),
    ('Parameters', f'{info["parameters"]:,}'),
    ('Seeds', ', '.join(run.seeds)),
    ('Samples', f'{samples} per test row'),
  ]


def _stage_name(stage: str) -> str:
  return STAGE_NAMES.get(stage, stage)


def _command(env: Mapping[str, Any]) -> str:
  command = env.get('command') or ''
  return command if isinstance(command, str) else shlex.join(command)


def _flatten(
  tree: Mapping[str, Any], prefix: str = ''
) -> list[tuple[str, str]]:
  """Nested dicts as dotted names and values: {'a': {'b': 1}} → a.b, 1."""
  items = []
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      items += _flatten(value, f'{prefix}{key}.')
    else:
      text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
      )
      items.append((f'{prefix}{key}', text))
  return items


# Tables.


def _point_table(run: Run) -> dict[str, Any]:
  columns = [
    RMSE,
    MAE,
    R2,
    SPEARMAN,
    KENDALL,
    Metric('rmse_unit', 'RMSE', run.unit, _lower),
    Metric('mae_unit', 'MAE', run.unit, _lower),
  ]
  cells = {
    column.key: _cells(
      run,
      column,
      [
        [(stage, estimator) for stage in run.stages]
        for estimator in metrics.POINT_ESTIMATORS
      ],
    )
    for column in columns
  }
  groups = [
    {
      'name': ESTIMATOR_NAMES[estimator],
      'rows': [
        {
          'stage': _stage_name(stage),
          'color': run.color(stage),
          'cells': [cells[column.key][i][j] for column in columns],
        }
        for j, stage in enumerate(run.stages)
      ],
    }
    for i, estimator in enumerate(metrics.POINT_ESTIMATORS)
  ]
  return {'columns': columns, 'groups': groups}


def _distribution_table(run: Run) -> dict[str, Any]:
  columns = [CRPS, COVERAGE, WIDTH, ENTROPY, REWARD]
  cells = [
    _cells(run, column, [[(stage, 'sample') for stage in run.stages]])[0]
    for column in columns
  ]
  rows = [
    {
      'stage': _stage_name(stage),
      'color': run.color(stage),
      'cells': [column[i] for column in cells],
    }
    for i, stage in enumerate(run.stages)
  ]
  return {'columns': columns, 'rows': rows}


def _seed_table(run: Run) -> dict[str, Any] | None:
  if len(run.seeds) == 1:
    return None
  columns = [
    ('RMSE of the mean', 'z', 'mean', 'rmse'),
    ('R² of the mean', '', 'mean', 'r2'),
    ('R² of the median', '', 'median', 'r2'),
    ('CRPS', 'z', 'sample', 'crps'),
    ('Coverage', 'of 90%', 'sample', 'coverage90'),
  ]
  present = {seed for seed, *_ in run.results}
  names = [*run.seeds, 'mean', 'std', 'ensemble']
  seeds = [seed for seed in names if seed in present]
  groups = []
  for stage in run.stages:
    texts = [
      _texts(
        [
          run.results.get((seed, stage, estimator, metric), math.nan)
          for seed in seeds
        ]
      )
      for _, _, estimator, metric in columns
    ]
    rows = [
      {'seed': seed, 'summary': not seed.isdecimal(), 'cells': cells}
      for seed, *cells in zip(seeds, *texts, strict=True)
    ]
    name, color = _stage_name(stage), run.color(stage)
    groups.append({'name': name, 'color': color, 'rows': rows})
  heads = [{'name': name, 'unit': unit} for name, unit, *_ in columns]
  return {'columns': heads, 'groups': groups}


def _cells(
  run: Run, metric: Metric, places: Sequence[Sequence[tuple[str, str]]]
) -> list[list[dict[str, Any]]]:
  """A column in groups of (stage, estimator); the best of a group is marked.

  Only printed digits count: what reads equal is equal.
  """
  values = [
    [run.value(*place, metric.key) for place in group] for group in places
  ]
  decimals = _decimals([value for group in values for value in group])
  column = []
  for group, group_values in zip(places, values, strict=True):
    cells = [
      {
        'text': _text(value, decimals),
        'spread': _text(run.spread(*place, metric.key), decimals),
        'best': False,
      }
      for place, value in zip(group, group_values, strict=True)
    ]
    defined = [value for value in group_values if math.isfinite(value)]
    if metric.goodness and len({_text(v, decimals) for v in defined}) > 1:
      best = _text(max(defined, key=metric.goodness), decimals)
      for cell in cells:
        cell['best'] = cell['text'] == best
    column.append(cells)
  return column


def _texts(values: Sequence[float]) -> list[str]:
  """A column of numbers with one number of decimals, so that points align."""
  decimals = _decimals(values)
  return [_text(value, decimals) for value in values]


def _text(value: float, decimals: int) -> str:
  if not math.isfinite(value):
    return ''
  if value and not 1e-4 <= abs(value) < 1e6:
    return f'{value:.2e}'.replace('-', MINUS)
  return f'{value:,.{decimals}f}'.replace('-', MINUS)


def _decimals(values: Sequence[float]) -> int:
  """Decimals that give a typical value of the column three digits."""
  sizes = [abs(value) for value in values if math.isfinite(value) and value]
  if not sizes:
    return 3
  return min(max(2 - math.floor(math.log10(np.median(sizes))), 0), 6)


# Figures.

Panel = tuple[str, str, 'Figure']  # file name, caption, figure


def _figure_sections(run: Run) -> Iterator[tuple[str, str, Iterable[Panel]]]:
  import matplotlib

  samples = next(iter(run.evaluations.values())).samples_z.shape[-1]
  seeds = len(run.seeds) > 1
  thin = ' Thin lines: seeds; thick lines: their mean.' if seeds else ''
  sections = (
    (
      'Learning curves',
      f'Dashed: train. Solid: validation; the ring marks the best epoch.{thin}',
      _learning_curves,
    ),
    (
      'Predicted against true',
      f'The median of {samples} samples, with the central 90% interval'
      + (f' (seed {run.seeds[0]}).' if seeds else '.'),
      _predicted_against_true,
    ),
    (
      'Calibration',
      f'Whether the predictive distribution means what it says.{thin}',
      _calibration,
    ),
    (
      'Sharpening',
      'How wide the predictive distributions are, row by row'
      + (', all seeds.' if seeds else '.'),
      _sharpening,
    ),
    (
      'Predictive distributions',
      f'{samples} samples for test rows at fixed quantiles of the target'
      + (f' (seed {run.seeds[0]}).' if seeds else '.'),
      _examples,
    ),
    (
      'Sampling efficiency',
      'RMSE of the best (an oracle picks it) and of the mean of the first k '
      f'samples.{thin}',
      _sampling_efficiency,
    ),
  )
  with matplotlib.rc_context(STYLE):
    for title, text, panels in sections:
      yield title, text, panels(run)


def _panel(height: float = PANEL_SIZE[1]) -> tuple['Figure', 'Axes']:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(PANEL_SIZE[0], height), layout='constrained')
  return figure, figure.subplots()


def _render(figure: 'Figure') -> bytes:
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    # A name may use letters that the font lacks: boxes will do.
    warnings.filterwarnings('ignore', 'Glyph .* missing')
    figure.savefig(buffer, format='png', dpi=200, metadata={'Software': None})
  return buffer.getvalue()


def _file_name(kind: str, stage: str) -> str:
  return f'{kind}_{re.sub("[^A-Za-z0-9]+", "_", stage)}'


def _learning_curves(run: Run) -> Iterator[Panel]:
  for stage in run.stages:
    records = [r for r in run.records if r['stage'] == stage]
    has_reward = any(name.endswith('/reward') for r in records for name in r)
    kind = 'reward' if has_reward and stage != 'ce' else 'loss'
    figure, ax = _panel()
    for split, line in (('train', '--'), ('val', '-')):
      label = {'train': 'train', 'val': 'validation'}[split]
      _draw_curves(
        ax, records, f'{split}/{kind}', line, run.color(stage), label
      )
    if not ax.lines:
      _say(ax, f'no {kind} was recorded')
    else:
      ax.legend()
    what = 'reward (z²)' if kind == 'reward' else 'loss (nats per token)'
    if kind == 'loss' and stage != 'ce':
      what = 'loss'
    ax.set(xlabel='epoch', ylabel=what, title=_stage_name(stage))
    yield (
      _file_name('learning_curves', stage),
      f'{_stage_name(stage)}: {kind} by epoch',
      figure,
    )


def _draw_curves(
  ax: 'Axes',
  records: Sequence[Mapping[str, Any]],
  name: str,
  line: str,
  color: str,
  label: str,
) -> None:
  """One thin line per seed, and their mean; a ring at the best validation."""
  curves: dict[Any, dict[float, float]] = {}
  for record in records:
    if record.get(name) is not None:
      curves.setdefault(record['seed'], {})[record['epoch']] = record[name]
  if not curves:
    return
  epochs = sorted({epoch for curve in curves.values() for epoch in curve})
  mean = [
    np.mean([curve[epoch] for curve in curves.values() if epoch in curve])
    for epoch in epochs
  ]
  if len(curves) > 1:
    for curve in curves.values():
      ax.plot(
        *zip(*sorted(curve.items()), strict=True),
        line,
        color=color,
        linewidth=0.6,
        alpha=0.4,
      )
  alpha = 0.65 if name.startswith('train/') else 1
  ax.plot(
    epochs,
    mean,
    line,
    color=color,
    linewidth=1.6,
    label=label,
    alpha=alpha,
    marker='.' if len(epochs) == 1 else None,
  )
  if name.startswith('val/'):
    best = np.argmax(mean) if name.endswith('reward') else np.argmin(mean)
    ax.plot(
      epochs[best],
      mean[best],
      'o',
      color=color,
      markersize=7,
      markerfacecolor='white',
      markeredgewidth=1.5,
      zorder=5,
    )


def _predicted_against_true(run: Run, max_bars: int = 120) -> Iterator[Panel]:
  for stage, evaluation in run.evaluations.items():
    samples = evaluation.in_unit(evaluation.samples_z[0])  # [n, G]
    true, color = evaluation.target, run.color(stage)
    median = np.median(samples, axis=1)
    low, high = metrics.central_interval(samples, NOMINAL)
    # A wild exponent must not squeeze all else: the axes follow the targets.
    bottom, top = _padded(true.min(), true.max(), 0.1)
    shown = np.clip(median, bottom, top)
    outside = shown != median
    order = np.argsort(true, kind='stable')
    chosen = np.linspace(0, len(true) - 1, min(len(true), max_bars))
    bars = order[chosen.round().astype(int)]

    figure, ax = _panel(4.4)
    ax.plot([bottom, top], [bottom, top], color=FAINT, linewidth=1, zorder=1)
    ax.vlines(
      true[bars], low[bars], high[bars], color=color, alpha=0.35, linewidth=1
    )
    size = float(np.clip(4000 / len(true), 4, 22))
    ax.scatter(
      true[~outside],
      shown[~outside],
      s=size,
      color=color,
      alpha=0.75,
      linewidth=0,
      zorder=3,
    )
    if outside.any():
      ax.scatter(
        true[outside],
        shown[outside],
        s=26,
        marker='x',
        zorder=4,
        color=INK,
        clip_on=False,
        linewidth=1,
        label=f'{outside.sum()} beyond the axis',
      )
      ax.legend(loc='lower right')
    ax.set(
      xlim=(bottom, top),
      ylim=(bottom, top),
      aspect='equal',
      title=_stage_name(stage),
    )
    ax.set_xlabel(_with_unit('true', run))
    ax.set_ylabel(_with_unit('median of the samples', run))
    caption = f'{_stage_name(stage)}: median against true, {run.unit}'
    if len(bars) < len(true):
      caption += f'; intervals of {len(bars)} of {len(true):,} rows'
    yield _file_name('predicted_against_true', stage), caption, figure


def _calibration(run: Run) -> Iterator[Panel]:
  levels = np.linspace(0.05, 0.95, 19)
  figure, ax = _panel()
  ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
  ax.axvline(NOMINAL, color=FAINT, linewidth=0.8, linestyle=':')
  for stage, evaluation in run.evaluations.items():
    curves = [
      metrics.coverage_curve(samples, evaluation.target_z, levels)
      for samples in evaluation.samples_z
    ]
    _draw_seeds(ax, levels, curves, run.color(stage), _stage_name(stage))
  _percent_axis(ax.xaxis)
  _percent_axis(ax.yaxis)
  ax.set(
    xlim=(0, 1),
    ylim=(0, 1),
    xlabel='nominal coverage',
    ylabel='share of targets covered',
  )
  _legend_above(ax)
  yield (
    'calibration',
    'Targets inside central intervals of the samples; below the diagonal: '
    'overconfident',
    figure,
  )

  num_bins = 10
  edges = np.linspace(0, 1, num_bins + 1)
  figure, ax = _panel()
  ax.axhline(1, color=FAINT, linewidth=1)
  for stage, evaluation in run.evaluations.items():
    density = np.mean(
      [
        metrics.pit_histogram(samples, evaluation.target_z, num_bins)
        for samples in evaluation.samples_z
      ],
      axis=0,
    )
    ax.stairs(
      density,
      edges,
      color=run.color(stage),
      linewidth=1.8,
      label=_stage_name(stage),
    )
    ax.stairs(density, edges, color=run.color(stage), alpha=0.12, fill=True)
  ax.set(
    xlim=(0, 1),
    xlabel='probability integral transform',
    ylabel='density',
  )
  ax.set_ylim(0, max(ax.get_ylim()[1], 1.5))
  _legend_above(ax)
  yield (
    'pit',
    'Where targets fall among the samples (probability integral transform); '
    'flat: calibrated, U-shaped: overconfident',
    figure,
  )


def _sharpening(run: Run) -> Iterator[Panel]:
  def widths(evaluation: Evaluation) -> np.ndarray:
    low, high = metrics.central_interval(evaluation.samples_z, NOMINAL)
    return (high - low).ravel()

  def deviations(evaluation: Evaluation) -> np.ndarray:
    return evaluation.samples_z.std(axis=-1).ravel()

  for name, label, measure in (
    ('interval_widths', 'width of the central 90% interval (z)', widths),
    ('sample_spread', 'standard deviation of the samples (z)', deviations),
  ):
    figure, ax = _panel()
    values = {s: measure(e) for s, e in run.evaluations.items()}
    _draw_histograms(ax, run, values, from_zero=True, medians=True)
    ax.set(xlabel=label, ylabel='share of rows')
    _percent_axis(ax.yaxis)
    _legend_above(ax)
    yield name, f'{label[0].upper()}{label[1:]}', figure


def _examples(run: Run) -> Iterator[Panel]:
  target = next(iter(run.evaluations.values())).target
  order = np.argsort(target, kind='stable')
  quantiles = (0.1, 0.37, 0.63, 0.9)
  rows = {order[round(q * (len(order) - 1))]: q for q in reversed(quantiles)}
  for number, row in enumerate(reversed(rows), start=1):
    figure, ax = _panel(2.7)
    values = {
      stage: evaluation.in_unit(evaluation.samples_z[0, row])
      for stage, evaluation in run.evaluations.items()
    }
    _draw_histograms(ax, run, values, include=target[row])
    ax.axvline(target[row], color=INK, linewidth=1.5, label='target')
    _legend_above(ax)
    ax.set_ylabel('share of samples')
    ax.set_xlabel(_with_unit('sampled value', run))
    _percent_axis(ax.yaxis)
    yield (
      f'examples_{number}',
      f'Test row {row}, at the {_ordinal(rows[row])} percentile of the target',
      figure,
    )


def _ordinal(quantile: float) -> str:
  number = round(100 * quantile)
  suffix = {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')
  return f'{number}{suffix}'


def _sampling_efficiency(run: Run) -> Iterator[Panel]:
  G = min(e.samples_z.shape[-1] for e in run.evaluations.values())
  ks = [2**i for i in range(8) if 2**i <= G]
  curves = {
    stage: [
      metrics.sampling_efficiency(samples, evaluation.target_z, ks)
      for samples in evaluation.samples_z
    ]  # [S][best, mean][K]
    for stage, evaluation in run.evaluations.items()
  }
  for i, (name, label) in enumerate(
    (('best_of_k', 'best of k'), ('mean_of_k', 'mean of k'))
  ):
    figure, ax = _panel()
    for stage, seeds in curves.items():
      _draw_seeds(
        ax,
        ks,
        [seed[i] for seed in seeds],
        run.color(stage),
        _stage_name(stage),
        marker='o',
      )
    ax.set_xscale('log', base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.set_ylim(bottom=0)
    ax.set(xlabel='samples k', ylabel=f'RMSE of the {label} (z)')
    _legend_above(ax)
    yield (
      f'sampling_efficiency_{name}',
      f'RMSE of the {label} samples, z',
      figure,
    )


def _draw_seeds(
  ax: 'Axes',
  x: Sequence[float],
  curves: Sequence[Sequence[float]],
  color: str,
  label: str,
  marker: str | None = None,
) -> None:
  if len(curves) > 1:
    for curve in curves:
      ax.plot(x, curve, color=color, linewidth=0.6, alpha=0.45)
  ax.plot(
    x,
    np.mean(curves, axis=0),
    color=color,
    linewidth=1.8,
    label=label,
    marker=marker,
    markersize=4,
  )


def _draw_histograms(
  ax: 'Axes',
  run: Run,
  values: Mapping[str, np.ndarray],
  *,
  from_zero: bool = False,
  medians: bool = False,
  include: float | None = None,
  num_bins: int = 32,
) -> None:
  """Shares per bin, one outline per stage, over bins that the stages share."""
  pooled = np.concatenate(list(values.values()))
  # The outermost half percent is counted in the outermost bins.
  low, high = np.quantile(pooled, [0.005, 0.995])
  if from_zero:
    low, high = 0.0, high * 1.02 or 1.0
  else:
    if include is not None:
      low, high = min(low, include), max(high, include)
    low, high = _padded(low, high, 0.03)
  edges = np.linspace(low, high, num_bins + 1)
  for stage, sample in values.items():
    share = np.histogram(np.clip(sample, low, high), edges)[0] / len(sample)
    color, label = run.color(stage), _stage_name(stage)
    if medians:
      label += f', median {np.median(sample):.2f}'
      ax.axvline(np.median(sample), color=color, linewidth=1, linestyle='--')
    ax.stairs(share, edges, color=color, linewidth=1.6, label=label)
    ax.stairs(share, edges, color=color, alpha=0.15, fill=True)
  ax.set_xlim(low, high)


def _legend_above(ax: 'Axes') -> None:
  """Outside the axes, where no line runs through it; long ones in a column."""
  _, labels = ax.get_legend_handles_labels()
  ax.legend(
    loc='lower left',
    bbox_to_anchor=(0, 1),
    ncols=len(labels) if sum(map(len, labels)) < 40 else 1,
    borderaxespad=0,
    borderpad=0.2,
    columnspacing=1.2,
    handlelength=1.2,
  )


def _with_unit(text: str, run: Run) -> str:
  """An axis label that wraps rather than leaves the figure."""
  return textwrap.fill(f'{text} ({run.unit})', 42)


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
  """The range, `share` of its width longer at each end, and never empty."""
  pad = share * (high - low) or max(abs(low), 1.0) * share
  return low - pad, high + pad


def _percent_axis(axis: Any) -> None:
  axis.set_major_formatter(lambda share, _: f'{100 * share:.3g}%')


def _say(ax: 'Axes', text: str) -> None:
  ax.text(0.5, 0.5, text, color=FAINT, ha='center', transform=ax.transAxes)
  ax.set(xticks=[], yticks=[])


def _template() -> jinja2.Template:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template('report.html.j2')


def main(argv: Sequence[str] | None = None) -> int:
  """Command line: `--workdir=DIR`; the exit code is 2 for unusable input."""
  parser = argparse.ArgumentParser(
    prog='python -m genre2_jax.report', description='Writes report.html.'
  )
  parser.add_argument('--workdir', required=True, help='folder of a run')
  try:
    print(write(parser.parse_args(argv).workdir))
  except errors.InputError as error:
    print(error, file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
