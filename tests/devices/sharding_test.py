"""Where arrays live, against golden tables; and eight devices against one.

`PYTHONPATH=.:tests python tests/devices/sharding_test.py` writes the golden
files again. With arguments, `FOLDER FILE NAME...`, it computes on eight devices
what the tests compare.
"""

import csv
import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest
import tiny_judge
import tiny_text
from checks import (
  ROOT,
  assert_refused,
  environment_of_eight_devices,
  read_log,
  without_key_bias,
)
from tiny import TINY, abstract_mesh

from genre2_jax import tokenizers, train
from genre2_jax.devices import sharding
from genre2_jax.errors import InputError, InterruptedRunError
from genre2_jax.experiment import experiment, meshes, networks, recipes, tasks
from genre2_jax.experiment.stages import build_stages
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import PRESETS
from genre2_jax.models.neighbours import MEMORY
from genre2_jax.policy import Policy
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import stages
from genre2_jax.training.initialization import describe_layout, state_program
from genre2_jax.training.programs import lower_run
from genre2_jax.training.stage_functions import functions
from genre2_jax.training.step import train_step

# One worker: what has been computed for one test serves the others.
pytestmark = pytest.mark.xdist_group('sharding')

GOLDEN = ROOT / 'tests' / 'golden' / 'sharding'
ONE_DEVICE = dict.fromkeys(sharding.AXES, 1)
MESHES = {
  'data': ONE_DEVICE | {'data': 8},
  'fsdp': ONE_DEVICE | {'fsdp': 8},
  'mixed': ONE_DEVICE | {'data': 2, 'fsdp': 2, 'model': 2},
}
# One of each kind of network and of what objectives add.
TABLES = (
  'remax', 'ppo', 'learnable_raft', 'riemann', 'pointwise', 'gemma2_2b'
)  # fmt: skip
# Bytes of one array that may be whole on every device under FSDP: biases of
# the vocabulary's size, and the numbers that learnable RAFT trains.
SMALL = 2048

RECIPES = sorted(
  name
  for name in recipes.TALENT.recipes
  if not recipes.get_config('talent', name).baseline.name
)


def config_of(name, fields=()):
  config = recipes.get_config('talent', name)
  config.size = 'paper'
  config.update_from_flattened_dict(dict(fields))
  return experiment.resolve(config)


# Of each kind of network that reads texts, and of objective.
TEXT_RECIPES = ('stsb:raft', 'stsb:remax', 'code_metrics:genre2')


def tiny_text_config(name, home, fields=()):
  config = recipes.get_config(*name.split(':'))
  tiny = tiny_text if name in TEXT_RECIPES else tiny_judge
  config.update_from_flattened_dict(tiny.tiny_fields(home) | dict(fields))
  config.stages = ('pretrain', 'finetune')  # No checkpoint to begin with.
  return experiment.resolve(config)


def tiny_config(name, data_file, fields=()):
  tiny = dict(TINY)
  if config_of(name).model.head == 'histogram':
    tiny['tokenizer.bins'] = 16
  source = {'data.path': str(data_file), 'data.target': 'price'}
  return config_of(name, tiny | source | dict(fields))


# --------------------------------------------------------------- where it lives


@functools.cache
def built(name):
  """(rows of a batch, the last stage, the model) of a recipe, or Gemma-2."""
  if name.startswith('gemma'):
    return built_language_model(name)
  config = config_of(name)
  table = tasks.read_table(config)
  stage = build_stages(config)[-1]
  return config.batch_size, stage, networks.build_model(config, table)


class LanguageModel(NamedTuple):
  """What a stage wants to know of a model."""

  network: Policy
  codec: Codec

  def example_inputs(self):
    tokens = np.zeros((1, 512), np.int32)
    return {'tokens': tokens, 'length': np.ones(1, np.int32)}


def built_language_model(name):
  tokenizer = tokenizers.build('normalized', base=10, digits=1)
  network = gemma_policy(tokenizer, PRESETS[name], number_tokens=np.arange(10))
  stage = build_stages(config_of('raft'))[-1]
  stage = dataclasses.replace(stage, optimizer='adafactor')
  return 16, stage, LanguageModel(network, Codec(tokenizer, -1.0, 1.0))


