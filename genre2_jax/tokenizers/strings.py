"""Numbers as strings of a text vocabulary: one token each, or decimals.

What a language model can write and read back: RAFT's grids of strings (Lukasik
et al., ICLR 2025; tables 13, 14 and 20) and zero-padded decimals. Both write
the target in its own unit. Which subword a token is, `data/subwords.py` finds.
"""

import calendar
import dataclasses
import functools
import math
import string
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError
from genre2_jax.tokenizers.base import (
  ArrayT,
  Tokenizer,
  check_finite,
  check_integer,
  digits_of,
  float_type,
  number_of,
  place_values,
)

_MAX_STRINGS = 2**12
# Decimals are int32 on the device.
_MAX_DIGITS = 9
# A tie is a tie even where rounding moved it by this share of a gap.
_TIE = 1e-9
_MONTHS = tuple(calendar.month_name[1:])


@dataclasses.dataclass(frozen=True)
class Strings(Tokenizer):
  """A number as one of V strings, the one whose value is nearest: T = 1.

  A number halfway between two values becomes the greater one.

  Attributes:
    strings: of the tokens, all different.
    values: what they mean, all different, in any order.
  """

  strings: tuple[str, ...]
  values: tuple[float, ...]

  domain: ClassVar[str] = 'natural'

  def __post_init__(self):
    n = len(self.strings)
    if not 1 < n <= _MAX_STRINGS:
      raise InputError(
        f'tokenizer.strings: {n} strings; give 2 to {_MAX_STRINGS}'
      )
    if len(self.values) != n:
      raise InputError(
        f'tokenizer.values: {len(self.values)} numbers for {n} strings; give '
        'one for each'
      )
    for what, cells in (('strings', self.strings), ('values', self.values)):
      twice = {cell for cell in cells if cells.count(cell) > 1}
      if twice:
        raise InputError(
          f'tokenizer.{what}: {sorted(twice)[0]!r} comes twice; all must differ'
        )
    if '' in self.strings or not all(map(math.isfinite, self.values)):
      raise InputError(
        'tokenizer.strings and values: an empty string or a number that is '
        'not finite; drop it'
      )

  @property
  def range(self) -> tuple[float, float]:
    """The least and the greatest number."""
    return min(self.values), max(self.values)

  @property
  def token_names(self) -> tuple[str, ...]:
    return self.strings

  @property
  def allowed(self) -> np.ndarray:
    return np.ones((1, len(self.strings)), bool)

  @property
  def token_values(self) -> np.ndarray:
    return np.array(self.values)

  def encode(self, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    check_finite(values, 'drop them')
    order = np.argsort(self.values)
    numbers = np.array(self.values)[order]
    gaps = np.diff(numbers)
    halfway = numbers[:-1] + gaps * (0.5 - _TIE)
    place = np.searchsorted(halfway, values, side='right')
    return order[place].astype(np.int32)[..., None]

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    return xp.asarray(self.values, dtype=float_type(xp))[tokens[..., 0]]

  def decode_above(self, tokens: ArrayT, origin: float) -> ArrayT:
    """`decode` minus an origin, which float32 would not tell from it."""
    xp = tokens.__array_namespace__()
    above = np.array(self.values) - origin
    return xp.asarray(above, dtype=float_type(xp))[tokens[..., 0]]

  def _nearest(self, xp, tokens, target):
    return target  # Before a single token there is no prefix.


@dataclasses.dataclass(frozen=True)
class Decimal(Tokenizer):
  """A number from 0 on as I digits, '.' and F digits, zero-padded: '03.50'.

  k = round(y·10^F), halves up, clipped to what I + F digits write. T is I, or
  I + 1 + F; the vocabulary is '0' .. '9' and, if F is not 0, '.'.

  Attributes:
    integer_digits: I, before the point.
    fraction_digits: F, after it; 0 writes integers without a point.
  """

  integer_digits: int = 1
  fraction_digits: int = 1

  domain: ClassVar[str] = 'natural'

  def __post_init__(self):
    check_integer('integer_digits', self.integer_digits, 1, _MAX_DIGITS)
    most = _MAX_DIGITS - self.integer_digits
    check_integer('fraction_digits', self.fraction_digits, 0, most)

  @property
  def range(self) -> tuple[float, float]:
    """The least and the greatest number."""
    return 0.0, (10**self._num_digits - 1) / 10**self.fraction_digits

  @property
  def token_names(self) -> tuple[str, ...]:
    return tuple(string.digits + '.' * self._has_point)

  @property
  def allowed(self) -> np.ndarray:
    allowed = np.zeros((self._length, len(self.token_names)), bool)
    allowed[:, :10] = True
    if self._has_point:
      allowed[self.integer_digits] = np.arange(11) == 10
    return allowed

  @property
  def token_kinds(self) -> np.ndarray:
    return np.array([0] * 10 + [-1] * self._has_point)

  @property
  def token_values(self) -> np.ndarray:
    return np.array([*range(10)] + [0] * self._has_point, np.float64)

  def encode(self, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    check_finite(values, 'drop them')
    most = 10**self._num_digits - 1
    scaled = np.clip(values * 10.0**self.fraction_digits, 0, most)
    number = np.minimum(np.floor(scaled + 0.5 + _TIE), most).astype(np.int64)
    digits = digits_of(number, 10, self._num_digits)
    if self._has_point:
      digits = np.insert(digits, self.integer_digits, 10, axis=-1)
    return digits.astype(np.int32)

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    digits = tokens
    if self._has_point:
      digits = xp.delete(tokens, self.integer_digits, axis=-1)
    number = number_of(xp, digits, 10)
    return number.astype(float_type(xp)) / 10**self.fraction_digits

  def decode_above(self, tokens: ArrayT, origin: float) -> ArrayT:
    """`decode` minus an origin, which float32 would not tell from it."""
    xp = tokens.__array_namespace__()
    digits = tokens
    if self._has_point:
      digits = xp.delete(tokens, self.integer_digits, axis=-1)
    scale = 10**self.fraction_digits
    # In integers as far as they go: they differ exactly.
    whole = int(np.clip(round(origin * scale), -(10**9), 10**9))
    above = number_of(xp, digits, 10) - whole
    return above.astype(float_type(xp)) / scale + (whole / scale - origin)

  def _nearest(self, xp, tokens, target):
    # As with any digits: above the target the lowest completion is nearest.
    places = place_values(10, self._num_digits)
    last = np.full(self._length, 9)
    first = np.zeros(self._length, int)
    if self._has_point:
      places = np.insert(places, self.integer_digits, 0)
      last[self.integer_digits] = first[self.integer_digits] = 10
    ahead = (tokens - target) * xp.asarray(places)
    ahead = xp.cumsum(ahead, axis=-1) - ahead
    return xp.where(ahead > 0, xp.asarray(first), xp.asarray(last))

  @property
  def _has_point(self):
    return int(self.fraction_digits > 0)

  @property
  def _num_digits(self):
    return self.integer_digits + self.fraction_digits

  @property
  def _length(self):
    return self._num_digits + self._has_point


def grid(strings: str, values: str = '') -> Strings:
  """`Strings` from what a config says.

  Args:
    strings: a range, '1..5', '9..0', '00..99' (zero-padded), 'a..e', 'A..E' or
      'January..December', or a list, 'bad,fair,good'.
    values: what they mean: a range or a list of numbers, '0..4' or
      '0,0.5,1'; '' takes the numbers that the strings are, and for strings
      that are none 1, 2, 3, ...

  Raises:
    InputError: neither range nor list, or not one number per string.
  """
  names = _listed('tokenizer.strings', strings)
  if values:
    cells = _listed('tokenizer.values', values)
    numbers = [_number(cell) for cell in cells]
    if None in numbers:
      raise InputError(
        f'tokenizer.values: {cells[numbers.index(None)]!r} is no number'
      )
  else:
    numbers = [_number(name) for name in names]
    if None in numbers:
      numbers = list(map(float, range(1, len(names) + 1)))
  return Strings(names, tuple(n for n in numbers if n is not None))


def _listed(what: str, text: str) -> tuple[str, ...]:
  first, dots, last = text.partition('..')
  if not dots:
    return tuple(cell.strip() for cell in text.split(','))
  if first.lstrip('-').isdecimal() and last.lstrip('-').isdecimal():
    start, stop = int(first), int(last)
    if abs(stop - start) < _MAX_STRINGS:
      step = 1 if stop >= start else -1
      is_padded = len(first) == len(last) and '-' not in text
      width = len(first) if is_padded else 0
      return tuple(str(i).zfill(width) for i in range(start, stop + step, step))
  for names in _alphabets():
    if first in names and last in names:
      start, stop = names.index(first), names.index(last)
      step = 1 if stop >= start else -1
      return tuple(names[i] for i in range(start, stop + step, step))
  raise InputError(
    f"{what}={text!r} is no range: write for example '1..5', '00..99', "
    "'a..e', 'January..December', or a list, '1,2,5'"
  )


@functools.cache
def _alphabets():
  letters = string.ascii_lowercase, string.ascii_uppercase
  short = tuple(name[:3] for name in _MONTHS)
  return (*map(tuple, letters), _MONTHS, short)


def _number(text: str) -> float | None:
  try:
    value = float(text)
  except ValueError:
    return None
  return value if math.isfinite(value) else None
