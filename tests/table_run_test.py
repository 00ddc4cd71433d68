"""Runs with what tables can have beyond the paper: saved, and read back."""

import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from checks import assert_refused
from tiny import TINY, write_table

from configs import base
from genre2_jax import train
from genre2_jax.data import tables
from genre2_jax.devices import sharding
from genre2_jax.experiment import experiment, networks
from genre2_jax.experiment.stages import build_stages
from genre2_jax.models.marginal import with_weight
from genre2_jax.objectives.grid import crps
from genre2_jax.runs import finished
from genre2_jax.training import evaluation

pytestmark = pytest.mark.usefixtures('quick_compiles')

FIELDS = {
  **TINY,
  'report': False,
  'model.head': 'trie',
  'tokenizer.name': 'adaptive',
  'model.category_embedding': 'one_hot',
  'model.least_category_rows': 5,
  'model.rank_features': True,
  'model.missing_features': True,
  'model.feature_scale': True,
  'model.neighbours': 4,
  'model.candidates': 20,
  'model.marginal': True,
  'pretrain.objective': (('crps', 1.0, {}),),
  'pretrain.epochs': 1,
  'pretrain.learning_rate': 1e-3,
  'stages': ('pretrain',),
}


@pytest.fixture(scope='module')
def data_file(tmp_path_factory):
  return write_table(tmp_path_factory.mktemp('data') / 'houses.csv')


@pytest.fixture(scope='module')
def blocks_read():
  """How many rows had each block that the network read to predict."""
  return []


@pytest.fixture(scope='module')
def run(data_file, blocks_read):
  """An epoch of CRPS on the whole trie, of what the columns hardly tell."""
  config = base.get_config()
  data = {'data.path': str(data_file), 'data.target': 'rooms'}
  config.update_from_flattened_dict(FIELDS | data)
  workdir = data_file.parent / 'run'
  begin = evaluation.Predictor.begin

  def counted(predictor, params, inputs):
    blocks_read.append(len(jax.tree.leaves(inputs)[0]))
    return begin(predictor, params, inputs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation.Predictor, 'begin', counted)
    return train.train_and_evaluate(config, workdir, verbose=0)


