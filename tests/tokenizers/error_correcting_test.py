"""Codes: what they correct, and what they are with nothing to correct.

That the dense expert is right is shown, with all tokenizers', by brute force in
tokenizers_test.py.
"""

import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused

from genre2_jax import tokenizers
from genre2_jax.errors import InputError
from genre2_jax.tokenizers.codec import Codec

OPTIONS = [{}, {'rounding': 'truncate'}, {'edge': 'midpoint'}]
each = functools.partial(pytest.mark.parametrize, ids=repr)


def repetition(base, digits, repeats, **options):
  return tokenizers.build(
    'repetition', base=base, digits=digits, repeats=repeats, **options
  )


def hamming(base, digits, **options):
  return tokenizers.build('hamming', base=base, digits=digits, **options)


ALL = [repetition(2, 8, 3), repetition(10, 3, 5), hamming(2, 8), hamming(7, 3)]


def words(base, length):
  return np.array(list(itertools.product(range(base), repeat=length)), np.int32)


def codewords(tokenizer):
  """What encode writes, for every number: int [b^K, T]."""
  return tokenizer.encode(tokenizer.inner.decode(inner_words(tokenizer)))


def inner_words(tokenizer):
  return words(tokenizer.inner.base, tokenizer.inner.digits)


@each('tokenizer', ALL)
def test_table(tokenizer):
  V, T = tokenizer.vocab_size, tokenizer.num_tokens
  assert V == tokenizer.inner.base and tokenizer.domain == 'unit'
  assert tokenizer.allowed.shape == (T, V) and tokenizer.allowed.all()
  assert tokenizer.num_sequences == V**T
  np.testing.assert_array_equal(tokenizer.token_values, np.arange(V))
  np.testing.assert_array_equal(tokenizer.token_kinds, np.zeros(V))
  same = dataclasses.replace(tokenizer)
  assert same == tokenizer and hash(same) == hash(tokenizer)


@each('tokenizer', [repetition(3, 3, r) for r in range(1, 6)] + ALL[2:])
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_with_no_error_it_is_the_inner_tokenizer(tokenizer, options):
  inner = dataclasses.replace(tokenizer.inner, **options)
  tokenizer = dataclasses.replace(tokenizer, inner=inner)
  values = np.random.default_rng(0).uniform(-0.1, 1.1, (4, 50))
  tokens = tokenizer.encode(values)
  assert tokens.dtype == np.int32
  assert tokens.shape == (4, 50, tokenizer.num_tokens)
  expected = inner.encode(values)
  np.testing.assert_array_equal(tokens[..., : inner.num_tokens], expected)
  decoded = tokenizer.decode(tokens)
  assert decoded.dtype == np.float64
  np.testing.assert_array_equal(decoded, inner.decode(expected))


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
def test_one_copy_is_normalized_bit_by_bit(options, xp):
  once, inner = repetition(6, 4, 1, **options), tokenizers.Normalized(6, 4)
  inner = dataclasses.replace(inner, **options)
  assert once.token_names == inner.token_names
  np.testing.assert_array_equal(once.allowed, inner.allowed)
  random = np.random.default_rng(0)
  values = random.uniform(size=300)
  np.testing.assert_array_equal(once.encode(values), inner.encode(values))
  tokens, target = map(xp.asarray, random.integers(6, size=(2, 300, 4)))
  np.testing.assert_array_equal(once.decode(tokens), inner.decode(tokens))
  assert once.decode(tokens).dtype == inner.decode(tokens).dtype
  # Prefixes of all lengths that agree with the target.
  keep = np.arange(4) < random.integers(5, size=(300, 1))
  tokens = xp.where(keep, target, tokens)
  np.testing.assert_array_equal(
    once.best_tokens(tokens, target), inner.best_tokens(tokens, target)
  )


@pytest.mark.parametrize('repeats', range(1, 6))
def test_the_most_frequent_digit_wins_and_of_equals_the_earliest(repeats):
  tokenizer = repetition(10, 2, repeats)
  random = np.random.default_rng(repeats)
  # Few digits, so that there are ties.
  tokens = random.integers(3, size=(500, repeats, 2))
  decoded = tokenizer.decode(tokens.reshape(500, -1))
  for copies, value in zip(tokens, decoded, strict=True):
    # Counter keeps the order of first appearance among equals.
    a, b = (collections.Counter(c).most_common(1)[0][0] for c in copies.T)
    assert value == (10 * a + b) / 100


def test_ties_by_hand():
  tokenizer = repetition(10, 1, 5)
  for tokens, winner in [
    ([1, 2, 2, 1, 3], 1),
    ([2, 1, 1, 2, 3], 2),
    ([3, 1, 1, 2, 2], 1),
    ([4, 3, 2, 1, 0], 4),
    ([4, 0, 0, 0, 4], 0),
  ]:
    assert tokenizer.decode(np.array(tokens)) == winner / 10


