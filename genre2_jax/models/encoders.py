"""From a table's row to the memory that the decoder reads."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models import products
from genre2_jax.models.layers import (
  Dropout,
  by_rows,
  dense,
  kernel_init,
  parameter,
)
from genre2_jax.policy import Inputs

NUMERIC_EMBEDDINGS = ('none', 'piecewise_linear', 'periodic')
CATEGORY_EMBEDDINGS = ('ordinal', 'one_hot', 'learned')
# Names of parameters that want a greater rate, and no decay.
FAST_PARAMETERS = ('feature_scale',)


class FeatureEmbedding(nn.Module):
  """A row as one vector: a choice for numbers and a choice for categories.

  'none': the standardised numbers as they are.
  'piecewise_linear': beside them each number's place in the bins of its
    column, (z − e_i) / (e_{i+1} − e_i) clipped to [0, 1], except that the
    first bin's is not clipped below nor the last bin's above: equation 1 of
    Gorishniy et al. 2022 (arXiv 2203.05556). No parameters.
  'periodic': ReLU(W_f·[cos 2πc_f z, sin 2πc_f z] + b_f) with K learned
    frequencies c_f ~ N(0, σ²) and a linear map per column, in place of the
    number: PLR of the same paper.
  'ordinal': codes scaled to [-1, 1].
  'one_hot': an indicator per code; a code out of range is all zeros.
  'learned': a row of a learned table per code; out of range, zeros.

  What else a row has, `beside`, comes behind them. With `scaled` every number
  of the vector is multiplied by a learned one, 1 at the start: the scaling
  layer of RealMLP (Holzmüller et al. 2024, arXiv 2407.04491), which finds out
  which columns matter. It has a greater rate and no decay (`FAST_PARAMETERS`).

  `feature_embedding` builds it, with defaults and checks.

  Attributes:
    cardinalities: number of codes of each categorical column.
    quantiles: ascending bin edges of each numeric column, in the units of
      the inputs; read by 'piecewise_linear' only. One edge is no bin.
    numeric_embedding: of `NUMERIC_EMBEDDINGS`.
    category_embedding: of `CATEGORY_EMBEDDINGS`.
    num_frequencies: K.
    frequency_scale: σ, in cycles per standard deviation of the column.
    embedding_width: numbers per column that is 'periodic' or 'learned'.
    indicators: codes of each categorical column that 'one_hot' knows; None:
      all.
    scaled: whether numbers are multiplied by learned ones.
    edges: those of `quantiles` one after the other, where a program is given
      them; `quantiles` then say their number only.
  """

  cardinalities: tuple[int, ...]
  quantiles: tuple[tuple[float, ...], ...]
  numeric_embedding: str
  category_embedding: str
  num_frequencies: int
  frequency_scale: float
  embedding_width: int
  indicators: tuple[tuple[int, ...], ...] | None = None
  scaled: bool = False
  edges: jax.Array | None = None

  @nn.compact
  def __call__(self, inputs: Inputs) -> jax.Array:
    """Maps `numeric` [B, F], `categories` [B, C] to [B, E]."""
    numeric, codes = inputs['numeric'], inputs['categories']
    if codes.shape[-1] != len(self.cardinalities):
      raise ValueError(
        f'{codes.shape[-1]} categorical columns, but cardinalities of '
        f'{len(self.cardinalities)}'
      )
    if self.numeric_embedding == 'piecewise_linear':
      places = piecewise_linear(numeric, self.quantiles, self.edges)
      numeric = jnp.concatenate([numeric, places], axis=-1)
    elif self.numeric_embedding == 'periodic' and numeric.shape[-1]:
      numeric = self._periodic(numeric)
    if self.category_embedding == 'one_hot':
      codes = self._one_hot(codes, self.indicators)
    elif self.category_embedding == 'learned' and self.cardinalities:
      codes = self._learned(codes)
    else:
      # Scaled, because as raw integers a column of fifty categories would
      # drown the standardised numbers beside it.
      last = jnp.maximum(jnp.array(self.cardinalities, jnp.float32) - 1, 1)
      codes = 2 * codes.astype(jnp.float32) / last - 1
    parts = [numeric, codes]
    if 'beside' in inputs:
      parts.append(inputs['beside'])
    x = jnp.concatenate(parts, axis=-1)
    if self.scaled:
      ones = nn.initializers.ones_init()
      x = x * self._table('feature_scale', ones, x.shape[-1:])
    return x

  def _periodic(self, x: jax.Array) -> jax.Array:
    num_columns = x.shape[-1]
    frequencies = self._table(
      'frequencies',
      nn.initializers.normal(self.frequency_scale),
      (num_columns, self.num_frequencies),
    )
    kernel = self._table(
      'kernel',
      nn.initializers.xavier_uniform(batch_axis=0),
      (num_columns, 2 * self.num_frequencies, self.embedding_width),
    )
    bias = self._table(
      'bias', nn.initializers.zeros_init(), (num_columns, self.embedding_width)
    )
    angles = 2 * math.pi * frequencies * x[..., None]  # [B, F, K]
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    x = jax.nn.relu(jnp.einsum('bfk,fke->bfe', waves, kernel) + bias)
    return x.reshape(len(x), -1)

  def _one_hot(
    self,
    codes: jax.Array,
    indicators: Sequence[Sequence[int]] | None = None,
  ) -> jax.Array:
    """Indicators of all columns side by side: [B, sum of cardinalities].

    Or of the codes in `indicators` only.
    """
    if indicators is None:
      indicators = [range(n) for n in self.cardinalities]
    column = np.repeat(np.arange(len(indicators)), [*map(len, indicators)])
    code = np.concatenate([np.array(n, int) for n in (*indicators, ())])
    return (codes[:, column] == code).astype(jnp.float32)

  def _learned(self, codes: jax.Array) -> jax.Array:
    total, width = sum(self.cardinalities), self.embedding_width
    table = self._table(
      'categories', nn.initializers.normal(width**-0.5), (total, width)
    )
    # A product with one-hot rows, as in `NumberDecoder`: its gradient is no
    # scatter. 'highest', because it is to copy the rows.
    ends = np.cumsum(self.cardinalities)[:-1]
    rows = zip(
      jnp.split(self._one_hot(codes), ends, axis=-1),
      jnp.split(table, ends),
      strict=True,
    )
    parts = [jnp.matmul(a, b, precision='highest') for a, b in rows]
    return jnp.concatenate(parts, axis=-1)

  def _table(
    self, name: str, init: Callable[..., jax.Array], shape: tuple[int, ...]
  ) -> jax.Array:
    """A parameter per column: small, whole on every device."""
    return parameter(self, name, init, (None,) * len(shape), shape)


def feature_embedding(
  *,
  cardinalities: Sequence[int],
  quantiles: Sequence[Sequence[float]] = (),
  numeric_embedding: str = 'none',
  category_embedding: str = 'ordinal',
  num_frequencies: int = 48,
  frequency_scale: float = 0.01,
  embedding_width: int = 24,
  indicators: Sequence[Sequence[int]] | None = None,
  scaled: bool = False,
  edges: jax.Array | None = None,
) -> FeatureEmbedding:
  """A `FeatureEmbedding`; its attributes say what the arguments are.

  The defaults of the numbers are those of the authors' package
  rtdl_num_embeddings; the paper searches frequency_scale from 0.01 to 100.

  Raises:
    ValueError: no such embedding, a size that is not positive, or edges that
      do not ascend.
  """
  for name, choice, choices in (
    ('numeric_embedding', numeric_embedding, NUMERIC_EMBEDDINGS),
    ('category_embedding', category_embedding, CATEGORY_EMBEDDINGS),
  ):
    if choice not in choices:
      raise ValueError(
        f'unknown {name} {choice!r}: choose from {", ".join(choices)}'
      )
  for name, value in (
    ('num_frequencies', num_frequencies),
    ('frequency_scale', frequency_scale),
    ('embedding_width', embedding_width),
  ):
    if value <= 0:
      raise ValueError(f'{name}={value!r}: give a positive number')
  for column in quantiles if edges is None else ():
    if not (np.diff(np.asarray(column, np.float32)) > 0).all():
      raise ValueError('the edges in quantiles must ascend, in float32 too')
  return FeatureEmbedding(
    cardinalities=tuple(cardinalities),
    quantiles=tuple(map(tuple, quantiles)),
    numeric_embedding=numeric_embedding,
    category_embedding=category_embedding,
    num_frequencies=num_frequencies,
    frequency_scale=frequency_scale,
    embedding_width=embedding_width,
    indicators=None if indicators is None else tuple(map(tuple, indicators)),
    scaled=scaled,
    edges=edges,
  )


def edges_of(quantiles: Sequence[Sequence[float]]) -> np.ndarray:
  """The edges of all columns one after the other: float32 [E]."""
  return np.array([edge for column in quantiles for edge in column], np.float32)


def piecewise_linear(
  x: jax.Array,
  quantiles: Sequence[Sequence[float]],
  edges: jax.Array | np.ndarray | None = None,
) -> jax.Array:
  """Places of numbers in bins (equation 1 of arXiv 2203.05556).

  Args:
    x: [B, F].
    quantiles: ascending edges of each column's bins, static.
    edges: `edges_of` others of the same numbers, in their place.

  Returns:
    [B, bins of all columns]. Over the bins of a column they are 1, ..., 1, a
    fraction, 0, ..., 0; with one bin the line itself.

  Raises:
    ValueError: not one list of edges per column.
  """
  if x.shape[-1] != len(quantiles):
    raise ValueError(
      f'{x.shape[-1]} numeric columns, but quantiles of {len(quantiles)}'
    )
  if edges is None:
    edges = edges_of(quantiles)
  bins, first = [], 0
  for column, own in enumerate(quantiles):
    for i in range(len(own) - 1):
      low = -np.inf if i == 0 else 0
      high = np.inf if i == len(own) - 2 else 1
      bins.append((column, first + i, low, high))
    first += len(own)
  table = np.array(bins, np.float32).reshape(-1, 4)
  column, place = table[:, :2].astype(int).T
  low, high = table[:, 2:].T
  left, right = edges[place], edges[place + 1]
  return jnp.clip((x[:, column] - left) / (right - left), low, high)


class EnsembleDense(nn.Module):
  """k linear maps around one kernel: ((x ⊙ r_m)·W) ⊙ s_m + b_m.

  BatchEnsemble (Wen et al. 2020, arXiv 2002.06715), begun as in TabM
  (Gorishniy et al. 2024, arXiv 2410.24210): r and s at 1, but the first
  layer's r at random signs, which is where the members begin to differ.

  Attributes:
    features: numbers out.
    axes: logical axis names of the kernel (in, out).
    num_members: k.
    is_first: whether r begins as random signs.
    is_zero: whether W begins at zero.
    compute_dtype: of the product's factors, of `products.DTYPES`.
  """

  features: int
  axes: tuple[str | None, str | None]
  num_members: int
  is_first: bool
  is_zero: bool = False
  compute_dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, k, I] to [B, k, O]."""
    into, out = self.axes

    def signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
      return jax.random.rademacher(key, shape, jnp.float32)

    ones, k = nn.initializers.ones_init(), self.num_members
    r = parameter(
      self,
      'r',
      signs if self.is_first else ones,
      (None, into),
      (k, x.shape[-1]),
    )
    kernel = parameter(
      self,
      'kernel',
      kernel_init(self.is_zero),
      self.axes,
      (x.shape[-1], self.features),
    )
    s = parameter(self, 's', ones, (None, out), (k, self.features))
    bias = parameter(
      self,
      'bias',
      nn.initializers.zeros_init(),
      (None, out),
      (k, self.features),
    )
    rough = self.compute_dtype == 'bfloat16'
    product = products.rough_product if rough else jnp.matmul
    return product(x * r, kernel) * s + bias


