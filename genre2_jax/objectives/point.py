"""The loss of a regression head: it predicts a number, no distribution."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SquaredError:
  """(ŷ − y)² in z-scores: [B] of predictions [B] and target [B]."""

  def __call__(self, predictions: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.square(predictions - target)


@dataclasses.dataclass(frozen=True)
class Predicted:
  """The prediction itself: of a network that predicts its own loss [B]."""

  def __call__(self, predictions: jax.Array, target: jax.Array) -> jax.Array:
    del target
    return predictions
