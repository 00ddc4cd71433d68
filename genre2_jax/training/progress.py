"""What a stage says of itself while it trains: one line, as its place shows it.

A terminal and a notebook rewrite the line; a file gets a new one every ten
seconds at most. What comes before the first step, compiling above all, is not
in the time that it takes or has left.
"""

import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TextIO

from genre2_jax.data.wording import duration

# Of a terminal, a notebook and a file: seconds between two lines.
_TERMINAL, _NOTEBOOK, _FILE = 0.1, 0.5, 10.0
_WIDTH = 80  # where a terminal does not say
# A rate forgets by this factor with every measurement.
_MEMORY = 0.8
# The measure that a stage is judged by comes first.
_SHOWN = ('val/reward', 'val/loss', 'train/reward', 'train/loss')

Clock = Callable[[], float]


class Progress:
  """The line of one stage, and its clock.

  Attributes:
    name: of the stage.
  """

  def __init__(
    self, name: str, *, verbose: int = 1, clock: Clock = time.monotonic
  ) -> None:
    """A line that says nothing yet.

    Args:
      name: of the stage.
      verbose: 0: silent.
      clock: seconds.
    """
    self.name = name
    self._screen = _screen() if verbose else None
    self._clock = clock
    self._began = self._last = clock()
    self._shown_at = -float('inf')
    self._step = self._total = self._epochs_left = 0
    self._steps, self._validations = _Rate(), _Rate()
    self._metrics: dict[str, float] = {}
    self._best = ''
    self._state = ''

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    """Shows how far it came, and leaves the line."""
    if self._screen and self._state:
      if self._state != 'compiling':
        self._show(self._ending(), force=True)
      self._screen.leave()

  @property
  def seconds(self) -> float:
    """Since `start`."""
    return self._clock() - self._began

  def compiling(self) -> None:
    """Says that it compiles: a line that stays, what is said below it."""
    self._state = 'compiling'
    self._show([f'{self.name}: compiling'], force=True)
    if self._screen:
      self._screen.leave()

  def start(self, step: int, total: int, epochs: int) -> None:
    """Starts the clock before the first step of so many.

    Args:
      step: that the stage goes on from; 0 for a new one.
      total: its steps, at most.
      epochs: that are left, at most.
    """
    self._state = 'training'
    self._step, self._total, self._epochs_left = step, total, epochs
    self._began = self._last = self._clock()
    self._show(self._parts())

  def advanced(self, steps: int) -> None:
    """Steps were taken since the last call."""
    self._step += steps
    self._steps.add(steps, self._lap())
    self._show(self._parts())

  def validated(
    self, epoch: int, best: Sequence[int], metrics: Mapping[str, float]
  ) -> None:
    """An epoch is validated, 0 before the first step.

    Args:
      epoch: its number.
      best: each seed's best so far.
      metrics: name -> value.
    """
    self._validations.add(1, self._lap())
    self._epochs_left -= epoch > 0
    # Before the first step there is nothing to say of training.
    self._metrics = {
      name: float(metrics[name])
      for name in _SHOWN
      if name in metrics and (epoch > 0 or not name.startswith('train/'))
    }
    first, last = min(best), max(best)
    span = f'{first} to {last}' if first < last else first
    self._best = f'best epoch {span}' if epoch > 0 else ''
    self._show(self._parts())

  def seconds_left(self) -> float | None:
    """Until the last step is validated, if it trains on; None: unknown yet."""
    steps = self._total - self._step
    if not self._steps.each and steps:
      return None
    return steps * self._steps.each + self._epochs_left * self._validations.each

  def _lap(self):
    before, self._last = self._last, self._clock()
    return self._last - before

  def _parts(self):
    left = self.seconds_left()
    share = self._step / max(1, self._total)
    parts = [
      f'{self.name}: {share:.0%}',
      f'step {self._step:,} of {self._total:,}',
    ]
    if left is not None:
      parts.append(f'{duration(left)} left')
    return parts + self._said()

  def _ending(self):
    time = f'in {duration(self.seconds)}'
    return [f'{self.name}: step {self._step:,} {time}', *self._said()]

  def _said(self):
    said = [f'{name} {value:.4g}' for name, value in self._metrics.items()]
    return said[:1] + [self._best] * bool(self._best) + said[1:]

  def _show(self, parts, *, force=False):
    if self._screen is None:
      return
    now = self._clock()
    if force or now - self._shown_at >= self._screen.interval:
      self._shown_at = now
      self._screen.write(parts)


class _Rate:
  """Seconds of one of a kind, recent ones foremost."""

  def __init__(self) -> None:
    self._count = self._seconds = 0.0
    self._measured = 0

  def add(self, count: int, seconds: float) -> None:
    # The first is slow: it warms up. It counts only while there is no other.
    keep = _MEMORY if self._measured > 1 else 0.0
    self._count = keep * self._count + count
    self._seconds = keep * self._seconds + seconds
    self._measured += 1

  @property
  def each(self) -> float:
    return self._seconds / self._count if self._count else 0.0


# -------------------------------------------------------------------- screens


class _Terminal:
  """One line that is written again and again, never wider than the window."""

  interval = _TERMINAL

  def __init__(self, stream: TextIO) -> None:
    self._stream = stream
    self._length = 0

  def write(self, parts: list[str]) -> None:
    text = fitting(parts, _width(self._stream) - 1)
    self._put('\r' + text.ljust(self._length))
    self._length = len(text)
    _live.add(self)

  def clear(self) -> None:
    if self._length:
      self._put('\r' + ' ' * self._length + '\r')
      self._length = 0

  def leave(self) -> None:
    if self._length:
      self._put('\n')
      self._length = 0
    _live.discard(self)

  def _put(self, text):
    self._stream.write(text)
    self._stream.flush()


class _File:
  """A line for each time."""

  interval = _FILE

  def __init__(self, stream: TextIO) -> None:
    self._stream = stream

  def write(self, parts: list[str]) -> None:
    self._stream.write(', '.join(parts) + '\n')
    self._stream.flush()

  def leave(self) -> None:
    pass


class _Notebook:
  """One line of a cell's output, replaced in place."""

  interval = _NOTEBOOK

  def __init__(self, display: Callable[..., Any]) -> None:
    self._display = display
    self._id = uuid.uuid4().hex
    self._is_there = False

  def write(self, parts: list[str]) -> None:
    line: dict[str, Any] = {'text/plain': ', '.join(parts)}
    self._display(line, raw=True, display_id=self._id, update=self._is_there)
    self._is_there = True

  def leave(self) -> None:
    pass


# Lines that stand unfinished in a terminal: one or none.
_live: set[_Terminal] = set()


def step_aside() -> None:
  """Takes an unfinished line away, for who writes to the same terminal."""
  while _live:
    _live.pop().clear()


def fitting(parts: list[str], width: int) -> str:
  """As many of the parts, from the first on, as `width` columns hold."""
  text = parts[0]
  for part in parts[1:]:
    if len(text) + 2 + len(part) > width:
      break
    text += ', ' + part
  return text[:width]


def _screen():
  """Where the line goes; None without any place."""
  ipython: Any = sys.modules.get('IPython')
  shell = ipython.get_ipython() if ipython else None
  if getattr(shell, 'kernel', None) is not None:
    return _Notebook(ipython.display.display)
  stream = sys.stderr
  if stream is None or stream.closed:
    return None
  return _Terminal(stream) if stream.isatty() else _File(stream)


def _width(stream):
  try:
    return os.get_terminal_size(stream.fileno()).columns or _WIDTH
  except (OSError, ValueError):
    return _WIDTH
