"""What the launchers would run, against tests/golden/launch; and that they do.

`python tests/launch_test.py` writes the golden files again.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / 'launch'
GOLDEN = ROOT / 'tests' / 'golden' / 'launch'
SYSTEM = '/usr/local/bin:/usr/bin:/bin'
COMMANDS = (
  'gcloud', 'kubectl', 'sbatch', 'srun', 'scancel', 'scontrol', 'git', 'docker',
  'curl', 'sudo', 'gcsfuse', 'python',
)  # fmt: skip

TPU = {
  'PROJECT': 'my-project',
  'ZONE': 'us-west4-a',
  'ACCELERATOR': 'v5litepod-8',
  'BUCKET': 'my-bucket',
}
GKE = {'IMAGE': 'us-docker.pkg.dev/my-project/genre2/run:1', 'BUCKET': 'bucket'}
SLURM = {'WORKDIR': '/shared/runs/abalone'}
BENCHMARK = {'DATA': '/shared/TALENT', 'WORKDIR': '/shared/runs/twenty'}
ARGS = {
  'ARGS': """--config.num_seeds=5 --config.data.path='my rows.csv' """
  """--config.finetune.objective="(('remax', 1.0, {}),)" """
}
CASES = {
  'tpu_create': ('tpu.sh', ['create'], TPU),
  'tpu_create_on_demand': (
    'tpu.sh',
    ['create'],
    TPU | {'SPOT': '0', 'ACCELERATOR': 'v5p-32', 'NAME': 'big'},
  ),
  'tpu_setup': ('tpu.sh', ['setup'], TPU),
  'tpu_run': ('tpu.sh', ['run'], TPU | ARGS),
  'tpu_run_one_host': (
    'tpu.sh',
    ['run'],
    TPU
    | {
      'DISTRIBUTED': '0',
      'NAME': 'first',
      'CONFIG': 'configs/talent.py:crps',
      'WORKDIR': '/mnt/genre2/my runs/1',
      'BUCKET': 'gs://my-bucket',
      'RUNTIME_VERSION': 'some-image',
    },
  ),
  'tpu_logs': ('tpu.sh', ['logs'], TPU),
  'tpu_stop': ('tpu.sh', ['stop'], TPU),
  'tpu_delete': ('tpu.sh', ['delete'], TPU),
  'slurm': ('slurm.sbatch', [], SLURM | ARGS),
  'slurm_many': (
    'slurm.sbatch',
    [],
    SLURM
    | {
      'SLURM_NTASKS': '8',
      'SLURM_CPUS_PER_TASK': '8',
      'PYTHON': '.venv/bin/python',
    },
  ),
  'slurm_benchmark': (
    'slurm_benchmark.sbatch',
    [],
    BENCHMARK
    | {
      'SLURM_ARRAY_TASK_ID': '3',
      'SLURM_ARRAY_TASK_COUNT': '20',
      'ARGS': '--methods=ce,remax --seeds=0,1',
    },
  ),
  'slurm_benchmark_again': (
    'slurm_benchmark.sbatch',
    [],
    BENCHMARK
    | {
      'SLURM_ARRAY_TASK_ID': '7',
      'SLURM_ARRAY_TASK_COUNT': '1',
      'COUNT': '20',
    },
  ),
  'gke_run': ('gke.sh', ['run'], GKE | ARGS),
  'gke_run_one_host': (
    'gke.sh',
    ['run'],
    GKE
    | {
      'TOPOLOGY': '2x4',
      'CHIPS_PER_HOST': '8',
      'SPOT': '0',
      'QUEUE': 'multislice-queue',
      'NAMESPACE': 'research',
      'MAX_RESTARTS': '3',
    },
  ),
  'gke_logs': ('gke.sh', ['logs'], {}),
  'gke_delete': ('gke.sh', ['delete'], {'NAME': 'first'}),
}
AWKWARD = (
  "--config.finetune.objective=(('remax', 1.0, {}),)",
  '--a=two  spaces',
  '--b="double" and \'single\'',
  '--c=$HOME $(date) `date` ${x}',
  '--d=back\\slash \\" \\n',
  '--e=* ? [a] {b} ~ ! # & ; | < >',
  '--f=100 % é',
)


def launch(script, words, variables, path=SYSTEM, **options):
  """Runs a launcher in an environment of these variables alone."""
  return subprocess.run(
    ['bash', str(LAUNCH / script), *words],
    env={'PATH': path} | variables,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
    **options,
  )


def write_script(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!/usr/bin/env bash\n{text}\n', encoding='utf-8')
  path.chmod(0o755)


@pytest.fixture
def traps(tmp_path):
  """A PATH on which every command of a cloud or cluster says it was run."""
  log = tmp_path / 'was_run'
  for name in COMMANDS:
    write_script(tmp_path / 'bin' / name, f'echo {name} >>{log}; exit 99')
  yield f'{tmp_path / "bin"}:{SYSTEM}'
  assert not log.exists(), log.read_text()


def dry_run(name, path=SYSTEM):
  script, words, variables = CASES[name]
  done = launch(script, ['--dry-run', *words], variables, path)
  assert (done.returncode, done.stderr) == (0, '')
  return done.stdout.replace(str(ROOT), '/ROOT')


@pytest.mark.parametrize('name', CASES)
def test_dry_run_prints_what_would_run_and_runs_nothing(name, traps):
  golden = (GOLDEN / f'{name}.txt').read_text(encoding='utf-8')
  assert dry_run(name, traps) == golden


def test_every_golden_file_has_a_case():
  assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize(
  'script, words, variables',
  [
    ('tpu.sh', ['run'], TPU),
    ('tpu.sh', ['create'], {k: v for k, v in TPU.items() if k != 'BUCKET'}),
    ('slurm.sbatch', [], SLURM),
    ('slurm_benchmark.sbatch', [], BENCHMARK),
    ('gke.sh', ['run'], GKE),
  ],
)
def test_a_missing_variable_is_named(script, words, variables, traps):
  for name in variables:
    for rest in (
      {k: v for k, v in variables.items() if k != name},
      variables | {name: ''},
    ):
      done = launch(script, words, rest, traps)
      assert done.returncode == 2
      assert done.stdout == ''
      (line,) = done.stderr.splitlines()
      assert re.fullmatch(
        rf'{script}: {name} is not set: .+, as in {name}=.+', line
      )


@pytest.mark.parametrize(
  'script, words, variables, said',
  [
    ('tpu.sh', ['run'], TPU | {'WORKDIR': 'gs://my-bucket/runs'}, 'WORKDIR'),
    ('tpu.sh', ['run'], TPU | {'WORKDIR': '/home/me/runs'}, 'WORKDIR'),
    ('tpu.sh', ['create'], TPU | {'ACCELERATOR': 'v9-8'}, 'RUNTIME_VERSION'),
    ('tpu.sh', ['create'], TPU | {'SPOT': 'yes'}, 'SPOT'),
    ('tpu.sh', ['run'], TPU | {'MAX_RESTARTS': 'many'}, 'MAX_RESTARTS'),
    ('tpu.sh', ['run'], TPU | {'ARGS': "--a='b"}, 'ARGS'),
    ('tpu.sh', ['run', 'delete'], TPU, 'delete'),
    ('tpu.sh', ['launch'], TPU, 'launch'),
    ('tpu.sh', [], TPU, 'tpu.sh [--dry-run] create'),
    ('gke.sh', ['run'], GKE | {'TOPOLOGY': '4by4'}, 'TOPOLOGY'),
    ('gke.sh', ['run'], GKE | {'TOPOLOGY': '2x3'}, 'CHIPS_PER_HOST'),
    ('gke.sh', ['run'], GKE | {'IMAGE': 'a"b'}, 'IMAGE'),
    ('gke.sh', ['run'], GKE | {'WORKDIR': 'gs://b/runs'}, 'WORKDIR'),
    ('gke.sh', ['stop'], GKE, 'stop'),
    ('slurm.sbatch', ['--dryrun'], SLURM, '--dryrun'),
    ('slurm.sbatch', [], SLURM | {'DISTRIBUTED': '2'}, 'DISTRIBUTED'),
    ('slurm.sbatch', [], SLURM | {'SLURM_SUBMIT_DIR': '/tmp'}, 'root of the'),
  ],
)
def test_what_cannot_be_is_refused(script, words, variables, said, traps):
  done = launch(script, words, variables, traps)
  assert done.returncode == 2
  assert done.stdout == ''
  assert said in done.stderr


@pytest.mark.parametrize('script', ['tpu.sh', 'gke.sh'])
def test_help_lists_every_variable(script, traps):
  done = launch(script, ['--help'], {}, traps)
  assert done.returncode == 0
  text = (LAUNCH / script).read_text(encoding='utf-8')
  defaults = set(re.findall(r'^ *([A-Z_]+)=\$\{\1:-', text, re.MULTILINE))
  required = set(re.findall(r'\brequire ([A-Z_]+)', text))
  assert len(defaults) > 5
  assert len(required) > 1
  for name in defaults | required | {'ARGS'}:
    assert re.search(rf'^  {name} ', done.stdout, re.MULTILINE), name


def test_awkward_arguments_survive_every_shell(traps):
  variables = {'ARGS': shlex.join(AWKWARD)}

  def printed(script, words, more):
    return launch(script, ['--dry-run', *words], more | variables, traps).stdout

  (line,) = (
    line
    for line in printed('tpu.sh', ['run'], TPU).splitlines()
    if 'worker.sh run' in line
  )
  (remote,) = (
    word.removeprefix('--command=')
    for word in shlex.split(line)
    if word.startswith('--command=')
  )
  assert tuple(shlex.split(remote)[-len(AWKWARD) :]) == AWKWARD

  text = printed('slurm.sbatch', [], SLURM)
  (line,) = (x for x in text.splitlines() if x.startswith('srun'))
  assert tuple(shlex.split(line)[-len(AWKWARD) :]) == AWKWARD

  (line,) = (
    line.strip().removeprefix('command: ')
    for line in printed('gke.sh', ['run'], GKE).splitlines()
    if line.strip().startswith('command: ')
  )
  words = [word.replace('$$', '$') for word in json.loads(line)]
  assert tuple(words[-len(AWKWARD) :]) == AWKWARD


def test_the_jobset_is_yaml_and_hosts_are_counted():
  yaml = pytest.importorskip('yaml')

  def jobset(name):
    return yaml.safe_load(
      dry_run(name).partition('\n')[2].removesuffix('END\n')
    )

  found = jobset('gke_run')
  job = found['spec']['replicatedJobs'][0]['template']['spec']
  assert (job['parallelism'], job['completions'], job['backoffLimit']) == (
    4,
    4,
    0,
  )
  assert found['spec']['failurePolicy']['maxRestarts'] == 100
  pod = job['template']['spec']
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
  (container,) = pod['containers']
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert '--distributed' in container['command']
  assert container['command'][-1] == (
    "--config.finetune.objective=(('remax', 1.0, {}),)"
  )
  assert (ROOT / container['command'][0]).is_file()

  found = jobset('gke_run_one_host')
  assert found['metadata']['labels']['kueue.x-k8s.io/queue-name']
  job = found['spec']['replicatedJobs'][0]['template']['spec']
  assert job['completions'] == 1
  pod = job['template']['spec']
  assert 'cloud.google.com/gke-spot' not in pod['nodeSelector']
  assert '--distributed' not in pod['containers'][0]['command']


def test_shellcheck_has_nothing_to_say():
  if not shutil.which('shellcheck'):
    pytest.skip('shellcheck is not installed')
  scripts = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')])
  assert len(scripts) > 5
  done = subprocess.run(
    ['shellcheck', '--external-sources', f'--source-path={ROOT}', *scripts],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout


# A command that says it is there, and at SIGTERM exits with its argument.
PATIENT = "trap 'exit {code}' TERM; touch {there}; while :; do sleep 0.05; done"


def wait_for(condition):
  limit = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < limit
    time.sleep(0.02)


@pytest.mark.parametrize('code', [75, 4, 0])
def test_a_run_that_was_asked_to_leave_says_itself_how_it_ended(code, tmp_path):
  there = tmp_path / 'there'
  process = subprocess.Popen(
    [
      LAUNCH / 'interruptible.sh',
      'bash',
      '-c',
      PATIENT.format(code=code, there=there),
    ]
  )
  wait_for(there.exists)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == code


@pytest.mark.parametrize('code', [0, 2, 127, 134])
def test_other_exit_codes_are_left_alone(code):
  done = launch('interruptible.sh', ['bash', '-c', f'exit {code}'], {})
  assert done.returncode == code
  # What jax itself says of a lost process is long.
  assert ('lost another process' in done.stderr) == (code == 134)


SLURM_STUBS = {
  'srun': 'echo $$ >{folder}/process\n'
  + PATIENT.format(code=75, there='{folder}/there'),
  # Only the tasks get the signal.
  'scancel': 'echo scancel "$@" >>{folder}/log\n'
  'kill -TERM $(<{folder}/process)',
  'scontrol': 'echo scontrol "$@" >>{folder}/log',
}


@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize(
  'script, variables',
  [('slurm.sbatch', SLURM), ('slurm_benchmark.sbatch', BENCHMARK)],
)
def test_slurm_requeues_at_the_time_limit_but_not_when_cancelled(
  script, variables, number, tmp_path
):
  for name, text in SLURM_STUBS.items():
    write_script(
      tmp_path / 'bin' / name, text.replace('{folder}', str(tmp_path))
    )
  process = subprocess.Popen(
    ['bash', LAUNCH / script],
    env=variables
    | {
      'PATH': f'{tmp_path / "bin"}:{SYSTEM}',
      'SLURM_JOB_ID': '17',
      'SLURM_SUBMIT_DIR': str(ROOT),
    },
    stderr=subprocess.DEVNULL,
  )
  wait_for((tmp_path / 'there').exists)
  process.send_signal(number)
  assert process.wait(timeout=30) == 75
  calls = (tmp_path / 'log').read_text().splitlines()
  assert calls[0] == 'scancel --quiet --signal=TERM 17'
  requeues = ['scontrol requeue 17'] if number == signal.SIGUSR1 else []
  assert calls[1:] == requeues


# Answers `describe` with the next of states, `run` on the hosts with the next
# of exit codes, and finds run.json once a run has ended with 0.
GCLOUD = r"""
next() {{ head -n 1 {folder}/$1; sed -i 1d {folder}/$1; }}
case "$*" in
  *describe*)
    state=$(next states)
    if [[ $state == NONE ]]; then echo 'ERROR: NOT_FOUND: no' >&2; exit 1; fi
    if [[ $state == LOST ]]; then echo 'ERROR: no network' >&2; exit 1; fi
    echo "$state" ;;
  *'worker.sh run'*)
    echo run >>{folder}/log
    code=$(next codes)
    if [[ $code == 0 ]]; then touch {folder}/run.json; fi
    exit $code ;;
  *'test -e'*) test -e {folder}/run.json ;;
  *'worker.sh setup'*) echo setup >>{folder}/log ;;
  *'worker.sh stop'*) echo stop >>{folder}/log ;;
  *scp*) echo scp >>{folder}/log ;;
  *create*) echo create >>{folder}/log ;;
  *delete*) echo delete >>{folder}/log ;;
