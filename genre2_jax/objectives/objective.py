"""What a stage minimises: a weighted sum of objectives, at any level.

Token level looks at the target's tokens under teacher forcing, grid level at
log p of many numbers at once, sequence level at numbers that the policy wrote,
point level at a regression head. `supervised` gives the first two and the
last, for training and validation alike; `roll_out` and `sequence_losses` the
third. Parameters are a dict: 'policy', and with some objectives 'critic' or
'numbers'.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.objectives import rewards
from genre2_jax.objectives.catalog import Term
from genre2_jax.objectives.policy_gradient import kl_estimate
from genre2_jax.objectives.sequence import Judgement, Samples
from genre2_jax.policy import grammatical, sampling, teacher_forced, trie

_ROLLOUT_METRICS = (
  'reward',  # mean of the samples
  'greedy_reward',
  'reward_std',  # within a group
  'flat_groups',  # share of groups without spread: no gradient from them
  'entropy',  # nats per number
  'kl',  # nats per number, to the reference
  'clipped',  # share of tokens that the clip cuts off
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollouts:
  """How numbers are sampled for the sequence level.

  Attributes:
    group_size: G, samples per input.
    temperature: of sampling; log-probabilities are taken at it too.
    reward: a name of `REWARDS`.
    num_updates: updates per rollout.
  """

  group_size: int = 16
  temperature: float = 1.0
  reward: str = 'squared'
  num_updates: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enumeration:
  """Which numbers stand for the whole distribution at the grid level.

  Every prefix of `depth` tokens, each continued `samples` times. With depth T
  that is the whole trie, exactly; with depth 0 it is `samples` samples.
  Continuations carry the weight p(prefix) / samples, whose gradient has the
  score-function term of what was sampled (Foerster et al. 2018, DiCE);
  normalising the weights changes no value and centres that term.
  """

  depth: int
  samples: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """A weighted sum of `Term`s, with what they share.

  Attributes:
    terms: the parts.
    rollouts: of the sequence level.
    enumeration: of the grid level.
    dropout: whether the networks drop out at token, grid and point level;
      never while sampling and scoring samples.
  """

  terms: tuple[Term, ...]
  rollouts: Rollouts = Rollouts()
  enumeration: Enumeration = Enumeration(depth=0, samples=16)
  dropout: bool = False

  def at(self, level):
    """The terms of a level."""
    return [term for term in self.terms if term.level == level]

  @property
  def is_sequence(self):
    """Whether the policy's own numbers are looked at."""
    return bool(self.at('sequence'))

  @property
  def needs(self):
    """What the sequence level wants of `roll_out`."""
    return frozenset().union(*(t.loss.needs for t in self.at('sequence')))

  @property
  def name(self):
    """'ce', 'remax_expert', ...: in files and tables."""
    return '_'.join(term.name for term in self.terms)

  @property
  def num_updates(self):
    """Updates per batch."""
    return self.rollouts.num_updates if self.is_sequence else 1

  @property
  def metrics(self):
    """Names of what a training step says."""
    names = ['loss', 'grad_norm', *(term.name for term in self.terms)]
    if self.is_sequence:
      names += [n for n in _ROLLOUT_METRICS if n not in names]
    if 'critic' in self.needs:
      names.append('value_loss')
    return tuple(names)


def init_params(key, inputs, *, network, codec, objective, start=None):
  """Parameters of a stage: the network's and what its objectives add.

  Args:
    key: a PRNG key.
    inputs: of one row.
    network: a `Policy` or a `Pointwise`.
    codec: between tokens and z-scores.
    objective: an `Objective`.
    start: the network's parameters, if they are not to be drawn.

  Returns:
    A dict, boxed with logical axis names where it was drawn.
  """
  policy_key, critic_key = jax.random.split(key)
  if start is None:
    start = network.init(policy_key, inputs)
  params = {'policy': start}
  if 'critic' in objective.needs:
    params['critic'] = network.init(critic_key, inputs)
  if any(term.learnable for term in objective.terms):
    params['numbers'] = jnp.asarray(codec.values(), jnp.float32)
  return params


