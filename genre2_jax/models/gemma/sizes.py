"""Sizes of Gemma 2 and 3 and of T5Gemma encoders; published ones by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

_UNBOUNDED = 2**30  # farther than any two tokens are apart
_LAYER_TYPES = ('sliding_attention', 'full_attention')


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmaConfig:
  """Sizes of a Gemma decoder or of a T5Gemma encoder.

  Gemma 2 (arXiv 2408.00118) is the default; Gemma 3 (arXiv 2503.19786) is
  `GEMMA3` with other sizes.

  Attributes:
    vocab_size: subwords.
    width: D of the residual stream.
    num_layers: of attention and feed-forward.
    num_heads: query heads.
    num_kv_heads: key and value heads, divides `num_heads`.
    head_dim: of a head; even.
    feedforward: width of the gated feed-forward layer.
    query_scale: queries are divided by its square root.
    qk_norm: whether queries and keys are normed, each head by itself, before
      they are rotated.
    sliding_window: tokens that a local layer sees, itself included.
    local: which layers are local; None: all but every `global_every`-th.
    global_every: 2: every other layer is local, the first included.
    attention_softcap: c in c·tanh(x/c) of attention logits; None: no cap.
    final_softcap: the same of next-token logits.
    rope_theta: base of the rotary positions.
    local_theta: of those of local layers; None: the same.
    rope_factor: positions are divided by it in global layers.
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
  qk_norm: bool = False
  sliding_window: int = 4096
  local: tuple[bool, ...] | None = None
  global_every: int = 2
  attention_softcap: float | None = 50.0
  final_softcap: float | None = 30.0
  rope_theta: float = 10000.0
  local_theta: float | None = None
  rope_factor: float = 1.0
  norm_epsilon: float = 1e-6
  max_length: int = 8192

  def __post_init__(self) -> None:
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
  def is_local(self) -> np.ndarray:
    """Whether a layer is local: bool [num_layers]."""
    if self.local is not None:
      return np.array(self.local, bool)
    return np.arange(1, self.num_layers + 1) % self.global_every != 0

  @property
  def windows(self) -> np.ndarray:
    """The sliding window of each layer: int32 [num_layers]."""
    windows = np.where(self.is_local, self.sliding_window, _UNBOUNDED)
    return windows.astype(np.int32)

  @property
  def rates(self) -> np.ndarray:
    """Rotary angles a position, of each layer: float32 [layers, head_dim / 2].

    θ^(−2i/head_dim), and in global layers divided by `rope_factor`.
    """
    powers = -np.arange(self.head_dim // 2) / (self.head_dim // 2)
    local = (self.local_theta or self.rope_theta) ** powers
    whole = self.rope_theta**powers / self.rope_factor
    return np.where(self.is_local[:, None], local, whole).astype(np.float32)

  @classmethod
  def from_hf(cls, config: Mapping[str, Any]) -> 'GemmaConfig':
    """From a Hugging Face `config.json`, or the section of its text model.

    What a Gemma 3 leaves out is what `transformers` takes it for.

    Args:
      config: what the file holds, or a T5Gemma's section 'encoder', or a
        multimodal Gemma 3's 'text_config'.

    Raises:
      ValueError: a setting that this model does not have.
    """
    is_gemma3 = str(config.get('model_type')).startswith('gemma3')
    _check_known(config, _FIXED | (_FIXED_IN_GEMMA3 if is_gemma3 else {}))
    kinds = config.get('layer_types')
    if kinds is not None and not set(kinds) <= set(_LAYER_TYPES):
      raise ValueError(
        f'layer_types={sorted(set(kinds))}: known are {list(_LAYER_TYPES)}'
      )
    given: dict[str, Any] = {
      field: config[name] for field, name in _HF_FIELDS if name in config
    }
    if kinds is not None:
      given['local'] = tuple(kind == _LAYER_TYPES[0] for kind in kinds)
    if not is_gemma3:
      rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
      theta, _ = _rope(rope, config.get('rope_theta', cls.rope_theta))
      return cls(rope_theta=theta, **given)
    every = config.get(
      'sliding_window_pattern', config.get('_sliding_window_pattern')
    )
    if every is not None:
      given['global_every'] = every
    return dataclasses.replace(GEMMA3, **given, **_two_ropes(config))

  def to_hf(self) -> dict[str, Any]:
    """The `config.json` of Gemma2ForCausalLM, or of Gemma3ForCausalLM."""
    number = 3 if self.qk_norm else 2
    rope: dict[str, Any] = {'rope_theta': self.rope_theta}
    if self.qk_norm:
      model_type = 'gemma3_text'
      rope['rope_local_base_freq'] = self.local_theta or self.rope_theta
      rope['use_bidirectional_attention'] = False
      if self.rope_factor != 1:
        rope['rope_scaling'] = {
          'rope_type': 'linear', 'factor': self.rope_factor,
        }  # fmt: skip
    else:
      model_type = 'gemma2'
    return {
      'model_type': model_type,
      'architectures': [f'Gemma{number}ForCausalLM'],
      **{name: getattr(self, field) for field, name in _HF_FIELDS},
      'layer_types': [_LAYER_TYPES[0 if x else 1] for x in self.is_local],
      **rope,
      'hidden_activation': 'gelu_pytorch_tanh',
      'hidden_act': 'gelu_pytorch_tanh',
      'attention_bias': False,
      'attention_dropout': 0.0,
      'tie_word_embeddings': True,
      'pad_token_id': 0,
      'eos_token_id': 1,
      'bos_token_id': 2,
    }


def _check_known(config, expected):
  """Raises ValueError where a setting is not the one that there is."""
  for name, value in expected.items():
    if (config.get(name, value) or None) != (value or None):
      raise ValueError(f'{name}={config[name]!r}: only {value!r} is known')


def _two_ropes(config):
  """Bases and factor of a Gemma 3, in the layout of today or of 2025."""
  rope = config.get('rope_parameters') or {}
  whole, local = (rope.get(kind) or {} for kind in reversed(_LAYER_TYPES))
  if rope and not (whole or local):
    raise ValueError(
      f'rope_parameters={rope!r}: give those of {" and ".join(_LAYER_TYPES)}'
    )
  whole = {**whole, **(config.get('rope_scaling') or {})}
  theta = config.get('rope_theta', GEMMA3.rope_theta)
  theta, factor = _rope(whole, theta, kinds=('default', 'linear'))
  local_theta = config.get('rope_local_base_freq', GEMMA3.local_theta)
  local_theta, _ = _rope(local, local_theta)
  return {
    'rope_theta': theta, 'local_theta': local_theta, 'rope_factor': factor,
  }  # fmt: skip


def _rope(rope, theta, kinds=('default',)):
  """(base, factor) of rotary positions."""
  kind = rope.get('rope_type', rope.get('type', 'default'))
  nested = [name for name in _LAYER_TYPES if name in rope]
  if kind not in kinds or nested:
    said = (
      f'{nested[0]} in rope_parameters' if nested else f'rope_type={kind!r}'
    )
    raise ValueError(
      f'{said}: only {" and ".join(map(repr, kinds))} '
      f'{"are" if len(kinds) > 1 else "is"} known'
    )
  factor = rope['factor'] if kind == 'linear' else 1.0
  return float(rope.get('rope_theta', theta)), float(factor)


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
# Settings that models of this family share.
_FIXED = {
  'hidden_activation': 'gelu_pytorch_tanh',
  'attention_bias': False,
  'tie_word_embeddings': True,
}
# EmbeddingGemma sees both ways, in a window that is counted otherwise; of an
# attention cap `transformers` takes no notice in a Gemma 3.
_FIXED_IN_GEMMA3 = {
  'use_bidirectional_attention': False,
  'attn_logit_softcapping': None,
}

# What a Gemma 3's config.json means where it says nothing.
GEMMA3 = GemmaConfig(
  vocab_size=262208,
  qk_norm=True,
  global_every=6,
  attention_softcap=None,
  final_softcap=None,
  rope_theta=1e6,
  local_theta=1e4,
  max_length=131072,
)
_GEMMA3_SMALL = dataclasses.replace(
  GEMMA3,
  vocab_size=262144,
  num_heads=4,
  num_kv_heads=1,
  sliding_window=512,
  max_length=32768,
)
_GEMMA3_LARGE = dataclasses.replace(
  GEMMA3, sliding_window=1024, rope_factor=8.0
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
  'gemma3_270m': dataclasses.replace(
    _GEMMA3_SMALL, width=640, num_layers=18, feedforward=2048
  ),
  'gemma3_1b': dataclasses.replace(
    _GEMMA3_SMALL, width=1152, num_layers=26, feedforward=6912
  ),
  'gemma3_4b': dataclasses.replace(
    _GEMMA3_LARGE, width=2560, num_layers=34, feedforward=10240
  ),
  'gemma3_12b': dataclasses.replace(
    _GEMMA3_LARGE,
    width=3840,
    num_layers=48,
    num_heads=16,
    num_kv_heads=8,
    feedforward=15360,
  ),
  'gemma3_27b': dataclasses.replace(
    _GEMMA3_LARGE,
    width=5376,
    num_layers=62,
    num_heads=32,
    num_kv_heads=16,
    head_dim=128,
    feedforward=21504,
    query_scale=168,
  ),
}
