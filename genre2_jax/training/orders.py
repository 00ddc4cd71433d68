"""The order in which an epoch takes its rows, drawn from a seed's key."""

from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.data import batches
from genre2_jax.data.batches import Examples
from genre2_jax.devices import compilation, processes

# A stream of a stage's key, beside those of its steps, which come not this far.
_SHUFFLE = 2**31 - 1

# (row numbers, padded width) of texts that a batch may be taken from.
Buckets = Sequence[tuple[np.ndarray, int]]


def drawn(
  keys: jax.Array, epochs: jax.Array, num_rows: jax.Array, size: int
) -> jax.Array:
  """All rows in the order of the seeds' epochs: int32 [S, size].

  Args:
    keys: of the stage, as data [S, 2].
    epochs: [S].
    num_rows: of the training split.
    size: of an order; what stands behind the rows is none.
  """
  keys = _shuffle_keys(keys, epochs)
  return jax.vmap(lambda key: batches.shuffled(key, size, num_rows))(keys)


def drawn_by_bucket(
  keys: jax.Array, epochs: jax.Array, buckets: Buckets, batch_size: int
) -> tuple[jax.Array, jax.Array]:
  """The batches of the seeds' epochs, each of one bucket.

  Args:
    keys: of the stage, as data [S, 2].
    epochs: [S], all the same.
    buckets: (row numbers, width).
    batch_size: B.

  Returns:
    (row numbers [S, steps, B], the bucket of each step [steps]).
  """
  # Without a seed in it: the buckets come in one order for all of them, which
  # a seed that trains alone has too.
  order_key = jax.random.fold_in(jax.random.key(_SHUFFLE), epochs[0])
  rows = [rows for rows, _ in buckets]
  return jax.vmap(
    lambda key: batches.bucketed_epoch(key, order_key, rows, batch_size),
    out_axes=(0, None),
  )(_shuffle_keys(keys, epochs))


def _shuffle_keys(keys, epochs):
  """Of the seeds' epochs; keys are data [S, 2]."""
  keys = jax.vmap(jax.random.wrap_key_data)(keys)
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _SHUFFLE)
  return jax.vmap(jax.random.fold_in)(keys, epochs)


class Orders:
  """The order of an epoch, drawn once: sorting many rows outlasts a dispatch.

  Args:
    num_seeds: S.
    num_rows: of the training split.
    size: of an order; what stands behind the rows is none.
    like: the sharding of an array [S].
  """

  def __init__(
    self,
    num_seeds: int,
    num_rows: int,
    size: int,
    like: jax.sharding.Sharding,
  ) -> None:
    self.example = jax.ShapeDtypeStruct(
      (num_seeds, size), jnp.int32, sharding=like
    )
    self._num_rows, self._size = np.int32(num_rows), size
    self._draw = compilation.shared(
      ('order', num_seeds, size, like),
      lambda: jax.jit(_of_epoch, static_argnums=3, out_shardings=like),
    )
    self._last: tuple[Hashable, jax.Array] | None = None

  def of(self, keys: np.ndarray, epoch: int) -> jax.Array:
    """Int32 [S, size], of the seeds' keys."""
    which = epoch, keys.tobytes()
    if self._last is None or self._last[0] != which:
      order = self._draw(keys, epoch, self._num_rows, self._size)
      self._last = which, order
    return self._last[1]


def _of_epoch(keys, epoch, num_rows, size):
  return drawn(keys, jnp.full(len(keys), epoch), num_rows, size)


def batches_of(
  orders: Orders,
  keys: np.ndarray,
  epoch: int,
  *,
  num_rows: int,
  batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
  """The batches of an epoch, all of one bucket, on the host.

  Returns:
    (row numbers [S, steps, B], the bucket of each step [steps], which is 0).
  """
  order = np.asarray(processes.fetch(orders.of(keys, epoch)))
  steps = batches.steps_per_epoch(num_rows, batch_size)
  index = np.arange(steps * batch_size) % num_rows
  rows = order[:, index].reshape(len(order), steps, batch_size)
  return rows, np.zeros(steps, np.int32)


def batches_by_bucket(
  keys: np.ndarray, epoch: int, *, buckets: Buckets, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """`drawn_by_bucket` of one epoch, on the host."""
  epochs = jnp.full(len(keys), epoch)
  found = drawn_by_bucket(jnp.asarray(keys), epochs, buckets, batch_size)
  return processes.fetch(found)


def steps_per_epoch(
  examples: Examples, widths: Sequence[int], batch_size: int
) -> int:
  """Batches in which every row comes at least once, bucket by bucket.

  Args:
    examples: of the training split, on the host.
    widths: that texts are padded to.
    batch_size: B.
  """
  return count_steps(
    len(examples.target), batch_size, buckets_of(examples, widths)
  )


def count_steps(num_rows: int, batch_size: int, buckets: Buckets = ()) -> int:
  """`steps_per_epoch` of so many rows, or of their buckets."""
  sizes = [len(rows) for rows, _ in buckets] or [num_rows]
  return sum(batches.steps_per_epoch(size, batch_size) for size in sizes)


def buckets_of(examples: Examples, widths: Sequence[int]) -> Buckets:
  """(row numbers, width) of `Examples` of texts, by `batches.by_width`."""
  if len(widths) < 2:
    return ()
  return tuple(
    (rows, inputs['tokens'].shape[-1])
    for rows, inputs in batches.by_width(examples.inputs, widths)
  )
