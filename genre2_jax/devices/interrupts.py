"""SIGTERM and Ctrl-C as a flag that training reads between dispatches."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from genre2_jax import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
  """True once a signal has come."""

  def __init__(self, *, leaves: bool = False) -> None:
    self.signal: int | None = None
    self._leaves = leaves
    self._doing = ''
    self._leaving = threading.Lock()

  def __bool__(self) -> bool:
    return self.signal is not None

  def receive(self, number: int, frame: FrameType | None) -> None:
    """Signal handler; a second Ctrl-C raises KeyboardInterrupt at once."""
    del frame
    self.leave_if_idle()
    if self.signal == number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = number

  @contextlib.contextmanager
  def at_once(self, doing: str) -> Iterator[None]:
    """Within it a signal ends the process now: there is no progress to lose.

    Unless it was made not to leave by itself.

    Args:
      doing: what the process is at, as in 'compiling'.

    Raises:
      InterruptedRunError: the signal is there already.
    """
    if self:
      raise errors.InterruptedRunError(f'interrupted while {doing}')
    self._doing = doing if self._leaves else ''
    try:
      yield
    finally:
      self._doing = ''

  def leave_if_idle(self) -> None:
    """Ends the process inside of `at_once`."""
    doing = self._doing
    # The handler and the thread below: one of them says so.
    if doing and self._leaving.acquire(blocking=False):
      errors.leave(errors.InterruptedRunError(f'interrupted while {doing}'))


@contextlib.contextmanager
def deferred(*, leaves: bool = False) -> Iterator[Interrupts]:
  """Within it, SIGTERM and SIGINT are remembered instead of obeyed.

  With `leaves`, for who has nothing to do after a run that leaves, they end the
  process inside of `Interrupts.at_once`.

  Of several processes, SIGTERM is then no longer seen by jax's preemption
  service; `processes.Shared` tells the others.
  """
  interrupts = Interrupts(leaves=leaves)
  before = {n: signal.signal(n, interrupts.receive) for n in _SIGNALS}
  try:
    with _watched(interrupts):
      yield interrupts
  finally:
    for number, handler in before.items():
      # None: a handler that is not Python's, and can't be set again.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def _watched(interrupts):
  """A thread that sees signals while the main one is inside of XLA.

  Python's handlers run between its own instructions, and a compilation is one
  of them, however long. What the system writes at a signal comes at once.
  """
  ours, theirs = os.pipe()
  os.set_blocking(theirs, False)

  def watch():
    while numbers := os.read(ours, 64):
      if any(number in _SIGNALS for number in numbers):
        interrupts.leave_if_idle()

  before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(theirs)
    thread.join()
    os.close(ours)
