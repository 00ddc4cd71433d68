"""Numbers as short token sequences, as static tables.

A tokenizer says which tokens may stand at each position, which number a
sequence means, and which next token leads nearest to a target. It holds no
arrays of its own making but numpy constants, so it is hashable and static for
`jax.jit`.

Letters: T tokens per number, V vocabulary, K or D digits, N exponents.
Digit tokens come first in every vocabulary: token v < base is the digit v.
"""

import abc
import dataclasses
import difflib
import functools
import math
import string
from typing import ClassVar

import numpy as np

from genre2_jax.errors import InputError

_DIGITS = string.digits + string.ascii_lowercase
# Mantissas and cell numbers are int32 on device; rounding in float32 may
# overshoot the largest by a few units, and must still fit.
_MAX_COUNT = 2**30
# Powers of the base up to 2^90, times a mantissa, are finite in float32.
_SAFE_BITS = 90


class Tokenizer(abc.ABC):
  """A fixed-length, position-only grammar of numbers.

  Attributes:
    domain: 'unit' for values in [0, 1], 'real' for any number.
    token_names: V strings.
    allowed: bool [T, V], the tokens that the grammar allows at each position.
  """

  domain: ClassVar[str]
  token_names: tuple[str, ...]
  allowed: np.ndarray

  @property
  def num_tokens(self) -> int:
    return self.allowed.shape[0]

  @property
  def vocab_size(self) -> int:
    return len(self.token_names)

  @property
  def num_sequences(self) -> int:
    """Number of sequences in the grammar, as an unbounded Python integer."""
    return math.prod(self.allowed.sum(axis=1).tolist())

  @abc.abstractmethod
  def encode(self, values) -> np.ndarray:
    """Writes `values` [...] as tokens, int32 [..., T], with float64 arithmetic.

    Raises:
      InputError: a value is NaN or infinite and there is no token for it.
    """

  @abc.abstractmethod
  def decode(self, tokens):
    """Numbers [...] that `tokens` [..., T] mean.

    float64 for numpy arrays, float32 for JAX arrays. The sequences must be of
    the grammar; what others mean is undefined.
    """

  def best_tokens(self, tokens, target):
    """Dense expert: the next token that leads nearest to the target.

    Entry t is the next token of the number that is nearest to the target among
    those that start with tokens[..., :t]; later tokens have no influence.
    While that prefix is the target's own, entry t is the target's token.
    GenRe² (Chen et al., arXiv 2512.06533; ICML 2026 version), which compares
    IEEE tokens lexicographically; here the number counts (`Scientific`).

    Args:
      tokens: int [..., T], numpy or JAX; the policy's own sequences.
      target: int [..., T], broadcast against `tokens`.

    Returns:
      int [..., T].
    """
    xp = tokens.__array_namespace__()
    tokens, target = xp.broadcast_arrays(tokens, target)
    differs = tokens != target
    strayed = xp.cumsum(differs, axis=-1) - differs > 0  # [..., T]
    return xp.where(strayed, self._nearest(xp, tokens, target), target)

  @abc.abstractmethod
  def _nearest(self, xp, tokens, target):
    """`best_tokens` where the prefix is not the target's; elsewhere unused."""


@dataclasses.dataclass(frozen=True)
class Normalized(Tokenizer):
  """A number in [0, 1] as K digits, most significant first.

  k = round(u·b^K), clipped to b^K − 1, as in GenRe² (arXiv 2512.06533), halves
  to even; or k = ⌊u·b^K⌋, as in regress-lm (DBR, arXiv 2501.19383). Values
  outside [0, 1] are clipped. Decodes to k/b^K, as both do, or to the midpoint
  of the cell that is mapped to k: (k + ½)/b^K after truncation, and after
  rounding k/b^K but for the first cell and the last.
  """

  base: int = 2
  digits: int = 8
  rounding: str = 'round'
  edge: str = 'left'

  domain: ClassVar[str] = 'unit'

  def __post_init__(self):
    _check_digits(self.base, self.digits)
    _check_choice('rounding', self.rounding, ('round', 'truncate'))
    _check_choice('edge', self.edge, ('left', 'midpoint'))

  @property
  def token_names(self):
    return tuple(_DIGITS[: self.base])

  @property
  def allowed(self):
    return np.ones((self.digits, self.base), bool)

  def encode(self, values):
    values = np.asarray(values, np.float64)
    _check_finite(values, 'drop them')
    values = np.clip(values, 0, 1)
    count = self.base**self.digits
    if self.rounding == 'round':
      cell = np.rint(values * count)
    else:
      cell = np.floor(values * count)
      # The product may round across an edge; the edges are what decode returns.
      cell += (cell + 1) / count <= values
      cell -= cell / count > values
    cell = np.minimum(cell, count - 1).astype(np.int64)
    return _digits(cell, self.base, self.digits).astype(np.int32)

  def decode(self, tokens):
    xp = tokens.__array_namespace__()
    number = _number(xp, tokens, self.base)
    count = self.base**self.digits
    cell = number.astype(_float(xp))
    if self.edge == 'midpoint' and self.rounding == 'truncate':
      cell = cell + 0.5
    elif self.edge == 'midpoint':
      low = xp.maximum(cell - 0.5, 0)
      cell = (low + xp.where(number == count - 1, count, cell + 0.5)) / 2
    return cell / count

  def _nearest(self, xp, tokens, target):
    # Prefixes order as their numbers do: above the target the lowest
    # completion is the nearest, below it the highest.
    ahead = (tokens - target) * xp.asarray(_places(self.base, self.digits))
    ahead = xp.cumsum(ahead, axis=-1) - ahead
    return xp.where(ahead > 0, 0, self.base - 1)


