"""The stages that a config asks for, and what each of them minimises."""

from ml_collections import ConfigDict

from genre2_jax.errors import InputError
from genre2_jax.experiment.fields import has_table_head, head_of, is_table
from genre2_jax.experiment.networks import build_tokenizer
from genre2_jax.experiment.packs import pack_of
from genre2_jax.models.encoders import FAST_PARAMETERS
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import (
  Objective,
  Rollouts,
  check_objective,
)
from genre2_jax.policy import trie
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.training.stages import Stage


def all_stages(config: ConfigDict) -> list[Stage]:
  """What a config describes, 'pretrain' even where another run did it."""
  # Without 'finetune' its objective need not fit the model.
  sections = ('pretrain', 'finetune')[: 1 + ('finetune' in config.stages)]
  return [_stage(section, config) for section in sections]


def build_stages(config: ConfigDict) -> list[Stage]:
  """The stages to run, in order.

  With `init_from` the weights stand in for stage 'pretrain' where another
  follows.
  """
  sections = [str(section) for section in config.stages]
  if sections not in (
    [], ['pretrain'], ['pretrain', 'finetune'], ['finetune']
  ):  # fmt: skip
    raise InputError(
      f"stages={tuple(sections)} is not one of (), ('pretrain',), "
      "('pretrain', 'finetune'), ('finetune',)"
    )
  has_weights = config.init_from or (
    config.language_model.pretrained and not is_table(config)
  )
  if 'pretrain' not in sections and not has_weights:
    raise InputError(
      f'stages={tuple(sections)} has no weights to start from: set '
      '--config.init_from=WORKDIR, a language_model.pretrained, or run '
      'pretrain too'
    )
  if not sections and config.init_from:
    raise InputError(
      'stages=() evaluates a pretrained language model: leave init_from empty'
    )
  if config.init_from and 'finetune' in sections:
    sections = ['finetune']
  return [_stage(section, config) for section in sections]


def _stage(section, config):
  fields = config[section]
  objective = Objective(
    terms=_terms(section, fields.objective, config),
    rollouts=Rollouts(**config.rollouts),
    enumeration=_enumeration(section, config),
    dropout=fields.dropout,
  )
  name = objective.name
  if section == 'finetune' and _terms_name(config.pretrain) == name:
    name += '_again'
  return Stage(
    section=section,
    name=name,
    objective=objective,
    epochs=fields.epochs,
    max_steps=fields.max_steps,
    learning_rate=fields.learning_rate,
    patience=fields.patience,
    pack=pack_of(config),
    **_optimizer(config),
  )


def _optimizer(config):
  """The fields of a `Stage` that `config.optimizer` sets."""
  fields = config.optimizer.to_dict()
  # A run of before there was a choice has no name.
  fast = FAST_PARAMETERS if config.model.feature_scale else ()
  return {
    'optimizer': fields.pop('name', 'adamw'),
    'fast_parameters': fast,
    **fields,
  }


def _terms_name(fields):
  return '_'.join(str(name) for name, *_ in fields.objective)


def _terms(section, parts, config):
  """The terms of `(name, weight, options)` parts, checked."""
  field = f'{section}.objective'
  terms = []
  for part in parts:
    try:
      name, weight, options = part
      terms.append(build_term(name, weight, options))
    except (TypeError, ValueError) as error:
      reason = str(error)
      if not reason.startswith('objective '):
        reason = (
          f'{part!r} is not (name, weight, options): write for example '
          "(('remax', 1.0, {}),)"
        )
      raise InputError(f'{field}: {reason}') from error
  objective = Objective(
    terms=tuple(terms),
    rollouts=Rollouts(**config.rollouts),
    dropout=config[section].dropout,
  )
  try:
    check_objective(objective, config.tokenizer.name)
  except ValueError as error:
    raise InputError(f'{section}.{error}') from error
  _check_head(field, objective, config)
  return objective.terms


def _check_head(field, objective, config):
  """Raises InputError unless an objective is one for the network's head."""
  names = [term.name for term in objective.terms]
  if config.text.rationale:
    for term in objective.terms:
      if term.level == 'grid' or 'critic' in term.requires.rollout:
        raise InputError(
          f'{field}: {term.name} does not go with text.rationale, after which '
          'numbers differ: take objectives of tokens or of sampled numbers'
        )
  levels, head = {term.level for term in objective.terms}, head_of(config)
  if (levels == {'point'}) == (head == 'pointwise') and (
    'point' not in levels or len(levels) == 1
  ):
    return
  if not has_table_head(config):
    raise InputError(
      f'{field}={names} does not fit language_model.head='
      f"{config.language_model.head!r}: mse needs a head, all others need ''"
    )
  raise InputError(
    f'{field}={names} does not fit model.head={head}: mse belongs to '
    'pointwise, all others to decoder, trie and histogram'
  )


def _enumeration(section, config):
  """How the grid level sees the tokenizer's numbers, within trie.max_nodes."""
  tokenizer, fields = build_tokenizer(config), config.trie
  nodes = trie.num_nodes(tokenizer)
  terms = [build_term(*part) for part in config[section].objective]
  if tokenizer.num_special and any(
    term.subset or (term.enumerates and nodes > fields.max_nodes)
    for term in terms
  ):
    raise InputError(
      f'{section}.objective looks at a part of the numbers, and tokenizer.'
      f'non_finite=tokens takes all of the {nodes} nodes: raise trie.max_nodes='
      f'{fields.max_nodes}, take fewer digits, and no subset'
    )
  if nodes <= fields.max_nodes:
    return Enumeration(depth=tokenizer.num_tokens)
  parts = [build_term(*part) for part in config[section].objective]
  if any(term.learnable for term in parts):
    raise InputError(
      f'{section}.objective trains every number of the tokenizer, and its trie '
      f'has {nodes} nodes, more than trie.max_nodes={fields.max_nodes}: raise '
      'it, or take fewer digits'
    )
  if fields.beyond == 'samples':
    # Fewer have no pair of samples to compare with a third.
    if config.rollouts.group_size < 3 and any(t.enumerates for t in parts):
      raise InputError(
        f'{section}.objective is estimated from rollouts.group_size='
        f'{config.rollouts.group_size} samples: set 3 or more'
      )
    return Enumeration(depth=0, samples=config.rollouts.group_size)
  if fields.beyond == 'prefix':
    depth = tokenizer.num_tokens - 1
    while depth and trie.num_nodes(tokenizer, depth + 1) > fields.max_nodes:
      depth -= 1
    return Enumeration(depth=depth)
  if any(term.enumerates for term in parts):
    model = config.model
    size = nodes * config.batch_size * model.num_layers
    size *= 4 * (10 * model.width + 2 * model.feedforward)
    raise InputError(
      f'{section}.objective enumerates the trie of tokenizer.'
      f'{config.tokenizer.name}: {nodes} nodes, about {size / 1e9:.1f} GB of '
      f'activations per seed, more than trie.max_nodes={fields.max_nodes}: '
      'raise it, or set trie.beyond=prefix or samples'
    )
  return Enumeration(depth=0, samples=config.rollouts.group_size)
