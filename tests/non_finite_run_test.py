"""Runs and fits whose targets are NaN or infinite here and there."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from checks import assert_refused
from tiny import TINY, TINY_REGRESSOR, write_table

from configs import base
from genre2_jax import DecodingRegressor, train
from genre2_jax.data import tables
from genre2_jax.experiment import experiment
from genre2_jax.runs import prediction

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('quick_compiles'),
]

FIELDS = TINY | {
  'tokenizer.non_finite': 'tokens',
  'data.target': 'price',
  'pretrain.epochs': 6,
  'finetune.epochs': 1,
}


def write(folder):
  """Houses of whose prices what has five rooms has none, what has six inf."""
  path = write_table(folder / 'houses.csv', num_rows=160)
  frame = pd.read_csv(path)
  price = frame['price'].astype(object)
  price[frame['rooms'] == 5] = None
  price[frame['rooms'] == 6] = 'inf'
  frame['price'] = price
  frame.to_csv(path, index=False)
  return path


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Cross-entropy, then ReMax with the expert; the report, too."""
  path = write(tmp_path_factory.mktemp('crashed'))
  config = base.get_config()
  config.update_from_flattened_dict(
    FIELDS
    | {
      'data.path': str(path),
      'finetune.objective': (('remax', 1.0, {}), ('expert', 0.1, {})),
    }
  )
  return train.train_and_evaluate(config, path.parent / 'run', verbose=0), path


def values_of(workdir, split='test'):
  with open(workdir / 'results.csv', newline='') as file:
    return {
      (row['stage'], row['estimator'], row['metric']): float(row['value'])
      for row in csv.DictReader(file)
      if row['split'] == split
    }


def test_predictions_have_columns_of_the_three_and_finite_numbers(run):
  workdir, path = run
  written = pd.read_csv(workdir / 'predictions.csv')
  table = tables.read_file(path, 'price', non_finite=True)
  np.testing.assert_array_equal(
    np.isfinite(written['target']), np.isfinite(table.test.target)
  )
  assert not np.isfinite(table.test.target).all()
  p = written[['p_nan', 'p_plus_inf', 'p_minus_inf']].to_numpy()
  assert (p >= 0).all() and (p.sum(1) <= 1 + 1e-6).all()
  others = written.drop(columns=['target'])
  assert np.isfinite(others.to_numpy(float)).all()


def test_metrics_are_of_finite_targets_beside_scores_of_the_kinds(run):
  workdir, path = run
  table = tables.read_file(path, 'price', non_finite=True)
  found = values_of(workdir)
  written = pd.read_csv(workdir / 'predictions.csv')
  kept = np.isfinite(table.test.target)
  stage = 'remax_expert'
  assert found[stage, 'non_finite', 'share'] == pytest.approx(1 - kept.mean())
  p = written[['p_nan', 'p_plus_inf', 'p_minus_inf']].to_numpy()
  brier = np.mean((p.sum(1) - ~kept) ** 2)
  assert found[stage, 'non_finite', 'brier'] == pytest.approx(brier, rel=1e-4)
  errors = (written['prediction'] - table.test.target)[kept]
  assert found[stage, 'exact_mean', 'rmse_unit'] == pytest.approx(
    np.sqrt(np.mean(errors**2)), rel=1e-3
  )
  assert all(np.isfinite(x) for x in found.values())
  # Rooms tell the kind, and that is learnt.
  assert found['ce', 'non_finite', 'log_loss'] < 0.7


def test_margins_report_and_references_are_of_finite_targets(run):
  workdir, _ = run
  margins = json.loads((workdir / 'margins.json').read_text())['margins']
  assert any(x is not None and np.isfinite(x) for x in margins)
  assert 'of the test targets are NaN or infinite' in (
    workdir / 'report.html'
  ).read_text().replace('&#39;', "'")
  with open(workdir / 'references.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert {row['stage'] for row in rows} == {'train_mean', 'histogram_trees'}
  assert all(np.isfinite(float(row['value'])) for row in rows)


def test_new_rows_get_the_same_columns(run, tmp_path):
  workdir, path = run
  output = tmp_path / 'out.csv'
  prediction.predict_file(workdir, path, output)
  written = pd.read_csv(output)
  model = DecodingRegressor.load(workdir)
  found = model.predict_non_finite(pd.read_csv(path).drop(columns='price'))
  np.testing.assert_allclose(
    written[['p_nan', 'p_plus_inf', 'p_minus_inf']], found, rtol=1e-5
  )


@pytest.mark.slow
def test_an_estimator_of_crps_takes_such_targets():
  """Whole tries, mixed with neighbours and the marginal."""
  draw = np.random.RandomState(0)
  X = draw.normal(size=(120, 2))
  y = X[:, 0] + draw.normal(0, 0.1, 120)
  y[X[:, 1] > 0.7], y[X[:, 1] < -1] = np.nan, -np.inf
  model = DecodingRegressor(
    objective='crps',
    non_finite='tokens',
    random_state=0,
    **TINY_REGRESSOR
    | {
      'config': TINY_REGRESSOR['config']
      | {'model.head': 'trie', 'model.neighbours': 2, 'model.marginal': True}
    },
  ).fit(X, y)
  p = model.predict_non_finite(X)
  assert p.shape == (120, 3)
  assert p[np.isnan(y), 0].mean() > 2 * p[np.isfinite(y), 0].mean()
  assert p[y == -np.inf, 2].mean() > 2 * p[np.isfinite(y), 2].mean()
  for found in (
    model.predict(X), model.predict_interval(X), model.sample(X, 3),
    model.predict_quantiles(X),
  ):  # fmt: skip
    assert np.isfinite(found).all()
  plain = DecodingRegressor(**TINY_REGRESSOR, objective='ce')
  assert_refused(lambda: plain.fit(X[:3], y[:3] * np.nan), error=ValueError)


def test_by_default_such_targets_are_refused_and_the_field_is_named(tmp_path):
  path = write(tmp_path)
  assert_refused(
    lambda: tables.read_file(path, 'price'),
    'missing or infinite',
    'tokenizer.non_finite=tokens',
  )
  all_nan = write_table(tmp_path / 'nan.csv', target='nan')
  assert_refused(
    lambda: tables.read_file(all_nan, 'price', non_finite=True),
    'no row has a finite number',
  )


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'model.head': 'pointwise', 'pretrain.objective': (('mse', 1.0, {}),),
      'stages': ('pretrain',)}, 'model.head'),
    ({'baseline.name': 'random_forest_residuals'}, 'baseline.name'),
    ({'eval.rail_numbers': 5}, 'eval.rail_numbers'),
    ({'finetune.objective': (('raft', 1.0, {'subset': 5}),)}, 'subset'),
    ({'finetune.objective': (('crps', 1.0, {}),), 'trie.max_nodes': 5,
      'trie.beyond': 'samples'}, 'trie.max_nodes'),
  ],
)  # fmt: skip
def test_what_says_nothing_of_no_numbers_is_refused(tmp_path, fields, words):
  config = base.get_config()
  config.update_from_flattened_dict(FIELDS | fields)
  assert_refused(lambda: experiment.build(config), words)
