"""FLOPs that are forecast, against those of the traced program."""

import functools
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from genre2_jax.ahead_of_time import product_flops
from genre2_jax.data.batches import Examples
from genre2_jax.experiment import costs, experiment, meshes, networks, recipes
from genre2_jax.experiment.stages import build_stages
from genre2_jax.experiment.tasks import read_table
from genre2_jax.objectives.objective import init_params
from genre2_jax.training import (
  evaluation,
  initialization,
  programs,
  stage_functions,
)
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


@pytest.mark.parametrize('exact', [False, True])
def test_a_row_costs_what_its_trace_multiplies(exact):
  """Its samples, or all its numbers; 32 rows, of which each is one."""
  config = recipes.get_config('talent', 'crps')
  config.size = 'paper'
  if exact:
    config.tokenizer.base, config.tokenizer.digits = 4, 4
  resolved = experiment.resolve(config)
  model = networks.build_model(resolved, read_table(resolved))
  (stage, *_) = build_stages(resolved)
  init = functools.partial(
    init_params,
    inputs=model.example_inputs(),
    network=model.network,
    codec=model.codec,
    objective=stage.objective,
  )
  params = nn.unbox(jax.eval_shape(init, jax.random.key(0)))
  rows = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((32, *x.shape[1:]), x.dtype),
    model.example_inputs(),
  )
  predict = functools.partial(
    evaluation.predictions,
    network=model.network,
    codec=model.codec,
    num_samples=0 if exact else resolved.eval.num_samples,
    temperature=1.0,
    exact=exact,
  )
  numbers = jax.ShapeDtypeStruct((32,), np.int32)
  traced = jax.jit(predict).trace(
    {'policy': params['policy']}, rows, numbers, jax.random.key(0)
  )
  forecast = costs.row_flops(resolved, 10, exact=exact)
  assert forecast == pytest.approx(product_flops(traced.jaxpr) / 32, rel=0.15)


def test_seeds_and_epochs_multiply_a_run():
  config = recipes.get_config('talent', 'remax')
  one = costs.run_flops(config, ROWS, 10)
  config.num_seeds = 3
  np.testing.assert_allclose(costs.run_flops(config, ROWS, 10), 3 * one)


def test_what_is_no_decoder_has_no_forecast():
  config = recipes.get_config('talent', 'best')
  assert math.isnan(costs.run_flops(config, ROWS, 10))
