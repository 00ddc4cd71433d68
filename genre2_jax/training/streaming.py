"""Training rows that stay on the host, and come to the device in blocks.

Rows that are large beside a device's memory need not lie there: a dispatch
takes the batches of its steps, in the order in which the device would have
taken them. While the device is at one block the host gathers the next.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from genre2_jax.data.batches import Examples
from genre2_jax.devices import memory, processes

# Of the memory that rows may take, what one block may: two are held at once.
_SHARE_OF_BLOCK = 0.25
_MAX_STEPS = 256

# (key data of the seeds [S, 2], epoch) -> (row numbers of its batches
# [S, steps, B], the bucket of each step int32 [steps]), on the host.
Order = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class Block(NamedTuple):
  """Batches of consecutive steps, on the device.

  Attributes:
    rows: `Examples` [S, K, B, ...].
    which: int32 [K], the bucket of each batch.
    first: the step in its epoch that the first of them is for.
  """

  rows: Examples
  which: np.ndarray
  first: int


def bytes_for_rows(share: float) -> float:
  """What rows may take of a device; of the host, where that is the device."""
  return share * (memory.per_device() or memory.of_host() or float('inf'))


def size_of(rows: Any) -> int:
  """Bytes of a tree of arrays on the host."""
  return sum(x.nbytes for x in jax.tree.leaves(rows))


def steps_of_block(
  rows: Examples, *, num_seeds: int, batch_size: int, room: float
) -> int:
  """K, steps of a block that two of fit into the room for rows.

  Args:
    rows: of the training split, on the host.
    num_seeds: S.
    batch_size: B.
    room: bytes.
  """
  each = size_of(rows) / max(len(rows.target), 1) * batch_size * num_seeds
  return int(max(1, min(_MAX_STEPS, _SHARE_OF_BLOCK * room / max(each, 1))))


class Stream:
  """Blocks of a training split in the order of its epochs.

  Args:
    rows: `Examples` of n rows, on the host.
    order: of an epoch.
    batch_size: B.
    num_steps: K, of a block.
    sharding: of a block.
  """

  def __init__(
    self,
    rows: Examples,
    order: Order,
    *,
    batch_size: int,
    num_steps: int,
    sharding: jax.sharding.Sharding,
  ) -> None:
    self._rows, self._order, self._sharding = rows, order, sharding
    self._batch_size, self.num_steps = batch_size, num_steps
    self._epoch: tuple[int, Any] | None = None
    self._blocks: dict[tuple[int, int], Block] = {}

  def example(self, num_seeds: int) -> tuple[Examples, Any]:
    """Shape and sharding of a block's rows and buckets, of so many seeds."""
    leading = num_seeds, self.num_steps, self._batch_size
    rows = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (*leading, *x.shape[1:]), x.dtype, sharding=self._sharding
      ),
      self._rows,
    )
    return rows, np.zeros(self.num_steps, np.int32)

  def at(self, keys: np.ndarray, epoch: int, place: int) -> Block:
    """The block that a step of an epoch is in, perhaps there already."""
    number = place // self.num_steps
    if (epoch, number) not in self._blocks:
      self._take(keys, epoch, number)
    return self._blocks[epoch, number]

  def prepare(self, keys: np.ndarray, epoch: int, place: int) -> None:
    """Begins to bring the block of a step, and lets go of those before it."""
    number = place // self.num_steps
    self._blocks = {
      at: block
      for at, block in self._blocks.items()
      if at[0] == epoch and number - 1 <= at[1] <= number
    }
    if (epoch, number) not in self._blocks:
      self._take(keys, epoch, number)

  def _take(self, keys, epoch, number):
    if self._epoch is None or self._epoch[0] != epoch:
      self._epoch = epoch, self._order(keys, epoch)
    indices, which = self._epoch[1]
    first = number * self.num_steps
    # The last block is filled up from the epoch's first steps.
    places = (first + np.arange(self.num_steps)) % indices.shape[1]
    rows = jax.tree.map(lambda x: np.asarray(x)[indices[:, places]], self._rows)
    self._blocks[epoch, number] = Block(
      processes.place(rows, self._sharding),
      which[places],
      first,
    )


def run(
  stream: Stream,
  program: Callable[..., Any],
  state: Any,
  num_steps: int,
  epoch_steps: int,
) -> Any:
  """The state after so many steps, which do not go past the epoch.

  Args:
    stream: of the rows.
    program: `(state, a block, place in it, number of steps) -> state`.
    state: a stacked `TrainState`.
    num_steps: to take.
    epoch_steps: steps in an epoch.
  """
  keys, step, epoch = processes.fetch((state.key, state.step, state.epoch))
  epoch = int(epoch[0])
  place = int(step[0]) - epoch * epoch_steps
  end = place + num_steps
  while place < end:
    block = stream.at(keys, epoch, place)
    offset = place - block.first
    count = min(end - place, stream.num_steps - offset)
    state = program(
      state, (block.rows, block.which), np.int32(offset), np.int32(count)
    )
    place += count
    if place < epoch_steps:  # While the device is at it.
      stream.prepare(keys, epoch, place)
  return state
