"""Codecs: z-scores to tokens and back, over the span of the train targets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused
from scipy import stats

from genre2_jax import tokenizers
from genre2_jax.tokenizers.codec import Codec

UNIT = tokenizers.build('normalized', base=10, digits=3)
REAL = tokenizers.build('p10', base=10, digits=4)


def test_the_train_range_is_the_unit_interval():
  codec = Codec(UNIT, low=-2.0, high=3.0)
  tokens = codec.encode(np.array([-2.0, 0.5, 3.0]))
  assert tokens.tolist() == [[0, 0, 0], [5, 0, 0], [9, 9, 9]]
  assert tokens.dtype == np.int32
  # The tokenizer writes 1 as its largest number.
  np.testing.assert_allclose(codec.decode(tokens), [-2, 0.5, 2.995])


def test_what_lies_beyond_the_train_range_is_written_as_its_ends():
  codec = Codec(UNIT, low=-2.0, high=3.0)
  tokens = codec.encode(np.array([-50.0, 50.0]))
  assert tokens.tolist() == [[0, 0, 0], [9, 9, 9]]


def test_a_round_trip_errs_by_half_a_cell_at_most():
  codec = Codec(UNIT, low=-1.3, high=2.2)
  z = np.linspace(-1.3, 2.2 - 3.5 / 1000, 401)
  assert abs(codec.decode(codec.encode(z)) - z).max() <= 0.5001 * 3.5 / 1000


def test_a_real_tokenizer_writes_z_itself():
  codec = Codec(REAL, low=-1.0, high=1.0)
  z = np.array([-1.234, 0.0, 56.78])
  np.testing.assert_array_equal(codec.encode(z), REAL.encode(z))
  np.testing.assert_allclose(codec.decode(codec.encode(z)), z)


@pytest.mark.parametrize('tokenizer', [UNIT, REAL], ids=repr)
def test_the_device_reads_what_numpy_reads(tokenizer):
  codec = Codec(tokenizer, low=-1.5, high=2.5)
  tokens = codec.encode(np.linspace(-1.5, 2.5, 30).reshape(2, 15))
  on_device = jax.jit(codec.decode)(jnp.asarray(tokens))
  assert on_device.dtype == jnp.float32
  np.testing.assert_allclose(on_device, codec.decode(tokens), atol=1e-6)


@pytest.mark.parametrize('value', [0.0, -3.25])
def test_a_constant_target_is_zero_in_the_unit_and_comes_back(value):
  codec = Codec(UNIT, low=value, high=value)
  tokens = codec.encode(np.full(3, value))
  assert not tokens.any()
  np.testing.assert_array_equal(codec.decode(tokens), [value] * 3)
  # Whatever a policy writes, there is only that one number.
  np.testing.assert_array_equal(codec.decode(tokens + 7), [value] * 3)


# ------------------------------------------------------ all numbers, in order

GRIDS = [
  Codec(tokenizers.build(name, base=base, digits=digits, **options), -1.5, 2.5)
  for name, base, digits, options in [
    ('normalized', 2, 8, {}),
    ('normalized', 10, 2, {'edge': 'midpoint'}),
    ('p10', 10, 2, {'max_exponent': 2}),
    ('ieee', 3, 2, {}),
    ('ieee', 2, 2, {'specials': True}),
    ('exponent_first', 4, 2, {'max_exponent': 1}),
    ('bins', 2, 8, {'bins': 12}),
  ]
]
each_grid = pytest.mark.parametrize('codec', GRIDS, ids=lambda c: repr(c)[:60])


def sequences(tokenizer):
  choices = [np.flatnonzero(row) for row in tokenizer.allowed]
  return np.array(list(itertools.product(*choices)))


@each_grid
def test_values_stand_in_the_order_of_the_trie(codec):
  values = codec.values()
  assert values.dtype == np.float64
  expected = codec.decode(sequences(codec.tokenizer))
  np.testing.assert_array_equal(values, expected)


def test_values_of_many_blocks():
  codec = Codec(tokenizers.build('normalized', base=2, digits=17), 0.0, 1.0)
  np.testing.assert_array_equal(codec.values(), np.arange(2**17) / 2**17)


@each_grid
def test_the_index_is_that_of_the_sequence_that_is_written(codec):
  z = np.append(np.random.default_rng(0).normal(0, 2, 59), 0.0).reshape(6, 10)
  index = codec.index(z)
  assert index.shape == z.shape and index.dtype == np.int64
  tokens = sequences(codec.tokenizer)[index]
  np.testing.assert_array_equal(tokens, codec.encode(z))
  np.testing.assert_array_equal(codec.values()[index], codec.decode(tokens))


@pytest.mark.parametrize(
  'codec',
  [c for c in GRIDS if not isinstance(c.tokenizer, tokenizers.Bins)],
  ids=lambda c: repr(c)[:60],
)
def test_cells_are_where_their_number_is_the_nearest(codec):
  values, cells = codec.values(), codec.cells()
  assert cells.shape == values.shape and (cells > 0).all()
  finite = np.isfinite(values)
  assert np.isinf(cells[~finite]).all()
  numbers = np.unique(values[finite])
  widths = np.array([cells[values == v].sum() for v in numbers])
  # Sequences that mean one number share alike.
  for v in numbers:
    assert np.ptp(cells[values == v]) == 0
  fine = np.linspace(numbers[0], numbers[-1], 200_001)
  middles = (numbers[1:] + numbers[:-1]) / 2
  nearest = np.searchsorted(middles, fine)
  share = np.bincount(nearest, minlength=len(numbers)) * (fine[1] - fine[0])
  share[[0, -1]] *= 2  # the outer halves of the end cells
  np.testing.assert_allclose(widths, share, atol=3 * (fine[1] - fine[0]))


def test_cells_by_hand():
  codec = Codec(tokenizers.build('normalized', base=4, digits=1), 0.0, 8.0)
  np.testing.assert_allclose(codec.cells(), [2, 2, 2, 2])
  # 0 is written in 4 ways, ±1 and ±2 in one.
  tokenizer = tokenizers.build('p10', base=3, digits=1, max_exponent=0)
  codec = Codec(tokenizer, 0.0, 1.0)
  assert codec.values().tolist() == [0, 1, 2, 0, -1, -2]
  np.testing.assert_allclose(codec.cells(), [0.5, 1, 1, 0.5, 1, 1])
  wide = tokenizers.build('p10', base=3, digits=1, max_exponent=1)
  codec = Codec(wide, 0.0, 1.0)  # 0, ±1/3, ±2/3, ±1, ±2, ±3, ±6
  cells = dict(zip(codec.values(), codec.cells(), strict=True))
  assert cells[1] == pytest.approx((2 - 2 / 3) / 2)
  assert cells[3] == cells[-3] == pytest.approx(2)
  assert cells[6] == cells[-6] == pytest.approx(3)
  assert cells[0] == pytest.approx((1 / 3) / 6)


def test_cells_of_bins_are_the_bins():
  codec = Codec(tokenizers.Bins(bins=4, low=-1.0, high=1.0), -9.0, 9.0)
  tail = 0.5 * np.sqrt(2 / np.pi)
  np.testing.assert_allclose(
    codec.cells(), [2 * tail, 0.5, 0.5, 0.5, 0.5, 2 * tail]
  )


def test_a_density_from_the_cells_is_that_of_the_targets():
  """log p of a normal law, from its probabilities on the grid."""
  codec = Codec(tokenizers.build('normalized', base=2, digits=8), -5.0, 5.0)
  values, cells = codec.values(), codec.cells()
  edges = values + np.array([[-0.5], [0.5]]) * cells
  p = stats.norm.cdf(edges[1]) - stats.norm.cdf(edges[0])
  z = np.linspace(-2, 2, 50)
  index = codec.index(z)
  np.testing.assert_allclose(
    np.log(p[index] / cells[index]), stats.norm.logpdf(values[index]), atol=1e-3
  )


def test_the_sole_number_of_a_constant_target_has_width_one():
  codec = Codec(tokenizers.build('normalized', base=2, digits=3), 2.0, 2.0)
  np.testing.assert_allclose(codec.cells(), np.full(8, 1 / 8))


@pytest.mark.parametrize('ask', ['values', 'cells', 'index'])
def test_too_many_numbers_to_list(ask):
  codec = Codec(tokenizers.build('normalized', base=2, digits=23), 0.0, 1.0)
  arguments = [np.zeros(2)] if ask == 'index' else []
  assert_refused(
    lambda: getattr(codec, ask)(*arguments), '8,388,608 sequences, too many'
  )
  largest = Codec(tokenizers.build('normalized', base=2, digits=22), 0.0, 1.0)
  assert largest.index(np.ones(1)) == [2**22 - 1]


def test_a_bounded_target_has_no_numbers_beyond_its_bounds():
  """Ranks in [0, 1], by tokens that write from -99.9e9 to 99.9e9."""
  tokenizer = tokenizers.build('ieee', base=10, digits=2)
  free = Codec(tokenizer, low=0.0, high=1.0)
  codec = Codec(tokenizer, low=0.0, high=1.0, bounds=(0.0, 1.0))
  np.testing.assert_array_equal(codec.values(), free.values())
  values, cells = codec.grid()
  np.testing.assert_array_equal(values, np.clip(free.values(), 0, 1))
  # All that means 0 shares its cell; the widths span the line once.
  inside = np.unique(values)
  assert inside[0] == 0 and inside[-1] == 1 and free.values().max() > 1e9
  span = 1 + (inside[1] - inside[0]) / 2 + (inside[-1] - inside[-2]) / 2
  assert cells.sum() == pytest.approx(span)
  for array in (np.array([-3.0, 0.25, 7.0]), jnp.array([-3.0, 0.25, 7.0])):
    np.testing.assert_array_equal(codec.within(array), [0, 0.25, 1])
    np.testing.assert_array_equal(free.within(array), array)
  for mine, theirs in zip(
    free.grid(), (free.values(), free.cells()), strict=True
  ):
    np.testing.assert_array_equal(mine, theirs)
