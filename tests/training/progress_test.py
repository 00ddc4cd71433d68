"""What a stage says of itself: in a terminal, a file and a notebook."""

import contextlib
import io
import itertools
import logging
import sys
import types

import pytest

from genre2_jax import command_line
from genre2_jax.training import progress
from genre2_jax.training.progress import Progress

_METRICS = {'train/loss': 1.5, 'val/loss': 1.25, 'other': 3.0}


class Clock:
  """Seconds, as a test says."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def clock():
  return Clock()


def train(line, clock, *, epochs=4, step_seconds=0.5):
  """Ten steps an epoch, after 100 s of compiling and 50 s of warming up."""
  line.compiling()
  clock.now += 100
  line.start(0, 10 * epochs, epochs)
  line.validated(0, [0], _METRICS | {'train/loss': 0.0})
  for epoch in range(1, epochs + 1):
    for place in range(10):
      clock.now += step_seconds + 50 * (epoch == 1 and place == 0)
      line.advanced(1)
    clock.now += 1
    line.validated(epoch, [epoch - 1], _METRICS)
    yield epoch


def shown(text):
  """What each carriage return leaves to be seen, and the lines that stay."""
  return [part.rstrip() for part in text.replace('\n', '\r').split('\r')]


def test_a_terminal_shows_all_that_matters_at_80_columns(monkeypatch, clock):
  stream = Terminal()
  monkeypatch.setattr(sys, 'stderr', stream)
  with Progress('remax_expert', clock=clock) as line:
    for _ in train(line, clock, epochs=2):
      pass
  lines = shown(stream.getvalue())
  assert max(map(len, lines)) < 80
  assert lines[1] == 'remax_expert: compiling'
  # Two lines stay: the others are written over.
  assert stream.getvalue().count('\n') == 2
  assert 'remax_expert: 0%, step 0 of 20' in lines
  assert lines[-2] == (
    'remax_expert: step 20 in 62 s, val/loss 1.25, best epoch 1, train/loss 1.5'
  )
  middle = [x for x in lines if 'step 12 of 20' in x]
  assert middle == [
    'remax_expert: 60%, step 12 of 20, 5 s left, val/loss 1.25, best epoch 0'
  ]


def test_nothing_is_said_of_training_before_the_first_step(monkeypatch, clock):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with Progress('ce', clock=clock) as line:
    line.start(0, 10, 1)
    line.validated(0, [0], {'train/loss': 0.0, 'val/loss': 2.0})
  assert stream.getvalue().splitlines()[-1] == 'ce: step 0 in 0 s, val/loss 2'


def test_compiling_and_warming_up_are_not_in_the_time_left(clock):
  line = Progress('ce', verbose=0, clock=clock)
  epochs = train(line, clock)
  assert line.seconds_left() == 0
  next(epochs)
  assert line.seconds_left() == pytest.approx(30 * 0.5 + 3 * 1)
  assert line.seconds == 50 + 10 * 0.5 + 1


def test_a_file_gets_a_line_every_ten_seconds_at_most(monkeypatch, clock):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  times = []
  write = progress._File.write
  monkeypatch.setattr(
    progress._File,
    'write',
    lambda *arguments: (times.append(clock.now), write(*arguments)),
  )
  with Progress('ce', clock=clock) as line:
    for _ in train(line, clock, epochs=30, step_seconds=0.1):
      pass
  text = stream.getvalue()
  assert '\r' not in text and text.endswith('\n')
  assert text.startswith('ce: compiling\nce: 0%, step 0 of 300\n')
  assert 'ce: step 300 in' in text.splitlines()[-1]
  assert len(times) == text.count('\n') >= 5
  gaps = [b - a for a, b in itertools.pairwise(times[:-1])]
  assert min(gaps) >= 10


def test_a_short_stage_leaves_its_first_and_its_last_line(monkeypatch, clock):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with Progress('ce', clock=clock) as line:
    line.compiling()
    line.start(0, 1, 1)
    line.advanced(1)
    line.validated(1, [1, 0], _METRICS)
  assert stream.getvalue().splitlines() == [
    'ce: compiling',
    'ce: step 1 in 0 s, val/loss 1.25, best epoch 0 to 1, train/loss 1.5',
  ]


def test_a_log_line_takes_the_unfinished_one_away(monkeypatch, clock):
  stream = Terminal()
  monkeypatch.setattr(sys, 'stderr', stream)
  handler = command_line._Log(stream)
  record = logging.LogRecord('x', 30, 'x.py', 1, 'damaged', (), None)
  with Progress('ce', clock=clock) as line:
    line.start(0, 10, 1)
    handler.emit(record)
    clock.now += 1
    line.advanced(1)
  kept = [part.rpartition('\r')[2] for part in stream.getvalue().split('\n')]
  assert kept[:1] == ['damaged'] and kept[1].startswith('ce: step 1 in')
  assert not progress._live


def test_a_notebook_has_one_line_in_place(monkeypatch, clock):
  shown = []

  def display(line, *, raw, display_id, update):
    assert raw
    shown.append((display_id, update, line['text/plain']))

  shell = types.SimpleNamespace(kernel=object())
  ipython = types.SimpleNamespace(
    get_ipython=lambda: shell, display=types.SimpleNamespace(display=display)
  )
  monkeypatch.setitem(sys.modules, 'IPython', ipython)
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with Progress('ce', clock=clock) as line:
    for _ in train(line, clock, epochs=2):
      pass
  assert stream.getvalue() == ''
  assert len({place for place, _, _ in shown}) == 1
  assert [update for _, update, _ in shown] == [False] + [True] * (
    len(shown) - 1
  )
  assert shown[0][2] == 'ce: compiling'
  assert shown[-1][2].startswith('ce: step 20 in')


def test_silence_writes_nothing_and_counts_the_seconds(monkeypatch, clock):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with Progress('ce', verbose=0, clock=clock) as line:
    for _ in train(line, clock, epochs=1):
      pass
    assert line.seconds > 0
  assert stream.getvalue() == ''


def test_what_stops_a_stage_begins_a_line_of_its_own(monkeypatch, clock):
  stream = Terminal()
  monkeypatch.setattr(sys, 'stderr', stream)
  with contextlib.suppress(KeyError), Progress('ce', clock=clock) as line:
    line.start(0, 10, 1)
    raise KeyError
  assert stream.getvalue().endswith('\n')
