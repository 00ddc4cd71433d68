"""Several numbers, written one after another: those of several targets."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError
from genre2_jax.tokenizers.base import ArrayT, Tokenizer


@dataclasses.dataclass(frozen=True)
class Joint(Tokenizer):
  """k numbers in k · L tokens: the first number's tokens, then the second's.

  Values have an axis of targets behind the others, [..., k]. The numbers have
  one grammar; what was fitted to targets is each one's own.

  Attributes:
    parts: k tokenizers of one kind, each fitted to its own target.
  """

  parts: tuple[Tokenizer, ...]

  domain: ClassVar[str] = 'joint'

  @property
  def token_names(self) -> tuple[str, ...]:
    return self.parts[0].token_names

  @property
  def allowed(self) -> np.ndarray:
    return np.concatenate([part.allowed for part in self.parts])

  @property
  def token_kinds(self) -> np.ndarray:
    return self.parts[0].token_kinds

  @property
  def token_values(self) -> np.ndarray:
    return self.parts[0].token_values

  @property
  def numbers(self) -> tuple[float, ...]:
    """Those of all parts, one after another."""
    return tuple(x for part in self.parts for x in part.numbers)

  def fitted(self, values: np.ndarray) -> Self:
    """Each part fitted to its column of values [n, k]."""
    columns = np.moveaxis(values, -1, 0)
    parts = [p.fitted(x) for p, x in zip(self.parts, columns, strict=True)]
    return dataclasses.replace(self, parts=tuple(parts))

  def with_numbers(self, numbers: Sequence[float]) -> Self:
    each, rest = divmod(len(numbers), len(self.parts))
    if rest:
      raise InputError(
        f'numbers: {len(numbers)} do not go to {len(self.parts)} targets alike'
      )
    parts = [
      part.with_numbers(numbers[i * each : (i + 1) * each])
      for i, part in enumerate(self.parts)
    ]
    return dataclasses.replace(self, parts=tuple(parts))

  def encode(self, values: ArrayLike) -> np.ndarray:
    values = np.moveaxis(np.asarray(values, np.float64), -1, 0)
    encoded = [p.encode(x) for p, x in zip(self.parts, values, strict=True)]
    return np.concatenate(encoded, axis=-1)

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    decoded = [p.decode(x) for p, x in self._cut(tokens)]
    return xp.stack(decoded, axis=-1)

  def best_tokens(self, tokens: ArrayT, target: ArrayT) -> ArrayT:
    """`Tokenizer.best_tokens`, each number's towards its own target.

    What was written of the numbers before does not matter to a number.
    """
    xp = tokens.__array_namespace__()
    return self._nearest(xp, *xp.broadcast_arrays(tokens, target))

  def _nearest(self, xp, tokens, target):
    targets = [own for _, own in self._cut(target)]
    best = [
      part.best_tokens(own, goal)
      for (part, own), goal in zip(self._cut(tokens), targets, strict=True)
    ]
    return xp.concatenate(best, axis=-1)

  def _cut(self, tokens):
    """Each part with its own tokens."""
    spans = spans_of(self)
    return [
      (part, tokens[..., span])
      for part, span in zip(self.parts, spans, strict=True)
    ]


def parts_of(tokenizer: Tokenizer) -> tuple[Tokenizer, ...]:
  """The tokenizers of the numbers that are written: one, or a `Joint`'s."""
  return tokenizer.parts if isinstance(tokenizer, Joint) else (tokenizer,)


def of_parts(parts: Sequence[Tokenizer]) -> Tokenizer:
  """The tokenizer of one number or several."""
  return parts[0] if len(parts) == 1 else Joint(tuple(parts))


def spans_of(tokenizer: Tokenizer) -> list[slice]:
  """Where the tokens of each number stand."""
  length = parts_of(tokenizer)[0].num_tokens
  count = len(parts_of(tokenizer))
  return [slice(i * length, (i + 1) * length) for i in range(count)]


def columns_of(array: Any, count: int) -> list[Any]:
  """Each of k targets' own of [..., k]; one target has no such axis."""
  return [array] if count == 1 else [array[..., i] for i in range(count)]
