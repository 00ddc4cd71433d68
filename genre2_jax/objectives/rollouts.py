"""Numbers that the policy writes itself: sampled, judged, and their losses.

`roll_out` samples and judges, without gradient; `sequence_losses` scores the
numbers once more, where gradients go through.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.data.batches import Examples
from genre2_jax.objectives.means import mean
from genre2_jax.objectives.non_finite import stand_ins
from genre2_jax.objectives.objective import Objective, StageParams
from genre2_jax.objectives.policy_gradient import kl_estimate
from genre2_jax.objectives.rewards import REWARDS, Reward, summed
from genre2_jax.objectives.sequence import Judgement, Metrics, Samples
from genre2_jax.policy import Policy, Text, grammatical, in_one_pass
from genre2_jax.policy.sampling import sample, without_greedy
from genre2_jax.policy.scoring import Rollout, logits_along, score
from genre2_jax.tokenizers.codec import Codec


def roll_out(
  params: StageParams,
  reference: StageParams | None,
  batch: Examples,
  keys: jax.Array,
  *,
  policy: Policy,
  codec: Codec,
  objective: Objective,
) -> tuple[jax.Array, Judgement, Metrics]:
  """Samples groups of numbers and judges them, without gradient.

  Args:
    params: that write.
    reference: parameters of the KL term, or None.
    batch: `Examples` of B rows.
    keys: [B].
    policy: a `Policy`.
    codec: between tokens and z-scores.
    objective: an `Objective`.

  Returns:
    (tokens [B, G, T], `Judgement`, metrics).
  """
  samples, greedy_tokens = without_greedy(
    written(params, batch, keys, policy, objective)
  )
  reference_log_probs = critic_values = None
  if reference is not None:
    reference_log_probs = _score(
      reference, batch, samples.tokens, policy, objective, samples.text
    ).token_log_probs
  if 'critic' in objective.needs:
    critic_values = _critic_values(params, batch, samples.tokens, policy)
  judgement, metrics = judge(
    samples,
    greedy_tokens,
    reference_log_probs,
    critic_values,
    batch,
    codec,
    objective,
  )
  return samples.tokens, judgement, metrics


def written(
  params: StageParams,
  batch: Examples,
  keys: jax.Array,
  policy: Policy,
  objective: Objective,
) -> Rollout:
  """G numbers that a policy writes for each row, and the greedy one behind.

  Args:
    params: of one seed.
    batch: `Examples` of B rows.
    keys: [B].
    policy: a `Policy`.
    objective: an `Objective`.
  """
  return sample(
    policy,
    params['policy'],
    policy.encode(params['policy'], batch.inputs),
    keys,
    num_samples=objective.rollouts.group_size,
    temperature=objective.rollouts.temperature,
    greedy=True,
  )


def judge(
  samples: Rollout,
  greedy_tokens: jax.Array,
  reference: jax.Array | None,
  critic_values: jax.Array | None,
  batch: Examples,
  codec: Codec,
  objective: Objective,
) -> tuple[Judgement, Metrics]:
  """What the losses need to know of a rollout.

  Args:
    samples: of B rows, G numbers each.
    greedy_tokens: int [B, T].
    reference: log-probabilities under the reference [B, G, T], or None.
    critic_values: [B, G, T], or None.
    batch: `Examples` of B rows.
    codec: between tokens and z-scores.
    objective: an `Objective`.

  Returns:
    (`Judgement`, metrics).
  """
  log_probs = samples.token_log_probs()  # [B, G, T], of text too
  tokens = jnp.concatenate([samples.tokens, greedy_tokens[:, None]], axis=1)
  scores, predictions, target = rewarded(
    REWARDS[objective.rollouts.reward], tokens, batch.target, codec
  )
  given, greedy = scores[:, :-1], scores[:, -1]
  weight = batch.weight
  kl: jax.Array = jnp.zeros(())
  penalty: jax.Array | float = 0.0
  if reference is not None:
    divergence = jnp.sum(kl_estimate(log_probs, reference, 'k1'), -1)
    kl = mean(divergence, weight)
    for term in objective.at('sequence'):
      if term.in_reward:
        penalty += term.weight * jnp.sum(log_probs - reference, -1)
  best_tokens = last_values = None
  if 'best_tokens' in objective.needs:
    best_tokens = codec.tokenizer.best_tokens(
      samples.tokens, batch.tokens[:, None]
    )
  if 'last_values' in objective.needs:
    last_values = _last_values(samples.tokens, codec)
    if codec.tokenizer.num_special:
      last_values, _ = stand_ins(last_values, batch.target, codec.span)
  flat = jnp.max(given, -1) == jnp.min(given, -1)
  metrics = {
    'reward': mean(given, weight),
    'greedy_reward': mean(greedy, weight),
    'reward_std': mean(jnp.std(given, -1), weight),
    'flat_groups': mean(flat.astype(jnp.float32), weight),
    'entropy': mean(samples.entropy(), weight),
    'kl': kl,
    'clipped': jnp.zeros(()),
  }
  judgement = Judgement(
    target=target,
    predictions=predictions[:, :-1],
    rewards=given - penalty,
    greedy_rewards=greedy,
    token_log_probs=log_probs,
    num_updates=objective.rollouts.num_updates,
    reference=reference,
    best_tokens=best_tokens,
    values=critic_values,
    last_values=last_values,
    text=samples.text,
    weight=weight,
    later=_later(predictions, penalty, batch, objective),
  )
  return judgement, metrics


def rewarded(
  reward: Reward, tokens: jax.Array, target: jax.Array, codec: Codec
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Rewards of written numbers, and what they were computed of.

  Args:
    reward: of one number.
    tokens: int [B, R, T].
    target: [B], z-scores, of several targets [B, k].
    codec: between tokens and z-scores.

  Returns:
    (rewards [B, R], numbers [B, R] or [B, R, k], targets): z-scores, with
    `stand_ins` for what is no number.
  """
  predictions = codec.decode(tokens)
  if codec.tokenizer.num_special:
    predictions, target = stand_ins(predictions, target, codec.span)
  scores = summed(reward, predictions, target[:, None], len(codec.parts))
  return scores, predictions, target


