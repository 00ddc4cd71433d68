"""Steps: exact expectations over all groups, and the parts of every loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from table_policy import (
  batch_of,
  expected_gradient,
  greedy_numbers,
  log_probs,
  loss_of,
  objective_of,
  sequences,
  table_policy,
)

from genre2_jax import tokenizers
from genre2_jax.objectives.objective import init_params
from genre2_jax.policy import Pointwise, sampling, scoring
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import step, train_state

pytestmark = pytest.mark.usefixtures('quick_compiles')

TOKENIZER = tokenizers.build('normalized', base=2, digits=2)
CODEC = Codec(TOKENIZER, low=-1.0, high=1.5)
# The four numbers, [4, 2]; they mean -1, -0.375, 0.25 and 0.875.
NUMBERS = sequences(TOKENIZER)
POLICY = table_policy(TOKENIZER)
TABLE = np.array([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.6]], np.float32)
REFERENCE = np.array([[-0.1, 0.3], [0.2, 0.7], [0.1, -0.5]], np.float32)
CRITIC = np.array([[-0.5, -0.2], [-0.9, 0.0], [-0.1, 0.1]], np.float32)
PARAMS = {'policy': TABLE}

ONE = batch_of(CODEC, [1.0], [0.3])
TWO = batch_of(CODEC, [1.0, -1.5], [0.3, -0.9])


def state_of(objective, optimizer=None, params=PARAMS, reference=None):
  params = dict(params)
  if 'critic' in objective.needs:
    params['critic'] = CRITIC
  state = train_state.create(
    jax.tree.map(jnp.asarray, params),
    jax.random.key(0),
    optimizer or optax.sgd(1.0),
    objective.metrics,
    keep_reference='reference' in objective.needs,
  )
  if reference is not None:
    reference = {'policy': jnp.asarray(reference)}
    state = dataclasses.replace(state, reference=reference)
  return state


def train_step(objective, optimizer=None, policy=POLICY, codec=CODEC):
  return jax.jit(
    functools.partial(
      step.train_step,
      network=policy,
      codec=codec,
      optimizer=optimizer or optax.sgd(1.0),
      objective=objective,
    )
  )


def rewards_of_numbers(batch):
  return -np.square(CODEC.decode(NUMBERS) - np.asarray(batch.target)[:, None])


def exact_gradient(batch, temperature=1.0):
  """∇ −mean_B E[r]."""

  def loss(table):
    log_p = log_probs(TOKENIZER, table, batch.inputs, temperature)
    return -jnp.sum(jnp.exp(log_p) * rewards_of_numbers(batch)) / len(log_p)

  return jax.grad(loss)(jnp.asarray(TABLE))


BATCHES = {'one': ONE, 'two': TWO}


@functools.cache
def mean_gradients(name):
  """Of all unclipped estimators, on one of `BATCHES`."""
  names = ('remax', 'rloo', 'no_baseline', 'dr_grpo', 'reinforce', 'grpo')
  found = expected_gradient(
    objective_of(*names), BATCHES[name], PARAMS, codec=CODEC, each=True
  )
  return {name: gradient['policy'] for name, gradient in found.items()}


def mean_gradient(objective, batch, reference=None, codec=CODEC):
  reference = None if reference is None else {'policy': reference}
  return expected_gradient(
    objective, batch, PARAMS, codec=codec, reference=reference
  )['policy']


# ------------------------------------------------------ exact expectations


@pytest.mark.parametrize(
  ('advantage', 'batch', 'factor'),
  [
    ('remax', 'one', 1),
    ('rloo', 'one', 1),
    ('no_baseline', 'one', 1),
    ('dr_grpo', 'one', 1 / 2),
    ('reinforce', 'one', 1 / 2),
    ('remax', 'two', 1),
    ('rloo', 'two', 1),
    ('no_baseline', 'two', 1),
    ('dr_grpo', 'two', 1 / 2),
    ('reinforce', 'two', 3 / 4),
  ],
)
def test_the_mean_gradient_is_the_exact_one_up_to_a_constant(
  advantage, batch, factor
):
  """(G−1)/G for Dr. GRPO, (BG−1)/(BG) for REINFORCE, none for the others."""
  exact = exact_gradient(BATCHES[batch])
  assert np.abs(exact).max() > 0.05
  found = mean_gradients(batch)[advantage]
  np.testing.assert_allclose(found, factor * exact, atol=1e-6)


@pytest.mark.parametrize(
  ('advantage', 'factor'), [('rloo', 1), ('dr_grpo', 2 / 3)]
)
def test_larger_groups_have_the_same_mean_gradient(advantage, factor):
  found = mean_gradient(objective_of(advantage, group_size=3), ONE)
  np.testing.assert_allclose(found, factor * exact_gradient(ONE), atol=1e-6)


def test_the_mean_gradient_is_exact_at_any_temperature():
  objective = objective_of('remax', temperature=0.5)
  exact = exact_gradient(ONE, temperature=0.5)
  found = mean_gradient(objective, ONE)
  np.testing.assert_allclose(found, exact, atol=1e-6)


def test_grpos_mean_gradient_points_elsewhere():
  """Dividing by the group's deviation weighs hard and easy rewards anew."""

  def cosine(x, y):
    return np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y)

  exact, found = exact_gradient(ONE), mean_gradients('one')
  assert cosine(found['dr_grpo'], exact) > 0.9999
  assert cosine(found['grpo'], exact) < 0.99


