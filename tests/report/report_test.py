import dataclasses
import json
import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from drawn_runs import (
  TOKENIZER,
  make_workdir,
  write_inspection,
  write_references,
)

from genre2_jax import errors
from genre2_jax.baselines.catalog import BASELINES
from genre2_jax.files import atomic, metrics_log, reading
from genre2_jax.metrics import results, sampled
from genre2_jax.objectives import catalog
from genre2_jax.report import drawing, page, result_tables, words
from genre2_jax.report.__main__ import main
from genre2_jax.report.inputs import TERM_NAMES, load, stage_name

FIGURES = [
  'calibration',
  'predicted_against_true',
  'examples_1',
  'interval_widths',
  'pit',
  'sample_spread',
  'sampling_efficiency_best_of_k',
  'sampling_efficiency_mean_of_k',
]


def embedded_figures(html):
  """The SVGs of a report by the id of their figure."""
  pattern = r'<figure id="(\w+)">\s*(<svg .*?</svg>)'
  return dict(re.findall(pattern, html, flags=re.S))


def without_figures(html):
  return re.sub(r'<svg .*?</svg>', '', html, flags=re.S)


def figures_of(stages, num_epochs=5, kinds=FIGURES):
  names = set(kinds)
  if num_epochs:
    names |= {f'learning_curves_{stage}' for stage in stages}
  if len(stages) > 1:
    names |= {f'predicted_against_true_{stage}' for stage in stages}
  return names


@pytest.mark.parametrize(
  'case',
  [
    {},
    {'stages': ('ce',)},
    {'stages': ('remax',)},
    {'stages': ('ce', 'grpo_expert', 'remax')},
    {'seeds': (0, 1)},
    {'stages': ('ce_ntl_was', 'crps_kl', 'ce_again')},
    {'exact': ('ce', 'remax')},
    {'exact': ('remax',), 'seeds': (0, 1)},
    {'n': 1},
    {'n': 1, 'G': 2, 'num_epochs': 1},
    {'constant': True},
  ],
  ids=lambda case: ','.join(f'{k}={v}' for k, v in case.items()) or 'plain',
)
def test_report_is_complete_and_stands_alone(tmp_path, case):
  make_workdir(tmp_path, **case)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  figures = embedded_figures(html)
  stages = case.get('stages', ('ce', 'remax'))
  assert figures_of(stages) <= set(figures)
  for name, text in figures.items():
    file = (tmp_path / 'figures' / f'{name}.svg').read_text(encoding='utf-8')
    (shape,) = ElementTree.fromstring(file).attrib['viewBox'].split('0 0 ')[1:]
    width, height = map(float, shape.split())
    assert 300 < width < 400 and 190 < height < 350
    label = re.search('aria-label="([^"]*)"', text)[1]
    assert len(label) > 20 and 'nan' not in label.lower()
  assert '://' not in html and '<script' not in html
  assert not re.search(r'\bnan\b', html.lower())
  ids = re.findall(' id="([^"]+)"', html)
  assert len(ids) == len(set(ids))
  assert len(html) < 2**20


@pytest.mark.parametrize(
  'case',
  [
    {'stages': ('mse',)},
    {'stages': ('catboost',), 'num_epochs': 0, 'seeds': (0, 1)},
    {'stages': ('mse', 'mse_again'), 'seeds': (0, 1)},
    {'stages': ('mse',), 'n': 1, 'num_epochs': 1},
    {'stages': ('random_forest',), 'num_epochs': 0, 'constant': True},
  ],
  ids=lambda case: ','.join(f'{k}={v}' for k, v in case.items()),
)
def test_point_masses_have_no_spread_to_show(tmp_path, case):
  make_workdir(tmp_path, G=1, **case)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert set(embedded_figures(html)) == figures_of(
    case['stages'], case.get('num_epochs', 5), ['predicted_against_true']
  )
  text = without_figures(html)
  assert not re.search(r'\bnan\b', text.lower())
  assert 'One number is predicted per row' in text
  for absent in ('interval', 'Calibration', 'Predictive distribution'):
    assert absent not in text.replace('no intervals to judge', ''), absent
  verdict = text.split('<p class="verdict">')[1].split('</p>')[0]
  assert 'off by' in verdict and 'R²' in text
  run = load(tmp_path)
  ((_, rows),) = result_tables.estimates(run).groups
  names = [name for name, _ in rows]
  assert names[0] == 'prediction' and len(names) == len(run.seeds[:2])
  assert 'Samples' not in words.facts(run)


