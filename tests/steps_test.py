"""Steps: exact expectations over all groups, and the parts of every loss."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genre2_jax import sampling, steps, tokenizers, train_state
from genre2_jax.codec import Codec
from genre2_jax.data.batches import Examples
from genre2_jax.objectives.expert import expert_loss
from genre2_jax.policy import Policy

TOKENIZER = tokenizers.build('normalized', base=2, digits=2)
CODEC = Codec(TOKENIZER, low=-1.0, high=1.5)
# The four numbers, [4, 2]; they mean -1, -0.375, 0.25 and 0.875.
NUMBERS = np.array(list(itertools.product([0, 1], repeat=2)), np.int32)


@pytest.fixture(autouse=True, scope='module')
def quick_compiles():
  """Compiling is what takes time here, not running."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


def table_policy(tokenizer=TOKENIZER, on_encode=lambda: None):
  """A policy that looks its logits up: params [prefixes, V].

  An input, a number, scales the logits.
  """
  V = tokenizer.vocab_size

  def encode(params, inputs, dropout_key=None):
    on_encode()
    return inputs

  def decode(params, context, tokens, positions, visible, cache=None, **_):
    places = jnp.broadcast_to(positions, tokens.shape)
    if cache is not None:
      tokens = jnp.concatenate([cache[0], tokens], axis=2)
      places = jnp.concatenate([cache[1], places], axis=2)
    distance = positions[:, None] - places[:, :, None]  # [B, U, Q, N + Q]
    weight = jnp.where(places > 0, 1, 0)[:, :, None]
    weight *= V ** jnp.maximum(distance, 0)
    code = jnp.sum(visible * weight * (tokens[:, :, None] + 1), -1)
    logits = context[:, None, None, None] * jnp.asarray(params)[code]
    logits = jnp.where(tokenizer.allowed[positions], logits, -1e9)
    return logits, (tokens, places)

  return Policy(tokenizer, init=None, encode=encode, decode=decode)


POLICY = table_policy()
TABLE = np.array([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.6]], np.float32)
REFERENCE = np.array([[-0.1, 0.3], [0.2, 0.7], [0.1, -0.5]], np.float32)


def batch_of(scales, targets, codec=CODEC):
  targets = np.array(targets, np.float32)
  return Examples(
    inputs=jnp.array(scales, jnp.float32),
    target=jnp.asarray(targets),
    tokens=jnp.asarray(codec.encode(targets)),
  )


def state_of(objective=None, optimizer=None, params=TABLE, reference=None):
  names = steps.CE_METRICS if objective is None else steps.RL_METRICS
  state = train_state.create(
    jnp.asarray(params),
    jax.random.key(0),
    optimizer or optax.sgd(1.0),
    names,
    keep_reference=bool(objective and objective.kl_weight),
  )
  if reference is not None:
    state = dataclasses.replace(state, reference=jnp.asarray(reference))
  return state


def rl_step(objective, optimizer=None, policy=POLICY, codec=CODEC):
  return jax.jit(
    functools.partial(
      steps.rl_step,
      policy=policy,
      codec=codec,
      optimizer=optimizer or optax.sgd(1.0),
      objective=objective,
    )
  )


def loss_of(
  objective, batch, tokens, params, reference=None, at=None, codec=CODEC
):
  """The loss that `rl_step` would see had it written tokens [B, G, T].

  Written, and judged, under the parameters `at`.
  """
  at = params if at is None else at

  def score(params, tokens):
    return sampling.score(
      POLICY, params, batch.inputs, tokens, objective.temperature
    )

  if reference is not None:
    reference = score(reference, tokens).token_log_probs()
  judgement, metrics = steps._judge(
    score(at, tokens),
    greedy_numbers(at, batch.inputs),
    reference,
    batch,
    codec,
    objective,
  )
  loss, more = steps._sequence_loss(score(params, tokens), judgement, objective)
  return loss, metrics | more


