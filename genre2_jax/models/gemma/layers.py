"""The layers of Gemma 2 and 3, and how they are computed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre2_jax.models.gemma.blocks import View, blockwise_attention
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.layers import MASKED, Dropout, by_rows, parameter
from genre2_jax.models.products import rough_product

Pair = tuple[jax.Array, jax.Array]  # keys and values
# Where tokens stand and which see which; `Attention` says what is in it.
Geometry = Mapping[str, Any]
# What tells one layer of a model from another but for its weights: 'window' and
# 'rates', of `GemmaConfig`.
Kind = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
  """Low-rank updates W + (alpha/rank)·A·B (LoRA: Hu et al. 2021).

  Attributes:
    rank: of A·B.
    alpha: strength; alpha = rank is 1.
    targets: linear layers that have one: query, key, value, out, gate, up,
      down.
  """

  rank: int = 16
  alpha: float = 16.0
  targets: tuple[str, ...] = ('query', 'key', 'value', 'out')

  def __post_init__(self) -> None:
    known = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
    unknown = [t for t in self.targets if t not in known]
    if unknown or not self.targets:
      raise ValueError(
        f'lora.targets={self.targets}: choose from {", ".join(known)}'
      )
    if self.rank < 1:
      raise ValueError(f'lora.rank={self.rank}: give 1 or more')

  @property
  def scale(self) -> float:
    """alpha / rank."""
    return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numerics:
  """How a model is computed.

  Attributes:
    compute_dtype: of matrix products and activations; softmax, norms and
      logits are float32 in any case.
    param_dtype: of parameters as they are kept.
    remat: whether layers are computed again in the backward pass instead of
      kept.
    dropout: rate on what each sublayer adds, in training only.
    lora: low-rank updates, or None.
    attention_block: tokens of a block of `blocks.blockwise_attention`, which
      reads prompts that are longer than one; 0: none are.
  """

  compute_dtype: str = 'bfloat16'
  param_dtype: str = 'float32'
  remat: bool = False
  dropout: float = 0.0
  lora: Lora | None = None
  attention_block: int = 0


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
  """c·tanh(x/c), or x where c is None."""
  return x if cap is None else cap * jnp.tanh(x / cap)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
  """Rotary positions (Su et al. 2021), halves rotated against each other.

  Args:
    x: [B, U, Q, heads, head_dim].
    angles: float32 [B or 1, Q, head_dim / 2].

  Returns:
    As x.
  """
  cos = jnp.cos(angles)[:, None, :, None]
  sin = jnp.sin(angles)[:, None, :, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _places(geometry: Geometry, batch: int, count: int) -> jax.Array:
  """Of tokens, and of nodes behind them: [B or 1, count]."""
  place = geometry['place']
  if 'nodes' not in geometry:
    return place
  length = place.shape[-1]
  nodes = geometry['nodes']['place']  # [B, Q]
  nodes = jnp.tile(nodes, (1, (count - length) // nodes.shape[-1]))
  return jnp.concatenate(
    [jnp.broadcast_to(place, (batch, length)), nodes], axis=-1
  )


def normal(
  key: jax.Array, shape: tuple[int, ...], dtype: Any, scale: float
) -> jax.Array:
  """Drawn in float32, rounded to dtype.

  Drawn in bfloat16 the mean is 0.015 deviations off, which a sum over a
  vocabulary's logits, all of one sign, makes ten deviations of.
  """
  return (scale * jax.random.normal(key, shape, jnp.float32)).astype(dtype)


def _fan_in(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  """Normal, of variance 1 / inputs; at 2B the deviation is near 0.02."""
  return normal(key, shape, dtype, shape[0] ** -0.5)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x·W, [..., I] and [I, O] of one dtype: sums in float32, then rounded."""
  if x.dtype != jnp.bfloat16:
    return jnp.dot(x, kernel)
  return rough_product(x, kernel).astype(x.dtype)


