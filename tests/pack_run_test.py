"""Runs whose seeds differ, and are chosen from: one program, saved, resumed."""

import json

import jax
import numpy as np
import pandas as pd
import pytest
from checks import assert_refused
from tiny import TINY, write_table

from configs import base
from genre2_jax import DecodingRegressor, train
from genre2_jax.data import tables
from genre2_jax.errors import InterruptedRunError
from genre2_jax.experiment import experiment, packs, recipes
from genre2_jax.metrics import mixing, results
from genre2_jax.models import marginal
from genre2_jax.runs import estimates, finished

pytestmark = pytest.mark.usefixtures('quick_compiles')

FIELDS = {
  **TINY,
  'report': False,
  'num_seeds': 3,
  'model.head': 'trie',
  'tokenizer.name': 'adaptive',
  'model.feature_scale': True,
  'model.neighbours': 4,
  'model.candidates': 20,
  'model.marginal': True,
  'pack.learning_rate': (0.2, 3.0),
  'pack.weight_decay': (1.0, 50.0),
  'pack.dropout': (0.5, 4.0),
  'pack.embedding_scale': (0.5, 2.0),
  'pack.neighbours': 0.5,
  'pack.chosen': True,
  'pretrain.objective': (('crps', 1.0, {}),),
  'pretrain.epochs': 3,
  'stages': ('pretrain',),
}


@pytest.fixture(scope='module')
def data_file(tmp_path_factory):
  return write_table(tmp_path_factory.mktemp('data') / 'houses.csv')


def config_of(data_file, **fields):
  config = base.get_config()
  data = {'data.path': str(data_file), 'data.target': 'price'}
  config.update_from_flattened_dict(FIELDS | data | fields)
  return config


@pytest.fixture(scope='module')
def run(data_file):
  """Three members, a few steps each."""
  workdir = data_file.parent / 'run'
  return train.train_and_evaluate(config_of(data_file), workdir, verbose=0)


def own_numbers(params):
  """{name: [S]} of the members' own."""
  return {
    jax.tree_util.keystr(path[-1:], simple=True): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(params)
    if 'member_' in jax.tree_util.keystr(path[-1:])
  }


def test_members_differ_in_what_the_config_says(run):
  opened = finished.open_run(run)
  (stage,) = opened.experiment.stages
  factors = stage.pack.factors(opened.seeds)
  own = own_numbers(opened.weights())
  rate = 0.1 * factors['dropout']
  np.testing.assert_allclose(own['member_dropout'], rate, rtol=1e-6)
  np.testing.assert_array_equal(own['member_neighbours'], factors['neighbours'])
  assert own['member_neighbours'].tolist() == [1, 1, 0]
  assert set(factors) == set(stage.pack.__dataclass_fields__) - {'prior'}
  assert all(len(np.unique(x)) > 1 for x in factors.values())


def test_a_member_alone_is_what_it_is_in_the_pack(run, data_file, tmp_path):
  config = config_of(data_file, seed=1, num_seeds=1)
  table = tables.read_file(data_file, 'price')  # Not split by another seed.
  alone = train.train_and_evaluate(
    config, tmp_path / 'run', table=table, verbose=0
  )
  mine, whole = (
    finished.open_run(workdir).weights()['policy']['network']
    for workdir in (alone, run)
  )
  together = jax.tree.map(lambda x: x[1:2], whole)
  for x, y in zip(
    jax.tree.leaves(mine), jax.tree.leaves(together), strict=True
  ):
    np.testing.assert_allclose(x, y, atol=2e-4)
  kernels = [x for x in jax.tree.leaves(whole) if x.ndim == 3]
  assert max(np.abs(x[0] - x[1]).max() for x in kernels) > 0.1


def test_validation_rows_have_chosen_the_mixture(run, data_file):
  opened = finished.open_run(run)
  policy = opened.weights()['policy']
  share, weight = (policy['marginal'][x] for x in ('share', 'weight'))
  assert share.shape == (3,) and share.sum() == pytest.approx(1)
  assert len(np.unique(weight)) == 1
  rows = tables.read_file(data_file, 'price').val
  values, _ = opened.model.codec.grid()
  target = opened.model.scaler.standardize(rows.target)
  zero = np.zeros(3, np.float32)
  alone = {'policy': marginal.with_weight(policy, zero)}
  opened.__dict__['_loaded'] = opened._loaded[0], alone
  log_p = opened.predict(rows)['log_p']
  log_g = policy['marginal']['log_p'][0]
  expected, mixed = marginal.chosen(log_p, log_g, values, target)
  np.testing.assert_allclose(share, expected, atol=1e-6)
  assert weight[0] == pytest.approx(mixed, abs=1e-4)
  candidates = [*log_p, np.broadcast_to(log_g, log_p.shape[1:])]
  losses = mixing.distances(candidates, values, target)
  final = np.append((1 - mixed) * expected, mixed)
  assert losses.crps(final) <= losses.crps([1 / 3] * 3 + [0]) + 1e-12


