"""Objectives of a predictive distribution over numbers, without sampling.

Every objective is a function `(log_p [B, K], values [B, K] or [K], target [B])
-> [B]` of a grid, where number values[k] has probability exp(log_p[k]). The
values stand in any order. Over a whole trie the probabilities sum to 1; over a
subset of strings to less. The other functions take any leading axes: [..., K].

Where the grid is R numbers sampled from p, each of log weight −log R whose
gradient is that of its log p less the mean over the samples (`Enumeration`), a
loss's `of_samples` stands for it: in expectation over the samples value and
gradient are those of the whole distribution. The plain formula's are not: it
counts pairs of a sample with itself.

Mass outside of the grid costs nothing in Σ p·loss, so a model whose softmax has
more than the grid would move its mass there: `MBR` and `CRPS` renormalise.
"""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.objectives.rewards import REWARDS

# Rewards that judge a number by itself.
_REWARDS = ('squared', 'absolute', 'clipped')
# log 0, with finite gradients.
_NEVER = -1e9
# Rounding brings Σ p less far from 1 than this.
_MISSING = 1e-5


@dataclasses.dataclass(frozen=True)
class Ascending:
  """Numbers that a program is given, and that need no sorting.

  Attributes:
    numbers: [K], ascending.
  """

  numbers: jax.Array


# Of a grid's numbers; numpy where they are static.
Values = np.ndarray | jax.Array | Ascending


def normalized(log_p: jax.Array) -> jax.Array:
  """log p of the grid's numbers, given that it is one of them: [..., K]."""
  return jax.nn.log_softmax(log_p)


def expected_value(
  log_p: jax.Array, values: Values, normalize: bool = False
) -> jax.Array:
  """ŷ = Σ_y p(y|x)·y (RAIL: Lukasik et al., EMNLP Findings 2024).

  Args:
    log_p: [..., K].
    values: as log_p, or [K].
    normalize: whether to renormalise p on the grid.

  Returns:
    [...].
  """
  if normalize:
    log_p = normalized(log_p)
  return jnp.sum(jnp.exp(log_p) * _spread_out(values, log_p), -1)


def crps(log_p: jax.Array, values: Values, target: jax.Array) -> jax.Array:
  """Σ p|v − y| − ½ ΣΣ p·p'·|v − v'| = ∫(F(t) − 1{t ≥ y})² dt, if Σ p = 1.

  Continuous ranked probability score (Gneiting & Raftery 2007), in
  O(K log K). A grid that is a numpy array is sorted while tracing.

  Args:
    log_p: [..., K].
    values: as log_p, or [K].
    target: [...].

  Returns:
    [...], in the unit of the values.
  """
  p, values = _by_value(jnp.exp(log_p), values)
  distance = jnp.sum(p * jnp.abs(values - target[..., None]), -1)
  # Between two neighbours lie all pairs of one at or below, one above. Summing
  # from both ends leaves no 1 − F to round: values may be as large as 1e10.
  axis = p.ndim - 1
  below = jax.lax.cumsum(p, axis)[..., :-1]
  above = jax.lax.cumsum(p, axis, reverse=True)[..., 1:]
  return distance - jnp.sum(below * above * jnp.diff(values), -1)


def quantile(
  log_p: jax.Array, values: Values, q: float | np.ndarray | jax.Array
) -> jax.Array:
  """Smallest number v with F(v) ≥ q, of those that have mass.

  F is that of p renormalised on the grid.

  Args:
    log_p: [..., K].
    values: as log_p, or [K].
    q: a scalar, or [Q]; in [0, 1].

  Returns:
    [...] for a scalar q, else [..., Q].
  """
  p, values = _by_value(jnp.exp(normalized(log_p)), values)
  q = jnp.asarray(q, p.dtype)
  F = jax.lax.cumsum(p, p.ndim - 1)
  levels = jnp.ravel(q).reshape((1,) * (p.ndim - 1) + (-1, 1))
  # [..., Q, K]. Parallel sums round differently from number to number, so that
  # F may rise where there is no mass, and end below 1.
  reached = (F[..., None, :] >= levels) & (p > 0)[..., None, :]
  highest = p.shape[-1] - 1 - jnp.argmax(jnp.flip(p > 0, -1), -1)  # [...]
  index = jnp.where(
    jnp.any(reached, -1), jnp.argmax(reached, -1), highest[..., None]
  )
  found = jnp.take_along_axis(values, index, axis=-1)
  return found if q.ndim else found[..., 0]


