"""The search on a fake run: every trial once, whatever interrupts it."""

import csv
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest
from ml_collections import ConfigDict

from configs import base
from genre2_jax import search as search_module
from genre2_jax.errors import InputError, InterruptedRunError, NonFiniteError
from genre2_jax.experiment import official
from genre2_jax.experiment.defaults import sized
from genre2_jax.files import atomic
from genre2_jax.metrics import results
from genre2_jax.search import SPACES, LogUniform, search, validation_r2

optuna = pytest.importorskip('optuna')

ROOT = pathlib.Path(__file__).parent.parent
SMALL = {
  'tokenizer.base': (2, 4, 8),
  'model.width': (128, 256),
  'pretrain.learning_rate': LogUniform(1e-5, 1e-3),
}


def make_config(**fields):
  config = ConfigDict()
  config.seed = 0
  config.hyperparameters = 'config'
  config.tokenizer = ConfigDict({'base': 2})
  config.model = ConfigDict({'width': 256})
  config.pretrain = ConfigDict({'learning_rate': 1e-4})
  config.stages = ('pretrain', 'finetune')
  config.update_from_flattened_dict(fields)
  return config.lock()


def score(config):
  """Best at 1: base 4, width 256, rate 1e-4."""
  return (
    1
    - 0.2 * abs(config.tokenizer.base - 4)
    - 0.3 * (config.model.width == 128)
    - abs(config.pretrain.learning_rate - 1e-4) * 100
  )


def write_run(workdir, value, stages=('pretrain', 'finetune'), seeds=(0,)):
  """What a finished run leaves, with decoys for every column."""
  row = ('made', seeds[0], stages[-1], 'val', 'mean', 'r2', value)
  decoys = [
    (*row[:2], 'pretrain', *row[3:6], 9.0),
    (*row[:3], 'test', *row[4:6], 9.0),
    (*row[:4], 'median', row[5], 9.0),
    (*row[:5], 'rmse', 9.0),
  ]
  rows = [decoy for decoy in decoys if decoy[:6] != row[:6]]
  atomic.write_csv(workdir / 'results.csv', results.COLUMNS, [*rows, row])
  atomic.write_json(workdir / 'run.json', {'stages': list(stages)})


def fake(config, workdir, interrupts):
  """Trains at once."""
  del interrupts
  atomic.write_text(workdir / 'checkpoints' / 'pretrain' / 'state', 'large')
  write_run(workdir, score(config))


def run(workdir, num_trials=6, train_and_evaluate=fake, **options):
  fields = options.pop('fields', {})
  options = {'space': SMALL} | options
  return search(
    make_config(**fields),
    workdir,
    num_trials=num_trials,
    train_and_evaluate=train_and_evaluate,
    **options,
  )