@pytest.mark.parametrize('repeats', [3, 4, 5])
def test_copies_outvote_wrong_tokens_at_every_position(repeats):
  tokenizer = repetition(4, 3, repeats)
  random = np.random.default_rng(0)
  values = tokenizer.inner.decode(inner_words(tokenizer))
  right = tokenizer.encode(values).reshape(-1, repeats, 3)
  order = random.permuted(
    np.broadcast_to(np.arange(repeats)[:, None], right.shape), axis=1
  )
  wrong = (right + random.integers(1, 4, right.shape)) % 4
  for count in range(repeats):
    tokens = np.where(order < count, wrong, right).reshape(len(values), -1)
    correct = tokenizer.decode(tokens) == values
    if count <= (repeats - 1) // 2:
      assert correct.all()
    else:
      assert not correct.all()


@pytest.mark.parametrize(
  ('base', 'digits', 'length'),
  [
    (2, 1, 3),
    (2, 4, 7),
    (2, 5, 9),
    (2, 8, 12),
    (3, 2, 4),
    (3, 4, 7),
    (7, 3, 5),
  ],
)
def test_hamming_mends_every_single_wrong_token(base, digits, length):
  tokenizer = hamming(base, digits)
  assert tokenizer.num_tokens == length
  right = codewords(tokenizer)
  values = tokenizer.decode(right)
  assert len(np.unique(values)) == base**digits
  for i, wrong_by in itertools.product(range(length), range(base)):
    tokens = right.copy()
    tokens[:, i] = (tokens[:, i] + wrong_by) % base
    np.testing.assert_array_equal(tokenizer.decode(tokens), values)


@pytest.mark.parametrize(('base', 'digits'), [(2, 4), (2, 6), (3, 3), (5, 2)])
def test_hamming_codewords_are_three_tokens_apart(base, digits):
  right = codewords(hamming(base, digits))
  distance = (right[:, None] != right[None]).sum(axis=-1)
  np.fill_diagonal(distance, 3)
  assert distance.min() == 3
  # Linear: the sum of two is a third.
  sums = (right[:, None] + right[None]).reshape(-1, right.shape[1]) % base
  assert {*map(tuple, sums)} == {*map(tuple, right)}


def test_textbook_codes():
  """Hamming(7, 4) and the tetracode, by the weights of their codewords."""
  seven_four = codewords(hamming(2, 4))
  weights = np.bincount((seven_four != 0).sum(axis=1))
  assert weights.tolist() == [1, 0, 0, 7, 7, 0, 0, 1]
  tetracode = codewords(hamming(3, 2))
  assert np.bincount((tetracode != 0).sum(axis=1)).tolist() == [1, 0, 0, 8]
  # Perfect codes: every number is written in equally many ways.
  for tokenizer, ways in [(hamming(2, 4), 8), (hamming(3, 2), 9)]:
    everything = words(tokenizer.vocab_size, tokenizer.num_tokens)
    _, counts = np.unique(tokenizer.decode(everything), return_counts=True)
    assert (counts == ways).all()


@each('tokenizer', [hamming(2, 3), hamming(2, 5), hamming(5, 2)])
def test_any_sequence_is_read_as_the_codeword_beside_it_or_as_it_stands(
  tokenizer,
):
  tokens = words(tokenizer.vocab_size, tokenizer.num_tokens)
  right = codewords(tokenizer)
  distance = (tokens[:, None] != right[None]).sum(axis=-1)
  count = tokenizer.inner.digits
  expected = np.where(
    (distance.min(axis=1) <= 1)[:, None],
    right[distance.argmin(axis=1), :count],
    tokens[:, :count],
  )
  np.testing.assert_array_equal(
    tokenizer.decode(tokens), tokenizer.inner.decode(expected)
  )
  assert (distance.min(axis=1) > 1).any()  # The codes are not perfect.


@each('tokenizer', [*ALL, repetition(4, 2, 4), hamming(31, 2)])
def test_jax_decodes_as_numpy(tokenizer):
  shape = (2, 100, tokenizer.num_tokens)
  random = np.random.default_rng(0)
  tokens = random.integers(tokenizer.vocab_size, size=shape)
  decode = jax.jit(type(tokenizer).decode, static_argnums=0)
  actual = decode(tokenizer, jnp.asarray(tokens))
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, tokenizer.decode(tokens), rtol=3e-7)


@each(
  'tokenizer',
  [
    repetition(8, 10, 3),
    repetition(10, 9, 2),
    repetition(36, 5, 5),
    hamming(2, 30),
    hamming(7, 10),
    hamming(31, 6),
  ],
)
def test_the_expert_of_the_largest_numbers_fits_int32(tokenizer):
  """The device's 32 bits against numpy's 64, far from the target and near."""
  random = np.random.default_rng(0)
  target = tokenizer.encode([0.0, 0.3, 0.5, 1.0])
  V = tokenizer.vocab_size
  noise = random.integers(V, size=(6, *target.shape))
  rate = np.array([0, 0.02, 0.1, 0.3, 0.6, 1])[:, None, None]
  tokens = np.where(random.uniform(size=noise.shape) < rate, noise, target)
  tokens = np.concatenate([tokens, [0 * target, 0 * target + V - 1]])
  best = tokenizer.best_tokens(tokens, target)
  assert ((best >= 0) & (best < V)).all()
  on_device = jax.jit(tokenizer.best_tokens)(jnp.asarray(tokens), target)
  np.testing.assert_array_equal(on_device, best)
  assert (best != target).any()


