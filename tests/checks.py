"""What many tests check, and what they read to do so."""

import json
import os
import pathlib

import flax.linen as nn
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from genre2_jax.errors import InputError
from genre2_jax.objectives import objective
from genre2_jax.training import train_state
from genre2_jax.training.step import train_step

ROOT = pathlib.Path(__file__).parent.parent


# Of XLA:CPU, one waits in a collective for the other devices, and there are as
# many threads as devices: where one device waits in two collectives, the last
# finds none, and all wait for ever. So there are more.
THREADS_OF_DEVICES = {'PJRT_NPROC': '32'}


def environment_of_eight_devices():
  """Of a process that has eight devices, all of this machine's cores."""
  found = os.environ | {
    'PYTHONPATH': os.pathsep.join((str(ROOT), str(ROOT / 'tests'))),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '8',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    **THREADS_OF_DEVICES,
  }
  found.pop('XLA_FLAGS', None)
  return found


def read_checkpoint(folder, step=None):
  """The arrays of a checkpoint, by default the newest: nested dicts.

  Whatever devices saved them.
  """
  with ocp.CheckpointManager(
    folder,
    options=ocp.CheckpointManagerOptions(read_only=True),
    item_handlers=ocp.StandardCheckpointHandler(),
  ) as manager:
    step = manager.latest_step() if step is None else step
    target = jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), manager.item_metadata(step).tree
    )
    return manager.restore(step, args=ocp.args.StandardRestore(target))


def assert_same_bits(a, b):
  """Two trees of arrays are the same, bit by bit."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    assert x.tobytes() == y.tobytes()


def without_key_bias(name, x):
  """An array [...] of a network, the keys' biases taken out.

  Attention does not depend on them: their gradient is what rounding leaves of
  0, and Adam makes full steps of it.
  """
  if 'query_key_value' in name and 'bias' in name:  # [..., 3, heads · size]
    return np.delete(x, 1, axis=-2)
  return x


def assert_same_end(workdir, reference):
  """Two runs of a config ended alike: states, results, predictions, log."""
  stages = json.loads((reference / 'run.json').read_text())['stages']
  assert json.loads((workdir / 'run.json').read_text())['stages'] == stages
  for stage in stages:
    ours, theirs = (
      read_checkpoint(folder / 'checkpoints' / stage)
      for folder in (workdir, reference)
    )
    assert_same_bits(ours, theirs)
  for name in ('results.csv', 'predictions.csv'):
    assert (workdir / name).read_bytes() == (reference / name).read_bytes()
  assert read_log(workdir) == read_log(reference)


def read_log(workdir):
  """The records of metrics.jsonl without the time they took."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  for record in records:
    del record['seconds']
  return records


def assert_refused(action, *parts, error=InputError):
  """`action` raises an error of one line that says all of `parts`: the line."""
  with pytest.raises(error) as caught:
    action()
  message = str(caught.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message
  return message


def assert_takes_a_step(stage, model, examples):
  """A stage's step, traced: every shape fits, every metric is there."""
  optimizer = optax.sgd(0.1)
  shared = {
    'network': model.network,
    'codec': model.codec,
    'objective': stage.objective,
  }
  batch = jax.tree.map(lambda x: x[:4], examples)

  def step(key):
    params = objective.init_params(key, model.example_inputs(), **shared)
    state = train_state.create(
      nn.unbox(params),
      key,
      optimizer,
      stage.objective.metrics,
      keep_reference='reference' in stage.objective.needs,
      is_frozen=model.network.frozen,
    )
    return state, train_step(state, batch, optimizer=optimizer, **shared)

  before, after = jax.eval_shape(step, jax.random.key(0))
  same = jax.tree.map(
    lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), before, after
  )
  assert jax.tree.all(same)
  assert set(after.totals) == set(stage.objective.metrics)
