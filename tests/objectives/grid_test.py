"""Grid objectives: against float64 numpy, integrals and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused
from scipy import special

from genre2_jax.objectives import grid
from genre2_jax.objectives.grid import CRPS, MBR, RAFT, ExpectedReward, LogLoss

pytestmark = pytest.mark.usefixtures('quick_compiles')

OBJECTIVES = [
  RAFT(),
  RAFT(normalize=True),
  MBR(),
  MBR(normalize=False),
  LogLoss(-2.0, 3.0),
  LogLoss(-2.0, 3.0, normalize=True),
  CRPS(),
  CRPS(normalize=False),
  ExpectedReward('squared'),
  ExpectedReward('absolute'),
  ExpectedReward('clipped'),
]
WHOLE = pytest.mark.parametrize('objective', OBJECTIVES, ids=str)

# Unsorted, uneven, with a tie; a scenario is (logits [B, K], values, target).
VALUES = np.array([0.5, -2.0, 3.0, 0.25, -0.5, 0.5, 2.0])
_RNG = np.random.default_rng(0)
LOGITS = _RNG.normal(size=(4, 7)).astype(np.float32) * 1.5
TARGET = np.array([0.3, -2.5, 2.0, 0.5], np.float32)


@pytest.fixture(autouse=True, scope='module')
def no_implicit_broadcasts():
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  yield
  jax.config.update('jax_numpy_rank_promotion', 'allow')


def whole(logits=LOGITS):
  return jax.nn.log_softmax(jnp.asarray(logits))


def loss_of(objective, log_p, values, target):
  """Compiled, the values traced: [B]."""
  return jax.jit(objective)(log_p, values, np.asarray(target, np.float32))


@functools.partial(jax.jit, static_argnums=0)
def _summed_loss(objective, logits, values, target):
  def loss(logits):
    return objective(jax.nn.log_softmax(logits), values, target).sum()

  return jax.value_and_grad(loss)(logits)


def value_and_gradient(objective, logits, values=VALUES, target=TARGET):
  """Of the batch's summed loss, on the logits: scalar, [B, K]."""
  return jax.tree.map(
    np.asarray, _summed_loss(objective, logits, values, target)
  )


def reward(name, values, target):
  error = values - target
  return {
    'squared': -(error**2),
    'absolute': -abs(error),
    'clipped': -np.minimum(error**2, 50),
  }[name]


def brute_force(objective, log_p, values, target):
  """[B] in float64, by the formulas as they stand."""
  losses = []
  rows = zip(np.float64(log_p), np.float64(target), strict=True)
  for row, (log_w, y) in enumerate(rows):
    v = np.float64(values if np.ndim(values) == 1 else values[row])
    p = np.exp(log_w)
    if getattr(objective, 'normalize', False):
      p = p / p.sum()
    match objective:
      case RAFT():
        losses.append((y - p @ v) ** 2)
      case MBR():
        losses.append(p @ (y - v) ** 2)
      case LogLoss():
        span = objective.high - objective.low
        u = np.clip((y - objective.low) / span, 0, 1)
        one = p @ np.clip((v - objective.low) / span, 0, 1)
        losses.append(-u * np.log(one) - (1 - u) * np.log(1 - one))
      case CRPS():
        pairs = abs(v[:, None] - v)
        losses.append(p @ abs(v - y) - p @ pairs @ p / 2)
      case ExpectedReward():
        losses.append(-p @ reward(objective.reward, v, y))
  return np.array(losses)


@WHOLE
def test_losses_equal_brute_force(objective):
  expected = brute_force(objective, whole(), VALUES, TARGET)
  found = loss_of(objective, whole(), VALUES, TARGET)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('objective', [RAFT(), CRPS()], ids=str)
def test_every_input_may_have_a_grid_of_its_own(objective):
  """As argument, traced, and as a constant, sorted while tracing."""
  values = VALUES + np.arange(4)[:, None] / 8
  expected = brute_force(objective, whole(), values, TARGET)
  found = loss_of(objective, whole(), values, TARGET)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  static = jax.jit(lambda p, y: objective(p, values, y))(whole(), TARGET)
  np.testing.assert_allclose(static, found, rtol=1e-5)


