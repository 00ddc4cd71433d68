"""Methods compared over tasks: means, ranks, paired tests, and their tables.

The unit of every test is a task: its value is the mean over seeds, for seeds of
one task are no independent evidence that a method is better elsewhere. Tests
follow Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets"
(JMLR 2006). Values are frames of float64, tasks by methods.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from genre2_jax.baselines import catalog
from genre2_jax.data.targets import UNITS, Unit
from genre2_jax.metrics import sampled

RESULT_COLUMNS = ('task', 'method', 'seed', 'estimator', 'metric', 'value')
HEADLINE_ESTIMATORS = ('exact_mean', 'mean')  # the first that is there
DISTRIBUTION_ESTIMATOR = 'sample'  # carries crps, coverage90, width90
TREES = 'catboost'
REFERENCES = ('ce', TREES)  # what the others are tested against
VARIED = 'best'  # where neither is there: what an ablation takes parts from
BASE = 'ce'  # what fine-tuning starts from
LEVELS = np.linspace(0.05, 0.95, 19)  # of nominal coverage
SIGNIFICANCE = 0.05
# Differences of R² below a thousandth of the target's variance are ties: they
# do not show in a table of three decimals.
TIE = 1e-3
CRPS_TIE = 0.01  # of the other's CRPS


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric of a point estimate: key in results.csv, title, which is better.

  The title's '{z}' stands for the unit of z.
  """

  key: str
  title: str
  higher_is_better: bool

  def name(self, unit: Unit) -> str:
    """'RMSE (z)'."""
    return self.title.format(z=unit.name)

  @property
  def sign(self) -> int:
    return 1 if self.higher_is_better else -1


METRICS = (
  Metric('r2', 'R²', True),
  Metric('rmse', 'RMSE ({z})', False),
  Metric('spearman', 'Spearman', True),
)


DISTRIBUTION_METRICS = (  # key, title, 1 if higher is better or -1
  ('crps', 'CRPS ({z})', -1),
  ('nll', 'Negative log-density (nats, per {z})', -1),
  ('coverage90', 'Coverage of the central 90%', 0),
  ('width90', 'Width of the central 90% ({z})', 0),
)
# Of runs whose targets were transformed in different ways.
MIXED = Unit('own unit', "each run's own unit, which differ", '')


