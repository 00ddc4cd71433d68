"""Runs on texts, from recipe to predictions."""

import csv
import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny_bert
import tiny_text
from checks import (
  assert_refused,
  assert_same_bits,
  assert_takes_a_step,
  read_log,
)

from genre2_jax import train
from genre2_jax.data import subwords
from genre2_jax.data.texts import TextRows
from genre2_jax.errors import InterruptedRunError
from genre2_jax.experiment import experiment, networks, recipes, tasks
from genre2_jax.experiment.stages import build_stages
from genre2_jax.models import pretrained
from genre2_jax.models.gemma.head import HEADS
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import PRESETS
from genre2_jax.policy import Pointwise, trie
from genre2_jax.runs import export, finished, prediction, weights
from genre2_jax.training import train_state

AutoTokenizer = pytest.importorskip('transformers').AutoTokenizer
pytestmark = pytest.mark.usefixtures('quick_compiles')

RECIPES = [
  *(('stsb', name) for name in recipes.STSB.recipes),
  ('movielens', 'raft'),
  ('amazon', 'raft'),
  ('synthetic', 'raft'),
  *(('code_metrics', name) for name in recipes.CODE_METRICS.recipes),
]


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """A folder with reviews.jsonl, tokenizer and a checkpoint to begin with."""
  folder = tiny_text.write_home(tmp_path_factory.mktemp('texts'))
  tiny_text.write_tokenizer(folder / 'pretrained')
  tiny_bert.write_encoder(folder / 'encoder')
  rows = [row | {'score': row['stars']} for row in tiny_text.reviews(60)]
  tiny_text.write_json_lines(folder / 'pairs.jsonl', rows)
  return folder


@pytest.fixture(scope='module')
def make(home):
  """`(family, name, {field: value}) -> config`: tiny, on reviews."""

  def make(family, name, fields=()):
    config = recipes.get_config(family, name)
    own = tiny_text.tiny_fields(home)
    if name.startswith('encoder_'):
      own |= from_checkpoint(home / 'encoder')
      own |= {
        'text.prompt': '{review}', 'text.second': '{stars} {review}',
        'text.target': 'score', 'text.path': str(home / 'pairs.jsonl'),
      }  # fmt: skip
    config.update_from_flattened_dict(own | dict(fields))
    return config

  return make


@pytest.fixture(scope='module')
def checkpoint(home, make):
  """The folder of a small Gemma-2 with random weights."""
  model = build(experiment.resolve(make('stsb', 'ce')))[0]
  params = model.network.init(jax.random.key(5), model.example_inputs())
  sizes = {k: v for k, v in tiny_text.SIZES.items() if v} | {'query_scale': 8}
  config = PRESETS['gemma2_2b'].__class__(**sizes)
  pretrained.save(home / 'pretrained', nn.unbox(params), config)
  return home / 'pretrained'


def from_checkpoint(checkpoint):
  nothing = {f'language_model.sizes.{name}': 0 for name in tiny_text.SIZES}
  return nothing | {
    'language_model.pretrained': str(checkpoint),
    'language_model.tokenizer': '',
  }


def build(config):
  texts, table = networks.with_numbers(config, tasks.read_table(config))
  return networks.build_model(config, table, texts), table


def results(workdir):
  with open(workdir / 'results.csv', encoding='utf-8', newline='') as file:
    return {
      (row['stage'], row['estimator'], row['metric']): float(row['value'])
      for row in csv.DictReader(file)
      if row['split'] == 'test'
    }


@pytest.mark.parametrize('recipe', RECIPES, ids='-'.join)
def test_a_recipe_takes_a_step(make, recipe):
  """Its last stage's, traced: every shape fits, every metric is there."""
  fields = {}
  if recipe == ('stsb', 'zero_shot'):
    fields['language_model.pretrained'] = 'somewhere'
    config = make(*recipe, fields=fields)
    assert build_stages(config) == []
    return
  config = experiment.resolve(make(*recipe))
  model = assert_steps(config)
  is_head = recipe[-1] in {*HEADS, 'encoder_mse'}
  assert isinstance(model.network, Pointwise) == is_head