@dataclasses.dataclass(frozen=True)
class RAFT:
  """(y* − Σ_y p(y|x)·y)² (RAFT: Lukasik et al., ICLR 2025).

  Attributes:
    normalize: whether to renormalise p on the grid.
  """

  normalize: bool = False

  def __post_init__(self) -> None:
    _check_flag('normalize', self.normalize)

  def __call__(
    self,
    log_p: jax.Array,
    values: Values,
    target: jax.Array,
    weights: jax.Array | None = None,
  ) -> jax.Array:
    """[B], squared; `weights` [K] in place of values: learnable RAFT."""
    _check(log_p, values, target)
    if weights is not None:
      chex.assert_shape(weights, log_p.shape[-1:])
      values = weights
    mean = expected_value(log_p, values, self.normalize)
    return jnp.square(target - mean)

  def of_samples(
    self, log_p: jax.Array, values: Values, target: jax.Array
  ) -> jax.Array:
    """Σ_{i≠j} e_i·e_j / (R(R − 1)), e = y* − v: (y* − mean)² − s²/R."""
    _check(log_p, values, target)
    p = jnp.exp(log_p)
    error = target[:, None] - _spread_out(values, log_p)
    itself = jnp.sum(jnp.square(p * error), -1)
    return _of_pairs(jnp.square(jnp.sum(p * error, -1)) - itself, log_p)


@dataclasses.dataclass(frozen=True)
class MBR:
  """Σ_y p(y|x)·(y* − y)²: minimum Bayes risk (Lukasik et al., ICLR 2025).

  Linear in p, so it collapses to the number nearest to E[y*|x] (Lemma 4).

  Attributes:
    normalize: whether to renormalise p on the grid. Without, as published, the
      least loss over a vocabulary with more than the grid is that of writing no
      number at all.
  """

  normalize: bool = True

  def __post_init__(self) -> None:
    _check_flag('normalize', self.normalize)

  def __call__(
    self, log_p: jax.Array, values: Values, target: jax.Array
  ) -> jax.Array:
    _check(log_p, values, target)
    if self.normalize:
      log_p = normalized(log_p)
    error = target[:, None] - _spread_out(values, log_p)
    return jnp.sum(jnp.exp(log_p) * jnp.square(error), -1)

  def of_samples(
    self, log_p: jax.Array, values: Values, target: jax.Array
  ) -> jax.Array:
    return _unbiased(self(log_p, values, target), log_p, 1)


@dataclasses.dataclass(frozen=True)
class LogLoss:
  """−u*·log p₁ − (1 − u*)·log(1 − p₁) (Lukasik et al., ICLR 2025).

  u = (y − low)/(high − low), clipped to [0, 1], of targets and of values;
  p₁ = Σ_y p(y|x)·u(y), which on the grid {low, high} is p('high').

  Attributes:
    low: the value that is 0 after scaling.
    high: the value that is 1 after scaling.
    normalize: whether to renormalise p on the grid.
  """

  low: float = 0.0
  high: float = 1.0
  normalize: bool = False

  def __post_init__(self) -> None:
    for name in ('low', 'high'):
      if not math.isfinite(getattr(self, name)):
        raise ValueError(f'{name}={getattr(self, name)!r}: give a number')
    if not self.low < self.high:
      raise ValueError(f'high={self.high!r}: give more than low={self.low!r}')
    _check_flag('normalize', self.normalize)

  def __call__(
    self, log_p: jax.Array, values: Values, target: jax.Array
  ) -> jax.Array:
    """[B], nats."""
    _check(log_p, values, target)
    if self.normalize:
      log_p = normalized(log_p)
    u = self._scaled(_spread_out(values, log_p))  # [B, K]
    log_one = _log_mean(log_p, u)
    # 1 − p₁ = Σ p·(1 − u) + (1 − Σ p). Over a whole grid the second term is
    # rounding, whose logarithm would have a gradient of millions.
    log_zero = _log_mean(log_p, 1 - u)
    missing = -jnp.expm1(jax.nn.logsumexp(log_p, -1))
    some = missing > _MISSING
    log_missing = jnp.log(jnp.where(some, missing, 1))
    log_zero = jnp.where(some, jnp.logaddexp(log_zero, log_missing), log_zero)
    share = self._scaled(target)
    return -share * log_one - (1 - share) * log_zero

  def _scaled(self, x: jax.Array) -> jax.Array:
    return jnp.clip((x - self.low) / (self.high - self.low), 0, 1)


@dataclasses.dataclass(frozen=True)
class CRPS:
  """∫(F(t) − 1{t ≥ y*})² dt: a proper score that knows distance.

  Gneiting & Raftery 2007. It is least in expectation when p is the true
  distribution, so it keeps the uncertainty that MBR gives away.

  Attributes:
    normalize: whether to renormalise p on the grid; without, `crps`'s double
      sum holds for any Σ p, and is least where Σ p = 0.
  """

  normalize: bool = True

  def __post_init__(self) -> None:
    _check_flag('normalize', self.normalize)

  def __call__(
    self, log_p: jax.Array, values: Values, target: jax.Array
  ) -> jax.Array:
    """[B], in the unit of the values."""
    _check(log_p, values, target)
    return crps(normalized(log_p) if self.normalize else log_p, values, target)

  def of_samples(
    self, log_p: jax.Array, values: Values, target: jax.Array
  ) -> jax.Array:
    """mean |v − y*| − ½ Σ_{i≠j} |v_i − v_j| / (R(R − 1)) (Ferro 2014)."""
    _check(log_p, values, target)
    away = jnp.abs(_spread_out(values, log_p) - target[:, None])
    distance = jnp.sum(jnp.exp(log_p) * away, -1)
    apart = distance - crps(log_p, values, target)  # A sample is 0 from itself.
    return _unbiased(distance, log_p, 1) - _of_pairs(apart, log_p)


