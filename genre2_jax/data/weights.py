"""Weights of rows: how much each counts beside the others.

A row of weight 2 counts as two of weight 1, one of weight 0 is left out. In a
table their mean over the train rows is 1; equal weights are none.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from genre2_jax.data import cells, columns
from genre2_jax.data.wording import located, say
from genre2_jax.errors import InputError, suggestion

# Beyond these the sums of weights and of their squares leave float64, and what
# a light row has of a heavy one's weight leaves float32.
_LEAST, _MOST, _MOST_RATIO = 1e-100, 1e100, 1e20


def checked(where: str, values: ArrayLike) -> np.ndarray:
  """Weights as float64 [n].

  Raises:
    InputError: one is missing, infinite or negative, all are 0, or they are too
      large, too small or too far apart to be summed.
  """
  found = np.asarray(values, np.float64)
  for what, bad in (
    ('missing or infinite', ~np.isfinite(found)),
    ('negative', found < 0),
  ):
    if bad.any():
      raise InputError(
        f'{where}: {what} in {located(bad)}; give every row a weight of 0 or '
        'more'
      )
  if not found.any():
    raise InputError(f'{where}: all are 0; one row at least must count')
  least, most = found[found > 0].min(), found.max()
  if not _LEAST <= least <= most <= _MOST or most / least > _MOST_RATIO:
    raise InputError(
      f'{where}: from {least:g} to {most:g}, too far apart or too far from 1 '
      f'to be summed; give weights within {_MOST_RATIO:g} times the least'
    )
  return found


def of_column(
  where: str,
  frame: pd.DataFrame,
  name: str,
  formats: cells.Formats = cells.PLAIN,
) -> np.ndarray:
  """The weights that a column of a frame holds: float64 [n].

  Raises:
    InputError: no such column, or what is in it are no weights.
  """
  if name not in frame:
    raise InputError(
      f'{where}: no column {name!r} to be the weight; '
      f'{suggestion(name, list(frame))}'
    )
  where = f'{where}: weight {name!r}'
  return checked(where, columns.read_as(where, frame[name], 'number', formats))


def counted(
  where: str,
  frame: pd.DataFrame,
  name: str,
  targets: Sequence[str],
  formats: cells.Formats = cells.PLAIN,
) -> tuple[pd.DataFrame, np.ndarray, str]:
  """(The rows that count, their weights [n], where they are for messages).

  Says how many do not count.

  Args:
    where: the frame is, to begin messages with.
    frame: of all rows.
    name: of the column of weights.
    targets: names of other columns.
    formats: of text.

  Raises:
    InputError: as `of_column`, or the column is a target.
  """
  if name in targets:
    raise InputError(f'{where}: {name!r} is the target, and no weight')
  weights = of_column(where, frame, name, formats)
  kept = weights > 0
  left_out = int((~kept).sum())
  if left_out:
    say(f'{where}: rows of weight 0 are left out: {left_out}')
    where += ', counting no rows of weight 0'
  return frame.loc[kept], weights[kept], where


def normalized(
  weights: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray | None]:
  """Weights by split, their mean over the train rows 1; None if all are equal.

  Args:
    weights: 'train', 'val' and 'test' -> [n], checked.
  """
  together = np.concatenate(list(weights.values()))
  if np.ptp(together) == 0:
    return dict.fromkeys(weights)
  mean = weights['train'].mean()
  return {split: w / mean for split, w in weights.items()}