esac
"""


def run_on_tpu(tmp_path, states, codes, verb='run', **variables):
  """The calls that a run makes of gcloud, and how it ends."""
  write_script(tmp_path / 'bin' / 'gcloud', GCLOUD.format(folder=tmp_path))
  write_script(tmp_path / 'bin' / 'git', ':')
  for name, values in (('states', states), ('codes', codes)):
    (tmp_path / name).write_text(''.join(f'{value}\n' for value in values))
  (tmp_path / 'log').touch()
  done = launch(
    'tpu.sh',
    [verb],
    TPU | {'POLL_SECONDS': '0'} | variables,
    f'{tmp_path / "bin"}:{SYSTEM}',
  )
  return done, (tmp_path / 'log').read_text().split()


SET_UP = ['scp', 'setup']


@pytest.mark.parametrize(
  'states, codes, calls',
  [
    # Nothing goes wrong.
    (['ACTIVE'], [0], ['run']),
    # Preempted: while it goes, when it is gone, when there is a new one.
    (
      ['ACTIVE', 'SUSPENDING', 'SUSPENDED', 'PROVISIONING', 'ACTIVE'],
      [255, 0],
      ['run', 'delete', 'create', *SET_UP, 'run'],
    ),
    # Twice, and the second request fails.
    (
      ['ACTIVE', 'SUSPENDED', 'FAILED', 'ACTIVE'],
      [75, 0],
      ['run', 'stop', 'delete', 'create', 'delete', 'create', *SET_UP, 'run'],
    ),
    # No slice at all.
    (['NONE', 'ACTIVE'], [0], ['create', *SET_UP, 'run']),
    # The connection is lost: the run goes on.
    (['ACTIVE', 'LOST', 'ACTIVE'], [255, 0], ['run', 'run']),
    # One host fails: the others are stopped.
    (['ACTIVE', 'ACTIVE'], [1, 0], ['run', 'stop', 'run']),
    # A slice that is not set up.
    (['ACTIVE', 'ACTIVE'], [127, 0], ['run', *SET_UP, 'run']),
  ],
)
def test_a_run_goes_on_after_preemptions(states, codes, calls, tmp_path):
  done, made = run_on_tpu(tmp_path, states, codes)
  assert done.returncode == 0, done.stderr
  assert made == calls
  assert 'billed until tpu.sh delete' in done.stderr


def test_restarts_and_failures_have_an_end(tmp_path):
  done, made = run_on_tpu(tmp_path, ['SUSPENDED'] * 9, [], MAX_RESTARTS='2')
  assert done.returncode == 1
  assert made == ['delete', 'create'] * 2
  done, made = run_on_tpu(
    tmp_path / 'second', ['ACTIVE'] * 9, [1] * 9, MAX_FAILURES='2'
  )
  assert done.returncode == 1
  assert made == ['run', 'stop'] * 3
  assert 'billed until tpu.sh delete' in done.stderr


def test_refused_input_is_not_tried_again(tmp_path):
  done, made = run_on_tpu(tmp_path, ['ACTIVE'] * 3, [2, 0])
  assert (done.returncode, made) == (2, ['run'])


def test_success_without_a_finished_run_is_none(tmp_path):
  write_script(tmp_path / 'bin' / 'touch', ':')  # run.json never appears
  done, made = run_on_tpu(tmp_path, ['ACTIVE'] * 9, [0] * 9, MAX_FAILURES='1')
  assert (done.returncode, made) == (1, ['run', 'run'])


def test_create_waits_and_does_not_take_a_failure_for_a_slice(tmp_path):
  states = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
  done, made = run_on_tpu(tmp_path, states, [], 'create')
  assert (done.returncode, made) == (0, ['create'])
  done, _ = run_on_tpu(
    tmp_path / 'second', ['PROVISIONING', 'FAILED'], [], 'create'
  )
  assert done.returncode == 1
  assert 'FAILED' in done.stderr


@pytest.fixture
def worker(tmp_path):
  """A TPU VM that is set up: worker.sh with words, its home folder."""
  if sys.platform != 'linux':
    pytest.skip('TPU VMs are Linux machines')
  (tmp_path / '.genre2').mkdir()
  (tmp_path / '.genre2' / 'ready').touch()
  write_script(tmp_path / 'bin' / 'mountpoint', ':')
  variables = {'HOME': str(tmp_path), 'BUCKET': 'bucket'}
  path = f'{tmp_path / "bin"}:{SYSTEM}'

  def run(*words):
    return launch('worker.sh', words, variables, path)

  yield run, tmp_path
  run('stop')


def test_a_worker_runs_the_command_to_its_end(worker):
  run, _ = worker
  for code in (0, 3):
    done = run('run', 'bash', '-c', f'echo said {code}; exit {code}')
    assert done.returncode == code
    assert f'said {code}' in done.stdout


def test_a_worker_needs_to_be_set_up(worker):
  run, home = worker
  (home / '.genre2' / 'ready').unlink()
  done = run('run', 'true')
  assert done.returncode == 127
  assert 'tpu.sh setup' in done.stderr


def test_a_worker_is_joined_refuses_another_command_and_stops(worker):
  run, home = worker
  there, starts = home / 'there', home / 'starts'
  text = f'echo started; echo >>{starts}; ' + PATIENT.format(
    code=75, there=there
  )

  def join():
    return subprocess.Popen(
      ['bash', LAUNCH / 'worker.sh', 'run', 'bash', '-c', text],
      env={'HOME': str(home), 'PATH': f'{home / "bin"}:{SYSTEM}'},
      stdout=subprocess.PIPE,
      text=True,
    )

  first = join()
  wait_for(there.exists)
  first.kill()  # The connection is lost: the run goes on.
  first.wait()
  second = join()
  assert second.stdout.readline() == 'started\n'
  done = run('run', 'true')
  assert done.returncode == 2
  assert 'another command runs here' in done.stderr
  assert run('stop').returncode == 0
  assert second.wait(timeout=30) == 75
  assert len(starts.read_text().splitlines()) == 1


def test_the_readme_names_files_and_variables_that_are_there():
  text = (LAUNCH / 'README.md').read_text(encoding='utf-8')
  for name in re.findall(r'\]\(([\w.]+)\)', text):
    assert (LAUNCH / name).is_file(), name
  for path in re.findall(r'(?:launch|configs)/[\w.]+', text):
    assert (ROOT / path).is_file(), path
  scripts = ''.join(
    path.read_text(encoding='utf-8')
    for path in LAUNCH.iterdir()
    if path.suffix in ('.sh', '.sbatch')
  )
  exports = re.findall(r'^ *export (.+)', text, re.MULTILINE)
  names = {
    name for line in exports for name in re.findall(r'\b([A-Z_]+)=', line)
  }
  assert len(names) > 8
  for name in names:
    assert re.search(rf'\b{name}\b', scripts), name


def test_flags_of_the_benchmark_are_its_flags():
  golden = (GOLDEN / 'slurm_benchmark.txt').read_text(encoding='utf-8')
  program = (ROOT / 'genre2_jax' / 'benchmark' / '__main__.py').read_text(
    encoding='utf-8'
  )
  (line,) = (x for x in golden.splitlines() if x.startswith('srun'))
  flags = set(re.findall(r' --(index|count|methods|seeds)=', line))
  assert flags == {'index', 'count', 'methods', 'seeds'}
  for flag in flags:
    assert re.search(rf"DEFINE_\w+\(\s*'{flag}'", program), flag


if __name__ == '__main__':
  GOLDEN.mkdir(parents=True, exist_ok=True)
  os.chdir(ROOT)
  for case in CASES:
    (GOLDEN / f'{case}.txt').write_text(dry_run(case), encoding='utf-8')
