"""What becomes of memory that programs on a CPU have freed."""

import ctypes
import os

import jax

# Parameters of glibc's mallopt, <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed() -> bool:
  """Memory that this process frees stays with it: whether that could be set.

  XLA:CPU takes the temporaries of a program from malloc when it is called, and
  frees them when it returns. glibc gives blocks of that size back to the
  kernel, which maps and clears every page again at the next call: a quarter of
  an RL step at the paper's size, a third of a CE step. Only the heap of the
  main thread can hold such blocks, so that this thread runs the programs.

  What is freed is not there for others until the process ends, and blocks of
  many sizes do not fill each other's gaps: a run at the paper's size has a peak
  of 4.1 GB (2.4 if it is short, with or without this), a LoRA run of a Gemma 3
  270M, to no gain, 4.1 instead of 3.3. For a process of one run on a table,
  before it asks for devices.

  Where the environment says how malloc is to be, `MALLOC_...` or
  `GLIBC_TUNABLES`, that stays. Other C libraries have no such parameters.
  """
  if any(name.startswith('MALLOC_') for name in os.environ):
    return False
  if 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', ''):
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  if not (mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER)):
    return False
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  return True
