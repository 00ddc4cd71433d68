"""Numbers that lie where the training targets are, as digits in any base."""

import dataclasses
import functools
import heapq
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError
from genre2_jax.tokenizers.base import (
  ArrayT,
  Positional,
  check_digits,
  check_finite,
  digits_of,
  float_type,
  number_of,
)

# More different targets than this are a continuum.
_FEW = 64
_MAX_NUMBERS = 2**16


@dataclasses.dataclass(frozen=True)
class Adaptive(Positional):
  """K = b^T numbers, ascending, each written as its place, T digits in base b.

  `fitted` places them: on every different training target where these are few,
  otherwise one half evenly from the least to the greatest, the other half at
  the targets' quantiles. Where that makes fewer than K, more are put between
  them, so as to leave the grid as even as can be. A value is written as the
  nearest number, of two equally near ones the lower.

  Attributes:
    base: b.
    digits: T.
    numbers: K of them, ascending; all equal where the targets are. (): not
      fitted yet, which tells the grammar and nothing of numbers.
  """

  base: int = 4
  digits: int = 4
  numbers: tuple[float, ...] = ()

  domain: ClassVar[str] = 'real'

  def __post_init__(self):
    check_digits(self.base, self.digits)
    count = self.base**self.digits
    if count > _MAX_NUMBERS:
      raise InputError(
        f'base={self.base}, digits={self.digits}: {count} numbers, more than '
        f'{_MAX_NUMBERS}: take fewer digits'
      )
    if not self.numbers:
      return
    if len(self.numbers) != count or not np.isfinite(self.numbers).all():
      raise InputError(f'numbers: give {count} finite ones')
    steps = np.diff(self.numbers)
    if not ((steps > 0).all() or (steps == 0).all()):
      raise InputError('numbers: give them ascending')

  def fitted(self, values: np.ndarray) -> Self:
    found = placed(values, self.base**self.digits)
    return dataclasses.replace(self, numbers=tuple(found.tolist()))

  def with_numbers(self, numbers: Sequence[float]) -> Self:
    return dataclasses.replace(self, numbers=tuple(map(float, numbers)))

  def encode(self, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    check_finite(values, 'drop them')
    numbers = self._numbers
    # Halves, because the sum of two may leave float64.
    edges = numbers[:-1] / 2 + numbers[1:] / 2
    place = np.searchsorted(edges, values, side='left')
    return digits_of(place, self.base, self.digits).astype(np.int32)

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    return self.decode_by(tokens, xp.asarray(self._numbers, float_type(xp)))

  def decode_by(self, tokens: ArrayT, numbers: ArrayT) -> ArrayT:
    """`decode` of a tokenizer that was fitted to `numbers` [K]."""
    return numbers[number_of(tokens.__array_namespace__(), tokens, self.base)]

  @functools.cached_property
  def _numbers(self):
    if not self.numbers:
      raise ValueError('the tokenizer is not fitted to any targets')
    return np.array(self.numbers)


def placed(values: np.ndarray, count: int) -> np.ndarray:
  """The numbers of a fitted `Adaptive`: float64 [count], ascending.

  Args:
    values: [n], finite.
    count: K, at least 2.
  """
  values = np.asarray(values, np.float64)
  distinct = np.unique(values)
  if len(distinct) == 1:
    return np.full(count, distinct[0])
  if len(distinct) > min(_FEW, count):
    half = count // 2
    levels = (np.arange(count - half) + 0.5) / (count - half)
    even = np.linspace(distinct[0], distinct[-1], half)
    at_targets = np.quantile(values, levels, method='inverted_cdf')
    distinct = np.unique(np.concatenate([even, at_targets]))
  return _filled(distinct, count)


def _filled(numbers: np.ndarray, count: int) -> np.ndarray:
  """Ascending numbers [m] and count − m more that part the gaps evenly.

  Always one more goes to the gap whose parts are the widest (D'Hondt).
  """
  gaps = np.diff(numbers)
  parts = np.ones(len(gaps), int)
  widest = [(-gap, place) for place, gap in enumerate(gaps.tolist())]
  heapq.heapify(widest)
  for _ in range(count - len(numbers)):
    place = widest[0][1]
    parts[place] += 1
    heapq.heapreplace(widest, (-gaps[place] / parts[place], place))
  pieces = [
    numbers[i] + gaps[i] * np.arange(n) / n for i, n in enumerate(parts)
  ]
  return np.concatenate([*pieces, numbers[-1:]])
