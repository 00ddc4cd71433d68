"""A network mixed with the distribution of the training targets.

  F(y|x) = (1 − w)·F_net(y|x) + w·F_train(y)

w is no weight of the network: it is chosen when a stage is over, on validation
rows, where it makes the CRPS least, and 0 until then. A task whose inputs tell
little then ends no worse than by ignoring them.

Of a pack whose members are chosen, each member's share of the mixture of all is
chosen likewise: it stands beside w, and one w is that of all members.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.metrics import exact, mixing, points, results
from genre2_jax.models.layers import MASKED
from genre2_jax.policy import Inputs, Params, Policy, tables, trie

# Where the mixture lies among a network's parameters.
MARGINAL = 'marginal'
WEIGHT = 'weight'
SHARE = results.SHARE
_LOG_P = 'log_p'
# Members of a mixture, with repetition; and the share of its CRPS that one more
# must take away, times the number of rows: few rows tell few things apart.
_MOST = 30
_LEAST_GAIN = 0.5


def log_shares(
  places: np.ndarray, count: int, weight: np.ndarray | None = None
) -> np.ndarray:
  """log of the share of targets at each of K numbers: float32 [K].

  Args:
    places: int [n], of the targets among the numbers.
    count: K.
    weight: of the targets, [n], or None.
  """
  shares = np.bincount(places, weight, minlength=count) / max(len(places), 1)
  if weight is not None:
    shares /= shares.sum()
  logs = np.log(shares, out=np.full(count, MASKED), where=shares > 0)
  return logs.astype(np.float32)


def marginal_policy(
  base: Policy, log_p: np.ndarray, *, is_chosen: bool = False
) -> Policy:
  """A policy mixed with a distribution that knows no input.

  Args:
    base: whose numbers can be enumerated.
    log_p: [K], for `init`; what `encode` reads are the parameters.
    is_chosen: whether it is a member of a pack that is chosen from.

  Returns:
    A `Policy` whose parameters are {'network': the base's, 'marginal':
    {'log_p', 'weight'}}, with a 'share' if `is_chosen`, and whose context is a
    table.
  """
  tokenizer = base.tokenizer

  def init(key: jax.Array, inputs: Inputs) -> Params:
    boxed = {
      _LOG_P: nn.LogicallyPartitioned(jnp.asarray(log_p), (None,)),
      WEIGHT: nn.LogicallyPartitioned(jnp.zeros(()), ()),
    }
    if is_chosen:
      boxed[SHARE] = nn.LogicallyPartitioned(jnp.ones(()), ())
    return {'network': base.init(key, inputs), MARGINAL: boxed}

  def of_network(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    context = base.encode(params['network'], inputs, dropout_key)
    return trie.log_probs(base, params['network'], context)

  def mix(
    params: Params, own: jax.Array, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    del dropout_key
    # No gradient: training rows would always ask for none of it.
    mixed = jax.lax.stop_gradient(params[MARGINAL])
    weight = mixed[WEIGHT]
    left = jnp.log1p(-jnp.minimum(weight, 1 - 1e-6))
    mixture = jnp.logaddexp(left + own, tables.log_of(weight) + mixed[_LOG_P])
    return tables.logits_of(tokenizer, mixture)

  def encode(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    return mix(params, of_network(params, inputs, dropout_key))

  def frozen(path: tuple[str, ...]) -> bool:
    if path[0] == MARGINAL:
      return path[-1] == _LOG_P
    return base.frozen is not None and base.frozen(path[1:])

  def prepare(params: Params) -> Params:
    if base.prepare is None:
      return params
    return {**params, 'network': base.prepare(params['network'])}

  return Policy(
    tokenizer,
    init,
    encode,
    tables.decode_of(tokenizer),
    frozen=frozen,
    is_table=True,
    prepare=prepare,
    halves=(of_network, mix),
  )


def with_weight(params: Params, weight: Any, share: Any = None) -> Params:
  """The policy's parameters with another w, and share: [S] of stacked ones."""
  inner = {**params[MARGINAL], WEIGHT: weight}
  if share is not None:
    inner[SHARE] = share
  return {**params, MARGINAL: inner}


def share_of(params: Params) -> jax.Array | None:
  """A member's share of a mixture that was chosen; None: all have the same."""
  inner = params.get(MARGINAL) if isinstance(params, dict) else None
  return inner.get(SHARE) if isinstance(inner, dict) else None


def best_weight(
  log_p: np.ndarray,
  log_marginal: np.ndarray,
  values: np.ndarray,
  target: np.ndarray,
  weight: np.ndarray | None = None,
) -> float:
  """The w of the least mean CRPS of (1 − w)·F + w·G: in closed form.

  The CRPS is ∫(F − 1{t ≥ y})² dt, a square in w, whose least value lies at
  (A − C)/(A + B − 2C), with A that of F, B that of G and C the product's.

  Args:
    log_p: [n, K], of F.
    log_marginal: [K], of G.
    values: [K], the numbers.
    target: [n].
    weight: of the rows, [n], or None.
  """
  order = np.argsort(values, kind='stable')
  numbers = np.asarray(values, np.float64)[order]
  f, g = (
    np.exp(np.asarray(x, np.float64))[..., order] for x in (log_p, log_marginal)
  )
  f, g = (x / x.sum(-1, keepdims=True) for x in (f, g))
  away = np.abs(numbers - np.asarray(target)[:, None])
  gaps = np.diff(numbers)
  F, G = (np.cumsum(x, -1)[..., :-1] for x in (f, g))
  near_f, near_g = (f * away).sum(-1), (g * away).sum(-1)
  own = points.mean(near_f - (F * (1 - F)) @ gaps, weight)
  other = points.mean(near_g - (G * (1 - G)) @ gaps, weight)
  between = (F * (1 - G) + G * (1 - F)) @ gaps
  both = points.mean(0.5 * (near_f + near_g - between), weight)
  curvature = own + other - 2 * both  # ∫(F − G)² dt, at least 0.
  if curvature <= 1e-12:
    return 0.0
  return float(np.clip((own - both) / curvature, 0, 1))


def chosen(
  log_p: np.ndarray,
  log_marginal: np.ndarray,
  values: np.ndarray,
  target: np.ndarray,
  weight: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
  """The members of a mixture, and its w, by the CRPS of n rows.

  Greedily from all members alike, the safest start where rows are few, then w
  in closed form.

  Args:
    log_p: [S, n, K], of the members.
    log_marginal: [K], of G.
    values: [K], the numbers.
    target: [n].
    weight: of the rows, [n], or None.

  Returns:
    (shares [S], their sum one; w).
  """
  shares = mixing.greedy(
    mixing.distances(log_p, values, target, weight),
    np.ones(len(log_p)),
    most=_MOST,
    least_gain=_LEAST_GAIN / len(target),
  )
  mixture = exact.mixture(log_p, shares)
  return shares, best_weight(mixture, log_marginal, values, target, weight)
