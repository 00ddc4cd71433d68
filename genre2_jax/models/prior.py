"""A prior: a network starts from a distribution that somebody else has.

  log p(token | node, x) = log q(token | node, x) + f(node, token, x) + const

with q the given distribution over numbers, cut into the conditionals of the
trie, and f the network's logits, whose last layer starts at zero: before the
first step p is q. It is a policy like any other, so that every objective runs
from it. q may be anybody's: it is an input, an array [B, K] of log q.
"""

from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.data.tables import Rows
from genre2_jax.models import pack
from genre2_jax.policy import Inputs, Params, Policy, tables

# log q among a network's inputs.
PRIOR = 'prior'


class Prior(Protocol):
  """Who has distributions over the numbers of a trie, in its order."""

  def log_p(self, rows: Rows) -> np.ndarray:
    """Of rows that it was not fitted to: float32 [n, K]."""

  def train_log_p(self) -> np.ndarray:
    """Of the rows that it was fitted to, none of which it may have seen."""


class Blank:
  """Of a run whose prior is yet to be fitted: all numbers alike."""

  def __init__(self, num_numbers: int, num_train: int = 0):
    self._shape = num_train, num_numbers

  def log_p(self, rows: Rows) -> np.ndarray:
    """float32 [n, K]."""
    return self._alike(len(rows))

  def train_log_p(self) -> np.ndarray:
    """float32 [n, K]."""
    return self._alike(self._shape[0])

  def _alike(self, count: int) -> np.ndarray:
    number = np.float32(-np.log(self._shape[1]))
    return np.full((count, self._shape[1]), number)


def with_prior(base: Policy, *, is_own: bool = False) -> Policy:
  """A policy that starts from the distribution in its inputs.

  Args:
    base: whose context is a table, and all of whose logits are zero at the
      start.
    is_own: whether each member of a pack has it or not, 1 or 0 times log q: its
      parameters are then {'network': the base's, 'member_prior'}.

  Returns:
    A `Policy` whose inputs have `prior` [B, K], log q of the numbers in the
    order of the trie; Σ q may be anything.

  Raises:
    ValueError: the base's context is no table.
  """
  if not base.is_table:
    raise ValueError('a prior is added to the logits of a table: give one')

  def init(key: jax.Array, inputs: Inputs) -> Params:
    params = base.init(key, _own(inputs))
    if not is_own:
      return params
    share = nn.LogicallyPartitioned(jnp.ones(()), ())
    return {'network': params, pack.own(PRIOR): share}

  def encode(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    prior = tables.logits_of(base.tokenizer, inputs[PRIOR])
    if is_own:
      prior, params = params[pack.own(PRIOR)] * prior, params['network']
    return base.encode(params, _own(inputs), dropout_key) + prior

  return base._replace(init=init, encode=encode)


def _own(inputs):
  return {name: x for name, x in inputs.items() if name != PRIOR}
