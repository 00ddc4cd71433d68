"""Evaluation: padding is not seen, and blocks do not matter."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from table_policy import log_probs, objective_of, random_table, table_policy

from genre2_jax import tokenizers
from genre2_jax.data import batches
from genre2_jax.errors import InterruptedRunError
from genre2_jax.objectives.objective import supervised
from genre2_jax.objectives.rewards import REWARDS
from genre2_jax.policy import Pointwise, sampling
from genre2_jax.policy.enumeration import Enumeration, enumerate_numbers
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import evaluation, validation

pytestmark = pytest.mark.usefixtures('quick_compiles')

TOKENIZER = tokenizers.build('normalized', base=3, digits=2)
CODEC = Codec(TOKENIZER, low=-1.0, high=2.0)
POLICY = table_policy(TOKENIZER)
TABLE = random_table(TOKENIZER)
PARAMS = {'policy': TABLE}
HEAD = Pointwise(None, lambda params, inputs, key=None: params * inputs)
MODEL = SimpleNamespace(network=POLICY, codec=CODEC)
HOST = jax.sharding.SingleDeviceSharding(jax.devices('cpu')[0])


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


ROWS, KEY = examples(7), jax.random.key(3)
BLOCK_SIZES = [1, 3, 7, 16]


def validate(objective, block_size, network=POLICY, params=PARAMS):
  of_seed = functools.partial(
    validation.validate, network=network, codec=CODEC, objective=objective
  )
  score, values = jax.jit(of_seed)(params, *blocks_of(ROWS, block_size), KEY)
  return float(score), {name: float(x) for name, x in values.items()}


def row_keys(key, num_rows):
  return jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(num_rows))


@pytest.mark.parametrize('block_size', BLOCK_SIZES)
def test_validation_loss_is_the_mean_over_the_rows_that_there_are(block_size):
  log_p = np.asarray(log_probs(TOKENIZER, TABLE, ROWS.inputs))
  expected = -log_p[np.arange(7), CODEC.index(ROWS.target)].mean() / 2
  score, found = validate(objective_of('ce', dropout=True), block_size)
  assert set(found) == {'loss', 'ce'}
  assert found['loss'] == found['ce'] == pytest.approx(expected, rel=1e-5)
  assert score == -found['loss']


@pytest.mark.parametrize('block_size', [3, 16])
@pytest.mark.parametrize('depth', [0, 2])
def test_the_loss_of_a_sum_is_the_weighted_sum_of_its_terms(block_size, depth):
  """Also where numbers are sampled: a row draws by its own number."""
  objective = objective_of('ce', ('crps', 0.5), ('raft', 2.0))
  objective = dataclasses.replace(
    objective, enumeration=Enumeration(depth=depth, samples=4)
  )
  whole = jax.jit(
    functools.partial(
      supervised, network=POLICY, codec=CODEC, objective=objective
    )
  )(PARAMS, jax.tree.map(jnp.asarray, ROWS), row_keys(KEY, 7))
  score, found = validate(objective, block_size)
  assert set(found) == {'loss', 'ce', 'crps', 'raft'}
  for name, values in whole.items():
    assert found[name] == pytest.approx(float(values.mean()), rel=1e-4)
  expected = found['ce'] + 0.5 * found['crps'] + 2 * found['raft']
  assert found['loss'] == -score == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
  'samples', [2, pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_grid_of_samples_is_judged_fairly(samples):
  """From three on; what a grid is enumerated for stays as it is."""
  objective = dataclasses.replace(
    objective_of('crps', ('mbr', 0.5), ('log_loss', 0.1)),
    enumeration=Enumeration(depth=0, samples=samples),
  )
  keys = row_keys(KEY, 7)
  losses = supervised(
    PARAMS, ROWS, keys, network=POLICY, codec=CODEC, objective=objective
  )
  log_p, values = enumerate_numbers(
    POLICY, CODEC, TABLE, ROWS.inputs, keys, objective.enumeration
  )
  for term in objective.terms:
    has_fair = samples > 2 and term.name != 'log_loss'
    loss = term.loss.of_samples if has_fair else term.loss
    np.testing.assert_allclose(
      losses[term.name], loss(log_p, values, ROWS.target), rtol=1e-5
    )


@pytest.mark.parametrize('block_size', BLOCK_SIZES)
def test_a_regression_heads_loss_is_of_the_rows_that_there_are(block_size):
  score, found = validate(
    objective_of('mse'), block_size, HEAD, {'policy': 2.0}
  )
  expected = np.mean((2 * ROWS.inputs - ROWS.target) ** 2)
  assert found['loss'] == -score == pytest.approx(float(expected), rel=1e-5)


def samples_of(rows, key, num_samples, temperature):
  """The samples of all rows at once, by each row's number."""
  sample = functools.partial(
    sampling.sample,
    POLICY,
    num_samples=num_samples,
    temperature=temperature,
    greedy=True,
  )
  keys = row_keys(key, len(rows))
  return sampling.without_greedy(
    jax.jit(sample)(TABLE, jnp.asarray(rows), keys)
  )


