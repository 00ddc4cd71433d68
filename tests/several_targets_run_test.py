"""Runs of several targets: read, trained, resumed, predicted, reported."""

import json
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
from checks import assert_refused
from sklearn.metrics import r2_score
from tiny import TINY

from configs import base
from genre2_jax import DecodingRegressor, train
from genre2_jax.data import tables, talent, targets
from genre2_jax.errors import InterruptedRunError
from genre2_jax.experiment import experiment
from genre2_jax.metrics import joint, points
from genre2_jax.runs import finished, prediction

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('quick_compiles'),
]

FIELDS = {
  **TINY,
  'tokenizer.name': 'adaptive',
  'pretrain.epochs': 3,
  'finetune.epochs': 1,
  'eval.num_conditionals': 3,
  # Of both numbers 85 nodes: the second one's marginal is of samples.
  'trie.max_nodes': 50,
}
NAMES = ('height', 'weight')
FEATURES = ['p', 'q', 'city']


@pytest.fixture(scope='module')
def frame():
  draw = np.random.default_rng(0)
  p, q = draw.uniform(-1, 1, (2, 130))
  city = draw.choice(['Ulm', 'Köln'], 130)
  height = 170 + 20 * p + 5 * (city == 'Ulm') + draw.normal(0, 1, 130)
  weight = height - 100 + 10 * q + draw.normal(0, 2, 130)
  return pd.DataFrame(
    {
      'p': p.round(3),
      'weight': weight.round(1),
      'q': q.round(3),
      'city': city,
      'height': height.round(1),
    }
  )


@pytest.fixture(scope='module')
def folder(frame, tmp_path_factory):
  folder = tmp_path_factory.mktemp('several')
  frame.to_csv(folder / 'people.csv', index=False)
  return folder


def make_config(folder, **fields):
  config = base.get_config()
  data = {
    'data.path': str(folder / 'people.csv'),
    'data.target': ','.join(NAMES),
  }
  config.update_from_flattened_dict(FIELDS | data | fields)
  return config


@pytest.fixture(scope='module')
def run(folder):
  """Cross-entropy, then ReMax, with a report."""
  return train.train_and_evaluate(
    make_config(folder), folder / 'run', verbose=0
  )


def results_of(run):
  table = pd.read_csv(run / 'results.csv')
  keys = table[['stage', 'split', 'estimator', 'metric']]
  return dict(zip(map(tuple, keys.values), table['value'], strict=True))


def test_files_say_what_each_target_is_predicted_as(run, frame):
  written = pd.read_csv(run / 'predictions.csv')
  for name in NAMES:
    assert set(written[f'target:{name}']) <= set(frame[name])
    low, value, high = (
      written[f'{column}:{name}']
      for column in ('model_lower90', 'prediction', 'model_upper90')
    )
    assert (low <= value).all() and (value <= high).all()
  info = json.loads((run / 'run.json').read_text())
  assert info['targets'] == list(NAMES)


def test_results_are_of_each_target_their_means_and_of_both(run):
  results = results_of(run)
  written = pd.read_csv(run / 'predictions.csv')
  for metric, function in (('r2', points.r2), ('spearman', points.spearman)):
    each = []
    for name in NAMES:
      key = ('remax', 'test', 'exact_mean', f'{metric}:{name}')
      each.append(results[key])
      found = function(written[f'exact_mean:{name}'], written[f'target:{name}'])
      np.testing.assert_allclose(results[key], found, rtol=1e-4)
    mean = results['remax', 'test', 'exact_mean', metric]
    np.testing.assert_allclose(mean, np.mean(each))
  assert ('remax', 'test', 'exact', 'crps:weight') in results
  assert ('remax', 'test', 'conformal', 'coverage90:weight') in results
  with np.load(run / 'evaluation' / 'remax_test.npz') as arrays:
    samples, truth = arrays['samples_z'][0], arrays['target_z']
    scale, mean = arrays['std'], arrays['mean']
    np.testing.assert_allclose(
      truth * scale + mean, arrays['target'], rtol=1e-6
    )
  score = joint.energy_score(samples, truth)
  found = results['remax', 'test', 'sample', 'energy']
  np.testing.assert_allclose(found, score, rtol=1e-5)
  reward = -np.square(samples - truth[:, None]).mean(axis=(0, 1))
  for name, own in zip(NAMES, reward, strict=True):
    key = ('remax', 'test', 'sample', f'reward:{name}')
    np.testing.assert_allclose(results[key], own, rtol=1e-4)


def test_two_baselines_stand_beside_each_target(run):
  table = pd.read_csv(run / 'references.csv')
  for stage in ('train_mean', 'histogram_trees'):
    own = table[(table['stage'] == stage) & (table['split'] == 'test')]
    assert {f'rmse:{name}' for name in NAMES} <= set(own['metric'])


