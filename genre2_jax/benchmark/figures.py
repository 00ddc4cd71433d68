"""The figures of a comparison: a method looks the same in all of them."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from genre2_jax.benchmark import comparison_tables, statistics
from genre2_jax.benchmark.statistics import BASE, Comparison
from genre2_jax.report import drawing, numbers
from genre2_jax.report.drawing import Panels, Section
from genre2_jax.report.inputs import NOMINAL, TERM_NAMES
from genre2_jax.report.palette import COLORS, FAINT, INK, PAPER, SOFT

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# Of recipes; one that is named after its objective is called as that.
_RECIPES = {'best': 'best recipe', 'genre2': 'GenRe²', 'riemann': 'Riemann'}
_ROW = 0.27  # inches, of a method or a task
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
      'Task by task',
      'A row is a task, a dot a method: right of the line it is better than '
      'the baseline that the line stands for. Each figure is in an order of '
      'its own.',
      _gains,
    ),
    (
      'Ranks',
      'Average rank by R² over tasks, 1 is best. A bar at the right joins '
      'methods that differ by less than the critical difference of the '
      f'Nemenyi test (p = {statistics.SIGNIFICANCE:g}).',
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
    'catboost': {'color': INK, 'linestyle': '-', 'marker': 'X'},
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


def _gains(compared: Comparison) -> Panels:
  """R² beyond CatBoost's, and CRPS below that of the best distribution."""
  look = looks(compared)
  r2, tree = compared.common('r2'), statistics.TREES
  if tree in r2 and len(r2.columns) > 1:
    gain = r2.drop(columns=tree).sub(r2[tree], axis=0)
    shown = _highlighted(gain)
    figure = _lollipops(gain, gain.mean(), shown, look, method_name(tree))
    figure.axes[0].set_xlabel('R² higher by')
    yield (
      'gain_r2',
      f'R² beyond that of {method_name(tree)}{_beyond(gain[shown])}.',
      f'R² beyond that of {method_name(tree)} on '
      f'{numbers.count(len(gain), "task")}: {_gains_in_words(gain[shown])}',
      figure,
    )
  tests, yardstick = compared.crps_tests, compared.yardstick
  if tests is None or tests.empty:
    return
  crps = compared.crps.loc[list(compared.tasks)]
  lower = 1 - crps.drop(columns=yardstick).div(crps[yardstick], axis=0)
  shown, name = _highlighted(lower), method_name(yardstick)
  figure = _lollipops(lower, 1 - tests['ratio'], shown, look, name)
  figure.axes[0].set_xlabel('CRPS lower by')
  figure.axes[0].xaxis.set_major_formatter(drawing.percent)
  yield (
    'gain_crps',
    f'CRPS, by how much it is lower than that of {name}, the best baseline '
    f'with a distribution{_beyond(lower[shown])}.',
    f'CRPS below that of {name} on {numbers.count(len(lower), "task")}: '
    f'{_gains_in_words(lower[shown])}',
    figure,
  )


def _highlighted(gain: pd.DataFrame) -> list[str]:
  """The best ranks among what is no baseline; if all are, among them."""
  decoders = [m for m in gain if not statistics.is_baseline(m)]
  return (decoders or list(gain))[:NUM_HIGHLIGHTED]


def _gains_in_words(gain: pd.DataFrame) -> str:
  return ', '.join(
    f'{method_name(str(method))} is better on {(gain[method] > 0).sum()}'
    for method in gain
  )


def _limits(gain: pd.DataFrame) -> tuple[float, float]:
  """Of an axis of differences; what is far beyond most is at its edge."""
  values = gain.to_numpy()
  reach = 4 * float(np.quantile(np.abs(values), 0.75, method='lower')) or 1.0
  low, high = min(values.min(), 0), max(values.max(), 0)
  return drawing.padded(max(low, -reach), min(high, reach), 0.05)


def _beyond(gain: pd.DataFrame) -> str:
  low, high = _limits(gain)
  count = int(((gain < low) | (gain > high)).sum().sum())
  return f'; {count} beyond the edges, as triangles' if count else ''


