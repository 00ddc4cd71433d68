"""How messages name rows, cells and times, and how a doubt is said."""

import collections
import sys
import types
import warnings
from collections.abc import Iterable

import numpy as np

from genre2_jax.errors import shortened


class DataWarning(UserWarning):
  """Data that may have been read otherwise than it was meant."""


def say(message: str) -> None:
  """Warns once, at the line outside of the package that asked for the work."""
  frame: types.FrameType | None = sys._getframe(1)
  level = 2
  while frame and frame.f_globals.get('__name__', '').startswith('genre2_jax.'):
    frame, level = frame.f_back, level + 1
  warnings.warn(message, DataWarning, stacklevel=level)


def located(bad: np.ndarray) -> str:
  """'3 rows: 1, 5, 9' of a mask [n]; rows count from 1."""
  first = ', '.join(map(str, np.flatnonzero(bad)[:5] + 1))
  n = int(bad.sum())
  more = ', ...' if n > 5 else ''
  return f'{n} {"row" if n == 1 else "rows"}: {first}{more} (the first is 1)'


def place_of(path: object, first_row: int) -> str:
  """Where rows are, to begin a message that counts them from there on."""
  return f'{path}, after row {first_row}' if first_row else str(path)


def counted(cells: Iterable, limit: int = 3) -> str:
  """ "'a' (20), 'b' (3)": the most frequent cells with their counts.

  cells: or their counts, {cell: count}.
  """
  most = collections.Counter(cells).most_common()
  first = ', '.join(f'{shortened(cell)!r} ({n})' for cell, n in most[:limit])
  return first + (', ...' if len(most) > limit else '')


def duration(seconds: float) -> str:
  """Seconds, minutes or hours, as one says them."""
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 5400:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:,.1f} h'
