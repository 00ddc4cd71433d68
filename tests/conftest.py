"""A tiny table, a tiny config, and one finished run that many tests share."""

import json
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import genre2_jax
from configs import base
from genre2_jax import train
from genre2_jax.errors import InputError
from genre2_jax.objectives import objective
from genre2_jax.training import train_state
from genre2_jax.training.step import train_step

ROOT = pathlib.Path(__file__).parent.parent
# The workers share the cores, and OpenMP's threads wait by spinning.
os.environ.setdefault('OMP_NUM_THREADS', '1')

TINY = {
  'batch_size': 16,
  'tokenizer.base': 4,
  'tokenizer.digits': 2,
  'model.width': 16,
  'model.num_layers': 1,
  'model.num_heads': 2,
  'model.feedforward': 16,
  'model.encoder_hidden': 16,
  'model.encoder_layers': 1,
  'model.head_hidden': 16,
  'model.head_layers': 1,
  'pretrain.epochs': 12,
  'pretrain.learning_rate': 1e-2,
  'finetune.epochs': 3,
  'finetune.learning_rate': 5e-3,
  'rollouts.group_size': 4,
  'optimizer.warmup_steps': 5,
  'eval.num_samples': 8,
  'eval.batch_size': 16,
}

# The same for `DecodingRegressor`.
TINY_REGRESSOR = {
  'base': 4,
  'digits': 2,
  'width': 16,
  'num_layers': 1,
  'num_heads': 2,
  'feedforward': 16,
  'encoder_hidden': 16,
  'encoder_layers': 1,
  'batch_size': 16,
  'max_steps': 60,
  'learning_rate': 1e-2,
  'finetune_max_steps': 12,
  'finetune_learning_rate': 3e-3,
  'group_size': 4,
  'num_samples': 8,
  'config': {'optimizer.warmup_steps': 5, 'eval.batch_size': 16},
}


@pytest.hookimpl(tryfirst=True)  # Before pytest-xdist looks at the marks.
def pytest_collection_modifyitems(items):
  """The run that many tests share is made once, by the worker that has them."""
  for item in items:
    if 'finished' in item.fixturenames:
      item.add_marker(pytest.mark.xdist_group('finished'))


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory, worker_id):
  """Programs are compiled once per session, by all its processes."""
  base = tmp_path_factory.getbasetemp()
  folder = str((base if worker_id == 'master' else base.parent) / 'compiled')
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  return folder