def test_stages_without_records_have_no_learning_curves(tmp_path):
  make_workdir(tmp_path, num_epochs=0)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  names = set(embedded_figures(html))
  assert set(FIGURES) <= names
  assert not [name for name in names if name.startswith('learning_curves')]
  assert 'marks the best epoch' not in html


@pytest.mark.parametrize(
  ('key', 'name'),
  [
    ('ce', 'CE'),
    ('ce_ntl_was', 'CE + NTL-WAS'),
    ('remax_expert', 'ReMax + expert'),
    ('dr_grpo_kl_ce', 'Dr. GRPO + KL + CE'),
    ('soft_ce', 'soft CE'),
    ('no_baseline_log_loss', 'no baseline + log loss'),
    ('crps', 'CRPS loss'),
    ('raft', 'RAFT'),
    ('exact', 'exact gradient'),
    ('catboost', 'CatBoost'),
    ('random_forest', 'random forest'),
    ('ce_again', 'CE, again'),
    ('my_loss', 'my + loss'),
    ('ce_mine', 'CE + mine'),
  ],
)
def test_stages_are_named_by_their_terms(key, name):
  assert stage_name(key) == name


def test_every_objective_has_a_name():
  objectives = {name for level in catalog.LEVELS.values() for name in level}
  assert objectives | set(BASELINES) <= TERM_NAMES.keys()


def test_exact_distributions_stand_beside_the_samples(tmp_path):
  run = load(make_workdir(tmp_path, exact=('remax',)))
  points = dict(result_tables.points(run).groups)
  assert {'exact mean', 'exact median', 'greedy'} <= points.keys()
  assert 'learned mean' not in points
  (ce, ce_cells), (remax, remax_cells) = points['exact mean']
  assert (ce.key, remax.key) == ('ce', 'remax')
  assert all(cell['text'] == '' for cell in ce_cells)
  assert all(cell['text'] for cell in remax_cells)
  table = result_tables.distributions(run)
  columns = [column.metric for column in table.columns]
  groups = dict(table.groups)
  assert list(groups) == ['samples', 'exact', 'tempered', 'conformal']

  def shown(group):
    return {
      stage.key: {m for m, c in zip(columns, cells, strict=True) if c['text']}
      for stage, cells in groups[group]
    }

  shares = {'crps', 'coverage90', 'width90', 'entropy', 'reward'}
  assert shown('samples') == {'ce': shares, 'remax': shares}
  for group in ('exact', 'tempered'):
    assert shown(group) == {'ce': set(), 'remax': shares | {'nll', 'outside'}}
  assert shown('conformal') == {'ce': set(), 'remax': {'coverage90', 'width90'}}
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert '>conformal</th>' in html and '>88%</td>' in html
  # Without them, no column and no group is there for nothing.
  plain = result_tables.distributions(load(make_workdir(tmp_path / 'plain')))
  metrics = {column.metric for column in plain.columns}
  assert not metrics & {'nll', 'outside'}
  assert plain.heads == ('Stage',)


def test_the_mass_on_the_grid_is_shown_where_there_is_some_beside(tmp_path):
  run = load(make_workdir(tmp_path))

  def shown(run):
    table = result_tables.distributions(run)
    (_, stages), *_ = table.groups
    metrics = [column.metric for column in table.columns]
    if 'grid_mass' in metrics:
      place = metrics.index('grid_mass')
      return [cells[place]['text'] for _, cells in stages]
    return None

  assert shown(run) is None
  more = {('0', 'ce', 'sample', 'grid_mass'): 0.93}
  more['0', 'remax', 'sample', 'grid_mass'] = 0.08
  run = dataclasses.replace(run, results={**run.results, **more})
  assert shown(run) == ['93%', '8%']


@pytest.mark.parametrize(
  ('names', 'expected'),
  [
    (('val/loss', 'train/loss'), 'loss'),
    (('val/reward', 'train/reward', 'train/loss'), 'reward'),
  ],
)
def test_learning_curves_show_what_the_best_is_chosen_by(
  tmp_path, names, expected
):
  make_workdir(tmp_path, stages=('crps_ce',))
  record = {'stage': 'crps_ce', 'seed': 0, 'epoch': 1, 'step': 8}
  atomic.write_text(
    tmp_path / metrics_log.METRICS_FILE,
    json.dumps(record | dict.fromkeys(names, 0.5)) + '\n',
  )
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert f'CRPS loss + CE: {expected} by epoch' in html


