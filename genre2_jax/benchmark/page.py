"""The report of a benchmark: which method is best, in words and figures.

`write(workdir)` reads the finished runs in `<workdir>/<task>/<method>` and
writes results.csv, table.md, figures/*.svg and report.html, which carries its
figures inside and asks the network for nothing. Runs that are still missing
or have failed are named; the same call later takes them in.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from genre2_jax import errors
from genre2_jax.benchmark import comparison_tables, figures, statistics
from genre2_jax.benchmark.figures import method_name
from genre2_jax.benchmark.statistics import Benchmark, Comparison
from genre2_jax.data import targets
from genre2_jax.data.wording import duration
from genre2_jax.files import atomic, reading
from genre2_jax.files.atomic import PathLike
from genre2_jax.report import inputs
from genre2_jax.report.page import template, with_contents, write_figures

BENCHMARK_FILE = 'benchmark.json'
SECONDS_FILE = 'seconds.json'
FAILURES_FOLDER = 'failures'
PUBLISHED_FILE = 'published.csv'
PUBLISHED_COLUMNS = ('task', 'method', 'rmse_unit')


def write(workdir: PathLike) -> pathlib.Path:
  """Writes everything from the finished runs; returns report.html's path.

  Raises:
    InputError: no finished run, or one with missing or damaged files.
  """
  workdir = pathlib.Path(workdir)
  benchmark = load(workdir)
  compared = write_tables(
    benchmark, workdir / 'results.csv', workdir / 'table.md'
  )
  sections = figures.draw(compared)
  write_figures(workdir, sections)
  html = template('benchmark/comparison.html.j2').render(
    title=workdir.absolute().name,
    verdict=verdict(compared),
    notes=notes(compared),
    facts=facts(compared),
    sections=sections,
    tables=comparison_tables.tables(compared),
    command=benchmark.command,
  )
  path = workdir / 'report.html'
  atomic.write_text(path, with_contents(html))
  return path


def write_tables(
  benchmark: Benchmark, results: PathLike, tables: PathLike
) -> Comparison:
  """Writes every metric (CSV), and tables and tests in words (Markdown)."""
  atomic.write_csv(
    results,
    statistics.RESULT_COLUMNS,
    benchmark.results.itertuples(index=False, name=None),
  )
  compared = statistics.compare(benchmark)
  atomic.write_text(
    tables,
    comparison_tables.markdown(compared, verdict(compared), notes(compared)),
  )
  return compared


# --------------------------------------------------------------------- words


def verdict(compared: Comparison) -> str:
  """Who is best by R², whom it beats, and whether a test agrees."""
  benchmark = compared.benchmark
  where = f'On {_count(len(compared.tasks), "task")}'
  if len(benchmark.seeds) > 1:
    where += f' and {len(benchmark.seeds)} seeds'
  best = compared.methods[0]
  if len(compared.methods) == 1:
    return (
      f'{where}, {method_name(best)} has a mean R² of '
      f'{_mean_r2(compared, best)}.'
    )
  said = [
    f'{where}, {method_name(best)} ranks best of {len(compared.methods)} '
    f'methods: average rank {compared.ranks["r2"][best]:.1f}, mean R² '
    f'{_mean_r2(compared, best)}.'
  ]
  p, difference = compared.friedman_p, compared.critical_difference
  if p is not None and difference is not None:
    said.append(_friedman_in_words(compared, p, difference))
  said += _against(compared, best)
  # Where a point predictor leads, what decoding reaches is still the question.
  shown = next((m for m in compared.methods if m in compared.samples), None)
  if shown not in (None, best):
    said.append(
      f'Best of those with a predictive distribution is {method_name(shown)}: '
      f'average rank {compared.ranks["r2"][shown]:.1f}, mean R² '
      f'{_mean_r2(compared, shown)}.'
    )
    said += _against(compared, shown)
  if shown is not None:
    coverage = compared.distributions['coverage90'][shown]
    said.append(
      f'Its central 90% interval covers {coverage:.0%} of the targets.'
    )
  said += _crps_in_words(compared)
  return ' '.join(said)


def _crps_in_words(compared: Comparison) -> list[str]:
  """The lowest CRPS of decoders against that of baselines."""
  tests, yardstick = compared.crps_tests, compared.yardstick
  if tests is None:
    return []
  decoders = [m for m in tests.index if not statistics.is_baseline(m)]
  if not decoders:
    return []
  method = tests['ratio'][decoders].idxmin()
  test = tests.loc[method]
  return [
    f'The best distribution of a baseline is that of {method_name(yardstick)}; '
    f'the CRPS of {method_name(method)} is '
    f'{comparison_tables.number(test.ratio, 2)} times as high, and lower on '
    f'{test.wins:.0f} tasks, level on {test.ties:.0f}, higher on '
    f'{test.losses:.0f}.'
  ]


def notes(compared: Comparison) -> list[str]:
  """What a reader must know before believing the verdict."""
  benchmark = compared.benchmark
  said = []
  if len(benchmark.seeds) == 1:
    said.append('One seed: there is no spread to judge the numbers by.')
  if len(compared.tasks) < 6:
    said.append(
      f'{_count(len(compared.tasks), "common task")}: below six, the paired '
      'test cannot reach p < 0.05.'
    )
  all_tasks = compared.values['r2'].shape[0]
  if len(compared.tasks) < all_tasks:
    gaps = compared.values['r2'][list(compared.methods)].isna().sum()
    missing = ', '.join(
      f'{method_name(m)} {count}' for m, count in gaps.items() if count
    )
    said.append(
      'Means, ranks and tests are over the '
      f'{_count(len(compared.tasks), "task")} of {all_tasks} that every '
      f'compared method has finished; tasks missing: {missing}.'
    )
  if compared.left_out:
    said.append(
      'Left out of means, ranks and tests, for too few finished tasks: '
      f'{", ".join(map(method_name, compared.left_out))}.'
    )
  if benchmark.drawn:
    tasks = ', '.join(
      f'{task} ({kept:,} of {given:,})'
      for task, (kept, given) in benchmark.drawn.items()
    )
    said.append(f'Training rows were drawn at random: {tasks}.')
  if benchmark.unit == statistics.MIXED:
    said.append(
      'Runs have targets in different units (data.transform): their RMSE, '
      'CRPS, negative log-density and widths do not compare; R² and Spearman '
      'do.'
    )
  if benchmark.failures:
    said.append(
      f'{_count(len(benchmark.failures), "run")} failed: see the end.'
    )
  return said


def facts(compared: Comparison) -> dict[str, str]:
  """What was run."""
  benchmark = compared.benchmark
  spent = duration(sum(benchmark.seconds.values()))
  runs = int(compared.values['r2'].notna().sum().sum())
  return {
    'Tasks': str(len(benchmark.tasks)),
    'Methods': str(len(compared.estimators)),
    'Seeds': ', '.join(benchmark.seeds),
    'Finished runs': f'{runs}, {spent} of wall time',
    'Machine': '; '.join(benchmark.machines) or 'unknown',
  }


def _friedman_in_words(
  compared: Comparison, p: float, difference: float
) -> str:
  if p >= statistics.SIGNIFICANCE:
    return f"Friedman's test does not tell the methods apart (p {_equals(p)})."
  ranks = compared.ranks['r2']
  best = compared.methods[0]
  near = [
    method_name(method)
    for method in compared.methods[1:]
    if ranks[method] - ranks[best] < difference
  ]
  said = f"Friedman's test tells the methods apart (p {_equals(p)}); "
  within = f'the critical difference of {difference:.1f} ranks'
  if not near:
    return f'{said}no other is within {within}.'
  return f'{said}within {within} of it: {", ".join(near)}.'


def _against(compared: Comparison, method: str) -> list[str]:
  """A sentence for each other reference."""
  said = []
  for reference, tests in compared.tests.items():
    if reference != method:
      test = tests.loc[method]
      significant = test.p_holm < statistics.SIGNIFICANCE
      said.append(
        f'Against {method_name(reference)} it wins {test.wins:.0f}, ties '
        f'{test.ties:.0f} and loses {test.losses:.0f} (mean difference of R² '
        f'{comparison_tables.number(test["mean"])}, Holm-corrected p '
        f'{_equals(test.p_holm)}: {"" if significant else "not "}significant).'
      )
  return said


def _mean_r2(compared: Comparison, method: str) -> str:
  """With the estimator that it is of."""
  mean = comparison_tables.number(compared.common('r2')[method].mean())
  return f'{mean} (estimator: {compared.estimators[method]})'


def _equals(p: float) -> str:
  text = comparison_tables.p_value(p)
  return text if text.startswith('<') else f'= {text}'


def _count(number: int, noun: str) -> str:
  return f'{number} {noun}{"s" * (number != 1)}'


# --------------------------------------------------------------------- files


def load(workdir: PathLike) -> Benchmark:
  """Reads all finished runs of a benchmark.

  Raises:
    InputError: no finished run, or one with missing or damaged files.
  """
  workdir = pathlib.Path(workdir)
  benchmark = read_json(workdir / BENCHMARK_FILE)
  for name in ('tasks', 'methods'):
    if not _are_names(benchmark.get(name, [])):
      raise errors.InputError(
        f'{workdir / BENCHMARK_FILE} is damaged (see {name}): start the '
        'benchmark again'
      )
  folders = {
    (path.parent.parent.name, path.parent.name): path.parent
    for path in sorted(workdir.glob('*/*/run.json'))
  }
  if not folders:
    raise errors.InputError(
      f'{workdir} has no finished run: run the benchmark first'
    )
  tasks = _in_order(benchmark.get('tasks', ()), (task for task, _ in folders))
  methods = _in_order(benchmark.get('methods', ()), (m for _, m in folders))
  frames: list[pd.DataFrame] = []
  samples: dict[tuple[str, str], statistics.Samples] = {}
  variances: dict[str, float] = {}
  seconds: dict[tuple[str, str], float] = {}
  peaks: dict[tuple[str, str], int] = {}
  machines: dict[str, None] = {}
  units: set[targets.Unit] = set()
  drawn: dict[str, tuple[int, int]] = {}
  for task in tasks:
    for method in methods:
      if (task, method) not in folders:
        continue
      folder = folders[task, method]
      try:
        info = reading.read_json(folder / 'run.json')
        stage = inputs.check_stages(folder / 'run.json', info.get('stages'))[-1]
        frames.append(
          _read_results(
            folder,
            task,
            method,
            stage,
            info.get('num_results'),
            _together(benchmark, info),
          )
        )
        summary, variance = _read_evaluation(folder, stage)
      except FileNotFoundError as error:
        raise errors.InputError(
          f'{error.filename} is missing: delete {folder} and run it again'
        ) from error
      except errors.InputError as error:
        raise errors.InputError(
          f'{error}: delete {folder} and run it again'
        ) from error
      if summary is not None:
        samples[task, method] = summary
      variances[task] = variance
      if info.get('drawn_from'):
        drawn[task] = info['num_train'], info['drawn_from']
      units.add(_unit(folder))
      if (folder / SECONDS_FILE).exists():
        spent = read_spent(folder)
        seconds[task, method] = spent.seconds
        if spent.peak_bytes:
          peaks[task, method] = spent.peak_bytes
      if (folder / 'env.json').exists():
        machines[_machine(read_json(folder / 'env.json'))] = None
  results = pd.concat(frames, ignore_index=True)
  decimal = results['seed'][results['seed'].str.isdecimal()]
  return Benchmark(
    tasks=tasks,
    methods=methods,
    seeds=sorted(decimal.unique(), key=int),
    command=str(benchmark.get('command', '')),
    machines=list(machines),
    results=results,
    samples=samples,
    variances=variances,
    seconds=seconds,
    peaks=peaks,
    failures=_read_failures(workdir, folders),
    published=_read_published(workdir / PUBLISHED_FILE),
    unit=units.pop() if len(units) == 1 else statistics.MIXED,
    drawn=drawn,
  )


def import_published(path: PathLike, workdir: PathLike) -> None:
  """Keeps published numbers in the workdir, beside its runs.

  The file has a column `dataset` and columns `<method>_RMSE` in the original
  unit.

  Raises:
    InputError: it cannot be read, or has no such columns.
  """
  try:
    table = pd.read_csv(path)
    columns = [c for c in table.columns if c.endswith('_RMSE')]
    if 'dataset' not in table or not columns:
      raise errors.InputError(
        f'{path} needs a column dataset and columns <method>_RMSE'
      )
    long = table.melt('dataset', columns, 'method', 'rmse_unit').dropna()
    long['rmse_unit'] = long['rmse_unit'].astype(float)
  except errors.InputError:
    raise
  except (OSError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise errors.InputError(
      f'{path} cannot be read as CSV ({reason}): correct --published'
    ) from error
  long['method'] = long['method'].str.removesuffix('_RMSE')
  atomic.write_csv(
    pathlib.Path(workdir) / PUBLISHED_FILE,
    PUBLISHED_COLUMNS,
    long.itertuples(index=False, name=None),
  )


class Spent(NamedTuple):
  """What a run has taken so far.

  seconds: of wall time.
  peak_bytes: the most that its process had resident while it ran, Python, the
    libraries and what earlier runs have left in it included; 0: unknown.
  """

  seconds: float
  peak_bytes: int


def read_spent(folder: pathlib.Path) -> Spent:
  """What a run has taken; zeros where nothing says.

  Raises:
    InputError: the file that says is damaged.
  """
  path = folder / SECONDS_FILE
  if not path.exists():
    return Spent(0.0, 0)
  found = {'peak_bytes': 0} | read_json(path)
  for name in Spent._fields:
    if not isinstance(found.get(name), int | float):
      raise errors.InputError(f'{path} is damaged (see {name}): delete it')
  return Spent(float(found['seconds']), int(found['peak_bytes']))


def _together(benchmark, info):
  """The one seed of a benchmark whose run took several together, or ''."""
  seeds = benchmark.get('seeds', ())
  if len(seeds) == 1 and len(info.get('seeds', ())) > 1:
    return str(seeds[0])
  return ''


def _read_results(
  folder: pathlib.Path,
  task: str,
  method: str,
  stage: str,
  num_rows: int | None,
  together: str,
) -> pd.DataFrame:
  # Not pandas' reader: its floats may differ in the last bit.
  rows = pd.DataFrame(
    [
      (
        task,
        method,
        together or row['seed'],
        row['estimator'],
        row['metric'],
        value,
      )
      for row, value in inputs.read_results(folder, num_rows)
      if (row['split'], row['stage']) == ('test', stage)
      and (
        row['seed'] == 'ensemble' or (row['seed'].isdecimal() and not together)
      )
    ],
    columns=list(statistics.RESULT_COLUMNS),
  ).astype({'value': float})
  headline = rows['estimator'].isin(statistics.HEADLINE_ESTIMATORS)
  if not np.isfinite(rows['value'][headline & (rows['metric'] == 'r2')]).any():
    raise errors.InputError(
      f'{folder / "results.csv"} has no R² of the mean of stage {stage}'
    )
  return rows


def _read_evaluation(
  folder: pathlib.Path, stage: str
) -> tuple[statistics.Samples | None, float]:
  """What the samples say, if there are any, and the test target's variance."""
  path = folder / 'evaluation' / f'{stage}_test.npz'
  arrays = reading.read_npz(path)
  inputs.check_shapes(path, arrays, {'target': (None,)})
  n = len(arrays['target'])
  variance = float(np.var(arrays['target'].astype(np.float64)))
  if 'samples_z' not in arrays:
    return None, variance
  inputs.check_shapes(
    path, arrays, {'samples_z': (None, n, None), 'target_z': (n,)}
  )
  summary = statistics.summarize_samples(
    arrays['samples_z'], arrays['target_z'].astype(np.float64)
  )
  return summary, variance


