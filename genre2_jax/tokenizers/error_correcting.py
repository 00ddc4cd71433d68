"""Numbers of the unit interval with redundant tokens that mend wrong ones.

Every token may stand everywhere, so a number is written in many ways, and
`num_sequences` counts the ways. K digits in base b.
"""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError
from genre2_jax.tokenizers.base import (
  DIGITS,
  ArrayT,
  Tokenizer,
  check_integer,
  digits_of,
  number_of,
  place_values,
)
from genre2_jax.tokenizers.normalized import Normalized

_MAX_REPEATS = 5


class _Protected(Tokenizer):
  """A code on the digits of a `Normalized`: encode adds, decode corrects."""

  inner: Normalized

  domain: ClassVar[str] = 'unit'

  @property
  def token_names(self) -> tuple[str, ...]:
    return self.inner.token_names

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    return self.inner.decode(self._corrected(xp, tokens))

  def _corrected(self, xp, tokens):
    """Digits int [..., K] that tokens [..., T] mean."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Repetition(_Protected):
  """The digits of a number `repeats` times, one copy after the other.

  At every position of the number the most frequent digit of the copies counts;
  of equally frequent ones that which an earlier copy wrote. DBR (Song & Bahri,
  arXiv 2501.19383). r copies correct ⌊(r − 1)/2⌋ wrong tokens per position;
  one copy is `Normalized` itself, and the second of two never counts.

  The dense expert is exact: a prefix leaves, at every position, the digits that
  the copies to come can still vote for, and the answer leads to the nearest
  number made of those. While the vote can still be won everywhere that is the
  target. Of two equally near numbers it is the lower; where the vote is
  settled, it is the winner.
  """

  inner: Normalized
  repeats: int = 3

  def __post_init__(self):
    check_integer('repeats', self.repeats, 1, _MAX_REPEATS)

  @property
  def allowed(self) -> np.ndarray:
    return np.tile(self.inner.allowed, (self.repeats, 1))

  def encode(self, values: ArrayLike) -> np.ndarray:
    tokens = self.inner.encode(values)
    return np.tile(tokens, self.repeats)

  def _corrected(self, xp, tokens):
    copies = tokens.reshape(
      *tokens.shape[:-1], self.repeats, self.inner.num_tokens
    )
    votes = copies[..., :, None, :] == copies[..., None, :, :]
    votes = votes.sum(axis=-2)  # [..., repeats, K]: of every copy's digit
    winner = votes.argmax(axis=-2)[..., None, :]  # the first of equals
    return xp.take_along_axis(copies, winner, axis=-2)[..., 0, :]

  def _nearest(self, xp, tokens, target):
    base, count = self.inner.base, self.inner.digits
    target = self._corrected(xp, target)[..., None, :]  # [..., 1, K]
    digits, goal = xp.arange(base), target[..., None]
    wins = self._winnable(xp, tokens)  # [..., T, K, b]
    # Digits that can win, [..., T, K]: the two extremes, and those next to the
    # target's; −1 or b where there is none.
    lowest = xp.where(wins, digits, base).min(axis=-1)
    highest = xp.where(wins, digits, -1).max(axis=-1)
    below = xp.where(wins & (digits < goal), digits, -1).max(axis=-1)
    above = xp.where(wins & (digits > goal), digits, base).min(axis=-1)
    exact = (wins & (digits == goal)).any(axis=-1)

    # From the last digit to the first, given the target's digits before it:
    # how far beyond the target the nearest number is, the least, the greatest.
    far = base**count
    excess = least = most = xp.zeros(wins.shape[:-2], dtype=xp.int32)
    turns = []  # 0 goes below the target, 1 stays, 2 goes above.
    for i in reversed(range(count)):
      digit, place = target[..., i], base ** (count - 1 - i)
      down = (below[..., i] - digit) * place + most
      up = (above[..., i] - digit) * place + least
      ways = xp.stack(
        [
          xp.where(below[..., i] >= 0, down, far),
          xp.where(exact[..., i], excess, far),
          xp.where(above[..., i] < base, up, far),
        ]
      )
      turn = abs(ways).argmin(axis=0)  # Of equals the first, the lower number.
      turns.append(turn)
      excess = xp.take_along_axis(ways, turn[None], axis=0)[0]
      least = (lowest[..., i] - digit) * place + least
      most = (highest[..., i] - digit) * place + most

    # And from the first to the last, along the turns.
    side = xp.ones_like(turns[0])
    answer = []
    for i, turn in enumerate(reversed(turns)):
      near = xp.where(turn == 0, below[..., i], above[..., i])
      near = xp.where(turn == 1, target[..., i], near)
      free = xp.where(side == 0, highest[..., i], lowest[..., i])
      answer.append(xp.where(side == 1, near, free))
      side = xp.where(side == 1, turn, side)
    slots = np.arange(self.num_tokens)
    return xp.stack(answer, axis=-1)[..., slots, slots % count]

  def _winnable(self, xp, tokens):
    """Which digits can still win each vote, bool [..., T, K, b].

    A digit that does not win if all copies to come write it can't win at all.
    """
    base, count, repeats = self.inner.base, self.inner.digits, self.repeats
    copies = tokens.reshape(*tokens.shape[:-1], repeats, count, 1)
    copies = copies == xp.arange(base)  # [..., repeats, K, b]
    first = copies.argmax(axis=-3)  # [..., K, b]
    winnable = []
    for written in range(repeats + 1):
      votes = copies[..., :written, :, :].sum(axis=-3)
      late = xp.where(votes > 0, first, written)
      # One number that orders by votes and then by who was first.
      score = votes * (repeats + 1) - late
      lead = score.max(axis=-1, keepdims=True)
      winnable.append(score + (repeats - written) * (repeats + 1) >= lead)
    winnable = xp.stack(winnable, axis=-3)  # [..., repeats + 1, K, b]
    copy, place = np.divmod(np.arange(self.num_tokens)[:, None], count)
    copies_written = copy + (np.arange(count) < place)  # [T, K]
    return winnable[..., copies_written, np.arange(count), :]


@dataclasses.dataclass(frozen=True)
class Hamming(_Protected):
  """The digits of a number, and r check digits that mend one wrong token.

  A systematic, shortened Hamming code (Hamming 1950) over the field of the
  base, a prime: with A [r, K] of distinct columns, none a multiple of another
  or of a unit vector, digits d are followed by c = −A·d mod b; r is the least
  for which there are K such columns, (b^r − 1)/(b − 1) − r ≥ K. (2, 4) is
  Hamming(7, 4), and (2, 8) takes 12 tokens.

  Decoding reads s = A·d + c mod b. If s is e times column i, digit i is
  lowered by e, which is right if a single token is wrong; for any other s the
  digits count as they are written: a check digit is wrong, or two tokens are.

  The dense expert is exact: of all numbers that the tokens to come can lead
  to, the correction of one digit included, the nearest to the target counts,
  and of two equally near ones the lower. After one wrong digit that is still
  the target. The check digits written are those of the number aimed at, so
  that decoding arrives there.
  """

  inner: Normalized

  def __post_init__(self):
    base = self.inner.base
    if not _is_prime(base):
      primes = filter(_is_prime, range(2, len(DIGITS) + 1))
      raise InputError(
        f'base={base}: a Hamming code needs a prime base: '
        f'choose from {", ".join(map(str, primes))}'
      )

  @property
  def allowed(self) -> np.ndarray:
    return np.ones((self.num_tokens, self.inner.base), bool)

  @property
  def num_tokens(self) -> int:
    return self.inner.digits + len(self._checks)

  def encode(self, values: ArrayLike) -> np.ndarray:
    digits = self.inner.encode(values)
    checks = -self._check_sums(np, digits) % self.inner.base
    return np.concatenate([digits, checks], axis=-1).astype(np.int32)

  def _corrected(self, xp, tokens):
    digits, checks = self._parts(tokens)
    syndrome = (self._check_sums(xp, digits) + checks) % self.inner.base
    index = number_of(xp, syndrome, self.inner.base)
    return (digits - xp.asarray(self._errors)[index]) % self.inner.base

  def _nearest(self, xp, tokens, target):
    base = self.inner.base
    goal = number_of(xp, self._corrected(xp, target), base)[..., None]
    digits, checks = self._parts(tokens)
    places = xp.asarray(place_values(base, self.inner.digits))
    # What each syndrome, [S], would change of the number.
    mended = (digits[..., None, :] - xp.asarray(self._errors)) % base
    change = (mended - digits[..., None, :]) * places  # [..., S, K]

    def rank(number):
      # Twice the distance, and of equally near numbers the lower first.
      return 2 * abs(number - goal) - (number < goal)

    # Digits: any correction of those before, then as near as the rest can get.
    change_before = xp.cumsum(change, axis=-1) - change
    written = digits * places
    low = (xp.cumsum(written, axis=-1) - written)[..., None, :] + change_before
    goal = goal[..., None]
    number = xp.clip(goal, low, low + places * base - 1)  # [..., S, K]
    best = rank(number).argmin(axis=-2)[..., None, :]
    number = xp.take_along_axis(number, best, axis=-2)[..., 0, :]
    answer = number // places % base

    # Check digits: the syndrome of the nearest number, of those that begin as
    # the check digits before have it.
    number = (written.sum(axis=-1)[..., None] + change.sum(axis=-1))[..., None]
    sums = self._check_sums(xp, digits)  # [..., r]
    syndromes = xp.asarray(self._syndromes)  # [S, r]
    differs = syndromes != ((sums + checks) % base)[..., None, :]
    differs = xp.cumsum(differs, axis=-1) - differs > 0  # [..., S, r]
    ranked = xp.where(differs, np.iinfo(np.int32).max, rank(number))
    best = ranked.argmin(axis=-2)  # [..., r]
    wanted = syndromes[best, np.arange(len(self._checks))]
    return xp.concatenate([answer, (wanted - sums) % base], axis=-1)

  def _parts(self, tokens):
    return tokens[..., : self.inner.digits], tokens[..., self.inner.digits :]

  def _check_sums(self, xp, digits):
    """A·d mod b: [..., r]."""
    products = digits[..., None, :] * xp.asarray(self._checks)
    return products.sum(axis=-1) % self.inner.base

  @functools.cached_property
  def _checks(self):
    """A, int [r, K]."""
    base, count = self.inner.base, self.inner.digits
    r = 2
    while (base**r - 1) // (base - 1) - r < count:
      r += 1
    # Of all vectors but their multiples: those whose first nonzero is 1.
    vectors = digits_of(np.arange(base**r), base, r)
    first = np.take_along_axis(
      vectors, (vectors != 0).argmax(axis=-1)[:, None], axis=-1
    )[:, 0]
    several = (vectors != 0).sum(axis=-1) > 1
    return vectors[(first == 1) & several][:count].T

  @property
  def _syndromes(self):
    """All of them, int [S, r], in lexicographic order."""
    base, r = self.inner.base, len(self._checks)
    return digits_of(np.arange(base**r), base, r)

  @functools.cached_property
  def _errors(self):
    """By how much each digit is too high, by syndrome: int [S, K]."""
    base, (r, count) = self.inner.base, self._checks.shape
    errors = np.zeros((base**r, count), np.int32)
    for size in range(1, base):
      index = number_of(np, size * self._checks.T % base, base)
      errors[index, np.arange(count)] = size
    return errors


def _is_prime(number):
  return number > 1 and all(number % d for d in range(2, number))
