"""Gemma as a policy: a prompt in subwords, a number in number tokens.

The prompt runs through the model once; nodes of the trie of numbers then attend
to its keys and values, which all decodings of an input share. Node t > 0 feeds
the subword of its number token, the root feeds the prompt's last token, so the
logits at a node are those of the language model after prompt and prefix.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.gemma.backbone import (
  ATTENTION,
  Backbone,
  check_choice,
  frozen_of,
  initializer,
)
from genre2_jax.models.gemma.layers import Lora, Numerics, Pair
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.layers import (
  MASKED,
  encode_and_decode,
  parameter,
  rows_of,
)
from genre2_jax.policy import Inputs, Params, Policy
from genre2_jax.tokenizers import Tokenizer

_VOCABULARIES = ('numbers', 'all')
_NEW_EMBEDDING = ('zero', 'first', 'average')


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

  def setup(self) -> None:
    self.backbone = Backbone(self.config, self.numerics)
    count = num_new(self.config, self.number_tokens)
    if count:
      self.new_embedding = parameter(
        self,
        'new_embedding',
        nn.initializers.zeros_init(),
        ('vocab', 'embed'),
        (count, self.config.width),
        jnp.float32,
      )

  def _rows(self) -> jax.Array:
    """Embeddings of the number tokens: [V, D]."""
    ids = np.array(self.number_tokens)
    old = ids < self.config.vocab_size
    rows = rows_of(self.backbone.embedding, ids[old])
    if old.all():
      return rows
    new = self.new_embedding[ids[~old] - self.config.vocab_size]
    rows = jnp.concatenate([rows.astype(new.dtype), new])
    # Back in the order of the tokens: the old ones came first.
    return rows[np.argsort(np.argsort(~old, kind='stable'), kind='stable')]

  def encode(self, inputs: Inputs) -> dict[str, jax.Array]:
    """`Policy.encode`: the prompt's keys and values, length, last token."""
    _, (keys, values) = self.backbone.read(inputs, self.bidirectional)
    return {
      'keys': keys,
      'values': values,
      'length': inputs['length'],
      'last': _last_token(inputs),
    }

  def decode(
    self,
    context: Mapping[str, jax.Array],
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: Pair | None = None,
  ) -> tuple[jax.Array, Pair]:
    """`Policy.decode`."""
    positions, visible = np.asarray(positions), np.asarray(visible)
    rows = self._of_nodes(tokens, positions, lambda: context['last'])
    x, cache = self.backbone.follow(
      context, rows, positions, visible, cache, self.bidirectional
    )
    return self._logits(x, positions), cache

  def read_and_decode(
    self,
    inputs: Inputs,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
  ) -> jax.Array:
    """`Policy.at_once`."""
    positions, visible = np.asarray(positions), np.asarray(visible)
    rows = self._of_nodes(tokens, positions, lambda: _last_token(inputs))
    x = self.backbone.read_and_follow(
      inputs, rows, positions, visible, self.bidirectional
    )
    return self._logits(x, positions)

  def _of_nodes(
    self,
    tokens: jax.Array,
    positions: np.ndarray,
    last: Callable[[], jax.Array],
  ) -> jax.Array:
    """Of nodes [B, U, Q, D]; `last` gives the prompts' last tokens [B]."""
    numbers = self._rows()
    # Few rows: a product with one-hot rows has a matrix product as gradient,
    # where a gather's is a scatter.
    one_hot = jax.nn.one_hot(tokens, len(numbers), dtype=numbers.dtype)
    rows = jnp.matmul(one_hot, numbers, precision='highest')
    if not (positions == 0).any():
      return rows
    root = self.backbone.look_up(last())[:, None, None]
    return jnp.where((positions == 0)[:, None], root, rows)

  def _logits(self, x: jax.Array, positions: np.ndarray) -> jax.Array:
    """Grammatical logits at nodes of hidden states [B, U, Q, D]."""
    numbers = self._rows()
    logits = self.backbone.project(x, numbers)
    allowed = np.array(self.allowed)[positions]
    number_logits = jnp.where(allowed, logits, MASKED)
    if not self.open:
      return number_logits
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
    return jnp.concatenate([number_logits, rest], axis=-1)

  def _others(self, positions: np.ndarray) -> jax.Array:
    """Bool [Q, vocab_size]: not allowed as a number token at a position."""
    ids, allowed = np.array(self.number_tokens), np.array(self.allowed)
    others = jnp.ones((len(allowed), self.config.vocab_size), bool)
    position, token = np.nonzero(allowed & (ids < self.config.vocab_size))
    return others.at[position, ids[token]].set(False)[positions]

  def __call__(self, inputs: Inputs) -> tuple[jax.Array, Pair]:
    """Touches every parameter, for `init`."""
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    visible = np.ones((1, 1), bool)
    return self.decode(self.encode(inputs), tokens, np.zeros(1, int), visible)


