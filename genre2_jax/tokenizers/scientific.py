"""Real numbers as sign, mantissa and exponent, in three layouts."""

import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError
from genre2_jax.tokenizers.base import (
  DIGITS,
  ArrayT,
  Tokenizer,
  check_choice,
  check_digits,
  check_finite,
  check_integer,
  digits_of,
  float_type,
  number_of,
)

# Powers of the base up to 2^90, times a mantissa, are finite in float32.
_SAFE_BITS = 90


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
    check_choice('layout', self.layout, ('p10', 'ieee', 'exponent_first'))
    check_digits(self.base, self.digits)
    check_integer('max_exponent', self.max_exponent, 0, self._safe_places)
    room = int(1023 / math.log2(self.base)) - self.digits
    most = int(math.log(room, self.base))
    check_integer('exponent_digits', self.exponent_digits, 1, most)
    if self.specials and self.layout != 'ieee':
      raise InputError(f"specials need layout 'ieee', not {self.layout!r}")

  @property
  def token_names(self) -> tuple[str, ...]:
    names = (*DIGITS[: self.base], '+', '-')
    if self.layout != 'ieee':
      return names + tuple(f'E{e}' for e in self._exponents[0])
    return names + ('<nan>', '<+inf>', '<-inf>') * self.specials

  @property
  def token_kinds(self) -> np.ndarray:
    kinds = np.full(self.vocab_size, -1)
    kinds[: self.base] = 0
    if self.layout != 'ieee':
      kinds[self._minus + 1 :] = 1
    return kinds

  @property
  def token_values(self) -> np.ndarray:
    values = np.zeros(self.vocab_size)
    values[: self.base] = range(self.base)
    if self.layout != 'ieee':
      values[self._minus + 1 :] = self._exponents[0]
    return values

  @property
  def allowed(self) -> np.ndarray:
    written, (exponent_slots, mantissa_slots) = self._exponents[1], self._slots
    length = 1 + len(exponent_slots) + len(mantissa_slots)
    allowed = np.zeros((length, len(self.token_names)), bool)
    allowed[0, self.base : self._minus + 1 + 3 * self.specials] = True
    allowed[exponent_slots, written] = True
    allowed[mantissa_slots, : self.base] = True
    return allowed

  def encode(self, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    if not self.specials:
      advice = 'drop them'
      if self.layout == 'ieee':
        advice += ' or build the tokenizer with specials=True'
      check_finite(values, advice)
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
    tokens[..., mantissa_slots] = digits_of(mantissa, self.base, self.digits)
    if self.specials:
      special = np.where(np.isnan(values), 1, np.where(values > 0, 2, 3))
      tokens[..., 0] = np.where(finite, tokens[..., 0], self._minus + special)
    return tokens

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    exponent, mantissa = self._parts(xp, tokens)
    size = self._shift(xp, mantissa, exponent - self._point)
    factor = xp.asarray([1, -1, np.nan, np.inf, -np.inf], dtype=float_type(xp))
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
    mantissa = number_of(xp, tokens[..., mantissa_slots], self.base)
    first = tokens[..., exponent_slots[0]]
    if self.layout != 'ieee':
      return first - (self._minus + 1 + self.max_exponent), mantissa
    size = number_of(xp, tokens[..., exponent_slots[1:]], self.base)
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
    sizes = digits_of(abs(exponents), self.base, self.exponent_digits)
    return exponents, np.column_stack([signs, sizes])

  @functools.cached_property
  def _powers(self):
    """Powers of the base, each correctly rounded to float64."""
    most = max(self._exponents[0][-1] + self.digits, self._safe_places)
    return np.array([float(self.base**n) for n in range(most + 1)])
