import base64
import dataclasses
import json
import math
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

from genre2_jax import errors
from genre2_jax.baselines.points import BASELINES
from genre2_jax.files import atomic, metrics_log, reading
from genre2_jax.metrics import exact as exact_metrics
from genre2_jax.metrics import results, sampled
from genre2_jax.objectives import catalog
from genre2_jax.report import drawing, page, result_tables, words
from genre2_jax.report.__main__ import main
from genre2_jax.report.inputs import TERM_NAMES, load, stage_name

FIGURES = [
  'calibration',
  'examples_1',
  'interval_widths',
  'pit',
  'sample_spread',
  'sampling_efficiency_best_of_k',
  'sampling_efficiency_mean_of_k',
]
STAGE_FIGURES = ['learning_curves', 'predicted_against_true']
LOW, HIGH = -2.5, 2.5
TOKENIZER = {'name': 'normalized', 'base': 2, 'digits': 8}


def make_workdir(
  folder,
  *,
  stages=('ce', 'remax'),
  seeds=(0,),
  n=24,
  G=16,
  num_epochs=5,
  constant=False,
  task='concrete',
  target='strength',
  exact=(),
):
  """What a run leaves behind: ReMax is made sharper and a little better.

  Stages in `exact` have rows of exact distributions as well; with G = 1 stages
  are point masses, as regression heads and trees leave them.
  """
  generator = np.random.default_rng(0)
  mean, std = (7.0, 1.0) if constant else (35.8, 16.7)
  truth = generator.uniform(-2, 2, n)
  y = np.zeros(n) if constant else truth + 0.35 * generator.normal(size=n)
  rows, records = [], []
  for stage in stages:
    error, spread = (0.28, 0.35) if stage == 'ce' else (0.18, 0.14)
    samples = []
    for _ in seeds:
      centre = 0 if constant else truth + error * generator.normal(size=n)
      scale = spread * generator.uniform(0.5, 1.5, n)
      z = centre + scale * generator.standard_t(4, (G, n))
      samples.append((np.round(z.T * 51) / 51).clip(LOW, HIGH))
    samples = np.array(samples, np.float32)  # [S, n, G]
    greedy = samples[..., -1]
    nats = 0 if G == 1 else 3.1 if stage == 'ce' else 1.9
    entropy = np.full((len(seeds), n), nats)
    atomic.write_npz(
      folder / 'evaluation' / f'{stage}_test.npz',
      target_z=y,
      target=y * std + mean,
      samples_z=samples,
      greedy_z=greedy,
      entropy=entropy,
      mean=np.float64(mean),
      std=np.float64(std),
      low=np.float64(LOW),
      high=np.float64(HIGH),
    )
    for i, seed in enumerate(seeds):
      values = sampled.evaluate(
        samples[i], greedy[i], entropy[i], y, low=LOW, high=HIGH, std=std
      )
      if stage in exact:
        values += exact_values(samples[i], y, std)
      rows += [(task, seed, stage, 'test', *value) for value in values]
      for epoch in range(num_epochs):
        fade = np.exp(-4 * epoch / num_epochs)
        noise = 0.02 * generator.normal(size=4)
        if not {'remax', 'grpo'} & set(stage.split('_')):
          curves = {
            'train/loss': 0.9 + fade + noise[0],
            'val/loss': 1.0 + fade + 0.1 * epoch / num_epochs + noise[1],
          }
        else:
          curves = {
            'train/loss': noise[0],
            'train/reward': -0.2 - 0.1 * fade + noise[2] / 4,
            'val/reward': -0.22 - 0.1 * fade + noise[3] / 4,
          }
        if epoch == 0:  # before the first step there is only validation
          curves = {k: v for k, v in curves.items() if k.startswith('val/')}
        place = {'stage': stage, 'seed': seed, 'epoch': epoch}
        records.append(place | {'step': 8 * epoch, 'seconds': 0.5} | curves)
  rows = results.over_seeds(rows)
  atomic.write_csv(folder / 'results.csv', results.COLUMNS, rows)
  atomic.write_text(
    folder / metrics_log.METRICS_FILE,
    ''.join(json.dumps(record) + '\n' for record in records),
  )
  atomic.write_json(
    folder / 'run.json',
    {
      'task': task,
      'target': target,
      'stages': stages,
      'seeds': seeds,
      'num_train': 721,
      'num_val': 103,
      'num_test': n,
      'parameters': 5_462_018,
      'constant_target': constant,
    },
  )
  atomic.write_json(
    folder / 'config.json',
    {'seed': 0, 'model': {'width': 256}, 'tokenizer': TOKENIZER},
  )
  atomic.write_json(
    folder / 'env.json',
    {
      'python': '3.11.9',
      'jax': '0.10.2',
      'git_commit': '8f3c2e1',
      'num_devices': 1,
      'mesh': {'data': 1, 'model': 1},
      'command': "python -m genre2_jax.main '--config=a b'",
    },
  )
  return folder


