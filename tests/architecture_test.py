"""The direction of dependencies, read from the imports of every module."""

import ast
import pathlib

import pytest

import genre2_jax
from genre2_jax.experiment import defaults

PACKAGE = pathlib.Path(genre2_jax.__file__).parent
CONFIGS = PACKAGE.parent / 'configs'


def name_of(path):
  """genre2_jax/data/tables.py -> 'data.tables'; the package itself is ''."""
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return '.'.join(part for part in parts if part != '__init__')


TREES = {
  name_of(path): ast.parse(path.read_text(encoding='utf-8'))
  for path in sorted(PACKAGE.rglob('*.py'))
}


def imports_of(tree):
  """Dotted names that a module imports, anywhere in it.

  `from a import b` gives both a and a.b, for b may be a module.
  """
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


# A folder imports only folders of lower floors; what is at the root is a door.
FLOORS = (
  ('errors',),
  ('tokenizers', 'data', 'metrics', 'files'),
  ('policy', 'baselines'),
  ('objectives', 'devices'),
  ('models',),
  ('training',),
  ('experiment',),
  ('runs',),
  ('report',),
  ('benchmark',),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(name):
  """'data.tables' -> 'data'; '' of a door, of a package's command too."""
  return '' if name.endswith('__main__') else name.partition('.')[0]


def libraries(name):
  """Top-level packages that a module imports."""
  return {target.partition('.')[0] for target in imports_of(TREES[name])}


def siblings(name):
  """Modules of this package that a module imports."""
  targets = {
    target.partition('.')[2]
    for target in imports_of(TREES[name])
    if target.partition('.')[0] == 'genre2_jax'
  }
  return targets & set(TREES) - {''}


def importers_of(library):
  return {name for name in TREES if library in libraries(name)}


def test_there_is_something_to_look_at():
  assert {'main', 'data.tables', 'models.tabular', 'policy.trie'} <= set(TREES)
  assert 'jax' in libraries('policy.sampling')
  assert 'training.step' in siblings('training.loop')
  assert 'policy' in siblings('models.tabular')  # from genre2_jax.policy ...


def test_every_folder_has_a_floor_and_the_root_few_doors():
  rooms = {room for name in TREES if '.' in name and (room := room_of(name))}
  assert rooms == set(FLOOR) - {'errors'}
  doors = [path.stem for path in PACKAGE.glob('*.py')]
  assert len(doors) <= 10, doors


@pytest.mark.parametrize('name', sorted(TREES))
def test_imports_point_downwards_only(name):
  room = room_of(name)
  if room not in FLOOR:  # A door.
    return
  for target in siblings(name):
    there = room_of(target)
    assert there == room or FLOOR.get(there, len(FLOORS)) < FLOOR[room], target


@pytest.mark.parametrize(
  'name',
  [
    'command_line',
    'report.page',
    'benchmark.page',
    *(
      name
      for name in TREES
      if room_of(name)
      in ('tokenizers', 'data', 'metrics', 'files', 'baselines')
    ),
  ],
)
def test_what_needs_no_device_needs_no_jax(name):
  """Neither itself nor through any module that it imports."""
  if name == 'data.batches':  # Draws rows on the device.
    return
  seen, todo = set(), {name}
  while todo:
    seen |= todo
    for module in todo:
      assert not libraries(module) & {'jax', 'flax', 'optax', 'orbax'}, module
    todo = set().union(*map(siblings, todo)) - seen


def test_flax_stays_behind_the_models():
  models = {name for name in TREES if room_of(name) == 'models'}
  assert importers_of('flax') <= models | {
    'devices.sharding',
    'training.initialization',
  }


# Beside experiment/: those that make a config, and those that pass one on.
MAKE_CONFIGS = {'benchmark.protocols', 'command_line', 'search'}
PASS_CONFIGS = {'train', 'ahead_of_time'}
# Their own: a benchmark's, and one of pretraining on texts.
OTHER_CONFIGS = {'benchmark.forecast', 'benchmark.suite', 'pretrain_text'}


def test_only_experiments_and_commands_import_configs():
  rooms = {name for name in TREES if room_of(name) == 'experiment'}
  known = rooms | MAKE_CONFIGS | PASS_CONFIGS | OTHER_CONFIGS
  assert importers_of('ml_collections') <= known


def fields_read(tree, fields=None):
  """Fields of a variable `config` that a module asks for, of `fields` if given.

  As attributes, by [...] and by methods, which are attributes too.
  """
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute | ast.Subscript) and (
      isinstance(node.value, ast.Name) and node.value.id == 'config'
    ):
      part = getattr(node, 'attr', None) or ast.unparse(node.slice).strip("'")
      if fields is None or part in fields:
        found.add(part)
  return found


