"""What a stage minimises: a weighted sum of objectives, at any level.

Token level looks at the target's tokens under teacher forcing, grid level at
log p of many numbers at once, sequence level at numbers that the policy wrote,
point level at a regression head. `supervised` gives the first two and the
last, for training and validation alike; `rollouts` the third.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.data.batches import Examples
from genre2_jax.objectives import grid, non_finite
from genre2_jax.objectives.catalog import Term
from genre2_jax.policy import (
  Inputs,
  Params,
  Pointwise,
  Policy,
  Text,
  in_one_pass,
  joint,
  teacher_forced,
  trie,
)
from genre2_jax.policy.enumeration import (
  Enumeration,
  enumerate_numbers,
  subset_numbers,
)
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.tokenizers.joint import columns_of, parts_of, spans_of

# Of a stage: 'policy', and with some objectives 'critic' or 'numbers'.
StageParams = dict[str, Params]
_SAMPLES = Enumeration(depth=0, samples=16)

_ROLLOUT_METRICS = (
  'reward',  # mean of the samples
  'greedy_reward',
  'reward_std',  # within a group
  'flat_groups',  # share of groups without spread: no gradient from them
  'entropy',  # nats per number
  'kl',  # nats per number, to the reference
  'clipped',  # share of tokens that the clip cuts off
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollouts:
  """How numbers are sampled for the sequence level.

  Attributes:
    group_size: G, samples per input.
    temperature: of sampling; log-probabilities are taken at it too.
    reward: a name of `REWARDS`.
    num_updates: updates per rollout.
    credit: 'all': every token is credited with the rewards of all targets;
      'later': with those of its own number and of the ones behind it, which
      are all that it can change.
  """

  group_size: int = 16
  temperature: float = 1.0
  reward: str = 'squared'
  num_updates: int = 1
  credit: str = 'all'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """A weighted sum of `Term`s, with what they share.

  Attributes:
    terms: the parts.
    rollouts: of the sequence level.
    enumeration: of the grid level.
    dropout: whether the networks drop out at token, grid and point level;
      never while sampling and scoring samples.
  """

  terms: tuple[Term, ...]
  rollouts: Rollouts = Rollouts()
  enumeration: Enumeration = _SAMPLES
  dropout: bool = False

  def at(self, level: str) -> list[Term]:
    """The terms of a level."""
    return [term for term in self.terms if term.level == level]

  @property
  def is_sequence(self) -> bool:
    """Whether the policy's own numbers are looked at."""
    return bool(self.at('sequence'))

  @property
  def needs(self) -> frozenset[str]:
    """What the sequence level wants of `rollouts.roll_out`."""
    wanted = (term.requires.rollout for term in self.at('sequence'))
    return frozenset[str]().union(*wanted)

  @property
  def name(self) -> str:
    """'ce', 'remax_expert', ...: in files and tables."""
    return '_'.join(term.name for term in self.terms)

  @property
  def num_updates(self) -> int:
    """Updates per batch."""
    return self.rollouts.num_updates if self.is_sequence else 1

  @property
  def metrics(self) -> tuple[str, ...]:
    """Names of the metrics of a training step."""
    names = ['loss', 'grad_norm', *(term.name for term in self.terms)]
    if self.is_sequence:
      names += [n for n in _ROLLOUT_METRICS if n not in names]
    if 'critic' in self.needs:
      names.append('value_loss')
    return tuple(names)


