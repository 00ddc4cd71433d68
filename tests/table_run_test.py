"""Runs with what tables can have beyond the paper: saved, and read back."""

import json

import jax
import numpy as np
import pandas as pd
import pytest
from checks import assert_refused
from tiny import TINY, write_table

from configs import base
from genre2_jax import train
from genre2_jax.data import tables
from genre2_jax.runs import finished

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
  'pretrain.objective': (('crps', 1.0, {}),),
  'pretrain.epochs': 3,
  'finetune.epochs': 1,
}


@pytest.fixture(autouse=True, scope='module')
def quick_compiles():
  """Compiling is what takes time here, not running."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='module')
def data_file(tmp_path_factory):
  return write_table(tmp_path_factory.mktemp('data') / 'houses.csv')


@pytest.fixture(scope='module')
def run(data_file):
  """CRPS on the whole trie, then ReMax with the dense expert."""
  config = base.get_config()
  fields = {
    **FIELDS,
    'data.path': str(data_file),
    'data.target': 'price',
    'finetune.objective': (('remax', 1.0, {}), ('expert', 0.05, {})),
  }
  config.update_from_flattened_dict(fields)
  workdir = data_file.parent / 'run'
  return train.train_and_evaluate(config, workdir, verbose=0)


def test_a_run_read_back_predicts_what_it_wrote(run, data_file):
  written = pd.read_csv(run / 'predictions.csv')
  opened = finished.open_run(run)
  rows = tables.read_file(data_file, 'price').test
  predicted = opened.predict(rows)
  values, _ = opened.model.codec.grid()
  mean = np.exp(predicted['log_p'][0].astype(float)) @ values
  np.testing.assert_allclose(
    opened.model.scaler.restore(mean), written['exact_mean'], rtol=1e-4
  )


def test_the_numbers_are_those_of_the_training_targets(run, data_file):
  saved = json.loads((run / 'model.json').read_text())
  table = tables.read_file(data_file, 'price')
  z = finished.open_run(run).model.scaler.standardize(table.train.target)
  assert len(saved['numbers']) == 4**2
  assert np.isin([z.min(), z.max()], saved['numbers']).all()


def test_the_scale_of_features_is_trained_and_saved(run):
  params = finished.open_run(run).weights()['policy']
  (scale,) = [
    x
    for path, x in jax.tree_util.tree_leaves_with_path(params)
    if 'feature_scale' in jax.tree_util.keystr(path)
  ]
  # Three numbers, three labels and the missing one; ranks; two with gaps.
  assert scale.shape == (1, 3 + 4 + 3 + 2)
  assert np.abs(np.asarray(scale) - 1).min() > 0


def test_the_training_rows_are_saved_once_and_read_back(run, data_file):
  opened = finished.open_run(run)
  table = tables.read_file(data_file, 'price')
  memory = opened.weights()['policy']['memory']
  inputs = opened.model.inputs(table.train)
  for name, x in memory['inputs'].items():
    np.testing.assert_array_equal(x[0], inputs[name])
  z = opened.model.scaler.standardize(table.train.target)
  places = opened.model.codec.index(z)
  np.testing.assert_array_equal(memory['places'][0], places)
  assert (run / 'weights' / 'frozen').is_dir()
  counted = json.loads((run / 'run.json').read_text())['parameters']
  whole = sum(x.size for x in jax.tree.leaves(opened.weights()['policy']))
  assert counted == whole - sum(x.size for x in jax.tree.leaves(memory))


def test_other_training_rows_are_refused(run, data_file, tmp_path):
  """A row would be told that it is another, and find itself."""
  other = write_table(tmp_path / 'other.csv', num_rows=90)
  config = base.get_config()
  config.update_from_flattened_dict(
    {
      **FIELDS,
      'data.path': str(other),
      'data.target': 'price',
      'init_from': str(run),
    }
  )
  assert_refused(
    lambda: train.train_and_evaluate(config, tmp_path / 'run', verbose=0),
    'looks up training rows',
  )