def test_the_verdict_is_in_the_unit_of_the_target_beside_references(tmp_path):
  make_workdir(tmp_path, n=200, G=32)
  write_references(tmp_path, train_mean=1.0, histogram_trees=0.3)
  run = load(tmp_path)
  error = words.own_error(run)
  prediction = run.in_unit(run.stages[1].samples_z[0]).mean(axis=1)
  expected = np.sqrt(np.mean(np.square(prediction - run.target)))
  assert error == pytest.approx(expected, rel=1e-5)
  held = words.coverage(run)
  assert words.verdict(run) == (
    f'On 200 test rows the prediction is off by {error:.2f} (root mean '
    f'square): {1 - error / 16.7:.0%} less than the training mean (16.70) and '
    f'{error / (0.3 * 16.7) - 1:.0%} more than histogram trees (5.01). The '
    f'90% interval held for {held:.0%} of the rows.'
  )
  html = page.write(tmp_path).read_text(encoding='utf-8')
  # The bars, the sentence and the tables print the same digits.
  assert html.count(f'{error:.2f}') >= 3
  assert 'No references' not in html


def test_what_is_predicted_is_that_of_the_predictions_file(tmp_path):
  make_workdir(tmp_path, n=4, stages=('ce',), exact=('ce',))
  truth = load(tmp_path).target
  rows = [
    (i, y, y + 2, y - 1, y + (1 if i else -0.5), y, y + 2)
    for i, y in enumerate(truth)
  ]
  header = 'row target prediction lower90 upper90 mean exact_mean'.split()
  atomic.write_csv(tmp_path / 'predictions.csv', header, rows)
  run = load(tmp_path)
  assert run.best.estimator == 'exact_mean' and run.best.is_conformal
  np.testing.assert_array_equal(run.best.value, truth + 2)
  assert 'held for 75% of the rows' in words.verdict(run)
  assert 'margin fitted on validation rows' in words.interval(run)
  ((_, rows),) = result_tables.estimates(run).groups
  assert [name for name, _ in rows] == [
    'greedy', 'one sample', 'exact mean (what is predicted)'
  ]  # fmt: skip
  (tmp_path / 'predictions.csv').write_text('row,prediction\n0,x\n')
  with pytest.raises(errors.InputError, match=r'predictions\.csv'):
    load(tmp_path)


@pytest.mark.parametrize(
  ('new', 'parts'),
  [
    ({}, ['left the error at 8.00', "left the coverage of the model's own"]),
    (
      {('mean', 'rmse_unit'): 9.6, ('sample', 'coverage90'): 0.88},
      ['raised the error by 20.0%, from 8.00 to 9.60', 'from 85% to 88%'],
    ),
    (
      {('mean', 'rmse_unit'): 6.4, ('sample', 'crps'): 1e8},
      [
        'lowered the error by 20.0%',
        'raised CRPS from 0.250 z to 1.00 \N{MULTIPLICATION SIGN} 10⁸ z',
      ],
    ),
  ],
)
def test_what_the_stages_did_follows_the_numbers(tmp_path, new, parts):
  old = {
    ('mean', 'rmse_unit'): 8.0,
    ('sample', 'crps'): 0.25,
    ('sample', 'coverage90'): 0.85,
  }
  found = {('0', 'ce', *key): value for key, value in old.items()}
  found |= {('0', 'remax', *key): v for key, v in (old | new).items()}
  found['0', 'ce', 'median', 'crps'] = 0.25  # three digits of a typical one
  run = dataclasses.replace(load(make_workdir(tmp_path)), results=found)
  for text in parts:
    assert text in words.stages(run)
  one = dataclasses.replace(run, stages=run.stages[:1])
  assert words.stages(one) == '' and result_tables.stages(one) is None