def test_several_updates_begin_with_the_same_mean_gradient():
  """At ratio 1 the clipped surrogate is the policy gradient."""
  objective = objective_of('remax', num_updates=3)
  found = mean_gradient(objective, ONE)
  np.testing.assert_allclose(found, exact_gradient(ONE), atol=1e-6)


def test_a_step_on_the_whole_trie_takes_the_exact_gradient():
  """Without a sample, 'exact' is what the estimators above estimate."""
  objective = dataclasses.replace(
    objective_of('exact'), enumeration=Enumeration(depth=2)
  )
  state = train_step(objective)(state_of(objective), TWO)
  np.testing.assert_allclose(
    TABLE - state.params['policy'], exact_gradient(TWO), atol=1e-6
  )
  assert set(state.totals) == {'loss', 'grad_norm', 'exact'}


# --------------------------------------------------------------- the parts

GROUPS = np.array([[0, 3, 2], [1, 1, 3]])
SOME_GROUPS = jnp.asarray(NUMBERS)[GROUPS]


def some_loss(*terms, table=TABLE, **rollouts):
  """The loss of `SOME_GROUPS`, which `TABLE` wrote."""
  objective = objective_of(*terms, group_size=3, **rollouts)
  reference = None
  if 'reference' in objective.needs:
    reference = {'policy': jnp.asarray(REFERENCE)}

  @jax.jit
  def loss(table):
    return loss_of(
      objective,
      TWO,
      SOME_GROUPS,
      {'policy': table},
      codec=CODEC,
      reference=reference,
      at=PARAMS,
    )

  return loss(jnp.asarray(table))


@jax.jit
def token_log_probs(table):
  """Of the tokens of `SOME_GROUPS`: [B, G, T]."""
  rollout = scoring.score(POLICY, table, TWO.inputs, SOME_GROUPS)
  return rollout.token_log_probs()


def log_ratios():
  """log π − log π_ref of the tokens of `SOME_GROUPS`: [B, G, T]."""
  return np.asarray(token_log_probs(TABLE) - token_log_probs(REFERENCE))


def test_k1_is_taken_from_the_reward():
  loss, metrics = some_loss('remax', ('kl', 0.2, {'estimator': 'k1'}))
  plain, _ = some_loss('remax')
  penalty = 0.2 * log_ratios().sum(-1)
  expected = plain + np.mean(penalty * token_log_probs(TABLE).sum(-1))
  assert loss == pytest.approx(float(expected), rel=1e-5)
  assert metrics['kl'] == pytest.approx(float(log_ratios().sum(-1).mean()))
  # What is told of the rewards is without the penalty.
  assert metrics['reward'] == some_loss('remax')[1]['reward']


