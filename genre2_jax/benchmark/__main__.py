r"""Many methods on many tasks: runs them all, then compares them.

    python -m genre2_jax.benchmark --config=configs/talent_twenty.py \
      --config.root=TALENT --methods=ce,remax --tasks=all --seeds=0,1 \
      --workdir=runs/talent_twenty

An installed package, which has no configs/, knows `--config=talent_twenty` and
`--config=ablations:reward` (`benchmark/protocols.py`).

On several machines, or as an array job, give each process its part of the
tasks, `--index=0 --count=4`; they share the workdir. `--collect` alone writes
the tables again: results.csv, table.md and report.html (`benchmark/page.py`).
What runs, and where it lies: `benchmark/suite.py`.
"""

import pathlib
import shlex
import sys

from absl import flags

from genre2_jax import command_line
from genre2_jax.benchmark import page, suite
from genre2_jax.benchmark.page import FAILURES_FOLDER
from genre2_jax.devices.interrupts import deferred
from genre2_jax.errors import InputError, RunError, listed

flags.adopt_module_key_flags(command_line)  # --help shows them.
_METHODS = flags.DEFINE_string('methods', 'all', 'Of the config, as in a,b.')
_TASKS = flags.DEFINE_string('tasks', 'all', 'Of the config, as in a,b.')
_SEEDS = flags.DEFINE_string('seeds', '', 'Consecutive, as in 0,1.')
_INDEX = flags.DEFINE_integer('index', 0, 'Which part of the tasks to run.')
_COUNT = flags.DEFINE_integer('count', 1, 'How many parts there are.')
_COLLECT = flags.DEFINE_bool('collect', False, 'Only write the tables again.')
_PUBLISHED = flags.DEFINE_string(
  'published', '', 'CSV of dataset, <method>_RMSE, ... to stand beside ours.'
)


def _train_and_evaluate(config, workdir, interrupts):
  """`train.train_and_evaluate`, whose programs are dropped afterwards."""
  import jax

  from genre2_jax import train

  try:
    return train.train_and_evaluate(config, workdir, interrupts)
  finally:
    jax.clear_caches()  # Hundreds of runs would fill the memory with them.


def _print_forecast(config, workdir, *, index, count):
  """Hours that the decoders may take, before the first begins."""
  from genre2_jax.benchmark import forecast

  rate = forecast.measured_rate()
  found = forecast.seconds(config, workdir, rate, index=index, count=count)
  line = forecast.said(*found)
  if line:
    print(line, flush=True)


def main() -> None:
  """Runs what the flags name, then writes the tables."""
  workdir = command_line.WORKDIR.value
  if not workdir:
    raise InputError('give a --workdir, as in --workdir=runs/talent_twenty')
  failures = []
  if not _COLLECT.value:
    if command_line.CONFIG.value is None:
      raise InputError('give --config=talent_twenty, or --collect')
    config = suite.select(
      command_line.CONFIG.value,
      methods=_METHODS.value,
      tasks=_TASKS.value,
      seeds=_SEEDS.value,
    )
    part = {'index': _INDEX.value, 'count': _COUNT.value}
    with deferred(leaves=True) as interrupts:
      config, missing = suite.present(config)
      if missing:
        print(f'not in {config.root}, left out: {listed(missing)}', flush=True)
      _print_forecast(config, workdir, **part)
      failures = suite.run(
        config,
        workdir,
        _train_and_evaluate,
        interrupts,
        **part,
        command=_command(sys.argv[1:]),
      )
  if _PUBLISHED.value:
    page.import_published(_PUBLISHED.value, workdir)
  if _COLLECT.value or any(pathlib.Path(workdir).glob('*/*/run.json')):
    path = suite.collect(workdir)
    print(f'Table: {path.with_name("table.md")}')
    print(f'Report: {path}')
  if failures:
    names = ', '.join(f'{f.task}/{f.method} ({f.type})' for f in failures[:5])
    more = f' and {len(failures) - 5} more' if len(failures) > 5 else ''
    raise RunError(
      f'failed: {names}{more}: see {workdir}/{FAILURES_FOLDER}; the same '
      'command tries them again'
    )


def _command(arguments):
  """The command without what only says which part of it this process is."""
  kept = []
  arguments = iter(arguments)
  for argument in arguments:
    name, equals, _ = argument.lstrip('-').partition('=')
    if name not in ('index', 'count', 'published', 'collect'):
      kept.append(argument)
    elif not equals and name != 'collect':
      next(arguments, None)
  return shlex.join(['python', '-m', 'genre2_jax.benchmark', *kept])


if __name__ == '__main__':
  command_line.run(main)
