"""A benchmark's runs: every method on every task, each run a workdir.

A run is a (task, method): all seeds go through one program. It lives in
`<workdir>/<task>/<method>` as any run does, so the same call goes on where it
was stopped. Methods that fine-tune start from the weights of the method `ce` on
their task, where theirs would be trained alike. A run that fails is noted in
`<workdir>/failures` and tried again by the next start; the others go on.
Checkpoints are deleted once their run is finished; its weights stay.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from genre2_jax.baselines import catalog
from genre2_jax.benchmark import page
from genre2_jax.benchmark.page import (
  BENCHMARK_FILE,
  FAILURES_FOLDER,
  SECONDS_FILE,
)
from genre2_jax.benchmark.statistics import BASE
from genre2_jax.data.wording import duration
from genre2_jax.devices import resident
from genre2_jax.devices.interrupts import leaving_with
from genre2_jax.errors import (
  InputError,
  InterruptedRunError,
  listed,
  suggestion,
)
from genre2_jax.experiment import defaults, recipes
from genre2_jax.files import atomic, locks
from genre2_jax.files.atomic import PathLike

# Two methods share a base if these sections of their configs are the same.
_BASE_SECTIONS = (
  'pretrain', 'model', 'tokenizer', 'data', 'optimizer', 'seed', 'num_seeds',
  'size', 'batch_size', 'hyperparameters',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Failure:
  """A run that ended in an exception."""

  task: str
  method: str
  type: str
  reason: str  # its first line
  traceback: list[str]


def select(
  config: ConfigDict,
  *,
  methods: str = 'all',
  tasks: str = 'all',
  seeds: str = '',
) -> ConfigDict:
  """The config with only these methods and tasks, the base first.

  Args:
    config: of a benchmark.
    methods: names, as in 'a,b', or 'all'.
    tasks: likewise.
    seeds: consecutive numbers, as in '0,1'; '' for those of the config.

  Raises:
    InputError: a config of a single run, a name that the config lacks, seeds
      that are not consecutive, or a method that was asked for by name and needs
      a package that is not here; of 'all', `run` leaves such methods out.
  """
  if 'methods' not in config:
    raise InputError(
      'the config is no benchmark: give one, as in --config=talent_twenty'
    )
  config = config.copy_and_resolve_references()
  with config.unlocked():
    chosen = _chosen('method', methods, config.methods)
    if methods != 'all':
      for method, how in _lacking(config, chosen).items():
        raise InputError(f'method {method}: {how}')
    config.methods = tuple(sorted(chosen, key=lambda m: m != BASE))
    config.tasks = _chosen('task', tasks, config.tasks)
    if seeds:
      try:
        numbers = [int(seed) for seed in seeds.split(',')]
      except ValueError as error:
        raise InputError(
          f'--seeds={seeds}: give whole numbers, as in --seeds=0,1'
        ) from error
      first = numbers[0]
      if first < 0 or numbers != list(range(first, first + len(numbers))):
        raise InputError(
          f'--seeds={seeds}: seeds are consecutive, as in --seeds=0,1'
        )
      config.seed, config.num_seeds = first, len(numbers)
  return config


def present(config: ConfigDict) -> tuple[ConfigDict, list[str]]:
  """The config with the tasks that its root has, and the names of the others.

  Raises:
    InputError: the root is no folder, or has none of them.
  """
  root = _root(config)
  there = [task for task in config.tasks if (root / task).is_dir()]
  if not there:
    raise InputError(
      f'{root} has none of the tasks {listed(config.tasks)}: give the folder '
      'that holds them'
    )
  missing = [task for task in config.tasks if task not in there]
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.tasks = tuple(there)
  return config, missing


def configure(
  config: ConfigDict, task: str, method: str, workdir: PathLike
) -> ConfigDict:
  """The config of one run: the method's recipe, with the benchmark's fields.

  It starts from the base's weights if it fine-tunes, the base is among the
  methods, and would be trained as the recipe would train its own.

  Raises:
    InputError: a recipe or a field that does not exist, or a wrong type.
  """
  run_config = _recipe(config, task, method)
  if method != BASE and BASE in config.methods:
    base = _recipe(config, task, BASE)
    if _fine_tunes(run_config) and _base_of(run_config) == _base_of(base):
      run_config.init_from = str(pathlib.Path(workdir) / task / BASE)
  return run_config


def run(
  config: ConfigDict,
  workdir: PathLike,
  train_and_evaluate: Callable[[ConfigDict, str, Any], object],
  interrupts: Any = (),
  *,
  index: int = 0,
  count: int = 1,
  command: str = '',
) -> list[Failure]:
  """Runs what is left of every `count`-th task, from `index` on.

  Args:
    config: of `select`.
    workdir: of the benchmark; processes with other indices share it.
    train_and_evaluate: that of `train.py`.
    interrupts: true once asked to leave.
    index: of this process.
    count: of processes.
    command: to show beside the results.

  Returns:
    The failures of this process's tasks.

  Raises:
    InputError: nothing has been run then.
    InterruptedRunError: the same call goes on.
  """
  workdir = pathlib.Path(workdir)
  if not 0 <= index < count:
    raise InputError(f'--index={index} must be 0 to {count - 1}: see --count')
  _root(config)
  lacking = _lacking(config, config.methods)
  if lacking:
    for method, how in lacking.items():
      print(f'Left out, {method}: {how}', flush=True)
    config = config.copy_and_resolve_references()
    config.methods = tuple(m for m in config.methods if m not in lacking)
  for method in config.methods:  # A misspelt field shows before hours of work.
    configure(config, config.tasks[0], method, workdir)
  _write_benchmark(workdir, config, command)
  todo = [
    (task, method)
    for task in config.tasks[index::count]
    for method in config.methods
  ]
  failures = []
  for place, (task, method) in enumerate(todo, start=1):
    folder = workdir / task / method
    note = workdir / FAILURES_FOLDER / f'{task}__{method}.json'
    if not (folder / 'run.json').exists():
      if interrupts:
        raise InterruptedRunError(f'interrupted before {task}, {method}')
      failure = _run_one(
        config, task, method, workdir, train_and_evaluate, interrupts
      )
      if failure is None:
        said = duration(page.read_spent(folder).seconds)
      else:
        failures.append(failure)
        atomic.write_json(note, dataclasses.asdict(failure))
        said = f'failed, {failure.type}: {failure.reason}'.rstrip(': ')
      left = _time_left(workdir, todo[place:])
      print(f'{place}/{len(todo)} {task}, {method}: {said}{left}', flush=True)
      if failure is not None:
        continue
    note.unlink(missing_ok=True)
    shutil.rmtree(folder / 'checkpoints', ignore_errors=True)
  return failures


def collect(workdir: PathLike) -> pathlib.Path:
  """Writes results.csv, table.md and report.html; one process at a time.

  Returns:
    The path of report.html.

  Raises:
    InputError: there is no finished run, or a damaged one.
  """
  with _alone(pathlib.Path(workdir)):
    return page.write(workdir)


def _root(config):
  """The folder of the tasks."""
  root = pathlib.Path(config.root)
  if not config.root or not root.is_dir():
    raise InputError(
      f'config.root={config.root!r} is no folder of TALENT tasks: give one, '
      'as in --config.root=TALENT'
    )
  return root


def _run_one(config, task, method, workdir, train_and_evaluate, interrupts):
  """Runs one (task, method) to its end: None, or why it failed."""
  folder = workdir / task / method
  run_config = configure(config, task, method, workdir)
  before, began = page.read_spent(folder), time.monotonic()
  resident.forget_peak()

  def note_spent():
    # What an interrupted run took counts as well.
    if folder.exists():
      spent = page.Spent(
        seconds=before.seconds + time.monotonic() - began,
        peak_bytes=max(before.peak_bytes, resident.peak()),
      )
      atomic.write_json(folder / SECONDS_FILE, spent._asdict())

  try:
    base = run_config.init_from
    if base and not pathlib.Path(base, 'run.json').exists():
      raise InputError(f'the run in {base}, its base, has not finished')
    with leaving_with(interrupts, note_spent):
      train_and_evaluate(run_config, str(folder), interrupts)
  except InterruptedRunError:
    raise
  except Exception as error:  # Whatever it is, other tasks may do.
    lines = str(error).splitlines() or ['']
    return Failure(
      task=task,
      method=method,
      type=type(error).__name__,
      reason=lines[0],
      traceback=traceback.format_exc().splitlines(),
    )
  finally:
    note_spent()
  return None


def _recipe(config, task, method):
  """The config of a method on a task, from random weights."""
  if method not in config.recipes:
    raise InputError(
      f'config.recipes has no {method!r}: '
      f'{suggestion(method, list(config.recipes))}'
    )
  name, overrides = config.recipes[method]
  try:
    run_config = recipes.get_config('talent', name)
  except InputError as error:
    raise InputError(f'method {method}: {error}') from error
  fields = {
    **dict(config.fields),
    **dict(overrides),
    'data.root': config.root,
    'data.name': task,
    'seed': config.seed,
    # Seeds that a recipe takes together are one member of a benchmark of one
    # seed; of several seeds each is by itself.
    'num_seeds': dict(overrides).get('num_seeds', run_config.num_seeds)
    if config.num_seeds == 1
    else config.num_seeds,
  }
  try:
    run_config.update_from_flattened_dict(fields)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise InputError(
      f'method {method}: a field does not fit the recipe {name} ({reason})'
    ) from error
  return run_config


def _lacking(config, methods):
  """Methods that cannot run here -> how to install what they need."""
  found = {}
  for method in methods:
    run_config = _recipe(config, config.tasks[0], method)
    name = run_config.baseline.name or run_config.model.prior
    if name and (how := catalog.missing(name, run_config.baseline.trials)):
      found[method] = how
  return found


def _fine_tunes(run_config):
  # A baseline stands in for all stages, whatever they are.
  return 'finetune' in run_config.stages and not run_config.baseline.name


def _base_of(run_config):
  """What a method's base depends on, as text."""
  tree = defaults.sized(run_config).to_dict()
  return json.dumps(
    [tree[name] for name in _BASE_SECTIONS], sort_keys=True, default=repr
  )


