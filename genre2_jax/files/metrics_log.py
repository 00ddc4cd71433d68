"""The record of training: metrics.jsonl, and TensorBoard's view of it.

metrics.jsonl grows by one line per record, and at worst its last line is torn.
One process writes.
"""

import json
import logging
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from genre2_jax.errors import InputError
from genre2_jax.files import atomic, disk
from genre2_jax.files.atomic import PathLike

METRICS_FILE = 'metrics.jsonl'
TENSORBOARD_FOLDER = 'tensorboard'

# Fields of every record: what its metrics were measured at.
_PLACE = {'stage': str, 'seed': int, 'epoch': int, 'step': int}

_FLUSH_SECONDS = 10  # between what a TensorBoard that is watching sees

_logger = logging.getLogger('genre2_jax')


def read(workdir: PathLike) -> list[dict[str, Any]]:
  """The records of metrics.jsonl, oldest first; a torn last line is skipped.

  No file: no records.

  Raises:
    InputError: a line is damaged, and not as an interrupted write leaves it.
  """
  path = pathlib.Path(workdir, METRICS_FILE)
  records, damaged = _parsed(path)
  for number, reason in damaged.items():
    raise InputError(f'{path}, line {number}: {reason}; delete the line')
  return records


def read_intact(workdir: PathLike) -> list[dict[str, Any]]:
  """The records as `read` gives them, but without damaged lines, which it logs.

  For showing them; what goes on writing needs `read`.
  """
  path = pathlib.Path(workdir, METRICS_FILE)
  records, damaged = _parsed(path)
  if damaged:
    numbers = list(map(str, damaged))
    more = f' and {len(numbers) - 5} more' if len(numbers) > 5 else ''
    _logger.warning(
      '%s: left out what is damaged, line %s%s',
      path,
      ', '.join(numbers[:5]),
      more,
    )
  return records


def kept_start(
  records: Iterable[Mapping[str, Any]], stage: str, name: str = ''
) -> str:
  """That a stage has changed nothing, in one line; '' where it has.

  Its best epoch is then 0, the weights that it began with.

  Args:
    records: as `read` gives them.
    stage: as in the records.
    name: what to call it, by default the same.
  """
  last = {r['seed']: r for r in records if r['stage'] == stage}
  # Runs of old do not say.
  kept = [
    str(seed)
    for seed, record in last.items()
    if record['epoch'] > 0 and record.get('best_epoch') == 0
  ]
  if not kept:
    return ''
  seeds = f', seed {", ".join(kept)},' if len(kept) < len(last) else ''
  return (
    f'Stage {name or stage}{seeds} kept its starting weights: no epoch was '
    'better on validation.'
  )


def truncate(workdir: PathLike, stage: str | Iterable[str], step: int) -> None:
  """Drops what a resumed run will write again: records of `stage` after `step`.

  `stage` is one name or several; −1 drops all of a stage. A torn last line
  goes too. Call it before opening a MetricWriter, whose event files follow.
  """
  stages = {stage} if isinstance(stage, str) else set(stage)
  _write_records(
    workdir,
    [
      record
      for record in read(workdir)
      if record['stage'] not in stages or record['step'] <= step
    ],
  )