class MLPEncoder(nn.Module):
  """GenRe²'s encoder (arXiv 2512.06533): an MLP to one memory slot, or to k.

  With k > 1 members every layer is an `EnsembleDense`, and each member writes
  a slot of its own. TabM trains k predictions, each by a loss of its own, and
  averages them; a policy is one distribution per input, so here it is the
  reader of the slots who weighs the members, under one loss. TabM's k separate
  output layers are one `EnsembleDense` here.

  Attributes:
    embedding: of the features.
    width: D, the numbers in a slot: the decoder's width.
    hidden: width of the hidden layers.
    num_layers: hidden layers, each linear, ReLU, dropout.
    dropout: rate after each hidden layer.
    num_members: k.
    out_axis: logical axis of what is written.
    starts_at_zero: whether all that is written is zero at the start.
    compute_dtype: of the factors of the layers' products, of `products.DTYPES`;
      embeddings of features are float32.
    own_dropout: whether each member of a pack has its own rate of dropout.
  """

  embedding: FeatureEmbedding
  width: int
  hidden: int
  num_layers: int
  dropout: float
  num_members: int = 1
  out_axis: str | None = 'embed'
  starts_at_zero: bool = False
  compute_dtype: str = 'float32'
  own_dropout: bool = False

  @nn.compact
  def __call__(self, inputs: Inputs) -> jax.Array:
    """Maps `numeric` [B, F] and `categories` [B, C] to memory [B, k, D]."""
    if self.num_members < 1:
      raise ValueError(f'{self.num_members} ensemble members: give at least 1')
    x = self.embedding(inputs)
    if self.num_members > 1:
      x = jnp.broadcast_to(x[:, None], (len(x), self.num_members, x.shape[-1]))
    # Split by columns, then by rows (Megatron-LM, arXiv 1909.08053): devices
    # of the 'model' axis exchange activations after every second layer only.
    into: str | None = None
    out: str | None = 'mlp'
    for layer in range(self.num_layers):
      x = jax.nn.relu(self._linear(self.hidden, (into, out), layer)(x))
      x = Dropout(self.dropout, self.own_dropout)(x)
      x = by_rows(x, 'mlp' if out == 'mlp' else None)
      into, out = out, 'embed' if out == 'mlp' else 'mlp'
    out = None if into == self.out_axis else self.out_axis
    x = by_rows(self._linear(self.width, (into, out), self.num_layers)(x))
    return x if self.num_members > 1 else x[:, None]

  def _linear(
    self, features: int, axes: tuple[str | None, str | None], layer: int
  ) -> nn.Module:
    shared: dict[str, Any] = {
      'is_zero': self.starts_at_zero and layer == self.num_layers,
      'compute_dtype': self.compute_dtype,
    }
    if self.num_members == 1:
      return dense(features, axes, **shared)
    return EnsembleDense(features, axes, self.num_members, layer == 0, **shared)
