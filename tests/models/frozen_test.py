"""Parameters that are never trained, and micro-batches."""

import dataclasses
import functools
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checks import assert_same_bits
from table_policy import batch_of, table_policy

from genre2_jax import tokenizers, train
from genre2_jax.devices import sharding
from genre2_jax.errors import InputError, InterruptedRunError
from genre2_jax.experiment import experiment, networks
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, Rollouts, init_params
from genre2_jax.runs.finished import open_run
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import optimizers, stages, train_state
from genre2_jax.training.checkpoints import KeptFrozen, StageCheckpoints
from genre2_jax.training.initialization import state_program
from genre2_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures('quick_compiles')

TOKENIZER = tokenizers.build('normalized', base=3, digits=2)
CODEC = Codec(TOKENIZER, low=-1.0, high=1.0)
TABLE = table_policy(TOKENIZER)
# The table behind a factor of the input, which is the encoder.
POLICY = TABLE._replace(
  init=lambda key, inputs: {
    'encoder': {'factor': jnp.full(1, 1.5)},
    'decoder': TABLE.init(key, inputs),
  },
  encode=lambda params, inputs, dropout_key=None: (
    inputs * params['encoder']['factor']
  ),
  decode=lambda params, *args, **kwargs: TABLE.decode(
    params['decoder'], *args, **kwargs
  ),
)
FROZEN = POLICY._replace(frozen=lambda path: path[0] == 'encoder')
TERMS = {
  'ce': (build_term('ce'), build_term('raft')),
  'rl': (build_term('remax'), build_term('kl', 0.1)),
  'ppo': (build_term('ppo', 1.0, {'normalize': False}),),
}


DRAW = np.random.default_rng(0)
BATCH = batch_of(CODEC, DRAW.normal(size=8), DRAW.uniform(-1, 1, 8))


def objective_of(name, **options):
  objective = Objective(
    terms=TERMS[name], rollouts=Rollouts(group_size=3, **options)
  )
  if name == 'ce':
    objective = dataclasses.replace(
      objective,
      enumeration=dataclasses.replace(objective.enumeration, depth=2),
    )
  return objective


@functools.cache
def params_of(name):
  return init_params(
    jax.random.key(1),
    BATCH.inputs,
    network=POLICY,
    codec=CODEC,
    objective=objective_of(name),
  )


def stepped(network, name, *, num_steps=2, accumulation=1, **options):
  """The state before and after steps on one batch."""
  objective = objective_of(name, **options)
  optimizer = optax.sgd(0.1)
  before = train_state.create(
    params_of(name),
    jax.random.key(0),
    optimizer,
    objective.metrics,
    keep_reference='reference' in objective.needs,
    is_frozen=network.frozen,
  )
  step = jax.jit(
    functools.partial(
      train_step,
      network=network,
      codec=CODEC,
      optimizer=optimizer,
      objective=objective,
      accumulation=accumulation,
    )
  )
  after = before
  for _ in range(num_steps):
    after = step(after, BATCH)
  return before, after


