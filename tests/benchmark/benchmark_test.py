import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn_runs import write_run
from ml_collections import ConfigDict

from configs import ablations, talent_all, talent_hundred, talent_twenty
from genre2_jax import errors
from genre2_jax.baselines import packages
from genre2_jax.benchmark import __main__ as doors
from genre2_jax.benchmark import figures, forecast, protocols, suite
from genre2_jax.devices import resident
from genre2_jax.devices.interrupts import Interrupts
from genre2_jax.errors import InterruptedRunError
from genre2_jax.experiment import experiment
from genre2_jax.experiment.defaults import sized

ROOT = pathlib.Path(__file__).parents[2]
DATA = ROOT.parent / 'shared/data/talent'


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
  """Figures have tests of their own, and take seconds."""
  monkeypatch.setattr(figures, 'draw', lambda compared: [])


@pytest.fixture
def config(tmp_path):
  (tmp_path / 'TALENT').mkdir()
  return make_config(tmp_path / 'TALENT')


def make_config(root, tasks=('a', 'b', 'c'), methods=('ce', 'remax', 'wide')):
  config = ConfigDict(
    {
      'root': str(root),
      'tasks': tasks,
      'methods': methods,
      'seed': 0,
      'num_seeds': 2,
      'fields': (('tokenizer.base', 4), ('tokenizer.digits', 4)),
    }
  )
  config.recipes = ConfigDict(
    {
      'ce': ('ce', ()),
      'remax': ('remax', ()),
      'crps': ('crps', (('finetune.epochs', 7),)),
      'wide': ('remax', (('model.width', 512),)),
      'point': ('pointwise', ()),
      'catboost': ('catboost', ()),
    }
  )
  return config.lock()


class FakeTraining:
  """Stands in for train_and_evaluate; remembers what it was asked to do."""

  def __init__(self, failing=None):
    self.configs = {}
    self.order = []
    self.failing = failing or {}

  def __call__(self, config, workdir, interrupts):
    workdir = pathlib.Path(workdir)
    run = (config.data.name, workdir.name)
    self.order.append(run)
    self.configs[run] = config
    (workdir / 'checkpoints').mkdir(parents=True, exist_ok=True)
    (workdir / 'checkpoints' / 'state').write_text('weights')
    if run in self.failing:
      raise self.failing[run]
    seeds = range(config.seed, config.seed + config.num_seeds)
    write_run(workdir, task=run[0], method=run[1], seeds=list(seeds), n=12, G=4)


ALL = [(t, m) for t in 'abc' for m in ('ce', 'remax', 'wide')]


def test_every_run_is_done_once_with_its_config(config, tmp_path):
  training, workdir = FakeTraining(), tmp_path / 'runs'
  assert suite.run(config, workdir, training) == []
  assert training.order == ALL
  for (task, method), made in training.configs.items():
    assert (made.data.root, made.data.name) == (config.root, task)
    assert (made.seed, made.num_seeds) == (0, 2)
    assert made.tokenizer.base == 4
    assert sized(made).model.width == (512 if method == 'wide' else 64)
    seconds = json.loads((workdir / task / method / 'seconds.json').read_text())
    assert seconds['seconds'] >= 0


def test_finished_runs_keep_no_checkpoints(config, tmp_path):
  suite.run(config, tmp_path / 'runs', FakeTraining())
  assert list((tmp_path / 'runs').glob('*/*/run.json'))
  assert not list((tmp_path / 'runs').glob('*/*/checkpoints'))


def test_methods_that_would_train_the_same_base_share_it(config, tmp_path):
  config.methods = ('ce', 'remax', 'crps', 'wide', 'point', 'catboost')
  training = FakeTraining()
  suite.run(config, tmp_path / 'runs', training)
  base = str(tmp_path / 'runs' / 'b' / 'ce')
  shared = {m: training.configs['b', m].init_from for m in config.methods}
  assert shared == {
    'ce': '',
    'remax': base,
    'crps': base,
    'wide': '',  # another model
    'point': '',  # nothing to fine-tune
    'catboost': '',  # no network
  }
  assert training.configs['b', 'crps'].finetune.epochs == 7
  assert sized(training.configs['b', 'remax']).finetune.epochs == 100


def test_without_the_base_among_the_methods_each_trains_its_own(
  config, tmp_path
):
  config.methods = ('remax',)
  training = FakeTraining()
  suite.run(config, tmp_path / 'runs', training)
  assert training.configs['a', 'remax'].init_from == ''