@WHOLE
def test_losses_are_the_same_uncompiled(objective):
  np.testing.assert_allclose(
    objective(whole(), VALUES, jnp.asarray(TARGET)),
    loss_of(objective, whole(), VALUES, TARGET),
    rtol=1e-5,
    atol=1e-6,
  )


@WHOLE
def test_losses_of_a_subset_and_of_unnormalised_weights(objective):
  """Mass 0.5 or so, and mass 2."""
  subset = whole()[:, [0, 3, 6, 2]]
  values = VALUES[[0, 3, 6, 2]]
  heavy = subset + np.log(2 / np.exp(subset).sum(-1, keepdims=True))
  for log_p in (subset, heavy):
    if log_p is heavy and objective == LogLoss(-2.0, 3.0):
      continue  # log(1 − p₁) of weights that sum to 2 is nothing
    np.testing.assert_allclose(
      loss_of(objective, log_p, values, TARGET),
      brute_force(objective, log_p, values, TARGET),
      rtol=1e-4,
      atol=1e-6,
    )


@WHOLE
def test_the_order_of_the_grid_is_of_no_account(objective):
  order = np.random.default_rng(1).permutation(7)
  value, gradient = value_and_gradient(objective, LOGITS)
  other, permuted = value_and_gradient(
    objective, LOGITS[:, order], VALUES[order]
  )
  assert other == pytest.approx(float(value), rel=1e-5)
  np.testing.assert_allclose(permuted, gradient[:, order], atol=1e-5)


@pytest.mark.parametrize(
  ('objective', 'power'),
  [
    (RAFT(), 2),
    (MBR(), 2),
    (CRPS(), 1),
    (ExpectedReward('squared'), 2),
    (ExpectedReward('absolute'), 1),
  ],
  ids=str,
)
def test_losses_shift_and_scale_as_their_unit_does(objective, power):
  loss = loss_of(objective, whole(), VALUES, TARGET)
  shifted = loss_of(objective, whole(), VALUES + 2, TARGET + 2)
  np.testing.assert_allclose(shifted, loss, rtol=1e-4, atol=1e-5)
  scaled = loss_of(objective, whole(), VALUES * -4, TARGET * -4)
  np.testing.assert_allclose(scaled, loss * 4.0**power, rtol=1e-4, atol=1e-5)


def test_log_loss_knows_no_unit():
  loss = loss_of(LogLoss(-2.0, 3.0), whole(), VALUES, TARGET)
  other = loss_of(LogLoss(-3.0, 7.0), whole(), VALUES * 2 + 1, TARGET * 2 + 1)
  np.testing.assert_allclose(other, loss, rtol=1e-5)


@WHOLE
def test_gradients_are_finite_without_mass(objective):
  """Numbers without probability, and all of it on one number."""
  for never in (-200.0, -1e9, -1e30, -np.inf):
    logits = LOGITS.copy()
    logits[0, [1, 4]] = never
    logits[1:] = never
    logits[1, 1], logits[2, 6], logits[3, 3] = 0, 0, 0
    loss, gradient = value_and_gradient(objective, logits)
    assert np.isfinite(loss), never
    assert np.isfinite(gradient).all(), never


@WHOLE
def test_the_true_number_alone_is_free_of_loss(objective):
  target = VALUES[[0, 1, 2, 3]]  # within LogLoss' range; its ends and two more
  logits = np.where(VALUES == target[:, None], 0, -1e9)
  loss = loss_of(objective, whole(logits), VALUES, target)
  expected = 0.0
  if isinstance(objective, LogLoss):  # the entropy of its target
    u = (target + 2) / 5
    expected = special.entr(u) + special.entr(1 - u)
  np.testing.assert_allclose(loss, expected + np.zeros(4), atol=1e-6)


@WHOLE
def test_gradients_on_the_logits_equal_finite_differences(objective):
  """Central differences of the float64 formulas."""

  def exact(logits):
    return brute_force(
      objective, special.log_softmax(logits, -1), VALUES, TARGET
    ).sum()

  _, gradient = value_and_gradient(objective, LOGITS)
  step, logits = 1e-5, np.float64(LOGITS)
  expected = np.zeros_like(logits)
  for index in np.ndindex(*logits.shape):
    bump = np.zeros_like(logits)
    bump[index] = step
    difference = exact(logits + bump) - exact(logits - bump)
    expected[index] = difference / (2 * step)
  np.testing.assert_allclose(gradient, expected, atol=2e-5, rtol=2e-4)


