"""What every tokenizer offers, and the positional notation they share."""

import abc
import math
import string
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError, near_hint

DIGITS = string.digits + string.ascii_lowercase
# Mantissas and cell numbers are int32 on device; rounding in float32 may
# overshoot the largest by a few units, and must still fit.
_MAX_COUNT = 2**30


class Array(Protocol):
  """What numpy's and JAX's arrays have in common."""

  @property
  def shape(self) -> tuple[int, ...]: ...
  def __array_namespace__(self) -> Any: ...
  def __getitem__(self, key: Any, /) -> Any: ...


# As numpy goes in, so numpy comes out, and JAX as JAX.
ArrayT = TypeVar('ArrayT', bound=Array)


class Tokenizer(abc.ABC):
  """A fixed-length, position-only grammar of numbers.

  Attributes:
    domain: 'unit' for values in [0, 1], 'real' for any number, 'natural' for
      numbers in the target's own unit.
    token_names: V strings.
    allowed: bool [T, V], the tokens that the grammar allows at each position.
  """

  domain: ClassVar[str]

  @property
  @abc.abstractmethod
  def token_names(self) -> tuple[str, ...]: ...

  @property
  @abc.abstractmethod
  def allowed(self) -> np.ndarray: ...

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

  @property
  def token_kinds(self) -> np.ndarray:
    """What a token counts, int [V].

    0 digits, 1 exponents, −1 none: signs, NaN, infinities. The magnitudes of
    tokens of one kind can be compared, those of different kinds can't.
    """
    return np.zeros(self.vocab_size, int)

  @property
  def token_values(self) -> np.ndarray:
    """A token's magnitude within its kind, float64 [V]; 0 where it has none.

    The digit 0 .. b − 1, or the exponent E. Where nothing else is said all
    tokens are digits, in ascending order.
    """
    return np.arange(self.vocab_size, dtype=np.float64)

  @property
  def num_special(self) -> int:
    """Tokens of what is no number, the last ones, at the first position."""
    return 0

  @property
  def finite(self) -> 'Tokenizer':
    """The tokenizer of its numbers alone: without special tokens, itself.

    Its sequences are the first in the order of the trie.
    """
    return self

  @property
  def numbers(self) -> tuple[float, ...]:
    """What was fitted to training targets; () of a tokenizer without."""
    return ()

  def fitted(self, values: np.ndarray) -> Self:
    """The tokenizer for training targets [n], in the unit of its values.

    Most are the same whatever the targets.
    """
    return self

  def with_numbers(self, numbers: Sequence[float]) -> Self:
    """The tokenizer with `numbers` that another of its kind was fitted to.

    Raises:
      InputError: not as many as it takes, or not ascending.
    """
    if numbers:
      raise InputError(f'{type(self).__name__} has no fitted numbers')
    return self

  @abc.abstractmethod
  def encode(self, values: ArrayLike) -> np.ndarray:
    """Writes `values` [...] as tokens, int32 [..., T], with float64 arithmetic.

    Raises:
      InputError: a value is NaN or infinite and there is no token for it.
    """

  @abc.abstractmethod
  def decode(self, tokens: ArrayT) -> ArrayT:
    """Numbers [...] that `tokens` [..., T] mean.

    float64 for numpy arrays, float32 for JAX arrays. The sequences must be of
    the grammar; what others mean is undefined.
    """

  def decode_above(self, tokens: ArrayT, origin: float) -> ArrayT:
    """`decode` minus an origin, without float32's rounding where it matters."""
    value: Any = self.decode(tokens)
    return value - origin

  def best_tokens(self, tokens: ArrayT, target: ArrayT) -> ArrayT:
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
    differs_before = xp.cumsum(differs, axis=-1) - differs > 0  # [..., T]
    return xp.where(differs_before, self._nearest(xp, tokens, target), target)

  @abc.abstractmethod
  def _nearest(self, xp, tokens, target):
    """`best_tokens` where the prefix is not the target's; elsewhere unused."""


class Positional(Tokenizer):
  """Numbers that ascend as their digits do: T digits in base b, all allowed."""

  base: int
  digits: int

  @property
  def token_names(self) -> tuple[str, ...]:
    return tuple(DIGITS[: self.base])

  @property
  def allowed(self) -> np.ndarray:
    return np.ones((self.digits, self.base), bool)

  def _nearest(self, xp, tokens, target):
    # Prefixes order as their numbers do: above the target the lowest
    # completion is the nearest, below it the highest.
    ahead = (tokens - target) * xp.asarray(place_values(self.base, self.digits))
    ahead = xp.cumsum(ahead, axis=-1) - ahead
    return xp.where(ahead > 0, 0, self.base - 1)


def place_values(base: int, count: int) -> np.ndarray:
  """Place values, most significant first, int32 [count]."""
  return np.array([base**n for n in reversed(range(count))], np.int32)


def digits_of(numbers: np.ndarray, base: int, count: int) -> np.ndarray:
  """Digits [..., count] of nonnegative integers, most significant first."""
  return numbers[..., None] // place_values(base, count) % base


def number_of(xp: Any, digits: Any, base: int) -> Any:
  """The inverse of `digits_of`, in the array library `xp`: integers [...]."""
  places = xp.asarray(place_values(base, digits.shape[-1]))
  return (digits * places).sum(axis=-1)


def float_type(xp: Any) -> type[np.floating]:
  """float64 in numpy, float32 on device."""
  return np.float64 if xp is np else np.float32


def check_finite(values: np.ndarray, advice: str) -> None:
  """InputError with `advice` if any value is NaN or infinite."""
  bad = np.flatnonzero(~np.isfinite(values))
  if bad.size:
    first = ', '.join(map(str, bad[:3])) + ', ...' * (bad.size > 3)
    raise InputError(
      f'{bad.size} of {values.size} values are NaN or infinite '
      f'(flat index {first}): {advice}'
    )


def check_integer(name: str, value: object, low: int, high: int) -> None:
  """InputError unless `value` is an int in [low, high]."""
  if type(value) is not int or not low <= value <= high:
    raise InputError(f'{name}={value!r}: give an integer from {low} to {high}')


def check_digits(base: int, digits: int) -> None:
  """InputError unless there are digits for the base, and int32 counts."""
  check_integer('base', base, 2, len(DIGITS))
  check_integer('digits', digits, 1, int(math.log(_MAX_COUNT, base) + 1e-9))


def check_choice(what: str, value: object, choices: Sequence[str]) -> None:
  """InputError with the nearest choice unless `value` is one of them."""
  if value in choices:
    return
  near = near_hint(value, choices)
  raise InputError(
    f'unknown {what} {value!r}{near.replace(";", ":")}{" " if near else ": "}'
    f'choose from {", ".join(choices)}'
  )
