"""Signals that ask a run to leave."""

import os
import signal

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
