"""Advantages: how much better a sample did than was to be expected.

Every estimator has one face: `(rewards [B, G], greedy_rewards [B]) ->
advantages [B, G]`.

An estimator whose baseline does not depend on the sample that it is taken from
leaves the policy gradient unbiased: ReMax and RLOO exactly, Dr. GRPO and
REINFORCE up to the constant factors (G−1)/G and (BG−1)/(BG), GRPO not at all.
Without a baseline it is unbiased too, and noisy.
"""

import chex
import jax.numpy as jnp


def remax(rewards, greedy_rewards):
  """A = r − r(greedy), no division (ReMax: Li et al., ICML 2024)."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  return rewards - greedy_rewards[:, None]


def grpo(rewards, greedy_rewards, epsilon=1e-6):
  """A = (r − mean_G r) / (std_G r + ε) (GRPO: arXiv 2402.03300).

  The standard deviation has ddof 0.
  """
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  centred = _centred(rewards, -1)
  std = jnp.sqrt(jnp.mean(jnp.square(centred), -1, keepdims=True))
  return centred / (std + epsilon)


def dr_grpo(rewards, greedy_rewards):
  """A = r − mean_G r (Dr. GRPO: arXiv 2503.20783)."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  return _centred(rewards, -1)


def rloo(rewards, greedy_rewards):
  """A_i = r_i − mean of the others (RLOO: Ahmadian et al. 2024). G ≥ 2."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  group = rewards.shape[-1]
  return _centred(rewards, -1) * (group / (group - 1))


def reinforce(rewards, greedy_rewards):
  """A = r − mean_{B,G} r: REINFORCE with the batch's mean for a baseline."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  return _centred(rewards, None)


def no_baseline(rewards, greedy_rewards):
  """A = r: REINFORCE as it was (Williams 1992), for ablations."""
  chex.assert_rank([rewards, greedy_rewards], [2, 1])
  del greedy_rewards
  return rewards


def _centred(rewards, axis):
  """r − mean r; exactly 0 where all are equal, whatever their mean rounds to.

  Adam would blow what rounding leaves up to the size of a true gradient.
  """
  rewards = rewards - jnp.max(rewards, axis, keepdims=True)
  return rewards - jnp.mean(rewards, axis, keepdims=True)


ADVANTAGES = {
  'remax': remax,
  'grpo': grpo,
  'dr_grpo': dr_grpo,
  'rloo': rloo,
  'reinforce': reinforce,
  'no_baseline': no_baseline,
}