@dataclasses.dataclass(frozen=True)
class Scientific(Tokenizer):
  """A real number as sign, mantissa of D digits, and exponent.

  | layout         | tokens                                | number          |
  |----------------|---------------------------------------|-----------------|
  | p10            | sign, D digits, exponent token        | ±dddd·b^E       |
  | ieee           | sign, exponent sign, digits, D digits | ±d.ddd·b^(±e)   |
  | exponent_first | sign, exponent token, D digits        | ±d.ddd·b^E      |

  P10: Charton, arXiv 2112.01898. IEEE: DBR (Song & Bahri, arXiv 2501.19383).
  Encoding rounds to the nearest number whose first digit is not 0. Beyond the
  largest it saturates; below the smallest it takes that or 0, the nearer. Zero
  is written '+', exponent 0 ('−0' in IEEE), digits 0. An exponent beyond the
  range of float32 decodes, there, to ±inf or to nearly 0.

  Attributes:
    max_exponent: exponent tokens run from −max_exponent to max_exponent;
      not used by IEEE.
    exponent_digits: digits of the exponent; IEEE only.
    specials: adds tokens for NaN, +inf and −inf at the first position; IEEE
      only. What follows them has no meaning and is written as in zero.
  """

  layout: str
  base: int = 10
  digits: int = 4
  max_exponent: int = 10
  exponent_digits: int = 1
  specials: bool = False

  domain: ClassVar[str] = 'real'

  def __post_init__(self):
    _check_choice('layout', self.layout, ('p10', 'ieee', 'exponent_first'))
    _check_digits(self.base, self.digits)
    _check_integer('max_exponent', self.max_exponent, 0, self._safe_places)
    room = int(1023 / math.log2(self.base)) - self.digits
    most = int(math.log(room, self.base))
    _check_integer('exponent_digits', self.exponent_digits, 1, most)
    if self.specials and self.layout != 'ieee':
      raise InputError(f"specials need layout 'ieee', not {self.layout!r}")

  @property
  def token_names(self):
    names = (*_DIGITS[: self.base], '+', '-')
    if self.layout != 'ieee':
      return names + tuple(f'E{e}' for e in self._exponents[0])
    return names + ('<nan>', '<+inf>', '<-inf>') * self.specials

  @property
  def allowed(self):
    written, (exponent_slots, mantissa_slots) = self._exponents[1], self._slots
    length = 1 + len(exponent_slots) + len(mantissa_slots)
    allowed = np.zeros((length, len(self.token_names)), bool)
    allowed[0, self.base : self._minus + 1 + 3 * self.specials] = True
    allowed[exponent_slots, written] = True
    allowed[mantissa_slots, : self.base] = True
    return allowed

  def encode(self, values):
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    if not self.specials:
      advice = 'drop them'
      if self.layout == 'ieee':
        advice += ' or build the tokenizer with specials=True'
      _check_finite(values, advice)
    size = np.where(finite, np.abs(values), 0)
    exponents, written = self._exponents
    units = exponents - self._point  # [N], the power that the last digit counts
    size = np.minimum(size, self._shift(np, self._count - 1, units[-1]))
    # A float logarithm is off by one at exact powers of the base, and rounding
    # may carry (9.9996 is 1.000e1). A sorted list of the smallest sizes that
    # round to each exponent has neither problem.
    starts = self._shift(np, self._count - 0.5, units - 1)
    starts[0] = self._shift(np, self._count / self.base / 2, units[0])
    index = np.searchsorted(starts, size, side='right') - 1
    zero = index < 0
    index = np.where(zero, np.searchsorted(exponents, 0), index)
    mantissa = np.rint(self._shift(np, size, -units[index]))
    mantissa = np.clip(mantissa, self._count // self.base, self._count - 1)
    mantissa = np.where(zero, 0, mantissa).astype(np.int64)

    tokens = np.empty((*values.shape, self.num_tokens), np.int32)
    exponent_slots, mantissa_slots = self._slots
    negative = (values < 0) & ~zero
    tokens[..., 0] = np.where(negative, self._minus, self.base)
    tokens[..., exponent_slots] = written[index]
    tokens[..., mantissa_slots] = _digits(mantissa, self.base, self.digits)
    if self.specials:
      special = np.where(np.isnan(values), 1, np.where(values > 0, 2, 3))
      tokens[..., 0] = np.where(finite, tokens[..., 0], self._minus + special)
    return tokens

  def decode(self, tokens):
    xp = tokens.__array_namespace__()
    exponent, mantissa = self._parts(xp, tokens)
    size = self._shift(xp, mantissa, exponent - self._point)
    factor = xp.asarray([1, -1, np.nan, np.inf, -np.inf], dtype=_float(xp))
    special = tokens[..., 0] > self._minus
    return factor[tokens[..., 0] - self.base] * xp.where(special, 1, size)

  def _nearest(self, xp, tokens, target):
    """The nearest number under each prefix, by search over the exponents.

    With exponent e the best mantissa is the target's, shifted to e and clipped
    to those under the prefix; the best e minimises the distance. Of equally
    near numbers the exponent nearest the target's wins. With the wrong number
    sign the target is in effect 0: in IEEE exponent '−0' and zeros.

    GenRe²'s rule for IEEE is lexicographic: an exponent above the target's gets
    zeros, one below gets the largest digits. The latter is the same here, but
    mantissas need not be normalised: for 1.500e3, exponent 5 continues as
    0.015e5, exactly the target, not as 0. A special token is as far from every
    number: the answer is then the target's token. On device, distances that
    differ by less than float32 can tell from the target are equal.
    """
    exponent, goal = self._parts(xp, target)
    goal = xp.where(tokens[..., 0] == target[..., 0], goal, 0)[..., None]
    home = xp.where(goal > 0, exponent[..., None], 0)
    exponents, written = map(xp.asarray, self._exponents)
    # In units of the target's last digit, and clipped, no power overflows
    # float32. What is clipped is out of reach, and settled by `detour`.
    detour = abs(exponents - home)  # [..., N]
    places = xp.clip(exponents - home, -self._safe_places, self._safe_places)
    wish = xp.rint(xp.minimum(self._shift(xp, goal, -places), self._count))
    wish = wish.astype(xp.int32)

    fits = detour >= 0
    low, high = xp.zeros_like(goal), xp.full_like(goal, self._count - 1)
    exponent_slots, mantissa_slots = self._slots
    answer = [target[..., 0]]
    for t in range(1, self.num_tokens):
      token = tokens[..., t, None]
      mantissa = xp.clip(wish, low, high)  # [..., N]
      gap = abs(self._shift(xp, mantissa, places) - goal)
      gap = xp.where(fits, gap, xp.inf)
      tied = gap == gap.min(axis=-1, keepdims=True)
      ranked = xp.where(tied, detour, np.iinfo(np.int32).max)
      choice = ranked.argmin(axis=-1, keepdims=True)  # [..., 1]
      if t in mantissa_slots:
        place = self.base ** (mantissa_slots[-1] - t)
        best = xp.take_along_axis(mantissa, choice, axis=-1)
        answer.append((best // place % self.base)[..., 0])
        low = low + token * place
        high = low + place - 1
      else:
        column = written[:, exponent_slots.index(t)]
        answer.append(column[choice][..., 0])
        fits = fits & (token == column)
    special = xp.maximum(tokens[..., :1], target[..., :1]) > self._minus
    return xp.where(special, target, xp.stack(answer, axis=-1))

  def _parts(self, xp, tokens):
    """Exponent as written and integer mantissa, int [...] each."""
    exponent_slots, mantissa_slots = map(np.array, self._slots)
    mantissa = _number(xp, tokens[..., mantissa_slots], self.base)
    first = tokens[..., exponent_slots[0]]
    if self.layout != 'ieee':
      return first - (self._minus + 1 + self.max_exponent), mantissa
    size = _number(xp, tokens[..., exponent_slots[1:]], self.base)
    return xp.where(first == self._minus, -size, size), mantissa

  def _shift(self, xp, number, places):
    """number·base^places; exact in float where the power and the result are."""
    powers = self._powers
    if xp is not np:
      powers = np.minimum(powers, np.finfo(np.float32).max).astype(np.float32)
    powers = xp.asarray(powers)
    up, down = xp.maximum(places, 0), xp.maximum(-places, 0)
    return number * powers[up] / powers[down]

  @property
  def _minus(self):
    return self.base + 1

  @property
  def _count(self):
    return self.base**self.digits

  @property
  def _point(self):
    """Digits after the point."""
    return 0 if self.layout == 'p10' else self.digits - 1

  @property
  def _safe_places(self):
    return int(_SAFE_BITS / math.log2(self.base))

  @property
  def _slots(self):
    """Positions of the exponent and of the mantissa."""
    width = 1 + self.exponent_digits if self.layout == 'ieee' else 1
    if self.layout == 'p10':
      return range(1 + self.digits, 2 + self.digits), range(1, 1 + self.digits)
    return range(1, 1 + width), range(1 + width, 1 + width + self.digits)

  @functools.cached_property
  def _exponents(self):
    """Exponents [N], ascending, and their tokens [N, exponent slots]."""
    if self.layout != 'ieee':
      exponents = np.arange(-self.max_exponent, self.max_exponent + 1)
      first = self._minus + 1
      return exponents, first + np.arange(len(exponents))[:, None]
    sizes = np.arange(self.base**self.exponent_digits)
    exponents = np.concatenate([-sizes[::-1], sizes])  # '−0' before '+0'
    signs = np.repeat([self._minus, self.base], len(sizes))
    sizes = _digits(abs(exponents), self.base, self.exponent_digits)
    return exponents, np.column_stack([signs, sizes])

  @functools.cached_property
  def _powers(self):
    """Powers of the base, each correctly rounded to float64."""
    most = max(self._exponents[0][-1] + self.digits, self._safe_places)
    return np.array([float(self.base**n) for n in range(most + 1)])


OPTIONS = {
  'normalized': ('rounding', 'edge'),
  'p10': ('max_exponent',),
  'ieee': ('exponent_digits', 'specials'),
  'exponent_first': ('max_exponent',),
}


def build(name: str, *, base: int, digits: int, **options) -> Tokenizer:
  """Tokenizer by name: normalized, p10, ieee or exponent_first.

  Raises:
    InputError: no such name or option, or a value out of range.
  """
  _check_choice('tokenizer', name, tuple(OPTIONS))
  for option in options:
    _check_choice(f'option of tokenizer {name!r}', option, OPTIONS[name])
  if name == 'normalized':
    return Normalized(base, digits, **options)
  return Scientific(name, base, digits, **options)


def _places(base, count):
  """Place values, most significant first, int32 [count]."""
  return np.array([base**n for n in reversed(range(count))], np.int32)


def _digits(numbers, base, count):
  """Digits of nonnegative integers [...], most significant first."""
  return numbers[..., None] // _places(base, count) % base


def _number(xp, digits, base):
  """The inverse: nonnegative integers [...], exact in integer arithmetic."""
  return (digits * xp.asarray(_places(base, digits.shape[-1]))).sum(axis=-1)


def _float(xp):
  return np.float64 if xp is np else np.float32


def _check_finite(values, advice):
  bad = np.flatnonzero(~np.isfinite(values))
  if bad.size:
    first = ', '.join(map(str, bad[:3])) + ', ...' * (bad.size > 3)
    raise InputError(
      f'{bad.size} of {values.size} values are NaN or infinite '
      f'(flat index {first}): {advice}'
    )


def _check_integer(name, value, low, high):
  if type(value) is not int or not low <= value <= high:
    raise InputError(f'{name}={value!r}: give an integer from {low} to {high}')


def _check_digits(base, digits):
  _check_integer('base', base, 2, len(_DIGITS))
  _check_integer('digits', digits, 1, int(math.log(_MAX_COUNT, base) + 1e-9))


def _check_choice(what, value, choices):
  if value in choices:
    return
  close = difflib.get_close_matches(str(value), choices, n=1)
  hint = f'did you mean {close[0]!r}? ' if close else ''
  raise InputError(
    f'unknown {what} {value!r}: {hint}choose from {", ".join(choices)}'
  )
