"""How long a checkpoint holds up training, and how long it takes to write.

    python benchmarks/checkpoint_time.py --megabytes=512

Steps run one after another, as in `train.py`; in the middle one checkpoint is
saved, as there. What counts is the time that `save` takes (the copy from the
device to the host cannot be avoided) and whether the steps beside the writing
are slower than the others.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import jax.numpy as jnp

from genre2_jax.devices import sharding
from genre2_jax.training.checkpoints import Checkpoints


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--megabytes', type=int, default=512)
  parser.add_argument('--steps', type=int, default=40, help='before and after')
  options = parser.parse_args()
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), num_devices=1)
  rows = options.megabytes * 2**20 // 4 // 2**16
  state = jax.device_put(
    {'w': jax.random.normal(jax.random.key(0), (rows, 2**16))},
    sharding.replicated(mesh),
  )
  step = jax.jit(
    lambda s: {'w': jnp.where(s['w'] > 0, s['w'] * 0.999, s['w'])},
    donate_argnums=0,
  )

  def run(state, count):
    times = []
    for _ in range(count):
      began = time.monotonic()
      state = jax.block_until_ready(step(state))
      times.append(time.monotonic() - began)
    return state, times

  with tempfile.TemporaryDirectory() as folder:
    with Checkpoints(pathlib.Path(folder) / 'run') as checkpoints:
      checkpoints.save(0, state)  # Compiles the fingerprint.
      checkpoints.wait()
      state, before = run(state, options.steps)
      began = time.monotonic()
      checkpoints.save(1, state)
      held_up = time.monotonic() - began
      beside = []
      while checkpoints.is_saving():
        state, times = run(state, 1)
        beside += times
      written = time.monotonic() - began
  print(f'state                {options.megabytes} MiB')
  print(f'save returns after   {held_up:.3f} s')
  print(f'written after        {written:.3f} s')
  for name, times in (('alone', before), ('beside writing', beside)):
    if times:
      print(
        f'steps {name:15}median {statistics.median(times):.4f} s, '
        f'longest {max(times):.4f} s, {len(times)} of them'
      )


if __name__ == '__main__':
  main()
