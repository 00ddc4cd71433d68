"""The direction of dependencies, read from the imports of every module."""

import ast
import pathlib

import pytest

import genre2_jax

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


PACKAGES = {'', 'comparison', 'data', 'models', 'objectives', 'report'}


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
  return targets & set(TREES) - PACKAGES


def importers_of(library):
  return {name for name in TREES if library in libraries(name)}


def test_there_is_something_to_look_at():
  assert {'main', 'data.tables', 'models.tabular', 'sharding'} <= set(TREES)
  assert 'jax' in libraries('sampling')
  assert 'train_state' in siblings('stages')  # from genre2_jax import ...
  assert 'policy' in siblings('models.tabular')  # from genre2_jax.policy ...


@pytest.mark.parametrize(
  'name',
  [
    'tokenizers',
    'metrics',
    'grid_metrics',
    'recalibration',
    'results',
    'baselines',
    'errors',
    'writers',
    'report.page',
    'comparison.page',
    'command_line',
    'codec',
    'data.tables',
    'data.talent',
    'data.features',
    'data.targets',
    'data.texts',
    'data.text_sources',
    'data.subwords',
    'data.corpora',
  ],
)
def test_what_needs_no_device_needs_no_jax(name):
  """Neither itself nor through any module that it imports."""
  seen, todo = set(), {name}
  while todo:
    seen |= todo
    for module in todo:
      assert not libraries(module) & {'jax', 'flax', 'optax', 'orbax'}, module
    todo = set().union(*map(siblings, todo)) - seen


def test_flax_stays_behind_the_models():
  importers = importers_of('flax')
  models = {name for name in TREES if name.startswith('models.')}
  assert importers <= models | {'sharding', 'stages', 'pretrained'}


def test_objectives_know_only_objectives():
  objectives = {name for name in TREES if name.startswith('objectives.')}
  assert objectives
  for name in objectives:
    assert siblings(name) <= objectives, name


def test_models_know_only_models_and_what_a_policy_is():
  models = {name for name in TREES if name.startswith('models.')}
  for name in models:
    assert siblings(name) <= models | {'policy', 'tokenizers'}, name


def test_tokenizers_know_only_tokenizers():
  tokenizers = {name for name in TREES if name.startswith('tokenizers')}
  assert len(tokenizers) > 1
  for name in tokenizers:
    assert siblings(name) <= tokenizers | {'errors'}, name


def test_data_knows_only_data():
  data = {name for name in TREES if name.startswith('data.')}
  for name in data:
    assert siblings(name) <= data | {'errors'}, name


def test_sampling_knows_no_model_no_step_and_no_training():
  known = {'trie', 'policy', 'tokenizers'}
  assert siblings('trie') <= known
  assert siblings('sampling') <= known


def test_steps_know_no_model_no_stage_and_no_training():
  known = {'objective', 'sampling', 'trie', 'policy', 'codec', 'train_state'}
  for module in ('objective', 'steps'):
    for name in siblings(module) - known:
      assert name.startswith('objectives.'), (module, name)


def test_only_commands_read_flags():
  commands = {'command_line', 'main', 'search', 'benchmark', 'pretrain_text'}
  assert importers_of('absl') <= commands
  assert {
    name for name in TREES if 'command_line' in siblings(name)
  } <= commands


def test_only_the_top_reads_configs():
  assert importers_of('ml_collections') <= {
    'experiment',
    'train',
    'workdirs',
    'command_line',
    'search',
    'default_config',
  }


def test_nothing_below_the_commands_imports_the_training():
  commands = {'main', 'search', 'benchmark'}
  importers = {name for name in TREES if 'train' in siblings(name)}
  assert importers <= commands | {'predict', 'export', 'estimator'}
  for command in commands:
    assert not {name for name in TREES if command in siblings(name)}, command


def test_imports_go_round_in_no_circle():
  """Kahn's algorithm: take away what imports nothing that is left."""
  left = set(TREES)
  while ready := {name for name in left if not siblings(name) & left - {name}}:
    left -= ready
  assert not left


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
