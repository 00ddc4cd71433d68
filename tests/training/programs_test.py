"""Programs of a stage: bits, packed seeds, and meshes of eight devices.

As a program, `python programs_test.py FOLDER` writes what `trajectory` gives on
meshes of eight devices.
"""

import functools
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checks import environment_of_eight_devices, without_key_bias
from tiny import abstract_mesh, tiny_stage

from genre2_jax import tokenizers
from genre2_jax.data import batches
from genre2_jax.devices import sharding
from genre2_jax.errors import InputError
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, Rollouts
from genre2_jax.policy import Policy
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import stages, validation
from genre2_jax.training.initialization import state_program
from genre2_jax.training.orders import _SHUFFLE
from genre2_jax.training.programs import compile_stage
from genre2_jax.training.stage_functions import _VALIDATION
from genre2_jax.training.step import train_step

pytestmark = [
  pytest.mark.usefixtures('quick_compiles'),
  # One worker: what has been compiled for one test serves the others.
  pytest.mark.xdist_group('programs'),
]

CODEC = Codec(tokenizers.build('normalized', base=3, digits=2), -1.5, 1.5)
POLICY = tabular_policy(
  CODEC.tokenizer,
  cardinalities=(3,),
  width=16,
  num_layers=1,
  num_heads=2,
  feedforward=16,
  encoder_hidden=16,
  encoder_layers=1,
  dropout=0.1,
)
BATCH_SIZE = 8
ONE_DEVICE = {'replica': 1, 'data': 1, 'fsdp': 1, 'model': 1}
MESHES = {
  'data': ONE_DEVICE | {'data': 8},
  'fsdp': ONE_DEVICE | {'data': 2, 'fsdp': 2, 'model': 2},
  'replica': ONE_DEVICE | {'replica': 2, 'data': 4},
}


class Model(NamedTuple):
  """What a stage wants to know of a model."""

  network: Policy = POLICY
  codec: Codec = CODEC
  widths: tuple[int, ...] = ()

  def example_inputs(self):
    return jax.tree.map(lambda x: np.zeros_like(x[:1]), examples(1, 0).inputs)


def examples(num_rows, seed):
  rng = np.random.default_rng(seed)
  numeric = rng.normal(size=(num_rows, 3)).astype(np.float32)
  target = np.tanh(numeric.sum(-1)).astype(np.float32)
  return batches.Examples(
    inputs={
      'numeric': numeric,
      'categories': rng.integers(0, 3, (num_rows, 1)).astype(np.int32),
    },
    target=target,
    tokens=CODEC.encode(target),
  )


EXAMPLES = {'train': examples(20, 0), 'val': examples(11, 1)}


SECTIONS = {'ce': 'pretrain', 'rl': 'finetune'}
OBJECTIVES = {
  'ce': Objective(terms=(build_term('ce'),), dropout=True),
  'rl': Objective(
    terms=(build_term('remax'), build_term('kl', 0.1)),
    rollouts=Rollouts(group_size=3),
  ),
}


def stage_of(name, **options):
  own = {'section': SECTIONS[name], 'objective': OBJECTIVES[name]}
  return tiny_stage(name, **own | options)


def compiled(stage, seeds, mesh=ONE_DEVICE, num_devices=1, block_size=8):
  return compile_stage(
    train_step,
    stage,
    Model(),
    EXAMPLES,
    seeds=seeds,
    batch_size=BATCH_SIZE,
    block_size=block_size,
    mesh=sharding.make_mesh(mesh, num_devices),
  )


SEEDS = (3, 4, 5, 6)


@functools.cache
def packed(name):
  """Four seeds side by side, some of which lose patience."""
  return compiled(stage_of(name), SEEDS)


def test_the_last_epoch_is_cut_short_and_its_means_are_of_its_steps():
  stage = stage_of('ce', max_steps=7).bounded(3)
  programs = compiled(stage, (3,))
  assert (stage.epochs, programs.epoch_steps, programs.num_steps) == (3, 3, 7)
  assert [programs.end_of_epoch(epoch) for epoch in range(3)] == [3, 6, 7]
  state, _ = programs.validate(programs.init(None))
  for epoch, steps in enumerate((3, 3, 1), start=1):
    state = programs.run(state, steps)
    total = float(state.totals['loss'][0])
    state, metrics = programs.validate(state)
    assert int(state.epoch[0]) == epoch
    assert float(metrics['train/loss'][0]) == pytest.approx(total / steps)
  assert stage.is_finished(state) and int(state.step[0]) == 7


