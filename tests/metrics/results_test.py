"""Tables of predictions: seeds, ensembles, exact and recalibrated rows."""

import dataclasses
import logging

import numpy as np
import pytest
from scipy import special
from tiny import one_target

from genre2_jax import tokenizers
from genre2_jax.data.features import TargetScaler
from genre2_jax.metrics import (
  exact,
  points,
  recalibration,
  results,
  sampled,
)
from genre2_jax.runs import estimates
from genre2_jax.tokenizers.codec import Codec

CODEC = Codec(
  tokenizers.build('normalized', base=3, digits=2), low=-1.0, high=2.0
)
SCALER = TargetScaler(mean=100.0, std=10.0, low=-1.0, high=2.0)
MODEL = one_target(CODEC, SCALER)
VALUES = CODEC.values()


def predicted_of(num_seeds, num_rows=8, num_samples=5, exact=False, stream=0):
  rng = np.random.default_rng([num_seeds, stream])
  predicted = {
    'samples_z': rng.normal(size=(num_seeds, num_rows, num_samples)),
    'greedy_z': rng.normal(size=(num_seeds, num_rows)),
    'entropy': rng.uniform(1, 2, (num_seeds, num_rows)),
  }
  if exact:
    logits = 2 * rng.normal(size=(num_seeds, num_rows, len(VALUES)))
    log_p = special.log_softmax(logits, axis=-1)
    predicted['log_p'] = log_p.astype(np.float32)
  return predicted


def test_a_pool_alternates_between_seeds():
  predicted = predicted_of(3)
  pool = results.pooled(predicted)
  assert pool['samples_z'].shape == (8, 15)
  for seed in range(3):
    np.testing.assert_array_equal(
      pool['samples_z'][:, seed::3], predicted['samples_z'][seed]
    )
  np.testing.assert_allclose(pool['greedy_z'], sum(predicted['greedy_z']) / 3)
  np.testing.assert_allclose(pool['entropy'], sum(predicted['entropy']) / 3)


def result_rows(predicted, seeds, target, validation=None, model=MODEL):
  return results.rows(
    predicted,
    target,
    model=model,
    seeds=seeds,
    task='tiny',
    stage='ce',
    split='test',
    validation=validation,
  )


def by_seed(rows):
  """seed -> {(estimator, metric): value}."""
  found = {}
  for task, seed, stage, split, estimator, metric, value in rows:
    assert (task, stage, split) == ('tiny', 'ce', 'test')
    assert (estimator, metric) not in found.setdefault(seed, {})
    found[seed][estimator, metric] = value
  return found


def test_results_of_one_seed_have_no_mean_and_no_ensemble():
  predicted, target = predicted_of(1), np.linspace(-1, 2, 8)
  found = by_seed(result_rows(predicted, (7,), target))
  assert list(found) == [7]
  expected = sampled.evaluate(
    *(predicted[name][0] for name in ('samples_z', 'greedy_z', 'entropy')),
    target,
    low=-1.0,
    high=2.0,
    std=10.0,
  )
  assert found[7] == {(e, m): value for e, m, value in expected}


def test_results_of_several_seeds_have_mean_std_and_ensemble():
  predicted, target = predicted_of(3), np.linspace(-1, 2, 8)
  found = by_seed(result_rows(predicted, (7, 8, 9), target))
  assert set(found) == {7, 8, 9, 'ensemble', 'mean', 'std'}
  assert len({frozenset(values) for values in found.values()}) == 1
  for key, value in found['mean'].items():
    values = [found[seed][key] for seed in (7, 8, 9)]
    assert value == pytest.approx(np.mean(values))
    assert found['std'][key] == pytest.approx(np.std(values, ddof=1))
  alone = {k: v[1:2] for k, v in predicted.items()}
  assert by_seed(result_rows(alone, (8,), target))[8] == found[8]
  samples = results.pooled(predicted)['samples_z']
  assert found['ensemble']['sample', 'crps'] == pytest.approx(
    sampled.crps(samples, target)
  )
  assert found['ensemble']['mean', 'rmse'] == pytest.approx(
    points.rmse(samples.mean(-1), target)
  )


def test_rows_gain_their_mean_and_std_over_seeds():
  rows = [
    ('t', 0, 'ce', 'test', 'mean', 'rmse', 1.0),
    ('t', '1', 'ce', 'test', 'mean', 'rmse', 3.0),
    ('t', 'ensemble', 'ce', 'test', 'mean', 'rmse', 0.5),
    ('t', 0, 'ce', 'val', 'mean', 'rmse', 7.0),
  ]
  summary = results.over_seeds(rows)
  assert summary[:4] == rows
  assert summary[4:] == [
    ('t', 'mean', 'ce', 'test', 'mean', 'rmse', 2.0),
    ('t', 'std', 'ce', 'test', 'mean', 'rmse', pytest.approx(np.sqrt(2))),
  ]


