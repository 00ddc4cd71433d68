import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from genre2_jax.benchmark import comparison_tables, statistics
from genre2_jax.metrics import sampled


def frame(columns):
  """Values of tasks t0, t1, ... by methods."""
  length = len(next(iter(columns.values())))
  return pd.DataFrame(
    columns, index=[f't{i}' for i in range(length)], dtype=float
  )


def tidy(rows):
  return pd.DataFrame(rows, columns=list(statistics.RESULT_COLUMNS))


def test_values_are_means_over_numeric_seeds():
  results = tidy(
    [
      ('a', 'ce', '0', 'mean', 'r2', 0.2),
      ('a', 'ce', '1', 'mean', 'r2', 0.6),
      ('a', 'ce', 'ensemble', 'mean', 'r2', 0.9),
      ('a', 'ce', '0', 'median', 'r2', -5.0),
      ('a', 'ce', '0', 'mean', 'rmse', 7.0),
      ('a', 'raft', '0', 'mean', 'r2', 0.1),
      ('a', 'raft', '0', 'exact_mean', 'r2', 0.3),
    ]
  )
  values = statistics.per_task(results, 'r2', 'mean')
  assert values.loc['a', 'ce'] == pytest.approx(0.4)
  assert values.loc['a', 'raft'] == 0.1
  headline = {'ce': 'mean', 'raft': 'exact_mean'}
  assert statistics.per_task(results, 'r2', headline).loc['a', 'raft'] == 0.3
  spread = statistics.per_task(results, 'r2', headline, 'std')
  assert spread.loc['a', 'ce'] == pytest.approx(math.sqrt(0.08))


def test_headline_is_exact_only_where_every_task_has_it():
  rows = [
    (task, method, '0', estimator, 'r2', 0.5)
    for task in 'ab'
    for method, estimators in {
      'ce': ['mean', 'greedy'],
      'raft': ['mean', 'exact_mean'],
      'partly': ['mean', 'exact_mean'] if task == 'a' else ['mean'],
      'neither': ['greedy'],
    }.items()
    for estimator in estimators
  ]
  assert statistics.headline_estimators(tidy(rows)) == {
    'ce': 'mean',
    'raft': 'exact_mean',
    'partly': 'mean',
  }


@pytest.mark.parametrize(
  ('has', 'expected'),
  [
    ({'a': [1, 1, 1], 'b': [1, 1, 1]}, ([0, 1, 2], ['a', 'b'], [])),
    ({'a': [1, 1, 1], 'b': [1, 0, 1]}, ([0, 2], ['a', 'b'], [])),
    # Under half of the fullest: left out rather than costing two tasks.
    ({'a': [1, 1, 1], 'b': [0, 1, 0]}, ([0, 1, 2], ['a'], ['b'])),
    # Half each, none in common: the one with the fewest goes.
    (
      {'a': [1, 1, 1, 0, 0], 'b': [0, 0, 0, 1, 1]},
      ([0, 1, 2], ['a'], ['b']),
    ),
    ({'a': [1, 1], 'b': [0, 0]}, ([0, 1], ['a'], ['b'])),
  ],
)
def test_common_tasks(has, expected):
  values = frame(has).replace(0, math.nan)
  numbers, methods, left_out = expected
  tasks = [f't{i}' for i in numbers]
  assert statistics.common_tasks(values) == (tasks, methods, left_out)


def test_average_ranks_share_ties():
  values = frame({'a': [0.9, 0.5], 'b': [0.9, 0.7], 'c': [0.1, 0.6]})
  higher = statistics.average_ranks(values, higher_is_better=True)
  assert higher.to_dict() == {'a': 2.25, 'b': 1.25, 'c': 2.5}
  lower = statistics.average_ranks(values, higher_is_better=False)
  assert lower.to_dict() == {'a': 1.75, 'b': 2.75, 'c': 1.5}


def test_wins_ties_and_losses_of_each_direction():
  values = frame(
    {'ce': [0.5, 0.5, 0.5, 0.5], 'x': [0.6, 0.5005, 0.4995, 0.501001]}
  )
  test = statistics.paired_tests(values, 'ce').loc['x']
  assert (test.wins, test.ties, test.losses) == (2, 2, 0)
  assert test['mean'] == pytest.approx(0.10100100 / 4)
  test = statistics.paired_tests(values, 'ce', higher_is_better=False).loc['x']
  assert (test.wins, test.ties, test.losses) == (0, 2, 2)


