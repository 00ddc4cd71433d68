"""Losses of whole numbers: by hand, and by enumeration of all groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checks import assert_refused
from table_policy import (
  batch_of,
  expected_gradient,
  log_probs,
  loss_of,
  objective_of,
  random_table,
  sequences,
  table_policy,
)

from genre2_jax import tokenizers
from genre2_jax.metrics import sampled
from genre2_jax.objectives import grid
from genre2_jax.objectives.catalog import LEVELS, SEQUENCE, build_term
from genre2_jax.objectives.rollouts import judge
from genre2_jax.objectives.sequence import (
  KL,
  PPO,
  Expert,
  Judgement,
  PolicyGradient,
  Samples,
  generalized_advantages,
  leave_one_out_credit,
)
from genre2_jax.policy import scoring
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import train_state
from genre2_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures('quick_compiles')

RNG = np.random.default_rng(0)


def codec_of(name, **options):
  return Codec(tokenizers.build(name, **options), low=-1.0, high=1.5)


TWO_DIGITS = codec_of('normalized', base=2, digits=2)
THREE_DIGITS = codec_of('normalized', base=2, digits=3)
TERNARY = codec_of('normalized', base=3, digits=2)
ONE_DIGIT = codec_of('normalized', base=5, digits=1)


def table_of(codec, seed=0):
  return random_table(codec.tokenizer, seed)


def mean_gradient(objective, batch, codec, **more):
  params = {'policy': table_of(codec), **more}
  return expected_gradient(objective, batch, params, codec=codec)


def gradient_of(loss, codec):
  return jax.grad(loss)(jnp.asarray(table_of(codec)))


def probabilities(codec, table, batch):
  return jnp.exp(log_probs(codec.tokenizer, table, batch.inputs))  # [B, K]


def reward_gradient(batch, codec):
  """∇ −mean_B E[r], of the squared error."""
  values = codec.values().astype(np.float32)

  def loss(table):
    errors = jnp.square(values - batch.target[:, None])
    p = probabilities(codec, table, batch)
    return jnp.mean(jnp.sum(p * errors, -1))

  return gradient_of(loss, codec)


def samples_of(log_p, values=None):
  """`Samples` of token log-probabilities [B, G, T] alone."""
  return Samples(None, jnp.asarray(log_p, jnp.float32), values)


def judgement_of(rewards, old, **more):
  rewards = jnp.asarray(rewards, jnp.float32)
  return Judgement(
    target=None,
    predictions=None,
    rewards=rewards,
    greedy_rewards=jnp.zeros(len(rewards)),
    token_log_probs=jnp.asarray(old, jnp.float32),
    **more,
  )


# --------------------------------------------------- generalized advantages


def test_advantages_by_hand():
  """V = 1, 3, 2 and r = 5: differences 2, −1, 3."""
  values, reward = jnp.array([1.0, 3.0, 2.0]), jnp.array(5.0)
  for gae_lambda, expected in (
    (0.0, [2.0, -1.0, 3.0]),
    (0.5, [2.0 - 0.5 + 0.75, -1.0 + 1.5, 3.0]),
    (1.0, [4.0, 2.0, 3.0]),
  ):
    found = generalized_advantages(reward, values, gae_lambda)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('gae_lambda', [0.0, 0.3, 0.95, 1.0])
def test_advantages_equal_the_recursion_of_the_paper(gae_lambda):
  rewards, values = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3, 5))
  expected, after, advantage = np.zeros((2, 3, 5)), rewards, 0.0
  for t in reversed(range(5)):
    delta = after - values[..., t]
    advantage = delta + gae_lambda * advantage
    expected[..., t] = advantage
    after = values[..., t]
  found = generalized_advantages(
    jnp.asarray(rewards), jnp.asarray(values), gae_lambda
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  if gae_lambda == 1:
    np.testing.assert_allclose(
      found, rewards[..., None] - values, rtol=1e-5, atol=1e-6
    )


# ---------------------------------------------------------------------- PPO


@pytest.mark.parametrize('normalize', [False, True])
def test_ppos_loss_by_hand(normalize):
  """Surrogate per token, value loss, share cut off; by NumPy loops."""
  B, G, T = 2, 3, 4
  old = -RNG.uniform(0.1, 2, (B, G, T))
  new = old + RNG.normal(0, 0.3, (B, G, T))
  before, now = RNG.normal(size=(2, B, G, T))
  rewards = RNG.normal(size=(B, G))
  loss = PPO(gae_lambda=0.7, clip=0.25, value_weight=0.4, normalize=normalize)
  found, told = loss(
    samples_of(new, jnp.asarray(now, jnp.float32)),
    judgement_of(rewards, old, values=jnp.asarray(before, jnp.float32)),
  )
  advantages = np.float64(
    generalized_advantages(jnp.asarray(rewards), jnp.asarray(before), 0.7)
  )
  returns = advantages + before
  if normalize:
    advantages = (advantages - advantages.mean()) / advantages.std()
  gain, cut, error = 0.0, 0, 0.0
  for place in np.ndindex(B, G, T):
    ratio, a = np.exp(new[place] - old[place]), advantages[place]
    clipped = min(max(ratio, 0.75), 1.25)
    gain += min(ratio * a, clipped * a) / (B * G)
    cut += (ratio > 1.25 and a > 0) or (ratio < 0.75 and a < 0)
    error += (now[place] - returns[place]) ** 2 / (B * G * T)
  assert 0 < cut < B * G * T
  assert found == pytest.approx(-gain + 0.4 * error / 2, rel=1e-4)
  assert told['value_loss'] == pytest.approx(error / 2, rel=1e-4)
  assert told['clipped'] == pytest.approx(cut / (B * G * T), rel=1e-5)


def test_ppos_gradients_by_hand():
  """None where the clip cuts, and the critic's is V − return."""
  old = jnp.array([[[-1.0, -1.0]]])
  new = old + jnp.log(jnp.array([1.5, 1.1]))
  before = jnp.array([[[0.0, 1.0]]])  # λ = 0: advantages 1 and 2
  loss = PPO(gae_lambda=0.0, clip=0.2, value_weight=0.5, normalize=False)
  judgement = judgement_of([[3.0]], old, values=before)
  by_policy, by_critic = jax.grad(
    lambda *args: loss(samples_of(*args), judgement)[0], argnums=(0, 1)
  )(new, jnp.array([[[0.5, 0.5]]]))
  np.testing.assert_allclose(by_policy, [[[0.0, -2.2]]], rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(
    by_critic, 0.5 * np.array([[[0.5 - 1.0, 0.5 - 3.0]]]) / 2, rtol=1e-5
  )


ONE = batch_of(THREE_DIGITS, [1.0], [0.3])


def ppo(gae_lambda):
  options = {'gae_lambda': gae_lambda, 'normalize': False}
  return objective_of(('ppo', 1.0, options), group_size=1)


def perfect_critic():
  """Tables whose mean at every prefix is the expected reward behind it."""
  codec, tree = THREE_DIGITS, []
  p = np.float64(probabilities(codec, table_of(codec), ONE))[0]
  reward = -np.square(codec.values() - 0.3)
  for depth in range(3):
    mass = p.reshape(2**depth, -1)
    behind = (p * reward).reshape(2**depth, -1).sum(1) / mass.sum(1)
    tree.append(np.stack([behind + 1, behind - 1], -1))
  return np.concatenate(tree).astype(np.float32)


@pytest.mark.parametrize('gae_lambda', [0.0, 0.6, 1.0])
def test_with_a_perfect_critic_ppos_mean_gradient_is_the_exact_one(gae_lambda):
  exact = reward_gradient(ONE, THREE_DIGITS)
  found = mean_gradient(
    ppo(gae_lambda), ONE, THREE_DIGITS, critic=perfect_critic()
  )
  assert np.abs(exact).max() > 0.05
  np.testing.assert_allclose(found['policy'], exact, atol=1e-6)


def test_without_bootstrapping_any_critic_will_do():
  """λ = 1: r − V_t, a baseline; λ = 0 believes the critic."""
  exact = reward_gradient(ONE, THREE_DIGITS)
  critic = table_of(THREE_DIGITS, 5)
  found = mean_gradient(ppo(1.0), ONE, THREE_DIGITS, critic=critic)
  np.testing.assert_allclose(found['policy'], exact, atol=1e-6)
  biased = mean_gradient(ppo(0.0), ONE, THREE_DIGITS, critic=critic)
  assert np.abs(biased['policy'] - exact).max() > 0.05


def test_a_perfect_critic_has_nothing_to_learn():
  """λ = 1 regresses on rewards, whose mean behind a prefix is its value."""
  perfect = perfect_critic()
  found = mean_gradient(ppo(1.0), ONE, THREE_DIGITS, critic=perfect)
  np.testing.assert_allclose(found['critic'], 0, atol=1e-6)
  off = mean_gradient(ppo(1.0), ONE, THREE_DIGITS, critic=perfect + 1)
  # ½ · ½ (V − r)² per token: the root, always seen, has a third of the mean,
  # and each of its two logits half of that.
  np.testing.assert_allclose(off['critic'][0], 1 / 2 / 3 / 2, rtol=1e-4)


def test_a_ppo_step_trains_policy_and_critic_and_reward_rises():
  codec = TWO_DIGITS
  batch = batch_of(codec, [1.0] * 8, [0.875] * 8)
  optimizer, objective = optax.adam(0.05), objective_of('ppo', group_size=8)
  step = jax.jit(
    functools.partial(
      train_step,
      network=table_policy(codec.tokenizer),
      codec=codec,
      optimizer=optimizer,
      objective=objective,
    )
  )
  params = {'policy': table_of(codec), 'critic': table_of(codec, 1)}
  state = train_state.create(
    jax.tree.map(jnp.asarray, params),
    jax.random.key(0),
    optimizer,
    objective.metrics,
  )
  rewards, value_losses = [], []
  for _ in range(80):
    before = state.totals
    state = step(state, batch)
    rewards.append(state.totals['reward'] - before['reward'])
    value_losses.append(state.totals['value_loss'] - before['value_loss'])
  for name, start in params.items():
    assert np.abs(state.params[name] - start).max() > 0.5
  assert np.mean(rewards[:3]) < -0.5
  assert np.mean(rewards[-5:]) > -0.05
  assert np.mean(value_losses[-5:]) < np.mean(value_losses[:3]) / 5
  # What the policy now expects is what the critic says of the root.
  assert np.mean(state.params['critic'][0]) == pytest.approx(
    float(np.mean(rewards[-5:])), abs=0.2
  )


# ---------------------------------------------------------------------- DAR


@pytest.mark.parametrize('group', [3, 4, 9])
def test_credit_equals_brute_force(group):
  """Of the fair CRPS of `metrics`, with and without each of the samples."""
  predictions, target = RNG.normal(size=(5, group)), RNG.normal(size=5)
  found = leave_one_out_credit(
    jnp.asarray(predictions, jnp.float32), jnp.asarray(target, jnp.float32)
  )
  for row in range(5):
    whole = sampled.crps(predictions[row, None], target[row, None])
    for i in range(group):
      rest = np.delete(predictions[row], i)
      without = sampled.crps(rest[None], target[row, None])
      assert found[row, i] == pytest.approx(
        (group - 1) * (without - whole), rel=1e-3, abs=1e-5
      )


def test_credit_by_hand():
  """0, 0 and 2 about 1: whole 1 − 8/12, without a 0 or the 2: 1 − 1 or 1."""
  found = leave_one_out_credit(jnp.array([[0.0, 0.0, 2.0]]), jnp.ones(1))
  np.testing.assert_allclose(
    found, [[2 * (0 - 1 / 3), 2 * (0 - 1 / 3), 2 * (1 - 1 / 3)]], rtol=1e-5
  )


def crps_gradient(batch, codec):
  """∇ mean_B CRPS of the exact distribution, = E[fair CRPS] of any set."""
  values = codec.values().astype(np.float32)
  apart = np.abs(values[:, None] - values)

  def loss(table):
    p = probabilities(codec, table, batch)
    errors = jnp.sum(p * jnp.abs(values - batch.target[:, None]), -1)
    return jnp.mean(errors - jnp.sum(p * (p @ apart), -1) / 2)

  return gradient_of(loss, codec)


@pytest.mark.parametrize(
  ('codec', 'group_size'), [(TWO_DIGITS, 3), (TWO_DIGITS, 4), (ONE_DIGIT, 3)]
)
def test_dars_mean_gradient_is_that_of_the_crps(codec, group_size):
  """(G − 1)/G of it: a sample's own part of the set's score is 1/G."""
  batch = batch_of(codec, [1.2], [0.3])
  found = mean_gradient(
    objective_of('dar', group_size=group_size), batch, codec
  )['policy']
  exact = crps_gradient(batch, codec)
  assert np.abs(exact).max() > 0.02
  factor = (group_size - 1) / group_size
  np.testing.assert_allclose(found, factor * exact, atol=2e-6)


# --------------------------------------------------------------------- REAL


def test_with_one_token_real_is_raft():
  codec = ONE_DIGIT
  batch = batch_of(codec, [1.0, -2.0], [0.3, -0.9])
  table, tokens = table_of(codec), np.array([[[0], [3]], [[2], [2]]], np.int32)

  @jax.jit
  def real(table):
    return loss_of(
      objective_of('real'),
      batch,
      jnp.asarray(tokens),
      {'policy': table},
      codec=codec,
    )[0]

  @jax.jit
  def raft(table):
    log_p = log_probs(codec.tokenizer, table, batch.inputs)
    values = codec.values().astype(np.float32)
    return jnp.mean(grid.RAFT()(log_p, values, batch.target))

  ours, theirs = (
    jax.value_and_grad(f)(jnp.asarray(table)) for f in (real, raft)
  )
  assert ours[0] == pytest.approx(float(theirs[0]), rel=1e-5)
  assert np.abs(theirs[1]).max() > 0.05
  np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6)


