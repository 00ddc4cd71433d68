"""What pages say of flags, files, fields, defaults and names is so."""

import pathlib
import re
import shlex

import pytest
from checks import ROOT

from genre2_jax import errors
from genre2_jax.data import reading
from genre2_jax.experiment import defaults
from genre2_jax.files import formats
from genre2_jax.metrics import sampled
from genre2_jax.runs import estimates

PAGES = {
  path.relative_to(ROOT).as_posix(): path.read_text(encoding='utf-8')
  for path in (
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
    *sorted((ROOT / 'docs').glob('*.md')),
    ROOT / 'launch' / 'README.md',
    ROOT / 'benchmarks' / 'README.md',
  )
}
# What the flags of a program are written in, beside command_line.py.
PROGRAMS = {
  'genre2_jax.main': 'main.py',
  'genre2_jax.search': 'search.py',
  'genre2_jax.benchmark': 'benchmark/__main__.py',
  'genre2_jax.pretrain_text': 'pretrain_text.py',
  'genre2_jax.report': 'report/__main__.py',
}


# Of files.
KINDS = (
  'py', 'md', 'json', 'jsonl', 'csv', 'toml', 'txt', 'html', 'sh', 'sbatch',
  'yaml', 'npz', 'ipynb', 'css', 'j2', 'cff',
)  # fmt: skip


def text_of(path):
  return (ROOT / 'genre2_jax' / path).read_text(encoding='utf-8')


def flags_of(program):
  """Names of all flags of a program; of booleans the negations, too."""
  text = text_of(PROGRAMS[program])
  if 'command_line' in text:
    text += text_of('command_line.py')
  found = set(re.findall(r"DEFINE\w*\([^']*'(\w+)'", text))
  found |= set(re.findall(r"add_argument\(\s*'--(\w+)'", text))
  found |= {f'no{x}' for x in re.findall(r"DEFINE_bool\(\s*'(\w+)'", text)}
  return found | {'help', 'helpfull'}


def commands():
  """(page, program, arguments) of every command that a page shows."""
  for page, text in PAGES.items():
    joined = re.sub(r'\\\n\s*', ' ', text)
    for line in re.findall(r'python -m (genre2_jax[^\n`|]*)', joined):
      program, *arguments = shlex.split(line, comments=True)
      yield page, program, arguments


def test_every_command_is_a_program_with_these_flags():
  seen = set()
  for page, program, arguments in commands():
    assert program in PROGRAMS, f'{page}: {program}'
    for argument in arguments:
      flag = re.match(r'--(\w+)', argument)
      if flag:
        seen.add(flag[1])
        assert flag[1] in flags_of(program), f'{page}: {program} {argument}'
  assert len(seen) > 12 and {'keep', 'trials', 'topology'} <= seen


def fields():
  """{'section.field': default} of the config."""

  def leaves(tree, prefix=''):
    for name, value in tree.items():
      if hasattr(value, 'items'):
        yield from leaves(value, f'{prefix}{name}.')
      else:
        yield prefix + name, value

  return dict(leaves(defaults.get_config()))


def test_fields_in_prose_are_there():
  known = fields()
  sections = {name.partition('.')[0] for name in known if '.' in name}
  named = set()
  for page, text in PAGES.items():
    for name in re.findall(r'`(?:config\.)?(\w+(?:\.\w+)+)[`=]', text):
      last = name.rpartition('.')[2]
      # `model` is a section, and what an estimator is called.
      is_other = last in KINDS or last.endswith('_')
      if name.partition('.')[0] in sections and not is_other:
        parts = any(field.startswith(f'{name}.') for field in known)
        assert name in known or parts, f'{page}: {name}'
        named.add(name)
  assert len(named) > 25


def test_defaults_in_prose_are_the_defaults():
  known, seen = fields(), 0
  for page, text in PAGES.items():
    flat = ' '.join(text.split())
    said = re.findall(r'([\d.,]+) by default \(`([\w.]+)`\)', flat)
    said += [
      (x, n) for n, x in re.findall(r'`([\w.]+)` \(default ([\d.]+)\)', flat)
    ]
    for number, name in said:
      seen += 1
      assert float(number.replace(',', '')) == known[name], f'{page}: {name}'
  assert seen


