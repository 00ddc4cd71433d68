"""Arrays and texts that lie in a file where they are large.

Such a file has no name: it goes with whoever holds it, whatever ends the
process. The kernel keeps in memory what of it is in use.
"""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, overload

import numpy as np

from genre2_jax.data.reading import user_cache

LARGE = 2**28  # Bytes of one array that stay in memory.
_OF_A_STRING = 64  # Bytes that Python takes for a text beside its letters.
_BATCH = 4096  # Texts that are read at once.


def zeros(shape: Sequence[int], dtype: Any) -> np.ndarray:
  """An array of zeros to be written to.

  Raises:
    OSError: it is large, and there is no room for it.
  """
  dtype = np.dtype(dtype)
  num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
  if num_bytes <= LARGE:
    return np.zeros(shape, dtype)
  with _nameless() as file:
    # Room that is only promised would be missed by a signal, not an error.
    reserve = getattr(os, 'posix_fallocate', None)
    if reserve:
      reserve(file.fileno(), 0, num_bytes)
    else:
      file.truncate(num_bytes)
    return np.asarray(np.memmap(file, dtype, 'r+', shape=tuple(shape)))


class Growing:
  """An array [n] of which more and more comes.

  Attributes:
    dtype: of the array.
    size: n, so far.
  """

  def __init__(self, dtype: Any) -> None:
    self.dtype = np.dtype(dtype)
    self._parts: list[np.ndarray] = []
    self._file: IO[bytes] | None = None
    self.size = 0

  def append(self, values: np.ndarray) -> None:
    """Takes [m] more. Raises OSError."""
    values = np.ascontiguousarray(values, self.dtype)
    self._parts.append(values)
    self.size += len(values)
    if self._file is None and self.size * self.dtype.itemsize <= LARGE:
      return
    with _where_named(_folder()):
      self._file = self._file or tempfile.TemporaryFile(dir=_folder())
      for part in self._parts:
        self._file.write(part.data)
    self._parts = []

  def finish(self) -> np.ndarray:
    """All of it, to be read."""
    if self._file is None:
      return np.concatenate([np.empty(0, self.dtype), *self._parts])
    with self._file as file, _where_named(_folder()):
      file.flush()
      return np.asarray(np.memmap(file, self.dtype, 'r', shape=(self.size,)))


class Ragged:
  """Rows [n] of several lengths: arrays that stand in one behind the other.

  Args:
    values: of all rows.
    lengths: int [n], of each row.
  """

  def __init__(self, values: np.ndarray, lengths: np.ndarray) -> None:
    self.values = values
    self.lengths = np.asarray(lengths, np.int32)
    self._ends = np.cumsum(self.lengths, dtype=np.int64)

  def __len__(self) -> int:
    return len(self.lengths)

  def __getitem__(self, row: int) -> np.ndarray:
    end = self._ends[row]
    return self.values[end - self.lengths[row] : end]

  def __iter__(self) -> Iterator[np.ndarray]:
    return (self[row] for row in range(len(self)))

  def row_of(self, place: int) -> int:
    """The row that has a place of `values`."""
    return int(np.searchsorted(self._ends, place, 'right'))


class GrowingRagged:
  """Rows [n] of several lengths of which more and more come."""

  def __init__(self, dtype: Any) -> None:
    self._values, self._lengths = Growing(dtype), Growing(np.int32)

  def append(self, rows: Sequence[Sequence[Any]]) -> None:
    """Takes [m] more. Raises OSError."""
    flat = list(itertools.chain.from_iterable(rows))
    self._values.append(np.array(flat, self._values.dtype))
    self._lengths.append(np.array([len(row) for row in rows], np.int32))

  def finish(self) -> Ragged:
    """All of them, to be read."""
    return Ragged(self._values.finish(), self._lengths.finish())


class StoredStrings:
  """Texts [n] that lie in a file, each read when it is asked for.

  Indexed as an array of one axis: by a number it gives a text, by a slice or an
  array of numbers or of bool such texts again.

  Args:
    letters: uint8, UTF-8 of all texts in a row.
    ends: int64, where each text ends.
    rows: int64 [n], numbers of the texts that these are; None: all.
  """

  def __init__(
    self, letters: np.ndarray, ends: np.ndarray, rows: np.ndarray | None = None
  ) -> None:
    self._letters, self._ends = letters, ends
    self._rows = np.arange(len(ends)) if rows is None else rows

  @property
  def shape(self) -> tuple[int]:
    return (len(self._rows),)

  def __len__(self) -> int:
    return len(self._rows)

  @overload
  def __getitem__(self, index: int) -> str: ...
  @overload
  def __getitem__(self, index: slice | np.ndarray) -> 'StoredStrings': ...
  def __getitem__(self, index):
    rows = self._rows[index]
    if np.ndim(rows):
      return StoredStrings(self._letters, self._ends, rows)
    start = self._ends[rows - 1] if rows else 0
    letters = self._letters[start : self._ends[rows]]
    return letters.tobytes().decode('utf-8', 'surrogatepass')

  def __iter__(self) -> Iterator[str]:
    return (self[place] for place in range(len(self)))

  def tolist(self) -> list[str]:
    """All of them, in memory."""
    return list(self)

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    """All of them, in memory: [n] object."""
    array = np.empty(len(self), object)
    array[:] = self.tolist()
    return array


class GrowingStrings:
  """Texts [n] of which more and more come."""

  def __init__(self) -> None:
    self._parts: list[np.ndarray] = []
    self._num_bytes = 0
    self._letters: Growing | None = None
    self._ends = Growing(np.int64)

  def append(self, texts: np.ndarray) -> None:
    """Takes [m] more, object. Raises OSError."""
    self._parts.append(texts)
    self._num_bytes += sum(map(len, texts)) + _OF_A_STRING * len(texts)
    if self._letters is None and self._num_bytes <= LARGE:
      return
    self._letters = self._letters or Growing(np.uint8)
    for part in self._parts:
      data = [text.encode('utf-8', 'surrogatepass') for text in part]
      ends = np.cumsum([self._letters.size, *map(len, data)])[1:]
      self._ends.append(ends)
      self._letters.append(np.frombuffer(b''.join(data), np.uint8))
    self._parts = []

  def finish(self) -> 'np.ndarray | StoredStrings':
    """All of them, [n] object where they are not large."""
    if self._letters is None:
      return np.concatenate([np.empty(0, object), *self._parts])
    return StoredStrings(self._letters.finish(), self._ends.finish())


def representation(texts: 'np.ndarray | StoredStrings') -> Iterator[bytes]:
  """`repr` of the list of them, in parts."""
  yield b'['
  for start in range(0, len(texts), _BATCH):
    part = texts[start : start + _BATCH].tolist()
    yield ((', ' if start else '') + repr(part)[1:-1]).encode()
  yield b']'


def _folder() -> str:
  """Where files without a name lie: not in memory, as /tmp may."""
  folder = user_cache()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return tempfile.gettempdir()
  return str(folder) if os.access(folder, os.W_OK) else tempfile.gettempdir()


@contextlib.contextmanager
def _nameless() -> Iterator[IO[bytes]]:
  folder = _folder()
  with _where_named(folder), tempfile.TemporaryFile(dir=folder) as file:
    yield file


@contextlib.contextmanager
def _where_named(folder: str) -> Iterator[None]:
  """An error within, as of a full disk, says in which folder."""
  try:
    yield
  except OSError as error:
    error.filename = error.filename or os.path.join(folder, '')
    raise
