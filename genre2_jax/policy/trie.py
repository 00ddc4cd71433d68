"""The trie of the numbers that a tokenizer can write, and all of it at once.

A node is a prefix; its logits are those of the next token. `log_probs` gives
log p of every number in one pass: exactly the predictive distribution, of which
samples are an estimate. Numbers come in the order of the trie, that of their
tokens read from the left.

A whole trie of (2, 8) has 255 nodes, of (4, 4) 85, of (10, 3) 111.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.policy.base import Cache, Context, Params, Policy
from genre2_jax.tokenizers import Tokenizer

# Levels are decoded together, in one pass with a mask, while they have fewer
# nodes than this: few passes compile and run fast, and the mask's square is
# still small. Deeper down, siblings see their own path only.
_DENSE_NODES = 32
# More of them in one pass where inputs are read with them: a second pass would
# read them again.
_ONE_PASS_NODES = 256


class Trunk(NamedTuple):
  """The first whole levels of a trie: N nodes, static, level by level.

  Attributes:
    tokens: int [N], last token of each node's prefix.
    positions: int [N], the length of its prefix.
    visible: bool [N, N], each node's ancestors and itself.
  """

  tokens: np.ndarray
  positions: np.ndarray
  visible: np.ndarray

  @property
  def depth(self) -> int:
    """Number of levels, at least the root's."""
    return int(self.positions[-1]) + 1

  def level(self, position: int) -> tuple[slice, slice]:
    """Slices of a level's nodes, and of all nodes down to it."""
    start, stop = np.searchsorted(self.positions, [position, position + 1])
    return slice(start, stop), slice(stop)


def trunk(
  allowed: np.ndarray,
  *,
  max_width: int | None = None,
  max_nodes: int | None = None,
) -> Trunk:
  """The levels of a grammar [T, V] that fit both bounds.

  Args:
    allowed: bool [T, V].
    max_width: of nodes in a level.
    max_nodes: of nodes altogether.

  Returns:
    A `Trunk`, with the root whatever the bounds.
  """
  tokens, visible = [np.zeros(1, np.int32)], np.ones((1, 1), bool)
  for choices in map(np.flatnonzero, allowed[:-1]):
    parents = len(tokens[-1])
    width = parents * len(choices)
    if max_width is not None and width > max_width:
      break
    if max_nodes is not None and len(visible) + width > max_nodes:
      break
    tokens.append(np.tile(choices, parents).astype(np.int32))
    past = np.repeat(visible[-parents:], len(choices), axis=0)
    itself = np.eye(len(past), dtype=bool)
    above = np.pad(visible, ((0, 0), (0, len(past))))
    visible = np.concatenate([above, np.concatenate([past, itself], 1)])
  positions = np.repeat(np.arange(len(tokens)), [len(t) for t in tokens])
  return Trunk(np.concatenate(tokens), positions, visible)


def child(node: jax.Array, chosen: jax.Array, allowed: np.ndarray) -> jax.Array:
  """Place in the next level of the child that `chosen` leads to."""
  rank = jnp.asarray(np.cumsum(allowed) - 1)
  return node * int(allowed.sum()) + rank[chosen]


def path_caches(cache: Cache, trunk: Trunk, node: jax.Array) -> Cache:
  """Of the trunk's cache [B, 1, N, ...] each number's own path [B, R, t, ...].

  Args:
    cache: of all nodes of the trunk.
    trunk: the `Trunk`.
    node: int [B, R], where in the trunk's last level each number stands; of
      shared nodes [1, R], and leaves of the cache may have one row, too.
  """
  nodes, _ = trunk.level(trunk.depth - 1)
  ancestors = np.nonzero(trunk.visible[nodes])[1].reshape(-1, trunk.depth)
  paths = jnp.asarray(ancestors)[node]  # [B, R, t]
  flat = paths.reshape(len(node), -1)

  def select(x: jax.Array) -> jax.Array:
    rows = take(x[:, 0], flat)
    return rows.reshape(len(rows), *paths.shape[1:], *rows.shape[2:])

  return jax.tree.map(select, cache)


def take(values: jax.Array, node: jax.Array) -> jax.Array:
  """values [B, U, ...] at node [B, R]: [B, R, ...]; one row stands for B."""
  index = node.reshape(node.shape + (1,) * (values.ndim - 2))
  return jnp.take_along_axis(values, index, axis=1)


def broadcast(policy: Policy, tokens: np.ndarray, batch: int) -> jax.Array:
  """Static tokens [U, Q], or [Q] of one decoding, for every input.

  [B, U, Q], or [1, U, Q] where the policy shares nodes.
  """
  rows = jnp.asarray(tokens)
  rows = rows.reshape(-1, rows.shape[-1])
  return jnp.broadcast_to(rows, (num_copies(policy, batch), *rows.shape))


