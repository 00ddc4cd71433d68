"""Numbers as one token each: a histogram with tails."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError
from genre2_jax.tokenizers.base import (
  ArrayT,
  Tokenizer,
  check_finite,
  check_integer,
  float_type,
)

_MAX_BINS = 2**16


@dataclasses.dataclass(frozen=True)
class Bins(Tokenizer):
  """A real number as one token: a bin of [low, high), or one of two tails.

  Token 0 is everything below `low`, tokens 1 .. bins are bins of equal width,
  and token bins + 1 is everything from `high` on: V = bins + 2. A bin decodes
  to its centre, and a tail to the mean of a half-normal distribution of scale
  σ: low − σ·√(2/π) and high + σ·√(2/π). The histogram of GenRe²'s Riemann
  head (Chen et al., arXiv 2512.06533), whose σ is 0.5.

  Attributes:
    bins: bins between the tails.
    low: where the lower tail ends, in the unit of the values.
    high: where the upper tail begins.
    tail_scale: σ, in the same unit.
  """

  bins: int = 256
  low: float = -3.0
  high: float = 3.0
  tail_scale: float = 0.5

  domain: ClassVar[str] = 'real'

  def __post_init__(self):
    check_integer('bins', self.bins, 1, _MAX_BINS)
    if not -math.inf < self.low < self.high < math.inf:
      raise InputError(
        f'bins from low={self.low!r} to high={self.high!r}: '
        'give finite numbers, the lower first'
      )
    if not 0 < self.tail_scale < math.inf:
      raise InputError(
        f'tail_scale={self.tail_scale!r}: give a finite number above 0'
      )

  @property
  def token_names(self) -> tuple[str, ...]:
    inner = tuple(f'bin{i}' for i in range(self.bins))
    return ('<low>', *inner, '<high>')

  @property
  def allowed(self) -> np.ndarray:
    return np.ones((1, self.bins + 2), bool)

  @property
  def edges(self) -> np.ndarray:
    """Where tokens begin and end, float64 [V + 1], from −inf to inf."""
    inner = np.linspace(self.low, self.high, self.bins + 1)
    return np.concatenate([[-np.inf], inner, [np.inf]])

  @property
  def centers(self) -> np.ndarray:
    """What tokens decode to, float64 [V], ascending."""
    inner = self.edges[1:-1]
    tail = self.tail_scale * math.sqrt(2 / math.pi)
    middles = (inner[1:] + inner[:-1]) / 2
    return np.concatenate([[self.low - tail], middles, [self.high + tail]])

  def encode(self, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    check_finite(values, 'drop them')
    token = np.searchsorted(self.edges[1:-1], values, side='right')
    return token.astype(np.int32)[..., None]

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    return xp.asarray(self.centers, dtype=float_type(xp))[tokens[..., 0]]

  def _nearest(self, xp, tokens, target):
    return target  # Before a single token there is no prefix.
