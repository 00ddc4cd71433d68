"""A policy is a distribution over numbers, given as pure functions.

The numbers that a tokenizer can write form a trie: a node is a prefix, its
children are the prefixes one token longer. `decode` gives next-token logits at
nodes, given the nodes already decoded and who of them is whose ancestor. So
one function is a cached decoding step, teacher forcing (the T nodes along one
number), and the scoring of many numbers, or of the whole trie, in one pass.

Every objective, estimator and metric works with every model that is a policy.
Letters: B batch, U decodings of an input side by side, each with a cache of its
own, Q nodes to decode in each, N nodes before them, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.tokenizers import Tokenizer

# What only a model can look into: arrays in any nesting.
Params = Any
Inputs = Any  # leading axis B
Context = Any  # leading axis B
# The logit of what is not allowed: exp(-1e9) is 0 in float32, and 0 * -1e9 is
# 0, where -inf would give NaN.
MASKED = -1e9

Cache = Any  # leading axes [B, U, N]


class Text(NamedTuple):
  """Free texts, each before a number.

  Attributes:
    tokens: int32 [B, R, W], subwords; what is behind the length is ignored.
    length: int32 [B, R], 0 to W.
  """

  tokens: jax.Array
  length: jax.Array


class Writer(NamedTuple):
  """How a policy writes free text, a marker of its end, and then a number.

  log p(text, number | input) is the sum over the text's subwords, the marker
  and the number's tokens, each given all before it. A text that fills the
  budget ends there with probability 1.

  Attributes:
    budget: W, subwords of free text at most.
    write: `(params, context, keys, is_greedy, temperature) -> (Text, log p of
      its subwords and its end [B, R, W + 1], numbers int32 [B, R, T], log p of
      all tokens along them [B, R, T, V])`; keys [B, R]; `is_greedy` static bool
      [R], of rows that take the likeliest. Not differentiated.
    score: `(params, context, text, numbers, temperature=1, dropout_key=None) ->
      (log p of subwords and end [B, R, W + 1], logits at the numbers' prefixes
      [B, R, T, V])`, of what is there; V + 1 of an open policy.
  """

  budget: int
  write: Callable[..., tuple[Text, jax.Array, jax.Array, jax.Array]]
  score: Callable[..., tuple[jax.Array, jax.Array]]


class Policy(NamedTuple):
  """p(number | input) as pure functions of parameters.

  Attributes:
    tokenizer: the number vocabulary.
    init: `(key, inputs) -> params`, boxed with logical axis names that
      `devices.sharding` reads.
    encode: `(params, inputs, dropout_key=None) -> context`. Once per input,
      never once per sample. No dropout without a key.
    decode: `(params, context, tokens, positions, visible, cache=None,
      dropout_key=None) -> (logits, cache)`, where `tokens` int [B, U, Q] are
      the last tokens of the nodes' prefixes (ignored at position 0, whose
      prefix is empty), `positions` [Q] the lengths of the prefixes, and
      `visible` bool [Q, N + Q] says which nodes, those in the cache first,
      are ancestors of a node or the node itself. Positions and visibility are
      numpy, static. The cache grows by Q nodes; its leaves begin with the axes
      [B, U, N], so that nodes can be selected without knowing the model.
      `logits` float32 [B, U, Q, V] are grammatical: tokens that the tokenizer
      forbids stand at a finite, very low value, so that they get probability
      exactly 0 and gradients stay finite.
    frozen: `path -> bool`, whether the parameter at a path, a tuple of the
      keys to it in `params`, is never trained; None: all are trained.
    open: whether the number tokens share their softmax with others: `logits`
      then have one column more, the last, with the logsumexp of all that is
      not allowed, a language model's other subwords. Sampling leaves it out,
      so that numbers stay grammatical; cross-entropy has it in; p(number) is
      to be had both ways (`grammatical`).
    is_table: whether the context is the logits [B, N, V] of all nodes of the
      trie, level by level (`policy/tables.py`): `decode` only looks them up.
    shares_nodes: whether `decode` takes nodes that are the same for every
      input, tokens [1, U, Q] beside a context of B, and computes once what is
      the same of them: leaves of the cache may then be [1, U, N].
    at_once: `(params, inputs, tokens, positions, visible, dropout_key=None) ->
      logits`, what `decode` gives of nodes without others before them once
      `encode` has read the inputs, in one pass through layers that both share;
      None: they share none. `in_one_pass` makes a policy of it.
    reads_inputs: whether `encode` gives the inputs as they are and `decode`,
      which then takes no cache, reads them too.
    prepare: `params -> params` with what `encode` without dropout would compute
      of them at every call, for many calls; None: there is nothing.
    halves: `encode` in two, `(params, inputs, dropout_key=None) -> half` and
      `(params, half, dropout_key=None) -> context`: what costs, and what is
      quick and alone reads parameters that are chosen when a stage is over;
      None: it is one.
    writer: free text before the number, whose context is that of `encode`;
      `decode` then is of numbers without any. None: there is none.
  """

  tokenizer: Tokenizer
  init: Callable[..., Params]
  encode: Callable[..., Context]
  decode: Callable[..., tuple[jax.Array, Cache]]
  frozen: Callable[[tuple[str, ...]], bool] | None = None
  open: bool = False
  is_table: bool = False
  shares_nodes: bool = False
  at_once: Callable[..., jax.Array] | None = None
  reads_inputs: bool = False
  prepare: Callable[[Params], Params] | None = None
  halves: tuple[Callable[..., Any], Callable[..., Context]] | None = None
  writer: Writer | None = None


class Pointwise(NamedTuple):
  """A regression head: one number per input and no distribution.

  Attributes:
    init: `(key, inputs) -> params`, boxed with logical axis names.
    predict: `(params, inputs, dropout_key=None) -> z` [B], float32, in the
      unit that it is trained in. No dropout without a key.
    frozen: as a `Policy`'s.
  """

  init: Callable[..., Params]
  predict: Callable[..., jax.Array]
  frozen: Callable[[tuple[str, ...]], bool] | None = None


def grammatical(policy: Policy, logits: jax.Array) -> jax.Array:
  """Logits [..., V] without an open policy's column for all other tokens."""
  return logits[..., : policy.tokenizer.vocab_size]