@pytest.mark.parametrize(
  ('estimator', 'value'),
  [('k2', lambda d: d**2 / 2), ('k3', lambda d: np.exp(-d) - 1 + d)],
)
@pytest.mark.parametrize('num_updates', [1, 2])
def test_k2_and_k3_join_the_loss(estimator, value, num_updates):
  options = {'num_updates': num_updates}
  kl = ('kl', 0.2, {'estimator': estimator})
  loss, metrics = some_loss('remax', kl, **options)
  plain, _ = some_loss('remax', **options)
  expected = 0.2 * value(log_ratios()).sum(-1).mean()
  assert loss - plain == pytest.approx(expected, rel=1e-4)
  assert metrics['kl'] == pytest.approx(float(log_ratios().sum(-1).mean()))


@pytest.mark.parametrize('estimator', ['k1', 'k2', 'k3'])
def test_kl_pulls_towards_the_reference(estimator):
  """On average over all groups, and without any reward to be had."""
  flat = batch_of(CODEC, [1.0], [0.0])
  codec = dataclasses.replace(CODEC, low=0.0, high=0.0)
  objective = objective_of('rloo', ('kl', 1.0, {'estimator': estimator}))

  def kl(table):
    ours, theirs = (
      log_probs(TOKENIZER, t, flat.inputs) for t in (table, REFERENCE)
    )
    return jnp.sum(jnp.exp(ours) * (ours - theirs))

  gradient = mean_gradient(objective, flat, REFERENCE, codec)
  table = jnp.asarray(TABLE)
  assert kl(table - 0.1 * gradient) < kl(table) - 1e-3
  if estimator == 'k1':
    np.testing.assert_allclose(gradient, jax.grad(kl)(table), atol=1e-6)


def test_without_a_kl_there_is_no_reference_and_it_is_zero():
  objective = objective_of('grpo', group_size=3)
  state = state_of(objective)
  assert state.reference is None
  assert train_step(objective)(state, TWO).totals['kl'] == 0


@pytest.mark.parametrize('estimator', ['k1', 'k3'])
def test_the_reference_is_what_the_stage_started_from_and_stays(estimator):
  """The metric is the sampled divergence, whatever the term's estimate."""
  objective = objective_of(
    'remax', ('kl', 0.1, {'estimator': estimator}), group_size=8
  )
  step, state = train_step(objective), state_of(objective)
  state = step(state, TWO)
  assert state.totals['kl'] == 0
  state = step(step(state, TWO), TWO)
  np.testing.assert_array_equal(state.reference['policy'], TABLE)
  assert state.totals['kl'] != 0
  assert np.abs(state.params['policy'] - TABLE).max() > 1e-3


@pytest.mark.parametrize('num_updates', [1, 2])
def test_the_expert_joins_the_gradient_by_its_weight(num_updates):
  def gradient(*terms):
    return jax.grad(
      lambda x: some_loss(*terms, table=x, num_updates=num_updates)[0]
    )(jnp.asarray(TABLE))

  best = TOKENIZER.best_tokens(SOME_GROUPS, TWO.tokens[:, None])

  def expert(table):
    rollout = scoring.score(POLICY, table, TWO.inputs, SOME_GROUPS)
    return -jnp.mean(
      jnp.take_along_axis(rollout.log_probs, best[..., None], -1)
    )

  value, own = jax.jit(jax.value_and_grad(expert))(jnp.asarray(TABLE))
  assert np.abs(own).max() > 0.05
  joined = gradient('remax', ('expert', 0.4))
  np.testing.assert_allclose(joined - gradient('remax'), 0.4 * own, atol=1e-6)
  _, metrics = some_loss('remax', ('expert', 0.4), num_updates=num_updates)
  assert metrics['expert'] == pytest.approx(float(value), rel=1e-5)


def test_metrics_by_hand():
  _, metrics = some_loss('remax')
  rewards = np.take_along_axis(rewards_of_numbers(TWO), GROUPS, -1)
  greedy = greedy_numbers(TOKENIZER, TABLE, TWO.inputs)
  greedy_rewards = -np.square(CODEC.decode(np.asarray(greedy)) - TWO.target)
  assert metrics['reward'] == pytest.approx(rewards.mean(), rel=1e-5)
  assert metrics['greedy_reward'] == pytest.approx(
    float(greedy_rewards.mean()), rel=1e-5
  )
  assert metrics['reward_std'] == pytest.approx(
    rewards.std(-1).mean(), rel=1e-5
  )
  assert metrics['flat_groups'] == 0
  assert metrics['clipped'] == metrics['kl'] == 0
  # ReMax by hand.
  advantages = rewards - np.asarray(greedy_rewards)[:, None]
  expected = -np.mean(advantages * token_log_probs(TABLE).sum(-1))
  assert metrics['remax'] == pytest.approx(float(expected), rel=1e-5)


