import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from drawn_runs import write_benchmark, write_run

from genre2_jax import errors
from genre2_jax.benchmark import comparison_tables, figures, page, statistics
from genre2_jax.files import atomic
from genre2_jax.metrics import results
from genre2_jax.report.__main__ import main

FIGURES = {
  'gain_r2',
  'gain_crps',
  'critical_difference',
  'tasks',
  'skill_against_ce',
  'skill_against_catboost',
  'sampling_efficiency_best_of_k',
  'sampling_efficiency_mean_of_k',
  'calibration',
  'calibration_error',
  'sharpening_crps',
  'sharpening_coverage90',
  'sharpening_width90',
}


def render(workdir):
  """report.html without figures, and their names; each is also a file."""
  html = page.write(workdir).read_text(encoding='utf-8')
  pattern = r'<figure id="(\w+)">\s*(<svg .*?</svg>)'
  figures = dict(re.findall(pattern, html, flags=re.S))
  for name, svg in figures.items():
    file = (workdir / 'figures' / f'{name}.svg').read_text(encoding='utf-8')
    shape = ElementTree.fromstring(file).attrib['viewBox']
    # As wide as a phone: panels stack there.
    assert shape.startswith('0 0 345.6 ')
    assert len(re.search('aria-label="([^"]*)"', svg)[1]) > 20
  assert '://' not in html and '<script' not in html
  assert len(html) < 2**20
  assert not re.search(r'\bnan\b', html.lower())
  assert not re.search(r'\bnan\b', (workdir / 'table.md').read_text().lower())
  return re.sub(r'<svg .*?</svg>', '', html, flags=re.S), set(figures)


@pytest.fixture
def no_figures(monkeypatch):
  """For what is not about figures: drawing them takes seconds."""
  monkeypatch.setattr(figures, 'draw', lambda compared: [])


TASKS = ['sensory', 'wind', 'houses', 'treasury', 'Moneyball', 'cpu_act', 'x']


@pytest.mark.parametrize(
  ('methods', 'num_tasks', 'options', 'absent'),
  [
    (
      ['ce', 'remax'],
      1,
      {'seeds': (0,)},
      {
        'critical_difference',
        'skill_against_catboost',
        'gain_r2',
        'gain_crps',
      },
    ),
    (
      ['ce', 'remax', 'crps', 'raft', 'catboost', 'catboost_residuals'],
      7,
      {},
      set(),
    ),
    (
      ['ce'],
      2,
      {},
      {
        f
        for f in FIGURES
        if f.partition('_')[0] in ('skill', 'critical', 'gain')
      },
    ),
    (
      ['catboost', 'xgboost'],
      2,
      {'n': 1},
      FIGURES - {'tasks', 'skill_against_catboost', 'gain_r2'},
    ),
    (['ce', 'crps'], 1, {'n': 2, 'G': 1}, FIGURES - {'tasks'}),
  ],
  ids=lambda value: None if isinstance(value, set) else str(value)[:30],
)
def test_report_stands_alone(tmp_path, methods, num_tasks, options, absent):
  write_benchmark(tmp_path, methods, TASKS[:num_tasks], **options)
  text, figures = render(tmp_path)
  absent = absent - {'skill_against_ce'} if 'G' in options else absent
  assert figures == FIGURES - absent
  assert 'python -m genre2_jax.benchmark --workdir=x' in text


def test_tokenizers_by_methods_have_a_map(tmp_path):
  methods = [f'{m}@{t}' for m in ('ce', 'remax') for t in ('p10', 'ieee')]
  write_benchmark(tmp_path, [*methods, 'catboost'], TASKS[:2])
  _, figures = render(tmp_path)
  assert 'tokenizers' in figures
  assert 'sharpening_crps' in figures


def test_many_methods_on_many_tasks(tmp_path):
  methods = ['ce', 'catboost', *(f'method_{i}' for i in range(22))]
  write_benchmark(tmp_path, methods, TASKS[:2], n=6, G=4)
  _, figures = render(tmp_path)
  assert figures == FIGURES - {'gain_crps'}


