"""Exceptions that users are meant to see: one line, no traceback.

And how these lines name things: what may have been meant, lists, other errors.
"""

import difflib
import os
import sys
from collections.abc import Iterable
from typing import NoReturn


class RunError(Exception):
  """Ends a run with its message; `main` exits with `exit_code`.

  `at_once` leaves without waiting for other processes or for saves under way.
  """

  exit_code = 1
  at_once = False


class InputError(RunError, ValueError):
  """Input that cannot be used: what is wrong, where, and what to do."""

  exit_code = 2


class NonFiniteError(RunError):
  """A loss that is not a number: the message names stage, seed and step."""


class OutOfMemoryError(RunError):
  """A device has too little memory: the message names settings that help."""

  at_once = True


class FullDiskError(RunError):
  """A disk has no room left: the message names the folder."""


class LostProcessError(RunError):
  """Another process of the run is gone, and waiting for it would not end."""

  at_once = True


class InterruptedRunError(RunError):
  """The run was asked to leave, and left with its progress saved.

  It is not finished: sysexits' EX_TEMPFAIL, so that `run && next` stops.
  """

  exit_code = 75

  def __init__(self, where: str):
    super().__init__(f'{where}: the same command goes on from here')


def say(error: RunError) -> None:
  """What a run ends with: one line on standard error."""
  print('genre2_jax:', *str(error).split(), file=sys.stderr, flush=True)


def leave(error: RunError) -> NoReturn:
  """Ends the process now, wherever it is, with what `say` says."""
  say(error)
  sys.stdout.flush()
  os._exit(error.exit_code)


# ---------------------------------------------------------------------- words


def near_names(
  name: object, names: Iterable[str], limit: int = 3, cutoff: float = 0.5
) -> list[str]:
  """The known names that one may have meant, the nearest first.

  Args:
    name: that is none of them.
    names: that are known; upper and lower case do not matter.
    limit: how many at most.
    cutoff: how near, 0 .. 1.
  """
  lower = {known.lower(): known for known in names}
  near = difflib.get_close_matches(
    str(name).lower(), lower, n=limit, cutoff=cutoff
  )
  return [lower[match] for match in near]


def suggestion(name: object, names: Iterable[str]) -> str:
  """'did you mean ...?' for near names, otherwise what there is."""
  names = list(names)
  if near := near_names(name, names):
    return f'did you mean {listed(near)}?'
  return f'there is {listed(names) or "none"}'


def near_hint(name: object, names: Iterable[str]) -> str:
  """ "; did you mean 'remax'?" to end an error; '' without a near name."""
  near = near_names(name, names, limit=1, cutoff=0.6)
  return f'; did you mean {near[0]!r}?' if near else ''


def listed(names: Iterable, limit: int = 8) -> str:
  """Names in quotes, of many the first."""
  names = list(names)
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(repr(name) for name in names[:limit]) + more


def shortened(text: object, limit: int = 40) -> str:
  """Text of at most so many characters."""
  text = str(text)
  return text if len(text) <= limit else f'{text[: limit - 1]}…'


def one_line(error: BaseException) -> str:
  """What an error says, in one line; its name if it says nothing."""
  return shortened(' '.join(str(error).split()) or type(error).__name__, 200)