def copy(state):
  """To give to a program that takes its argument's memory."""
  return jax.tree.map(jnp.copy, state)


def assert_equal(x, y, **tolerance):
  """All leaves of two trees; exactly, unless there is a tolerance."""

  def check(path, x, y):
    x, y = np.asarray(x), np.asarray(y)
    name = jax.tree_util.keystr(path)
    if tolerance:
      x, y = without_key_bias(name, x), without_key_bias(name, y)
    np.testing.assert_allclose(
      x, y, err_msg=name, **{'rtol': 0, 'atol': 0, **tolerance}
    )

  jax.tree_util.tree_map_with_path(check, x, y)


# ------------------------------------------------------------------ the loop


@pytest.mark.parametrize('name', ['ce', 'rl'])
def test_three_steps_at_once_are_three_steps_one_by_one_to_the_bit(name):
  programs = packed(name)
  state = programs.init(None)
  at_once = programs.run(copy(state), 3)
  assert at_once.step.tolist() == [3] * 4
  for _ in range(3):
    state = programs.run(state, 1)
  assert_equal(state, at_once)


def test_a_run_is_steps_over_shuffled_epochs():
  """Written out for one seed, over the end of an epoch."""
  stage = stage_of('ce')
  programs = packed('ce')
  assert programs.epoch_steps == 3
  state = programs.init(None)
  mine = jax.tree.map(lambda x: x[1], state)
  state, _ = programs.validate(state)
  state, _ = programs.validate(programs.run(state, 3))
  state = programs.run(state, 2)

  step = jax.jit(
    functools.partial(
      train_step,
      network=POLICY,
      codec=CODEC,
      optimizer=stages.optimizer_of(stage, stage.num_steps(3)),
      objective=stage.objective,
    )
  )
  seen = []
  for epoch, num_steps in ((0, 3), (1, 2)):
    key = jax.random.wrap_key_data(mine.key)
    key = jax.random.fold_in(jax.random.fold_in(key, _SHUFFLE), epoch)
    order = batches.epoch_indices(key, 20, BATCH_SIZE)
    seen.append(np.asarray(order))
    for indices in order[:num_steps]:
      mine = step(mine, batches.take(EXAMPLES['train'], indices))
  assert set(seen[0].ravel()) == set(range(20))
  assert (seen[0] != seen[1]).any()
  assert_equal(
    mine.params, jax.tree.map(lambda x: x[1], state.params), atol=1e-5
  )


def test_metrics_of_an_epoch_are_means_over_its_steps():
  programs = packed('rl')
  state, before = programs.validate(programs.init(None))
  assert state.epoch.tolist() == [0] * 4
  state = programs.run(state, 3)
  totals = jax.tree.map(np.asarray, state.totals)
  state, metrics = programs.validate(state)
  for name, total in totals.items():
    np.testing.assert_allclose(metrics[f'train/{name}'], total / 3, rtol=1e-6)
  assert not any(x.any() for x in jax.tree.leaves(state.totals))
  assert set(metrics) - {f'train/{name}' for name in totals} == {
    'val/reward',
    'val/greedy_reward',
    'val/entropy',
  }
  # A seed whose numbers stay as they are keeps its reward.
  assert (before['val/reward'] != metrics['val/reward']).any()
  _, metrics = packed('ce').validate(packed('ce').init(None))
  assert {name for name in metrics if name.startswith('val/')} == {
    'val/loss',
    'val/ce',
  }


def test_validation_takes_the_same_samples_every_time():
  programs = packed('rl')
  state, first = programs.validate(programs.init(None))
  _, second = programs.validate(state)
  np.testing.assert_array_equal(first['val/reward'], second['val/reward'])


def test_few_rows_are_validated_in_a_block_that_they_fill(monkeypatch):
  sizes, cut = [], batches.blocks

  def recorded(rows, block_size, chosen):
    sizes.append(block_size)
    return cut(rows, block_size, chosen)

  monkeypatch.setattr(batches, 'blocks', recorded)
  programs = compiled(stage_of('rl'), SEEDS[:1], block_size=128)
  assert sizes == [12]  # 11 rows
  _, found = programs.validate(programs.init(None))
  _, expected = packed('rl').validate(packed('rl').init(None))
  for name, value in found.items():
    np.testing.assert_allclose(value, expected[name][:1], rtol=1e-5)


