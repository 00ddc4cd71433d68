"""Decoding groups of numbers that share their prefixes.

All numbers start alike. While a level of the trie has no more nodes than there
are numbers to write, the whole level is decoded, once, and every number walks
its own way through it; from there on each number has nodes of its own. Sixteen
samples of eight binary digits cost 79 decoder positions instead of 128, 128
samples cost 255 instead of 1024, and asking for as many numbers as the
tokenizer can write decodes exactly its trie.

Sampling decodes level by level, with a cache. Given numbers are scored in one
pass over all of their nodes, each of which sees its ancestors only: that is
where gradients go through.
"""

from typing import Any, NamedTuple

import chex
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
    temperature: divides the logits.
    greedy: whether the most likely token at every position is written in one
      more row, the last.

  Returns:
    A `Rollout` with R = G, or G + 1.
  """
  chex.assert_rank(keys, 1)
  group_keys = jax.vmap(lambda key: jax.random.split(key, num_samples))(keys)

  def draw(key, log_probs, position):
    return jax.random.categorical(jax.random.fold_in(key, position), log_probs)

  draw_group = jax.vmap(jax.vmap(draw, (0, 0, None)), (0, 0, None))
  level = _root(len(keys), num_samples + greedy)
  cache, tokens, log_probs = None, [], []
  for position in range(policy.tokenizer.num_tokens):
    logits, cache = policy.decode(
      params,
      context,
      level.inputs,
      np.full(level.inputs.shape[1], position),
      level.visible,
      cache,
    )
    log_p = level.rows(jax.nn.log_softmax(logits / temperature))  # [B, R, V]
    chosen = draw_group(group_keys, log_p[:, :num_samples], position)
    if greedy:
      best = jnp.argmax(log_p[:, num_samples:], axis=-1).astype(chosen.dtype)
      chosen = jnp.concatenate([chosen, best], axis=1)
    tokens.append(chosen)
    log_probs.append(log_p)
    level = _children(level, chosen, policy.tokenizer.allowed[position])
  return Rollout(
    jnp.stack(tokens, -1).astype(jnp.int32), jnp.stack(log_probs, -2)
  )


def without_greedy(rollout):
  """What `sample(greedy=True)` wrote: (samples, greedy tokens [B, T])."""
  samples = jax.tree.map(lambda x: x[:, :-1], rollout)
  return samples, rollout.tokens[:, -1]


def score(policy, params, context, tokens, temperature=1.0):
  """The `Rollout` of given numbers, in one pass over their nodes.

  Args:
    policy: a `Policy`.
    params: its parameters.
    context: what `policy.encode` gave.
    tokens: int [B, R, T], of the grammar. R distinct numbers of a level's
      width share nodes as `sample` does.
    temperature: divides the logits.

  Returns:
    A `Rollout`.
  """
  chex.assert_shape(tokens, (None, None, policy.tokenizer.num_tokens))
  batch, num_rows, length = tokens.shape
  levels = [_root(batch, num_rows)]
  for position in range(length - 1):
    allowed = policy.tokenizer.allowed[position]
    levels.append(_children(levels[-1], tokens[..., position], allowed))
  sizes = [level.inputs.shape[1] for level in levels]
  visible = [
    jnp.pad(level.visible, ((0, 0), (0, 0), (0, sum(sizes[t + 1 :]))))
    for t, level in enumerate(levels)
  ]
  leading = max(len(v) for v in visible)
  visible = [jnp.broadcast_to(v, (leading, *v.shape[1:])) for v in visible]
  logits, _ = policy.decode(
    params,
    context,
    jnp.concatenate([level.inputs for level in levels], axis=1),
    np.repeat(np.arange(length), sizes),
    jnp.concatenate(visible, axis=1),
  )
  log_p = jax.nn.log_softmax(logits / temperature)  # [B, N, V]
  per_level = jnp.split(log_p, np.cumsum(sizes)[:-1], axis=1)
  log_probs = [
    level.rows(x) for level, x in zip(levels, per_level, strict=True)
  ]
  return Rollout(tokens.astype(jnp.int32), jnp.stack(log_probs, -2))


class _Level(NamedTuple):
  """The nodes at one depth, and where the R numbers stand among their U.

  Attributes:
    inputs: int [B, U], last token of each node's prefix.
    node: int [B, R], each number's node.
    visible: bool [B or 1, U, N + U], each node's ancestors among all nodes so
      far, level by level, and itself.
    own: whether node r is number r's and no other's.
  """

  inputs: Any
  node: Any
  visible: Any
  own: bool

  def rows(self, values):
    """Each number's [B, R, ...] of values at nodes [B, U, ...]."""
    return values if self.own else _take(values, self.node)


def _root(batch, num_rows):
  return _Level(
    inputs=jnp.zeros((batch, 1), jnp.int32),
    node=jnp.zeros((batch, num_rows), jnp.int32),
    visible=np.ones((1, 1, 1), bool),
    own=False,
  )


def _children(level, chosen, allowed):
  """The level below: all its nodes if they are few, else one per number.

  Args:
    level: a `_Level`.
    chosen: int [B, R], the next token of each number.
    allowed: bool [V], the tokens that may be chosen here.
  """
  (batch, num_rows), num_nodes = chosen.shape, level.inputs.shape[1]
  (choices,) = np.nonzero(allowed)
  own = level.own or num_nodes * len(choices) > num_rows
  if own:
    inputs, node, past = chosen.astype(jnp.int32), level.node, level.visible
    if not level.own:
      past = jnp.broadcast_to(past, (batch, *past.shape[1:]))
      past = _take(past, level.node)
  else:
    inputs = np.tile(choices, num_nodes).astype(np.int32)
    inputs = jnp.broadcast_to(inputs, (batch, len(inputs)))
    rank = jnp.asarray(np.cumsum(allowed) - 1)
    node = level.node * len(choices) + rank[chosen]
    past = np.repeat(level.visible, len(choices), axis=1)
  itself = np.eye(inputs.shape[1], dtype=bool)
  itself = np.broadcast_to(itself, (len(past), *itself.shape))
  join = jnp.concatenate if own else np.concatenate
  return _Level(inputs, node, join([past, itself], axis=-1), own)


def _take(values, node):
  """values [B, U, ...] at node [B, R]: [B, R, ...]."""
  index = node.reshape(node.shape + (1,) * (values.ndim - 2))
  return jnp.take_along_axis(values, index, axis=1)