def test_a_value_reads_the_same_wherever_it_stands(tmp_path):
  """Tables of other rows would choose other decimals."""
  run = load(make_workdir(tmp_path, exact=('ce', 'remax'), seeds=(0, 1)))
  seen = {}
  for table in (
    result_tables.stages(run),
    result_tables.estimates(run),
    result_tables.points(run),
    result_tables.distributions(run),
    result_tables.seeds(run),
  ):
    for _, rows in table.groups:
      for _, cells in rows:
        for column, cell in zip(table.columns, cells, strict=True):
          if '.' in cell['text']:
            places = len(cell['text'].rpartition('.')[2])
            seen.setdefault(column.metric, set()).add(places)
  seen.pop('', None)  # Seconds of training.
  assert seen and all(len(places) == 1 for places in seen.values()), seen


def test_columns_and_importances_are_shown_where_the_run_kept_them(tmp_path):
  make_workdir(tmp_path)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert 'depends on' not in html and 'as they were read' not in html
  write_inspection(tmp_path)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert '<td class="number">3 train</td>' in html
  assert 'area matters most of 2 columns' in html
  assert 'strength of concrete, from 2 columns' in html
  figures = embedded_figures(html)
  assert {'dependence_1', 'dependence_2'} <= set(figures)
  assert 'by area: it rises from 1.0' in figures['dependence_1']
  assert 'highest for b, lowest for a' in figures['dependence_2']


def test_few_values_of_the_target_have_boxes_and_cells(tmp_path):
  make_workdir(tmp_path, stages=('ce',), n=40)
  path = tmp_path / 'evaluation/ce_test.npz'
  arrays = reading.read_npz(path)
  grades = np.arange(40) % 4 + 1.0
  z = (grades - 2.5) / 1.1
  draws = np.random.default_rng(0).integers(1, 5, (1, 40, 64))
  samples = ((draws - 2.5) / 1.1).astype(np.float32)
  z = z.astype(np.float32)
  scale = {'mean': 2.5, 'std': 1.1}
  atomic.write_npz(
    path,
    **arrays
    | scale
    | {'samples_z': samples, 'target_z': z}
    | {'target': grades},
  )
  run = load(tmp_path)
  assert run.cells.tolist() == [1, 2, 3, 4]
  assert 'an interval of whole ones' in words.interval(run)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  (said,) = re.findall('at 90%: CE ([0-9]+)%', html)
  # Uniform samples are calibrated; intervals of whole grades cover all.
  assert abs(int(said) - 90) <= 2
  assert sampled.coverage(samples[0], z.astype(float), 0.9) == 1
  assert 'box from quartile to quartile' in html and '10 rows' in html


def test_rail_has_rows_where_it_was_evaluated(tmp_path):
  run = load(make_workdir(tmp_path))
  names = [name for name, _ in result_tables.points(run).groups]
  assert 'rail' not in names
  more = {('0', 'ce', 'rail_normalized', 'rmse_unit'): 3.0}
  run = dataclasses.replace(run, results={**run.results, **more})
  assert 'rail normalized' in [n for n, _ in result_tables.points(run).groups]


@pytest.mark.parametrize(
  ('transform', 'behind', 'unit'),
  [
    ('standard', ' z', 'z'),
    ('none', '', 'original unit'),
    ('quantile', ' rank', 'rank'),
    ('quantile_normal', ' normal rank', 'normal rank'),
  ],
)
def test_numbers_name_the_unit_that_the_target_is_learnt_in(
  tmp_path, transform, behind, unit
):
  run = load(make_workdir(tmp_path, exact=('ce',)))
  config = {**run.config, 'data': {'transform': transform}}
  values = {('0', 'ce', 'exact', 'crps'): 667969862.129}
  values['0', 'remax', 'exact', 'crps'] = 0.25
  run = dataclasses.replace(run, config=config, results=run.results | values)
  said = words.stages(run)
  assert re.search(rf'from 6.68 . 10⁸{behind} to 0.250*{behind}\.', said), said
  (crps,) = (
    c for c in result_tables.distributions(run).columns if c.metric == 'crps'
  )
  assert crps.unit == unit
  metrics = {c.metric: c.unit for c in result_tables.points(run).columns}
  # Twice the same would be once too often.
  assert ('rmse_unit' in metrics) == (transform != 'none')
  assert metrics['rmse'] == unit