@pytest.mark.parametrize(
  ('codec', 'scales', 'temperature'),
  [
    (TWO_DIGITS, [1.0, -1.5], 1.0),
    (TWO_DIGITS, [1.0], 0.6),
    (THREE_DIGITS, [1.0], 1.0),
    (TERNARY, [1.0], 1.0),
  ],
)
def test_reals_mean_gradient_is_that_of_the_error_behind_prefixes(
  codec, scales, temperature
):
  """∇ E_prefix (E[y | prefix] − y*)²: through the prefix and the mean."""
  targets = [0.3, -0.9][: len(scales)]
  batch = batch_of(codec, scales, targets)
  objective = objective_of('real', temperature=temperature)
  values = codec.values().astype(np.float32)
  base = codec.tokenizer.vocab_size

  def loss(table):
    log_p = log_probs(codec.tokenizer, table, batch.inputs, temperature)
    p = jnp.exp(log_p).reshape(len(scales), -1, base)
    prefix = jnp.sum(p, -1)
    means = jnp.sum(p * values.reshape(-1, base), -1) / prefix
    errors = jnp.square(means - batch.target[:, None])
    return jnp.mean(jnp.sum(prefix * errors, -1))

  exact = gradient_of(loss, codec)
  assert np.abs(exact).max() > 0.05
  found = mean_gradient(objective, batch, codec)['policy']
  np.testing.assert_allclose(found, exact, atol=2e-6)


