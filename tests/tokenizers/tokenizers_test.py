"""Tokenizers: round trips, order, edges; the dense expert by brute force."""

import dataclasses
import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused

from genre2_jax import tokenizers
from genre2_jax.errors import InputError

SETTINGS = hypothesis.settings(
  deadline=None, derandomize=True, max_examples=100
)

NORMALIZED = [
  tokenizers.Normalized(base, digits, **options)
  for base, digits in [(2, 8), (4, 4), (6, 4), (8, 3), (10, 3)]
  for options in [
    {},
    {'rounding': 'truncate'},
    {'rounding': 'truncate', 'edge': 'midpoint'},
    {'edge': 'midpoint'},
  ]
]
SCIENTIFIC = [
  tokenizers.build('p10', base=10, digits=4),
  tokenizers.build('ieee', base=10, digits=4),
  tokenizers.build('ieee', base=10, digits=3, exponent_digits=2),
  tokenizers.build('ieee', base=2, digits=6, exponent_digits=3, specials=True),
  tokenizers.build('exponent_first', base=10, digits=4),
  tokenizers.build('exponent_first', base=7, digits=1, max_exponent=3),
]
CODES = [
  tokenizers.build('repetition', base=2, digits=3, repeats=3),
  tokenizers.build('repetition', base=3, digits=2, repeats=3, edge='midpoint'),
  tokenizers.build('repetition', base=10, digits=1, repeats=2),
  tokenizers.build('repetition', base=3, digits=1, repeats=4),
  tokenizers.build('repetition', base=2, digits=2, repeats=5),
  tokenizers.build('repetition', base=4, digits=1, repeats=5),
  tokenizers.build('hamming', base=2, digits=4),
  tokenizers.build('hamming', base=2, digits=5),
  tokenizers.build('hamming', base=3, digits=2, edge='midpoint'),
  tokenizers.build('hamming', base=5, digits=2),
]
SMALL = [
  tokenizers.build('normalized', base=2, digits=4),
  tokenizers.build('normalized', base=3, digits=3),
  tokenizers.build('adaptive', base=3, digits=2).fitted(
    np.array([-1.5, -1.4, 0.0, 0.25, 6.0])
  ),
  tokenizers.build('p10', base=10, digits=2, max_exponent=2),
  tokenizers.build('p10', base=3, digits=3, max_exponent=1),
  tokenizers.build('ieee', base=10, digits=2),
  tokenizers.build('ieee', base=2, digits=2, exponent_digits=3),
  tokenizers.build('exponent_first', base=10, digits=2, max_exponent=2),
  *CODES,
]
each = functools.partial(pytest.mark.parametrize, ids=repr)


def sequences(tokenizer):
  """Every sequence of the grammar, in lexicographic order of its slots."""
  choices = [np.flatnonzero(row) for row in tokenizer.allowed]
  return np.array(list(itertools.product(*choices)), np.int32)


def round_trip(tokenizer, values):
  return tokenizer.decode(tokenizer.encode(values))


def in_grammar(tokenizer, tokens):
  positions = np.arange(tokenizer.num_tokens)
  return tokenizer.allowed[positions, tokens].all()


def text(tokenizer, value):
  return ' '.join(tokenizer.token_names[t] for t in tokenizer.encode(value))


def extremes(tokenizer):
  """Largest number, and smallest whose first digit is not 0."""
  powers = float(tokenizer.base) ** np.arange(-190, 190)
  values = round_trip(tokenizer, np.append(powers, 1.7e308))
  return values.max(), values[values > 0].min()


@each('tokenizer', NORMALIZED + SCIENTIFIC)
def test_table(tokenizer):
  shape = (tokenizer.num_tokens, tokenizer.vocab_size)
  assert tokenizer.allowed.shape == shape
  assert tokenizer.allowed.any(axis=1).all()
  assert len(set(tokenizer.token_names)) == tokenizer.vocab_size
  assert isinstance(tokenizer.num_sequences, int)
  same = dataclasses.replace(tokenizer)
  assert same == tokenizer and hash(same) == hash(tokenizer)


@each('tokenizer', NORMALIZED + SCIENTIFIC)
def test_token_values_and_kinds(tokenizer):
  kinds, values = tokenizer.token_kinds, tokenizer.token_values
  assert values.dtype == np.float64 and kinds.dtype.kind == 'i'
  assert kinds.shape == values.shape == (tokenizer.vocab_size,)
  for name, kind, value in zip(
    tokenizer.token_names, kinds, values, strict=True
  ):
    if name in '+-' or name.startswith('<'):
      assert (kind, value) == (-1, 0)
    elif name.startswith('E'):
      assert (kind, value) == (1, int(name[1:]))
    else:
      assert (kind, value) == (0, int(name, 36))