def test_the_page_and_its_figures_name_the_unit(tmp_path):
  make_workdir(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  config['data'] = {'transform': 'quantile'}
  atomic.write_json(tmp_path / 'config.json', config)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert 'Errors in ranks in [0, 1]' in html
  assert 'interval (rank)' in html.lower()
  text = re.sub(r'<style>.*?</style>|<[^>]*>', '', html, flags=re.S)
  assert not re.search(r'\bz\b', text)


def test_a_stage_that_changed_nothing_is_in_the_notes(tmp_path):
  run = load(make_workdir(tmp_path))
  best = {'ce': 3, 'remax': 0}
  records = [r | {'best_epoch': best[r['stage']]} for r in run.records]
  said = ' '.join(words.notes(dataclasses.replace(run, records=records)))
  assert 'Stage ReMax kept its starting weights' in said
  assert 'Stage CE' not in said
  assert 'kept' not in ' '.join(words.notes(run))  # A run of old.


def test_best_value_is_marked_unless_it_reads_the_same(tmp_path):
  make_workdir(tmp_path, n=100, G=32)
  rows = [
    ('concrete', 0, stage, 'test', estimator, metric, value)
    for stage, estimator, metric, value in [
      ('ce', 'mean', 'rmse', 0.5),
      ('remax', 'mean', 'rmse', 0.4),
      ('ce', 'mean', 'r2', 0.75),
      ('remax', 'mean', 'r2', 0.7500001),
      ('ce', 'sample', 'coverage90', 0.93),
      ('remax', 'sample', 'coverage90', 0.80),
      ('ce', 'sample', 'width90', 2.0),
      ('remax', 'sample', 'width90', 1.0),
    ]
  ]
  atomic.write_csv(tmp_path / 'results.csv', results.COLUMNS, rows)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert set(re.findall('<strong>(.*?)</strong>', html)) == {'0.400', '93%'}


def test_seeds_are_shown_with_their_spread(tmp_path):
  make_workdir(tmp_path, seeds=(0, 1, 2))
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert '3 seeds predict together; tables have their means.' in html
  assert '<span class="spread">±' in html
  assert '>Seeds</h2>' in html
  assert '<dd>3 (0, 1, 2)</dd>' in html
  html = page.write(make_workdir(tmp_path / 'one')).read_text('utf-8')
  assert 'One seed' in html and '±' not in html and '>Seeds</h2>' not in html
  assert '<dd>1 (seed 0)</dd>' in html


def test_hostile_names_are_text(tmp_path):
  evil = '<script>alert("$x_1$")</script>'
  make_workdir(tmp_path, task=evil, target=evil + '& $\\frac{名')
  atomic.write_json(tmp_path / 'env.json', {evil: evil, 'command': evil})
  atomic.write_json(
    tmp_path / 'config.json', {'tokenizer': TOKENIZER, evil: {evil: [evil]}}
  )
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert '<script' not in html
  assert '&lt;script&gt;alert(&#34;$x_1$&#34;)&lt;/script&gt;' in html


def test_config_environment_and_command_are_shown(tmp_path):
  html = page.write(make_workdir(tmp_path)).read_text(encoding='utf-8')
  assert '<code>model.width</code>' in html and '<code>256</code>' in html
  assert '<code>git_commit</code>' in html
  assert '<code>mesh.data</code>' in html
  assert '<dd>normalized, base 2, 8 digits</dd>' in html
  assert (
    '<pre tabindex="0">python -m genre2_jax.main &#39;--config=a b&#39;</pre>'
    in html
  )


def test_same_inputs_same_bytes(tmp_path):
  first = page.write(make_workdir(tmp_path)).read_bytes()
  assert page.write(tmp_path).read_bytes() == first


def test_wild_predictions_do_not_break_the_axes(tmp_path):
  make_workdir(tmp_path, stages=('ce',))
  path = tmp_path / 'evaluation' / 'ce_test.npz'
  with np.load(path) as arrays:
    arrays = dict(arrays)
  arrays['samples_z'][:, :2] = 1e10
  atomic.write_npz(path, **arrays)
  assert page.write(tmp_path).exists()


@pytest.mark.parametrize(
  'name', ['run.json', 'results.csv', 'evaluation/remax_test.npz']
)
def test_missing_input_is_named(tmp_path, name):
  (make_workdir(tmp_path) / name).unlink()
  with pytest.raises(errors.InputError, match=name.rsplit('/')[-1]):
    page.write(tmp_path)


def test_missing_field_is_named(tmp_path):
  path = make_workdir(tmp_path) / 'run.json'
  info = json.loads(path.read_text(encoding='utf-8'))
  del info['num_test']
  atomic.write_json(path, info)
  with pytest.raises(errors.InputError, match='num_test'):
    page.write(tmp_path)


def damaged_values(value, depth=0):
  """What a value may turn into, or any value in it, and it without one."""
  if depth:
    yield from (
      None, True, 'x', '', '\ud800', '../x', -1, 0, 7, 1.5, 10**30, math.inf,
      [], [None], [[]], {}, {'name': 1},
    )  # fmt: skip
  if isinstance(value, dict | list):
    # Of a list the ends: what is between them is alike.
    ends = sorted({0, len(value) - 1} if value else ())
    for key in value if isinstance(value, dict) else ends:
      for other in damaged_values(value[key], depth + 1):
        changed = value.copy()
        changed[key] = other
        yield changed
      changed = value.copy()
      del changed[key]
      yield changed


@pytest.mark.parametrize(
  'name',
  [
    'run.json',
    'config.json',
    'env.json',
    'profile/ce/operations.json',
    'columns.json',
    'importances.json',
  ],
)
def test_no_damaged_value_is_a_traceback(tmp_path, monkeypatch, name):
  """Each value deleted, or of another type: a report, or one line."""
  make_workdir(tmp_path, stages=('ce',), n=3, G=2, num_epochs=1)
  operation = {'name': 'dot', 'source': 'a/b'}
  operation |= {'milliseconds': 1.5, 'calls': 1.0, 'share': 1.0}
  atomic.write_json(
    tmp_path / 'profile/ce/operations.json',
    {'steps': [1, 2], 'operations': [operation]},
  )
  write_inspection(tmp_path)
  # Figures know of these files the names in run.json; pixels take minutes.
  monkeypatch.setattr(
    drawing, 'svg', lambda *_: '<svg viewBox="0 0 1 1"></svg>'
  )
  if name != 'run.json':
    monkeypatch.setattr(drawing, 'draw', lambda sections, run: [])
  path = tmp_path / name
  refused = 0
  for value in damaged_values(json.loads(path.read_text())):
    path.write_text(json.dumps(value))
    try:
      page.write(tmp_path)
    except errors.InputError as error:
      refused += 1
      assert '\n' not in str(error), value
      assert '.json' in str(error) or '.npz' in str(error), value
  assert refused > 2
  # No name leads out of the folder of the figures.
  expected = {'config.json', 'env.json', 'evaluation', 'figures', 'profile'}
  expected |= {'columns.json', 'importances.json'}
  expected |= {'metrics.jsonl', 'report.html', 'results.csv', 'run.json'}
  assert {path.name for path in tmp_path.iterdir()} | {'figures'} == expected


@pytest.mark.parametrize('name', ['results.csv', 'evaluation/ce_test.npz'])
def test_no_torn_file_is_a_traceback(tmp_path, name):
  make_workdir(tmp_path, stages=('ce',), n=3, G=2, num_epochs=1)
  path = tmp_path / name
  whole = path.read_bytes()
  for size in range(0, len(whole), 1 + len(whole) // 150):
    path.write_bytes(whole[:size])
    try:
      load(tmp_path)
    except errors.InputError as error:
      assert '\n' not in str(error) and path.name in str(error)
    else:  # A table that ends with a line is whole, as far as one can tell.
      assert name == 'results.csv' and whole[:size].endswith(b'\n')
  for place in range(0, len(whole), 1 + len(whole) // 150):
    path.write_bytes(whole[:place] + b'\xff\x00' + whole[place + 2 :])
    try:
      load(tmp_path)
    except errors.InputError as error:
      assert '\n' not in str(error)


@pytest.mark.parametrize(
  ('array', 'value'),
  [
    ('samples_z', np.zeros((1, 3))),
    ('samples_z', np.zeros((2, 3, 2))),
    ('samples_z', np.zeros((1, 3, 0))),
    ('samples_z', np.full((1, 3, 2), 'x')),
    ('target', np.zeros(4)),
    ('target_z', np.zeros(0)),
    ('mean', np.zeros(2)),
    ('std', np.array('x')),
    ('std', None),
  ],
)
def test_predictions_of_another_shape_are_named(tmp_path, array, value):
  make_workdir(tmp_path, stages=('ce',), n=3, G=2, num_epochs=1)
  path = tmp_path / 'evaluation/ce_test.npz'
  arrays = reading.read_npz(path)
  del arrays[array]
  atomic.write_npz(path, **arrays, **({} if value is None else {array: value}))
  with pytest.raises(errors.InputError, match=f'ce_test.npz.*{array}'):
    page.write(tmp_path)


def test_missing_rows_of_results_are_noticed(tmp_path):
  """Where run.json says how many there are."""
  make_workdir(tmp_path, stages=('ce',), n=3, G=2, num_epochs=1)
  table, info = tmp_path / 'results.csv', tmp_path / 'run.json'
  lines = table.read_text().splitlines(keepends=True)
  run = json.loads(info.read_text())
  atomic.write_json(info, run | {'num_results': len(lines) - 1})
  load(tmp_path)
  table.write_text(''.join(lines[:-1]))
  with pytest.raises(errors.InputError, match=f'{len(lines) - 2} rows of'):
    load(tmp_path)
  atomic.write_json(info, run)
  load(tmp_path)  # A run of an earlier version.
  table.write_text(lines[0])
  with pytest.raises(errors.InputError, match='no test rows of stage ce, seed'):
    load(tmp_path)


def test_a_broken_line_of_the_record_is_left_out_and_said(tmp_path, caplog):
  make_workdir(tmp_path, stages=('ce',), n=3, G=2)
  path = tmp_path / metrics_log.METRICS_FILE
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join([*lines[:2], '{"torn\n', *lines[3:], '{"torn']))
  with caplog.at_level('WARNING', logger='genre2_jax'):
    run = load(tmp_path)
  assert len(run.records) == len(lines) - 1
  (message,) = caplog.messages
  assert message.endswith('left out what is damaged, line 3')


def test_a_metric_of_another_type_is_no_point_of_a_curve(tmp_path):
  make_workdir(tmp_path, stages=('ce',), n=3, G=2)
  path = tmp_path / metrics_log.METRICS_FILE
  records = metrics_log.read(tmp_path)
  records[2] |= {'val/loss': 'x', 'train/loss': [1]}
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  assert page.write(tmp_path).exists()


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({'name': 'bins', 'bins': 64}, '64 bins and two tails'),
    ({'name': 'strings', 'strings': '1..5'}, 'strings 1..5'),
    (
      {'name': 'decimal', 'integer_digits': 2, 'fraction_digits': 1},
      'decimals, 2 digits before the point and 1 after it',
    ),
  ],
)
def test_the_tokenizer_is_described_by_what_it_uses(tmp_path, fields, text):
  make_workdir(tmp_path, stages=('ce',), n=3, G=2)
  atomic.write_json(tmp_path / 'config.json', {'tokenizer': TOKENIZER | fields})
  assert words.facts(load(tmp_path))['Tokenizer'] == text


