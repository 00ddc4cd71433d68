"""Predictions of a trained policy, and their metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax import metrics, sampling
from genre2_jax.data import batches
from genre2_jax.errors import InterruptedRunError
from genre2_jax.objectives.rewards import REWARDS
from genre2_jax.objectives.token import cross_entropy
from genre2_jax.policy import teacher_forced


def validation_loss(params, examples, numbers, *, policy):
  """Mean cross-entropy of padded blocks, in nats per token, no dropout.

  Args:
    params: of one seed.
    examples: `Examples` cut into blocks [blocks, b, ...].
    numbers: int32 [blocks, b], −1 where padded.
    policy: a `Policy`.

  Returns:
    {'loss': scalar}.
  """

  def block(args):
    rows, _ = args
    context = policy.encode(params, rows.inputs)
    logits = teacher_forced(policy, params, context, rows.tokens)
    return {'loss': jax.vmap(cross_entropy)(logits, rows.tokens)}

  return _mean_over_rows(block, examples, numbers)


def validation_reward(
  params, examples, numbers, key, *, policy, codec, objective
):
  """Mean reward of sampled and of greedy numbers over padded blocks.

  The same key at every call: what changes between epochs is the policy.
  """

  def block(args):
    rows, number = args
    rollout = sampling.sample(
      policy,
      params,
      policy.encode(params, rows.inputs),
      _row_keys(key, number),
      num_samples=objective.group_size,
      temperature=objective.temperature,
      greedy=True,
    )
    samples, greedy_tokens = sampling.without_greedy(rollout)
    reward = REWARDS[objective.reward]
    rewards = reward(codec.decode(samples.tokens), rows.target[:, None])
    return {
      'reward': jnp.mean(rewards, -1),
      'greedy_reward': reward(codec.decode(greedy_tokens), rows.target),
      'entropy': jnp.mean(samples.entropy(), -1),
    }

  return _mean_over_rows(block, examples, numbers)


def predictions(
  params, inputs, numbers, key, *, policy, codec, num_samples, temperature
):
  """Samples of one block of rows, for one seed.

  A row's samples depend on the key and on its number, not on the rows beside
  it. The greedy number is the sampler's: the likeliest token at every step.

  Args:
    params: of one seed.
    inputs: of b rows.
    numbers: int32 [b], the rows' numbers.
    key: of this evaluation.
    policy: a `Policy`.
    codec: between tokens and z-scores.
    num_samples: G.
    temperature: of sampling.

  Returns:
    {'samples_z': [b, G], 'greedy_z': [b], 'entropy': [b]}.
  """
  rollout = sampling.sample(
    policy,
    params,
    policy.encode(params, inputs),
    _row_keys(key, numbers),
    num_samples=num_samples,
    temperature=temperature,
    greedy=True,
  )
  samples, greedy_tokens = sampling.without_greedy(rollout)
  return {
    'samples_z': codec.decode(samples.tokens),
    'greedy_z': codec.decode(greedy_tokens),
    'entropy': jnp.mean(samples.entropy(), -1),
  }


def predictor(model, keys, *, num_samples, temperature):
  """`predictions` for stacked seeds, compiled: (params, inputs, numbers).

  Compiled once per block shape and shared by all stages and splits.
  """
  function = functools.partial(
    predictions,
    policy=model.policy,
    codec=model.codec,
    num_samples=num_samples,
    temperature=temperature,
  )
  stacked = jax.jit(jax.vmap(function, (0, None, None, 0)))
  return lambda params, inputs, numbers: stacked(params, inputs, numbers, keys)


def predict(
  predict_block, params, inputs, *, block_size, sharding, interrupts=()
):
  """Predictions of all rows, block by block.

  Args:
    predict_block: what `predictor` gave.
    params: stacked over S seeds.
    inputs: of n rows, on the host.
    block_size: rows per dispatch.
    sharding: of a block's rows.
    interrupts: true once the run is asked to leave.

  Returns:
    numpy {'samples_z': [S, n, G], 'greedy_z': [S, n], 'entropy': [S, n]}.
  """
  blocks, numbers = batches.blocks(inputs, block_size)
  outputs = []
  for index, number in enumerate(numbers):
    if interrupts:
      raise InterruptedRunError('interrupted while predicting')
    block = jax.tree.map(lambda x, i=index: x[i], blocks)
    block, number = jax.device_put((block, number), sharding)
    outputs.append(jax.device_get(predict_block(params, block, number)))
  num_rows = int((numbers >= 0).sum())
  return {
    name: np.concatenate([o[name] for o in outputs], axis=1)[:, :num_rows]
    for name in outputs[0]
  }


def pooled(predicted):
  """The ensemble of S seeds: their samples in one pool, their greedy's mean.

  Samples alternate between the seeds, so that the first k are fair.
  """
  samples = predicted['samples_z']  # [S, n, G]
  num_seeds, num_rows, group = samples.shape
  return {
    'samples_z': samples.transpose(1, 2, 0).reshape(
      num_rows, group * num_seeds
    ),
    'greedy_z': predicted['greedy_z'].mean(axis=0),
    'entropy': predicted['entropy'].mean(axis=0),
  }


def result_rows(predicted, target_z, *, scaler, seeds, task, stage, split):
  """Rows of results.csv for one stage and split.

  Each seed by itself; of several seeds their 'mean' and 'std' (ddof 1), and
  the 'ensemble' that pools their samples.
  """
  members = [
    (seed, jax.tree.map(lambda x, i=i: x[i], predicted))
    for i, seed in enumerate(seeds)
  ]
  if len(seeds) > 1:
    members.append(('ensemble', pooled(predicted)))
  rows = []
  for seed, member in members:
    values = metrics.evaluate(
      member['samples_z'],
      member['greedy_z'],
      member['entropy'],
      target_z,
      low=scaler.low,
      high=scaler.high,
      std=scaler.std,
    )
    rows += [(task, seed, stage, split, *value) for value in values]
  return metrics.summarize(rows)


def prediction_columns(predicted, scaler):
  """Columns of a predictions file, in the original unit: name -> [n].

  Every point estimate and the central 90 % interval of the samples of all
  seeds.
  """
  member = pooled(predicted)
  samples = member['samples_z']
  columns = metrics.point_estimates(
    samples, member['greedy_z'], metrics.widened(scaler.low, scaler.high)
  )
  low, high = metrics.central_interval(samples, 0.9)
  columns |= {'lower90': low, 'upper90': high}
  return {name: scaler.restore(z) for name, z in columns.items()}


# What the summary shows: (estimator, metric).
_SUMMARY = (
  *((e, m) for e in ('greedy', 'mean', 'median') for m in ('r2', 'rmse')),
  *(('sample', m) for m in ('reward', 'crps', 'coverage90', 'width90')),
)


def summary(rows, stages):
  """Test metrics of the stages side by side, as text.

  Args:
    rows: of results.csv.
    stages: names, in order.
  """
  seeds = {row[1] for row in rows}
  seed = 'mean' if 'mean' in seeds else min(seeds)
  of = 'mean over seeds' if seed == 'mean' else f'seed {seed}'
  values = {
    (stage, estimator, metric): value
    for _, s, stage, split, estimator, metric, value in rows
    if s == seed and split == 'test'
  }
  lines = [
    f'Test rows, {of}; z-scores; distribution metrics from all samples',
    f'{"":24}' + ''.join(f'{stage:>14}' for stage in stages),
  ]
  for estimator, metric in _SUMMARY:
    name = 'distribution' if estimator == 'sample' else estimator
    cells = (values[stage, estimator, metric] for stage in stages)
    lines.append(
      f'{name + " " + metric:24}' + ''.join(f'{c:14.4f}' for c in cells)
    )
  return '\n'.join(lines)


def _row_keys(key, numbers):
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def _mean_over_rows(block, examples, numbers):
  values = jax.lax.map(block, (examples, numbers))  # name -> [blocks, b]
  real = numbers >= 0
  count = jnp.sum(real)
  return jax.tree.map(
    lambda x: jnp.sum(jnp.where(real, x, 0.0)) / count, values
  )
