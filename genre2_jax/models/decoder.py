"""A transformer decoder that writes numbers: GenRe²'s (arXiv 2512.06533)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.layers import MASKED, Dropout, attend, dense, layer_norm


def sinusoidal_positions(length, width):
  """sin and cos of position / 10000^(2i/D) (Vaswani et al. 2017): [T, D]."""
  rates = 1e4 ** (-np.arange(0, width, 2) / width)
  angles = np.arange(length)[:, None] * rates  # [T, ceil(D / 2)]
  table = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
  return table.reshape(length, -1)[:, :width].astype(np.float32)


class SelfAttention(nn.Module):
  """Multi-head attention over the tokens written so far."""

  num_heads: int

  @nn.compact
  def __call__(self, x, cache=None, mask=None):
    """Attends from x [..., Q, D] to the cached tokens and to x itself.

    Args:
      x: [..., Q, D].
      cache: keys and values [..., K, H, D/H] of earlier tokens, or None.
      mask: bool [Q, K + Q], or None when all may be seen.

    Returns:
      ([..., Q, D], keys and values [..., K + Q, H, D/H]).
    """
    width = x.shape[-1]
    heads = (self.num_heads, width // self.num_heads)
    x = dense(3 * width, ('embed', 'heads'), name='query_key_value')(x)
    query, key, value = (
      part.reshape(*part.shape[:-1], *heads) for part in jnp.split(x, 3, -1)
    )
    if cache is not None:
      key = jnp.concatenate([cache[0], key], axis=-3)
      value = jnp.concatenate([cache[1], value], axis=-3)
    x = attend(query, key, value, mask)
    x = x.reshape(*x.shape[:-2], width)
    return dense(width, ('heads', 'embed'), name='out')(x), (key, value)


class CrossAttention(nn.Module):
  """Multi-head attention from number tokens to the input's memory."""

  num_heads: int

  @nn.compact
  def __call__(self, x, memory):
    """Attends from x [B, U, Q, D] to memory [B, M, D].

    With one memory slot the softmax runs over one key and is 1: the answer is
    a linear map of the memory, the same for every token, and the query and key
    projections are left out.
    """
    width = memory.shape[-1]
    value = dense(width, ('embed', 'heads'), name='value')(memory)
    if memory.shape[-2] > 1:
      heads = (self.num_heads, width // self.num_heads)
      query = dense(width, ('embed', 'heads'), name='query')(
        layer_norm(name='norm')(x)
      )
      key = dense(width, ('embed', 'heads'), name='key')(memory)
      value = attend(
        query.reshape(*query.shape[:-1], *heads),
        key.reshape(*key.shape[:-1], *heads)[:, None],
        value.reshape(*value.shape[:-1], *heads)[:, None],
      ).reshape(x.shape)  # [B, U, Q, D]
    else:
      value = value[:, None]  # [B, 1, 1, D]
    return dense(width, ('heads', 'embed'), name='out')(value)


class Block(nn.Module):
  """Pre-norm decoder layer: self-attention, cross-attention, feed-forward."""

  num_heads: int
  feedforward: int
  dropout: float

  @nn.compact
  def __call__(self, x, memory, cache, mask):
    drop = Dropout(self.dropout)
    y, cache = SelfAttention(self.num_heads, name='self_attention')(
      layer_norm(name='self_norm')(x), cache, mask
    )
    x = x + drop(y)
    x = x + drop(CrossAttention(self.num_heads, name='cross')(x, memory))
    y = layer_norm(name='feedforward_norm')(x)
    y = jax.nn.relu(dense(self.feedforward, ('embed', 'mlp'), name='up')(y))
    y = dense(x.shape[-1], ('mlp', 'embed'), name='down')(drop(y))
    return x + drop(y), cache


class NumberDecoder(nn.Module):
  """Next-token logits of a number, given the memory of its input.

  One function serves teacher forcing (Q = T tokens of one number, causal
  mask) and decoding (Q = 1 token of each of U numbers, with a cache).

  Attributes:
    allowed: which tokens the grammar allows at each position, [T, V] nested
      tuples of bool.
    width: D.
    num_layers: decoder layers.
    num_heads: H, divides D.
    feedforward: width of the feed-forward layers.
    dropout: rate.
  """

  allowed: tuple[tuple[bool, ...], ...]
  width: int
  num_layers: int
  num_heads: int
  feedforward: int
  dropout: float

  @nn.compact
  def __call__(self, memory, tokens, position, cache=None):
    """Logits of the tokens at `position` .. `position + Q - 1`.

    Args:
      memory: [B, M, D].
      tokens: int [B, U, Q], the token *before* each position; 0 is read at
        position 0, where a learned start vector stands instead.
      position: Python int, the position of the first token.
      cache: a tuple per layer, or None at position 0.

    Returns:
      (logits float32 [B, U, Q, V], cache).
    """
    allowed = np.array(self.allowed)
    length, vocabulary = allowed.shape
    positions = np.arange(position, position + tokens.shape[-1])
    embedding = self.param(
      'embedding',
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0), ('vocab', 'embed')
      ),
      (vocabulary + 1, self.width),
    )
    # A product with one-hot rows: its gradient is a matrix product, where a
    # gather's is a scatter, slow on CPU and not reproducible on GPU.
    start = positions == 0
    one_hot = jax.nn.one_hot(
      jnp.where(start, vocabulary, tokens), vocabulary + 1
    )
    x = jnp.matmul(one_hot, embedding, precision='highest')  # [B, U, Q, D]
    x = x + sinusoidal_positions(length, self.width)[positions]
    x = Dropout(self.dropout)(x)
    mask = None
    if len(positions) > 1:
      mask = np.arange(positions[-1] + 1) <= positions[:, None]  # [Q, K + Q]
    caches = []
    for layer in range(self.num_layers):
      block = Block(
        self.num_heads, self.feedforward, self.dropout, name=f'layer_{layer}'
      )
      x, kept = block(x, memory, cache and cache[layer], mask)
      caches.append(kept)
    x = layer_norm(name='final_norm')(x)
    logits = dense(vocabulary, ('embed', 'vocab'), name='logits')(x)
    logits = logits.astype(jnp.float32)
    return jnp.where(allowed[positions], logits, MASKED), tuple(caches)
