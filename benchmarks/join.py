r"""One comparison of parts of a benchmark: tasks, methods or seeds of each.

    python benchmarks/join.py --output=NAME PART PART ...

Writes NAME.csv, every metric; NAME.md, tables and tests; and NAME.json, what
these are made of beside the CSV. A part is the workdir of a benchmark or the
NAME.json of an earlier call, so a benchmark can be run on one machine after the
other. Seeds of a (task, method) that are in several parts stand side by side.
Members of a pack of networks have consecutive seeds: seeds of several packs
stand as far apart as a pack is large.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np
import pandas as pd

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from genre2_jax.benchmark import page, statistics
from genre2_jax.data import targets
from genre2_jax.files import atomic, reading

# Of a `Benchmark`: what a file keeps as it is, and what is of a run.
_PLAIN = (
  'tasks', 'methods', 'seeds', 'command', 'machines', 'variances', 'failures',
)  # fmt: skip
_OF_RUNS = ('seconds', 'peaks')
_RUN = ['task', 'method', 'seed', 'estimator', 'metric']


def join(parts):
  """Several `Benchmark`s as one."""
  results = pd.concat([part.results for part in parts], ignore_index=True)
  # Of the seeds of all parts taken together no part knows.
  several = results.duplicated(_RUN, keep=False) & (results.seed == 'ensemble')
  results = results[~several]
  twice = results[results.duplicated(_RUN)]
  if len(twice):
    task, method, seed = twice.iloc[0][_RUN[:3]]
    sys.exit(f'{task}, {method}, seed {seed} is in two of the parts')

  def together(field, average):
    found = {}
    for part in parts:
      for key, value in getattr(part, field).items():
        found.setdefault(key, []).append(value)
    return {key: average(values) for key, values in found.items()}

  def distinct(field):
    return list(dict.fromkeys(x for p in parts for x in getattr(p, field)))

  units = {part.unit for part in parts}
  finished = set(zip(results.task, results.method, strict=True))
  return dataclasses.replace(
    parts[0],
    tasks=distinct('tasks'),
    methods=distinct('methods'),
    seeds=sorted(distinct('seeds'), key=int),
    command='; '.join(dict.fromkeys(part.command for part in parts)),
    machines=distinct('machines'),
    results=results,
    samples=together('samples', statistics.average_samples),
    variances=together('variances', np.mean),
    seconds=together('seconds', np.mean),
    peaks=together('peaks', max),
    failures=[
      failure
      for part in parts
      for failure in part.failures
      if tuple(failure[:2]) not in finished
    ],
    unit=units.pop() if len(units) == 1 else statistics.MIXED,
    drawn=together('drawn', lambda values: values[0]),
  )


def chosen(benchmark, names):
  """With these methods alone, in this order."""
  lacking = set(names) - set(benchmark.methods)
  if lacking:
    sys.exit(f'no part has {", ".join(sorted(lacking))}')
  results = benchmark.results
  return dataclasses.replace(
    benchmark, methods=names, results=results[results.method.isin(names)]
  )


def read(path):
  """The `Benchmark` of a workdir or of a file of `write`."""
  path = pathlib.Path(path)
  if path.is_dir():
    return page.load(path)
  kept = page.read_json(path)
  rows = reading.read_csv(path.with_suffix('.csv'), statistics.RESULT_COLUMNS)
  results = pd.DataFrame(rows, columns=list(statistics.RESULT_COLUMNS))
  unit = kept['unit']
  return statistics.Benchmark(
    **{name: kept[name] for name in _PLAIN},
    **{
      name: {(task, method): value for task, method, value in kept[name]}
      for name in _OF_RUNS
    },
    results=results.astype({'value': float}),
    samples={
      (task, method): statistics.Samples(*map(np.array, arrays))
      for task, method, arrays in kept['samples']
    },
    published=pd.DataFrame(columns=list(page.PUBLISHED_COLUMNS)),
    unit=targets.UNITS[unit] if unit in targets.UNITS else statistics.MIXED,
    drawn={task: tuple(counts) for task, counts in kept['drawn'].items()},
  )


def write(output, benchmark):
  """NAME.csv, NAME.json and NAME.md; returns the verdict."""
  units = [name for name, u in targets.UNITS.items() if u == benchmark.unit]
  kept = {name: getattr(benchmark, name) for name in _PLAIN}
  for name in _OF_RUNS:
    kept[name] = [(*run, x) for run, x in getattr(benchmark, name).items()]
  kept['samples'] = [
    (*run, [np.round(x, 5).tolist() for x in dataclasses.astuple(own)])
    for run, own in benchmark.samples.items()
  ]
  kept |= {'drawn': benchmark.drawn, 'unit': (units or [''])[0]}
  atomic.write_json(output.with_suffix('.json'), kept)
  results, tables = output.with_suffix('.csv'), output.with_suffix('.md')
  return page.verdict(page.write_tables(benchmark, results, tables))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('parts', nargs='+', help='workdirs, NAME.json')
  parser.add_argument('--output', required=True, help='NAME: without an ending')
  parser.add_argument('--methods', default='', help='of the parts, as in a,b')
  args = parser.parse_args()
  benchmark = join([read(part) for part in args.parts])
  if args.methods:
    benchmark = chosen(benchmark, args.methods.split(','))
  print(write(pathlib.Path(args.output), benchmark))


if __name__ == '__main__':
  main()