def test_missing_and_failed_runs_are_said(tmp_path, no_figures):
  write_benchmark(
    tmp_path,
    ['ce', 'remax', 'crps'],
    TASKS[:4],
    missing={('wind', 'remax'), *((t, 'crps') for t in TASKS[:3])},
  )
  atomic.write_json(
    tmp_path / 'failures' / 'wind__remax.json',
    {'task': 'wind', 'method': 'remax', 'type': 'NonFiniteError',
     'reason': 'the <loss>'},
  )  # fmt: skip
  # Tried again since, and finished.
  atomic.write_json(
    tmp_path / 'failures' / 'wind__ce.json',
    {'task': 'wind', 'method': 'ce', 'type': 'OSError', 'reason': 'full'},
  )
  text, _ = render(tmp_path)
  assert 'over the 3 tasks of 4 that every compared method' in text
  assert 'tasks missing: ReMax 1.' in text
  assert 'for too few finished tasks: CRPS loss.' in text
  assert '1 run failed' in text
  assert 'NonFiniteError: the &lt;loss&gt;' in text and 'OSError' not in text


def test_distributions_are_measured_by_the_best_of_a_baseline(
  tmp_path, no_figures
):
  worse, better = {'error': 0.8, 'spread': 0.8}, {'error': 0.2, 'spread': 0.2}
  write_benchmark(
    tmp_path,
    ['crps', 'catboost_residuals', 'quantile_forest', 'catboost'],
    TASKS,
    n=200,
  )
  for task in TASKS:
    for method, how in (('quantile_forest', worse), ('crps', better)):
      write_run(
        tmp_path / task / method, task=task, method=method, n=200, **how
      )
  # One task on which the decoder's is the worse.
  write_run(tmp_path / 'wind/crps', task='wind', method='crps', n=200, **worse)
  compared = statistics.compare(page.load(tmp_path))
  assert compared.yardstick == 'catboost_residuals'
  assert list(compared.crps_tests.index) == ['crps', 'quantile_forest']
  test = compared.crps_tests.loc['crps']
  assert (test.wins, test.ties, test.losses) == (6, 0, 1)
  means = compared.distributions['crps']
  expected = means['crps'] / means['catboost_residuals']
  assert test.ratio == pytest.approx(expected) and 0.5 < test.ratio < 0.9
  said = page.verdict(compared)
  assert 'distribution of a baseline is that of CatBoost + errors; ' in said
  assert f'{expected:.2f} times as high, and lower on 6 tasks' in said
  text, _ = render(tmp_path)
  assert 'Against catboost_residuals, by CRPS' in text
  table = (tmp_path / 'table.md').read_text()
  row = next(line for line in table.splitlines() if line.startswith('| crps |'))
  assert f'| {expected:.3f} |' in row.replace('**', '')


def test_a_figure_of_gains_counts_what_is_better():
  gain = pd.DataFrame(
    {'best': [0.1, -0.1, 0.2, 9.0], 'catboost_residuals': [-1.0, 1, 0, 0]},
    index=list('abcd'),
  )
  assert figures._highlighted(gain) == ['best']
  assert 'best recipe is better on 3' in figures._gains_in_words(gain[['best']])
  assert '1 beyond the edges' in figures._beyond(gain[['best']])


def test_train_rows_that_were_drawn_are_said(tmp_path, no_figures):
  write_benchmark(tmp_path, ['ce', 'catboost'], TASKS[:2])
  for method in ('ce', 'catboost'):
    path = tmp_path / 'wind' / method / 'run.json'
    cut = {'num_train': 20_000, 'drawn_from': 26_091}
    atomic.write_json(path, json.loads(path.read_text()) | cut)
  text, _ = render(tmp_path)
  said = 'Training rows were drawn at random: wind (20,000 of 26,091).'
  assert said in text and said in (tmp_path / 'table.md').read_text()


def test_verdict_names_the_best_and_its_tests(tmp_path):
  write_benchmark(tmp_path, ['ce', 'remax', 'catboost'], TASKS, n=200)
  compared = statistics.compare(page.load(tmp_path))
  said = page.verdict(compared)
  assert said.startswith(
    'On 7 tasks and 2 seeds, CatBoost ranks best of 3 methods: average rank 1.'
  )
  assert "Friedman's test tells the methods apart (p" in said
  assert 'Against CE it wins 7, ties 0 and loses 0 (mean difference' in said
  # A point predictor leads: the best of the others is told as well.
  assert said.count('Against CatBoost') == 1
  after = said[said.index('Best of those with a predictive distribution') :]
  assert 'is ReMax: average rank' in after
  assert 'Against CatBoost it wins 0, ties 0 and loses 7' in after
  assert 'Its central 90% interval covers' in after