def test_the_summary_sets_the_stages_side_by_side():
  target = np.linspace(-1, 2, 8)
  for num_seeds, of in ((1, 'seed 7'), (2, '2 seeds together')):
    predicted, seeds = predicted_of(num_seeds), range(7, 7 + num_seeds)
    rows = result_rows(predicted, tuple(seeds), target)
    rows += [(*r[:2], 'remax', r[3], *r[4:6], r[6] + 1) for r in rows]
    text = results.summary(rows, ['ce', 'remax'], "the target's own unit")
    assert of in text and "errors in the target's own unit;" in text
    found = by_seed(r for r in rows if r[2] == 'ce')
    r2 = found['ensemble' if num_seeds > 1 else 7]['median', 'r2']
    (line,) = [x for x in text.splitlines() if x.startswith('median r2')]
    assert line.split()[2:] == [f'{r2:.4f}', f'{r2 + 1:.4f}']


def test_the_summary_keeps_large_numbers_apart():
  rows = [('tiny', 0, s, 'test', 'mean', 'rmse', 667969862.129) for s in 'ab']
  *_, line = results.summary(rows, ['a', 'b']).splitlines()
  assert line.split() == ['mean', 'rmse', '6.6797e+08', '6.6797e+08']


def test_the_columns_of_the_summary_never_touch():
  stages = ['a_stage_of_a_sum_of_many_objectives', 'ce']
  rows = [
    ('tiny', 0, s, 'test', *key, -123456789e290)
    for s in stages
    for key in (('mean', 'rmse'), ('sample', 'coverage90'))
  ]
  rows[-1] = (*rows[-1][:-1], 3e-7)
  _, head, *lines = results.summary(rows, stages).splitlines()
  assert head.split() == stages
  assert len({len(line) for line in (head, *lines)}) == 1
  assert [line.split()[2:] for line in lines] == [
    ['-1.2346e+298', '-1.2346e+298'],
    ['-1.2346e+298', '0.0000'],
  ]


def test_the_summary_leaves_room_where_a_stage_has_no_such_row():
  target = np.linspace(-1, 2, 8)
  rows = result_rows(predicted_of(1), (7,), target)
  assert 'exact' not in results.summary(rows, ['ce'])
  exact = result_rows(predicted_of(1, exact=True), (7,), target)
  rows = [(*r[:2], 'tree', *r[3:]) for r in rows] + exact
  text = results.summary(rows, ['tree', 'ce'])
  crps = by_seed(exact)[7]['exact', 'crps']
  (line,) = [x for x in text.splitlines() if x.startswith('exact crps')]
  assert line == f'{"exact crps":24}{"":14}{crps:14.4f}'


# ------------------------------------------------------ exact distributions

TARGET = np.linspace(-0.95, 1.9, 8)
SINGLE, TRIPLE = (predicted_of(seeds, exact=True) for seeds in (1, 3))


def test_errors_are_taken_within_the_bounds_of_the_target():
  """Numbers beyond them mean the nearer bound, in all that is exact."""
  bounds = (-0.5, 1.2)
  codec = dataclasses.replace(CODEC, bounds=bounds)
  model = one_target(codec, SCALER)
  target = np.linspace(*bounds, 8)
  log_p = SINGLE['log_p'][0].astype(np.float64)
  found = by_seed(result_rows(SINGLE, (7,), target, model=model))[7]
  values = np.clip(VALUES, *bounds)
  p = np.exp(log_p)
  p /= p.sum(1, keepdims=True)
  apart = np.abs(values[:, None] - values)
  crps = np.sum(p * np.abs(values - target[:, None]), 1)
  crps -= np.einsum('nk,kj,nj->n', p, apart, p) / 2
  expected = {
    ('exact', 'crps'): crps.mean(),
    ('exact', 'reward'): -np.mean(
      np.sum(p * np.square(values - target[:, None]), 1)
    ),
    ('exact_mean', 'rmse'): points_rmse(p @ values, target),
  }
  # Mass beyond a bound lies in the cell of the bound.
  inside = np.unique(values)
  gaps = np.diff(inside)
  widths = (np.append(gaps[0], gaps) + np.append(gaps, gaps[-1])) / 2
  written = values[codec.index(target)]
  mass = np.sum(p * (values == written[:, None]), 1)
  density = mass / widths[np.searchsorted(inside, written)]
  expected['exact', 'nll'] = -np.log(density).mean()
  for key, value in expected.items():
    assert found[key] == pytest.approx(float(value), rel=1e-5), key
  columns = estimates.columns(SINGLE, model)
  np.testing.assert_allclose(
    columns['exact_mean'], SCALER.restore(p @ values), rtol=1e-6
  )


