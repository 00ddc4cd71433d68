import errno
import logging
import math
import os

import numpy as np
import pytest

from genre2_jax import errors
from genre2_jax.files import metrics_log


def record(stage, step, seed=0, **metrics):
  place = {'stage': stage, 'seed': seed, 'epoch': step // 10, 'step': step}
  return place | {'seconds': 0.5} | metrics


def write_records(workdir, records, **options):
  with metrics_log.MetricWriter(workdir, **options) as writer:
    for item in records:
      writer.write(**item)


def read_events(workdir):
  """Scalars as TensorBoard sees them: tag → [(step, value)]."""
  accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator'
  ).EventAccumulator(str(workdir / metrics_log.TENSORBOARD_FOLDER))
  accumulator.Reload()
  return {
    tag: [(e.step, pytest.approx(e.value)) for e in accumulator.Scalars(tag)]
    for tag in accumulator.Tags()['scalars']
  }


def test_records_come_back_and_show_in_tensorboard(tmp_path):
  records = [
    record('ce', 10, **{'train/loss': 2.0, 'val/loss': math.nan}),
    record('ce', 20, **{'train/loss': np.float32(1.5), 'val/loss': 1.75}),
    record('remax', 10, **{'val/reward': -0.5, 'note': 'text'}),
  ]
  write_records(tmp_path, records)
  records[0]['val/loss'] = None
  assert metrics_log.read(tmp_path) == records
  assert read_events(tmp_path) == {
    'ce/train/loss': [(10, 2.0), (20, 1.5)],
    'ce/val/loss': [(20, 1.75)],
    'remax/val/reward': [(10, -0.5)],
  }


def test_a_record_is_on_its_way_when_write_returns(tmp_path):
  with metrics_log.MetricWriter(tmp_path) as writer:
    for step in range(3):
      writer.write(**record('ce', step))
      assert len(metrics_log.read(tmp_path)) == step + 1


def test_closing_twice(tmp_path):
  with metrics_log.MetricWriter(tmp_path) as writer:
    writer.close()


def test_seeds_have_tags_of_their_own(tmp_path):
  records = [record('ce', 1, seed, loss=float(seed)) for seed in (0, 1)]
  write_records(tmp_path, records, num_seeds=2)
  assert read_events(tmp_path) == {
    'ce/loss/seed0': [(1, 0.0)],
    'ce/loss/seed1': [(1, 1.0)],
  }


def test_no_file_no_records(tmp_path):
  assert metrics_log.read(tmp_path) == []


def test_events_without_room_end_the_run_and_do_not_hang_it(
  tmp_path, monkeypatch
):
  def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(metrics_log, '_FLUSH_SECONDS', -1)
  with pytest.raises(errors.FullDiskError):
    with metrics_log.MetricWriter(tmp_path) as writer:
      monkeypatch.setattr(metrics_log.EventsWriter, 'flush', full)
      for step in range(50):
        writer.write(**record('ce', step, loss=1.0))
  assert [r['step'] for r in metrics_log.read(tmp_path)] == [0]


@pytest.mark.parametrize('tail', [b'{"stage": "ce", "st', b'{"a": "\xcf', b'{'])
def test_a_torn_last_line_is_skipped_and_healed(tmp_path, tail):
  records = [record('ce', 1, loss=2.0), record('ce', 2, loss=1.0)]
  write_records(tmp_path, records[:1])
  with open(tmp_path / metrics_log.METRICS_FILE, 'ab') as file:
    file.write(tail)
  assert metrics_log.read(tmp_path) == records[:1]
  write_records(tmp_path, records[1:])
  assert metrics_log.read(tmp_path) == records


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
  records = [record('ce', 1), record('ce', 2)]
  path = tmp_path / metrics_log.METRICS_FILE
  write_records(tmp_path, records[:1])
  path.write_bytes(path.read_bytes().rstrip())
  write_records(tmp_path, records[1:])
  assert metrics_log.read(tmp_path) == records


@pytest.mark.parametrize(
  'damage',
  [
    b'{"torn',
    b'\xff',
    b'',
    b'7',
    b'{}',
    b'{"stage": "ce", "seed": "0", "epoch": 0, "step": 1}',
  ],
)
def test_damage_in_the_middle_is_named(tmp_path, caplog, damage):
  records = [record('ce', 1), record('ce', 2)]
  write_records(tmp_path, records)
  path = tmp_path / metrics_log.METRICS_FILE
  first, second = path.read_bytes().splitlines()
  path.write_bytes(b'\n'.join([first, damage, second, b'{"torn']))
  # What goes on from the file must not lose a record unasked,
  with pytest.raises(errors.InputError, match='line 2: ') as caught:
    metrics_log.read(tmp_path)
  assert '\n' not in str(caught.value)
  # what looks at it says what it does not see.
  with caplog.at_level(logging.WARNING, logger='genre2_jax'):
    assert metrics_log.read_intact(tmp_path) == records
  (message,) = caplog.messages
  assert message.endswith('left out what is damaged, line 2')


def test_an_intact_record_is_read_in_silence(tmp_path, caplog):
  records = [record('ce', 1), record('ce', 2)]
  write_records(tmp_path, records)
  with open(tmp_path / metrics_log.METRICS_FILE, 'ab') as file:
    file.write(b'{"torn')
  with caplog.at_level(logging.WARNING, logger='genre2_jax'):
    assert metrics_log.read_intact(tmp_path) == records
  assert not caplog.messages


def test_a_record_without_room_leaves_no_part_of_itself(tmp_path, monkeypatch):
  """Half a line is written, then the disk is full."""
  with metrics_log.MetricWriter(tmp_path) as writer:
    writer.write(**record('ce', 1))
    whole = (tmp_path / metrics_log.METRICS_FILE).read_bytes()
    file = writer._lines

    class Full:
      """A file that takes ten bytes."""

      left = 10

      def __getattr__(self, name):
        return getattr(file, name)

      def write(self, data):
        if not self.left:
          raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left, taken = 0, self.left
        return file.write(data[:taken])

    monkeypatch.setattr(writer, '_lines', Full())
    with pytest.raises(errors.FullDiskError) as caught:
      writer.write(**record('ce', 2))
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / metrics_log.METRICS_FILE).read_bytes() == whole
    monkeypatch.undo()
    writer.write(**record('ce', 3))
  assert [r['step'] for r in metrics_log.read(tmp_path)] == [1, 3]


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
  with open(tmp_path / metrics_log.METRICS_FILE, 'a') as file:
    file.write('{"torn')
  metrics_log.truncate(tmp_path, stage, step)
  left = metrics_log.read(tmp_path)
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
    metrics_log.truncate(tmp_path, 'ce', 1)
  assert len(metrics_log.read(tmp_path)) == 2


def test_a_stage_that_kept_its_first_weights_is_told_from_its_records():
  def records(*best):
    return [
      record('remax', step, seed, best_epoch=best[seed] if step else 0)
      for step in (0, 10, 20)
      for seed in range(len(best))
    ]

  said = metrics_log.kept_start(records(0, 0), 'remax', 'ReMax')
  assert said == (
    'Stage ReMax kept its starting weights: no epoch was better on validation.'
  )
  some = metrics_log.kept_start(records(0, 2, 0), 'remax')
  assert some.startswith('Stage remax, seed 0, 2, kept its starting weights')
  for moved in (records(1), records(0, 0)[:2], [record('remax', 20)]):
    assert metrics_log.kept_start(moved, 'remax') == ''
  assert metrics_log.kept_start(records(0), 'ce') == ''
