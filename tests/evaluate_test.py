"""Evaluation: padding is not seen, blocks do not matter, tables are whole."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import evaluate, metrics, sampling, steps, tokenizers
from genre2_jax.codec import Codec
from genre2_jax.data import batches
from genre2_jax.data.features import TargetScaler
from genre2_jax.errors import InterruptedRunError
from genre2_jax.objectives.rewards import REWARDS
from genre2_jax.policy import Policy

TOKENIZER = tokenizers.build('normalized', base=3, digits=2)
CODEC = Codec(TOKENIZER, low=-1.0, high=2.0)
SCALER = TargetScaler(mean=100.0, std=10.0, low=-1.0, high=2.0)
OBJECTIVE = steps.SequenceObjective(group_size=5, temperature=0.8)
PARAMS = np.array([[0.2, -0.5, 0.4], [1.0, 0.1, -0.3]], np.float32)
HOST = jax.devices('cpu')[0]


@pytest.fixture(autouse=True, scope='module')
def quick_compiles():
  """Compiling is what takes time here, not running."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


def decode(params, context, tokens, positions, visible, cache=None, **_):
  """Logits of a position, [T, V] in all; an input scales them."""
  logits = context[:, None, None, None] * jnp.asarray(params)[positions]
  return jnp.broadcast_to(logits, (*tokens.shape, 3)), cache


POLICY = Policy(
  TOKENIZER, init=None, encode=lambda params, inputs: inputs, decode=decode
)
MODEL = SimpleNamespace(policy=POLICY, codec=CODEC)


def examples(num_rows):
  rng = np.random.default_rng(0)
  target = rng.uniform(-1, 2, num_rows).astype(np.float32)
  return batches.Examples(
    inputs=rng.normal(size=num_rows).astype(np.float32),
    target=target,
    tokens=CODEC.encode(target),
  )


def blocks_of(rows, block_size):
  """Blocks and row numbers, what pads them made unmistakably bad."""
  blocks, numbers = batches.blocks(rows, block_size)
  blocks.target[numbers < 0] = np.nan
  blocks.inputs[numbers < 0] = np.nan
  return blocks, numbers


BLOCK_SIZES = [1, 3, 7, 16]


@pytest.mark.parametrize('block_size', BLOCK_SIZES)
def test_validation_loss_is_the_mean_over_the_rows_that_there_are(block_size):
  rows = examples(7)
  log_p = np.asarray(jax.nn.log_softmax(rows.inputs[:, None, None] * PARAMS))
  expected = -np.take_along_axis(log_p, rows.tokens[..., None], -1).mean()
  validate = functools.partial(evaluate.validation_loss, policy=POLICY)
  found = jax.jit(validate)(PARAMS, *blocks_of(rows, block_size))
  assert set(found) == {'loss'}
  assert found['loss'] == pytest.approx(expected, rel=1e-5)


