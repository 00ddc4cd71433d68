"""GenRe²'s model for tables: an MLP encoder and a number decoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.decoder import NumberDecoder
from genre2_jax.models.encoders import MLPEncoder, feature_embedding
from genre2_jax.models.layers import encode_and_decode
from genre2_jax.policy import Cache, Inputs, Params, Policy
from genre2_jax.tokenizers import Tokenizer


class TabularModel(nn.Module):
  """An encoder and a decoder behind one set of parameters."""

  encoder: nn.Module
  decoder: nn.Module

  def encode(self, inputs: Inputs) -> jax.Array:
    """Memory [B, k, D]."""
    return self.encoder(inputs)

  def decode(
    self,
    memory: jax.Array,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Cache = None,
  ) -> tuple[jax.Array, Cache]:
    """`Policy.decode`."""
    return self.decoder(memory, tokens, positions, visible, cache)

  def __call__(self, inputs: Inputs) -> tuple[jax.Array, Cache]:
    """Touches every parameter, for `init`."""
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    visible = np.ones((1, 1), bool)
    return self.decode(self.encode(inputs), tokens, np.zeros(1, int), visible)


def tabular_policy(
  tokenizer: Tokenizer,
  *,
  width: int,
  num_layers: int,
  num_heads: int,
  feedforward: int,
  encoder_hidden: int,
  encoder_layers: int,
  dropout: float,
  ensemble_members: int = 1,
  compute_dtype: str = 'float32',
  **features: Any,
) -> Policy:
  """The `Policy` of GenRe² (arXiv 2512.06533, section 4) for tables.

  Args:
    tokenizer: the number vocabulary.
    width: D of the decoder and of the memory.
    num_layers: decoder layers.
    num_heads: attention heads, divides `width`.
    feedforward: width of the decoder's feed-forward layers.
    encoder_hidden: width of the encoder's hidden layers.
    encoder_layers: hidden layers of the encoder.
    dropout: rate, in training by cross-entropy only.
    ensemble_members: k memory slots, one per member of an implicit ensemble
      of encoders (`MLPEncoder`); 1 is the paper's encoder.
    compute_dtype: of the factors of products with weights: 'float32', or
      'bfloat16', where attention, norms and logits are float32 all the same.
    **features: cardinalities and what else `feature_embedding` takes:
      quantiles, numeric_embedding, category_embedding, num_frequencies,
      frequency_scale, embedding_width. Its defaults are the paper's features.

  Returns:
    A `Policy`; inputs are `{'numeric': [B, F], 'categories': [B, C]}`.

  Raises:
    ValueError: features that do not fit together, in `init` where only the
      inputs tell.
  """
  model = TabularModel(
    encoder=MLPEncoder(
      embedding=feature_embedding(**features),
      width=width,
      hidden=encoder_hidden,
      num_layers=encoder_layers,
      dropout=dropout,
      num_members=ensemble_members,
      compute_dtype=compute_dtype,
    ),
    decoder=NumberDecoder(
      allowed=tuple(map(tuple, tokenizer.allowed.tolist())),
      width=width,
      num_layers=num_layers,
      num_heads=num_heads,
      feedforward=feedforward,
      dropout=dropout,
      compute_dtype=compute_dtype,
    ),
  )

  def init(key: jax.Array, inputs: Inputs) -> Params:
    one = jax.tree.map(lambda x: x[:1], inputs)
    return model.init(key, one)['params']

  encode, decode = encode_and_decode(model)
  return Policy(tokenizer, init, encode, decode, shares_nodes=True)
