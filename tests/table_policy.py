"""A policy that is a table of logits; exact expectations over its groups."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from genre2_jax.data.batches import Examples
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import (
  Objective,
  Rollouts,
  supervised,
  total,
)
from genre2_jax.objectives.rollouts import judge, sequence_losses
from genre2_jax.policy import Policy, scoring


def _ignore(*_):
  """What `on_encode` and `on_decode` do by default: nothing."""


@functools.cache
def table_policy(tokenizer, on_encode=_ignore, on_decode=_ignore):
  """A policy that looks its logits up: params [prefixes, V], context [B].

  A prefix is numbered as in a heap with V children per node, from the tokens
  of the nodes that it is told to see; an input, a number, scales the logits.

  Args:
    tokenizer: the numbers' grammar.
    on_encode: called, with nothing, whenever `encode` is traced.
    on_decode: called whenever `decode` is, with the number of its nodes.
  """
  allowed, V = tokenizer.allowed, tokenizer.vocab_size

  def init(key, inputs):
    return jax.random.normal(key, random_table(tokenizer).shape)

  def encode(params, inputs, dropout_key=None):
    on_encode()
    return inputs

  def decode(params, context, tokens, positions, visible, cache=None, **_):
    on_decode(tokens[0].size)
    places = jnp.broadcast_to(positions, tokens.shape)
    if cache is not None:
      tokens = jnp.concatenate([cache[0], tokens], axis=2)
      places = jnp.concatenate([cache[1], places], axis=2)
    distance = positions[:, None] - places[:, :, None]  # [B, U, Q, N + Q]
    weight = jnp.where(places > 0, 1, 0)[:, :, None]
    weight *= V ** jnp.maximum(distance, 0)
    code = jnp.sum(visible * weight * (tokens[:, :, None] + 1), -1)
    logits = context[:, None, None, None] * jnp.asarray(params)[code]
    return jnp.where(allowed[positions], logits, -1e9), (tokens, places)

  return Policy(tokenizer, init, encode, decode)


def random_table(tokenizer, seed=0):
  """Standard normal logits of every prefix: float32 [prefixes, V]."""
  V = tokenizer.vocab_size
  num_prefixes = sum(V**t for t in range(tokenizer.num_tokens))
  rng = np.random.default_rng(seed)
  return rng.normal(size=(num_prefixes, V)).astype(np.float32)


def sequences(tokenizer):
  """Every sequence of the grammar: int32 [K, T]."""
  choices = [np.flatnonzero(row) for row in tokenizer.allowed]
  return np.array(list(itertools.product(*choices)), np.int32)


def log_probs(tokenizer, table, scales, temperature=1.0):
  """log p of every number, read from the table: [B, K], differentiable."""
  tokens = sequences(tokenizer)
  code, found = np.zeros(len(tokens), int), 0.0
  for t in range(tokenizer.num_tokens):
    logits = jnp.asarray(scales)[:, None, None] * jnp.asarray(table)[code]
    logits = jnp.where(tokenizer.allowed[t], logits / temperature, -1e9)
    log_p = jax.nn.log_softmax(logits)  # [B, K, V]
    found += log_p[:, np.arange(len(tokens)), tokens[:, t]]
    code = code * tokenizer.vocab_size + tokens[:, t] + 1
  return found


def brute_force(tokenizer, table, scale, tokens, temperature=1.0):
  """log p of every token at every position of tokens [K, T]: [K, T, V]."""
  V = tokenizer.vocab_size
  code = np.zeros(len(tokens), int)
  log_probs = []
  for t in range(tokenizer.num_tokens):
    logits = np.float64(scale) * table[code] / temperature
    logits = np.where(tokenizer.allowed[t], logits, -np.inf)
    log_probs.append(special.log_softmax(logits, axis=-1))
    code = code * V + tokens[:, t] + 1
  return np.stack(log_probs, 1)


def greedy_numbers(tokenizer, table, scales):
  """The likeliest token at every position: int32 [B, T]."""
  code, found = jnp.zeros(len(scales), int), []
  for allowed in tokenizer.allowed:
    logits = jnp.asarray(scales)[:, None] * jnp.asarray(table)[code]
    found.append(jnp.argmax(jnp.where(allowed, logits, -1e9), -1))
    code = code * tokenizer.vocab_size + found[-1] + 1
  return jnp.stack(found, -1).astype(jnp.int32)


def batch_of(codec, scales, targets):
  """`Examples` with scales for inputs, and targets in z."""
  targets = np.array(targets, np.float32)
  return Examples(
    inputs=jnp.array(scales, jnp.float32),
    target=jnp.asarray(targets),
    tokens=jnp.asarray(codec.encode(targets)),
  )


def objective_of(*terms, dropout=False, **rollouts):
  """An `Objective` of (name, weight, options) or lone names."""
  parts = [(t,) if isinstance(t, str) else t for t in terms]
  return Objective(
    terms=tuple(build_term(*part) for part in parts),
    rollouts=Rollouts(**{'group_size': 2, **rollouts}),
    dropout=dropout,
  )


def loss_of(
  objective, batch, tokens, params, *, codec, reference=None, at=None
):
  """The loss that `train_step` would see had it written tokens [B, G, T].

  Args:
    objective: an `Objective`.
    batch: `Examples`.
    tokens: written, and judged, under the parameters `at`.
    params: to differentiate.
    codec: between tokens and z-scores.
    reference: parameters of the KL term.
    at: by default the same as `params`.

  Returns:
    (loss, metrics).
  """
  at = params if at is None else at
  policy = table_policy(codec.tokenizer)
  temperature = objective.rollouts.temperature

  def score(params):
    return scoring.score(
      policy, params['policy'], batch.inputs, tokens, temperature
    )

  losses = supervised(
    params, batch, None, network=policy, codec=codec, objective=objective
  )
  metrics = {}
  if objective.is_sequence:
    values = None
    if 'critic' in objective.needs:
      logits = scoring.logits_along(policy, at['critic'], batch.inputs, tokens)
      values = jnp.mean(logits, -1, where=codec.tokenizer.allowed)
    judgement, metrics = judge(
      score(at),
      greedy_numbers(codec.tokenizer, at['policy'], batch.inputs),
      None if reference is None else score(reference).token_log_probs(),
      values,
      batch,
      codec,
      objective,
    )
    divergence = metrics['kl']
    written, more = sequence_losses(
      params, batch, tokens, judgement, policy=policy, objective=objective
    )
    losses |= written
    metrics |= more
  metrics |= {name: jnp.mean(x) for name, x in losses.items()}
  if objective.is_sequence:
    metrics['kl'] = divergence
  return total(losses, objective), metrics


def expected_gradient(
  objective, batch, params, *, codec, reference=None, each=False
):
  """E ∇ loss over every way to fill the groups of a batch, exactly.

  Args:
    objective: an `Objective`.
    batch: `Examples`.
    params: that write, and are to be trained.
    codec: between tokens and z-scores.
    reference: parameters of the KL term.
    each: whether every term is asked for by itself: {name: gradient}.
  """
  tokenizer, rollouts = codec.tokenizer, objective.rollouts
  numbers = sequences(tokenizer)
  batch_size, group = len(batch.target), rollouts.group_size
  ways = itertools.product(range(len(numbers)), repeat=batch_size * group)
  index = np.array(list(ways)).reshape(-1, batch_size, group)
  log_p = log_probs(
    tokenizer, params['policy'], batch.inputs, rollouts.temperature
  )
  p = jnp.exp(sum(log_p[b, index[:, b]].sum(-1) for b in range(batch_size)))
  np.testing.assert_allclose(jnp.sum(p), 1, rtol=1e-5)

  @jax.jit
  def gradients(to_train):
    def loss(to_train, tokens):
      loss, metrics = loss_of(
        objective,
        batch,
        tokens,
        to_train,
        codec=codec,
        reference=reference,
        at=params,
      )
      return (
        {t.name: metrics[t.name] for t in objective.terms} if each else loss
      )

    return jax.vmap(jax.jacrev(loss), (None, 0))(to_train, numbers[index])

  to_train = jax.tree.map(jnp.asarray, params)
  return jax.tree.map(
    lambda x: jnp.einsum('w,w...->...', p, x), gradients(to_train)
  )