class Linear(nn.Module):
  """x·W without bias, or x·W + (alpha/rank)·x·A·B: [..., I] to [..., O].

  Attributes:
    features: O.
    axes: logical axis names of W (in, out).
    numerics: its updates are those of a layer that `lora.targets` names.
  """

  features: int
  axes: tuple[str | None, str | None]
  numerics: Numerics

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    numerics, (inner, outer) = self.numerics, self.axes
    kernel = parameter(
      self,
      'kernel',
      _fan_in,
      (inner, outer),
      (x.shape[-1], self.features),
      jnp.dtype(numerics.param_dtype),
    )
    y = product(x, kernel.astype(x.dtype))
    lora = numerics.lora
    if lora is None or self.name not in lora.targets:
      return y
    a = parameter(
      self,
      'lora_a',
      _fan_in,
      (inner, None),
      (x.shape[-1], lora.rank),
      jnp.float32,
    )
    b = parameter(
      self,
      'lora_b',
      nn.initializers.zeros_init(),
      (None, outer),
      (lora.rank, self.features),
      jnp.float32,
    )
    update = (x @ a.astype(x.dtype)) @ b.astype(x.dtype)
    return y + lora.scale * update


class RMSNorm(nn.Module):
  """x / rms(x) · (1 + w) over the last axis, in float32.

  Zhang & Sennrich 2019.
  """

  epsilon: float
  param_dtype: str = 'float32'
  axis: str | None = 'embed'  # its logical name

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = parameter(
      self,
      'scale',
      nn.initializers.zeros_init(),
      (self.axis,),
      x.shape[-1:],
      jnp.dtype(self.param_dtype),
    )
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.epsilon)
    return (y * (1 + scale.astype(jnp.float32))).astype(x.dtype)


class Attention(nn.Module):
  """Grouped-query attention to other tokens beside and to a shared prompt.

  Or of both in one pass, so that weights are looked at once: prompts, and nodes
  that attend to them.
  """

  config: GemmaConfig
  numerics: Numerics

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    kind: Kind,
    prompt: Pair | None,
    cache: Pair | None,
    geometry: Geometry,
  ) -> tuple[jax.Array, Pair]:
    """Attends from x to the prompt, to the cache and to x itself.

    Args:
      x: [B, U, Q, D].
      kind: of the layer.
      prompt: keys and values [B, L, kv_heads, head_dim] or None.
      cache: keys and values [B, U, N, kv_heads, head_dim] or None.
      geometry: 'place' [B or 1, Q], and for 'own' and 'prompt' keys (visible,
        distance). Of prompts and nodes in one, x [B, 1, L + U·Q, D], it is that
        of the prompts and 'nodes', which is that of the nodes. In a text
        that is read block by block 'causal' or 'bidirectional' is there instead
        of 'own': the texts' lengths [B].

    Returns:
      ([B, U, Q, D], keys and values [B, U, N + Q, kv_heads, head_dim]).
    """
    config = self.config
    batch, branches, count, _ = x.shape
    num_kv, head_dim = config.num_kv_heads, config.head_dim
    window = kind['window']
    place = _places(geometry, batch, count).astype(jnp.float32)
    angles = place[..., None] * kind['rates']

    def heads(name: str, number: int) -> jax.Array:
      y = Linear(
        number * head_dim, ('embed', 'heads'), self.numerics, name=name
      )(x)
      return y.reshape(batch, branches, count, number, head_dim)

    def turned(name: str, number: int) -> jax.Array:
      y = heads(name, number)
      if config.qk_norm:
        norm = RMSNorm(
          config.norm_epsilon,
          self.numerics.param_dtype,
          axis=None,
          name=f'{name}_norm',
        )
        y = norm(y)
      return rotate(y, angles)

    query = turned('query', config.num_heads) * config.query_scale**-0.5
    query = query.reshape(batch, branches, count, num_kv, -1, head_dim)
    key = turned('key', num_kv)
    value = heads('value', num_kv)
    if 'nodes' not in geometry:
      if cache is not None:
        key = jnp.concatenate([cache[0], key], axis=2)
        value = jnp.concatenate([cache[1], value], axis=2)
      mixed = self._mixed(query, key, value, window, prompt, geometry)
    else:
      length = geometry['place'].shape[-1]
      (query, below), (key, key_below), (value, value_below) = (
        jnp.split(y, [length], axis=2) for y in (query, key, value)
      )
      mixed = self._mixed(query, key, value, window, None, geometry)
      nodes = geometry['nodes']
      shape = batch, -1, nodes['place'].shape[-1]
      of_nodes = self._mixed(
        below.reshape(*shape, *below.shape[3:]),
        key_below.reshape(*shape, *key.shape[3:]),
        value_below.reshape(*shape, *value.shape[3:]),
        window,
        (key[:, 0], value[:, 0]),
        nodes,
      )
      below = of_nodes.reshape(batch, 1, -1, *of_nodes.shape[3:])
      mixed = jnp.concatenate([mixed, below], axis=2)
    mixed = mixed.reshape(batch, branches, count, -1)
    out = Linear(config.width, ('heads', 'embed'), self.numerics, name='out')(
      mixed
    )
    return out, (key, value)

  def _mixed(
    self,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    window: jax.Array,
    prompt: Pair | None,
    geometry: Geometry,
  ) -> jax.Array:
    """Values as queries [B, U, Q, kv_heads, g, head_dim] weigh them: as these.

    Keys and values are [B, U, N, kv_heads, head_dim], those of the prompt
    [B, L, kv_heads, head_dim].
    """
    if 'own' not in geometry:
      (direction,) = geometry.keys() & {'causal', 'bidirectional'}
      view = View(
        block=self.numerics.attention_block,
        cap=self.config.attention_softcap,
        bidirectional=direction == 'bidirectional',
      )
      mixed = blockwise_attention(
        query[:, 0],
        key[:, 0],
        value[:, 0],
        window,
        geometry[direction],
        view,
      )
      return mixed[:, None]
    logits = jnp.einsum(
      'buqkgd,bunkd->bkguqn', query, key, preferred_element_type=jnp.float32
    )
    logits = self._masked(logits, window, *geometry['own'])
    if prompt is None:
      weights = jax.nn.softmax(logits).astype(query.dtype)
      return jnp.einsum('bkguqn,bunkd->buqkgd', weights, value)
    far = jnp.einsum(
      'buqkgd,blkd->bkguql',
      query,
      prompt[0],
      preferred_element_type=jnp.float32,
    )
    far = self._masked(far, window, *geometry['prompt'])
    # One softmax over both, without copying the prompt to every branch.
    weights = jax.nn.softmax(jnp.concatenate([far, logits], -1))
    far, near = jnp.split(weights.astype(query.dtype), [far.shape[-1]], axis=-1)
    mixed = jnp.einsum('bkguql,blkd->buqkgd', far, prompt[1])
    return mixed + jnp.einsum('bkguqn,bunkd->buqkgd', near, value)

  def _masked(
    self,
    logits: jax.Array,
    window: jax.Array,
    visible: jax.Array,
    distance: jax.Array,
  ) -> jax.Array:
    """Logits [B, kv, g, U, Q, K] capped, MASKED unless seen and near."""
    seen = (visible & (distance < window))[:, None, None, None]
    return jnp.where(
      seen, softcap(logits, self.config.attention_softcap), MASKED
    )


