"""Means over a batch whose rows may weigh differently."""

import jax
import jax.numpy as jnp


def mean(values: jax.Array, weight: jax.Array | None = None) -> jax.Array:
  """The mean of values [B, ...], a row's times its weight [B]: a scalar.

  Not divided by the batch's weights: over all batches it is the weighted mean.
  """
  if weight is None:
    return jnp.mean(values)
  return jnp.mean(values * weight.reshape(-1, *(1,) * (values.ndim - 1)))
