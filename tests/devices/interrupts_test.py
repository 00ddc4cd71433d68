"""Signals that ask a run to leave."""

import os
import signal
import subprocess
import sys

import pytest

from genre2_jax.devices.interrupts import deferred


def test_signals_wait_for_the_loop_and_handlers_come_back():
  before = signal.getsignal(signal.SIGTERM)
  with deferred() as interrupts:
    assert not interrupts
    os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts and interrupts.signal == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)  # A second one changes nothing.
  assert signal.getsignal(signal.SIGTERM) is before
  with pytest.raises(KeyboardInterrupt), deferred() as interrupts:
    signal.raise_signal(signal.SIGINT)
    assert interrupts
    signal.raise_signal(signal.SIGINT)


# Stands for XLA's compiler: of Python's own nothing runs in this thread.
_COMPILING = """
import ctypes, sys
from genre2_jax import command_line
from genre2_jax.devices.interrupts import deferred, leaving_with

def fail():
  raise OSError

def main():
  with deferred(leaves=LEAVES) as interrupts:
    with (
      leaving_with(interrupts, lambda: print('noted', flush=True)),
      leaving_with(interrupts, fail),
      interrupts.at_once('compiling'),
    ):
      print('began', flush=True)
      left = ctypes.CDLL(None).sleep(20)
      while left:  # A signal ends it.
        left = ctypes.CDLL(None).sleep(left) if LEAVES else 0
    with interrupts.at_once('predicting'):
      print('went on', flush=True)

sys.argv = sys.argv[:1]
command_line.run(main)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
  'leaves', [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_a_signal_while_compiling_is_answered_at_once(number, leaves):
  process = subprocess.Popen(
    [sys.executable, '-c', _COMPILING.replace('LEAVES', str(leaves))],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'began\n'
  process.send_signal(number)
  out, err = process.communicate(timeout=60)
  assert process.returncode == 75
  doing = 'compiling' if leaves else 'predicting'
  assert (out, err) == (
    'noted\n' if leaves else '',
    f'genre2_jax: interrupted while {doing}: the same command goes on from '
    'here\n',
  )