def text(tokens):
  return ''.join(map(str, tokens))


def follow(tokenizer, prefix, target):
  """Completes a prefix with the expert's tokens."""
  tokens = np.zeros(tokenizer.num_tokens, np.int32)
  tokens[: len(prefix)] = list(map(int, prefix))
  target = tokenizer.encode(target)
  for t in range(len(prefix), tokenizer.num_tokens):
    tokens[t] = tokenizer.best_tokens(tokens, target)[t]
  return text(tokens), float(tokenizer.decode(tokens))


def test_the_expert_votes_wrong_digits_down():
  tokenizer = repetition(10, 2, 3)
  assert follow(tokenizer, '99', 0.5) == ('995050', 0.5)
  # The second digit is settled at 9: 0.49 is nearer to 0.50 than 0.59,
  assert follow(tokenizer, '5949', 0.5) == ('594949', 0.49)
  # unless that is settled too: of three different digits the first wins.
  assert follow(tokenizer, '59490', 0.5) == ('594909', 0.59)


def test_the_expert_of_a_hamming_code_mends():
  tokenizer = hamming(2, 8)
  target = text(tokenizer.encode(0.5))
  assert target.startswith('10000000')
  # One wrong digit is left to the check digits.
  assert follow(tokenizer, '0', 0.5) == ('0' + target[1:], 0.5)
  assert follow(tokenizer, '11', 0.5) == ('11' + target[2:], 0.5)
  # Two: 01111111 as it stands is nearer than any 00... or 11...
  assert follow(tokenizer, '01', 0.5)[1] == 0b01111111 / 256
  # The third digit, though right, is the one that is best changed.
  assert follow(tokenizer, '0100', 0.5)[1] == 0b01101111 / 256


@each(
  'tokenizer',
  [
    repetition(2, 3, 3),
    repetition(3, 1, 4),
    repetition(4, 2, 2),
    hamming(2, 4),
    hamming(3, 2),
  ],
)
def test_who_follows_the_expert_arrives_at_the_nearest_and_lowest(tokenizer):
  """From every prefix, towards every number, by brute force."""
  V, T = tokenizer.vocab_size, tokenizer.num_tokens
  everything = tokenizer.decode(words(V, T))  # In units of the last digit:
  unit = V**-tokenizer.inner.digits
  target = codewords(tokenizer)[None]  # [1, Y, T]
  goal = tokenizer.decode(target[0]) / unit
  for length in range(T):
    numbers = everything.reshape(V**length, 1, -1) / unit
    ranked = 2 * abs(numbers - goal[:, None]) + (numbers > goal[:, None])
    nearest = np.take_along_axis(
      np.broadcast_to(numbers, ranked.shape),
      ranked.argmin(axis=-1)[..., None],
      axis=-1,
    )[..., 0]
    tokens = np.zeros((*nearest.shape, T), np.int32)
    tokens[..., :length] = words(V, length)[:, None]
    for t in range(length, T):
      tokens[..., t] = tokenizer.best_tokens(tokens, target)[..., t]
    np.testing.assert_array_equal(tokenizer.decode(tokens) / unit, nearest)


def test_a_codec_shares_a_numbers_cell_among_its_sequences():
  codec = Codec(hamming(2, 4), -2.0, 2.0)
  values, cells = codec.values(), codec.cells()
  np.testing.assert_allclose(cells, (4 / 16) / 8)
  assert cells.sum() == pytest.approx(4)
  z = np.linspace(-2, 1.7, 16)
  np.testing.assert_array_equal(
    values[codec.index(z)], codec.decode(codec.encode(z))
  )


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    (
      'hamming',
      {'base': 4},
      'base=4: .* needs a prime base: choose from 2',
    ),
    ('hamming', {'base': 10}, 'base=10: '),
    ('hamming', {'repeats': 3}, "option of tokenizer 'hamming' 'repeats'"),
    ('hamming', {'digits': 31}, 'digits=31: give an integer from 1 to 30'),
    ('repetition', {'repeats': 0}, 'repeats=0: give an integer from 1 to 5'),
    ('repetition', {'repeats': 6}, 'repeats=6: give an integer from 1 to 5'),
    ('repetition', {'repeats': 3.0}, 'repeats=3.0: give an integer'),
    ('repetition', {'edge': 'right'}, "unknown edge 'right'"),
  ],
)
def test_errors(name, options, message):
  options = {'base': 2, 'digits': 8} | options
  assert_refused(
    lambda: tokenizers.build(name, **options), *message.split(' .* ')
  )


@each('tokenizer', ALL)
def test_not_finite(tokenizer):
  with pytest.raises(InputError, match='1 of 2 values are NaN or infinite'):
    tokenizer.encode([np.nan, 0.5])
