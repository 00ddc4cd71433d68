"""The training steps: pure functions (state, batch) -> state.

Each is one XLA program. A reinforcement-learning step encodes the batch,
samples the groups, reads the numbers, rewards them, takes the gradient and
updates, and never leaves the device.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from genre2_jax import sampling
from genre2_jax.objectives.advantages import ADVANTAGES
from genre2_jax.objectives.expert import expert_loss
from genre2_jax.objectives.policy_gradient import (
  clipped_loss,
  kl_estimate,
  policy_gradient_loss,
)
from genre2_jax.objectives.rewards import REWARDS
from genre2_jax.objectives.token import cross_entropy
from genre2_jax.policy import teacher_forced

CE_METRICS = ('loss', 'grad_norm')
RL_METRICS = (
  'loss',
  'grad_norm',
  'reward',  # mean of the samples
  'greedy_reward',
  'reward_std',  # within a group
  'flat_groups',  # share of groups without spread: no gradient from them
  'entropy',  # nats per number
  'expert',  # nats per token
  'kl',  # nats per number, to the reference
  'clipped',  # share of tokens that the clip cuts off
)


@dataclasses.dataclass(frozen=True)
class SequenceObjective:
  """Reinforcement learning on whole numbers (GenRe², arXiv 2512.06533).

  loss = policy gradient + expert_weight · expert + kl_weight · KL.

  Attributes:
    advantage: a name of `ADVANTAGES`.
    reward: a name of `REWARDS`.
    group_size: G, samples per input.
    temperature: of sampling; log-probabilities are taken at it too.
    num_updates: updates per rollout; beyond one the ratio is clipped.
    clip_low: see `clipped_loss`.
    clip_high: see `clipped_loss`.
    kl_weight: 0 keeps no reference.
    kl_estimator: k1 is taken from the reward, k2 and k3 join the loss.
    expert_weight: of the dense expert's cross-entropy.
  """

  advantage: str = 'remax'
  reward: str = 'squared'
  group_size: int = 16
  temperature: float = 1.0
  num_updates: int = 1
  clip_low: float = 0.2
  clip_high: float = 0.2
  kl_weight: float = 0.0
  kl_estimator: str = 'k3'
  expert_weight: float = 0.0


def ce_step(state, batch, *, policy, optimizer):
  """One step of cross-entropy under teacher forcing, with dropout.

  Args:
    state: a `TrainState`.
    batch: `Examples` of B rows.
    policy: a `Policy`.
    optimizer: an optax transformation.

  Returns:
    The next state, `CE_METRICS` added to its totals.
  """
  encode_key, decode_key = jax.random.split(_step_key(state))

  def loss_fn(params):
    context = policy.encode(params, batch.inputs, encode_key)
    logits = teacher_forced(policy, params, context, batch.tokens, decode_key)
    return jnp.mean(jax.vmap(cross_entropy)(logits, batch.tokens)), {}

  return _finished(*_updated(state, loss_fn, optimizer))


def rl_step(state, batch, *, policy, codec, optimizer, objective):
  """One rollout and the updates from it, without dropout.

  Sampling goes level by level with a cache and keeps nothing for a gradient;
  what was sampled is then scored in one pass over its distinct prefixes, and
  that pass is differentiated, once per update.

  Args:
    state: a `TrainState`.
    batch: `Examples` of B rows.
    policy: a `Policy`.
    codec: between tokens and z-scores.
    optimizer: an optax transformation.
    objective: a `SequenceObjective`.

  Returns:
    The next state, `RL_METRICS` added to its totals.
  """
  samples, greedy_tokens = sampling.without_greedy(
    sampling.sample(
      policy,
      state.params,
      policy.encode(state.params, batch.inputs),
      jax.random.split(_step_key(state), batch.target.shape[0]),
      num_samples=objective.group_size,
      temperature=objective.temperature,
      greedy=True,
    )
  )

  def score(params):
    context = policy.encode(params, batch.inputs)
    return sampling.score(
      policy, params, context, samples.tokens, objective.temperature
    )

  reference = None
  if state.reference is not None:
    reference = score(state.reference).token_log_probs()
  judgement, metrics = _judge(
    samples, greedy_tokens, reference, batch, codec, objective
  )

  def loss_fn(params):
    return _sequence_loss(score(params), judgement, objective)

  def update(state, _):
    return _updated(state, loss_fn, optimizer)

  if objective.num_updates == 1:
    state, more = update(state, None)
  else:
    state, more = jax.lax.scan(update, state, length=objective.num_updates)
    more = jax.tree.map(jnp.mean, more)
  return _finished(state, metrics | more)


def _step_key(state):
  return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def _judge(samples, greedy_tokens, reference, batch, codec, objective):
  """What the loss needs to know of a rollout: (judgement, metrics)."""
  log_probs = samples.token_log_probs()  # [B, G, T]
  reward_fn = REWARDS[objective.reward]
  rewards = reward_fn(codec.decode(samples.tokens), batch.target[:, None])
  greedy_rewards = reward_fn(codec.decode(greedy_tokens), batch.target)
  penalty, kl = 0.0, jnp.zeros(())
  if reference is not None:
    kl = jnp.mean(jnp.sum(kl_estimate(log_probs, reference, 'k1'), -1))
    if objective.kl_estimator == 'k1':
      penalty = objective.kl_weight * jnp.sum(log_probs - reference, -1)
  judgement = {
    'advantages': ADVANTAGES[objective.advantage](
      rewards - penalty, greedy_rewards
    ),
    'old_log_probs': log_probs,
    'reference': reference,
    'best_tokens': None,
  }
  if objective.expert_weight:
    judgement['best_tokens'] = codec.tokenizer.best_tokens(
      samples.tokens, batch.tokens[:, None]
    )
  flat = jnp.max(rewards, -1) == jnp.min(rewards, -1)
  metrics = {
    'reward': jnp.mean(rewards),
    'greedy_reward': jnp.mean(greedy_rewards),
    'reward_std': jnp.mean(jnp.std(rewards, -1)),
    'flat_groups': jnp.mean(flat.astype(jnp.float32)),
    'entropy': jnp.mean(samples.entropy()),
    'kl': kl,
  }
  return judgement, metrics


def _sequence_loss(samples, judgement, objective):
  """The loss of numbers already judged, as a function of their log p."""
  log_probs = samples.token_log_probs()
  expert, clipped = jnp.zeros(()), jnp.zeros(())
  if objective.num_updates == 1:
    loss = policy_gradient_loss(log_probs, judgement['advantages'])
  else:
    loss, clipped = clipped_loss(
      log_probs,
      judgement['old_log_probs'],
      judgement['advantages'],
      objective.clip_low,
      objective.clip_high,
    )
  if objective.expert_weight:
    expert = expert_loss(samples.log_probs, judgement['best_tokens'])
    loss += objective.expert_weight * expert
  if judgement['reference'] is not None and objective.kl_estimator != 'k1':
    kl = kl_estimate(log_probs, judgement['reference'], objective.kl_estimator)
    loss += objective.kl_weight * jnp.mean(jnp.sum(kl, -1))
  return loss, {'expert': expert, 'clipped': clipped}


def _updated(state, loss_fn, optimizer):
  """One gradient and one update."""
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  (loss, metrics), grads = grad_fn(state.params)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics |= {'loss': loss, 'grad_norm': optax.tree.norm(grads)}
  return dataclasses.replace(state, params=params, opt_state=opt_state), metrics


def _finished(state, metrics):
  """Counts the step, adds its metrics, notes the first that is not finite."""
  finite = jnp.array(True)
  for x in jax.tree.leaves((metrics['loss'], state.params)):
    finite &= jnp.all(jnp.isfinite(x))
  first = (state.bad_step < 0) & ~finite
  return dataclasses.replace(
    state,
    step=state.step + 1,
    totals=jax.tree.map(jnp.add, state.totals, metrics),
    bad_step=jnp.where(first, state.step, state.bad_step),
  )
