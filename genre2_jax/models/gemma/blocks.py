"""Attention within a long prompt, block by block: no array is L times L.

An online softmax (Milakov & Gimelshein 2018; Dao et al. 2022, arXiv
2205.14135) over blocks of keys, with a derivative of its own that keeps one
number a query and head and computes the weights again. A block of queries
visits the blocks of keys that it can see: half of them in a causal layer, those
of its window in a local one.

Plain `jax.lax` on every backend. The kernels at hand do less: cuDNN's
(`jax.nn.dot_product_attention`) knows no cap of logits, Pallas's for TPUs take
windows that are known when they are compiled, where those of a scanned layer
are data.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genre2_jax.models.layers import MASKED

_LEAST = 1e-30  # the denominator of a query that sees nothing


class View(NamedTuple):
  """Who sees whom, beside a window and the lengths of texts.

  Attributes:
    block: tokens of a block.
    cap: c in c·tanh(x/c) of logits, or None.
    bidirectional: whether tokens see those after them too.
  """

  block: int
  cap: float | None
  bidirectional: bool


def blockwise_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  window: jax.Array,
  length: jax.Array,
  view: View,
) -> jax.Array:
  """softmax(c·tanh(QKᵀ/c) where seen) V, in memory linear in L.

  A token sees itself and those before it that are less than `window` away; if
  `view.bidirectional`, those of the text on both sides that are not farther
  than it. What sees nothing, as padding may, is 0. Sums are float32.

  Args:
    query: [B, L, kv_heads, g, head_dim], scaled.
    key: [B, L, kv_heads, head_dim].
    value: as `key`.
    window: int32 scalar.
    length: int32 [B], of texts that are padded on the right.
    view: a `View`.

  Returns:
    As `query`.
  """
  return _attention(query, key, value, window, length, view)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attention(query, key, value, window, length, view):
  return _forward(query, key, value, window, length, view)[0]


def _forward(query, key, value, window, length, view):
  """The result, and what `_backward` is given."""
  count = query.shape[1]
  queries, keys, values = (_cut(x, view.block) for x in (query, key, value))
  group = query.shape[2:4]

  def of_queries(index):
    own = queries[index]  # [B, b, kv, g, d]
    shape = (len(own), *group, view.block)

    def add(place, state):
      most, total, mixed = state
      logits, seen, _ = _logits(own, keys[place], index, place, window, length,
        view)  # fmt: skip
      higher = jnp.maximum(most, jnp.max(logits, -1))
      weights = jnp.where(seen, jnp.exp(logits - higher[..., None]), 0)
      scale = jnp.exp(most - higher)
      total = total * scale + jnp.sum(weights, -1)
      mixed = mixed * scale[..., None] + _product(
        'bkgqn,bnkd->bkgqd', weights.astype(value.dtype), values[place]
      )
      return higher, total, mixed

    state = (
      jnp.full(shape, MASKED, jnp.float32),
      jnp.zeros(shape, jnp.float32),
      jnp.zeros((*shape, query.shape[-1]), jnp.float32),
    )
    first, last = _visited(index, len(keys), window, view)
    most, total, mixed = jax.lax.fori_loop(first, last, add, state)
    total = jnp.maximum(total, _LEAST)
    mixed = jnp.einsum('bkgqd->bqkgd', mixed / total[..., None])
    return mixed.astype(query.dtype), most + jnp.log(total)

  mixed, log_total = jax.lax.map(of_queries, jnp.arange(len(queries)))
  mixed = _joined(mixed, count)
  return mixed, (query, key, value, window, length, mixed, log_total)


def _backward(view, kept, gradient):
  """Cotangents of query, key and value: dS = P·(dP − Σ dP·P)."""
  query, key, value, window, length, mixed, log_total = kept
  count = query.shape[1]
  queries, keys, values, mixed, gradients = (
    _cut(x, view.block) for x in (query, key, value, mixed, gradient)
  )

  def of_queries(sums, index):
    own, given = queries[index], gradients[index]
    correction = jnp.einsum(
      'bqkgd,bqkgd->bkgq',
      given.astype(jnp.float32),
      mixed[index].astype(jnp.float32),
    )

    def add(place, state):
      of_query, of_keys, of_values = state
      logits, seen, slope = _logits(
        own, keys[place], index, place, window, length, view
      )
      weights = jnp.exp(logits - log_total[index][..., None])
      weights = jnp.where(seen, weights, 0)
      pulled = _product('bqkgd,bnkd->bkgqn', given, values[place])
      moved = weights * (pulled - correction[..., None]) * slope
      moved = moved.astype(query.dtype)
      of_query += _product('bkgqn,bnkd->bqkgd', moved, keys[place])
      of_keys = of_keys.at[place].add(_product('bkgqn,bqkgd->bnkd', moved, own))
      of_values = of_values.at[place].add(
        _product('bkgqn,bqkgd->bnkd', weights.astype(given.dtype), given)
      )
      return of_query, of_keys, of_values

    first, last = _visited(index, len(keys), window, view)
    of_query, *sums = jax.lax.fori_loop(
      first, last, add, (jnp.zeros(own.shape, jnp.float32), *sums)
    )
    return tuple(sums), of_query.astype(query.dtype)

  zeros = jnp.zeros(keys.shape, jnp.float32)
  (of_keys, of_values), of_queries_ = jax.lax.scan(
    of_queries, (zeros, zeros), jnp.arange(len(queries))
  )
  return (
    _joined(of_queries_, count),
    _joined(of_keys, count).astype(key.dtype),
    _joined(of_values, count).astype(value.dtype),
    None,
    None,
  )


_attention.defvjp(_forward, _backward)


def _logits(own, keys, index, place, window, length, view):
  """Logits [B, kv, g, b, b] of a block of queries at a block of keys.

  Returns:
    (logits, MASKED where not seen; seen, bool [B or 1, 1, 1, b, b]; the cap's
    derivative at them).
  """
  within = jnp.arange(view.block, dtype=jnp.int32)
  at, past = (view.block * x + within for x in (index, place))
  distance = at[:, None] - past
  if view.bidirectional:
    # Within the window on both sides, the window's end included.
    seen = (jnp.abs(distance) <= window)[None]
    seen = seen & (past < length[:, None])[:, None]
  else:
    seen = ((distance >= 0) & (distance < window))[None]
  seen = seen[:, None, None]
  logits = _product('bqkgd,bnkd->bkgqn', own, keys)
  slope: Any = 1.0
  if view.cap is not None:
    bent = jnp.tanh(logits / view.cap)
    logits, slope = view.cap * bent, 1 - jnp.square(bent)
  return jnp.where(seen, logits, MASKED), seen, slope


def _visited(index, count, window, view):
  """The first block of keys that a block of queries sees, and one past it."""
  start = view.block * index
  stop = start + view.block  # one past its last query
  if not view.bidirectional:
    first = jnp.maximum(start - window + 1, 0) // view.block
    return first, index + 1
  first = jnp.maximum(start - window, 0) // view.block
  last = jnp.minimum((stop - 1 + window) // view.block + 1, count)
  return first, last


def _product(formula, x, y):
  return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)


def _cut(x, block):
  """[B, L, ...] as blocks [⌈L / b⌉, B, b, ...], zeros behind."""
  batch, count = x.shape[:2]
  behind = -count % block
  x = jnp.pad(x, [(0, 0), (0, behind)] + [(0, 0)] * (x.ndim - 2))
  x = x.reshape(batch, -1, block, *x.shape[2:])
  return jnp.moveaxis(x, 1, 0)


def _joined(x, count):
  """Inverse of `_cut`."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(len(x), -1, *x.shape[3:])[:, :count]