def test_a_wrong_shape_is_refused():
  log_p, target = whole(), jnp.asarray(TARGET)
  for arguments in (
    (log_p, VALUES[:5], target),
    (log_p, np.zeros((3, 7)), target),
    (log_p, VALUES, target[:1]),
    (log_p[0], VALUES, target[0]),
  ):
    with pytest.raises(AssertionError):
      MBR()(*arguments)
  with pytest.raises(AssertionError):
    RAFT()(log_p, VALUES, target, weights=jnp.zeros(5))


@pytest.mark.parametrize(
  ('objective', 'options'),
  [
    (RAFT, {'normalize': 'yes'}),
    (CRPS, {'normalize': 1}),
    (LogLoss, {'normalize': None}),
    (LogLoss, {'high': 0.0}),
    (LogLoss, {'low': float('-inf')}),
    (ExpectedReward, {'reward': 'accuracy'}),
  ],
)
def test_bad_options_are_named_in_one_line(objective, options):
  assert_refused(lambda: objective(**options), *options, error=ValueError)


# ------------------------------------------------------ RAIL and normalising


@pytest.mark.parametrize('kind', [MBR, CRPS])
def test_leaving_the_grid_is_paid_for_only_without_renormalising(kind):
  """A softmax over the grid and one thing beside it, moved down its gradient.

  As published the least loss is that of writing no number at all.
  """

  def loss(objective, logits):
    log_p = jax.nn.log_softmax(logits)[:, :-1]
    return objective(log_p, VALUES, jnp.asarray(TARGET)).sum()

  logits = jnp.pad(jnp.asarray(LOGITS), ((0, 0), (0, 1)))
  mass = {}
  for normalize in (True, False):
    objective = kind(normalize=normalize)
    gradient = jax.jit(jax.grad(functools.partial(loss, objective)))
    moved = logits
    for _ in range(200):
      moved = moved - 0.3 * gradient(moved)
    p = np.asarray(jax.nn.softmax(moved))[:, :-1]
    mass[normalize] = p.sum(-1)
    beside = gradient(logits)[:, -1]
    if normalize:
      np.testing.assert_allclose(beside, 0, atol=1e-5)
      away = np.abs(VALUES - TARGET[:, None])
      assert (np.sum(p * away, -1) < 0.7 * p.sum(-1)).all()  # It has learnt.
    else:
      assert beside.min() < -0.2
  assert mass[False].min() < 0.1
  assert (mass[True] > 0.9).all()


def test_expected_value_as_it_is_and_renormalised():
  log_p = jnp.log(jnp.array([[0.1, 0.3], [0.2, 0.2]]))
  found = grid.expected_value(log_p, jnp.array([1.0, 2.0]))
  np.testing.assert_allclose(found, [0.7, 0.6], rtol=1e-6)
  found = grid.expected_value(log_p, jnp.array([1.0, 2.0]), normalize=True)
  np.testing.assert_allclose(found, [1.75, 1.5], rtol=1e-6)


def test_normalising_survives_a_grid_of_hardly_any_mass():
  log_p = jnp.log(jnp.array([[0.1, 0.3]])) - 500
  np.testing.assert_allclose(
    jnp.exp(grid.normalized(log_p)), [[0.25, 0.75]], rtol=1e-4
  )
  ungiven = grid.expected_value(log_p, jnp.array([1.0, 2.0]))
  given = grid.expected_value(log_p, jnp.array([1.0, 2.0]), True)
  assert ungiven == 0
  assert given == pytest.approx(1.75, rel=1e-4)


def test_learnable_raft_trains_the_weights():
  """Probabilities alone can't leave the grid, weights can."""
  weights = jnp.asarray(VALUES, jnp.float32)
  log_p, target = whole(), jnp.asarray(TARGET) + 9
  np.testing.assert_array_equal(
    RAFT()(log_p, VALUES, target, weights=weights),
    RAFT()(log_p, VALUES, target),
  )

  def loss(weights):
    return RAFT()(log_p, VALUES, target, weights=weights).mean()

  p = np.exp(np.float64(log_p))
  error = p @ VALUES - np.float64(target)
  np.testing.assert_allclose(
    jax.grad(loss)(weights), 2 * error @ p / 4, rtol=1e-5
  )


