"""SIGTERM and Ctrl-C as a question that the loop asks between dispatches."""

import contextlib
import signal


class Interrupts:
  """Remembers that a signal came, for the loop to see."""

  def __init__(self):
    self.signal = None

  def __bool__(self):
    return self.signal is not None

  def receive(self, number, frame):
    """Signal handler; a second Ctrl-C does not wait for the loop."""
    del frame
    if self.signal == number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = number


@contextlib.contextmanager
def deferred():
  """Within it, SIGTERM and SIGINT are remembered instead of obeyed."""
  interrupts = Interrupts()
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {n: signal.signal(n, interrupts.receive) for n in numbers}
  try:
    yield interrupts
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
