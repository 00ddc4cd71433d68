"""Runs and fits whose rows weigh differently, from data to what they leave."""

import csv
import functools

import numpy as np
import pandas as pd
import pytest
from checks import assert_refused
from sklearn.model_selection import cross_val_score
from tiny import TINY, TINY_REGRESSOR, write_table

from configs import base
from genre2_jax import DecodingRegressor, train
from genre2_jax.data import tables
from genre2_jax.metrics import points
from genre2_jax.models.marginal import log_shares
from genre2_jax.models.neighbours import memory_of
from genre2_jax.runs import finished

pytestmark = pytest.mark.usefixtures('quick_compiles')

FIT = TINY_REGRESSOR | {'objective': 'mse', 'max_steps': 30, 'random_state': 0}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Two members, chosen, mixed with neighbours and the marginal, weighted."""
  folder = tmp_path_factory.mktemp('weighted')
  path = write_table(folder / 'houses.csv')
  frame = pd.read_csv(path)
  frame['count'] = 1 + np.arange(len(frame)) % 3
  frame.to_csv(path, index=False)
  config = base.get_config()
  config.update_from_flattened_dict(
    TINY
    | {
      'data.path': str(path),
      'data.target': 'price',
      'data.weight': 'count',
      'model.head': 'trie',
      'model.marginal': True,
      'model.neighbours': 4,
      'pack.chosen': True,
      'num_seeds': 2,
      'stages': ('pretrain',),
      'pretrain.objective': (('crps', 1.0, {}),),
      'pretrain.epochs': 2,
    }
  )
  return train.train_and_evaluate(config, folder / 'run', verbose=0), path


def test_reported_metrics_are_means_by_weight(run):
  workdir, path = run
  table = tables.read_file(path, 'price', weight='count')
  assert 'count' not in table.numeric_names
  with open(workdir / 'results.csv', newline='') as file:
    found = {
      (row['split'], row['seed'], row['estimator'], row['metric']): float(
        row['value']
      )
      for row in csv.DictReader(file)
    }
  for split in ('val', 'test'):
    weight = getattr(table, split).weight
    arrays = np.load(workdir / 'evaluation' / f'crps_{split}.npz')
    np.testing.assert_array_equal(arrays['weight'], weight)
    greedy, target = arrays['greedy_z'][0].astype(float), arrays['target_z']
    expected = points.rmse(greedy, target, weight)
    assert found[split, '0', 'greedy', 'rmse'] == pytest.approx(expected)
    assert expected != pytest.approx(points.rmse(greedy, target), rel=1e-3)
  written = pd.read_csv(workdir / 'predictions.csv')
  np.testing.assert_allclose(written['weight'], table.test.weight)


def test_the_marginal_and_the_neighbours_count_rows_by_weight(run):
  workdir, path = run
  table = tables.read_file(path, 'price', weight='count')
  opened = finished.open_run(workdir)
  params = opened.weights()['policy']
  model = opened.model
  z = model.scaler.standardize(table.train.target)
  own = log_shares(
    model.codec.index(z), model.codec.tokenizer.num_sequences,
    table.train.weight,
  )  # fmt: skip
  np.testing.assert_allclose(params['marginal']['log_p'][0], own, rtol=1e-6)
  kept = np.asarray(memory_of(params)['log_weight'][0])[: len(z)]
  np.testing.assert_allclose(np.exp(kept), table.train.weight, rtol=1e-5)


def test_a_weighted_run_predicts_rows_without_weights(run):
  workdir, path = run
  frame = pd.read_csv(path).drop(columns=['count', 'price'])
  model = DecodingRegressor.load(workdir)
  found = model.predict(frame)
  assert found.shape == (len(frame),) and np.isfinite(found).all()


def test_the_report_says_what_weighs(run):
  workdir, _ = run
  assert (
    'all metrics weighted by count' in (workdir / 'report.html').read_text()
  )


# ------------------------------------------------------------------ estimator


@functools.cache
def data():
  draw = np.random.RandomState(0)
  X = draw.normal(size=(60, 3))
  y = X @ [2.0, -1.0, 0.5] + draw.normal(0, 0.3, 60)
  return X, y, draw.randint(0, 4, 60).astype(float)


def fitted(X, y, **more):
  return DecodingRegressor(**FIT).fit(X, y, **more).predict(X)


@pytest.mark.slow
def test_weights_of_one_change_no_bit_of_a_fit():
  X, y, _ = data()
  plain = fitted(X, y)
  np.testing.assert_array_equal(plain, fitted(X, y, sample_weight=np.ones(60)))
  assert (plain != fitted(X, y, sample_weight=1 + (y > 0))).any()


def test_rows_of_weight_0_change_no_bit_of_a_fit():
  X, y, weight = data()
  kept = weight > 0
  model = DecodingRegressor(**FIT)
  anything = np.where(kept, y, np.nan)
  whole = model.fit(X, anything, sample_weight=weight).predict(X)
  rest = model.fit(X[kept], y[kept], sample_weight=weight[kept]).predict(X)
  np.testing.assert_array_equal(whole, rest)


def test_validation_rows_have_weights_of_their_own():
  X, y, weight = data()
  val = {'X_val': X[:20], 'y_val': y[:20]}
  model = DecodingRegressor(**FIT | {'max_steps': 6})
  model.fit(X[20:], y[20:], **val, sample_weight_val=weight[:20])
  assert_refused(
    lambda: model.fit(X, y, sample_weight_val=weight), 'give that too'
  )


def test_cross_validation_passes_weights_along():
  X, y, weight = data()
  model = DecodingRegressor(**FIT | {'max_steps': 3})
  scores = cross_val_score(
    model, X, y, cv=2, params={'sample_weight': weight + 1}
  )
  alone = DecodingRegressor(**FIT | {'max_steps': 3})
  expected = [
    alone.fit(X[a], y[a], sample_weight=weight[a] + 1).score(X[b], y[b])
    for a, b in ((slice(30, 60), slice(30)), (slice(30), slice(30, 60)))
  ]
  np.testing.assert_allclose(scores, expected)


@pytest.mark.parametrize(
  'weights, words',
  [
    ([-1.0] * 60, 'negative'),
    ([0.0] * 60, 'non-zero'),
    ([np.nan] * 60, 'sample_weight'),
    ([1.0] * 59, 'sample_weight'),
    (['a'] * 60, 'sample_weight'),
  ],
)
def test_what_are_no_weights_is_refused_in_one_line(weights, words):
  X, y, _ = data()
  assert_refused(
    lambda: DecodingRegressor(**FIT).fit(X, y, sample_weight=weights), words
  )


def test_a_weight_that_a_fit_would_pass_over_is_refused():
  X, y, _ = data()
  model = DecodingRegressor(config={'data.weight': 'w'})
  assert_refused(lambda: model.fit(X, y), 'data.weight', 'sample_weight=')


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_target_that_is_no_number_names_what_takes_it(value):
  X, y, _ = data()
  y = np.where(y == y.max(), value, y)
  assert_refused(
    lambda: DecodingRegressor(**FIT).fit(X, y),
    'Input y contains',
    "non_finite='tokens'",
  )
