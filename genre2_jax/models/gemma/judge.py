"""A Gemma that writes before it scores: free text, a marker, then a number.

Text, marker and number are one chain of nodes behind the prompt, which all
chains of an input share. Reading them is one pass, with the number's places
looked up behind the end of its text; writing them is one loop with a cache of
fixed size, in which every chain goes over to the number by itself.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.models.gemma.layers import Numerics, Pair
from genre2_jax.models.gemma.policy import (
  NumberLanguageModel,
  check_number_tokens,
  gemma_policy,
)
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.layers import MASKED
from genre2_jax.policy import Context, Params, Policy, Text, Writer
from genre2_jax.tokenizers import Tokenizer


class WritingLanguageModel(NumberLanguageModel):
  """A `NumberLanguageModel` that may write free text before the number.

  Its parameters are the same.

  Attributes:
    end: the subword that ends a text.
    budget: W, subwords of a text at most.
  """

  end: int = 0
  budget: int = 1

  def score(
    self,
    context: Mapping[str, jax.Array],
    text: Text,
    numbers: jax.Array,
    temperature: float = 1.0,
  ) -> tuple[jax.Array, jax.Array]:
    """`Writer.score`."""
    count = numbers.shape[-1]
    length = text.length[..., None]
    # What is fed at a slot stands one node behind it: the root feeds the
    # prompt's last token.
    slot = np.arange(self.budget + count)
    subwords = jnp.pad(text.tokens, ((0, 0), (0, 0), (0, count)))
    subwords = jnp.where(slot < length, subwords, self.end)
    index = jnp.clip(slot - length - 1, 0, count - 1)
    digits = jnp.take_along_axis(numbers, index, axis=-1)
    last = jnp.broadcast_to(
      context['last'][:, None, None], (*numbers.shape[:2], 1)
    )
    rows = self._fed(
      jnp.concatenate([last, subwords], -1),
      jnp.pad(digits, ((0, 0), (0, 0), (1, 0))),
      jnp.pad(slot > length, ((0, 0), (0, 0), (1, 0))),
    )
    nodes = 1 + len(slot)
    x, _ = self.backbone.follow(
      context,
      rows,
      np.arange(nodes),
      np.tri(nodes, dtype=bool),
      bidirectional=self.bidirectional,
    )
    slot = slot[: self.budget + 1]
    log_p = self._text_log_probs(
      x[:, :, : self.budget + 1], subwords[..., : len(slot)], temperature
    )
    # A full text ends with probability 1.
    drawn = (slot <= length) & (slot < self.budget)
    places = length + 1 + np.arange(count)
    x = jnp.take_along_axis(x, places[..., None], axis=2)
    return jnp.where(drawn, log_p, 0), self._logits(x, np.arange(count))

  def _text_log_probs(
    self, x: jax.Array, subwords: jax.Array, temperature: float
  ) -> jax.Array:
    """log p of subwords [B, U, Q] at hidden states [B, U, Q, D].

    One place at a time, and once more backwards: all logits at once would be
    larger than all else.
    """
    embedding = self.backbone.embedding

    def one(args):
      x, subword = args
      logits = self.backbone.project(x, embedding) / temperature
      log_p = jax.nn.log_softmax(logits)
      return jnp.take_along_axis(log_p, subword[..., None], axis=-1)[..., 0]

    places = jnp.moveaxis(x, 2, 0), jnp.moveaxis(subwords, 2, 0)
    return jnp.moveaxis(jax.lax.map(jax.checkpoint(one), places), 0, 2)

  def next_logits(
    self,
    context: Mapping[str, jax.Array],
    subwords: jax.Array,
    digits: jax.Array,
    is_digit: jax.Array,
    position: jax.Array,
    cache: Pair,
  ) -> tuple[jax.Array, jax.Array, Pair]:
    """Of chains [B, U] fed a subword or a digit each.

    Returns:
      (logits of all subwords, of all number tokens, of any position,
      the cache).
    """
    x, cache = self.backbone.extend(
      context,
      self._fed(subwords, digits, is_digit),
      position,
      cache,
      self.bidirectional,
    )
    text = self.backbone.project(x, self.backbone.embedding)
    return text, self.backbone.project(x, self._rows()), cache

  def _fed(
    self, subwords: jax.Array, digits: jax.Array, is_digit: jax.Array
  ) -> jax.Array:
    """Embeddings of subwords, and of number tokens where `is_digit`."""
    numbers = self._rows()
    one_hot = jax.nn.one_hot(digits, len(numbers), dtype=numbers.dtype)
    rows = jnp.matmul(one_hot, numbers, precision='highest')
    return jnp.where(is_digit[..., None], rows, self.backbone.look_up(subwords))


class _Chains(NamedTuple):
  """Chains [B, R] that are being written.

  Attributes:
    position: nodes fed to each.
    cache: keys and values of them.
    place: int32 [B, R], of the next number token; −1 within the text.
    subword: int32 [B, R], the last of the text, the prompt's before there is
      any.
    digit: int32 [B, R], the last of the number.
    text: as `Writer.write` gives it.
    text_log_probs: likewise.
    numbers: likewise.
    log_probs: likewise.
  """

  position: jax.Array
  cache: Pair
  place: jax.Array
  subword: jax.Array
  digit: jax.Array
  text: Text
  text_log_probs: jax.Array
  numbers: jax.Array
  log_probs: jax.Array


def writer_of(model: WritingLanguageModel) -> Writer:
  """The `Writer` of a module."""
  allowed = np.array(model.allowed)
  budget, count = model.budget, len(allowed)

  def apply(params: Params, method: str, *args: Any, rngs: Any = None) -> Any:
    return model.apply({'params': params}, *args, method=method, rngs=rngs)

  def score(
    params: Params,
    context: Context,
    text: Text,
    numbers: jax.Array,
    temperature: float = 1.0,
    dropout_key: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    return apply(
      params, 'score', context, text, numbers, temperature, rngs=rngs
    )

  def write(
    params: Params,
    context: Context,
    keys: jax.Array,
    is_greedy: np.ndarray,
    temperature: float,
  ) -> tuple[Text, jax.Array, jax.Array, jax.Array]:
    shape = keys.shape

    def chosen(position: jax.Array, log_p: jax.Array) -> jax.Array:
      draw = lambda key, log_p: jax.random.categorical(  # noqa: E731
        jax.random.fold_in(key, position), log_p
      )
      drawn = jax.vmap(jax.vmap(draw))(keys, log_p)
      best = jnp.argmax(log_p, -1)
      return jnp.where(is_greedy, best, drawn).astype(jnp.int32)

    def going_on(chains: _Chains) -> jax.Array:
      return (chains.position <= budget + count) & jnp.any(chains.place < count)

    def step(chains: _Chains) -> _Chains:
      at = chains.position
      of_text, of_number, cache = apply(
        params,
        'next_logits',
        context,
        chains.subword,
        chains.digit,
        chains.place > 0,
        at,
        chains.cache,
      )
      in_text = chains.place < 0
      log_p = jax.nn.log_softmax(of_text / temperature)
      subword = chosen(at, log_p)
      own = jnp.take_along_axis(log_p, subword[..., None], axis=-1)[..., 0]
      is_full = at == budget
      subword = jnp.where(is_full, model.end, subword)
      own = jnp.where(is_full, 0, own)
      ends = in_text & (subword == model.end)
      goes_on = in_text & ~ends
      slots = np.arange(budget + 1) == at
      text = Text(
        jnp.where(
          goes_on[..., None] & slots[:budget],
          subword[..., None],
          chains.text.tokens,
        ),
        chains.text.length + goes_on,
      )
      place = jnp.clip(chains.place, 0, count - 1)
      number_log_p = jax.nn.log_softmax(
        jnp.where(jnp.asarray(allowed)[place], of_number, MASKED) / temperature
      )
      digit = chosen(at, number_log_p)
      writes = ~in_text & (chains.place < count)
      here = writes[..., None] & (np.arange(count) == place[..., None])
      return _Chains(
        position=at + 1,
        cache=cache,
        place=jnp.where(ends, 0, chains.place + writes),
        subword=jnp.where(in_text, subword, chains.subword),
        digit=jnp.where(writes, digit, chains.digit),
        text=text,
        text_log_probs=jnp.where(
          in_text[..., None] & slots, own[..., None], chains.text_log_probs
        ),
        numbers=jnp.where(here, digit[..., None], chains.numbers),
        log_probs=jnp.where(
          here[..., None], number_log_p[..., None, :], chains.log_probs
        ),
      )

    zeros = jnp.zeros(shape, jnp.int32)
    keys_shape = context['keys'].shape[2:]
    empty = jnp.zeros(
      (*shape, budget + count + 1, *keys_shape), context['keys'].dtype
    )
    chains = _Chains(
      position=jnp.zeros((), jnp.int32),
      cache=(empty, empty),
      place=zeros - 1,
      subword=jnp.broadcast_to(context['last'][:, None], shape),
      digit=zeros,
      text=Text(jnp.zeros((*shape, budget), jnp.int32), zeros),
      text_log_probs=jnp.zeros((*shape, budget + 1)),
      numbers=jnp.zeros((*shape, count), jnp.int32),
      log_probs=jnp.zeros((*shape, *allowed.shape)),
    )
    chains = jax.lax.while_loop(going_on, step, chains)
    return chains.text, chains.text_log_probs, chains.numbers, chains.log_probs

  return Writer(budget, write, score)


def gemma_judge(
  tokenizer: Tokenizer,
  config: GemmaConfig,
  *,
  end: int,
  budget: int,
  number_tokens: Any,
  vocabulary: str = 'numbers',
  attention: str = 'causal',
  **options: Any,
) -> Policy:
  """The `Policy` of a Gemma that writes free text, then a number.

  Args:
    tokenizer: the number vocabulary.
    config: a `GemmaConfig`.
    end: the subword that ends a text.
    budget: W, subwords of a text at most, 1 or more.
    number_tokens: as of `gemma_policy`.
    vocabulary: likewise; text is over all subwords in any case.
    attention: likewise; what is written sees what stands before it.
    **options: likewise.

  Raises:
    ValueError: arguments that do not fit together.
  """
  if not 0 <= end < config.vocab_size or budget < 1:
    raise ValueError(
      f'end={end}, budget={budget}: give a subword of the '
      f'{config.vocab_size}, and 1 or more'
    )
  policy = gemma_policy(
    tokenizer,
    config,
    number_tokens=number_tokens,
    vocabulary=vocabulary,
    attention=attention,
    **options,
  )
  known = {field.name for field in dataclasses.fields(Numerics)}
  model = WritingLanguageModel(
    config,
    Numerics(**{name: x for name, x in options.items() if name in known}),
    allowed=tuple(map(tuple, np.asarray(tokenizer.allowed).tolist())),
    number_tokens=check_number_tokens(tokenizer, config, number_tokens),
    open=policy.open,
    bidirectional=attention == 'bidirectional',
    end=end,
    budget=budget,
  )
  # Texts are read behind prompts, not with them.
  return policy._replace(writer=writer_of(model), at_once=None)
