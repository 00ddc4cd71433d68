"""Values that no run could use, found before anything is read or written."""

import sys
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from genre2_jax.baselines import distributions, priors
from genre2_jax.baselines.catalog import BASELINES
from genre2_jax.data import prompts, subwords, targets
from genre2_jax.data.columns import parse_kinds, parse_names
from genre2_jax.data.reading import Reading
from genre2_jax.devices import profiling
from genre2_jax.errors import InputError, near_hint, shortened
from genre2_jax.experiment.defaults import value_of
from genre2_jax.experiment.fields import is_table
from genre2_jax.experiment.packs import check_pack
from genre2_jax.models import language_model, products
from genre2_jax.models.gemma.head import ACTIVATIONS, HEADS
from genre2_jax.objectives.rewards import REWARDS
from genre2_jax.training import optimizers


def check_values(config: ConfigDict) -> None:
  """Raises InputError where a value is out of its range or choices."""
  positive = (
    'num_seeds', 'batch_size', 'model.width', 'model.num_layers',
    'model.num_heads', 'model.feedforward', 'model.encoder_hidden',
    'model.head_hidden', 'model.num_frequencies', 'model.frequency_scale',
    'model.embedding_width', 'model.ensemble_members', 'model.candidates',
    'pretrain.learning_rate', 'finetune.learning_rate', 'rollouts.group_size',
    'rollouts.temperature', 'rollouts.num_updates', 'trie.max_nodes',
    'eval.num_samples', 'eval.temperature', 'eval.batch_size',
    'eval.num_conditionals',
    'checkpoint.keep', 'optimizer.accumulation', 'text.max_length',
    'text.buckets', 'text.budget', 'device_share',
  )  # fmt: skip
  not_negative = (
    'seed', 'max_seconds', 'data.max_train_rows', 'data.text_components',
    'model.encoder_layers',
    'model.head_layers', 'model.dropout', 'model.least_category_rows',
    'model.neighbours', 'pretrain.epochs', 'finetune.epochs',
    'pretrain.max_steps', 'finetune.max_steps', 'pretrain.patience',
    'finetune.patience', 'optimizer.warmup_steps', 'optimizer.weight_decay',
    'optimizer.max_grad_norm', 'checkpoint.every_seconds',
    'steps_per_dispatch', 'baseline.trials', 'eval.rail_numbers',
    'language_model.attention_block', 'text.history',
  )  # fmt: skip
  for field in positive:
    if not value_of(config, field) > 0:
      raise InputError(f'{field}={value_of(config, field)} must be positive')
  for field in not_negative:
    if not value_of(config, field) >= 0:
      raise InputError(
        f'{field}={value_of(config, field)} must not be negative'
      )
  if config.seed + config.num_seeds > 2**32:
    raise InputError(f'seed={config.seed} must be below 2^32 - num_seeds')
  if config.batch_size % config.optimizer.accumulation:
    raise InputError(
      f'optimizer.accumulation={config.optimizer.accumulation} does not '
      f'divide batch_size={config.batch_size}: choose a divisor of it'
    )
  if config.model.dropout >= 1:
    raise InputError(f'model.dropout={config.model.dropout} must be below 1')
  for field, choices in (
    ('rollouts.reward', REWARDS),
    ('rollouts.credit', ('all', 'later')),
    ('trie.beyond', ('error', 'prefix', 'samples')),
    ('model.head', ('decoder', 'trie', 'histogram', 'pointwise')),
    ('model.compute_dtype', (*products.DTYPES, 'auto')),
    ('model.numeric_embedding', ('none', 'piecewise_linear', 'periodic')),
    ('model.category_embedding', ('ordinal', 'one_hot', 'learned')),
    ('model.prior', ('', *priors.NAMES)),
    ('baseline.name', ('', *BASELINES)),
    ('data.transform', targets.TRANSFORMS),
    ('tokenizer.non_finite', ('refuse', 'tokens')),
    ('text.source', ('files', 'tfds', 'movielens', 'synthetic')),
    ('text.truncate', subwords.TRUNCATE),
    ('language_model.name', ('', *language_model.NAMES)),
    ('language_model.preset', language_model.PRESETS),
    ('language_model.head', ('', *HEADS)),
    ('language_model.head_activation', tuple(ACTIVATIONS)),
    ('language_model.attention', ('causal', 'bidirectional')),
    ('language_model.vocabulary', ('numbers', 'all')),
    ('language_model.new_tokens', ('', 'zero', 'first', 'average')),
    ('language_model.compute_dtype', language_model.DTYPES),
    ('language_model.param_dtype', language_model.DTYPES),
    ('optimizer.name', optimizers.NAMES),
    ('optimizer.schedule', optimizers.SCHEDULES),
  ):
    check_choice(field, value_of(config, field), choices)
  check_pack(config)
  if config.model.prior:
    for field, wanted in (
      ('model.head', 'trie'), ('language_model.name', ''), ('baseline.name', '')
    ):  # fmt: skip
      if value_of(config, field) != wanted:
        raise InputError(
          f'model.prior={config.model.prior} is what the logits of a table '
          f'start from: set {field}={wanted!r}'
        )
  if config.baseline.trials and config.baseline.name in distributions.NAMES:
    raise InputError(
      f'baseline.trials={config.baseline.trials} searches baselines of one '
      f'number, baseline.name={config.baseline.name} is a distribution: leave '
      'it 0'
    )
  _check_non_finite(config)
  profiling.parse_steps(config.profile.steps)
  parse_kinds(config.data.kinds)
  Reading.parse(config.data.reading)

  _check_text_columns(config.data)
  _check_text(config)