def greedy_numbers(params, scales):
  first = jnp.argmax(scales[:, None] * params[0], -1)
  second = jnp.argmax(scales[:, None] * params[1 + first], -1)
  return jnp.stack([first, second], -1).astype(jnp.int32)


def log_probs_of_numbers(params, scales, temperature=1.0):
  """log p of the four numbers, for every input: [B, 4]."""
  logits = jnp.asarray(scales)[:, None, None] * params / temperature
  log_p = jax.nn.log_softmax(logits)  # [B, 3, 2]
  second = log_p[:, 1:].reshape(-1, 4)
  return jnp.repeat(log_p[:, 0], 2, axis=-1) + second


def rewards_of_numbers(batch):
  return -np.square(CODEC.decode(NUMBERS) - np.asarray(batch.target)[:, None])


def exact_gradient(batch, params=TABLE, temperature=1.0):
  """∇ −mean_B E[r]."""

  def loss(params):
    log_p = log_probs_of_numbers(params, batch.inputs, temperature)
    return -jnp.sum(jnp.exp(log_p) * rewards_of_numbers(batch)) / len(log_p)

  return jax.grad(loss)(jnp.asarray(params))


def expected_gradient(objective, batch, reference=None, codec=CODEC):
  """E ∇ loss over every way to fill the groups of a batch, exactly."""
  params = jnp.asarray(TABLE)
  batch_size, group = len(batch.target), objective.group_size
  ways = itertools.product(range(4), repeat=batch_size * group)
  index = np.array(list(ways)).reshape(-1, batch_size, group)
  log_p = log_probs_of_numbers(params, batch.inputs, objective.temperature)
  probs = jnp.exp(sum(log_p[b, index[:, b]].sum(-1) for b in range(batch_size)))
  assert np.sum(probs) == pytest.approx(1, rel=1e-5)

  @jax.jit
  def gradients(params):
    loss = functools.partial(
      loss_of, objective, batch, reference=reference, at=params, codec=codec
    )
    grad = jax.grad(lambda p, tokens: loss(tokens, p)[0])
    return jax.vmap(grad, (None, 0))(params, jnp.asarray(NUMBERS)[index])

  return jnp.einsum('w,w...->...', probs, gradients(params))


# ------------------------------------------------------ exact expectations

ONE = batch_of([1.0], [0.3])
TWO = batch_of([1.0, -1.5], [0.3, -0.9])


def objective_of(advantage, **options):
  return steps.SequenceObjective(
    **{'advantage': advantage, 'group_size': 2, **options}
  )


@pytest.mark.parametrize(
  ('advantage', 'batch', 'factor'),
  [
    ('remax', ONE, 1),
    ('rloo', ONE, 1),
    ('dr_grpo', ONE, 1 / 2),
    ('reinforce', ONE, 1 / 2),
    ('remax', TWO, 1),
    ('rloo', TWO, 1),
    ('dr_grpo', TWO, 1 / 2),
    ('reinforce', TWO, 3 / 4),
  ],
)
def test_the_mean_gradient_is_the_exact_one_up_to_a_constant(
  advantage, batch, factor
):
  """(G−1)/G for Dr. GRPO, (BG−1)/(BG) for REINFORCE, none for the others."""
  exact = exact_gradient(batch)
  assert np.abs(exact).max() > 0.05
  found = expected_gradient(objective_of(advantage), batch)
  np.testing.assert_allclose(found, factor * exact, atol=1e-6)


@pytest.mark.parametrize(
  ('advantage', 'factor'), [('rloo', 1), ('dr_grpo', 2 / 3)]
)
def test_larger_groups_have_the_same_mean_gradient(advantage, factor):
  found = expected_gradient(objective_of(advantage, group_size=3), ONE)
  np.testing.assert_allclose(found, factor * exact_gradient(ONE), atol=1e-6)


