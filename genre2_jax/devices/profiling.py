"""Traces of training steps, and what their time went into.

`profile.steps=10:13` traces those steps of every stage: TensorBoard's profile
plugin and https://ui.perfetto.dev open what lies in `profile/<stage>`.
"""

import collections
import itertools
import logging
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import jax

from genre2_jax.errors import InputError
from genre2_jax.files import atomic

_logger = logging.getLogger('genre2_jax')

# Their time is that of the operations inside, which are listed too.
_CONTAINERS = ('while', 'call', 'conditional')
_FAR = 2**31 - 1
_NUM_LISTED = 20  # operations, beside all modules
_MODULE_DEPTH = 3  # names of a module's path
_MAX_DISTANCE = 6  # between operations, of which one has a source
# Names in a path that are no modules.
_CONTROL = ('while', 'body', 'cond', 'closed_call', 'checkpoint', 'branch')


def parse_steps(text: str) -> tuple[int, int] | None:
  """'10:13' -> (10, 13): steps 10, 11 and 12; '' -> None.

  Raises:
    InputError: neither.
  """
  if not text:
    return None
  match = re.fullmatch(r'(\d+):(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise InputError(
      f'profile.steps={text!r} is not FIRST:LAST, as in 10:13 for three steps'
    )
  return int(match[1]), int(match[2])


class Profile:
  """Traces [first, last) of a stage's steps, and writes the table of it.

  A run that goes on from a step in between traces the rest.
  """

  def __init__(
    self,
    steps: tuple[int, int] | None,
    workdir: pathlib.Path,
    stage: str,
    num_steps: int,
    is_writer: bool = True,
  ):
    """Traces nothing yet.

    Args:
      steps: (first, last), or None for no trace at all.
      workdir: of the run.
      stage: name of it.
      num_steps: that it has at most.
      is_writer: of several processes one traces its own devices; the others
        only cut their dispatches at the same steps.
    """
    self._first, self._last = steps or (_FAR, _FAR)
    if steps and is_writer and self._first >= num_steps:
      _logger.warning(
        'profile.steps=%d:%d is beyond the %d steps of stage %s: no trace',
        *steps,
        num_steps,
        stage,
      )
    self._last = min(self._last, num_steps)
    self._folder = workdir / 'profile' / stage
    self._is_writer = is_writer
    self._began: int | None = None

  def limit(self, step: int) -> int:
    """Steps from here until the trace begins or ends."""
    edges = [edge for edge in (self._first, self._last) if edge > step]
    return min(edges, default=_FAR) - step

  def begin(self, step: int) -> None:
    """Starts the trace at the first of its steps that this process runs."""
    if self._is_writer and self._first <= step < self._last:
      if self._began is None:
        shutil.rmtree(self._folder, ignore_errors=True)
        jax.profiler.start_trace(self._folder)
        self._began = step

  def end(self, step: int, program_text: Callable[[], str]) -> None:
    """Ends the trace once its last step is done.

    Args:
      step: that comes next; the devices are idle.
      program_text: `() -> str`, the traced program as HLO.
    """
    if self._began is None or step < self._last:
      return
    jax.profiler.stop_trace()
    (path,) = self._folder.rglob('*.xplane.pb')
    operations = all_operations(
      jax.profiler.ProfileData.from_file(str(path)),
      sources(program_text()),
      num_steps=step - self._began,
      num_devices=jax.local_device_count(),
    )
    atomic.write_json(
      self._folder / 'operations.json',
      {
        'steps': [self._began, step],
        'modules': by_module(operations),
        'operations': operations[:_NUM_LISTED],
      },
    )
    _logger.info(
      'steps %d to %d are traced: %s', self._began, step - 1, self._folder
    )
    self._began = None

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    if self._began is not None:  # The stage ended before the trace.
      jax.profiler.stop_trace()


