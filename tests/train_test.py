"""Whole runs on a tiny table, in one process."""

import csv
import json
import pickle

import jax
import numpy as np
import pandas as pd
import pytest
from checks import (
  assert_refused,
  assert_same_bits,
  assert_same_end,
  read_checkpoint,
  read_log,
)
from tiny import write_table

from genre2_jax import train
from genre2_jax.baselines import points
from genre2_jax.data import tables, targets
from genre2_jax.errors import InputError, NonFiniteError
from genre2_jax.experiment import experiment, tasks
from genre2_jax.files import metrics_log
from genre2_jax.report import page
from genre2_jax.runs import baselines

POINTS = (
  'greedy', 'sample', 'mean', 'median', 'clipped_mean', 'clipped_median',
)  # fmt: skip
POINT_METRICS = (
  'rmse', 'mae', 'r2', 'spearman', 'kendall', 'pearson', 'rmse_unit',
  'mae_unit', 'reward',
)  # fmt: skip
DISTRIBUTION_METRICS = ('crps', 'coverage90', 'width90', 'entropy')
EXACT_POINTS = ('exact_mean', 'exact_median')
SAMPLED = {(e, m) for e in POINTS for m in POINT_METRICS} | {
  ('sample', m) for m in DISTRIBUTION_METRICS
}


def of_distribution(name):
  """What is said of a distribution that is known exactly."""
  points = (f'{name}_mean', f'{name}_median')
  return {(e, m) for e in points for m in POINT_METRICS} | {
    (name, m) for m in (*DISTRIBUTION_METRICS, 'nll', 'outside', 'reward')
  }


RECALIBRATED = of_distribution('tempered') | {
  ('tempered', 'temperature'),
  ('conformal', 'coverage90'),
  ('conformal', 'width90'),
}


def all_metrics(split):
  """Of a split: validation rows are what is recalibrated on."""
  recalibrated = RECALIBRATED if split == 'test' else set()
  return SAMPLED | of_distribution('exact') | recalibrated


def read_results(workdir):
  with open(workdir / 'results.csv', encoding='utf-8', newline='') as file:
    reader = csv.DictReader(file)
    assert reader.fieldnames == [
      'task', 'seed', 'stage', 'split', 'estimator', 'metric', 'value',
    ]  # fmt: skip
    rows = list(reader)
  values = {tuple(row.values())[:-1]: float(row['value']) for row in rows}
  assert len(values) == len(rows)
  assert np.isfinite(list(values.values())).all()
  return values


def run_info(workdir):
  return json.loads((workdir / 'run.json').read_text())


@pytest.fixture
def no_report(monkeypatch):
  """The report has its own tests, and takes seconds."""
  monkeypatch.setattr(page, 'write', lambda workdir: None)