def exact_values(samples, y, std):
  """Metrics of a grid that is known exactly, and of its recalibration."""
  values = np.linspace(LOW, HIGH, 17)
  centre = samples.mean(axis=1, keepdims=True)
  summary = exact_metrics.summarize(
    -np.square(values - centre),
    exact_metrics.Grid(values, np.full(17, values[1] - values[0])),
    y,
    np.abs(values - y[:, None]).argmin(axis=1),
  )
  return [
    *exact_metrics.evaluate(summary, y, std=std),
    *exact_metrics.evaluate(summary, y, std=std, name='tempered'),
    ('tempered', 'temperature', 1.25),
    ('conformal', 'coverage90', 0.875),
    ('conformal', 'width90', 1.5),
  ]


def embedded_figures(html):
  """The PNGs of a report by the id of their figure."""
  pattern = r'<figure id="(\w+)">\s*<img src="data:image/png;base64,([^"]+)"'
  return {
    name: base64.b64decode(data, validate=True)
    for name, data in re.findall(pattern, html)
  }


def png_size(data):
  assert data.startswith(b'\x89PNG\r\n\x1a\n')
  assert data.endswith(b'IEND\xaeB`\x82')
  return struct.unpack('>II', data[16:24])


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
  expected = FIGURES + [f'{kind}_{s}' for kind in STAGE_FIGURES for s in stages]
  assert set(expected) <= set(figures)
  for name, data in figures.items():
    assert data == (tmp_path / 'figures' / f'{name}.png').read_bytes()
    width, height = png_size(data)
    assert 800 <= width <= 1200 and 400 <= height <= 1200
  assert '://' not in html and '<script' not in html
  assert 'nan' not in re.sub('base64,[^"]+', '', html).lower()


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
  kinds = STAGE_FIGURES if case.get('num_epochs', 5) else STAGE_FIGURES[1:]
  assert set(embedded_figures(html)) == {
    f'{kind}_{stage}' for kind in kinds for stage in case['stages']
  }
  text = re.sub('base64,[^"]+', '', html)
  assert 'nan' not in text.lower()
  assert 'One number is predicted per row' in text
  for absent in ('interval', 'Calibration', 'Predictive distribution'):
    assert absent not in text.replace('no intervals to judge', ''), absent
  verdict = text.split('<p class="verdict">')[1].split('</p>')[0]
  assert 'RMSE' in verdict and 'R²' in verdict and 'MAE' in verdict
  run = load(tmp_path)
  groups = result_tables.points(run)['groups']
  assert [name for name, _ in groups] == ['prediction']
  assert 'Samples' not in words.facts(run)


def test_stages_without_records_have_no_learning_curves(tmp_path):
  make_workdir(tmp_path, num_epochs=0)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  names = set(embedded_figures(html))
  assert set(FIGURES) <= names
  assert not [name for name in names if name.startswith('learning_curves')]
  assert '<h2>Learning curves</h2>' not in html


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
  points = dict(result_tables.points(run)['groups'])
  assert {'exact mean', 'exact median', 'greedy'} <= points.keys()
  assert 'learned mean' not in points
  (ce, ce_cells), (remax, remax_cells) = points['exact mean']
  assert (ce.key, remax.key) == ('ce', 'remax')
  assert all(cell['text'] == '' for cell in ce_cells)
  assert all(cell['text'] for cell in remax_cells)
  table = result_tables.distributions(run)
  columns = [column.metric for column in table['columns']]
  groups = dict(table['groups'])
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
  assert '>conformal</th>' in html and '>0.875</td>' in html
  # Without them, no column and no group is there for nothing.
  plain = result_tables.distributions(load(make_workdir(tmp_path / 'plain')))
  metrics = {column.metric for column in plain['columns']}
  assert not metrics & {'nll', 'outside'}
  assert plain['heads'] == ('Stage',)


def test_the_mass_on_the_grid_is_shown_where_there_is_some_beside(tmp_path):
  run = load(make_workdir(tmp_path))

  def shown(run):
    table = result_tables.distributions(run)
    (_, stages), *_ = table['groups']
    metrics = [column.metric for column in table['columns']]
    if 'grid_mass' in metrics:
      place = metrics.index('grid_mass')
      return [cells[place]['text'] for _, cells in stages]
    return None

  assert shown(run) is None
  more = {('0', 'ce', 'sample', 'grid_mass'): 0.93}
  more['0', 'remax', 'sample', 'grid_mass'] = 0.08
  run = dataclasses.replace(run, results={**run.results, **more})
  assert shown(run) == ['0.930', '0.080']


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