def _later(predictions, penalty, batch, objective):
  """`Judgement.later` of numbers [B, G + 1, k], the greedy ones last."""
  if objective.rollouts.credit == 'all' or predictions.ndim < 3:
    return None
  reward = REWARDS[objective.rollouts.reward]
  own = [
    reward(predictions[..., i], batch.target[:, None, i])
    for i in range(predictions.shape[-1])
  ]
  later = jnp.cumsum(jnp.stack(own[::-1], -1), -1)[..., ::-1]
  penalty = jnp.asarray(penalty)[..., None]
  return later[:, :-1] - penalty, later[:, -1]


def sequence_losses(
  params: StageParams,
  batch: Examples,
  tokens: jax.Array,
  judgement: Judgement,
  *,
  policy: Policy,
  objective: Objective,
) -> tuple[dict[str, jax.Array], Metrics]:
  """Losses of numbers [B, G, T] already judged: ({name: scalar}, metrics)."""
  samples = _score(params, batch, tokens, policy, objective, judgement.text)
  if 'critic' in objective.needs:
    values = _critic_values(params, batch, tokens, policy)
    samples = samples._replace(values=values)
  return judged_losses(samples, judgement, objective)


def judged_losses(
  samples: Samples, judgement: Judgement, objective: Objective
) -> tuple[dict[str, jax.Array], Metrics]:
  """`sequence_losses` of `Samples`."""
  losses: dict[str, jax.Array] = {}
  metrics: Metrics = {}
  for term in objective.at('sequence'):
    losses[term.name], more = term.loss(samples, judgement)
    metrics |= more
  return losses, metrics


def _score(
  params: StageParams,
  batch: Examples,
  tokens: jax.Array,
  policy: Policy,
  objective: Objective,
  text: Text | None = None,
) -> Samples:
  """`Samples` of tokens, without the critic's values."""
  policy = in_one_pass(policy)
  context = policy.encode(params['policy'], batch.inputs)
  rollout = score(
    policy,
    params['policy'],
    context,
    tokens,
    objective.rollouts.temperature,
    text=text,
  )
  return Samples(rollout.log_probs, rollout.token_log_probs(), None)


def _critic_values(
  params: StageParams, batch: Examples, tokens: jax.Array, policy: Policy
) -> jax.Array:
  """The critic's value of every prefix of the numbers: [B, G, T]."""
  policy = in_one_pass(policy)
  context = policy.encode(params['critic'], batch.inputs)
  logits = logits_along(policy, params['critic'], context, tokens)
  logits = grammatical(policy, logits)
  allowed = jnp.asarray(policy.tokenizer.allowed)
  return jnp.mean(logits, axis=-1, where=allowed)


def _last_values(tokens: jax.Array, codec: Codec) -> jax.Array:
  """The numbers that each last token would make of [B, G, T]: [B, G, V]."""
  choices = np.flatnonzero(codec.tokenizer.allowed[-1])
  rows = jnp.repeat(tokens[..., None, :], len(choices), axis=-2)
  rows = rows.at[..., -1].set(jnp.asarray(choices, tokens.dtype))
  values = jnp.zeros((*tokens.shape[:-1], codec.tokenizer.vocab_size))
  return values.at[..., choices].set(codec.decode(rows))