def points_rmse(x, y):
  return float(np.sqrt(np.mean(np.square(x - y))))


def brute_force(p, target):
  """Metrics of distributions over `VALUES`, which ascend, row by row."""
  means, medians, found = [], [], []
  written = CODEC.decode(CODEC.encode(target))
  for row, y, number in zip(np.float64(p), target, written, strict=True):
    row = row / row.sum()
    below = np.cumsum(row)
    low, median, high = (
      VALUES[np.flatnonzero(below >= q)[0]] for q in (0.05, 0.5, 0.95)
    )
    apart = np.abs(VALUES[:, None] - VALUES)
    mass = row[np.abs(VALUES - number).argmin()]
    means.append(row @ VALUES)
    medians.append(median)
    found.append(
      {
        'crps': row @ np.abs(VALUES - y) - row @ apart @ row / 2,
        'coverage90': low <= y <= high,
        'width90': high - low,
        'reward': -(row @ (VALUES - y) ** 2),
        'entropy': special.entr(row).sum(),
        'nll': -np.log(mass / (3 / 9)),  # nine cells of equal width
      }
    )
  return {
    ('exact_mean', 'rmse'): points.rmse(means, target),
    ('exact_mean', 'rmse_unit'): 10 * points.rmse(means, target),
    ('exact_median', 'mae'): points.mae(medians, target),
    **{('exact', m): np.mean([row[m] for row in found]) for m in found[0]},
  }


def test_exact_rows_equal_brute_force():
  found = by_seed(result_rows(SINGLE, (7,), TARGET))[7]
  expected = brute_force(np.exp(SINGLE['log_p'][0]), TARGET)
  assert {e for e, _ in found} == {
    *sampled.POINT_ESTIMATORS,
    'exact',
    'exact_mean',
    'exact_median',
  }
  for key, value in expected.items():
    assert found[key] == pytest.approx(float(value), rel=1e-5), key
  # The rows of samples are what they are without them.
  samples = {k: v for k, v in SINGLE.items() if k != 'log_p'}
  plain = by_seed(result_rows(samples, (7,), TARGET))[7]
  assert {key: found[key] for key in plain} == plain


def test_the_ensemble_mixes_probabilities():
  """Not their logarithms, and not the seeds' metrics."""
  p = np.exp(TRIPLE['log_p'])
  np.testing.assert_allclose(
    np.exp(results.pooled(TRIPLE)['log_p']), p.mean(0), rtol=1e-5
  )
  found = by_seed(result_rows(TRIPLE, (7, 8, 9), TARGET))
  for key, value in brute_force(p.mean(0), TARGET).items():
    assert found['ensemble'][key] == pytest.approx(float(value), rel=1e-5), key
  assert found['ensemble']['exact', 'crps'] < found['mean']['exact', 'crps']
  for seed, row in zip((7, 8, 9), p, strict=True):
    crps = brute_force(row, TARGET)['exact', 'crps']
    assert found[seed]['exact', 'crps'] == pytest.approx(crps, rel=1e-5)


def test_trained_numbers_have_rows_of_their_own():
  learned = np.random.default_rng(3).normal(size=(3, 8))
  predicted = TRIPLE | {'learned_mean_z': learned}
  found = by_seed(result_rows(predicted, (7, 8, 9), TARGET))
  for seed, z in ((7, learned[0]), ('ensemble', learned.mean(0))):
    rmse = points.rmse(z, TARGET)
    assert found[seed]['learned_mean', 'rmse'] == pytest.approx(rmse)


def test_the_mass_on_the_grid_is_a_mean_over_rows():
  mass = np.random.default_rng(4).uniform(size=(3, 8))
  rows = result_rows(TRIPLE | {'grid_mass': mass}, (7, 8, 9), TARGET)
  found = by_seed(rows)
  for seed, expected in ((8, mass[1]), ('ensemble', mass), ('mean', mass)):
    value = found[seed]['sample', 'grid_mass']
    assert value == pytest.approx(expected.mean())
  (line,) = (
    x
    for x in results.summary(rows, ['ce']).splitlines()
    if x.startswith('sample grid_mass')
  )
  assert line.endswith(f'{mass.mean():.4f}')
  plain = by_seed(result_rows(TRIPLE, (7, 8, 9), TARGET))
  assert ('sample', 'grid_mass') not in plain[8]