# -------------------------------------------------------------------- CRPS


def test_crps_by_hand():
  """Half on 0 and half on 2: 1 − ½·1 at 1; one number: the distance."""
  log_p = jnp.log(jnp.array([[0.5, 0.5], [1.0, 0.0]]))
  found = loss_of(grid.crps, log_p, np.array([0.0, 2.0]), [1.0, 3.0])
  np.testing.assert_allclose(found, [0.5, 3.0])
  alone = loss_of(grid.crps, np.zeros((1, 1)), np.array([4.0]), [1.0])
  np.testing.assert_allclose(alone, [3.0])


@pytest.mark.parametrize('K', [2, 7, 40])
def test_crps_is_the_integral_of_the_squared_difference(K):
  rng = np.random.default_rng(K)
  values = rng.normal(size=(3, K)) * 2
  log_p = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(3, K)) * 2))
  target = rng.normal(size=3) * 3
  found = jax.jit(grid.crps)(log_p, values, target)
  t = np.linspace(-15, 15, 60_001)
  for p, v, y, value in zip(np.exp(log_p), values, target, found, strict=True):
    order = np.argsort(v)
    F = np.r_[0, np.cumsum(p[order])][np.searchsorted(v[order], t, 'right')]
    integral = np.trapezoid((F - (t >= y)) ** 2, t)
    assert value == pytest.approx(integral, abs=2e-3)


def test_crps_keeps_its_precision_beside_huge_numbers():
  """As tokenizers with exponents write them."""
  values = np.array([-1e10, 0.0, 0.5, 1e10])
  log_p = np.array([[-40.0, np.log(0.25), np.log(0.75), -40.0]], np.float32)
  found = loss_of(CRPS(), log_p, values, [0.0])
  expected = brute_force(CRPS(), log_p, values, [0.0])
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_crps_takes_any_leading_axes():
  log_p = jnp.stack([whole(), whole(LOGITS[::-1])])
  target = jnp.stack([jnp.asarray(TARGET), jnp.asarray(TARGET[::-1])])
  found = loss_of(grid.crps, log_p, VALUES, target)
  np.testing.assert_allclose(
    found[1], loss_of(CRPS(), log_p[1], VALUES, target[1]), rtol=1e-5
  )
  assert found.shape == (2, 4)


# --------------------------------------------------------------- quantiles


def brute_quantile(p, v, q):
  order = np.argsort(v, kind='stable')
  F = np.cumsum(p[order])
  return v[order][np.argmax(F >= q * F[-1])]


@pytest.mark.parametrize('form', ['numpy', 'traced', 'rows'])
def test_quantiles_equal_brute_force(form):
  values = {
    'numpy': VALUES,
    'traced': jnp.asarray(VALUES),
    'rows': jnp.asarray(VALUES + np.arange(4)[:, None] / 8),
  }[form]
  q = np.array([0.013, 0.05, 0.37, 0.5, 0.77, 0.95, 0.99])
  log_p = whole() - 0.7  # weights need not sum to 1
  quantile = jax.jit(grid.quantile)
  found = quantile(log_p, values, q)
  if form == 'numpy':
    found = jax.jit(lambda p: grid.quantile(p, values, q))(log_p)
  assert found.shape == (4, 7)
  p = np.exp(np.float64(log_p))
  for b in range(4):
    v = np.asarray(values if form != 'rows' else values[b])
    expected = [brute_quantile(p[b], v, level) for level in q]
    np.testing.assert_array_equal(found[b], expected)
  median = quantile(log_p, values, 0.5)
  np.testing.assert_array_equal(median, found[:, 3])


def test_quantiles_at_steps_and_ends():
  """F reaches ½ exactly at 1; numbers without mass are never quantiles."""
  values = np.array([3.0, 1.0, 2.0, -9.0, 9.0])
  log_p = jnp.log(jnp.array([[0.25, 0.5, 0.25, 0.0, 0.0]]))
  q = np.array([0, 0.5, 0.51, 0.76, 1])
  found = jax.jit(grid.quantile)(log_p, values, q)
  np.testing.assert_array_equal(found, [[1, 1, 2, 3, 3]])


