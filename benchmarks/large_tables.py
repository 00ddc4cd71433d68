"""What large tables cost before the first step and after it.

    python benchmarks/large_tables.py
    python benchmarks/large_tables.py --sizes=10000x20,100000x20 --recipe=best
    python benchmarks/large_tables.py --output=PAGE.md

Tables of normal numbers, a tenth of the columns categories of eight labels, and
a target that is their sum and noise, are written to CSV and read by a process
of their own, a size after the other, as a run does it. Of each, in seconds of
the processor: to read the file; to make arrays of it; to describe the data and
to know them again; for the references beside the run; to compile; until the
first step is done, compilation left out, and the same on the clock; rows per
second of the processor after it; the most memory of the host, and what the
program of a step has on its device.
"""

import json
import pathlib
import resource
import sys
import tempfile
import time

import sizes

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

SIZES = '10000x20,100000x20,1000000x20,100000x500'
FIGURES = (
  'read_s', 'arrays_s', 'describe_s', 'references_s', 'compile_s',
  'first_step_s', 'first_step_clock_s', 'rows_per_s', 'host_gib',
  'device_gib',
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

  from genre2_jax.devices import memory
  from genre2_jax.experiment import experiment, recipes
  from genre2_jax.experiment.tasks import describe, read_table
  from genre2_jax.runs import baselines, workdirs
  from genre2_jax.training.programs import compile_stage
  from genre2_jax.training.step import train_step

  began, clock = time.process_time(), time.perf_counter()
  lap = sizes.Laps()
  found = lap.found

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
    'test': model.examples(table.test),
  }
  lap('arrays_s')
  workdirs.identity(built.fields, table)
  describe(table, model)
  lap('describe_s')
  with tempfile.TemporaryDirectory() as folder:
    baselines.references(built, pathlib.Path(folder), ())
  lap('references_s')
  stage = built.stages[0]
  compiling = time.perf_counter()
  programs = compile_stage(
    train_step,
    stage,
    model,
    examples,
    seeds=built.seeds,
    batch_size=built.batch_size,
    block_size=built.block_size,
    mesh=built.mesh,
    device_share=built.device_share,
  )
  clock += time.perf_counter() - compiling
  lap('compile_s')
  need = memory.Need()
  need.of_program(programs.compiled)
  found['device_gib'] = (need.arguments + need.temporaries) / 2**30
  state = programs.run(programs.init(None), 1)
  jax.block_until_ready(state.params)
  found['first_step_s'] = time.process_time() - began - found['compile_s']
  found['first_step_clock_s'] = time.perf_counter() - clock
  count = min(args.steps, programs.epoch_steps - 1)
  lap.restart()
  state = programs.run(state, count)
  jax.block_until_ready(state.params)
  lap('steps_s')
  rows = count * built.batch_size * len(built.seeds)
  found['rows_per_s'] = rows / found['steps_s']
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found['host_gib'] = peak / 2**20  # Linux counts in KiB.
  print(json.dumps(found))


def main():
  parser = sizes.parser_of(__doc__, SIZES, 'rows x columns', steps=200)
  parser.add_argument('--recipe', default='ce')
  args = parser.parse_args()
  if args.file:
    measure(args)
    return
  sizes.compare(
    __file__,
    args,
    title='Large tables',
    columns=('rows', 'columns'),
    figures=FIGURES,
    file='table.csv',
    write=write,
    options=[f'--recipe={args.recipe}', f'--steps={args.steps}'],
  )


if __name__ == '__main__':
  main()
