"""Rows that stay on the host: the same batches, the same bits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_stage

from genre2_jax.data.batches import Examples
from genre2_jax.devices import sharding
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective
from genre2_jax.policy import Pointwise
from genre2_jax.training import streaming
from genre2_jax.training.programs import compile_stage
from genre2_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures('quick_compiles')


class Linear:
  """A line through rows of two numbers: a `Trainable` that compiles fast."""

  codec = None
  widths = ()
  form = None

  def __init__(self):
    def init(key, inputs):
      drawn = jax.random.normal(key, inputs.shape[-1:])
      return {'w': nn.LogicallyPartitioned(drawn, (None,))}

    def predict(params, inputs, dropout_key=None):
      return inputs @ params['w']

    class Codec:
      def within(self, z):
        return z

    self.codec, self.network = Codec(), Pointwise(init, predict)

  def example_inputs(self):
    return np.zeros((1, 2), np.float32)


def examples(num_rows, seed):
  x = np.random.default_rng(seed).normal(size=(num_rows, 2))
  x = x.astype(np.float32)
  return Examples(x, x.sum(1), np.zeros((num_rows, 0), np.int32))


def trained(share):
  """(compiled stage, state after two epochs in dispatches of odd sizes)."""
  objective = Objective(terms=(build_term('mse'),))
  programs = compile_stage(
    train_step,
    tiny_stage('mse', objective=objective),
    Linear(),
    {'train': examples(45, 0), 'val': examples(7, 1)},
    seeds=(0, 1),
    batch_size=4,
    block_size=4,
    mesh=sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1),
    device_share=share,
  )
  state, _ = programs.validate(programs.init(None))
  assert programs.epoch_steps == 12
  for sizes in ((1, 2, 5, 4), (12,)):
    for size in sizes:
      state = programs.run(state, size)
    state, _ = programs.validate(state)
  return jax.device_get(state)


@pytest.mark.parametrize('steps', [1, 5, 256])
def test_blocks_from_the_host_train_to_the_same_bits(steps, monkeypatch):
  whole = trained(1.0)
  taken = []
  monkeypatch.setattr(
    streaming.Stream,
    '_take',
    lambda *args, own=streaming.Stream._take: (
      taken.append(args[2:]) or own(*args)
    ),
  )
  monkeypatch.setattr(streaming, 'steps_of_block', lambda *_, **__: steps)
  found = trained(1e-12)
  jax.tree.map(np.testing.assert_array_equal, found, whole)
  blocks = -(-12 // steps)
  wanted = [(epoch, b) for epoch in (0, 1) for b in range(blocks)]
  assert taken == wanted  # Each once, in their order.


def test_a_block_is_a_quarter_of_the_room_at_most():
  rows = examples(1000, 0)  # 12 bytes a row.
  options = {'num_seeds': 2, 'batch_size': 10}
  steps = streaming.steps_of_block(rows, room=9600, **options)
  assert steps == 10
  assert streaming.steps_of_block(rows, room=1, **options) == 1
  assert streaming.size_of(jnp.zeros(3)) == 12
