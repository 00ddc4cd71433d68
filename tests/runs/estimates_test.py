"""Default numbers and intervals: what they are, and what they are called."""

import numpy as np
import pytest
from checks import assert_refused
from scipy import special
from tiny import one_target

from genre2_jax import tokenizers
from genre2_jax.data.features import TargetScaler
from genre2_jax.metrics import results, sampled
from genre2_jax.runs import estimates
from genre2_jax.tokenizers.codec import Codec

CODEC = Codec(
  tokenizers.build('normalized', base=3, digits=2), low=-1.0, high=2.0
)
SCALER = TargetScaler(mean=100.0, std=10.0, low=-1.0, high=2.0)
MODEL = one_target(CODEC, SCALER, network=None)
VALUES = CODEC.values()
POINTS = (*sampled.POINT_ESTIMATORS, 'exact_mean', 'exact_median')
ENDS = ('lower90', 'upper90')


def predicted_of(num_seeds, num_rows=8, num_samples=5, exact=True):
  rng = np.random.default_rng(num_seeds)
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


def test_columns_of_samples_are_in_the_original_unit():
  predicted = predicted_of(2, num_samples=40, exact=False)
  columns = estimates.columns(predicted, MODEL)
  own = [f'model_{end}' for end in ENDS]
  assert list(columns) == ['prediction', *sampled.POINT_ESTIMATORS, *own]
  samples = results.pooled(predicted)['samples_z']
  np.testing.assert_array_equal(columns['prediction'], columns['mean'])
  np.testing.assert_allclose(columns['mean'], 100 + 10 * samples.mean(-1))
  np.testing.assert_allclose(
    columns['median'], 100 + 10 * np.median(samples, -1)
  )
  np.testing.assert_allclose(
    columns['greedy'], 100 + 10 * predicted['greedy_z'].mean(0)
  )
  # The range is widened to 1.1 times its width before it clips.
  clipped = np.clip(samples, -1.15, 2.15)
  np.testing.assert_allclose(
    columns['clipped_mean'], 100 + 10 * clipped.mean(-1)
  )
  inside = (columns[own[0]][:, None] <= 100 + 10 * samples) & (
    100 + 10 * samples <= columns[own[1]][:, None]
  )
  assert 0.85 <= inside.mean() <= 0.95


def test_columns_are_exact_where_the_distribution_is():
  predicted = predicted_of(3)
  columns = estimates.columns(predicted, MODEL)
  p = np.exp(np.float64(predicted['log_p'])).mean(0)
  np.testing.assert_allclose(
    columns['exact_mean'], 100 + 10 * p @ VALUES, rtol=1e-6
  )
  np.testing.assert_array_equal(columns['prediction'], columns['exact_mean'])
  below = np.cumsum(p, axis=1)
  for name, q in (
    ('model_lower90', 0.05), ('exact_median', 0.5), ('model_upper90', 0.95),
  ):  # fmt: skip
    expected = VALUES[(below >= q).argmax(axis=1)]
    np.testing.assert_allclose(columns[name], 100 + 10 * expected)


def test_numbers_that_only_some_models_have_are_columns_too():
  predicted = predicted_of(2)
  assert set(estimates.columns(predicted, MODEL)) < set(estimates.NAMES)
  names = ('learned_mean', 'rail', 'rail_normalized')
  for place, name in enumerate(names):
    predicted[f'{name}_z'] = predicted['greedy_z'] / (place + 2)
  columns = estimates.columns(predicted, MODEL)
  for place, name in enumerate(names):
    expected = 100 + 10 * predicted['greedy_z'].mean(0) / (place + 2)
    np.testing.assert_allclose(columns[name], expected)
  np.testing.assert_array_equal(columns['prediction'], columns['exact_mean'])


def test_margins_move_the_default_interval_and_its_namesake_alone():
  predicted = predicted_of(1)
  margins = tuple(np.linspace(0.01, 0.5, len(estimates.COVERAGES)))
  margin = 10 * margins[estimates.COVERAGES.index(0.9)]
  plain = estimates.columns(predicted, MODEL)
  columns = estimates.columns(predicted, MODEL, margins)
  assert list(columns) == [
    'prediction', *ENDS, *POINTS,
    *(f'conformal_{end}' for end in ENDS), *(f'model_{end}' for end in ENDS),
  ]  # fmt: skip
  for end, sign in zip(ENDS, (-1, 1), strict=True):
    own = plain[f'model_{end}']
    np.testing.assert_array_equal(columns[f'model_{end}'], own)
    np.testing.assert_allclose(columns[end], own + sign * margin)
    np.testing.assert_array_equal(columns[f'conformal_{end}'], columns[end])
  points = estimates.columns(predicted, MODEL, has_interval=False)
  assert list(points) == ['prediction', *POINTS]


def test_margins_make_intervals_hold_on_the_rows_they_are_fitted_on():
  predicted = predicted_of(2, num_rows=50)
  target = 100 + 10 * np.random.default_rng(0).uniform(-1, 2, 50)
  margins = estimates.fit_margins(predicted, MODEL, target)
  for coverage in (0.5, 0.893, 0.9):
    z = estimates.interval(predicted, MODEL, coverage, margins)
    low, high = SCALER.restore(z).T + np.array([[-1e-9], [1e-9]])
    assert np.mean((low <= target) & (target <= high)) >= coverage
  assert_refused(
    lambda: estimates.interval(predicted, MODEL, 0.9999, margins), '0.999'
  )
  assert estimates.fit_margins(predicted, MODEL, target[:0]) == ()


def test_a_rows_bits_do_not_depend_on_the_rows_beside_it():
  predicted = predicted_of(3, num_rows=97)
  whole = estimates.columns(predicted, MODEL)
  for start in range(0, 97, 13):
    part = {k: v[:, start : start + 13] for k, v in predicted.items()}
    for name, values in estimates.columns(part, MODEL).items():
      expected = whole[name][start : start + 13]
      np.testing.assert_array_equal(values, expected, err_msg=name)


@pytest.mark.parametrize(
  'values', [None, {}, [1.0], ['x'] * 101, [float('nan')] * 101, [True] * 101]
)
def test_damaged_margins_are_refused(values):
  with pytest.raises(ValueError, match='margins: '):
    estimates.checked_margins(values)
