"""Seconds that DecodingRegressor takes at its defaults: 5,000 rows, 10 columns.

    python benchmarks/estimator_time.py --objectives=ce,crps,remax

Each is fitted once, compilation among it, and predicts 1,000 rows twice: the
first call compiles. Prints the machine's load before and after.
"""

import argparse
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from genre2_jax import DecodingRegressor


def seconds(action):
  begin = time.perf_counter()
  action()
  return time.perf_counter() - begin


def load():
  return ' '.join(f'{value:.1f}' for value in os.getloadavg())


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--objectives', default='ce,crps,remax')
  parser.add_argument('--rows', type=int, default=5000)
  parser.add_argument('--columns', type=int, default=10)
  options = parser.parse_args()
  random = np.random.RandomState(0)
  X = random.normal(size=(options.rows, options.columns))
  y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
  y += 0.3 * random.normal(size=options.rows)
  print(f'{os.cpu_count()} CPU cores, load {load()}')
  for objective in options.objectives.split(','):
    model = DecodingRegressor(objective=objective, random_state=0)
    fit = seconds(lambda model=model: model.fit(X, y))
    first, second = (
      seconds(lambda model=model: model.predict(X[:1000])) for _ in range(2)
    )
    print(
      f'{objective}: fit {fit:.1f} s, 1,000 predictions {first:.2f} s, again '
      f'{second:.2f} s, load {load()}',
      flush=True,
    )


if __name__ == '__main__':
  main()