def _lollipops(
  gain: pd.DataFrame,
  means: pd.Series,
  shown: Sequence[str],
  look: Mapping,
  line: str,
) -> 'Figure':
  """Tasks by methods, and the means above; `line` is what 0 stands for."""
  gain = gain.loc[gain[shown[0]].sort_values(kind='stable').index]
  others = [method for method in gain if method not in shown]
  low, high = _limits(gain[shown])
  count = len(gain)
  figure, ax = _tall(count + 1.6, 1.3)
  places = np.append(np.arange(count), count + 0.6)
  table = pd.concat([gain, means[list(gain)].to_frame().T])
  for method in [*others, *reversed(shown)]:
    values = table[method].to_numpy()
    color = look[method]['color'] if method in shown else FAINT
    if method == shown[0]:
      ends = np.clip(values, low, high)
      ax.hlines(places, 0, ends, color=color, linewidth=2, alpha=0.35)
    if method in others:
      inside = (values > low) & (values < high)
      ax.scatter(
        values[inside], places[inside], s=12, color=FAINT, alpha=0.45,
        linewidth=0, label='others' if method == others[0] else None,
      )  # fmt: skip
      continue
    for marker, chosen in (
      (look[method]['marker'], (values >= low) & (values <= high)),
      ('<', values < low),
      ('>', values > high),
    ):
      ax.scatter(
        np.clip(values[chosen], low, high), places[chosen], s=38, color=color,
        marker=marker, edgecolor=PAPER, linewidth=0.7, zorder=5,
        label=method_name(method) if marker not in '<>' else None,
      )  # fmt: skip
  ax.axvspan(0, high, color=COLORS[2], alpha=0.08, linewidth=0, zorder=0)
  ax.axvline(0, color=INK, linewidth=1.2, zorder=3)
  ax.axhline(count - 0.2, color=FAINT, linewidth=0.8)
  labels = [drawing.wrapped(str(task)) for task in gain.index]
  _rows(ax, places, [*labels, f'mean of {count}'])
  ax.get_yticklabels()[-1].set(fontweight='bold')
  ax.grid(False, axis='y')
  ax.text(
    0, count + 1.2, f' {line}', ha='left', va='bottom', color=SOFT, fontsize=9
  )
  ax.set(xlim=(low, high), ylim=(-0.7, count + 1.2))
  drawing.few_ticks(ax, 'x')
  handles, names = ax.get_legend_handles_labels()
  ranked = [method_name(m) for m in shown] + ['others'] * bool(others)
  order = [names.index(name) for name in ranked]
  figure.legend(
    [handles[i] for i in order], ranked, loc='outside upper left', ncols=4,
    borderpad=0.2, columnspacing=1.2, handletextpad=0.2,
  )  # fmt: skip
  return figure


