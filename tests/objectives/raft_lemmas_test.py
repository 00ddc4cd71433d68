"""What RAFT's theory says, run: Lukasik et al., ICLR 2025, on finite grids.

One statement is numbered as in the paper: Lemma 4, MBR's collapse. The others
are named by their content:

* the conditional mean, RAIL on the true distribution, is Bayes-optimal under
  squared error (also Lukasik et al., EMNLP Findings 2024);
* greedy decoding of the true distribution is worse than that by any factor,
  one sample from it by the factor 2;
* cross-entropy as near its optimum as you like leaves any squared error; a
  squared error at its optimum leaves any cross-entropy; and within a
  constrained model class the two have different optima;
* MBR is RAFT plus the variance of p, so it alone collapses;
* RAFT attains the Bayes risk wherever the mean lies in the grid's convex hull,
  by many distributions, and else goes to the nearest end;
* the log loss is least where p₁ is the mean of the scaled target;
* CRPS is least at the true distribution; the expected reward, as MBR, is
  least at one number.

Closed forms are met by gradient descent on the logits.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from genre2_jax.objectives import grid
from genre2_jax.objectives.grid import CRPS, MBR, RAFT, ExpectedReward, LogLoss

# p(y*|x) for one input: the numbers that the target may be, skewed.
NUMBERS = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
TRUTH = np.array([0.35, 0.05, 0.15, 0.2, 0.25])
MEAN = float(TRUTH @ NUMBERS)  # 2.95
BAYES_RISK = float(TRUTH @ (NUMBERS - MEAN) ** 2)


@functools.cache
def descent(objective, numbers=tuple(NUMBERS)):
  """(targets, their probabilities, logits) -> the least expected loss's p."""
  values = np.array(numbers)
  optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 4000))

  @jax.jit
  def minimiser(targets, weights, logits):
    def risk(logits):
      log_p = jax.nn.log_softmax(logits)
      log_p = jnp.broadcast_to(log_p, (len(targets), len(values)))
      return weights @ objective(log_p, values, targets)

    def step(carry, _):
      logits, state = carry
      updates, state = optimizer.update(jax.grad(risk)(logits), state)
      return (optax.apply_updates(logits, updates), state), None

    carry = logits, optimizer.init(logits)
    (logits, _), _ = jax.lax.scan(step, carry, None, length=4000)
    return jax.nn.softmax(logits)

  return minimiser


def least(objective, numbers=NUMBERS, targets=NUMBERS, weights=TRUTH, seed=0):
  """p [K] of the least expected loss, found from random logits."""
  logits = np.random.default_rng(seed).normal(size=len(numbers))
  minimiser = descent(objective, tuple(float(v) for v in numbers))
  arrays = (jnp.asarray(x, jnp.float32) for x in (targets, weights, logits))
  return np.float64(minimiser(*arrays))


def squared_risk(prediction, targets=NUMBERS, weights=TRUTH):
  return weights @ (targets - prediction) ** 2


def rail(p, values):
  return float(grid.expected_value(jnp.log(jnp.asarray(p)), values))


# ----------------------------------------------------------- decision rules


def test_rail_on_the_true_distribution_is_bayes_optimal():
  best = rail(TRUTH, NUMBERS)
  assert best == pytest.approx(MEAN, rel=1e-6)
  assert squared_risk(best) == pytest.approx(BAYES_RISK, rel=1e-6)
  for prediction in np.linspace(0, 6, 121):
    excess = squared_risk(prediction) - BAYES_RISK
    assert excess == pytest.approx((prediction - best) ** 2, abs=1e-5)
  mode = NUMBERS[TRUTH.argmax()]
  median = float(grid.quantile(jnp.log(TRUTH), NUMBERS, 0.5))
  assert median == 3.0
  assert squared_risk(mode) > squared_risk(median) > BAYES_RISK


def test_one_sample_has_twice_the_bayes_risk():
  risk = TRUTH @ [squared_risk(number) for number in NUMBERS]
  assert risk == pytest.approx(2 * BAYES_RISK)


