"""The figures of a comparison: a method looks the same in all of them."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from genre2_jax.benchmark import comparison_tables, statistics
from genre2_jax.benchmark.statistics import BASE, Comparison
from genre2_jax.report import drawing
from genre2_jax.report.drawing import Panels, Section
from genre2_jax.report.inputs import COLORS, NOMINAL, TERM_NAMES

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# Of recipes; one that is named after its objective is called as that.
_RECIPES = {'best': 'best recipe', 'genre2': 'GenRe²', 'riemann': 'Riemann'}
WIDE = 10.0  # inches
NUM_HIGHLIGHTED = 3  # of the best methods, beside the references
FLOOR = -0.5  # of the axes of R² and skill: below, how far does not matter
_LINES = ('-', '--', ':', '-.')
_MARKERS = ('o', 's', '^', 'D')


def method_name(method: str) -> str:
  """What a reader calls it; of `method@tokenizer`, both."""
  base, at, tokenizer = method.partition('@')
  name = (TERM_NAMES | _RECIPES).get(base, base)
  return name + (f' @ {tokenizer}' if at else '')


def draw(compared: Comparison) -> list[Section]:
  """Draws every figure that the results have numbers for."""
  unit = compared.benchmark.unit.name
  tasks = f'{len(compared.tasks)} task' + 's' * (len(compared.tasks) != 1)
  sections = (
    (
      'Ranks',
      'Average rank by R² over tasks, 1 is best. A thick line joins methods '
      'that differ by less than the critical difference of the Nemenyi test '
      f'(p = {statistics.SIGNIFICANCE:g}).',
      _critical_difference,
    ),
    (
      'Tasks',
      'R² of the headline estimator, means over seeds. Skill against a '
      'method is the share of its mean squared error that is gone: 1 - '
      '(1 - R²) / (1 - its R²).',
      _tasks,
    ),
    (
      'Sampling efficiency',
      f'RMSE ({unit}) of the best (an oracle picks it) and of the mean of the '
      'first '
      f'k samples; means over seeds and {tasks}.',
      _sampling_efficiency,
    ),
    (
      'Calibration',
      'Whether the predictive distribution means what it says; means over '
      f'seeds and {tasks}.',
      _calibration,
    ),
    (
      'Sharpening',
      'What each objective does to the predictive distribution, beside the '
      f'cross-entropy base; all samples, means over seeds and {tasks}.',
      _sharpening,
    ),
    (
      'Tokenizers',
      f'Mean R² over {tasks}, by objective and tokenizer.',
      _tokenizers,
    ),
  )
  return drawing.draw(sections, compared)


def looks(compared: Comparison) -> dict[str, dict[str, Any]]:
  """Colour, line and marker of each method, in the benchmark's order."""
  fixed = {
    'ce': {'color': COLORS[0], 'linestyle': '-', 'marker': 'o'},
    'catboost': {'color': drawing.INK, 'linestyle': '-', 'marker': 'X'},
  }
  colors, chosen, number = COLORS[1:], {}, 0
  for method in compared.estimators:
    if method in fixed:
      chosen[method] = fixed[method]
      continue
    # Neighbours in the list differ in colour, every fifth in line and marker.
    kind = number // len(colors) % len(_LINES)
    chosen[method] = {
      'color': colors[number % len(colors)],
      'linestyle': _LINES[kind],
      'marker': _MARKERS[kind],
    }
    number += 1
  return chosen


