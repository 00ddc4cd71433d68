"""Token-level objectives: next-token logits of the target number, all at once.

Every objective is a function `(logits [B, T, V], tokens [B, T], target [B],
tokenizer) -> [B]`. Logits are teacher-forced and grammatical: forbidden tokens
stand at −1e9. Those of an open policy have one column more, for all tokens of a
language model that are not allowed: cross-entropy is then over the whole
vocabulary; the other objectives leave that column out. Tokens are the target's,
targets are z-scores.

The distances between tokens are terms beside cross-entropy, not instead of it;
their docstrings give the papers' weights.
"""

import dataclasses
import math
from typing import ClassVar, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.objectives.requirements import Requirements

_FORBIDDEN = -1e9


class TokenTable(Protocol):
  """What these objectives know of a tokenizer: static numpy arrays.

  One of bins has `edges` [V + 1] and `centers` [V] too, in z-scores.

  Attributes:
    allowed: bool [T, V].
    token_values: [V], of a token within its kind.
    token_kinds: int [V]; −1: without magnitude.
    num_special: the last tokens of the vocabulary, of what is no number: they
      stand at the first position, and what follows them has no meaning.
  """

  @property
  def allowed(self) -> np.ndarray: ...

  @property
  def token_values(self) -> np.ndarray: ...

  @property
  def token_kinds(self) -> np.ndarray: ...

  @property
  def num_special(self) -> int: ...


def cross_entropy(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """Mean over positions of −log p(y_t | y_<t).

  Args:
    logits: [T, V].
    tokens: int [T], the target number.

  Returns:
    A scalar, nats per token.
  """
  chex.assert_rank([logits, tokens], [2, 1])
  log_probs = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log_probs, tokens[:, None], axis=-1)
  return -jnp.mean(picked)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
  """mean_t −log p(y_t | y_<t), nats per token.

  Of a judge the tokens are those of its text, the end of it and the number.
  Of what is no number −log p(y_0) / T, as if the rest were certain.
  """

  requires: ClassVar[Requirements] = Requirements(covers_text=True)

  def __call__(
    self,
    logits: jax.Array,
    tokens: jax.Array,
    target: jax.Array,
    tokenizer: TokenTable,
  ) -> jax.Array:
    _check(logits, tokens, target, tokenizer)
    if tokenizer.num_special:
      log_p = jax.nn.log_softmax(logits)
      picked = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
      return -jnp.mean(jnp.where(_meant(tokens, tokenizer), picked, 0), -1)
    return jax.vmap(cross_entropy)(logits, tokens)


@dataclasses.dataclass(frozen=True)
class NTLMSE:
  """mean_t (Σ_v p_v·val(v) − val(y_t))² (NTL-MSE: Zausinger et al. 2025).

  p is renormalised to the allowed tokens of the target token's kind. Positions
  whose target has no magnitude do not count. The paper adds 0.3 of it to CE.
  """

  def __call__(
    self,
    logits: jax.Array,
    tokens: jax.Array,
    target: jax.Array,
    tokenizer: TokenTable,
  ) -> jax.Array:
    _check(logits, tokens, target, tokenizer)
    log_p, counted, values, own = _within_kind(logits, tokens, tokenizer)
    mean = jnp.sum(jnp.exp(log_p) * values, -1)  # [B, T]
    return _mean(jnp.square(mean - own[..., 0]), counted)


@dataclasses.dataclass(frozen=True)
class NTLWAS:
  """mean_t Σ_v p_v·|val(v) − val(y_t)| (NTL-WAS: Zausinger et al. 2025).

  The Wasserstein-1 distance of p to the target token, with p, positions and
  weight as in `NTLMSE`. Unlike a mean, it sees two errors that cancel.
  """

  def __call__(
    self,
    logits: jax.Array,
    tokens: jax.Array,
    target: jax.Array,
    tokenizer: TokenTable,
  ) -> jax.Array:
    _check(logits, tokens, target, tokenizer)
    log_p, counted, values, own = _within_kind(logits, tokens, tokenizer)
    distance = jnp.sum(jnp.exp(log_p) * jnp.abs(values - own), -1)  # [B, T]
    return _mean(distance, counted)


@dataclasses.dataclass(frozen=True)
class DIST2:
  """mean_t KL(q‖p), q_v ∝ exp(−(val(v) − val(y_t))²/τ) (arXiv 2503.02379).

  p and q are distributions over the allowed tokens of the target token's kind;
  positions whose target has no magnitude do not count. The paper adds 0.1 of
  it to CE.

  Attributes:
    temperature: τ > 0, in squared token values.
  """

  temperature: float = 1.0

  def __post_init__(self) -> None:
    _check_positive('temperature', self.temperature)

  def __call__(
    self,
    logits: jax.Array,
    tokens: jax.Array,
    target: jax.Array,
    tokenizer: TokenTable,
  ) -> jax.Array:
    _check(logits, tokens, target, tokenizer)
    log_p, counted, values, own = _within_kind(logits, tokens, tokenizer)
    scores = -jnp.square(values - own) / self.temperature
    alike = _alike(tokens, tokenizer)
    log_q = jax.nn.log_softmax(jnp.where(alike, scores, _FORBIDDEN))
    kl = jnp.where(alike, jnp.exp(log_q) * (log_q - log_p), 0)
    return _mean(jnp.sum(kl, -1), counted)