def test_points_have_an_error_but_no_coverage(tmp_path):
  write_benchmark(tmp_path, ['ce', 'xgboost'], TASKS[:2])
  # What the runs of baselines leave: one sample, which is the point.
  for task in TASKS[:2]:
    path = tmp_path / task / 'xgboost'
    with np.load(path / 'evaluation/pretrain_test.npz') as arrays:
      arrays = dict(arrays)
    arrays['samples_z'] = arrays['greedy_z'][..., None]
    atomic.write_npz(path / 'evaluation/pretrain_test.npz', **arrays)
    rows = pd.read_csv(path / 'results.csv', dtype=str).to_numpy().tolist()
    rows += [
      (task, seed, 'pretrain', 'test', 'sample', metric, value)
      for seed in (0, 1)
      for metric, value in (('crps', 0.3), ('coverage90', 0), ('width90', 0))
    ]
    atomic.write_csv(path / 'results.csv', results.COLUMNS, rows)
  compared = statistics.compare(page.load(tmp_path))
  assert set(compared.samples) == {'ce'}
  found = compared.distributions.loc['xgboost']
  assert found['crps'] == pytest.approx(0.3)
  assert np.isnan(found['coverage90']) and np.isnan(found['width90'])
  assert compared.distributions.loc['ce'].notna().all()


def test_results_are_those_of_the_last_stage(tmp_path, no_figures):
  write_benchmark(tmp_path, ['ce', 'remax'], TASKS[:1])
  page.write(tmp_path)
  ours = pd.read_csv(tmp_path / 'results.csv', dtype={'seed': str})
  assert tuple(ours.columns) == statistics.RESULT_COLUMNS
  assert set(ours['seed']) == {'0', '1'}
  run = pd.read_csv(tmp_path / 'sensory/remax/results.csv', dtype=str)
  run = run[(run['stage'] == 'finetune') & (run['split'] == 'test')]
  expected = run[run['seed'].isin(['0', '1'])]['value'].astype(float)
  found = ours[ours['method'] == 'remax']['value']
  np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())


def test_seconds_and_machine_are_in_the_table(tmp_path, no_figures):
  write_benchmark(tmp_path, ['ce'], TASKS[:2])
  for task, spent in (
    ('sensory', {'seconds': 12.5, 'peak_bytes': 2**30}),
    ('wind', {'seconds': 27.5, 'peak_bytes': 2**31}),
  ):
    atomic.write_json(tmp_path / task / 'ce/seconds.json', spent)
  page.write(tmp_path)
  text = (tmp_path / 'table.md').read_text()
  assert 'Machine: AMD EPYC, 1 x cpu, jax 0.10.2, commit 8f3c2e1.' in text
  row = next(line for line in text.splitlines() if line.startswith('| ce |'))
  assert row.endswith('| 20 | 1.50 |')


def test_published_numbers_are_kept_with_the_runs(tmp_path, no_figures):
  path = tmp_path / 'published.csv'
  path.write_text(
    'dataset,train_size,tabr_RMSE,ftt_RMSE,genre2_R2\n'
    'sensory,336,4,8,0.9\nother,1,1,1,0.9\nwind,5,2,,0.9\n'
  )
  workdir = write_benchmark(tmp_path / 'runs', ['ce'], TASKS[:2])
  page.import_published(path, workdir)
  path.unlink()
  text, _ = render(workdir)
  assert 'tabr (published)' in text
  assert 'ftt (published)' not in text  # not on every task
  variance = page.load(workdir).variances['sensory']
  assert comparison_tables.number(1 - 16 / variance) in text