def test_verdict_speaks_in_both_directions(tmp_path):
  run = load(make_workdir(tmp_path, n=200, G=32))
  assert re.fullmatch(
    r'On 200 test rows, ReMax after CE lowered the RMSE of the mean by '
    r'\d+\.\d% from 0\.\d{3} z to 0\.\d{3} z, raised the R² of the median from '
    r'0\.\d{3} to 0\.\d{3}, (lowered|raised) CRPS by .*, but lowered the '
    r'coverage of the central 90% interval from \d\d% to \d\d%\.',
    words.verdict(run),
  )


@pytest.mark.parametrize(
  ('new', 'parts'),
  [
    ({}, ['left the RMSE of the mean at 0.500 z', ', and left the coverage']),
    (
      {('mean', 'rmse'): 0.6, ('sample', 'coverage90'): 0.88},
      ['raised the RMSE of the mean by 20.0%', ', but raised the coverage'],
    ),
    (
      {('mean', 'rmse'): 0.4, ('sample', 'coverage90'): 0.88},
      ['lowered the RMSE of the mean by 20.0%', ', and raised the coverage'],
    ),
    (
      {('mean', 'rmse'): 0.4, ('sample', 'coverage90'): 1.0},
      ['0.500 z to 0.400 z', ', but raised the coverage'],
    ),
    ({('median', 'r2'): -0.25}, ['lowered the R² of the median from 0.900 to']),
  ],
)
def test_verdict_follows_the_numbers(tmp_path, new, parts):
  old = {
    ('mean', 'rmse'): 0.5,
    ('median', 'r2'): 0.9,
    ('sample', 'crps'): 0.25,
    ('sample', 'coverage90'): 0.85,
  }
  found = {('0', 'ce', *key): value for key, value in old.items()}
  found |= {('0', 'remax', *key): v for key, v in (old | new).items()}
  run = dataclasses.replace(load(make_workdir(tmp_path)), results=found)
  for text in parts:
    assert text in words.verdict(run)


@pytest.mark.parametrize(
  ('transform', 'behind', 'unit', 'note'),
  [
    ('standard', ' z', 'z', None),
    ('none', '', 'original unit', "Errors are in the target's own unit."),
    ('quantile', ' rank', 'rank', 'Errors are in ranks in [0, 1] among'),
    ('quantile_normal', ' normal rank', 'normal rank', 'made normal'),
  ],
)
def test_numbers_name_the_unit_that_the_target_is_learnt_in(
  tmp_path, transform, behind, unit, note
):
  run = load(make_workdir(tmp_path, exact=('ce',)))
  config = {**run.config, 'data': {'transform': transform}}
  values = {('0', 'ce', 'mean', 'rmse'): 667969862.129}
  values['0', 'remax', 'mean', 'rmse'] = 0.25
  run = dataclasses.replace(run, config=config, results=run.results | values)
  assert f'from 6.68e+08{behind} to 0.250{behind},' in words.verdict(run)
  said = ' '.join(words.notes(run))
  assert 'Errors are' not in said if note is None else note in said
  (crps,) = (
    c for c in result_tables.distributions(run)['columns'] if c.metric == 'crps'
  )
  assert crps.unit == unit
  columns = result_tables.points(run)['columns']
  assert columns[0].unit == unit
  # Twice the same would be once too often.
  metrics = [column.metric for column in columns]
  assert ('rmse_unit' in metrics) == (transform != 'none')


def test_the_page_and_its_figures_name_the_unit(tmp_path):
  make_workdir(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  config['data'] = {'transform': 'quantile'}
  atomic.write_json(tmp_path / 'config.json', config)
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert 'Errors in ranks in [0, 1]' in html
  assert 'interval (rank)' in html.lower()
  assert not re.search(r'\bz\b', re.sub(r'base64,[^"]+', '', html))


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
  assert re.findall('<strong>(.*?)</strong>', html) == ['0.400', '0.930']


def test_seeds_are_shown_with_their_spread(tmp_path):
  make_workdir(tmp_path, seeds=(0, 1, 2))
  html = page.write(tmp_path).read_text(encoding='utf-8')
  assert 'Numbers are means over 3 seeds.' in html
  assert '<span class="spread">±' in html
  assert '<h2>Seeds</h2>' in html
  html = page.write(make_workdir(tmp_path / 'one')).read_text('utf-8')
  assert 'One seed' in html and '±' not in html and '<h2>Seeds</h2>' not in html


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
  assert '<pre>python -m genre2_jax.main &#39;--config=a b&#39;</pre>' in html


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
    for key in value if isinstance(value, dict) else range(len(value)):
      for other in damaged_values(value[key], depth + 1):
        changed = value.copy()
        changed[key] = other
        yield changed
      changed = value.copy()
      del changed[key]
      yield changed


@pytest.mark.parametrize(
  'name',
  ['run.json', 'config.json', 'env.json', 'profile/ce/operations.json'],
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
  # Figures know of these files the names in run.json; pixels take minutes.
  monkeypatch.setattr(drawing, 'png', lambda figure: b'')
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
