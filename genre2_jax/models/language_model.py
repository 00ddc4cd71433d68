"""Language models as policies, and the weights that they begin with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genre2_jax.data import subwords
from genre2_jax.data.subwords import JudgeFeatures, TextFeatures
from genre2_jax.devices import sharding
from genre2_jax.errors import InputError
from genre2_jax.models import pretrained, sentence
from genre2_jax.models.bert import is_sentence_encoder, read_params
from genre2_jax.models.gemma.head import gemma_head
from genre2_jax.models.gemma.judge import gemma_judge
from genre2_jax.models.gemma.layers import Lora
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import PRESETS as SIZES
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.t5gemma import t5gemma_policy
from genre2_jax.policy import Inputs, Params, Pointwise, Policy
from genre2_jax.tokenizers import Tokenizer

# 'gemma2' is what 'gemma' was called before there was a Gemma 3 to read.
NAMES = ('gemma', 'gemma2', 't5gemma', 'bert')
DTYPES = ('bfloat16', 'float32')
PRESETS = tuple(SIZES)
_DECODER = ('width', 'num_layers', 'num_heads', 'feedforward', 'dropout')


def build(
  number_tokenizer: Tokenizer,
  features: TextFeatures,
  *,
  name: str,
  pretrained: str,
  preset: str,
  sizes: Mapping[str, int],
  head: str,
  head_activation: str,
  special_token: str,
  new_tokens: str,
  vocabulary: str,
  attention: str,
  frozen: bool,
  freeze_embedding: bool,
  lora: Mapping[str, Any],
  decoder: Mapping[str, Any],
  tokenizer: str = '',
  **numerics: Any,
) -> Policy | Pointwise:
  """The network of a language model on prompts.

  Args:
    number_tokenizer: the number vocabulary.
    features: `TextFeatures`; `JudgeFeatures` to write free text first.
    name: of `NAMES`.
    pretrained: a checkpoint's folder or hub name, whose sizes count; or ''.
    preset: of `PRESETS`, without a checkpoint.
    sizes: of `GemmaConfig`, those that are not 0 instead of the preset's.
    head: of `HEADS`, or '' to write numbers.
    head_activation: of the units of the head 'mlp', of `ACTIVATIONS`.
    special_token: the subword whose logit the head of this name reads.
    new_tokens: how tokens begin that are no single subword, or ''.
    vocabulary: 'numbers' or 'all'.
    attention: 'causal' or 'bidirectional'.
    frozen: whether a T5Gemma's encoder is never trained.
    freeze_embedding: whether a Gemma's embedding is never trained.
    lora: rank (0: none), alpha and targets.
    decoder: width, layers, heads, ... of T5Gemma's number decoder, and the
      rate of dropout.
    tokenizer: of subwords; `features` has it.
    **numerics: compute_dtype, param_dtype, remat and attention_block.

  Returns:
    A `Policy`, or a `Pointwise`.

  Raises:
    InputError: parts that do not fit together.
  """
  config = config_of(pretrained, preset, sizes)
  check_tokenizer(features.tokenizer, config)
  longest = features.widths[-1] + number_tokenizer.num_tokens - 1
  if isinstance(features, JudgeFeatures):
    longest += features.budget + 1
  if longest > config.max_length:
    raise InputError(
      f'prompts and numbers have up to {longest} subwords, the language model '
      f'reads {config.max_length}: set text.max_length and text.truncate'
    )
  numerics['lora'] = lora_of(lora)
  try:
    if name == 't5gemma':
      _check_t5gemma(head, vocabulary, new_tokens, freeze_embedding)
      return t5gemma_policy(
        number_tokenizer,
        config,
        frozen=frozen,
        decoder_dtype=decoder['compute_dtype'],
        **{k: decoder[k] for k in _DECODER},
        **numerics,
      )
    numerics |= {
      'attention': attention,
      'dropout': decoder['dropout'],
      'freeze_embedding': freeze_embedding,
    }
    if head:
      token = None
      if head == 'special_token':
        token = subwords.id_of(features.tokenizer, special_token)
      return gemma_head(
        head,
        config,
        special_token=token,
        hidden=decoder['head_hidden'],
        activation=head_activation,
        **numerics,
      )
    ids, first = subwords.number_subwords(
      features.tokenizer,
      number_tokenizer.token_names,
      config.vocab_size if new_tokens else None,
    )
    policy: Any = gemma_policy
    if isinstance(features, JudgeFeatures):
      policy = gemma_judge
      numerics |= {'end': features.end_id, 'budget': features.budget}
    return policy(
      number_tokenizer,
      config,
      number_tokens=ids,
      vocabulary=vocabulary,
      new_embedding=new_tokens or 'average',
      first_tokens=first,
      **numerics,
    )
  except InputError:
    raise
  except ValueError as error:
    raise InputError(f'language_model: {error}') from error


def _check_t5gemma(
  head: str, vocabulary: str, new_tokens: str, freeze_embedding: bool
) -> None:
  """Raises InputError of options that T5Gemma does not have."""
  for field, value, only in (
    ('head', head, ''),
    ('vocabulary', vocabulary, 'numbers'),
    ('new_tokens', new_tokens, ''),
    ('freeze_embedding', freeze_embedding, False),
  ):
    if value != only:
      raise InputError(
        f'language_model.{field}={value!r} is for gemma: t5gemma has a number '
        f'decoder of its own; leave it {only!r}'
      )


def load_params(
  name: str,
  network: Policy | Pointwise,
  inputs: Inputs,
  keys: jax.Array,
  mesh: jax.sharding.Mesh,
) -> Params:
  """A checkpoint's parameters for S seeds, stacked [S, ...] and sharded.

  What the checkpoint does not have is drawn, for each seed by itself.

  Args:
    name: of the checkpoint, a folder or one of the Hugging Face hub.
    network: a `Policy` or a `Pointwise` of `build`.
    inputs: of one row.
    keys: [S].
    mesh: where they will live.

  Raises:
    InputError: the checkpoint is incomplete, or of another model.
  """
  folder = pretrained.folder_of(name)
  boxed = jax.eval_shape(network.init, keys[0], inputs)
  abstract = sharding.abstract_params(boxed, mesh)

  def load(key: jax.Array) -> Params:
    if is_sentence_encoder(folder):
      given = read_params(folder, sentence.read_encoder(str(folder)).config)
      drawn = network.init(key, inputs, {'backbone': given})
      return jax.tree.map(
        lambda x, leaf: jax.device_put(x, leaf.sharding),
        nn.unbox(drawn),
        abstract,
      )
    return pretrained.load(
      folder, abstract, init=lambda given: network.init(key, inputs, given)
    )

  members = [load(key) for key in keys]
  stacked = sharding.abstract_params(boxed, mesh, 'seed')
  shardings = jax.tree.map(lambda x: x.sharding, stacked)
  if len(members) == 1:  # Without a second copy in memory.
    alone = jax.jit(
      lambda tree: jax.tree.map(lambda x: x[None], tree),
      out_shardings=shardings,
      donate_argnums=0,
    )
    return alone(*members)
  return jax.jit(
    lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees),
    out_shardings=shardings,
  )(*members)


def lora_of(fields: Mapping[str, Any]) -> Lora | None:
  """The `Lora` of rank, alpha and targets; None of rank 0."""
  return Lora(**fields) if fields['rank'] else None


def check_tokenizer(name: str, config: GemmaConfig) -> None:
  """Raises InputError unless a tokenizer's subwords are those of a model."""
  if subwords.has_unembedded(name, config.vocab_size):
    size = subwords.vocabulary_size(name)
    raise InputError(
      f'the tokenizer {name} has {size} subwords, the language model embeds '
      f'{config.vocab_size}: they belong to different models'
    )


def config_of(
  checkpoint: str, preset: str, sizes: Mapping[str, int]
) -> GemmaConfig:
  """The `GemmaConfig` of a checkpoint, or of a preset with other sizes.

  Raises:
    InputError: no such checkpoint, or sizes that do not fit together.
  """
  if checkpoint:
    return pretrained.read_config(pretrained.folder_of(checkpoint))
  given: dict[str, Any] = {name: size for name, size in sizes.items() if size}
  if 'head_dim' in given:
    given['query_scale'] = given['head_dim']
  try:
    return dataclasses.replace(SIZES[preset], **given)
  except ValueError as error:
    raise InputError(f'language_model.sizes: {error}') from error