def test_groups_without_spread_are_counted():
  tokens = jnp.asarray(NUMBERS)[np.array([[2, 2, 2], [1, 1, 3]])]
  loss = functools.partial(
    loss_of, objective_of('remax'), TWO, tokens, codec=CODEC
  )
  _, metrics = jax.jit(loss)(PARAMS)
  assert metrics['flat_groups'] == 0.5


# ------------------------------------------------- objectives of the sequence

K1, K3 = (('kl', 0.2, {'estimator': k}) for k in ('k1', 'k3'))


@pytest.mark.parametrize(
  ('terms', 'rollouts'),
  [
    (['remax', ('expert', 0.3)], {'temperature': 0.7}),
    (['grpo', K3], {}),
    (['dr_grpo', K1], {'reward': 'absolute'}),
    (['ppo', ('ce', 0.1)], {}),
  ],
  ids=['remax', 'grpo', 'dr_grpo', 'ppo'],
)
def test_a_lone_update_is_the_first_of_several(terms, rollouts):
  """The second update has a learning rate of 0."""
  optimizer = optax.sgd(lambda count: jnp.where(count == 0, 0.5, 0.0))
  params = []
  for num_updates in (1, 2):
    objective = objective_of(
      *terms, group_size=5, num_updates=num_updates, **rollouts
    )
    assert objective.num_updates == num_updates
    reference = REFERENCE if 'reference' in objective.needs else None
    state = state_of(objective, optimizer, reference=reference)
    state = train_step(objective, optimizer)(state, TWO)
    assert state.step == 1
    params.append(jax.tree.map(np.asarray, state.params))
  for name, before in state_of(objective).params.items():
    first, second = (p[name] for p in params)
    assert np.abs(first - before).max() > 1e-2
    np.testing.assert_allclose(first, second, atol=1e-6)


def redrawn(params, group_size, batch=TWO):
  """The samples of the first step of `state_of`, drawn by key."""
  key = jax.random.fold_in(jax.random.key(0), 0)
  rows_key, _ = jax.random.split(key)
  sample = functools.partial(sampling.sample, POLICY, num_samples=group_size)
  keys = jax.random.split(rows_key, len(batch.target))
  return jax.jit(sample)(params['policy'], batch.inputs, keys).tokens


@pytest.mark.parametrize('name', ['remax', 'ppo'])
def test_a_step_is_one_gradient_of_what_it_sampled(name):
  """Its samples are redrawn here by key; its loss is that of `loss_of`."""
  objective = objective_of(name, ('expert', 0.1), group_size=5)
  state = state_of(objective, optax.sgd(0.25))
  after = train_step(objective, optax.sgd(0.25))(state, TWO)
  tokens = redrawn(state.params, 5)
  loss_fn = functools.partial(
    loss_of, objective, TWO, tokens, codec=CODEC, at=state.params
  )
  (loss, metrics), gradient = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True)
  )(state.params)
  for part, slope in gradient.items():
    np.testing.assert_allclose(
      after.params[part], state.params[part] - 0.25 * slope, atol=1e-6
    )
  assert after.totals['loss'] == pytest.approx(float(loss), rel=1e-4)
  assert after.totals['grad_norm'] == pytest.approx(
    float(optax.tree.norm(gradient)), rel=1e-4
  )
  assert set(after.totals) == {*metrics, 'loss', 'grad_norm'}
  for name, value in metrics.items():
    assert after.totals[name] == pytest.approx(float(value), abs=1e-5), name


def test_several_updates_of_one_rollout_are_clipped():
  objective = objective_of('rloo', group_size=8, num_updates=6)
  state = train_step(objective, optax.sgd(2.0))(state_of(objective), TWO)
  assert 0 < state.totals['clipped'] < 1
  assert np.isfinite(state.params['policy']).all()