def test_nothing_beside_experiments_reads_a_config():
  fields = set(defaults.get_config())
  assert 'batch_size' in fields_read(TREES['experiment.experiment'], fields)
  assert 'seed' in fields_read(TREES['pretrain_text'], fields)
  for name, tree in TREES.items():
    known = MAKE_CONFIGS | OTHER_CONFIGS
    if room_of(name) != 'experiment' and name not in known:
      assert not fields_read(tree, fields), name
  for name in PASS_CONFIGS:
    assert not fields_read(TREES[name]), name


def test_objectives_know_policies_and_numbers_only():
  known = {'objectives', 'policy', 'tokenizers', 'errors'}
  batch = {'data.batches'}  # What a batch is.
  for name in TREES:
    if room_of(name) == 'objectives':
      targets = siblings(name) - batch
      assert {room_of(target) for target in targets} <= known, name


def test_losses_know_only_losses():
  """What an objective is made of knows neither networks nor sampling."""
  whole = {
    'objectives', 'objectives.objective', 'objectives.rollouts',
  }  # fmt: skip
  for name in TREES:
    if room_of(name) == 'objectives' and name not in whole:
      rooms = {room_of(target) for target in siblings(name)}
      assert rooms <= {'errors', 'objectives'}


def test_only_commands_read_flags():
  commands = {
    'command_line', 'main', 'search', 'benchmark.__main__', 'pretrain_text',
  }  # fmt: skip
  assert importers_of('absl') <= commands
  assert {
    name for name in TREES if 'command_line' in siblings(name)
  } <= commands


def test_imports_go_round_in_no_circle():
  """Kahn's algorithm: take away what imports nothing that is left."""
  left = set(TREES)
  while ready := {name for name in left if not siblings(name) & left - {name}}:
    left -= ready
  assert not left


# Rooms whose public functions all have types; mypy checks that they hold.
def public_functions(tree):
  """(qualified name, definition) of a module's functions and methods.

  Names without a leading underscore, and constructors; properties are methods.
  """
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      yield node.name, node
    elif isinstance(node, ast.ClassDef):
      for name, method in public_functions(node):
        yield f'{node.name}.{name}', method
      for method in node.body:
        if getattr(method, 'name', '') == '__init__':
          yield f'{node.name}.__init__', method


def lacks_types(function, is_method):
  """Whether an argument has no annotation, or the result has none."""
  arguments = function.args
  named = arguments.posonlyargs + arguments.args
  decorators = {getattr(d, 'id', '') for d in function.decorator_list}
  if is_method and 'staticmethod' not in decorators:
    named = named[1:]  # self, or cls
  named += arguments.kwonlyargs
  named += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
  return any(argument.annotation is None for argument in named) or (
    function.returns is None and function.name != '__init__'
  )


@pytest.mark.parametrize('name', sorted(TREES))
def test_public_functions_have_types(name):
  assert not [
    function
    for function, node in public_functions(TREES[name])
    if lacks_types(node, is_method='.' in function)
  ]


def test_a_missing_type_is_seen():
  tree = ast.parse(
    'def a(x: int, *, y: int) -> int: ...\n'
    'def b(x: int, *, y) -> int: ...\n'
    'def c(*x: int): ...\n'
    'def _d(x): ...\n'
    'class E:\n'
    '  def __init__(self, x: int): ...\n'
    '  @property\n'
    '  def f(self): ...\n'
    '  @staticmethod\n'
    '  def g(x) -> int: ...\n'
    'class _H:\n'
    '  def __init__(self, x): ...\n'
    '  def i(self) -> int: ...\n'
  )
  found = dict(public_functions(tree))
  assert {n for n in found if lacks_types(found[n], '.' in n)} == {
    'b', 'c', 'E.f', 'E.g', '_H.__init__',
  }  # fmt: skip


def test_every_module_says_what_it_is():
  for name, tree in TREES.items():
    assert ast.get_docstring(tree) or not tree.body, name


def test_nothing_points_out_of_the_repository():
  """No path into a folder beside the checkout."""
  for path in [*PACKAGE.rglob('*'), *CONFIGS.rglob('*')]:
    if path.suffix in ('.py', '.j2', '.csv', '.json', '.toml'):
      text = path.read_text(encoding='utf-8')
      for folder in ('shared/', '/shared', '/work/', '../'):
        assert folder not in text, f'{path}: {folder}'


def test_near_names_are_found_in_one_place():
  assert importers_of('difflib') == {'errors'}
