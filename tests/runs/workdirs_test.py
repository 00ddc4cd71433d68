"""The workdir: whose it is, and that it is read back as it was written."""

import copy
import errno
import fcntl
import json
import shutil
import subprocess
import sys

import pytest
from checks import assert_refused
from tiny import write_table

from genre2_jax import train
from genre2_jax.errors import InputError
from genre2_jax.experiment import experiment, networks, tasks
from genre2_jax.runs import workdirs
from genre2_jax.runs.finished import open_run


@pytest.fixture
def begin(make_config, data_file, tmp_path):
  """`(fields, path) -> workdir`, as a run begins it."""

  def create(fields=(), path=data_file, workdir=tmp_path / 'run'):
    built = experiment.build(
      make_config({'data.path': str(path)} | dict(fields))
    )
    workdir = workdirs.locate(workdir, built, built.stages)
    workdirs.create(workdir, built)
    return workdir

  return create


def test_a_workdir_goes_on_with_its_own_config(begin):
  workdir = begin()
  names = {path.name for path in workdir.iterdir()}
  assert names == {'config.json', 'model.json'}
  before = {name: (workdir / name).read_bytes() for name in names}
  # How often it is saved is nobody's identity.
  begin({'checkpoint.every_seconds': 1.0, 'steps_per_dispatch': 3})
  assert {name: (workdir / name).read_bytes() for name in names} == before


@pytest.mark.parametrize(
  ('fields', 'part'),
  [
    ({'seed': 1}, 'seed (0 there, 1 here)'),
    ({'rollouts.reward': 'rank'}, 'rollouts.reward (squared there, rank here)'),
    ({'finetune.objective': (('rloo', 1.0, {}),)}, 'finetune.objective ('),
    ({'finetune.objective': (('remax', 1.5, {}),)}, '1.5'),
    ({'stages': ('pretrain',)}, 'stages'),
    (
      {'pretrain.learning_rate': 0.5},
      'pretrain.learning_rate (0.01 there, 0.5 here)',
    ),
  ],
)
def test_another_config_is_refused_by_the_field(begin, fields, part):
  begin()
  assert_refused(lambda: begin(fields), 'another config', part, '--workdir')


def test_the_dtype_is_decided_when_a_workdir_is_made(begin, monkeypatch):
  for faster in ('bfloat16', 'float32'):
    monkeypatch.setattr(networks, 'faster_dtype', lambda _, x=faster: x)
    workdir = begin({'model.compute_dtype': 'auto'})
    assert workdirs.compute_dtype(workdir) == 'bfloat16'
  assert_refused(
    lambda: begin({'model.compute_dtype': 'float32'}),
    'model.compute_dtype (auto there, float32 here)',
  )


def test_nothing_is_measured_where_a_config_says_the_dtype(begin, monkeypatch):
  monkeypatch.setattr(networks, 'faster_dtype', None)
  assert workdirs.compute_dtype(begin()) == ''


def test_a_workdir_from_before_there_were_some_fields_goes_on(begin):
  workdir = begin()
  path = workdir / 'config.json'
  fields = json.loads(path.read_text())
  for group, name in (('data', 'kinds'), ('data', 'reading')):
    del fields[group][name]
  del fields['trie']
  path.write_text(json.dumps(fields))
  begin()
  assert_refused(
    lambda: begin({'trie.max_nodes': 7}),
    'trie.max_nodes (1024 there, 7 here)',
  )


def test_data_that_changed_is_refused(begin, tmp_path):
  path = write_table(tmp_path / 'houses.csv')
  begin(path=path)
  begin(path=path)
  path.write_text(path.read_text().replace('Ulm', 'Bonn', 1))
  assert_refused(lambda: begin(path=path), 'data of houses', 'begun with')


def test_a_damaged_config_is_refused(begin):
  workdir = begin()
  for text in ('{"seed": 0,', '[]', ''):
    (workdir / 'config.json').write_text(text)
    assert_refused(begin, 'config.json')


