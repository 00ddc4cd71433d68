"""Several numbers, each given those before it: conditionals and marginals.

A policy that writes the numbers of k targets one after another is, once some
are written, a policy of the next: `given`. Its trie is that of one number,
whatever k is, so whatever looks at the trie of one number looks at a
conditional as well.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.policy import sampling, trie
from genre2_jax.policy.base import (
  Cache,
  Context,
  Params,
  Policy,
  decoded_along,
)
from genre2_jax.tokenizers.joint import of_parts, parts_of


def first(policy: Policy, count: int) -> Policy:
  """The policy of the first numbers alone, which do not see those behind."""
  parts = parts_of(policy.tokenizer)[:count]
  return policy._replace(tokenizer=of_parts(parts))


def given(
  policy: Policy, params: Params, context: Context, earlier: jax.Array
) -> tuple[Policy, Context]:
  """The policy of the next number, p(number | input, earlier numbers).

  Args:
    policy: of several numbers.
    params: its parameters.
    context: what `policy.encode` gave.
    earlier: int [B, j · L], the tokens of the first j numbers; j ≥ 0.

  Returns:
    (policy, context): of one number.
  """
  length = earlier.shape[-1]
  parts = parts_of(policy.tokenizer)
  place = length // parts[0].num_tokens
  own = policy._replace(tokenizer=parts[place])
  if not length:
    return own, context
  _, past = decoded_along(policy, params, context, earlier)

  def decode(
    params: Params,
    context: Context,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Cache = None,
    dropout_key: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    context, past, last = context
    count = tokens.shape[1]
    tokens = jnp.where(positions == 0, last[:, None, None], tokens)
    whole = jax.tree.map(lambda x: jnp.repeat(x, count, axis=1), past)
    if cache is not None:
      whole = jax.tree.map(_followed, whole, cache)
    seen = np.ones((len(visible), length), bool)
    logits, whole = policy.decode(
      params,
      context,
      tokens,
      positions + length,
      np.concatenate([seen, visible], axis=1),
      whole,
      dropout_key=dropout_key,
    )
    return logits, jax.tree.map(lambda x: x[:, :, length:], whole)

  own = own._replace(decode=decode, shares_nodes=False)
  return own, (context, past, earlier[:, -1])


def _followed(past, cache):
  return jnp.concatenate([past, cache], axis=2)


def num_exact(policy: Policy, max_nodes: int) -> int:
  """Of how many numbers, from the first, the joint trie can be enumerated."""
  parts = parts_of(policy.tokenizer)
  count = 1
  while count < len(parts) and (
    trie.num_nodes(of_parts(parts[: count + 1])) <= max_nodes
  ):
    count += 1
  return count


def marginals(
  policy: Policy,
  params: Params,
  context: Context,
  key: jax.Array,
  *,
  max_nodes: int,
  num_conditionals: int,
) -> jax.Array:
  """log p of every number of every target, whatever the others are.

  Exactly for the first targets, as many as have a joint trie within
  `max_nodes`, the first one always. For those behind,

    p(y_j | x) = E[p(y_j | x, y_1 .. y_{j−1})],

  the mean of exact conditionals over samples of the numbers before
  (Rao-Blackwell): unbiased, and what is left of the sampling error is that of
  the conditionals. Every row draws with the same key, so that what is said of
  it does not hang on its place.

  Args:
    policy: of k numbers.
    params: its parameters.
    context: what `policy.encode` gave.
    key: of the samples.
    max_nodes: of a trie that is enumerated.
    num_conditionals: samples of the numbers before.

  Returns:
    [B, k, K].
  """
  parts = parts_of(policy.tokenizer)
  exact = num_exact(policy, max_nodes)
  sizes = [part.num_sequences for part in parts]
  log_p = trie.log_probs(first(policy, exact), params, context)
  log_p = log_p.reshape(-1, *sizes[:exact])
  found = []
  for place in range(exact):
    others = tuple(i + 1 for i in range(exact) if i != place)
    found.append(jax.nn.logsumexp(log_p, others) if others else log_p)
  if exact < len(parts):
    earlier = _earlier(policy, params, context, key, num_conditionals)
    for place in range(exact, len(parts)):
      length = place * parts[0].num_tokens
      found.append(
        _mean_conditional(policy, params, context, earlier[..., :length])
      )
  return jnp.stack(found, axis=1)


def _earlier(policy, params, context, key, count):
  """Samples of all numbers but the last: int [B, R, (k − 1) · L]."""
  batch = len(jax.tree.leaves(context)[0])
  keys = jnp.broadcast_to(key, (batch,))
  before = first(policy, len(parts_of(policy.tokenizer)) - 1)
  return sampling.sample(
    before, params, context, keys, num_samples=count
  ).tokens


def _mean_conditional(policy, params, context, earlier):
  """log mean_r p(number | input, numbers r), one r in memory at a time."""

  def conditional(tokens):
    own, inner = given(policy, params, context, tokens)
    return trie.log_probs(own, params, inner)

  log_p = jax.lax.map(conditional, jnp.moveaxis(earlier, 1, 0))  # [R, B, K]
  return jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(log_p))
