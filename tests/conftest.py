"""Fixtures: a tiny table, a tiny config, and one finished run of many tests."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
from tiny import TINY, TINY_REGRESSOR, write_table

import genre2_jax
from configs import base
from genre2_jax import train

# Asserts of `checks` say what differs, as those of tests do.
pytest.register_assert_rewrite('checks')
# The workers share the cores, and OpenMP's threads wait by spinning.
os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.hookimpl(tryfirst=True)  # Before pytest-xdist looks at the marks.
def pytest_collection_modifyitems(items):
  """One worker has all tests of a file: its fixtures, its compiled programs.

  The run that tests of several files share is made once, by the worker that
  has all of these.
  """
  sharing = {item.path for item in items if 'finished' in item.fixturenames}
  for item in items:
    if item.path in sharing:
      item.add_marker(pytest.mark.xdist_group('finished'))
    elif item.get_closest_marker('xdist_group') is None:
      item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory, worker_id):
  """Programs are compiled once per session, by all its processes."""
  base = tmp_path_factory.getbasetemp()
  folder = str((base if worker_id == 'master' else base.parent) / 'compiled')
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  return folder


@pytest.fixture(scope='module', autouse=True)
def programs_of_this_module():
  """Compiled programs are let go of: those of the whole suite take 5 GB."""
  yield
  jax.clear_caches()


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
      cwd=pathlib.Path(__file__).parent.parent,
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
