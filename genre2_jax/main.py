r"""Command line: trains and evaluates a config, or predicts with a run.

    python -m genre2_jax.main --config=configs/remax_talent.py
    python -m genre2_jax.main --mode=predict --workdir=DIR \
      --input=new_rows.csv --output=out.csv --keep=id
    python -m genre2_jax.main --mode=export --workdir=DIR --output=FOLDER
    python -m genre2_jax.main --mode=compile --topology=v5e:2x4 \
      --config=configs/remax_talent.py

docs/running.md has every command, docs/config.md every field of a config. The
work is in `train.py`, `runs/` and `ahead_of_time.py`, where it can be imported
and tested.
"""

from absl import flags

from genre2_jax import command_line
from genre2_jax.devices.interrupts import deferred
from genre2_jax.errors import InputError

flags.adopt_module_key_flags(command_line)  # --help shows them.
_MODE = flags.DEFINE_enum(
  'mode', 'train', ['train', 'predict', 'export', 'compile'], 'What to do.'
)
_INPUT = flags.DEFINE_string(
  'input', '', 'predict: file of rows, .csv or other.'
)
_OUTPUT = flags.DEFINE_string(
  'output', '', 'predict: file to write; export: folder for transformers.'
)
_KEEP = flags.DEFINE_list(
  'keep', [], 'predict: columns of the input to carry along, or all.'
)
_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x4', 'compile: of a TPU.')
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Several processes are one run.'
)
# On TPU, Slurm and Open MPI jax finds these itself.
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'distributed: host:port of process 0.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'distributed: how many there are.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'distributed: which one this is, from 0.'
)
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
  'heartbeat_seconds', 60, 'distributed: silence after which one is given up.'
)


def main() -> None:
  """Does what --mode says."""
  if not _DISTRIBUTED.value:
    _run()
    return
  from genre2_jax.devices import processes

  processes.join(
    _COORDINATOR.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    heartbeat_seconds=_HEARTBEAT_SECONDS.value,
  )
  with processes.ends_in_words():
    _run()


def _run():
  config, workdir = command_line.CONFIG, command_line.WORKDIR
  if _MODE.value == 'predict':
    for flag in (workdir, _INPUT, _OUTPUT):
      if not flag.value:
        raise InputError(f'--mode=predict needs --{flag.name}')
    from genre2_jax.runs import prediction

    asked = workdir.value, _INPUT.value, _OUTPUT.value, _KEEP.value
    if _DISTRIBUTED.value:  # One that left would leave the others waiting.
      prediction.predict_file(*asked)
      return
    with deferred(leaves=True) as interrupts:
      prediction.predict_file(*asked, interrupts)
    return
  if _MODE.value == 'export':
    for flag in (workdir, _OUTPUT):
      if not flag.value:
        raise InputError(f'--mode=export needs --{flag.name}')
    from genre2_jax.runs import export

    export.export_workdir(workdir.value, _OUTPUT.value)
    return
  if config.value is None:
    raise InputError('give a recipe, as in --config=configs/remax_talent.py')
  if 'stages' not in config.value:
    raise InputError(
      'the config is no recipe: python -m genre2_jax.benchmark runs benchmarks'
    )
  if _MODE.value == 'compile':
    from genre2_jax import ahead_of_time

    for compiled in ahead_of_time.compile_for(config.value, _TOPOLOGY.value):
      print(ahead_of_time.describe(compiled))
    return
  from genre2_jax import train
  from genre2_jax.devices import allocator
  from genre2_jax.experiment.fields import is_table

  if is_table(config.value):
    allocator.keep_freed()
  with deferred(leaves=True) as interrupts:
    train.train_and_evaluate(config.value, workdir.value, interrupts)


if __name__ == '__main__':
  command_line.run(main)