@pytest.mark.parametrize(
  'content', [b'', b'task,x_RMSE\na,1\n', b'dataset\na\n', b'\xff\xfe\x00',
              b'dataset,x_RMSE\na,much\n']
)  # fmt: skip
def test_unusable_published_numbers_are_refused(tmp_path, content):
  (tmp_path / 'p.csv').write_bytes(content)
  with pytest.raises(errors.InputError, match=r'p\.csv') as caught:
    page.import_published(tmp_path / 'p.csv', tmp_path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'name', ['results.csv', 'evaluation/pretrain_test.npz', 'run.json']
)
def test_a_damaged_run_is_named(tmp_path, name):
  write_benchmark(tmp_path, ['ce', 'ntl_was'], TASKS[:1])
  path = tmp_path / 'sensory/ntl_was' / name
  path.write_bytes(path.read_bytes()[:9])
  with pytest.raises(errors.InputError, match='ntl_was'):
    page.write(tmp_path)
  if name != 'run.json':  # without it the run is not finished
    path.unlink()
    with pytest.raises(errors.InputError, match='ntl_was'):
      page.write(tmp_path)


def test_a_wild_method_does_not_break_the_figures(tmp_path):
  write_benchmark(tmp_path, ['ce', 'remax', 'catboost'], TASKS[:2])
  write_run(tmp_path / 'wind/remax', task='wind', method='remax', error=1e10)
  text, figures = render(tmp_path)
  assert figures == FIGURES - {'gain_crps'}
  assert 'at the left edge' in text


def test_seeds_that_a_run_takes_together_are_one_of_a_benchmark(tmp_path):
  """Of a benchmark of one seed the ensemble's rows; of several each seed's."""
  folder = tmp_path / 'wind' / 'crps'
  write_run(folder, task='wind', method='crps', seeds=(0, 1))
  rows = pd.read_csv(folder / 'results.csv')
  ensemble = rows[rows['seed'] == '0'].assign(seed='ensemble', value=0.25)
  pd.concat([rows, ensemble]).to_csv(folder / 'results.csv', index=False)
  for seeds, expected in (([0], {'0'}), ([0, 1], {'0', '1', 'ensemble'})):
    atomic.write_json(tmp_path / 'benchmark.json', {'seeds': seeds})
    found = page.load(tmp_path).results
    assert set(found['seed']) == expected
    assert (set(found['value']) == {0.25}) == (seeds == [0])


def test_hostile_names_are_text(tmp_path):
  evil = '<script>|$x_1$'
  write_benchmark(tmp_path, ['ce', evil], [evil, '&amp;'])
  text, _ = render(tmp_path)
  assert '&lt;script&gt;|$x_1$' in text
  assert '<script>\\|$x_1$' in (tmp_path / 'table.md').read_text()


def test_report_command_tells_runs_and_benchmarks_apart(
  tmp_path, capsys, no_figures
):
  write_benchmark(tmp_path, ['ce'], TASKS[:1])
  assert main([f'--workdir={tmp_path}']) == 0
  assert capsys.readouterr().out.strip() == str(tmp_path / 'report.html')
  assert (tmp_path / 'table.md').exists()
  (tmp_path / 'sensory/ce/run.json').unlink()
  assert main([f'--workdir={tmp_path}']) == 2
  assert 'no finished run' in capsys.readouterr().err


def test_no_device_and_no_figures_on_import():
  code = (
    'import sys, genre2_jax.benchmark.page; '
    'assert not {"jax", "flax", "matplotlib"} & set(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_errors_are_in_the_unit_of_the_transform(tmp_path):
  write_benchmark(tmp_path, ['ce', 'crps'], ['a', 'b'])
  for transform, words, others in (
    (None, '(z)', ['original', 'rank)']),
    ('none', '(original unit)', ['(z)', 'z-score', 'standard deviations']),
    ('quantile', '(rank)', ['(z)', 'z-score', 'standard deviations']),
  ):
    for folder in tmp_path.glob('*/*/run.json'):
      if transform:
        config = {'data': {'transform': transform}}
        atomic.write_json(folder.parent / 'config.json', config)
    compared = statistics.compare(page.load(tmp_path))
    text = comparison_tables.markdown(compared, '', page.notes(compared))
    for metric in ('RMSE', 'CRPS', 'width 90%', 'Width of the central 90%'):
      assert f'{metric} {words}' in text
    sections = figures.draw(compared)
    said = repr([(s.text, [p.caption for p in s.panels]) for s in sections])
    assert f'RMSE {words}' in said
    for other in others:
      assert other not in text + said
  atomic.write_json(folder.parent / 'config.json', {'data': {}})
  compared = statistics.compare(page.load(tmp_path))
  assert compared.benchmark.unit == statistics.MIXED
  assert any('do not compare' in note for note in page.notes(compared))
