"""Configs: what they resolve to, and what no run could use."""

import csv

import pytest
from checks import assert_refused

from configs import base
from genre2_jax import DecodingRegressor
from genre2_jax.experiment import (
  checks,
  defaults,
  experiment,
  official,
  recipes,
)
from genre2_jax.experiment.stages import build_stages
from genre2_jax.policy.enumeration import Enumeration


def changed(**fields):
  config = base.get_config()
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  return config


def finetune(*parts, **fields):
  return changed(finetune__objective=parts, **fields)


@pytest.mark.parametrize(
  ('recipe', 'stages', 'weights'),
  [
    ('ce', ['ce'], [1.0]),
    ('remax', ['ce', 'remax'], [1.0]),
    ('grpo', ['ce', 'grpo'], [1.0]),
    ('genre2', ['ce', 'remax_expert'], [1.0, 0.05]),
  ],
)
def test_recipes_name_their_stages(recipe, stages, weights):
  config = recipes.get_config('talent', recipe)
  built = build_stages(experiment.resolve(config))
  assert [stage.name for stage in built] == stages
  assert [term.name for term in built[0].objective.terms] == ['ce']
  assert [term.weight for term in built[-1].objective.terms] == weights


def test_methods_of_a_task_have_the_same_train_rows():
  targets = []
  for recipe in ('ce', 'best', 'catboost'):
    config = recipes.get_config('talent', recipe)
    config.data.max_train_rows = 50
    built = experiment.build(config)
    assert built.table.drawn_from > len(built.table.train) == 50
    targets.append(built.table.train.known_target.tolist())
  assert targets[0] == targets[1] == targets[2]
  table = experiment.build(recipes.get_config('talent', 'ce')).table
  assert experiment.build(config, table=table).table.drawn_from == len(
    table.train
  )


def test_a_stage_is_what_the_config_says():
  config = finetune(
    ('rloo', 0.5, {'clip_low': 0.1}),
    ('kl', 0.2, {'estimator': 'k1'}),
    finetune__epochs=7,
    finetune__learning_rate=1e-3,
    rollouts__group_size=5,
    rollouts__temperature=0.5,
    rollouts__reward='absolute',
    rollouts__num_updates=3,
    optimizer__weight_decay=0.5,
  )
  pretrain, stage = build_stages(experiment.resolve(config))
  assert (stage.name, stage.section) == ('rloo_kl', 'finetune')
  assert (stage.epochs, stage.learning_rate) == (7, 1e-3)
  assert stage.weight_decay == pretrain.weight_decay == 0.5
  rloo, kl = stage.objective.terms
  assert (rloo.weight, rloo.loss.advantage, rloo.loss.clip_low) == (
    0.5, 'rloo', 0.1,
  )  # fmt: skip
  assert (kl.weight, kl.loss.in_reward) == (0.2, True)
  rollouts = stage.objective.rollouts
  assert (rollouts.group_size, rollouts.temperature) == (5, 0.5)
  assert (rollouts.reward, rollouts.num_updates) == ('absolute', 3)
  assert pretrain.objective.dropout and not stage.objective.dropout


def test_the_same_objective_twice_makes_two_stages():
  config = finetune(('ce', 1.0, {}))
  built = build_stages(experiment.resolve(config))
  assert [stage.name for stage in built] == ['ce', 'ce_again']


def test_the_official_hyperparameters_are_the_published_ones():
  with open(official.HYPERPARAMETERS, encoding='utf-8') as file:
    (row,) = (r for r in csv.DictReader(file) if r['dataset'] == 'Abalone_reg')
  before = changed(hyperparameters='official', data__name='Abalone_reg')
  config = experiment.resolve(before)
  assert config.tokenizer.base == int(row['base'])
  assert config.tokenizer.digits == int(row['digits'])
  paper = defaults.sized(changed(size='paper'))
  assert config.model.to_dict() == paper.model.to_dict() | {
    'width': int(row['d_model']),
    'num_layers': int(row['num_decoder_layers']),
    'num_heads': int(row['nhead']),
    'feedforward': int(row['dim_feedforward']),
    'encoder_hidden': int(row['hidden_dim']),
    'dropout': float(row['dropout']),
    'compute_dtype': 'float32',
  }
  assert config.pretrain.learning_rate == float(row['learning_rate'])
  assert config.finetune.to_dict() == paper.finetune.to_dict() | {
    'epochs': 100,
    'learning_rate': float(row['learning_rate']),
  }
  # The config that was given stays as it is.
  assert before.model.to_dict() == base.get_config().model.to_dict()


