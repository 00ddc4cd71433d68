"""Between z-scored targets and number tokens."""

import dataclasses

import numpy as np

from genre2_jax.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Codec:
  """A tokenizer over the span of the targets that it is used for.

  A tokenizer of the unit interval writes u = (z − low) / (high − low); one of
  the real line writes z itself.

  Attributes:
    tokenizer: the number vocabulary.
    low: least z-score of the training rows.
    high: greatest z-score of the training rows.
  """

  tokenizer: Tokenizer
  low: float
  high: float

  def encode(self, z):
    """Tokens int32 [..., T] of z-scores [...]; a constant target is u = 0."""
    z = np.asarray(z, np.float64)
    if self.tokenizer.domain == 'unit':
      z = (z - self.low) / ((self.high - self.low) or 1.0)
    return self.tokenizer.encode(z)

  def decode(self, tokens):
    """z-scores [...] that tokens [..., T] mean, in numpy or on the device."""
    value = self.tokenizer.decode(tokens)
    if self.tokenizer.domain == 'unit':
      value = value * (self.high - self.low) + self.low
    return value