def test_every_step_draws_new_samples_and_adds_to_the_totals():
  objective = objective_of('remax', group_size=4)
  step = train_step(objective, optax.sgd(0.0))
  first = step(state_of(objective), TWO)
  second = step(first, TWO)
  assert second.step == 2
  one, two = float(first.totals['reward']), float(second.totals['reward'])
  assert two != pytest.approx(2 * one, rel=1e-3)
  assert set(second.totals) == set(objective.metrics)
  again = step(state_of(objective), TWO)
  assert float(again.totals['reward']) == one


@pytest.mark.parametrize(
  ('terms', 'num_updates', 'passes'),
  [
    (['remax'], 1, 2),  # to sample, and to score what is differentiated
    (['remax'], 2, 2),
    (['rloo', K3], 1, 3),  # and the reference's
    (['ppo'], 1, 4),  # and the critic's, of each
    (['ce', ('ntl_was', 0.3)], 1, 1),
    (['ce', 'crps', 'raft'], 1, 1),
  ],
  ids=['remax', 'updates', 'kl', 'ppo', 'token', 'grid'],
)
def test_a_batch_is_encoded_once_per_pass(terms, num_updates, passes):
  calls = []
  policy = table_policy(TOKENIZER, on_encode=lambda: calls.append(1))
  objective = objective_of(*terms, num_updates=num_updates)
  step = train_step(objective, optax.sgd(0.1), policy)
  jax.eval_shape(step, state_of(objective), TWO)
  assert len(calls) == passes


@pytest.mark.parametrize('num_updates', [1, 2])
def test_repeated_calls_trace_once(num_updates):
  objective = objective_of('remax', num_updates=num_updates)
  optimizer = optax.adam(1e-3)
  step, state = train_step(objective, optimizer), state_of(objective, optimizer)
  for _ in range(3):
    state = step(state, TWO)
  assert step._cache_size() == 1


def test_reward_rises_under_reinforcement_learning():
  """Two inputs of opposite sign, with targets at opposite ends."""
  batch = batch_of(CODEC, [1.0, -1.0] * 8, [0.875, -1.0] * 8)
  optimizer = optax.adam(0.1)
  objective = objective_of('remax', group_size=8)
  step, state = train_step(objective, optimizer), state_of(objective, optimizer)
  rewards = []
  for _ in range(60):
    before = state.totals['reward']
    state = step(state, batch)
    rewards.append(float(state.totals['reward'] - before))
  assert np.mean(rewards[:3]) < -0.5
  assert np.mean(rewards[-3:]) > -0.05


def test_policy_critic_and_reference_encode_by_their_own_parameters():
  """Here encoding is a factor, too."""

  def encode(params, inputs, dropout_key=None):
    return params['factor'] * inputs

  def decode(params, *args, **options):
    return POLICY.decode(params['table'], *args, **options)

  network = POLICY._replace(encode=encode, decode=decode)
  objective = objective_of('ppo', K3)
  state = train_state.create(
    {
      name: {'table': jnp.asarray(table), 'factor': jnp.ones(())}
      for name, table in (('policy', TABLE), ('critic', CRITIC))
    },
    jax.random.key(0),
    optax.sgd(0.1),
    objective.metrics,
    keep_reference=True,
  )
  step = train_step(objective, optax.sgd(0.1), network)
  after = step(state, TWO)
  assert after.totals['kl'] == 0
  for name in ('policy', 'critic'):
    assert abs(after.params[name]['factor'] - 1) > 1e-3
  reference = {'table': jnp.asarray(TABLE), 'factor': jnp.array(0.5)}
  state = dataclasses.replace(state, reference={'policy': reference})
  assert step(state, TWO).totals['kl'] != 0


# ------------------------------------------------------- sums of objectives


def test_the_gradient_of_a_sum_is_the_weighted_sum_of_the_gradients():
  """All see the same samples: sampling knows the key and the policy only."""

  def step_of(*terms):
    objective = objective_of(*terms, group_size=5)
    state = train_step(objective)(state_of(objective), TWO)
    return TABLE - state.params['policy'], state.totals

  terms = {'remax': 1.0, 'expert': 0.05, 'ce': 0.1}
  found, totals = step_of(*terms.items())
  alone = {name: step_of(name) for name in terms}
  for slope, _ in alone.values():
    assert np.abs(slope).max() > 0.02
  expected = sum(w * alone[name][0] for name, w in terms.items())
  np.testing.assert_allclose(found, expected, atol=1e-6)
  for name, (_, own) in alone.items():
    assert totals[name] == pytest.approx(float(own[name]), rel=1e-5)
  loss = sum(w * totals[name] for name, w in terms.items())
  assert totals['loss'] == pytest.approx(float(loss), rel=1e-5)


