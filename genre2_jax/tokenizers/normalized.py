"""Numbers of the unit interval as digits in any base."""

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.tokenizers.base import (
  ArrayT,
  Positional,
  check_choice,
  check_digits,
  check_finite,
  digits_of,
  float_type,
  number_of,
)


@dataclasses.dataclass(frozen=True)
class Normalized(Positional):
  """A number in [0, 1] as K digits, most significant first.

  k = round(u·b^K), clipped to b^K − 1, as in GenRe² (arXiv 2512.06533), halves
  to even; or k = ⌊u·b^K⌋, as in regress-lm (DBR, arXiv 2501.19383). Values
  outside [0, 1] are clipped. Decodes to k/b^K, as both do, or to the midpoint
  of the cell that is mapped to k: (k + ½)/b^K after truncation, and after
  rounding k/b^K but for the first cell and the last.
  """

  base: int = 2
  digits: int = 8
  rounding: str = 'round'
  edge: str = 'left'

  domain: ClassVar[str] = 'unit'

  def __post_init__(self):
    check_digits(self.base, self.digits)
    check_choice('rounding', self.rounding, ('round', 'truncate'))
    check_choice('edge', self.edge, ('left', 'midpoint'))

  def encode(self, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    check_finite(values, 'drop them')
    values = np.clip(values, 0, 1)
    count = self.base**self.digits
    if self.rounding == 'round':
      cell = np.rint(values * count)
    else:
      cell = np.floor(values * count)
      # The product may round across an edge; the edges are what decode returns.
      cell += (cell + 1) / count <= values
      cell -= cell / count > values
    cell = np.minimum(cell, count - 1).astype(np.int64)
    return digits_of(cell, self.base, self.digits).astype(np.int32)

  def decode(self, tokens: ArrayT) -> ArrayT:
    xp = tokens.__array_namespace__()
    number = number_of(xp, tokens, self.base)
    count = self.base**self.digits
    cell = number.astype(float_type(xp))
    if self.edge == 'midpoint' and self.rounding == 'truncate':
      cell = cell + 0.5
    elif self.edge == 'midpoint':
      low = xp.maximum(cell - 0.5, 0)
      cell = (low + xp.where(number == count - 1, count, cell + 0.5)) / 2
    return cell / count
