"""The tokens of several numbers are those of each, one after another."""

import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.errors import InputError
from genre2_jax.tokenizers.codec import Codec, JointCodec
from genre2_jax.tokenizers.joint import Joint, of_parts

DRAW = np.random.default_rng(0)
Z = DRAW.normal(size=(50, 3))
KINDS = {
  'normalized': tokenizers.build('normalized', base=4, digits=3),
  'p10': tokenizers.build('p10', base=10, digits=2, max_exponent=3),
  'repetition': tokenizers.build('repetition', base=2, digits=3, repeats=2),
  'adaptive': tokenizers.build('adaptive', base=3, digits=3),
}


def made(name):
  tokenizer = of_parts([KINDS[name]] * 3).fitted(Z)
  return JointCodec.of(
    [Codec(p, *z) for p, z in zip(tokenizer.parts, ranges(), strict=True)]
  )


def ranges():
  return [(float(x.min()), float(x.max())) for x in Z.T]


@pytest.mark.parametrize('name', KINDS)
def test_each_number_is_written_and_read_by_its_own(name):
  codec = made(name)
  tokens = codec.encode(Z)
  length = KINDS[name].num_tokens
  assert tokens.shape == (50, 3 * length)
  assert codec.tokenizer.allowed.shape == (3 * length, KINDS[name].vocab_size)
  read = codec.decode(tokens)
  best = codec.tokenizer.best_tokens(tokens[::-1], tokens)
  for place, own in enumerate(codec.parts):
    span = slice(place * length, (place + 1) * length)
    np.testing.assert_array_equal(tokens[:, span], own.encode(Z[:, place]))
    np.testing.assert_array_equal(read[:, place], own.decode(tokens[:, span]))
    np.testing.assert_array_equal(codec.values()[place], own.values())
    np.testing.assert_array_equal(
      best[:, span],
      own.tokenizer.best_tokens(tokens[::-1, span], tokens[:, span]),
    )


def test_targets_in_another_order_are_numbers_in_another_order():
  codec, order = made('adaptive'), [2, 0, 1]
  other = JointCodec.of([codec.parts[i] for i in order])
  tokens = codec.encode(Z).reshape(50, 3, 3)
  np.testing.assert_array_equal(
    other.encode(Z[:, order]).reshape(50, 3, 3), tokens[:, order]
  )


def test_fitted_numbers_are_saved_one_after_another():
  fitted = made('adaptive').tokenizer
  blank = of_parts([KINDS['adaptive']] * 3)
  assert blank.with_numbers(fitted.numbers) == fitted
  with pytest.raises(InputError, match='do not go to 3 targets'):
    blank.with_numbers(fitted.numbers[:-1])


def test_one_number_is_itself():
  assert of_parts([KINDS['p10']]) is KINDS['p10']
  codec = Codec(KINDS['p10'], -1.0, 1.0)
  assert JointCodec.of([codec]) is codec
  assert codec.parts == (codec,)
  assert isinstance(of_parts([KINDS['p10']] * 2), Joint)
