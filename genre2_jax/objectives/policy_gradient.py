"""Policy-gradient losses of sampled numbers. T is fixed, so sums over tokens.

GRPO's 1/|o| and a sum over T tokens differ by the constant T, which Adam does
not see: every estimator here takes the sum.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from genre2_jax.objectives.means import mean


def policy_gradient_loss(
  log_probs: jax.Array,
  advantages: jax.Array,
  weight: jax.Array | None = None,
) -> jax.Array:
  """−mean A · Σ_t log π_t (REINFORCE; ReMax, RLOO: their advantages).

  Args:
    log_probs: [..., T], of the tokens written.
    advantages: [...], of numbers, or [..., T], of tokens; constants to the
      gradient.
    weight: of the rows, the first axis, or None.

  Returns:
    A scalar.
  """
  advantages = jax.lax.stop_gradient(advantages)
  if advantages.ndim == log_probs.ndim:
    chex.assert_equal_shape([advantages, log_probs])
    return -mean(jnp.sum(advantages * log_probs, -1), weight)
  chex.assert_shape(advantages, log_probs.shape[:-1])
  return -mean(advantages * jnp.sum(log_probs, -1), weight)


def clipped_loss(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  clip_low: float,
  clip_high: float,
  weight: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """−mean Σ_t min(ρ_t A, clip(ρ_t, 1 − low, 1 + high) A), ρ_t = π_t / π_old,t.

  PPO's surrogate per token as in GRPO (arXiv 2402.03300), with DAPO's separate
  upper bound (arXiv 2503.14476).

  Args:
    log_probs: [..., T], of the tokens written, under the parameters to train.
    old_log_probs: [..., T], under the parameters that wrote them.
    advantages: [..., T], or [..., 1] where all tokens share one; constants to
      the gradient.
    clip_low: how far ρ may fall below 1.
    clip_high: how far ρ may rise above 1.
    weight: of the rows, the first axis, or None.

  Returns:
    (loss, share of tokens whose gradient the clip cuts off), scalars.
  """
  chex.assert_equal_shape([log_probs, old_log_probs])
  chex.assert_equal_rank([log_probs, advantages])
  advantages = jax.lax.stop_gradient(advantages)
  ratio = jnp.exp(log_probs - jax.lax.stop_gradient(old_log_probs))
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  gain = jnp.minimum(ratio * advantages, clipped * advantages)  # [..., T]
  cut = gain < ratio * advantages
  share = mean(cut.astype(jnp.float32), weight)
  return -mean(jnp.sum(gain, -1), weight), share


def kl_estimate(
  log_probs: jax.Array, reference_log_probs: jax.Array, estimator: str
) -> jax.Array:
  """KL(π ‖ π_ref) per token from samples of π (Schulman 2020).

  With d = log π − log π_ref: k1 = d, unbiased; k2 = d²/2, whose gradient is
  that of the token's KL given its prefix; k3 = exp(−d) − 1 + d, unbiased and
  never negative. As a loss k1 has an expected gradient of zero, so it is taken
  from the reward instead (`rollouts.judge`).

  Args:
    log_probs: [...].
    reference_log_probs: [...].
    estimator: 'k1', 'k2' or 'k3'.

  Returns:
    [...], nats.
  """
  difference = log_probs - jax.lax.stop_gradient(reference_log_probs)
  return KL_ESTIMATORS[estimator](difference)


KL_ESTIMATORS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'k1': lambda d: d,
  'k2': lambda d: jnp.square(d) / 2,
  'k3': lambda d: jnp.expm1(-d) + d,
}