def in_one_pass(policy: Policy) -> Policy:
  """The same distribution, inputs and nodes read in one pass where that can be.

  On devices that share weights every pass through the layers gathers them all,
  and once more for the gradient.
  """
  at_once = policy.at_once
  if at_once is None:
    return policy

  def encode(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> Inputs:
    del params, dropout_key  # `decode` reads.
    return inputs

  def decode(
    params: Params,
    context: Inputs,
    tokens: jax.Array,
    positions: np.ndarray,
    visible: np.ndarray,
    cache: None = None,
    dropout_key: jax.Array | None = None,
  ) -> tuple[jax.Array, None]:
    assert cache is None
    logits = at_once(params, context, tokens, positions, visible, dropout_key)
    return logits, None

  return policy._replace(encode=encode, decode=decode, reads_inputs=True)


def teacher_forced(
  policy: Policy,
  params: Params,
  context: Context,
  tokens: jax.Array,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """Logits [B, T, V] of a number's tokens [B, T], each given those before.

  [B, T, V + 1] of an open policy.
  """
  return decoded_along(policy, params, context, tokens, dropout_key)[0][:, 0]


def decoded_along(
  policy: Policy,
  params: Params,
  context: Context,
  tokens: jax.Array,
  dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
  """`Policy.decode` of the prefixes of tokens [B, T], one path per input."""
  length = tokens.shape[-1]
  return policy.decode(
    params,
    context,
    jnp.roll(tokens, 1, axis=-1)[:, None],
    np.arange(length),
    np.tri(length, dtype=bool),
    dropout_key=dropout_key,
  )