def test_an_objective_knows_its_name_its_metrics_and_its_needs():
  objective = objective_of('remax', ('expert', 0.05), ('ce', 0.1))
  assert objective.name == 'remax_expert_ce'
  assert objective.is_sequence and objective.needs == {'best_tokens'}
  assert len(objective.metrics) == len(set(objective.metrics))
  assert {'loss', 'ce', 'expert', 'reward', 'kl'} <= set(objective.metrics)
  assert 'value_loss' not in objective.metrics
  assert 'value_loss' in objective_of('ppo').metrics
  plain = objective_of('ce', 'crps', num_updates=4)
  assert not plain.is_sequence and not plain.needs
  assert plain.num_updates == 1
  assert plain.metrics == ('loss', 'grad_norm', 'ce', 'crps')


def test_parameters_of_a_stage_are_the_networks_and_its_objectives():
  def init(*terms, start=None):
    return init_params(
      jax.random.key(1),
      ONE.inputs,
      network=POLICY,
      codec=CODEC,
      objective=objective_of(*terms),
      start=start,
    )

  assert set(init('ce', 'remax')) == {'policy'}
  params = init('ppo', ('raft', 1.0, {'learnable': True}))
  assert set(params) == {'policy', 'critic', 'numbers'}
  assert (params['policy'] != params['critic']).all()
  np.testing.assert_array_equal(params['numbers'], CODEC.values())
  given = init('ppo', start=TABLE)
  np.testing.assert_array_equal(given['policy'], TABLE)
  np.testing.assert_array_equal(given['critic'], params['critic'])


def test_learnable_raft_trains_the_numbers_too():
  """RAFT's own gradient, written out over the four numbers."""
  objective = dataclasses.replace(
    objective_of(('raft', 1.0, {'learnable': True})),
    enumeration=Enumeration(depth=2),
  )
  numbers = CODEC.values().astype(np.float32)
  params = PARAMS | {'numbers': numbers}
  state = train_step(objective)(state_of(objective, params=params), TWO)

  def loss(params):
    p = jnp.exp(log_probs(TOKENIZER, params['policy'], TWO.inputs))
    return jnp.mean(jnp.square(p @ params['numbers'] - TWO.target))

  gradient = jax.grad(loss)(jax.tree.map(jnp.asarray, params))
  for name, slope in gradient.items():
    assert np.abs(slope).max() > 0.02
    np.testing.assert_allclose(
      state.params[name], params[name] - slope, atol=1e-6
    )


def test_a_regression_head_takes_the_step_of_its_squared_error():
  network = Pointwise(None, lambda params, inputs, key=None: params * inputs)
  objective = objective_of('mse')
  params = {'policy': jnp.array(0.5)}
  step = train_step(objective, optax.sgd(0.1), network)
  state = step(state_of(objective, params=params), TWO)
  error = 0.5 * TWO.inputs - TWO.target
  expected = 0.5 - 0.1 * np.mean(2 * error * TWO.inputs)
  assert state.params['policy'] == pytest.approx(float(expected), rel=1e-5)
  loss = float(np.mean(error**2))
  assert state.totals['loss'] == pytest.approx(loss, rel=1e-5)


# ------------------------------------------------------------ cross-entropy

CE = objective_of('ce')


def test_a_step_of_cross_entropy_by_hand():
  def loss_fn(table):
    log_p = log_probs(TOKENIZER, table, TWO.inputs)  # [B, 4]
    target = np.asarray(TWO.tokens) @ [2, 1]
    return -jnp.mean(log_p[np.arange(2), target]) / 2  # per token

  loss, gradient = jax.value_and_grad(loss_fn)(jnp.asarray(TABLE))
  state = train_step(CE, optax.sgd(0.5))(state_of(CE), TWO)
  np.testing.assert_allclose(
    state.params['policy'], TABLE - 0.5 * gradient, atol=1e-6
  )
  assert state.totals['loss'] == pytest.approx(float(loss), rel=1e-5)
  assert state.totals['ce'] == state.totals['loss']
  assert set(state.totals) == {'loss', 'grad_norm', 'ce'}
  assert state.step == 1


