"""Tells a full disk from other faults, and reports it in one line."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator

from genre2_jax.errors import FullDiskError, RunError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Libraries in C++ give the words of `strerror`, and no errno.
_WORDS = tuple(os.strerror(number) for number in _FULL)


def is_full(error: BaseException | None) -> bool:
  """Whether an exception, or one that it was raised from, is of a full disk."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    if any(words in str(error) for words in _WORDS):
      return True
    error = error.__cause__ or error.__context__
  return False


def in_words(
  error: BaseException, folder: str | os.PathLike[str] = ''
) -> FullDiskError:
  """What to raise from an error of a full disk.

  Args:
    error: `is_full`.
    folder: that was written to; '' takes it from the error's words.
  """
  if not folder:
    quoted = re.search(r'["\'](/[^"\']+)["\']', str(error))
    folder = os.path.dirname(quoted[1]) if quoted else ''
  where = f'the disk of {os.path.abspath(folder)}' if folder else 'a disk'
  return FullDiskError(
    f'{where} is full: make room there; the same command then goes on from '
    'what was saved'
  )


def check_room(folder: str | os.PathLike[str], num_bytes: int) -> None:
  """Raises before anything is written that would not fit.

  Args:
    folder: that will be written to, or one above it.
    num_bytes: at most so many.

  Raises:
    FullDiskError: the disk has less room.
  """
  there = os.path.abspath(folder)
  while not os.path.exists(there):
    there = os.path.dirname(there)
  total, _, free = shutil.disk_usage(there)
  if total and free < num_bytes:  # Some network disks report 0 of 0.
    raise FullDiskError(
      f'the disk of {folder} is full: what comes next takes up to '
      f'{num_bytes / 2**20:,.1f} MiB, and {free / 2**20:,.1f} are free; make '
      'room there, and the same command goes on from what was saved'
    )


@contextlib.contextmanager
def fullness_in_words(folder: str | os.PathLike[str] = '') -> Iterator[None]:
  """Answers the error of a full disk with one line.

  Args:
    folder: that is written to within; '' takes it from the error's words.

  Raises:
    FullDiskError: instead of what was raised.
  """
  try:
    yield
  except RunError:
    raise
  except Exception as error:
    if not is_full(error):
      raise
    raise in_words(error, folder) from error