def test_finished_runs_are_not_run_again(config, tmp_path, capsys):
  config.tasks = ('a',)
  suite.run(config, tmp_path / 'runs', FakeTraining())
  config.tasks = ('a', 'b')
  training = FakeTraining()
  capsys.readouterr()
  suite.run(config, tmp_path / 'runs', training)
  assert training.order == [('b', m) for m in ('ce', 'remax', 'wide')]
  lines = capsys.readouterr().out.splitlines()
  assert [line.partition(':')[0] for line in lines] == [
    '4/6 b, ce',
    '5/6 b, remax',
    '6/6 b, wide',
  ]
  assert 'about' in lines[0] and 'left' in lines[0]
  assert 'left' not in lines[-1]


def test_a_failing_run_is_noted_and_the_others_go_on(config, tmp_path, capsys):
  workdir = tmp_path / 'runs'
  failing = {
    ('a', 'remax'): errors.NonFiniteError('loss is not finite\nat all'),
    ('b', 'ce'): ZeroDivisionError(),
  }
  training = FakeTraining(failing)
  failures = suite.run(config, workdir, training)
  assert [(f.task, f.method, f.type) for f in failures] == [
    ('a', 'remax', 'NonFiniteError'),
    ('b', 'ce', 'ZeroDivisionError'),
    ('b', 'remax', 'InputError'),  # its base is not there
  ]
  # wide has a base of its own.
  assert ('b', 'wide') in training.order
  assert ('b', 'remax') not in training.order
  assert 'remax: failed, NonFiniteError: loss' in capsys.readouterr().out
  note = json.loads((workdir / 'failures/a__remax.json').read_text())
  assert (note['type'], note['reason']) == (
    'NonFiniteError',
    'loss is not finite',
  )
  assert any('FakeTraining' in x or '__call__' in x for x in note['traceback'])
  suite.collect(workdir)
  table = (workdir / 'table.md').read_text()
  assert '| b | ce | ZeroDivisionError |' in table
  assert 'NonFiniteError: loss is not finite' in table
  # The next start tries them again, and only them.
  training = FakeTraining()
  assert suite.run(config, workdir, training) == []
  assert training.order == [('a', 'remax'), ('b', 'ce'), ('b', 'remax')]
  assert not list((workdir / 'failures').iterdir())


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_parts_cover_every_run_once(config, tmp_path, count):
  order = []
  for index in range(count):
    training = FakeTraining()
    suite.run(config, tmp_path / 'runs', training, index=index, count=count)
    # A task's methods stay together: the base is theirs.
    assert training.order == [
      (t, m) for t in 'abc'[index::count] for m in ('ce', 'remax', 'wide')
    ]
    order += training.order
  assert sorted(order) == sorted(ALL)
  info = json.loads((tmp_path / 'runs/benchmark.json').read_text())
  assert info['tasks'] == ['a', 'b', 'c']


class AskedToLeave:
  """False until the given number of questions has been asked."""

  def __init__(self, questions):
    self.questions = questions

  def __bool__(self):
    self.questions -= 1
    return self.questions < 0


def test_an_interrupt_between_runs_leaves_and_resumes(config, tmp_path):
  training = FakeTraining()
  with pytest.raises(errors.InterruptedRunError, match='b, ce'):
    suite.run(config, tmp_path / 'runs', training, AskedToLeave(3))
  assert training.order == ALL[:3]
  rest = FakeTraining()
  suite.run(config, tmp_path / 'runs', rest)
  assert training.order + rest.order == ALL


@pytest.mark.parametrize(
  'error', [errors.InterruptedRunError('at step 7'), KeyboardInterrupt()]
)
def test_an_interrupt_within_a_run_is_no_failure(config, tmp_path, error):
  training = FakeTraining({('a', 'remax'): error})
  with pytest.raises(type(error)):
    suite.run(config, tmp_path / 'runs', training)
  assert training.order == ALL[:2]
  assert not (tmp_path / 'runs/failures').exists()
  # Its checkpoints are what it goes on from.
  assert (tmp_path / 'runs/a/remax/checkpoints/state').exists()