def state_on(name, mesh):
  _, stage, model = built(name)
  abstract, _ = state_program(
    stage,
    model,
    seeds=(0,),
    mesh=mesh,
    optimizer=stages.optimizer_of(stage, 1),
  )
  return abstract


def tables(name):
  """The tables of a recipe on all meshes: one text."""
  batch_size, stage, model = built(name)
  texts = []
  for sizes in MESHES.values():
    mesh = abstract_mesh(sizes)
    text = describe_layout(
      stage,
      model,
      state_on(name, mesh),
      batch_size=batch_size,
      mesh=mesh,
    )
    texts.append(text)
  return '\n\n'.join(texts) + '\n'


@pytest.mark.parametrize('name', TABLES)
def test_arrays_live_where_the_golden_table_says(name):
  golden = (GOLDEN / f'{name}.txt').read_text(encoding='utf-8')
  assert tables(name) == golden


def test_every_golden_file_has_a_recipe():
  assert {path.stem for path in GOLDEN.iterdir()} == set(TABLES)


@pytest.mark.parametrize('name', RECIPES)
def test_under_fsdp_only_small_arrays_are_whole(name):
  """At the recipes' own sizes, the optimizer's arrays included."""
  state = state_on(name, abstract_mesh(MESHES['fsdp']))
  split, total = 0, 0
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    if MEMORY in jax.tree_util.keystr(path):
      continue  # Rows that are looked up: every device needs all of them.
    size = x.size * x.dtype.itemsize
    local = np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    assert local * 8 == size or size <= SMALL, (path, x.shape)
    split, total = split + local, total + size
  assert split < 0.13 * total


def test_heads_and_feed_forward_are_over_model_and_the_optimizer_follows():
  state = state_on('remax', abstract_mesh(MESHES['mixed']))
  layer = state.params['policy']['decoder']['layer_0']
  for name, spec in {
    ('self_attention', 'query_key_value'): ('replica', 'fsdp', None, 'model'),
    ('self_attention', 'out'): ('replica', 'model', 'fsdp'),
    ('cross_attention', 'value'): ('replica', 'fsdp', 'model'),
    ('up',): ('replica', 'fsdp', 'model'),
    ('down',): ('replica', 'model', 'fsdp'),
  }.items():
    part = functools.reduce(dict.__getitem__, name, layer)
    assert tuple(part['kernel'].sharding.spec) == spec, name
  adam = state.opt_state[0]
  for tree in (state.best_params, adam.mu, adam.nu):
    assert jax.tree.map(lambda x: x.sharding, tree) == jax.tree.map(
      lambda x: x.sharding, state.params
    )


@pytest.mark.parametrize('name', ['gemma2_2b', 'gemma2_27b', 'gemma3_27b'])
def test_gemmas_parameters_are_split_over_fsdp_and_model(name):
  """All of them under FSDP; matrices over both; the optimizer follows."""
  split = state_on(name, abstract_mesh(MESHES['fsdp'])).params
  for path, x in jax.tree_util.tree_leaves_with_path(split):
    # The norms of queries and keys are one head wide, and whole.
    parts = 1 if jax.tree_util.keystr(path[-2:-1]).endswith("y_norm']") else 8
    assert np.prod(x.sharding.shard_shape(x.shape)) * parts == x.size
  state = state_on(name, abstract_mesh(MESHES['mixed']))
  layers = state.params['policy']['backbone']['layers']
  for part, names in {
    'attention': ('query', 'key', 'value', 'out'),
    'mlp': ('gate', 'up', 'down'),
  }.items():
    for name in names:
      spec = layers[part][name]['kernel'].sharding.spec
      inside = {'out', 'down'} & {name}
      assert tuple(spec) == (
        ('replica', None, 'model', 'fsdp')
        if inside
        else ('replica', None, 'fsdp', 'model')
      )
  total = sum(
    np.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(state.opt_state)
  )
  assert total < 0.01 * sum(x.size for x in jax.tree.leaves(split))


