"""What README.md and the pages of docs/ name is there."""

import importlib
import pathlib
import re
import tomllib

import pandas as pd
import pytest

from configs import base, pretrain_text, talent_twenty

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
PAGES = {
  path.name: path.read_text(encoding='utf-8')
  for path in (
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').glob('*.md')),
  )
}
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


def section(title):
  """The README from a title to the next."""
  _, text = README.split(f'\n## {title}\n')
  return text.partition('\n## ')[0]


def table_rows(text):
  """Cells of the rows of a table, without its first two lines."""
  lines = [line for line in text.splitlines() if line.startswith('|')]
  return [
    [cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]
  ]


def test_it_stays_short():
  assert len(README.split()) <= 1500


def test_it_begins_with_two_commands():
  blocks = re.findall(r'```bash\n(.*?)\n```', section('Start here'), re.DOTALL)
  run, test, *_ = blocks
  assert run.endswith(
    'python -m genre2_jax.main --config=configs/remax_talent.py'
  )
  assert test.endswith('.venv/bin/python -m pytest')
  for command in (run, test):
    assert command.count('\n') == 0
    (file,) = re.findall(r'-r ([\w.-]+)', command)
    assert (ROOT / file).is_file()
  # What CI runs.
  assert test in (ROOT / '.ci' / 'run').read_text(encoding='utf-8')


def test_every_recipe_is_named():
  from genre2_jax.experiment import recipes

  named = [
    name
    for row in table_rows(section('Recipes'))
    for name in re.findall(r'`(\w+)`', row[1])
  ]
  assert len(named) == len(set(named))
  assert set(named) == set(recipes.TALENT.recipes)


COMMANDS = sorted(
  {
    match
    for text in PAGES.values()
    for match in re.findall(r'--config=(configs/\w+\.py(?::\w+)?)', text)
  }
)


@pytest.mark.parametrize('recipe', COMMANDS)
def test_a_recipe_of_a_command_is_there(recipe):
  path, _, name = recipe.partition(':')
  module = importlib.import_module(path.removesuffix('.py').replace('/', '.'))
  if name != 'NAME':
    module.get_config(*filter(None, [name]))


def test_the_methods_on_texts_are_recipes():
  from configs import stsb

  rows = table_rows(PAGES['texts.md'])
  names = [name for row in rows for name in re.findall(r'`(\w+)`', row[0])]
  assert len(names) >= 15
  for name in names:
    stsb.get_config(name)


def has(config, field):
  for part in field.split('.'):
    if part not in config:
      return False
    config = config[part]
  return True


def test_commands_name_fields_that_are_there():
  configs = [
    recipe.get_config() for recipe in (base, pretrain_text, talent_twenty)
  ]
  fields = {
    field
    for name, text in PAGES.items()
    if name != 'config.md'
    for field in re.findall(r'--config\.([a-z][\w.]*)=', text)
  }
  assert len(fields) > 15
  for field in fields:
    assert any(has(config, field) for config in configs), field


def test_modules_and_tests_that_pages_name_are_there():
  tests = {path.name for path in (ROOT / 'tests').rglob('*_test.py')}
  for page, text in PAGES.items():
    for path in re.findall(r'`((?:\w+/)+\w+\.py)`', text):
      roots = (ROOT, ROOT / 'genre2_jax')
      assert any((root / path).is_file() for root in roots), f'{page}: {path}'
    for name in re.findall(r'\b(\w+_test\.py)', text):
      assert name in tests, f'{page}: {name}'


def test_every_folder_of_the_package_has_its_floor():
  named = re.findall(r'^\| \d \| `(\w+)/` \|', PAGES['CONTRIBUTING.md'], re.M)
  package = ROOT / 'genre2_jax'
  assert set(named) == {
    path.parent.name for path in package.glob('*/__init__.py')
  }


@pytest.mark.parametrize('place', [0, 1])
def test_the_tables_of_results_are_the_measured_ones(place):
  name = ('talent_twenty_best', 'talent_twenty')[place]
  results = pd.read_csv(ROOT / f'benchmarks/results/{name}.csv')
  values = results.groupby(['method', 'estimator', 'metric'])['value'].mean()
  whole = (ROOT / f'benchmarks/results/{name}.md').read_text('utf-8')
  tables = section('Results').split('| method |')[1:]
  rows = table_rows('|' + tables[place])
  assert len(rows) >= 4
  for method, rank, r2, rmse, crps, coverage in rows:
    found = values[method.strip('`')]
    has_digits = ('exact_mean', 'r2') in found.index
    best = 'exact_mean' if has_digits else 'mean'
    shown = [f'{found[best, metric]:.3f}' for metric in ('r2', 'rmse')]
    shown.append(f'{found["sample", "crps"]:.3f}')
    covered = f'{found["sample", "coverage90"]:.3f}'
    shown.append(covered if has_digits else '\N{EN DASH}')
    assert [r2, rmse, crps, coverage] == shown, method
    average = re.search(  # Of the first table, the means over tasks.
      rf'^\| {method.strip("`")} \| \w+ \| \**([.\d]+)', whole, re.MULTILINE
    )
    assert rank == average[1], method


def test_licence_and_version_are_named_alike():
  citation = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
  licence = PROJECT['project']['license']
  assert re.search(rf'^license: {licence}$', citation, re.MULTILINE)
  assert f'[{licence}](LICENSE)' in README
  text = (ROOT / 'LICENSE').read_text(encoding='utf-8')
  (owner,) = (author['name'] for author in PROJECT['project']['authors'])
  assert re.match(rf'Copyright \d{{4}} {owner}\n', text)
  assert 'Apache License' in text and 'Version 2.0, January 2004' in text
  (version,) = re.findall(r'^version: (.*)$', citation, re.MULTILINE)
  changes = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
  released = re.findall(r'^## \[(\d[\d.]*)\]', changes, re.MULTILINE)
  assert version == released[0]