def num_copies(policy: Policy, batch: int) -> int:
  """How often nodes that B inputs have in common are given to `decode`."""
  return 1 if policy.shares_nodes else batch


def num_nodes(tokenizer: Tokenizer, depth: int | None = None) -> int:
  """Nodes with children among the first `depth` tokens, by default all T."""
  return sum(level_widths(tokenizer.allowed[:depth]))


def fits_one_pass(tokenizer: Tokenizer) -> bool:
  """Whether `log_probs` is cheap where inputs are read with the nodes."""
  return num_nodes(tokenizer) <= _ONE_PASS_NODES


def level_widths(allowed: np.ndarray) -> list[int]:
  """Nodes of each level of a grammar [T, V], the root's first: T integers."""
  choices = allowed.sum(axis=1).tolist()
  return [math.prod(choices[:position]) for position in range(len(choices))]


def sequences(tokenizer: Tokenizer, depth: int | None = None) -> np.ndarray:
  """Every prefix of `depth` tokens, by default every number: int [K, depth]."""
  if depth == 0:
    return np.zeros((1, 0), np.int32)
  choices = [np.flatnonzero(row) for row in tokenizer.allowed[:depth]]
  grids = np.meshgrid(*choices, indexing='ij')
  return np.stack([g.ravel() for g in grids], -1).astype(np.int32)


def log_probs(
  policy: Policy,
  params: Params,
  context: Context,
  temperature: float = 1.0,
  normalized: bool = True,
) -> jax.Array:
  """log p of every number that the policy can write, exactly.

  Args:
    policy: a `Policy`.
    params: its parameters.
    context: what `policy.encode` gave.
    temperature: divides the logits.
    normalized: whether tokens are distributed over those that the grammar
      allows, so that Σ p = 1; otherwise, with an open policy, over all.

  Returns:
    [B, K], in the order of `sequences`.
  """
  allowed = policy.tokenizer.allowed
  is_open = policy.open and not normalized
  batch = len(jax.tree.leaves(context)[0])
  if policy.is_table:
    log_p, start = jnp.zeros((batch, 1)), 0
    for choices, width in zip(allowed, level_widths(allowed), strict=True):
      logits = context[:, start : start + width]
      log_p = _descend(log_p, logits, choices, temperature, is_open)
      start += width
    return log_p
  most = None if policy.reads_inputs else _DENSE_NODES
  top = trunk(allowed, max_nodes=most)
  logits, cache = policy.decode(
    params,
    context,
    broadcast(policy, top.tokens, batch),
    top.positions,
    top.visible,
  )
  log_p = jnp.zeros((batch, 1))
  for position in range(top.depth):
    nodes, _ = top.level(position)
    log_p = _descend(
      log_p, logits[:, 0, nodes], allowed[position], temperature, is_open
    )
  if top.depth == len(allowed):
    return log_p
  nodes, _ = top.level(top.depth - 1)
  width = nodes.stop - nodes.start
  copies = num_copies(policy, batch)
  node = jnp.broadcast_to(jnp.arange(width), (copies, width))
  cache = path_caches(cache, top, node)
  for position in range(top.depth, len(allowed)):
    siblings = np.flatnonzero(allowed[position - 1])
    visible = np.concatenate(
      [np.ones((len(siblings), position), bool), np.eye(len(siblings)) > 0], 1
    )
    logits, cache = policy.decode(
      params,
      context,
      broadcast(policy, np.tile(siblings, (width, 1)), batch),
      np.full(len(siblings), position),
      visible,
      cache,
    )
    width *= len(siblings)
    logits = logits.reshape(batch, width, -1)
    log_p = _descend(log_p, logits, allowed[position], temperature, is_open)
    if position + 1 < len(allowed):
      cache = jax.tree.map(lambda x, t=position: _own_paths(x, t), cache)
  return log_p


def _descend(
  log_p: jax.Array,
  logits: jax.Array,
  allowed: np.ndarray,
  temperature: float,
  is_open: bool,
) -> jax.Array:
  """log p of the children of nodes [B, n]: [B, n · choices]."""
  choices = np.flatnonzero(allowed)
  columns = [*choices, logits.shape[-1] - 1] if is_open else choices
  own = jax.nn.log_softmax(logits[..., np.asarray(columns)] / temperature)
  log_p = log_p[..., None] + own[..., : len(choices)]
  return log_p.reshape(len(log_p), -1)


def _own_paths(x: jax.Array, length: int) -> jax.Array:
  """[B, U, t + Q, ...], siblings behind a path, as [B, U · Q, t + 1, ...]."""
  path, siblings = x[:, :, None, :length], x[:, :, length:, None]
  batch, width, count = siblings.shape[:3]
  path = jnp.broadcast_to(path, (batch, width, count, *path.shape[3:]))
  x = jnp.concatenate([path, siblings], axis=3)
  return x.reshape(batch, width * count, *x.shape[3:])