@pytest.mark.parametrize('block_size', BLOCK_SIZES)
@pytest.mark.parametrize('reward', ['squared', 'absolute', 'rank'])
def test_validation_reward_is_the_mean_over_the_rows_that_there_are(
  block_size, reward
):
  """A rank knows its own group only: policies compare by squared error."""
  samples, greedy = samples_of(ROWS.inputs, KEY, 5, 0.8)
  compared = REWARDS['squared' if reward == 'rank' else reward]
  rewards, greedy_rewards = (
    compared(CODEC.decode(tokens), target)
    for tokens, target in (
      (samples.tokens, ROWS.target[:, None]),
      (greedy, ROWS.target),
    )
  )
  objective = objective_of(
    'remax', ('ce', 0.1), group_size=5, temperature=0.8, reward=reward
  )
  score, found = validate(objective, block_size)
  assert set(found) == {'reward', 'greedy_reward', 'entropy'}
  assert score == found['reward']
  assert found['reward'] == pytest.approx(float(rewards.mean()), rel=1e-5)
  assert found['greedy_reward'] == pytest.approx(
    float(greedy_rewards.mean()), rel=1e-5
  )
  assert found['entropy'] == pytest.approx(
    float(samples.entropy().mean()), rel=1e-5
  )


# ------------------------------------------------------------- predictions

SEED_KEYS = jax.random.split(jax.random.key(5), 2)
TWO_SEEDS = {'policy': np.stack([TABLE, -TABLE])}


def predict(
  inputs,
  block_size,
  interrupts=(),
  exact=False,
  params=TWO_SEEDS,
  model=MODEL,
  num_samples=6,
):
  return evaluation.predict(
    evaluation.predictor(
      model, SEED_KEYS, num_samples=num_samples, temperature=1.5, exact=exact
    ),
    params,
    inputs,
    block_size=block_size,
    sharding=HOST,
    interrupts=interrupts,
  )


@pytest.mark.parametrize('exact', [False, True])
def test_a_rows_prediction_does_not_depend_on_blocks_and_padding(exact):
  inputs = ROWS.inputs
  whole = predict(inputs, 7, exact=exact)
  names = {'samples_z', 'greedy_z', 'entropy'} | ({'log_p'} if exact else set())
  assert set(whole) == names
  assert whole['samples_z'].shape == (2, 7, 6)
  assert whole['greedy_z'].shape == whole['entropy'].shape == (2, 7)
  for block_size in (1, 3, 16):
    cut = predict(inputs, block_size, exact=exact)
    for name, values in whole.items():
      np.testing.assert_allclose(cut[name], values, atol=1e-6, err_msg=name)
  # The first rows are what they are without the others.
  few = predict(inputs[:4], 3)
  np.testing.assert_array_equal(few['samples_z'], whole['samples_z'][:, :4])


def test_without_samples_there_is_the_exact_distribution_alone():
  whole = predict(ROWS.inputs, 7, exact=True)
  alone = predict(ROWS.inputs, 7, exact=True, num_samples=0)
  assert set(alone) == {'log_p'}
  np.testing.assert_allclose(alone['log_p'], whole['log_p'], atol=1e-6)


def test_predictions_are_the_samplers_numbers_for_every_seed():
  inputs = ROWS.inputs
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
  first = (inputs[:, None] * -TABLE[0]).argmax(-1)
  second = (inputs[:, None] * -TABLE[1 + first]).argmax(-1)
  np.testing.assert_allclose(
    predicted['greedy_z'][1],
    CODEC.decode(np.stack([first, second], -1)),
    atol=1e-6,
  )


def test_exact_distributions_are_those_of_every_seed_at_temperature_1():
  predicted = predict(ROWS.inputs, 3, exact=True)
  for seed, table in enumerate(TWO_SEEDS['policy']):
    np.testing.assert_allclose(
      predicted['log_p'][seed],
      log_probs(TOKENIZER, table, ROWS.inputs),
      atol=1e-5,
    )