def test_a_lost_rule_shows_in_the_table(monkeypatch):
  rules = [rule for rule in sharding.RULES if rule[0] != 'embed']
  monkeypatch.setattr(sharding, 'RULES', tuple(rules))
  golden = (GOLDEN / 'pointwise.txt').read_text(encoding='utf-8')
  assert tables('pointwise') != golden


@pytest.mark.parametrize(
  ('rows', 'samples', 'batch', 'group'),
  [
    (16, 1, ('data', 'fsdp'), None),
    (16, 4, ('data', 'fsdp'), None),
    (4, 4, ('data',), ('fsdp',)),
    (4, 1, ('data',), None),  # A trunk is one decoding: nothing to spread.
    (2, 4, None, ('data', 'fsdp')),
    (None, 4, ('data', 'fsdp'), None),
  ],
)
def test_samples_take_the_devices_that_rows_leave(rows, samples, batch, group):
  mesh = abstract_mesh({'data': 4, 'fsdp': 2})
  assert dict(sharding.row_rules(mesh, rows, samples)) == {
    'batch': batch,
    'data_batch': 'data' if batch else None,
    'group': group,
  }


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('remax', {'batch_size': 4}, None),
    ('remax', {'batch_size': 4, 'rollouts.group_size': 3}, 'batch_size=4'),
    # No samples, nothing but rows to spread.
    ('raft', {'batch_size': 4}, 'batch_size=4'),
    ('remax', {'mesh.model': 8, 'batch_size': 4}, 'model.num_heads=4'),
  ],
)
def test_few_rows_are_enough_where_groups_split(name, fields, message):
  config = config_of(name, fields)
  sizes = {'data': 1} if config.mesh.model > 1 else {'data': 4, 'fsdp': 2}
  mesh = abstract_mesh(sizes | {'model': config.mesh.model})
  if message is None:
    meshes.check_mesh(config, mesh)
  else:
    assert_refused(lambda: meshes.check_mesh(config, mesh), message)


# ---------------------------------------------------- eight devices against one


def two_steps(config, mesh, start=None):
  """A recipe's last stage, two steps from a state or the beginning.

  Returns:
    ({path: array}, FLOPs per device, {path: share of an array that one device
    holds}, the state before the steps).
  """
  stage = build_stages(config)[-1]
  table = tasks.read_table(config)
  model = networks.build_model(config, table)
  run, _, optimizer = functions(
    train_step,
    stage,
    model,
    num_rows=len(table.train),
    batch_size=config.batch_size,
    mesh=mesh,
  )
  abstract, init = state_program(
    stage, model, seeds=(0,), mesh=mesh, optimizer=optimizer
  )
  rows = jax.device_put(model.examples(table.train), sharding.replicated(mesh))
  compiled = lower_run(run, abstract, rows).compile()
  if start is None:
    start = jax.device_get(init(None))
    start = dataclasses.replace(start, epoch=np.zeros(1, np.int32))
  state = jax.device_put(start, jax.tree.map(lambda x: x.sharding, abstract))
  state = compiled(state, rows, np.int32(2))
  arrays = {'params': state.params, 'totals': state.totals}
  arrays = {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(arrays)
  }
  shares = {
    jax.tree_util.keystr(path): max(
      shard.data.size / x.size for shard in x.addressable_shards
    )
    for path, x in jax.tree_util.tree_leaves_with_path(state)
    if x.nbytes >= 64
  }
  return arrays, compiled.cost_analysis()['flops'], shares, start


# No level of the trie is as narrow as the group: all nodes but the root are
# a sample's own.
FEW_ROWS = {
  'batch_size': 4,
  'rollouts.group_size': 8,
  'tokenizer.base': 10,
  'tokenizer.digits': 4,
}
# name -> (recipe, changed fields, mesh)
CASES = {
  **{name: (name, {}, 'mixed') for name in (*RECIPES, *TEXT_RECIPES)},
  'judge': ('judge:genre2', {}, 'mixed'),
  'blocks': ('stsb:raft', {'language_model.attention_block': 8}, 'mixed'),
  'fsdp': ('remax', {}, 'fsdp'),
  'few_rows': ('remax', FEW_ROWS, 'data'),
}