@pytest.mark.parametrize(
  'fields',
  [
    {'tokenizer.name': 'decimal'},
    {'tokenizer.strings': '8..12', 'language_model.new_tokens': 'first'},
    {'tokenizer.name': 'normalized', 'tokenizer.base': 10,
     'tokenizer.digits': 2, 'language_model.lora.rank': 2},
  ],
)  # fmt: skip
def test_other_numbers_take_a_step(make, fields):
  assert_steps(experiment.resolve(make('stsb', 'remax', fields=fields)))


def test_the_field_says_in_what_blocks_prompts_are_read(make):
  """Prompts of one block and fewer are read whole."""
  for block, is_whole in ((0, True), (8, False), (512, True)):
    fields = {'language_model.attention_block': block}
    model, table = build(experiment.resolve(make('stsb', 'raft', fields)))
    params = jax.eval_shape(
      lambda model=model: model.network.init(
        jax.random.key(0), model.example_inputs()
      )
    )
    inputs = model.inputs(table.train)
    width = inputs['tokens'].shape[1]
    program = str(jax.make_jaxpr(model.network.encode)(params, inputs))
    assert width > 8
    assert (f',{width},{width}]' in program) == is_whole


def assert_steps(config):
  """Its last stage takes a step; returns the model."""
  model, table = build(config)
  # Some begin with a checkpoint, which has nothing to do with shapes.
  config.language_model.pretrained = 'somewhere'
  stage = build_stages(config)[-1]
  assert_takes_a_step(stage, model, model.examples(table.train))
  return model


def test_raft_begins_with_a_checkpoint_and_learns(
  make, checkpoint, home, tmp_path
):
  """Straight from pretrained weights, to predictions for new rows."""
  fields = from_checkpoint(checkpoint) | {
    'finetune.epochs': 12, 'report': False, 'tokenizer.strings': '1..4',
    'text.buckets': 1,
  }  # fmt: skip
  config = make('stsb', 'raft', fields=fields)
  workdir = train.train_and_evaluate(config, tmp_path / 'run')
  assert json.loads((workdir / 'run.json').read_text())['stages'] == ['raft']
  losses = [record['val/loss'] for record in read_log(workdir)]
  assert min(losses) < losses[0] / 2
  found = results(workdir)
  assert {'rail', 'rail_normalized', 'exact_mean'} <= {key[1] for key in found}
  assert np.isfinite(list(found.values())).all()
  # New rows, in another order and longer than those of the run.
  rows = tiny_text.reviews(60)[::-1]
  rows[0]['review'] += ' case' * 20
  path = tiny_text.write_json_lines(tmp_path / 'new.jsonl', rows)
  prediction.predict_file(workdir, path, tmp_path / 'out.csv')
  with open(tmp_path / 'out.csv', encoding='utf-8', newline='') as file:
    got = [float(row['exact_mean']) for row in csv.DictReader(file)]
  assert len(got) == 60 and all(1 <= value <= 4 for value in got)
  _, table = build(experiment.resolve(config))
  by_text = dict(
    zip([f'Review: {row["review"]} Stars: ' for row in rows], got, strict=True)
  )
  with open(workdir / 'predictions.csv', encoding='utf-8', newline='') as file:
    test = [float(row['exact_mean']) for row in csv.DictReader(file)]
  seen = [(by_text.get(t), p) for t, p in zip(table.test.text, test)]  # noqa: B905
  same = [(a, b) for a, b in seen if a is not None]
  assert len(same) >= len(test) - 1
  np.testing.assert_allclose(*np.array(same).T, atol=1e-4)


