"""Files that are written once: whole, or not there at all.

A file appears by an atomic rename. One process writes a file.
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

from genre2_jax.files import disk

PathLike = str | os.PathLike[str]


def write_text(path: PathLike, text: str) -> None:
  """Writes UTF-8 text, making the folder if need be.

  Raises:
    FullDiskError: there is no room; what was there stays. The same holds for
      every function of this module.
  """
  write_bytes(path, text.encode())


def write_bytes(path: PathLike, data: bytes) -> None:
  """Writes bytes, making the folder if need be."""
  with replacing(path) as file:
    file.write(data)


def write_json(path: PathLike, value: Any) -> None:
  """Writes indented JSON; NaN and infinities become null."""
  write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + '\n')


def write_csv(
  path: PathLike, header: Sequence[str], rows: Iterable[Sequence]
) -> None:
  """Writes a table; floats keep every bit."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(header)
  writer.writerows(rows)
  write_text(path, text.getvalue())


def write_npz(path: PathLike, **arrays: Any) -> None:
  """Writes named arrays, compressed."""
  with replacing(path) as file:
    np.savez_compressed(file, allow_pickle=False, **arrays)


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[BinaryIO]:
  """A new file that takes the place of `path` once it is safely on disk.

  Raises:
    FullDiskError: there is no room.
  """
  path = pathlib.Path(path)
  temporary = _temporary(path)
  with disk.fullness_in_words(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    try:
      with os.fdopen(_create(temporary), 'wb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise


def discard(path: PathLike) -> None:
  """Removes what a write of `path` that ends here would leave behind."""
  _temporary(pathlib.Path(path)).unlink(missing_ok=True)


def plain(value: Any) -> Any:
  """`value` in what JSON has: numpy unwrapped, non-finite floats None."""
  match value:
    case float():  # numpy's float64 is one
      return float(value) if np.isfinite(value) else None
    case Mapping():
      return {str(key): plain(item) for key, item in value.items()}
    case list() | tuple():
      return [plain(item) for item in value]
    case os.PathLike():
      return os.fspath(value)
    case _ if hasattr(value, 'tolist'):  # arrays and scalars, numpy or jax
      return plain(value.tolist())
  return value


def _temporary(path: pathlib.Path) -> pathlib.Path:
  # A fixed name: what a crash leaves behind, the next write removes.
  return path.with_name(f'.{path.name}.tmp')


def _create(path: pathlib.Path) -> int:
  """Opens a file that was not there, never what a link points to."""
  flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
  # Not on every system; O_EXCL follows no link either.
  flags |= getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_BINARY', 0)
  return os.open(path, flags, 0o666)