def on_devices(name, data_file, home):
  """Writes NAME.npz, of one and of eight devices of this process."""
  recipe, fields, mesh_name = CASES[name]
  if ':' in recipe:
    config = tiny_text_config(recipe, home, fields)
  else:
    config = tiny_config(recipe, data_file, fields)
  found, record, start = {}, {}, None
  for devices, sizes in (
    (jax.devices(), MESHES[mesh_name]),
    (jax.devices()[:1], ONE_DEVICE),
  ):
    mesh = sharding.make_mesh(sizes, devices=devices)
    arrays, flops, shares, start = two_steps(config, mesh, start)
    found |= {f'{mesh.size}/{path}': x for path, x in arrays.items()}
    record[mesh.size] = {'flops': flops, 'shares': shares}
  return found, record


@pytest.fixture(scope='module')
def compute(data_file, tmp_path_factory):
  """`names -> {name: (arrays, record)}`, by a process with eight devices.

  Of ('runs',) it is the folder that `write_runs` filled.
  """

  @functools.cache
  def start(names):
    folder = tmp_path_factory.mktemp('devices')
    done = subprocess.run(
      [sys.executable, __file__, str(folder), str(data_file), *names],
      env=environment_of_eight_devices(),
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if names == ('runs',):
      return folder
    found = {}
    for name in names:
      with np.load(folder / f'{name}.npz') as arrays:
        record = json.loads((folder / f'{name}.json').read_text())
        found[name] = dict(arrays), record
    return found

  return start


def check_equal(arrays):
  """Eight devices against one, to rounding in float32."""
  ours = {k.removeprefix('8/') for k in arrays if k.startswith('8/')}
  assert len(ours) > 5
  for path in ours:
    x, y = arrays[f'8/{path}'], arrays[f'1/{path}']
    assert np.isfinite(x).all()
    # Of a memory that is longer than one, and of a map in which only distances
    # count: their gradients are rounding, which AdamW divides by its size.
    if path.endswith(('key/bias', 'lookup/map/bias')):
      continue
    # So are some of the map itself, to 3e-7 of 8e-5: squares of distances
    # cancel. A step of AdamW is up to its rate, 1e-2.
    atol = 5e-3 if path.endswith('lookup/map/kernel') else 2e-5
    x, y = without_key_bias(path, x), without_key_bias(path, y)
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=atol, err_msg=path)


@pytest.mark.parametrize('name', [*RECIPES, *TEXT_RECIPES, 'blocks', 'judge'])
@pytest.mark.slow
def test_a_recipes_step_on_eight_devices_is_that_on_one(compute, name):
  names = tuple(CASES)
  arrays, _ = compute(names)[name]
  check_equal(arrays)


@pytest.mark.slow
def test_fewer_rows_than_devices_are_spread_by_their_samples(compute):
  """Four rows on eight devices: each decodes an eighth of the samples.

  What is computed once per row, in the encoder, is computed by every device.
  """
  arrays, record = compute(tuple(CASES))['few_rows']
  check_equal(arrays)
  assert record['8']['flops'] < 0.5 * record['1']['flops']


@pytest.mark.slow
def test_under_fsdp_no_device_ever_holds_a_parameter_whole(compute):
  """As the arrays lie on the devices, when a step has been made."""
  arrays, record = compute(tuple(CASES))['fsdp']
  check_equal(arrays)
  shares, alone = record['8']['shares'], record['1']['shares']
  assert len(shares) > 60
  assert set(shares.values()) == {1 / 8}
  assert set(alone.values()) == {1.0}  # Here the check does find something.


# ----------------------------------------------------------------- checkpoints


class After:
  """True once it has been asked so often."""

  def __init__(self, count):
    self.left = count

  def __bool__(self):
    self.left -= 1
    return self.left < 0