def read_trials(workdir):
  with open(workdir / 'trials.csv', encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


@pytest.mark.parametrize('size', sorted(SPACES))
def test_the_space_is_of_the_base_recipe(size):
  config = base.get_config()
  config.size = size
  defaults = search_module._flat(sized(config).to_dict())
  for field, choices in SPACES[size].items():
    if isinstance(choices, LogUniform):
      assert choices.low <= defaults[field] <= choices.high
    else:
      assert type(choices[0]) is type(defaults[field])
      assert defaults[field] in choices
  for width in SPACES[size]['model.width']:
    for heads in SPACES[size].get('model.num_heads', (config.model.num_heads,)):
      assert width % heads == 0


def test_the_space_holds_what_the_paper_found():
  columns = {
    'base': 'tokenizer.base',
    'digits': 'tokenizer.digits',
    'd_model': 'model.width',
    'nhead': 'model.num_heads',
    'num_decoder_layers': 'model.num_layers',
    'dim_feedforward': 'model.feedforward',
    'hidden_dim': 'model.encoder_hidden',
  }
  path = official.HYPERPARAMETERS
  with open(path, encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  rate = SPACES['paper']['pretrain.learning_rate']
  for row in rows:
    for column, field in columns.items():
      assert int(row[column]) in SPACES['paper'][field]
    assert rate.low <= float(row['learning_rate']) <= rate.high
    assert float(row['dropout']) == base.get_config().model.dropout


def test_finds_the_optimum(tmp_path):
  best = run(tmp_path, 40)
  assert best.fields['tokenizer.base'] == 4
  assert best.fields['model.width'] == 256
  assert best.value > 0.995
  trials = read_trials(tmp_path)
  assert [int(trial['number']) for trial in trials] == list(range(40))
  assert best.value == max(float(trial['value']) for trial in trials)
  assert float(trials[best.number]['value']) == best.value
  for field, value in best.fields.items():
    assert trials[best.number][field] == str(value)
  assert json.loads((tmp_path / 'best.json').read_text()) == {
    'number': best.number,
    'value': best.value,
    'fields': best.fields,
  }


def test_only_the_best_keeps_its_checkpoints(tmp_path):
  best = run(tmp_path)
  folders = sorted((tmp_path / 'trials').iterdir())
  assert len(folders) == 6
  for folder in folders:
    assert (folder / 'results.csv').exists()
    kept = (folder / 'checkpoints').exists()
    assert kept == (folder.name == str(best.number))


def test_trials_get_their_fields_and_their_own_workdir(tmp_path):
  seen = {}

  def train(config, workdir, interrupts):
    assert interrupts == 'asked?' or not interrupts
    assert config.stages == ('pretrain', 'finetune')
    assert workdir not in seen
    seen[workdir] = search_module._flat(config.to_dict())
    fake(config, workdir, interrupts)

  run(tmp_path, 4, train)
  trials = read_trials(tmp_path)
  assert list(seen) == [tmp_path / 'trials' / str(n) for n in range(4)]
  for fields, trial in zip(seen.values(), trials, strict=True):
    for field in SMALL:
      assert str(fields[field]) == trial[field]


def test_more_trials_go_on(tmp_path):
  run(tmp_path, 3)
  before = read_trials(tmp_path)
  calls = []

  def train(config, workdir, interrupts):
    calls.append(workdir)
    fake(config, workdir, interrupts)

  run(tmp_path, 3, train)
  assert calls == []
  run(tmp_path, 5, train)
  assert len(calls) == 2
  assert read_trials(tmp_path)[:3] == before


class Asked:
  """Interrupts that turn true."""

  def __init__(self):
    self.asked = False

  def __bool__(self):
    return self.asked


def test_interrupted_anywhere_it_makes_the_same_search(tmp_path):
  run(tmp_path / 'whole', 13)
  asked, began = Asked(), []

  def train(config, workdir, interrupts):
    began.append(workdir.name)
    # Every third time it is asked to leave: in a trial, or right after it.
    if len(began) % 3 == 0:
      asked.asked = True
      if len(began) % 2:
        raise InterruptedRunError('interrupted, saved')
    fake(config, workdir, interrupts)

  for _ in range(20):
    try:
      best = run(tmp_path / 'parts', 13, train, interrupts=asked)
      break
    except InterruptedRunError as error:
      assert 'search interrupted' in str(error)
      asked.asked = False
  assert len(began) > 13
  for name in ('trials.csv', 'best.json'):
    whole, parts = (tmp_path / w / name for w in ('whole', 'parts'))
    assert whole.read_bytes() == parts.read_bytes()
  assert best == run(tmp_path / 'whole', 13)


def test_seeds_make_different_searches(tmp_path):
  run(tmp_path / 'a', 2)
  run(tmp_path / 'b', 2, fields={'seed': 1})
  assert read_trials(tmp_path / 'a') != read_trials(tmp_path / 'b')


def test_failing_trials_are_recorded_and_passed_over(tmp_path):
  errors = [
    InputError('the trie is too large:\n lower digits'),
    NonFiniteError('the loss is not finite'),
    RuntimeError('RESOURCE_EXHAUSTED: out of memory'),
    MemoryError(),
  ]

  def train(config, workdir, interrupts):
    fake(config, workdir, interrupts)
    if int(workdir.name) < len(errors):
      raise errors[int(workdir.name)]

  best = run(tmp_path, 6, train)
  assert best.number >= 4
  trials = read_trials(tmp_path)
  assert [t['state'] for t in trials] == ['fail'] * 4 + ['complete'] * 2
  assert trials[0]['reason'] == 'the trie is too large: lower digits'
  assert trials[1]['reason'] == 'the loss is not finite'
  assert 'RESOURCE_EXHAUSTED' in trials[2]['reason']
  assert trials[3]['reason'] == 'MemoryError'
  for trial in trials:
    assert (trial['value'] == '') == (trial['state'] == 'fail')
    folder = tmp_path / 'trials' / trial['number'] / 'checkpoints'
    assert folder.exists() == (trial['number'] == str(best.number))


def test_no_trial_that_succeeded(tmp_path):
  def train(config, workdir, interrupts):
    raise InputError('no such file')

  with pytest.raises(InputError, match='none of the 2 trials'):
    run(tmp_path, 2, train)
  assert not (tmp_path / 'best.json').exists()
  assert [t['reason'] for t in read_trials(tmp_path)] == ['no such file'] * 2


def test_an_unexpected_error_is_no_failed_trial(tmp_path):
  def train(config, workdir, interrupts):
    raise RuntimeError('a defect')

  with pytest.raises(RuntimeError, match='a defect'):
    run(tmp_path, 2, train)
  assert run(tmp_path, 2) == run(tmp_path / 'other', 2)


def test_a_trial_that_kills_its_process_is_given_up(tmp_path):
  def train(config, workdir, interrupts):
    if workdir.name == '1':
      raise SystemExit(1)
    fake(config, workdir, interrupts)

  for _ in range(search_module._MAX_DEATHS):
    with pytest.raises(SystemExit):
      run(tmp_path, 3, train)
  assert run(tmp_path, 3, train).number != 1
  states = [trial['state'] for trial in read_trials(tmp_path)]
  assert states == ['complete', 'fail', 'complete']
  assert 'died 5 times' in read_trials(tmp_path)[1]['reason']


def test_leaving_when_asked_to_is_no_death(tmp_path):
  def leave(config, workdir, interrupts):
    raise InterruptedRunError('saved')

  for _ in range(search_module._MAX_DEATHS + 1):
    with pytest.raises(InterruptedRunError, match='in trial 0'):
      run(tmp_path, 2, leave)
  run(tmp_path, 2)
  states = [trial['state'] for trial in read_trials(tmp_path)]
  assert states == ['complete'] * 2


def test_a_trial_without_all_fields_was_never_begun(tmp_path, monkeypatch):
  run(tmp_path, 1)

  def die(*arguments, **options):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(optuna.trial.Trial, 'suggest_float', die)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path, 3)
  run(tmp_path, 3)
  trials = read_trials(tmp_path)
  assert [trial['state'] for trial in trials] == [
    'complete',
    'fail',
    'complete',
    'complete',
  ]
  assert trials[1]['reason'] == 'never begun'


# A process that searches with the fake, which takes a while, or forever.
SCRIPT = """
import json, pathlib, sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests']
import search_test
from genre2_jax.errors import InterruptedRunError
from genre2_jax.devices.interrupts import deferred
workdir, num_trials, stuck = sys.argv[2], int(sys.argv[3]), sys.argv[4]

def train(config, workdir, interrupts):
  began = workdir / 'began'
  began.parent.mkdir(parents=True, exist_ok=True)
  with open(began, 'a') as file:
    file.write('x')
  while workdir.name == stuck:
    time.sleep(0.01)
    if interrupts:
      raise InterruptedRunError('saved')
  time.sleep(0.05)
  search_test.fake(config, workdir, interrupts)

with deferred() as interrupts:
  try:
    search_test.run(workdir, num_trials, train, interrupts=interrupts)
  except InterruptedRunError as error:
    sys.exit(f'left: {error}')
"""


def start(workdir, num_trials, stuck='none'):
  return subprocess.Popen(
    [sys.executable, '-c', SCRIPT, ROOT, workdir, str(num_trials), stuck],
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONWARNINGS': 'ignore'},
  )


def wait_for(path, process):
  while not path.exists():
    assert process.poll() is None, process.communicate()[1]
    time.sleep(0.01)


@pytest.mark.slow
def test_processes_share_the_trials(tmp_path):
  """One is killed in a trial, and one leaves it; nothing is lost or twice."""
  stuck = start(tmp_path, 12, stuck='0')
  wait_for(tmp_path / 'trials/0/began', stuck)
  # Held by a living process: the others take all that is left.
  others = [start(tmp_path, 12) for _ in range(2)]
  for process in others:
    _, err = process.communicate()
    assert process.returncode == 0, err
  states = [trial['state'] for trial in read_trials(tmp_path)]
  assert states == ['running'] + ['complete'] * 11
  assert stuck.poll() is None
  stuck.send_signal(signal.SIGKILL)
  stuck.communicate()
  left = start(tmp_path, 12, stuck='0')
  while (tmp_path / 'trials/0/began').read_text() != 'xx':
    assert left.poll() is None, left.communicate()[1]
    time.sleep(0.01)
  left.send_signal(signal.SIGTERM)
  _, err = left.communicate()
  assert 'left: search interrupted in trial 0' in err
  best = run(tmp_path, 12)
  trials = read_trials(tmp_path)
  assert [trial['state'] for trial in trials] == ['complete'] * 12
  for number in range(1, 12):
    assert (tmp_path / f'trials/{number}/began').read_text() == 'x'
  drawn = {trial['pretrain.learning_rate'] for trial in trials}
  assert len(drawn) == 12
  assert best.value == max(float(trial['value']) for trial in trials)


def test_another_search_in_the_workdir(tmp_path):
  run(tmp_path, 1)
  with pytest.raises(InputError, match=r'seed \(0 there, 3 here\)'):
    run(tmp_path, 1, fields={'seed': 3})
  space = SMALL | {'model.width': (128, 512)}
  with pytest.raises(InputError, match=r'model.width \(\[128, 256\] there'):
    run(tmp_path, 1, space=space)
  # Fields that are searched may have any value.
  run(tmp_path, 1, fields={'tokenizer.base': 8})


def test_damaged_files(tmp_path):
  run(tmp_path, 2)
  journal = tmp_path / 'search.journal'
  whole = journal.read_bytes()
  # A torn last line, as after a power cut.
  journal.write_bytes(whole + b'{"op_code": 4, "wor')
  run(tmp_path, 3)
  assert len(read_trials(tmp_path)) == 3
  journal.write_bytes(b'not json\n' + whole)
  with pytest.raises(InputError, match=r'search\.journal is damaged'):
    run(tmp_path, 3)
  (tmp_path / 'search.json').write_text('[')
  with pytest.raises(InputError, match=r'search\.json is damaged'):
    run(tmp_path, 3)


@pytest.mark.parametrize(
  ('options', 'part'),
  [
    ({'num_trials': 0}, '--trials=0'),
    ({'space': {}}, 'none is left'),
    ({'space': {'model.depth': (1, 2)}}, 'model.depth'),
    ({'fields': {'hyperparameters': 'official'}}, 'official'),
  ],
)
def test_wrong_arguments(tmp_path, options, part):
  with pytest.raises(InputError, match=part):
    run(tmp_path / 'search', **options)
  assert not (tmp_path / 'search').exists()


def test_a_workdir_that_cannot_be(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='give another --workdir'):
    run(tmp_path / 'file')


def test_a_baseline_is_searched_elsewhere(tmp_path):
  config = base.get_config()
  config.baseline.name = 'catboost'
  with pytest.raises(InputError, match=r'baseline\.trials'):
    search(config, tmp_path, num_trials=1, train_and_evaluate=fake)


def test_missing_optuna(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'optuna', None)
  with pytest.raises(InputError, match='pip install'):
    run(tmp_path)


def test_value_of_a_run(tmp_path):
  write_run(tmp_path, 0.25)
  assert validation_r2(tmp_path) == 0.25
  write_run(tmp_path, 0.5, stages=('pretrain',))
  assert validation_r2(tmp_path) == 0.5
  # Several seeds: their mean, and nothing else will do.
  row = ('made', 0, 'pretrain', 'val', 'mean', 'r2', 0.1)
  rows = [(row[0], seed, *row[2:6], 0.1 * seed) for seed in range(3)]
  path = tmp_path / 'results.csv'
  atomic.write_csv(path, results.COLUMNS, rows)
  with pytest.raises(InputError, match='no finite'):
    validation_r2(tmp_path)
  rows.append((row[0], 'mean', *row[2:6], 0.125))
  rows.append((row[0], 'ensemble', *row[2:6], 0.75))
  atomic.write_csv(path, results.COLUMNS, rows)
  assert validation_r2(tmp_path) == 0.125


@pytest.mark.parametrize('value', ['nan', 'inf', 'much'])
def test_a_value_that_is_no_number(tmp_path, value):
  write_run(tmp_path, value)
  with pytest.raises(InputError):
    validation_r2(tmp_path)


def test_a_run_that_left_nothing(tmp_path):
  with pytest.raises(InputError, match='no readable results'):
    validation_r2(tmp_path)
  atomic.write_json(tmp_path / 'run.json', [])
  with pytest.raises(InputError, match='no readable results'):
    validation_r2(tmp_path)


def test_training_command():
  command = search_module.training_command(
    'configs/ce_talent.py',
    {'data.path': 'my houses.csv', 'stages': ('pretrain',), 'seed': 1},
  )
  assert command == (
    'python -m genre2_jax.main --config=configs/ce_talent.py '
    "'--config.data.path=my houses.csv' "
    """'--config.stages=('"'"'pretrain'"'"',)' --config.seed=1"""
  )


# The real command, around a fake `train_and_evaluate`.
COMMAND = """
import runpy, sys, types
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests']
import search_test
train = types.ModuleType('genre2_jax.train')
train.train_and_evaluate = search_test.fake
sys.modules['genre2_jax.train'] = train
import genre2_jax
genre2_jax.train = train
del sys.modules['genre2_jax.search']
sys.argv[:2] = ['search.py']
runpy.run_module('genre2_jax.search', run_name='__main__', alter_sys=True)
"""

# What the flags of a command set.
PARSED = """
import json, sys
from absl import flags
from ml_collections import config_flags
from genre2_jax import command_line
command_line.parse_flags(sys.argv)
print(json.dumps(config_flags.get_override_values(flags.FLAGS['config'])))
"""


def run_command(*arguments):
  process = subprocess.run(
    [sys.executable, '-c', COMMAND, ROOT, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  return process.returncode, process.stdout, process.stderr


def test_the_command(tmp_path):
  code, out, err = run_command(
    '--config=configs/ce_talent.py',
    '--trials=3',
    f'--workdir={tmp_path / "search"}',
    '--config.size=paper',
    '--config.model.width=128',
    "--config.data.path=my 'big' houses.csv",
    "--config.stages=('pretrain',)",
  )
  assert code == 0, err
  assert err.count('trial 2: ') == 2  # its fields, its value
  trials = read_trials(tmp_path / 'search')
  assert len(trials) == 3
  # What is set on the command line is not searched.
  assert 'model.width' not in trials[0]
  assert trials[0].keys() >= {'model.num_heads', 'tokenizer.digits'}
  fields = json.loads((tmp_path / 'search/best.json').read_text())['fields']
  program = 'python -m genre2_jax.main'
  command = out.splitlines()[-1]
  assert command.startswith(f'{program} --config=configs/ce_talent.py ')
  # As it stands: a shell reads it, and every field is there and of its type.
  process = subprocess.run(
    [sys.executable, '-c', PARSED, *shlex.split(command)[3:]],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  given = json.loads(process.stdout)
  assert given == fields | {
    'size': 'paper',
    'model.width': 128,
    'data.path': "my 'big' houses.csv",
    'stages': ['pretrain'],
  }


@pytest.mark.parametrize(
  ('arguments', 'part'),
  [
    (['--config=configs/ce_talent.py'], 'needs --workdir'),
    (['--config=configs/ce_talent.py', '--config.seeed=1'], 'seeed'),
    (['--workdir=x'], 'give a recipe'),
  ],
)
def test_a_wrong_command_is_one_line_and_code_2(arguments, part):
  code, out, err = run_command(*arguments)
  assert (code, out) == (2, '')
  assert err.count('\n') == 1 and err.startswith('genre2_jax: '), err
  assert part in err


# The real command, whose trial compiles forever.
COMPILING = """
import pathlib, runpy, sys, time, types
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests']

def train_and_evaluate(config, workdir, interrupts):
  with interrupts.at_once('compiling'):
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / 'began').touch()
    while True:
      time.sleep(0.01)

train = types.ModuleType('genre2_jax.train')
train.train_and_evaluate = train_and_evaluate
sys.modules['genre2_jax.train'] = train
import genre2_jax
genre2_jax.train = train
sys.argv[:2] = ['search.py']
runpy.run_module('genre2_jax.search', run_name='__main__', alter_sys=True)
"""


def test_a_signal_in_a_compilation_is_no_death_of_the_trial(tmp_path):
  command = ['--config=configs/ce_talent.py', f'--workdir={tmp_path}']
  process = subprocess.Popen(
    [sys.executable, '-c', COMPILING, ROOT, *command],
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )
  wait_for(tmp_path / 'trials/0/began', process)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 75 and 'interrupted while compiling' in err
  journal = (tmp_path / 'search.journal').read_text()
  lines = [json.loads(line) for line in journal.splitlines()]
  deaths = [line['user_attr'] for line in lines if 'user_attr' in line]
  assert deaths == [{'deaths': 1}, {'deaths': 0}]
