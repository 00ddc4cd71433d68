"""Objectives: by hand, and against exact expectations by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from genre2_jax.objectives.advantages import ADVANTAGES
from genre2_jax.objectives.point import SquaredError
from genre2_jax.objectives.policy_gradient import (
  clipped_loss,
  kl_estimate,
  policy_gradient_loss,
)
from genre2_jax.objectives.rewards import REWARDS, comparable


@pytest.fixture(autouse=True, scope='module')
def no_implicit_broadcasts():
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  yield
  jax.config.update('jax_numpy_rank_promotion', 'allow')


# -------------------------------------------------------------- advantages

# Group means 3 and 0, deviations (ddof 0) √(14/3) and √(2/3).
REWARDS_BY_HAND = [[1.0, 2.0, 6.0], [0.0, 1.0, -1.0]]
GREEDY = [2.0, -0.5]


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('remax', [[-1.0, 0.0, 4.0], [0.5, 1.5, -0.5]]),
    (
      'grpo',
      [
        np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3),
        np.array([0.0, 1.0, -1.0]) / np.sqrt(2 / 3),
      ],
    ),
    ('dr_grpo', [[-2.0, -1.0, 3.0], [0.0, 1.0, -1.0]]),
    ('rloo', [[-3.0, -1.5, 4.5], [0.0, 1.5, -1.5]]),
    ('reinforce', [[-0.5, 0.5, 4.5], [-1.5, -0.5, -2.5]]),
    ('no_baseline', REWARDS_BY_HAND),
  ],
)
def test_advantages_by_hand(name, expected):
  advantages = ADVANTAGES[name](jnp.array(REWARDS_BY_HAND), jnp.array(GREEDY))
  np.testing.assert_allclose(advantages, expected, rtol=1e-5, atol=1e-6)


def test_every_estimator_is_tested_by_hand():
  assert set(ADVANTAGES) == {*BASELINES, 'no_baseline'}


BASELINES = ('remax', 'grpo', 'dr_grpo', 'rloo', 'reinforce')


@pytest.mark.parametrize('name', BASELINES)
@pytest.mark.parametrize('group', [3, 16, 31])
def test_a_flat_group_has_no_advantage_at_all(name, group):
  """Exactly 0, whatever rounding makes of the mean of equal numbers."""
  advantages = jax.jit(ADVANTAGES[name])
  for reward in (0.0, 0.1, -0.7, -1234.567, 3e-12):
    rewards = jnp.full((4, group), reward, jnp.float32)
    assert not np.asarray(advantages(rewards, rewards[:, 0])).any()


@pytest.mark.parametrize('name', ['remax', 'grpo', 'dr_grpo', 'rloo'])
def test_a_flat_group_has_no_advantage_beside_one_with_spread(name):
  rewards = jnp.array([[0.1, 0.1, 0.1], [0.3, 0.1, 0.2]], jnp.float32)
  advantages = np.asarray(ADVANTAGES[name](rewards, rewards[:, 0]))
  assert not advantages[0].any()
  assert advantages[1].any()


def test_grpo_is_finite_for_a_group_with_hardly_any_spread():
  rewards = jnp.array([[0.1, np.nextafter(np.float32(0.1), 1)]], jnp.float32)
  assert np.isfinite(ADVANTAGES['grpo'](rewards, rewards[:, 0])).all()


@pytest.mark.parametrize('name', sorted({*ADVANTAGES} - {'remax'}))
def test_only_remax_asks_for_the_greedy_number(name):
  rewards = jnp.array(REWARDS_BY_HAND)
  np.testing.assert_array_equal(
    ADVANTAGES[name](rewards, jnp.array(GREEDY)),
    ADVANTAGES[name](rewards, jnp.array([100.0, jnp.nan])),
  )


# ------------------------------------------------------------------ rewards


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('squared', [-4.0, -100.0, 0.0]),
    ('absolute', [-2.0, -10.0, 0.0]),
    ('clipped', [-4.0, -50.0, 0.0]),
    ('rank', [-0.5, -1.0, 0.0]),
  ],
)
def test_rewards_by_hand(name, expected):
  predictions, target = jnp.array([[1.0, -7.0, 3.0]]), jnp.array([[3.0]])
  assert REWARDS[name](predictions, target).tolist() == [expected]


def test_every_reward_is_tested_by_hand():
  assert set(REWARDS) == {'squared', 'absolute', 'clipped', 'rank'}


def test_ranks_by_hand_with_ties():
  """Two hit, two are off by one on either side, one by three."""
  predictions = jnp.array([[2.0, 1.0, 0.0, 4.0, 1.0]])
  found = REWARDS['rank'](predictions, jnp.array([[1.0]]))
  expected = -np.array([[2.5, 0.5, 2.5, 4.0, 0.5]]) / 4
  np.testing.assert_allclose(found, expected)
  np.testing.assert_allclose(found.mean(), -0.5)  # Of any group.


def test_ranks_know_no_unit_and_nothing_beyond_their_group():
  rng = np.random.default_rng(0)
  predictions = jnp.asarray(rng.normal(size=(6, 7)), jnp.float32)
  target = jnp.asarray(rng.normal(size=(6, 1)), jnp.float32)
  rank = REWARDS['rank'](predictions, target)
  np.testing.assert_array_equal(
    REWARDS['rank'](8 * predictions, 8 * target), rank
  )
  order = np.argsort(np.abs(predictions - target), axis=-1)
  sorted_ranks = np.take_along_axis(np.asarray(rank), order, -1)
  np.testing.assert_allclose(sorted_ranks, -np.arange(7)[None] / 6 + 0 * rank)
  assert REWARDS['rank'](target + 5, target).tolist() == [[0.0]] * 6  # alone


@pytest.mark.parametrize('name', REWARDS)
def test_the_nearer_number_has_the_greater_reward(name):
  predictions = jnp.array([[0.5, 1.0, -1.0, 4.0, -7.0]])
  rewards = REWARDS[name](predictions, jnp.array([[0.6]]))
  assert (np.diff(rewards) < 0).all()
  assert rewards.max() <= 0


def test_policies_are_compared_by_a_reward_that_knows_them_all():
  for name in ('squared', 'clipped', 'absolute'):
    assert comparable(name) is REWARDS[name]
  assert comparable('rank') is REWARDS['squared']


def test_the_squared_error_of_a_head_by_hand():
  found = SquaredError()(jnp.array([1.0, -2.0]), jnp.array([3.0, -2.5]))
  assert found.tolist() == [4.0, 0.25]


# --------------------------------------------------------- policy gradient


def test_policy_gradient_loss_by_hand():
  log_probs = jnp.array([[[-1.0, -2.0], [-0.5, -0.25]]])  # [B, G, T]
  advantages = jnp.array([[2.0, -4.0]])
  loss = policy_gradient_loss(log_probs, advantages)
  assert loss == pytest.approx(-(2 * -3 + -4 * -0.75) / 2)


def test_policy_gradient_takes_advantages_for_constants():
  def loss(x):
    return policy_gradient_loss(x[None, None], jnp.sum(x, keepdims=True)[None])

  gradient = jax.grad(loss)(jnp.array([1.0, 2.0]))
  assert gradient.tolist() == [-3.0, -3.0]


# Ratio, advantage, gain and whether the clip (0.2 below, 0.3 above) cuts.
CLIPPED = [
  (1.0, 2.0, 2.0, False),
  (1.25, 2.0, 2.5, False),
  (1.5, 2.0, 2.6, True),  # too far up already
  (0.5, 2.0, 1.0, False),  # has fallen, should rise
  (0.5, -2.0, -1.6, True),  # too far down already
  (0.85, -2.0, -1.7, False),
  (1.5, -2.0, -3.0, False),  # has risen, should fall
]


@pytest.mark.parametrize(('ratio', 'advantage', 'gain', 'cut'), CLIPPED)
def test_clipped_loss_by_hand(ratio, advantage, gain, cut):
  """Both bounds, both signs; no gradient where the clip cuts."""
  old = jnp.array([[[-1.5]]])

  def loss_fn(log_probs):
    return clipped_loss(log_probs, old, jnp.array([[[advantage]]]), 0.2, 0.3)

  new = old + np.log(ratio)
  (loss, share), gradient = jax.value_and_grad(loss_fn, has_aux=True)(new)
  assert loss == pytest.approx(-gain)
  assert share == cut
  expected = 0 if cut else -advantage * ratio
  assert gradient.item() == pytest.approx(expected, abs=1e-6)


def test_clipped_loss_sums_over_tokens_and_averages_over_numbers():
  ratios, advantages, gains, cuts = map(np.array, zip(*CLIPPED, strict=True))
  log_ratios = jnp.log(jnp.array(ratios, jnp.float32))
  # Every case a token of its own number, beside one that stays at ratio 1.
  log_probs = jnp.stack([log_ratios, jnp.zeros(len(CLIPPED))], -1)[None]
  advantages = jnp.array(advantages, jnp.float32)[None, :, None]
  loss, share = clipped_loss(
    log_probs, jnp.zeros_like(log_probs), advantages, 0.2, 0.3
  )
  expected = -np.mean(gains + np.asarray(advantages).ravel())
  assert loss == pytest.approx(expected, rel=1e-5)
  assert share == pytest.approx(np.mean(cuts) / 2)


def test_every_token_may_have_an_advantage_of_its_own():
  ratios, advantages, gains, cuts = map(np.array, zip(*CLIPPED, strict=True))
  log_probs = jnp.log(jnp.array(ratios, jnp.float32))[None]  # T = 7
  loss, share = clipped_loss(
    log_probs, jnp.zeros_like(log_probs), jnp.array(advantages)[None], 0.2, 0.3
  )
  assert loss == pytest.approx(-np.sum(gains), rel=1e-5)
  assert share == pytest.approx(np.mean(cuts), rel=1e-5)


def test_clipped_loss_on_policy_has_the_gradient_of_the_policy_gradient():
  log_probs = -jnp.arange(1.0, 13.0).reshape(2, 3, 2)
  advantages = jnp.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
  clipped = jax.grad(
    lambda x: clipped_loss(x, log_probs, advantages[..., None], 0.2, 0.2)[0]
  )(log_probs)
  plain = jax.grad(policy_gradient_loss)(log_probs, advantages)
  np.testing.assert_allclose(clipped, plain, rtol=1e-6)


# ---------------------------------------------------------------------- KL

# Logits of two-token numbers over three tokens, policy and reference: of the
# first token [3], of the second given the first [3, 3].
_RNG = np.random.default_rng(0)
POLICY = [_RNG.normal(size=3), _RNG.normal(size=(3, 3))]
REFERENCE = [_RNG.normal(size=3), _RNG.normal(size=(3, 3))]


def all_log_probs(logits):
  """log p of both tokens of each of the nine numbers: [9, 2]."""
  first = jax.nn.log_softmax(jnp.asarray(logits[0], jnp.float32))
  second = jax.nn.log_softmax(jnp.asarray(logits[1], jnp.float32))
  return jnp.stack([jnp.repeat(first, 3), second.ravel()], -1)


def exact_kl(logits):
  log_p = all_log_probs(logits).sum(-1)
  return jnp.sum(jnp.exp(log_p) * (log_p - all_log_probs(REFERENCE).sum(-1)))


def expected_gradient(loss_of_number):
  """E_{y ~ π} ∇ loss(y): the sampling distribution is not differentiated."""
  probs = jnp.exp(all_log_probs(POLICY).sum(-1))

  def loss(logits):
    return jnp.sum(probs * loss_of_number(all_log_probs(logits)))

  return jax.grad(loss)([jnp.asarray(x, jnp.float32) for x in POLICY])


def estimate(log_probs, estimator):
  """Σ_t of the estimate, of each of the nine numbers."""
  reference = all_log_probs(REFERENCE)
  return kl_estimate(log_probs, reference, estimator).sum(-1)


def test_kl_estimates_by_hand():
  d = np.array([0.5, -0.5, 0.0])
  found = {k: kl_estimate(jnp.array(d), jnp.zeros(3), k) for k in KL}
  np.testing.assert_allclose(found['k1'], d)
  np.testing.assert_allclose(found['k2'], [0.125, 0.125, 0])
  np.testing.assert_allclose(found['k3'], np.exp(-d) - 1 + d, rtol=1e-5)


KL = ('k1', 'k2', 'k3')


@pytest.mark.parametrize('estimator', ['k1', 'k3'])
def test_k1_and_k3_are_unbiased(estimator):
  log_p = np.float64(all_log_probs(POLICY)).sum(-1)
  log_q = np.float64(all_log_probs(REFERENCE)).sum(-1)
  exact = special.rel_entr(np.exp(log_p), np.exp(log_q)).sum()
  assert exact == pytest.approx(float(exact_kl(POLICY)), rel=1e-5)
  values = estimate(all_log_probs(POLICY), estimator)
  assert np.sum(np.exp(log_p) * values) == pytest.approx(exact, rel=1e-4)


def test_k2_and_k3_are_never_negative():
  d = jnp.linspace(-3, 3, 61)
  for estimator in ('k2', 'k3'):
    assert (kl_estimate(d, jnp.zeros(61), estimator) >= 0).all()


def test_k2_of_whole_numbers_has_the_gradient_of_the_kl():
  exact = jax.grad(exact_kl)([jnp.asarray(x, jnp.float32) for x in POLICY])
  reference = all_log_probs(REFERENCE).sum(-1)
  found = expected_gradient(
    lambda log_probs: kl_estimate(log_probs.sum(-1), reference, 'k2')
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, exact
  )


def test_k2_per_token_has_the_gradient_of_the_kl_at_every_prefix():
  """The prefixes themselves count as given, as in every token-level KL."""

  def kl_given_prefixes(logits):
    first = jax.nn.softmax(jnp.asarray(POLICY[0], jnp.float32))
    weights = [jnp.ones(()), first]
    total = 0.0
    for weight, ours, theirs in zip(weights, logits, REFERENCE, strict=True):
      log_p = jax.nn.log_softmax(ours)
      log_q = jax.nn.log_softmax(jnp.asarray(theirs, jnp.float32))
      kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
      total += jnp.sum(weight * kl)
    return total

  logits = [jnp.asarray(x, jnp.float32) for x in POLICY]
  assert kl_given_prefixes(logits) == pytest.approx(
    float(exact_kl(POLICY)), rel=1e-5
  )
  exact = jax.grad(kl_given_prefixes)(logits)
  found = expected_gradient(lambda log_probs: estimate(log_probs, 'k2'))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, exact
  )


def test_k1_as_a_loss_has_no_gradient():
  gradient = expected_gradient(lambda log_probs: estimate(log_probs, 'k1'))
  jax.tree.map(lambda x: np.testing.assert_allclose(x, 0, atol=1e-6), gradient)


@pytest.mark.parametrize('estimator', KL)
def test_the_reference_gets_no_gradient(estimator):
  gradient = jax.grad(lambda x: kl_estimate(jnp.zeros(()), x, estimator))(1.0)
  assert gradient == 0