@pytest.mark.slow
def test_zero_shot_is_the_checkpoint_as_it_is(make, checkpoint, tmp_path):
  fields = from_checkpoint(checkpoint) | {'report': True}
  config = make('stsb', 'zero_shot', fields=fields)
  workdir = train.train_and_evaluate(config, tmp_path / 'run')
  run = json.loads((workdir / 'run.json').read_text())
  assert run['stages'] == ['zero_shot']
  assert not (workdir / 'metrics.jsonl').exists()
  assert (workdir / 'report.html').exists()
  found = results(workdir)
  assert {('zero_shot', e, 'rmse') for e in ('greedy', 'mean', 'rail')} <= set(
    found
  )
  # What RAIL says of the checkpoint, by hand.
  built = experiment.build(config)
  model, table = built.model, built.table
  params = weights.pretrained(built, (0,), built.mesh)
  params = jax.tree.map(lambda x: x[0], params)
  rows = model.examples(table.test)
  log_p = trie.log_probs(
    model.network,
    params,
    model.network.encode(params, rows.inputs),
    normalized=False,
  )
  rail = np.exp(log_p) @ model.codec.values()
  error = np.sqrt(np.mean((rail - table.test.target) ** 2))
  np.testing.assert_allclose(
    found['zero_shot', 'rail', 'rmse_unit'], error, rtol=1e-4
  )
  assert np.all(np.exp(log_p).sum(1) < 0.9)
  # Predictions load the checkpoint again.
  path = tiny_text.write_json_lines(
    tmp_path / 'new.jsonl', tiny_text.reviews(3)
  )
  prediction.predict_file(workdir, path, tmp_path / 'out.csv')
  assert len((tmp_path / 'out.csv').read_text().splitlines()) == 4


@pytest.mark.slow
def test_code_is_learnt_in_quantiles_and_judged_in_its_unit(make, tmp_path):
  """T5Gemma: a frozen encoder, cross-entropy, ReMax and the expert."""
  config = make(
    'code_metrics', 'genre2', fields={'num_seeds': 2, 'text.buckets': 1}
  )
  workdir = train.train_and_evaluate(config, tmp_path / 'run')
  stages = json.loads((workdir / 'run.json').read_text())['stages']
  assert stages == ['ce', 'remax_expert']
  found = results(workdir)
  assert np.isfinite(list(found.values())).all()
  with np.load(workdir / 'evaluation/ce_test.npz') as arrays:
    assert (arrays['target_z'] >= 0).all() and (arrays['target_z'] <= 1).all()
    greedy = arrays['greedy_z'][0].astype(np.float64)
    model, table = build(experiment.resolve(config))
    error = model.scaler.restore(greedy) - table.test.target
  with open(workdir / 'results.csv', encoding='utf-8', newline='') as file:
    rmse = [
      float(row['value'])
      for row in csv.DictReader(file)
      if (row['seed'], row['stage'], row['split']) == ('0', 'ce', 'test')
      and (row['estimator'], row['metric']) == ('greedy', 'rmse_unit')
    ]
  np.testing.assert_allclose(rmse, [np.sqrt(np.mean(error**2))], rtol=1e-6)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'language_model.name': ''}, ['language_model.name is empty']),
    ({'text.prompt': ''}, ['text.prompt is empty']),
    ({'text.max_rows': (1, 2)}, ['text.max_rows']),
    ({'language_model.tokenizer': ''}, ['need a tokenizer']),
    ({'language_model.sizes.vocab_size': 64}, ['107 subwords', 'embeds 64']),
    ({'language_model.sizes.num_kv_heads': 3}, ['num_kv_heads']),
    ({'language_model.pretrained': '/none'}, ['sizes']),
    ({'tokenizer.strings': '1..12'}, ["'10' is '1' + '0'"]),
    ({'tokenizer.name': 'p10'}, ['no single subword', 'decimal']),
    ({'data.transform': 'quantile'}, ['own unit', 'quantile']),
    ({'baseline.name': 'linear'}, ['reads tables']),
    ({'language_model.head': 'mlp'}, ['mse needs a head']),
    ({'stages': ('finetune',)}, ['no weights to start from']),
    ({'stages': ()}, ['no weights to start from']),
    ({'text.max_length': 9}, ['of 60 prompts', 'text.truncate']),
    ({'language_model.name': 't5gemma', 'language_model.freeze_embedding':
      True, 'language_model.vocabulary': 'numbers'}, ['freeze_embedding']),
    ({'language_model.name': 't5gemma', 'language_model.vocabulary': 'all'},
     ['vocabulary', 'is for gemma:']),
  ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(make, fields, words):
  def start():
    config = experiment.resolve(make('stsb', 'ce', fields=fields))
    build_stages(config)
    build(config)

  assert_refused(start, *words)