def test_validation_rows_are_read_once_to_weigh_and_to_predict(
  run, data_file, blocks_read
):
  table = tables.read_file(data_file, 'rooms')
  size = blocks_read[0]
  once = [-(-len(rows) // size) for rows in (table.val, table.test)]
  assert len(blocks_read) == sum(once)


def test_halves_predict_what_the_whole_does(run, data_file):
  """Another weight finishes the same halves."""
  opened = finished.open_run(run)
  rows = tables.read_file(data_file, 'rooms').val
  policy = opened.model.network
  params = jax.tree.map(lambda x: x[0], opened.weights()['policy'])
  inputs = opened.model.inputs(rows)
  first, second = policy.halves
  zero = with_weight(params, np.float32(0))
  half = first(zero, inputs)
  np.testing.assert_array_equal(
    second(params, half), policy.encode(params, inputs)
  )
  assert np.abs(second(params, half) - second(zero, half)).max() > 1e-3


def test_a_run_read_back_predicts_what_it_wrote(run, data_file):
  written = pd.read_csv(run / 'predictions.csv')
  opened = finished.open_run(run)
  rows = tables.read_file(data_file, 'rooms').test
  predicted = opened.predict(rows)
  values, _ = opened.model.codec.grid()
  mean = np.exp(predicted['log_p'][0].astype(float)) @ values
  np.testing.assert_allclose(
    opened.model.scaler.restore(mean), written['exact_mean'], rtol=1e-4
  )


def test_the_numbers_are_those_of_the_training_targets(run, data_file):
  saved = json.loads((run / 'model.json').read_text())
  table = tables.read_file(data_file, 'rooms')
  z = finished.open_run(run).model.scaler.standardize(table.train.target)
  assert len(saved['numbers']) == 4**2
  assert len(np.unique(z)) == 6
  assert np.isin(z, saved['numbers']).all()


def test_the_scale_of_features_is_saved_and_has_a_rate_of_its_own(run):
  opened = finished.open_run(run)
  found = {
    jax.tree_util.keystr(path[-1:], simple=True): x
    for path, x in jax.tree_util.tree_leaves_with_path(
      opened.weights()['policy']['network']['network']
    )
  }
  # Three numbers, three labels and the missing one; ranks; two with gaps.
  assert found['feature_scale'].shape == (1, 3 + 4 + 3 + 2)
  (stage,) = opened.experiment.stages
  assert stage.fast_parameters == ('feature_scale',)
  assert not build_stages(experiment.resolve(base.get_config()))[
    0
  ].fast_parameters


def test_the_training_rows_are_saved_once_and_read_back(run, data_file):
  opened = finished.open_run(run)
  table = tables.read_file(data_file, 'rooms')
  policy = opened.weights()['policy']
  memory = policy['network']['memory']
  inputs = opened.model.inputs(table.train)
  for name, x in memory['inputs'].items():
    np.testing.assert_array_equal(x[0, : len(table.train)], inputs[name])
  z = opened.model.scaler.standardize(table.train.target)
  places = opened.model.codec.index(z)
  kept, padded = np.split(memory['places'][0], [len(places)])
  np.testing.assert_array_equal(kept, places)
  assert (padded == -1).all()
  assert (run / 'weights' / 'frozen').is_dir()
  counted = json.loads((run / 'run.json').read_text())['parameters']
  given = (memory, policy['marginal']['log_p'])
  whole, given = (
    sum(x.size for x in jax.tree.leaves(tree)) for tree in (policy, given)
  )
  assert counted == whole - given


def test_the_marginal_has_the_share_that_validation_rows_choose(run, data_file):
  opened = finished.open_run(run)
  table = tables.read_file(data_file, 'rooms')
  policy = opened.weights()['policy']
  values, _ = opened.model.codec.grid()
  z = opened.model.scaler.standardize(table.train.target)
  shares = np.bincount(opened.model.codec.index(z), minlength=len(values))
  marginal = policy['marginal']
  np.testing.assert_allclose(
    np.exp(marginal['log_p'][0]), shares / len(z), rtol=1e-6
  )
  # Another share loses.
  weight = float(marginal['weight'][0])
  assert 0 < weight < 1
  target = opened.model.scaler.standardize(table.val.target)

  def loss(weight):
    given = {'policy': with_weight(policy, np.array([weight], np.float32))}
    opened.__dict__['_loaded'] = sharding.mesh_at_hand(), given
    log_p = opened.predict(table.val)['log_p'][0]
    return float(np.mean(crps(log_p, values.astype(np.float32), target)))

  losses = [loss(min(max(weight + d, 0), 1)) for d in (-0.05, 0, 0.05)]
  assert np.argmin(losses) == 1, losses


def test_other_training_rows_are_refused(run, data_file, tmp_path):
  """A row would be told that it is another, and find itself."""
  other = write_table(tmp_path / 'other.csv', num_rows=90)
  config = base.get_config()
  config.update_from_flattened_dict(
    {
      **FIELDS,
      'data.path': str(other),
      'data.target': 'rooms',
      'init_from': str(run),
    }
  )
  assert_refused(
    lambda: train.train_and_evaluate(config, tmp_path / 'run', verbose=0),
    'looks up training rows',
  )


@pytest.mark.slow
@pytest.mark.parametrize('head', ['trie', 'decoder'])
def test_rewards_train_a_mixture_from_a_run_like_this(
  head, data_file, tmp_path
):
  """Samples, the dense expert and a reference, after cross-entropy."""
  config = base.get_config()
  config.update_from_flattened_dict(
    {
      **FIELDS,
      'data.path': str(data_file),
      'data.target': 'rooms',
      'model.head': head,
      'model.dropout': 0.0,
      'stages': ('pretrain', 'finetune'),
      'pretrain.objective': (('ce', 1.0, {}),),
      'pretrain.epochs': 4,
      'pretrain.learning_rate': 1e-2,
      'finetune.epochs': 6,
      'finetune.objective': (
        ('remax', 1.0, {}),
        ('expert', 0.05, {}),
        ('kl', 0.01, {}),
      ),
    }
  )
  workdir = train.train_and_evaluate(config, tmp_path / 'run', verbose=0)
  log = [
    record['val/reward']
    for record in map(json.loads, (workdir / 'metrics.jsonl').open())
    if 'val/reward' in record
  ]
  assert len(log) == 7 and max(log[1:]) > log[0]


def test_a_run_that_measured_its_dtype_goes_on_with_it(
  data_file, tmp_path, monkeypatch
):
  """A run whose weights are lost trains again, and to the same bits."""
  fields = TINY | {
    'report': False,
    'data.path': str(data_file),
    'data.target': 'price',
    'model.head': 'histogram',
    'model.compute_dtype': 'auto',
    'tokenizer.name': 'bins',
    'pretrain.epochs': 2,
    'stages': ('pretrain',),
  }
  config = base.get_config()
  config.update_from_flattened_dict(fields)
  written = []
  for faster in ('bfloat16', 'float32'):
    monkeypatch.setattr(networks, 'faster_dtype', lambda _, x=faster: x)
    train.train_and_evaluate(config, tmp_path, verbose=0)
    assert finished.open_run(tmp_path).experiment.compute_dtype == 'bfloat16'
    written.append((tmp_path / 'predictions.csv').read_bytes())
    for name in ('weights', 'checkpoints'):
      shutil.rmtree(tmp_path / name)
    (tmp_path / 'run.json').unlink()
  assert written[0] == written[1]
  config.model.compute_dtype = 'float32'
  train.train_and_evaluate(config, tmp_path / 'exact', verbose=0)
  exact = (tmp_path / 'exact' / 'predictions.csv').read_bytes()
  assert exact != written[0]
