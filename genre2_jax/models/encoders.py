"""From a table's row to the memory that the decoder reads."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre2_jax.models.layers import Dropout, dense


class MLPEncoder(nn.Module):
  """GenRe²'s encoder (arXiv 2512.06533): an MLP to one memory slot.

  Attributes:
    width: D, the decoder's width.
    hidden: width of the hidden layers.
    num_layers: hidden layers, each linear, ReLU, dropout.
    dropout: rate after each hidden layer.
    cardinalities: number of codes of each categorical column.
  """

  width: int
  hidden: int
  num_layers: int
  dropout: float
  cardinalities: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, inputs):
    """Maps `numeric` [B, F] and `categories` [B, C] to memory [B, 1, D]."""
    # Ordinal codes in [-1, 1]: as raw integers a column of fifty categories
    # would drown the standardised numbers beside it.
    last = jnp.maximum(jnp.array(self.cardinalities, jnp.float32) - 1, 1)
    codes = 2 * inputs['categories'].astype(jnp.float32) / last - 1
    x = jnp.concatenate([inputs['numeric'], codes], axis=-1)  # [B, F + C]
    for _ in range(self.num_layers):
      x = jax.nn.relu(dense(self.hidden, (None, 'mlp'))(x))
      x = Dropout(self.dropout)(x)
    return dense(self.width, ('mlp', 'embed'))(x)[:, None]  # [B, 1, D]
