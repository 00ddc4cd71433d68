"""Runs that start from trees: kept with the run, and asked for new rows."""

import json
import pickle

import jax
import numpy as np
import pandas as pd
import pytest
from checks import assert_refused, read_log
from tiny import TINY, write_table

from configs import base
from genre2_jax import DecodingRegressor, train
from genre2_jax.baselines import points, priors
from genre2_jax.baselines.priors import Prior
from genre2_jax.data import tables
from genre2_jax.experiment import experiment, networks
from genre2_jax.objectives.grid import crps
from genre2_jax.runs import finished

pytest.importorskip('catboost')

FIELDS = {
  **TINY,
  'report': False,
  'model.head': 'trie',
  'model.prior': 'catboost_residuals',
  'tokenizer.name': 'adaptive',
  'pretrain.objective': (('crps', 1.0, {}),),
  'pretrain.epochs': 4,
  'pretrain.learning_rate': 1e-2,
  'stages': ('pretrain',),
}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope='module')
def quick():
  """Compiling and trees are what takes time here, not running."""
  trees, points.MAX_TREES = points.MAX_TREES, 4
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
  points.MAX_TREES = trees


@pytest.fixture(scope='module')
def data_file(tmp_path_factory):
  return write_table(tmp_path_factory.mktemp('data') / 'houses.csv')


@pytest.fixture(scope='module')
def table(data_file):
  return tables.read_file(data_file, 'price')


def config_of(data_file, **fields):
  config = base.get_config()
  data = {'data.path': str(data_file), 'data.target': 'price'}
  config.update_from_flattened_dict(FIELDS | data | fields)
  return config


@pytest.fixture(scope='module')
def run(data_file):
  """CRPS from a prior of few trees."""
  workdir = data_file.parent / 'run'
  return train.train_and_evaluate(config_of(data_file), workdir, verbose=0)


def log_p_of(workdir, rows):
  opened = finished.open_run(workdir)
  return opened.predict(rows)['log_p'][0]


def test_the_first_validation_is_of_the_trees(run, table):
  model = finished.open_run(run).model
  log_p = model.prior.log_p(table.val)
  z = model.scaler.standardize(table.val.target)
  values, _ = model.codec.grid()
  score = crps(log_p, values.astype(np.float32), z.astype(np.float32))
  first = read_log(run)[0]
  assert (first['stage'], first['epoch']) == ('crps', 0)
  np.testing.assert_allclose(first['val/crps'], np.mean(score), rtol=1e-4)


def test_the_network_goes_on_from_them(run, table):
  prior = finished.open_run(run).model.prior.log_p(table.test)
  assert np.abs(log_p_of(run, table.test) - prior).max() > 0.1
  losses = [r['val/loss'] for r in read_log(run) if r['stage'] == 'crps']
  assert min(losses[1:]) < losses[0]


def test_training_rows_start_out_of_fold(run, table):
  model = finished.open_run(run).model
  train_log_p = model.training_examples(table.train).inputs['prior']
  np.testing.assert_array_equal(train_log_p, model.prior.train_log_p())
  seen = model.inputs(table.train)['prior']
  assert np.abs(train_log_p - seen).max(axis=1).min() > 0
  found = model.examples(table.val).inputs['prior']
  np.testing.assert_array_equal(found, model.prior.log_p(table.val))


def test_a_run_read_back_predicts_what_it_wrote(run, table):
  written = pd.read_csv(run / 'predictions.csv')
  opened = finished.open_run(run)
  values, _ = opened.model.codec.grid()
  whole = log_p_of(run, table.test)
  mean = np.exp(whole.astype(float)) @ values
  np.testing.assert_allclose(
    opened.model.scaler.restore(mean), written['exact_mean'], rtol=1e-4
  )
  few = log_p_of(run, table.test.part(slice(3)))
  np.testing.assert_allclose(few, whole[:3], atol=1e-5)


def test_blocks_of_rows_have_their_own_priors(run, table, monkeypatch):
  whole = log_p_of(run, table.test)
  monkeypatch.setattr(finished, '_MAX_ROWS', 1)
  opened = finished.open_run(run)
  assert len(list(opened.predict_blocks(table.test))) > 1
  np.testing.assert_array_equal(log_p_of(run, table.test), whole)


def test_the_trees_go_where_the_run_goes(run, table):
  opened = finished.open_run(run)
  assert {'prior/prior.json', 'prior/trees'} <= set(opened.files())
  copy = pickle.loads(pickle.dumps(opened))
  np.testing.assert_array_equal(
    copy.predict(table.test)['log_p'][0], log_p_of(run, table.test)
  )


def test_an_estimator_reads_the_run(run, data_file):
  model = DecodingRegressor.load(run)
  frame = pd.read_csv(data_file)
  found = model.predict(frame)
  assert np.corrcoef(found, frame['price'])[0, 1] > 0.5


def test_going_on_fits_no_trees_again(run, data_file, monkeypatch):
  before = (run / 'predictions.csv').read_bytes()
  finish = (run / 'run.json').read_bytes()
  (run / 'run.json').unlink()
  monkeypatch.delattr(Prior, 'fit')
  train.train_and_evaluate(config_of(data_file), run, verbose=0)
  assert (run / 'predictions.csv').read_bytes() == before
  assert json.loads((run / 'run.json').read_bytes()) == json.loads(finish)


def test_a_run_that_starts_from_another_takes_its_trees(
  run, data_file, tmp_path, monkeypatch
):
  monkeypatch.delattr(Prior, 'fit')
  config = config_of(data_file, init_from=str(run))
  workdir = train.train_and_evaluate(config, tmp_path / 'run', verbose=0)
  for path in (run / priors.FOLDER).iterdir():
    there = workdir / priors.FOLDER / path.name
    assert there.read_bytes() == path.read_bytes()


def test_other_training_rows_are_refused(run, tmp_path):
  """A row would be told what trees say that were fitted to it."""
  other = write_table(tmp_path / 'other.csv', num_rows=90)
  config = config_of(other, init_from=str(run))
  assert_refused(
    lambda: train.train_and_evaluate(config, tmp_path / 'run', verbose=0),
    'a prior of training rows',
  )
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'model.head': 'decoder'}, "model.head='trie'"),
    ({'model.prior': 'random_forest_residuals'}, 'catboost_residuals'),
    ({'baseline.name': 'catboost'}, "baseline.name=''"),
  ],
)
def test_what_does_not_go_with_a_prior_is_refused(data_file, fields, said):
  config = config_of(data_file, **fields)

  def build():
    resolved = experiment.resolve(config)
    networks.build_model(resolved, tables.read_file(data_file, 'price'))

  assert_refused(build, 'model.prior', said)


def test_a_run_without_its_trees_says_so(run, tmp_path):
  copy = finished.open_run(run)
  files = {k: v for k, v in copy.files().items() if k != 'prior/trees'}
  finished.write_files(tmp_path, files)
  assert_refused(lambda: finished.open_run(tmp_path), 'prior', 'damaged')
