"""Checkpoints of one stage, by Orbax: asynchronous, atomic, verified.

All of Orbax that this project uses is in this file.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from genre2_jax.devices import memory, processes
from genre2_jax.errors import InputError, RunError
from genre2_jax.files import atomic, disk, reading
from genre2_jax.policy import Params
from genre2_jax.training.train_state import TrainState

_logger = logging.getLogger('genre2_jax')


# Elements that are hashed at once, where a device has an array whole.
_HASHED_AT_ONCE = 2**22


def _fingerprint(tree):
  """One uint32 per leaf: the sum of its elements' hashes, mod 2^32.

  Each element is hashed with its place, by MurmurHash3's finalizer: a plain
  sum of bits does not see two signs flip.
  """
  leaves = jax.tree.leaves(tree)
  is_whole = all(
    len(x.sharding.device_set) == 1 for x in leaves if isinstance(x, jax.Array)
  )
  # A program for each shape: one for all leaves takes seconds to compile.
  return _stacked([_leaf_sum(x, is_whole) for x in leaves])


_stacked = jax.jit(jnp.stack)


@functools.partial(jax.jit, static_argnums=1)
def _leaf_sum(x, is_whole):
  """Of one array, by parts if all of them are whole."""
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  if not is_whole or x.size <= _HASHED_AT_ONCE:
    place = jnp.arange(1, x.size + 1, dtype=jnp.uint32).reshape(x.shape)
    return _sum_of_hashes(x, place)
  # XLA on CPUs keeps what it sums: the hashes of an embedding would be twice
  # its size.
  flat = x.reshape(-1)
  count = flat.size // _HASHED_AT_ONCE
  places = jnp.arange(1, _HASHED_AT_ONCE + 1, dtype=jnp.uint32)

  def add(index, total):
    # Tied to the loop, or all of it is converted before.
    own, start = jax.lax.optimization_barrier((flat, index * _HASHED_AT_ONCE))
    part = jax.lax.dynamic_slice(own, (start,), (_HASHED_AT_ONCE,))
    return total + _sum_of_hashes(part, places + start.astype(jnp.uint32))

  total = jax.lax.fori_loop(0, count, add, jnp.uint32(0))
  rest = flat[count * _HASHED_AT_ONCE :]
  places = jnp.arange(
    count * _HASHED_AT_ONCE + 1, flat.size + 1, dtype=jnp.uint32
  )
  return total + _sum_of_hashes(rest, places)


def _sum_of_hashes(x, place):
  """Of an array's elements, which stand at places uint32, mod 2^32."""
  bits = jax.lax.bitcast_convert_type(
    x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  ).astype(jnp.uint32)
  bits ^= place * jnp.uint32(0x9E3779B9)
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
  return jnp.sum(bits ^ (bits >> 16), dtype=jnp.uint32)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
  """Orbax warns of what it is asked for: of reading, of keeping one."""
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