def test_num_sequences():
  assert NORMALIZED[0].num_sequences == 256
  assert SCIENTIFIC[0].num_sequences == 2 * 10**4 * 21
  assert SCIENTIFIC[1].num_sequences == 2 * 2 * 10 * 10**4
  assert tokenizers.Normalized(36, 5).num_sequences == 36**5


@each('tokenizer', NORMALIZED)
def test_normalized_every_sequence(tokenizer):
  tokens = sequences(tokenizer)
  values = tokenizer.decode(tokens)
  assert values.dtype == np.float64
  np.testing.assert_array_equal(tokenizer.encode(values), tokens)
  assert (np.diff(values) > 0).all()  # lexicographic order is numeric order
  assert len(tokens) == tokenizer.num_sequences


@each('tokenizer', NORMALIZED)
@SETTINGS
@hypothesis.given(st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=20))
def test_normalized_error_and_order(tokenizer, values):
  values = np.sort(values)
  tokens = tokenizer.encode(values)
  assert tokens.dtype == np.int32 and in_grammar(tokenizer, tokens)
  decoded = tokenizer.decode(tokens)
  np.testing.assert_array_equal(tokenizer.encode(decoded), tokens)
  assert (np.diff(decoded) >= 0).all()
  cell = 1 / tokenizer.num_sequences
  clipped = np.clip(values, 0, 1)
  bound = cell / 2
  if tokenizer.rounding == 'truncate':
    bound = cell / 2 if tokenizer.edge == 'midpoint' else cell
  elif clipped.max() > 1 - 1.5 * cell:  # The last cell is the widest.
    bound = 0.75 * cell if tokenizer.edge == 'midpoint' else cell
  assert (abs(decoded - clipped) <= bound + 1e-15).all()


def test_normalized_rounding_and_edges():
  rounding = tokenizers.Normalized(10, 2)
  truncate = tokenizers.Normalized(10, 2, 'truncate')
  midpoint = tokenizers.Normalized(10, 2, 'truncate', 'midpoint')
  values = [-3.0, 0.0, 0.29, 0.296, 0.999, 1.0, 7.0]
  expected = [0, 0, 0.29, 0.3, 0.99, 0.99, 0.99]
  np.testing.assert_array_equal(round_trip(rounding, values), expected)
  assert round_trip(truncate, 0.299) == 0.29
  assert round_trip(midpoint, 0.29) == 0.295
  centre = tokenizers.Normalized(10, 2, 'round', 'midpoint')
  expected = [0.0025, 0.29, 0.3, 0.9925]
  np.testing.assert_allclose(round_trip(centre, [0, 0.294, 0.296, 1]), expected)
  assert truncate.encode(np.nextafter(0.29, 0)).tolist() == [2, 8]


@each('tokenizer', [t for t in SMALL if t.domain == 'real'])
def test_scientific_every_sequence(tokenizer):
  """A number is written once: encode picks one of its sequences."""
  tokens = sequences(tokenizer)
  values = tokenizer.decode(tokens)
  small = abs(values) < extremes(tokenizer)[1]
  again = round_trip(tokenizer, values)
  np.testing.assert_array_equal(again[~small], values[~small])
  assert (abs(again[small]) <= extremes(tokenizer)[1]).all()


@each('tokenizer', SCIENTIFIC)
@SETTINGS
@hypothesis.given(
  st.lists(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-100, 100)
    | st.integers(-400, 300).map(lambda n: float(f'1e{n}')),
    min_size=2,
    max_size=20,
  )
)
def test_scientific_error_and_order(tokenizer, values):
  values = np.sort(values)
  with np.errstate(all='raise', under='ignore'):
    tokens = tokenizer.encode(values)
    decoded = tokenizer.decode(tokens)
  assert tokens.dtype == np.int32 and in_grammar(tokenizer, tokens)
  np.testing.assert_array_equal(tokenizer.encode(decoded), tokens)
  assert (np.diff(decoded) >= 0).all()
  largest, smallest = extremes(tokenizer)
  clipped = np.clip(values, -largest, largest)
  relative = 0.5 * tokenizer.base ** (1.0 - tokenizer.digits) + 1e-12
  error = abs(decoded - clipped)
  assert (error <= np.maximum(relative * abs(clipped), smallest / 2)).all()


