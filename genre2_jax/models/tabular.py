"""GenRe²'s model for tables: an MLP encoder and a number decoder."""

import flax.linen as nn
import jax

from genre2_jax.models.decoder import NumberDecoder
from genre2_jax.models.encoders import MLPEncoder
from genre2_jax.policy import Policy


class TabularModel(nn.Module):
  """An encoder and a decoder behind one set of parameters."""

  encoder: nn.Module
  decoder: nn.Module

  def encode(self, inputs):
    return self.encoder(inputs)

  def decode(self, memory, tokens, position, cache=None):
    return self.decoder(memory, tokens, position, cache)

  def __call__(self, inputs, tokens):
    return self.decode(self.encode(inputs), tokens, 0)


def tabular_policy(
  tokenizer,
  *,
  cardinalities,
  width,
  num_layers,
  num_heads,
  feedforward,
  encoder_hidden,
  encoder_layers,
  dropout,
):
  """The `Policy` of GenRe² (arXiv 2512.06533, section 4) for tables.

  Args:
    tokenizer: the number vocabulary.
    cardinalities: number of codes of each categorical column.
    width: D of the decoder and of the memory.
    num_layers: decoder layers.
    num_heads: attention heads, divides `width`.
    feedforward: width of the decoder's feed-forward layers.
    encoder_hidden: width of the encoder's hidden layers.
    encoder_layers: hidden layers of the encoder.
    dropout: rate, in training by cross-entropy only.

  Returns:
    A `Policy`; inputs are `{'numeric': [B, F], 'categories': [B, C]}`.
  """
  model = TabularModel(
    encoder=MLPEncoder(
      width=width,
      hidden=encoder_hidden,
      num_layers=encoder_layers,
      dropout=dropout,
      cardinalities=tuple(cardinalities),
    ),
    decoder=NumberDecoder(
      allowed=tuple(map(tuple, tokenizer.allowed.tolist())),
      width=width,
      num_layers=num_layers,
      num_heads=num_heads,
      feedforward=feedforward,
      dropout=dropout,
    ),
  )

  def apply(params, method, *args, dropout_key=None):
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    return model.apply({'params': params}, *args, method=method, rngs=rngs)

  def init(key, inputs):
    one = jax.tree.map(lambda x: x[:1], inputs)
    tokens = jax.numpy.zeros((1, 1, tokenizer.num_tokens), int)
    return model.init(key, one, tokens)['params']

  def encode(params, inputs, dropout_key=None):
    return apply(params, 'encode', inputs, dropout_key=dropout_key)

  def score(params, context, tokens, dropout_key=None):
    before = jax.numpy.roll(tokens, 1, axis=-1)[:, None]  # [B, 1, T]
    logits, _ = apply(
      params, 'decode', context, before, 0, dropout_key=dropout_key
    )
    return logits[:, 0]

  def decode_step(params, context, cache, tokens, position):
    if position == 0:
      batch = jax.tree.leaves(context)[0].shape[0]
      tokens = jax.numpy.zeros((batch, 1), int)
    logits, cache = apply(
      params, 'decode', context, tokens[..., None], position, cache
    )
    return logits[..., 0, :], cache

  return Policy(tokenizer, init, encode, score, decode_step)
