"""BERT (Devlin et al. 2019, arXiv 1810.04805) and what makes one vector of it.

A sentence encoder is a BERT with pooling (Sentence-BERT, Reimers and Gurevych
2019, arXiv 1908.10084): MiniLM, E5, BGE, GTE. The layers are one scanned
module, their parameters are stacked over layers.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.errors import InputError
from genre2_jax.models import safetensors
from genre2_jax.models.layers import (
  Dropout,
  StackedDense,
  attend,
  by_rows,
  dense,
  join_heads,
  layer_norm,
  parameter,
  split_heads,
)
from genre2_jax.policy import Params

POOLINGS = ('mean', 'cls', 'max')
_ACTIVATIONS = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_new': jax.nn.gelu,
  'gelu_pytorch_tanh': jax.nn.gelu,
  'relu': jax.nn.relu,
}
# Hugging Face's names; of layer norms older files have gamma and beta.
_PREFIXES = ('', 'bert.')
_EMBEDDING = 'embeddings.word_embeddings.weight'
_FIRST_ATTENTION = 'encoder.layer.{}.attention.self'


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
  """Sizes of a BERT.

  Attributes:
    vocab_size: subwords.
    width: D.
    num_layers: layers.
    num_heads: divides `width`.
    feedforward: width of the feed-forward layers.
    max_length: subwords that have a position.
    activation: in the feed-forward layers.
    epsilon: of the layer norms.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  feedforward: int
  max_length: int
  activation: str = 'gelu'
  epsilon: float = 1e-12

  def __post_init__(self) -> None:
    sizes = dataclasses.asdict(self)
    for name in ('activation', 'epsilon'):
      del sizes[name]
    for name, size in sizes.items():
      if type(size) is not int or size < 1:
        raise ValueError(f'{name}={size!r} is no positive whole number')
    if self.width % self.num_heads:
      raise ValueError(f'{self.width} does not divide by {self.num_heads}')
    if self.activation not in _ACTIVATIONS:
      raise ValueError(
        f'hidden_act={self.activation!r} is not one of '
        f'{", ".join(_ACTIVATIONS)}'
      )

  @classmethod
  def from_hf(cls, config: Mapping[str, Any]) -> Self:
    """Sizes of Hugging Face's config.json.

    Raises:
      ValueError: another kind of model than BERT's, or sizes that do not fit.
      KeyError: a size is missing.
    """
    kind = config.get('model_type')
    if kind != 'bert':
      raise ValueError(
        f'model_type {kind!r} is no BERT: take a sentence encoder of '
        'model_type bert, such as MiniLM, BGE or E5'
      )
    positions = config.get('position_embedding_type', 'absolute')
    if positions != 'absolute':
      raise ValueError(f'positions are {positions}, only absolute are known')
    return cls(
      vocab_size=config['vocab_size'],
      width=config['hidden_size'],
      num_layers=config['num_hidden_layers'],
      num_heads=config['num_attention_heads'],
      feedforward=config['intermediate_size'],
      max_length=config['max_position_embeddings'],
      activation=config.get('hidden_act', 'gelu'),
      epsilon=float(config.get('layer_norm_eps', 1e-12)),
    )


class Layer(nn.Module):
  """Post-norm: LN(x + attention(x)), then LN(x + W·act(V·x))."""

  config: BertConfig
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
    """Maps x [B, L, D], seen where mask [B, 1, 1, L] is true."""
    config, drop = self.config, Dropout(self.dropout)
    qkv = StackedDense(
      3, config.width, ('embed', 'heads'), name='query_key_value'
    )(x)
    query, key, value = (
      split_heads(qkv[..., i, :], config.num_heads) for i in range(3)
    )
    y = join_heads(attend(query, key, value, mask))
    y = dense(config.width, ('heads', 'embed'), name='out')(y)
    x = layer_norm('attention_norm', config.epsilon)(x + drop(y))
    y = dense(config.feedforward, ('embed', 'mlp'), name='up')(x)
    y = by_rows(_ACTIVATIONS[config.activation](y), 'mlp')
    y = dense(config.width, ('mlp', 'embed'), name='down')(y)
    x = layer_norm('mlp_norm', config.epsilon)(x + drop(y))
    return by_rows(x), None


