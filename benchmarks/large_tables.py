"""What large tables cost before the first step and after it.

    python benchmarks/large_tables.py
    python benchmarks/large_tables.py --sizes=10000x20,100000x20 --recipe=best

Tables of normal numbers, a tenth of the columns categories of eight labels, and
a target that is their sum and noise, are written to CSV and read by a process
of their own, a size after the other. Of each: seconds of the processor to read
the file, to make arrays of it, until the first step is done with compilation
left out, and rows per second after it; the most memory of the host.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

SIZES = '10000x20,100000x20,1000000x20,100000x500'
FIGURES = (
  'read_s', 'arrays_s', 'first_step_s', 'compile_s', 'rows_per_s', 'peak_gib',
)  # fmt: skip


def write(path, num_rows, num_columns):
  """A table as CSV, some thousand rows at a time."""
  import numpy as np
  import pandas as pd

  draw = np.random.default_rng(0)
  labels = num_columns // 10
  numbers = num_columns - labels
  names = [f'x{i}' for i in range(numbers)] + [f'c{i}' for i in range(labels)]
  weights = draw.normal(size=numbers)
  for start in range(0, num_rows, 10_000):
    count = min(10_000, num_rows - start)
    x = draw.normal(size=(count, numbers))
    codes = draw.integers(0, 8, (count, labels))
    y = x @ weights / numbers**0.5 + codes.sum(1) / 8 + draw.normal(size=count)
    columns = [*x.T.round(4), *np.array(list('abcdefgh'))[codes].T, y.round(4)]
    frame = pd.DataFrame(dict(zip([*names, 'y'], columns, strict=True)))
    frame.to_csv(path, mode='a', header=not start, index=False)


def measure(args):
  """One size: a JSON line."""
  import jax

  from genre2_jax.experiment import experiment, recipes
  from genre2_jax.experiment.tasks import read_table
  from genre2_jax.training.programs import compile_stage
  from genre2_jax.training.step import train_step

  began = last = time.process_time()
  found = {}

  def lap(name):
    nonlocal last
    now = time.process_time()
    found[name], last = now - last, now

  config = recipes.get_config('talent', args.recipe)
  config.data.path, config.data.target = args.file, 'y'
  config = experiment.resolve(config)
  table = read_table(config)
  lap('read_s')
  built = experiment.build(config, table=table)
  model = built.model
  examples = {
    'train': model.training_examples(table.train),
    'val': model.examples(table.val),
  }
  lap('arrays_s')
  stage = built.stages[0]
  programs = compile_stage(
    train_step,
    stage,
    model,
    examples,
    seeds=(0,),
    batch_size=built.batch_size,
    block_size=built.block_size,
    mesh=built.mesh,
  )
  lap('compile_s')
  state = programs.run(programs.init(None), 1)
  jax.block_until_ready(state.params)
  lap('steps_s')
  now = time.process_time()
  found['first_step_s'] = now - began - found['compile_s']
  count = min(args.steps, programs.epoch_steps - 1)
  clock = time.perf_counter()
  state = programs.run(state, count)
  jax.block_until_ready(state.params)
  seconds = time.perf_counter() - clock
  found['rows_per_s'] = count * built.batch_size / seconds
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found['peak_gib'] = peak / 2**20  # Linux counts in KiB.
  print(json.dumps(found))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', default=SIZES, help='rows x columns')
  parser.add_argument('--recipe', default='ce')
  parser.add_argument('--steps', type=int, default=200, help='timed')
  parser.add_argument('--file', default='', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.file:
    measure(args)
    return
  print('| rows | columns | MB | ' + ' | '.join(FIGURES) + ' |')
  print('|' + '---|' * (3 + len(FIGURES)))
  for size in args.sizes.split(','):
    rows, columns = map(int, size.split('x'))
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, 'table.csv')
      write(path, rows, columns)
      command = [
        sys.executable, __file__, f'--file={path}', f'--recipe={args.recipe}',
        f'--steps={args.steps}',
      ]  # fmt: skip
      done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
      if done.returncode:
        sys.exit(f'{size} failed')
      found = json.loads(done.stdout.splitlines()[-1])
      megabytes = os.path.getsize(path) / 1e6
    cells = (f'{found[name]:.3g}' for name in FIGURES)
    print(f'| {rows:,} | {columns} | {megabytes:.0f} | {" | ".join(cells)} |')


if __name__ == '__main__':
  main()