class Checkpoints:
  """The checkpoints of a stage, newest last.

  Orbax writes into a temporary folder and renames it, so a checkpoint is there
  whole or not at all. A fingerprint of every array is saved along and compared
  when restoring: a file that a disk or a hand damaged later is passed over for
  the checkpoint before it.

  All processes of a run call the same methods at the same places. Each writes
  what its devices hold into the one folder, which all of them see; process 0
  says whether a save is due and which steps there are.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    keep: int = 2,
    every_seconds: float = 60.0,
    read_only: bool = False,
  ):
    """Opens a folder; the checkpoints in it stay.

    Args:
      directory: absolute path.
      keep: how many of the newest to keep.
      every_seconds: least time between two saves by `save_if_due`.
      read_only: promises that nothing will be saved.
    """
    self._every_seconds = every_seconds
    self._read_only = read_only
    self._last_save = time.monotonic()
    with without_warnings():
      self._manager = ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(
          max_to_keep=None if read_only else keep,
          create=not read_only,
          read_only=read_only,
        ),
      )
    self._reader = self._manager
    if jax.process_count() > 1:
      # By itself: one that finds a damaged file would leave the others waiting
      # at Orbax's barriers.
      me = jax.process_index()
      self._reader = ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(
          read_only=True,
          multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=me,
            active_processes={me},
            barrier_sync_key_prefix=f'process_{me}',
          ),
        ),
      )

  def save_if_due(self, step: int, state: Any) -> None:
    """Saves unless the last save is younger than `every_seconds`.

    While that one is still being written it is not due either, or the next
    step would wait for the disk; with `every_seconds` 0 it does.
    """
    due = time.monotonic() - self._last_save >= self._every_seconds
    if self._every_seconds and self.is_saving():
      due = False
    if processes.from_first(due):
      self.save(step, state)

  def save(self, step: int, state: Any) -> None:
    """Saves in the background; returns once the device may go on.

    Raises:
      FullDiskError: there is no room for it; nothing is written.
    """
    if processes.from_first(step in self._manager.all_steps()):
      return
    with processes.together():
      disk.check_room(self._manager.directory, memory.own_bytes(state))
    self._manager.save(
      step,
      args=ocp.args.StandardSave(
        {'state': state, 'fingerprint': _fingerprint(state)}
      ),
    )
    self._last_save = time.monotonic()

  def restore(self, abstract_state: Any) -> Any:
    """The newest checkpoint that is whole, or None.

    Args:
      abstract_state: shapes, dtypes and shardings to restore to.

    Raises:
      RunError: a process does not see the folder that process 0 sees.
    """
    fingerprint = jax.ShapeDtypeStruct(
      (len(jax.tree.leaves(abstract_state)),),
      jnp.uint32,
      sharding=jax.tree.leaves(abstract_state)[0].sharding.update(
        spec=jax.sharding.PartitionSpec()
      ),
    )
    target = {'state': abstract_state, 'fingerprint': fingerprint}
    steps = processes.list_from_first(self._manager.all_steps())
    for step in sorted(steps, reverse=True):
      self._check_seen(step)
      restored, reason = self._read(step, target)
      # Of sharded arrays each process reads its own part.
      if not processes.any_of(reason):
        found = _fingerprint(restored['state'])
        found, saved = processes.fetch((found, restored['fingerprint']))
        if np.array_equal(found, saved):
          return restored['state']
        reason = 'its arrays do not match their fingerprint'
      if reason:
        _logger.warning(
          'checkpoint %s/%d is damaged, trying the one before: %.200s',
          self._manager.directory,
          step,
          reason,
        )
      if not self._read_only:
        self._manager.delete(step)  # Or Orbax saves none before it.
    return None

  def _check_seen(self, step):
    """Raises RunError where a process does not see what process 0 sees.

    It is no damage: deleting it would lose what the others can read.
    """
    path = self._manager.directory / str(step)
    with processes.together():
      if jax.process_count() > 1 and not path.exists():
        raise RunError(
          f'process {jax.process_index()} does not see {path}: all hosts must '
          'share the folder; if they do, run again'
        )

  def _read(self, step, target):
    """(What a checkpoint holds, ''), or (None, what is wrong with it)."""
    try:
      arguments = ocp.args.StandardRestore(target)
      return self._reader.restore(step, args=arguments), ''
    except (MemoryError, jax.errors.JaxRuntimeError):
      raise  # The machine's fault, not the file's.
    except Exception as error:  # Orbax's errors share no base class.
      return None, (str(error) or repr(error)).splitlines()[0]

  def is_saving(self) -> bool:
    """Whether this process still writes."""
    return self._manager.is_saving_in_progress()

  def wait(self) -> None:
    """Waits for saves under way."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for saves under way, and lets the folder go."""
    self.wait()
    self._manager.close()
    if self._reader is not self._manager:
      self._reader.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    del kind, trace
    if not processes.is_loss(error):  # Or a save waits for who is gone.
      self.close()


def restored(directory: pathlib.Path, target: Any) -> Any:
  """What a folder's newest whole checkpoint holds; None without one.

  Args:
    directory: absolute path, which need not be there.
    target: as of `Checkpoints.restore`.
  """
  if not processes.from_first(directory.exists()):
    return None
  with Checkpoints(directory, read_only=True) as saved:
    return saved.restore(target)


