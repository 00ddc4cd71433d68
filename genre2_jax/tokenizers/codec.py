"""Between z-scored targets and number tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError
from genre2_jax.tokenizers import Adaptive, Bins, Tokenizer
from genre2_jax.tokenizers.base import ArrayT
from genre2_jax.tokenizers.joint import Joint, spans_of

_MAX_NUMBERS = 2**22
# Sequences that are decoded together: bounds the memory, not the result.
_BLOCK = 2**16


@dataclasses.dataclass(frozen=True)
class Codec:
  """A tokenizer over the span of the targets that it is used for.

  A tokenizer of the unit interval writes u = (z − low) / (high − low); one of
  the real line writes z itself; one of natural numbers the target in its own
  unit, y = z·std + mean.

  The sequences of the grammar stand in the order of the trie, that of their
  tokens read from the left: K = tokenizer.num_sequences rows of a grid.
  `values`, `cells` and `index` go by it, and are for up to 2^22 of them.

  Attributes:
    tokenizer: the number vocabulary.
    low: least z-score of the training rows.
    high: greatest z-score of the training rows.
    mean: of the training targets, in their own unit.
    std: their deviation.
    bounds: of z, where no target lies beyond them. A tokenizer of the real line
      writes numbers that do: predictions count them as the nearer bound,
      training as what they are.
  """

  tokenizer: Tokenizer
  low: float
  high: float
  mean: float = 0.0
  std: float = 1.0
  bounds: tuple[float, float] | None = None

  @property
  def parts(self) -> tuple['Codec', ...]:
    """Of the targets, one by one: itself, of one."""
    return (self,)

  def numbers(self) -> dict[str, np.ndarray] | None:
    """What of the data a program with this codec reads: `Bound`'s numbers.

    float32, as a program has them; None where it reads more than these.
    """
    count, domain = self.tokenizer.num_sequences, self.tokenizer.domain
    if self.tokenizer.num_special:
      return None
    found: dict[str, Any] = {}
    if self.bounds is not None:
      found['bounds'] = self.bounds
    if domain == 'unit':
      found |= {'span': self.high - self.low, 'low': self.low}
    elif domain != 'real' or (
      self.tokenizer.numbers and not isinstance(self.tokenizer, Adaptive)
    ):
      return None
    if domain == 'unit' or self.tokenizer.numbers:
      if count > _BLOCK:
        return None
      found['values'] = self.values()
      if (np.diff(found['values']) < 0).any():
        return None
    return {name: np.asarray(x, np.float32) for name, x in found.items()}

  @property
  def finite(self) -> 'Codec':
    """Of the numbers alone, where the tokenizer has tokens for others."""
    if not self.tokenizer.num_special:
      return self
    return dataclasses.replace(self, tokenizer=self.tokenizer.finite)

  @property
  def span(self) -> float:
    """From the least to the greatest z-score of training; 1 of a constant."""
    return (self.high - self.low) or 1.0

  def spaced(self, size: int) -> np.ndarray:
    """Tokens [R, T] of evenly spaced numbers, each once: R ≤ size."""
    if self.tokenizer.domain == 'unit':
      tokens = self.tokenizer.encode(np.linspace(0.0, 1.0, size))
    else:
      tokens = self.encode(np.linspace(self.low, self.high, size))
    return np.unique(tokens, axis=0)

  def encode(self, z: ArrayLike) -> np.ndarray:
    """Tokens int32 [..., T] of z-scores [...]; a constant target is u = 0."""
    z = np.asarray(z, np.float64)
    if self.tokenizer.domain == 'unit':
      z = (z - self.low) / ((self.high - self.low) or 1.0)
    elif self.tokenizer.domain == 'natural':
      z = z * self.std + self.mean
    return self.tokenizer.encode(z)

  def decode(self, tokens: ArrayT) -> ArrayT:
    """z-scores [...] that tokens [..., T] mean, in numpy or on the device."""
    if self.tokenizer.domain == 'natural':
      above: Any = self.tokenizer.decode_above(tokens, self.mean)
      return above / self.std
    value: Any = self.tokenizer.decode(tokens)
    if self.tokenizer.domain == 'unit':
      value = value * (self.high - self.low) + self.low
    return value

  def within(self, z: ArrayT) -> ArrayT:
    """z [...], beyond the bounds the nearer of them; numpy or on the device."""
    array: Any = z
    return array if self.bounds is None else array.clip(*self.bounds)

  def grid(self) -> tuple[np.ndarray, np.ndarray]:
    """`values` and `cells` of predictions: within the bounds, float64 [K] each.

    Of finite numbers, which are what predictions have a distribution of.

    Raises:
      InputError: more than 2^22 sequences.
    """
    values = self.finite.values()
    inside = self.within(values)
    if np.array_equal(inside, values, equal_nan=True):
      return values, self.finite.cells()
    return inside, _voronoi(inside)

  def values(self) -> np.ndarray:
    """z-scores of all sequences, float64 [K]; several may mean one number.

    Raises:
      InputError: more than 2^22 sequences.
    """
    choices = self._choices()
    count = self.tokenizer.num_sequences
    blocks = []
    for start in range(0, count, _BLOCK):
      index = np.arange(start, min(start + _BLOCK, count))
      digits = np.unravel_index(index, [len(c) for c in choices])
      tokens = [c[d] for c, d in zip(choices, digits, strict=True)]
      blocks.append(self.decode(np.stack(tokens, axis=-1)))
    return np.concatenate(blocks)

  def cells(self) -> np.ndarray:
    """Widths of the cells that the sequences stand for, in z, float64 [K].

    What turns probabilities on the grid into a density: a number's probability,
    spread evenly over all z that are nearer to it than to any other number,

      p(z) = Σ_k p_k / Σ_k w_k, over the sequences k that mean the number.

    The edges of such a (Voronoi) cell lie halfway to the neighbouring numbers;
    that of the least and of the greatest number reaches as far outwards as
    inwards. Sequences that mean the same number share its cell equally, so the
    widths always add up to the span of all cells, and where every number is
    written in one way p(z) = p_k / w_k. For the tokenizer `bins` the cells are
    its bins, and its tails reach out as far beyond their means as the bins
    begin before them. What is not finite (NaN, ±inf) has no place on the line:
    infinite width, density 0. A sole number, of a constant target, has width 1.

    Raises:
      InputError: more than 2^22 sequences.
    """
    if isinstance(self.tokenizer, Bins):
      edges, centers = self.tokenizer.edges, self.tokenizer.centers
      edges[0] = 2 * centers[0] - edges[1]
      edges[-1] = 2 * centers[-1] - edges[-2]
      return np.diff(edges)
    return _voronoi(self.values())

  def index(self, z: ArrayLike) -> np.ndarray:
    """Place of `encode(z)` among all sequences, int64 [...].

    Raises:
      InputError: more than 2^22 sequences, or z that can't be written.
    """
    choices = self._choices()
    tokens = np.moveaxis(self.encode(z), -1, 0)
    digits = [
      np.searchsorted(c, t) for c, t in zip(choices, tokens, strict=True)
    ]
    return np.ravel_multi_index(digits, [len(c) for c in choices])

  def _choices(self):
    """The tokens that the grammar allows at each position, ascending."""
    if self.tokenizer.num_sequences > _MAX_NUMBERS:
      raise InputError(
        f'{self.tokenizer} writes {self.tokenizer.num_sequences:,} sequences, '
        f'too many to list ({_MAX_NUMBERS:,}): take fewer digits'
      )
    return [np.flatnonzero(row) for row in self.tokenizer.allowed]


@dataclasses.dataclass(frozen=True)
class Bound(Codec):
  """A codec inside a program, whose numbers are arguments of it.

  So targets of another scale, or a grid at other places, need no program of
  their own. It turns tokens into z-scores, and knows them all; it writes none.

  Attributes:
    held: `Codec.numbers` of the data at hand, on the device.
  """

  held: Any = None

  @classmethod
  def to(cls, tokenizer: Tokenizer, held: dict[str, Any]) -> 'Bound':
    """A codec with these numbers, its tokenizer not fitted."""
    bounds = None
    if 'bounds' in held:
      bounds = held['bounds'][0], held['bounds'][1]
    return cls(tokenizer, 0.0, 1.0, bounds=bounds, held=held)

  def decode(self, tokens: ArrayT) -> ArrayT:
    if isinstance(self.tokenizer, Adaptive):
      return self.tokenizer.decode_by(tokens, self.held['values'])
    value: Any = self.tokenizer.decode(tokens)
    if 'span' in self.held:
      value = value * self.held['span'] + self.held['low']
    return value

  def values(self) -> Any:
    """z-scores of all sequences, ascending where they are of the data: [K]."""
    return self.held['values'] if 'values' in self.held else super().values()


@dataclasses.dataclass(frozen=True)
class JointCodec(Codec):
  """Between the z-scores of several targets, [..., k], and their tokens.

  Attributes:
    codecs: each target's own.
  """

  codecs: tuple[Codec, ...] = ()

  @classmethod
  def of(cls, codecs: Sequence[Codec]) -> Codec:
    """The codec of one target or several."""
    if len(codecs) == 1:
      return codecs[0]
    tokenizer = Joint(tuple(codec.tokenizer for codec in codecs))
    return cls(tokenizer, 0.0, 1.0, codecs=tuple(codecs))

  @property
  def parts(self) -> tuple[Codec, ...]:
    return self.codecs

  def numbers(self) -> None:
    return None

  def encode(self, z: ArrayLike) -> np.ndarray:
    columns = np.moveaxis(np.asarray(z, np.float64), -1, 0)
    tokens = [c.encode(x) for c, x in zip(self.codecs, columns, strict=True)]
    return np.concatenate(tokens, axis=-1)

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    pairs = zip(self.codecs, spans_of(self.tokenizer), strict=True)
    return xp.stack([c.decode(tokens[..., s]) for c, s in pairs], axis=-1)

  def within(self, z: ArrayT) -> ArrayT:
    xp = z.__array_namespace__()
    inside = [c.within(z[..., i]) for i, c in enumerate(self.codecs)]
    return xp.stack(inside, axis=-1)

  def values(self) -> np.ndarray:
    """z-scores of all numbers of each target, float64 [k, K]."""
    return np.stack([codec.values() for codec in self.codecs])


def _voronoi(values: np.ndarray) -> np.ndarray:
  """Widths of the cells of numbers [K], as `Codec.cells` says."""
  finite = np.isfinite(values)
  numbers, group, count = np.unique(
    values[finite], return_inverse=True, return_counts=True
  )
  widths = np.ones(1)
  if len(numbers) > 1:
    gaps = np.diff(numbers)
    widths = (np.append(gaps[0], gaps) + np.append(gaps, gaps[-1])) / 2
  cells = np.full(len(values), np.inf)
  cells[finite] = (widths / count)[group]
  return cells
