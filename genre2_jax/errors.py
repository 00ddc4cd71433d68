"""Exceptions that users are meant to see: one line, no traceback."""

import os
import sys
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