@pytest.mark.parametrize('n', [10, 100, 1000])
def test_greedy_decoding_of_the_truth_is_worse_by_any_factor(n):
  """n numbers near 1 share what a little more than 1/n at 0 leaves."""
  numbers = np.r_[0, 1 + np.arange(n) / n**2]
  truth = np.r_[1.5, np.ones(n)] / (n + 1.5)
  mode = numbers[truth.argmax()]
  best = squared_risk(rail(truth, numbers), numbers, truth)
  assert mode == 0
  assert squared_risk(mode, numbers, truth) > n / 3 * best


# -------------------------------------------- what cross-entropy guarantees


@pytest.mark.parametrize('far', [1e2, 1e4, 1e6])
def test_nearly_optimal_cross_entropy_leaves_any_squared_error(far):
  """ε of the mass on a number far away costs −log(1 − ε), whatever it is."""
  epsilon = 1e-3
  numbers, truth = np.r_[NUMBERS, far], np.r_[TRUTH, 0]
  p = (1 - epsilon) * truth + epsilon * (numbers == far)
  gap = special.rel_entr(truth, p).sum()  # CE(truth, p) − CE(truth, truth)
  assert gap == pytest.approx(-np.log1p(-epsilon))
  error = RAFT()(
    jnp.log(jnp.asarray(p))[None], numbers, jnp.full(1, MEAN, jnp.float32)
  )
  np.testing.assert_allclose(error, (epsilon * (far - MEAN)) ** 2, rtol=1e-3)


@pytest.mark.parametrize('nats', [10, 100, 1000])
def test_optimal_squared_error_leaves_any_cross_entropy(nats):
  """All mass on two numbers that are never the target, around the mean."""
  numbers = np.r_[NUMBERS, MEAN - 2, MEAN + 2]
  log_p = np.r_[np.full(5, -np.log(5) - nats), np.full(2, -np.log(2))]
  log_p = jax.nn.log_softmax(jnp.asarray(log_p, jnp.float32))
  assert -TRUTH @ np.float64(log_p[:5]) > nats
  prediction = float(grid.expected_value(log_p, numbers))
  assert squared_risk(prediction) == pytest.approx(BAYES_RISK, abs=1e-3)


def test_in_a_constrained_class_cross_entropy_misses_the_least_error():
  """p_θ ∝ exp(θ·a): CE matches E[a], RAFT matches E[y]."""
  a = np.array([1.0, 0.0, 0.0, 0.5, 0.0])
  theta = np.linspace(-8, 8, 3201)[:, None]
  log_p = special.log_softmax(theta * a, axis=-1)
  cross_entropy = -log_p @ TRUTH
  means = np.exp(log_p) @ NUMBERS
  risk = np.array([squared_risk(mean) for mean in means])
  by_entropy, by_risk = cross_entropy.argmin(), risk.argmin()
  matched = np.exp(log_p[by_entropy]) @ a
  assert matched == pytest.approx(TRUTH @ a, abs=0.01)
  assert risk[by_risk] == pytest.approx(BAYES_RISK, abs=1e-4)
  assert risk[by_entropy] > BAYES_RISK + 0.01
  assert cross_entropy[by_risk] > cross_entropy[by_entropy] + 0.01
  loss = jax.jit(RAFT())(
    jnp.asarray(log_p[[by_entropy, by_risk]], jnp.float32),
    NUMBERS,
    jnp.full(2, MEAN, jnp.float32),
  )
  np.testing.assert_allclose(
    loss, risk[[by_entropy, by_risk]] - BAYES_RISK, rtol=1e-3, atol=1e-4
  )


# --------------------------------------------------- Lemma 4: MBR and RAFT


def test_mbr_is_raft_plus_the_variance_of_p():
  log_p = jax.nn.log_softmax(
    jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
  )
  target = jnp.linspace(-1, 7, 6)
  p = np.exp(np.float64(log_p))
  variance = p @ NUMBERS**2 - (p @ NUMBERS) ** 2
  assert (variance > 0.1).all()
  np.testing.assert_allclose(
    MBR()(log_p, NUMBERS, target) - RAFT()(log_p, NUMBERS, target),
    variance,
    rtol=1e-4,
  )


# Their means lie within the hull, and off the grid: 2.95, 3.65, 2.2.
TARGET_LAWS = [
  TRUTH,
  np.array([0.2, 0.0, 0.05, 0.45, 0.3]),
  np.array([0.6, 0.0, 0.1, 0.2, 0.1]),
]