class Frozen(Protocol):
  """Where the parameters are that no stage of a run trains."""

  @property
  def where(self) -> pathlib.Path:
    """What a message names."""

  def save(self, frozen: Params) -> None:
    """Sees to it that `restore` gives these, in a later process too."""

  def restore(self, abstract: Params) -> Params | None:
    """They, where `abstract` says; None if they are not there, or damaged."""


@dataclasses.dataclass(frozen=True)
class KeptFrozen:
  """Frozen parameters in a folder of their own: `Frozen`.

  Attributes:
    where: absolute path of it.
  """

  where: pathlib.Path

  def save(self, frozen: Params) -> None:
    """Writes them, unless they are there."""
    # It saves none that is there; a folder alone may be what a kill left.
    with Checkpoints(self.where, keep=1) as kept:
      kept.save(0, frozen)

  def restore(self, abstract: Params) -> Params | None:
    """Reads them."""
    return restored(self.where, abstract)


@dataclasses.dataclass(frozen=True)
class ReferredFrozen:
  """Frozen parameters that lie elsewhere, and their fingerprint: `Frozen`.

  Attributes:
    where: absolute path of the file that says what they must be.
    source: what they are read from, for messages.
    read: reads them.
  """

  where: pathlib.Path
  source: str
  read: Callable[[], Params]

  def save(self, frozen: Params) -> None:
    """Writes the fingerprint, unless one is there."""
    found = processes.fetch(_fingerprint(frozen)).tolist()
    with processes.together():
      if processes.is_first() and not self.where.exists():
        self.where.parent.mkdir(parents=True, exist_ok=True)
        said = {'pretrained': self.source, 'fingerprint': found}
        atomic.write_json(self.where, said)

  def restore(self, abstract: Params) -> Params | None:
    """Reads them; raises InputError if they are not those that were saved."""
    del abstract  # What reads them knows.
    if not processes.from_first(self.where.exists()):
      return None
    saved = reading.read_json(self.where).get('fingerprint')
    frozen = self.read()
    if processes.fetch(_fingerprint(frozen)).tolist() != saved:
      raise InputError(
        f'{self.source} has changed since {self.where} was written: restore '
        'it, or train again in a new workdir'
      )
    return frozen


class StageCheckpoints:
  """Checkpoints of `TrainState`s; what is frozen is seen to once, apart.

  A checkpoint then costs what is trained, however large the model.
  """

  def __init__(self, directory: pathlib.Path, frozen: Frozen, **options: Any):
    """Opens a folder.

    Args:
      directory: absolute path.
      frozen: where parameters are that are never trained. Stages of a run may
        share it.
      **options: of `Checkpoints`.
    """
    self._states = Checkpoints(directory, **options)
    self._frozen = frozen
    self._frozen_is_saved = False

  def save_if_due(self, step: int, state: TrainState) -> None:
    """Saves unless the last save is younger than `every_seconds`."""
    self._save_frozen(state)
    self._states.save_if_due(step, dataclasses.replace(state, frozen=None))

  def save(self, step: int, state: TrainState) -> None:
    """Saves in the background; returns once the device may go on."""
    self._save_frozen(state)
    self._states.save(step, dataclasses.replace(state, frozen=None))

  def restore(self, abstract_state: TrainState) -> TrainState | None:
    """The newest checkpoint that is whole, or None.

    Args:
      abstract_state: shapes, dtypes and shardings to restore to.

    Raises:
      InputError: the frozen parameters that belong to it are damaged.
    """
    state = self._states.restore(
      dataclasses.replace(abstract_state, frozen=None)
    )
    if state is None or abstract_state.frozen is None:
      return state
    frozen = self._frozen.restore(abstract_state.frozen)
    if frozen is None:
      raise InputError(
        f'{self._frozen.where} has no whole frozen parameters, which the '
        'checkpoints beside it need: train again, in a new workdir'
      )
    self._frozen_is_saved = True
    return dataclasses.replace(state, frozen=frozen)

  def _save_frozen(self, state):
    if state.frozen is not None and not self._frozen_is_saved:
      self._frozen.save(state.frozen)
      self._frozen_is_saved = True

  def close(self) -> None:
    """Waits for saves under way."""
    self._states.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._states.__exit__(kind, error, trace)
