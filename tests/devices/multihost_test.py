"""Several processes on loopback, joined by jax.distributed: one run."""

import json
import re
import signal
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from checks import THREADS_OF_DEVICES, assert_same_end, read_log
from run_files import flip, largest_file, num_records, wait_until

_MANY_MOMENTS = (
  '--config.steps_per_dispatch=1',
  '--config.checkpoint.every_seconds=0',
)
_HEARTBEAT = 30  # seconds; a busy machine is no dead one
# Compiling is what takes time here.
_QUICK = {
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  'JAX_PLATFORMS': 'cpu',
  **THREADS_OF_DEVICES,
}


def free_port():
  with socket.socket() as found:
    found.bind(('localhost', 0))
    return found.getsockname()[1]


@pytest.fixture
def start_all(start_main):
  """`(number of processes, *arguments, **options) -> [Popen]`.

  `own`: more arguments for some of them, {process: [argument]}.
  """
  started = []

  def start(num_processes, *arguments, own=None, **options):
    port = free_port()
    group = [
      start_main(
        *arguments,
        *(own or {}).get(index, ()),
        '--distributed',
        f'--coordinator=localhost:{port}',
        f'--num_processes={num_processes}',
        f'--process_id={index}',
        f'--heartbeat_seconds={_HEARTBEAT}',
        **_QUICK,
        **options,
      )
      for index in range(num_processes)
    ]
    started.extend(group)
    return group

  yield start
  for process in started:
    process.kill()
    process.communicate()


def end_of(group, timeout=300):
  """[(exit code, stdout, stderr)] of processes that are expected to end."""
  ends = []
  for process in group:
    out, err = process.communicate(timeout=timeout)
    out = re.sub(r'\[Gloo\].*\n', '', out)  # It reports who is connected.
    ends.append((process.returncode, out, err))
  return ends


def last_line(err):
  return err.strip().splitlines()[-1]


# Process 1 would fail if it wrote a file of the run or said anything.
_ONLY_THE_FIRST_WRITES = """
import sys
import jax
from genre2_jax import command_line, main
from genre2_jax.files import atomic, metrics_log

replacing, metric_writer = atomic.replacing, metrics_log.MetricWriter

def only_first(function):
  def call(*arguments, **options):
    assert jax.process_index() == 0, arguments
    return function(*arguments, **options)
  return call

atomic.replacing = only_first(replacing)
metrics_log.MetricWriter = only_first(metric_writer)
command_line.run(main.main)
"""

_AGREEMENT = """
import os
import signal
import sys
import time
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from genre2_jax.devices import processes, sharding
from genre2_jax.errors import InputError

me = int(sys.argv[2])
processes.join(sys.argv[1], 2, me, heartbeat_seconds=60)
assert processes.is_first() == (me == 0)
assert processes.from_first(me + 5) == 5
assert processes.list_from_first([me + 5, 7][: 2 - me]) == [5, 7]
assert processes.list_from_first([3] * me) == []
assert not processes.any_of(False) and processes.any_of(me == 1)
asked = [False]
class Asked:
  def __bool__(self):
    return asked[0]
shared = processes.Shared(Asked())
assert not shared
asked[0] = me == 1
assert shared
asked[0] = False
assert not shared
if me == 1:
  os.kill(os.getpid(), signal.SIGTERM)  # To jax's service: nothing defers it.
times = 0
while not shared:
  times += 1
  time.sleep(0.1)
print('announced after', times)
mesh = sharding.make_mesh({'replica': 1, 'data': 2, 'fsdp': 1, 'model': 1})
rows = np.arange(6.0, dtype=np.float32).reshape(2, 3)
over = NamedSharding(mesh, PartitionSpec('data'))
placed = processes.place({'a': rows}, over)['a']
assert not placed.is_fully_addressable
assert placed.addressable_data(0).shape == (1, 3)
whole, both = processes.fetch((placed, processes.place(rows, over.update(
  spec=PartitionSpec()))))
assert (whole == rows).all() and (both == rows).all()
processes.check_alike('files', 'same')
for say in ('together', 'alike'):
  try:
    if say == 'alike':
      processes.check_alike('files', f'my {me}')
    with processes.together():
      if me == 1:
        raise InputError('rows.csv: no such file')
  except InputError as error:
    print(say, error)
with processes.together():
  pass
"""

