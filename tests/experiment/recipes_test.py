"""Every recipe: what it makes, and runs of some of each kind."""

import csv
import json
import re
import runpy

import jax
import numpy as np
import pytest
from checks import ROOT, assert_refused, assert_takes_a_step, read_log
from tiny import TINY

from genre2_jax import train
from genre2_jax.experiment import defaults, experiment, networks, recipes, tasks
from genre2_jax.experiment.stages import build_stages
from genre2_jax.policy import Pointwise

CONFIGS = ROOT / 'configs'
RECIPES = tuple(recipes.TALENT.recipes)
# What each trains, where its name does not say.
STAGES = {
  'best': ['crps'],
  'boosted': ['crps'],
  'crps_piecewise': ['ce', 'crps'],
  'joint': ['ce', 'crps_ce'],
  'crps_ce': ['ce', 'crps_ce'],
  'dist2': ['ce_dist2'],
  'genre2': ['ce', 'remax_expert'],
  'hl_gauss': ['soft_ce'],
  'learnable_raft': ['ce', 'raft'],
  'mixed': ['ce', 'remax_expert_ce'],
  'ntl_mse': ['ce_ntl_mse'],
  'ntl_was': ['ce_ntl_was'],
  'pointwise': ['mse'],
  'riemann': ['soft_ce'],
  'ce': ['ce'],
}


@pytest.fixture
def make_recipe(data_file):
  """`(name, {field: value}) -> config`: a recipe, tiny, on `data_file`."""

  def make(name, fields=()):
    config = recipes.get_config('talent', name)
    tiny = dict(TINY)
    if config.model.head == 'histogram':
      tiny['tokenizer.bins'] = 16
    source = {'data.path': str(data_file), 'data.target': 'price'}
    config.update_from_flattened_dict(tiny | source | dict(fields))
    return config

  return make


def test_there_are_recipes():
  assert {'ce', 'remax', 'crps', 'pointwise', 'linear'} <= set(RECIPES)
  assert len(RECIPES) == 45


@pytest.mark.parametrize('family', recipes.FAMILIES)
def test_files_read_the_table(family):
  get_config = runpy.run_path(CONFIGS / f'{family}.py')['get_config']
  table = recipes.FAMILIES[family]
  for name in ('', *table.recipes):
    ours = recipes.get_config(family, name)
    assert get_config(name).to_dict() == ours.to_dict()
    assert ours.is_locked
  default = recipes.get_config(family, table.default)
  assert get_config().to_dict() == default.to_dict()


@pytest.mark.parametrize('name', ['ce', 'remax'])
def test_files_with_a_name_of_their_own_read_it_too(name):
  get_config = runpy.run_path(CONFIGS / f'{name}_talent.py')['get_config']
  ours = recipes.get_config('talent', name)
  assert get_config().to_dict() == ours.to_dict()


def test_every_recipe_has_one_sentence():
  for family in recipes.FAMILIES.values():
    assert family.default in family.recipes
    for said in (family, *family.recipes.values()):
      assert re.fullmatch(r'[A-Z].+[^.]\.', said.says), said
      assert len(said.says) < 160, said


def shown_names():
  """(family, name) of every command in prose, docstrings and notebooks."""
  folders = ('.', 'benchmarks', 'colab', 'configs', 'docs', 'launch')
  paths = [path for folder in folders for path in (ROOT / folder).glob('*')]
  paths += (ROOT / 'genre2_jax').rglob('*.py')
  for path in paths:
    if path.suffix in ('.md', '.py', '.ipynb', '.sh', '.sbatch', '.txt'):
      text = path.read_text(encoding='utf-8')
      for family, name in re.findall(r'\b(\w+)\.py:(\w+)', text):
        if family in recipes.FAMILIES:
          yield family, name


def test_commands_that_are_shown_name_recipes_that_are_there():
  shown = set(shown_names())
  assert {('talent', 'crps'), ('stsb', 'raft')} <= shown
  for family, name in shown - {(f, 'NAME') for f in recipes.FAMILIES}:
    assert name in recipes.FAMILIES[family].recipes, f'{family}.py:{name}'


def test_recipes_of_a_family_differ():
  for family, table in recipes.FAMILIES.items():
    made = {
      name: str(recipes.get_config(family, name)) for name in table.recipes
    }
    assert len(set(made.values())) == len(made)


def test_a_config_does_not_change_the_table():
  config = recipes.get_config('talent', 'log_loss')
  config.finetune.objective[0][2]['low'] = 0.0
  again = recipes.get_config('talent', 'log_loss')
  assert again.finetune.objective == (
    ('log_loss', 1.0, {'low': -4.0, 'high': 4.0}),
  )
  assert again.to_dict().keys() == defaults.get_config().to_dict().keys()


def test_unknown_names_are_refused_with_the_nearest():
  assert_refused(
    lambda: recipes.get_config('talent', 'genr2'), "'genr2'", "'genre2'"
  )
  assert_refused(
    lambda: recipes.get_config('stsbb', 'raft'), "'stsbb'", "'stsb'"
  )


def test_synthetic_recipes_have_no_weights_to_start_from():
  for name in recipes.SYNTHETIC.recipes:
    config = recipes.get_config('synthetic', name)
    assert config.stages != ('finetune',)
  raft = recipes.get_config('synthetic', 'raft')
  assert raft.stages == ('pretrain',)
  assert raft.pretrain.objective == (('raft', 1.0, {}),)


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_gives_its_stages_and_a_model(make_recipe, name):
  config = recipes.get_config('talent', name)
  built = build_stages(experiment.resolve(config))
  if not config.baseline.name:
    expected = STAGES.get(name, ['ce', name])
    assert [stage.name for stage in built] == expected
  else:
    assert config.baseline.name == name
  tiny = experiment.resolve(make_recipe(name))
  model = networks.build_model(tiny, tasks.read_table(tiny))
  is_point = isinstance(model.network, Pointwise)
  assert is_point == (config.model.head == 'pointwise')


