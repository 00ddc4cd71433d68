"""SIGTERM and Ctrl-C as a flag that training reads between dispatches."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from genre2_jax import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
  """True once a signal has come."""

  def __init__(self, *, leaves: bool = False) -> None:
    self.signal: int | None = None
    self._leaves = leaves
    self._doing = ''
    self._last_acts: list[Callable[[], object]] = []
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

  @contextlib.contextmanager
  def leaving_with(self, act: Callable[[], object]) -> Iterator[None]:
    """Within it the process does something before it ends by itself.

    Args:
      act: short; what it raises is passed over. It may be called by another
        thread.
    """
    self._last_acts.append(act)
    try:
      yield
    finally:
      self._last_acts.pop()

  def leave_if_idle(self) -> None:
    """Ends the process inside of `at_once`."""
    doing = self._doing
    # The handler and the thread below: one of them says so.
    if doing and self._leaving.acquire(blocking=False):
      for act in reversed(self._last_acts):
        with contextlib.suppress(Exception):
          act()
      errors.leave(errors.InterruptedRunError(f'interrupted while {doing}'))


def leaving_with(
  interrupts: object, act: Callable[[], object]
) -> contextlib.AbstractContextManager[None]:
  """`Interrupts.leaving_with`; nothing of what never leaves by itself."""
  if isinstance(interrupts, Interrupts):
    return interrupts.leaving_with(act)
  return contextlib.nullcontext()


@contextlib.contextmanager
def deferred(*, leaves: bool = False) -> Iterator[Interrupts]:
  """Within it, SIGTERM and SIGINT are remembered instead of obeyed.

  With `leaves` they end the process inside of `Interrupts.at_once`, after what
  `Interrupts.leaving_with` names.

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
