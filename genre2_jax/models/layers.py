"""Layers that the models share: named projections, attention, dropout."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models import pack, products
from genre2_jax.policy import Cache, Context, Inputs, Params
from genre2_jax.policy.base import MASKED

Axes = tuple[str | None, ...]


def parameter(
  module: nn.Module,
  name: str,
  init: Callable[..., jax.Array],
  axes: Axes,
  *args: Any,
) -> jax.Array:
  """A parameter of a module that carries logical axis names.

  Args:
    module: that has it.
    name: of it.
    init: `(key, *args) -> array`.
    axes: a name per axis, or None.
    *args: shape, and dtype where `init` takes one.
  """
  boxed = nn.with_logical_partitioning(init, axes)
  # Flax annotates the box that `boxed` gives, and returns what is in it.
  value: Any = module.param(name, boxed, *args)
  return value


def dense(
  features: int,
  axes: tuple[str | None, str | None],
  name: str | None = None,
  *,
  is_zero: bool = False,
  use_bias: bool = True,
  compute_dtype: str = 'float32',
) -> nn.Dense:
  """A linear layer whose kernel carries logical axis names (in, out)."""
  return nn.Dense(
    features,
    use_bias,
    dot_general=products.dense_product(compute_dtype),
    kernel_init=nn.with_logical_partitioning(kernel_init(is_zero), axes),
    bias_init=nn.with_logical_partitioning(
      nn.initializers.zeros_init(), axes[1:]
    ),
    name=name,
  )


def kernel_init(is_zero: bool = False) -> Callable[..., jax.Array]:
  """How a kernel starts: at zero, or Xavier's uniform numbers."""
  if is_zero:
    return nn.initializers.zeros_init()
  return nn.initializers.xavier_uniform()