def test_a_size_sets_what_nobody_has_set():
  small = experiment.resolve(changed())
  paper = experiment.resolve(changed(size='paper', model__width=64))
  assert (small.batch_size, small.model.width) == (64, 64)
  assert (paper.batch_size, paper.model.width) == (128, 64)
  for size, config in (('small', small), ('paper', paper)):
    for name, value in defaults.SIZES[size].items():
      if name != 'model.width':
        assert checks.value_of(config, name) == value
        assert type(checks.value_of(config, name)) is type(value)
  assert_refused(lambda: experiment.resolve(changed(size='papr')), "'paper'")


def test_the_estimator_is_of_the_small_size():
  config = experiment.resolve(DecodingRegressor(objective='remax')._config(0))
  for field, value in defaults.SIZES['small'].items():
    assert checks.value_of(config, field) == value, field


def test_an_unknown_official_task_names_the_near_one():
  config = changed(hyperparameters='official', data__name='Abalone_regg')
  assert_refused(lambda: experiment.resolve(config), "'Abalone_reg'")


@pytest.mark.parametrize(
  ('fields', 'part'),
  [
    ({'rollouts__reward': 'square'}, "did you mean 'squared'?"),
    ({'hyperparameters': 'offical'}, 'hyperparameters'),
    ({'batch_size': 0}, 'batch_size=0 must be positive'),
    ({'rollouts__temperature': float('nan')}, 'rollouts.temperature=nan'),
    ({'pretrain__epochs': -1}, 'pretrain.epochs=-1 must not be negative'),
    ({'text__history': -1}, 'text.history=-1 must not be negative'),
    ({'model__dropout': 1.0}, 'model.dropout'),
    ({'model__head': 'histo'}, 'model.head'),
    ({'model__numeric_embedding': 'periodc'}, "did you mean 'periodic'?"),
    ({'trie__beyond': 'sample'}, "did you mean 'samples'?"),
    ({'baseline__name': 'catbost'}, "did you mean 'catboost'?"),
    ({'optimizer__name': 'adafacter'}, "did you mean 'adafactor'?"),
    ({'optimizer__schedule': 'linear'}, 'cosine, constant'),
    ({'optimizer__accumulation': 3}, 'does not divide batch_size=64'),
    ({'optimizer__accumulation': 0}, 'accumulation=0 must be positive'),
    ({'seed': -1}, 'seed=-1'),
    ({'seed': 2**32 - 1, 'num_seeds': 2}, 'below 2^32'),
  ],
)
def test_values_that_no_run_could_use_are_refused(fields, part):
  assert_refused(lambda: experiment.resolve(changed(**fields)), part)


@pytest.mark.parametrize(
  ('parts', 'fields', 'words'),
  [
    ([('remaxx', 1.0, {})], {}, ["did you mean 'remax'?"]),
    ([('kl', 0.1, {'estimator': 'k4'})], {}, ['kl', 'k1, k2, k3']),
    ([('remax', 1.0, {'clip': 0.2})], {}, ["no option 'clip'", 'clip_low']),
    ([('remax', 1.0, {'clip_low': -0.2})], {}, ['clip_low']),
    ([('remax', 1.0, {'clip_low': 'x'})], {}, ["clip_low='x'", 'float']),
    ([('remax', 0.0, {})], {}, ['remax', 'weight 0.0 must be positive']),
    ([('remax', -1, {})], {}, ['weight -1 must be positive']),
    ([('remax', float('nan'), {})], {}, ['weight nan must be positive']),
    ([('remax', float('inf'), {})], {}, ['weight inf must be']),
    ([('remax', '1', {})], {}, ["weight '1' must be positive"]),
    ([('remax', 1.0)], {}, ['is not (name, weight, options)']),
    (['remax'], {}, ["'remax' is not (name, weight, options)"]),
    ([('remax', 1.0, 3)], {}, ['is not (name, weight, options)']),
    ([], {}, ['at least one']),
    ([('ce', 1.0, {}), ('ce', 0.5, {})], {}, ['every objective once']),
    ([('mse', 1.0, {})], {}, ['model.head=decoder', 'pointwise']),
    ([('soft_ce', 1.0, {})], {}, ['tokenizer.name=bins']),
    ([('kl', 1.0, {})], {}, ['kl alone']),
    ([('raft', 1.0, {'subset': -1})], {}, ['subset']),
    ([('raft', 1.0, {'learnable': 'no'})], {}, ['learnable', 'True or False']),
    ([('raft', 1.0, {'learnable': True, 'subset': 9})], {}, ['drop subset']),
    ([('rloo', 1.0, {})], {'group_size': 1}, ['rloo', 'rollouts.group_size']),
    ([('dar', 1.0, {})], {'group_size': 2}, ['dar', '3 or more']),
    ([('grpo', 1.0, {})], {'group_size': 1}, ['grpo', '2 or more']),
    (
      [('real', 1.0, {})],
      {'num_updates': 2},
      ['finetune.objective: rollouts.num_updates must be 1 with real'],
    ),
  ],
)
def test_objectives_that_make_no_sense_are_refused(parts, fields, words):
  fields = {f'rollouts__{name}': value for name, value in fields.items()}
  config = finetune(**fields)
  with config.unlocked():
    config.finetune.objective = tuple(parts)
  assert_refused(
    lambda: build_stages(experiment.resolve(config)),
    'objective',
    *words,
  )