def enumerate_numbers(policy, codec, params, context, keys, enumeration):
  """The grid of an `Enumeration`: (log weights [B, R], z-scores).

  Of an open policy the whole trie has p as it is, shared with other tokens, as
  RAFT is published: a term that normalises takes p on the grid. What is
  sampled is distributed over the grammar in any case.

  Args:
    policy: a `Policy`.
    codec: between tokens and z-scores.
    params: the policy's.
    context: what `policy.encode` gave.
    keys: [B], for what is sampled.
    enumeration: an `Enumeration`.

  Returns:
    Log weights, whose weights sum to one but for the whole trie of an open
    policy, and the numbers: numpy [K] of a whole trie,
    [B, R] otherwise.
  """
  tokenizer = policy.tokenizer
  if enumeration.depth == tokenizer.num_tokens:
    log_p = trie.log_probs(policy, params, context, normalized=False)
    return log_p, codec.values().astype(np.float32)
  prefixes = trie.sequences(tokenizer, enumeration.depth)
  prefixes = np.repeat(prefixes, enumeration.samples, axis=0)
  tokens = sampling.sample(
    policy,
    jax.lax.stop_gradient(params),
    jax.lax.stop_gradient(context),
    keys,
    num_samples=len(prefixes),
    prefixes=prefixes,
  ).tokens
  scored = sampling.score(policy, params, context, tokens).token_log_probs()
  prefix = jnp.sum(scored[..., : enumeration.depth], -1)
  tail = jnp.sum(scored[..., enumeration.depth :], -1)
  weights = prefix + tail - jax.lax.stop_gradient(tail)  # [B, R]
  return jax.nn.log_softmax(weights), codec.decode(tokens)


def subset_numbers(policy, codec, params, context, size):
  """Log p [B, R] of evenly spaced numbers, and their z-scores [R]."""
  tokens = codec.encode(np.linspace(codec.low, codec.high, size))
  tokens = np.unique(tokens, axis=0)
  batch = len(jax.tree.leaves(context)[0])
  rows = jnp.broadcast_to(tokens, (batch, *tokens.shape))
  scored = sampling.score(policy, params, context, rows, normalized=False)
  values = codec.decode(tokens).astype(np.float32)
  return jnp.sum(scored.token_log_probs(), -1), values


def supervised(
  params, batch, keys, *, network, codec, objective, dropout_key=None
):
  """Losses of the token, grid and point level, row by row.

  Args:
    params: a dict, as `init_params` gives it.
    batch: `Examples` of B rows.
    keys: [B], for numbers that are sampled at the grid level.
    network: a `Policy` or a `Pointwise`.
    codec: between tokens and z-scores.
    objective: an `Objective`.
    dropout_key: None for no dropout.

  Returns:
    {name of a term: [B]}, not weighted.
  """
  encode_key = decode_key = None
  if dropout_key is not None:
    encode_key, decode_key = jax.random.split(dropout_key)
  own = params['policy']
  losses = {}
  if objective.at('point'):
    predictions = network.predict(own, batch.inputs, encode_key)
    for term in objective.at('point'):
      losses[term.name] = term.loss(predictions, batch.target)
    return losses
  if not (objective.at('token') or objective.at('grid')):
    return losses
  context = network.encode(own, batch.inputs, encode_key)
  if objective.at('token'):
    logits = teacher_forced(network, own, context, batch.tokens, decode_key)
    for term in objective.at('token'):
      losses[term.name] = term.loss(
        logits, batch.tokens, batch.target, network.tokenizer
      )
  grids = {}
  for term in objective.at('grid'):
    if term.subset not in grids:
      grids[term.subset] = (
        subset_numbers(network, codec, own, context, term.subset)
        if term.subset
        else enumerate_numbers(
          network, codec, own, context, keys, objective.enumeration
        )
      )
    log_p, values = grids[term.subset]
    more = {'weights': params['numbers']} if term.learnable else {}
    losses[term.name] = term.loss(log_p, values, batch.target, **more)
  return losses


def total(losses, objective):
  """Σ weight · mean of a term, over the terms in `losses`."""
  return sum(
    term.weight * jnp.mean(losses[term.name])
    for term in objective.terms
    if term.name in losses
  )


def roll_out(params, reference, batch, keys, *, policy, codec, objective):
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
  rollouts = objective.rollouts
  samples, greedy_tokens = sampling.without_greedy(
    sampling.sample(
      policy,
      params['policy'],
      policy.encode(params['policy'], batch.inputs),
      keys,
      num_samples=rollouts.group_size,
      temperature=rollouts.temperature,
      greedy=True,
    )
  )
  if reference is not None:
    reference = _score(reference, batch, samples.tokens, policy, objective)
    reference = reference.token_log_probs
  critic_values = None
  if 'critic' in objective.needs:
    critic_values = _critic_values(params, batch, samples.tokens, policy)
  return samples.tokens, *judge(
    samples, greedy_tokens, reference, critic_values, batch, codec, objective
  )