@pytest.mark.parametrize('size', [0, 1, 500])
def test_torn_predictions_are_reported(tmp_path, size):
  path = make_workdir(tmp_path) / 'evaluation' / 'ce_test.npz'
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(errors.InputError, match='damaged'):
    page.write(tmp_path)


def test_matplotlib_is_imported_only_when_needed():
  code = (
    'import sys, genre2_jax.report.page; '
    'assert not {"jax", "matplotlib"} & set(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_command_line(tmp_path, capsys):
  make_workdir(tmp_path, stages=('ce',), n=3)
  assert main([f'--workdir={tmp_path}']) == 0
  assert capsys.readouterr().out.strip() == str(tmp_path / 'report.html')
  assert main([f'--workdir={tmp_path / "nowhere"}']) == 2
  assert 'run.json is missing' in capsys.readouterr().err


def test_of_many_columns_the_first_are_shown(tmp_path):
  make_workdir(tmp_path, stages=('ce',), n=3, G=2)
  write_inspection(tmp_path)
  columns = json.loads((tmp_path / 'columns.json').read_text())['columns']
  many = [columns[0] | {'name': f'x{i}'} for i in range(40)]
  atomic.write_json(tmp_path / 'columns.json', {'columns': many})
  found = json.loads((tmp_path / 'importances.json').read_text())
  found['importances'] = [
    {'column': f'x{i}', 'mean': 40.0 - i, 'std': 0.0} for i in range(40)
  ]
  atomic.write_json(tmp_path / 'importances.json', found)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert '<summary>All 40 columns</summary>' in html
  assert html.count('<td class="bar">') == 20 + 1  # and that of the verdict
