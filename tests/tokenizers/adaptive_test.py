"""Numbers that lie where the training targets are."""

import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused

from genre2_jax import tokenizers
from genre2_jax.data import targets
from genre2_jax.tokenizers.adaptive import Adaptive, placed
from genre2_jax.tokenizers.codec import Codec

draw = np.random.default_rng(0)
COLUMNS = {
  'six grades': draw.choice([3, 4, 5, 6, 7, 8.0], 500),
  'uneven': np.repeat([0.0, 1e-3, 2.5, 100.0], [5, 1, 3, 2]),
  'continuous': draw.lognormal(0, 2, 700),
  'half zeros': np.maximum(draw.normal(size=400), 0),
  'tail': np.concatenate([draw.normal(size=300), [1e4]]),
  'two': np.array([0.0, 1.0]),
}


@pytest.mark.parametrize('name', sorted(COLUMNS))
@pytest.mark.parametrize('count', [16, 256])
def test_numbers_ascend_from_the_least_target_to_the_greatest(name, count):
  y = COLUMNS[name]
  numbers = placed(y, count)
  assert numbers.shape == (count,)
  assert (np.diff(numbers) > 0).all()
  assert (numbers[0], numbers[-1]) == (y.min(), y.max())


@pytest.mark.parametrize('name', ['six grades', 'uneven', 'two'])
def test_few_targets_are_numbers_and_the_rest_part_the_gaps(name):
  distinct = np.unique(COLUMNS[name])
  numbers = placed(COLUMNS[name], 256)
  assert set(distinct) <= set(numbers)
  # Of the widest piece no gap could have had one more at another's expense.
  parts = np.histogram(numbers[:-1], distinct)[0]
  gaps = np.diff(distinct)
  assert (gaps / parts).max() <= (gaps / np.maximum(parts - 1, 1e-9)).min()


def test_of_many_targets_one_half_is_even_and_one_at_quantiles():
  y = COLUMNS['continuous']
  numbers = placed(y, 256)
  even = np.linspace(y.min(), y.max(), 128)
  assert np.isin(even, numbers).all()
  others = numbers[~np.isin(numbers, even)]
  # As many targets on both sides of the middle one, to within a cell.
  shares = (y[:, None] <= others).mean(0)
  np.testing.assert_allclose(shares, (np.arange(128) + 0.5) / 128, atol=5e-3)


def test_the_cells_hold_targets_where_an_even_grid_has_them_in_one():
  """What it is for: half the targets fall into one even cell of sixteen."""
  y = COLUMNS['continuous']
  even = tokenizers.build('normalized', base=4, digits=2)
  unit = (y - y.min()) / np.ptp(y)
  most_even = np.unique(even.encode(unit), axis=0, return_counts=True)[1].max()
  fitted = tokenizers.build('adaptive', base=4, digits=2).fitted(y)
  most = np.unique(fitted.encode(y), axis=0, return_counts=True)[1].max()
  assert most_even > 0.5 * len(y) > 0.25 * len(y) > most


@pytest.mark.parametrize('name', sorted(COLUMNS))
def test_a_value_is_written_as_the_nearest_number(name):
  tokenizer = Adaptive(3, 4).fitted(COLUMNS[name])
  numbers = np.array(tokenizer.numbers)
  spread = np.ptp(numbers)
  values = numbers[0] + spread * np.linspace(-0.2, 1.2, 1001)
  got = tokenizer.decode(tokenizer.encode(values))
  best = np.abs(values[:, None] - numbers).min(axis=1)
  np.testing.assert_allclose(np.abs(got - values), best, atol=1e-12 * spread)
  np.testing.assert_array_equal(
    tokenizer.decode(tokenizer.encode(numbers)), numbers
  )
  tokens = tokenizer.encode(values)
  np.testing.assert_allclose(tokenizer.decode(jnp.asarray(tokens)), got, 1e-6)


def test_integers_come_out_as_integers():
  y = COLUMNS['six grades']
  scaler = targets.fit('standard', y)
  z = scaler.standardize(y)
  codec = Codec(Adaptive(4, 4).fitted(z), scaler.low, scaler.high)
  np.testing.assert_allclose(
    scaler.restore(codec.decode(codec.encode(z))), y, rtol=1e-14
  )


def test_a_constant_target_is_all_there_is_to_write():
  tokenizer = Adaptive(2, 3).fitted(np.full(5, 7.0))
  np.testing.assert_array_equal(tokenizer.encode([7.0]), np.zeros((1, 3)))
  assert set(tokenizer.decode(tokenizer.encode([-1.0, 7.0, 9.0]))) == {7.0}


def test_numbers_come_back_and_others_are_refused():
  fitted = Adaptive(2, 3).fitted(COLUMNS['continuous'])
  again = Adaptive(2, 3).with_numbers(list(fitted.numbers))
  assert again == fitted and hash(again) == hash(fitted)
  assert_refused(lambda: Adaptive(2, 2).with_numbers(fitted.numbers), 'give 4')
  assert_refused(
    lambda: Adaptive(2, 3).with_numbers(fitted.numbers[::-1]), 'ascending'
  )
  assert_refused(
    lambda: Adaptive(2, 3).with_numbers([float('nan')] * 8), 'finite'
  )
  other = tokenizers.build('normalized', base=2, digits=3)
  assert other.fitted(COLUMNS['continuous']) is other
  assert_refused(lambda: other.with_numbers(fitted.numbers), 'no fitted')


def test_too_many_numbers_are_refused():
  assert_refused(lambda: Adaptive(10, 5), 'take fewer digits')