def _last_token(inputs: Inputs) -> jax.Array:
  """Of every prompt: [B]."""
  last = inputs['length'][:, None] - 1
  return jnp.take_along_axis(inputs['tokens'], last, axis=1)[:, 0]


def num_new(config: GemmaConfig, number_tokens: tuple[int, ...]) -> int:
  """How many number tokens are not in the vocabulary of subwords.

  Raises:
    ValueError: their numbers have gaps.
  """
  new = {int(i) for i in number_tokens if i >= config.vocab_size}
  if new and max(new) - config.vocab_size + 1 != len(new):
    raise ValueError(
      f'new number tokens must be numbered from {config.vocab_size} on without '
      f'gaps, not {sorted(new)}'
    )
  return len(new)


def check_number_tokens(
  tokenizer: Tokenizer, config: GemmaConfig, number_tokens: Any
) -> tuple[int, ...]:
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
  tokenizer: Tokenizer,
  config: GemmaConfig,
  *,
  number_tokens: Any,
  vocabulary: str = 'numbers',
  attention: str = 'causal',
  compute_dtype: str = 'bfloat16',
  param_dtype: str = 'float32',
  remat: bool = False,
  attention_block: int = 0,
  dropout: float = 0.0,
  lora: Lora | None = None,
  freeze_embedding: bool = False,
  new_embedding: str = 'average',
  first_tokens: Any = None,
) -> Policy:
  """The `Policy` of a Gemma that writes numbers (Lukasik et al., ICLR 2025).

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
    attention_block: of `Numerics`.
    dropout: rate on what each sublayer adds, where a key is given.
    lora: a `Lora`: the backbone is then frozen and low-rank updates and new
      embeddings are trained; or None.
    freeze_embedding: whether the embedding of subwords is never trained; new
      tokens' are.
    new_embedding: how the embeddings of new tokens begin: 'zero', 'average'
      (of all subwords), 'first' (of the first subword of the token's string).
    first_tokens: int [number of new tokens], for 'first'.

  Returns:
    A `Policy`; inputs are `{'tokens': int32 [B, L], 'length': int32 [B]}`,
    right-padded, length ≥ 1. `init` takes a third argument, `given`,
    parameters that are already there (as `pretrained.load` reads them), and
    draws the rest.

  Raises:
    ValueError: arguments that do not fit together.
  """
  check_choice('vocabulary', vocabulary, _VOCABULARIES)
  check_choice('attention', attention, ATTENTION)
  check_choice('new_embedding', new_embedding, _NEW_EMBEDDING)
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
      attention_block=attention_block,
      dropout=dropout,
      lora=lora,
    ),
    allowed=tuple(map(tuple, np.asarray(tokenizer.allowed).tolist())),
    number_tokens=number_tokens,
    open=vocabulary == 'all',
    bidirectional=attention == 'bidirectional',
  )

  draw = initializer(model)

  def init(key: jax.Array, inputs: Inputs, given: Params = None) -> Params:
    params = draw(key, inputs, given)
    if count and 'new_embedding' not in (given or {}):
      table = nn.unbox(params['backbone']['embedding'])
      rows = _new_rows(table, count, new_embedding, first_tokens)
      box = params['new_embedding']
      params['new_embedding'] = box.replace_boxed(rows)
    return params

  encode, decode = encode_and_decode(model)

  def read_and_decode(
    params: Params,
    inputs: Inputs,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    logits: Any = model.apply(
      {'params': params},
      inputs,
      tokens,
      positions,
      visible,
      method='read_and_decode',
      rngs=rngs,
    )
    return logits

  return Policy(
    tokenizer,
    init,
    encode,
    decode,
    frozen=frozen_of(lora, freeze_embedding),
    open=vocabulary == 'all',
    at_once=read_and_decode,
  )


def _new_rows(
  embedding: jax.Array, count: int, how: str, first_tokens: Any
) -> jax.Array:
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