# Each process saves its half of an array; one half of the newest is damaged.
_CHECKPOINTS = """
import pathlib
import sys
import numpy as np
import jax
from jax.sharding import NamedSharding, PartitionSpec
from genre2_jax.devices import processes, sharding
from genre2_jax.training.checkpoints import Checkpoints

me, folder = int(sys.argv[2]), pathlib.Path(sys.argv[3])
processes.join(sys.argv[1], 2, me, heartbeat_seconds=60)
mesh = sharding.make_mesh({'replica': 1, 'data': 2, 'fsdp': 1, 'model': 1})
over = NamedSharding(mesh, PartitionSpec('data'))

def state(seed):
  draw = np.random.RandomState(seed).normal(size=(2, 4096))
  return processes.place({'w': draw.astype(np.float32)}, over)

abstract = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=over), state(1)
)
with Checkpoints(folder) as checkpoints:
  for step in (1, 2):
    checkpoints.save(step, state(step))
with processes.together():
  if me == 0:
    files = [x for x in (folder / '2').rglob('*') if 'process_1' in str(x)]
    files = [x for x in files if x.is_file()]
    path = max(files, key=lambda x: x.stat().st_size)
    assert path.stat().st_size > 4096 * 3  # the half that process 1 wrote
    path.write_bytes(bytes(path.stat().st_size))
with Checkpoints(folder) as checkpoints:
  restored = checkpoints.restore(abstract)
  found = processes.fetch(restored)['w']
  assert (found == processes.fetch(state(1))['w']).all()
  checkpoints.save(2, state(3))
with Checkpoints(folder, read_only=True) as checkpoints:
  found = processes.fetch(checkpoints.restore(abstract))['w']
  assert (found == processes.fetch(state(3))['w']).all()
"""


def run_script(text, folder, *arguments):
  """A script in two processes: their ends."""
  script = folder / 'script.py'
  script.write_text(textwrap.dedent(text))
  address = f'localhost:{free_port()}'
  group = [
    subprocess.Popen(
      [sys.executable, script, address, str(index), *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ':'.join(sys.path)},
    )
    for index in range(2)
  ]
  ends = end_of(group, 240)
  for code, _, err in ends:
    assert code == 0, err
  return ends


def test_half_a_checkpoint_that_is_damaged_is_none(tmp_path):
  folder = tmp_path / 'ce'
  (*_, err), (*_, other) = run_script(_CHECKPOINTS, tmp_path, folder)
  warning = f'{folder}/2 is damaged, trying the one before'
  assert warning not in err and warning in other  # It cannot read its half.


def test_processes_agree(tmp_path):
  ends = run_script(_AGREEMENT, tmp_path)
  first, second = (re.search('announced after .*', end[1])[0] for end in ends)
  assert first == second
  for _, out, _ in ends:
    alike = 'files of process 1 are not those of process 0'
    assert f'alike {alike}' in out
  assert 'together process 1: rows.csv: no such file' in ends[0][1]
  assert 'together rows.csv: no such file' in ends[1][1]


def assert_close_logs(ours, theirs, rtol):
  ours, theirs = read_log(ours), read_log(theirs)
  assert len(ours) == len(theirs)
  for record, other in zip(ours, theirs, strict=True):
    assert record.keys() == other.keys()
    for name, value in record.items():
      if isinstance(value, float):
        np.testing.assert_allclose(value, other[name], rtol, 1e-6, name)
      else:
        assert value == other[name], name


def read_results(workdir):
  lines = (workdir / 'results.csv').read_text().splitlines()[1:]
  return {
    key: float(value) for key, _, value in (x.rpartition(',') for x in lines)
  }


def assert_close_results(ours, theirs, rtol):
  ours, theirs = read_results(ours), read_results(theirs)
  assert ours.keys() == theirs.keys()
  for key, value in ours.items():
    np.testing.assert_allclose(value, theirs[key], rtol, 1e-5, key)


@pytest.fixture(scope='module')
def alone(start_main, tmp_path_factory):
  """`(number of devices, *arguments) -> workdir` of one process's run."""
  workdirs = {}

  def run(num_devices, *arguments):
    if (num_devices, *arguments) not in workdirs:
      workdir = tmp_path_factory.mktemp('alone') / 'run'
      flag = f'--xla_force_host_platform_device_count={num_devices}'
      process = start_main(
        f'--workdir={workdir}', *arguments, XLA_FLAGS=flag, **_QUICK
      )
      _, err = process.communicate()
      assert process.returncode == 0, err
      workdirs[num_devices, *arguments] = workdir
    return workdirs[num_devices, *arguments]

  return run


@pytest.fixture(scope='module')
def pair(start_main, tmp_path_factory):
  """Workdir of a run by two processes that nothing interrupted."""
  workdir = tmp_path_factory.mktemp('pair') / 'run'
  address = f'--coordinator=localhost:{free_port()}'
  group = [
    start_main(
      f'--workdir={workdir}',
      '--distributed',
      address,
      '--num_processes=2',
      f'--process_id={index}',
      program=('-c', _ONLY_THE_FIRST_WRITES),
      **_QUICK,
    )
    for index in range(2)
  ]
  (code, out, err), other = end_of(group)
  assert (code, other[0]) == (0, 0), err + other[2]
  assert f'{workdir}/report.html' in out
  assert other[1] == ''
  return workdir