def test_each_target_has_a_page_and_both_have_one(run):
  page = (run / 'report.html').read_text()
  for place, name in enumerate(NAMES, start=1):
    link = f'report_{place}_{name}.html'
    assert f'href="{link}"' in page
    own = (run / link).read_text()
    assert f'{name} of people' in own
    assert list((run / 'figures' / f'{place}_{name}').glob('*.svg'))
    rmse = results_of(run)['remax', 'test', 'exact_mean', f'rmse_unit:{name}']
    assert f'{rmse:.3g}' in own.replace(',', '')
  energy = results_of(run)['remax', 'test', 'sample', 'energy']
  assert f'{energy:.3f}' in page
  found = json.loads((run / 'importances.json').read_text())
  assert set(found) == set(NAMES)
  assert {x['column'] for x in found['weight']['importances']} == set(FEATURES)


def test_new_rows_need_no_targets(run, frame, folder):
  written = pd.read_csv(run / 'predictions.csv')
  table = tables.read_file(folder / 'people.csv', 'height,weight')
  # The test rows, in the order in which the run had them.
  order = tables.split_rows(len(frame), 0, '')['test']
  np.testing.assert_array_equal(table.test.target[:, 0], frame.height[order])
  frame.iloc[order][FEATURES].to_csv(folder / 'new.csv', index=False)
  prediction.predict_file(run, folder / 'new.csv', folder / 'out.csv')
  out = pd.read_csv(folder / 'out.csv')
  assert set(out) == set(written) - {f'target:{name}' for name in NAMES}
  for column in out:
    np.testing.assert_allclose(out[column], written[column], rtol=1e-4)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_one_that_was_not(run, folder):
  config = make_config(folder, report=False)

  class SoonAsked:
    """Asks to leave at the second look at it within a stage."""

    looks = 0

    def __bool__(self):
      self.looks += 1
      return self.looks > 6

  workdir = folder / 'stopped'
  with pytest.raises(InterruptedRunError):
    train.train_and_evaluate(config, workdir, SoonAsked(), verbose=0)
  train.train_and_evaluate(config, workdir, verbose=0)
  for name in ('predictions.csv', 'results.csv'):
    assert (workdir / name).read_bytes() == (run / name).read_bytes()


def test_targets_come_in_the_order_that_names_them(folder):
  read = {
    names: tables.read_file(folder / 'people.csv', names)
    for names in ('height,weight', 'weight,height')
  }
  first, second = read.values()
  np.testing.assert_array_equal(
    first.train.target, second.train.target[:, ::-1]
  )
  assert first.numeric_names == second.numeric_names == ('p', 'q')
  built = [
    experiment.build(make_config(folder, **{'data.target': names})).model
    for names in read
  ]
  assert built[0].scaler.parts == built[1].scaler.parts[::-1]
  assert built[0].codec.parts == built[1].codec.parts[::-1]
  tokens = [
    model.examples(table.test).tokens
    for model, table in zip(built, read.values(), strict=True)
  ]
  np.testing.assert_array_equal(tokens[0][:, :2], tokens[1][:, 2:])


def test_scalers_are_saved_and_read_back():
  y = np.random.default_rng(0).normal(size=(40, 2)) * [1, 100]
  for transform in targets.TRANSFORMS:
    scaler = targets.fit_all(transform, y, NAMES)
    assert targets.from_json(scaler.to_json()) == scaler
    for place, part in enumerate(scaler.parts):
      z = part.standardize(y[:, place])
      np.testing.assert_array_equal(scaler.standardize(y)[:, place], z)
      np.testing.assert_array_equal(
        scaler.restore(scaler.standardize(y))[:, place], part.restore(z)
      )
  damaged = scaler.to_json() | {'names': ['height']}
  assert_refused(lambda: targets.from_json(damaged), 'JointScaler')


def test_talent_folders_may_have_several_targets(folder):
  task = folder / 'task'
  task.mkdir()
  draw = np.random.default_rng(0)
  for split in tables.SPLITS:
    np.save(task / f'N_{split}.npy', draw.normal(size=(5, 2)))
    np.save(task / f'y_{split}.npy', draw.normal(size=(5, 3)))
  info = {'task_type': 'regression'}
  (task / 'info.json').write_text(json.dumps(info))
  table = talent.load(folder, 'task')
  assert table.target_names == ('y_0', 'y_1', 'y_2')
  assert table.train.target.shape == (5, 3)
  info['target'] = ['a', 'b', 'c']
  (task / 'info.json').write_text(json.dumps(info))
  assert talent.load(folder, 'task').target_names == ('a', 'b', 'c')
  assert tables.with_target(table, 1).val.target.shape == (5,)
  np.save(task / 'y_test.npy', draw.normal(size=(5, 2)))
  assert_refused(lambda: talent.load(folder, 'task'), 'differ in their targets')