@dataclasses.dataclass(frozen=True)
class Samples:
  """What the samples of a method say on a task, or on average over tasks."""

  ks: np.ndarray  # [K] numbers of samples: 1, 2, 4, ...
  best: np.ndarray  # [K] RMSE of z of the best of k
  mean: np.ndarray  # [K] RMSE of z of the mean of k
  coverage: np.ndarray  # [C] share of targets covered at LEVELS


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """What the finished runs of a benchmark left.

  Attributes:
    tasks: in order.
    methods: in order.
    seeds: of every run.
    command: that started it, '' if unknown.
    machines: one line per kind of machine.
    results: frame of RESULT_COLUMNS, test split, last stage; seed is a number
      or 'ensemble', as text.
    samples: of the runs that draw any.
    variances: of the test target, original unit squared (ddof 0).
    seconds: wall seconds of a run, all seeds together, compilation included.
    peaks: bytes that its process had resident at most (`page.Spent`), of the
      runs that say.
    failures: (task, method, reason).
    published: frame of task, method, rmse_unit.
    unit: what errors in z are measured in; `MIXED` where runs differ.
    drawn: task -> (train rows, those that they were drawn from), where some
      were left out (`data.max_train_rows`).
  """

  tasks: Sequence[str]
  methods: Sequence[str]
  seeds: Sequence[str]
  command: str
  machines: Sequence[str]
  results: pd.DataFrame
  samples: Mapping[tuple[str, str], Samples]
  variances: Mapping[str, float]
  seconds: Mapping[tuple[str, str], float]
  failures: Sequence[tuple[str, str, str]]
  published: pd.DataFrame
  unit: Unit = UNITS['standard']
  peaks: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)
  drawn: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A benchmark, reduced to what its tables and figures show.

  Attributes:
    benchmark: behind it.
    tasks: that every compared method has finished.
    methods: compared, best average rank first.
    left_out: methods with too few tasks to compare.
    estimators: headline estimator of each method with results.
    values: metric -> frame, all tasks by all methods with results, of the
      headline estimator, means over seeds, NaN where a run is missing.
    spread: standard deviation of R² over seeds, mean over tasks; NaN for one.
    ranks: average rank by each of METRICS, methods by metrics.
    distributions: frame of methods by crps, coverage90, width90, over `tasks`.
    crps: of all samples, all tasks by the methods that draw any; means over
      seeds.
    yardstick: the baseline with a distribution whose mean CRPS over `tasks` is
      the lowest; '' if there is none.
    crps_tests: frame of `ratio_tests` against it, None without one.
    samples: averages over `tasks` of the methods that draw any.
    friedman_p: that all methods are alike by R², None where undefined.
    critical_difference: of average ranks by R², None where undefined.
    tests: reference -> frame of `paired_tests` by R².
  """

  benchmark: Benchmark
  tasks: Sequence[str]
  methods: Sequence[str]
  left_out: Sequence[str]
  estimators: Mapping[str, str]
  values: Mapping[str, pd.DataFrame]
  spread: pd.Series
  ranks: pd.DataFrame
  distributions: pd.DataFrame
  crps: pd.DataFrame
  yardstick: str
  crps_tests: pd.DataFrame | None
  samples: Mapping[str, Samples]
  friedman_p: float | None
  critical_difference: float | None
  tests: Mapping[str, pd.DataFrame]

  def common(self, metric: str) -> pd.DataFrame:
    """Values without gaps: common tasks by compared methods."""
    return self.values[metric].loc[list(self.tasks), list(self.methods)]


# --------------------------------------------------------------- statistics


def headline_estimators(results: pd.DataFrame) -> dict[str, str]:
  """Method -> the first of HEADLINE_ESTIMATORS on all of its tasks."""
  chosen = {}
  for method, rows in results.groupby('method', sort=False):
    num_tasks = rows['task'].nunique()
    for estimator in HEADLINE_ESTIMATORS:
      has = (rows['estimator'] == estimator) & (rows['metric'] == 'r2')
      if rows.loc[has, 'task'].nunique() == num_tasks:
        chosen[method] = estimator
        break
  return chosen


def per_task(
  results: pd.DataFrame,
  metric: str,
  estimators: str | Mapping[str, str],
  statistic: str = 'mean',
) -> pd.DataFrame:
  """A metric, tasks by methods: `statistic` over the numeric seeds.

  `estimators` is one for all, or method -> estimator; methods without any
  have no column. Undefined values are NaN.
  """
  if isinstance(estimators, str):
    wanted = results['estimator'] == estimators
  else:
    wanted = results['estimator'] == results['method'].map(estimators)
  rows = results[
    wanted & (results['metric'] == metric) & results['seed'].str.isdecimal()
  ]
  return rows.pivot_table(
    index='task', columns='method', values='value', aggfunc=statistic
  )


def common_tasks(
  values: pd.DataFrame,
) -> tuple[list[str], list[str], list[str]]:
  """Tasks that all compared methods have: (tasks, methods, left out).

  A method with under half of the tasks of the fullest is left out: it would
  cost the others their tasks. If no task is left, the method with the fewest
  goes, until one is.
  """
  has = values.notna()
  counts = has.sum()
  methods = [m for m in has if 0 < counts[m] >= counts.max() / 2]
  while methods and not has[methods].all(axis=1).any():
    methods.remove(min(methods, key=counts.get))
  tasks = [task for task in has.index if has.loc[task, methods].all()]
  left_out = [m for m in has if m not in methods]
  return tasks, methods, left_out


def average_ranks(values: pd.DataFrame, higher_is_better: bool) -> pd.Series:
  """Mean over tasks of the rank among methods: 1 is best, ties share."""
  ranks = values.rank(axis=1, ascending=not higher_is_better, method='average')
  return ranks.mean()


def paired_tests(
  values: pd.DataFrame,
  reference: str,
  *,
  higher_is_better: bool = True,
  tie: float = TIE,
) -> pd.DataFrame:
  """Every other method against `reference`, over tasks.

  Wilcoxon's signed-rank test, two-sided, on the differences of all tasks
  (Pratt's treatment of zeros), with Holm's correction over the methods.

  Returns:
    methods by wins, ties (|difference| < tie), losses, mean and median
    difference (method − reference), p and p_holm.
  """
  rows = {}
  for method in values.columns.drop(reference):
    difference = (values[method] - values[reference]).to_numpy()
    better = difference if higher_is_better else -difference
    rows[method] = {
      'wins': int(np.sum(better >= tie)),
      'ties': int(np.sum(np.abs(better) < tie)),
      'losses': int(np.sum(better <= -tie)),
      'mean': float(np.mean(difference)),
      'median': float(np.median(difference)),
      'p': signed_rank_p(difference),
    }
  columns = ('wins', 'ties', 'losses', 'mean', 'median', 'p')
  tests = pd.DataFrame.from_dict(rows, orient='index', columns=columns)
  tests['p_holm'] = holm(tests['p'])
  return tests


def ratio_tests(
  values: pd.DataFrame, reference: str, *, tie: float = CRPS_TIE
) -> pd.DataFrame:
  """Every other method's positive errors over those of `reference`, by task.

  Wilcoxon's signed-rank test on the logarithms of the ratios, with Holm's
  correction over the methods.

  Returns:
    methods by wins (lower by `tie` or more), ties, losses, ratio (of means),
    median ratio, p and p_holm.
  """
  rows = {}
  for method in values.columns.drop(reference):
    ratio = values[method] / values[reference]
    rows[method] = {
      'wins': int((ratio <= 1 - tie).sum()),
      'ties': int(((ratio - 1).abs() < tie).sum()),
      'losses': int((ratio >= 1 + tie).sum()),
      'ratio': values[method].mean() / values[reference].mean(),
      'median': ratio.median(),
      'p': signed_rank_p(np.log(ratio)),
    }
  columns = ('wins', 'ties', 'losses', 'ratio', 'median', 'p')
  tests = pd.DataFrame.from_dict(rows, orient='index', columns=columns)
  tests['p_holm'] = holm(tests['p'])
  return tests


def is_baseline(method: str) -> bool:
  """Whether a method's name, without '@tokenizer', is that of a baseline."""
  return method.partition('@')[0] in catalog.BASELINES


def _yardstick(crps: pd.DataFrame) -> str:
  """Of CRPS without gaps, tasks by methods."""
  means = crps[[m for m in crps if is_baseline(m)]].mean()
  return '' if means.empty else str(means.idxmin())


def signed_rank_p(differences: ArrayLike) -> float:
  """Two-sided p of Wilcoxon's signed-rank test; 1 if all are zero."""
  differences = np.asarray(differences, np.float64)
  if not differences.any():
    return 1.0
  return float(stats.wilcoxon(differences, zero_method='pratt').pvalue)


def holm(p: ArrayLike) -> np.ndarray:
  """Holm's (1979) step-down correction: max over i ≤ j of (m − i)·p_(i)."""
  p = np.asarray(p, np.float64)
  order = np.argsort(p, kind='stable')
  scaled = p[order] * np.arange(len(p), 0, -1)
  corrected = np.empty_like(p)
  corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
  return corrected


def friedman_p(values: pd.DataFrame) -> float | None:
  """p of Friedman's test that all methods rank alike.

  None below three methods or two tasks, where it is not defined; 1 if every
  task ties.
  """
  if min(values.shape[0], values.shape[1] - 1) < 2:
    return None
  if (values.nunique(axis=1) == 1).all():
    return 1.0
  return float(stats.friedmanchisquare(*values.to_numpy().T).pvalue)


def critical_difference(
  num_methods: int, num_tasks: int, significance: float = SIGNIFICANCE
) -> float:
  """Nemenyi's critical difference of average ranks, q·√(k(k + 1) / (6N)).

  q is the studentized range's quantile for k groups and infinite degrees of
  freedom, over √2.
  """
  k, n = num_methods, num_tasks
  q = stats.studentized_range.ppf(1 - significance, k, np.inf) / math.sqrt(2)
  return float(q * math.sqrt(k * (k + 1) / (6 * n)))


def summarize_samples(
  samples_z: ArrayLike, target_z: ArrayLike
) -> Samples | None:
  """Mean over seeds for samples [S, n, G]; None if they are points.

  Best-of-k and mean-of-k take the first k samples, k = 1, 2, 4, ... ≤ G.
  """
  samples_z = np.asarray(samples_z, np.float64)
  if samples_z.shape[-1] < 2 or not np.ptp(samples_z, axis=-1).any():
    return None
  ks = 2 ** np.arange(samples_z.shape[-1].bit_length())
  curves = [sampled.sampling_efficiency(s, target_z, ks) for s in samples_z]
  best, mean = np.mean(curves, axis=0)
  coverage = np.mean(
    [sampled.coverage_curve(s, target_z, LEVELS) for s in samples_z], axis=0
  )
  return Samples(ks=ks, best=best, mean=mean, coverage=coverage)


def average_samples(samples: Sequence[Samples]) -> Samples:
  """The mean over tasks, at the k that all have."""
  ks = min((s.ks for s in samples), key=len)
  return Samples(
    ks=ks,
    best=np.mean([s.best[: len(ks)] for s in samples], axis=0),
    mean=np.mean([s.mean[: len(ks)] for s in samples], axis=0),
    coverage=np.mean([s.coverage for s in samples], axis=0),
  )


def compare(benchmark: Benchmark) -> Comparison:
  """Everything that tables and figures show."""
  results = benchmark.results
  estimators = headline_estimators(results)
  methods = [m for m in benchmark.methods if m in estimators]

  def table(metric, statistic='mean'):
    return per_task(results, metric, estimators, statistic).reindex(
      index=benchmark.tasks, columns=methods
    )

  values = {metric.key: table(metric.key) for metric in METRICS}
  tasks, compared, left_out = common_tasks(values['r2'])
  common = {k: v.loc[tasks, compared] for k, v in values.items()}
  ranks = pd.DataFrame(
    {m.key: average_ranks(common[m.key], m.higher_is_better) for m in METRICS}
  )
  compared = list(ranks['r2'].sort_values(kind='stable').index)
  p = friedman_p(common['r2'])
  references = REFERENCES if set(REFERENCES) & set(compared) else (VARIED,)
  drawn = {
    method: [
      benchmark.samples[task, method]
      for task in tasks
      if (task, method) in benchmark.samples
    ]
    for method in compared
  }
  samples = {
    method: average_samples(of_tasks)
    for method, of_tasks in drawn.items()
    if tasks and len(of_tasks) == len(tasks)
  }
  distributions = pd.DataFrame(
    {
      metric: per_task(results, metric, DISTRIBUTION_ESTIMATOR)
      .reindex(index=tasks, columns=compared)
      .mean(skipna=False)
      for metric in ('crps', 'coverage90', 'width90')
    }
  )
  crps = per_task(results, 'crps', DISTRIBUTION_ESTIMATOR).reindex(
    index=benchmark.tasks, columns=[m for m in compared if m in samples]
  )
  yardstick = _yardstick(crps.loc[tasks])
  # A point covers nothing; only its CRPS, the absolute error, compares.
  points = [method for method in compared if method not in samples]
  distributions.loc[points, ['coverage90', 'width90']] = math.nan
  return Comparison(
    benchmark=benchmark,
    tasks=tasks,
    methods=compared,
    left_out=left_out,
    estimators=estimators,
    values=values,
    spread=table('r2', 'std').loc[tasks].mean(),
    ranks=ranks.loc[compared],
    distributions=distributions,
    crps=crps,
    yardstick=yardstick,
    crps_tests=ratio_tests(crps.loc[tasks], yardstick) if yardstick else None,
    samples=samples,
    friedman_p=p,
    critical_difference=(
      None if p is None else critical_difference(len(compared), len(tasks))
    ),
    tests={
      reference: paired_tests(common['r2'][compared], reference)
      for reference in references
      if reference in compared and len(compared) > 1
    },
  )
