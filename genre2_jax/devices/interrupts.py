"""SIGTERM and Ctrl-C as a flag that training reads between dispatches."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupts:
  """True once a signal has come."""

  def __init__(self) -> None:
    self.signal: int | None = None

  def __bool__(self) -> bool:
    return self.signal is not None

  def receive(self, number: int, frame: FrameType | None) -> None:
    """Signal handler; a second Ctrl-C raises KeyboardInterrupt at once."""
    del frame
    if self.signal == number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = number


@contextlib.contextmanager
def deferred() -> Iterator[Interrupts]:
  """Within it, SIGTERM and SIGINT are remembered instead of obeyed.

  Of several processes, SIGTERM is then no longer seen by jax's preemption
  service; `processes.Shared` tells the others.
  """
  interrupts = Interrupts()
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {n: signal.signal(n, interrupts.receive) for n in numbers}
  try:
    yield interrupts
  finally:
    for number, handler in before.items():
      # None: a handler that is not Python's, and can't be set again.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
