"""Sizes of Gemma-2 models and T5Gemma encoders; the published ones by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

_UNBOUNDED = 2**30  # farther than any two tokens are apart
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
  def windows(self) -> np.ndarray:
    """The sliding window of each layer: int32 [num_layers]."""
    local = self.local
    if local is None:
      local = tuple(layer % 2 == 0 for layer in range(self.num_layers))
    return np.where(local, self.sliding_window, _UNBOUNDED).astype(np.int32)

  @classmethod
  def from_hf(cls, config: Mapping[str, Any]) -> 'GemmaConfig':
    """From a Hugging Face `config.json`, or a T5Gemma's section 'encoder'.

    Args:
      config: what the file holds.

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
    given: dict[str, Any] = {
      field: config[name] for field, name in _HF_FIELDS if name in config
    }
    if kinds is not None:
      given['local'] = tuple(kind == _LAYER_TYPES[0] for kind in kinds)
    return cls(rope_theta=float(theta), **given)

  def to_hf(self) -> dict[str, Any]:
    """The `config.json` of Hugging Face's Gemma2ForCausalLM."""
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