def test_validation_has_random_numbers_of_its_own():
  """Row n does not draw from the key of step n."""
  programs = packed('rl')
  state = programs.init(None)
  blocks, numbers = batches.blocks(EXAMPLES['val'], 8)

  @jax.jit
  def reward(params, key):
    _, means = validation.validate(
      params, blocks, numbers, key, network=POLICY, codec=CODEC,
      objective=OBJECTIVES['rl'],
    )  # fmt: skip
    return means['reward']

  params = jax.tree.map(lambda x: x[0], state.params)
  of_steps = jax.random.wrap_key_data(state.key[0])
  own = jax.random.fold_in(of_steps, _VALIDATION)
  rewards = [float(reward(params, key)) for key in (of_steps, own)]
  _, metrics = programs.validate(state)
  found = float(metrics['val/reward'][0])
  assert found == pytest.approx(rewards[1], rel=1e-5)
  assert found != pytest.approx(rewards[0], rel=1e-5)
  keys = [
    jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, place))
    for key in (of_steps, own)
    for place in [np.arange(1000)]
  ]
  assert len(np.unique(np.concatenate(keys), axis=0)) == 2000


# ------------------------------------------------------------- packed seeds


@pytest.mark.parametrize(('name', 'place'), [('ce', 2), ('rl', 3)])
def test_a_seed_among_others_is_what_it_is_alone(name, place):
  """Parameters, best so far and patience, over three epochs.

  The seed runs out of patience on the way, others do not.
  """

  def train(programs):
    state, metrics = programs.validate(programs.init(None))
    for _ in range(3):
      state, metrics = programs.validate(programs.run(state, 3))
    return state, metrics

  together, metrics = train(packed(name))
  alone, own_metrics = train(compiled(stage_of(name), SEEDS[place : place + 1]))
  pick = functools.partial(jax.tree.map, lambda x: x[place : place + 1])
  assert_equal(pick(together.params), alone.params, atol=1e-5)
  assert_equal(pick(together.best_params), alone.best_params, atol=1e-5)
  assert_equal(pick(metrics), own_metrics, rtol=1e-4, atol=1e-6)
  for field in ('step', 'epoch', 'key', 'bad_step', 'best_epoch'):
    found, expected = pick(getattr(together, field)), getattr(alone, field)
    np.testing.assert_array_equal(found, expected)
  np.testing.assert_allclose(
    pick(together.best_score), alone.best_score, rtol=1e-5
  )
  assert together.best_epoch[place] < together.best_epoch.max()
  kernel = together.params['policy']['encoder']['Dense_0']['kernel']
  assert np.abs(kernel[0] - kernel[1]).max() > 0.1


def test_a_seed_begins_alike_alone_and_among_others():
  mesh = sharding.make_mesh(ONE_DEVICE, 1)
  stage = stage_of('ce')
  optimizer = stages.optimizer_of(stage, stage.num_steps(3))

  def begin(seeds):
    _, init = state_program(
      stage, Model(), seeds=seeds, mesh=mesh, optimizer=optimizer
    )
    return init(None)

  together = begin(SEEDS)
  for index, seed in enumerate(SEEDS):
    mine = jax.tree.map(lambda x, i=index: x[i : i + 1], together)
    assert_equal(mine, begin((seed,)), atol=1e-6)


def test_a_stage_begins_with_the_parameters_that_it_is_given():
  programs = packed('rl')
  given = programs.init(None).params['policy']
  given = jax.tree.map(lambda x: x + 1, given)
  state = programs.init(jax.tree.map(jnp.copy, given))  # Which it takes.
  for params in (state.params, state.best_params, state.reference):
    assert_equal(params, {'policy': given})
  moments = optax.tree_utils.tree_get(state.opt_state, 'mu')
  assert not any(x.any() for x in jax.tree.leaves(moments))
  assert (state.step == 0).all() and (state.epoch == -1).all()
  assert (state.bad_step == -1).all()
  assert len(np.unique(np.asarray(state.key), axis=0)) == 4


# ------------------------------------------------------------ eight devices


def trajectory(ce, rl):
  """Parameters after three steps of CE, and two more of RL.

  Returns:
    ({path: array}, [path of each array that is whole along 'embed'], number
    of arrays with that axis).
  """
  state, _ = ce.validate(ce.init(None))
  state, metrics = ce.validate(ce.run(state, 3))
  state, _ = rl.validate(rl.init(state.params['policy']))
  state = rl.run(state, 2)
  arrays = {'params': state.params, 'totals': state.totals, 'ce': metrics}
  arrays = {
    jax.tree_util.keystr(path): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(arrays)
  }
  return arrays, *whole_embeddings(state)