def test_targets_out_of_reach_are_counted(make):
  fields = {'tokenizer.strings': '2..4'}
  config = experiment.resolve(make('stsb', 'ce', fields=fields))
  model, table = build(config)
  beyond = int(np.isin(table.train.target, (1, 5)).sum())
  said = tasks.describe(table, model)
  assert f'{beyond} of 38 train targets lie outside of 2 .. 4' in said
  fields = {'tokenizer.strings': '1..5'}
  model, table = build(experiment.resolve(make('stsb', 'ce', fields=fields)))
  assert 'outside' not in tasks.describe(table, model)


def test_seeds_share_the_checkpoint_and_draw_the_rest(make, checkpoint):
  fields = from_checkpoint(checkpoint) | {
    'num_seeds': 2, 'language_model.lora.rank': 2, 'tokenizer.strings': '8..12',
    'language_model.new_tokens': 'first',
  }  # fmt: skip
  built = experiment.build(make('stsb', 'ce', fields=fields))
  model = built.model
  params = weights.pretrained(built, (0, 1), built.mesh)
  kernel = params['backbone']['layers']['attention']['query']
  assert_same_bits(kernel['kernel'][0], kernel['kernel'][1])
  assert (kernel['lora_a'][0] != kernel['lora_a'][1]).any()
  new = np.asarray(params['new_embedding'])
  ones = np.asarray(params['backbone']['embedding'])[
    :, model.features.encode(['1'])[0][1]
  ]
  np.testing.assert_array_equal(new[:, 0], ones)


@pytest.mark.slow
def test_low_rank_updates_are_all_that_a_run_stores(make, checkpoint, tmp_path):
  """The rest stays in its folder: stopped, predicted from, and changed."""
  folder = tmp_path / 'pretrained'
  shutil.copytree(checkpoint, folder)
  fields = from_checkpoint(folder) | {
    'language_model.lora.rank': 2, 'tokenizer.strings': '1..4',
    'pretrain.epochs': 1, 'checkpoint.every_seconds': 0.0, 'text.buckets': 1,
  }  # fmt: skip
  config = make('stsb', 'ce', fields=fields)
  at_once = train.train_and_evaluate(config, tmp_path / 'a', verbose=0)
  asked = iter([False] * 3)

  class Stop:
    def __bool__(self):
      return next(asked, True)

  with pytest.raises(InterruptedRunError):
    train.train_and_evaluate(config, tmp_path / 'b', Stop(), verbose=0)
  resumed = train.train_and_evaluate(config, tmp_path / 'b', verbose=0)
  for name in ('results.csv', 'predictions.csv'):
    assert (resumed / name).read_bytes() == (at_once / name).read_bytes()
  for workdir in (at_once, resumed):
    assert (workdir / 'weights' / 'frozen.json').exists()
    stored = [path for path in workdir.rglob('*') if path.is_file()]
    names = [path.as_posix() for path in stored]
    assert not any('embedding' in name for name in names)
    assert not (workdir / 'weights' / 'frozen').exists()
  rows = TextRows(text=np.array(['Review: this case is good Stars: '], object),
                  target=None)  # fmt: skip
  run = finished.open_run(resumed)
  value = run.predict(rows)['log_p']
  again = finished.FinishedRun.of_files(run.files()).predict(rows)
  assert_same_bits(value, again['log_p'])
  # The kernels are the folder's: with others it is no longer the same run.
  sizes = pretrained.read_config(folder)
  params = jax.tree.map(lambda x: x[0] + 1e-3, run.weights()['policy'])
  pretrained.save(folder, params, sizes)
  assert_refused(
    lambda: finished.open_run(resumed).weights(), str(folder), 'has changed'
  )


def test_a_frozen_embedding_is_all_that_stays(make, checkpoint):
  fields = from_checkpoint(checkpoint) | {
    'language_model.freeze_embedding': True
  }
  for name in ('ce', 'mlp'):
    network = build(experiment.resolve(make('stsb', name, fields=fields)))[0]
    inputs = network.example_inputs()
    params = jax.eval_shape(network.network.init, jax.random.key(0), inputs)
    frozen = train_state.split({'policy': nn.unbox(params)},
                               network.network.frozen)[1]  # fmt: skip
    (path, leaf), *others = jax.tree_util.tree_leaves_with_path(frozen)
    assert [key.key for key in path] == ['backbone', 'embedding']
    assert leaf.shape == (128, 16) and not others