@pytest.mark.parametrize('K', [10, 1000])
def test_the_last_quantile_is_the_highest_number_with_mass(K):
  """However the cumulative sum rounds."""
  rng = np.random.default_rng(K)
  logits = rng.normal(size=(8, K)).astype(np.float32)
  logits[:, K // 2 :] = -1e9
  found = jax.jit(grid.quantile)(whole(logits), np.arange(K), 1.0)
  np.testing.assert_array_less(found, K // 2)
  np.testing.assert_array_less(K * 0.45 - 1, found)


# ---------------------------------------------------------------- log loss


def test_log_loss_on_zero_and_one_is_binary_cross_entropy():
  log_p = jnp.log(jnp.array([[0.2, 0.8], [0.9, 0.1]]))
  target = jnp.array([1.0, 0.25])
  found = loss_of(LogLoss(), log_p, np.array([0.0, 1.0]), target)
  expected = [-np.log(0.8), -0.25 * np.log(0.1) - 0.75 * np.log(0.9)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  # With p('1') alone on the grid, what it lacks is p('0').
  alone = loss_of(LogLoss(), log_p[:, 1:], np.array([1.0]), target)
  np.testing.assert_allclose(alone, expected, rtol=1e-5)


def test_log_loss_clips_targets_and_values():
  log_p = jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
  values = np.array([0.0, 3.0, 6.0])
  found = loss_of(LogLoss(1.0, 5.0), log_p, values, [9.0])
  np.testing.assert_allclose(found, [-np.log(0.15 + 0.5)], rtol=1e-6)


def test_log_loss_of_a_sure_error_is_as_large_as_it_is():
  """1 − p₁ = e⁻⁶⁰ is far below what 1 minus a float32 can tell."""
  logits = jnp.array([[-60.0, 0.0]])

  def loss(x):
    log_p = jax.nn.log_softmax(x)
    return LogLoss()(log_p, np.array([0.0, 1.0]), jnp.zeros(1))[0]

  value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
  assert value == pytest.approx(60)
  np.testing.assert_allclose(gradient, [[-1, 1]], rtol=1e-5)


def test_log_loss_takes_rounding_for_no_missing_mass():
  """Σ p of a trie of many tokens is off 1 by some 1e−6."""
  logits = np.array([[-30.0, 0.0]], np.float32)
  log_p = whole(logits) - 2e-6
  gradient = jax.jit(
    jax.grad(lambda x: LogLoss()(x, np.array([0.0, 1.0]), jnp.array([0.5]))[0])
  )(log_p)
  np.testing.assert_allclose(gradient, [[-0.5, -0.5]], rtol=1e-4)


# --------------------------------------------------------- expected reward


def test_expected_reward_is_mbr_when_squared():
  for found, expected in zip(
    value_and_gradient(ExpectedReward(), LOGITS),
    value_and_gradient(MBR(), LOGITS),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['squared', 'absolute', 'clipped'])
def test_expected_reward_has_the_exact_policy_gradient(name):
  """E_{v ~ p} [r(v)·∇ log p(v)], summed in float64: −p·(r − Σ p·r)."""
  values = VALUES * 5  # some beyond the clip
  _, gradient = value_and_gradient(ExpectedReward(name), LOGITS, values)
  p = special.softmax(np.float64(LOGITS), -1)
  r = reward(name, values, np.float64(TARGET)[:, None])
  expected = -p * (r - (p * r).sum(-1, keepdims=True))
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['squared', 'absolute'])
def test_sampled_weights_have_the_policy_gradient_with_less_variance(name):
  """Weights p/p.detach()/n at samples of p: score-function estimates."""
  n, trials = 8, 4000
  logits = jnp.asarray(LOGITS[0])
  target = jnp.asarray(TARGET[:1]) + 5  # all rewards are far below 0
  chosen = jax.random.categorical(jax.random.key(0), logits, shape=(trials, n))

  def loss(logits, index):
    log_p = jax.nn.log_softmax(logits)
    weights = log_p - jax.lax.stop_gradient(log_p) - np.log(n)
    return ExpectedReward(name)(
      weights[index][None], jnp.asarray(VALUES)[index][None], target
    )[0]

  values, gradients = jax.jit(
    jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0))
  )(logits, chosen)
  p = special.softmax(np.float64(logits))
  r = reward(name, VALUES, float(target[0]))
  assert np.mean(values) == pytest.approx(-p @ r, rel=0.02)
  # The mean takes in the sample itself: (n − 1)/n of the gradient, as Dr. GRPO.
  exact = -p * (r - p @ r)
  error = np.std(gradients, axis=0) / np.sqrt(trials)
  assert (abs(np.mean(gradients, 0) * n / (n - 1) - exact) < 5 * error).all()
  bare = -(np.eye(7)[chosen] - p) * r[chosen][..., None]  # [trials, n, K]
  assert np.var(gradients, 0).sum() < 0.5 * np.var(bare.mean(1), 0).sum()


