"""Decoding groups of numbers that share their prefixes.

All numbers start alike. While a level of the prefix tree has no more nodes
than there are numbers to write, the whole level is decoded, once, and every
number walks its own way through it; from there on each number has a row of its
own. Sixteen samples of eight binary digits cost 79 decoder positions instead
of 128, 128 samples cost 255 instead of 1024, and asking for as many numbers as
the tokenizer can write decodes exactly its trie.

The log-probabilities are differentiable, so the pass that samples is also the
pass that a policy gradient goes back through: nothing is scored twice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Rollout(NamedTuple):
  """Numbers written by a policy.

  Attributes:
    tokens: int32 [B, R, T].
    log_probs: [B, R, T, V], of every token at every position, given the
      number's own prefix, at the temperature that it was sampled at.
  """

  tokens: jax.Array
  log_probs: jax.Array

  def token_log_probs(self):
    """log p of the tokens written: [B, R, T]."""
    index = self.tokens[..., None]
    return jnp.take_along_axis(self.log_probs, index, axis=-1)[..., 0]

  def entropy(self):
    """Σ_t H(p(· | prefix)) in nats: [B, R].

    Its mean over samples is an unbiased estimate of the entropy of the
    distribution over numbers.
    """
    return -jnp.sum(jnp.exp(self.log_probs) * self.log_probs, axis=(-2, -1))


def _take_rows(rows, index):
  """Row `index` [B, R] of each leaf [B, U, ...]: [B, R, ...]."""

  def take(x):
    shape = index.shape + (1,) * (x.ndim - 2)
    return jnp.take_along_axis(x, index.reshape(shape), axis=1)

  return jax.tree.map(take, rows)


def decode(policy, params, context, choose, num_rows, temperature=1.0):
  """Writes `num_rows` numbers per input, level by level.

  Args:
    policy: a `Policy`.
    params: its parameters.
    context: what `policy.encode` gave.
    choose: `(position, log_probs [B, R, V]) -> tokens [B, R]`, of the tokens
      that the grammar allows.
    num_rows: R.
    temperature: divides the logits.

  Returns:
    A `Rollout`.
  """
  length = policy.tokenizer.num_tokens
  batch = jax.tree.leaves(context)[0].shape[0]
  cache, inputs = None, None
  num_nodes = 1
  node = jnp.zeros((batch, num_rows), jnp.int32)  # where each number stands
  own_rows = False  # whether node r is number r's, and no other's
  tokens, log_probs = [], []
  for position in range(length):
    logits, cache = policy.decode_step(params, context, cache, inputs, position)
    level = jax.nn.log_softmax(logits / temperature)  # [B, U, V]
    if not own_rows:
      level = _take_rows(level, node)  # [B, R, V]
    chosen = choose(position, level)  # [B, R]
    tokens.append(chosen)
    log_probs.append(level)
    if position == length - 1:
      break
    allowed = np.flatnonzero(policy.tokenizer.allowed[position])
    if not own_rows and num_nodes * len(allowed) <= num_rows:
      rank = np.zeros(policy.tokenizer.vocab_size, np.int32)
      rank[allowed] = np.arange(len(allowed))
      node = node * len(allowed) + jnp.asarray(rank)[chosen]
      cache = jax.tree.map(
        lambda x, n=len(allowed): jnp.repeat(x, n, axis=1), cache
      )
      inputs = jnp.broadcast_to(
        np.tile(allowed, num_nodes), (batch, num_nodes * len(allowed))
      )
      num_nodes *= len(allowed)
    else:
      if not own_rows:
        cache = _take_rows(cache, node)
      inputs, num_nodes, own_rows = chosen, num_rows, True
  return Rollout(
    jnp.stack(tokens, -1).astype(jnp.int32), jnp.stack(log_probs, -2)
  )


def sample(
  policy, params, context, keys, *, num_samples, temperature=1.0, greedy=False
):
  """Samples numbers, i.i.d. given the input, and with them the greedy one.

  Args:
    policy: a `Policy`.
    params: its parameters.
    context: what `policy.encode` gave.
    keys: [B] keys: a row's samples depend on its own key only.
    num_samples: G.
    temperature: of sampling.
    greedy: whether the most likely token at every position is written in one
      more row, the last.

  Returns:
    A `Rollout` with R = G, or G + 1.
  """
  group_keys = jax.vmap(lambda key: jax.random.split(key, num_samples))(keys)

  def draw(key, log_probs, position):
    return jax.random.categorical(jax.random.fold_in(key, position), log_probs)

  draw_group = jax.vmap(jax.vmap(draw, (0, 0, None)), (0, 0, None))

  def choose(position, log_probs):
    chosen = draw_group(group_keys, log_probs[:, :num_samples], position)
    if greedy:
      best = jnp.argmax(log_probs[:, num_samples:], axis=-1)
      chosen = jnp.concatenate([chosen, best.astype(chosen.dtype)], axis=1)
    return chosen

  return decode(
    policy, params, context, choose, num_samples + greedy, temperature
  )


def score(policy, params, context, tokens, temperature=1.0):
  """The `Rollout` of given numbers [B, R, T]: what `sample` would have said."""
  return decode(
    policy,
    params,
    context,
    lambda position, _: tokens[..., position],
    tokens.shape[1],
    temperature,
  )


def without_greedy(rollout):
  """Splits what `sample(greedy=True)` wrote: (samples, greedy tokens [B, T])."""
  samples = jax.tree.map(lambda x: x[:, :-1], rollout)
  return samples, rollout.tokens[:, -1]