@pytest.mark.parametrize(
  'fields, parts',
  [
    ({'model.head': 'trie'}, ('model.head=trie', 'there are 2 targets')),
    (
      {'finetune.objective': (('real', 1.0, {}),)},
      ('finetune.objective', 'real learns one target', '2'),
    ),
    ({'eval.rail_numbers': 5}, ('eval.rail_numbers=5', '2 targets')),
    ({'model.neighbours': 4}, ('model.neighbours=4', '2 targets')),
    (
      {'tokenizer.non_finite': 'tokens'},
      ('tokenizer.non_finite=tokens', 'there are 2 targets', 'set refuse'),
    ),
    ({'data.target': 'height,wight'}, ("no column 'wight'", 'weight')),
  ],
)
def test_what_writes_one_number_says_so(folder, fields, parts):
  config = make_config(folder, **fields)
  assert_refused(lambda: experiment.build(config), *parts)


def test_weights_of_another_number_of_targets_are_refused(run, folder):
  fields = {'data.target': 'height', 'init_from': str(run)}
  config = make_config(folder, **fields)
  assert_refused(
    lambda: experiment.build(config, open_run=finished.open_run),
    'writes 2 targets',
    'has 1',
  )


def test_the_estimator_has_an_axis_of_targets(run, frame):
  model = DecodingRegressor.load(run)
  rows = frame[:7]
  assert model.n_outputs_ == 2 and model.target_names_ == NAMES
  found = model.predict(rows)
  assert found.shape == (7, 2)
  wanted = r2_score(rows[list(NAMES)], found, multioutput='uniform_average')
  np.testing.assert_allclose(model.score(rows, rows[list(NAMES)]), wanted)
  # A row's marginals hang on its own cells.
  np.testing.assert_allclose(model.predict(rows[5:6])[0], found[5], rtol=1e-5)
  quantiles = model.predict_quantiles(rows, (0.1, 0.5, 0.9))
  assert quantiles.shape == (7, 3, 2)
  assert (np.diff(quantiles, axis=1) >= 0).all()
  median = model.predict(rows, 'exact_median')
  np.testing.assert_array_equal(quantiles[:, 1], median)
  ends = model.predict_interval(rows, 0.8)
  assert ends.shape == (7, 2, 2)
  assert (ends[:, 0] <= median).all() and (median <= ends[:, 1]).all()
  samples = model.sample(rows, 5)
  assert samples.shape == (7, 5, 2)
  numbers = model._run.model
  for place, part in enumerate(numbers.codec.parts):
    grid = numbers.scaler.parts[place].restore(part.grid()[0])
    near = abs(samples[..., place, None] - grid).min(axis=-1)
    assert near.max() < 1e-3  # Each in its own target's unit.


@pytest.mark.slow
def test_an_estimator_is_fitted_as_the_page_shows(
  frame, tmp_path, tiny_regressor
):
  X, Y = frame[FEATURES], frame[list(NAMES)]
  page = pathlib.Path(__file__).parents[1] / 'docs' / 'several_targets.md'
  (code,) = re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
  names = {'DecodingRegressor': DecodingRegressor, 'X_new': X[:5]}
  exec(code, names | {'X': X, 'Y': Y}, names)
  model = names['model']
  assert model.__sklearn_tags__().target_tags.multi_output
  assert model.n_outputs_ == 2 and model.target_names_ == NAMES
  model.save(tmp_path / 'saved')
  loaded = DecodingRegressor.load(tmp_path / 'saved')
  np.testing.assert_array_equal(model.predict(X[:5]), loaded.predict(X[:5]))
  writes_one = DecodingRegressor()
  assert not writes_one.__sklearn_tags__().target_tags.multi_output
  assert_refused(lambda: writes_one.fit(X, Y), '2 targets', 'take a decoder')
  Y.iloc[3, 1] = np.nan
  with_tokens = DecodingRegressor(objective='joint', non_finite='tokens')
  assert_refused(lambda: with_tokens.fit(X, Y), 'non_finite', '2 targets')


@pytest.mark.parametrize('name', ['linear', 'random_forest_residuals'])
def test_baselines_are_fitted_to_each_target(folder, name):
  workdir = folder / name
  fields = {'baseline.name': name, 'eval.num_samples': 40}
  train.train_and_evaluate(make_config(folder, **fields), workdir, verbose=0)
  results = results_of(workdir)
  assert results[name, 'test', 'mean', 'r2:height'] > 0.5
  assert (workdir / 'report_2_weight.html').exists()
  if name == 'linear':
    # One number has no spread: the mean distance of both.
    with np.load(workdir / 'evaluation' / 'linear_test.npz') as arrays:
      apart = arrays['greedy_z'][0] - arrays['target_z']
    distance = np.linalg.norm(apart, axis=1).mean()
    found = results[name, 'test', 'sample', 'energy']
    np.testing.assert_allclose(found, distance, rtol=1e-5)
  else:
    with np.load(workdir / 'evaluation' / f'{name}_test.npz') as arrays:
      samples = arrays['samples_z'][0]
    # Drawn apart: about a row's means the targets know nothing of each other.
    centred = samples - samples.mean(axis=1, keepdims=True)
    correlation = np.corrcoef(centred.reshape(-1, 2).T)[0, 1]
    assert abs(correlation) < 0.15
    assert (name, 'test', 'tempered', 'crps:weight') in results