@pytest.mark.slow
def test_two_processes_are_one_process_with_two_devices(pair, alone):
  reference = alone(2)
  assert_close_logs(pair, reference, 1e-4)
  assert_close_results(pair, reference, 1e-3)
  environment = json.loads((pair / 'env.json').read_text())
  assert (environment['num_processes'], environment['num_devices']) == (2, 2)
  assert environment['mesh']['data'] == 2


@pytest.mark.slow
def test_four_processes_share_the_parameters(
  start_all, alone, data_file, tmp_path
):
  """FSDP over processes: each saves and restores its part."""
  arguments = (
    '--config.mesh.data=2',
    '--config.mesh.fsdp=2',
    "--config.stages=('pretrain',)",
    '--config.num_seeds=2',
    '--config.pretrain.epochs=3',
  )
  workdir = tmp_path / 'run'
  ends = end_of(start_all(4, f'--workdir={workdir}', *arguments))
  assert [code for code, *_ in ends] == [0] * 4, ends[0][2]
  reference = alone(4, *arguments)
  assert_close_logs(workdir, reference, 1e-3)
  assert_close_results(workdir, reference, 1e-2)
  # Predictions by two processes, of what four saved, are those of one.
  written = []
  for num_processes in (1, 2):
    output = tmp_path / f'{num_processes}.csv'
    predict = ['--mode=predict', f'--workdir={workdir}', f'--input={data_file}']
    predict.append(f'--output={output}')
    ends = end_of(start_all(num_processes, *predict, tiny_config=False))
    assert [code for code, *_ in ends] == [0] * num_processes, ends
    assert [bool(out) for _, out, _ in ends] == [True, False][:num_processes]
    written.append(np.loadtxt(output, delimiter=',', skiprows=1))
  np.testing.assert_allclose(*written, 1e-4)


@pytest.mark.slow
def test_a_process_that_dies_or_is_told_to_leave_takes_all_along(
  start_all, pair, tmp_path
):
  """And the restarted run ends at the same bits."""
  workdir = tmp_path / 'run'

  def start_until(moment):
    group = start_all(2, f'--workdir={workdir}', *_MANY_MOMENTS)
    wait_until(moment, group[0])
    return group

  # The one that only computes is killed.
  group = start_until(lambda: num_records(workdir) >= 3)
  group[1].kill()
  (code, _, err), (killed, *_) = end_of(group, 240)
  assert killed == -signal.SIGKILL
  assert code == 1, err
  assert 'Traceback' not in err
  assert last_line(err).startswith('genre2_jax: process 0 of 2 lost another (')
  assert last_line(err).endswith('goes on from the last checkpoint')
  # Only one is told to leave: both do, with their progress saved.
  group = start_until(lambda: num_records(workdir) >= 6)
  group[1].terminate()
  ends = end_of(group, 240)
  assert [code for code, *_ in ends] == [75, 75], ends
  said = {last_line(err) for *_, err in ends}
  assert len(said) == 1
  match = re.search(r'interrupted at step (\d+) of stage ce, saved', said.pop())
  newest = workdir / 'checkpoints' / 'ce' / match[1]
  assert newest.is_dir()
  # A disk damages that checkpoint, and the one that the others are joined by is
  # killed: jax itself ends them.
  flip(largest_file(newest))
  group = start_until(lambda: num_records(workdir, 'remax') >= 2)
  group[0].kill()
  (*_, of_first), (code, _, err) = end_of(group, 240)
  assert f'{newest} is damaged, trying the one before' in of_first
  assert code not in (0, None)
  assert 'lost another' in err or 'another task died' in err
  assert not (workdir / 'report.html').exists()
  ends = end_of(start_all(2, f'--workdir={workdir}', *_MANY_MOMENTS))
  assert [code for code, *_ in ends] == [0, 0], ends
  assert_same_end(workdir, pair)


@pytest.mark.slow
def test_what_one_process_refuses_all_refuse(start_all, data_file, tmp_path):
  workdir = tmp_path / 'run'
  other = tmp_path / 'other.csv'
  other.write_text(data_file.read_text().replace('Ulm', 'Bonn'))
  for path, part in (
    (tmp_path / 'nowhere.csv', 'nowhere.csv: no such file'),
    (other, 'config and data of process 1 are not those of process 0'),
  ):
    own = {1: [f'--config.data.path={path}']}
    for code, out, err in end_of(
      start_all(2, f'--workdir={workdir}', own=own), 240
    ):
      assert (code, out) == (2, '')
      assert part in last_line(err)
      assert 'Traceback' not in err
    assert not workdir.exists()
