"""A Gemma on whole texts: what a language model is pretrained as."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre2_jax.models.gemma.backbone import Backbone
from genre2_jax.models.gemma.layers import Numerics
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.policy import Pointwise


class CausalLanguageModel(nn.Module):
  """Next-token logits at every place of a text, over all subwords.

  Attributes:
    config: sizes.
    numerics: how it is computed.
  """

  config: GemmaConfig
  numerics: Numerics

  def setup(self) -> None:
    self.backbone = Backbone(self.config, self.numerics)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Float32 logits [B, L, vocab_size] of tokens int [B, L]."""
    length = jnp.full(len(tokens), tokens.shape[1], jnp.int32)
    x, _ = self.backbone.read({'tokens': tokens, 'length': length})
    return self.backbone.project(x, self.backbone.embedding)


def causal_language_model(config: GemmaConfig, **numerics: Any) -> Pointwise:
  """A Gemma whose prediction is its own loss on a text.

  −(1/(L − 1)) · Σ_t log p(token t | tokens before it), in nats per subword: the
  `Pointwise` that a stage trains with `objectives.point.Predicted`.

  Args:
    config: sizes.
    **numerics: fields of `Numerics`.

  Returns:
    Functions of inputs int [B, L]; parameters lie below 'backbone', as
    `pretrained.save` takes them.
  """
  model = CausalLanguageModel(config, Numerics(**numerics))

  def init(key, inputs):
    return model.init(key, inputs[:, :2])['params']

  def predict(params, inputs, dropout_key=None):
    del dropout_key  # There is none.
    logits: Any = model.apply({'params': params}, inputs[:, :-1])
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, inputs[:, 1:, None], axis=-1)
    return -jnp.mean(chosen[..., 0], axis=-1)

  return Pointwise(init=init, predict=predict)