def test_seconds_of_an_interrupted_run_add_up(config, tmp_path):
  folder = tmp_path / 'runs/a/ce'
  folder.mkdir(parents=True)
  (folder / 'seconds.json').write_text('{"seconds": 100.0}')
  config.tasks, config.methods = ('a',), ('ce',)

  def training(config, workdir, interrupts):
    write_run(pathlib.Path(workdir), task='a')
    (folder / 'seconds.json').write_text('{"seconds": 100.0}')

  suite.run(config, tmp_path / 'runs', training)
  seconds = json.loads((folder / 'seconds.json').read_text())['seconds']
  assert 100 < seconds < 110


@pytest.mark.skipif(not resident.peak(), reason='the system does not say')
def test_memory_is_of_the_run_and_not_of_one_before(config, tmp_path):
  config.tasks, config.methods = ('a', 'b'), ('ce',)

  def training(config, workdir, interrupts):
    took = 300_000_000 if config.data.name == 'a' else 0
    assert len(b'1' * took) == took
    write_run(pathlib.Path(workdir), task=config.data.name)

  suite.run(config, tmp_path / 'runs', training)
  first, second = (
    json.loads((tmp_path / 'runs' / task / 'ce/seconds.json').read_text())
    for task in 'ab'
  )
  assert first['peak_bytes'] - second['peak_bytes'] > 200_000_000


def test_seconds_of_a_run_that_ends_the_process_add_up(
  config, tmp_path, monkeypatch
):
  """A signal in a compilation ends it; what a test can't bear is left out."""
  config.tasks, config.methods = ('a',), ('ce',)
  folder, left = tmp_path / 'runs/a/ce', []

  def leave(error):
    left.append(json.loads((folder / 'seconds.json').read_text()))
    raise error

  monkeypatch.setattr(errors, 'leave', leave)

  def training(config, workdir, interrupts):
    folder.mkdir(parents=True)
    with interrupts.at_once('compiling'):
      interrupts.leave_if_idle()

  interrupts = Interrupts(leaves=True)
  with pytest.raises(InterruptedRunError, match='while compiling'):
    suite.run(config, tmp_path / 'runs', training, interrupts)
  assert left[0]['seconds'] > 0


def test_the_command_leaves_at_once_where_nothing_is_lost(
  config, tmp_path, monkeypatch
):
  seen = []

  def run(config, workdir, training, interrupts, **options):
    seen.append(interrupts)
    return []

  values = {
    '_METHODS': 'all', '_TASKS': 'all', '_SEEDS': '', '_INDEX': 0,
    '_COUNT': 1, '_COLLECT': False, '_PUBLISHED': '',
  }  # fmt: skip
  for name, value in values.items():
    monkeypatch.setattr(doors, name, SimpleNamespace(value=value))
  given = SimpleNamespace(
    CONFIG=SimpleNamespace(value=config),
    WORKDIR=SimpleNamespace(value=str(tmp_path)),
  )
  monkeypatch.setattr(doors, 'command_line', given)
  monkeypatch.setattr(suite, 'run', run)
  for task in config.tasks:
    write_task(tmp_path / 'TALENT', task, num_train=90, columns=2)
  doors.main()
  assert seen[0]._leaves


def test_checkpoints_left_by_a_crash_are_deleted(config, tmp_path):
  suite.run(config, tmp_path / 'runs', FakeTraining())
  folder = tmp_path / 'runs/a/remax/checkpoints'
  folder.mkdir()
  suite.run(config, tmp_path / 'runs', FakeTraining())
  assert not folder.exists()


def test_collect_gathers_what_is_finished(config, tmp_path):
  workdir = tmp_path / 'runs'
  suite.run(config, workdir, FakeTraining(), index=0, count=2)
  path = suite.collect(workdir)
  assert path == workdir / 'report.html' and path.exists()
  results = pd.read_csv(workdir / 'results.csv')
  assert set(results['task']) == {'a', 'c'}
  assert set(results['method']) == {'ce', 'remax', 'wide'}
  assert set(results['seed'].astype(str)) == {'0', '1'}
  first = (workdir / 'table.md').read_text()
  suite.run(config, workdir, FakeTraining(), index=1, count=2)
  suite.collect(workdir)
  second = (workdir / 'table.md').read_text()
  assert '| b |' in second and '| b |' not in first


def test_collect_needs_a_benchmark_with_runs(tmp_path):
  with pytest.raises(errors.InputError, match='nowhere'):
    suite.collect(tmp_path / 'nowhere')
  with pytest.raises(errors.InputError, match=r'benchmark\.json'):
    suite.collect(tmp_path)