def _unit(folder: pathlib.Path) -> targets.Unit:
  """What errors of z are measured in, of a run."""
  path = folder / 'config.json'
  if not path.exists():
    return targets.UNITS['standard']
  data = read_json(path).get('data')
  transform = data.get('transform') if isinstance(data, dict) else None
  # Runs of before the field was there standardise.
  return targets.UNITS.get(str(transform), targets.UNITS['standard'])


def _read_failures(
  workdir: pathlib.Path, finished: Iterable[tuple[str, str]]
) -> list[tuple[str, str, str]]:
  failures = []
  for path in sorted((workdir / FAILURES_FOLDER).glob('*.json')):
    failure = read_json(path)
    fields = ('task', 'method', 'type', 'reason')
    task, method, kind, reason = (str(failure.get(f) or '') for f in fields)
    if (task, method) not in finished:
      failures.append((task, method, ': '.join(filter(None, [kind, reason]))))
  return failures


def _read_published(path: pathlib.Path) -> pd.DataFrame:
  """What `import_published` has kept, or an empty frame."""
  if not path.exists():
    return pd.DataFrame(columns=list(PUBLISHED_COLUMNS))
  rows = [
    (row['task'], row['method'], reading.number(path, row['rmse_unit']))
    for row in reading.read_csv(path, PUBLISHED_COLUMNS)
  ]
  return pd.DataFrame(rows, columns=list(PUBLISHED_COLUMNS))


def _are_names(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _machine(env: Mapping[str, Any]) -> str:
  kind = env.get('device_kind')
  parts = [
    env.get('processor'),
    kind and env.get('num_devices') and f'{env["num_devices"]} x {kind}',
    env.get('jax') and f'jax {env["jax"]}',
    env.get('git_commit') and f'commit {env["git_commit"]}',
  ]
  return ', '.join(str(part) for part in parts if part)


def _in_order(first: Sequence[str], found: Iterable[str]) -> list[str]:
  """Those found: the ones listed in their order, then the others by name."""
  found = set(found)
  listed = [name for name in first if name in found]
  return listed + sorted(found - set(listed))


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object; raises InputError."""
  try:
    return reading.read_json(path)
  except FileNotFoundError as error:
    raise errors.InputError(
      f'{path} is missing: a comparison needs the workdir of a benchmark'
    ) from error
