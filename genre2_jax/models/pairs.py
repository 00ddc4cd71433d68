"""What a network is told of a pair of texts, by the vectors of both.

Interaction is needed: of u and v alone a network learns little of how they
compare.
"""

from typing import TypeVar

import jax
import numpy as np

_Array = TypeVar('_Array', np.ndarray, jax.Array)

# What is made of u and v number by number; the cosine comes behind.
PARTS = ('first', 'second', 'difference', 'product')
COSINE = 'cosine'


def num_features(width: int) -> int:
  """Numbers of a pair whose vectors have so many."""
  return len(PARTS) * width + 1


def features(u: _Array, v: _Array) -> _Array:
  """u, v, |u − v|, u·v and the cosine: [B, D] twice to [B, 4 D + 1].

  On the host or on a device, whichever has the vectors.
  """
  xp = u.__array_namespace__()

  def over_row(x: _Array) -> _Array:
    return xp.sum(x, axis=-1, keepdims=True)

  squares = over_row(u * u) * over_row(v * v)
  cosine = over_row(u * v) / xp.sqrt(xp.maximum(squares, 1e-24))
  return xp.concat([u, v, xp.abs(u - v), u * v, cosine], axis=-1)
