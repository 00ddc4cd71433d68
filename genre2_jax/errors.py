"""Exceptions that users are meant to see: one line, no traceback."""


class RunError(Exception):
  """Ends a run with its message; `main` exits with `exit_code`."""

  exit_code = 1


class InputError(RunError, ValueError):
  """Input that cannot be used: what is wrong, where, and what to do."""

  exit_code = 2


class NonFiniteError(RunError):
  """A loss that is not a number: the message names stage, seed and step."""


class InterruptedRunError(RunError):
  """The run was asked to leave, and left with its progress saved."""

  exit_code = 0

  def __init__(self, where):
    super().__init__(f'{where}: the same command goes on from here')