def _critical_difference(compared: Comparison) -> Panels:
  """Demšar's diagram (JMLR 2006, figure 1), turned: a row per method."""
  if compared.critical_difference is None:
    return
  methods, cd = list(compared.methods), compared.critical_difference
  ranks = compared.ranks['r2'].to_numpy()  # ascending
  k = len(methods)
  groups = _cliques(ranks, cd)
  figure, ax = _tall(k + 1.5)
  look = looks(compared)
  places = np.arange(k)[::-1]
  for place, method, rank in zip(places, methods, ranks, strict=True):
    color = look[method]['color']
    ax.plot([1, rank], [place, place], color=FAINT, linewidth=0.8)
    ax.plot(rank, place, 'o', color=color, markersize=6)
  bar: dict[str, Any] = {'color': INK, 'solid_capstyle': 'butt'}
  ax.plot([1, 1 + cd], [k - 0.1] * 2, linewidth=2, **bar)
  ax.text(1, k + 0.1, f'critical difference {cd:.2f}', ha='left', va='bottom')
  step = 0.03 * (k - 1)
  for level, (i, j) in enumerate(groups):
    x = k + step * (level + 1)
    ends = [places[i] + 0.25, places[j] - 0.25]
    ax.plot([x, x], ends, linewidth=3.5, **bar)
  labels = [
    f'{method_name(method)}  {rank:.2f}'
    for method, rank in zip(methods, ranks, strict=True)
  ]
  _rows(ax, places, labels)
  for label, method in zip(ax.get_yticklabels(), methods, strict=True):
    if method in statistics.REFERENCES:
      label.set(color=look[method]['color'], fontweight='bold')
  ax.set(
    xlim=(0.9, k + step * (len(groups) + 1)),
    ylim=(-0.6, k + 0.9),
    xlabel='average rank',
  )
  ax.locator_params(axis='x', integer=True)
  ax.spines['left'].set_visible(False)
  best = ', '.join(
    f'{method_name(method)} {rank:.2f}'
    for method, rank in zip(methods[:3], ranks[:3], strict=True)
  )
  caption = f'Average rank of {k} methods on {len(compared.tasks)} tasks, by R²'
  yield 'critical_difference', f'{caption}.', f'{caption}; best {best}', figure


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
  figure, ax = _tall(len(values), 1.6)
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
      color=FAINT if is_other else look[method]['color'],
      marker=None if is_other else look[method]['marker'],
      alpha=0.5 if is_other else 1,
      size=16 if is_other else 34,
      label=('others' if first_other else None)
      if is_other
      else method_name(method),
      zorder=2 if is_other else 4,
    )
  _rows(ax, places, [drawing.wrapped(str(task)) for task in values.index])
  ax.set(xlim=(low - 0.02, 1.02), xlabel='R² on test')
  _legend_above(ax, reverse=True)
  best = values.mean().idxmax()
  yield (
    'tasks',
    f'R² per task{_clipped(values)}.',
    f'R² of {numbers.count(len(list(values)), "method")} on '
    f'{numbers.count(len(values), "task")}; the best mean is of '
    f'{method_name(str(best))}, '
    f'{comparison_tables.number(values[best].mean())}',
    figure,
  )

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
  figure, ax = _tall(len(methods))
  for place, method in enumerate(methods):
    found = skill[method].dropna().to_numpy()
    if not len(found):
      continue
    color = look[method]['color']
    _dots(
      ax,
      found,
      np.full(len(found), place),
      low,
      color=color,
      marker='o',
      size=20,
      alpha=0.45,
      zorder=3,
    )
    median = max(float(np.median(found)), low)
    ax.plot([median] * 2, [place - 0.33, place + 0.33], color=color, lw=2.5)
  ax.axvline(0, color=INK, linewidth=1)
  _rows(ax, np.arange(len(methods)), [method_name(m) for m in methods])
  ax.set(
    xlim=(low - 0.02, None), xlabel=f'skill against {method_name(reference)}'
  )
  return (
    f'skill_against_{reference}',
    f'Skill against {method_name(reference)}: a dot per task, a bar at the '
    f'median{_clipped(skill)}.',
    f'Median skill against {method_name(reference)}: '
    + ', '.join(
      f'{method_name(str(method))} {comparison_tables.number(value, 2)}'
      for method, value in skill.median().nlargest(3).items()
    )
    + ' are the best',
    figure,
  )


def _sampling_efficiency(compared: Comparison) -> Panels:
  look = looks(compared)
  samples = compared.samples
  if not samples:
    return
  unit = compared.benchmark.unit.name
  for kind in ('best', 'mean'):
    figure, ax = _with_legend(len(samples))
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
    _legend_below(figure, ax)
    last = {m: float(getattr(s, kind)[-1]) for m, s in samples.items()}
    least = min(last, key=last.__getitem__)
    caption = f'RMSE of the {kind} of k samples, {unit}'
    yield (
      f'sampling_efficiency_{kind}_of_k',
      f'{caption}.',
      f'{caption}; at {ks[-1]} samples the least is of {method_name(least)}, '
      f'{comparison_tables.number(last[least])}',
      figure,
    )


def _calibration(compared: Comparison) -> Panels:
  look = looks(compared)
  samples = compared.samples
  if not samples:
    return
  for name, zero, ylabel, caption in (
    (
      'calibration',
      0,
      'share of targets covered',
      'Targets inside central intervals of the samples; below the line: '
      'overconfident.',
    ),
    (
      'calibration_error',
      1,
      'share covered \N{MINUS SIGN} nominal coverage',
      'The same, less the nominal coverage.',
    ),
  ):
    figure, ax = _with_legend(len(samples))
    ax.plot([0, 1], [0, 1 - zero], color=FAINT, linewidth=1)
    ax.axvline(NOMINAL, color=FAINT, linewidth=0.8, linestyle=':')
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
    ax.set(xlim=(0, 1), xlabel='nominal coverage', ylabel=ylabel)
    ax.xaxis.set_major_formatter(drawing.percent)
    ax.yaxis.set_major_formatter(drawing.percent)
    if not zero:
      ax.set_ylim(0, 1)
    _legend_below(figure, ax)
    off = {
      m: np.abs(s.coverage - statistics.LEVELS).mean()
      for m, s in samples.items()
    }
    nearest = min(off, key=off.__getitem__)
    yield (
      name,
      caption,
      f'Nominal against empirical coverage of {len(samples)} methods; nearest '
      f'to what it says is {method_name(nearest)}, by '
      f'{numbers.percent(off[nearest])} on average',
      figure,
    )


