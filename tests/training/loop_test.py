"""Whatever stops a run, the same command again ends where it would have."""

import re
import signal

import pytest
from checks import assert_same_end
from run_files import flip, largest_file, num_records, wait_until

from genre2_jax import train
from genre2_jax.errors import InterruptedRunError
from genre2_jax.report import page

# One step per dispatch, and a checkpoint after each: a run with many moments.
_MANY_MOMENTS = (
  '--config.steps_per_dispatch=1',
  '--config.checkpoint.every_seconds=0',
)


@pytest.fixture
def no_report(monkeypatch):
  monkeypatch.setattr(page, 'write', lambda workdir: None)


def is_saving(folder):
  return any('tmp' in path.name for path in folder.glob('*'))


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(
  start_main, finished, tmp_path
):
  workdir = tmp_path / 'run'
  checkpoints = workdir / 'checkpoints'
  moments = {
    'in ce': lambda: num_records(workdir) >= 3,
    'while saving in ce': lambda: is_saving(checkpoints / 'ce'),
    'in remax': lambda: num_records(workdir, 'remax') >= 2,
    'while saving in remax': lambda: is_saving(checkpoints / 'remax'),
    'in the last evaluation': (
      (workdir / 'evaluation' / 'remax_val.npz').exists
    ),
  }
  for moment in moments.values():
    process = start_main(f'--workdir={workdir}', *_MANY_MOMENTS)
    wait_until(moment, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / 'report.html').exists()
  process = start_main(f'--workdir={workdir}', *_MANY_MOMENTS)
  out, err = process.communicate()
  assert process.returncode == 0, err
  assert 'Traceback' not in err
  assert f'{workdir}/report.html' in out
  assert_same_end(workdir, finished)
  left_behind = [p for p in workdir.rglob('*') if 'tmp' in p.name]
  assert left_behind == []


@pytest.mark.slow
def test_sigterm_saves_leaves_with_75_and_says_how_to_go_on(
  start_main, finished, tmp_path
):
  workdir = tmp_path / 'run'

  def terminate(moment):
    process = start_main(
      f'--workdir={workdir}', '--config.steps_per_dispatch=1'
    )
    wait_until(moment, process)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 75, err
    assert 'Traceback' not in err
    return err.splitlines()[-1]

  said = terminate(lambda: num_records(workdir) >= 2)
  match = re.fullmatch(
    r'genre2_jax: interrupted at step (\d+) of stage (\w+), saved: '
    'the same command goes on from here',
    said,
  )
  assert match, said
  step, stage = match.groups()
  assert (workdir / 'checkpoints' / stage / step).is_dir()
  said = terminate((workdir / 'evaluation' / 'ce_val.npz').exists)
  assert said.endswith('the same command goes on from here')
  process = start_main(f'--workdir={workdir}')
  _, err = process.communicate()
  assert process.returncode == 0, err
  assert_same_end(workdir, finished)


class Once:
  """True from the moment that a condition holds."""

  def __init__(self, condition):
    self.condition = condition

  def __bool__(self):
    return self.condition()


class After:
  """False n times, then true."""

  def __init__(self, times):
    self.left = times

  def __bool__(self):
    self.left -= 1
    return self.left < 0


def test_a_run_asked_to_leave_saves_where_it_is(
  make_config, finished, tmp_path, no_report
):
  workdir = tmp_path / 'run'
  config = make_config({'steps_per_dispatch': 2})  # 2, 2, 1 of 5 per epoch
  with pytest.raises(InterruptedRunError, match='step 9 of stage ce, saved'):
    train.train_and_evaluate(config, workdir, After(6))
  with pytest.raises(InterruptedRunError, match='step 9 of stage ce, saved'):
    train.train_and_evaluate(config, workdir, After(0))
  # In the evaluation of 'ce', and of 'remax': their last step is saved.
  for stage, step in (('ce', 60), ('remax', 15)):
    path = workdir / 'checkpoints' / stage / str(step)
    with pytest.raises(InterruptedRunError, match='while predicting'):
      train.train_and_evaluate(config, workdir, Once(path.exists))
    assert path.exists()
    assert not (workdir / 'evaluation' / f'{stage}_test.npz').exists()
    assert not (workdir / 'run.json').exists()
  train.train_and_evaluate(config, workdir)
  assert_same_end(workdir, finished)


@pytest.mark.parametrize('num_damaged', [1, 2], ids=['newest', 'all'])
def test_damaged_checkpoints_cost_time_and_no_bits(
  make_config, finished, tmp_path, no_report, caplog, num_damaged
):
  workdir = tmp_path / 'run'
  config = make_config(
    {'steps_per_dispatch': 1, 'checkpoint.every_seconds': 0.0}
  )
  with pytest.raises(InterruptedRunError, match='step 13 of stage ce'):
    train.train_and_evaluate(config, workdir, After(14))
  folder = workdir / 'checkpoints' / 'ce'
  assert {path.name for path in folder.iterdir()} == {'12', '13'}
  for step in (13, 12)[:num_damaged]:
    flip(largest_file(folder / str(step)))
  config.checkpoint.every_seconds = 60.0
  train.train_and_evaluate(config, workdir)
  warnings = [r for r in caplog.records if r.name == 'genre2_jax']
  warnings = [r.getMessage() for r in warnings if r.levelname == 'WARNING']
  assert len(warnings) == num_damaged
  assert 'ce/13 is damaged' in warnings[0]
  assert_same_end(workdir, finished)
