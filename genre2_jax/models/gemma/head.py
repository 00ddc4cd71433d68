"""Gemma with a predictive head: a text in, one number out."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.gemma.backbone import (
  ATTENTION,
  Backbone,
  check_choice,
  frozen_of,
  initializer,
)
from genre2_jax.models.gemma.layers import Linear, Lora, Numerics
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.layers import MASKED, parameter
from genre2_jax.policy import Inputs, Params, Pointwise

HEADS = ('special_token', 'mlp', 'mean', 'min', 'max', 'projection')
ACTIVATIONS = {'sigmoid': jax.nn.sigmoid, 'relu': jax.nn.relu}


class HeadModel(nn.Module):
  """A backbone that predicts one number from a text.

  Attributes:
    kind: of `HEADS`.
    config: sizes.
    numerics: how it is computed.
    special_token: subword whose logit is the prediction.
    hidden: width of the MLP.
    activation: of the MLP's units, a name of `ACTIVATIONS`.
    bidirectional: whether the tokens of the text see each other.
  """

  kind: str
  config: GemmaConfig
  numerics: Numerics
  special_token: int | None
  hidden: int
  activation: str
  bidirectional: bool

  def setup(self) -> None:
    self.backbone = Backbone(self.config, self.numerics)
    bias = nn.initializers.zeros_init()
    plain = dataclasses.replace(self.numerics, lora=None)
    if self.kind != 'special_token':
      first = 'embed' if self.kind in ('mean', 'min', 'max') else 'vocab'
      if self.kind == 'mlp':
        self.hidden_layer = Linear(self.hidden, ('vocab', 'mlp'), plain)
        self.hidden_bias = parameter(
          self, 'hidden_bias', bias, ('mlp',), (self.hidden,)
        )
        first = 'mlp'
      self.out = Linear(1, (first, None), plain)
    self.out_bias = parameter(self, 'out_bias', bias, (None,), (1,))

  def __call__(self, inputs: Inputs) -> jax.Array:
    """Predictions [B], float32."""
    embedding = self.backbone.embedding
    hidden, _ = self.backbone.read(inputs, self.bidirectional)  # [B, L, D]
    length = inputs['length'][:, None]
    if self.kind in ('mean', 'min', 'max'):
      real = (np.arange(hidden.shape[1]) < length)[..., None]
      hidden = hidden.astype(jnp.float32)
      if self.kind == 'mean':
        pooled = jnp.sum(jnp.where(real, hidden, 0), 1) / length
      elif self.kind == 'max':
        pooled = jnp.max(jnp.where(real, hidden, MASKED), 1)
      else:
        pooled = jnp.min(jnp.where(real, hidden, -MASKED), 1)
      return self.out(pooled)[:, 0] + self.out_bias
    last = jnp.take_along_axis(hidden, length[..., None] - 1, axis=1)[:, 0]
    if self.kind == 'special_token':
      row = embedding[self.special_token][None]
      return self.backbone.project(last, row)[:, 0] + self.out_bias
    logits = self.backbone.project(last, embedding)
    if self.kind == 'projection':
      return self.out(jax.nn.softmax(logits))[:, 0] + self.out_bias
    units = ACTIVATIONS[self.activation]
    hidden = units(self.hidden_layer(logits) + self.hidden_bias)
    return self.out(hidden)[:, 0] + self.out_bias


def gemma_head(
  kind: str,
  config: GemmaConfig,
  *,
  special_token: int | None = None,
  hidden: int = 128,
  activation: str = 'sigmoid',
  attention: str = 'causal',
  compute_dtype: str = 'bfloat16',
  param_dtype: str = 'float32',
  remat: bool = False,
  attention_block: int = 0,
  dropout: float = 0.0,
  lora: Lora | None = None,
  freeze_embedding: bool = False,
) -> Pointwise:
  """A Gemma with a predictive head, for MSE (Lukasik et al., ICLR 2025).

  Args:
    kind: of the logits f [V] after the text, 'special_token': b + f_v of one
      subword v; 'mlp': b + wᵀσ(c + W f); 'projection': b + Σ_v p_v·w_v over all
      subwords, p = softmax f; 'mean', 'min', 'max': a linear map of the last
      layer's hidden states, pooled over the text.
    config: a `GemmaConfig`.
    special_token: id of the subword of 'special_token'.
    hidden: width of the MLP.
    activation: σ: 'sigmoid', the paper's, or 'relu'.
    attention: in the text: 'causal' or 'bidirectional'.
    compute_dtype: of the backbone, see `gemma_policy`; heads are float32.
    param_dtype: of the backbone's parameters and of large heads.
    remat: whether layers are computed again in the backward pass.
    attention_block: of `Numerics`.
    dropout: rate on what each sublayer adds, where a key is given.
    lora: a `Lora`: the backbone is then frozen, low-rank updates and the head
      are trained; or None.
    freeze_embedding: whether the embedding of subwords is never trained.

  Returns:
    A `Pointwise`; inputs and `init` are those of `gemma_policy`.

  Raises:
    ValueError: arguments that do not fit together.
  """
  check_choice('head', kind, HEADS)
  check_choice('attention', attention, ATTENTION)
  check_choice('activation', activation, tuple(ACTIVATIONS))
  if kind == 'special_token' and (
    special_token is None or not 0 <= special_token < config.vocab_size
  ):
    raise ValueError(
      f'special_token={special_token!r}: give a subword of the '
      f'{config.vocab_size}'
    )
  model = HeadModel(
    kind,
    config,
    Numerics(
      compute_dtype=compute_dtype,
      param_dtype=param_dtype,
      remat=remat,
      attention_block=attention_block,
      dropout=dropout,
      lora=lora,
    ),
    special_token=special_token,
    hidden=hidden,
    activation=activation,
    bidirectional=attention == 'bidirectional',
  )

  def predict(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> Any:
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    return model.apply({'params': params}, inputs, rngs=rngs)

  return Pointwise(
    initializer(model), predict, frozen=frozen_of(lora, freeze_embedding)
  )
