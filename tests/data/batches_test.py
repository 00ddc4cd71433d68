"""Batches: every row is seen, and padding is known."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from genre2_jax.data import batches

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=40)
SHAPES = [(1, 1), (7, 3), (6, 3), (3, 8), (100, 32), (1, 5)]


@pytest.mark.parametrize(('num_rows', 'batch_size'), SHAPES)
def test_an_epoch_has_every_row_and_as_few_twice_as_possible(
  num_rows, batch_size
):
  steps = batches.steps_per_epoch(num_rows, batch_size)
  assert (steps - 1) * batch_size < num_rows <= steps * batch_size
  indices = np.asarray(
    batches.epoch_indices(jax.random.key(0), num_rows, batch_size)
  )
  assert indices.shape == (steps, batch_size)
  assert indices.dtype == np.int32
  order = indices.ravel()
  assert sorted(order[:num_rows]) == list(range(num_rows))
  np.testing.assert_array_equal(order, np.resize(order[:num_rows], order.size))


def test_an_epochs_order_is_its_keys():
  keys = jax.random.split(jax.random.key(0))
  orders = [
    np.asarray(batches.epoch_indices(key, 50, 8)) for key in (*keys, keys[0])
  ]
  np.testing.assert_array_equal(orders[0], orders[2])
  assert (orders[0] != orders[1]).any()
  assert (orders[0].ravel()[:50] != np.arange(50)).any()


def test_take_takes_the_same_rows_of_every_leaf():
  rows = batches.Examples(
    inputs={'numeric': np.arange(12.0).reshape(6, 2), 'none': np.zeros((6, 0))},
    target=np.arange(6.0),
    tokens=np.arange(18).reshape(6, 3),
  )
  indices = np.array([[4, 0], [4, 5]])
  taken = batches.take(rows, indices)
  assert taken.target.tolist() == [[4, 0], [4, 5]]
  assert taken.tokens[1, 1].tolist() == [15, 16, 17]
  assert taken.inputs['numeric'][0, 0].tolist() == [8, 9]
  assert taken.inputs['none'].shape == (2, 2, 0)


@SETTINGS
@hypothesis.given(st.integers(1, 30), st.integers(1, 12))
def test_blocks_hold_every_row_once_in_order_and_mark_the_rest(
  num_rows, block_size
):
  rows = {'a': np.arange(num_rows) * 10, 'b': np.ones((num_rows, 2, 0))}
  blocks, numbers = batches.blocks(rows, block_size)
  assert numbers.dtype == np.int32
  assert blocks['a'].shape == numbers.shape == (len(numbers), block_size)
  assert blocks['b'].shape == (*numbers.shape, 2, 0)
  assert (len(numbers) - 1) * block_size < num_rows
  flat = numbers.ravel()
  assert flat[:num_rows].tolist() == list(range(num_rows))
  assert (flat[num_rows:] == -1).all()
  np.testing.assert_array_equal(
    blocks['a'].ravel(), np.where(flat < 0, 0, flat * 10)
  )
