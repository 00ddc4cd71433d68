"""The command line of every program here: two flags, logging, exit codes.

A program reads `CONFIG.value` and `WORKDIR.value`, defines what other flags it
has, and ends in `command_line.run(main)`. `--config` takes a file, as in
configs/talent.py:crps, or a name of the package's own tables, as in talent:crps
and talent_twenty: an installed package has no configs/.
"""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from genre2_jax import errors
from genre2_jax.benchmark import protocols
from genre2_jax.data.wording import DataWarning
from genre2_jax.errors import InputError, RunError
from genre2_jax.experiment import recipes
from genre2_jax.experiment.fields import near_field
from genre2_jax.files import disk
from genre2_jax.training import progress

# What `--config` knows without a file: get_config of what is after the colon.
_NAMED = {
  family: functools.partial(recipes.get_config, family)
  for family in recipes.FAMILIES
} | dict(protocols.PROTOCOLS)


def _recipes_in_words():
  """Help of `--config`: the names of all recipes, and where fields are."""
  lines = [
    'A recipe: FILE.py, FILE.py:NAME or, without a file, FAMILY:NAME, as in '
    'talent:crps. Its fields are set by --config.FIELD=VALUE; docs/config.md '
    'has them all.'
  ]
  before: set[str] = set()
  for name, family in recipes.FAMILIES.items():
    is_new = not family.recipes.keys() <= before
    before = set(family.recipes)
    names = ', '.join(family.recipes) if is_new else 'the same'
    lines.append(f'{name}:NAME. {family.says} NAME: {names}.')
  lines.append(f'Benchmarks: {", ".join(protocols.PROTOCOLS)}.')
  return '\n'.join(lines)


class _RecipeParser(flags.ArgumentParser):
  """Reads a file that has `get_config`, or knows a name of the package."""

  def __init__(self, files: flags.ArgumentParser):
    self._files = files

  def parse(self, argument: str) -> ConfigDict:
    name = argument.partition(':')[0]
    if '/' not in name and not name.endswith('.py'):
      found = recipes.find(name, _NAMED, 'recipes and benchmarks')
      return found(*argument.split(':', 1)[1:])
    try:
      return self._files.parse(argument)
    except (TypeError, ValueError) as error:
      # What it raises has a traceback in its message, its context has none.
      reason = error.__context__ or error
      raise InputError(str(reason)) from reason

  def flag_type(self) -> str:
    return self._files.flag_type()


class _PathParser(flags.ArgumentParser):
  """Reads a path; after '=' no shell expands '~'."""

  def parse(self, argument: str) -> str:
    return os.path.expanduser(argument)

  def flag_type(self) -> str:
    return 'path'


# Defined once, for programs that import each other.
CONFIG = config_flags.DEFINE_config_file('config', None, _recipes_in_words())
_FLAG = flags.FLAGS[CONFIG.name]
_FLAG.parser = _RecipeParser(_FLAG.parser)
WORKDIR = flags.DEFINE(
  _PathParser(),
  'workdir',
  '',
  'Where everything goes.',
  serializer=flags.ArgumentSerializer(),
)


def run(main: Callable[[], None]) -> None:
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
    if error.at_once:
      errors.leave(error)
    errors.say(error)
    sys.exit(error.exit_code)


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags, config fields included: what is left of the arguments.

  Raises:
    InputError: a flag, a field or a value that there is not, or a recipe that
      cannot be read.
  """
  try:
    arguments = flags.FLAGS(argv)
    if CONFIG.value is not None:
      CONFIG.value.lock()  # Raises what went wrong when it was read.
      _refuse_sections(config_flags.get_override_values(_FLAG))
    return arguments
  except (AttributeError, KeyError) as error:
    cause: Exception = error
    while isinstance(cause.args[0], Exception):
      cause = cause.args[0]
    said = str(cause.args[0])
    if 'Did you mean' not in said:
      said += near_field(said.strip("'"))
    raise InputError(f'unknown config field: {said}') from error
  except (flags.Error, TypeError) as error:
    raise InputError(str(error)) from error
  except OSError as error:
    reason = str(error.__cause__ or error).splitlines()[-1].strip()
    raise InputError(f'cannot read the recipe: {reason}') from error


def _refuse_sections(overrides):
  """A section that is set as a whole would lose its other fields."""
  for name, value in overrides.items():
    if hasattr(value, 'items'):
      fields = ' '.join(f'--config.{name}.{field}=...' for field in value)
      raise InputError(
        f'--config.{name} is a section: set its fields, {fields}'
      )


def _one_line(message, category, filename, lineno, file=None, line=None):
  """A warning, as `warnings.showwarning`; what data say is for users."""
  if issubclass(category, DataWarning):
    text = f'genre2_jax: {" ".join(str(message).split())}\n'
  else:
    text = warnings.formatwarning(message, category, filename, lineno, line)
  progress.step_aside()
  print(text, end='', file=file or sys.stderr, flush=True)


class _Log(logging.StreamHandler):
  """Lines of their own, not the tail of one that shows progress."""

  def emit(self, record: logging.LogRecord) -> None:
    progress.step_aside()
    super().emit(record)


def set_up_logging() -> None:
  """Ours from INFO up; of Orbax, which warns of what we ask for, errors."""
  warnings.showwarning = _one_line
  absl_logging.set_verbosity(absl_logging.ERROR)
  logger = logging.getLogger('genre2_jax')
  logger.setLevel(logging.INFO)
  logger.propagate = False
  logger.addHandler(_Log())
