r"""Hyperparameter search: Optuna trials of a recipe, each one a whole run.

    python -m genre2_jax.search --config=configs/ce_talent.py --trials=25 \
      --workdir=runs/search_abalone --config.data.name=Abalone_reg ...

Start the same command several times, and the processes share the trials; stop
it or kill it, and the same command goes on where it was, trials that were
running included. Fields that are set on the command line are not searched.

search.json      the recipe and the space: the search's identity
search.journal   Optuna's study, JSON lines: `optuna-dashboard` reads it
trials.csv       every trial: its fields, its value or why it failed
best.json        fields and value of the best one
trials/<number>  the workdirs; of those that ended only the best one keeps its
                 checkpoints
"""

import contextlib
import csv
import dataclasses
import functools
import json
import logging
import math
import pathlib
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from genre2_jax import command_line
from genre2_jax.devices.interrupts import deferred, leaving_with
from genre2_jax.errors import (
  InputError,
  InterruptedRunError,
  RunError,
  one_line,
)
from genre2_jax.experiment.checks import check_choice
from genre2_jax.files import atomic, locks

_logger = logging.getLogger('genre2_jax')


@dataclasses.dataclass(frozen=True)
class LogUniform:
  """A real number of [low, high] whose logarithm is uniform."""

  low: float
  high: float


Space = Mapping[str, Sequence | LogUniform]

# Size of the recipe -> config field -> choices.
SPACES: Mapping[str, Space] = {
  # Within minutes a trial on 2 CPU cores, for any objective.
  'small': {
    'model.width': (32, 64, 128),
    'model.num_layers': (1, 2, 3),
    'model.feedforward': (64, 128, 256),
    'model.encoder_hidden': (128, 256, 512),
    'model.dropout': (0.0, 0.1, 0.2),
    'pretrain.learning_rate': LogUniform(2e-4, 4e-3),
  },
  # GenRe²'s (arXiv 2512.06533). Dropout is 0.1 in all of the paper's results,
  # and stays the recipe's.
  'paper': {
    'tokenizer.base': (2, 4, 6, 8, 10),
    'tokenizer.digits': (4, 6, 8),
    'model.width': (128, 256, 512),
    'model.num_heads': (4, 8),  # each divides every width
    'model.num_layers': (1, 2, 3, 4, 5),
    'model.feedforward': (512, 1024, 2048),
    'model.encoder_hidden': (128, 256, 512, 1024),
    'pretrain.learning_rate': LogUniform(1e-5, 1e-4),
  },
}

# A trial whose process died this often, and never left when asked to, is given
# up: most likely it is too large for the memory.
_MAX_DEATHS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
  """The best trial: its number, R² on validation rows, and config fields."""

  number: int
  value: float
  fields: Mapping[str, Any]