def judge(
  samples, greedy_tokens, reference, critic_values, batch, codec, objective
):
  """What the losses need to know of a rollout: (`Judgement`, metrics)."""
  log_probs = samples.token_log_probs()  # [B, G, T]
  tokens = jnp.concatenate([samples.tokens, greedy_tokens[:, None]], axis=1)
  predictions = codec.decode(tokens)  # [B, G + 1]
  scores = rewards.REWARDS[objective.rollouts.reward](
    predictions, batch.target[:, None]
  )
  given, greedy = scores[:, :-1], scores[:, -1]
  kl, penalty = jnp.zeros(()), 0.0
  if reference is not None:
    kl = jnp.mean(jnp.sum(kl_estimate(log_probs, reference, 'k1'), -1))
    for term in objective.at('sequence'):
      if getattr(term.loss, 'in_reward', False):
        penalty += term.weight * jnp.sum(log_probs - reference, -1)
  best_tokens = last_values = None
  if 'best_tokens' in objective.needs:
    best_tokens = codec.tokenizer.best_tokens(
      samples.tokens, batch.tokens[:, None]
    )
  if 'last_values' in objective.needs:
    last_values = _last_values(samples.tokens, codec)
  flat = jnp.max(given, -1) == jnp.min(given, -1)
  metrics = {
    'reward': jnp.mean(given),
    'greedy_reward': jnp.mean(greedy),
    'reward_std': jnp.mean(jnp.std(given, -1)),
    'flat_groups': jnp.mean(flat.astype(jnp.float32)),
    'entropy': jnp.mean(samples.entropy()),
    'kl': kl,
    'clipped': jnp.zeros(()),
  }
  judgement = Judgement(
    target=batch.target,
    predictions=predictions[:, :-1],
    rewards=given - penalty,
    greedy_rewards=greedy,
    token_log_probs=log_probs,
    num_updates=objective.rollouts.num_updates,
    reference=reference,
    best_tokens=best_tokens,
    values=critic_values,
    last_values=last_values,
  )
  return judgement, metrics


def sequence_losses(params, batch, tokens, judgement, *, policy, objective):
  """Losses of numbers already judged: ({name: scalar}, metrics)."""
  samples = _score(params, batch, tokens, policy, objective)
  if 'critic' in objective.needs:
    values = _critic_values(params, batch, tokens, policy)
    samples = samples._replace(values=values)
  return judged_losses(samples, judgement, objective)


def judged_losses(samples, judgement, objective):
  """`sequence_losses` of `Samples`."""
  losses, metrics = {}, {}
  for term in objective.at('sequence'):
    losses[term.name], more = term.loss(samples, judgement)
    metrics |= more
  return losses, metrics


def _score(params, batch, tokens, policy, objective):
  """`Samples` of tokens, without the critic's values."""
  context = policy.encode(params['policy'], batch.inputs)
  rollout = sampling.score(
    policy, params['policy'], context, tokens, objective.rollouts.temperature
  )
  return Samples(rollout.log_probs, rollout.token_log_probs(), None)


def _critic_values(params, batch, tokens, policy):
  """The critic's value of every prefix of the numbers: [B, G, T]."""
  context = policy.encode(params['critic'], batch.inputs)
  logits = sampling.logits_along(policy, params['critic'], context, tokens)
  logits = grammatical(policy, logits)
  allowed = jnp.asarray(policy.tokenizer.allowed)
  return jnp.mean(logits, axis=-1, where=allowed)


def _last_values(tokens, codec):
  """The numbers that each last token would make of [B, G, T]: [B, G, V]."""
  choices = np.flatnonzero(codec.tokenizer.allowed[-1])
  rows = jnp.repeat(tokens[..., None, :], len(choices), axis=-2)
  rows = rows.at[..., -1].set(jnp.asarray(choices, tokens.dtype))
  values = jnp.zeros((*tokens.shape[:-1], codec.tokenizer.vocab_size))
  return values.at[..., choices].set(codec.decode(rows))
