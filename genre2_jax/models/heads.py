"""Regressors without a decoder.

A histogram is a decoder of one token, and an MLP that gives the logits of every
node of the trie writes digits like any other: both are a `Policy`, and every
objective, estimator and metric works with them. A pointwise head predicts one
number.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.encoders import MLPEncoder, feature_embedding
from genre2_jax.models.layers import MASKED
from genre2_jax.policy import (
  Cache,
  Inputs,
  Params,
  Pointwise,
  Policy,
  tables,
  trie,
)
from genre2_jax.tokenizers import Tokenizer


def histogram_policy(
  tokenizer: Tokenizer,
  *,
  hidden: int = 2048,
  num_layers: int = 3,
  dropout: float = 0.1,
  ensemble_members: int = 1,
  compute_dtype: str = 'float32',
  own_dropout: bool = False,
  **features: Any,
) -> Policy:
  """An MLP to the logits of V bins: GenRe²'s Riemann head (arXiv 2512.06533).

  With k members p = (1/k) Σ_m p_m, as TabM (arXiv 2410.24210) predicts classes;
  but the loss is that of p, where TabM averages the losses of the p_m.

  Args:
    tokenizer: one token per number, T = 1.
    hidden: width of the hidden layers.
    num_layers: hidden layers, each linear, ReLU, dropout.
    dropout: rate.
    ensemble_members: k, members of an implicit ensemble (`MLPEncoder`).
    compute_dtype: of the layers' products: `MLPEncoder`.
    own_dropout: whether each member of a pack has its own rate.
    **features: cardinalities and what else `feature_embedding` takes.

  Returns:
    A `Policy`; inputs are `{'numeric': [B, F], 'categories': [B, C]}`, the
    context is logits [B, V], and the cache is empty.

  Raises:
    ValueError: the tokenizer writes more than one token, or features that do
      not fit together.
  """
  if tokenizer.num_tokens != 1:
    raise ValueError(
      f'a histogram is one token, and this tokenizer writes '
      f'{tokenizer.num_tokens}: give one of a single position'
    )
  init, apply = _functions(
    MLPEncoder(
      embedding=feature_embedding(**features),
      width=tokenizer.vocab_size,
      hidden=hidden,
      num_layers=num_layers,
      dropout=dropout,
      num_members=ensemble_members,
      compute_dtype=compute_dtype,
      own_dropout=own_dropout,
      out_axis='vocab',
    )
  )
  allowed = np.array(tokenizer.allowed[0])

  def encode(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    logits = apply(params, inputs, dropout_key).astype(jnp.float32)
    logits = jnp.where(allowed, logits, MASKED)  # [B, k, V]
    if ensemble_members == 1:
      return logits[:, 0]
    log_probs = jax.nn.log_softmax(logits)
    mixture = jax.nn.logsumexp(log_probs, axis=1) - np.log(ensemble_members)
    return jnp.where(allowed, mixture, MASKED)

  def decode(
    params: Params,
    context: jax.Array,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Cache = None,
    dropout_key: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    # Nothing is left to compute: every node is the root.
    del params, positions, visible, cache, dropout_key
    shape = (*tokens.shape, context.shape[-1])
    return jnp.broadcast_to(context[:, None, None], shape), ()

  return Policy(tokenizer, init, encode, decode)


def trie_policy(
  tokenizer: Tokenizer,
  *,
  hidden: int = 2048,
  num_layers: int = 3,
  dropout: float = 0.1,
  ensemble_members: int = 1,
  compute_dtype: str = 'float32',
  own_dropout: bool = False,
  starts_at_zero: bool = False,
  **features: Any,
) -> Policy:
  """An MLP to the logits of all nodes of the trie at once.

  It writes the numbers that a decoder would, digit by digit, but no digit costs
  a forward pass: all of them are one matrix product. With k members p is the
  mean of the members' distributions over numbers.

  Args:
    tokenizer: the number vocabulary, N nodes.
    hidden: width of the hidden layers.
    num_layers: hidden layers, each linear, ReLU, dropout.
    dropout: rate.
    ensemble_members: k, members of an implicit ensemble (`MLPEncoder`).
    compute_dtype: of the layers' products: `MLPEncoder`.
    own_dropout: whether each member of a pack has its own rate.
    starts_at_zero: whether all logits are zero at the start.
    **features: cardinalities and what else `feature_embedding` takes.

  Returns:
    A `Policy`; inputs are `{'numeric': [B, F], 'categories': [B, C]}`, the
    context is the logits [B, N, V].

  Raises:
    ValueError: features that do not fit together.
  """
  allowed = tables.allowed_at_nodes(tokenizer)
  init, apply = _functions(
    MLPEncoder(
      embedding=feature_embedding(**features),
      width=allowed.size,
      hidden=hidden,
      num_layers=num_layers,
      dropout=dropout,
      num_members=ensemble_members,
      compute_dtype=compute_dtype,
      own_dropout=own_dropout,
      out_axis='vocab',
      starts_at_zero=starts_at_zero,
    )
  )
  one = Policy(
    tokenizer, init, apply, tables.decode_of(tokenizer), is_table=True
  )

  def encode(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    logits = apply(params, inputs, dropout_key).astype(jnp.float32)
    logits = logits.reshape(*logits.shape[:2], *allowed.shape)
    logits = jnp.where(allowed, logits, MASKED)  # [B, k, N, V]
    if ensemble_members == 1:
      return logits[:, 0]
    rows = logits.reshape(-1, *allowed.shape)
    log_p = trie.log_probs(one, params, rows)
    log_p = log_p.reshape(*logits.shape[:2], -1)
    mixture = jax.nn.logsumexp(log_p, axis=1) - np.log(ensemble_members)
    return tables.logits_of(tokenizer, mixture)

  return one._replace(encode=encode)


def pointwise_head(
  *,
  hidden: int = 2048,
  num_layers: int = 3,
  dropout: float = 0.1,
  ensemble_members: int = 1,
  compute_dtype: str = 'float32',
  own_dropout: bool = False,
  **features: Any,
) -> Pointwise:
  """An MLP to one number: GenRe²'s pointwise head (arXiv 2512.06533), for MSE.

  The paper gives its width, activation and dropout; the number of layers is
  taken from its Riemann head. With k members ŷ = (1/k) Σ_m ŷ_m, as TabM (arXiv
  2410.24210) predicts; but a loss of ŷ is not TabM's mean of the members' own.

  Args:
    hidden: width of the hidden layers.
    num_layers: hidden layers, each linear, ReLU, dropout.
    dropout: rate.
    ensemble_members: k, members of an implicit ensemble (`MLPEncoder`).
    compute_dtype: of the layers' products: `MLPEncoder`.
    own_dropout: whether each member of a pack has its own rate.
    **features: cardinalities and what else `feature_embedding` takes.

  Returns:
    A `Pointwise`; inputs are `{'numeric': [B, F], 'categories': [B, C]}`.

  Raises:
    ValueError: features that do not fit together.
  """
  init, apply = _functions(
    MLPEncoder(
      embedding=feature_embedding(**features),
      width=1,
      hidden=hidden,
      num_layers=num_layers,
      dropout=dropout,
      num_members=ensemble_members,
      compute_dtype=compute_dtype,
      own_dropout=own_dropout,
      out_axis=None,
    )
  )

  def predict(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    members = apply(params, inputs, dropout_key)[..., 0]  # [B, k]
    return members.astype(jnp.float32).mean(axis=-1)

  return Pointwise(init, predict)


def _functions(
  model: nn.Module,
) -> tuple[Callable[..., Params], Callable[..., jax.Array]]:
  """A module's `init(key, inputs)` and `apply(params, inputs, dropout_key)`."""

  def init(key: jax.Array, inputs: Inputs) -> Params:
    one = jax.tree.map(lambda x: x[:1], inputs)
    return model.init(key, one)['params']

  def apply(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None
  ) -> Any:
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    return model.apply({'params': params}, inputs, rngs=rngs)

  return init, apply