def _critical_difference(compared: Comparison) -> Panels:
  """Demšar's diagram (JMLR 2006, figure 1)."""
  if compared.critical_difference is None:
    return
  methods, cd = list(compared.methods), compared.critical_difference
  ranks = compared.ranks['r2'].to_numpy()  # ascending
  k = len(methods)
  groups = _cliques(ranks, cd)
  num_left = math.ceil(k / 2)
  step, first = 0.32, 0.3 + 0.16 * len(groups)
  height = first + step * num_left
  figure, ax = _wide(height + 1.0)
  ax.set_axis_off()
  margin = 0.42 * (k - 1)
  ax.set(xlim=(1 - margin, k + margin), ylim=(height, -0.75))
  line: dict[str, Any] = {
    'color': drawing.INK,
    'linewidth': 1,
    'solid_capstyle': 'butt',
  }
  ax.plot([1, k], [0, 0], **line)
  for tick in range(1, k + 1):
    ax.plot([tick, tick], [0, -0.08], **line)
    ax.text(tick, -0.12, str(tick), ha='center', va='bottom')
  ax.plot([1, 1 + cd], [-0.5, -0.5], **line | {'linewidth': 2})
  ax.text(
    1 + cd / 2,
    -0.54,
    f'critical difference {cd:.2f}',
    ha='center',
    va='bottom',
  )
  for level, (i, j) in enumerate(groups):
    y = 0.16 * (level + 1)
    ends = [ranks[i] - 0.012 * k, ranks[j] + 0.012 * k]
    ax.plot(ends, [y, y], **line | {'linewidth': 3.5})
  look = looks(compared)
  for place, (method, rank) in enumerate(zip(methods, ranks, strict=True)):
    is_left = place < num_left
    y = first + step * (place if is_left else k - 1 - place)
    side = 1 - 0.03 * (k - 1) if is_left else k + 0.03 * (k - 1)
    ax.plot([rank, rank, side], [0, y, y], **line | {'linewidth': 0.8})
    ax.text(
      side - 0.01 * (k - 1) if is_left else side + 0.01 * (k - 1),
      y,
      f'{method_name(method)}  {rank:.2f}',
      ha='right' if is_left else 'left',
      va='center',
      color=look[method]['color'] if method in statistics.REFERENCES else None,
      fontweight='bold' if method in statistics.REFERENCES else None,
    )
  yield (
    'critical_difference',
    f'Average rank of {k} methods on {len(compared.tasks)} tasks, by R²',
    figure,
  )


def _cliques(ranks: np.ndarray, cd: float) -> list[tuple[int, int]]:
  """Longest runs of sorted ranks that span less than cd: first and last."""
  groups: list[tuple[int, int]] = []
  for i in range(len(ranks)):
    j = int(np.searchsorted(ranks, ranks[i] + cd)) - 1
    if j > i and (not groups or j > groups[-1][1]):
      groups.append((i, j))
  return groups


def _tasks(compared: Comparison) -> Panels:
  values = compared.values['r2']
  look = looks(compared)
  shown = [r for r in statistics.REFERENCES if r in compared.methods]
  best = [m for m in compared.methods if m not in shown][:NUM_HIGHLIGHTED]
  shown = best + shown
  values = values.loc[values.mean(axis=1).sort_values().index]
  low = _floor(values)
  figure, ax = _wide(1.2 + 0.27 * len(values))
  places = np.arange(len(values))
  others = [method for method in values if method not in shown]
  for method in [*others, *reversed(shown)]:
    is_other = method not in shown
    first_other = bool(others) and method == others[0]
    _dots(
      ax,
      values[method].to_numpy(),
      places,
      low,
      color='#c4c4c4' if is_other else look[method]['color'],
      marker=None if is_other else look[method]['marker'],
      size=22 if is_other else 38,
      label=('others' if first_other else None)
      if is_other
      else method_name(method),
      zorder=2 if is_other else 4,
    )
  _rows(ax, places, [drawing.wrapped(str(task)) for task in values.index])
  ax.set(xlim=(low - 0.02, 1.02), xlabel='R² on test')
  _legend_above(ax, reverse=True)
  yield 'tasks', f'R² per task{_clipped(values)}', figure

  for reference in statistics.REFERENCES:
    if reference in compared.methods and len(compared.methods) > 1:
      yield _skill(compared, reference, look)


def _skill(compared: Comparison, reference: str, look: Mapping) -> tuple:
  values = compared.common('r2')
  error = 1 - values[reference]
  # A reference without error leaves nothing to gain.
  skill = 1 - (1 - values.drop(columns=reference)).div(
    error.where(error > 0), axis=0
  )
  methods = list(skill)[::-1]
  low = _floor(skill)
  figure, ax = _wide(1.0 + 0.27 * len(methods))
  for place, method in enumerate(methods):
    numbers = skill[method].dropna().to_numpy()
    if not len(numbers):
      continue
    color = look[method]['color']
    _dots(
      ax,
      numbers,
      np.full(len(numbers), place),
      low,
      color=color,
      marker='o',
      size=20,
      alpha=0.45,
      zorder=3,
    )
    median = max(float(np.median(numbers)), low)
    ax.plot([median] * 2, [place - 0.33, place + 0.33], color=color, lw=2.5)
  ax.axvline(0, color=drawing.INK, linewidth=1)
  _rows(ax, np.arange(len(methods)), [method_name(m) for m in methods])
  ax.set(
    xlim=(low - 0.02, None), xlabel=f'skill against {method_name(reference)}'
  )
  return (
    f'skill_against_{reference}',
    f'Skill against {method_name(reference)}: a dot per task, a bar at the '
    f'median{_clipped(skill)}',
    figure,
  )