def test_tasks_and_methods_may_be_added_but_not_changed(config, tmp_path):
  workdir = tmp_path / 'runs'
  some = suite.select(config, methods='ce', tasks='b')
  suite.run(some, workdir, FakeTraining())
  more = suite.select(config, methods='remax,ce', tasks='a,b')
  training = FakeTraining()
  suite.run(more, workdir, training)
  assert training.order == [('a', 'ce'), ('a', 'remax'), ('b', 'remax')]
  info = json.loads((workdir / 'benchmark.json').read_text())
  assert info['tasks'] == ['b', 'a'] and info['methods'] == ['ce', 'remax']
  for change, words in (
    ({'num_seeds': 3}, 'seeds'),
    ({'fields': (('tokenizer.base', 8),)}, 'fields'),
    ({'recipes.remax': ('crps', ())}, 'the recipe of remax'),
  ):
    other = more.copy_and_resolve_references()
    other.update_from_flattened_dict(change)
    with pytest.raises(errors.InputError, match=words):
      suite.run(other, workdir, FakeTraining())


def test_selection_keeps_the_order_of_the_config(config):
  config.methods = ('remax', 'ce', 'wide')
  chosen = suite.select(config, methods='wide,ce, remax', tasks='c,a')
  assert chosen.methods == ('ce', 'remax', 'wide')  # the base first
  assert chosen.tasks == ('a', 'c')
  chosen = suite.select(config, seeds='3,4,5')
  assert (chosen.seed, chosen.num_seeds) == (3, 3)
  assert chosen.tasks == ('a', 'b', 'c')


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ({'methods': 'remx'}, "did you mean 'remax'"),
    ({'tasks': 'd'}, "no task 'd'"),
    ({'tasks': ','}, '--tasks=,'),
    ({'seeds': '0,2'}, 'consecutive'),
    ({'seeds': 'one'}, 'whole numbers'),
    ({'seeds': '-1,0'}, 'consecutive'),
  ],
)
def test_unusable_selections_are_refused(config, flags, words):
  with pytest.raises(errors.InputError, match=words) as caught:
    suite.select(config, **flags)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('change', 'options', 'words'),
  [
    ({'root': ''}, {}, '--config.root='),
    ({'root': '/nowhere'}, {}, 'nowhere'),
    ({'recipes.remax': ('remx', ())}, {}, "method remax: 'remx'.*'remax'"),
    ({'fields': (('model.widht', 4),)}, {}, 'widht'),
    ({'fields': (('model.width', 'much'),)}, {}, 'method ce'),
    ({'methods': ('ce', 'mbr')}, {}, "no 'mbr'"),
    ({}, {'index': 4, 'count': 4}, '--index=4 must be 0 to 3'),
  ],
)
def test_what_no_run_could_use_is_found_before_the_first(
  config, tmp_path, change, options, words
):
  config.update_from_flattened_dict(change)
  training = FakeTraining()
  with pytest.raises(errors.InputError, match=words) as caught:
    suite.run(config, tmp_path / 'runs', training, **options)
  assert '\n' not in str(caught.value)
  assert training.order == [] and not (tmp_path / 'runs').exists()


def command(*arguments):
  done = subprocess.run(
    [sys.executable, '-m', 'genre2_jax.benchmark', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--config=configs/talent_twenty.py'], 'give a --workdir'),
    (['--config=talent_twenty', '--workdir=W'], "config.root=''"),
    (['--config=configs/ablations.py:rewrd'], "did you mean 'reward'"),
    (['--config=ablations:rewrd'], "did you mean 'reward'"),
    (['--config=talent_twent'], "did you mean 'talent_twenty'"),
    (['--config=talent:ce', '--workdir=W'], 'no benchmark'),
    (
      ['--config=configs/talent_twenty.py', '--workdir=W', '--methods=cee'],
      "did you mean 'ce'",
    ),
    (['--workdir=W', '--collect'], 'no workdir of a benchmark'),
  ],
)
def test_a_wrong_command_is_one_line_and_code_2(tmp_path, arguments, words):
  arguments = [a.replace('=W', f'={tmp_path}/w') for a in arguments]
  code, out, err = command(*arguments)
  assert (code, out) == (2, '')
  assert err.count('\n') == 1 and err.startswith('genre2_jax: '), err
  assert words in err