def _chosen(kind, names, known):
  """Those of `known` that `names` lists, in the order of `known`."""
  if names == 'all':
    return tuple(known)
  wanted = [name.strip() for name in names.split(',') if name.strip()]
  for name in wanted:
    if name not in known:
      raise InputError(
        f'the config has no {kind} {name!r}: {suggestion(name, list(known))}'
      )
  if not wanted:
    raise InputError(f'--{kind}s={names}: give names, as in a,b')
  return tuple(name for name in known if name in wanted)


def _write_benchmark(workdir, config, command):
  """Notes what is compared; tasks and methods may be added, not changed.

  Raises:
    InputError: the workdir belongs to another benchmark.
  """
  path = workdir / BENCHMARK_FILE
  ours = json.loads(
    json.dumps(
      {
        'command': command,
        'seeds': [config.seed + i for i in range(config.num_seeds)],
        'fields': dict(config.fields),
        'tasks': config.tasks,
        'methods': config.methods,
        'recipes': {m: config.recipes[m] for m in config.methods},
      }
    )
  )
  if path.exists():
    theirs = page.read_json(path)
    shared = ours['recipes'].keys() & theirs['recipes'].keys()
    differences = [k for k in ('seeds', 'fields') if ours[k] != theirs[k]]
    differences += [
      f'the recipe of {method}'
      for method in sorted(shared)
      if ours['recipes'][method] != theirs['recipes'][method]
    ]
    if differences:
      raise InputError(
        f'{workdir} belongs to another benchmark, which differs in '
        f'{", ".join(differences)}: give another --workdir or delete it'
      )
    for key in ('tasks', 'methods'):
      ours[key] = list(dict.fromkeys(theirs[key] + ours[key]))
    ours['recipes'] = theirs['recipes'] | ours['recipes']
  # A unique name: other processes of an array job write the same file.
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
  try:
    atomic.write_json(temporary, ours)
    os.replace(temporary, path)
  except OSError as error:
    raise InputError(
      f'cannot write {path} ({error.strerror}): give another --workdir'
    ) from error


@contextlib.contextmanager
def _alone(workdir):
  """Keeps other processes out; the system lets go when this one dies."""
  if not workdir.is_dir():
    raise InputError(f'{workdir} is no workdir of a benchmark (no such folder)')
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(locks.alone(workdir / '.collect.lock'))
    except (OSError, locks.NoLocksError) as error:
      raise InputError(
        f'cannot lock the workdir {workdir} ({error})'
      ) from error
    yield


def _time_left(workdir, todo):
  """'; 1.2 h left', from what finished runs took, each of its method."""
  todo = [
    (task, method)
    for task, method in todo
    if not (workdir / task / method / 'run.json').exists()
  ]
  spent: dict[str, list[float]] = {}
  for path in workdir.glob('*/*/run.json'):
    seconds = page.read_spent(path.parent).seconds
    spent.setdefault(path.parent.name, []).append(seconds)
  if not todo or not spent:
    return ''
  means = {method: sum(s) / len(s) for method, s in spent.items()}
  overall = sum(means.values()) / len(means)
  left = sum(means.get(method, overall) for _, method in todo)
  return f'; about {duration(left)} left'
