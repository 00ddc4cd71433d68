"""T5Gemma's encoder with a decoder of numbers, as regression language models.

RLM (arXiv 2509.26476) reads code with the encoder of a T5Gemma and writes a
metric, digit by digit, with a small decoder of its own.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.decoder import NumberDecoder
from genre2_jax.models.gemma.backbone import (
  Backbone,
  below_low_rank,
  initializer,
)
from genre2_jax.models.gemma.layers import Lora, Numerics
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.layers import dense, encode_and_decode
from genre2_jax.policy import Cache, Inputs, Policy
from genre2_jax.tokenizers import Tokenizer

# Sizes of the encoder of google/t5gemma-s-s-*, 'small' as in the T5 paper.
T5GEMMA_SMALL = GemmaConfig(
  width=512,
  num_layers=8,
  num_heads=8,
  num_kv_heads=8,
  head_dim=64,
  feedforward=1024,
)


class TextEncoderDecoder(nn.Module):
  """An encoder of texts and a decoder of numbers.

  Attributes:
    config: sizes of the encoder.
    numerics: how the encoder is computed; the decoder is float32.
    decoder: a `NumberDecoder`.
  """

  config: GemmaConfig
  numerics: Numerics
  decoder: NumberDecoder

  def setup(self) -> None:
    self.backbone = Backbone(self.config, self.numerics)
    if self.decoder.width != self.config.width:
      self.bridge = dense(self.decoder.width, ('embed', None))

  def encode(self, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """Memory [B, L, D] and which of it is text, bool [B, L]."""
    hidden, _ = self.backbone.read(inputs, bidirectional=True)
    hidden = hidden.astype(jnp.float32)
    if self.decoder.width != self.config.width:
      hidden = self.bridge(hidden)
    place = np.arange(hidden.shape[1])
    return hidden, place < inputs['length'][:, None]

  def decode(
    self,
    context: tuple[jax.Array, jax.Array],
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Cache = None,
  ) -> tuple[jax.Array, Cache]:
    """`Policy.decode`."""
    memory, mask = context
    return self.decoder(memory, tokens, positions, visible, cache, mask)

  def __call__(self, inputs: Inputs) -> tuple[jax.Array, Cache]:
    """Touches every parameter, for `init`."""
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    visible = np.ones((1, 1), bool)
    return self.decode(self.encode(inputs), tokens, np.zeros(1, int), visible)


def t5gemma_policy(
  tokenizer: Tokenizer,
  config: GemmaConfig,
  *,
  width: int = 512,
  num_layers: int = 2,
  num_heads: int = 8,
  feedforward: int = 2048,
  dropout: float = 0.0,
  decoder_dtype: str = 'float32',
  encoder_dropout: float = 0.0,
  frozen: bool = True,
  compute_dtype: str = 'bfloat16',
  param_dtype: str = 'float32',
  remat: bool = False,
  attention_block: int = 0,
  lora: Lora | None = None,
) -> Policy:
  """The `Policy` of a T5Gemma encoder and a number decoder.

  Args:
    tokenizer: the number vocabulary.
    config: a `GemmaConfig`, of the encoder.
    width: D of the decoder; where it is not the encoder's, a linear layer
      stands between them.
    num_layers: decoder layers.
    num_heads: attention heads of the decoder, divides `width`.
    feedforward: width of the decoder's feed-forward layers.
    dropout: rate in the decoder, where a key is given.
    decoder_dtype: `NumberDecoder.compute_dtype`.
    encoder_dropout: the same in the encoder.
    frozen: whether the encoder is never trained.
    compute_dtype: of the encoder, 'bfloat16' or 'float32'.
    param_dtype: of the encoder's parameters as they are kept.
    remat: whether encoder layers are computed again in the backward pass.
    attention_block: of `Numerics`.
    lora: a `Lora` in the encoder, whose updates are trained; or None.

  Returns:
    A `Policy`; inputs are `{'tokens': int32 [B, L], 'length': int32 [B]}`,
    right-padded, length ≥ 1. `init` takes a third argument, `given`, as
    that of `gemma_policy`. The context is memory [B, L, D] and its mask.
  """
  model = TextEncoderDecoder(
    config,
    Numerics(
      compute_dtype=compute_dtype,
      param_dtype=param_dtype,
      remat=remat,
      attention_block=attention_block,
      dropout=encoder_dropout,
      lora=lora,
    ),
    NumberDecoder(
      allowed=tuple(map(tuple, np.asarray(tokenizer.allowed).tolist())),
      width=width,
      num_layers=num_layers,
      num_heads=num_heads,
      feedforward=feedforward,
      dropout=dropout,
      compute_dtype=decoder_dtype,
    ),
  )

  is_frozen = _encoder if frozen else None
  if lora is not None:
    is_frozen = below_low_rank
  encode, decode = encode_and_decode(model)
  return Policy(tokenizer, initializer(model), encode, decode, frozen=is_frozen)


def _encoder(path: tuple[str, ...]) -> bool:
  return path[0] == 'backbone'