@pytest.fixture
def quickly(no_report):
  """For runs that are compared with no other: less time in the compiler."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


# ------------------------------------------------------------- one whole run


def test_a_run_leaves_every_file(finished):
  files = {
    str(path.relative_to(finished))
    for path in finished.rglob('*')
    if path.is_file()
    and path.parts[len(finished.parts)] not in ('checkpoints', 'weights')
  }
  events = {name for name in files if 'events.out.tfevents' in name}
  figures = {name for name in files if name.startswith('figures/')}
  assert files - events - figures == {
    'config.json', 'model.json', 'env.json', 'run.json', 'metrics.jsonl',
    'results.csv', 'references.csv', 'predictions.csv', 'report.html',
    'margins.json', 'columns.json', 'importances.json', '.lock',
    *(
      f'evaluation/{stage}_{split}.npz'
      for stage in ('ce', 'remax')
      for split in ('val', 'test')
    ),
  }  # fmt: skip
  assert len(events) == 1
  assert figures and all(name.endswith('.svg') for name in figures)
  for stage, step in (('ce', 12 * 5), ('remax', 3 * 5)):
    assert (finished / 'checkpoints' / stage / str(step)).is_dir()
    assert (finished / 'weights' / stage / '0').is_dir()
  config = json.loads((finished / 'config.json').read_text())
  assert config['pretrain']['epochs'] == 12
  env = json.loads((finished / 'env.json').read_text())
  assert {'python', 'jax', 'git_commit', 'mesh', 'command'} <= env.keys()
  assert run_info(finished)['stages'] == ['ce', 'remax']
  page = (finished / 'report.html').read_text(encoding='utf-8')
  assert '<svg viewBox=' in page and '</html>' in page


def test_two_baselines_stand_beside_a_run(finished, make_config):
  """On its rows and in its units: what anybody has in seconds."""
  with open(finished / 'references.csv', encoding='utf-8', newline='') as file:
    found = {
      tuple(r.values())[2:-1]: float(r['value']) for r in csv.DictReader(file)
    }
  table = tasks.read_table(experiment.resolve(make_config()))
  mean, std = table.train.target.mean(), table.train.target.std()
  scaler = targets.fit('standard', table.train.target)
  fitted = points.fit_predict('histogram_trees', table, scaler, seed=0)
  for split in ('val', 'test'):
    target = getattr(table, split).target
    rmse = np.sqrt(np.mean((target - mean) ** 2)) / std
    assert found['train_mean', split, 'greedy', 'rmse'] == pytest.approx(rmse)
    z = fitted[split] - (target - mean) / std
    trees = found['histogram_trees', split, 'greedy', 'rmse']
    assert trees == pytest.approx(np.sqrt(np.mean(z**2)), rel=1e-5)
  assert {key[2] for key in found} == {'greedy'}


def test_no_trees_stand_beside_what_they_take_minutes_for(
  make_config, tmp_path, monkeypatch
):
  built = experiment.build(make_config({'report': True}))
  for name in ('_MOST_COLUMNS', '_MOST_CELLS'):
    with monkeypatch.context() as patch:
      patch.setattr(baselines, name, 3)
      rows = baselines.references(built, tmp_path / name, ())
    assert {row[2] for row in rows} == {'train_mean'}


def test_a_baseline_may_predict_a_distribution(
  make_config, tmp_path, no_report
):
  """On the numbers of the tokenizer, with the metrics of a decoder."""
  pytest.importorskip('quantile_forest')
  fields = {'baseline.name': 'quantile_forest', 'tokenizer.name': 'adaptive'}
  workdir = train.train_and_evaluate(make_config(fields), tmp_path / 'run')
  values = {key[2:]: value for key, value in read_results(workdir).items()}
  assert 0 < values['quantile_forest', 'test', 'exact', 'crps'] < 1
  assert 0.6 < values['quantile_forest', 'test', 'exact', 'coverage90'] <= 1
  predicted = pd.read_csv(workdir / 'predictions.csv')
  assert (predicted.lower90 <= predicted.prediction).all()
  refused = make_config(fields | {'baseline.trials': 3})
  with pytest.raises(InputError, match='searches baselines of one'):
    train.train_and_evaluate(refused, tmp_path / 'refused')


def test_a_run_out_of_time_keeps_what_it_has(
  make_config, tmp_path, no_report, caplog
):
  """After a dispatch a stage; the best weights are of what was validated."""
  config = make_config({'max_seconds': 1e-3})
  workdir = train.train_and_evaluate(config, tmp_path / 'run')
  assert run_info(workdir)['out_of_time'] == ['ce', 'remax']
  records = metrics_log.read_intact(workdir)
  assert [(r['stage'], r['epoch'], r['step']) for r in records] == [
    ('ce', 0, 0), ('ce', 1, 1), ('remax', 0, 0), ('remax', 1, 1),
  ]  # fmt: skip
  assert (workdir / 'weights' / 'remax').is_dir()
  assert read_results(workdir)


def test_results_hold_every_promised_number_once(finished):
  assert {key for key in read_results(finished)} == {
    ('houses', '0', stage, split, *metric)
    for stage in ('ce', 'remax')
    for split in ('val', 'test')
    for metric in all_metrics(split)
  }


def test_unit_errors_are_the_z_errors_times_the_training_deviation(
  finished, data_file
):
  std = tables.read_file(data_file, 'price').train.target.std()
  results = read_results(finished)
  for (*place, metric), value in results.items():
    if metric in ('rmse_unit', 'mae_unit'):
      z = results[*place, metric.removesuffix('_unit')]
      assert value == pytest.approx(z * std)


def test_predictions_are_of_the_test_rows_in_the_original_unit(
  finished, data_file
):
  table = pd.read_csv(finished / 'predictions.csv')
  target = tables.read_file(data_file, 'price').test.target
  assert list(table) == [
    'row', 'target', 'prediction', 'lower90', 'upper90',
    *POINTS, *EXACT_POINTS, 'conformal_lower90', 'conformal_upper90',
    'model_lower90', 'model_upper90',
  ]  # fmt: skip
  assert list(table['row']) == list(range(1, 25))
  np.testing.assert_array_equal(table['target'], target)
  results = read_results(finished)
  place = ('test', 'mean', 'rmse')
  assert (
    results['houses', '0', 'ce', *place]
    != (results['houses', '0', 'remax', *place])
  )
  for estimator in POINTS + EXACT_POINTS:
    rmse = np.sqrt(np.mean((table[estimator] - target) ** 2))
    key = ('houses', '0', 'remax', 'test', estimator, 'rmse_unit')
    assert rmse == pytest.approx(results[key])
  assert (table['lower90'] <= table['exact_median']).all()
  assert (table['exact_median'] <= table['upper90']).all()


def test_training_learns(finished):
  """The target is nearly linear: guessing its mean would give R² of 0."""
  results = read_results(finished)
  assert results['houses', '0', 'ce', 'test', 'median', 'r2'] > 0.3
  records = read_log(finished)
  loss = [r['val/loss'] for r in records if r['stage'] == 'ce']
  assert min(loss) < 0.8 * loss[0]


def test_the_log_has_one_record_per_epoch(finished):
  places = [(r['stage'], r['epoch'], r['step']) for r in read_log(finished)]
  assert places == [
    *(('ce', epoch, 5 * epoch) for epoch in range(13)),
    *(('remax', epoch, 5 * epoch) for epoch in range(4)),
  ]


def test_the_same_config_twice_gives_the_same_bits(
  make_config, finished, tmp_path, no_report
):
  other = train.train_and_evaluate(make_config(), tmp_path / 'again')
  assert_same_end(other, finished)


def test_running_a_finished_run_again_changes_nothing(
  make_config, finished, no_report
):
  """Not even with other checkpoints or dispatches, which leave no trace."""
  names = ('results.csv', 'predictions.csv', 'metrics.jsonl', 'config.json')
  before = [(finished / name).read_bytes() for name in names]
  config = make_config({'checkpoint.keep': 3, 'steps_per_dispatch': 2})
  train.train_and_evaluate(config, finished)
  assert [(finished / name).read_bytes() for name in names] == before


def test_a_run_without_a_name_goes_to_a_folder_of_its_own(
  make_config, tmp_path, monkeypatch, no_report
):
  monkeypatch.chdir(tmp_path)
  config = make_config({'stages': ('pretrain',)})
  first = train.train_and_evaluate(config)
  assert first.parent.name == 'runs' and first.name.startswith('houses_ce_')
  assert first.resolve().is_relative_to(tmp_path)


# ---------------------------------------------------------- sources of tables


def test_parquet_gives_what_csv_gives(
  make_config, data_file, finished, tmp_path, no_report
):
  pytest.importorskip('pyarrow')
  path = tmp_path / 'houses.parquet'
  pd.read_csv(data_file).to_parquet(path)
  config = make_config({'data.path': str(path)})
  workdir = train.train_and_evaluate(config, tmp_path / 'run')
  assert_same_end(workdir, finished)


def test_a_talent_folder_gives_what_its_csv_gives(
  make_config, data_file, finished, tmp_path, no_report
):
  table = tables.read_file(data_file, 'price')
  folder = tmp_path / 'tasks' / 'houses'
  folder.mkdir(parents=True)
  for split in tables.SPLITS:
    rows = getattr(table, split)
    np.save(folder / f'N_{split}.npy', rows.numeric)
    np.save(folder / f'C_{split}.npy', rows.categories, allow_pickle=True)
    np.save(folder / f'y_{split}.npy', rows.target)
  with open(folder / 'C_train.npy', 'rb') as file:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    assert pickle.load(file).dtype == object
  (folder / 'info.json').write_text('{"task_type": "regression"}')
  config = make_config(
    {'data.path': '', 'data.root': str(folder.parent), 'data.name': 'houses'}
  )
  workdir = train.train_and_evaluate(config, tmp_path / 'run')
  assert_same_end(workdir, finished)


def test_several_seeds_and_batches_beyond_the_data(
  make_config, tmp_path, quickly
):
  config = make_config(
    {
      'stages': ('pretrain',), 'pretrain.epochs': 3, 'num_seeds': 2,
      'batch_size': 512, 'eval.batch_size': 64,
    }
  )  # fmt: skip
  workdir = train.train_and_evaluate(config, tmp_path / 'run')
  results = read_results(workdir)
  assert {key for key in results} == {
    ('houses', seed, 'ce', split, *metric)
    for seed in ('0', '1', 'mean', 'std', 'ensemble')
    for split in ('val', 'test')
    for metric in all_metrics(split)
  }
  for place in {key[2:] for key in results}:
    each = [results['houses', seed, *place] for seed in ('0', '1')]
    mean, std = (results['houses', s, *place] for s in ('mean', 'std'))
    assert mean == pytest.approx(np.mean(each))
    assert std == pytest.approx(np.std(each, ddof=1), abs=1e-12)
  records = read_log(workdir)
  # One step takes all 76 rows in.
  assert [(r['seed'], r['step']) for r in records] == [
    (seed, step) for step in range(4) for seed in (0, 1)
  ]
  assert records[-1]['val/loss'] != records[-2]['val/loss']
  # As many seeds as the source has, or one that all seeds start from.
  more = {'init_from': str(workdir), 'num_seeds': 3}
  assert_refused(
    lambda: train.train_and_evaluate(make_config(more), tmp_path / 'more'),
    'has 2 seeds, this run 3',
  )
  assert not (tmp_path / 'more').exists()


def test_a_constant_target_is_learnt_exactly_and_said(
  make_config, tmp_path, capsys, no_report
):
  path = write_table(tmp_path / 'flat.csv', target=1234.5)
  config = make_config({'data.path': str(path), 'pretrain.max_steps': 7})
  workdir = train.train_and_evaluate(config, tmp_path / 'run')
  steps = [r['step'] for r in read_log(workdir) if r['stage'] == 'ce']
  assert steps == [0, 5, 7]  # of five an epoch
  out = capsys.readouterr().out
  assert 'target is constant' in out
  assert out.splitlines()[-2:] == [
    f'Workdir: {workdir}',
    f'Report: {workdir}/report.html',
  ]
  table = pd.read_csv(workdir / 'predictions.csv')
  assert (table.drop(columns='row') == 1234.5).all(axis=None)
  results = read_results(workdir)
  for stage in ('ce', 'remax'):
    for metric, value in (('rmse', 0), ('r2', 1), ('crps', 0), ('width90', 0)):
      estimator = 'sample'
      key = ('flat', '0', stage, 'test', estimator, metric)
      assert results[key] == value


# ----------------------------------------------------- objectives, tokenizers


# A compilation each, but for remax, which has that of `finished`: they share it
# between advantages, estimators, rewards.
@pytest.mark.parametrize(
  ('name', 'kl_estimator', 'reward'),
  [
    ('remax', '', 'squared'),
    pytest.param('dr_grpo', 'k1', 'absolute', marks=pytest.mark.slow),
    pytest.param('rloo', 'k2', 'squared', marks=pytest.mark.slow),
    pytest.param('grpo', 'k3', 'squared', marks=pytest.mark.slow),
  ],
)
def test_reinforcement_alone_starts_from_another_run(
  make_config, finished, tmp_path, no_report, name, kl_estimator, reward
):
  fields = {'init_from': str(finished), 'finetune.epochs': 1}
  if kl_estimator:
    fields |= {
      'finetune.objective': (
        (name, 1.0, {}), ('kl', 0.1, {'estimator': kl_estimator}),
      ),
      'rollouts.num_updates': 2, 'rollouts.reward': reward,
    }  # fmt: skip
    name += '_kl'
  workdir = train.train_and_evaluate(make_config(fields), tmp_path / 'run')
  assert run_info(workdir)['stages'] == ['ce', name]
  assert not (workdir / 'checkpoints' / 'ce').exists()
  ours, theirs = read_results(workdir), read_results(finished)
  # Stage 'ce' is the source's: the same parameters, keys and rows.
  base = {key for key in theirs if key[2] == 'ce'}
  assert base == {key for key in ours if key[2] == 'ce'}
  assert all(ours[key] == theirs[key] for key in base)
  source = read_checkpoint(finished / 'checkpoints' / 'ce')['state']
  tuned = read_checkpoint(workdir / 'checkpoints' / name)['state']
  if kl_estimator:
    assert_same_bits(tuned['reference'], source['best_params'])
    assert read_log(workdir)[-1]['train/kl'] != 0
  assert (tuned['step'], tuned['epoch']) == (5, 1)
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), tuned['params'], source['best_params']
  )
  assert 0 < max(jax.tree.leaves(moved)) < 0.1


@pytest.mark.slow  # Each compiles its own programs.
@pytest.mark.parametrize('name', ['p10', 'ieee', 'exponent_first'])
def test_every_tokenizer_trains(make_config, tmp_path, quickly, name):
  fields = {'tokenizer.name': name, 'tokenizer.digits': 1, 'pretrain.epochs': 1}
  if name == 'p10':  # One of them on to the stage that weighs its digits.
    fields |= {
      'finetune.epochs': 1,
      'finetune.objective': (('reinforce', 1.0, {}), ('expert', 0.05, {})),
    }
  else:
    fields |= {'stages': ('pretrain',)}
  workdir = train.train_and_evaluate(make_config(fields), tmp_path / 'run')
  stages = ['ce', 'reinforce_expert'] if name == 'p10' else ['ce']
  assert run_info(workdir)['stages'] == stages
  assert {key[2] for key in read_results(workdir)} == set(stages)
  if name == 'p10':
    assert read_log(workdir)[-1]['train/expert'] > 0


# --------------------------------------------------------------- what may fail


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(
  make_config, tmp_path
):
  config = make_config(
    {
      'pretrain.learning_rate': 1e38, 'checkpoint.every_seconds': 0.0,
      'checkpoint.keep': 100, 'steps_per_dispatch': 1,
    }
  )  # fmt: skip
  with pytest.raises(NonFiniteError, match=r'stage ce, seed 0 .* at step \d+'):
    train.train_and_evaluate(config, tmp_path / 'run')
  folder = tmp_path / 'run' / 'checkpoints' / 'ce'
  steps = [int(path.name) for path in folder.iterdir()]
  for step in steps:
    for leaf in jax.tree.leaves(read_checkpoint(folder, step)):
      assert leaf.dtype == object or np.isfinite(leaf).all()
  # The same command again says the same again.
  with pytest.raises(NonFiniteError, match='stage ce, seed 0'):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'run.json').exists()


def _csv(text):
  return lambda folder: {'data.path': str(_write(folder / 'bad.csv', text))}


def _write(path, text):
  path.write_text(text)
  return path


def _with_targets(**cells):
  rows = [cells.get(f'row{i}', str(i)) for i in range(1, 11)]
  return _csv('x,price\n' + ''.join(f'{i},{y}\n' for i, y in enumerate(rows)))


@pytest.mark.parametrize(
  ('fields', 'parts'),
  [
    (
      {'data.path': '', 'data.root': '/nowhere', 'data.name': 'x'},
      ['/nowhere', 'no such folder'],
    ),
    ({'data.path': 'nowhere.csv'}, ['nowhere.csv', 'no such file']),
    ({'data.path': '', 'data.name': 'diabetis'}, ["use 'diabetes'"]),
    ({'data.target': 'prize'}, ["'prize'", "did you mean 'price'?"]),
    (_with_targets(row3='nan', row7=''), ['2 rows: 3, 7', 'missing']),
    (_with_targets(row2='inf'), ['1 row: 2', 'infinite']),
    (_with_targets(row1='x', row9='?!'), ['text', '2 rows: 1, 9']),
    (_csv('x,price\n'), ['no data rows']),
    (_csv(''), ['not readable']),
    (_csv('x,price\n1,2\n'), ['1 rows']),
    (_csv('price\n1\n2\n3\n4\n5\n'), ['no feature columns']),
    ({'mesh.data': 3}, ['mesh.data=3', 'does not fit 1 device']),
    ({'stages': ('finetune',)}, ['init_from']),
    ({'init_from': '/nowhere'}, ['/nowhere is no workdir']),
    ({'model.num_heads': 3}, ['model.width=16', 'model.num_heads=3']),
    ({'tokenizer.name': 'p11'}, ["'p11'", 'p10']),
    ({'tokenizer.base': 1}, ['base']),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
  make_config, tmp_path, fields, parts
):
  fields = fields(tmp_path) if callable(fields) else fields
  workdir = tmp_path / 'run'
  assert_refused(
    lambda: train.train_and_evaluate(make_config(fields), workdir), *parts
  )
  assert not workdir.exists()


def test_a_workdir_that_cannot_be_used_is_refused(
  make_config, finished, tmp_path
):
  def start(workdir, fields=()):
    return lambda: train.train_and_evaluate(make_config(fields), workdir)

  file = _write(tmp_path / 'file', 'mine')
  assert_refused(start(file), str(file), '--workdir')
  assert_refused(start(file / 'run'), str(file), '--workdir')
  assert file.read_text() == 'mine'
  (tmp_path / 'held' / 'config.json').mkdir(parents=True)
  assert_refused(start(tmp_path / 'held'), 'config.json')
  (tmp_path / 'full' / 'model.json').mkdir(parents=True)
  assert_refused(start(tmp_path / 'full'), 'cannot make', '--workdir')
  before = (finished / 'config.json').read_bytes()
  assert_refused(
    start(finished, {'pretrain.epochs': 13}),
    'another config',
    'pretrain.epochs (12 there, 13 here)',
  )
  assert (finished / 'config.json').read_bytes() == before


def test_weights_come_only_from_a_finished_run_of_the_same_model(
  make_config, finished, tmp_path
):
  def start(**fields):
    config = make_config({k.replace('__', '.'): v for k, v in fields.items()})
    return lambda: train.train_and_evaluate(config, tmp_path / 'run')

  unfinished = tmp_path / 'unfinished'
  unfinished.mkdir()
  (unfinished / 'config.json').write_text('{}')
  assert_refused(start(init_from=str(unfinished)), 'not finished')
  ours = {'init_from': str(finished)}
  assert_refused(start(**ours, model__width=8), 'another model config')
  assert_refused(start(**ours, tokenizer__digits=3), 'another tokenizer config')
  other = _write(tmp_path / 'other.csv', 'x,price\n' + '1,2\n' * 20)
  assert_refused(start(**ours, data__path=str(other)), 'other columns')
  assert not (tmp_path / 'run').exists()


def test_a_stage_that_no_epoch_improves_says_so(
  make_config, finished, tmp_path, caplog
):
  """A rate that moves no weight: the stage ends as it began."""
  config = make_config(
    {
      'init_from': str(finished), 'finetune.epochs': 2, 'report': False,
      'finetune.learning_rate': 1e-30, 'optimizer.weight_decay': 0.0,
    }
  )  # fmt: skip
  workdir = train.train_and_evaluate(config, tmp_path / 'run', verbose=0)
  said = 'Stage remax kept its starting weights: no epoch was better'
  assert [said in message for message in caplog.messages].count(True) == 1
  log = [r for r in read_log(workdir) if r['stage'] == 'remax']
  assert [r['epoch'] for r in log] == [0, 1, 2]
  assert {r['best_epoch'] for r in log} == {0}
  assert max(r['best_epoch'] for r in read_log(finished)) > 0