def test_files_that_pages_name_are_in_the_repository_or_written_by_the_code():
  code = ''.join(
    path.read_text(encoding='utf-8')
    for folder in ('genre2_jax', 'benchmarks', 'launch', 'configs', 'docs')
    for path in (ROOT / folder).rglob('*')
    if path.suffix in ('.py', '.sh', '.sbatch', '.yaml')
  )
  folders = ('.', 'genre2_jax', 'benchmarks')
  modules = {
    path.name
    for folder in ('genre2_jax', 'tests')
    for path in (ROOT / folder).rglob('*.py')
  }
  for page, text in PAGES.items():
    here = (ROOT / page).parent
    # Links have a test of their own.
    prose = re.sub(r'```.*?```|\[[^]]*\]\([^)]*\)', '', text, flags=re.DOTALL)
    for name in re.findall(
      rf'`([\w./-]+\.(?:{"|".join(KINDS)}))(?::\w+)?`', prose
    ):
      places = (here, *(ROOT / folder for folder in folders))
      is_there = any((place / name).exists() for place in places)
      is_there |= name in modules
      assert is_there or pathlib.Path(name).name in code, f'{page}: {name}'


def table_after(page, head):
  """First cells of the rows of the table that begins with the line `head`."""
  text = PAGES[page].partition(f'\n{head}\n')[2]
  rows = re.match(r'\|[-|]+\n((?:\|.*\n)+)', text)[1]
  return [
    re.findall(r'`([^`]+)`', row.split('|')[1]) for row in rows.splitlines()
  ]


def test_the_workdir_of_the_readme_is_that_of_a_run(finished):
  """All of its names are there but what a field asks for, and no other is."""
  cells = table_after('README.md', '| in the workdir | |')
  named = {name.split('/')[0] for row in cells for name in row}
  there = {path.name for path in finished.iterdir()}
  assert named - there == {'profile', 'prior'}
  # `figures` are those of the report, the lock is nobody's to read.
  assert there - named <= {'figures', '.lock'}


def test_the_columns_of_predictions_are_these():
  rows = table_after('docs/running.md', '| column | |')
  named = [name for row in rows for name in row]
  assert len(named) == len(set(named))
  assert set(named) == {'row', *estimates.NAMES}


def test_the_estimators_of_results_are_these(finished):
  rows = table_after('docs/reading_the_report.md', '| estimator | what it is |')
  named = {name for row in rows for name in row if '.' not in name}
  results = (finished / 'results.csv').read_text().splitlines()[1:]
  found = {line.split(',')[4] for line in results}
  # Points of the tempered distribution have its name before their own.
  found = {re.sub(r'^tempered_.*', 'tempered', name) for name in found}
  assert found <= named
  others = {'learned_mean', 'rail', 'rail_normalized', 'non_finite'}
  assert named - found == others
  assert set(sampled.POINT_ESTIMATORS) <= named


def test_exit_codes_are_the_errors():
  rows = table_after('docs/running.md', '| exit code | |')
  text = PAGES['docs/running.md'].partition('| exit code | |')[2]
  named = set(re.findall(r'^\| (\d+) \|', text, re.MULTILINE))
  codes = {
    str(e.exit_code) for e in vars(errors).values() if hasattr(e, 'exit_code')
  }
  assert rows and named == codes | {'0'}


@pytest.mark.parametrize('kind', formats.EXTENSIONS)
def test_kinds_of_predictions_are_named_and_read(kind):
  assert f'`{kind}`' in PAGES['docs/running.md'] or kind == '.pq'
  assert kind in reading.EXTENSIONS


def test_each_way_to_install_jax_is_said_once():
  said = re.findall(r'jax\[(\w+)\]', ''.join(PAGES.values()))
  assert {x for x in said if x.startswith('cuda')} == {'cuda12', 'cuda13'}
  assert said.count('cuda12') == said.count('cuda13') == 1