@each('tokenizer', SCIENTIFIC)
@pytest.mark.parametrize('sign', [1, -1])
def test_exact_powers(tokenizer, sign):
  """From base^-12 to base^12; each neighbour rounds to the power as well."""
  largest, smallest = extremes(tokenizer)
  base = tokenizer.base
  powers = np.array(
    [float(base**n) if n >= 0 else 1 / base**-n for n in range(-12, 13)]
  )
  powers = sign * powers[(powers <= largest) & (powers >= smallest)]
  assert len(powers) >= 5
  np.testing.assert_array_equal(round_trip(tokenizer, powers), powers)
  for direction in (-np.inf, np.inf):
    near = np.nextafter(powers, direction)
    np.testing.assert_array_equal(round_trip(tokenizer, near), powers)


@each('tokenizer', SCIENTIFIC)
def test_underflow_to_the_nearer(tokenizer):
  _, smallest = extremes(tokenizer)
  sizes = smallest * np.array([0, 0.3, 0.49, 0.51, 0.7, 1])
  expected = smallest * np.array([0, 0, 0, 1, 1, 1])
  np.testing.assert_array_equal(round_trip(tokenizer, sizes), expected)
  np.testing.assert_array_equal(round_trip(tokenizer, -sizes), -expected)


def test_scientific_text():
  p10, ieee, _, binary, exponent_first, _ = SCIENTIFIC
  assert text(p10, 12.34) == '+ 1 2 3 4 E-2'
  assert text(p10, -1e14) == '- 9 9 9 9 E10'
  assert text(p10, 0) == '+ 0 0 0 0 E0'
  assert text(p10, 0.6e-7) == '+ 1 0 0 0 E-10'
  assert text(p10, -0.4e-7) == '+ 0 0 0 0 E0'
  assert text(ieee, -0.01234) == '- - 2 1 2 3 4'
  assert text(ieee, 1) == '+ + 0 1 0 0 0'
  assert text(ieee, 9.9996) == '+ + 1 1 0 0 0'
  assert text(ieee, 0.99996) == '+ + 0 1 0 0 0'
  assert text(ieee, 9.9994) == '+ + 0 9 9 9 9'
  assert text(ieee, -1e308) == '- + 9 9 9 9 9'
  for zero in (0.0, -0.0, 1e-320, -1e-20):
    assert text(ieee, zero) == '+ - 0 0 0 0 0'
  assert text(binary, 0.75) == '+ - 0 0 1 1 1 0 0 0 0'
  assert text(exponent_first, -1234.4) == '- E3 1 2 3 4'
  assert exponent_first.encode(np.zeros((2, 0, 3))).shape == (2, 0, 3, 6)


def test_specials():
  tokenizer = tokenizers.build('ieee', base=10, digits=2, specials=True)
  values = np.array([np.nan, np.inf, -np.inf, -1.5])
  names = ['<nan>', '<+inf>', '<-inf>', '-']
  tokens = tokenizer.encode(values)
  assert [tokenizer.token_names[t] for t in tokens[:, 0]] == names
  assert text(tokenizer, np.nan) == '<nan> - 0 0 0'
  assert in_grammar(tokenizer, tokens)
  np.testing.assert_array_equal(tokenizer.decode(tokens), values)
  np.testing.assert_array_equal(tokenizer.decode(jnp.array(tokens)), values)
  # A special has no nearest number: the expert answers with the target.
  pairs = tokens[:, None], tokens[None]
  best = tokenizer.best_tokens(*pairs)
  np.testing.assert_array_equal(best, np.broadcast_arrays(*pairs)[1])


@each('tokenizer', [NORMALIZED[0], SCIENTIFIC[0], SCIENTIFIC[1]])
def test_not_finite(tokenizer):
  values = np.zeros((2, 4))
  values[0, 1], values[1, 0], values[1, 3] = np.nan, np.inf, -np.inf
  message = r'3 of 8 values are NaN or infinite \(flat index 1, 4, 7\): drop'
  with pytest.raises(InputError, match=message):
    tokenizer.encode(values)


def test_not_finite_advises_specials():
  with pytest.raises(InputError, match='specials=True'):
    SCIENTIFIC[1].encode(np.nan)


@each('tokenizer', [*SMALL, *NORMALIZED, SCIENTIFIC[0], SCIENTIFIC[3]])
def test_jax_decodes_as_numpy(tokenizer):
  tokens = sequences(tokenizer)[::7]
  expected = tokenizer.decode(tokens)
  decode = jax.jit(type(tokenizer).decode, static_argnums=0)
  actual = decode(tokenizer, jnp.array(tokens))
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, expected, rtol=3e-7)
  mapped = jax.vmap(tokenizer.decode)(jnp.array(tokens[:5]))
  np.testing.assert_allclose(mapped, expected[:5], rtol=3e-7)


