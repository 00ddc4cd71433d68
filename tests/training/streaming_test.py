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


class Words:
  """A weight per word, padding too: a text's width shows."""

  form = None

  def __init__(self, widths):
    def init(key, inputs):
      return {
        'w': nn.LogicallyPartitioned(jax.random.normal(key, (9,)), (None,))
      }

    def predict(params, inputs, dropout_key=None):
      return params['w'][inputs['tokens']].sum(-1)

    self.widths = widths
    self.codec, self.network = Linear().codec, Pointwise(init, predict)

  def example_inputs(self):
    return {
      'tokens': np.zeros((1, self.widths[-1]), np.int32),
      'length': np.ones(1, np.int32),
    }


def texts(num_rows, seed):
  numbers = np.random.default_rng(seed)
  length = numbers.integers(1, 9, num_rows).astype(np.int32)
  tokens = numbers.integers(1, 9, (num_rows, 8)).astype(np.int32)
  tokens[np.arange(8) >= length[:, None]] = 0
  target = length.astype(np.float32)
  return Examples(
    {'tokens': tokens, 'length': length},
    target,
    np.zeros((num_rows, 0), np.int32),
  )


# What is trained, and rows by their number and seed.
DATA = {
  'table': (Linear, examples),
  'texts': (lambda: Words((8,)), texts),
  'texts of two widths': (lambda: Words((3, 8)), texts),
}


def trained(name, share):
  """The state after two epochs in dispatches of odd sizes."""
  objective = Objective(terms=(build_term('mse'),))
  model, rows = DATA[name]
  programs = compile_stage(
    train_step,
    tiny_stage('mse', objective=objective),
    model(),
    {'train': rows(45, 0), 'val': rows(7, 1)},
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


@pytest.mark.parametrize('name', DATA)
@pytest.mark.parametrize('steps', [1, 5, 256])
def test_blocks_from_the_host_train_to_the_same_bits(name, steps, monkeypatch):
  whole = trained(name, 1.0)
  taken = []
  monkeypatch.setattr(
    streaming.Stream,
    '_take',
    lambda *args, own=streaming.Stream._take: (
      taken.append(args[2:]) or own(*args)
    ),
  )
  monkeypatch.setattr(streaming, 'steps_of_block', lambda *_, **__: steps)
  found = trained(name, 1e-12)
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