def test_a_default_name_tells_task_stage_and_config(
  begin, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  first = begin(workdir='')
  assert first.parts[0] == 'runs'
  assert first.name.startswith('houses_remax_')
  assert begin(workdir='') == first
  assert begin({'checkpoint.keep': 5}, workdir='') == first
  assert begin({'seed': 1}, workdir='') != first


def test_a_finished_run_is_read_back(finished, data_file, make_config):
  run = open_run(finished)
  assert run.stages == ('ce', 'remax')
  assert run.seeds == (0,)
  assert run.target_name == 'price'
  config = experiment.resolve(make_config()).to_dict()  # With its size's.
  assert json.dumps(run.experiment.fields, sort_keys=True) == json.dumps(
    config, sort_keys=True
  )
  table = tasks.read_table(make_config())
  model = networks.build_model(make_config(), table)
  assert run.model.features == model.features
  assert run.model.scaler == model.scaler


def test_runs_with_heads_of_old_are_told_from_those_of_today(
  finished, tmp_path
):
  """Before there was a choice: ReLU in the MLP, no bias on the token."""
  for name in ('model.json', 'run.json'):
    shutil.copy(finished / name, tmp_path / name)

  def opened(head, **more):
    fields = json.loads((finished / 'config.json').read_text())
    fields['language_model'] |= {'head': head, **more}
    if not more:
      del fields['language_model']['head_activation']
    (tmp_path / 'config.json').write_text(json.dumps(fields))
    run = open_run(tmp_path)
    return run.experiment.fields['language_model']['head_activation']

  assert opened('mlp') == 'relu'
  assert opened('mlp', head_activation='sigmoid') == 'sigmoid'
  assert opened('') == 'sigmoid'  # As a run of today: it may go on from it.
  assert opened('special_token', head_activation='sigmoid') == 'sigmoid'
  assert_refused(
    lambda: opened('special_token'), 'head=special_token', 'no bias'
  )


def test_a_workdir_is_one_processs_at_a_time(
  make_config, tmp_path, monkeypatch
):
  workdir = tmp_path / 'run'
  monkeypatch.setattr(train, '_run_stages', lambda *_: pytest.fail('it ran'))
  with workdirs.held(workdir):
    assert_refused(
      lambda: train.train_and_evaluate(make_config(), workdir),
      'another process runs in',
      '--workdir',
    )
    assert [path.name for path in workdir.iterdir()] == ['.lock']
  with workdirs.held(workdir):
    pass


_HOLDER = """
import pathlib, sys, time
from genre2_jax.runs import workdirs
with workdirs.held(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(60)
"""


def test_a_process_that_is_killed_lets_go_of_its_workdir(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', _HOLDER, tmp_path], stdout=subprocess.PIPE
  )
  assert process.stdout.readline() == b'held\n'

  def take():
    with workdirs.held(tmp_path):
      return True

  assert_refused(take, 'another process')
  process.kill()
  process.communicate()
  assert take()


def test_where_there_are_no_locks_a_run_goes_on(tmp_path, monkeypatch, caplog):
  def refuse(*_):
    raise OSError(errno.ENOLCK, 'no locks')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with workdirs.held(tmp_path):
    assert 'is not locked' in caplog.text


@pytest.mark.slow
def test_of_two_commands_in_one_workdir_the_second_is_refused(
  start_main, tmp_path
):
  pair = [start_main(f'--workdir={tmp_path / "run"}') for _ in range(2)]
  errors = [process.communicate()[1] for process in pair]
  codes = [process.returncode for process in pair]
  assert sorted(codes) == [0, 2], errors
  said = errors[codes.index(2)]
  assert said.count('\n') == 1 and 'another process runs in' in said


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('eval.batch_size', 'x'),
    ('eval.batch_size', 0),
    ('batch_size', 3.5),
    ('batch_size', True),
    ('batch_size', [16]),
    ('model.width', None),
    ('model.dropout', float('nan')),
    ('model', 3),
    ('data.kinds', 5),
    ('stages', 'pretrain'),
    ('stages', [1]),
    ('finetune.objective', [['remax', 1.0]]),
    ('finetune.objective', []),
    ('text.max_rows', [0.5, 0, 0]),
    ('report', 'no'),
  ],
)
def test_odd_values_of_a_strangers_config_name_file_and_field(
  finished, tmp_path, field, value
):
  fields = json.loads((finished / 'config.json').read_text())
  *parents, last = field.split('.')
  group = fields
  for parent in parents:
    group = group[parent]
  group[last] = value
  for name in ('model.json', 'run.json'):
    shutil.copy(finished / name, tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(fields))
  assert_refused(lambda: open_run(tmp_path), str(path), field)


def places(value, before=()):
  """Places of a JSON value, of lists the first alone."""
  yield before
  items = value.items() if isinstance(value, dict) else ()
  if isinstance(value, list):
    items = list(enumerate(value))[:1]
  for key, part in items:
    yield from places(part, (*before, key))


def damaged(value, place, other):
  """A JSON value with another at a place; `...` takes it out."""
  if not place:
    return other
  value = copy.copy(value)
  if len(place) == 1 and other is ...:
    del value[place[0]]
  else:
    value[place[0]] = damaged(value[place[0]], place[1:], other)
  return value


@pytest.mark.parametrize(
  'name', ['config.json', 'model.json', 'run.json', 'margins.json']
)
def test_a_damaged_file_opens_or_is_refused_in_a_line(finished, tmp_path, name):
  for file in ('config.json', 'model.json', 'run.json', 'margins.json'):
    shutil.copy(finished / file, tmp_path)
  whole = json.loads((finished / name).read_text())
  others = (..., None, 'x', -1, 3.5, [], ['x'], {'a': 1}, True, 10**30)
  refused = 0
  for place in places(whole):
    for other in others:
      if place or other is not ...:
        content = json.dumps(damaged(whole, place, other))
        (tmp_path / name).write_text(content)
        try:
          open_run(tmp_path)
        except InputError as error:
          refused += 1
          assert '\n' not in str(error)
  assert refused > 10