def test_jax_decodes_large_cells():
  """(10, 8) has more cells than float32 has integers."""
  tokenizer = tokenizers.Normalized(10, 8)
  tokens = tokenizer.encode([0.16777217, 0.99999999, 1e-8])
  actual = jax.jit(tokenizer.decode)(jnp.array(tokens))
  expected = [0.16777217, 0.99999999, 1e-8]
  np.testing.assert_allclose(actual, expected, rtol=2**-23)


def test_jax_saturates_beyond_float32():
  tokenizer = SCIENTIFIC[2]
  tokens = jnp.array(tokenizer.encode([1e80, -1e80, 0, 1e-80]))
  actual = tokenizer.decode(tokens)
  expected = [np.inf, -np.inf, 0, 0]
  np.testing.assert_allclose(actual, expected, atol=1e-30)


def pairs_of_prefix_and_target(tokenizer, num_targets=150):
  """All prefixes [P, 1, T], as sequences, and some targets [1, Y, T]."""
  tokens = sequences(tokenizer)
  last = np.flatnonzero(tokenizer.allowed[-1])[0]
  prefixes = tokens[tokens[:, -1] == last]
  # A stride prime to every slot's size visits all their values.
  stride = max(1, len(tokens) // num_targets) | 1
  return prefixes[:, None], tokens[None, ::stride]


@each('tokenizer', SMALL)
@pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
def test_best_tokens_by_brute_force(tokenizer, xp):
  """Each answer keeps the least distance under its prefix within reach."""
  prefixes, targets = pairs_of_prefix_and_target(tokenizer)
  best = tokenizer.best_tokens
  if xp is jnp:
    best = jax.jit(best)
  best = np.asarray(best(xp.asarray(prefixes), xp.asarray(targets)))

  wanted = tokenizer.decode(targets[0])
  distance = abs(wanted[:, None] - tokenizer.decode(sequences(tokenizer)))
  sizes = tokenizer.allowed.sum(axis=1)
  first = tokenizer.allowed.argmax(axis=1)
  rank = np.arange(len(wanted))
  tolerance = 1e-6 * np.abs(wanted) + 1e-15
  for t in range(tokenizer.num_tokens):
    # Slots of these grammars allow consecutive tokens.
    least = distance.reshape(len(wanted), *sizes[: t + 1], -1).min(axis=-1)
    index = tuple(prefixes[:, :, j] - first[j] for j in range(t))
    under_prefix = least[(rank, *index)]  # [P, Y, choices at t]
    under_prefix = np.broadcast_to(
      under_prefix, (len(prefixes), len(wanted), sizes[t])
    )
    chosen = np.take_along_axis(
      under_prefix, best[..., t, None] - first[t], axis=-1
    )[..., 0]
    assert (chosen <= under_prefix.min(axis=-1) + tolerance).all(), t


@each('tokenizer', SMALL)
def test_best_tokens_on_and_off_the_path(tokenizer):
  prefixes, targets = pairs_of_prefix_and_target(tokenizer, 40)
  best = tokenizer.best_tokens(prefixes, targets)
  assert best.shape == (*np.broadcast_shapes(prefixes.shape, targets.shape),)
  assert in_grammar(tokenizer, best)
  same = np.cumprod(prefixes == targets, axis=-1)[..., :-1]
  on_path = np.concatenate([np.ones_like(same[..., :1]), same], axis=-1) > 0
  expected = np.broadcast_to(targets, best.shape)
  np.testing.assert_array_equal(best[on_path], expected[on_path])
  # Position t sees only what stands before it.
  everything = sequences(tokenizer)
  random = np.random.default_rng(0)
  for t in range(tokenizer.num_tokens):
    other = everything[random.integers(len(everything), size=len(prefixes))]
    mixed = np.concatenate([prefixes[..., :t], other[:, None, t:]], axis=-1)
    mixed = tokenizer.best_tokens(mixed, targets)
    np.testing.assert_array_equal(mixed[..., : t + 1], best[..., : t + 1])


best_tokens = jax.jit(
  lambda tokenizer, *tokens: tokenizer.best_tokens(*tokens), static_argnums=0
)


def follow(tokenizer, prefix, target):
  """Completes a prefix, given as text, with the expert's tokens."""
  prefix = [tokenizer.token_names.index(name) for name in prefix.split()]
  tokens = np.zeros(tokenizer.num_tokens, np.int32)
  tokens[: len(prefix)] = prefix
  target = tokenizer.encode(target)
  for t in range(len(prefix), tokenizer.num_tokens):
    tokens[t] = best_tokens(tokenizer, tokens, target)[t]
  return ' '.join(tokenizer.token_names[t] for t in tokens)


def test_best_tokens_text():
  p10, ieee, wide, _, exponent_first, _ = SCIENTIFIC
  assert follow(NORMALIZED[0], '1 0', 0.25) == '1 0 0 0 0 0 0 0'
  assert follow(NORMALIZED[0], '0 0', 0.25) == '0 0 1 1 1 1 1 1'
  assert follow(ieee, '-', 1234.0) == '- - 0 0 0 0 0'
  assert follow(ieee, '+ -', 1234.0) == '+ - 0 9 9 9 9'
  assert follow(ieee, '+ +', 1e-7) == '+ + 0 0 0 0 0'
  # Lexicographically the rest would be 0 0 0 0.
  assert follow(ieee, '+ + 5', 1500.0) == '+ + 5 0 0 1 5'
  assert follow(p10, '-', 1234.0) == '- 0 0 0 0 E0'
  assert follow(p10, '+ 9', 1e-3) == '+ 9 9 9 9 E-7'
  assert follow(exponent_first, '-', 5.0) == '- E0 0 0 0 0'
  # Numbers that float32 cannot hold.
  assert follow(wide, '+ - 5', 1e50) == '+ - 5 0 9 9 9'
  assert follow(wide, '+ + 5', 1e80) == '+ + 5 9 9 9 9'
  assert follow(wide, '+ + 9', -1e-50) == '+ + 9 0 0 0 0'
  assert follow(wide, '+ + 9 9 5', 1e-50) == '+ + 9 9 5 0 0'


@pytest.mark.parametrize('layout', ['p10', 'exponent_first'])
def test_best_tokens_in_float32_is_near_float64(layout):
  tokenizer = tokenizers.build(layout, base=10, digits=6)
  random = np.random.default_rng(0)
  values = 10.0 ** random.uniform(-9, 9, (2, 300)) * random.choice([-1, 1], 300)
  tokens, targets = tokenizer.encode(values)
  actual = jax.jit(tokenizer.best_tokens)(jnp.array(tokens), targets)
  assert (actual == tokenizer.best_tokens(tokens, targets)).mean() > 0.999


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'name': 'normalised'}, "unknown tokenizer 'normalised': did you mean "),
    ({'name': 'zz'}, "'zz': choose from normalized, adaptive, p10, ieee, ex"),
    ({'base': 1}, 'base=1: give an integer from 2 to 36'),
    ({'base': 2.0}, 'base=2.0: give an integer'),
    ({'digits': 0}, 'digits=0: give an integer from 1 to 9'),
    ({'digits': 10}, 'digits=10: give an integer from 1 to 9'),
    ({'base': 2, 'digits': 31}, 'digits=31: give an integer from 1 to 30'),
    ({'roundin': 'x'}, "'roundin': did you mean 'rounding'"),
    ({'rounding': 'floor'}, "unknown rounding 'floor': choose from round, tr"),
    ({'edge': 'right'}, "unknown edge 'right'"),
    ({'name': 'p10', 'specials': True}, "option of tokenizer 'p10' 'specials'"),
    ({'name': 'p10', 'max_exponent': 28}, 'from 0 to 27'),
    ({'name': 'ieee', 'exponent_digits': 3}, 'exponent_digits=3: .* 1 to 2'),
  ],
)
def test_build_errors(arguments, message):
  arguments = {'name': 'normalized', 'base': 10, 'digits': 4} | arguments
  assert_refused(lambda: tokenizers.build(**arguments), *message.split(' .* '))


def test_largest_of_each_base():
  """The limits on digits are the largest that int32 can count, and work."""
  for base, digits in [(2, 30), (10, 9), (36, 5)]:
    assert base**digits <= 2**30 < base ** (digits + 1)
    for name in ('normalized', 'p10', 'ieee'):
      tokenizer = tokenizers.build(name, base=base, digits=digits)
      unit = base**digits if name == 'p10' else 1
      tokens = tokenizer.encode([0.6 * unit, 0.9 * unit])
      error = tokenizer.decode(tokens)[0] / unit - 0.6
      assert abs(error) <= 0.5 * base**-digits
      decoded = tokenizer.decode(jnp.array(tokens))
      np.testing.assert_allclose(decoded, tokenizer.decode(tokens), rtol=3e-7)
      other = tokens[::-1]
      assert in_grammar(tokenizer, tokenizer.best_tokens(other, tokens))