def test_the_mean_gradient_is_exact_at_any_temperature():
  objective = objective_of('remax', temperature=0.5)
  exact = exact_gradient(ONE, temperature=0.5)
  found = expected_gradient(objective, ONE)
  np.testing.assert_allclose(found, exact, atol=1e-6)


def test_grpos_mean_gradient_points_elsewhere():
  """Dividing by the group's deviation weighs hard and easy rewards anew."""

  def cosine(x, y):
    return np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y)

  exact = exact_gradient(ONE)
  assert cosine(expected_gradient(objective_of('dr_grpo'), ONE), exact) > 0.9999
  assert cosine(expected_gradient(objective_of('grpo'), ONE), exact) < 0.99


def test_several_updates_begin_with_the_same_mean_gradient():
  """At ratio 1 the clipped surrogate is the policy gradient."""
  objective = objective_of('remax', num_updates=3)
  found = expected_gradient(objective, ONE)
  np.testing.assert_allclose(found, exact_gradient(ONE), atol=1e-6)


# --------------------------------------------------------------- the parts

SOME_GROUPS = jnp.asarray(NUMBERS)[np.array([[0, 3, 2], [1, 1, 3]])]


def some_loss(params=TABLE, reference=REFERENCE, at=TABLE, **options):
  objective = objective_of('remax', group_size=3, **options)
  if not objective.kl_weight:
    reference = None
  return loss_of(
    objective, TWO, SOME_GROUPS, jnp.asarray(params), reference, at
  )


def log_ratios(params=TABLE):
  """log π − log π_ref of the tokens of `SOME_GROUPS`: [B, G, T]."""
  ours, theirs = (
    sampling.score(POLICY, jnp.asarray(p), TWO.inputs, SOME_GROUPS)
    for p in (params, REFERENCE)
  )
  return ours.token_log_probs() - theirs.token_log_probs()


def test_k1_is_taken_from_the_reward():
  loss, metrics = some_loss(kl_weight=0.2, kl_estimator='k1')
  plain, _ = some_loss()
  log_probs = (
    log_ratios()
    + sampling.score(
      POLICY, REFERENCE, TWO.inputs, SOME_GROUPS
    ).token_log_probs()
  )
  penalty = 0.2 * log_ratios().sum(-1)
  expected = plain + np.mean(penalty * log_probs.sum(-1))
  assert loss == pytest.approx(float(expected), rel=1e-5)
  assert metrics['kl'] == pytest.approx(float(log_ratios().sum(-1).mean()))


@pytest.mark.parametrize(
  ('estimator', 'value'),
  [('k2', lambda d: d**2 / 2), ('k3', lambda d: np.exp(-d) - 1 + d)],
)
@pytest.mark.parametrize('num_updates', [1, 2])
def test_k2_and_k3_join_the_loss(estimator, value, num_updates):
  options = {'num_updates': num_updates}
  loss, metrics = some_loss(kl_weight=0.2, kl_estimator=estimator, **options)
  plain, _ = some_loss(**options)
  expected = 0.2 * value(np.asarray(log_ratios())).sum(-1).mean()
  assert loss - plain == pytest.approx(expected, rel=1e-4)
  assert metrics['kl'] == pytest.approx(float(log_ratios().sum(-1).mean()))


@pytest.mark.parametrize('estimator', ['k1', 'k2', 'k3'])
def test_kl_pulls_towards_the_reference(estimator):
  """On average over all groups, and without any reward to be had."""
  flat = batch_of([1.0], [0.0])
  codec = dataclasses.replace(CODEC, low=0.0, high=0.0)
  objective = objective_of('rloo', kl_weight=1.0, kl_estimator=estimator)

  def kl(params):
    ours, theirs = (
      log_probs_of_numbers(p, flat.inputs) for p in (params, REFERENCE)
    )
    return jnp.sum(jnp.exp(ours) * (ours - theirs))

  gradient = expected_gradient(objective, flat, REFERENCE, codec)
  params = jnp.asarray(TABLE)
  assert kl(params - 0.1 * gradient) < kl(params) - 1e-3
  if estimator == 'k1':
    np.testing.assert_allclose(gradient, jax.grad(kl)(params), atol=1e-6)