def _sampling_efficiency(compared: Comparison) -> Panels:
  look = looks(compared)
  samples = compared.samples
  if not samples:
    return
  figure, axes = _wide_pair(4.2)
  unit = compared.benchmark.unit.name
  for ax, kind in zip(axes, ('best', 'mean'), strict=True):
    for method in compared.methods:
      if method in samples:
        ax.plot(
          samples[method].ks,
          getattr(samples[method], kind),
          markersize=4,
          linewidth=1.4,
          label=method_name(method),
          **look[method],
        )
    ks = max((s.ks for s in samples.values()), key=len)
    ax.set_xscale('log', base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    curves = np.concatenate([getattr(s, kind) for s in samples.values()])
    if kind == 'best' and curves.min() > 0:  # it falls towards 0
      ax.set_yscale('log')
      ax.locator_params(axis='y', subs=(1, 2, 5))
      ax.yaxis.set_major_formatter('{x:g}')
      ax.yaxis.set_minor_formatter('')
    else:  # An outlier would flatten the others.
      top = min(curves.max(), 4 * np.median(curves)) or 1
      ax.set_ylim(0, 1.05 * top)
    ax.set_xlabel('samples k')
    ax.set_ylabel(f'RMSE of the {kind} of k ({unit})')
  _legend_beside(figure, axes[0])
  yield (
    'sampling_efficiency',
    f'RMSE of the best (left) and of the mean (right) of k samples, {unit}',
    figure,
  )


def _calibration(compared: Comparison) -> Panels:
  look = looks(compared)
  samples = compared.samples
  if not samples:
    return
  figure, axes = _wide_pair(4.2)
  for ax, zero in zip(axes, (0, 1), strict=True):
    ax.plot([0, 1], [0, 1 - zero], color=drawing.FAINT, linewidth=1)
    ax.axvline(NOMINAL, color=drawing.FAINT, linewidth=0.8, linestyle=':')
    for method in compared.methods:
      if method in samples:
        ax.plot(
          statistics.LEVELS,
          samples[method].coverage - zero * statistics.LEVELS,
          markersize=3.5,
          markevery=3,
          linewidth=1.4,
          label=method_name(method),
          **look[method],
        )
    ax.set(xlim=(0, 1), xlabel='nominal coverage')
    ax.xaxis.set_major_formatter(drawing.percent)
    ax.yaxis.set_major_formatter(drawing.percent)
  axes[0].set(ylim=(0, 1), ylabel='share of targets covered')
  axes[1].set_ylabel('share covered \N{MINUS SIGN} nominal coverage')
  _legend_beside(figure, axes[0])
  yield (
    'calibration',
    'Targets inside central intervals of the samples; below the line: '
    'overconfident',
    figure,
  )


def _sharpening(compared: Comparison) -> Panels:
  frame = compared.distributions
  methods = [m for m in compared.samples if frame.loc[m].notna().all()][::-1]
  if not methods:
    return
  look, unit = looks(compared), compared.benchmark.unit.name
  base = frame.loc[BASE] if BASE in methods else None
  from matplotlib.figure import Figure

  figure = Figure(
    figsize=(WIDE, 1.0 + 0.27 * len(methods)), layout='constrained'
  )
  axes = figure.subplots(1, 3, sharey=True)
  places = np.arange(len(methods))
  for ax, column, label in zip(
    axes,
    frame,
    (f'CRPS ({unit})', 'coverage of the central 90%', f'width of it ({unit})'),
    strict=True,
  ):
    numbers = frame.loc[methods, column]
    if base is not None:
      ax.axvline(base[column], color=COLORS[0], linewidth=1)
      ax.hlines(
        places, base[column], numbers, color=drawing.FAINT, linewidth=1.2
      )
    if column == 'coverage90':
      ax.axvline(NOMINAL, color=drawing.FAINT, linewidth=1, linestyle=':')
      ax.xaxis.set_major_formatter(drawing.percent)
    for place, method in zip(places, methods, strict=True):
      ax.plot(
        numbers[method],
        place,
        'o',
        markersize=6,
        color=look[method]['color'],
        zorder=4,
      )
    ax.set_xlabel(label)
    ax.tick_params(axis='y', length=0)
  _rows(axes[0], places, [method_name(method) for method in methods])
  caption = 'CRPS, coverage and width of the central 90% interval'
  if base is not None:
    caption += f'; the blue line is {method_name(BASE)}'
  yield 'sharpening', caption, figure


def _tokenizers(compared: Comparison) -> Panels:
  """Objectives by tokenizers, for methods called `objective@tokenizer`."""
  means = compared.common('r2').mean()
  pairs = [m.partition('@') for m in means.index if '@' in m]
  if len({tokenizer for _, _, tokenizer in pairs}) < 2:
    return
  frame = pd.DataFrame(
    {
      tokenizer: pd.Series(
        {m: means[f'{m}@{t}'] for m, _, t in pairs if t == tokenizer}
      )
      for _, _, tokenizer in pairs
    }
  )
  frame = frame.loc[frame.mean(axis=1).sort_values(ascending=False).index]
  frame = frame[frame.mean().sort_values(ascending=False).index]
  figure, ax = _wide(1.0 + 0.34 * len(frame))
  numbers = frame.to_numpy()
  low, high = max(np.nanmin(numbers), FLOOR), np.nanmax(numbers)
  low, high = (low, high) if low < high else drawing.padded(low, high, 0.1)
  ax.imshow(
    np.ma.masked_invalid(numbers),
    cmap='Blues',
    vmin=low - 0.15 * (high - low),  # the worst is pale, not blank
    vmax=high,
    aspect='auto',
  )
  ax.grid(False)
  for (i, j), value in np.ndenumerate(numbers):
    is_dark = value > low + 0.6 * (high - low)
    ax.text(
      j,
      i,
      comparison_tables.number(value) or '\N{EN DASH}',
      ha='center',
      va='center',
      color='white' if is_dark else drawing.INK,
    )
  ax.set_xticks(range(len(frame.columns)), frame.columns)
  ax.set_yticks(range(len(frame)), [method_name(m) for m in frame.index])
  ax.tick_params(length=0)
  yield 'tokenizers', 'Mean R² by objective (rows) and tokenizer', figure


# --------------------------------------------------------------------- marks


def _wide(height: float) -> tuple['Figure', 'Axes']:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(WIDE, height), layout='constrained')
  return figure, figure.subplots()