def paths(tree):
  return {
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize('name', ['ce', 'rl'])
def test_frozen_parameters_stay_and_the_others_move_as_ever(name):
  """One step of SGD: what is trained moves as without anything frozen."""
  _, free = stepped(POLICY, name, num_steps=1)
  before, after = stepped(FROZEN, name, num_steps=1)
  assert_same_bits(after.frozen, before.frozen)
  assert paths(after.frozen) == {"['encoder']['factor']"}
  for trees in (after.params, after.best_params, after.reference):
    assert not any('encoder' in path for path in paths(trees))
  whole = train_state.merge(after.params, after.frozen)
  assert paths(whole) == paths(free.params)
  assert whole['policy']['encoder']['factor'] == 1.5
  assert free.params['policy']['encoder']['factor'] != 1.5
  ours, theirs = (x['policy']['decoder'] for x in (whole, free.params))
  np.testing.assert_allclose(ours, theirs, atol=1e-6)
  assert np.abs(ours - params_of(name)['policy']['decoder']).max() > 1e-3


def test_a_critic_shares_what_is_frozen():
  before, _ = stepped(FROZEN, 'ppo', num_steps=0)
  assert not any('encoder' in path for path in paths(before.params))
  whole = train_state.merge(before.params, before.frozen)
  assert_same_bits(whole['critic']['encoder'], whole['policy']['encoder'])
  assert_same_bits(
    whole['critic']['decoder'], params_of('ppo')['critic']['decoder']
  )


@pytest.mark.parametrize(
  ('name', 'options'),
  [('ce', {}), ('rl', {'num_updates': 2}), ('ppo', {})],
)
def test_micro_batches_give_the_whole_batch_s_update(name, options):
  """Up to rounding: same samples, as a row's draw is the row's own."""
  _, whole = stepped(POLICY, name, **options)
  _, parts = stepped(POLICY, name, accumulation=4, **options)
  check = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
  jax.tree.map(check, parts.params, whole.params)
  jax.tree.map(check, parts.totals, whole.totals)


def stage_of(**options):
  return stages.Stage(
    **{
      'section': 'pretrain',
      'name': 'ce',
      'objective': objective_of('ce'),
      'epochs': 1,
      'max_steps': 0,
      'learning_rate': 1e-2,
      'patience': 0,
      'warmup_steps': 0,
      'weight_decay': 0.0,
      'max_grad_norm': 1.0,
      **options,
    }
  )


TABULAR = tabular_policy(
  TOKENIZER,
  cardinalities=(),
  width=8,
  num_layers=1,
  num_heads=2,
  feedforward=24,
  encoder_hidden=8,
  encoder_layers=1,
  dropout=0.1,
)


def model_of(network):
  return types.SimpleNamespace(
    network=network,
    codec=CODEC,
    example_inputs=lambda: {
      'numeric': np.zeros((1, 3), np.float32),
      'categories': np.zeros((1, 0), np.int32),
    },
  )


def abstract_state(network, stage, optimizer=None, **sizes):
  sizes = dict.fromkeys(sharding.AXES, 1) | sizes
  mesh = jax.sharding.AbstractMesh(
    tuple(sizes.values()), tuple(sizes), (jax.sharding.AxisType.Auto,) * 4
  )
  state, _ = state_program(
    stage,
    model_of(network),
    seeds=(0, 1),
    mesh=mesh,
    optimizer=optimizer or stages.optimizer_of(stage, 1),
  )
  return state


def test_factored_statistics_lie_as_the_axis_that_is_left():
  optimizer = optimizers.adafactor(0.1, max_grad_norm=1.0, min_factored=4)
  state = abstract_state(
    TABULAR._replace(frozen=FROZEN.frozen),
    stage_of(),
    optimizer,
    replica=2,
    fsdp=2,
    model=2,
  )
  factored = optax.tree_utils.tree_get(state.opt_state, 'v_row')
  columns = optax.tree_utils.tree_get(state.opt_state, 'v_col')
  whole = optax.tree_utils.tree_get(state.opt_state, 'v')
  path = ('policy', 'decoder', 'layer_0', 'up')

  def spec(tree, name):
    for part in (*path, name):
      tree = tree[part]
    return tree.shape, tuple(tree.sharding.spec)

  assert spec(state.params, 'kernel') == (
    (2, 8, 24),
    ('replica', 'fsdp', 'model'),
  )
  assert spec(factored, 'kernel') == ((2, 8), ('replica', 'fsdp'))
  assert spec(columns, 'kernel') == ((2, 24), ('replica', 'model'))
  assert spec(whole, 'kernel') == ((2, 1), ('replica',))
  assert spec(whole, 'bias') == ((2, 24), ('replica', ('model', 'fsdp')))
  # A square matrix does not tell which axis is left.
  path = (*path[:-1], 'self_attention', 'out')
  assert spec(factored, 'kernel') == ((2, 8), ('replica',))


def test_frozen_parameters_are_laid_out_as_if_they_were_trained():
  state = abstract_state(
    TABULAR._replace(frozen=FROZEN.frozen),
    stage_of(),
    replica=2,
    fsdp=2,
    model=2,
  )
  free = abstract_state(TABULAR, stage_of(), replica=2, fsdp=2, model=2)
  whole = train_state.merge(state.params, state.frozen)

  def specs(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.sharding.spec)), tree)

  assert specs(whole) == specs(free.params)
  moments = optax.tree_utils.tree_get(state.opt_state, 'mu')
  assert paths(moments) == paths(state.params) < paths(free.params)


def test_a_checkpoint_holds_what_is_frozen_once(tmp_path):
  before, after = stepped(FROZEN, 'ce')
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), num_devices=1)
  states = jax.device_put((before, after), sharding.replicated(mesh))
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    states[0],
  )
  folder, frozen = tmp_path / 'ce', tmp_path / 'frozen'
  frozen.mkdir()  # As a kill while it is saved leaves it.
  with StageCheckpoints(folder, KeptFrozen(frozen), keep=1) as checkpoints:
    for step, state in enumerate(states):
      checkpoints.save(step, state)
  with StageCheckpoints(folder, KeptFrozen(frozen)) as checkpoints:
    restored = checkpoints.restore(abstract)
  assert_same_bits(restored, states[1])
  assert [path.name for path in frozen.iterdir()] == ['0']
  with StageCheckpoints(
    folder.with_name('rl'), KeptFrozen(frozen)
  ) as checkpoints:
    assert checkpoints.restore(abstract) is None
  frozen.rename(tmp_path / 'elsewhere')
  with (
    StageCheckpoints(folder, KeptFrozen(frozen)) as checkpoints,
    pytest.raises(InputError, match='frozen has no whole frozen'),
  ):
    checkpoints.restore(abstract)


@pytest.mark.slow
def test_a_run_with_frozen_parameters_goes_on_where_it_was_stopped(
  make_config, tmp_path, monkeypatch
):
  """From stage to stage, through a stop, into predictions and a new run."""
  model_of = networks.model_of

  def frozen(*args, **options):
    model = model_of(*args, **options)
    network = model.network._replace(frozen=lambda path: path[0] == 'encoder')
    return dataclasses.replace(model, network=network, form=None)

  monkeypatch.setattr(networks, 'model_of', frozen)
  monkeypatch.setattr(experiment, 'model_of', frozen)
  config = make_config(
    {
      'pretrain.epochs': 2,
      'finetune.epochs': 1,
      'optimizer.name': 'adafactor',
      'optimizer.schedule': 'constant',
      'optimizer.accumulation': 2,
      'report': False,
      'checkpoint.every_seconds': 0.0,
    }
  )
  at_once = train.train_and_evaluate(config, tmp_path / 'a', verbose=0)
  asked = iter([False] * 3)

  class Stop:
    def __bool__(self):
      return next(asked, True)

  with pytest.raises(InterruptedRunError):
    train.train_and_evaluate(config, tmp_path / 'b', Stop(), verbose=0)
  resumed = train.train_and_evaluate(config, tmp_path / 'b', verbose=0)
  for name in ('results.csv', 'predictions.csv'):
    assert (resumed / name).read_bytes() == (at_once / name).read_bytes()
  shutil.rmtree(at_once / 'checkpoints')
  finished = open_run(at_once)
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), num_devices=1)
  first, last = (finished.weights(stage, mesh) for stage in finished.stages)
  assert_same_bits(first['policy']['encoder'], last['policy']['encoder'])
