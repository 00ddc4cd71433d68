import csv
import errno
import json
import math
import os
import pathlib

import numpy as np
import pytest

from genre2_jax.errors import FullDiskError
from genre2_jax.files import atomic

COLUMNS = ('task', 'seed', 'stage', 'split', 'estimator', 'metric', 'value')


def test_text_and_json(tmp_path):
  path = tmp_path / 'new' / 'folder' / 'config.json'
  value = {
    'rate': np.float32(0.5),
    'nothing': math.nan,
    'far': [np.inf, np.float64(1.5)],
    'shape': (1, np.int64(2)),
    'array': np.arange(3),
    'folder': tmp_path,
    'name': 'é',
  }
  atomic.write_json(path, value)
  assert json.loads(path.read_text(encoding='utf-8')) == {
    'rate': 0.5,
    'nothing': None,
    'far': [None, 1.5],
    'shape': [1, 2],
    'array': [0, 1, 2],
    'folder': str(tmp_path),
    'name': 'é',
  }
  atomic.write_text(path, 'é\n')
  assert path.read_bytes() == 'é\n'.encode()


def test_csv_keeps_every_bit(tmp_path):
  path = tmp_path / 'results.csv'
  row = ['a,"b"\nc', 0, 'ce', 'test', 'mean', 'rmse', np.float64(0.1) + 0.2]
  atomic.write_csv(path, COLUMNS, [row])
  with open(path, newline='', encoding='utf-8') as file:
    (read,) = csv.DictReader(file)
  assert tuple(read) == COLUMNS
  assert read['task'] == row[0]
  assert float(read['value']) == row[-1]


def test_npz(tmp_path):
  path = tmp_path / 'evaluation' / 'ce_test.npz'
  samples = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
  atomic.write_npz(path, samples_z=samples, std=np.float64(2))
  with np.load(path) as arrays:
    np.testing.assert_array_equal(arrays['samples_z'], samples)
    assert arrays['samples_z'].dtype == np.float32
    assert arrays['std'] == 2
  with pytest.raises(ValueError, match='allow_pickle'):
    atomic.write_npz(path, objects=np.array([{}]))


@pytest.mark.parametrize('broken', ['replace', 'fsync'])
def test_a_crash_while_writing_leaves_the_old_file(
  tmp_path, monkeypatch, broken
):
  path = tmp_path / 'run.json'
  atomic.write_json(path, 'old')

  def crash(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(os, broken, crash)
    with pytest.raises(KeyboardInterrupt):
      atomic.write_json(path, 'new')
  assert json.loads(path.read_text()) == 'old'
  assert os.listdir(tmp_path) == ['run.json']
  # Nor does what a kill leaves behind stand in the way.
  (tmp_path / '.run.json.tmp').write_text('{"torn')
  atomic.write_json(path, 'new')
  assert json.loads(path.read_text()) == 'new'
  assert os.listdir(tmp_path) == ['run.json']


def test_failed_serialization_leaves_the_old_file(tmp_path):
  path = tmp_path / 'run.json'
  atomic.write_json(path, 'old')
  with pytest.raises(TypeError):
    atomic.write_json(path, {'new': object()})
  assert json.loads(path.read_text()) == 'old'


def test_files_are_readable_by_all_that_umask_allows(tmp_path):
  old = os.umask(0o022)
  try:
    atomic.write_text(tmp_path / 'a', '')
  finally:
    os.umask(old)
  assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize('target', ['there', 'nowhere'])
def test_no_link_is_followed(tmp_path, target):
  """Whoever may write into the folder can plant one at the temporary name."""
  outside = tmp_path / 'outside'
  outside.mkdir()
  (outside / 'there').write_text('precious')
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / '.run.json.tmp').symlink_to(outside / target)
  atomic.write_json(folder / 'run.json', 'new')
  assert os.listdir(outside) == ['there']
  assert (outside / 'there').read_text() == 'precious'
  assert os.listdir(folder) == ['run.json']
  assert not (folder / 'run.json').is_symlink()


def test_a_link_planted_at_the_last_moment_is_refused(tmp_path, monkeypatch):
  (tmp_path / 'there').write_text('precious')
  temporary = tmp_path / '.run.json.tmp'
  unlink = pathlib.Path.unlink

  def unlink_and_plant(path, **options):
    unlink(path, **options)
    temporary.symlink_to(tmp_path / 'there')

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'unlink', unlink_and_plant)
    with pytest.raises(FileExistsError):
      atomic.write_json(tmp_path / 'run.json', 'new')
  assert (tmp_path / 'there').read_text() == 'precious'
  assert not (tmp_path / 'run.json').exists()


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_the_old_file(
  tmp_path, monkeypatch, code
):
  path = tmp_path / 'folder' / 'run.json'
  atomic.write_json(path, 'old')

  def full(*_):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(FullDiskError) as caught:
    atomic.write_json(path, 'new')
  text = str(caught.value)
  assert '\n' not in text and f'the disk of {path.parent} is full' in text
  assert json.loads(path.read_text()) == 'old'
  assert os.listdir(path.parent) == ['run.json']
