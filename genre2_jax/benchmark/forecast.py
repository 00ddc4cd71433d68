"""How long a benchmark may take, said before it begins."""

import math
import pathlib
import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from genre2_jax.benchmark import suite
from genre2_jax.data import talent
from genre2_jax.data.wording import duration
from genre2_jax.errors import InputError
from genre2_jax.experiment import costs
from genre2_jax.files.atomic import PathLike

# Of a plain product's rate, what a step reaches (benchmarks/README.md).
_SHARE = 0.4


def seconds(
  config: ConfigDict,
  workdir: PathLike,
  rate: float,
  *,
  index: int = 0,
  count: int = 1,
) -> tuple[float, int, int]:
  """Seconds of what is left of a benchmark, if no stage stops early.

  Args:
    config: of `suite.select`, its tasks all there.
    workdir: of the benchmark.
    rate: FLOP/s of a step.
    index: of this process.
    count: of processes that share the tasks.

  Returns:
    (seconds of the decoders, how many runs they are, how many runs are left
    that have no forecast: baselines and other heads).
  """
  total, known, others = 0.0, 0, 0
  for task in config.tasks[index::count]:
    try:
      rows, columns = talent.sizes(config.root, task)
    except InputError:  # Its runs will say so, and the others go on.
      continue
    for method in config.methods:
      if (pathlib.Path(workdir) / task / method / 'run.json').exists():
        continue
      run = suite.configure(config, task, method, workdir)
      flops = costs.run_flops(run, rows, columns)
      if math.isnan(flops):
        others += 1
      else:
        total, known = total + flops / rate, known + 1
  return total, known, others


def measured_rate() -> float:
  """FLOP/s that a training step has here: a share of a plain product's."""
  multiply = jax.jit(jnp.matmul)
  a, b = jnp.ones((2048, 1024)), jnp.ones((1024, 1024))
  multiply(a, b).block_until_ready()
  best = math.inf
  for _ in range(5):
    began = time.perf_counter()
    multiply(a, b).block_until_ready()
    best = min(best, time.perf_counter() - began)
  return _SHARE * 2 * 2048 * 1024 * 1024 / best


def said(total: float, known: int, others: int) -> str:
  """The forecast as a line; '' where there is nothing to forecast."""
  if not known:
    return ''
  beside = f'; {others} more have no forecast' if others else ''
  return (
    f'{known} runs of decoders left: at most about {duration(total)} here '
    f'with no stage that stops early, compiling aside{beside}'
  )