def test_cross_entropy_falls():
  batch = batch_of(CODEC, [1.0, -1.0], [0.875, -1.0])
  step, losses = train_step(CE, optax.adam(0.1)), []
  state = state_of(CE, optimizer=optax.adam(0.1))
  for _ in range(40):
    before = state.totals['loss']
    state = step(state, batch)
    losses.append(float(state.totals['loss'] - before))
  assert losses[0] > 0.5 and losses[-1] < 0.05


def keys_of_three_steps(objective):
  """Dropout keys that encoder and decoder were given; 'none' without."""
  keys = []

  def keep(key):
    if key is None:
      keys.append('none')
    else:
      key = jax.random.key_data(key)
      jax.debug.callback(lambda x: keys.append(tuple(x.tolist())), key)

  def encode(params, inputs, dropout_key=None):
    keep(dropout_key)
    return inputs

  def decode(*args, dropout_key=None):
    keep(dropout_key)
    return POLICY.decode(*args)

  policy = POLICY._replace(encode=encode, decode=decode)
  step = train_step(objective, optax.sgd(0.1), policy)
  state = state_of(objective)
  for _ in range(3):
    state = step(state, TWO)
  jax.effects_barrier()
  return keys


def test_dropout_has_a_key_per_step_and_part():
  """Encoder and decoder drop out by keys of their own, new at each step."""
  keys = keys_of_three_steps(objective_of('ce', dropout=True))
  assert len(keys) == len(set(keys)) == 6
  assert 'none' not in keys


def test_without_dropout_and_for_samples_there_is_no_key():
  assert set(keys_of_three_steps(CE)) == {'none'}
  remax = objective_of('remax', dropout=True)
  assert set(keys_of_three_steps(remax)) == {'none'}


# ------------------------------------------------------- losses not finite


def test_the_first_step_with_a_loss_that_is_not_finite_is_recorded():
  objective = objective_of('remax')
  step, state = train_step(objective), state_of(objective)
  bad = TWO._replace(target=TWO.target.at[1].set(jnp.nan))
  found = []
  for batch in (TWO, TWO, bad, TWO, bad):
    state = step(state, batch)
    found.append(int(state.bad_step))
  assert found == [-1, -1, 2, 2, 2]


def test_cross_entropy_records_it_too():
  step, state = train_step(CE, optax.sgd(0.1)), state_of(CE)
  bad = TWO._replace(inputs=TWO.inputs.at[0].set(jnp.inf))
  state = step(step(state, TWO), bad)
  assert state.bad_step == 1


def test_a_gradient_that_is_not_finite_is_recorded_though_the_loss_is():
  """√ at 0 has a value, and no slope."""

  def decode(params, *args, **options):
    logits, cache = POLICY.decode(params, *args, **options)
    return logits + jnp.sqrt(jnp.sum(params) - jnp.sum(params)), cache

  policy = POLICY._replace(decode=decode)
  state = train_step(CE, optax.sgd(0.1), policy)(state_of(CE), TWO)
  assert np.isfinite(state.totals['loss'])
  assert state.bad_step == 0


def test_a_bad_update_amid_several_is_recorded():
  objective = objective_of('rloo', num_updates=3)
  # The first update is thrown far away, the last loss may look fine again.
  optimizer = optax.sgd(lambda count: jnp.where(count == 0, jnp.nan, 0.0))
  state = state_of(objective, optimizer)
  state = train_step(objective, optimizer)(state, TWO)
  assert state.bad_step == 0


def test_parameters_that_are_not_finite_are_recorded_though_the_gradient_is():
  # To infinity, whatever the gradient.
  optimizer = optax.chain(optax.scale_by_sign(), optax.scale(-np.inf))
  state = train_step(CE, optimizer)(state_of(CE, optimizer), TWO)
  assert np.isfinite(state.totals['grad_norm'])
  assert state.bad_step == 0