def test_predictions_keep_to_the_bounds_of_the_target():
  """A tokenizer may write numbers that no target has."""
  low, high = -0.4, 1.1
  codec = dataclasses.replace(CODEC, bounds=(low, high))
  numbers = 40 * np.random.default_rng(1).normal(size=(2, 9))
  params = TWO_SEEDS | {'numbers': numbers.astype(np.float32)}

  def predicted(codec, network=None):
    network = network or open_policy(0.7)
    model = SimpleNamespace(network=network, codec=codec)
    return predict(ROWS.inputs, 3, exact=True, params=params, model=model)

  free, bound = predicted(CODEC), predicted(codec)
  for name in ('samples_z', 'greedy_z', 'learned_mean_z'):
    assert (free[name] < low).any() or (free[name] > high).any()
    np.testing.assert_allclose(
      bound[name], free[name].clip(low, high), atol=1e-6
    )
  # A mean is of numbers within, which is not the free mean within.
  np.testing.assert_allclose(
    bound['rail_z'], bound['rail_normalized_z'] * bound['grid_mass'], rtol=1e-5
  )
  inside = free['rail_normalized_z'].clip(low, high)
  assert np.abs(bound['rail_normalized_z'] - inside).max() > 0.01
  head = predicted(codec, HEAD._replace(predict=lambda p, x, key=None: 9 * x))
  np.testing.assert_allclose(
    head['greedy_z'][0], (9 * ROWS.inputs).clip(low, high), rtol=1e-6
  )


def test_trained_numbers_predict_their_own_mean():
  numbers = np.random.default_rng(1).normal(size=(2, 9)).astype(np.float32)
  params = TWO_SEEDS | {'numbers': numbers}
  assert 'learned_mean_z' not in predict(ROWS.inputs, 3, params=params)
  predicted = predict(ROWS.inputs, 3, exact=True, params=params)
  expected = np.einsum('snk,sk->sn', np.exp(predicted['log_p']), numbers)
  np.testing.assert_allclose(predicted['learned_mean_z'], expected, rtol=1e-5)


def test_an_open_policy_says_how_much_of_it_is_numbers():
  """Exactly, or by samples of the grammar, at any temperature of theirs."""
  model = SimpleNamespace(network=open_policy(0.7), codec=CODEC)
  inputs = ROWS.inputs

  def predicted(exact, num_samples, temperature):
    ask = evaluation.predictor(
      model, SEED_KEYS, num_samples=num_samples, temperature=temperature,
      exact=exact,
    )  # fmt: skip
    return evaluation.predict(
      ask, TWO_SEEDS, inputs, block_size=7, sharding=HOST
    )

  def share(logits):  # of a token's softmax
    whole = special.logsumexp(logits, -1)
    return np.exp(whole - np.logaddexp(whole, 0.7))

  expected = []
  for table in TWO_SEEDS['policy']:
    first = inputs[:, None] * table[0]
    second = inputs[:, None, None] * table[1:4]
    then = special.softmax(first, -1) * share(second)
    expected.append(share(first) * then.sum(-1))
  assert np.ptp(expected) > 0.04
  exact = predicted(True, 4, 1.0)['grid_mass']
  np.testing.assert_allclose(exact, expected, rtol=1e-5)
  for temperature in (1.0, 1.5):
    drawn = predicted(False, 4096, temperature)['grid_mass']
    np.testing.assert_allclose(drawn, expected, rtol=0.02)
  assert 'grid_mass' not in predict(inputs, 3, exact=True)


def open_policy(rest):
  """`POLICY` with a column for all else, whose logit is `rest`."""

  def decode(*args, **kwargs):
    logits, cache = POLICY.decode(*args, **kwargs)
    beside = jnp.full((*logits.shape[:-1], 1), rest)
    return jnp.concatenate([logits, beside], -1), cache

  return POLICY._replace(decode=decode, open=True)


def test_a_regression_head_predicts_a_point_mass():
  model = SimpleNamespace(network=HEAD, codec=CODEC)
  params = {'policy': np.array([2.0, -1.0], np.float32)}
  predicted = predict(ROWS.inputs, 3, params=params, model=model)
  expected = params['policy'][:, None] * ROWS.inputs
  np.testing.assert_allclose(predicted['greedy_z'], expected, rtol=1e-6)
  np.testing.assert_allclose(predicted['samples_z'], expected[..., None])
  assert not predicted['entropy'].any()
  assert 'log_p' not in predicted


def test_an_interrupt_leaves_between_blocks():
  with pytest.raises(InterruptedRunError):
    predict(ROWS.inputs, 3, interrupts=['SIGTERM'])