def test_reals_loss_by_hand():
  """Means 0.5 and 2.5 about 1: errors 0.25 and 2.25, advantages 2 and −2.

  The last tokens written, and what they cost, are of no account.
  """
  log_probs = np.full((1, 2, 2, 2), np.nan, np.float32)
  log_probs[0, :, 1] = np.log([[0.5, 0.5], [0.25, 0.75]])
  written = jnp.array([[[-0.5, -3.0], [-1.25, -7.0]]])
  judgement = judgement_of(
    [[0.0, 0.0]], written, last_values=jnp.array([[[0.0, 1.0], [1.0, 3.0]]])
  )._replace(target=jnp.ones(1))
  samples = Samples(jnp.asarray(log_probs), written, None)
  loss, told = SEQUENCE['real']()(samples, judgement)
  expected = (0.25 + 2.25) / 2 - (2 * -0.5 - 2 * -1.25) / 2
  assert loss == pytest.approx(expected, rel=1e-5)
  assert told == {}


@pytest.mark.parametrize(
  'codec',
  [
    codec_of('p10', base=4, digits=2, max_exponent=1),
    codec_of('exponent_first', base=4, digits=2, max_exponent=1),
    TERNARY,
  ],
  ids=lambda codec: type(codec.tokenizer).__name__,
)
def test_last_values_are_the_numbers_that_each_last_token_would_make(codec):
  tokenizer, numbers = codec.tokenizer, sequences(codec.tokenizer)
  tokens = numbers[RNG.integers(len(numbers), size=(2, 3))]
  batch = batch_of(codec, [1.0, -1.0], [0.3, -0.9])
  score = jax.jit(functools.partial(scoring.score, table_policy(tokenizer)))
  rollout = score(table_of(codec), batch.inputs, jnp.asarray(tokens))
  judgement, _ = judge(
    rollout,
    jnp.asarray(tokens[:, 0]),
    None,
    None,
    batch,
    codec,
    objective_of('real', group_size=3),
  )
  found = np.asarray(judgement.last_values)
  assert found.shape == (2, 3, tokenizer.vocab_size)
  for b, g, v in np.ndindex(found.shape):
    if tokenizer.allowed[-1, v]:
      number = codec.decode(np.append(tokens[b, g, :-1], v))
      assert found[b, g, v] == pytest.approx(number, rel=1e-4, abs=1e-6)
    else:
      assert found[b, g, v] == 0
  np.testing.assert_allclose(
    judgement.predictions, codec.decode(tokens), rtol=1e-4, atol=1e-6
  )