class StackedDense(nn.Module):
  """Several linear layers of one input as one product: [..., I] to [..., N, O].

  They have an axis of their own, so that splitting O over devices cuts each of
  them alike.

  Attributes:
    count: N.
    features: O.
    axes: logical axis names of a kernel (in, out).
    compute_dtype: of the product's factors, of `products.DTYPES`.
  """

  count: int
  features: int
  axes: tuple[str | None, str | None]
  compute_dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    into, out = self.axes
    shape = (x.shape[-1], self.count, self.features)

    def xavier(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
      flat = (shape[0], shape[1] * shape[2])
      return nn.initializers.xavier_uniform()(key, flat).reshape(shape)

    kernel = parameter(self, 'kernel', xavier, (into, None, out), shape)
    zeros = nn.initializers.zeros_init()
    bias = parameter(self, 'bias', zeros, (None, out), shape[1:])
    if self.compute_dtype == 'bfloat16':
      return products.rough_product(x, kernel) + bias
    return jnp.einsum('...i,ino->...no', x, kernel) + bias


def layer_norm(name: str | None = None, epsilon: float = 1e-5) -> nn.LayerNorm:
  """Layer normalisation with logical axis names."""
  return nn.LayerNorm(
    epsilon=epsilon,
    scale_init=nn.with_logical_partitioning(
      nn.initializers.ones_init(), ('embed',)
    ),
    bias_init=nn.with_logical_partitioning(
      nn.initializers.zeros_init(), ('embed',)
    ),
    name=name,
  )


def by_rows(x: jax.Array, last: str | None = None) -> jax.Array:
  """Names the axes of an activation [B, ..., D], of decodings [B, U, Q, D].

  Its rows and their samples are spread over devices and the rest is whole, but
  for the last axis where it has a name (`devices.sharding.constrained`).
  """
  names: Axes = ('batch', 'group') if x.ndim == 4 else ('batch',)
  names += (None,) * (x.ndim - len(names) - 1)
  return nn.with_logical_constraint(x, (*names, last))


def rows_of(table: jax.Array, index: jax.Array | np.ndarray) -> jax.Array:
  """table [V, ...] at index [...]: [..., ...], as `jnp.take` has them."""

  def within_loops(table: jax.Array, index: jax.Array) -> jax.Array:
    # XLA's gathers on CPUs know float32 only. Tied to the index, the conversion
    # of a whole vocabulary is part of the gather, not a copy before the loop.
    table, index = jax.lax.optimization_barrier((table, index))
    return jnp.take(table, index, axis=0)

  if table.dtype != jnp.bfloat16:
    return jnp.take(table, index, axis=0)
  return jax.lax.platform_dependent(
    table,
    jnp.asarray(index),
    cpu=within_loops,
    default=lambda table, index: jnp.take(table, index, axis=0),
  )


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
  """[..., Q, D] as [..., H, Q, D/H]: attention is then matrix products."""
  x = x.reshape(*x.shape[:-1], num_heads, -1)
  return jnp.swapaxes(x, -2, -3)


def join_heads(x: jax.Array) -> jax.Array:
  """[..., H, Q, D/H] as [..., Q, D]."""
  x = jnp.swapaxes(x, -2, -3)
  return x.reshape(*x.shape[:-2], -1)


def attend(
  queries: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  mask: jax.Array | np.ndarray | None = None,
) -> jax.Array:
  """Scaled dot-product attention, softmax in float32.

  Args:
    queries: [..., H, Q, D/H].
    keys: [..., H, K, D/H].
    values: [..., H, K, D/H].
    mask: bool, broadcast to [..., H, Q, K], True may be seen; None is all.

  Returns:
    [..., H, Q, D/H].
  """
  scale = queries.shape[-1] ** -0.5
  logits = jnp.einsum('...qd,...kd->...qk', queries * scale, keys)
  logits = logits.astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(mask, logits, MASKED)
  weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
  return jnp.einsum('...qk,...kd->...qd', weights, values)


class Dropout(nn.Module):
  """Dropout: x·m/(1−rate), m ~ Bernoulli(1−rate); nothing without a key.

  Attributes:
    rate: of all, or before a member's factor.
    own_rate: whether each member has its own (`models/pack.py`).
  """

  rate: float
  own_rate: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    rate: Any = self.rate
    if self.own_rate:
      constant = nn.initializers.constant(rate)
      rate = parameter(self, pack.own('dropout'), constant, (), ())
    if self.rate == 0.0 or not self.has_rng('dropout'):
      return x
    keep = _draws(self.make_rng('dropout'), x.shape) >= _as_draw(rate)
    return jnp.where(keep, x / (1 - rate), 0)


def _as_draw(rate: Any) -> jax.Array:
  """What a draw of `_draws` is below with probability `rate`."""
  return jnp.round(rate * 2**16).astype(jnp.uint32)


def _draws(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Uniform draws below 2^16, uint16: two of each word that is drawn.

  Drawing is the most of dropout, and a rate needs no more than 16 bits.
  """
  *rows, width = shape
  num_words = -(-width // 2)
  words = jax.random.bits(key, (*rows, num_words))
  halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
  return halves.reshape(*rows, 2 * num_words)[..., :width]


def encode_and_decode(
  model: nn.Module,
) -> tuple[Callable[..., Context], Callable[..., tuple[jax.Array, Cache]]]:
  """`Policy.encode` and `Policy.decode` of a module with such methods.

  Dropout, where the module has any, only with a key.
  """

  def apply(
    params: Params,
    method: str,
    *args: Any,
    dropout_key: jax.Array | None = None,
  ) -> Any:
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    return model.apply({'params': params}, *args, method=method, rngs=rngs)

  def encode(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> Context:
    return apply(params, 'encode', inputs, dropout_key=dropout_key)

  def decode(
    params: Params,
    context: Context,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Cache = None,
    dropout_key: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    return apply(
      params,
      'decode',
      context,
      tokens,
      positions,
      visible,
      cache,
      dropout_key=dropout_key,
    )

  return encode, decode