@pytest.mark.parametrize('truth', TARGET_LAWS)
@pytest.mark.parametrize('objective', [MBR(), ExpectedReward()], ids=str)
def test_lemma_4_mbr_collapses_to_the_number_nearest_to_the_mean(
  objective, truth
):
  """One-hot, and so off the Bayes risk by the distance to the grid, squared."""
  mean = truth @ NUMBERS
  nearest = np.argmin(abs(NUMBERS - mean))
  p = least(objective, weights=truth)
  assert p[nearest] > 0.99
  excess = squared_risk(NUMBERS[nearest], weights=truth) - squared_risk(
    mean, weights=truth
  )
  assert excess == pytest.approx((NUMBERS[nearest] - mean) ** 2)
  assert excess > 1e-3


def test_mbr_is_linear_in_p_so_that_no_mixture_beats_the_best_number():
  """Risk of one-hot k: Bayes risk + (y_k − mean)²; of p: its expectation."""
  rng = np.random.default_rng(1)
  p = np.r_[np.eye(5), rng.dirichlet(np.ones(5), 20)]
  log_p = jnp.log(jnp.asarray(p, jnp.float32))
  mbr = jax.jit(MBR())
  risk = sum(
    weight * np.float64(mbr(log_p, NUMBERS, jnp.full(25, number)))
    for weight, number in zip(TRUTH, NUMBERS, strict=True)
  )
  vertices = BAYES_RISK + (NUMBERS - MEAN) ** 2
  np.testing.assert_allclose(risk, p @ vertices, rtol=1e-5)
  assert (risk[5:] > vertices.min()).all()


@pytest.mark.parametrize('truth', TARGET_LAWS)
def test_raft_attains_the_bayes_risk_by_many_distributions(truth):
  mean = truth @ NUMBERS
  found = [least(RAFT(), weights=truth, seed=seed) for seed in range(3)]
  for p in found:
    assert p @ NUMBERS == pytest.approx(mean, abs=2e-3)
    assert squared_risk(p @ NUMBERS, weights=truth) == pytest.approx(
      squared_risk(mean, weights=truth), abs=1e-5
    )
    assert special.entr(p).sum() > 0.3
  assert abs(found[0] - found[1]).max() > 0.05
  assert abs(found[0] - found[2]).max() > 0.05


def test_raft_on_a_subset_attains_it_while_the_hull_holds_the_mean():
  """Two numbers at the ends do; two that lie above it can't."""
  p = least(RAFT(), numbers=[1.0, 5.0])
  assert p @ [1, 5] == pytest.approx(MEAN, abs=2e-3)
  np.testing.assert_allclose(p[1], (MEAN - 1) / 4, atol=1e-3)
  p = least(RAFT(), numbers=[4.0, 5.0])
  assert p[0] > 0.99
  assert squared_risk(p @ [4, 5]) == pytest.approx(
    BAYES_RISK + (4 - MEAN) ** 2, abs=0.03
  )


# ------------------------------------------------- log loss and proper scores


def test_log_loss_is_least_where_p_1_is_the_mean():
  p = least(LogLoss(1.0, 5.0), numbers=[1.0, 5.0])
  assert p[1] == pytest.approx((MEAN - 1) / 4, abs=1e-3)
  p = least(LogLoss(1.0, 5.0))  # on a finer grid: by its expected value
  assert p @ NUMBERS == pytest.approx(MEAN, abs=4e-3)
  unit = np.array([0.0, 0.3, 0.9])  # targets in [0, 1], off the grid
  weights = np.array([0.2, 0.5, 0.3])
  p = least(LogLoss(), [0.0, 1.0], unit, weights)
  assert p[1] == pytest.approx(weights @ unit, abs=1e-3)


@pytest.mark.parametrize('truth', TARGET_LAWS)
def test_crps_is_least_at_the_true_distribution(truth):
  np.testing.assert_allclose(least(CRPS(), weights=truth), truth, atol=5e-3)


def test_the_expected_absolute_reward_collapses_to_the_median():
  p = least(ExpectedReward('absolute'))
  median = float(grid.quantile(jnp.log(TRUTH), NUMBERS, 0.5))
  assert p[NUMBERS == median] > 0.99