def _check_non_finite(config):
  """Raises InputError where what is no number would have no probability."""
  if config.tokenizer.non_finite == 'refuse':
    return
  baseline = config.baseline.name
  for field, wanted, is_wrong in (
    ('model.head', "other than 'pointwise'", config.model.head == 'pointwise'),
    ('model.prior', "''", bool(config.model.prior)),
    ('language_model.head', "''", bool(config.language_model.head)),
    (
      'language_model.vocabulary',
      "'numbers'",
      config.language_model.vocabulary != 'numbers',
    ),
    ('eval.rail_numbers', '0', bool(config.eval.rail_numbers)),
    ('baseline.name', "a baseline of one number, or ''",
     baseline in distributions.NAMES),
  ):  # fmt: skip
    if is_wrong:
      raise InputError(
        f'tokenizer.non_finite=tokens: {field}={value_of(config, field)!r} '
        f'says nothing of what is no number; set it to {wanted}'
      )


def _check_text_columns(data):
  names = parse_names('data.text_columns', data.text_columns)
  if bool(names) != bool(data.text_encoder):
    has, lacks = 'text_columns', 'text_encoder'
    if not names:
      has, lacks = lacks, has
    raise InputError(
      f'data.{has}={data[has]!r} without data.{lacks}: free text needs the '
      'names of its columns, and the folder or name of a sentence encoder'
    )
  if names and not (data.path or data.openml or not data.name):
    raise InputError(
      'data.text_columns are those of a file (data.path) or of OpenML'
    )


def _check_text(config):
  language, text = config.language_model, config.text
  if text.second and language.name != 'bert':
    raise InputError(
      'text.second is for language_model.name=bert, which reads pairs: write '
      'both texts into text.prompt'
    )
  if text.rationale:
    _check_judge(config)
  if not language.name:
    if text.prompt or text.path or language.pretrained:
      raise InputError(
        'text and language_model are set but language_model.name is empty: '
        f'give one of {", ".join(language_model.NAMES)}'
      )
    if not config.stages:
      raise InputError('stages=() evaluates language models only')
    return
  if config.baseline.name and not is_table(config):
    raise InputError(
      f'baseline.name={config.baseline.name} reads tables, not texts: leave '
      'language_model.name empty'
    )
  if language.name == 'bert':
    _check_bert(language)
    if not language.frozen and config.model.numeric_embedding != 'none':
      raise InputError(
        f'model.numeric_embedding={config.model.numeric_embedding} is of '
        'columns: an encoder that is trained has none, leave it none'
      )
  elif not (language.tokenizer or language.pretrained):
    raise InputError(
      'texts need a tokenizer: set language_model.pretrained or '
      'language_model.tokenizer to a folder, or a name on the Hugging Face hub'
    )
  for field in ('prompt', 'target', 'path'):
    if not text[field] and not (field == 'path' and text.source == 'synthetic'):
      raise InputError(f'text.{field} is empty: the task needs one')
  for prompt in filter(None, (text.prompt, text.second)):
    prompts.fields_of(prompt)
  sizes = text.max_rows
  if config.data.max_train_rows:
    raise InputError(
      f'data.max_train_rows={config.data.max_train_rows} is of tables: set '
      'text.max_rows'
    )
  if len(sizes) != 3 or not all(type(n) is int and n >= 0 for n in sizes):
    raise InputError(
      f'text.max_rows={sizes!r}: give three numbers, for train, val and test'
    )
  drawn = [f'sizes.{k}' for k, v in language.sizes.items() if v]
  if language.pretrained and drawn:
    raise InputError(
      f'language_model.{drawn[0]} is for weights that are drawn: leave it 0 '
      'with language_model.pretrained'
    )


