"""Configs: what they resolve to, and what no run could use."""

import csv

import pytest
from conftest import assert_refused

from configs import base, ce_talent, genre2_talent, grpo_talent, remax_talent
from genre2_jax import experiment


def changed(**fields):
  config = base.get_config()
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  return config


@pytest.mark.parametrize(
  ('recipe', 'stages', 'expert'),
  [
    (ce_talent, ['ce'], None),
    (remax_talent, ['ce', 'remax'], 0.0),
    (grpo_talent, ['ce', 'grpo'], 0.0),
    (genre2_talent, ['ce', 'remax_expert'], 0.05),
  ],
)
def test_recipes_name_their_stages(recipe, stages, expert):
  built = experiment.build_stages(experiment.resolve(recipe.get_config()))
  assert [stage.name for stage in built] == stages
  assert built[0].objective is None
  if expert is not None:
    assert built[1].objective.expert_weight == expert


def test_the_official_hyperparameters_are_the_published_ones():
  with open(experiment.OFFICIAL_HYPERPARAMETERS, encoding='utf-8') as file:
    (row,) = (r for r in csv.DictReader(file) if r['dataset'] == 'Abalone_reg')
  before = changed(hyperparameters='official', data__name='Abalone_reg')
  config = experiment.resolve(before)
  assert config.tokenizer.base == int(row['base'])
  assert config.tokenizer.digits == int(row['digits'])
  assert config.model.to_dict() == {
    'width': int(row['d_model']),
    'num_layers': int(row['num_decoder_layers']),
    'num_heads': int(row['nhead']),
    'feedforward': int(row['dim_feedforward']),
    'encoder_hidden': int(row['hidden_dim']),
    'encoder_layers': base.get_config().model.encoder_layers,
    'dropout': float(row['dropout']),
  }
  assert config.ce.learning_rate == float(row['learning_rate'])
  assert config.rl.to_dict() == base.get_config().rl.to_dict()
  # The config that was given stays as it is.
  assert before.model.to_dict() == base.get_config().model.to_dict()


def test_an_unknown_official_task_names_the_near_one():
  config = changed(hyperparameters='official', data__name='Abalone_regg')
  assert_refused(lambda: experiment.resolve(config), "'Abalone_reg'")


@pytest.mark.parametrize(
  ('fields', 'part'),
  [
    ({'rl__advantage': 'remaxx'}, "did you mean 'remax'?"),
    ({'rl__reward': 'square'}, "did you mean 'squared'?"),
    ({'rl__kl_estimator': 'k4'}, 'k1, k2, k3'),
    ({'hyperparameters': 'offical'}, 'hyperparameters'),
    ({'rl__advantage': 'rloo', 'rl__group_size': 1}, 'rl.group_size'),
    ({'batch_size': 0}, 'batch_size=0 must be positive'),
    ({'rl__temperature': float('nan')}, 'rl.temperature=nan'),
    ({'ce__epochs': -1}, 'ce.epochs=-1 must not be negative'),
    ({'model__dropout': 1.0}, 'model.dropout'),
    ({'seed': -1}, 'seed=-1'),
    ({'seed': 2**32 - 1, 'num_seeds': 2}, 'below 2^32'),
  ],
)
def test_values_that_no_run_could_use_are_refused(fields, part):
  assert_refused(lambda: experiment.resolve(changed(**fields)), part)


@pytest.mark.parametrize(
  ('stages', 'init_from', 'expected'),
  [
    (('ce',), '', ['ce']),
    (('ce', 'rl'), '', ['ce', 'remax']),
    (('ce', 'rl'), 'somewhere', ['remax']),
    (('rl',), 'somewhere', ['remax']),
    (('ce',), 'somewhere', ['ce']),
  ],
)
def test_weights_from_elsewhere_stand_in_for_cross_entropy(
  stages, init_from, expected
):
  built = experiment.build_stages(changed(stages=stages, init_from=init_from))
  assert [stage.name for stage in built] == expected


@pytest.mark.parametrize('stages', [('rl',), ('rl', 'ce'), (), ('sft',)])
def test_stages_that_make_no_sense_are_refused(stages):
  config = changed()
  with config.unlocked():
    config.stages = stages
  assert_refused(lambda: experiment.build_stages(config), f'stages={stages}')
