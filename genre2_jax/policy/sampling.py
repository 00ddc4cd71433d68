"""Decoding groups of numbers that share their prefixes.

All numbers start alike. While a level of the trie has no more nodes than there
are numbers to write, the whole level is decoded, once, and every number walks
its own way through it: the trunk. From there on each number is a branch with
nodes of its own. Sixteen samples of eight binary digits cost 79 decoder
positions instead of 128, 128 samples cost 255 instead of 1024, and asking for
as many numbers as the tokenizer can write decodes exactly its trie.

Sampling decodes level by level, with a cache. Given numbers are scored in two
passes, one over the trunk and one along all branches: that is where gradients
go through.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.policy import grammatical, trie


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
  policy,
  params,
  context,
  keys,
  *,
  num_samples,
  temperature=1.0,
  greedy=False,
  prefixes=None,
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
    prefixes: static int [G, d]: the first d tokens of each sample, which are
      then given and not drawn.

  Returns:
    A `Rollout` with R = G, or G + 1.
  """
  chex.assert_rank(keys, 1)
  group_keys = jax.vmap(lambda key: jax.random.split(key, num_samples))(keys)

  def draw(key, log_probs, position):
    return jax.random.categorical(jax.random.fold_in(key, position), log_probs)

  draw_group = jax.vmap(jax.vmap(draw, (0, 0, None)), (0, 0, None))
  allowed = policy.tokenizer.allowed
  num_rows = num_samples + greedy
  trunk = trie.trunk(allowed, max_width=num_rows)
  batch, depth = len(keys), trunk.depth
  given = np.zeros((num_samples, 0)) if prefixes is None else prefixes
  node = jnp.zeros((batch, num_rows), jnp.int32)
  cache, tokens, log_probs = None, [], []
  for position in range(policy.tokenizer.num_tokens):
    if position < depth:
      nodes, seen = trunk.level(position)
      inputs = trie.broadcast(trunk.tokens[nodes], batch)
      visible = trunk.visible[nodes, seen]
    else:
      if position == depth:
        cache = trie.path_caches(cache, trunk, node)
      inputs = tokens[-1][..., None]
      visible = np.ones((1, position + 1), bool)
    positions = np.full(len(visible), position)
    logits, cache = policy.decode(
      params, context, inputs, positions, visible, cache
    )
    logits = grammatical(policy, logits)
    log_p = jax.nn.log_softmax(logits / temperature)
    if position < depth:
      log_p = trie.take(log_p[:, 0], node)  # [B, R, V]
    else:
      log_p = log_p[:, :, 0]
    if position < given.shape[1]:
      chosen = jnp.broadcast_to(given[:, position], (batch, num_samples))
    else:
      chosen = draw_group(group_keys, log_p[:, :num_samples], position)
    if greedy:
      best = jnp.argmax(log_p[:, num_samples:], axis=-1).astype(chosen.dtype)
      chosen = jnp.concatenate([chosen, best], axis=1)
    tokens.append(chosen.astype(jnp.int32))
    log_probs.append(log_p)
    if position + 1 < depth:
      node = trie.child(node, chosen, allowed[position])
  return Rollout(jnp.stack(tokens, -1), jnp.stack(log_probs, -2))


def without_greedy(rollout):
  """What `sample(greedy=True)` wrote: (samples, greedy tokens [B, T])."""
  samples = jax.tree.map(lambda x: x[:, :-1], rollout)
  return samples, rollout.tokens[:, -1]


def score(policy, params, context, tokens, temperature=1.0, normalized=True):
  """The `Rollout` of given numbers: what `sample` would have said of them.

  Args:
    policy: a `Policy`.
    params: its parameters.
    context: what `policy.encode` gave.
    tokens: int [B, R, T], of the grammar.
    temperature: divides the logits.
    normalized: whether tokens are distributed over those that the grammar
      allows, as in `sample`; otherwise, with an open policy, over all.

  Returns:
    A `Rollout`; where p is shared with other tokens its log-probabilities have
    V + 1 columns.
  """
  logits = logits_along(policy, params, context, tokens)
  if normalized:
    logits = grammatical(policy, logits)
  return Rollout(
    tokens.astype(jnp.int32), jax.nn.log_softmax(logits / temperature)
  )


def logits_along(policy, params, context, tokens):
  """Logits [B, R, T, V] at the prefixes of numbers [B, R, T], shared ones once.

  Where gradients go through. [B, R, T, V + 1] of an open policy.
  """
  chex.assert_shape(tokens, (None, None, policy.tokenizer.num_tokens))
  batch, num_rows, length = tokens.shape
  allowed = policy.tokenizer.allowed
  trunk = trie.trunk(allowed, max_width=num_rows)
  depth = trunk.depth
  logits, cache = policy.decode(
    params,
    context,
    trie.broadcast(trunk.tokens, batch),
    trunk.positions,
    trunk.visible,
  )
  node, parts = jnp.zeros((batch, num_rows), jnp.int32), []
  for position in range(depth):
    nodes, _ = trunk.level(position)
    parts.append(trie.take(logits[:, 0, nodes], node)[:, :, None])
    if position + 1 < depth:
      node = trie.child(node, tokens[..., position], allowed[position])
  if depth < length:
    branches = length - depth
    visible = np.tri(branches, length, depth, dtype=bool)
    logits, _ = policy.decode(
      params,
      context,
      tokens[..., depth - 1 : -1],
      np.arange(depth, length),
      visible,
      trie.path_caches(cache, trunk, node),
    )
    parts.append(logits)
  return jnp.concatenate(parts, axis=2)