def check_objective(
  objective: Objective, tokenizer: str, num_targets: int = 1
) -> None:
  """Raises a ValueError unless an objective can be learnt.

  Args:
    objective: with its rollouts.
    tokenizer: the name of the number vocabulary.
    num_targets: k.

  Raises:
    ValueError: one line, of terms that do not go together or of what one of
      them requires and has not got.
  """
  terms, rollouts = objective.terms, objective.rollouts
  names = [term.name for term in terms]
  listed = ', '.join(names)
  if not terms or len(set(names)) < len(names):
    raise ValueError(
      f'objective={names}: give every objective once, at least one'
    )
  for term in terms:
    wanted = term.requires.tokenizer
    if wanted and tokenizer != wanted:
      raise ValueError(f'objective: {term.name} needs tokenizer.name={wanted}')
    most = term.requires.most_targets
    if most and num_targets > most:
      raise ValueError(
        f'objective: {term.name} learns one target, and there are '
        f'{num_targets}: take remax, dar or crps, or name one'
      )
  if not any(term.requires.moves_alone for term in terms):
    raise ValueError(f'objective: {listed} alone keeps the weights as they are')
  sequence = objective.at('sequence')
  for term in sequence:
    if term.requires.single_update and rollouts.num_updates > 1:
      raise ValueError(
        f'objective: rollouts.num_updates must be 1 with {term.name}: it has '
        'no ratio'
      )
  if any(term.in_reward for term in sequence) and not any(
    term.requires.reads_reward for term in sequence
  ):
    raise ValueError(
      'objective: kl with estimator k1 is taken from a reward, and none of '
      f'{listed} looks at one: use k2 or k3'
    )
  for term in sequence:
    least = term.requires.least_group
    if rollouts.group_size < least:
      raise ValueError(
        f'objective: {term.name} needs rollouts.group_size of {least} or more'
      )
  if sequence and objective.dropout:
    raise ValueError(
      f'dropout must be False with {listed}: numbers are sampled and scored '
      'without it'
    )


def init_params(
  key: jax.Array,
  inputs: Inputs,
  *,
  network: Policy | Pointwise,
  codec: Codec,
  objective: Objective,
  start: Params = None,
) -> StageParams:
  """Parameters of a stage: the network's and what its objectives add.

  Args:
    key: a PRNG key.
    inputs: of one row.
    network: a `Policy` or a `Pointwise`.
    codec: between tokens and z-scores.
    objective: an `Objective`.
    start: the network's parameters, if they are not to be drawn.

  Returns:
    A dict, boxed with logical axis names where it was drawn.
  """
  policy_key, critic_key = jax.random.split(key)
  if start is None:
    start = network.init(policy_key, inputs)
  params = {'policy': start}
  if 'critic' in objective.needs:
    params['critic'] = network.init(critic_key, inputs)
  if any(term.learnable for term in objective.terms):
    params['numbers'] = jnp.asarray(codec.finite.values(), jnp.float32)
  return params