class Bert(nn.Module):
  """Hidden states of texts, and one vector of each.

  Attributes:
    config: its sizes.
    pooling: of `POOLINGS`.
    normalized: whether vectors have length 1.
    dropout: rate, where a key is given.
  """

  config: BertConfig
  pooling: str = 'mean'
  normalized: bool = False
  dropout: float = 0.0

  def setup(self) -> None:
    config = self.config
    init = nn.initializers.normal(0.02)
    self.embedding = parameter(
      self, 'embedding', init, ('subword', 'embed'),
      (config.vocab_size, config.width),
    )  # fmt: skip
    self.positions = parameter(
      self, 'positions', init, (None, 'embed'),
      (config.max_length, config.width),
    )  # fmt: skip
    # Of the first of two segments: a text is read alone.
    self.segment = parameter(self, 'segment', init, ('embed',), (config.width,))
    self.norm = layer_norm(None, config.epsilon)
    self.layers = nn.scan(
      Layer,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=nn.broadcast,
      length=config.num_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(config, self.dropout)
    self.drop = Dropout(self.dropout)

  def read(self, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """Hidden states [B, L, D] of tokens int [B, L], right-padded."""
    place = np.arange(tokens.shape[1])
    mask = jnp.asarray(place < length[:, None])[:, None, None]
    x = jnp.take(self.embedding, tokens, axis=0)
    x = x + self.positions[: tokens.shape[1]] + self.segment
    x = by_rows(self.drop(self.norm(x)))
    return self.layers(x, mask)[0]

  def __call__(self, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """One vector of each text: [B, D]."""
    hidden = self.read(tokens, length)
    return pooled(hidden, length, self.pooling, self.normalized)


def pooled(
  hidden: jax.Array, length: jax.Array, pooling: str, normalized: bool
) -> jax.Array:
  """One vector of hidden states [B, L, D] within length [B]: [B, D]."""
  if pooling == 'cls':
    x = hidden[:, 0]
  else:
    inside = (np.arange(hidden.shape[1]) < length[:, None])[..., None]
    if pooling == 'max':
      x = jnp.where(inside, hidden, -jnp.inf).max(1)
    else:
      total = jnp.where(inside, hidden, 0).sum(1)
      x = total / jnp.maximum(length, 1)[:, None]
  if normalized:
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    x = x / jnp.sqrt(jnp.maximum(square, 1e-24))
  return x


def is_sentence_encoder(folder: pathlib.Path) -> bool:
  """Whether a folder holds a BERT, by its config.json."""
  try:
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    return bool(config.get('model_type') == 'bert')
  except (OSError, ValueError, AttributeError):
    return False  # Whoever reads it says what is wrong.


def read_params(folder: pathlib.Path, config: BertConfig) -> Params:
  """The parameters of a `Bert`, float32, of Hugging Face's safetensors.

  Args:
    folder: of the checkpoint.
    config: its sizes.

  Raises:
    InputError: a tensor is missing, or of another shape.
  """
  tensors = safetensors.read(folder)
  prefix = next((p for p in _PREFIXES if p + _EMBEDDING in tensors), '')

  def read(name: str, *shape: int) -> np.ndarray:
    full = prefix + name
    if full not in tensors:
      full = full.replace('LayerNorm.weight', 'LayerNorm.gamma')
      full = full.replace('LayerNorm.bias', 'LayerNorm.beta')
    if full not in tensors:
      raise InputError(f'{folder}: the weights lack {prefix}{name}')
    if tensors[full].shape != shape:
      raise InputError(
        f'{folder}: {full} is {tensors[full].shape}, the config says {shape}'
      )
    every = tuple(slice(0, size) for size in shape)
    return np.asarray(tensors[full][every], np.float32)

  def linear(name: str, into: int, out: int) -> dict[str, np.ndarray]:
    kernel = read(f'{name}.weight', out, into).T
    return {'kernel': kernel, 'bias': read(f'{name}.bias', out)}

  def norm(name: str) -> dict[str, np.ndarray]:
    return {
      'scale': read(f'{name}.weight', width),
      'bias': read(f'{name}.bias', width),
    }

  def layer(number: int) -> Params:
    of = f'encoder.layer.{number}.'
    parts = [
      linear(f'{of}attention.self.{name}', width, width)
      for name in ('query', 'key', 'value')
    ]
    return {
      'query_key_value': {
        'kernel': np.stack([part['kernel'] for part in parts], 1),
        'bias': np.stack([part['bias'] for part in parts]),
      },
      'out': linear(f'{of}attention.output.dense', width, width),
      'attention_norm': norm(f'{of}attention.output.LayerNorm'),
      'up': linear(f'{of}intermediate.dense', width, config.feedforward),
      'down': linear(f'{of}output.dense', config.feedforward, width),
      'mlp_norm': norm(f'{of}output.LayerNorm'),
    }

  width = config.width
  further = _FIRST_ATTENTION.format(config.num_layers)
  if any(name.startswith(prefix + further) for name in tensors):
    raise InputError(
      f'{folder}: the weights have more layers than the {config.num_layers} of '
      'the config'
    )
  segments = tensors.get(f'{prefix}embeddings.token_type_embeddings.weight')
  num_segments = segments.shape[0] if segments is not None else 2
  layers = [layer(number) for number in range(config.num_layers)]
  return {
    'embedding': read(_EMBEDDING, config.vocab_size, width),
    'positions': read(
      'embeddings.position_embeddings.weight', config.max_length, width
    ),
    'segment': read(
      'embeddings.token_type_embeddings.weight', num_segments, width
    )[0],
    'norm': norm('embeddings.LayerNorm'),
    'layers': jax.tree.map(lambda *parts: np.stack(parts), *layers),
  }