def whole_embeddings(state):
  """Arrays of a state not split along their logical axis 'embed'."""
  boxed = jax.eval_shape(
    POLICY.init, jax.random.key(0), Model().example_inputs()
  )
  names = nn.get_partition_spec(boxed)
  whole, count = [], 0
  for what, tree in {
    'params': state.params,
    'best_params': state.best_params,
    'reference': state.reference,
    'mu': optax.tree_utils.tree_get(state.opt_state, 'mu'),
    'nu': optax.tree_utils.tree_get(state.opt_state, 'nu'),
  }.items():
    leaves = jax.tree_util.tree_leaves_with_path(tree['policy'])
    for (path, x), axes in zip(leaves, jax.tree.leaves(names), strict=True):
      if 'embed' in axes:
        axis = 1 + axes.index('embed')
        count += 1
        if any(
          shard.data.shape[axis] == x.shape[axis]
          for shard in x.addressable_shards
        ):
          whole.append(what + jax.tree_util.keystr(path))
  return whole, count


@pytest.fixture(scope='module')
def on_one_device():
  arrays, whole, count = trajectory(packed('ce'), packed('rl'))
  assert len(whole) == count > 40  # Here the check does find something.
  return arrays


@pytest.fixture(scope='module')
def eight_devices(tmp_path_factory):
  """A process that computes beside the other tests what `main` writes."""
  folder = tmp_path_factory.mktemp('devices')
  environment = environment_of_eight_devices()
  command = [sys.executable, __file__, str(folder)]
  with subprocess.Popen(command, env=environment) as process:
    yield process, folder
    process.kill()


@pytest.fixture(scope='module')
def on_eight_devices(eight_devices):
  """What `trajectory` gave on each of `MESHES`."""
  process, folder = eight_devices
  assert process.wait() == 0
  found = {}
  for name in MESHES:
    with np.load(folder / f'{name}.npz') as arrays:
      whole = (folder / f'{name}.json').read_text(encoding='utf-8')
      found[name] = dict(arrays), json.loads(whole)
  return found


@pytest.mark.slow
@pytest.mark.parametrize('name', MESHES)
def test_eight_devices_give_what_one_device_gives(
  name, on_one_device, on_eight_devices
):
  arrays, _ = on_eight_devices[name]
  assert arrays.keys() == on_one_device.keys()
  assert_equal(arrays, on_one_device, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_under_fsdp_no_device_holds_an_embedding_axis_whole(on_eight_devices):
  _, (whole, count) = on_eight_devices['fsdp']
  assert count > 40
  assert not whole


def test_what_objectives_add_is_laid_out_too():
  """The critic as the policy is; trained numbers whole, but for the seeds."""
  terms = build_term('ppo'), build_term('raft', 1.0, {'learnable': True})
  stage = stage_of('rl', objective=Objective(terms=terms))
  state, _ = state_program(
    stage,
    Model(),
    seeds=SEEDS,
    mesh=abstract_mesh({'replica': 2, 'fsdp': 2, 'model': 2}),
    optimizer=stages.optimizer_of(stage, stage.num_steps(3)),
  )
  assert state.reference is None
  moments = optax.tree_utils.tree_get(state.opt_state, 'mu')
  for params in (state.params, state.best_params, moments):
    assert set(params) == {'policy', 'critic', 'numbers'}
    policy, critic = (
      [(x.shape, x.sharding.spec) for x in jax.tree.leaves(params[name])]
      for name in ('policy', 'critic')
    )
    assert policy == critic
    assert any('fsdp' in spec for _, spec in policy)
    assert params['numbers'].shape == (4, 9)
    assert tuple(params['numbers'].sharding.spec) == ('replica',)


def test_parameters_that_do_not_split_evenly_are_input_errors():
  stage = stage_of('ce')
  with pytest.raises(InputError, match='does not split over the mesh'):
    state_program(
      stage,
      Model(),
      seeds=(0,),
      mesh=abstract_mesh({'fsdp': 3}),
      optimizer=stages.optimizer_of(stage, stage.num_steps(3)),
    )


def main(folder):
  """Writes NAME.npz and NAME.json for each mesh into a folder."""
  for name, mesh in MESHES.items():
    ce, rl = (
      compiled(stage_of(stage), SEEDS, mesh, 8) for stage in ('ce', 'rl')
    )
    arrays, whole, count = trajectory(ce, rl)
    np.savez(folder / f'{name}.npz', **arrays)
    (folder / f'{name}.json').write_text(
      json.dumps([whole, count]), encoding='utf-8'
    )


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