def _wide_pair(height: float) -> tuple['Figure', Sequence['Axes']]:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(WIDE, height), layout='constrained')
  return figure, figure.subplots(1, 2)


def _dots(
  ax: 'Axes',
  values: np.ndarray,
  places: np.ndarray,
  low: float,
  *,
  size: float,
  marker: str | None,
  label: str | None = None,
  **look: Any,
) -> None:
  """Dots; what lies below `low` is a triangle at the edge."""
  inside = values >= low
  ax.scatter(
    values[inside],
    places[inside],
    s=size,
    marker=marker or 'o',
    linewidth=0,
    label=label,
    **look,
  )
  below = values < low
  ax.scatter(
    np.full(below.sum(), low),
    places[below],
    s=size,
    marker='<',
    linewidth=0,
    **look,
  )


def _floor(values: pd.DataFrame) -> float:
  lowest = np.nanmin(values.to_numpy(), initial=0)
  return float(max(lowest, FLOOR))


def _clipped(values: pd.DataFrame) -> str:
  count = int((values < FLOOR).sum().sum())
  if not count:
    return ''
  floor = comparison_tables.number(FLOOR, 1)
  return f'; {count} below {floor} at the left edge'


def _rows(ax: 'Axes', places: np.ndarray, labels: Sequence[str]) -> None:
  ax.set_yticks(places, labels)
  ax.set_ylim(-0.6, len(labels) - 0.4)
  ax.tick_params(axis='y', length=0)


def _legend_above(ax: 'Axes', reverse: bool = False) -> None:
  ax.legend(
    loc='lower left',
    bbox_to_anchor=(0, 1),
    ncols=7,
    borderaxespad=0,
    borderpad=0.2,
    columnspacing=1.2,
    handletextpad=0.2,
    reverse=reverse,
  )


def _legend_beside(figure: 'Figure', ax: 'Axes') -> None:
  """Right of both axes, best average rank first."""
  handles, labels = ax.get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside right upper', handlelength=2.8)