@pytest.mark.parametrize(
  'name',
  [
    name
    for name in RECIPES
    if not recipes.get_config('talent', name).baseline.name
  ],
)
def test_a_recipe_takes_a_step(make_recipe, name):
  """Its last stage's, traced: every shape fits, every metric is there."""
  config = experiment.resolve(make_recipe(name))
  table = tasks.read_table(config)
  model = networks.build_model(config, table)
  stage = build_stages(config)[-1]
  assert_takes_a_step(stage, model, model.examples(table.train))


# ------------------------------------------------------------------ whole runs


@pytest.fixture
def run(make_recipe, tmp_path):
  """`(name, {field: value}) -> (stages, results of test rows, log)`."""
  short = {
    'pretrain.epochs': 2, 'finetune.epochs': 2, 'eval.num_samples': 4,
    'report': False,
  }  # fmt: skip

  def start(name, fields=()):
    config = make_recipe(name, short | dict(fields))
    workdir = train.train_and_evaluate(config, tmp_path / 'run')
    assert not (workdir / 'report.html').exists()
    stages = json.loads((workdir / 'run.json').read_text())['stages']
    with open(workdir / 'results.csv', encoding='utf-8', newline='') as file:
      results = {
        (row['stage'], row['estimator'], row['metric']): float(row['value'])
        for row in csv.DictReader(file)
        if row['split'] == 'test'
      }
    assert np.isfinite(list(results.values())).all()
    has_log = (workdir / 'metrics.jsonl').exists()
    return stages, results, read_log(workdir) if has_log else []

  # What takes time here is compiling, not running.
  jax.config.update('jax_disable_most_optimizations', True)
  yield start
  jax.config.update('jax_disable_most_optimizations', False)


def estimators(results, stage):
  return {estimator for of, estimator, _ in results if of == stage}


@pytest.mark.parametrize(
  ('name', 'logged'),
  [
    ('learnable_raft', ['train/raft', 'val/raft', 'val/loss']),
    pytest.param(
      'crps',
      ['train/crps', 'val/crps', 'val/loss'],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      'ppo',
      ['train/ppo', 'train/value_loss', 'val/reward'],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      'mixed',
      ['train/remax', 'train/expert', 'train/ce', 'val/reward'],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_fine_tuning_recipes_run(run, finished, name, logged):
  stages, results, log = run(name, {'init_from': str(finished)})
  assert stages == STAGES.get(name, ['ce', name])
  last = stages[-1]
  assert [r['epoch'] for r in log if r['stage'] == last] == [0, 1, 2]
  assert set(logged) <= log[-1].keys()
  assert ('learned_mean' in estimators(results, last)) == (
    name == 'learnable_raft'
  )
  assert 'learned_mean' not in estimators(results, 'ce')
  for stage in stages:
    assert {'exact', 'exact_mean', 'tempered', 'conformal'} <= estimators(
      results, stage
    )


@pytest.mark.parametrize('name', ['pointwise', 'linear'])
def test_what_predicts_one_number_is_a_point_mass(run, name):
  stages, results, log = run(name)
  stage = {'pointwise': 'mse', 'linear': 'linear'}[name]
  assert stages == [stage]
  assert len(log) == (3 if name == 'pointwise' else 0)
  assert 'exact' not in estimators(results, stage)

  def value(estimator, metric):
    return results[stage, estimator, metric]

  assert value('sample', 'width90') == value('sample', 'entropy') == 0
  assert value('sample', 'crps') == value('greedy', 'mae')
  assert value('mean', 'rmse') == value('greedy', 'rmse')
  if name == 'linear':
    assert value('mean', 'r2') > 0.5


def test_a_histogram_has_every_estimator_of_digits(run):
  stages, results, _ = run('riemann')
  assert stages == ['soft_ce']
  assert {'greedy', 'median', 'exact_median', 'tempered'} <= estimators(
    results, 'soft_ce'
  )


# A tokenizer whose numbers are too many to score: 1 + 8 + ... + 8^5 nodes.
LARGE = {
  'stages': ('pretrain',),
  'pretrain.objective': (('crps', 1.0, {}),),
  'tokenizer.base': 8,
  'tokenizer.digits': 6,
}


@pytest.mark.slow
@pytest.mark.parametrize('beyond', ['prefix', 'samples'])
def test_tries_that_are_too_large_are_sampled(run, beyond):
  few = {'tokenizer.base': 4, 'tokenizer.digits': 3}  # 21 nodes.
  beyond = {'trie.beyond': beyond, 'trie.max_nodes': 9}
  stages, results, log = run('crps', LARGE | few | beyond)
  assert stages == ['crps']
  losses = [record['val/loss'] for record in log]
  assert len(losses) == 3 and min(losses[1:]) < losses[0]
  assert estimators(results, 'crps').isdisjoint({'exact', 'tempered'})


def test_tries_that_are_too_large_are_refused_by_nodes_and_bytes(
  run, make_recipe, tmp_path
):
  assert_refused(
    lambda: run('crps', LARGE),
    '37449 nodes', 'GB', 'trie.max_nodes=1024', 'trie.beyond',
  )  # fmt: skip
  assert not (tmp_path / 'run').exists()