def sources(program_text: str) -> dict[str, str]:
  """Name of an HLO operation -> where in the program it comes from.

  Compilers forget this of some, of products of matrices on CPUs for one: such
  an operation counts to the nearest that reads from it, or that it reads from.
  """
  found: dict[str, str] = {}
  near = collections.defaultdict(list)
  root = ''
  for line in program_text.splitlines():
    # The computation that a fusion calls ends with the same work.
    if opened := re.match(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$', line):
      root = opened[1]
    if not (matched := re.match(r'\s*(ROOT )?%?([\w.-]+) = (.*)', line)):
      continue
    is_root, name, rest = matched.groups()
    if source := re.search(r'metadata=\{[^}]*op_name="([^"]*)"', rest):
      found[name] = source[1]
    for other in re.findall(r'%([\w.-]+)', rest):
      near[name].append(other)
      near[other].append(name)
    if is_root and root:
      near[name].append(root)
      near[root].append(name)
  return found | {name: _nearest(name, near, found) for name in near}


def _nearest(
  name: str, near: Mapping[str, list[str]], found: Mapping[str, str]
) -> str:
  """An operation's own source, or that of the nearest one in a module."""
  if name in found:
    return found[name]
  seen, edge = {name}, [name]
  for _ in range(_MAX_DISTANCE):
    beside = (other for place in edge for other in near.get(place, ()))
    edge = [other for other in dict.fromkeys(beside) if other not in seen]
    seen.update(edge)
    for other in edge:
      if module_of(found.get(other, '')):
        return found[other]
  return ''


def module_of(source: str) -> str:
  """'jvp(Model.decode)/decoder/layer_1/attention/dot' -> its module.

  Layers go together, 'decoder/layer_*/attention'; '' of what is outside of the
  network.
  """
  parts = iter(source.split('/')[:-1])
  for part in parts:
    if re.fullmatch(r'(?:\w+\()*[A-Z]\w*\.\w+\)*', part):
      names = itertools.takewhile(re.compile(r'\w+$').match, parts)
      names = itertools.takewhile(lambda n: n not in _CONTROL, names)
      path = '/'.join(itertools.islice(names, _MODULE_DEPTH))
      return re.sub(r'_\d+\b', '_*', path) or re.sub(r'\w+\(|\)', '', part)
  return ''


def by_module(operations: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Operations of `all_operations` added up by module, the largest first."""
  modules: dict[str, dict[str, Any]] = {}
  for operation in operations:
    name = module_of(operation['source']) or _outside(operation['source'])
    module = modules.setdefault(
      name, {'name': name, 'milliseconds': 0.0, 'calls': 0.0, 'share': 0.0}
    )
    for key in ('milliseconds', 'calls', 'share'):
      module[key] += operation[key]
  return sorted(modules.values(), key=lambda module: -module['share'])


def _outside(source: str) -> str:
  """What an operation outside of the network is for."""
  if '_threefry' in source or '_shuffle' in source:
    return 'random numbers'
  if 'jvp(' in source:
    return 'loss'
  return 'optimizer and the rest of the step' if source else 'unknown'


def all_operations(
  profile: jax.profiler.ProfileData,
  sources: Mapping[str, str],
  *,
  num_steps: int,
  num_devices: int,
) -> list[dict[str, Any]]:
  """The operations of a trace, by what they take of the time.

  Args:
    profile: a `jax.profiler.ProfileData`.
    sources: name of an operation -> where it comes from.
    num_steps: that were traced.
    num_devices: whose operations are in it.

  Returns:
    [{'name', 'source', 'milliseconds' and 'calls', both per device and step,
    'share' of the time of all operations}], the largest first.
  """
  nanoseconds: collections.Counter[str] = collections.Counter()
  calls: collections.Counter[str] = collections.Counter()
  for name, duration in _operations(profile):
    nanoseconds[name] += duration
    calls[name] += 1
  total = sum(nanoseconds.values())
  parts = num_steps * num_devices
  return [
    {
      'name': name,
      'source': sources.get(name, ''),
      'milliseconds': duration / parts / 1e6,
      'calls': calls[name] / parts,
      'share': duration / total,
    }
    for name, duration in nanoseconds.most_common()
  ]


def _operations(profile):
  """(name, nanoseconds) of every operation that a device ran.

  On CPU and GPU an event names its operation, on TPU a line has no others.
  """
  for plane in profile.planes:
    for line in plane.lines:
      for event in line.events:
        name = dict(event.stats).get('hlo_op')
        if name is None and line.name == 'XLA Ops':
          name = event.name.partition(' = ')[0].lstrip('%')
        if name and not event.name.startswith('end: '):
          if re.split(r'[.\d]', name)[0] not in _CONTAINERS:
            yield name, event.duration_ns
