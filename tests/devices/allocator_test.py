"""Memory that a program on the CPU has freed is what its next call takes."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults of a usual call of a program with a temporary of 256 MiB. Now and
# then something small lies down in what is free, and a call takes new pages.
FAULTS = """
import resource, statistics
from genre2_jax.devices import allocator
import jax, jax.numpy as jnp
kept = allocator.keep_freed()
@jax.jit
def program(x):
  y = x[:, None] * x[None]
  return y @ y[:, :1]
x = jnp.ones(8192)
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(15):
  program(x).block_until_ready()
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
calls = [after - before for before, after in zip(faults, faults[1:])]
print(kept, statistics.median_low(calls))
"""


def kept_and_faults(**variables):
  done = subprocess.run(
    [sys.executable, '-c', FAULTS],
    capture_output=True,
    text=True,
    check=True,
    env=os.environ | {'XLA_FLAGS': ''} | variables,  # One device.
  )
  kept, faults = done.stdout.split()
  return kept == 'True', int(faults)


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='of glibc, which is not here'
)
def test_a_call_of_a_program_faults_nothing_in_again():
  kept, faults = kept_and_faults()
  assert kept
  assert faults < 64  # Of huge pages 128, of others 65,536.


@pytest.mark.parametrize(
  'variables',
  [
    {'MALLOC_ARENA_MAX': '4'},
    {'GLIBC_TUNABLES': 'glibc.malloc.arena_max=4'},
  ],
)
def test_what_the_environment_says_stays(variables):
  assert not kept_and_faults(**variables)[0]


# The main command, up to what it trains.
COMMAND = """
import sys
from genre2_jax import main, train
from genre2_jax.devices import allocator
allocator.keep_freed = lambda: print('keeps')
train.train_and_evaluate = lambda *_: print('trains')
sys.argv = ['main', sys.argv[1]]
main.command_line.run(main.main)
"""


@pytest.mark.parametrize(
  ('recipe', 'printed'),
  [('talent:ce', ['keeps', 'trains']), ('stsb:raft', ['trains'])],
)
def test_a_run_on_a_table_keeps_memory_and_a_language_model_does_not(
  recipe, printed
):
  done = subprocess.run(
    [sys.executable, '-c', COMMAND, f'--config={recipe}'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split() == printed