def test_without_weight_there_is_no_reference_and_the_kl_is_zero():
  objective = objective_of('grpo', group_size=3)
  state = state_of(objective)
  assert state.reference is None
  assert rl_step(objective)(state, TWO).totals['kl'] == 0


def test_the_reference_is_what_the_stage_started_from_and_stays():
  objective = objective_of('remax', group_size=8, kl_weight=0.1)
  step, state = rl_step(objective), state_of(objective)
  state = step(state, TWO)
  assert state.totals['kl'] == 0
  state = step(step(state, TWO), TWO)
  np.testing.assert_array_equal(state.reference, TABLE)
  assert state.totals['kl'] != 0
  assert np.abs(state.params - TABLE).max() > 1e-3


@pytest.mark.parametrize('num_updates', [1, 2])
def test_the_expert_joins_the_gradient_by_its_weight(num_updates):
  def gradient(weight):
    return jax.grad(
      lambda p: some_loss(p, expert_weight=weight, num_updates=num_updates)[0]
    )(jnp.asarray(TABLE))

  best = TOKENIZER.best_tokens(SOME_GROUPS, TWO.tokens[:, None])

  def expert(params):
    rollout = sampling.score(POLICY, params, TWO.inputs, SOME_GROUPS)
    return expert_loss(rollout.log_probs, best)

  value, own = jax.value_and_grad(expert)(jnp.asarray(TABLE))
  assert np.abs(own).max() > 0.05
  np.testing.assert_allclose(
    gradient(0.4) - gradient(0.0), 0.4 * own, atol=1e-6
  )
  _, metrics = some_loss(expert_weight=0.4, num_updates=num_updates)
  assert metrics['expert'] == pytest.approx(float(value), rel=1e-5)


def test_metrics_by_hand():
  _, metrics = some_loss()
  rewards = np.take_along_axis(
    rewards_of_numbers(TWO), np.array([[0, 3, 2], [1, 1, 3]]), -1
  )
  greedy = greedy_numbers(TABLE, TWO.inputs)
  greedy_rewards = -np.square(CODEC.decode(np.asarray(greedy)) - TWO.target)
  assert metrics['reward'] == pytest.approx(rewards.mean(), rel=1e-5)
  assert metrics['greedy_reward'] == pytest.approx(
    float(greedy_rewards.mean()), rel=1e-5
  )
  assert metrics['reward_std'] == pytest.approx(
    rewards.std(-1).mean(), rel=1e-5
  )
  assert metrics['flat_groups'] == 0
  assert metrics['clipped'] == metrics['kl'] == metrics['expert'] == 0


def test_groups_without_spread_are_counted():
  tokens = jnp.asarray(NUMBERS)[np.array([[2, 2, 2], [1, 1, 3]])]
  _, metrics = loss_of(objective_of('remax'), TWO, tokens, jnp.asarray(TABLE))
  assert metrics['flat_groups'] == 0.5


# ---------------------------------------------------------------- rl_step


@pytest.mark.parametrize(
  'options',
  [
    {'advantage': 'remax', 'temperature': 0.7},
    {'advantage': 'grpo', 'expert_weight': 0.3},
    {'advantage': 'rloo', 'kl_weight': 0.2, 'kl_estimator': 'k3'},
    {'advantage': 'dr_grpo', 'kl_weight': 0.2, 'kl_estimator': 'k1'},
  ],
  ids=lambda options: options['advantage'],
)
def test_a_lone_update_is_the_first_of_several(options):
  """The second update has a learning rate of 0."""
  optimizer = optax.sgd(lambda count: jnp.where(count == 0, 0.5, 0.0))
  params = []
  for num_updates in (1, 2):
    objective = steps.SequenceObjective(
      group_size=5, num_updates=num_updates, **options
    )
    reference = REFERENCE if objective.kl_weight else None
    state = state_of(objective, optimizer, reference=reference)
    state = rl_step(objective, optimizer)(state, TWO)
    assert state.step == 1
    params.append(np.asarray(state.params))
  assert np.abs(params[0] - TABLE).max() > 1e-2
  np.testing.assert_allclose(params[0], params[1], atol=1e-6)


