"""Variance of the policy gradient and cost of a step, sampled against exact.

    python benchmarks/gradient_variance.py --data=abalone.csv --target=rings
    python benchmarks/gradient_variance.py     # scikit-learn's diabetes set

For each (base, digits) of the paper: a policy is trained by cross-entropy for
some epochs, then one batch of rows is held fixed, and each estimator's gradient
is drawn many times with new samples. Reported: the relative standard deviation
√(Σ_i Var g_i) / ‖E g‖ over parameters i, the bias ‖E g − g_exact‖ / ‖g_exact‖
up to a common factor, and CPU seconds of one gradient, sampling included.
GRPO's mean is no multiple of the policy gradient: its factor is fitted before
its bias is taken.
"""

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from genre2_jax.data import batches, tables
from genre2_jax.experiment import experiment, meshes, networks, tasks
from genre2_jax.experiment.stages import build_stages
from genre2_jax.objectives import objective, rollouts
from genre2_jax.objectives.catalog import build_term
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.training.programs import compile_stage
from genre2_jax.training.step import train_step

TOKENIZERS = ((2, 8), (4, 4), (6, 4), (8, 3), (10, 3))
ESTIMATORS = ('exact', 'remax', 'rloo', 'grpo', 'no_baseline')


def gradient_function(name, model, batch, num_tokens):
  """(params, key) -> (flat gradient, loss) of one estimator."""
  goal = objective.Objective(
    terms=(build_term(name),),
    enumeration=Enumeration(depth=num_tokens),
  )

  def gradient(params, key):
    keys = jax.random.split(key, len(batch.target))
    shared = {'codec': model.codec, 'objective': goal}
    if goal.is_sequence:
      tokens, judgement, _ = rollouts.roll_out(
        params, None, batch, keys, policy=model.network, **shared
      )

    def loss(params):
      if goal.is_sequence:
        losses, _ = rollouts.sequence_losses(
          params,
          batch,
          tokens,
          judgement,
          policy=model.network,
          objective=goal,
        )
      else:
        losses = objective.supervised(
          params, batch, keys, network=model.network, **shared
        )
      return objective.total(losses, goal)

    return jax.flatten_util.ravel_pytree(jax.grad(loss)(params))[0]

  return jax.jit(gradient)


def trained(config, model, examples):
  """Parameters after some epochs of cross-entropy."""
  (stage,) = build_stages(config)
  programs = compile_stage(
    train_step,
    stage,
    model,
    examples,
    seeds=(config.seed,),
    batch_size=config.batch_size,
    block_size=config.eval.batch_size,
    mesh=meshes.build_mesh(config),
  )
  state, _ = programs.validate(programs.init(None))
  for _ in range(config.pretrain.epochs):
    state = programs.run(state, programs.epoch_steps)
    state, _ = programs.validate(state)
  return jax.tree.map(lambda x: x[0], state.best_params)


def measure(config, draws):
  """Rows of the table for one tokenizer."""
  table = tasks.read_table(config)
  model = networks.build_model(config, table)
  examples = {
    split: model.examples(getattr(table, split)) for split in tables.SPLITS
  }
  params = trained(config, model, examples)
  rows = jnp.arange(config.batch_size) % len(table.train)
  batch = batches.take(examples['train'], rows)
  keys = jax.random.split(jax.random.key(config.seed), draws)
  exact, found = None, []
  for name in ESTIMATORS:
    gradient = gradient_function(
      name, model, batch, model.codec.tokenizer.num_tokens
    )
    jax.block_until_ready(gradient(params, keys[0]))
    count = 3 if name == 'exact' else draws
    total, squares, seconds = 0.0, 0.0, []
    for key in keys[:count]:
      began = time.process_time()
      g = np.asarray(gradient(params, key), np.float64)
      seconds.append(time.process_time() - began)
      total, squares = total + g, squares + g**2
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0).sum()
    variance *= count / (count - 1)
    if name == 'exact':
      exact = mean
    factor = mean @ exact / (exact @ exact)
    bias = np.linalg.norm(mean / factor - exact) / np.linalg.norm(exact)
    # What is left of the noise in a mean of `count` draws.
    noise = np.sqrt(variance / count) / (factor * np.linalg.norm(exact))
    spread = np.sqrt(variance) / (factor * np.linalg.norm(exact))
    found.append((name, spread, bias, noise, factor, np.median(seconds)))
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', default='', help='CSV; default: diabetes')
  parser.add_argument('--target', default='')
  parser.add_argument('--draws', type=int, default=60)
  parser.add_argument('--epochs', type=int, default=40)
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  print(f'{args.draws} draws, batch 64, group 16, D {args.width}, 2 layers')
  print('base digits estimator  rel.std  bias  (noise)  factor  CPU s')
  for number_base, digits in TOKENIZERS:
    config = base.get_config()
    config.update_from_flattened_dict(
      {
        'size': 'paper',
        'data.path': args.data,
        'data.target': args.target,
        'seed': args.seed,
        'stages': ('pretrain',),
        'tokenizer.base': number_base,
        'tokenizer.digits': digits,
        'batch_size': 64,
        'model.width': args.width,
        'model.num_layers': 2,
        'model.feedforward': 2 * args.width,
        'model.encoder_hidden': 256,
        'model.encoder_layers': 2,
        'pretrain.epochs': args.epochs,
        'pretrain.learning_rate': 1e-3,
      }
    )
    for name, *values in measure(experiment.resolve(config), args.draws):
      spread, bias, noise, factor, seconds = values
      print(
        f'{number_base:4} {digits:6} {name:11}{spread:7.2f}{bias:8.3f}'
        f'{noise:8.3f}{factor:8.2f}{seconds:9.3f}',
        flush=True,
      )


if __name__ == '__main__':
  main()