# ------------------------------------------------------------ others by hand


def test_the_policy_gradients_clip_is_per_side_and_beyond_one_update_only():
  old = jnp.array([[[-1.0], [-1.0]]])
  new = old + jnp.log(jnp.array([[[1.5], [0.5]]]))
  loss = PolicyGradient('no_baseline', clip_low=0.3, clip_high=0.1)
  judgement = judgement_of([[1.0, -1.0]], old, num_updates=2)
  found, told = loss(samples_of(new), judgement)
  assert found == pytest.approx(-(1.1 - 0.7) / 2, rel=1e-5)
  assert told['clipped'] == 1
  found, told = loss(samples_of(new), judgement._replace(num_updates=1))
  assert found == pytest.approx(-float(new[0, 0, 0] - new[0, 1, 0]) / 2)
  assert told == {}


def test_the_experts_loss_by_hand():
  probs = np.array(
    [[[0.5, 0.5], [0.25, 0.75]], [[0.1, 0.9], [0.6, 0.4]]]
  )  # [G, T, V]
  samples = Samples(jnp.log(probs)[None], None, None)
  best = jnp.array([[[0, 1], [1, 0]]])
  judgement = judgement_of([[0.0, 0.0]], 0.0, best_tokens=best)
  loss, told = Expert()(samples, judgement)
  assert loss == pytest.approx(-np.log([0.5, 0.75, 0.9, 0.6]).mean())
  assert told == {}


