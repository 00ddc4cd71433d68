"""Files that a run leaves behind: whole, or not there at all.

A file that is written once appears by an atomic rename. `metrics.jsonl` grows
by one line per record, and at worst its last line is torn. One process writes.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import tensorboardX

from genre2_jax import errors

RESULT_COLUMNS = (
  'task',
  'seed',
  'stage',
  'split',
  'estimator',
  'metric',
  'value',
)

METRICS_FILE = 'metrics.jsonl'
TENSORBOARD_FOLDER = 'tensorboard'

# What places a point, rather than being one.
_COORDINATES = frozenset({'stage', 'seed', 'epoch', 'step', 'seconds'})

PathLike = str | os.PathLike[str]


def write_text(path: PathLike, text: str) -> None:
  """Writes UTF-8 text, atomically, making the folder if need be."""
  write_bytes(path, text.encode())


def write_bytes(path: PathLike, data: bytes) -> None:
  """Writes bytes, atomically, making the folder if need be."""
  with replacing(path) as file:
    file.write(data)


def write_json(path: PathLike, value: Any) -> None:
  """Writes indented JSON, atomically; NaN and infinities become null."""
  write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + '\n')


def write_csv(
  path: PathLike, header: Sequence[str], rows: Iterable[Sequence]
) -> None:
  """Writes a table, atomically; floats keep every bit."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(header)
  writer.writerows(rows)
  write_text(path, text.getvalue())


def write_npz(path: PathLike, **arrays: np.ndarray) -> None:
  """Writes named arrays, compressed, atomically."""
  with replacing(path) as file:
    np.savez_compressed(file, allow_pickle=False, **arrays)


def read_metrics(workdir: PathLike) -> list[dict[str, Any]]:
  """The records of metrics.jsonl, oldest first; a torn last line is skipped.

  No file: no records. Damage anywhere else raises InputError.
  """
  path = pathlib.Path(workdir, METRICS_FILE)
  if not path.exists():
    return []
  lines = path.read_bytes().splitlines()
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      records.append(json.loads(line))
    except ValueError as error:  # UnicodeDecodeError is one as well
      if number < len(lines):
        raise errors.InputError(
          f'{path}, line {number}: not JSON ({error}); delete the line'
        ) from error
  return records


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
      for record in read_metrics(workdir)
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
    workdir = pathlib.Path(workdir)
    folder = workdir / TENSORBOARD_FOLDER
    records = read_metrics(workdir)
    _write_records(workdir, records)  # so that no append follows a torn line
    for path in folder.glob('events.out.tfevents.*'):
      path.unlink()
    self._num_seeds = num_seeds
    # A TensorBoard that is watching drops the past at a session that starts
    # at step 0, and then reads the replay.
    self._events = tensorboardX.SummaryWriter(
      str(folder), purge_step=0, flush_secs=10
    )
    for record in records:
      self._add_scalars(record)
    self._lines = open(workdir / METRICS_FILE, 'a', encoding='utf-8')

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
    """
    place = {'stage': stage, 'seed': seed, 'epoch': epoch, 'step': step}
    record = _plain(place | {'seconds': seconds} | metrics)
    self._lines.write(_json_line(record))
    self._lines.flush()
    self._add_scalars(record)

  def close(self) -> None:
    """Flushes and closes both; closing twice is fine."""
    self._lines.close()
    self._events.close()

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def _add_scalars(self, record: Mapping[str, Any]) -> None:
    suffix = f'/seed{record["seed"]}' if self._num_seeds > 1 else ''
    for name, value in record.items():
      if name not in _COORDINATES and isinstance(value, int | float):
        tag = f'{record["stage"]}/{name}{suffix}'
        self._events.add_scalar(tag, value, record['step'])


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[BinaryIO]:
  """A new file that takes the place of `path` once it is safely on disk."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # A fixed name: what a crash leaves behind, the next write uses up.
  temporary = path.with_name(f'.{path.name}.tmp')
  try:
    with open(temporary, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def _write_records(
  workdir: PathLike, records: Iterable[Mapping[str, Any]]
) -> None:
  lines = (_json_line(record) for record in records)
  write_text(pathlib.Path(workdir, METRICS_FILE), ''.join(lines))


def _json_line(record: Mapping[str, Any]) -> str:
  return json.dumps(_plain(record), allow_nan=False) + '\n'


def _plain(value: Any) -> Any:
  """`value` in what JSON has: numpy unwrapped, non-finite floats None."""
  match value:
    case float():  # numpy's float64 is one
      return float(value) if np.isfinite(value) else None
    case Mapping():
      return {str(key): _plain(item) for key, item in value.items()}
    case list() | tuple():
      return [_plain(item) for item in value]
    case os.PathLike():
      return os.fspath(value)
    case _ if hasattr(value, 'tolist'):  # arrays and scalars, numpy or jax
      return _plain(value.tolist())
  return value
