"""Gemma-2: sizes, layers, and the backbone that reads prompts and numbers.

The layers are one scanned module: 26 to 46 layers compile as one. A layer's
sliding window is data (of a global layer it is out of reach), so that layers of
both kinds are one program in any order. Parameters are stacked over layers.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.layers import MASKED, Dropout, by_rows

_UNBOUNDED = 2**30  # farther than any two tokens are apart
# How tokens of a prompt see each other.
ATTENTION = ('causal', 'bidirectional')
_LAYER_TYPES = ('sliding_attention', 'full_attention')


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmaConfig:
  """Sizes of a Gemma-2 decoder or of a T5Gemma encoder (arXiv 2408.00118).

  Attributes:
    vocab_size: subwords.
    width: D of the residual stream.
    num_layers: of attention and feed-forward.
    num_heads: query heads.
    num_kv_heads: key and value heads, divides `num_heads`.
    head_dim: of a head; even.
    feedforward: width of the gated feed-forward layer.
    query_scale: queries are divided by its square root.
    sliding_window: tokens that a local layer sees, itself included.
    local: which layers are local; None: every other one, the first included.
    attention_softcap: c in c·tanh(x/c) of attention logits; None: no cap.
    final_softcap: the same of next-token logits.
    rope_theta: base of the rotary positions.
    norm_epsilon: of RMSNorm.
    max_length: context that the model was made for.
  """

  vocab_size: int = 256000
  width: int = 2304
  num_layers: int = 26
  num_heads: int = 8
  num_kv_heads: int = 4
  head_dim: int = 256
  feedforward: int = 9216
  query_scale: int = 256
  sliding_window: int = 4096
  local: tuple[bool, ...] | None = None
  attention_softcap: float | None = 50.0
  final_softcap: float | None = 30.0
  rope_theta: float = 10000.0
  norm_epsilon: float = 1e-6
  max_length: int = 8192

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} does not divide by num_kv_heads='
        f'{self.num_kv_heads}'
      )
    if self.head_dim % 2:
      raise ValueError(f'head_dim={self.head_dim} must be even')
    if self.local is not None and len(self.local) != self.num_layers:
      raise ValueError(
        f'local names {len(self.local)} layers of {self.num_layers}'
      )

  @property
  def windows(self):
    """The sliding window of each layer: int32 [num_layers]."""
    local = self.local
    if local is None:
      local = [layer % 2 == 0 for layer in range(self.num_layers)]
    return np.where(local, self.sliding_window, _UNBOUNDED).astype(np.int32)

  @classmethod
  def from_hf(cls, config):
    """From a Hugging Face `config.json`, or a T5Gemma's section 'encoder'.

    Args:
      config: dict.

    Raises:
      ValueError: a setting that this model does not have.
    """
    expected = {
      'hidden_activation': 'gelu_pytorch_tanh',
      'attention_bias': False,
      'tie_word_embeddings': True,
    }
    for name, value in expected.items():
      if config.get(name, value) != value:
        raise ValueError(f'{name}={config[name]!r}: only {value!r} is known')
    rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
    if rope.get('rope_type', 'default') != 'default':
      raise ValueError(
        f"rope_type={rope['rope_type']!r}: only 'default' is known"
      )
    theta = rope.get('rope_theta', config.get('rope_theta', cls.rope_theta))
    kinds = config.get('layer_types')
    if kinds is not None and not set(kinds) <= set(_LAYER_TYPES):
      raise ValueError(
        f'layer_types={sorted(set(kinds))}: known are {list(_LAYER_TYPES)}'
      )
    given = {
      field: config[name] for field, name in _HF_FIELDS if name in config
    }
    if kinds is not None:
      given['local'] = tuple(kind == _LAYER_TYPES[0] for kind in kinds)
    return cls(rope_theta=float(theta), **given)

  def to_hf(self):
    """The `config.json` of Hugging Face's Gemma2ForCausalLM, a dict."""
    local = self.windows < _UNBOUNDED
    return {
      'model_type': 'gemma2',
      'architectures': ['Gemma2ForCausalLM'],
      **{name: getattr(self, field) for field, name in _HF_FIELDS},
      'layer_types': [_LAYER_TYPES[0 if is_local else 1] for is_local in local],
      'rope_theta': self.rope_theta,
      'hidden_activation': 'gelu_pytorch_tanh',
      'hidden_act': 'gelu_pytorch_tanh',
      'attention_bias': False,
      'attention_dropout': 0.0,
      'tie_word_embeddings': True,
      'pad_token_id': 0,
      'eos_token_id': 1,
      'bos_token_id': 2,
    }


