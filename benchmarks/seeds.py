"""One comparison of benchmarks that differ in nothing but their seeds.

    python benchmarks/seeds.py --output=NAME WORKDIR WORKDIR ...

Of the methods that all of them have: NAME.csv, every metric, and NAME.md.
Members of a pack of networks have consecutive seeds: seeds of several packs
stand as far apart as a pack is large.
"""

import argparse
import dataclasses
import pathlib
import sys

import pandas as pd

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from genre2_jax.benchmark import comparison_tables, page, statistics
from genre2_jax.files import atomic


def join(parts):
  """`Benchmark`s of several seeds as one, of what all of them have."""
  methods = [
    method
    for method in parts[0].methods
    if all(method in part.methods for part in parts)
  ]
  results = pd.concat([part.results for part in parts], ignore_index=True)
  results = results[results.method.isin(methods)]
  if results.duplicated(
    ['task', 'method', 'seed', 'estimator', 'metric']
  ).any():
    sys.exit('a seed is in two of the folders: give each once')

  def mean(field, average):
    found = {}
    for part in parts:
      for key, value in getattr(part, field).items():
        found.setdefault(key, []).append(value)
    return {key: average(values) for key, values in found.items()}

  return dataclasses.replace(
    parts[0],
    methods=methods,
    seeds=[seed for part in parts for seed in part.seeds],
    command='; '.join(part.command for part in parts),
    machines=list(dict.fromkeys(m for part in parts for m in part.machines)),
    results=results,
    samples=mean('samples', statistics.average_samples),
    seconds=mean('seconds', lambda values: sum(values) / len(values)),
    peaks=mean('peaks', max),
    failures=[failure for part in parts for failure in part.failures],
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('workdirs', nargs='+', help='of benchmarks')
  parser.add_argument('--output', required=True, help='without an ending')
  args = parser.parse_args()
  benchmark = join([page.load(folder) for folder in args.workdirs])
  output = pathlib.Path(args.output)
  atomic.write_csv(
    output.with_suffix('.csv'),
    statistics.RESULT_COLUMNS,
    benchmark.results.itertuples(index=False, name=None),
  )
  compared = statistics.compare(benchmark)
  said = page.verdict(compared)
  text = comparison_tables.markdown(compared, said, page.notes(compared))
  atomic.write_text(output.with_suffix('.md'), text)
  print(said)


if __name__ == '__main__':
  main()
