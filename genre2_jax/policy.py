"""A policy is a distribution over numbers, and all works against its face.

The tabular encoder-decoder offers these functions, and so does any model that
joins: with them every objective, estimator and metric of this project works
with every model. Shapes use the project's letters: B batch, U rows per input
(samples, or prefixes), T number tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from genre2_jax.tokenizers import Tokenizer

# What only a model can look into: arrays in any nesting.
Params = Any
Context = Any  # leading axis B
Cache = Any  # leading axes [B, U]


class Policy(NamedTuple):
  """p(number | input) as pure functions of parameters.

  Logits are float32 and grammatical: tokens that the tokenizer forbids at a
  position stand at a finite, very low value, so that they get probability
  exactly 0 and the gradient stays finite.

  Attributes:
    tokenizer: the number vocabulary.
    init: `(key, inputs) -> params`, boxed with logical axis names for
      `sharding.py` to read.
    encode: `(params, inputs, dropout_key=None) -> context`. Once per input,
      never once per sample. No dropout without a key.
    score: `(params, context, tokens [B, T], dropout_key=None) ->
      logits [B, T, V]`, teacher forcing: position t sees tokens[:, :t].
    decode_step: `(params, context, cache, tokens [B, U], position) ->
      (logits [B, U, V], cache)`. `position` is a Python int; at 0, `tokens`
      and `cache` are None and U is 1: every number starts at the same place.
      The cache's leaves keep the leading axes [B, U], so that a caller can
      repeat or select rows without knowing the model.
  """

  tokenizer: Tokenizer
  init: Callable[..., Params]
  encode: Callable[..., Context]
  score: Callable[..., Any]
  decode_step: Callable[..., Any]