_HF_FIELDS = (
  ('vocab_size', 'vocab_size'),
  ('width', 'hidden_size'),
  ('num_layers', 'num_hidden_layers'),
  ('num_heads', 'num_attention_heads'),
  ('num_kv_heads', 'num_key_value_heads'),
  ('head_dim', 'head_dim'),
  ('feedforward', 'intermediate_size'),
  ('query_scale', 'query_pre_attn_scalar'),
  ('sliding_window', 'sliding_window'),
  ('attention_softcap', 'attn_logit_softcapping'),
  ('final_softcap', 'final_logit_softcapping'),
  ('norm_epsilon', 'rms_norm_eps'),
  ('max_length', 'max_position_embeddings'),
)

PRESETS = {
  'gemma2_2b': GemmaConfig(),
  'gemma2_9b': GemmaConfig(
    width=3584,
    num_layers=42,
    num_heads=16,
    num_kv_heads=8,
    feedforward=14336,
  ),
  'gemma2_27b': GemmaConfig(
    width=4608,
    num_layers=46,
    num_heads=32,
    num_kv_heads=16,
    head_dim=128,
    feedforward=36864,
    query_scale=144,
  ),
}


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

  def __post_init__(self):
    known = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
    unknown = [t for t in self.targets if t not in known]
    if unknown or not self.targets:
      raise ValueError(
        f'lora.targets={self.targets}: choose from {", ".join(known)}'
      )
    if self.rank < 1:
      raise ValueError(f'lora.rank={self.rank}: give 1 or more')

  @property
  def scale(self):
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
  """

  compute_dtype: str = 'bfloat16'
  param_dtype: str = 'float32'
  remat: bool = False
  dropout: float = 0.0
  lora: Lora | None = None


def softcap(x, cap):
  """c·tanh(x/c), or x where c is None."""
  return x if cap is None else cap * jnp.tanh(x / cap)


def rotate(x, angles):
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


def _angles(positions, config):
  """Angles [..., Q, head_dim / 2] of positions [..., Q]."""
  half = config.head_dim // 2
  rates = config.rope_theta ** (-np.arange(half) / half)
  return positions[..., None].astype(jnp.float32) * rates.astype(np.float32)


def _fan_in(key, shape, dtype):
  """Normal, of variance 1 / inputs: at 2B close to the usual 0.02."""
  return jax.random.normal(key, shape, dtype) * shape[0] ** -0.5


class Linear(nn.Module):
  """x·W without bias, or x·W + (alpha/rank)·x·A·B."""

  features: int
  axes: tuple[str, str]
  numerics: Numerics

  @nn.compact
  def __call__(self, x):
    numerics, (inner, outer) = self.numerics, self.axes
    kernel = self.param(
      'kernel',
      nn.with_logical_partitioning(_fan_in, (inner, outer)),
      (x.shape[-1], self.features),
      jnp.dtype(numerics.param_dtype),
    )
    y = x @ kernel.astype(x.dtype)
    lora = numerics.lora
    if lora is None or self.name not in lora.targets:
      return y
    a = self.param(
      'lora_a',
      nn.with_logical_partitioning(_fan_in, (inner, None)),
      (x.shape[-1], lora.rank),
      jnp.float32,
    )
    b = self.param(
      'lora_b',
      nn.with_logical_partitioning(nn.initializers.zeros_init(), (None, outer)),
      (lora.rank, self.features),
      jnp.float32,
    )
    update = (x @ a.astype(x.dtype)) @ b.astype(x.dtype)
    return y + lora.scale * update


class RMSNorm(nn.Module):
  """x / rms(x) · (1 + w), in float32 (Zhang & Sennrich 2019)."""

  epsilon: float
  param_dtype: str = 'float32'

  @nn.compact
  def __call__(self, x):
    scale = self.param(
      'scale',
      nn.with_logical_partitioning(nn.initializers.zeros_init(), ('embed',)),
      x.shape[-1:],
      jnp.dtype(self.param_dtype),
    )
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.epsilon)
    return (y * (1 + scale.astype(jnp.float32))).astype(x.dtype)


class Attention(nn.Module):
  """Grouped-query attention to other tokens beside and to a shared prompt."""

  config: GemmaConfig
  numerics: Numerics

  @nn.compact
  def __call__(self, x, window, prompt, cache, geometry):
    """Attends from x to the prompt, to the cache and to x itself.

    Args:
      x: [B, U, Q, D].
      window: of the layer.
      prompt: keys and values [B, L, kv_heads, head_dim] or None.
      cache: keys and values [B, U, N, kv_heads, head_dim] or None.
      geometry: 'angles', and for 'own' and 'prompt' keys (visible, distance).

    Returns:
      ([B, U, Q, D], keys and values [B, U, N + Q, kv_heads, head_dim]).
    """
    config = self.config
    batch, branches, count, _ = x.shape
    num_kv, head_dim = config.num_kv_heads, config.head_dim

    def heads(name, number):
      y = Linear(
        number * head_dim, ('embed', 'heads'), self.numerics, name=name
      )(x)
      return y.reshape(batch, branches, count, number, head_dim)

    query = rotate(heads('query', config.num_heads), geometry['angles'])
    query = query * config.query_scale**-0.5
    query = query.reshape(batch, branches, count, num_kv, -1, head_dim)
    key = rotate(heads('key', num_kv), geometry['angles'])
    value = heads('value', num_kv)
    if cache is not None:
      key = jnp.concatenate([cache[0], key], axis=2)
      value = jnp.concatenate([cache[1], value], axis=2)
    logits = jnp.einsum(
      'buqkgd,bunkd->bkguqn', query, key, preferred_element_type=jnp.float32
    )
    logits = self._masked(logits, window, *geometry['own'])
    if prompt is None:
      weights = jax.nn.softmax(logits).astype(x.dtype)
      mixed = jnp.einsum('bkguqn,bunkd->buqkgd', weights, value)
    else:
      far = jnp.einsum(
        'buqkgd,blkd->bkguql',
        query,
        prompt[0],
        preferred_element_type=jnp.float32,
      )
      far = self._masked(far, window, *geometry['prompt'])
      # One softmax over both, without copying the prompt to every branch.
      weights = jax.nn.softmax(jnp.concatenate([far, logits], -1))
      far, near = jnp.split(weights.astype(x.dtype), [far.shape[-1]], axis=-1)
      mixed = jnp.einsum('bkguql,blkd->buqkgd', far, prompt[1])
      mixed += jnp.einsum('bkguqn,bunkd->buqkgd', near, value)
    mixed = mixed.reshape(batch, branches, count, -1)
    out = Linear(config.width, ('heads', 'embed'), self.numerics, name='out')(
      mixed
    )
    return out, (key, value)

  def _masked(self, logits, window, visible, distance):
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
  def __call__(self, x):
    def linear(name, features, axes):
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
  def __call__(self, x, window, prompt, cache, geometry):
    def norm(name):
      return RMSNorm(
        self.config.norm_epsilon, self.numerics.param_dtype, name=name
      )

    drop = Dropout(self.numerics.dropout)
    y, cache = Attention(self.config, self.numerics, name='attention')(
      norm('attention_norm')(x), window, prompt, cache, geometry
    )
    x = by_rows(x + drop(norm('attention_post_norm')(y)))
    y = FeedForward(self.config, self.numerics, name='mlp')(norm('mlp_norm')(x))
    return by_rows(x + drop(norm('mlp_post_norm')(y))), cache


class Backbone(nn.Module):
  """Token embeddings, the layers and the final norm."""

  config: GemmaConfig
  numerics: Numerics

  def setup(self):
    config, numerics = self.config, self.numerics
    self.embedding = self.param(
      'embedding',
      nn.with_logical_partitioning(
        # Of variance 1 once scaled, and with final norms logits of variance 1.
        nn.initializers.normal(config.width**-0.5),
        ('subword', 'embed'),
      ),
      (config.vocab_size, config.width),
      jnp.dtype(numerics.param_dtype),
    )
    layer = Layer
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

  def look_up(self, tokens):
    """Rows of the embedding: [B, ...] to [B, ..., D].

    Each device finds its part of D for the rows of all that share a table with
    it, then they exchange: without a word on it the partitioner may look up
    the whole batch on every device.
    """
    rows = jnp.take(self.embedding, tokens, axis=0)
    names = ('data_batch', *[None] * (tokens.ndim - 1), 'embed')
    return nn.with_logical_constraint(rows, names)

  def embed(self, rows):
    """Rows of the embedding as the first layer takes them."""
    dtype = jnp.dtype(self.numerics.compute_dtype)
    scale = jnp.asarray(math.sqrt(self.config.width), dtype)
    return rows.astype(dtype) * scale

  def read(self, inputs, bidirectional=False):
    """Runs texts through the model.

    Args:
      inputs: 'tokens' int [B, L], right-padded, and 'length' int [B].
      bidirectional: whether tokens see those after them too.

    Returns:
      (normed hidden states [B, L, D], keys and values
      [B, L, layers, kv_heads, head_dim]).
    """
    tokens, length = inputs['tokens'], inputs['length']
    place = np.arange(tokens.shape[1])
    distance = place[:, None] - place
    if bidirectional:
      visible = (place < length[:, None])[:, None]  # [B, 1, L]
      # Within the window on both sides, the window's end included.
      distance = np.abs(distance) - 1
    else:
      visible = distance[None] >= 0
    geometry = {
      'angles': _angles(jnp.asarray(place)[None], self.config),
      'own': (jnp.asarray(visible), jnp.asarray(distance)[None]),
    }
    x = self.embed(self.look_up(tokens))
    x, (key, value) = self.layers(
      by_rows(x[:, None]), self.config.windows, None, None, geometry
    )
    return self.final_norm(x)[:, 0], (key[:, 0], value[:, 0])

  def follow(
    self, context, rows, positions, visible, cache=None, bidirectional=False
  ):
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
    root = context['length'][:, None] - 1  # [B, 1]
    place = root + positions  # [B, Q]
    past = np.arange(context['keys'].shape[1])
    # A node's ancestors stand before it from the root down, so the first that
    # it sees is at position 0, the second at 1.
    distance = positions[:, None] - (np.cumsum(visible, axis=1) - 1)
    far = place[..., None] - past  # [B, Q, L]
    if bidirectional:
      far = far - (positions == 0)[:, None]
    geometry = {
      'angles': _angles(place, self.config),
      'own': (jnp.asarray(visible)[None], jnp.asarray(distance)[None]),
      'prompt': (
        # The root is the prompt's last token, which is thus not looked up.
        (past < root)[:, None],
        far,
      ),
    }
    x, cache = self.layers(
      by_rows(self.embed(rows)),
      self.config.windows,
      (context['keys'], context['values']),
      cache,
      geometry,
    )
    return self.final_norm(x), cache

  def project(self, x, rows):
    """Logits of x [..., D] at rows [V, D] of the embedding, float32."""
    logits = jnp.einsum(
      '...d,vd->...v',
      x,
      rows.astype(x.dtype),
      preferred_element_type=jnp.float32,
    )
    return softcap(logits, self.config.final_softcap)


def below_low_rank(path):
  """`Policy.frozen` of a model with low-rank updates: all that they update.

  The embeddings and norms of the backbone stay as they are, too.
  """
  return path[0] == 'backbone' and not path[-1].startswith('lora_')


def initializer(model):
  """`init` of a `Policy` or a `Pointwise`: (key, inputs, given=None) -> params.

  Parameters in the nested dict `given` are taken, the rest are drawn.
  """

  def init(key, inputs, given=None):
    one = jax.tree.map(lambda x: x[:1], inputs)
    return merged(model.init(key, one)['params'], given)

  return init


def merged(params, given):
  """Boxed parameters, those in the nested dict `given` replaced by its own."""
  if given is None:
    return params
  if not isinstance(params, dict):
    return params.replace_boxed(given)
  return {name: merged(x, given.get(name)) for name, x in params.items()}


def check_choice(name, value, choices):
  """Raises a ValueError unless a value is among its choices."""
  if value not in choices:
    raise ValueError(f'{name}={value!r}: choose {" or ".join(choices)}')
