"""A full disk in one line, whoever noticed it."""

import errno
import os

import pytest

from genre2_jax.errors import FullDiskError, InputError
from genre2_jax.files import disk

# As TensorStore words it, through Orbax.
TENSORSTORE = (
  'RESOURCE_EXHAUSTED: Error writing "params/kernel/0.0" in "/data/run/7/d": '
  'No space left on device'
)


def caused(error, cause):
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  ('error', 'full'),
  [
    (OSError(errno.ENOSPC, 'x'), True),
    (OSError(errno.EDQUOT, 'x'), True),
    (OSError(errno.EACCES, 'x'), False),
    (ValueError(TENSORSTORE), True),
    (caused(RuntimeError('saving'), OSError(errno.ENOSPC, 'x')), True),
    (caused(RuntimeError('saving'), OSError(errno.EIO, 'x')), False),
    (ValueError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes'), False),
    (None, False),
  ],
)
def test_what_is_a_full_disk(error, full):
  assert disk.is_full(error) == full


def test_the_folder_is_the_callers_or_the_errors():
  with pytest.raises(FullDiskError, match=r'^the disk of /data/run/7 is full'):
    with disk.fullness_in_words():
      raise ValueError(TENSORSTORE)
  with pytest.raises(FullDiskError, match=r'^the disk of /b is full'):
    with disk.fullness_in_words('/b'):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/a/file')
  with pytest.raises(FullDiskError, match=r'^a disk is full'):
    with disk.fullness_in_words():
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_would_not_fit_is_refused_before_it_is_begun(tmp_path):
  folder = tmp_path / 'not' / 'there'
  disk.check_room(folder, 1000)
  with pytest.raises(FullDiskError, match='is full: what comes') as caught:
    disk.check_room(folder, 2**70)
  assert str(folder) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('error', [InputError('no'), OSError(errno.EIO, 'no')])
def test_other_errors_stay_what_they_are(error):
  with pytest.raises(type(error)) as caught:
    with disk.fullness_in_words():
      raise error
  assert caught.value is error
