"""Tables that are alike run the same programs, compiled once."""

import functools

import jax
import numpy as np
import pytest
from tiny import TINY

from genre2_jax import train
from genre2_jax.data import batches
from genre2_jax.data.tables import Rows, Table
from genre2_jax.devices import sharding
from genre2_jax.experiment import experiment, recipes
from genre2_jax.training import (
  initialization,
  orders,
  programs,
  stage_functions,
)
from genre2_jax.training.stages import optimizer_of
from genre2_jax.training.step import train_step

pytestmark = [
  pytest.mark.usefixtures('quick_compiles'),
  pytest.mark.xdist_group('shared_programs'),
]
_COMPILES = '/jax/core/compile/backend_compile_duration'
compiled = []
jax.monitoring.register_event_duration_secs_listener(
  lambda name, seconds, **_: compiled.append(name)
)


def table(num_rows, seed):
  """Other values and another scale for each seed; the same columns."""
  draw = np.random.default_rng(seed)

  def rows(count):
    numeric = draw.normal(seed, 1 + seed, (count, 3))
    categories = np.resize(np.array(['a', 'b'], object), (count, 1))
    noise = draw.normal(size=count)
    return Rows(
      numeric=numeric,
      categories=categories,
      target=(1 + seed) * numeric.sum(1) + noise,
    )

  return Table(
    name=f'table {seed}',
    target_name='y',
    numeric_names=('a', 'b', 'c'),
    category_names=('d',),
    train=rows(num_rows),
    val=rows(30),
    test=rows(20),
  )


def config_of(recipe, **fields):
  config = recipes.get_config('talent', recipe)
  config.update_from_flattened_dict(
    TINY
    | {'pretrain.max_steps': 0, 'pretrain.epochs': 2, 'finetune.epochs': 1}
    | {'report': False, **fields}
  )
  return config


@pytest.mark.slow
@pytest.mark.parametrize('recipe', ['crps', 'best'])
def test_the_second_fit_of_a_like_table_compiles_nothing(recipe, tmp_path):
  counts = []
  for place, num_rows in enumerate((77, 79)):
    compiled.clear()
    train.train_and_evaluate(
      config_of(recipe),
      tmp_path / str(place),
      table=table(num_rows, place),
      verbose=0,
    )
    counts.append(compiled.count(_COMPILES))
  assert counts[0] > 0
  assert counts[1] == 0


def lowered(recipe, data):
  """Text of a stage's programs, with the data's numbers as arguments."""
  built = experiment.build(config_of(recipe), table=data)
  model, stage = built.model, built.stages[-1].without_length()
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1)
  rows = model.training_examples(data.train)
  rows = batches.padded(rows, batches.ladder(len(rows.target)))
  functions = stage_functions.open_functions(
    train_step, stage, model.form, batch_size=16, mesh=mesh
  )
  state, _ = initialization.state_program(
    stage, model, seeds=(0,), mesh=mesh, optimizer=optimizer_of(stage, 1)
  )
  extent = stage_functions.Extent.of(stage, len(data.train), 16, ())
  given = model.form.numbers, extent
  block = batches.blocks(model.examples(data.val), 16)
  block = batches.padded_blocks(*block)
  texts = [
    jax.jit(functions.run).lower(given, state, rows, np.int32(1)).as_text(),
    jax.jit(functions.validate).lower(given, state, *block).as_text(),
  ]
  return texts


@pytest.mark.parametrize(
  'recipe',
  [
    pytest.param('remax', marks=pytest.mark.slow),  # `expert` has it, too.
    'crps',
    'best',
    'riemann',
    'pointwise',
    'expert',
  ],
)
def test_no_number_of_the_data_is_in_a_program(recipe):
  """So processes find each other's in the persistent cache."""
  if recipe == 'expert':
    recipe = 'genre2'
  first, second = (lowered(recipe, table(77 + s, s)) for s in (0, 1))
  assert first == second


@functools.cache
def trained(size, is_drawn=False):
  """Parameters after five steps over rows with so many places behind.

  is_drawn: whether the order of the epoch is there before.
  """
  data = table(77, 0)
  built = experiment.build(config_of('best'), table=data)
  model, stage = built.model, built.stages[-1]
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1)
  optimizer = optimizer_of(stage, 1)
  abstract, init = initialization.state_program(
    stage, model, seeds=(0, 1), mesh=mesh, optimizer=optimizer
  )
  run = stage_functions.open_functions(
    train_step, stage, model.form, batch_size=16, mesh=mesh
  ).run
  rows = batches.padded(model.training_examples(data.train), size)
  extent = stage_functions.Extent.of(stage, 77, 16, ())
  state = init(None)
  order = None
  if is_drawn:
    drawn = orders.Orders(2, 77, size, abstract.step.sharding)
    order = drawn.of(np.asarray(state.key), int(state.epoch[0]))
  state = jax.jit(run)((model.form.numbers, extent), state, rows, 5, order)
  return jax.device_get(state.params)


def test_an_order_that_was_drawn_before_is_the_same():
  jax.tree.map(
    np.testing.assert_array_equal, trained(77), trained(77, is_drawn=True)
  )


def test_no_dispatch_sorts_the_rows(monkeypatch):
  """Of many rows it takes longer than the steps: one draw an epoch."""
  data = table(77, 0)
  built = experiment.build(config_of('pointwise'), table=data)
  drawn = []
  shuffled = batches.shuffled
  monkeypatch.setattr(
    programs.batches,
    'shuffled',
    lambda *arguments: drawn.append(1) or shuffled(*arguments),
  )
  found = programs.compile_stage(
    train_step,
    built.stages[-1],
    built.model,
    {
      'train': built.model.training_examples(data.train),
      'val': built.model.examples(data.val),
    },
    seeds=tuple(range(11)),  # No other test draws for so many.
    batch_size=16,
    block_size=16,
    mesh=built.mesh,
  )
  assert not drawn and 'sort(' not in found.compiled.as_text()
  state = found.init(None)
  for _ in range(found.epoch_steps):
    state = found.run(state, 1)
  assert len(drawn) == 1


def test_rows_that_are_none_change_no_bit_of_training():
  alone, among = trained(77), trained(200)
  jax.tree.map(np.testing.assert_array_equal, alone, among)


@pytest.mark.parametrize('num_rows', [1, 2, 20, 1625, 1626, 5000])
def test_rows_are_shuffled_as_jax_shuffles_them(num_rows):
  key = jax.random.key(num_rows)
  wanted = jax.random.permutation(key, num_rows)
  for size in (num_rows, batches.ladder(num_rows), 6000):
    found = batches.shuffled(key, size, num_rows)
    np.testing.assert_array_equal(found[:num_rows], wanted)


def test_the_ladder_wastes_a_quarter_at_most():
  counts = np.arange(1, 3000)
  sizes = np.array([batches.ladder(int(n)) for n in counts])
  assert (sizes >= counts).all()
  assert (sizes < 1.25 * counts + 1).all()
  assert len(set(sizes.tolist())) < 50
  assert batches.ladder(659) == batches.ladder(700) == 768