def test_kl_of_numbers_by_hand():
  ours = np.array([[[-1.0, -2.0], [-0.5, -0.5]]])
  theirs = np.array([[[-1.5, -1.0], [-0.5, -2.5]]])
  judgement = judgement_of([[0.0, 0.0]], ours, reference=jnp.asarray(theirs))
  d = ours - theirs
  for estimator, expected in (
    ('k1', 0.0),  # is in the reward
    ('k2', np.square(d).sum() / 2 / 2),
    ('k3', (np.exp(-d) - 1 + d).sum() / 2),
  ):
    loss, _ = KL(estimator)(samples_of(ours), judgement)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert KL(estimator).in_reward == (estimator == 'k1')


# ------------------------------------------------------------------ catalog


def test_every_objective_can_be_built_by_its_name():
  names = [name for level in LEVELS.values() for name in level]
  assert len(names) == len(set(names))
  for level, catalog in LEVELS.items():
    for name in catalog:
      term = build_term(name, 2)
      assert (term.name, term.weight, term.level) == (name, 2.0, level)
      assert type(term.weight) is float
      assert (term.subset, term.learnable) == (0, False)
  for name in SEQUENCE:
    assert build_term(name).requires.rollout <= {
      'best_tokens',
      'critic',
      'last_values',
      'reference',
    }


