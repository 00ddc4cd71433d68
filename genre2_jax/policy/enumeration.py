"""Grids: numbers with their log p, the whole trie or some that stand for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.policy import sampling, trie
from genre2_jax.policy.base import Context, Params, Policy
from genre2_jax.policy.scoring import score
from genre2_jax.tokenizers.codec import Codec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enumeration:
  """Which numbers stand for the whole distribution at the grid level.

  Every prefix of `depth` tokens, each continued `samples` times. With depth T
  that is the whole trie, exactly; with depth 0 it is `samples` samples.
  Continuations carry the weight p(prefix) / samples, whose gradient has the
  score-function term of what was sampled (Foerster et al. 2018, DiCE);
  normalising the weights changes no value and centres that term.

  Attributes:
    depth: tokens of the prefixes, up to T.
    samples: continuations of a prefix.
  """

  depth: int
  samples: int = 1

  @property
  def is_sampled(self) -> bool:
    """Whether all numbers are samples of one distribution, three or more."""
    return self.depth == 0 and self.samples > 2


def enumerate_numbers(
  policy: Policy,
  codec: Codec,
  params: Params,
  context: Context,
  keys: jax.Array,
  enumeration: Enumeration,
) -> tuple[jax.Array, np.ndarray | jax.Array]:
  """The grid of an `Enumeration`: (log weights [B, R], z-scores).

  Over the whole trie of an open policy p is shared with other tokens, as RAFT
  is published: a term that normalises takes p on the grid. What is sampled is
  distributed over the grammar in any case.

  Args:
    policy: a `Policy`.
    codec: between tokens and z-scores.
    params: the policy's.
    context: what `policy.encode` gave.
    keys: [B], for what is sampled.
    enumeration: an `Enumeration`.

  Returns:
    Log weights, whose weights sum to one but for the whole trie of an open
    policy, and the numbers: [K] of a whole trie, numpy or of a `Bound`
    ascending; [B, R] otherwise.
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
  scored = score(policy, params, context, tokens).token_log_probs()
  prefix = jnp.sum(scored[..., : enumeration.depth], -1)
  tail = jnp.sum(scored[..., enumeration.depth :], -1)
  weights = prefix + tail - jax.lax.stop_gradient(tail)  # [B, R]
  return jax.nn.log_softmax(weights), codec.decode(tokens)


def subset_numbers(
  policy: Policy, codec: Codec, params: Params, context: Context, size: int
) -> tuple[jax.Array, np.ndarray]:
  """The grid of evenly spaced numbers: (log p [B, R], z-scores [R]), R ≤ size.

  Of an open policy p is shared with other tokens.
  """
  tokens = codec.spaced(size)
  batch = len(jax.tree.leaves(context)[0])
  rows = jnp.broadcast_to(tokens, (batch, *tokens.shape))
  scored = score(policy, params, context, rows, normalized=False)
  values = codec.decode(tokens).astype(np.float32)
  return jnp.sum(scored.token_log_probs(), -1), values
