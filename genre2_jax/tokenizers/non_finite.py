"""Tokens for what is no number: NaN, +inf and −inf, in any tokenizer."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.tokenizers.base import ArrayT, Tokenizer, float_type

# In the order of their tokens, which are the last of the vocabulary.
VALUES = (np.nan, np.inf, -np.inf)
NAMES = ('<nan>', '<+inf>', '<-inf>')


def kinds_of(values: ArrayLike) -> np.ndarray:
  """0 of a finite number, 1 of NaN, 2 of +inf, 3 of −inf: int [...]."""
  values = np.asarray(values, np.float64)
  signs = np.where(values > 0, 2, 3)
  kinds = np.where(np.isnan(values), 1, signs)
  return np.where(np.isfinite(values), 0, kinds)


@dataclasses.dataclass(frozen=True)
class NonFinite(Tokenizer):
  """A tokenizer with three tokens more, at the first position alone.

  A number is written as the inner tokenizer writes it. NaN, +inf and −inf are
  their own token, and what follows it has no meaning: it is written as in the
  inner tokenizer's 0, and no loss looks at it (`meant`). So the probability of
  each of them is that of one token, whatever the rest, and in the order of the
  trie the numbers stand first, in the inner order.

  Attributes:
    inner: of the numbers.
  """

  inner: Tokenizer

  @property
  def domain(self) -> str:  # type: ignore[override]  # The inner's.
    return self.inner.domain

  @property
  def token_names(self) -> tuple[str, ...]:
    return (*self.inner.token_names, *NAMES)

  @property
  def allowed(self) -> np.ndarray:
    allowed = np.pad(self.inner.allowed, ((0, 0), (0, len(VALUES))))
    allowed[0, self._first :] = True
    return allowed

  @property
  def token_kinds(self) -> np.ndarray:
    return np.append(self.inner.token_kinds, [-1] * len(VALUES))

  @property
  def token_values(self) -> np.ndarray:
    return np.append(self.inner.token_values, [0.0] * len(VALUES))

  @property
  def num_special(self) -> int:
    return len(VALUES)

  @property
  def finite(self) -> Tokenizer:
    return self.inner

  @property
  def numbers(self) -> tuple[float, ...]:
    return self.inner.numbers

  @property
  def range(self) -> tuple[float, float]:
    """Of the numbers, where the inner tokenizer says it."""
    return self.inner.range  # type: ignore[attr-defined]

  @property
  def edges(self) -> np.ndarray:
    """Of the numbers' bins, where they are bins."""
    return self.inner.edges  # type: ignore[attr-defined]

  @property
  def centers(self) -> np.ndarray:
    """Likewise."""
    return self.inner.centers  # type: ignore[attr-defined]

  def fitted(self, values: np.ndarray) -> Self:
    return dataclasses.replace(self, inner=self.inner.fitted(values))

  def with_numbers(self, numbers: Sequence[float]) -> Self:
    return dataclasses.replace(self, inner=self.inner.with_numbers(numbers))

  def encode(self, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    kinds = kinds_of(values)
    tokens = self.inner.encode(np.where(kinds == 0, values, 0.0))
    special = self._first - 1 + kinds
    tokens[..., 0] = np.where(kinds == 0, tokens[..., 0], special)
    return tokens

  def decode(self, tokens: ArrayT) -> ArrayT:
    return self._read(tokens, self.inner.decode)

  def decode_above(self, tokens: ArrayT, origin: float) -> ArrayT:
    return self._read(tokens, lambda own: self.inner.decode_above(own, origin))

  def _read(self, tokens, decode):
    xp = tokens.__array_namespace__()
    kinds = xp.maximum(tokens[..., 0] - (self._first - 1), 0)
    values = xp.asarray([0.0, *VALUES], dtype=float_type(xp))[kinds]
    return xp.where(kinds > 0, values, decode(self._written(xp, tokens)))

  def _written(self, xp: Any, tokens: Any) -> Any:
    """The same, a special token replaced by one of the inner grammar."""
    some = int(np.flatnonzero(self.inner.allowed[0])[0])
    first = xp.where(tokens[..., :1] >= self._first, some, tokens[..., :1])
    return xp.concatenate([first, tokens[..., 1:]], axis=-1)

  def _nearest(self, xp, tokens, target):
    """The inner answer; no number is nearer to a special one than another."""
    own = self.inner._nearest(
      xp, self._written(xp, tokens), self._written(xp, target)
    )
    special = xp.maximum(tokens[..., :1], target[..., :1]) >= self._first
    return xp.where(special, target, own)

  @property
  def _first(self) -> int:
    """The first of the special tokens."""
    return self.inner.vocab_size