def test_recalibrated_rows_come_only_with_validation_rows():
  val = predicted_of(3, num_rows=30, exact=True, stream=1)
  val_target = np.random.default_rng(4).uniform(-1, 2, 30)
  seeds = (7, 8, 9)
  plain = by_seed(result_rows(TRIPLE, seeds, TARGET))
  found = by_seed(result_rows(TRIPLE, seeds, TARGET, (val, val_target)))
  assert set(found) == {*seeds, 'mean', 'std', 'ensemble'}
  for seed, values in found.items():
    names = {e for e, _ in values} - {e for e, _ in plain[seed]}
    assert names == {
      'tempered',
      'tempered_mean',
      'tempered_median',
      'conformal',
    }
    assert {key: values[key] for key in plain[seed]} == plain[seed]
  # Without distributions there is nothing to mend.
  samples = {k: v for k, v in TRIPLE.items() if k != 'log_p'}
  val_samples = {k: v for k, v in val.items() if k != 'log_p'}
  assert by_seed(
    result_rows(samples, seeds, TARGET, (val_samples, val_target))
  ) == by_seed(result_rows(samples, seeds, TARGET))


@pytest.mark.parametrize('member', [7, 'ensemble'])
def test_each_member_is_recalibrated_on_its_own_validation_rows(member):
  """A temperature for the distribution, a margin for the interval."""
  val = predicted_of(3, num_rows=30, exact=True, stream=1)
  val_target = np.random.default_rng(4).uniform(-1, 2, 30)
  found = by_seed(result_rows(TRIPLE, (7, 8, 9), TARGET, (val, val_target)))
  if member == 'ensemble':
    p, val_p = (np.exp(x['log_p']).mean(0) for x in (TRIPLE, val))
  else:
    p, val_p = (np.exp(x['log_p'][0]) for x in (TRIPLE, val))

  tau = found[member]['tempered', 'temperature']
  taus = np.geomspace(0.2, 20, 400)

  def tempered(p, tau):
    p = np.float64(p) ** (1 / tau)
    return p / p.sum(-1, keepdims=True)

  scores = [
    brute_force(tempered(val_p, t), val_target)['exact', 'crps'] for t in taus
  ]
  assert tau == pytest.approx(taus[np.argmin(scores)], rel=0.05)
  assert tau > 1.5  # These distributions know nothing of their targets.
  after = brute_force(tempered(p, tau), TARGET)
  for (estimator, metric), value in after.items():
    key = estimator.replace('exact', 'tempered'), metric
    assert found[member][key] == pytest.approx(float(value), rel=1e-4), key

  def interval(p):
    return exact.quantiles(np.log(p), VALUES, [0.05, 0.95]).T

  low, high = interval(val_p)
  outside = np.sort(np.maximum(low - val_target, val_target - high))
  margin = outside[int(np.ceil(31 * 0.9)) - 1]
  assert margin > 0
  assert margin == recalibration.conformal_margin(low, high, val_target)
  low, high = interval(p)
  low, high = low - margin, high + margin
  covered = np.mean((low <= TARGET) & (TARGET <= high))
  assert found[member]['conformal', 'coverage90'] == pytest.approx(covered)
  assert found[member]['conformal', 'width90'] == pytest.approx(
    np.mean(high - low)
  )


def test_too_few_validation_rows_leave_the_conformal_rows_out(caplog):
  """Eight rows: no margin covers nine in ten. It is said once, not per seed."""
  results._warn_once.cache_clear()
  val = predicted_of(3, num_rows=8, exact=True, stream=1)
  val_target = np.linspace(-1, 2, 8)
  for _ in ('ce', 'remax'):
    with caplog.at_level(logging.WARNING, logger='genre2_jax'):
      rows = result_rows(TRIPLE, (7, 8, 9), TARGET, (val, val_target))
  found = by_seed(rows)
  for values in found.values():
    estimators = {estimator for estimator, _ in values}
    assert 'tempered' in estimators and 'conformal' not in estimators
  (message,) = caplog.messages
  assert 'takes 9 calibration rows, and there are 8' in message


def test_a_margin_never_turns_an_interval_inside_out():
  """Intervals that are far too wide are narrowed to the median at most."""
  wide = np.full((1, 9, 9), -np.log(9), np.float32)
  predicted = predicted_of(1, num_rows=9) | {'log_p': wide}
  target = np.full(9, VALUES[4])
  validation = predicted, target + 1e-3
  found = by_seed(result_rows(predicted, (7,), target, validation))[7]
  assert 0 <= found['conformal', 'width90'] < 0.01
  assert found['conformal', 'coverage90'] == 1
