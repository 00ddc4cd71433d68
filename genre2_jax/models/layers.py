"""Layers that the models share: named projections, attention, dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp

# exp(-1e9) is 0 in float32, and 0 * -1e9 is 0, where -inf would give NaN.
MASKED = -1e9


def dense(features, axes, name=None):
  """A linear layer whose kernel carries logical axis names (in, out)."""
  return nn.Dense(
    features,
    kernel_init=nn.with_logical_partitioning(
      nn.initializers.xavier_uniform(), axes
    ),
    bias_init=nn.with_logical_partitioning(
      nn.initializers.zeros_init(), axes[1:]
    ),
    name=name,
  )


class StackedDense(nn.Module):
  """Several linear layers of one input as one product: [..., I] to [..., N, O].

  They have an axis of their own, so that splitting O over devices cuts each of
  them alike.

  Attributes:
    count: N.
    features: O.
    axes: logical axis names of a kernel (in, out).
  """

  count: int
  features: int
  axes: tuple[str | None, str | None]

  @nn.compact
  def __call__(self, x):
    into, out = self.axes
    shape = (x.shape[-1], self.count, self.features)

    def xavier(key, shape):
      flat = (shape[0], shape[1] * shape[2])
      return nn.initializers.xavier_uniform()(key, flat).reshape(shape)

    kernel = self.param(
      'kernel', nn.with_logical_partitioning(xavier, (into, None, out)), shape
    )
    zeros = nn.initializers.zeros_init()
    bias = self.param(
      'bias', nn.with_logical_partitioning(zeros, (None, out)), shape[1:]
    )
    return jnp.einsum('...i,ino->...no', x, kernel) + bias


def layer_norm(name=None):
  """Layer normalisation with logical axis names."""
  return nn.LayerNorm(
    epsilon=1e-5,
    scale_init=nn.with_logical_partitioning(
      nn.initializers.ones_init(), ('embed',)
    ),
    bias_init=nn.with_logical_partitioning(
      nn.initializers.zeros_init(), ('embed',)
    ),
    name=name,
  )


def by_rows(x, last=None):
  """Names the axes of an activation [B, ..., D], of decodings [B, U, Q, D].

  Its rows and their samples are spread over devices and the rest is whole, but
  for the last axis where it has a name; `sharding.constrained` says how.
  """
  names = ('batch', 'group') if x.ndim == 4 else ('batch',)
  names += (None,) * (x.ndim - len(names) - 1)
  return nn.with_logical_constraint(x, (*names, last))


def split_heads(x, num_heads):
  """[..., Q, D] as [..., H, Q, D/H]: attention is then matrix products."""
  x = x.reshape(*x.shape[:-1], num_heads, -1)
  return jnp.swapaxes(x, -2, -3)


def join_heads(x):
  """[..., H, Q, D/H] as [..., Q, D]."""
  x = jnp.swapaxes(x, -2, -3)
  return x.reshape(*x.shape[:-2], -1)


def attend(queries, keys, values, mask=None):
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
  """Dropout: x·m/(1−rate), m ~ Bernoulli(1−rate); nothing without a key."""

  rate: float

  @nn.compact
  def __call__(self, x):
    if self.rate == 0.0 or not self.has_rng('dropout'):
      return x
    keep = jax.random.bernoulli(
      self.make_rng('dropout'), 1 - self.rate, x.shape
    )
    return jnp.where(keep, x / (1 - self.rate), 0)


def encode_and_decode(model):
  """`Policy.encode` and `Policy.decode` of a module with such methods.

  Dropout, where the module has any, only with a key.
  """

  def apply(params, method, *args, dropout_key=None):
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    return model.apply({'params': params}, *args, method=method, rngs=rngs)

  def encode(params, inputs, dropout_key=None):
    return apply(params, 'encode', inputs, dropout_key=dropout_key)

  def decode(
    params, context, tokens, positions, visible, cache=None, dropout_key=None
  ):
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