def test_a_step_is_one_gradient_of_what_it_sampled():
  """Its samples are redrawn here by key; its loss is that of `loss_of`."""
  objective = objective_of('remax', group_size=5, expert_weight=0.1)
  state = state_of(objective, optax.sgd(0.25))
  after = rl_step(objective, optax.sgd(0.25))(state, TWO)
  key = jax.random.fold_in(jax.random.key(0), 0)
  rollout = sampling.sample(
    POLICY, state.params, TWO.inputs, jax.random.split(key, 2), num_samples=5
  )
  (loss, metrics), gradient = jax.value_and_grad(
    lambda p: loss_of(objective, TWO, rollout.tokens, p, at=TABLE),
    has_aux=True,
  )(jnp.asarray(TABLE))
  np.testing.assert_allclose(after.params, TABLE - 0.25 * gradient, atol=1e-6)
  assert after.totals['loss'] == pytest.approx(float(loss), rel=1e-4)
  assert after.totals['grad_norm'] == pytest.approx(
    float(jnp.linalg.norm(gradient)), rel=1e-4
  )
  for name, value in metrics.items():
    assert after.totals[name] == pytest.approx(float(value), abs=1e-5), name


def test_several_updates_of_one_rollout_are_clipped():
  objective = objective_of('rloo', group_size=8, num_updates=6)
  state = rl_step(objective, optax.sgd(2.0))(state_of(objective), TWO)
  assert 0 < state.totals['clipped'] < 1
  assert np.isfinite(state.params).all()


def test_every_step_draws_new_samples_and_adds_to_the_totals():
  objective = objective_of('remax', group_size=4)
  step = rl_step(objective, optax.sgd(0.0))
  first = step(state_of(objective), TWO)
  second = step(first, TWO)
  assert second.step == 2
  one, two = float(first.totals['reward']), float(second.totals['reward'])
  assert two != pytest.approx(2 * one, rel=1e-3)
  assert set(second.totals) == set(steps.RL_METRICS)
  again = step(state_of(objective), TWO)
  assert float(again.totals['reward']) == one


@pytest.mark.parametrize('num_updates', [1, 2])
def test_repeated_calls_trace_once_and_encode_once_per_pass(num_updates):
  """Once to sample, and once to score what the gradient goes through."""
  calls = []
  policy = table_policy(on_encode=lambda: calls.append(1))
  objective = objective_of('remax', num_updates=num_updates)
  optimizer = optax.adam(1e-3)
  step = rl_step(objective, optimizer, policy)
  state = state_of(objective, optimizer)
  for _ in range(3):
    state = step(state, TWO)
  assert len(calls) == 2
  assert step._cache_size() == 1


def test_reward_rises_under_reinforcement_learning():
  """Two inputs of opposite sign, with targets at opposite ends."""
  batch = batch_of([1.0, -1.0] * 8, [0.875, -1.0] * 8)
  optimizer = optax.adam(0.1)
  objective = objective_of('remax', group_size=8)
  step, state = rl_step(objective, optimizer), state_of(objective, optimizer)
  rewards = []
  for _ in range(60):
    before = state.totals['reward']
    state = step(state, batch)
    rewards.append(float(state.totals['reward'] - before))
  assert np.mean(rewards[:3]) < -0.5
  assert np.mean(rewards[-3:]) > -0.05


# ----------------------------------------------------------------- ce_step