def test_a_run_read_back_predicts_its_mixture(run, data_file):
  written = pd.read_csv(run / 'predictions.csv')
  opened = finished.open_run(run)
  rows = tables.read_file(data_file, 'price').test
  predicted = opened.predict(rows)
  share = opened.weights()['policy']['marginal']['share']
  p = np.einsum('s,snk->nk', share, np.exp(predicted['log_p'].astype(float)))
  values, _ = opened.model.codec.grid()
  restore = opened.model.scaler.restore
  np.testing.assert_allclose(
    restore(p @ values), written['exact_mean'], rtol=1e-4
  )
  median = restore(values[(p.cumsum(1) >= 0.5).argmax(1)])
  found = estimates.points(predicted, opened.model)['exact_median']
  np.testing.assert_allclose(restore(found), median, rtol=1e-6)
  model, frame = DecodingRegressor.load(run), pd.read_csv(data_file)
  assert model.sample(frame[:4], 30).shape == (4, 30)


def test_a_run_that_is_stopped_goes_on_with_the_same_bits(
  run, data_file, tmp_path
):
  class After:
    left = 6

    def __bool__(self):
      self.left -= 1
      return self.left < 0

  config = config_of(data_file, steps_per_dispatch=2)
  with pytest.raises(InterruptedRunError, match='at step'):
    train.train_and_evaluate(config, tmp_path / 'run', After(), verbose=0)
  again = train.train_and_evaluate(config, tmp_path / 'run', verbose=0)
  for name in ('predictions.csv', 'margins.json', 'results.csv'):
    assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_shares_say_whose_samples_are_taken():
  samples = np.arange(3.0)[:, None, None] + np.zeros((3, 2, 8))
  share = np.repeat([[0.5], [0.0], [0.25]], 2, axis=1)  # Their sum is no one.
  pool = results.pooled({'samples_z': samples, 'share': share})['samples_z']
  assert pool.shape == (2, 12)
  for k in (3, 6, 12):
    assert pool[0, :k].mean() == pytest.approx(2 / 3)
  alike = np.full((3, 2), 0.2)
  np.testing.assert_array_equal(
    results.pooled({'samples_z': samples, 'share': alike})['samples_z'],
    results.pooled({'samples_z': samples})['samples_z'],
  )


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'pack.dropout': (0.0, 1.0)}, 'pack.dropout'),
    ({'pack.dropout': (1.0, 20.0)}, 'below 1'),
    ({'pack.learning_rate': (2.0, 1.0)}, 'least and the greatest'),
    ({'pack.prior': 0.5}, 'model.prior'),
    ({'pack.neighbours': 1.5}, 'share from 0 to 1'),
    ({'model.neighbours': 0}, 'model.neighbours'),
    ({'model.marginal': False}, 'model.marginal=True'),
    ({'optimizer.name': 'adafactor'}, 'optimizer.name=adamw'),
    ({'model.feature_scale': False}, 'model.feature_scale'),
  ],
)
def test_members_that_cannot_be_are_refused(data_file, fields, said):
  config = config_of(data_file, **fields)
  assert_refused(lambda: experiment.resolve(config), said)


def test_members_behind_a_frozen_encoder_may_differ():
  """Their network reads its vectors as a table; a trained one is no table."""
  config = recipes.get_config('stsb', 'encoder_crps')
  config.model.head = 'trie'
  config.pack.dropout = (0.5, 2.0)
  packs.check_pack(config)
  config.language_model.frozen = False
  assert_refused(lambda: packs.check_pack(config), 'pack.dropout')


def test_what_was_run_says_how_its_members_differ(run):
  saved = json.loads((run / 'config.json').read_text())['pack']
  assert saved['learning_rate'] == [0.2, 3.0] and saved['chosen'] is True