def _check_judge(config):
  """Raises InputError of what does not go with text before the number."""
  prompts.fields_of(config.text.rationale, 'text.rationale')
  wanted: tuple[tuple[str, tuple], ...] = (
    ('language_model.name', ('gemma', 'gemma2')),
    ('language_model.head', ('',)),
    ('eval.rail_numbers', (0,)),
    ('baseline.name', ('',)),
  )
  for field, values in wanted:
    if value_of(config, field) not in values:
      raise InputError(
        f'text.rationale is written by a language model, and then a number: '
        f'set {field}={values[0]!r}'
      )


def _check_bert(language):
  """Raises InputError of options that a sentence encoder does not have."""
  if not language.pretrained:
    raise InputError(
      'language_model.name=bert needs language_model.pretrained: the folder of '
      'a sentence encoder, or its name on the Hugging Face hub'
    )
  for field, value, only in (
    ('tokenizer', language.tokenizer, ''),
    ('head', language.head, ''),
    ('new_tokens', language.new_tokens, ''),
    ('lora.rank', language.lora.rank, 0),
  ):
    if value != only:
      raise InputError(
        f'language_model.{field}={value!r} is not for bert: leave it {only!r}'
      )


def check_types(
  fields: Mapping[str, Any], defaults: Mapping[str, Any], where: str
) -> None:
  """Raises InputError where a saved field has another type than its default.

  Args:
    fields: nested, as JSON has them; other names than the defaults' may be.
    defaults: nested.
    where: begins the message, and the field's dotted name ends it.
  """
  for name, value in fields.items():
    if name not in defaults:
      continue
    default, dotted = defaults[name], f'{where}{name}'
    if not _is_like(value, default):
      kind = _KINDS.get(type(default), 'a list like ' + repr(default))
      raise InputError(
        f'{dotted} is {shortened(repr(value))}, which is not {kind}: restore '
        'the file, or train again'
      )
    if isinstance(default, Mapping):
      check_types(value, default, f'{dotted}.')


_KINDS = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a finite number',
  str: 'text',
  dict: 'a section',
}


def _is_like(value, default):
  """Whether JSON holds what the default could have been."""
  match default:
    case bool() | str():
      return type(value) is type(default)
    case int():
      return type(value) is int and abs(value) < 2**63
    case float():
      return type(value) in (int, float) and abs(value) <= sys.float_info.max
    case dict():
      return isinstance(value, Mapping)
  if not isinstance(value, list | tuple):
    return False
  if default and isinstance(default[0], tuple):  # An objective.
    return bool(value) and all(
      isinstance(part, list | tuple)
      and len(part) == 3
      and all(map(_is_like, part, ('', 0.0, {})))
      for part in value
    )
  return all(type(part) is type(default[0]) for part in value)


def check_choice(field: str, value: Any, choices: Collection[str]) -> None:
  """Raises InputError unless a field is one of its choices."""
  if value not in choices:
    raise InputError(
      f'{field}={value!r} is not one of {", ".join(choices)}'
      f'{near_hint(value, choices)}'
    )
