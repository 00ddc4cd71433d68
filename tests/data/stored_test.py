"""Arrays and texts that lie in a file where they are large."""

import errno
import subprocess
import sys

import numpy as np
import pytest

from genre2_jax.data import stored
from genre2_jax.errors import FullDiskError
from genre2_jax.files import disk

STRINGS = ['', 'a', 'ü' * 30, '\ud800', "'quoted'", 'two\nlines', '日本'] * 9


@pytest.fixture(params=[10**6, 100])
def is_large(request, monkeypatch):
  monkeypatch.setattr(stored, 'LARGE', request.param)
  return request.param == 100


def lies_in_a_file(array):
  return isinstance(array.base, np.memmap)


def test_zeros_can_be_written_to(is_large):
  array = stored.zeros((9, 7), np.int32)
  assert lies_in_a_file(array) == is_large
  assert type(array) is np.ndarray
  assert (array.shape, array.dtype, array.any()) == ((9, 7), np.int32, False)
  array[3] = np.arange(7)
  assert array.sum() == 21
  assert stored.zeros((0, 7), np.int32).shape == (0, 7)


def test_an_array_grows(is_large):
  grown = stored.Growing(np.int32)
  parts = [np.arange(n) for n in (3, 0, 40, 1, 2)]
  for part in parts:
    grown.append(part)
  array = grown.finish()
  assert lies_in_a_file(array) == is_large
  assert grown.size == len(array)
  assert array.dtype == np.int32
  np.testing.assert_array_equal(array, np.concatenate(parts))
  assert not len(stored.Growing(np.int64).finish())


def strings():
  grown = stored.GrowingStrings()
  for start in (0, 1, 8):
    stop = {0: 1, 1: 8, 8: len(STRINGS)}[start]
    part = np.empty(stop - start, object)
    part[:] = STRINGS[start:stop]
    grown.append(part)
  return grown.finish()


def test_texts_are_indexed_as_an_array(is_large):
  found = strings()
  assert isinstance(found, stored.StoredStrings) == is_large
  whole = np.array(STRINGS, object)
  assert found.tolist() == list(found) == STRINGS
  assert len(found) == len(STRINGS)
  assert found.shape == whole.shape
  assert [found[i] for i in (0, 3, -1)] == [whole[i] for i in (0, 3, -1)]
  draw = np.random.default_rng(0)
  for index in (
    slice(2, 50, 3),
    draw.permutation(len(whole))[:20],
    draw.random(len(whole)) < 0.3,
    np.array([], int),
  ):
    assert found[index].tolist() == whole[index].tolist()
    assert found[index][::-1].tolist() == whole[index][::-1].tolist()
  assert np.asarray(found).tolist() == STRINGS
  assert np.asarray(found).dtype == object


@pytest.mark.parametrize('count', [0, 1, 2, 5])
def test_the_representation_is_that_of_the_list(is_large, count, monkeypatch):
  monkeypatch.setattr(stored, '_BATCH', 2)
  found = b''.join(stored.representation(strings()[4 : 4 + count]))
  assert found == repr(STRINGS[4 : 4 + count]).encode()


def test_a_full_disk_is_said(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(stored, 'LARGE', 100)
  monkeypatch.setattr('os.posix_fallocate', refuse)
  with (
    pytest.raises(FullDiskError, match=f'{tmp_path}/genre2_jax is full'),
    disk.fullness_in_words(),
  ):
    stored.zeros((100,), np.int32)


KILLED = """
import os, sys
from genre2_jax.data import stored
stored.LARGE = 100
kept = stored.zeros((10**6,), 'int32')
kept[:] = 1
grown = stored.Growing('int32')
grown.append(kept)
print(len(grown.finish()), flush=True)
os.kill(os.getpid(), 9)
"""


def test_nothing_is_left_of_a_killed_process(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  done = subprocess.run(
    [sys.executable, '-c', KILLED], capture_output=True, text=True
  )
  assert done.stdout == '1000000\n'
  assert [path for path in tmp_path.rglob('*') if path.is_file()] == []


def test_ragged_rows(is_large):
  rows = [np.arange(n) + n for n in (3, 1, 0, 40)]
  grown = stored.GrowingRagged(np.int64)
  grown.append(rows[:2])
  grown.append([row.tolist() for row in rows[2:]])
  found = grown.finish()
  assert lies_in_a_file(found.values) == is_large
  assert len(found) == 4
  assert found.lengths.tolist() == [3, 1, 0, 40]
  for row, own in zip(found, rows, strict=True):
    np.testing.assert_array_equal(row, own)
  np.testing.assert_array_equal(found[3], rows[3])
  assert [found.row_of(place) for place in (0, 2, 3, 4, 43)] == [0, 0, 1, 3, 3]
