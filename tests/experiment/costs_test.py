"""FLOPs that are forecast, against those of the traced program."""

import math

import numpy as np
import pytest

from genre2_jax.ahead_of_time import product_flops
from genre2_jax.data.batches import Examples
from genre2_jax.experiment import costs, experiment, meshes, networks, recipes
from genre2_jax.experiment.stages import build_stages
from genre2_jax.experiment.tasks import read_table
from genre2_jax.training import initialization, programs, stage_functions
from genre2_jax.training.step import train_step

ROWS = {'train': 282, 'val': 71, 'test': 89}


@pytest.mark.parametrize('name', ['ce', 'remax', 'crps'])
def test_a_step_costs_what_its_trace_multiplies(name):
  """Steps alone: two bounds of a stage that differ by ten steps."""
  config = recipes.get_config('talent', name)
  config.size = 'paper'
  config.stages = ('pretrain',)
  if name != 'ce':
    config.pretrain.objective = ((name, 1.0, {}),)
    config.pretrain.dropout = False
  spent = []
  for steps in (20, 30):  # Of ten to an epoch with 1,280 rows.
    config.pretrain.max_steps = steps
    rows = {'train': 1280, 'val': 0, 'test': 0}
    spent.append(costs.run_flops(config, rows, 10))
  forecast = (spent[1] - spent[0]) / 10
  resolved = experiment.resolve(config)
  table = read_table(resolved)
  model = networks.build_model(resolved, table)
  mesh = meshes.build_mesh(resolved)
  (stage,) = build_stages(resolved)
  run, _, optimizer = stage_functions.functions(
    train_step,
    stage,
    model,
    num_rows=len(table.train.target),
    batch_size=128,
    mesh=mesh,
  )
  abstract, _ = initialization.state_program(
    stage, model, seeds=(0,), mesh=mesh, optimizer=optimizer
  )
  examples: Examples = model.training_examples(table.train)
  traced = programs.trace_run(run, abstract, examples)
  assert forecast == pytest.approx(product_flops(traced.jaxpr), rel=0.12)


def test_seeds_and_epochs_multiply_a_run():
  config = recipes.get_config('talent', 'remax')
  one = costs.run_flops(config, ROWS, 10)
  config.num_seeds = 3
  np.testing.assert_allclose(costs.run_flops(config, ROWS, 10), 3 * one)


def test_what_is_no_decoder_has_no_forecast():
  config = recipes.get_config('talent', 'best')
  assert math.isnan(costs.run_flops(config, ROWS, 10))
