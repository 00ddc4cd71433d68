"""Several processes as one run: joining them, and what they agree on.

Each process runs the same program on the same host data; `jax.distributed`
makes their devices one mesh. A computation on the mesh is entered by all of
them or hangs. So whatever hangs on a clock, a signal, a file or a failure,
which processes may see differently, is agreed on here before it is acted upon.
With one process nothing here communicates.
"""

import contextlib
import faulthandler
import logging
import os
import sys
import traceback
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import ArrayLike

from genre2_jax.errors import InputError, LostProcessError, RunError

# Of a message that one process sends to the others, as UTF-8.
_MESSAGE_BYTES = 1000


def join(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  heartbeat_seconds: int = 60,
) -> None:
  """Joins this process to the others; nothing of jax may have run before.

  On Cloud TPU, under Slurm and Open MPI jax finds out who is who. If the others
  do not come within five minutes, it ends the process.

  Args:
    coordinator: 'host:port' of process 0; None: jax finds it, or takes it from
      JAX_COORDINATOR_ADDRESS.
    num_processes: how many; None: jax finds it.
    process_id: which of them this is, from 0; None: jax finds it.
    heartbeat_seconds: a process that was silent for so long counts as lost,
      and all the others end. It also bounds how long they wait for each other
      at the end.

  Raises:
    InputError: nothing says who is who.
  """
  jax.config.update('jax_enable_preemption_service', True)  # `Shared` asks it.
  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=heartbeat_seconds,
      shutdown_timeout_seconds=heartbeat_seconds,
    )
  except (ValueError, TypeError) as error:
    raise InputError(
      f'--distributed: nothing says which processes there are '
      f'({str(error).splitlines()[0]}) where jax looks for it: give each '
      '--coordinator=HOST:PORT --num_processes=N --process_id=I'
    ) from error
  # absl's handler would add pages of module names to jax's message.
  faulthandler.disable()
  if not is_first():
    logging.getLogger('genre2_jax').setLevel(logging.WARNING)


def is_first() -> bool:
  """Whether this process is the one that writes files and prints."""
  return jax.process_index() == 0


def gather(numbers: ArrayLike) -> np.ndarray:
  """Every process's numbers of one shape, [P, ...], in all processes."""
  numbers = np.asarray(numbers)
  if jax.process_count() == 1:
    return numbers[None]
  return multihost_utils.process_allgather(numbers)


def from_first(number: int) -> int:
  """An int32 of process 0, in all processes."""
  return int(gather(np.int32(number))[0])


def list_from_first(numbers: Sequence[int]) -> list[int]:
  """A list of int32 of process 0, in all processes."""
  count = from_first(len(numbers))
  if not count:
    return []
  return gather(np.resize(np.asarray(numbers, np.int32), count))[0].tolist()


def any_of(flag: object) -> bool:
  """Whether the flag is true in any process."""
  return bool(gather(np.int32(bool(flag))).any())


@contextlib.contextmanager
def at_once(interrupts: object, doing: str) -> Iterator[None]:
  """Within it a signal ends a run of one process now (`Interrupts.at_once`).

  Of several processes all leave together, at the next question: one that went
  by itself would leave the others waiting.
  """
  leave = getattr(interrupts, 'at_once', None)
  if leave is None or jax.process_count() > 1:
    yield
    return
  with leave(doing):
    yield


class Shared:
  """An `interrupts` that is true everywhere once it is true anywhere.

  It is true as well when jax's preemption service, which is behind Orbax's
  `reached_preemption`, has announced the end of any process. The service names
  one question at which all may stop; it wants them numbered, not steps.

  Asking is a collective: all processes ask at the same places.
  """

  def __init__(self, interrupts: object):
    self._interrupts = interrupts
    self._asked = 0
    self.at_once = getattr(interrupts, 'at_once', None)

  def __bool__(self) -> bool:
    self._asked += 1
    announced = multihost_utils.reached_preemption_sync_point(self._asked)
    return any_of(self._interrupts) or announced


@contextlib.contextmanager
def together() -> Iterator[None]:
  """What goes wrong inside in one process goes wrong in all of them.

  Inside, nothing may be computed on the mesh.

  Raises:
    RunError: of the process's own, or of the first that has one.
  """
  if jax.process_count() == 1:
    yield
    return
  mine: Exception | None = None
  try:
    yield
  except Exception as error:
    mine = error
  said = gather(_packed(mine))
  if mine is not None:
    raise mine
  for index, row in enumerate(said):
    if row[0]:
      text = bytes(row[1:]).rstrip(b'\0').decode(errors='ignore')
      kind = InputError if row[0] == InputError.exit_code else RunError
      raise kind(f'process {index}: {text}')


def check_alike(what: str, text: str) -> None:
  """Raises InputError unless all processes have the same text."""
  codes = gather(np.uint32(zlib.crc32(text.encode())))
  different = np.flatnonzero(codes != codes[0])
  if len(different):
    raise InputError(
      f'{what} of process {different[0]} are not those of process 0: give all '
      'processes the same files and flags'
    )


def place(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  """Puts arrays that every process has on the host onto devices.

  Each process copies what its own devices hold, and nothing is sent.
  `jax.device_put` would compare the arrays between the processes first.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def put(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
  """Arrays on devices as numpy, whole, in every process."""

  def whole(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
      return x
    if x.is_fully_replicated:
      return x.addressable_data(0)
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.device_get(jax.tree.map(whole, tree))


@contextlib.contextmanager
def ends_in_words() -> Iterator[None]:
  """Ends this process at once on any error, in one line if another is lost.

  Where collectives go over sockets (gloo, NCCL) they fail at once when a
  process dies. Elsewhere, and wherever no collective is under way, jax itself
  ends this process after `heartbeat_seconds`, and says so at length.

  Raises:
    LostProcessError: instead of what a collective raised.
  """
  try:
    yield
  except RunError:
    raise
  except Exception as error:
    if is_loss(error):
      raise LostProcessError(
        f'process {jax.process_index()} of {jax.process_count()} lost another '
        f'({str(error).splitlines()[0][:150]}): the same command in all '
        'processes goes on from the last checkpoint'
      ) from error
    # Leaving normally would wait for the others, which wait for this one.
    traceback.print_exc()
    sys.stdout.flush()
    os._exit(1)


def is_loss(error: BaseException | None) -> bool:
  """Whether a collective raised this because another process is lost.

  It has no exception type of its own; its words tell.
  """
  return (
    isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    and not isinstance(error, RunError)
    and jax.process_count() > 1
    and any(
      word in str(error)
      for word in ('Gloo', 'NCCL', 'UNAVAILABLE', 'DEADLINE_EXCEEDED')
    )
  )


def _packed(error):
  """An exit code and a message as bytes, all zero for None."""
  row = np.zeros(_MESSAGE_BYTES + 1, np.uint8)
  if error is not None:
    row[0] = getattr(error, 'exit_code', 1) or 1
    text = str(error) if isinstance(error, RunError) else repr(error)
    data = np.frombuffer(text.encode()[:_MESSAGE_BYTES], np.uint8)
    row[1 : 1 + len(data)] = data
  return row