def test_signed_rank_p_is_that_of_all_sign_patterns():
  differences = np.array([0.31, -0.02, 0.11, 0.07, 0.24, -0.05, 0.19])
  ranks = stats.rankdata(np.abs(differences))
  observed = abs(np.sum(ranks * np.sign(differences)))
  patterns = itertools.product((-1, 1), repeat=len(differences))
  extreme = [abs(np.dot(ranks, signs)) >= observed for signs in patterns]
  p = statistics.signed_rank_p(differences)
  assert p == pytest.approx(np.mean(extreme))
  assert statistics.signed_rank_p(-differences) == pytest.approx(p)


def test_signed_rank_p_of_few_and_of_equal():
  assert statistics.signed_rank_p([0.0, 0.0]) == 1
  assert statistics.signed_rank_p([0.3]) == 1
  # Five tasks cannot be significant: 2 of 32 patterns are as extreme.
  assert statistics.signed_rank_p([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)


def test_holm_by_hand():
  np.testing.assert_allclose(
    statistics.holm([0.01, 0.04, 0.03, 0.5]), [0.04, 0.09, 0.09, 0.5]
  )
  np.testing.assert_allclose(statistics.holm([0.6, 0.7]), [1, 1])
  assert statistics.holm([]).shape == (0,)


def test_paired_tests_correct_over_methods():
  draw = np.random.default_rng(0)
  values = frame({m: draw.normal(size=12) for m in ('ce', 'a', 'b', 'c')})
  values['a'] = values['ce'] + np.linspace(0.1, 0.2, 12)
  tests = statistics.paired_tests(values, 'ce')
  assert list(tests.index) == ['a', 'b', 'c']
  for method in tests.index:
    expected = stats.wilcoxon(values[method], values['ce']).pvalue
    assert tests.loc[method, 'p'] == pytest.approx(expected)
  np.testing.assert_allclose(tests['p_holm'], statistics.holm(tests['p']))
  assert tests.loc['a', 'p_holm'] == pytest.approx(3 * 2 / 2**12)


def test_friedman_by_the_formula():
  values = frame(
    {
      'a': [0.1, 0.2, 0.3, 0.9, 0.5],
      'b': [0.2, 0.3, 0.1, 0.8, 0.4],
      'c': [0.3, 0.4, 0.5, 0.7, 0.6],
    }
  )
  n, k = values.shape
  mean_ranks = statistics.average_ranks(values, True)
  statistic = (
    12 * n / (k * (k + 1)) * (sum(mean_ranks**2) - k * (k + 1) ** 2 / 4)
  )
  expected = stats.chi2.sf(statistic, k - 1)
  assert statistics.friedman_p(values) == pytest.approx(expected)


def test_friedman_where_it_says_nothing():
  assert statistics.friedman_p(frame({'a': [1, 2], 'b': [2, 1]})) is None
  assert statistics.friedman_p(frame({'a': [1], 'b': [2], 'c': [3]})) is None
  assert statistics.friedman_p(frame({m: [0.5, 0.7] for m in 'abc'})) == 1


@pytest.mark.parametrize(
  ('k', 'q'), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)]
)
def test_critical_difference_has_the_tabled_quantiles(k, q):
  """Demšar (2006), table 5a."""
  found = statistics.critical_difference(k, num_tasks=24)
  assert found == pytest.approx(q * math.sqrt(k * (k + 1) / 144), rel=1e-3)


def test_critical_difference_of_a_published_example():
  """Demšar (2006), section 3.2.2: four classifiers, 14 data sets."""
  assert statistics.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_samples_are_summarized_by_seed_and_averaged_over_tasks():
  draw = np.random.default_rng(1)
  target = draw.normal(size=9)
  samples = target[:, None] + draw.normal(size=(2, 9, 6))
  found = statistics.summarize_samples(samples, target)
  assert list(found.ks) == [1, 2, 4]
  errors = np.abs(samples - target[:, None])
  for place, k in enumerate(found.ks):
    best = np.sqrt(np.mean(errors[..., :k].min(-1) ** 2, axis=1)).mean()
    mean = samples[..., :k].mean(-1) - target
    assert found.best[place] == pytest.approx(best)
    assert found.mean[place] == pytest.approx(
      np.sqrt(np.mean(mean**2, axis=1)).mean()
    )
  at_90 = list(np.round(statistics.LEVELS, 2)).index(0.9)
  assert found.coverage[at_90] == pytest.approx(
    np.mean([sampled.coverage(s, target) for s in samples])
  )
  shorter = statistics.summarize_samples(samples[..., :2], target)
  both = statistics.average_samples([found, shorter])
  assert list(both.ks) == [1, 2]
  np.testing.assert_allclose(both.best, (found.best[:2] + shorter.best) / 2)