def test_expected_reward_gives_no_wages_for_leaving_the_grid():
  """On a subset the gradient is that of the expectation given the subset."""
  keep = np.array([0, 3, 6])
  target = jnp.asarray(TARGET)

  def loss(logits, given):
    log_p = jax.nn.log_softmax(logits)[:, keep]
    mass = jnp.exp(jax.nn.logsumexp(log_p, -1))
    if given:
      log_p = grid.normalized(log_p)
      mass = jax.lax.stop_gradient(mass)
    else:
      mass = jnp.ones_like(mass)
    return (mass * ExpectedReward()(log_p, VALUES[keep], target)).sum()

  gradient = jax.jit(jax.grad(loss), static_argnums=1)
  found, expected = (gradient(LOGITS, given) for given in (False, True))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert abs(np.delete(found, keep, axis=1)).max() < 1e-5


# ------------------------------------------------------------------ samples


@pytest.mark.parametrize(
  'objective',
  [
    RAFT(),
    MBR(),
    CRPS(),
    ExpectedReward('squared'),
    ExpectedReward('absolute'),
  ],
  ids=str,
)
@pytest.mark.parametrize('count', [3, 4])
def test_samples_have_the_whole_loss_and_gradient_in_expectation(
  objective, count
):
  """Over all ways to draw R of four numbers, each with its probability."""
  values = np.array([-1.5, 0.25, 0.5, 2.0], np.float32)
  logits = jnp.array([0.3, -0.7, 1.1, 0.2])
  target = jnp.array([0.4])
  ways = np.stack(np.meshgrid(*[range(4)] * count, indexing='ij'), -1)
  ways = ways.reshape(-1, count)  # [4^R, R]
  probability = jnp.exp(jnp.sum(jax.nn.log_softmax(logits)[ways], -1))

  def estimate(logits, way):
    drawn = jax.nn.log_softmax(logits)[way]
    weights = jax.nn.log_softmax(drawn - jax.lax.stop_gradient(drawn))
    own = jnp.asarray(values)[way]
    return objective.of_samples(weights[None], own[None], target)[0]

  def whole(logits):
    return objective(jax.nn.log_softmax(logits)[None], values, target)[0]

  each = jax.vmap(jax.value_and_grad(estimate), (None, 0))(logits, ways)
  found = jax.tree.map(lambda x: jnp.tensordot(probability, x, 1), each)
  expected = jax.value_and_grad(whole)(logits)
  for mine, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.parametrize('objective', [RAFT(), CRPS()], ids=str)
def test_the_plain_loss_of_samples_is_too_large(objective):
  """By the spread over R: pairs of a sample with itself are in it."""
  values = np.array([[-1.0, 0.0, 2.0]], np.float32)
  log_p, target = jnp.full((1, 3), -np.log(3.0)), jnp.array([0.5])
  plain = float(objective(log_p, values, target)[0])
  fair = float(objective.of_samples(log_p, values, target)[0])
  if isinstance(objective, RAFT):
    expected = (0.5 - 1 / 3) ** 2 - np.var(values, ddof=1) / 3
  else:
    expected = 3.5 / 3 - (1 + 3 + 2) / 6  # mean |v - y|, half of mean |v - v'|
  assert fair == pytest.approx(expected, rel=1e-4, abs=1e-5)
  assert plain > fair + 0.1
