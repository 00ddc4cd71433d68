import csv
import json
import math
import os

import numpy as np
import pytest

from genre2_jax import errors
from genre2_jax.files import writers


def record(stage, step, seed=0, **metrics):
  place = {'stage': stage, 'seed': seed, 'epoch': step // 10, 'step': step}
  return place | {'seconds': 0.5} | metrics


def write_records(workdir, records, **options):
  with writers.MetricWriter(workdir, **options) as writer:
    for item in records:
      writer.write(**item)


def read_events(workdir):
  """Scalars as TensorBoard sees them: tag → [(step, value)]."""
  accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator'
  ).EventAccumulator(str(workdir / writers.TENSORBOARD_FOLDER))
  accumulator.Reload()
  return {
    tag: [(e.step, pytest.approx(e.value)) for e in accumulator.Scalars(tag)]
    for tag in accumulator.Tags()['scalars']
  }


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
  writers.write_json(path, value)
  assert json.loads(path.read_text(encoding='utf-8')) == {
    'rate': 0.5,
    'nothing': None,
    'far': [None, 1.5],
    'shape': [1, 2],
    'array': [0, 1, 2],
    'folder': str(tmp_path),
    'name': 'é',
  }
  writers.write_text(path, 'é\n')
  assert path.read_bytes() == 'é\n'.encode()


def test_csv_keeps_every_bit(tmp_path):
  path = tmp_path / 'results.csv'
  row = ['a,"b"\nc', 0, 'ce', 'test', 'mean', 'rmse', np.float64(0.1) + 0.2]
  writers.write_csv(path, writers.RESULT_COLUMNS, [row])
  with open(path, newline='', encoding='utf-8') as file:
    (read,) = csv.DictReader(file)
  assert tuple(read) == writers.RESULT_COLUMNS
  assert read['task'] == row[0]
  assert float(read['value']) == row[-1]


def test_npz(tmp_path):
  path = tmp_path / 'evaluation' / 'ce_test.npz'
  samples = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
  writers.write_npz(path, samples_z=samples, std=np.float64(2))
  with np.load(path) as arrays:
    np.testing.assert_array_equal(arrays['samples_z'], samples)
    assert arrays['samples_z'].dtype == np.float32
    assert arrays['std'] == 2
  with pytest.raises(ValueError, match='allow_pickle'):
    writers.write_npz(path, objects=np.array([{}]))