class FeedForward(nn.Module):
  """down(gelu(gate(x)) · up(x)) (GeGLU: Shazeer 2020)."""

  config: GemmaConfig
  numerics: Numerics

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def linear(name: str, features: int, axes: tuple[str, str]) -> Linear:
      return Linear(features, axes, self.numerics, name=name)

    hidden = self.config.feedforward
    gate = linear('gate', hidden, ('embed', 'mlp'))(x)
    up = linear('up', hidden, ('embed', 'mlp'))(x)
    x = jax.nn.gelu(gate, approximate=True) * up
    return linear('down', self.config.width, ('mlp', 'embed'))(x)


class Layer(nn.Module):
  """Attention and feed-forward, each normed before and after."""

  config: GemmaConfig
  numerics: Numerics

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    kind: Kind,
    prompt: Pair | None,
    cache: Pair | None,
    geometry: Geometry,
  ) -> tuple[jax.Array, Pair]:
    """As `Attention`: x [B, U, Q, D] and the keys and values of the layer."""

    def norm(name: str) -> RMSNorm:
      return RMSNorm(
        self.config.norm_epsilon, self.numerics.param_dtype, name=name
      )

    drop = Dropout(self.numerics.dropout)
    y, cache = Attention(self.config, self.numerics, name='attention')(
      norm('attention_norm')(x), kind, prompt, cache, geometry
    )
    x = by_rows(x + drop(norm('attention_post_norm')(y)))
    y = FeedForward(self.config, self.numerics, name='mlp')(norm('mlp_norm')(x))
    return by_rows(x + drop(norm('mlp_post_norm')(y))), cache
