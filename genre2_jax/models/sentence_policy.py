"""A sentence encoder that is trained together with the network of a table."""

from typing import Any

import jax
import jax.numpy as jnp

from genre2_jax.models import pairs
from genre2_jax.models.bert import Bert
from genre2_jax.models.gemma.backbone import merged
from genre2_jax.policy import Context, Inputs, Params, Pointwise, Policy

# Of a cosine, whose deviation is about a quarter.
_COSINE_SCALE = 4.0


def with_encoder(base: Policy | Pointwise, encoder: Bert) -> Policy | Pointwise:
  """The network of a table on what an encoder says of one text or a pair.

  Args:
    base: reads `{'numeric': [B, F], 'categories': [B, 0]}`.
    encoder: of the texts.

  Returns:
    A network of the same kind; inputs are those of `SentenceFeatures`,
    `{'tokens': int32 [B, P, L], 'lengths': int32 [B, P], ...}` with P 1 or 2.
    Parameters are `{'backbone': ..., 'head': ...}`; `init` takes a third
    argument, `given`, as that of `gemma_policy`.
  """

  def numbers(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None
  ) -> dict[str, jax.Array]:
    keys: list[jax.Array | None] = [None] * inputs['tokens'].shape[1]
    if dropout_key is not None:
      keys = [jax.random.fold_in(dropout_key, 1 + i) for i in range(len(keys))]
    vectors: list[Any] = [
      encoder.apply(
        {'params': params['backbone']},
        inputs['tokens'][:, place],
        inputs['lengths'][:, place],
        rngs=None if key is None else {'dropout': key},
      )
      for place, key in enumerate(keys)
    ]
    x = scaled_numbers(*vectors)
    return {'numeric': x, 'categories': jnp.zeros((len(x), 0), jnp.int32)}

  def init(key: jax.Array, inputs: Inputs, given: Params = None) -> Params:
    one = jax.tree.map(lambda x: x[:1], inputs)
    of_encoder, of_head = jax.random.split(key)
    backbone = encoder.init(
      of_encoder, one['tokens'][:, 0], one['lengths'][:, 0]
    )['params']
    count = one['tokens'].shape[1]
    width = encoder.config.width
    example = {
      'numeric': jnp.zeros(
        (1, width if count == 1 else pairs.num_features(width))
      ),
      'categories': jnp.zeros((1, 0), jnp.int32),
    }
    params = {'backbone': backbone, 'head': base.init(of_head, example)}
    return merged(params, given)

  def encode(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> Context:
    assert isinstance(base, Policy)
    own = numbers(params, inputs, dropout_key)
    return base.encode(params['head'], own, dropout_key)

  def decode(
    params: Params, *args: Any, **options: Any
  ) -> tuple[jax.Array, Any]:
    assert isinstance(base, Policy)
    return base.decode(params['head'], *args, **options)

  def predict(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    assert isinstance(base, Pointwise)
    own = numbers(params, inputs, dropout_key)
    return base.predict(params['head'], own, dropout_key)

  if isinstance(base, Pointwise):
    return Pointwise(init, predict)
  return base._replace(init=init, encode=encode, decode=decode)


def scaled_numbers(u: jax.Array, v: jax.Array | None = None) -> jax.Array:
  """`pairs.features`, each of about unit size; of one text u alone.

  Vectors are made length √D.

  Args:
    u: [B, D].
    v: [B, D], of the second texts of pairs.

  Returns:
    [B, D], of pairs [B, 4 D + 1].
  """
  u = _of_unit_size(u)
  if v is None:
    return u
  return pairs.features(u, _of_unit_size(v)).at[:, -1].mul(_COSINE_SCALE)


def _of_unit_size(x: jax.Array) -> jax.Array:
  square = jnp.mean(jnp.square(x), -1, keepdims=True)
  return x / jnp.sqrt(jnp.maximum(square, 1e-24))
