"""What is no number, NaN or ±inf, to losses that measure distances.

A grid-level loss is that of the distribution given that a number is finite, on
rows whose target is; beside it stands the log loss of the four kinds of a value
(finite, NaN, +inf, −inf), on all rows. Both are proper where the loss is.

To rewards, a number and what is no number, or two different ones of these, are
as far from each other as the least and the greatest training target: no number
that lies in their range is worse. The same one is right, reward 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Grid(NamedTuple):
  """What a grid-level loss is given where some values are no numbers.

  Attributes:
    log_p: [B, K], of the numbers, given that it is one.
    target: [B], 0 where it is none.
    is_number: bool [B], whether the target is one.
    kind_loss: [B], −log P(the kind of the target), nats.
  """

  log_p: jax.Array
  target: jax.Array
  is_number: jax.Array
  kind_loss: jax.Array


def split(log_p: jax.Array, target: jax.Array, num_numbers: int) -> Grid:
  """The `Grid` of a whole trie.

  Args:
    log_p: [B, N], of all sequences: numbers first, then those that begin with
      NaN, with +inf and with −inf, equally many each.
    target: [B], z-scores, NaN or infinite.
    num_numbers: K.
  """
  numbers = log_p[:, :num_numbers]
  kinds = log_kinds(log_p, num_numbers)
  is_nan, above = jnp.isnan(target), target > 0
  place = jnp.where(is_nan, 1, jnp.where(above, 2, 3))
  is_number = jnp.isfinite(target)
  place = jnp.where(is_number, 0, place)
  return Grid(
    log_p=jax.nn.log_softmax(numbers),
    target=jnp.where(is_number, target, 0.0),
    is_number=is_number,
    kind_loss=-jnp.take_along_axis(kinds, place[:, None], 1)[:, 0],
  )


def log_kinds(log_p: jax.Array, num_numbers: int) -> jax.Array:
  """log P of finite, NaN, +inf and −inf: [B, 4] of [B, N]."""
  rest = log_p[:, num_numbers:].reshape(len(log_p), 3, -1)
  finite = jax.nn.logsumexp(log_p[:, :num_numbers], -1, keepdims=True)
  return jnp.concatenate([finite, jax.nn.logsumexp(rest, -1)], axis=1)


def loss_of(
  loss: Callable[..., jax.Array], given: Grid, values: np.ndarray
) -> jax.Array:
  """A grid-level loss and the log loss of kinds: [B], nats added to its unit.

  Args:
    loss: `(log_p, values, target)`.
    given: the `Grid`.
    values: [K], the numbers.
  """
  own = loss(given.log_p, values, given.target)
  return jnp.where(given.is_number, own, 0.0) + given.kind_loss


def stand_ins(
  predictions: jax.Array, target: jax.Array, span: float
) -> tuple[jax.Array, jax.Array]:
  """Numbers that are as far apart as rewards are to find these.

  Args:
    predictions: [B, ...], z-scores, NaN or infinite.
    target: [B], likewise.
    span: how far apart what is no number is from all else.

  Returns:
    (predictions, target), finite. Of a target that is a number, its own.
  """
  y = target.reshape(-1, *(1,) * (predictions.ndim - 1))
  same = (predictions == y) | (jnp.isnan(predictions) & jnp.isnan(y))
  of_number = jnp.where(jnp.isfinite(predictions), predictions, y + span)
  of_others = jnp.where(same, 0.0, span)
  is_number = jnp.isfinite(y)
  found = jnp.where(is_number, of_number, of_others)
  return found, jnp.where(jnp.isfinite(target), target, 0.0)