def test_a_subword_without_a_row_is_refused_in_texts_alone(
  make, home, tmp_path
):
  """Google's tokenizers know the place of an image, the embedding does not."""
  tokenizer = subwords.load_tokenizer(str(home / 'tokenizer'))
  size = len(tokenizer)
  folder = tmp_path / 'tokenizer'
  shutil.copytree(home / 'tokenizer', folder)
  larger = AutoTokenizer.from_pretrained(folder)
  larger.add_tokens(['<image_soft_token>'], special_tokens=True)
  larger.save_pretrained(folder)
  fields = {
    'language_model.tokenizer': str(folder),
    'language_model.sizes.vocab_size': size,
  }
  config = make('stsb', 'ce', fields=fields)
  model, table = build(experiment.resolve(config))
  assert model.features.embedded == size
  bad = dataclasses.replace(
    table.test, text=np.array(['fine', 'an <image_soft_token>'], object),
    target=np.zeros(2),
  )  # fmt: skip
  assert_refused(
    lambda: model.inputs(bad), "'<image_soft_token>'", '1 row: 2', 'embed'
  )
  # A subword of texts without a row is another model's.
  fields['language_model.sizes.vocab_size'] = size - 1
  config = make('stsb', 'ce', fields=fields)
  assert_refused(
    lambda: build(experiment.resolve(config)), f'{size + 1} subwords', 'embeds'
  )


@pytest.mark.slow
def test_an_exported_run_is_a_checkpoint_with_its_tokenizer(
  make, checkpoint, home, tmp_path
):
  """Low-rank updates are in the weights, new tokens in both vocabularies."""
  fields = from_checkpoint(checkpoint) | {
    'num_seeds': 2, 'language_model.lora.rank': 2, 'tokenizer.strings': '8..12',
    'language_model.new_tokens': 'first',
  }  # fmt: skip
  built = experiment.build(make('stsb', 'ce', fields=fields))
  model = built.model
  run = finished.FinishedRun(
    workdir=tmp_path,
    experiment=built,
    stages=(weights.ZERO_SHOT,),
    seeds=(3, 4),
    target_name='stars',
  )
  folders = export.export_run(run, tmp_path / 'out')
  assert [folder.name for folder in folders] == ['seed_3', 'seed_4']
  config = pretrained.read_config(folders[1])
  assert config.vocab_size == 128 + 3  # '10', '11', '12'
  exported = subwords.load_tokenizer(str(folders[1]))
  prompt = 'Review: this phone is good Stars: '
  ids = exported(prompt + '12', add_special_tokens=False)['input_ids']
  assert ids[-1] == 130
  original = subwords.load_tokenizer(str(home / 'tokenizer'))
  assert ids[:-1] == original(prompt, add_special_tokens=False)['input_ids']
  # The same predictions, now of a model whose vocabulary has all tokens.
  plain = gemma_policy(
    model.codec.tokenizer,
    config,
    number_tokens=[*original.convert_tokens_to_ids(['8', '9']), 128, 129, 130],
    compute_dtype='float32',
  )
  inputs = model.example_inputs()
  abstract = nn.unbox(jax.eval_shape(plain.init, jax.random.key(0), inputs))
  loaded = pretrained.load(folders[1], abstract)
  own = run.weights(weights.ZERO_SHOT)
  own = jax.tree.map(lambda x: x[1], own['policy'])
  ours, theirs = (
    trie.log_probs(p, params, p.encode(params, inputs))
    for p, params in ((model.network, own), (plain, loaded))
  )
  np.testing.assert_allclose(ours, theirs, atol=1e-5)
  assert_refused(lambda: export.export_run(run, tmp_path / 'out'), 'new folder')
  run.experiment.fields['language_model']['head'] = 'mlp'
  assert_refused(lambda: export.export_run(run, tmp_path / 'x'), 'gemma mlp')
