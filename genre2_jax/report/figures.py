"""The figures of a report: SVG, two to a row, or one on a phone."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np

from genre2_jax.metrics import sampled
from genre2_jax.report import drawing, numbers
from genre2_jax.report.drawing import Panels, Section
from genre2_jax.report.inputs import NOMINAL, Prediction, Run, Stage
from genre2_jax.report.palette import FAINT, INK, PAPER

PREDICTED = 'Predicted against true'
LEARNING = 'Learning curves'
DEPENDENCE = 'Partial dependence'
_MAX_DOTS = 600  # of a scatter: more weigh down the page, and hide each other
_MAX_BARS = 120  # intervals drawn


def draw(run: Run) -> dict[str, Section]:
  """Draws every figure: title of a section -> section."""
  many = len(run.seeds) > 1
  thin = ' Thin lines: seeds; thick lines: their mean.' if many else ''
  shown = f' (seed {run.seeds[0]})' if many else ''
  sections: list[tuple[str, str, Callable[[Any], Panels]]] = [
    (PREDICTED, '', _predicted),
    (
      LEARNING,
      'Dashed: train. Solid: validation; a ring marks the best epoch'
      f'{" of each seed" if many else ""}.{thin}',
      _learning_curves,
    ),
    (
      DEPENDENCE,
      'What is predicted on average when one column is set to a value and the '
      'others stay as they are. Ticks: tenths of the validation rows. Where '
      'columns go together, some of these rows cannot be.',
      _dependences,
    ),
  ]
  # One number per row has no interval, no spread and nothing to sample.
  if not run.is_point:
    tie = ''
    if run.cells is not None:
      tie = (
        ' The target takes few values: a row that ties with an end of its '
        'interval counts in part, as much as the end has of its probability.'
      )
    sections += [
      (
        'Calibration',
        "Whether the model's own distribution means what it says, without the "
        f'margin of validation rows.{tie}{thin}',
        _calibration,
      ),
      (
        'Sharpening',
        'How wide the predictive distributions are, row by row'
        f'{", all seeds" if many else ""}. Dashed: medians.',
        _sharpening,
      ),
      (
        'Predictive distributions',
        f'{run.num_samples} samples for test rows at fixed quantiles of the '
        f'target{shown}, in its own unit.',
        _examples,
      ),
      (
        'Sampling efficiency',
        'RMSE of the best (an oracle picks it) and of the mean of the first k '
        f'samples.{thin}',
        _sampling_efficiency,
      ),
    ]
  if len(run.stages) > 1:
    sections.append(
      (
        'Predicted against true, by stage',
        f'The mean of the samples{shown}, with the central 90% interval of '
        'them.'
        if not run.is_point
        else 'The prediction of each stage.',
        _predicted_by_stage,
      )
    )
  return {section.title: section for section in drawing.draw(sections, run)}


def _learning_curves(run: Run) -> Panels:
  for stage in run.stages:
    if not any(record['stage'] == stage.key for record in run.records):
      continue
    # What the best epoch is chosen by: the reward of objectives that sample.
    is_reward = bool(_history(run, stage, 'val/reward')[0])
    kind, sign = ('reward', -1) if is_reward else ('loss', 1)
    figure, ax = drawing.panel()
    says = f'{kind} of {stage.name} by epoch'
    for split, label, look in (
      ('train', 'train', {'linestyle': '--', 'alpha': 0.8}),
      ('val', 'validation', {}),
    ):
      epochs, values = _history(run, stage, f'{split}/{kind}')
      marker = '.' if len(epochs) == 1 else None
      drawing.seed_lines(
        ax, epochs, values, label, color=stage.color, marker=marker, **look
      )
      if split == 'val' and epochs:
        best = np.argmin(sign * values, axis=1)
        reached = values[range(len(best)), best]
        ax.plot(
          np.take(epochs, best),
          reached,
          'o',
          color=stage.color,
          markersize=7,
          markerfacecolor=PAPER,
          markeredgewidth=1.5,
          zorder=5,
        )
        places = numbers.decimals(reached)
        says = (
          f'Validation {kind} of {stage.name} goes from '
          f'{numbers.text(values[0, 0], places)} to '
          f'{numbers.text(reached[0], places)} at epoch {epochs[best[0]]} of '
          f'{epochs[-1]}, the best'
        )
    ax.locator_params(axis='x', integer=True)
    unit = ' (nats per token)' if stage.key == 'ce' else ''
    ax.set(xlabel='epoch', ylabel=kind + unit, title=stage.name)
    ax.legend()
    yield (
      f'learning_curves_{stage.key}',
      f'{stage.name}: {kind} by epoch',
      says,
      figure,
    )


def _history(run: Run, stage: Stage, name: str) -> tuple[list[int], np.ndarray]:
  """Epochs [E] in which `name` was recorded, and its values [S, E]."""
  values = {
    (record['seed'], record['epoch']): record[name]
    for record in run.records
    if record['stage'] == stage.key
    and isinstance(record.get(name), int | float)
  }
  epochs = sorted({epoch for _, epoch in values})
  rows = [
    [values.get((seed, epoch), np.nan) for epoch in epochs]
    for seed in run.info['seeds']
  ]
  return epochs, np.array(rows)


def _predicted(run: Run) -> Panels:
  """The first figure: what a reader would use, of the last stage."""
  caption = 'One dot per test row; on the line the prediction is right.'
  if run.best.low is not None:
    caption = (
      'One dot per test row, with its 90% interval; on the line the '
      'prediction is right.'
    )
  yield from _against_true(run, run.last, run.best, PREDICTED, caption)


def _predicted_by_stage(run: Run) -> Panels:
  for stage in run.stages:
    samples = run.in_unit(stage.samples_z[0])  # [n, G]
    found = Prediction('mean', samples.mean(axis=1))
    if not run.is_point:
      low, high = sampled.central_interval(samples, NOMINAL)
      found = Prediction('mean', samples.mean(axis=1), low, high)
    title = f'{PREDICTED} {stage.key}'
    yield from _against_true(run, stage, found, title, f'{stage.name}.')


def _against_true(
  run: Run, stage: Stage, found: Prediction, title: str, caption: str
) -> Panels:
  if run.cells is not None:
    figure = _boxes(run, stage, found, run.cells)
    caption = (
      'Predictions by true value: box from quartile to quartile, whiskers from '
      'the 5% to the 95% quantile; a dash where the prediction is right, '
      'counts of rows below.'
    )
  else:
    figure, left_out = _scatter(run, stage, found)
    caption += left_out
  correlation = _correlation(found.value, run.target)
  says = (
    f'{stage.name}: predicted against true {run.info["target"]} of '
    f'{numbers.count(len(run.target), "test row")}, correlation '
    f'{numbers.text(correlation, 2) or "undefined"}'
  )
  yield title.lower().replace(' ', '_'), caption, says, figure


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return float('nan')
  return float(np.corrcoef(a, b)[0, 1])


def _scatter(run: Run, stage: Stage, found: Prediction) -> tuple[Any, str]:
  true, value = run.target, found.value
  order = np.argsort(true, kind='stable')
  dots = order[_spread_over(len(true), _MAX_DOTS)]
  bars = order[_spread_over(len(true), _MAX_BARS)]
  bottom, top = drawing.padded(true.min(), true.max(), 0.06)
  # The axis holds the intervals; an outlier would leave no room for the rest.
  reach = 0.75 * (top - bottom)
  ends = [value[dots]]
  if found.low is not None and found.high is not None:
    ends += [found.low[bars], found.high[bars]]
  drawn = np.clip(np.concatenate(ends), bottom - reach, top + reach)
  least, most = min(bottom, drawn.min()), max(top, drawn.max())
  shown = np.clip(value[dots], least, most)
  outside = shown != value[dots]
  figure, ax = drawing.panel(4.2)
  ax.plot([bottom, top], [bottom, top], color=FAINT, linewidth=1, zorder=1)
  if found.low is not None and found.high is not None:
    ax.vlines(
      true[bars],
      np.maximum(found.low[bars], least),
      np.minimum(found.high[bars], most),
      color=stage.color,
      alpha=0.4,
      linewidth=1,
    )
  ax.scatter(
    true[dots][~outside],
    shown[~outside],
    s=np.clip(4000 / len(dots), 6, 22),
    color=stage.color,
    alpha=0.85,
    linewidth=0,
    zorder=3,
  )
  if outside.any():
    ax.scatter(
      true[dots][outside],
      shown[outside],
      s=26,
      marker='x',
      color=INK,
      linewidth=1,
      clip_on=False,
      zorder=4,
      label=f'{outside.sum()} beyond the axis',
    )
    ax.legend(loc='lower right')
  _name_axes(ax, run)
  drawing.few_ticks(ax)
  drawing.plain_ticks(ax, 'x')
  drawing.plain_ticks(ax, 'y')
  ax.set(xlim=(bottom, top), ylim=drawing.padded(least, most, 0.02))
  said = ''
  if len(dots) < len(true):
    said += f' Drawn: {len(dots)} of {len(true):,} rows.'
  if len(bars) < len(dots) and found.low is not None:
    said += f' Intervals of {len(bars)} of {len(true):,} rows.'
  return figure, said


def _spread_over(n: int, most: int) -> np.ndarray:
  """Evenly spaced places among n, `most` at most."""
  return np.linspace(0, n - 1, min(n, most)).round().astype(int)


def _boxes(run: Run, stage: Stage, found: Prediction, cells: np.ndarray) -> Any:
  """A box of predictions per value of the target."""
  figure, ax = drawing.panel(4.2)
  groups = [found.value[run.target == cell] for cell in cells]
  places = np.arange(len(cells))
  ax.boxplot(
    groups,
    positions=places,
    widths=0.5,
    whis=(5, 95),
    sym='',
    medianprops={'color': stage.color, 'linewidth': 2},
    boxprops={'color': stage.color},
    whiskerprops={'color': stage.color},
    capprops={'color': stage.color},
  )
  ax.hlines(
    cells, places - 0.38, places + 0.38, color=INK, linewidth=1, linestyle=':'
  )
  labels = [
    f'{cell:g}\n{numbers.count(len(group), "row")}'
    for cell, group in zip(cells, groups, strict=True)
  ]
  if len(cells) > 6:  # Counts would run into each other.
    labels = [
      f'{cell:g}\n{len(g)}' for cell, g in zip(cells, groups, strict=True)
    ]
  ax.set_xticks(places, labels)
  ax.set_xlim(-0.6, len(cells) - 0.4)
  drawing.few_ticks(ax, 'y')
  _name_axes(ax, run)
  return figure


def _name_axes(ax: Any, run: Run) -> None:
  ax.set_xlabel(drawing.wrapped(f'true {run.info["target"]}'))
  ax.set_ylabel(drawing.wrapped(f'predicted {run.info["target"]}'))


def _dependences(run: Run) -> Panels:
  found = (run.importances or {}).get('dependences', [])
  if not found:
    return
  every = [p for dependence in found for p in dependence['predictions']]
  span = drawing.padded(min(every), max(every), 0.1)
  for place, dependence in enumerate(found, start=1):
    grid, values = dependence['grid'], np.array(dependence['predictions'])
    figure, ax = drawing.panel(3.1)
    is_category = isinstance(grid[0], str)
    if is_category:
      places = np.arange(len(grid))
      ax.plot(values, places, 'o', color=run.last.color)
      ax.hlines(places, span[0], values, color=FAINT, linewidth=1)
      ax.set_yticks(places, [_short(label) for label in grid])
      ax.set(xlim=span, ylim=(len(grid) - 0.5, -0.5))
      ax.set_xlabel(drawing.wrapped(f'predicted {run.info["target"]}'))
      drawing.few_ticks(ax, 'x')
      drawing.plain_ticks(ax, 'x')
      ax.set_title(_short(dependence['column'], 40))
      best = grid[int(values.argmax())]
      says = f'highest for {best}, lowest for {grid[int(values.argmin())]}'
    else:
      ax.plot(grid, values, color=run.last.color, linewidth=1.8)
      ax.plot(
        dependence['quantiles'],
        np.zeros(len(dependence['quantiles'])),
        '|',
        color=INK,
        markersize=9,
        transform=ax.get_xaxis_transform(),
      )
      ax.set_ylim(span)
      ax.set_ylabel(drawing.wrapped(f'predicted {run.info["target"]}'))
      ax.set_xlabel(drawing.wrapped(dependence['column']))
      drawing.few_ticks(ax)
      drawing.plain_ticks(ax, 'y')
      if dependence['kind'].partition(' ')[0] in ('date', 'datetime'):
        ax.xaxis.set_major_formatter(_day)
        drawing.few_ticks(ax, 'x', 4)
      else:
        drawing.plain_ticks(ax, 'x')
      trend = 'rises' if values[-1] > values[0] else 'falls'
      places_ = run.decimals('rmse_unit')
      says = (
        f'it {trend} from {numbers.text(values[0], places_)} to '
        f'{numbers.text(values[-1], places_)}'
      )
    name = dependence['column']
    yield (
      f'dependence_{place}',
      f'Mean prediction by {name}.',
      f'Mean prediction of {run.info["target"]} by {name}: {says}',
      figure,
    )


def _short(label: str, most: int = 18) -> str:
  return label if len(label) <= most else f'{label[: most - 1]}…'


def _day(seconds: float, _: float) -> str:
  """Label of a tick that is seconds since 1970."""
  start = datetime.datetime(1970, 1, 1)
  try:
    return f'{start + datetime.timedelta(seconds=seconds):%Y-%m}'
  except OverflowError:
    return ''


def _calibration(run: Run) -> Panels:
  levels = np.linspace(0.05, 0.95, 19)
  curve = sampled.coverage_curve
  if run.cells is not None:
    curve = sampled.shared_coverage_curve
  figure, ax = drawing.panel()
  ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
  ax.axvline(NOMINAL, color=FAINT, linewidth=0.8, linestyle=':')
  said = []
  for stage in run.stages:
    curves = [
      curve(samples, run.target_z, levels, run.weight)
      for samples in stage.samples_z
    ]
    drawing.seed_lines(ax, levels, curves, stage.name, color=stage.color)
    share = np.mean(curves, axis=0)[np.isclose(levels, NOMINAL)][0]
    said.append(f'{stage.name} {numbers.percent(share)}')
  ax.xaxis.set_major_formatter(drawing.percent)
  ax.yaxis.set_major_formatter(drawing.percent)
  ax.set(
    xlim=(0, 1),
    ylim=(0, 1),
    xlabel='nominal coverage',
    ylabel='share of targets covered',
  )
  drawing.legend_above(ax)
  yield (
    'calibration',
    'Targets inside central intervals of the samples; below the diagonal: '
    'overconfident.',
    f'Nominal against empirical coverage; at 90%: {numbers.listed(said)}',
    figure,
  )

  num_bins = 10
  figure, ax = drawing.panel()
  ax.axhline(1, color=FAINT, linewidth=1)
  said = []
  for stage in run.stages:
    density = np.mean(
      [
        sampled.pit_histogram(samples, run.target_z, num_bins, run.weight)
        for samples in stage.samples_z
      ],
      axis=0,
    )
    edges = np.linspace(0, 1, num_bins + 1)
    drawing.stairs(ax, density, edges, stage, stage.name)
    said.append(
      f'{stage.name} {density[0]:.1f} and {density[-1]:.1f} at the ends'
    )
  ax.set(
    xlim=(0, 1),
    ylim=(0, max(ax.get_ylim()[1], 1.5)),
    xlabel='probability integral transform',
    ylabel='density',
  )
  drawing.legend_above(ax)
  yield (
    'pit',
    'Where targets fall among the samples (probability integral transform); '
    'flat: calibrated, U-shaped: overconfident.',
    'Histogram of the probability integral transform, 1 everywhere if '
    f'calibrated: {numbers.listed(said)}',
    figure,
  )


def _sharpening(run: Run) -> Panels:
  low, high = np.array(
    [sampled.central_interval(s.samples_z, NOMINAL) for s in run.stages]
  ).swapaxes(0, 1)  # [stages, S, n]
  deviations = np.array([s.samples_z.std(axis=-1) for s in run.stages])
  z = run.unit.name
  for name, label, values in (
    ('interval_widths', f'width of the central 90% interval ({z})', high - low),
    ('sample_spread', f'standard deviation of the samples ({z})', deviations),
  ):
    figure, ax = drawing.panel()
    span = (0, np.quantile(values, 0.995) * 1.02 or 1)
    values = values.reshape(len(run.stages), -1)
    medians = np.median(values, axis=1)
    places = numbers.decimals(medians)
    labels = [
      f'{stage.name}, median {numbers.text(median, places)}'
      for stage, median in zip(run.stages, medians, strict=True)
    ]
    drawing.histograms(ax, run.stages, values, span, labels)
    for stage, median in zip(run.stages, medians, strict=True):
      ax.axvline(median, color=stage.color, linewidth=1, linestyle='--')
    ax.set(xlabel=label, ylabel='share of rows')
    drawing.few_ticks(ax)
    drawing.legend_above(ax)
    caption = f'{label[0].upper()}{label[1:]}'
    yield name, f'{caption}.', f'{caption}: {numbers.listed(labels)}', figure


def _examples(run: Run) -> Panels:
  order = np.argsort(run.target, kind='stable')
  places = {
    order[round(share * (len(order) - 1))]: share
    for share in (0.1, 0.37, 0.63, 0.9)
  }
  for number, (row, share) in enumerate(places.items(), start=1):
    target = run.target[row]
    values = [run.in_unit(stage.samples_z[0, row]) for stage in run.stages]
    low, high = np.quantile(values, [0.005, 0.995])
    span = drawing.padded(min(low, target), max(high, target), 0.03)
    figure, ax = drawing.panel(2.9)
    drawing.histograms(
      ax, run.stages, values, span, [s.name for s in run.stages]
    )
    ax.axvline(target, color=INK, linewidth=1.5, label='target')
    ax.set(
      xlabel=drawing.wrapped(f'sampled {run.info["target"]}'),
      ylabel='share of samples',
    )
    drawing.few_ticks(ax)
    drawing.plain_ticks(ax, 'x')
    drawing.legend_above(ax)
    middle = numbers.listed(
      f'{stage.name} {numbers.text(np.median(v), run.decimals("rmse_unit"))}'
      for stage, v in zip(run.stages, values, strict=True)
    )
    # As predictions.csv numbers it.
    caption = f'Test row {row + 1}, at the {share:.0%} quantile of the target'
    yield (
      f'examples_{number}',
      f'{caption}.',
      f'{caption}, which is {target:g}; medians of the samples: {middle}',
      figure,
    )


def _sampling_efficiency(run: Run) -> Panels:
  ks = [2**i for i in range(run.num_samples.bit_length())]
  curves = [
    [
      sampled.sampling_efficiency(samples, run.target_z, ks, run.weight)
      for samples in stage.samples_z
    ]  # [S][best, mean][K]
    for stage in run.stages
  ]
  z = run.unit.name
  for i, kind in enumerate(('best', 'mean')):
    figure, ax = drawing.panel()
    said = []
    for stage, seeds in zip(run.stages, curves, strict=True):
      found = [seed[i] for seed in seeds]
      drawing.seed_lines(
        ax, ks, found, stage.name, color=stage.color, marker='o', markersize=4
      )
      first, *_, last = np.mean(found, axis=0)[[0, -1]]
      places = numbers.decimals([first, last])
      said.append(
        f'{stage.name} from {numbers.text(first, places)} to '
        f'{numbers.text(last, places)}'
      )
    ax.set_xscale('log', base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.set_ylim(bottom=0)
    ax.set(xlabel='samples k', ylabel=f'RMSE of the {kind} of k ({z})')
    drawing.legend_above(ax)
    caption = f'RMSE of the {kind} of k samples, {z}'
    yield (
      f'sampling_efficiency_{kind}_of_k',
      f'{caption}.',
      f'{caption}, for k from 1 to {ks[-1]}: {numbers.listed(said)}',
      figure,
    )
