"""Policies that may write what is no number: how likely, and given they do not.

Special tokens stand at the first position alone (`tokenizers/non_finite.py`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.policy import trie
from genre2_jax.policy.base import (
  MASKED,
  Cache,
  Context,
  Params,
  Policy,
  grammatical,
)


def probabilities(
  policy: Policy, params: Params, context: Context
) -> jax.Array:
  """P(NaN), P(+inf) and P(−inf), exactly, whatever is enumerable: [B, 3]."""
  batch = len(jax.tree.leaves(context)[0])
  root = np.zeros(1, np.int32)
  logits, _ = policy.decode(
    params,
    context,
    trie.broadcast(policy, root, batch),
    root,
    np.ones((1, 1), bool),
  )
  p = jax.nn.softmax(grammatical(policy, logits)[:, 0, 0])
  return p[:, -policy.tokenizer.num_special :]


def numbers_only(policy: Policy) -> Policy:
  """The policy given that it writes a number: to decode, and so to sample."""
  first = policy.tokenizer.vocab_size - policy.tokenizer.num_special

  def decode(
    params: Params,
    context: Context,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Cache = None,
    **more: Any,
  ) -> tuple[jax.Array, Cache]:
    logits, cache = policy.decode(
      params, context, tokens, positions, visible, cache, **more
    )
    place = np.arange(logits.shape[-1])
    special = (place >= first) & (place < policy.tokenizer.vocab_size)
    hidden = (positions == 0)[:, None] & special
    return jnp.where(hidden, MASKED, logits), cache

  return policy._replace(decode=decode)