@dataclasses.dataclass(frozen=True)
class SoftCrossEntropy:
  """−Σ_v q_v·log p_v with q a Gaussian around the target, over bins. T = 1.

  'density': q_v ∝ exp(−(c_v − y)²/2σ²) at the centres, the Riemann head of
  GenRe² (arXiv 2512.06533). 'cdf': q_v = Φ((e_{v+1} − y)/σ) − Φ((e_v − y)/σ)
  between the edges, HL-Gauss (Imani & White 2018; Farebrother et al. 2024),
  with the tails' mass in the two outer bins instead of cut off.

  Attributes:
    sigma: σ > 0 in widths of the bin of the target; the two outer bins, which
      have none, take their neighbour's.
    kind: 'density' or 'cdf'.
  """

  sigma: float = 0.75
  kind: str = 'density'

  requires: ClassVar[Requirements] = Requirements(tokenizer='bins')

  def __post_init__(self) -> None:
    _check_positive('sigma', self.sigma)
    if self.kind not in ('density', 'cdf'):
      raise ValueError(f"kind={self.kind!r}: choose 'density' or 'cdf'")

  def __call__(
    self,
    logits: jax.Array,
    tokens: jax.Array,
    target: jax.Array,
    tokenizer: TokenTable,
  ) -> jax.Array:
    """[B], nats.

    Raises:
      ValueError: the tokenizer has no bins, or fewer than three.
    """
    _check(logits, tokens, target, tokenizer)
    bins = tokens[:, 0]
    if tokenizer.num_special:  # Of these rows targets are replaced below.
      bins = jnp.minimum(bins, len(getattr(tokenizer, 'centers', ())) - 1)
      target = jnp.where(jnp.isfinite(target), target, 0)
    targets = self._soft_targets(bins, target, tokenizer)  # [B, V]
    if tokenizer.num_special:
      padded = jnp.pad(targets, ((0, 0), (0, tokenizer.num_special)))
      own = jax.nn.one_hot(tokens[:, 0], padded.shape[1])
      special = tokens[:, :1] >= targets.shape[1]
      targets = jnp.where(special, own, padded)
    logits = logits[:, 0, : tokenizer.allowed.shape[-1]]
    return -jnp.sum(targets * jax.nn.log_softmax(logits), -1)

  def _soft_targets(
    self, bins: jax.Array, target: jax.Array, tokenizer: TokenTable
  ) -> jax.Array:
    edges = getattr(tokenizer, 'edges', None)
    centers = getattr(tokenizer, 'centers', None)
    if edges is None or centers is None or len(edges) < 4:
      raise ValueError('soft targets need a tokenizer of three or more bins')
    widths = np.pad(np.diff(edges[1:-1]), 1, 'edge')  # [V]
    sigma = self.sigma * jnp.asarray(widths, jnp.float32)[bins][:, None]

    def standardized(points: np.ndarray) -> jax.Array:
      return (jnp.asarray(points, jnp.float32) - target[:, None]) / sigma

    if self.kind == 'density':
      scores = -jnp.square(standardized(centers[None])) / 2
      return jax.nn.softmax(scores)
    below = jax.scipy.special.ndtr(standardized(edges[None]))  # [B, V + 1]
    return jnp.diff(below)


def _alike(tokens: jax.Array, tokenizer: TokenTable) -> jax.Array:
  """Bool [B, T, V]: allowed, and of the target token's kind."""
  kinds = np.asarray(tokenizer.token_kinds)
  own = jnp.asarray(kinds)[tokens]  # [B, T]
  return tokenizer.allowed[None] & (kinds[None, None] == own[..., None])


def _within_kind(
  logits: jax.Array, tokens: jax.Array, tokenizer: TokenTable
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Distributions within the target tokens' kinds.

  Returns:
    log p renormalised [B, T, V], −1e9 or so elsewhere; counted, bool [B, T];
    token values [1, 1, V]; those of the target tokens [B, T, 1].
  """
  alike = _alike(tokens, tokenizer)
  logits = logits[..., : alike.shape[-1]]
  log_p = jax.nn.log_softmax(jnp.where(alike, logits, _FORBIDDEN))
  counted = jnp.asarray(tokenizer.token_kinds)[tokens] >= 0
  if tokenizer.num_special:
    counted &= _meant(tokens, tokenizer)
  values = jnp.asarray(tokenizer.token_values, jnp.float32)
  return log_p, counted, values[None, None], values[tokens][..., None]


def _meant(tokens: jax.Array, tokenizer: TokenTable) -> jax.Array:
  """Bool [B, T]: positions that are not behind a special token."""
  first = tokenizer.allowed.shape[-1] - tokenizer.num_special
  behind = jnp.arange(tokens.shape[-1]) > 0
  return ~((tokens[:, :1] >= first) & behind)


def _mean(losses: jax.Array, counted: jax.Array) -> jax.Array:
  """Mean over the counted positions of [B, T]; 0 where there are none."""
  total = jnp.sum(jnp.where(counted, losses, 0), -1)
  return total / jnp.maximum(jnp.sum(counted, -1), 1)


def _check(
  logits: jax.Array,
  tokens: jax.Array,
  target: jax.Array,
  tokenizer: TokenTable,
) -> None:
  T, V = tokenizer.allowed.shape
  chex.assert_shape(logits, (None, T, {V, V + 1}))
  chex.assert_shape(tokens, logits.shape[:2])
  chex.assert_shape(target, logits.shape[:1])


def _check_positive(name: str, value: float) -> None:
  if not 0 < value < math.inf:
    raise ValueError(f'{name}={value!r}: give a number above 0')