def ce_step(optimizer, policy=POLICY):
  return jax.jit(
    functools.partial(steps.ce_step, policy=policy, optimizer=optimizer)
  )


def test_a_step_of_cross_entropy_by_hand():
  def loss_fn(params):
    log_p = log_probs_of_numbers(params, TWO.inputs)  # [B, 4]
    target = np.asarray(TWO.tokens) @ [2, 1]
    return -jnp.mean(log_p[np.arange(2), target]) / 2  # per token

  loss, gradient = jax.value_and_grad(loss_fn)(jnp.asarray(TABLE))
  state = ce_step(optax.sgd(0.5))(state_of(), TWO)
  np.testing.assert_allclose(state.params, TABLE - 0.5 * gradient, atol=1e-6)
  assert state.totals['loss'] == pytest.approx(float(loss), rel=1e-5)
  assert set(state.totals) == set(steps.CE_METRICS)
  assert state.step == 1


def test_cross_entropy_falls():
  batch = batch_of([1.0, -1.0], [0.875, -1.0])
  step, state, losses = ce_step(optax.adam(0.1)), None, []
  state = state_of(optimizer=optax.adam(0.1))
  for _ in range(40):
    before = state.totals['loss']
    state = step(state, batch)
    losses.append(float(state.totals['loss'] - before))
  assert losses[0] > 0.5 and losses[-1] < 0.05


def test_cross_entropy_hands_out_a_key_per_step_and_part():
  """Encoder and decoder drop out by keys of their own, new at each step."""
  keys = []

  def keep(key):
    jax.debug.callback(lambda x: keys.append(tuple(x.tolist())), key)

  def encode(params, inputs, dropout_key=None):
    keep(jax.random.key_data(dropout_key))
    return inputs

  def decode(*args, dropout_key=None):
    keep(jax.random.key_data(dropout_key))
    return POLICY.decode(*args)

  policy = POLICY._replace(encode=encode, decode=decode)
  step, state = ce_step(optax.sgd(0.1), policy), state_of()
  for _ in range(3):
    state = step(state, TWO)
  jax.effects_barrier()
  assert len(keys) == len(set(keys)) == 6


# ------------------------------------------------------- losses not finite


def test_the_first_step_with_a_loss_that_is_not_finite_is_recorded():
  objective = objective_of('remax')
  step, state = rl_step(objective), state_of(objective)
  bad = TWO._replace(target=TWO.target.at[1].set(jnp.nan))
  found = []
  for batch in (TWO, TWO, bad, TWO, bad):
    state = step(state, batch)
    found.append(int(state.bad_step))
  assert found == [-1, -1, 2, 2, 2]


def test_cross_entropy_records_it_too():
  step, state = ce_step(optax.sgd(0.1)), state_of()
  bad = TWO._replace(inputs=TWO.inputs.at[0].set(jnp.inf))
  state = step(step(state, TWO), bad)
  assert state.bad_step == 1


def test_a_gradient_that_is_not_finite_is_recorded_though_the_loss_is():
  """√ at 0 has a value, and no slope."""

  def decode(params, *args, **options):
    logits, cache = POLICY.decode(params, *args, **options)
    return logits + jnp.sqrt(jnp.sum(params) - jnp.sum(params)), cache

  policy = POLICY._replace(decode=decode)
  state = ce_step(optax.sgd(0.1), policy)(state_of(), TWO)
  assert np.isfinite(state.totals['loss'])
  assert state.bad_step == 0


def test_a_bad_update_amid_several_is_recorded():
  objective = objective_of('rloo', num_updates=3)
  # The first update is thrown far away, the last loss may look fine again.
  optimizer = optax.sgd(lambda count: jnp.where(count == 0, jnp.nan, 0.0))
  state = state_of(objective, optimizer)
  state = rl_step(objective, optimizer)(state, TWO)
  assert state.bad_step == 0