def search(
  config: ConfigDict,
  workdir: str | pathlib.Path,
  *,
  num_trials: int,
  space: Space | None = None,
  interrupts: object = (),
  train_and_evaluate: Callable[..., Any] | None = None,
) -> Best:
  """Maximises R² of the mean on validation rows, after the last stage.

  Optuna's TPE. Trial n is drawn from `config.seed`, n and the trials before
  it: one process, interrupted or not, always makes the same search.

  Args:
    config: of a recipe; `space` names fields of it.
    workdir: of the search. Several processes of one machine may share it.
    num_trials: of all processes together, failed trials included.
    space: field -> choices or `LogUniform`; None: that of the recipe's size.
    interrupts: true once the search is asked to leave.
    train_and_evaluate: `(config, workdir, interrupts)`; None: `train`'s.

  Raises:
    InputError: a wrong argument, a workdir of another search, no trial that
      succeeded, or Optuna is missing.
    InterruptedRunError: asked to leave; the same call goes on.
  """
  optuna = _import_optuna()
  if space is None:
    space = _space(config)
  _check(config, workdir, num_trials, space)
  if train_and_evaluate is None:
    from genre2_jax import train

    train_and_evaluate = train.train_and_evaluate
  workdir = pathlib.Path(workdir)
  with _alone(workdir):
    _claim_workdir(workdir, config, space)
    study = _open_study(optuna, workdir)
  seed = int(config.get('seed', 0))
  while True:
    if interrupts:
      raise InterruptedRunError('search interrupted')
    with contextlib.ExitStack() as held:
      with _alone(workdir):
        trial = _next_trial(
          optuna, study, workdir, num_trials, space, seed, held
        )
      if trial is None:
        break
      value, reason = None, ''
      try:
        with leaving_with(interrupts, functools.partial(_left, trial)):
          value = _run_trial(
            train_and_evaluate, config, workdir, trial, interrupts
          )
      except InterruptedRunError as error:
        _left(trial)
        raise InterruptedRunError(
          f'search interrupted in trial {trial.number}'
        ) from error
      except (RunError, MemoryError) as error:
        reason = one_line(error)
      except RuntimeError as error:
        # What XLA says of a model that does not fit the device.
        if 'RESOURCE_EXHAUSTED' not in str(error):
          raise
        reason = one_line(error)
      with _alone(workdir):
        _finish(optuna, study, trial, value, reason)
        _write_summary(optuna, study, workdir, space)
      _logger.info(
        'trial %d: %s',
        trial.number,
        reason or f'R² {value:.4f} on validation rows',
      )
  with _alone(workdir):
    best = _write_summary(optuna, study, workdir, space)
  if best is None:
    raise InputError(
      f'{workdir}: none of the {num_trials} trials succeeded, see the reasons '
      'in trials.csv: mend them, and give more --trials or another --workdir'
    )
  return best


# ------------------------------------------------------------------- trials


def _next_trial(optuna, study, workdir, num_trials, space, seed, held):
  """A trial to run, its lock in `held`: one that was left, or a new one.

  None: there are `num_trials`, and none of them is left. A process that dies
  lets go of its locks, whatever it dies of.
  """
  trials = study.get_trials(deepcopy=False)
  for frozen in trials:
    if frozen.state != optuna.trial.TrialState.RUNNING:
      continue
    lock = _lock_if_free(workdir, frozen.number)
    if lock is None:
      continue
    trial = optuna.trial.Trial(study, frozen._trial_id)
    deaths = frozen.user_attrs.get('deaths', 0)
    if frozen.params.keys() != space.keys():
      # Its process died while drawing the fields: there is no run to lose.
      _finish(optuna, study, trial, None, 'never begun')
    elif deaths >= _MAX_DEATHS:
      _finish(optuna, study, trial, None, f'its process died {deaths} times')
    else:
      trial.set_user_attr('deaths', deaths + 1)
      held.enter_context(lock)
      return trial
    lock.close()
  number = len(trials)
  if number - _num_never_begun(study) >= num_trials:
    return None
  study.sampler = _sampler(optuna, seed, number)
  lock = _lock_if_free(workdir, number)
  held.enter_context(lock)
  trial = study.ask()
  for field, choices in space.items():
    if isinstance(choices, LogUniform):
      trial.suggest_float(field, choices.low, choices.high, log=True)
    else:
      trial.suggest_categorical(field, choices)
  trial.set_user_attr('deaths', 1)  # Until it ends or leaves.
  return trial


def _left(trial):
  """Notes that the trial's process was asked to leave: it did not die of it."""
  trial.set_user_attr('deaths', 0)


def _num_never_begun(study):
  return sum(
    trial.user_attrs.get('reason') == 'never begun'
    for trial in study.get_trials(deepcopy=False)
  )


def _sampler(optuna, seed, number):
  # A sampler for each trial: the state of one that draws them all would be
  # lost with the process, and be the same in all processes.
  entropy = np.random.SeedSequence([seed, number])
  return optuna.samplers.TPESampler(seed=int(entropy.generate_state(1)[0]))


