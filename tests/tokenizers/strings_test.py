"""Numbers as strings and decimals, in the target's own unit."""

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused
from hypothesis import strategies as st
from table_policy import sequences

from genre2_jax import tokenizers
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.tokenizers.strings import Decimal, Strings, grid

DECIMALS = [Decimal(1, 0), Decimal(2, 0), Decimal(1, 1), Decimal(1, 2)]
GRIDS = [grid('1..5'), grid('9..0'), grid('a,b,c', '0.5,-2,3')]


@pytest.mark.parametrize(
  ('strings', 'values', 'first', 'last', 'count'),
  [
    ('1..5', '', ('1', 1), ('5', 5), 5),
    ('0..9', '', ('0', 0), ('9', 9), 10),
    ('9..0', '0..9', ('9', 0), ('0', 9), 10),
    ('00..99', '', ('00', 0), ('99', 99), 100),
    ('8..12', '', ('8', 8), ('12', 12), 5),
    ('-5..10', '', ('-5', -5), ('10', 10), 16),
    ('a..e', '', ('a', 1), ('e', 5), 5),
    ('E..A', '0,1,2,3,4.5', ('E', 0), ('A', 4.5), 5),
    ('January..December', '', ('January', 1), ('December', 12), 12),
    ('bad, so-so, good', '', ('bad', 1), ('good', 3), 3),
    ('0.5,1,2.25', '', ('0.5', 0.5), ('2.25', 2.25), 3),
  ],
)
def test_a_grid_is_a_range_or_a_list(strings, values, first, last, count):
  tokenizer = grid(strings, values)
  pairs = list(zip(tokenizer.strings, tokenizer.values, strict=True))
  assert (pairs[0], pairs[-1], len(pairs)) == (first, last, count)
  assert tokenizer == tokenizers.build(
    'strings', base=2, digits=8, strings=strings, values=values
  )


@pytest.mark.parametrize(
  ('strings', 'values', 'words'),
  [
    ('1..x', '', ['1..x', 'no range']),
    ('1..99999', '', ['no range']),
    ('1,1', '', ["'1' comes twice"]),
    ('a..c', '1,2', ['2 numbers for 3 strings']),
    ('a..c', '1,2,two', ["'two' is no number"]),
    ('a,b', '1,1', ['1.0 comes twice']),
    ('a', '', ['1 strings']),
    ('a,,b', '', ['empty string']),
  ],
)
def test_what_is_no_grid_is_refused(strings, values, words):
  assert_refused(lambda: grid(strings, values), *words)


@pytest.mark.parametrize('tokenizer', GRIDS + DECIMALS)
@hypothesis.given(value=st.floats(-50, 150))
def test_a_number_becomes_the_nearest(tokenizer, value):
  every = tokenizer.decode(sequences(tokenizer))
  written = tokenizer.decode(tokenizer.encode(np.array([value])))[0]
  assert abs(written - value) <= np.abs(every - value).min() + 1e-9


def test_halves_go_up_wherever_rounding_moved_them():
  below = np.nextafter(2.5, 0)
  assert grid('1..5').encode(np.array([2.5, below])).ravel().tolist() == [2, 2]
  assert Decimal(1, 1).decode(Decimal(1, 1).encode(np.array([0.25]))) == 0.3


def test_decimals_are_zero_padded():
  tokens = Decimal(2, 1).encode(np.array([3.5, 99.97, 1e9, -1]))
  names = np.array(Decimal(2, 1).token_names)
  assert [''.join(row) for row in names[tokens]] == [
    '03.5', '99.9', '99.9', '00.0',
  ]  # fmt: skip
  assert Decimal(3, 0).token_names == tuple('0123456789')
  for wrong in ((0, 1), (9, 1), (1, -1)):
    assert_refused(lambda w=wrong: Decimal(*w), 'digits')


@pytest.mark.parametrize('tokenizer', GRIDS + DECIMALS)
def test_devices_read_what_the_host_reads(tokenizer):
  tokens = sequences(tokenizer)
  np.testing.assert_allclose(
    tokenizer.decode(jnp.asarray(tokens)), tokenizer.decode(tokens), rtol=1e-6
  )


@pytest.mark.parametrize('tokenizer', [GRIDS[0], Decimal(2, 0), Decimal(1, 1)])
def test_the_expert_completes_every_prefix_as_well_as_can_be(tokenizer):
  every, targets = sequences(tokenizer), sequences(tokenizer)[::7]
  numbers = tokenizer.decode(every)
  for target in targets:
    want = tokenizer.decode(target[None])[0]
    best = tokenizer.best_tokens(every, target)
    for t in range(tokenizer.num_tokens):
      shares = (every[:, None, :t] == every[None, :, :t]).all(-1)  # [K, K]
      follows = shares & (every[None, :, t] == best[:, t, None])
      assert follows.any(1).all()
      distance = np.abs(numbers - want)
      reached = np.where(follows, distance, np.inf).min(1)
      possible = np.where(shares, distance, np.inf).min(1)
      np.testing.assert_allclose(reached, possible, atol=1e-12)


def test_a_codec_writes_the_targets_own_unit():
  codec = Codec(grid('1..5'), -2.0, 2.0, mean=3.0, std=0.5)
  z = (np.array([1.2, 2.6, 9.0]) - 3.0) / 0.5
  assert codec.encode(z).ravel().tolist() == [0, 2, 4]
  np.testing.assert_allclose(codec.values(), [-4, -2, 0, 2, 4])
  np.testing.assert_allclose(codec.decode(codec.encode(z)), [-4, 0, 4])
  assert codec.index(z).tolist() == [0, 2, 4]
  np.testing.assert_allclose(codec.cells(), 2.0)


def test_token_kinds_keep_the_point_out():
  tokenizer = Decimal(1, 1)
  assert tokenizer.token_kinds.tolist() == [0] * 10 + [-1]
  assert tokenizer.allowed[1].tolist() == [False] * 10 + [True]
  assert Strings(('a', 'b'), (4.0, 2.0)).token_values.tolist() == [4.0, 2.0]


@pytest.mark.parametrize(
  ('tokenizer', 'numbers'),
  [
    (
      Strings(tuple('abcdefghijklm'), tuple(10.0**9 + i for i in range(13))),
      10.0**9 + np.arange(13),
    ),
    (Decimal(9, 0), 999_999_000.0 + np.arange(13)),
    (Decimal(7, 2), 9_999_999 + np.arange(13) / 100),
    (Decimal(9, 0), 500_000_000.0 + np.arange(-6, 7)),
  ],
)
def test_far_numbers_are_told_apart_on_the_device(tokenizer, numbers):
  """float32 keeps 7 digits: the mean comes off before."""
  mean, std = numbers.mean(), numbers.std()
  codec = Codec(tokenizer, -2.0, 2.0, mean, std)
  z = (numbers - mean) / std
  tokens = codec.encode(z)
  on_device = np.asarray(codec.decode(jnp.asarray(tokens)))
  assert on_device.dtype == np.float32
  np.testing.assert_allclose(on_device, z, atol=1e-5)
  np.testing.assert_allclose(codec.decode(tokens), z, atol=1e-6)
