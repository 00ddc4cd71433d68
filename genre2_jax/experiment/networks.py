"""The model that a config describes, for the data at hand."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from genre2_jax import tokenizers
from genre2_jax.baselines import priors
from genre2_jax.data import targets
from genre2_jax.data.features import Features
from genre2_jax.data.subwords import (
  JudgeFeatures,
  SentenceFeatures,
  TextFeatures,
)
from genre2_jax.data.tables import Rows, Table
from genre2_jax.data.targets import AnyScaler
from genre2_jax.data.texts import TextRows, Texts
from genre2_jax.errors import InputError
from genre2_jax.experiment.fields import is_table
from genre2_jax.experiment.packs import pack_of
from genre2_jax.models import language_model, pack, products, sentence
from genre2_jax.models.encoders import edges_of, feature_embedding
from genre2_jax.models.heads import (
  histogram_policy,
  pointwise_head,
  trie_policy,
)
from genre2_jax.models.marginal import log_shares, marginal_policy
from genre2_jax.models.model import Form, Model
from genre2_jax.models.neighbours import Memory, neighbour_policy
from genre2_jax.models.prior import Blank, with_prior
from genre2_jax.models.sentence_policy import with_encoder
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.models.text_columns import TextColumns
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import (
  Objective,
  Rollouts,
  check_objective,
)
from genre2_jax.policy import trie
from genre2_jax.tokenizers import Tokenizer
from genre2_jax.tokenizers.codec import Bound, Codec, JointCodec
from genre2_jax.tokenizers.joint import of_parts, parts_of

# BERT's own rate, where the table's network has that or more.
_DROPOUT = 0.1


def with_numbers(
  config: ConfigDict, table: Table | Texts
) -> tuple[TextColumns | None, Table | Texts]:
  """What makes numbers of a table's text, fitted, and the table with them.

  None of a table without text.

  Raises:
    InputError: no such encoder, or a column without any text.
  """
  if not isinstance(table, Table) or not table.text_names:
    return None, table
  encoder = config.data.text_encoder
  prompts: tuple[str, ...] = ()
  if config.language_model.name and is_table(config):
    encoder = config.language_model.pretrained
    prompts = table.text_names
  return TextColumns.fit(
    table,
    encoder,
    prompts=prompts,
    is_pair=len(prompts) > 1,
    num_components=config.data.text_components,
    cache=config.text.cache,
  )


def build_model(
  config: ConfigDict, table: Table | Texts, texts: TextColumns | None = None
) -> Model:
  """The `Model` of a task, statistics from its training rows only.

  `table` and `texts` are those of `with_numbers`.
  """
  features: Features | TextFeatures
  if isinstance(table, Texts) and config.language_model.name == 'bert':
    encoder = _encoder(config)
    features = SentenceFeatures.fit_texts(
      table,
      config.language_model.pretrained,
      max_length=min(config.text.max_length, encoder.max_length),
      num_buckets=config.text.buckets,
    )
  elif isinstance(table, Texts):
    text = config.text
    language = config.language_model
    name = language.tokenizer or language.pretrained
    sizes = language_model.config_of(
      language.pretrained, language.preset, language.sizes
    )
    language_model.check_tokenizer(name, sizes)
    kind, own = TextFeatures, {}
    if text.rationale:
      kind = JudgeFeatures
      own = {name: text[name] for name in ('rationale', 'end', 'budget')}
    features = kind.fit(
      table,
      name,
      max_length=text.max_length,
      truncate=text.truncate,
      num_buckets=text.buckets,
      embedded=sizes.vocab_size,
      cache=text.cache,
      **own,
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
  names = table.target_names if isinstance(table, Table) else ()
  if names:
    check_several(config, len(names))
  else:
    target = target[np.isfinite(target)]
  scaler = targets.fit_all(config.data.transform, target, names)
  tokenizer = of_parts([build_tokenizer(config)] * max(1, len(names)))
  tokenizer = tokenizer.fitted(scaler.standardize(target))
  if config.model.prior:
    priors.check_name(config.model.prior)
  return model_of(
    config,
    features,
    scaler,
    tokenizer.numbers,
    memory=table.train,
    texts=texts,
  )


def features_from_json(data: Mapping[str, Any]) -> Features | TextFeatures:
  """The features that `to_json` of either kind wrote."""
  if 'second' in data:
    return SentenceFeatures.from_json(data)
  if 'rationale' in data:
    return JudgeFeatures.from_json(data)
  kind = TextFeatures if 'prompt' in data else Features
  return kind.from_json(data)


def model_of(
  config: ConfigDict,
  features: Features | TextFeatures,
  scaler: AnyScaler,
  numbers: Sequence[float] = (),
  *,
  memory: Rows | TextRows | int = 0,
  texts: TextColumns | None = None,
  is_weighted: bool = False,
) -> Model:
  """The `Model` of given statistics.

  Args:
    config: of the run.
    features: of its training rows.
    scaler: of their targets.
    numbers: that the tokenizer was fitted to, if it is one that is.
    memory: training rows, for a network that looks them up; their number where
      its parameters are there already.
    texts: what makes numbers of the text in rows, if there is any.
    is_weighted: whether rows whose number alone is given have weights.

  Returns:
    A `Model` whose prior, if it has one, is yet to be fitted.

  Raises:
    InputError: parts that do not fit together.
  """
  scalers = targets.parts_of(scaler)
  tokenizer = build_tokenizer(config)
  tokenizers = parts_of(
    of_parts([tokenizer] * len(scalers)).with_numbers(numbers)
  )
  model = config.model
  if len(scalers) > 1:
    check_several(config, len(scalers))
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
  is_mixable = isinstance(features, Features) and model.head != 'pointwise'
  for field, is_used in (
    ('head=trie', model.head == 'trie'),
    (f'neighbours={model.neighbours}', model.neighbours),
    ('marginal=True', model.marginal),
  ):
    if is_used and nodes > config.trie.max_nodes:
      raise InputError(
        f'model.{field} takes logits of {nodes} nodes, more than trie.'
        f'max_nodes={config.trie.max_nodes}: raise it, or take fewer digits'
      )
    if is_used and field != 'head=trie' and not is_mixable:
      raise InputError(
        f'model.{field} mixes distributions of tables: it goes neither with '
        'model.head=pointwise nor with texts'
      )
  codec = JointCodec.of(
    [
      Codec(own, z.low, z.high, z.mean, z.std, z.bounds)
      for own, z in zip(tokenizers, scalers, strict=True)
    ]
  )
  num_train = memory if isinstance(memory, int) else len(memory)
  if texts is not None:
    texts = dataclasses.replace(texts, cache=config.text.cache)
  plain = Model(
    features=features,
    scaler=scaler,
    codec=codec,
    network=_network(config, codec.tokenizer, features),
    looks_up=bool(model.neighbours),
    prior=Blank(tokenizer.num_sequences, num_train) if model.prior else None,
    texts=texts,
  )
  held = _held(config, plain, memory, is_weighted)
  return dataclasses.replace(
    plain,
    network=_mixed(config, plain.network, _columns(config, features), held),
    form=_form(config, plain, held),
    num_memory=0 if held.rows is None else len(held.rows.places),
  )


def check_several(config: ConfigDict, num_targets: int) -> None:
  """Raises InputError of what writes, or learns, one number alone."""
  model, several = config.model, f'there are {num_targets} targets'
  numbers = config.eval.rail_numbers
  for said, is_used, advice in (
    (
      f'model.head={model.head}',
      model.head != 'decoder',
      'take a decoder, as the recipes crps, ce and remax do',
    ),
    (f'model.neighbours={model.neighbours}', model.neighbours, 'set 0'),
    ('model.marginal=True', model.marginal, 'set False'),
    (f'model.prior={model.prior}', model.prior, 'leave it empty'),
    (f'eval.rail_numbers={numbers}', numbers, 'set 0'),
    (
      'tokenizer.non_finite=tokens',
      config.tokenizer.non_finite == 'tokens',
      'set refuse',
    ),
  ):
    if is_used:
      raise InputError(f'{said} is of one number, and {several}: {advice}')
  for section in map(str, config.stages):
    terms = [build_term(*part) for part in config[section].objective]
    try:
      check_objective(
        Objective(
          terms=tuple(terms),
          rollouts=Rollouts(**config.rollouts),
          dropout=config[section].dropout,
        ),
        config.tokenizer.name,
        num_targets,
      )
    except ValueError as error:
      raise InputError(f'{section}.{error}') from error


def build_tokenizer(config: ConfigDict) -> Tokenizer:
  """The tokenizer that `config.tokenizer` describes, not fitted to targets."""
  fields = config.tokenizer
  options = tokenizers.OPTIONS.get(fields.name, ())
  found = tokenizers.build(
    fields.name,
    base=fields.base,
    digits=fields.digits,
    **{name: fields[name] for name in options if name in fields},
  )
  if fields.non_finite == 'tokens':
    return tokenizers.NonFinite(found)
  return found


def faster_dtype(fields: Mapping[str, Any]) -> str:
  """`products.faster_dtype` of a network's widest layers.

  Args:
    fields: of a resolved config, nested.
  """
  model, tokenizer = fields['model'], fields['tokenizer']
  rows = fields['batch_size'] * fields['num_seeds']
  if model['head'] == 'decoder':
    sizes = model['width'], model['feedforward']
    rows *= tokenizer['digits']
  else:
    sizes = model['head_hidden'], model['head_hidden']
    rows *= model['ensemble_members']
  return products.faster_dtype(*sizes, rows)


class _Held(NamedTuple):
  """What a network's parameters hold of the training rows.

  Attributes:
    rows: that it looks up, or None.
    log_shares: of the numbers among their targets, [K], or None.
  """

  rows: Memory | None = None
  log_shares: Any = None


def _held(config, model, memory, is_weighted):
  """`_Held` of training rows, or of so many that are yet to be read."""
  fields = config.model
  if not (fields.neighbours or fields.marginal):
    return _Held()
  weight = None if isinstance(memory, int) else memory.weight
  if isinstance(memory, int):
    example = model.features.example_inputs()
    known = Memory.blank(example, memory, is_weighted)
    rows = known
  else:
    z = model.scaler.standardize(memory.known_target)
    places = model.codec.index(z).astype(np.int32)
    log_weight = None if weight is None else np.log(weight).astype(np.float32)
    known = Memory(model.own_inputs(memory), places, log_weight)
    rows = known.padded(fields.candidates)
  count = model.codec.tokenizer.num_sequences
  return _Held(
    rows=rows if fields.neighbours else None,
    log_shares=(
      log_shares(known.places, count, weight) if fields.marginal else None
    ),
  )


def _mixed(config, network, columns, held):
  """The network with what its distribution is mixed with."""
  members = pack_of(config)
  if held.rows is not None:
    network = neighbour_policy(
      network,
      held.rows,
      embedding=feature_embedding(**columns | {'scaled': False}),
      width=config.model.neighbours,
      candidates=config.model.candidates,
      is_own=members.varies('neighbours'),
    )
  if held.log_shares is not None:
    network = marginal_policy(
      network, held.log_shares, is_chosen=config.pack.chosen
    )
  if any(map(members.varies, pack.IN_NETWORKS)):
    network = network._replace(frozen=pack.frozen(network.frozen))
  return network


def _form(config, model, held):
  """The `Form` of a model, or None where its programs are its own."""
  features, numbers = model.features, model.codec.numbers()
  if not isinstance(features, Features) or numbers is None:
    return None
  if config.language_model.name:
    return None
  tokenizer, columns = build_tokenizer(config), _columns(config, features)
  if tokenizer.domain != 'unit' and _asks_for_subsets(config):
    return None  # Which tokens these have is read off the data.
  numbers = {'codec': numbers, 'edges': edges_of(features.quantiles)}
  columns['quantiles'] = tuple((0.0,) * len(q) for q in features.quantiles)
  key = (
    json.dumps(
      [config[name].to_dict() for name in ('model', 'tokenizer', 'pack')]
    ),
    *(columns[name] for name in ('cardinalities', 'quantiles', 'indicators')),
    tuple(sorted((k, x.shape) for k, x in model.example_inputs().items())),
    tuple(sorted(numbers['codec'])),
  )
  memory = held._replace(rows=held.rows and held.rows.as_dict())

  def build(numbers, memory=None):
    own = columns | {'edges': numbers['edges']}
    network = _of_table(config, tokenizer, own)
    if memory is None:
      memory = blank
    rows = memory.rows and Memory(**memory.rows)
    network = _mixed(config, network, own, memory._replace(rows=rows))
    return network, Bound.to(tokenizer, numbers['codec'])

  # To encode, a network wants to know only whether it has such parameters.
  blank = jax.tree.map(lambda x: np.array(x[:1]), memory)
  return Form(key, build, numbers, memory)


def _asks_for_subsets(config):
  """Whether evenly spaced numbers are scored, in training or evaluation."""
  terms = [
    build_term(*part)
    for section in (config.pretrain, config.finetune)
    for part in section.objective
  ]
  return bool(config.eval.rail_numbers or any(term.subset for term in terms))


def _columns(config, features):
  """What `feature_embedding` takes; {} of texts."""
  if not isinstance(features, Features):
    return {}
  fields = config.model
  chosen = (
    'numeric_embedding', 'category_embedding', 'num_frequencies',
    'frequency_scale', 'embedding_width',
  )  # fmt: skip
  return {
    'cardinalities': features.cardinalities,
    'quantiles': features.quantiles,
    'indicators': features.frequent(fields.least_category_rows),
    'scaled': fields.feature_scale,
    **{name: fields[name] for name in chosen},
  }


def _encoder(config):
  name = config.language_model.pretrained
  return sentence.read_encoder(name, 'language_model.pretrained')


def _network(config, tokenizer, features):
  if isinstance(features, SentenceFeatures):
    # Numbers of texts have no quantiles before the encoder is trained.
    base = _of_table(config, tokenizer, {'cardinalities': ()})
    encoder = dataclasses.replace(
      _encoder(config).module, dropout=min(config.model.dropout, _DROPOUT)
    )
    return with_encoder(base, encoder)
  if isinstance(features, TextFeatures):
    fields = _model_fields(config)
    return language_model.build(
      tokenizer,
      features,
      decoder=fields,
      **config.language_model.to_dict(),
    )
  return _of_table(config, tokenizer, _columns(config, features))


def _model_fields(config):
  fields = config.model.to_dict()
  if fields['compute_dtype'] == 'auto':  # Not measured, or not yet.
    fields['compute_dtype'] = 'float32'
  return fields


def _of_table(config, tokenizer, columns):
  """The network of tables' rows; `columns` as `_columns` gives them."""
  fields = _model_fields(config)
  head, members = config.model.head, pack_of(config)
  shared = {
    name: fields[name]
    for name in ('dropout', 'ensemble_members', 'compute_dtype')
  }
  shared |= columns
  if head == 'decoder':
    sizes = (
      'width', 'num_layers', 'num_heads', 'feedforward', 'encoder_hidden',
      'encoder_layers',
    )  # fmt: skip
    return tabular_policy(tokenizer, **shared, **{n: fields[n] for n in sizes})
  shared |= {
    'hidden': config.model.head_hidden,
    'num_layers': config.model.head_layers,
    'own_dropout': members.varies('dropout'),
  }
  if head == 'pointwise':
    return pointwise_head(**shared)
  if head == 'trie':
    has_prior = bool(config.model.prior)
    policy = trie_policy(tokenizer, **shared, starts_at_zero=has_prior)
    if has_prior:
      policy = with_prior(policy, is_own=members.varies('prior'))
    return policy
  return histogram_policy(tokenizer, **shared)
