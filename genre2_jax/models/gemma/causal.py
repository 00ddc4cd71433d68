"""A Gemma-2 on whole texts: what a language model is pretrained as."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre2_jax.models.gemma.backbone import Backbone
from genre2_jax.models.gemma.layers import Numerics
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.policy import Params


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


def causal_language_model(
  config: GemmaConfig, **numerics: Any
) -> tuple[
  Callable[[jax.Array], Params], Callable[[Params, jax.Array], jax.Array]
]:
  """A Gemma-2 as pure functions: (init, loss).

  Args:
    config: a `GemmaConfig`.
    **numerics: fields of `Numerics`.

  Returns:
    `(key) -> params`, unboxed, below 'backbone' as `pretrained.save` takes
    them, and `(params, tokens [B, L]) -> [B, L - 1]`, cross-entropy in nats of
    every token but the first, given those before it.
  """
  model = CausalLanguageModel(config, Numerics(**numerics))

  def init(key: jax.Array) -> Params:
    return nn.unbox(model.init(key, jnp.zeros((1, 2), jnp.int32))['params'])

  def loss(params: Params, tokens: jax.Array) -> jax.Array:
    logits: Any = model.apply({'params': params}, tokens[:, :-1])
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)
    return -chosen[..., 0]

  return init, loss
