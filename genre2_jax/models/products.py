"""Products of activations with weights, in float32 or of bfloat16 factors.

Whatever the dtype of the factors, sums and results are float32. A product of
bfloat16 factors has a derivative of its own: left alone, autodiff multiplies
float32 gradients with bfloat16 factors, which is a product in float32.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

DTYPES = ('float32', 'bfloat16')
# bfloat16 must be so much faster to be worth its rounding.
_LEAST_GAIN = 1.1
# Rows of what is measured are at most so many.
_MAX_ROWS = 4096
_ROUNDS = 8


@jax.custom_vjp
def rough_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Σ_i x[..., i]·W[i, ...], factors rounded to bfloat16, float32 sums.

  Gradients are products of bfloat16 factors too, in the dtype of what they are
  of.

  Args:
    x: float32 or bfloat16 [..., I].
    kernel: likewise [I, ...].

  Returns:
    float32, the other axes of x and then those of W.
  """
  return _forward(x, kernel)[0]


def _forward(x, kernel):
  # Of a gradient; what is kept are arrays.
  dtypes = jnp.empty(0, x.dtype), jnp.empty(0, kernel.dtype)
  # Equal casts of a weight are one in a compiled step.
  x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  return _sums(x, kernel, (x.ndim - 1,), (0,)), (x, kernel, dtypes)


def _backward(factors, gradient):
  x, kernel, (of_rows, of_weights) = factors
  gradient = gradient.astype(jnp.bfloat16)
  rows = tuple(range(x.ndim - 1))
  outs = tuple(range(x.ndim - 1, gradient.ndim))
  of_x = _sums(gradient, kernel, outs, tuple(range(1, kernel.ndim)))
  of_kernel = _of_weights(x, gradient, rows, of_weights.dtype)
  return of_x.astype(of_rows.dtype), of_kernel


rough_product.defvjp(_forward, _backward)


def projection(x: jax.Array, rows: jax.Array) -> jax.Array:
  """Σ_i x[..., i]·E[v, i], float32; of bfloat16 x by factors rounded to it.

  The rows, a whole vocabulary perhaps, are the left factor: as the right one
  XLA on CPUs would read a transposed copy of them.

  Args:
    x: [..., I].
    rows: E [V, I].

  Returns:
    [..., V].
  """
  if x.dtype == jnp.bfloat16:
    return _rough_projection(x, rows)
  return _by_rows(x, rows.astype(x.dtype))


def _by_rows(x, rows):
  found = _sums(rows, x, (1,), (x.ndim - 1,))
  return jnp.moveaxis(found, 0, -1)


@jax.custom_vjp
def _rough_projection(x, rows):
  return _by_rows(x, rows.astype(jnp.bfloat16))


def _forward_projection(x, rows):
  dtypes = jnp.empty(0, x.dtype), jnp.empty(0, rows.dtype)
  rows = rows.astype(jnp.bfloat16)
  return _by_rows(x, rows), (x, rows, dtypes)


def _backward_projection(factors, gradient):
  x, rows, (of_x, of_rows) = factors
  gradient = gradient.astype(jnp.bfloat16)
  axes = tuple(range(x.ndim - 1))
  back = _sums(gradient, rows, (x.ndim - 1,), (0,)).astype(of_x.dtype)
  return back, _of_weights(gradient, x, axes, of_rows.dtype)


_rough_projection.defvjp(_forward_projection, _backward_projection)


def _of_weights(x, gradient, rows, dtype):
  """xᵀ·g over the axes of the rows, in the dtype of a weight."""
  return jax.lax.platform_dependent(
    x,
    gradient,
    cpu=lambda x, gradient: _by_columns(x, gradient, rows).astype(dtype),
    # What devices sum is sent in the weight's dtype.
    default=lambda x, gradient: _sums(x, gradient, rows, rows, dtype),
  )


def _by_columns(x, gradient, rows):
  """xᵀ·g, or (gᵀ·x)ᵀ where g has fewer columns to be laid out."""
  width, outs = x.shape[-1], gradient.shape[len(rows) :]
  if width <= math.prod(outs) or math.prod(outs) % 2:
    return _sums(_columns(x, 1), gradient, tuple(n + 1 for n in rows), rows)
  found = _sums(
    _columns(gradient, len(outs)), x, tuple(n + len(outs) for n in rows), rows
  )
  # In halves: XLA would make xᵀ·g of a product that is transposed whole.
  halves = jnp.moveaxis(found.reshape(2, -1, width), -1, 0)
  return halves.reshape(width, *outs)


def _sums(a, b, axes_of_a, axes_of_b, dtype=jnp.float32):
  """`lax.dot_general` over some axes."""
  return jax.lax.dot_general(
    a,
    b,
    ((axes_of_a, axes_of_b), ((), ())),
    preferred_element_type=dtype,
  )


def _columns(x, count):
  """The last axes first, laid out so in memory.

  XLA's products on CPUs read bfloat16 fast along the axis that they sum over:
  xᵀ·g takes up to three times as long as with a transpose that is made.
  """
  x = jnp.moveaxis(x, range(-count, 0), range(count))
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def dense_product(dtype: str) -> Callable[..., jax.Array] | None:
  """`dot_general` of a `flax.linen.Dense`; None: its own, for float32."""
  if dtype == 'float32':
    return None

  def of_dense(x: Any, kernel: Any, dimensions: Any, **_: Any) -> jax.Array:
    assert dimensions == (((x.ndim - 1,), (0,)), ((), ()))
    return rough_product(x, kernel)

  return of_dense


def faster_dtype(
  width: int,
  hidden: int,
  rows: int,
  clock: Callable[[], float] = time.perf_counter,
) -> str:
  """The dtype of `DTYPES` in which a layer and its gradient are faster here.

  Measured, on the first device of this process, in a second or two: a
  feed-forward layer with its norm and residual. bfloat16 has to be a tenth
  faster.

  Args:
    width: numbers in and out.
    hidden: numbers between the two products.
    rows: that it is computed for.
    clock: tells the seconds.
  """
  rows = max(1, min(rows, _MAX_ROWS))
  numbers = np.random.default_rng(0)
  x, up, down = (
    jax.device_put(numbers.normal(size=size).astype(np.float32), device)
    for device in jax.local_devices()[:1]
    for size in ((rows, width), (width, hidden), (hidden, width))
  )

  def loss(factors, product):
    x, up, down = factors
    y = x - jnp.mean(x, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
    y = x + product(jax.nn.relu(product(y, up)), down)
    return jnp.mean(y * y)

  programs = {
    dtype: jax.jit(jax.grad(functools.partial(loss, product=product)))
    for dtype, product in zip(DTYPES, (jnp.matmul, rough_product), strict=True)
  }
  seconds: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
  for _ in range(_ROUNDS):  # The first one compiles.
    for dtype, program in programs.items():
      began = clock()
      jax.block_until_ready(program((x, up, down)))
      seconds[dtype].append(clock() - began)
  # The least of them is what others on this machine disturbed least.
  gain = min(seconds['float32']) / min(seconds['bfloat16'])
  return 'bfloat16' if gain > _LEAST_GAIN else 'float32'