def test_collect_command(config, tmp_path):
  workdir = tmp_path / 'runs'
  config.tasks, config.methods = ('a',), ('ce',)
  suite.run(config, workdir, FakeTraining())
  published = tmp_path / 'p.csv'
  published.write_text('dataset,tabr_RMSE\na,3\n')
  code, out, err = command(
    f'--workdir={workdir}', '--collect', f'--published={published}'
  )
  assert (code, err) == (0, '')
  assert str(workdir / 'table.md') in out
  assert str(workdir / 'report.html') in out
  assert 'tabr (published)' in (workdir / 'table.md').read_text()


def test_the_command_is_the_same_for_every_part():
  assert doors._command(
    ['--config=c.py', '--index=1', '--count', '4', '--seeds=0,1', '--collect']
  ) == ('python -m genre2_jax.benchmark --config=c.py --seeds=0,1')


def test_methods_whose_packages_are_missing_are_left_out_and_said(
  config, tmp_path, monkeypatch, capsys
):
  config.tasks, config.methods = ('a',), ('ce', 'catboost', 'boosted')
  with config.unlocked():
    config.recipes.boosted = ('boosted', ())
  assert len(suite.select(config, methods='ce,boosted').methods) == 2
  monkeypatch.setattr(
    packages, 'missing', lambda name: f'{name} is not installed: pip install it'
  )
  training = FakeTraining()
  assert suite.run(suite.select(config), tmp_path / 'runs', training) == []
  assert training.order == [('a', 'ce')]
  assert capsys.readouterr().out.splitlines()[:2] == [
    f'Left out, {method}: catboost is not installed: pip install it'
    for method in ('catboost', 'boosted')
  ]
  with pytest.raises(errors.InputError, match='pip install it'):
    suite.select(config, methods='ce,catboost')


# ------------------------------------------------------------------ protocols


@pytest.mark.skipif(not DATA.is_dir(), reason='no folder of TALENT tasks')
def test_the_twenty_tasks_follow_their_rule():
  rows = {
    path.name: len(np.load(path / 'y_train.npy', allow_pickle=False))
    for path in DATA.iterdir()
    if path.is_dir()
  }
  assert len(rows) == 44
  small = sorted((n, task) for task, n in rows.items() if n <= 6500)
  assert len(small) == 26
  chosen = [small[round(i * 25 / 19)][1] for i in range(20)]
  assert list(protocols.TASKS) == chosen
  assert list(protocols.ROWS.items()) == [
    (task, n) for n, task in sorted((n, task) for task, n in rows.items())
  ]


def test_all_tasks_are_cut_alike_and_the_others_are_not_of_the_twenty(tmp_path):
  whole, others = protocols.talent_all(), protocols.talent_all('others')
  assert len(whole.tasks) == 44
  assert len(others.tasks) == 24
  assert set(others.tasks) == set(whole.tasks) - set(protocols.TASKS)
  for method in whole.methods:
    made = suite.configure(others, 'Diamonds', method, tmp_path)
    assert made.data.max_train_rows == 20_000
  with pytest.raises(errors.InputError, match="did you mean 'others'"):
    protocols.talent_all('other')


def write_task(root, name, *, num_train, columns):
  """A TALENT task of zeros."""
  folder = root / name
  folder.mkdir(parents=True)
  for split, rows in (('train', num_train), ('val', 20), ('test', 30)):
    np.save(folder / f'N_{split}.npy', np.zeros((rows, columns)))
    np.save(folder / f'y_{split}.npy', np.zeros(rows))


def test_the_hundred_are_by_the_papers_protocol(tmp_path):
  hundred = protocols.talent_hundred()
  assert len(set(hundred.tasks)) == 100
  for method in hundred.methods:
    made = suite.configure(hundred, 'Abalone_reg', method, tmp_path)
    made = experiment.resolve(made)
    assert (made.model.width, made.batch_size) == (128, 128)
    assert made.finetune.epochs == 100
    starts = method in ('remax', 'grpo', 'genre2')
    assert bool(made.init_from) == starts


def test_tasks_that_a_root_lacks_are_left_out_by_name(config, tmp_path):
  root = tmp_path / 'tasks'
  write_task(root, 'b', num_train=100, columns=3)
  config.root = str(root)
  there, missing = suite.present(config)
  assert (there.tasks, missing) == (('b',), ['a', 'c'])
  (root / 'b').rename(root / 'd')
  with pytest.raises(errors.InputError, match="none of the tasks 'a', 'b'"):
    suite.present(config)


