"""How messages name rows, columns and errors, and how a doubt is said."""

import collections
import difflib
import sys
import types
import warnings
from collections.abc import Iterable, Sequence

import numpy as np


class DataWarning(UserWarning):
  """Data that may have been read otherwise than it was meant."""


def say(message: str) -> None:
  """Warns once, at the line outside of the package that asked for the work."""
  frame: types.FrameType | None = sys._getframe(1)
  level = 2
  while frame and frame.f_globals.get('__name__', '').startswith('genre2_jax.'):
    frame, level = frame.f_back, level + 1
  warnings.warn(message, DataWarning, stacklevel=level)


def suggestion(name: str, names: Sequence[str]) -> str:
  """'did you mean ...?' for near names, otherwise what there is."""
  lower = {known.lower(): known for known in names}
  near = difflib.get_close_matches(name.lower(), lower, cutoff=0.5)
  if near:
    return f'did you mean {listed([lower[match] for match in near])}?'
  return f'there is {listed(names) or "none"}'


def located(bad: np.ndarray) -> str:
  """'3 rows: 1, 5, 9' of a mask [n]; rows count from 1."""
  first = ', '.join(map(str, np.flatnonzero(bad)[:5] + 1))
  n = int(bad.sum())
  more = ', ...' if n > 5 else ''
  return f'{n} {"row" if n == 1 else "rows"}: {first}{more} (the first is 1)'


def listed(names: Iterable, limit: int = 8) -> str:
  """Names in quotes, of many the first."""
  names = list(names)
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(repr(name) for name in names[:limit]) + more


def counted(cells: Iterable, limit: int = 3) -> str:
  """ "'a' (20), 'b' (3)": the most frequent cells with their counts.

  cells: or their counts, {cell: count}.
  """
  most = collections.Counter(cells).most_common()
  first = ', '.join(f'{shortened(cell)!r} ({n})' for cell, n in most[:limit])
  return first + (', ...' if len(most) > limit else '')


def shortened(text: object, limit: int = 40) -> str:
  """Text of at most so many characters."""
  text = str(text)
  return text if len(text) <= limit else f'{text[: limit - 1]}…'


def one_line(error: Exception) -> str:
  """What an error says, in one line."""
  return shortened(' '.join(str(error).split()) or type(error).__name__, 160)