@dataclasses.dataclass(frozen=True)
class ExpectedReward:
  """−Σ_y p(y|x)·r(y): its gradient is the policy gradient, without variance.

  r as in `rewards.py`, where 'squared' makes it the value of `MBR`. The
  gradient is that of −Σ p·(r − b), b = Σ p·r / Σ p a constant. Where Σ p = 1
  any constant leaves it as it is; for sampled weights b lowers the variance;
  on a subset it makes mass outside of the grid worth as much as the mean
  within.

  Attributes:
    reward: 'squared', 'absolute' or 'clipped'.
  """

  reward: str = 'squared'

  def __post_init__(self) -> None:
    if self.reward not in _REWARDS:
      raise ValueError(
        f'reward={self.reward!r}: choose from {", ".join(_REWARDS)}'
      )

  def __call__(
    self, log_p: jax.Array, values: Values, target: jax.Array
  ) -> jax.Array:
    """[B], minus the unit of the reward."""
    _check(log_p, values, target)
    values = _spread_out(values, log_p)
    rewards = REWARDS[self.reward](values, target[:, None])  # [B, K]
    baseline = expected_value(
      jax.lax.stop_gradient(log_p), jax.lax.stop_gradient(rewards), True
    )
    p = jnp.exp(log_p)
    gain = jnp.sum(p * (rewards - baseline[:, None]), -1)
    return -gain - baseline * jax.lax.stop_gradient(jnp.sum(p, -1))

  def of_samples(
    self, log_p: jax.Array, values: Values, target: jax.Array
  ) -> jax.Array:
    return _unbiased(self(log_p, values, target), log_p, 1)


def _of_pairs(loss: jax.Array, log_p: jax.Array) -> jax.Array:
  """A sum over pairs of different samples, each of weight 1/R²: [B]."""
  count = log_p.shape[-1]
  return _unbiased(loss * (count / (count - 1)), log_p, 2)


def _unbiased(loss: jax.Array, log_p: jax.Array, degree: int) -> jax.Array:
  """The loss, its gradient times R / (R − degree): [B].

  The mean of the samples' scores, which is taken from each of them, holds those
  of the `degree` samples that a term is of.
  """
  count = log_p.shape[-1]
  value = jax.lax.stop_gradient(loss)
  return value + count / (count - degree) * (loss - value)


def _spread_out(values: Values, log_p: jax.Array) -> jax.Array:
  """Values as [..., K], one per probability."""
  numbers = values.numbers if isinstance(values, Ascending) else values
  return jnp.broadcast_to(jnp.asarray(numbers, log_p.dtype), log_p.shape)


def _by_value(p: jax.Array, values: Values) -> tuple[jax.Array, jax.Array]:
  """(p, values), both [..., K], by ascending value."""
  if isinstance(values, Ascending):
    return p, _spread_out(values, p)
  static = isinstance(values, np.ndarray)
  if static and (np.diff(values) >= 0).all():
    return p, _spread_out(values, p)
  order = (np if static else jnp).argsort(values, stable=True)
  if order.ndim == 1:
    return jnp.take(p, order, axis=-1), _spread_out(values[order], p)
  p = jnp.take_along_axis(p, order, axis=-1)
  return p, jnp.take_along_axis(_spread_out(values, p), order, axis=-1)


def _log_mean(log_p: jax.Array, u: jax.Array) -> jax.Array:
  """log Σ p·u for u ≥ 0, never below −1e9: [B]."""
  positive = u > 0
  terms = jnp.where(
    positive, log_p + jnp.log(jnp.where(positive, u, 1)), _NEVER
  )
  return jax.nn.logsumexp(terms, -1)


def _check(log_p: jax.Array, values: Values, target: jax.Array) -> None:
  chex.assert_rank(log_p, 2)
  chex.assert_shape(target, log_p.shape[:1])
  if isinstance(values, Ascending):
    values = values.numbers
  if np.ndim(values) == 1:
    chex.assert_shape(values, log_p.shape[-1:])
  else:
    chex.assert_shape(values, log_p.shape)


def _check_flag(name: str, value: object) -> None:
  if type(value) is not bool:
    raise ValueError(f'{name}={value!r}: give True or False')
