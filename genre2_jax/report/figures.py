"""The figures of a report: PNGs, two to a row, or one on a phone."""

import numpy as np

from genre2_jax.metrics import sampled
from genre2_jax.report import drawing
from genre2_jax.report.drawing import Panels, Section
from genre2_jax.report.inputs import NOMINAL, Run, Stage


def draw(run: Run) -> list[Section]:
  """Draws every figure."""
  many = len(run.seeds) > 1
  thin = ' Thin lines: seeds; thick lines: their mean.' if many else ''
  shown = f' (seed {run.seeds[0]})' if many else ''
  intervals = ', with the central 90% interval'
  predicted = f'The median of {run.num_samples} samples{intervals}'
  if run.is_point:
    predicted = 'The prediction'
  sections = [
    (
      'Learning curves',
      'Dashed: train. Solid: validation; a ring marks the best epoch'
      f'{" of each seed" if many else ""}.{thin}',
      _learning_curves,
    ),
    (
      'Predicted against true',
      f'{predicted}{shown}, in the original unit.',
      _predicted_against_true,
    ),
  ]
  # One number per row has no interval, no spread and nothing to sample.
  sections += (
    ()
    if run.is_point
    else (
      (
        'Calibration',
        f'Whether the predictive distribution means what it says.{thin}',
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
        f'target{shown}, in the original unit.',
        _examples,
      ),
      (
        'Sampling efficiency',
        'RMSE of the best (an oracle picks it) and of the mean of the first k '
        f'samples.{thin}',
        _sampling_efficiency,
      ),
    )
  )
  # A baseline has no learning curves.
  return drawing.draw(sections, run)


