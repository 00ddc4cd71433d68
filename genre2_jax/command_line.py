"""The command line of every program here: two flags, logging, exit codes.

A program reads `CONFIG.value` and `WORKDIR.value`, defines what other flags it
has, and ends in `command_line.run(main)`.
"""

import logging
import os
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from genre2_jax.errors import InputError, RunError
from genre2_jax.files import disk

# Defined once, for programs that import each other.
CONFIG = config_flags.DEFINE_config_file('config', None, 'A recipe.')
WORKDIR = flags.DEFINE_string('workdir', '', 'Where everything goes.')


def run(main):
  """Runs `main()`; what users can mend is one line and an exit code."""

  def start(argv):
    set_up_logging()
    if len(argv) > 1:
      raise InputError(f'unexpected argument {argv[1]!r}: flags begin with --')
    with disk.fullness_in_words():
      main()

  try:
    app.run(start, flags_parser=parse_flags)
  except RunError as error:
    print('genre2_jax:', *str(error).split(), file=sys.stderr, flush=True)
    if error.at_once:
      sys.stdout.flush()
      os._exit(error.exit_code)
    sys.exit(error.exit_code)


def parse_flags(argv):
  """Parses flags, config fields included: what is left of the arguments.

  Raises:
    InputError: a flag, a field or a value that there is not, or a recipe that
      cannot be read.
  """
  try:
    arguments = flags.FLAGS(argv)
    if CONFIG.value is not None:
      CONFIG.value.lock()  # Raises what went wrong when it was read.
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


def set_up_logging():
  """Ours from INFO up; of Orbax, which warns of what we ask for, errors."""
  absl_logging.set_verbosity(absl_logging.ERROR)
  logger = logging.getLogger('genre2_jax')
  logger.setLevel(logging.INFO)
  logger.propagate = False
  logger.addHandler(logging.StreamHandler())
