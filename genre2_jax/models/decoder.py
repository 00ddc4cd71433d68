"""A transformer decoder that writes numbers: GenRe²'s (arXiv 2512.06533)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.layers import (
  MASKED,
  Dropout,
  StackedDense,
  attend,
  by_rows,
  dense,
  join_heads,
  layer_norm,
  parameter,
  split_heads,
)

Pair = tuple[jax.Array, jax.Array]  # keys and values


def sinusoidal_positions(length: int, width: int) -> np.ndarray:
  """sin and cos of position / 10000^(2i/D) (Vaswani et al. 2017): [T, D]."""
  rates = 1e4 ** (-np.arange(0, width, 2) / width)
  angles = np.arange(length)[:, None] * rates  # [T, ceil(D / 2)]
  table = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
  return table.reshape(length, -1)[:, :width].astype(np.float32)


class SelfAttention(nn.Module):
  """Multi-head attention of nodes over their ancestors and themselves."""

  num_heads: int
  compute_dtype: str

  @nn.compact
  def __call__(
    self, x: jax.Array, visible: np.ndarray, cache: Pair | None
  ) -> tuple[jax.Array, Pair]:
    """Attends from x [B, U, Q, D] to the cached nodes and to x itself.

    Args:
      x: [B, U, Q, D].
      visible: bool [Q, N + Q].
      cache: keys and values [B, U, N, D], or None where N is 0.

    Returns:
      ([B, U, Q, D], keys and values [B, U, N + Q, D]).
    """
    width, dtype = x.shape[-1], self.compute_dtype
    x = StackedDense(
      3, width, ('embed', 'heads'), dtype, name='query_key_value'
    )(x)
    query, key, value = (x[..., i, :] for i in range(3))
    if cache is not None:
      key = jnp.concatenate([cache[0], key], axis=-2)
      value = jnp.concatenate([cache[1], value], axis=-2)
    x = attend(
      split_heads(query, self.num_heads),
      split_heads(key, self.num_heads),
      split_heads(value, self.num_heads),
      None if visible.all() else visible,
    )
    out = dense(width, ('heads', 'embed'), name='out', compute_dtype=dtype)
    return out(join_heads(x)), (key, value)


class CrossAttention(nn.Module):
  """Multi-head attention from nodes to the input's memory."""

  num_heads: int
  compute_dtype: str

  @nn.compact
  def __call__(
    self, x: jax.Array, memory: jax.Array, mask: jax.Array | None = None
  ) -> jax.Array:
    """Attends from x [B, U, Q, D] to memory [B, M, D].

    Only to slots where mask [B, M] is true, if there is one.

    With one memory slot the softmax runs over one key and is 1: the answer,
    [B, 1, 1, D], is a linear map of the memory, the same for every node, and
    the query and key projections are left out, unless there is a mask: then
    memories may have several slots.
    """
    width, memory = memory.shape[-1], memory[:, None]  # [B, 1, M, D]

    def linear(name: str, axes: tuple[str, str]) -> nn.Dense:
      return dense(width, axes, name, compute_dtype=self.compute_dtype)

    value = linear('value', ('embed', 'heads'))(memory)
    if mask is not None:
      mask = mask[:, None, None, None]  # [B, 1, 1, 1, M]
    if memory.shape[-2] > 1 or mask is not None:
      query = linear('query', ('embed', 'heads'))(layer_norm(name='norm')(x))
      key = linear('key', ('embed', 'heads'))(memory)
      # Nodes of one input share the memory: one row of U · Q queries.
      query = query.reshape(len(x), 1, -1, width)
      value = attend(
        split_heads(query, self.num_heads),
        split_heads(key, self.num_heads),
        split_heads(value, self.num_heads),
        mask,
      )
      value = join_heads(value).reshape(x.shape)
    return linear('out', ('heads', 'embed'))(value)


