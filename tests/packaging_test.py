"""What `pip install .` brings, and what `import genre2_jax` does not."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest

import genre2_jax

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / 'genre2_jax'
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


def requirements(name):
  """Lines of a requirements file, without comments and other files."""
  lines = (ROOT / name).read_text(encoding='utf-8').splitlines()
  lines = [line.partition('#')[0].strip() for line in lines]
  return {line for line in lines if line and not line.startswith('-r')}


def extra(name):
  found = set(PROJECT['project']['optional-dependencies'][name])
  return {line for line in found if not line.startswith('genre2_jax')}


def run_python(code, *, path, cwd):
  return subprocess.run(
    [sys.executable, '-c', code],
    cwd=cwd,
    env=os.environ | {'PYTHONPATH': str(path)},
    capture_output=True,
    text=True,
    check=False,
  )


def test_requirements_and_project_agree():
  dependencies = set(PROJECT['project']['dependencies'])
  assert dependencies and extra('text')
  assert requirements('requirements.txt') == dependencies | extra('text')
  assert requirements('requirements-trees.txt') == extra('trees')
  assert requirements('requirements-search.txt') == extra('search')
  assert requirements('requirements-nets.txt') == extra('nets')
  assert requirements('requirements-dev.txt') == extra('dev')


def test_accelerators_ask_for_the_same_jax():
  (jax,) = (
    line
    for line in PROJECT['project']['dependencies']
    if re.match(r'jax\W', line)
  )
  for name in ('tpu', 'cuda13'):
    assert extra(name) == {jax.replace('jax', f'jax[{name}]')}


def test_the_version_is_the_packages():
  attribute = PROJECT['tool']['setuptools']['dynamic']['version']['attr']
  assert attribute == 'genre2_jax.__version__'
  assert 'version' in PROJECT['project']['dynamic']
  assert re.fullmatch(r'\d+\.\d+\.\d+', genre2_jax.__version__)


def test_every_file_of_the_package_is_packaged():
  """Modules by themselves, all else by a pattern; `configs` stays behind."""
  tool = PROJECT['tool']['setuptools']
  patterns = tool['package-data']['genre2_jax']
  others = {
    path
    for path in PACKAGE.rglob('*')
    if path.is_file() and path.suffix not in ('.py', '.pyc')
  }
  assert PACKAGE / 'py.typed' in others
  packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
  assert others <= packaged
  for folder in PACKAGE.rglob('*'):
    if folder.is_dir() and any(folder.glob('*.py')):
      assert (folder / '__init__.py').exists(), folder
  assert tool['packages']['find']['include'] == ['genre2_jax*']


def test_importing_the_package_imports_nothing_heavy():
  code = (
    'import sys, genre2_jax\n'
    "assert 'DecodingRegressor' in dir(genre2_jax)\n"
    "heavy = {'jax', 'numpy', 'pandas', 'sklearn', 'matplotlib'}\n"
    'print(sorted(heavy & set(sys.modules)))\n'
    'genre2_jax.DecodingRegressor\n'
    'print("jax" in sys.modules, "matplotlib" in sys.modules)\n'
  )
  done = run_python(code, path=ROOT, cwd=ROOT)
  assert done.stdout.split('\n')[:2] == ['[]', 'True False'], done


def test_there_is_nothing_else_to_import():
  with pytest.raises(AttributeError, match='Regressor2'):
    _ = genre2_jax.Regressor2


def copy_package(folder):
  """The package alone: neither `configs` nor the rest of a checkout."""
  shutil.copytree(
    PACKAGE, folder / 'genre2_jax', ignore=shutil.ignore_patterns('__py*')
  )


def write_task(folder):
  """A TALENT task of 24 rows: y is its one number."""
  folder.mkdir(parents=True)
  for split in ('train', 'val', 'test'):
    numbers = np.arange(8.0)
    np.save(folder / f'N_{split}.npy', numbers[:, None])
    np.save(folder / f'y_{split}.npy', numbers)
  (folder / 'info.json').write_text('{"task_type": "regression"}')


def run_module(module, *arguments, folder):
  done = subprocess.run(
    [sys.executable, '-m', f'genre2_jax.{module}', *arguments],
    cwd=folder,
    env=os.environ | {'PYTHONPATH': str(folder)},
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


def test_the_package_alone_runs_its_benchmark(tmp_path):
  copy_package(tmp_path)
  write_task(tmp_path / 'TALENT' / 'line')
  code, out, err = run_module(
    'benchmark',
    '--config=talent_twenty',
    '--config.root=TALENT',
    "--config.tasks=('line',)",
    '--methods=random_forest',
    '--workdir=runs',
    folder=tmp_path,
  )
  assert code == 0, err
  assert '1/1 line, random_forest: ' in out
  run = json.loads((tmp_path / 'runs/line/random_forest/run.json').read_text())
  assert run['stages'] == ['random_forest']
  assert '| random_forest |' in (tmp_path / 'runs/table.md').read_text()


def test_the_package_alone_knows_its_recipes_by_name(tmp_path):
  copy_package(tmp_path)
  code, _, err = run_module(
    'main',
    '--config=talent:crps',
    "--config.finetune.objective=(('crsp', 1.0, {}),)",
    folder=tmp_path,
  )
  assert code == 2
  assert "objective 'crsp'" in err and err.count('\n') == 1
  code, _, err = run_module('main', '--config=talent:crsp', folder=tmp_path)
  assert code == 2
  assert "did you mean 'crps'" in err and err.count('\n') == 1


@pytest.mark.slow
def test_the_package_alone_is_enough_to_fit(tmp_path):
  copy_package(tmp_path)
  code = (
    'import numpy as np\n'
    'from genre2_jax import DecodingRegressor\n'
    'X = np.random.RandomState(0).normal(size=(20, 2))\n'
    "model = DecodingRegressor(objective='mse', max_steps=1, random_state=0,\n"
    '  encoder_hidden=4).fit(X, X[:, 0])\n'
    'print(model.predict(X).shape, model.__module__)\n'
    'import genre2_jax, importlib.util\n'
    "print(importlib.util.find_spec('configs'), genre2_jax.__file__)\n"
  )
  done = run_python(code, path=tmp_path, cwd=tmp_path)
  assert done.stdout.split('\n')[:2] == [
    '(20,) genre2_jax.estimator',
    f'None {tmp_path}/genre2_jax/__init__.py',
  ], done.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
  pytest.importorskip('setuptools', minversion='77')
  source = tmp_path / 'source'
  source.mkdir()
  for name in ('genre2_jax', 'configs', 'tests'):
    shutil.copytree(
      ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__')
    )
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  subprocess.run(
    [
      sys.executable, '-m', 'pip', 'install', '--no-deps',
      '--no-build-isolation', '--target', tmp_path / 'site', source,
    ],
    check=True,
    capture_output=True,
  )  # fmt: skip
  names = {path.name for path in (tmp_path / 'site').iterdir()}
  info = f'genre2_jax-{genre2_jax.__version__}.dist-info'
  assert names == {'genre2_jax', info}
  licence = tmp_path / 'site' / info / 'licenses' / 'LICENSE'
  assert licence.read_bytes() == (ROOT / 'LICENSE').read_bytes()
  installed, ours = (
    {
      path.relative_to(folder)
      for path in folder.rglob('*')
      if path.is_file() and '__pycache__' not in path.parts
    }
    for folder in (tmp_path / 'site' / 'genre2_jax', PACKAGE)
  )
  assert installed == ours
