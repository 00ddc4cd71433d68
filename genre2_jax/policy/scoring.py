"""Log-probabilities of numbers that are already written.

Numbers are scored in two passes, one over the trunk that they share (see
`sampling`) and one along all branches: that is where gradients go through. A
policy that reads its inputs together with the nodes scores in that one pass.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.policy import trie
from genre2_jax.policy.base import Context, Params, Policy, Text, grammatical


class Rollout(NamedTuple):
  """Numbers, and the log-probabilities of tokens along them.

  Attributes:
    tokens: int32 [B, R, T].
    log_probs: [B, R, T, V], of every token at every position, given the
      number's own prefix, at the temperature that it was sampled at.
    text: free text that stands before each number, or None.
    text_log_probs: [B, R, W + 1], of its subwords and its end, 0 behind it.
  """

  tokens: jax.Array
  log_probs: jax.Array
  text: Text | None = None
  text_log_probs: jax.Array | None = None

  def token_log_probs(self) -> jax.Array:
    """log p of the number's own tokens, [B, R, T], behind those of its text.

    [B, R, W + 1 + T] where there is a text.
    """
    index = self.tokens[..., None]
    own = jnp.take_along_axis(self.log_probs, index, axis=-1)[..., 0]
    if self.text_log_probs is None:
      return own
    return jnp.concatenate([self.text_log_probs, own], axis=-1)

  def entropy(self) -> jax.Array:
    """Σ_t H(p(· | prefix)) in nats, of the number alone: [B, R].

    Its mean over samples is an unbiased estimate of the entropy of the
    distribution over numbers.
    """
    return -jnp.sum(jnp.exp(self.log_probs) * self.log_probs, axis=(-2, -1))


def score(
  policy: Policy,
  params: Params,
  context: Context,
  tokens: jax.Array,
  temperature: float = 1.0,
  normalized: bool = True,
  text: Text | None = None,
) -> Rollout:
  """The `Rollout` of given numbers, the same as if they had been sampled.

  Args:
    policy: a `Policy`.
    params: its parameters.
    context: what `policy.encode` gave.
    tokens: int [B, R, T], of the grammar.
    temperature: divides the logits.
    normalized: whether tokens are distributed over those that the grammar
      allows, as in sampling; otherwise, with an open policy, over all.
    text: what stands before the numbers, of a policy that writes it.

  Returns:
    A `Rollout`; where p is shared with other tokens its log-probabilities have
    V + 1 columns.
  """
  text_log_probs = None
  if policy.writer is None:
    logits = logits_along(policy, params, context, tokens)
  else:
    text_log_probs, logits = policy.writer.score(
      params, context, text, tokens, temperature
    )
  if normalized:
    logits = grammatical(policy, logits)
  return Rollout(
    tokens.astype(jnp.int32),
    jax.nn.log_softmax(logits / temperature),
    text,
    text_log_probs,
  )


def logits_along(
  policy: Policy, params: Params, context: Context, tokens: jax.Array
) -> jax.Array:
  """Logits [B, R, T, V] at the prefixes of numbers [B, R, T], shared ones once.

  Where gradients go through. [B, R, T, V + 1] of an open policy.
  """
  chex.assert_shape(tokens, (None, None, policy.tokenizer.num_tokens))
  if policy.reads_inputs:
    return _logits_at_once(policy, params, context, tokens)
  batch, num_rows, length = tokens.shape
  allowed = policy.tokenizer.allowed
  trunk = trie.trunk(allowed, max_width=num_rows)
  depth = trunk.depth
  logits, cache = policy.decode(
    params,
    context,
    trie.broadcast(policy, trunk.tokens, batch),
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


def _logits_at_once(
  policy: Policy, params: Params, context: Context, tokens: jax.Array
) -> jax.Array:
  """`logits_along` in one decoding: all numbers branch off at the root."""
  batch, num_rows, length = tokens.shape
  branch = np.repeat(np.arange(num_rows), length - 1)
  positions = np.tile(np.arange(1, length), num_rows)
  visible = (branch[:, None] == branch) & (positions[:, None] >= positions)
  visible = np.pad(visible, ((1, 0), (1, 0)))
  visible[:, 0] = True
  last = tokens[..., :-1].reshape(batch, -1)
  logits, _ = policy.decode(
    params,
    context,
    jnp.pad(last, ((0, 0), (1, 0)))[:, None],
    np.concatenate([[0], positions]),
    visible,
  )
  root, rest = logits[:, :, :1], logits[:, 0, 1:]
  rest = rest.reshape(batch, num_rows, length - 1, rest.shape[-1])
  root = jnp.broadcast_to(root, (batch, num_rows, *root.shape[2:]))
  return jnp.concatenate([root, rest], axis=2)