def test_no_dropout_while_samples_are_scored():
  config = changed(finetune__dropout=True)
  assert_refused(
    lambda: build_stages(experiment.resolve(config)), 'finetune.dropout'
  )
  config = finetune(('raft', 1.0, {}), finetune__dropout=True)
  assert build_stages(experiment.resolve(config))[1].objective.dropout


@pytest.mark.parametrize(
  ('beyond', 'max_nodes', 'expected'),
  [
    ('prefix', 73, Enumeration(depth=2)),  # 1 + 8 + 64 nodes
    ('prefix', 72, Enumeration(depth=1)),
    ('prefix', 1, Enumeration(depth=0)),
    ('samples', 73, Enumeration(depth=0, samples=16)),
  ],
)
def test_tries_beyond_the_limit_are_sampled_as_said(
  beyond, max_nodes, expected
):
  config = finetune(
    ('crps', 1.0, {}),
    tokenizer__base=8,
    tokenizer__digits=6,
    trie__max_nodes=max_nodes,
    trie__beyond=beyond,
  )
  _, stage = build_stages(experiment.resolve(config))
  assert stage.objective.enumeration == expected


def test_too_few_samples_for_a_grid_are_refused():
  fields = {
    'tokenizer__base': 8, 'tokenizer__digits': 3, 'trie__max_nodes': 9,
    'trie__beyond': 'samples', 'rollouts__group_size': 2,
  }  # fmt: skip
  assert_refused(
    lambda: build_stages(finetune(('crps', 1.0, {}), **fields)),
    'rollouts.group_size=2', '3 or more',
  )  # fmt: skip
  build_stages(finetune(('remax', 1.0, {}), **fields))


def test_a_trie_beyond_the_limit_is_refused_by_its_size():
  config = finetune(
    ('crps', 1.0, {}),
    tokenizer__base=8,
    tokenizer__digits=6,
    batch_size=100,
    model__width=100,
    model__feedforward=200,
    model__num_layers=2,
  )
  # 1 + 8 + ... + 8^5 nodes; 4 bytes x nodes x rows x layers x (10 D + 2 F).
  assert_refused(
    lambda: build_stages(config),
    'finetune.objective', '37449 nodes', '41.9 GB', 'trie.max_nodes=1024',
    'trie.beyond',
  )  # fmt: skip
  # Trained numbers can't be sampled.
  config.trie.beyond = 'samples'
  config.finetune.objective = (('raft', 1.0, {'learnable': True}),)
  assert_refused(
    lambda: build_stages(experiment.resolve(config)),
    'trains every number',
    '37449',
  )
  # Where nothing enumerates, nothing is refused.
  config.finetune.objective = (('remax', 1.0, {}),)
  assert len(build_stages(config)) == 2


@pytest.mark.parametrize(
  ('stages', 'init_from', 'expected'),
  [
    (('pretrain',), '', ['ce']),
    (('pretrain', 'finetune'), '', ['ce', 'remax']),
    (('pretrain', 'finetune'), 'somewhere', ['remax']),
    (('finetune',), 'somewhere', ['remax']),
    (('pretrain',), 'somewhere', ['ce']),
  ],
)
def test_weights_from_elsewhere_stand_in_for_pretraining(
  stages, init_from, expected
):
  config = changed(stages=stages, init_from=init_from)
  built = build_stages(experiment.resolve(config))
  assert [stage.name for stage in built] == expected


@pytest.mark.parametrize(
  'stages', [('finetune',), ('finetune', 'pretrain'), (), ('sft',)]
)
def test_stages_that_make_no_sense_are_refused(stages):
  config = changed()
  with config.unlocked():
    config.stages = stages
  assert_refused(lambda: build_stages(config), f'stages={stages}')
