"""Rows on the device: shuffled by index for training, padded for evaluation."""

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


def blocks(rows, block_size):
  """Cuts [N, ...] into padded blocks [N / size, size, ...] and their mask.

  Padding repeats row 0, so that whatever is computed on it stays finite.

  Returns:
    (blocks, row numbers int32 [blocks, size], −1 where padded).
  """
  num_rows = jax.tree.leaves(rows)[0].shape[0]
  num_blocks = math.ceil(num_rows / block_size)
  numbers = np.full(num_blocks * block_size, -1, np.int32)
  numbers[:num_rows] = np.arange(num_rows)
  numbers = numbers.reshape(num_blocks, block_size)
  cut = jax.tree.map(lambda x: np.asarray(x)[np.maximum(numbers, 0)], rows)
  return cut, numbers