def _run_trial(train_and_evaluate, config, workdir, trial, interrupts):
  """Trains and evaluates, or goes on doing so: the trial's value."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(trial.params)
  folder = workdir / 'trials' / str(trial.number)
  _logger.info('trial %d: %s', trial.number, _assignments(trial.params))
  try:
    train_and_evaluate(config, folder, interrupts)
  finally:
    if 'jax' in sys.modules:
      # The programs of a trial fit no other, and would pile up.
      sys.modules['jax'].clear_caches()
  return validation_r2(folder)


def validation_r2(workdir: pathlib.Path) -> float:
  """R² of the mean on validation rows after a finished run's last stage.

  Of several seeds, their mean. Raises InputError if it is not there or not
  finite.
  """
  try:
    run = json.loads((workdir / 'run.json').read_text(encoding='utf-8'))
    stage = run['stages'][-1]
    with open(workdir / 'results.csv', encoding='utf-8', newline='') as file:
      values = {
        row['seed']: float(row['value'])
        for row in csv.DictReader(file)
        if (row['stage'], row['split']) == (stage, 'val')
        and (row['estimator'], row['metric']) == ('mean', 'r2')
      }
  except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
    raise InputError(
      f'{workdir}: no readable results ({one_line(error)}); train again'
    ) from error
  if 'mean' in values:
    value = values['mean']
  else:
    value = next(iter(values.values())) if len(values) == 1 else math.nan
  if not math.isfinite(value):
    raise InputError(
      f'{workdir}: results.csv has no finite val R² of the mean for stage '
      f'{stage}; train again'
    )
  return value


def _finish(optuna, study, trial, value, reason):
  state = optuna.trial.TrialState.COMPLETE
  if value is None:
    trial.set_user_attr('reason', reason)
    state = optuna.trial.TrialState.FAIL
  study.tell(trial, value, state=state)


def _write_summary(optuna, study, workdir, space):
  """trials.csv and best.json; checkpoints go, but for the best: `Best`."""
  trials = study.get_trials(deepcopy=False)
  complete = [t for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
  best = max(complete, key=lambda t: (t.value, -t.number), default=None)
  atomic.write_csv(
    workdir / 'trials.csv',
    ('number', 'state', 'value', *space, 'reason'),
    [
      (
        trial.number,
        trial.state.name.lower(),
        '' if trial.value is None else trial.value,
        *(trial.params.get(field, '') for field in space),
        trial.user_attrs.get('reason', ''),
      )
      for trial in trials
    ],
  )
  for trial in trials:
    if trial.state.is_finished() and trial is not best:
      folder = workdir / 'trials' / str(trial.number) / 'checkpoints'
      shutil.rmtree(folder, ignore_errors=True)
  if best is None:
    return None
  best = Best(
    number=best.number,
    value=best.value,
    fields={f: best.params[f] for f in space},
  )
  atomic.write_json(workdir / 'best.json', dataclasses.asdict(best))
  return best


# ------------------------------------------------------------------ workdir


def _space(config):
  check_choice('size', config.size, tuple(SPACES))
  return SPACES[config.size]


def _check(config, workdir, num_trials, space):
  if not str(workdir):
    raise InputError('a search needs --workdir: a folder for its trials')
  if num_trials < 1:
    raise InputError(f'--trials={num_trials} must be 1 or more')
  if not space:
    raise InputError('every field of the search space is set: none is left')
  if config.get('hyperparameters', 'config') != 'config':
    raise InputError(
      f'hyperparameters={config.hyperparameters} would overwrite what is '
      "searched: set it to 'config'"
    )
  known = _flat(config.to_dict())
  if known.get('baseline.name'):
    raise InputError(
      f'baseline.name={known["baseline.name"]} has no fields to search here: '
      'give genre2_jax.main --config.baseline.trials'
    )
  for field in space:
    if field not in known:
      raise InputError(
        f'the search space names {field}, which the recipe does not have'
      )


def _claim_workdir(workdir, config, space):
  """Writes search.json, or checks that it says the same."""
  path = workdir / 'search.json'
  identity = {
    'config': {
      field: value
      for field, value in _flat(config.to_dict()).items()
      if field not in space
    },
    'space': {
      field: dataclasses.asdict(choices)
      if isinstance(choices, LogUniform)
      else list(choices)
      for field, choices in space.items()
    },
  }
  identity = json.loads(json.dumps(identity, default=str))
  if not path.exists():
    atomic.write_json(path, identity)
    return
  try:
    there = json.loads(path.read_text(encoding='utf-8'))
    old, new = (x['config'] | x['space'] for x in (there, identity))
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is damaged: give another --workdir or delete it'
    ) from error
  differences = [
    f'{field} ({old.get(field)} there, {new.get(field)} here)'
    for field in sorted(old.keys() | new.keys())
    if old.get(field) != new.get(field)
  ]
  if differences:
    raise InputError(
      f'{workdir} belongs to another search, which differs in '
      f'{", ".join(differences[:5])}: give another --workdir or delete it'
    )


def _open_study(optuna, workdir):
  from optuna.storages import journal

  path = workdir / 'search.journal'
  _drop_torn_line(path)
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  try:
    return optuna.create_study(
      storage=optuna.storages.JournalStorage(
        journal.JournalFileBackend(
          str(path), lock_obj=journal.JournalFileOpenLock(str(path))
        )
      ),
      study_name='search',
      direction='maximize',
      load_if_exists=True,
    )
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is damaged ({one_line(error)}): give another --workdir'
    ) from error


def _drop_torn_line(path):
  # What a power cut may leave, and would spoil the next line.
  if path.exists():
    data = path.read_bytes()
    if data and not data.endswith(b'\n'):
      atomic.write_bytes(path, data[: data.rfind(b'\n') + 1])


@contextlib.contextmanager
def _alone(workdir: pathlib.Path) -> Iterator[None]:
  """Within it no other process of the search decides or writes anything."""
  with contextlib.ExitStack() as held:
    with _locks_in_words(workdir):
      held.enter_context(locks.alone(workdir / 'locks' / 'search'))
    yield


def _lock_if_free(workdir, number):
  """The locked file of a trial, to be closed; None if another holds it."""
  with _locks_in_words(workdir):
    return locks.take_if_free(workdir / 'locks' / str(number))


@contextlib.contextmanager
def _locks_in_words(workdir):
  try:
    yield
  except locks.NoLocksError as error:
    raise InputError(
      f'a search needs the file locks of Unix: {error}'
    ) from error
  except OSError as error:
    raise InputError(
      f'cannot write in the workdir {workdir} ({error.strerror}): give another '
      '--workdir'
    ) from error


def _import_optuna():
  try:
    import optuna
  except ImportError as error:
    raise InputError(
      "optuna is not installed: pip install 'optuna>=4.0'"
    ) from error
  return optuna


def _flat(nested, prefix=''):
  """{'a': {'b': 1}} as {'a.b': 1}."""
  out: dict[str, Any] = {}
  for key, value in nested.items():
    if isinstance(value, dict):
      out |= _flat(value, f'{prefix}{key}.')
    else:
      out[prefix + key] = value
  return out


def _assignments(fields):
  return ' '.join(f'{field}={value}' for field, value in fields.items())


# ------------------------------------------------------------- command line


def training_command(recipe: str, fields: Mapping[str, Any]) -> str:
  """The command that trains a recipe with these config fields."""
  arguments = [f'--config={recipe}']
  arguments += [f'--config.{field}={value}' for field, value in fields.items()]
  return shlex.join(['python', '-m', 'genre2_jax.main', *arguments])


def main() -> None:
  """Searches, then prints how to train with what was found."""
  config = command_line.CONFIG
  if config.value is None:
    raise InputError('give a recipe, as in --config=configs/ce_talent.py')
  given = config_flags.get_override_values(flags.FLAGS[config.name])
  with deferred(leaves=True) as interrupts:
    best = search(
      config.value,
      command_line.WORKDIR.value,
      num_trials=_TRIALS.value,
      space={f: x for f, x in _space(config.value).items() if f not in given},
      interrupts=interrupts,
    )
  recipe = config_flags.get_config_filename(flags.FLAGS[config.name])
  command = training_command(recipe, {**given, **best.fields})
  print(f'Best: trial {best.number}, R² {best.value:.4f} on validation rows')
  print(f'Train with it:\n{command}')


if __name__ == '__main__':
  flags.adopt_module_key_flags(command_line)  # --help shows them.
  _TRIALS = flags.DEFINE_integer('trials', 25, 'Trials, of all processes.')
  command_line.run(main)