def supervised(
  params: StageParams,
  batch: Examples,
  keys: jax.Array,
  *,
  network: Policy | Pointwise,
  codec: Codec,
  objective: Objective,
  dropout_key: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Losses of the token, grid and point level, row by row.

  Args:
    params: a dict, as `init_params` gives it.
    batch: `Examples` of B rows.
    keys: [B], for numbers that are sampled at the grid level.
    network: a `Policy` or a `Pointwise`.
    codec: between tokens and z-scores.
    objective: an `Objective`.
    dropout_key: None for no dropout.

  Returns:
    {name of a term: [B]}, not weighted. Of several targets the mean over them:
    the grid of each is given the true numbers before it, so that a proper loss
    of every conditional is a proper loss of the whole.
  """
  encode_key = decode_key = None
  if dropout_key is not None:
    encode_key, decode_key = jax.random.split(dropout_key)
  own = params['policy']
  losses: dict[str, jax.Array] = {}
  if isinstance(network, Pointwise):
    predictions = network.predict(own, batch.inputs, encode_key)
    for term in objective.at('point'):
      losses[term.name] = term.loss(predictions, batch.target)
    return losses
  if not (objective.at('token') or objective.at('grid')):
    return losses
  if _decodes_once(objective, network):
    network = in_one_pass(network)
  context = network.encode(own, batch.inputs, encode_key)
  if objective.at('token'):
    losses |= _of_tokens(params, batch, context, network, objective, decode_key)
  if objective.at('grid'):
    losses |= _of_grids(params, batch, keys, context, network, codec, objective)
  return losses


def _of_tokens(params, batch, context, network, objective, dropout_key):
  """Losses of the token level, and of free text before a number."""
  own, text_log_probs = params['policy'], None
  if network.writer is None:
    logits = teacher_forced(network, own, context, batch.tokens, dropout_key)
  else:
    text_log_probs, logits = network.writer.score(
      own,
      context,
      given_text(batch.inputs),
      batch.tokens[:, None],
      dropout_key=dropout_key,
    )
    logits = logits[:, 0]
  spans, numbers = spans_of(network.tokenizer), parts_of(network.tokenizer)
  targets = columns_of(batch.target, len(spans))
  losses: dict[str, jax.Array] = {}
  for term in objective.at('token'):
    loss = _mean(
      [
        term.loss(logits[:, span], batch.tokens[:, span], target, tokenizer)
        for span, target, tokenizer in zip(spans, targets, numbers, strict=True)
      ]
    )
    if text_log_probs is not None and term.requires.covers_text:
      loss = _with_text(loss, text_log_probs[:, 0], batch)
    losses[term.name] = loss
  return losses


def _of_grids(params, batch, keys, context, network, codec, objective):
  """Losses of the grid level, of each target given the true ones before."""
  own, spans = params['policy'], spans_of(network.tokenizer)
  targets = columns_of(batch.target, len(spans))
  found: dict[str, list[jax.Array]] = {}
  for place, (part, span) in enumerate(zip(codec.parts, spans, strict=True)):
    policy, inner = joint.given(
      network, own, context, batch.tokens[:, : span.start]
    )
    own_keys = keys
    if place:
      own_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
    grids = {}
    for term in objective.at('grid'):
      if term.subset not in grids:
        grids[term.subset] = (
          subset_numbers(policy, part, own, inner, term.subset)
          if term.subset
          else enumerate_numbers(
            policy, part, own, inner, own_keys, objective.enumeration
          )
        )
      loss = term.loss
      if term.enumerates and objective.enumeration.is_sampled:
        loss = getattr(loss, 'of_samples', loss)
      if term.learnable:
        weights = params['numbers']
        own_weights = weights if len(spans) == 1 else weights[place]
        loss = functools.partial(loss, weights=own_weights)
      value = _of_grid(loss, *grids[term.subset], targets[place], part)
      found.setdefault(term.name, []).append(value)
  return {name: _mean(parts) for name, parts in found.items()}


def _of_grid(loss, log_p, numbers, target, codec):
  """A loss of one target's numbers: [B]."""
  if codec.tokenizer.num_special:
    assert isinstance(numbers, np.ndarray)  # Of a whole trie.
    count = codec.finite.tokenizer.num_sequences
    given = non_finite.split(log_p, target, count)
    return non_finite.loss_of(loss, given, numbers[:count])
  if isinstance(numbers, jax.Array) and numbers.ndim == 1:
    numbers = grid.Ascending(numbers)  # Of a `Bound`.
  return loss(log_p, numbers, target)


def _mean(parts):
  """Of arrays; of one array itself, to the bit."""
  return sum(parts[1:], parts[0]) / len(parts) if len(parts) > 1 else parts[0]


def given_text(inputs: Inputs) -> Text:
  """What a judge is to write for each row of inputs, R = 1."""
  return Text(inputs['text'][:, None], inputs['text_length'][:, None])


def _with_text(
  loss: jax.Array, text_log_probs: jax.Array, batch: Examples
) -> jax.Array:
  """Mean over text, its end and number of a loss [B] that is the number's.

  The end of a text that fills its budget is certain, and not counted.
  """
  count = batch.tokens.shape[-1]
  budget = batch.inputs['text'].shape[-1]
  counted = jnp.minimum(batch.inputs['text_length'] + 1, budget)
  total = count * loss - jnp.sum(text_log_probs, -1)
  return total / (count + counted)


def _decodes_once(objective: Objective, policy: Policy) -> bool:
  """Whether `supervised` asks for the logits of one set of nodes only."""
  if len(parts_of(policy.tokenizer)) > 1:
    return False  # Each number has nodes of its own.
  subsets = {term.subset for term in objective.at('grid')}
  if 0 in subsets and not (
    objective.enumeration.depth == policy.tokenizer.num_tokens
    and trie.fits_one_pass(policy.tokenizer)
  ):
    return False
  return len(subsets) + bool(objective.at('token')) == 1


def total(losses: dict[str, jax.Array], objective: Objective) -> jax.Array:
  """Σ weight · mean of a term, over the terms in `losses`: a scalar."""
  return sum(  # type: ignore[return-value]  # There are terms.
    term.weight * jnp.mean(losses[term.name])
    for term in objective.terms
    if term.name in losses
  )
