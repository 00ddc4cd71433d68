"""Gemma's backbone: it reads prompts, and numbers after them.

The layers are one scanned module: 18 to 62 layers compile as one. A layer's
sliding window (of a global layer it is out of reach) and the rates of its
rotary positions are data, so that layers of both kinds are one program in any
order. Parameters are stacked over layers.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.gemma.layers import (
  Kind,
  Layer,
  Lora,
  Numerics,
  Pair,
  RMSNorm,
  normal,
  softcap,
)
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.layers import by_rows, parameter, rows_of
from genre2_jax.models.products import projection
from genre2_jax.policy import Inputs, Params

# How tokens of a prompt see each other.
ATTENTION = ('causal', 'bidirectional')


class Backbone(nn.Module):
  """Token embeddings, the layers and the final norm."""

  config: GemmaConfig
  numerics: Numerics

  def setup(self) -> None:
    config, numerics = self.config, self.numerics
    self.embedding = parameter(
      self,
      'embedding',
      # Of variance 1 once scaled, and with final norms logits of variance 1.
      functools.partial(normal, scale=config.width**-0.5),
      ('subword', 'embed'),
      (config.vocab_size, config.width),
      jnp.dtype(numerics.param_dtype),
    )
    layer: Any = Layer
    if numerics.remat:
      layer = nn.remat(Layer, prevent_cse=False)
    self.layers = nn.scan(
      layer,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      # Behind the axes of a prompt [B, L] and of a cache [B, U, N].
      in_axes=(0, 2, 3, nn.broadcast),
      out_axes=3,
      length=config.num_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(config, numerics)
    self.final_norm = RMSNorm(config.norm_epsilon, numerics.param_dtype)

  def look_up(self, tokens: jax.Array) -> jax.Array:
    """Rows of the embedding: [B, ...] to [B, ..., D].

    Each device finds its part of D for the rows of all that share a table with
    it, then they exchange: without a constraint the partitioner may look up the
    whole batch on every device.
    """
    rows = rows_of(self.embedding, tokens)
    names = ('data_batch', *[None] * (tokens.ndim - 1), 'embed')
    return nn.with_logical_constraint(rows, names)

  def embed(self, rows: jax.Array) -> jax.Array:
    """Rows [..., D] of the embedding as the first layer takes them."""
    dtype = jnp.dtype(self.numerics.compute_dtype)
    scale = jnp.asarray(math.sqrt(self.config.width), dtype)
    return rows.astype(dtype) * scale

  def read(
    self, inputs: Mapping[str, jax.Array], bidirectional: bool = False
  ) -> tuple[jax.Array, Pair]:
    """Runs texts through the model.

    Args:
      inputs: 'tokens' int [B, L], right-padded, and 'length' int [B].
      bidirectional: whether tokens see those after them too.

    Returns:
      (normed hidden states [B, L, D], keys and values
      [B, L, layers, kv_heads, head_dim]).
    """
    x = self.embed(self.look_up(inputs['tokens']))
    x, (key, value) = self.layers(
      by_rows(x[:, None]),
      self._kinds(),
      None,
      None,
      _of_prompt(inputs, bidirectional, self.numerics.attention_block),
    )
    return self.final_norm(x)[:, 0], (key[:, 0], value[:, 0])

  def read_and_follow(
    self,
    inputs: Mapping[str, jax.Array],
    rows: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    bidirectional: bool = False,
  ) -> jax.Array:
    """`read` and `follow` in one pass through the layers.

    Devices that share the weights gather those of a layer once for both.

    Args:
      inputs: as of `read`.
      rows: as of `follow`.
      positions: as of `follow`.
      visible: static bool [Q, Q].
      bidirectional: as in `read`.

    Returns:
      Normed hidden states of the nodes [B, U, Q, D].
    """
    num_past = inputs['tokens'].shape[1]
    geometry = _of_prompt(inputs, bidirectional, self.numerics.attention_block)
    geometry['nodes'] = _of_nodes(
      inputs['length'], num_past, positions, visible, bidirectional
    )
    prompt = self.embed(self.look_up(inputs['tokens']))
    nodes = self.embed(rows)
    flat = nodes.reshape(len(nodes), -1, nodes.shape[-1])
    x = jnp.concatenate([prompt, flat], axis=1)
    x, _ = self.layers(by_rows(x[:, None]), self._kinds(), None, None, geometry)
    return self.final_norm(x[:, 0, num_past:].reshape(nodes.shape))

  def follow(
    self,
    context: Mapping[str, jax.Array],
    rows: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Pair | None = None,
    bidirectional: bool = False,
  ) -> tuple[jax.Array, Pair]:
    """Runs nodes of a trie that begins at the end of a prompt.

    Args:
      context: 'length' [B], 'keys' and 'values'
        [B, L, layers, kv_heads, head_dim].
      rows: the nodes' embeddings [B, U, Q, D], the last token's at the root.
      positions: static int [Q], of nodes from the root.
      visible: static bool [Q, N + Q].
      cache: keys and values [B, U, N, layers, kv_heads, head_dim].
      bidirectional: as in `read`; the root is a token of the prompt.

    Returns:
      (normed hidden states [B, U, Q, D], the cache of N + Q nodes).
    """
    geometry = _of_nodes(
      context['length'],
      context['keys'].shape[1],
      positions,
      visible,
      bidirectional,
    )
    x, cache = self.layers(
      by_rows(self.embed(rows)),
      self._kinds(),
      (context['keys'], context['values']),
      cache,
      geometry,
    )
    return self.final_norm(x), cache

  def extend(
    self,
    context: Mapping[str, jax.Array],
    rows: jax.Array,
    position: jax.Array,
    cache: Pair,
    bidirectional: bool = False,
  ) -> tuple[jax.Array, Pair]:
    """Runs the next node of chains that begin at the end of a prompt.

    As `follow`, one node of each, at a position that is data.

    Args:
      context: as of `follow`.
      rows: the nodes' embeddings [B, U, D], the prompt's last token's at 0.
      position: int32 scalar, nodes from the root.
      cache: keys and values [B, U, N, layers, kv_heads, head_dim], those of the
        nodes before it filled in.
      bidirectional: as in `follow`.

    Returns:
      (normed hidden states [B, U, D], the cache with this node's).
    """
    root = context['length'][:, None] - 1  # [B, 1]
    place = root + position
    past = np.arange(context['keys'].shape[1])
    slots = np.arange(cache[0].shape[2])
    far = place[..., None] - past
    if bidirectional:
      far = far - (position == 0)
    geometry = {
      'place': place,
      # The node itself stands behind all slots.
      'own': (
        jnp.append(slots < position, True)[None, None],
        jnp.append(position - slots, 0)[None, None],
      ),
      'prompt': ((past < root)[:, None], far),
    }
    x, new = self.layers(
      by_rows(self.embed(rows)[:, :, None]),
      self._kinds(),
      (context['keys'], context['values']),
      cache,
      geometry,
    )
    key, value = (
      jax.lax.dynamic_update_slice_in_dim(old, own[:, :, -1:], position, 2)
      for old, own in zip(cache, new, strict=True)
    )
    return self.final_norm(x)[:, :, 0], (key, value)

  def _kinds(self) -> Kind:
    """Of all layers, stacked."""
    return {
      'window': jnp.asarray(self.config.windows),
      'rates': jnp.asarray(self.config.rates),
    }

  def project(self, x: jax.Array, rows: jax.Array) -> jax.Array:
    """Logits of x [..., D] at rows [V, D] of the embedding, float32."""
    logits = projection(x, rows)
    return softcap(logits, self.config.final_softcap)


def _of_prompt(
  inputs: Mapping[str, jax.Array], bidirectional: bool, block: int
) -> dict[str, Any]:
  """`Geometry` of texts, as `Backbone.read` has them.

  Those that are longer than a block, of so many subwords, are read in blocks;
  0: none are.
  """
  place = np.arange(inputs['tokens'].shape[1])
  geometry: dict[str, Any] = {'place': jnp.asarray(place)[None]}
  if 0 < block < len(place):
    direction = 'bidirectional' if bidirectional else 'causal'
    return geometry | {direction: inputs['length']}
  distance = place[:, None] - place
  if bidirectional:
    visible = (place < inputs['length'][:, None])[:, None]  # [B, 1, L]
    # Within the window on both sides, the window's end included.
    distance = np.abs(distance) - 1
  else:
    visible = distance[None] >= 0
  own = jnp.asarray(visible), jnp.asarray(distance)[None]
  return geometry | {'own': own}


def _of_nodes(
  length: jax.Array,
  num_past: int,
  positions: np.ndarray,
  visible: np.ndarray,
  bidirectional: bool,
) -> dict[str, Any]:
  """`Geometry` of nodes behind prompts of some length [B], padded to one."""
  root = length[:, None] - 1  # [B, 1]
  place = root + positions  # [B, Q]
  past = np.arange(num_past)
  # A node's ancestors stand before it from the root down, so the first that
  # it sees is at position 0, the second at 1.
  distance = positions[:, None] - (np.cumsum(visible, axis=1) - 1)
  far = place[..., None] - past  # [B, Q, L]
  if bidirectional:
    far = far - (positions == 0)[:, None]
  return {
    'place': place,
    'own': (jnp.asarray(visible)[None], jnp.asarray(distance)[None]),
    'prompt': (
      # The root is the prompt's last token, which is thus not looked up.
      (past < root)[:, None],
      far,
    ),
  }


def below_low_rank(path: tuple[str, ...]) -> bool:
  """`Policy.frozen` of a model with low-rank updates: all of it but them."""
  return path[0] == 'backbone' and not path[-1].startswith('lora_')


def frozen_of(
  lora: Lora | None, freeze_embedding: bool
) -> Callable[[tuple[str, ...]], bool] | None:
  """`Policy.frozen` of a language model.

  Args:
    lora: low-rank updates, below which nothing is trained, or None.
    freeze_embedding: whether the embedding of subwords, a tied head too, stays.
  """
  if lora is not None:
    return below_low_rank
  if freeze_embedding:
    return lambda path: path == ('backbone', 'embedding')
  return None


def initializer(model: nn.Module) -> Callable[..., Params]:
  """`init` of a `Policy` or a `Pointwise`: (key, inputs, given=None) -> params.

  Parameters in the nested dict `given` are taken, the rest are drawn.
  """

  def init(key: jax.Array, inputs: Inputs, given: Params = None) -> Params:
    one = jax.tree.map(lambda x: x[:1], inputs)
    return merged(model.init(key, one)['params'], given)

  return init


def merged(params: Params, given: Params) -> Params:
  """Boxed parameters, those in the nested dict `given` taken from there."""
  if given is None:
    return params
  if not isinstance(params, dict):
    return params.replace_boxed(given)
  return {name: merged(x, given.get(name)) for name, x in params.items()}


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
  """Raises a ValueError unless a value is among its choices."""
  if value not in choices:
    raise ValueError(f'{name}={value!r}: choose {" or ".join(choices)}')