def test_options_reach_the_loss():
  loss = build_term('ppo', 1.0, {'gae_lambda': 1, 'normalize': False}).loss
  assert loss == PPO(gae_lambda=1.0, normalize=False)
  assert type(loss.gae_lambda) is float
  loss = build_term('grpo', 1.0, {'clip_high': 0.3}).loss
  assert loss == PolicyGradient('grpo', clip_high=0.3)
  term = build_term('raft', 1.0, {'learnable': True})
  assert (term.subset, term.learnable) == (0, True)
  term = build_term('raft', 1.0, {'subset': 5})
  assert (term.subset, term.learnable) == (5, False)
  assert term.loss == grid.RAFT()
  assert build_term('crps', 1.0, {'normalize': True}).loss.normalize


@pytest.mark.parametrize(
  ('part', 'parts_of_the_message'),
  [
    (('remix',), ["objective 'remix' is not one of ce", "mean 'remax'?"]),
    (('rlo',), ["'rlo'", "did you mean 'rloo'?"]),
    (('qqqq',), ["'qqqq' is not one of", 'real']),
    (('ce', 0.0), ['objective ce: weight 0.0 must be positive']),
    (('ce', -1), ['weight -1']),
    (('ce', float('nan')), ['weight nan']),
    (('ce', float('inf')), ['weight inf']),
    (('ce', '1'), ["weight '1'"]),
    (('remax', 1, {'clip': 0.1}), ['remax', "'clip'", 'clip_low, clip_high']),
    (('remax', 1, {'advantage': 'grpo'}), ["no option 'advantage'"]),
    (('ce', 1, {'tau': 1.0}), ["'tau'", 'its options are none']),
    (('raft', 1, {'sub': 3}), ["'sub'", 'normalize, subset, learnable']),
    (('crps', 1, {'learnable': True}), ["no option 'learnable'"]),
    (('ppo', 1, {'clip': '0.2'}), ["clip='0.2' must be a float"]),
    (('ppo', 1, {'normalize': 1}), ['normalize=1 must be a bool']),
    (('kl', 1, {'estimator': 2}), ['estimator=2 must be a str']),
    (('kl', 1, {'estimator': 'k4'}), ['kl: estimator', 'k1, k2, k3']),
    (('ppo', 1, {'gae_lambda': 1.5}), ['ppo: gae_lambda', '[0, 1]']),
    (('grpo', 1, {'clip_low': -0.1}), ['grpo: clip_low', 'negative']),
    (('crps', 1, {'subset': -1}), ['crps: subset']),
    (('crps', 1, {'subset': 2.0}), ['crps: subset']),
    (('raft', 1, {'learnable': 'no'}), ['raft: learnable']),
    (('raft', 1, {'learnable': True, 'subset': 3}), ['drop subset']),
  ],
  ids=str,
)
def test_what_is_wrong_with_a_term_is_said_in_one_line(
  part, parts_of_the_message
):
  message = assert_refused(
    lambda: build_term(*part), *parts_of_the_message, error=ValueError
  )
  assert message.startswith('objective ')
