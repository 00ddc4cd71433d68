"""Traces of training steps, and what their time went into.

`profile.steps=10:13` traces those steps of every stage: TensorBoard's profile
plugin and https://ui.perfetto.dev open what lies in `profile/<stage>`.
"""

import collections
import logging
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax

from genre2_jax.errors import InputError
from genre2_jax.files import atomic

_logger = logging.getLogger('genre2_jax')

# Their time is that of the operations inside, which are listed too.
_CONTAINERS = ('while', 'call', 'conditional')
_FAR = 2**31 - 1


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
    operations = largest(
      jax.profiler.ProfileData.from_file(str(path)),
      sources(program_text()),
      num_steps=step - self._began,
      num_devices=jax.local_device_count(),
    )
    atomic.write_json(
      self._folder / 'operations.json',
      {'steps': [self._began, step], 'operations': operations},
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
  """Name of an HLO operation -> where in the program it comes from."""
  pattern = re.compile(
    r'^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name="([^"]*)"', re.M
  )
  return dict(pattern.findall(program_text))


def largest(
  profile: jax.profiler.ProfileData,
  sources: Mapping[str, str],
  *,
  num_steps: int,
  num_devices: int,
  count: int = 20,
) -> list[dict[str, Any]]:
  """The operations that take most time, by a trace.

  Args:
    profile: a `jax.profiler.ProfileData`.
    sources: name of an operation -> where it comes from.
    num_steps: that were traced.
    num_devices: whose operations are in it.
    count: how many to list.

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
    for name, duration in nanoseconds.most_common(count)
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
