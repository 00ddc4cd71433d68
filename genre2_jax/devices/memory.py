"""Memory of devices: how much there is, what to do when that is not enough."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

import jax

from genre2_jax.errors import OutOfMemoryError
from genre2_jax.files import disk


def per_device() -> int:
  """Bytes that a device has, by its own account; 0 where it has none (CPU)."""
  return (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit', 0)


def of_host() -> int:
  """Bytes of memory of this host; 0 where it does not say."""
  try:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (AttributeError, OSError, ValueError):
    return 0


def describe() -> dict[str, str]:
  """Fields of env.json, bytes as text; '' where they are unknown."""
  return {
    'device_memory': readable(per_device()) if per_device() else '',
    'host_memory': readable(of_host()) if of_host() else '',
  }


def readable(count: float) -> str:
  """Bytes in words: 1536 -> '1.5 KiB'."""
  for unit in ('B', 'KiB', 'MiB', 'GiB'):
    if count < 1024:
      return f'{count:.4g} {unit}'
    count /= 1024
  return f'{count:.4g} TiB'


def own_bytes(tree: Any) -> int:
  """Bytes of a tree of arrays that this process is the one to save."""
  return sum(
    shard.data.nbytes
    for x in jax.tree.leaves(tree)
    for shard in x.addressable_shards
    if shard.replica_id == 0
  )


def shard_bytes(abstract: Any) -> int:
  """Bytes of a tree of abstract arrays on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(abstract)
  )


class Need:
  """What a step is known to need, for when memory runs out.

  Attributes:
    arguments: bytes per device of state and rows; known before compiling.
    temporaries: bytes per device beside them; 0 while unknown.
  """

  def __init__(self) -> None:
    self.arguments = 0
    self.temporaries = 0

  def of_state(self, abstract: Any) -> None:
    """Notes the state, before anything is compiled."""
    self.arguments, self.temporaries = shard_bytes(abstract), 0

  def of_program(self, compiled: jax.stages.Compiled) -> None:
    """Notes what the compiler says, where it says something."""
    analysis = compiled.memory_analysis()
    if analysis is not None:
      self.arguments = analysis.argument_size_in_bytes
      self.temporaries = analysis.temp_size_in_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What could be set otherwise to need less.

  Attributes:
    batch_size: rows of a step.
    accumulation: micro-batches of a step.
    keeps_activations: whether a language model keeps those of all layers.
  """

  batch_size: int
  accumulation: int
  keeps_activations: bool


@contextlib.contextmanager
def shortage_in_words(
  need: Need,
  settings: Settings,
  mesh: jax.sharding.Mesh,
  folder: str | os.PathLike[str] = '',
) -> Iterator[None]:
  """Answers an out-of-memory error with the settings that would help.

  Args:
    need: what is known of it.
    settings: of the run.
    mesh: of the run.
    folder: that the run writes to; '' takes it from an error's words.

  Raises:
    OutOfMemoryError: instead of what the runtime raised.
    FullDiskError: instead of what a library raised, which may call a full disk
      an exhausted resource too.
  """
  try:
    with disk.fullness_in_words(folder):
      yield
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise OutOfMemoryError(advice(need, settings, mesh)) from error


def advice(need: Need, settings: Settings, mesh: jax.sharding.Mesh) -> str:
  """What is needed, and three settings that need less, in one line.

  Accumulation over k micro-batches divides what grows with the batch, nearly
  all temporaries, by k; fsdp over k devices divides the state by k, and leaves
  rows of the data where they are.
  """
  has = per_device()
  known = 'the state needs' if not need.temporaries else 'a step needs'
  text = f'out of memory: {known} {readable(need.arguments)} per device'
  if need.temporaries:
    text += f' for its state and rows and {readable(need.temporaries)} beside'
  if has:
    text += f', and a device has {readable(has)}'
  return f'{text}. What helps: ' + '; '.join(
    (
      _accumulation(need, settings, mesh),
      _remat(settings),
      _fsdp(need, mesh),
    )
  )


def _accumulation(need, settings, mesh):
  now, batch_size = settings.accumulation, settings.batch_size
  least = mesh.shape['data'] * mesh.shape['fsdp']
  rows = batch_size // least
  factor = next((k for k in range(2, rows + 1) if rows % (now * k) == 0), 0)
  if not factor:
    smaller = max(least, batch_size // 2 // least * least)
    return f'batch_size={smaller}' + _saves(
      need.temporaries * (1 - smaller / batch_size)
    )
  return f'optimizer.accumulation={now * factor}' + _saves(
    need.temporaries * (1 - 1 / factor)
  )


def _remat(settings):
  if settings.keeps_activations:
    return 'language_model.remat=True keeps one layer of activations, not all'
  return 'a smaller rollouts.group_size or model.width for fewer activations'


def _fsdp(need, mesh):
  now, others = mesh.shape['fsdp'], mesh.shape['data']
  factor = others if others > 1 else 2
  text = f'mesh.fsdp={now * factor}' + _saves(need.arguments * (1 - 1 / factor))
  return text if others > 1 else f'{text} with {factor} times the devices'


def _saves(count):
  return f' (about {readable(count)} less)' if count >= 1 else ''
