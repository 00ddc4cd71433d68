"""Programs that are compiled once: in a process, and in JAX's own cache."""

import collections
import hashlib
import logging
import pathlib
import platform
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import jaxlib

from genre2_jax.data.reading import path_of, user_cache

_logger = logging.getLogger('genre2_jax')

NONE = 'none'
_CPU = pathlib.Path('/proc/cpuinfo')
_MAX_BYTES = 2 * 2**30
# Programs that this process keeps at hand, those used last.
_MAX_PROGRAMS = 32
# Of JAX, that make other programs.
_SETTINGS = (
  'jax_disable_most_optimizations',
  'jax_default_matmul_precision',
  'jax_enable_x64',
)
# Programs that compile faster are not worth their files.
_MIN_SECONDS = 0.5

_Program = TypeVar('_Program')
_programs = collections.OrderedDict[Hashable, Any]()


def shared(key: Hashable, make: Callable[[], _Program]) -> _Program:
  """A program that this process made before, or makes now.

  Args:
    key: all that it depends on; None: it is nobody else's.
    make: traces or compiles it; it must hold no arrays of any data.
  """
  if key is None:
    return make()
  # What JAX would compile otherwise.
  values = jax.config.values
  settings = tuple(values.get(name) for name in _SETTINGS)
  key = key, settings
  found = _programs.pop(key, None)
  if found is None:
    found = make()
  _programs[key] = found
  while len(_programs) > _MAX_PROGRAMS:
    _programs.popitem(last=False)
  return found


def options(mesh: jax.sharding.Mesh | None = None) -> dict[str, str | bool]:
  """What XLA is told of a program on a mesh's devices, or on the default ones.

  On CPUs loops keep what does not change in them. XLA would take out of a loop
  over layers that all their bfloat16 weights and activations become float32,
  before any is needed: of a LoRA step of a Gemma 3 270M half of the memory and
  a fifth of the time.
  """
  if mesh is None:
    platform = jax.default_backend()
  else:
    platform = mesh.devices.flat[0].platform
  if platform != 'cpu':
    return {}
  return {'xla_disable_hlo_passes': 'while-loop-invariant-code-motion'}


def signature(tree: Any) -> Hashable:
  """What a compiled program depends on of its arguments, hashable."""
  leaves, structure = jax.tree.flatten(tree)
  found = (
    (x.shape, str(x.dtype), getattr(x, 'sharding', None)) for x in leaves
  )
  return structure, tuple(found)


def keep_programs(folder: str = '') -> None:
  """Compiled programs are kept in a folder, and taken from there.

  Where the caller has set `jax_compilation_cache_dir`, that stays. The least
  recently used programs make room for new ones beyond 2 GiB.

  Args:
    folder: '' for the user's cache, `$XDG_CACHE_HOME` or ~/.cache; 'none': no
      program is kept. Whoever can write there can run code here.
  """
  if folder == NONE or getattr(jax.config, 'jax_compilation_cache_dir', None):
    return
  path = path_of(folder or user_cache() / 'compiled') / _machine()
  try:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
  except OSError as error:
    _logger.warning('compiled programs are not kept: %s', error)
    return
  jax.config.update('jax_compilation_cache_dir', str(path))
  jax.config.update('jax_compilation_cache_max_size', _MAX_BYTES)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _MIN_SECONDS)


def _machine() -> str:
  """A name for what a CPU program depends on, which JAX's keys leave out.

  A program for one processor's instructions may crash on another's.
  """
  parts = [platform.machine(), platform.system(), jaxlib.__version__]
  try:
    lines = _CPU.read_text().splitlines()
  except OSError:
    parts.append(platform.processor())
  else:
    parts += sorted(
      {x for x in lines if x.startswith(('model name', 'flags', 'Features'))}
    )
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]