@pytest.mark.parametrize('G', [1, 8])
def test_points_are_no_samples(G):
  points = np.repeat(np.arange(5.0)[None, :, None], G, axis=2)
  assert statistics.summarize_samples(points, np.arange(5.0)) is None


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0.12345, '0.123'),
    (-0.5, '\N{MINUS SIGN}0.500'),
    (-0.0001, '0.000'),
    (-4.1e24, '\N{MINUS SIGN}4.1e+24'),
    (math.nan, ''),
  ],
)
def test_numbers_as_text(value, text):
  assert comparison_tables.number(value) == text


def make_benchmark(rows, tasks, methods, **fields):
  defaults = {
    'seeds': ['0'],
    'command': 'python -m genre2_jax.benchmark',
    'machines': ['AMD EPYC'],
    'samples': {},
    'variances': dict.fromkeys(tasks, 4.0),
    'seconds': {},
    'failures': [],
    'published': pd.DataFrame(columns=['task', 'method', 'rmse_unit']),
  }
  return statistics.Benchmark(
    tasks=tasks, methods=methods, results=tidy(rows), **defaults | fields
  )


def point_rows(values):
  """Rows of {(task, method): R²}, one seed, estimator mean."""
  return [
    (task, method, '0', 'mean', metric, value)
    for (task, method), r2 in values.items()
    for metric, value in (
      ('r2', r2),
      ('rmse', math.sqrt(1 - r2)),
      ('spearman', r2),
      ('rmse_unit', 2 * math.sqrt(1 - r2)),
    )
  ]


def test_means_and_ranks_are_over_common_tasks_only():
  values = {
    ('a', 'ce'): 0.1, ('a', 'x'): 0.3,
    ('b', 'ce'): 0.5, ('b', 'x'): 0.4,
    ('c', 'ce'): 0.9,
  }  # fmt: skip
  compared = statistics.compare(
    make_benchmark(point_rows(values), ['a', 'b', 'c'], ['ce', 'x'])
  )
  assert list(compared.tasks) == ['a', 'b']
  assert compared.ranks['r2'].to_dict() == {'x': 1.5, 'ce': 1.5}
  text = comparison_tables.markdown(compared, 'Verdict.', ['Note.'])
  # All tasks are shown; the mean is that of two.
  assert '| c | **0.900**' in text or '| c | 0.900' in text
  assert '| mean of 2 common tasks |' in text
  row = next(line for line in text.splitlines() if line.startswith('| ce |'))
  assert '| mean | 1.50 | 0.300 |' in row
  assert 'Verdict.' in text and 'Note.' in text


def test_published_numbers_become_r2_by_the_variance_of_the_target():
  values = {(t, m): 0.5 for t in 'ab' for m in ('ce', 'x')}
  published = pd.DataFrame(
    [('a', 'catboost', 1.0), ('b', 'catboost', 1.2), ('z', 'catboost', 9.0)],
    columns=['task', 'method', 'rmse_unit'],
  )
  compared = statistics.compare(
    make_benchmark(
      point_rows(values), ['a', 'b'], ['ce', 'x'], published=published
    )
  )
  made = {table.title: table for table in comparison_tables.tables(compared)}
  summary = made['Beside the published numbers: R²']
  # 1 - 1/4 and 1 - 1.44/4.
  assert summary.rows[0][0] == 'catboost (published)'
  assert summary.rows[0][1] == '0.695'
  units = made['Beside the published numbers: RMSE per task, original unit']
  assert units.rows[0] == ('a', '1.414', '1.414', '1')
  assert units.best == {(0, 3), (1, 3)}


def test_what_reads_equal_is_equally_good():
  values = {('a', 'ce'): 0.50001, ('a', 'x'): 0.50002, ('a', 'y'): 0.4}
  compared = statistics.compare(
    make_benchmark(point_rows(values), ['a'], ['ce', 'x', 'y'])
  )
  table = next(
    t for t in comparison_tables.tables(compared) if t.title == 'R² per task'
  )
  assert table.rows[0] == ('a', '0.500', '0.500', '0.400')
  assert table.best == {(0, 1), (0, 2), (1, 1), (1, 2)}
