"""Files of tensors: there and back in parts, and what is wrong with them."""

import json

import ml_dtypes
import numpy as np
import pytest
from checks import assert_refused

from genre2_jax.models import safetensors

pytest.importorskip('safetensors')

RNG = np.random.default_rng(0)
TENSORS = {
  'wide': RNG.normal(size=(4, 6)).astype(np.float32),
  'half': RNG.normal(size=(5,)).astype(np.float16),
  'brain': RNG.normal(size=(3, 2, 4)).astype(ml_dtypes.bfloat16),
  # Not in the order of its memory.
  'turned': RNG.normal(size=(6, 3)).T,
}


def written(folder, shard_bytes=10**9):
  described = {name: (x.shape, x.dtype) for name, x in TENSORS.items()}
  safetensors.write(folder, described, TENSORS.__getitem__, shard_bytes)
  return folder


@pytest.mark.parametrize(('shard_bytes', 'count'), [(10**9, 1), (100, 3)])
def test_tensors_there_and_back_whole_and_in_parts(
  tmp_path, shard_bytes, count
):
  written(tmp_path, shard_bytes)
  assert len(list(tmp_path.glob('*.safetensors'))) == count
  assert (tmp_path / safetensors.INDEX).exists() == (count > 1)
  stored = safetensors.read(tmp_path)
  assert set(stored) == set(TENSORS)
  for name, expected in TENSORS.items():
    assert stored[name].shape == expected.shape
    for part in (slice(None), slice(1, 2), slice(0, 2, None)):
      index = (part,) * expected.ndim
      found = stored[name][index]
      assert found.dtype == expected.dtype
      np.testing.assert_array_equal(found, expected[index])


def test_fewer_files_leave_no_index_behind(tmp_path):
  written(tmp_path, 100)
  written(tmp_path)
  assert not (tmp_path / safetensors.INDEX).exists()


def test_what_is_wrong_with_files_is_said_in_one_line(tmp_path):
  assert_refused(lambda: safetensors.read(tmp_path), 'model.safetensors')
  index = written(tmp_path, 100) / safetensors.INDEX
  first, *_, last = sorted(tmp_path.glob('*.safetensors'))
  whole = last.read_bytes()
  for content in (whole[:-1], whole[:6], b''):
    last.write_bytes(content)
    assert_refused(lambda: safetensors.read(tmp_path), last.name, 'not a whole')
  last.write_bytes(first.read_bytes())
  assert_refused(
    lambda: safetensors.read(tmp_path), 'that no file has', str(index)
  )
  last.unlink()
  assert_refused(lambda: safetensors.read(tmp_path), '1 of 3 files', last.name)
  index.write_text('{}')
  assert_refused(lambda: safetensors.read(tmp_path), 'is no index')


def test_types_that_are_no_floats_are_refused(tmp_path):
  described = {'count': ((2,), np.dtype(np.int32))}
  safetensors.write(tmp_path, described, lambda _: np.arange(2), 100)
  assert_refused(lambda: safetensors.read(tmp_path), 'count has type I32')


def test_the_format_is_that_of_the_specification(tmp_path):
  """8 bytes of length, a header in JSON, then the bytes of the tensors."""
  written(tmp_path)
  content = (tmp_path / safetensors.SINGLE).read_bytes()
  length = int.from_bytes(content[:8], 'little')
  header = json.loads(content[8 : 8 + length])
  assert header.pop('__metadata__') == {'format': 'pt'}
  for name, expected in TENSORS.items():
    start, stop = header[name]['data_offsets']
    data = content[8 + length + start : 8 + length + stop]
    assert data == np.ascontiguousarray(expected).tobytes()


def test_long_lists_are_cut():
  assert safetensors.listed('abcd') == 'a, b, c, d'
  assert safetensors.listed('abcdef', '; ') == 'a; b; c; d and 2 more'