def test_a_forecast_is_of_the_runs_that_are_left(config, tmp_path):
  root, runs = tmp_path / 'tasks', tmp_path / 'runs'
  for name, rows in (('a', 100), ('b', 1000), ('c', 100)):
    write_task(root, name, num_train=rows, columns=3)
  config.root = str(root)
  config.methods = ('ce', 'catboost')
  whole, known, others = forecast.seconds(config, runs, 1e9)
  assert (known, others) == (3, 3)
  parts = [
    forecast.seconds(config, runs, 1e9, index=i, count=3)[0] for i in range(3)
  ]
  assert parts[0] == parts[2] < parts[1]
  assert whole == pytest.approx(sum(parts))
  assert forecast.seconds(config, runs, 2e9)[0] == pytest.approx(whole / 2)
  finished = runs / 'b' / 'ce' / 'run.json'
  finished.parent.mkdir(parents=True)
  finished.write_text('{}')
  left = forecast.seconds(config, runs, 1e9)
  assert left == (pytest.approx(parts[0] + parts[2]), 2, 3)
  assert '2 runs' in forecast.said(*left)
  assert forecast.said(0.0, 0, 3) == ''
  # A damaged task is for its runs to refuse.
  for damaged in (b'', b'no array', b'\x93NUMPY\x01\x00\x04\x00(,)\n'):
    (root / 'c' / 'y_val.npy').write_bytes(damaged)
    total, known, _ = forecast.seconds(config, runs, 1e9)
    assert (total, known) == (pytest.approx(parts[0]), 1)
  np.save(root / 'c' / 'y_val.npy', np.float64(1))  # No rows.
  assert forecast.seconds(config, runs, 1e9)[1] == 1
  np.save(root / 'a' / 'y_train.npy', np.zeros(0))
  assert forecast.seconds(config, runs, 1e9)[0] < parts[0]


@pytest.mark.parametrize('method', protocols.METHODS)
def test_recipes_of_the_twenty_tasks_take_its_fields(method, tmp_path):
  config = protocols.talent_twenty()
  made = sized(suite.configure(config, config.tasks[0], method, tmp_path))
  assert made.data.name == config.tasks[0]
  assert (made.model.width, made.tokenizer.base) == (64, 4)
  shares = {'raft', 'crps', 'remax', 'grpo', 'rloo', 'exact', 'genre2'}
  base = str(tmp_path / config.tasks[0] / 'ce')
  assert made.init_from == (base if method in shares else '')


def test_seeds_that_a_recipe_takes_together_stay_so_beside_one(tmp_path):
  config = protocols.talent_twenty()
  for count, expected in ((1, {'best': 6, 'ce': 1}), (3, {'best': 3, 'ce': 3})):
    config.num_seeds = count
    for method, num_seeds in expected.items():
      made = suite.configure(config, config.tasks[0], method, tmp_path)
      assert made.num_seeds == num_seeds


def same(a, b):
  return a.to_dict() == b.to_dict()


def test_files_of_benchmarks_are_the_packages():
  assert same(talent_twenty.get_config(), protocols.talent_twenty())
  assert same(talent_all.get_config(), protocols.talent_all())
  assert same(talent_hundred.get_config(), protocols.talent_hundred())
  assert same(talent_all.get_config('others'), protocols.talent_all('others'))
  assert same(ablations.get_config(), protocols.ablation('reward'))
  for name in protocols.ABLATIONS:
    assert same(ablations.get_config(name), protocols.ablation(name))


@pytest.mark.parametrize('name', protocols.ABLATIONS)
def test_variants_of_an_ablation_differ_from_each_other(name, tmp_path):
  config = protocols.ablation(name)
  made = {
    method: suite.configure(config, config.tasks[0], method, tmp_path)
    for method in config.methods
  }
  for run in made.values():
    alone = run.copy_and_resolve_references()
    alone.init_from = ''
    experiment.resolve(alone)  # No field of one refuses another's.
  told = {str(run.copy_and_resolve_references()) for run in made.values()}
  assert len(told) == len(made) > 1
  if name == 'levers':
    assert {run.init_from for run in made.values()} == {''}
    assert [run.num_seeds for run in made.values()].count(1) == 1
  elif name != 'tokenizer':
    base = str(tmp_path / config.tasks[0] / 'ce')
    assert {run.init_from for run in made.values()} == {'', base}
