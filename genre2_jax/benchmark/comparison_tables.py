"""The tables of a comparison, as text: for Markdown and for the report."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from genre2_jax.benchmark.statistics import (
  CRPS_TIE,
  DISTRIBUTION_METRICS,
  METRICS,
  SIGNIFICANCE,
  TIE,
  Comparison,
  per_task,
)


@dataclasses.dataclass(frozen=True)
class Table:
  """Cells as text; `best` holds the (row, column) of those to mark."""

  title: str
  text: str
  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  best: frozenset[tuple[int, int]] = frozenset()
  has_numbers: bool = True


def tables(comparison: Comparison) -> list[Table]:
  """In order of importance: means, ranks, tests, samples, tasks, published."""
  unit = comparison.benchmark.unit
  made = [
    _means(comparison),
    *_ranks(comparison),
    *_tests(comparison),
    *_crps_tests(comparison),
  ]
  if comparison.samples:
    made += [_sampling(comparison), *_distributions(comparison)]
  for metric in METRICS:
    estimators = _estimators_in_words(comparison.estimators)
    made.append(
      _by_task(
        f'{metric.name(unit)} per task',
        f'Means over seeds. Estimator: {estimators}.',
        comparison.values[metric.key][
          [*comparison.methods, *comparison.left_out]
        ],
        metric.higher_is_better,
        comparison.tasks,
      )
    )
  made += _published(comparison)
  if comparison.benchmark.failures:
    made.append(
      Table(
        'Runs that failed',
        'The same command tries them again.',
        ('task', 'method', 'reason'),
        comparison.benchmark.failures,
        has_numbers=False,
      )
    )
  return made


def estimator_tables(comparison: Comparison) -> list[Table]:
  """Every estimator: means over the common tasks, then every task."""
  results, unit = comparison.benchmark.results, comparison.benchmark.unit
  names = list(dict.fromkeys(results['estimator']))
  means, details = [], []
  for metric in METRICS:
    columns = {}
    for name in names:
      frame = per_task(results, metric.key, name).reindex(
        index=comparison.benchmark.tasks, columns=list(comparison.estimators)
      )
      frame = frame.dropna(axis=1, how='all')
      if frame.empty:
        continue
      columns[name] = (
        frame.reindex(index=comparison.tasks, columns=comparison.methods)
      ).mean(skipna=False)
      details.append(
        _by_task(
          f'{metric.name(unit)} of {name} per task',
          'Means over seeds.',
          frame,
          metric.higher_is_better,
          comparison.tasks,
        )
      )
    means.append(
      _grid(
        f'{metric.name(unit)} by estimator',
        f'Means over seeds and {_count(comparison.tasks, "common task")}.',
        pd.DataFrame(columns),
        'method',
        metric.higher_is_better,
      )
    )
  return means + details


def markdown(comparison: Comparison, verdict: str, notes: Sequence[str]) -> str:
  """The whole comparison as Markdown."""
  benchmark = comparison.benchmark
  lines = ['# Comparison of methods', '', verdict, '']
  lines += [line for note in notes for line in (note, '')]
  if benchmark.command:
    lines += [f'Command: `{benchmark.command}`', '']
  lines += [f'Seeds: {", ".join(benchmark.seeds)}.', '']
  lines += [f'Machine: {machine}.' for machine in benchmark.machines] + ['']
  for table in tables(comparison) + estimator_tables(comparison):
    lines += [f'## {table.title}', '', table.text, '', *_markdown_rows(table)]
    lines.append('')
  return '\n'.join(lines)


def number(value: float, decimals: int = 3) -> str:
  """Fixed decimals, or powers of ten where those say nothing; NaN is ''."""
  if not math.isfinite(value):
    return ''
  text = f'{value:.{decimals}f}' if abs(value) < 1e5 else f'{value:.1e}'
  if text.startswith('-') and float(text) == 0:
    text = text[1:]
  return text.replace('-', '\N{MINUS SIGN}')


def significant(value: float) -> str:
  """Four significant digits, as published tables have them; NaN is ''."""
  return f'{value:.4g}' if math.isfinite(value) else ''


def p_value(p: float) -> str:
  """A p value as a reader wants it."""
  return '< 0.001' if p < 0.001 else f'{p:.3f}'


def _means(comparison: Comparison) -> Table:
  distributions, unit = comparison.distributions, comparison.benchmark.unit
  columns = [  # title, values, 1 if higher is better or -1, decimals
    ('average rank', comparison.ranks['r2'], -1, 2),
    *(
      (m.name(unit), comparison.common(m.key).mean(), m.sign, 3)
      for m in METRICS
    ),
    ('± seeds', comparison.spread, 0, 3),
    ('R² ensemble', _ensemble(comparison), 1, 3),
    (f'CRPS ({unit.name})', distributions['crps'], -1, 3),
    ('CRPS ratio', _crps_ratio(comparison), 0, 3),
    ('coverage 90%', distributions['coverage90'], 0, 3),
    (f'width 90% ({unit.name})', distributions['width90'], 0, 3),
    ('seconds', _spent(comparison, comparison.benchmark.seconds), 0, 0),
    ('peak memory (GiB)', _peaks(comparison), 0, 2),
  ]
  # What no method has is no column.
  columns = [column for column in columns if column[1].notna().any()]
  texts, best = [], set()
  for j, (_, values, sign, decimals) in enumerate(columns, start=2):
    values = values.reindex(comparison.methods).astype(float)
    cells = [number(value, decimals) for value in values]
    texts.append(cells)
    best |= {(i, j) for i in _best(cells, values, sign)}
  rows = [
    (method, comparison.estimators[method], *cells)
    for method, *cells in zip(comparison.methods, *texts, strict=True)
  ]
  return Table(
    'Mean over tasks',
    f'Means over seeds and {_count(comparison.tasks, "common task")}, in '
    f'{unit.says}; ranks are by R². R², RMSE and Spearman are '
    'of the estimator named; ± seeds is the standard deviation of R² over '
    'seeds, mean over tasks; ensemble: the seeds taken together. CRPS, '
    'coverage and width of the central 90% interval are of all samples; the '
    f'CRPS of a point is its absolute error. {_yardstick(comparison)}'
    'Seconds: wall time of a task, all seeds together, compilation included, '
    'without the base that a method shares. ' + _memory(comparison),
    ('method', 'estimator', *(title for title, *_ in columns)),
    rows,
    frozenset(best),
  )


def _crps_ratio(comparison: Comparison) -> pd.Series:
  """Mean CRPS over that of the best baseline with a distribution."""
  crps, yardstick = comparison.distributions['crps'], comparison.yardstick
  if not yardstick:
    return pd.Series(dtype=float)
  return (crps / crps[yardstick])[list(comparison.crps)]


def _memory(comparison: Comparison) -> str:
  if not comparison.benchmark.peaks:
    return ''
  return (
    'Peak memory: the most that the process of a run had resident while it '
    'ran, Python, the libraries and what earlier runs have left in it included.'
  )


def _yardstick(comparison: Comparison) -> str:
  if not comparison.yardstick:
    return ''
  return (
    'CRPS ratio: mean CRPS over that of the best baseline with a distribution, '
    f'{comparison.yardstick}. '
  )


def _peaks(comparison: Comparison) -> pd.Series:
  return _spent(comparison, comparison.benchmark.peaks) / 2**30


def _spent(
  comparison: Comparison, spent: Mapping[tuple[str, str], float]
) -> pd.Series:
  return pd.Series(
    {
      method: np.mean(
        [spent.get((t, method), math.nan) for t in comparison.tasks]
      )
      for method in comparison.methods
    },
    dtype=float,
  )


def _ranks(comparison: Comparison) -> list[Table]:
  if len(comparison.methods) < 2:
    return []
  text = (
    f'Over {_count(comparison.tasks, "common task")}, 1 is best, ties share; '
    'values are means over seeds.'
  )
  p, difference = comparison.friedman_p, comparison.critical_difference
  if p is not None and difference is not None:
    text += (
      f" By R²: Friedman's test, p {p_value(p)}; Nemenyi's critical difference "
      f'at {SIGNIFICANCE:g}: {difference:.2f} ranks.'
    )
  unit = comparison.benchmark.unit
  ranks = comparison.ranks.rename(
    columns={m.key: m.name(unit) for m in METRICS}
  )
  return [_grid('Average ranks', text, ranks, 'method', False, by_column=True)]


def _ensemble(comparison: Comparison) -> pd.Series:
  results = comparison.benchmark.results
  rows = results[
    (results['seed'] == 'ensemble')
    & (results['metric'] == 'r2')
    & (results['estimator'] == results['method'].map(comparison.estimators))
  ]
  frame = rows.pivot_table(index='task', columns='method', values='value')
  frame = frame.reindex(index=comparison.tasks, columns=comparison.methods)
  return frame.mean(skipna=False)


def _tests(comparison: Comparison) -> list[Table]:
  head = ('method', 'wins', 'ties', 'losses')
  head_of_differences = ('mean difference', 'median difference')
  return [
    Table(
      f'Against {reference}, by R²',
      f'{_count(comparison.tasks, "common task")}, means over seeds, '
      f'differences of R² to {reference}; a tie is a difference below '
      f'{TIE:g}. p: Wilcoxon signed-rank test over tasks, two-sided, as it is '
      f"and with Holm's correction over {_count(tests.index, 'method')}.",
      (*head, *head_of_differences, 'p', 'p (Holm)'),
      [
        (
          test.Index,
          *(str(count) for count in (test.wins, test.ties, test.losses)),
          number(test.mean),
          number(test.median),
          p_value(test.p),
          p_value(test.p_holm),
        )
        for test in tests.itertuples()
      ],
    )
    for reference, tests in comparison.tests.items()
  ]


def _crps_tests(comparison: Comparison) -> list[Table]:
  tests, yardstick = comparison.crps_tests, comparison.yardstick
  if tests is None or tests.empty:
    return []
  return [
    Table(
      f'Against {yardstick}, by CRPS',
      f'{_count(comparison.tasks, "common task")}, means over seeds, the CRPS '
      f'of all samples over that of {yardstick}, the best baseline with a '
      f'distribution; a tie differs by less than {CRPS_TIE:.0%}. p: Wilcoxon '
      'signed-rank test on logarithms over tasks, two-sided, as it is and with '
      f"Holm's correction over {_count(tests.index, 'method')}.",
      (
        'method', 'wins', 'ties', 'losses', 'ratio of means', 'median ratio',
        'p', 'p (Holm)',
      ),
      [
        (
          test.Index,
          *(str(count) for count in (test.wins, test.ties, test.losses)),
          number(test.ratio),
          number(test.median),
          p_value(test.p),
          p_value(test.p_holm),
        )
        for test in tests.itertuples()
      ],
    )
  ]  # fmt: skip


def _sampling(comparison: Comparison) -> Table:
  ks = sorted({int(k) for s in comparison.samples.values() for k in s.ks})
  shown = [k for k in ks if k in (1, 4, 16, 64, ks[-1])]
  columns = {}
  for kind in ('best', 'mean'):
    for k in shown:
      columns[f'{kind} of {k}'] = {
        method: float(getattr(samples, kind)[list(samples.ks).index(k)])
        if k in samples.ks
        else math.nan
        for method, samples in comparison.samples.items()
      }
  return _grid(
    f'RMSE ({comparison.benchmark.unit.name}) of k samples',
    'The best of the first k samples, which an oracle picks, and their mean; '
    f'means over seeds and {_count(comparison.tasks, "common task")}.',
    pd.DataFrame(columns),
    'method',
    False,
    by_column=True,
  )


def _distributions(comparison: Comparison) -> list[Table]:
  """Methods with a distribution, by the estimators that describe it."""
  results, unit = comparison.benchmark.results, comparison.benchmark.unit
  made = []
  methods = [m for m in comparison.methods if m in comparison.samples]
  for metric, title, sign in DISTRIBUTION_METRICS:
    names = dict.fromkeys(results['estimator'][results['metric'] == metric])
    frame = pd.DataFrame(
      {
        name: per_task(results, metric, name)
        .reindex(index=comparison.tasks, columns=methods)
        .mean(skipna=False)
        for name in names
      },
      dtype=float,
    ).dropna(axis=1, how='all')
    if frame.empty:
      continue
    table = _grid(
      f'{title.format(z=unit.name)} by estimator',
      f'Means over seeds and {_count(comparison.tasks, "common task")}. '
      'sample: of all samples; exact: of every number that the tokenizer can '
      'write; tempered and conformal: recalibrated on validation rows.',
      frame,
      'method',
      sign > 0,
      by_column=True,
    )
    # No width or coverage is best by itself.
    made.append(table if sign else dataclasses.replace(table, best=frozenset()))
  return made


def _published(comparison: Comparison) -> list[Table]:
  """Ours beside the published numbers, on tasks that both have."""
  benchmark, published = comparison.benchmark, comparison.benchmark.published
  if published.empty:
    return []
  theirs = published.pivot_table(
    index='task', columns='method', values='rmse_unit'
  ).add_suffix(' (published)')
  tasks = [t for t in comparison.tasks if t in theirs.index]
  theirs = theirs.loc[tasks].dropna(axis=1)
  if theirs.empty:
    return []
  ours = per_task(benchmark.results, 'rmse_unit', comparison.estimators)
  ours = ours.reindex(index=tasks, columns=comparison.methods).dropna(axis=1)
  rmse = pd.concat([ours, theirs], axis=1)
  variances = pd.Series(benchmark.variances, dtype=float).reindex(tasks)
  derived = 1 - theirs.pow(2).div(variances, axis=0)
  both = pd.concat(
    [comparison.values['r2'].loc[tasks, list(ours)], derived], axis=1
  )
  caution = (
    'Published RMSE are of other splits of the same tasks: neighbours, not '
    'the same measurement. '
  )
  summary = pd.DataFrame(
    {'mean R²': both.mean(skipna=False), 'median R²': both.median(skipna=False)}
  )
  r2_text = (
    f'{caution}Their R² is derived, 1 - RMSE² / variance of our test target. '
    'Ours: means over seeds; estimator: '
    f'{_estimators_in_words(comparison.estimators)}.'
  )
  return [
    _grid(
      'Beside the published numbers: R²',
      f'{r2_text} {_count(tasks, "task")} that both have.',
      summary.sort_values('mean R²', ascending=False),
      'method',
      True,
      by_column=True,
    ),
    _grid(
      'Beside the published numbers: R² per task', r2_text, both, 'task', True
    ),
    _grid(
      'Beside the published numbers: RMSE per task, original unit',
      f'{caution}Ours: means over seeds; estimator: '
      f'{_estimators_in_words(comparison.estimators)}.',
      rmse,
      'task',
      False,
      form=significant,
    ),
  ]


def _by_task(
  title: str,
  text: str,
  frame: pd.DataFrame,
  higher_is_better: bool,
  common: Sequence[str],
) -> Table:
  """Tasks by methods, with the mean over the common tasks below."""
  table = _grid(title, text, frame, 'task', higher_is_better)
  means = frame.reindex(index=common).mean(skipna=False)
  label = f'mean of {_count(common, "common task")}'
  cells = [number(value) for value in means]
  sign = 1 if higher_is_better else -1
  best = {(len(table.rows), j + 1) for j in _best(cells, means, sign)}
  return dataclasses.replace(
    table,
    rows=[*table.rows, (label, *cells)],
    best=table.best | best,
  )


def _grid(
  title: str,
  text: str,
  frame: pd.DataFrame,
  corner: str,
  higher_is_better: bool,
  *,
  by_column: bool = False,
  form: Callable[[float], str] = number,
) -> Table:
  """A frame of one metric, the best of each row (or column) marked."""
  texts = [[form(value) for value in row] for row in frame.to_numpy(float)]
  best = set()
  sign = 1 if higher_is_better else -1
  if by_column:
    for j in range(frame.shape[1]):
      cells = [row[j] for row in texts]
      best |= {(i, j + 1) for i in _best(cells, frame.iloc[:, j], sign)}
  else:
    for i, cells in enumerate(texts):
      best |= {(i, j + 1) for j in _best(cells, frame.iloc[i], sign)}
  rows = [(str(i), *cells) for i, cells in zip(frame.index, texts, strict=True)]
  return Table(
    title, text, (corner, *map(str, frame.columns)), rows, frozenset(best)
  )


def _best(
  cells: Sequence[str], values: Sequence[float], sign: int
) -> list[int]:
  """Places of the best value: what reads equal is equal; none if all do."""
  if not sign or len({cell for cell in cells if cell}) < 2:
    return []
  best = cells[int(np.nanargmax(sign * np.asarray(values, np.float64)))]
  return [i for i, cell in enumerate(cells) if cell == best]


def _markdown_rows(table: Table) -> list[str]:
  def line(cells):
    return '| ' + ' | '.join(str(c).replace('|', '\\|') for c in cells) + ' |'

  rows = [
    [
      f'**{cell}**' if (i, j) in table.best else cell or '\N{EN DASH}'
      for j, cell in enumerate(row)
    ]
    for i, row in enumerate(table.rows)
  ]
  other = '|---:' if table.has_numbers else '|---'
  rule = '|---' + other * (len(table.head) - 1) + '|'
  return [line(table.head), rule, *map(line, rows)]


def _estimators_in_words(estimators: Mapping[str, str]) -> str:
  """'exact_mean (a, b), mean (c)'."""
  groups: dict[str, list[str]] = {}
  for method, estimator in estimators.items():
    groups.setdefault(estimator, []).append(method)
  if len(groups) == 1:
    return next(iter(groups))
  return ', '.join(f'{e} ({", ".join(m)})' for e, m in groups.items())


def _count(items: Sequence, noun: str) -> str:
  return f'{len(items)} {noun}{"s" * (len(items) != 1)}'