@pytest.mark.parametrize('broken', ['replace', 'fsync'])
def test_a_crash_while_writing_leaves_the_old_file(
  tmp_path, monkeypatch, broken
):
  path = tmp_path / 'run.json'
  writers.write_json(path, 'old')

  def crash(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(os, broken, crash)
    with pytest.raises(KeyboardInterrupt):
      writers.write_json(path, 'new')
  assert json.loads(path.read_text()) == 'old'
  assert os.listdir(tmp_path) == ['run.json']
  # Nor does what a kill leaves behind stand in the way.
  (tmp_path / '.run.json.tmp').write_text('{"torn')
  writers.write_json(path, 'new')
  assert json.loads(path.read_text()) == 'new'
  assert os.listdir(tmp_path) == ['run.json']


def test_failed_serialization_leaves_the_old_file(tmp_path):
  path = tmp_path / 'run.json'
  writers.write_json(path, 'old')
  with pytest.raises(TypeError):
    writers.write_json(path, {'new': object()})
  assert json.loads(path.read_text()) == 'old'


def test_files_are_readable_by_all_that_umask_allows(tmp_path):
  old = os.umask(0o022)
  try:
    writers.write_text(tmp_path / 'a', '')
  finally:
    os.umask(old)
  assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o644


def test_records_come_back_and_show_in_tensorboard(tmp_path):
  records = [
    record('ce', 10, **{'train/loss': 2.0, 'val/loss': math.nan}),
    record('ce', 20, **{'train/loss': np.float32(1.5), 'val/loss': 1.75}),
    record('remax', 10, **{'val/reward': -0.5, 'note': 'text'}),
  ]
  write_records(tmp_path, records)
  records[0]['val/loss'] = None
  assert writers.read_metrics(tmp_path) == records
  assert read_events(tmp_path) == {
    'ce/train/loss': [(10, 2.0), (20, 1.5)],
    'ce/val/loss': [(20, 1.75)],
    'remax/val/reward': [(10, -0.5)],
  }


def test_a_record_is_on_its_way_when_write_returns(tmp_path):
  with writers.MetricWriter(tmp_path) as writer:
    for step in range(3):
      writer.write(**record('ce', step))
      assert len(writers.read_metrics(tmp_path)) == step + 1


def test_closing_twice(tmp_path):
  with writers.MetricWriter(tmp_path) as writer:
    writer.close()


def test_seeds_have_tags_of_their_own(tmp_path):
  records = [record('ce', 1, seed, loss=float(seed)) for seed in (0, 1)]
  write_records(tmp_path, records, num_seeds=2)
  assert read_events(tmp_path) == {
    'ce/loss/seed0': [(1, 0.0)],
    'ce/loss/seed1': [(1, 1.0)],
  }


def test_no_file_no_records(tmp_path):
  assert writers.read_metrics(tmp_path) == []


@pytest.mark.parametrize('tail', [b'{"stage": "ce", "st', b'{"a": "\xcf', b'{'])
def test_a_torn_last_line_is_skipped_and_healed(tmp_path, tail):
  records = [record('ce', 1, loss=2.0), record('ce', 2, loss=1.0)]
  write_records(tmp_path, records[:1])
  with open(tmp_path / writers.METRICS_FILE, 'ab') as file:
    file.write(tail)
  assert writers.read_metrics(tmp_path) == records[:1]
  write_records(tmp_path, records[1:])
  assert writers.read_metrics(tmp_path) == records


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
  records = [record('ce', 1), record('ce', 2)]
  path = tmp_path / writers.METRICS_FILE
  write_records(tmp_path, records[:1])
  path.write_bytes(path.read_bytes().rstrip())
  write_records(tmp_path, records[1:])
  assert writers.read_metrics(tmp_path) == records


def test_damage_in_the_middle_is_named(tmp_path):
  (tmp_path / writers.METRICS_FILE).write_text('{}\n{"torn\n{}\n')
  with pytest.raises(errors.InputError, match='line 2'):
    writers.read_metrics(tmp_path)


@pytest.mark.parametrize(
  ('stage', 'step', 'kept'),
  [
    ('ce', 10, [('ce', 10), ('remax', 10), ('remax', 20)]),
    ('remax', 10, [('ce', 10), ('ce', 20), ('remax', 10)]),
    ('remax', -1, [('ce', 10), ('ce', 20)]),
    (['ce', 'remax'], 10, [('ce', 10), ('remax', 10)]),
    ('grpo', 0, [('ce', 10), ('ce', 20), ('remax', 10), ('remax', 20)]),
  ],
)
def test_resuming_forgets_what_will_come_again(tmp_path, stage, step, kept):
  records = [record(s, t, loss=1.0) for s in ('ce', 'remax') for t in (10, 20)]
  write_records(tmp_path, records)
  with open(tmp_path / writers.METRICS_FILE, 'a') as file:
    file.write('{"torn')
  writers.truncate(tmp_path, stage, step)
  left = writers.read_metrics(tmp_path)
  assert [(r['stage'], r['step']) for r in left] == kept
  # The resumed run continues; TensorBoard sees each step once.
  write_records(tmp_path, [record('remax', 30, loss=2.0)])
  shown = [
    (tag.split('/')[0], step)
    for tag, points in read_events(tmp_path).items()
    for step, _ in points
  ]
  assert shown == [*kept, ('remax', 30)]


def test_a_crash_while_truncating_leaves_all_records(tmp_path, monkeypatch):
  write_records(tmp_path, [record('ce', 1), record('ce', 2)])

  def crash(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, 'replace', crash)
  with pytest.raises(KeyboardInterrupt):
    writers.truncate(tmp_path, 'ce', 1)
  assert len(writers.read_metrics(tmp_path)) == 2
