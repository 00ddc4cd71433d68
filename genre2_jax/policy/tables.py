"""Policies whose context is the logits of all nodes of the trie: a table.

A model that gives them all at once has nothing left to decode: `decode_of`
looks them up, and `trie.log_probs` reads them. A mixture of policies is a
distribution over whole numbers: `logits_of` makes a table of it.

Nodes stand level by level, from the root, each level in the order of the trie:
N of them; K numbers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.policy import trie
from genre2_jax.policy.base import MASKED, Cache, Params
from genre2_jax.tokenizers import Tokenizer


def allowed_at_nodes(tokenizer: Tokenizer) -> np.ndarray:
  """Which tokens may follow each node: bool [N, V]."""
  allowed = tokenizer.allowed
  return np.repeat(allowed, trie.level_widths(allowed), axis=0)


def decode_of(
  tokenizer: Tokenizer,
) -> Callable[..., tuple[jax.Array, Cache]]:
  """`Policy.decode` of a context [B, N, V]: each node's row.

  The cache is where the nodes stand in their levels. The ancestors of a node
  stand in front of it, its parent last.
  """
  allowed = tokenizer.allowed
  starts = np.cumsum([0, *trie.level_widths(allowed)[:-1]])

  def decode(
    params: Params,
    context: jax.Array,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Cache = None,
    dropout_key: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    del params, dropout_key
    batch, count, num_new = tokens.shape
    num_before = visible.shape[1] - num_new
    places = jnp.zeros((batch, count, num_new), jnp.int32)  # The root's is 0.
    if cache is not None:
      places = jnp.concatenate([cache, places], axis=-1)
    for level in np.unique(positions[positions > 0]):
      now = np.flatnonzero(positions == level)
      above = visible[now].copy()
      above[np.arange(len(now)), num_before + now] = False
      parent = above.shape[1] - 1 - above[:, ::-1].argmax(axis=1)
      place = trie.child(
        places[..., parent], tokens[..., now], allowed[level - 1]
      )
      places = places.at[..., num_before + now].set(place.astype(jnp.int32))
    own = places[..., num_before:]
    nodes = own + jnp.asarray(starts[positions], jnp.int32)
    logits = trie.take(context, nodes.reshape(batch, -1))
    return logits.reshape(batch, count, num_new, -1), places

  return decode


def logits_of(tokenizer: Tokenizer, log_p: jax.Array) -> jax.Array:
  """Logits [B, N, V] of a distribution over all numbers.

  A token's logit is log Σ p of the numbers that go on with it.

  Args:
    tokenizer: the number vocabulary.
    log_p: [B, K], in the order of `trie.sequences`; Σ p may be anything.
  """
  allowed = tokenizer.allowed
  batch, levels = len(log_p), []
  for choices in reversed([np.flatnonzero(row) for row in allowed]):
    children = log_p.reshape(batch, -1, len(choices))
    log_p = jax.nn.logsumexp(children, axis=-1)
    levels.append(_in_columns(children, choices, allowed.shape[1]))
  return jnp.concatenate(levels[::-1], axis=1)


def log_of(p: jax.Array) -> jax.Array:
  """log p, −1e9 where p is 0; the gradient there is 0."""
  is_positive = p > 0
  return jnp.where(is_positive, jnp.log(jnp.where(is_positive, p, 1.0)), MASKED)


def _in_columns(children, choices, vocabulary):
  """[B, n, choices] as [B, n, V]; what is forbidden stands at −1e9."""
  if len(choices) == vocabulary:
    return children
  column = np.full(vocabulary, len(choices))
  column[choices] = np.arange(len(choices))
  padded = jnp.pad(children, ((0, 0), (0, 0), (0, 1)), constant_values=MASKED)
  return padded[..., column]