@pytest.fixture(scope='module')
def quick_compiles():
  """For modules where compiling is what takes time, not running."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def tiny_regressor(monkeypatch):
  """Shown code leaves sizes open: these are the defaults then."""
  defaults = genre2_jax.DecodingRegressor.__init__.__kwdefaults__
  for name, value in TINY_REGRESSOR.items():
    monkeypatch.setitem(defaults, name, value)


def write_table(path, num_rows=120, target=None):
  """A CSV of numbers and a category, with gaps; `target` for all rows."""
  draw = np.random.RandomState(7)
  area = draw.uniform(30, 200, num_rows).round(1)
  rooms = draw.randint(1, 7, num_rows)
  age = draw.uniform(0, 90, num_rows).round(2)
  city = draw.choice(['Ulm', 'Köln', 'Bad "X", Süd'], num_rows)
  price = 900 * area + 5000 * rooms - 300 * age + 20000 * (city == 'Ulm')
  price = (price + draw.normal(0, 3000, num_rows)).round(2)
  lines = ['area,rooms,age,city,price']
  for i in range(num_rows):
    cells = [
      '' if i % 11 == 3 else str(area[i]),
      str(rooms[i]),
      'nan' if i % 7 == 5 else str(age[i]),
      '' if i % 13 == 6 else '"' + city[i].replace('"', '""') + '"',
      str(price[i] if target is None else target),
    ]
    lines.append(','.join(cells))
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return path


@pytest.fixture(scope='session')
def data_file(tmp_path_factory):
  """120 rows, of which 76 train, 20 validate and 24 test."""
  return write_table(tmp_path_factory.mktemp('data') / 'houses.csv')


@pytest.fixture(scope='session')
def make_config(data_file):
  """`({field: value}) -> config`: TINY on `data_file`, with changes."""

  def make(fields=()):
    config = base.get_config()
    source = {'data.path': str(data_file), 'data.target': 'price'}
    config.update_from_flattened_dict(TINY | source | dict(fields))
    return config

  return make


@pytest.fixture(scope='session')
def finished(make_config, tmp_path_factory):
  """Workdir of a whole run, cross-entropy and ReMax, never interrupted."""
  workdir = tmp_path_factory.mktemp('finished') / 'run'
  return train.train_and_evaluate(make_config(), workdir)


@pytest.fixture(scope='session')
def start_main(data_file, compilation_cache):
  """`(*arguments, **environment) -> Popen` of the real command.

  `program`: what Python runs instead.
  """
  tiny = [f'--config.{field}={value}' for field, value in TINY.items()]
  tiny += [f'--config.data.path={data_file}', '--config.data.target=price']

  def start(
    *arguments,
    tiny_config=True,
    program=('-m', 'genre2_jax.main'),
    **environment,
  ):
    recipe = ['--config=configs/remax_talent.py', *tiny]
    return subprocess.Popen(
      [
        sys.executable,
        *program,
        *(recipe if tiny_config else ()),
        *arguments,
      ],
      cwd=ROOT,
      env=os.environ
      | {
        'JAX_COMPILATION_CACHE_DIR': compilation_cache,
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
      }
      | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


def read_checkpoint(folder, step=None):
  """The arrays of a checkpoint, by default the newest: nested dicts.

  Whatever devices saved them.
  """
  with ocp.CheckpointManager(
    folder,
    options=ocp.CheckpointManagerOptions(read_only=True),
    item_handlers=ocp.StandardCheckpointHandler(),
  ) as manager:
    step = manager.latest_step() if step is None else step
    target = jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), manager.item_metadata(step).tree
    )
    return manager.restore(step, args=ocp.args.StandardRestore(target))


def assert_same_bits(a, b):
  """Two trees of arrays are the same, bit by bit."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    assert x.tobytes() == y.tobytes()


def assert_same_end(workdir, reference):
  """Two runs of a config ended alike: states, results, predictions, log."""
  stages = json.loads((reference / 'run.json').read_text())['stages']
  assert json.loads((workdir / 'run.json').read_text())['stages'] == stages
  for stage in stages:
    ours, theirs = (
      read_checkpoint(folder / 'checkpoints' / stage)
      for folder in (workdir, reference)
    )
    assert_same_bits(ours, theirs)
  for name in ('results.csv', 'predictions.csv'):
    assert (workdir / name).read_bytes() == (reference / name).read_bytes()
  assert read_log(workdir) == read_log(reference)


def read_log(workdir):
  """The records of metrics.jsonl without the time they took."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  for record in records:
    del record['seconds']
  return records


def assert_refused(action, *parts):
  """`action` raises an InputError of one line that says all of `parts`."""
  with pytest.raises(InputError) as caught:
    action()
  message = str(caught.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message


def assert_takes_a_step(stage, model, examples):
  """A stage's step, traced: every shape fits, every metric is there."""
  optimizer = optax.sgd(0.1)
  shared = {
    'network': model.network,
    'codec': model.codec,
    'objective': stage.objective,
  }
  batch = jax.tree.map(lambda x: x[:4], examples)

  def step(key):
    params = objective.init_params(key, model.example_inputs(), **shared)
    state = train_state.create(
      nn.unbox(params),
      key,
      optimizer,
      stage.objective.metrics,
      keep_reference='reference' in stage.objective.needs,
      is_frozen=model.network.frozen,
    )
    return state, train_step(state, batch, optimizer=optimizer, **shared)

  before, after = jax.eval_shape(step, jax.random.key(0))
  same = jax.tree.map(
    lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), before, after
  )
  assert jax.tree.all(same)
  assert set(after.totals) == set(stage.objective.metrics)
