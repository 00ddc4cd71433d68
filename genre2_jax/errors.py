"""Exceptions that users are meant to see, as one line."""


class InputError(ValueError):
  """Input that cannot be used: what is wrong, where, and what to do.

  The message is one line. `main` prints it without a traceback and exits
  with code 2.
  """


class NonFiniteError(RuntimeError):
  """A loss that is not a number: the message names stage, seed and step."""


class InterruptedRunError(RuntimeError):
  """The run was asked to leave, and left with its progress saved."""
