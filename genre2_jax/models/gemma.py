"""Gemma-2 as a policy: a prompt in subwords, a number in number tokens.

The prompt runs through the model once; nodes of the trie of numbers then attend
to its keys and values, which all decodings of an input share. Node t > 0 feeds
the subword of its number token, the root feeds the prompt's last token, so the
logits at a node are those of the language model after prompt and prefix.

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

from genre2_jax.models.layers import (
  MASKED,
  Dropout,
  by_rows,
  encode_and_decode,
)
from genre2_jax.policy import Pointwise, Policy

_UNBOUNDED = 2**30  # farther than any two tokens are apart
_ATTENTION = ('causal', 'bidirectional')
_VOCABULARIES = ('numbers', 'all')
_NEW_EMBEDDING = ('zero', 'first', 'average')
HEADS = ('special_token', 'mlp', 'mean', 'min', 'max', 'projection')
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
        ('vocab', 'embed'),
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
    x = self.embed(jnp.take(self.embedding, tokens, axis=0))
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


class NumberLanguageModel(nn.Module):
  """A backbone that writes number tokens after a prompt.

  Attributes:
    config: sizes.
    numerics: how it is computed.
    allowed: which number tokens the grammar allows at each position, [T, V]
      nested tuples of bool.
    number_tokens: subword of each number token, [V]; from vocab_size on, new
      ones.
    open: whether a last column has what all other subwords get.
    bidirectional: whether the tokens of the prompt see each other.
  """

  config: GemmaConfig
  numerics: Numerics
  allowed: tuple[tuple[bool, ...], ...]
  number_tokens: tuple[int, ...]
  open: bool
  bidirectional: bool

  def setup(self):
    self.backbone = Backbone(self.config, self.numerics)
    count = num_new(self.config, self.number_tokens)
    if count:
      self.new_embedding = self.param(
        'new_embedding',
        nn.with_logical_partitioning(
          nn.initializers.zeros_init(), ('vocab', 'embed')
        ),
        (count, self.config.width),
        jnp.float32,
      )

  def _rows(self):
    """Embeddings of the number tokens: [V, D]."""
    ids = np.array(self.number_tokens)
    old = ids < self.config.vocab_size
    rows = jnp.take(self.backbone.embedding, ids[old], axis=0)
    if old.all():
      return rows
    new = self.new_embedding[ids[~old] - self.config.vocab_size]
    rows = jnp.concatenate([rows.astype(new.dtype), new])
    # Back in the order of the tokens: the old ones came first.
    return rows[np.argsort(np.argsort(~old, kind='stable'), kind='stable')]

  def encode(self, inputs):
    _, (keys, values) = self.backbone.read(inputs, self.bidirectional)
    last = jnp.take_along_axis(
      inputs['tokens'], inputs['length'][:, None] - 1, axis=1
    )
    return {
      'keys': keys,
      'values': values,
      'length': inputs['length'],
      'last': last[:, 0],
    }

  def decode(self, context, tokens, positions, visible, cache=None):
    positions, visible = np.asarray(positions), np.asarray(visible)
    numbers = self._rows()
    # Few rows: a product with one-hot rows has a matrix product as gradient,
    # where a gather's is a scatter.
    one_hot = jax.nn.one_hot(tokens, len(numbers), dtype=numbers.dtype)
    rows = jnp.matmul(one_hot, numbers, precision='highest')
    if (positions == 0).any():
      last = jnp.take(self.backbone.embedding, context['last'], axis=0)
      is_root = (positions == 0)[:, None]
      rows = jnp.where(is_root, last[:, None, None], rows)
    x, cache = self.backbone.follow(
      context, rows, positions, visible, cache, self.bidirectional
    )
    logits = self.backbone.project(x, numbers)
    allowed = np.array(self.allowed)[positions]
    number_logits = jnp.where(allowed, logits, MASKED)
    if not self.open:
      return number_logits, cache
    # All that is no allowed number token here: other subwords, and number
    # tokens of other positions.
    everything = self.backbone.project(x, self.backbone.embedding)
    rest = jnp.where(self._others(positions), everything, MASKED)
    rest = jax.nn.logsumexp(rest, axis=-1, keepdims=True)
    new = np.array(self.number_tokens) >= self.config.vocab_size
    if new.any():
      more = jnp.where(~allowed & new, logits, MASKED)
      more = jax.nn.logsumexp(more, axis=-1, keepdims=True)
      rest = jnp.logaddexp(rest, more)
    return jnp.concatenate([number_logits, rest], axis=-1), cache

  def _others(self, positions):
    """Bool [Q, vocab_size]: not allowed as a number token at a position."""
    ids, allowed = np.array(self.number_tokens), np.array(self.allowed)
    others = jnp.ones((len(allowed), self.config.vocab_size), bool)
    position, token = np.nonzero(allowed & (ids < self.config.vocab_size))
    return others.at[position, ids[token]].set(False)[positions]

  def __call__(self, inputs):
    """Touches every parameter, for `init`."""
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    visible = np.ones((1, 1), bool)
    return self.decode(self.encode(inputs), tokens, np.zeros(1, int), visible)


def num_new(config, number_tokens):
  """How many number tokens are not in the vocabulary of subwords."""
  new = {int(i) for i in number_tokens if i >= config.vocab_size}
  if new and max(new) - config.vocab_size + 1 != len(new):
    raise ValueError(
      f'new number tokens must be numbered from {config.vocab_size} on without '
      f'gaps, not {sorted(new)}'
    )
  return len(new)


def check_number_tokens(tokenizer, config, number_tokens):
  """Number tokens as a tuple of int, if they fit tokenizer and vocabulary.

  Raises:
    ValueError: not one per token, out of range, or one subword for two tokens
      that the grammar allows at one position.
  """
  ids = tuple(int(i) for i in np.asarray(number_tokens).ravel())
  if len(ids) != tokenizer.vocab_size:
    raise ValueError(
      f'{len(ids)} subwords for the {tokenizer.vocab_size} tokens of '
      f'{tokenizer}: give one per token'
    )
  if min(ids) < 0:
    raise ValueError(f'subword {min(ids)} of a number token is negative')
  num_new(config, ids)
  for position, row in enumerate(np.asarray(tokenizer.allowed)):
    choices = np.array(ids)[np.flatnonzero(row)]
    unique, count = np.unique(choices, return_counts=True)
    if (count > 1).any():
      raise ValueError(
        f'subword {unique[count > 1][0]} stands for two number tokens at '
        f'position {position}: each token needs its own'
      )
  return ids


def gemma_policy(
  tokenizer,
  config,
  *,
  number_tokens,
  vocabulary='numbers',
  attention='causal',
  compute_dtype='bfloat16',
  param_dtype='float32',
  remat=False,
  dropout=0.0,
  lora=None,
  new_embedding='average',
  first_tokens=None,
):
  """The `Policy` of a Gemma-2 that writes numbers (Lukasik et al., ICLR 2025).

  Args:
    tokenizer: the number vocabulary, V tokens.
    config: a `GemmaConfig`.
    number_tokens: int [V], the subword of each number token; ids from
      config.vocab_size on, without gaps, are new tokens.
    vocabulary: 'numbers': the softmax is over what the grammar allows; 'all':
      over all subwords (the policy is open, see `Policy`).
    attention: in the prompt: 'causal' or 'bidirectional'.
    compute_dtype: 'bfloat16' or 'float32'; softmax, norms and logits are
      float32 in any case.
    param_dtype: of the backbone's parameters as they are kept.
    remat: whether layers are computed again in the backward pass.
    dropout: rate on what each sublayer adds, where a key is given.
    lora: a `Lora`: the backbone is then frozen and low-rank updates and new
      embeddings are trained; or None.
    new_embedding: how the embeddings of new tokens begin: 'zero', 'average'
      (of all subwords), 'first' (of the first subword of the token's string).
    first_tokens: int [number of new tokens], for 'first'.

  Returns:
    A `Policy`; inputs are `{'tokens': int32 [B, L], 'length': int32 [B]}`,
    right-padded, length ≥ 1. `init` takes in a third argument, `given`,
    parameters that are already there (as `pretrained.load` reads them), and
    draws the rest.

  Raises:
    ValueError: arguments that do not fit together.
  """
  _check_choice('vocabulary', vocabulary, _VOCABULARIES)
  _check_choice('attention', attention, _ATTENTION)
  _check_choice('new_embedding', new_embedding, _NEW_EMBEDDING)
  number_tokens = check_number_tokens(tokenizer, config, number_tokens)
  count = num_new(config, number_tokens)
  if count and new_embedding == 'first':
    if first_tokens is None or len(first_tokens) != count:
      raise ValueError(
        f"new_embedding='first' needs first_tokens, one for each of the "
        f'{count} new tokens'
      )
  model = NumberLanguageModel(
    config,
    Numerics(
      compute_dtype=compute_dtype,
      param_dtype=param_dtype,
      remat=remat,
      dropout=dropout,
      lora=lora,
    ),
    allowed=tuple(map(tuple, np.asarray(tokenizer.allowed).tolist())),
    number_tokens=number_tokens,
    open=vocabulary == 'all',
    bidirectional=attention == 'bidirectional',
  )

  def init(key, inputs, given=None):
    one = jax.tree.map(lambda x: x[:1], inputs)
    params = merged(model.init(key, one)['params'], given)
    if count and 'new_embedding' not in (given or {}):
      table = nn.unbox(params['backbone']['embedding'])
      rows = _new_rows(table, count, new_embedding, first_tokens)
      box = params['new_embedding']
      params['new_embedding'] = box.replace_boxed(rows)
    return params

  return Policy(
    tokenizer,
    init,
    *encode_and_decode(model),
    frozen=None if lora is None else below_low_rank,
    open=vocabulary == 'all',
  )


def below_low_rank(path):
  """`Policy.frozen` of a model with low-rank updates: all that they update.

  The embeddings and norms of the backbone stay as they are, too.
  """
  return path[0] == 'backbone' and not path[-1].startswith('lora_')


class HeadModel(nn.Module):
  """A backbone that predicts one number from a text.

  Attributes:
    kind: of `HEADS`.
    config: sizes.
    numerics: how it is computed.
    special_token: subword whose logit is the prediction.
    hidden: width of the MLP.
    bidirectional: whether the tokens of the text see each other.
  """

  kind: str
  config: GemmaConfig
  numerics: Numerics
  special_token: int | None
  hidden: int
  bidirectional: bool

  def setup(self):
    self.backbone = Backbone(self.config, self.numerics)
    bias = nn.initializers.zeros_init()
    plain = dataclasses.replace(self.numerics, lora=None)
    if self.kind != 'special_token':
      first = 'embed' if self.kind in ('mean', 'min', 'max') else 'vocab'
      if self.kind == 'mlp':
        self.hidden_layer = Linear(self.hidden, ('vocab', 'mlp'), plain)
        self.hidden_bias = self.param(
          'hidden_bias',
          nn.with_logical_partitioning(bias, ('mlp',)),
          (self.hidden,),
        )
        first = 'mlp'
      self.out = Linear(1, (first, None), plain)
      self.out_bias = self.param(
        'out_bias', nn.with_logical_partitioning(bias, (None,)), (1,)
      )

  def __call__(self, inputs):
    """Predictions [B], float32."""
    hidden, _ = self.backbone.read(inputs, self.bidirectional)  # [B, L, D]
    length = inputs['length'][:, None]
    if self.kind in ('mean', 'min', 'max'):
      real = (np.arange(hidden.shape[1]) < length)[..., None]
      hidden = hidden.astype(jnp.float32)
      if self.kind == 'mean':
        pooled = jnp.sum(jnp.where(real, hidden, 0), 1) / length
      elif self.kind == 'max':
        pooled = jnp.max(jnp.where(real, hidden, MASKED), 1)
      else:
        pooled = jnp.min(jnp.where(real, hidden, -MASKED), 1)
      return self.out(pooled)[:, 0] + self.out_bias
    last = jnp.take_along_axis(hidden, length[..., None] - 1, axis=1)[:, 0]
    if self.kind == 'special_token':
      row = self.backbone.embedding[self.special_token][None]
      return self.backbone.project(last, row)[:, 0]
    logits = self.backbone.project(last, self.backbone.embedding)
    if self.kind == 'projection':
      return self.out(jax.nn.softmax(logits))[:, 0] + self.out_bias
    hidden = jax.nn.relu(self.hidden_layer(logits) + self.hidden_bias)
    return self.out(hidden)[:, 0] + self.out_bias


def gemma_head(
  kind,
  config,
  *,
  special_token=None,
  hidden=128,
  attention='causal',
  compute_dtype='bfloat16',
  param_dtype='float32',
  remat=False,
  dropout=0.0,
  lora=None,
):
  """A Gemma-2 with a predictive head, for MSE (Lukasik et al., ICLR 2025).

  Args:
    kind: 'special_token': the logit of a subword after the text; 'mlp': an
      MLP on the logits after the text; 'projection': Σ_v p(v | text)·w_v over
      all subwords v; 'mean', 'min', 'max': a linear map of the last layer's
      hidden states, pooled over the text.
    config: a `GemmaConfig`.
    special_token: id of the subword of 'special_token'.
    hidden: width of the MLP.
    attention: in the text: 'causal' or 'bidirectional'.
    compute_dtype: of the backbone, see `gemma_policy`; heads are float32.
    param_dtype: of the backbone's parameters and of large heads.
    remat: whether layers are computed again in the backward pass.
    dropout: rate on what each sublayer adds, where a key is given.
    lora: a `Lora`: the backbone is then frozen, low-rank updates and the head
      are trained; or None.

  Returns:
    A `Pointwise`; inputs and `init` are those of `gemma_policy`.

  Raises:
    ValueError: arguments that do not fit together.
  """
  _check_choice('head', kind, HEADS)
  _check_choice('attention', attention, _ATTENTION)
  if kind == 'special_token' and (
    special_token is None or not 0 <= special_token < config.vocab_size
  ):
    raise ValueError(
      f'special_token={special_token!r}: give a subword of the '
      f'{config.vocab_size}'
    )
  model = HeadModel(
    kind,
    config,
    Numerics(
      compute_dtype=compute_dtype,
      param_dtype=param_dtype,
      remat=remat,
      dropout=dropout,
      lora=lora,
    ),
    special_token=special_token,
    hidden=hidden,
    bidirectional=attention == 'bidirectional',
  )

  def init(key, inputs, given=None):
    one = jax.tree.map(lambda x: x[:1], inputs)
    return merged(model.init(key, one)['params'], given)

  def predict(params, inputs, dropout_key=None):
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    return model.apply({'params': params}, inputs, rngs=rngs)

  frozen = None if lora is None else below_low_rank
  return Pointwise(init, predict, frozen=frozen)


def merged(params, given):
  """Boxed parameters, those in the nested dict `given` replaced by its own."""
  if given is None:
    return params
  if not isinstance(params, dict):
    return params.replace_boxed(given)
  return {name: merged(x, given.get(name)) for name, x in params.items()}


def _new_rows(embedding, count, how, first_tokens):
  """First embeddings of new tokens (RAFT, tables 17-19): [count, D]."""
  if how == 'first':
    rows = embedding[np.asarray(first_tokens)]
  elif how == 'average':
    rows = jnp.mean(embedding, axis=0, dtype=jnp.float32)
  else:
    rows = jnp.zeros(())
  return jnp.broadcast_to(rows, (count, embedding.shape[-1])).astype(
    jnp.float32
  )


def _check_choice(name, value, choices):
  if value not in choices:
    raise ValueError(f'{name}={value!r}: choose {" or ".join(choices)}')