class MetricWriter:
  """Appends records to metrics.jsonl and shows them in TensorBoard.

  metrics.jsonl is the truth, the event files a view of it: opening a writer
  in a workdir with a past replays the past into one new event file. That
  costs milliseconds, and no crash can leave the two in disagreement. (A purge
  step alone can't: TensorBoard purges every tag by step, and each stage
  counts its own.)
  """

  def __init__(self, workdir: PathLike, num_seeds: int = 1):
    """Opens, or continues, the record in `workdir`."""
    self._workdir = pathlib.Path(workdir)
    folder = self._workdir / TENSORBOARD_FOLDER
    records = read(workdir)
    _write_records(workdir, records)  # so that no append follows a torn line
    self._num_seeds = num_seeds
    with disk.fullness_in_words(self._workdir):
      self._events = _Events(folder)
      for record in records:
        self._add_scalars(record)
    # Unbuffered: a line that failed is not tried again at closing.
    self._lines = open(self._workdir / METRICS_FILE, 'ab', buffering=0)

  def write(
    self,
    *,
    stage: str,
    seed: int,
    epoch: int,
    step: int,
    seconds: float,
    **metrics: float,
  ) -> None:
    """Appends one record, e.g. `**{'train/loss': 0.7, 'val/reward': -0.1}`.

    It is with the operating system on return: only a power cut loses it.

    Raises:
      FullDiskError: there is no room for it; the file is as it was.
    """
    place = {'stage': stage, 'seed': seed, 'epoch': epoch, 'step': step}
    record = atomic.plain(place | {'seconds': seconds} | metrics)
    with disk.fullness_in_words(self._workdir):
      self._append(_json_line(record).encode())
      self._add_scalars(record)

  def close(self) -> None:
    """Flushes and closes both; closing twice is fine.

    Raises:
      FullDiskError: there is no room for the last events.
    """
    self._lines.close()
    with disk.fullness_in_words(self._workdir):
      self._events.close()

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def _append(self, line: bytes) -> None:
    size = os.fstat(self._lines.fileno()).st_size
    try:
      while line:  # The system may take a part of it.
        line = line[self._lines.write(line) :]
    except OSError:
      self._lines.truncate(size)
      raise

  def _add_scalars(self, record: Mapping[str, Any]) -> None:
    suffix = f'/seed{record["seed"]}' if self._num_seeds > 1 else ''
    for name, value in record.items():
      is_metric = name not in _PLACE and name != 'seconds'
      if is_metric and isinstance(value, int | float):
        tag = f'{record["stage"]}/{name}{suffix}'
        self._events.add_scalar(tag, value, record['step'])


class _Events:
  """A new file of TensorBoard events, which replaces those in the folder.

  tensorboardX's SummaryWriter writes in a thread. When that ends by an error,
  as on a full disk, adding events blocks for ever once its queue is full.
  """

  def __init__(self, folder: pathlib.Path):
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob('events.out.tfevents.*'):
      path.unlink()
    self._writer = EventsWriter(str(folder / 'events'))
    self._flushed = time.monotonic()
    # A TensorBoard that is watching drops the past at a session that starts
    # at step 0, and then reads the replay.
    start = SessionLog(status=SessionLog.START)
    self._add(step=0, session_log=start)

  def add_scalar(self, tag: str, value: float, step: int) -> None:
    self._add(step=step, summary=summary.scalar(tag, value))

  def close(self) -> None:
    if self._writer is not None:
      writer, self._writer = self._writer, None
      writer.close()

  def _add(self, **fields: Any) -> None:
    self._writer.write_event(Event(wall_time=time.time(), **fields))
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self._writer.flush()
      self._flushed = time.monotonic()


def _parsed(
  path: pathlib.Path,
) -> tuple[list[dict[str, Any]], dict[int, str]]:
  """The records of a file, and what is wrong with which of its lines."""
  if not path.exists():
    return [], {}
  lines = path.read_bytes().splitlines()
  records, damaged = [], {}
  for number, line in enumerate(lines, start=1):
    try:
      record = json.loads(line)
    except ValueError as error:  # UnicodeDecodeError is one as well
      if number < len(lines):
        damaged[number] = f'not JSON ({error})'
      continue
    wrong = _wrong_fields(record)
    if wrong:
      damaged[number] = f'no record (see {", ".join(wrong)})'
    else:
      records.append(record)
  return records, damaged


def _wrong_fields(record: Any) -> list[str]:
  if not isinstance(record, dict):
    return list(_PLACE)
  return [
    name
    for name, kind in _PLACE.items()
    if not isinstance(record.get(name), kind)
  ]


def _write_records(
  workdir: PathLike, records: Iterable[Mapping[str, Any]]
) -> None:
  lines = (_json_line(record) for record in records)
  atomic.write_text(pathlib.Path(workdir, METRICS_FILE), ''.join(lines))


def _json_line(record: Mapping[str, Any]) -> str:
  return json.dumps(atomic.plain(record), allow_nan=False) + '\n'
