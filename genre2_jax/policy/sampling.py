"""Sampling groups of numbers that share their prefixes.

All numbers start alike. While a level of the trie has no more nodes than there
are numbers to write, the whole level is decoded, once, and every number walks
its own way through it: the trunk. From there on each number is a branch with
nodes of its own. Sixteen samples of eight binary digits cost 79 decoder
positions instead of 128, 128 samples cost 255 instead of 1024, and asking for
as many numbers as the tokenizer can write decodes exactly its trie.

Sampling decodes level by level, with a cache, and is not differentiated;
`scoring` reads numbers that are already there.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.policy import trie
from genre2_jax.policy.base import Context, Params, Policy, grammatical
from genre2_jax.policy.scoring import Rollout


def sample(
  policy: Policy,
  params: Params,
  context: Context,
  keys: jax.Array,
  *,
  num_samples: int,
  temperature: float = 1.0,
  greedy: bool = False,
  prefixes: np.ndarray | None = None,
) -> Rollout:
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
    A `Rollout` with R = G, or G + 1; of a policy that writes free text, each
    number behind a text of its own, sampled or greedy as it is.
  """
  chex.assert_rank(keys, 1)
  if policy.writer is not None:
    assert prefixes is None  # Texts differ before numbers do.
    keys = jax.vmap(lambda key: jax.random.split(key, num_samples + greedy))(
      keys
    )
    is_greedy = np.arange(num_samples + greedy) >= num_samples
    text, text_log_probs, numbers, log_p = policy.writer.write(
      params, context, keys, is_greedy, temperature
    )
    return Rollout(numbers, log_p, text, text_log_probs)
  group_keys = jax.vmap(lambda key: jax.random.split(key, num_samples))(keys)

  def draw(
    key: jax.Array, log_probs: jax.Array, position: int | jax.Array
  ) -> jax.Array:
    return jax.random.categorical(jax.random.fold_in(key, position), log_probs)

  draw_group = jax.vmap(jax.vmap(draw, (0, 0, None)), (0, 0, None))
  allowed = policy.tokenizer.allowed
  num_rows = num_samples + greedy
  trunk = trie.trunk(allowed, max_width=num_rows)
  batch, depth = len(keys), trunk.depth
  given = np.zeros((num_samples, 0)) if prefixes is None else prefixes
  node = jnp.zeros((batch, num_rows), jnp.int32)
  cache = None
  tokens: list[jax.Array] = []
  log_probs: list[jax.Array] = []
  for position in range(policy.tokenizer.num_tokens):
    if position < depth:
      nodes, seen = trunk.level(position)
      inputs = trie.broadcast(policy, trunk.tokens[nodes], batch)
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


def without_greedy(rollout: Rollout) -> tuple[Rollout, jax.Array]:
  """What `sample(greedy=True)` wrote: (samples, greedy tokens [B, T])."""
  samples = jax.tree.map(lambda x: x[:, :-1], rollout)
  return samples, rollout.tokens[:, -1]
