"""Losses of whole numbers that the policy wrote itself.

Every loss is a function `(samples, judgement) -> (scalar, metrics)`, where
`samples` is what the parameters to train say of the numbers written and
`judgement` what is known of them and constant to the gradient. What it asks of
a rollout it declares as `requires`.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from genre2_jax.objectives.advantages import ADVANTAGES, least_group, weighed
from genre2_jax.objectives.means import mean
from genre2_jax.objectives.policy_gradient import (
  KL_ESTIMATORS,
  clipped_loss,
  kl_estimate,
  policy_gradient_loss,
)
from genre2_jax.objectives.requirements import Requirements

Metrics = dict[str, jax.Array]


class Samples(NamedTuple):
  """Numbers under the parameters to train.

  Attributes:
    log_probs: [B, G, T, V], of every token along the numbers written.
    token_log_probs: [B, G, T], of those written; [B, G, W + 1 + T] behind free
      text of at most W subwords, 0 where there is none.
    values: [B, G, T], the critic's value of every prefix, or None.
  """

  log_probs: jax.Array
  token_log_probs: jax.Array
  values: jax.Array | None


class Judgement(NamedTuple):
  """What is constant to the gradient.

  Attributes:
    target: [B], z-scores; of several targets [B, k].
    predictions: [B, G], z-scores, the numbers written; [B, G, k].
    rewards: [B, G].
    greedy_rewards: [B], of the greedy number.
    token_log_probs: [B, G, T], under the parameters that wrote them; as those
      of `Samples`, and so is the reference.
    num_updates: updates from this rollout; beyond one the ratio is clipped.
    reference: [B, G, T], log-probabilities under the reference, or None.
    best_tokens: int [B, G, T], the dense expert's advice, or None.
    values: [B, G, T], the critic's, before the update, or None.
    last_values: [B, G, V], the numbers that each last token would make, or
      None.
    text: a `policy.Text`, written before the numbers, or None.
    weight: [B], how much each row counts, or None.
    later: (rewards [B, G, k], greedy ones [B, k]) of each number and of those
      behind it, or None: every token is credited with all rewards.
  """

  target: jax.Array
  predictions: jax.Array
  rewards: jax.Array
  greedy_rewards: jax.Array
  token_log_probs: jax.Array
  num_updates: int = 1
  reference: jax.Array | None = None
  best_tokens: jax.Array | None = None
  values: jax.Array | None = None
  last_values: jax.Array | None = None
  text: Any = None
  weight: jax.Array | None = None
  later: tuple[jax.Array, jax.Array] | None = None


@dataclasses.dataclass(frozen=True)
class PolicyGradient:
  """−mean A · Σ_t log π_t (GenRe², arXiv 2512.06533), A from `ADVANTAGES`.

  Attributes:
    advantage: a name of `ADVANTAGES`.
    clip_low: see `clipped_loss`; beyond one update per rollout only.
    clip_high: likewise.
  """

  advantage: str
  clip_low: float = 0.2
  clip_high: float = 0.2

  @property
  def requires(self) -> Requirements:
    """The group that the advantage compares."""
    return Requirements(least_group=least_group(self.advantage))

  def __post_init__(self) -> None:
    for name in ('clip_low', 'clip_high'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} must not be negative')

  def __call__(
    self, samples: Samples, judgement: Judgement
  ) -> tuple[jax.Array, Metrics]:
    weight = judgement.weight
    log_probs = samples.token_log_probs
    if judgement.later is None:
      advantages = weighed(
        self.advantage, judgement.rewards, judgement.greedy_rewards, weight
      )
    else:
      advantages = self._of_numbers(*judgement.later, weight, log_probs)
    if judgement.num_updates == 1:
      return policy_gradient_loss(log_probs, advantages, weight), {}
    if judgement.later is None:
      advantages = advantages[..., None]
    loss, clipped = clipped_loss(
      log_probs,
      judgement.token_log_probs,
      advantages,
      self.clip_low,
      self.clip_high,
      weight,
    )
    return loss, {'clipped': clipped}

  def _of_numbers(
    self,
    rewards: jax.Array,
    greedy: jax.Array,
    weight: jax.Array | None,
    log_probs: jax.Array,
  ) -> jax.Array:
    """Each token's advantage, that of its number: [B, G, T]."""
    count = rewards.shape[-1]
    parts = [
      weighed(self.advantage, rewards[..., i], greedy[..., i], weight)
      for i in range(count)
    ]
    return jnp.repeat(jnp.stack(parts, -1), log_probs.shape[-1] // count, -1)


@dataclasses.dataclass(frozen=True)
class PPO:
  """Clipped surrogate with a learned value per prefix (arXiv 1707.06347).

  GAE (arXiv 1506.02438) with γ = 1 and one reward, at the end:
  δ_t = V_{t+1} − V_t, δ_{T−1} = r − V_{T−1}, A_t = Σ_k λ^k δ_{t+k}. The critic
  is a network like the policy; the value of a prefix is the mean of its logits.

  Attributes:
    gae_lambda: λ.
    clip: of the ratio, on both sides.
    value_weight: of ½ (V_t − A_t − V_t,old)².
    normalize: whether advantages are standardised over the batch.
  """

  gae_lambda: float = 0.95
  clip: float = 0.2
  value_weight: float = 0.5
  normalize: bool = True

  requires: ClassVar[Requirements] = Requirements(rollout=frozenset({'critic'}))

  def __post_init__(self) -> None:
    if not 0 <= self.gae_lambda <= 1:
      raise ValueError('gae_lambda must be in [0, 1]')
    if self.clip < 0 or self.value_weight < 0:
      raise ValueError('clip and value_weight must not be negative')

  def __call__(
    self, samples: Samples, judgement: Judgement
  ) -> tuple[jax.Array, Metrics]:
    values, old_values = _given(samples.values), _given(judgement.values)
    advantages = jax.lax.stop_gradient(
      generalized_advantages(judgement.rewards, old_values, self.gae_lambda)
    )
    returns = advantages + old_values
    weight = judgement.weight
    if self.normalize and weight is None:
      advantages -= jnp.mean(advantages)
      advantages /= jnp.std(advantages) + 1e-6
    elif self.normalize and weight is not None:
      # Of this batch, as if rows came as often as they weigh.
      share = weight / jnp.maximum(jnp.mean(weight), 1e-12)
      advantages -= mean(advantages, share)
      square = mean(jnp.square(advantages), share)
      advantages /= jnp.sqrt(square) + 1e-6
    loss, clipped = clipped_loss(
      samples.token_log_probs,
      judgement.token_log_probs,
      advantages,
      self.clip,
      self.clip,
      weight,
    )
    errors = jnp.square(values - jax.lax.stop_gradient(returns))
    value_loss = mean(errors, weight) / 2
    return loss + self.value_weight * value_loss, {
      'clipped': clipped,
      'value_loss': value_loss,
    }


def generalized_advantages(
  rewards: jax.Array, values: jax.Array, gae_lambda: float
) -> jax.Array:
  """GAE of an episode with a single reward at its end, γ = 1.

  Args:
    rewards: [...].
    values: [..., T], of the prefixes before each token.
    gae_lambda: λ; 0 is one step ahead, 1 is r − V_t.

  Returns:
    [..., T].
  """
  after = jnp.concatenate([values[..., 1:], rewards[..., None]], -1)
  deltas = after - values
  length = values.shape[-1]
  steps = jnp.arange(length)
  distance = steps[None, :] - steps[:, None]  # [t, t + k]
  weights = jnp.where(
    distance >= 0, gae_lambda ** jnp.maximum(distance, 0).astype(float), 0.0
  )
  return jnp.einsum('ts,...s->...t', weights, deltas)


@dataclasses.dataclass(frozen=True)
class DAR:
  """Policy gradient with each sample's credit in the CRPS of its set.

  A_i = (G − 1) · (CRPS(set without i) − CRPS(set)), of the fair score
  mean |x − y| − ΣΣ |x_i − x_j| / (2G(G−1)) (DAR, arXiv 2605.20740): a sample
  is worth what the set would lose without it, so samples keep apart as far as
  the data do. Of several targets |·| is the Euclidean norm over them: the
  energy score of the joint samples.
  """

  requires: ClassVar[Requirements] = Requirements(
    least_group=3, single_update=True, reads_reward=False
  )

  def __call__(
    self, samples: Samples, judgement: Judgement
  ) -> tuple[jax.Array, Metrics]:
    credit = leave_one_out_credit(judgement.predictions, judgement.target)
    loss = policy_gradient_loss(
      samples.token_log_probs, credit, judgement.weight
    )
    return loss, {}


def leave_one_out_credit(
  predictions: jax.Array, target: jax.Array
) -> jax.Array:
  """(G − 1) · (CRPS(set without i) − CRPS(set)): [B, G] of numbers [B, G].

  The target is [B]. Of several targets, [B, G, k] and [B, k], the score is the
  energy score (Gneiting & Raftery 2007).
  """
  group = predictions.shape[1]
  errors = predictions - target[:, None]
  apart = predictions[:, :, None] - predictions[:, None]
  length = jnp.abs if target.ndim == 1 else _norm
  errors = length(errors)
  apart = jnp.sum(length(apart), -1)  # [B, G]
  error, spread = (jnp.sum(x, -1, keepdims=True) for x in (errors, apart))
  whole = error / group - spread / (2 * group * (group - 1))
  without = (error - errors) / (group - 1)
  without -= (spread - 2 * apart) / (2 * (group - 1) * (group - 2))
  return (group - 1) * (without - whole)


def _norm(x: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.sum(jnp.square(x), -1))


@dataclasses.dataclass(frozen=True)
class REAL:
  """RAIL's error as reward, with its differentiable term (arXiv 2603.17145).

  The last token is not sampled but averaged out: m = Σ_v p(v | prefix) · value
  of prefix v, and the loss is mean (m − y)², differentiated directly through m
  and by RLOO's estimator through the prefix, which was sampled. With T = 1
  this is RAFT.
  """

  requires: ClassVar[Requirements] = Requirements(
    rollout=frozenset({'last_values'}),
    least_group=2,
    single_update=True,
    reads_reward=False,
    most_targets=1,
  )

  def __call__(
    self, samples: Samples, judgement: Judgement
  ) -> tuple[jax.Array, Metrics]:
    weights = jnp.exp(samples.log_probs[..., -1, :])  # [B, G, V]
    means = jnp.sum(weights * _given(judgement.last_values), -1)
    errors = jnp.square(means - judgement.target[:, None])
    advantages = ADVANTAGES['rloo'](
      jax.lax.stop_gradient(-errors), judgement.greedy_rewards
    )
    prefixes = samples.token_log_probs[..., :-1]
    weight = judgement.weight
    gain = policy_gradient_loss(prefixes, advantages, weight)
    return mean(errors, weight) + gain, {}


@dataclasses.dataclass(frozen=True)
class Expert:
  """The dense expert of GenRe² (ICML 2026): advice at every position.

  −mean_t log π(best token | prefix) on the policy's own rollouts, nats per
  token. After any prefix the best token is that of the number nearest the
  target that still can be written (`Tokenizer.best_tokens`).
  """

  requires: ClassVar[Requirements] = Requirements(
    rollout=frozenset({'best_tokens'}), reads_reward=False
  )

  def __call__(
    self, samples: Samples, judgement: Judgement
  ) -> tuple[jax.Array, Metrics]:
    index = _given(judgement.best_tokens)[..., None]
    advised = jnp.take_along_axis(samples.log_probs, index, -1)
    return -mean(advised, judgement.weight), {}


@dataclasses.dataclass(frozen=True)
class KL:
  """KL(π ‖ π_ref) per number, in nats, to the weights the stage starts from.

  Attributes:
    estimator: 'k1' (taken from the reward: as a loss its expected gradient is
      zero), 'k2' or 'k3'.
  """

  estimator: str = 'k3'

  requires: ClassVar[Requirements] = Requirements(
    rollout=frozenset({'reference'}), reads_reward=False, moves_alone=False
  )

  def __post_init__(self) -> None:
    if self.estimator not in KL_ESTIMATORS:
      raise ValueError(f'estimator must be one of {", ".join(KL_ESTIMATORS)}')

  @property
  def in_reward(self) -> bool:
    """Whether the weighted divergence is taken from the reward."""
    return self.estimator == 'k1'

  def __call__(
    self, samples: Samples, judgement: Judgement
  ) -> tuple[jax.Array, Metrics]:
    if self.in_reward:
      return jnp.zeros(()), {}
    divergence = kl_estimate(
      samples.token_log_probs, _given(judgement.reference), self.estimator
    )
    return mean(jnp.sum(divergence, -1), judgement.weight), {}


def _given(array: jax.Array | None) -> jax.Array:
  """What the loss requires of the rollout, and therefore is there."""
  assert array is not None
  return array
