"""Codecs: z-scores to tokens and back, over the span of the train targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.codec import Codec

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
