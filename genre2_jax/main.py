"""Command line: trains and evaluates a config, or predicts with a run.

    python -m genre2_jax.main --config=configs/remax_talent.py
    python -m genre2_jax.main --mode=predict --workdir=DIR \
      --input=new_rows.csv --output=out.csv

The work is in `train.py` and `predict.py`, where it can be imported and tested.
"""

import logging
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from genre2_jax.errors import InputError, RunError
from genre2_jax.interrupts import deferred

_CONFIG = config_flags.DEFINE_config_file('config', None, 'A recipe.')
_WORKDIR = flags.DEFINE_string('workdir', '', 'Where a run leaves its files.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'predict'], 'What to do.')
_INPUT = flags.DEFINE_string('input', '', 'predict: CSV or Parquet of rows.')
_OUTPUT = flags.DEFINE_string('output', '', 'predict: CSV to write.')


def main(argv):
  _set_up_logging()
  if len(argv) > 1:
    raise InputError(f'unexpected argument {argv[1]!r}: flags begin with --')
  if _MODE.value == 'predict':
    for flag in (_WORKDIR, _INPUT, _OUTPUT):
      if not flag.value:
        raise InputError(f'--mode=predict needs --{flag.name}')
    from genre2_jax import predict

    predict.predict_file(_WORKDIR.value, _INPUT.value, _OUTPUT.value)
    return
  if _CONFIG.value is None:
    raise InputError('give a recipe, as in --config=configs/remax_talent.py')
  from genre2_jax import train

  with deferred() as interrupts:
    train.train_and_evaluate(_CONFIG.value, _WORKDIR.value, interrupts)


def _parse_flags(argv):
  """Flags, where a field that is not declared is the user's error."""
  try:
    arguments = flags.FLAGS(argv)
    if _CONFIG.value is not None:
      _CONFIG.value.lock()  # Raises what went wrong when it was read.
    return arguments
  except (AttributeError, KeyError) as error:
    while isinstance(error.args[0], Exception):
      error = error.args[0]
    raise InputError(f'unknown config field: {error.args[0]}') from error
  except (flags.Error, TypeError) as error:
    raise InputError(str(error)) from error
  except OSError as error:
    reason = str(error.__cause__ or error).splitlines()[-1].strip()
    raise InputError(f'cannot read the recipe: {reason}') from error


def run():
  """Runs `main`; what users can mend is one line and an exit code."""
  try:
    app.run(main, flags_parser=_parse_flags)
  except RunError as error:
    print('genre2_jax:', *str(error).split(), file=sys.stderr)
    sys.exit(error.exit_code)


def _set_up_logging():
  """Ours from INFO up; of Orbax, which warns of what we ask for, errors."""
  absl_logging.set_verbosity(absl_logging.ERROR)
  logger = logging.getLogger('genre2_jax')
  logger.setLevel(logging.INFO)
  logger.propagate = False
  logger.addHandler(logging.StreamHandler())


if __name__ == '__main__':
  run()
