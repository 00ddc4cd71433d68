"""The model that a config describes, for the data at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from genre2_jax import tokenizers
from genre2_jax.data import targets
from genre2_jax.data.features import Features
from genre2_jax.data.subwords import TextFeatures
from genre2_jax.data.tables import Table
from genre2_jax.data.targets import Scaler
from genre2_jax.data.texts import Texts
from genre2_jax.errors import InputError
from genre2_jax.models import language_model
from genre2_jax.models.heads import (
  histogram_policy,
  pointwise_head,
  trie_policy,
)
from genre2_jax.models.model import Model
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.policy import trie
from genre2_jax.tokenizers import Tokenizer
from genre2_jax.tokenizers.codec import Codec


def build_model(config: ConfigDict, table: Table | Texts) -> Model:
  """The `Model` of a task, statistics from its training rows only."""
  features: Features | TextFeatures
  if isinstance(table, Texts):
    text = config.text
    language = config.language_model
    features = TextFeatures.fit(
      table,
      language.tokenizer or language.pretrained,
      max_length=text.max_length,
      truncate=text.truncate,
      num_buckets=text.buckets,
      cache=text.cache,
    )
  else:
    features = Features.fit(
      table.train,
      table.numeric_names,
      table.category_names,
      kinds=table.kinds,
      with_ranks=config.model.rank_features,
      with_missing=config.model.missing_features,
    )
  target = table.train.known_target
  scaler = targets.fit(config.data.transform, target)
  tokenizer = build_tokenizer(config).fitted(scaler.standardize(target))
  return model_of(config, features, scaler, tokenizer.numbers)


def features_from_json(data: Mapping[str, Any]) -> Features | TextFeatures:
  """The features that `to_json` of either kind wrote."""
  kind = TextFeatures if 'prompt' in data else Features
  return kind.from_json(data)


def model_of(
  config: ConfigDict,
  features: Features | TextFeatures,
  scaler: Scaler,
  numbers: Sequence[float] = (),
) -> Model:
  """The `Model` of given statistics.

  Args:
    config: of the run.
    features: of its training rows.
    scaler: of their targets.
    numbers: that the tokenizer was fitted to, if it is one that is.

  Raises:
    InputError: parts that do not fit together.
  """
  tokenizer = build_tokenizer(config).with_numbers(numbers)
  model = config.model
  if tokenizer.domain == 'natural' and not scaler.is_linear:
    raise InputError(
      f'tokenizer.name={config.tokenizer.name} writes the target in its own '
      f'unit: data.transform={config.data.transform} needs another tokenizer'
    )
  if model.width % model.num_heads:
    raise InputError(
      f'model.width={model.width} does not divide by '
      f'model.num_heads={model.num_heads}: change either'
    )
  if model.head == 'histogram' and tokenizer.num_tokens > 1:
    raise InputError(
      'model.head=histogram writes one token: set tokenizer.name=bins'
    )
  nodes = trie.num_nodes(tokenizer)
  if model.head == 'trie' and nodes > config.trie.max_nodes:
    raise InputError(
      f'model.head=trie gives logits of {nodes} nodes, more than '
      f'trie.max_nodes={config.trie.max_nodes}: raise it, or take fewer digits'
    )
  return Model(
    features=features,
    scaler=scaler,
    codec=Codec(
      tokenizer, scaler.low, scaler.high, scaler.mean, scaler.std, scaler.bounds
    ),
    network=_network(config, tokenizer, features),
  )


def build_tokenizer(config: ConfigDict) -> Tokenizer:
  """The tokenizer that `config.tokenizer` describes, not fitted to targets."""
  fields = config.tokenizer
  options = tokenizers.OPTIONS.get(fields.name, ())
  return tokenizers.build(
    fields.name,
    base=fields.base,
    digits=fields.digits,
    **{name: fields[name] for name in options if name in fields},
  )


def _network(config, tokenizer, features):
  fields = config.model.to_dict()
  if isinstance(features, TextFeatures):
    return language_model.build(
      tokenizer,
      features,
      decoder=fields,
      **config.language_model.to_dict(),
    )
  head = fields.pop('head')
  hidden, layers = fields.pop('head_hidden'), fields.pop('head_layers')
  fields |= {
    'cardinalities': features.cardinalities,
    'quantiles': features.quantiles,
    'indicators': features.frequent(fields.pop('least_category_rows')),
    'scaled': fields.pop('feature_scale'),
  }
  for name in ('rank_features', 'missing_features'):
    fields.pop(name)  # What the features are fitted with.
  if head == 'decoder':
    return tabular_policy(tokenizer, **fields)
  for name in (
    'width', 'num_layers', 'num_heads', 'feedforward', 'encoder_hidden',
    'encoder_layers',
  ):  # fmt: skip
    fields.pop(name)
  fields |= {'hidden': hidden, 'num_layers': layers}
  if head == 'pointwise':
    return pointwise_head(**fields)
  if head == 'trie':
    return trie_policy(tokenizer, **fields)
  return histogram_policy(tokenizer, **fields)
