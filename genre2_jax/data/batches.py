"""Rows on the device: shuffled by index for training, padded for evaluation."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

# On the host or on the device.
Array = np.ndarray | jax.Array
# What a policy encodes: any nesting of arrays with a leading axis of rows.
Inputs = Any
_Rows = TypeVar('_Rows')  # Arrays in any nesting.


class Examples(NamedTuple):
  """Rows with their targets; a batch is an `Examples` of B rows.

  Attributes:
    inputs: what the policy encodes, any nesting of arrays [N, ...].
    target: float32 [N], z-scores.
    tokens: int32 [N, T], the targets as number tokens.
    weight: float32 [N], how much each counts, of mean 1 over the training rows;
      None: all alike.
  """

  inputs: Inputs
  target: Any
  tokens: Any
  weight: Any = None


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
  """Batches in which every row comes at least once."""
  return math.ceil(num_rows / batch_size)


def epoch_indices(key: jax.Array, num_rows: int, batch_size: int) -> jax.Array:
  """A shuffled epoch: int32 [steps, B], every row at least once.

  The last batch is filled up from the start of the same permutation, so that
  all batches have one shape and no row is left out.
  """
  order = jax.random.permutation(key, num_rows).astype(jnp.int32)
  steps = steps_per_epoch(num_rows, batch_size)
  return jnp.resize(order, (steps, batch_size))


def ladder(count: int) -> int:
  """The least of 1, 2, 3 and 2^k · (4, 5, 6, 7) that holds so many rows.

  Tables of nearly as many rows then have one shape, and share programs.
  """
  unit = 2 ** max(0, (count - 1).bit_length() - 3)
  return math.ceil(count / unit) * unit


def padded(rows: _Rows, size: int) -> _Rows:
  """Rows [N, ...] on the host with zeros behind, of every leaf: [size, ...]."""

  def pad(x: Any) -> np.ndarray:
    x = np.asarray(x)
    more = np.zeros((size - len(x), *x.shape[1:]), x.dtype)
    return np.concatenate([x, more]) if len(more) else x

  return jax.tree.map(pad, rows)


def shuffled(key: jax.Array, size: int, num_rows: jax.Array) -> jax.Array:
  """`jax.random.permutation(key, num_rows)` of a traced number: int32 [size].

  To the bit, however many more places there are: a row's random number is that
  of its place alone, and what is behind the rows stays behind them.

  Args:
    key: a PRNG key.
    size: of the result; what stands behind `num_rows` is no row.
    num_rows: int32, at most the size.
  """
  places = jnp.arange(size, dtype=jnp.int32)
  most = jnp.uint32(2**32 - 1)
  # A round of sorting by 32 bits leaves ties; so many have none, as in JAX.
  rounds = _num_rounds(size)
  order = places
  for turn in range(rounds):
    key, own = jax.random.split(key)
    bits = jax.random.bits(own, (size,), jnp.uint32)
    # A stable sort: of equal numbers the row stands first.
    bits = jnp.where(places < num_rows, bits, most)
    _, following = jax.lax.sort_key_val(bits, order)
    # The least number of rows that as many rounds are made for.
    needed = num_rows > _most_rows(turn)
    order = jnp.where(needed, following, order) if turn else following
  return order


def _num_rounds(size):
  return max(1, math.ceil(3 * math.log(max(1, size)) / math.log(2**32 - 1)))


@functools.cache
def _most_rows(turns):
  """The most rows that so many rounds shuffle."""
  low, high = 1, 2**31 - 1
  while low < high:
    middle = (low + high + 1) // 2
    low, high = (
      (middle, high) if _num_rounds(middle) <= turns else (low, middle - 1)
    )
  return low


def batch_at(
  order: jax.Array, place: jax.Array, num_rows: jax.Array, batch_size: int
) -> jax.Array:
  """Rows of a batch of `epoch_indices`: int32 [..., B].

  Args:
    order: of `shuffled`, [..., size].
    place: of the batch in its epoch.
    num_rows: int32, that are shuffled.
    batch_size: B.
  """
  index = place * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
  return jnp.take(order, index % num_rows, axis=-1)


def take(rows: _Rows, indices: jax.Array) -> _Rows:
  """Rows [N, ...] of every leaf at `indices` [...]: [*indices, ...]."""
  return jax.tree.map(lambda x: jnp.take(x, indices, axis=0), rows)


def blocks(
  rows: _Rows, block_size: int, chosen: np.ndarray | None = None
) -> tuple[_Rows, np.ndarray]:
  """Cuts [N, ...] into ⌈N / size⌉ padded blocks [blocks, size, ...].

  Padding repeats row 0, so that whatever is computed on it stays finite.

  Args:
    rows: any nesting of arrays [N, ...], on the host.
    block_size: rows of a block.
    chosen: int [n], numbers of the rows to take; None: all.

  Returns:
    (blocks, row numbers int32 [blocks, size], −1 where padded).
  """
  if chosen is None:
    chosen = np.arange(jax.tree.leaves(rows)[0].shape[0])
  num_rows = len(chosen)
  num_blocks = math.ceil(num_rows / block_size)
  flat = np.full(num_blocks * block_size, -1, np.int32)
  flat[:num_rows] = chosen
  numbers = flat.reshape(num_blocks, block_size)
  cut = jax.tree.map(lambda x: np.asarray(x)[np.maximum(numbers, 0)], rows)
  return cut, numbers


def padded_blocks(cut: _Rows, numbers: np.ndarray) -> tuple[_Rows, np.ndarray]:
  """`blocks` with more of them behind, as the `ladder` has it, all padding."""
  size = ladder(len(numbers))
  return padded(cut, size), padded(numbers + 1, size) - 1


def by_width(
  inputs: Inputs, widths: Sequence[int]
) -> list[tuple[np.ndarray, Inputs]]:
  """Rows by the least of some widths that holds their text.

  Args:
    inputs: {'tokens': [N, ..., L], 'length': [N]} on the host; anything else is
      one part as it is.
    widths: ascending, static.

  Returns:
    [(row numbers int32 [n], inputs of all N rows cut to the width)] of the
    widths that have rows.
  """
  if len(widths) < 2:
    count = jax.tree.leaves(inputs)[0].shape[0]
    return [(np.arange(count, dtype=np.int32), inputs)]
  bounds = [0, *widths[:-1], inputs['tokens'].shape[-1]]
  parts = []
  for low, high in itertools.pairwise(bounds):
    inside = (inputs['length'] > low) & (inputs['length'] <= high)
    if inside.any():
      rows = np.flatnonzero(inside).astype(np.int32)
      parts.append((rows, crop(inputs, high)))
  return parts


def crop(inputs: Mapping[str, Array], width: int) -> dict[str, Array]:
  """The first `width` tokens: 'tokens' [..., L] -> [..., width]."""
  return {**inputs, 'tokens': inputs['tokens'][..., :width]}


def bucketed_epoch(
  key: jax.Array,
  order_key: jax.Array,
  buckets: Sequence[np.ndarray],
  batch_size: int,
) -> tuple[jax.Array, jax.Array]:
  """A shuffled epoch whose batches each come from one bucket.

  Args:
    key: of the rows in each batch.
    order_key: of the batches; whoever shares it has the same buckets in turn.
    buckets: row numbers of each.
    batch_size: B.

  Returns:
    (rows int32 [steps, B], every one at least once, bucket int32 [steps]).
  """
  indices = [
    jnp.asarray(rows)[
      epoch_indices(jax.random.fold_in(key, i), len(rows), batch_size)
    ]
    for i, rows in enumerate(buckets)
  ]
  steps = [len(part) for part in indices]
  order = jax.random.permutation(order_key, sum(steps))
  which = np.repeat(np.arange(len(buckets), dtype=np.int32), steps)
  return jnp.concatenate(indices)[order], jnp.asarray(which)[order]
