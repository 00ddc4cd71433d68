"""Rows on the device: shuffled by index for training, padded for evaluation."""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Examples(NamedTuple):
  """Rows with their targets; a batch is an `Examples` of B rows.

  Attributes:
    inputs: what the policy encodes, any nesting of arrays [N, ...].
    target: float32 [N], z-scores.
    tokens: int32 [N, T], the targets as number tokens.
  """

  inputs: Any
  target: Any
  tokens: Any


def steps_per_epoch(num_rows, batch_size):
  """Batches in which every row comes at least once."""
  return math.ceil(num_rows / batch_size)


def epoch_indices(key, num_rows, batch_size):
  """A shuffled epoch: int32 [steps, B], every row at least once.

  The last batch is filled up from the start of the same permutation, so that
  all batches have one shape and no row is left out.
  """
  order = jax.random.permutation(key, num_rows).astype(jnp.int32)
  steps = steps_per_epoch(num_rows, batch_size)
  return jnp.resize(order, (steps, batch_size))


def take(rows, indices):
  """The rows at `indices` of every leaf."""
  return jax.tree.map(lambda x: jnp.take(x, indices, axis=0), rows)


def blocks(rows, block_size, chosen=None):
  """Cuts [N, ...] into padded blocks [N / size, size, ...] and their mask.

  Padding repeats row 0, so that whatever is computed on it stays finite.

  Args:
    rows: any nesting of arrays [N, ...], on the host.
    block_size: of a block.
    chosen: numbers of the rows to take; None: all.

  Returns:
    (blocks, row numbers int32 [blocks, size], −1 where padded).
  """
  if chosen is None:
    chosen = np.arange(jax.tree.leaves(rows)[0].shape[0])
  num_rows = len(chosen)
  num_blocks = math.ceil(num_rows / block_size)
  numbers = np.full(num_blocks * block_size, -1, np.int32)
  numbers[:num_rows] = chosen
  numbers = numbers.reshape(num_blocks, block_size)
  cut = jax.tree.map(lambda x: np.asarray(x)[np.maximum(numbers, 0)], rows)
  return cut, numbers


def by_width(inputs, widths):
  """Rows by the least of some widths that holds their text.

  Args:
    inputs: {'tokens': [N, L], 'length': [N]} on the host; anything else is one
      part as it is.
    widths: ascending, static.

  Returns:
    [(row numbers int32 [n], inputs of all N rows cut to the width)] of the
    widths that have rows.
  """
  if len(widths) < 2:
    count = jax.tree.leaves(inputs)[0].shape[0]
    return [(np.arange(count, dtype=np.int32), inputs)]
  bounds = [0, *widths[:-1], inputs['tokens'].shape[1]]
  parts = []
  for low, high in itertools.pairwise(bounds):
    inside = (inputs['length'] > low) & (inputs['length'] <= high)
    if inside.any():
      rows = np.flatnonzero(inside).astype(np.int32)
      parts.append((rows, crop(inputs, high)))
  return parts


def crop(inputs, width):
  """The first `width` tokens: inputs [..., L] -> [..., width]."""
  return inputs | {'tokens': inputs['tokens'][..., :width]}


def bucketed_epoch(key, order_key, buckets, batch_size):
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