class Block(nn.Module):
  """Pre-norm decoder layer: self-attention, cross-attention, feed-forward."""

  num_heads: int
  feedforward: int
  dropout: float
  compute_dtype: str

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    memory: jax.Array,
    visible: np.ndarray,
    cache: Pair | None,
    memory_mask: jax.Array | None = None,
  ) -> tuple[jax.Array, Pair]:
    """x [B, U, Q, D] and the keys and values [B, U, N + Q, D] of the layer.

    Of x [1, U, Q, D], which all inputs share, the self-attention is computed
    once and has keys and values [1, U, N + Q, D].
    """
    drop, dtype = Dropout(self.dropout), self.compute_dtype
    y, cache = SelfAttention(self.num_heads, dtype, name='self_attention')(
      layer_norm(name='self_norm')(x), visible, cache
    )
    x = by_rows(x + drop(y))
    if memory.shape[1] > 1 or memory_mask is not None:
      x = jnp.broadcast_to(x, (len(memory), *x.shape[1:]))
    y = CrossAttention(self.num_heads, dtype, name='cross_attention')(
      x, memory, memory_mask
    )
    x = by_rows(x + drop(y))
    y = layer_norm(name='feedforward_norm')(x)
    up = dense(self.feedforward, ('embed', 'mlp'), 'up', compute_dtype=dtype)
    down = dense(x.shape[-1], ('mlp', 'embed'), 'down', compute_dtype=dtype)
    y = by_rows(jax.nn.relu(up(y)), 'mlp')
    y = down(drop(y))
    return by_rows(x + drop(y)), cache


class NumberDecoder(nn.Module):
  """Next-token logits at nodes of the trie, given the memory of an input.

  Attributes:
    allowed: which tokens the grammar allows at each position, [T, V] nested
      tuples of bool.
    width: D.
    num_layers: decoder layers.
    num_heads: H, divides D.
    feedforward: width of the feed-forward layers.
    dropout: rate.
    compute_dtype: of the factors of products with weights, of
      `products.DTYPES`; attention and the last layer's are float32.
  """

  allowed: tuple[tuple[bool, ...], ...]
  width: int
  num_layers: int
  num_heads: int
  feedforward: int
  dropout: float
  compute_dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    memory: jax.Array,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: tuple[Pair, ...] | None = None,
    memory_mask: jax.Array | None = None,
  ) -> tuple[jax.Array, tuple[Pair, ...]]:
    """`Policy.decode` on memory [B, M, D], where memory_mask [B, M] is true.

    Up to the first cross-attention nothing is known of the input: shared
    nodes, tokens [1, U, Q], are one row until then, if nothing is dropped out.
    """
    allowed = np.array(self.allowed)
    length, vocabulary = allowed.shape
    embedding = parameter(
      self,
      'embedding',
      nn.initializers.normal(1.0),
      ('vocab', 'embed'),
      (vocabulary + 1, self.width),
    )
    # A product with one-hot rows: its gradient is a matrix product, where a
    # gather's is a scatter, slow on CPU and not reproducible on GPU.
    if self.has_rng('dropout'):
      tokens = jnp.broadcast_to(tokens, (len(memory), *tokens.shape[1:]))
    tokens = jnp.where(positions == 0, vocabulary, tokens)
    one_hot = jax.nn.one_hot(tokens, vocabulary + 1)
    x = jnp.matmul(one_hot, embedding, precision='highest')  # [B, U, Q, D]
    x = x + sinusoidal_positions(length, self.width)[positions]
    x = by_rows(Dropout(self.dropout)(x))
    caches = []
    for layer in range(self.num_layers):
      block = Block(
        self.num_heads,
        self.feedforward,
        self.dropout,
        self.compute_dtype,
        name=f'layer_{layer}',
      )
      x, kept = block(
        x, memory, visible, None if cache is None else cache[layer], memory_mask
      )
      caches.append(kept)
    x = layer_norm(name='final_norm')(x)
    logits = dense(vocabulary, ('embed', 'vocab'), name='logits')(x)
    logits = logits.astype(jnp.float32)
    return jnp.where(allowed[positions], logits, MASKED), tuple(caches)