def _learning_curves(run: Run) -> Panels:
  for stage in run.stages:
    if not any(record['stage'] == stage.key for record in run.records):
      continue
    # What the best epoch is chosen by: the reward of objectives that sample.
    is_reward = bool(_history(run, stage, 'val/reward')[0])
    kind, sign = ('reward', -1) if is_reward else ('loss', 1)
    figure, ax = drawing.panel()
    for split, label, look in (
      ('train', 'train', {'linestyle': '--', 'alpha': 0.65}),
      ('val', 'validation', {}),
    ):
      epochs, values = _history(run, stage, f'{split}/{kind}')
      marker = '.' if len(epochs) == 1 else None
      drawing.seed_lines(
        ax, epochs, values, label, color=stage.color, marker=marker, **look
      )
      if split == 'val' and epochs:
        best = np.argmin(sign * values, axis=1)
        ax.plot(
          np.take(epochs, best),
          values[range(len(best)), best],
          'o',
          color=stage.color,
          markersize=7,
          markerfacecolor='white',
          markeredgewidth=1.5,
          zorder=5,
        )
    ax.locator_params(axis='x', integer=True)
    unit = ' (nats per token)' if stage.key == 'ce' else ''
    ax.set(xlabel='epoch', ylabel=kind + unit, title=stage.name)
    ax.legend()
    yield (
      f'learning_curves_{stage.key}',
      f'{stage.name}: {kind} by epoch',
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


def _predicted_against_true(run: Run, max_bars: int = 120) -> Panels:
  true = run.target
  # The axes follow the targets: an outlier would leave no room for the rest.
  bottom, top = drawing.padded(true.min(), true.max(), 0.1)
  order = np.argsort(true, kind='stable')
  chosen = np.linspace(0, len(true) - 1, min(len(true), max_bars))
  bars = order[chosen.round().astype(int)]
  for stage in run.stages:
    samples = run.in_unit(stage.samples_z[0])  # [n, G]
    median = np.median(samples, axis=1)
    low, high = sampled.central_interval(samples, NOMINAL)
    shown = np.clip(median, bottom, top)
    outside = shown != median

    figure, ax = drawing.panel(4.4)
    ax.plot(
      [bottom, top], [bottom, top], color=drawing.FAINT, linewidth=1, zorder=1
    )
    if not run.is_point:
      ax.vlines(
        true[bars],
        low[bars],
        high[bars],
        color=stage.color,
        alpha=0.35,
        linewidth=1,
      )
    ax.scatter(
      true[~outside],
      shown[~outside],
      s=np.clip(4000 / len(true), 4, 22),
      color=stage.color,
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
        color=drawing.INK,
        linewidth=1,
        clip_on=False,
        zorder=4,
        label=f'{outside.sum()} beyond the axis',
      )
      ax.legend(loc='lower right')
    ax.locator_params(nbins=5)
    ax.set(
      xlim=(bottom, top),
      ylim=(bottom, top),
      aspect='equal',
      title=stage.name,
      xlabel=drawing.wrapped(f'true {run.info["target"]}'),
      ylabel=drawing.wrapped(f'predicted {run.info["target"]}'),
    )
    caption = f'{stage.name}: predicted against true'
    if len(bars) < len(true) and not run.is_point:
      caption += f'; intervals of {len(bars)} of {len(true):,} rows'
    yield f'predicted_against_true_{stage.key}', caption, figure


def _calibration(run: Run) -> Panels:
  levels = np.linspace(0.05, 0.95, 19)
  figure, ax = drawing.panel()
  ax.plot([0, 1], [0, 1], color=drawing.FAINT, linewidth=1)
  ax.axvline(NOMINAL, color=drawing.FAINT, linewidth=0.8, linestyle=':')
  for stage in run.stages:
    curves = [
      sampled.coverage_curve(samples, run.target_z, levels)
      for samples in stage.samples_z
    ]
    drawing.seed_lines(ax, levels, curves, stage.name, color=stage.color)
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
    'overconfident',
    figure,
  )

  num_bins = 10
  figure, ax = drawing.panel()
  ax.axhline(1, color=drawing.FAINT, linewidth=1)
  for stage in run.stages:
    density = [
      sampled.pit_histogram(samples, run.target_z, num_bins)
      for samples in stage.samples_z
    ]
    edges = np.linspace(0, 1, num_bins + 1)
    drawing.stairs(ax, np.mean(density, axis=0), edges, stage, stage.name)
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
    'flat: calibrated, U-shaped: overconfident',
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
    labels = [
      f'{stage.name}, median {median:.2f}'
      for stage, median in zip(run.stages, medians, strict=True)
    ]
    drawing.histograms(ax, run.stages, values, span, labels)
    for stage, median in zip(run.stages, medians, strict=True):
      ax.axvline(median, color=stage.color, linewidth=1, linestyle='--')
    ax.set(xlabel=label, ylabel='share of rows')
    drawing.legend_above(ax)
    yield name, f'{label[0].upper()}{label[1:]}', figure


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
    figure, ax = drawing.panel(2.7)
    drawing.histograms(
      ax, run.stages, values, span, [s.name for s in run.stages]
    )
    ax.axvline(target, color=drawing.INK, linewidth=1.5, label='target')
    ax.set(
      xlabel=drawing.wrapped(f'sampled {run.info["target"]}'),
      ylabel='share of samples',
    )
    drawing.legend_above(ax)
    yield (
      f'examples_{number}',
      f'Test row {row}, at the {share:.0%} quantile of the target',
      figure,
    )


def _sampling_efficiency(run: Run) -> Panels:
  ks = [2**i for i in range(run.num_samples.bit_length())]
  curves = [
    [
      sampled.sampling_efficiency(samples, run.target_z, ks)
      for samples in stage.samples_z
    ]  # [S][best, mean][K]
    for stage in run.stages
  ]
  z = run.unit.name
  for i, kind in enumerate(('best', 'mean')):
    figure, ax = drawing.panel()
    for stage, seeds in zip(run.stages, curves, strict=True):
      drawing.seed_lines(
        ax,
        ks,
        [seed[i] for seed in seeds],
        stage.name,
        color=stage.color,
        marker='o',
        markersize=4,
      )
    ax.set_xscale('log', base=2)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.set_ylim(bottom=0)
    ax.set(xlabel='samples k', ylabel=f'RMSE of the {kind} of k ({z})')
    drawing.legend_above(ax)
    yield (
      f'sampling_efficiency_{kind}_of_k',
      f'RMSE of the {kind} of k samples, {z}',
      figure,
    )
