"""Locks of files between processes: who dies lets go, whatever it dies of.

They hold between the processes of one machine; on a file system that several
share it depends on that system.
"""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

# What a file system says that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class NoLocksError(Exception):
  """The system, or the file system, has no locks of files."""


@contextlib.contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[None]:
  """Waits for a lock; within it no other process has it.

  Raises:
    OSError: the file cannot be made.
    NoLocksError: there are no locks here.
  """
  with _opened(path) as file:
    _lock(file, wait=True)
    yield


def take_if_free(path: str | os.PathLike[str]) -> BinaryIO | None:
  """The locked file, to be closed; None while anyone else holds it.

  Raises:
    OSError: the file cannot be made.
    NoLocksError: there are no locks here.
  """
  file = _opened(path)
  try:
    _lock(file, wait=False)
  except BlockingIOError:
    file.close()
    return None
  except BaseException:
    file.close()
    raise
  return file


def _opened(path):
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # It stays where it is: whoever removed it would let two in.
  return open(path, 'ab')


def _lock(file, *, wait):
  try:
    import fcntl
  except ImportError as error:
    raise NoLocksError('this system has no file locks as Unix has') from error
  try:
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except OSError as error:
    if error.errno in _NO_LOCKS:
      raise NoLocksError('this file system has no locks') from error
    raise