def _sharpening(compared: Comparison) -> Panels:
  frame = compared.distributions
  methods = [m for m in compared.samples if frame.loc[m].notna().all()][::-1]
  if not methods:
    return
  look, unit = looks(compared), compared.benchmark.unit.name
  base = frame.loc[BASE] if BASE in methods else None
  places = np.arange(len(methods))
  for column, label in zip(
    frame,
    (
      f'CRPS ({unit})',
      'coverage of the central 90%',
      f'width of the 90% interval ({unit})',
    ),
    strict=True,
  ):
    figure, ax = _tall(len(methods))
    values = frame.loc[methods, column]
    if base is not None:
      ax.axvline(base[column], color=COLORS[0], linewidth=1)
      ax.hlines(places, base[column], values, color=FAINT, linewidth=1.2)
    if column == 'coverage90':
      ax.axvline(NOMINAL, color=FAINT, linewidth=1, linestyle=':')
      ax.xaxis.set_major_formatter(drawing.percent)
    for place, method in zip(places, methods, strict=True):
      ax.plot(
        values[method],
        place,
        'o',
        markersize=6,
        color=look[method]['color'],
        zorder=4,
      )
    ax.set_xlabel(label)
    drawing.few_ticks(ax, 'x')
    _rows(ax, places, [method_name(method) for method in methods])
    caption = f'{label[0].upper()}{label[1:]}'
    if base is not None:
      caption += f'; the line is {method_name(BASE)}'
    least, most = values.idxmin(), values.idxmax()
    yield (
      f'sharpening_{column}',
      f'{caption}.',
      f'{label}: least {method_name(str(least))}, '
      f'{comparison_tables.number(values[least], 2)}, most '
      f'{method_name(str(most))}, {comparison_tables.number(values[most], 2)}',
      figure,
    )


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
  from matplotlib.patches import Rectangle

  figure, ax = _tall(1.3 * len(frame))
  cells = frame.to_numpy()
  low, high = max(np.nanmin(cells), FLOOR), np.nanmax(cells)
  low, high = (low, high) if low < high else drawing.padded(low, high, 0.1)
  ax.grid(False)
  for (i, j), value in np.ndenumerate(cells):
    if np.isfinite(value):
      # So pale that text can be read on all of them.
      share = np.clip((value - low) / (high - low), 0, 1)
      ax.add_patch(
        Rectangle(
          (j - 0.48, i - 0.46), 0.96, 0.92, color=COLORS[0], linewidth=0,
          alpha=0.08 + 0.32 * share,
        )
      )  # fmt: skip
    text = comparison_tables.number(value) or '\N{EN DASH}'
    ax.text(j, i, text, ha='center', va='center')
  ax.set_xticks(range(len(frame.columns)), frame.columns)
  ax.set_yticks(range(len(frame)), [method_name(m) for m in frame.index])
  ax.set(xlim=(-0.5, len(frame.columns) - 0.5), ylim=(len(frame) - 0.5, -0.5))
  ax.tick_params(length=0)
  i, j = np.unravel_index(np.nanargmax(cells), cells.shape)
  caption = 'Mean R² by objective (rows) and tokenizer'
  yield (
    'tokenizers',
    f'{caption}.',
    f'{caption}: best {method_name(frame.index[i])} with {frame.columns[j]}, '
    f'{comparison_tables.number(cells[i, j])}',
    figure,
  )


# --------------------------------------------------------------------- marks


def _tall(num_rows: float, more: float = 1.0) -> tuple['Figure', 'Axes']:
  """For a row per method or task, and `more` inches around them."""
  return drawing.panel(more + _ROW * num_rows)


def _with_legend(num_methods: int) -> tuple['Figure', 'Axes']:
  """For a line per method, named below."""
  return drawing.panel(drawing.HEIGHT + 0.19 * math.ceil(num_methods / 2))


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
    ncols=3,
    borderaxespad=0,
    borderpad=0.2,
    columnspacing=1.2,
    handletextpad=0.2,
    reverse=reverse,
  )


def _legend_below(figure: 'Figure', ax: 'Axes') -> None:
  """Below the axes in two columns, best average rank first."""
  handles, labels = ax.get_legend_handles_labels()
  figure.legend(
    handles, labels, loc='outside lower left', ncols=2, handlelength=2.8
  )