def samples_of(rows, key, num_samples, temperature):
  """The samples of all rows at once, by each row's number."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(rows)))
  return sampling.without_greedy(
    sampling.sample(
      POLICY,
      PARAMS,
      jnp.asarray(rows),
      keys,
      num_samples=num_samples,
      temperature=temperature,
      greedy=True,
    )
  )


@pytest.mark.parametrize('block_size', BLOCK_SIZES)
@pytest.mark.parametrize('reward', ['squared', 'absolute'])
def test_validation_reward_is_the_mean_over_the_rows_that_there_are(
  block_size, reward
):
  rows, key = examples(7), jax.random.key(3)
  samples, greedy = samples_of(rows.inputs, key, 5, 0.8)
  rewards, greedy_rewards = (
    REWARDS[reward](CODEC.decode(tokens), target)
    for tokens, target in (
      (samples.tokens, rows.target[:, None]),
      (greedy, rows.target),
    )
  )
  objective = steps.SequenceObjective(
    group_size=5, temperature=0.8, reward=reward
  )
  validate = functools.partial(
    evaluate.validation_reward,
    policy=POLICY,
    codec=CODEC,
    objective=objective,
  )
  found = jax.jit(validate)(PARAMS, *blocks_of(rows, block_size), key)
  assert found['reward'] == pytest.approx(float(rewards.mean()), rel=1e-5)
  assert found['greedy_reward'] == pytest.approx(
    float(greedy_rewards.mean()), rel=1e-5
  )
  assert found['entropy'] == pytest.approx(
    float(samples.entropy().mean()), rel=1e-5
  )


# ------------------------------------------------------------- predictions

SEED_KEYS = jax.random.split(jax.random.key(5), 2)
TWO_SEEDS = np.stack([PARAMS, -PARAMS])


def predict(inputs, block_size, interrupts=()):
  return evaluate.predict(
    evaluate.predictor(MODEL, SEED_KEYS, num_samples=6, temperature=1.5),
    TWO_SEEDS,
    inputs,
    block_size=block_size,
    sharding=HOST,
    interrupts=interrupts,
  )


def test_a_rows_prediction_does_not_depend_on_blocks_and_padding():
  inputs = examples(7).inputs
  whole = predict(inputs, 7)
  assert whole['samples_z'].shape == (2, 7, 6)
  assert whole['greedy_z'].shape == whole['entropy'].shape == (2, 7)
  for block_size in (1, 3, 16):
    cut = predict(inputs, block_size)
    for name, values in whole.items():
      np.testing.assert_allclose(cut[name], values, atol=1e-6, err_msg=name)
  # The first rows are what they are without the others.
  few = predict(inputs[:4], 3)
  np.testing.assert_array_equal(few['samples_z'], whole['samples_z'][:, :4])


def test_predictions_are_the_samplers_numbers_for_every_seed():
  inputs = examples(7).inputs
  predicted = predict(inputs, 3)
  samples, greedy = samples_of(inputs, SEED_KEYS[0], 6, 1.5)
  np.testing.assert_allclose(
    predicted['samples_z'][0], CODEC.decode(samples.tokens), atol=1e-6
  )
  np.testing.assert_allclose(
    predicted['greedy_z'][0], CODEC.decode(greedy), atol=1e-6
  )
  np.testing.assert_allclose(
    predicted['entropy'][0], samples.entropy().mean(-1), rtol=1e-5
  )
  best = (inputs[:, None, None] * -PARAMS).argmax(-1)
  np.testing.assert_allclose(
    predicted['greedy_z'][1], CODEC.decode(best), atol=1e-6
  )


def test_an_interrupt_leaves_between_blocks():
  with pytest.raises(InterruptedRunError):
    predict(examples(7).inputs, 3, interrupts=['SIGTERM'])


# ----------------------------------------------------- tables of predictions


def predicted_of(num_seeds, num_rows=8, num_samples=5):
  rng = np.random.default_rng(num_seeds)
  return {
    'samples_z': rng.normal(size=(num_seeds, num_rows, num_samples)),
    'greedy_z': rng.normal(size=(num_seeds, num_rows)),
    'entropy': rng.uniform(1, 2, (num_seeds, num_rows)),
  }


def test_a_pool_alternates_between_seeds():
  predicted = predicted_of(3)
  pool = evaluate.pooled(predicted)
  assert pool['samples_z'].shape == (8, 15)
  for seed in range(3):
    np.testing.assert_array_equal(
      pool['samples_z'][:, seed::3], predicted['samples_z'][seed]
    )
  np.testing.assert_allclose(pool['greedy_z'], sum(predicted['greedy_z']) / 3)
  np.testing.assert_allclose(pool['entropy'], sum(predicted['entropy']) / 3)


def result_rows(predicted, seeds, target):
  return evaluate.result_rows(
    predicted,
    target,
    scaler=SCALER,
    seeds=seeds,
    task='tiny',
    stage='ce',
    split='test',
  )


def by_seed(rows):
  """seed -> {(estimator, metric): value}."""
  found = {}
  for task, seed, stage, split, estimator, metric, value in rows:
    assert (task, stage, split) == ('tiny', 'ce', 'test')
    assert (estimator, metric) not in found.setdefault(seed, {})
    found[seed][estimator, metric] = value
  return found


def test_results_of_one_seed_have_no_mean_and_no_ensemble():
  predicted, target = predicted_of(1), np.linspace(-1, 2, 8)
  found = by_seed(result_rows(predicted, (7,), target))
  assert list(found) == [7]
  expected = metrics.evaluate(
    *(predicted[name][0] for name in ('samples_z', 'greedy_z', 'entropy')),
    target,
    low=-1.0,
    high=2.0,
    std=10.0,
  )
  assert found[7] == {(e, m): value for e, m, value in expected}


def test_results_of_several_seeds_have_mean_std_and_ensemble():
  predicted, target = predicted_of(3), np.linspace(-1, 2, 8)
  found = by_seed(result_rows(predicted, (7, 8, 9), target))
  assert set(found) == {7, 8, 9, 'ensemble', 'mean', 'std'}
  assert len({frozenset(values) for values in found.values()}) == 1
  for key, value in found['mean'].items():
    values = [found[seed][key] for seed in (7, 8, 9)]
    assert value == pytest.approx(np.mean(values))
    assert found['std'][key] == pytest.approx(np.std(values, ddof=1))
  alone = {k: v[1:2] for k, v in predicted.items()}
  assert by_seed(result_rows(alone, (8,), target))[8] == found[8]
  samples = evaluate.pooled(predicted)['samples_z']
  assert found['ensemble']['sample', 'crps'] == pytest.approx(
    metrics.crps(samples, target)
  )
  assert found['ensemble']['mean', 'rmse'] == pytest.approx(
    metrics.rmse(samples.mean(-1), target)
  )


def test_columns_of_predictions_are_in_the_original_unit():
  predicted = predicted_of(2, num_samples=40)
  columns = evaluate.prediction_columns(predicted, SCALER)
  assert set(columns) == {*metrics.POINT_ESTIMATORS, 'lower90', 'upper90'}
  samples = evaluate.pooled(predicted)['samples_z']
  np.testing.assert_allclose(columns['mean'], 100 + 10 * samples.mean(-1))
  np.testing.assert_allclose(
    columns['median'], 100 + 10 * np.median(samples, -1)
  )
  np.testing.assert_allclose(
    columns['greedy'], 100 + 10 * predicted['greedy_z'].mean(0)
  )
  # The range is widened to 1.1 times its width before it clips.
  clipped = np.clip(samples, -1.15, 2.15)
  np.testing.assert_allclose(
    columns['clipped_mean'], 100 + 10 * clipped.mean(-1)
  )
  inside = (columns['lower90'][:, None] <= 100 + 10 * samples) & (
    100 + 10 * samples <= columns['upper90'][:, None]
  )
  assert 0.85 <= inside.mean() <= 0.95


def test_the_summary_sets_the_stages_side_by_side():
  target = np.linspace(-1, 2, 8)
  for num_seeds, of in ((1, 'seed 7'), (2, 'mean over seeds')):
    predicted, seeds = predicted_of(num_seeds), range(7, 7 + num_seeds)
    rows = result_rows(predicted, tuple(seeds), target)
    rows += [(*r[:2], 'remax', r[3], *r[4:6], r[6] + 1) for r in rows]
    text = evaluate.summary(rows, ['ce', 'remax'])
    assert of in text
    found = by_seed(r for r in rows if r[2] == 'ce')
    r2 = found['mean' if num_seeds > 1 else 7]['median', 'r2']
    (line,) = [x for x in text.splitlines() if x.startswith('median r2')]
    assert line.split()[2:] == [f'{r2:.4f}', f'{r2 + 1:.4f}']