def train_on(sizes, num_devices, config, workdir, interrupts=()):
  """The training loop on some of this process's devices: was it interrupted."""
  mesh = sharding.make_mesh(
    ONE_DEVICE | sizes, devices=jax.devices()[:num_devices]
  )
  with config.unlocked():
    config.mesh.update(mesh.shape)
  experiment.build_mesh = lambda config, devices: mesh
  try:
    train.train_and_evaluate(config, workdir, interrupts, verbose=0)
  except InterruptedRunError:
    return True
  return False


def write_runs(folder, data_file):
  """A run on one device, and one that moves from eight to two to one."""
  config = tiny_config(
    'ce',
    data_file,
    {
      'pretrain.epochs': 4,
      'eval.num_samples': 4,
      'steps_per_dispatch': 1,
      'report': False,
    },
  )
  assert not train_on({}, 1, config, folder / 'straight')
  # An epoch has five steps: twice in the midst of one.
  assert train_on({'fsdp': 8}, 8, config, folder / 'moved', After(7))
  assert train_on({'fsdp': 2}, 2, config, folder / 'moved', After(6))
  assert not train_on({}, 1, config, folder / 'moved')


@pytest.mark.slow
def test_a_run_moves_from_eight_devices_to_two_to_one(compute):
  folder = compute(('runs',))
  logs = [read_log(folder / name) for name in ('straight', 'moved')]
  assert [len(log) for log in logs] == [5, 5]
  for ours, theirs in zip(*logs, strict=True):
    assert ours.keys() == theirs.keys()
    assert ours.pop('stage') == theirs.pop('stage') == 'ce'
    for name, value in ours.items():
      assert value == pytest.approx(theirs[name], rel=1e-3), name
  ours, theirs = (
    list(csv.DictReader((folder / name / 'results.csv').open()))
    for name in ('straight', 'moved')
  )
  for x, y in zip(ours, theirs, strict=True):
    if x['estimator'].startswith('exact'):
      assert float(x['value']) == pytest.approx(float(y['value']), rel=0.01)


# ------------------------------------------------------------------ meshes


@pytest.mark.parametrize(
  ('sizes', 'num_devices', 'message'),
  [
    ({'data': 3}, 8, r'mesh.data=3.* does not fit 8 device\(s\)'),
    ({'data': 16}, 8, 'does not fit 8'),
    ({'data': 0}, 8, 'must be positive'),
    ({'data': -2}, 8, 'must be positive'),
    ({'data': -1, 'fsdp': -1}, 8, 'one may be -1'),
    ({'data': -1, 'model': 3}, 8, 'mesh.model=3'),
  ],
)
def test_a_mesh_that_does_not_fit_is_an_input_error(
  sizes, num_devices, message
):
  with pytest.raises(InputError, match=message):
    sharding.make_mesh(ONE_DEVICE | sizes, num_devices)


def test_the_rest_of_the_devices_goes_to_the_open_axis():
  mesh = sharding.make_mesh(ONE_DEVICE | {'data': -1}, 1)
  assert dict(mesh.shape) == ONE_DEVICE
  assert tuple(mesh.shape) == sharding.AXES


def test_sizes_that_do_not_split_evenly_are_input_errors():
  mesh = abstract_mesh({'data': 2, 'fsdp': 3})
  sharding.check_divides(mesh, 'batch_size', 12, 'data', 'fsdp')
  with pytest.raises(InputError, match=r'batch_size=8 .* multiple of 6'):
    sharding.check_divides(mesh, 'batch_size', 8, 'data', 'fsdp')


def main(folder, data_file, names):
  """Writes NAME.npz and NAME.json for each case into a folder."""
  home = tiny_judge.write_home(tiny_text.write_home(folder))
  for name in names:
    if name == 'runs':
      write_runs(folder, data_file)
      continue
    arrays, record = on_devices(name, data_file, home)
    np.savez(folder / f'{name}.npz', **arrays)
    (folder / f'{name}.json').write_text(json.dumps(record))


if __name__ == '__main__':
  if len(sys.argv) > 1:
    main(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
  else:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
      (GOLDEN / f'{table}.txt').write_text(tables(table), encoding='utf-8')
