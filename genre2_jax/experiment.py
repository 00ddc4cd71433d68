"""From a config to plain objects: the only reader of ConfigDict.

Everything that can be wrong with a config or its data is found here, before a
workdir is made.
"""

import csv
import dataclasses
import difflib
import importlib.metadata
import math
import pathlib
import platform
import shlex
import subprocess
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from genre2_jax import (
  optimizers,
  profiling,
  sharding,
  text_model,
  tokenizers,
  trie,
)
from genre2_jax.baselines import BASELINES
from genre2_jax.codec import Codec
from genre2_jax.data import (
  subwords,
  tables,
  talent,
  targets,
  text_sources,
  texts,
)
from genre2_jax.data.batches import Examples
from genre2_jax.data.columns import parse_kinds
from genre2_jax.data.features import Features
from genre2_jax.data.reading import Reading
from genre2_jax.data.subwords import TextFeatures
from genre2_jax.default_config import get_config
from genre2_jax.errors import InputError
from genre2_jax.models.gemma_head import HEADS
from genre2_jax.models.heads import histogram_policy, pointwise_head
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.objective import Enumeration, Objective, Rollouts
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.rewards import REWARDS
from genre2_jax.policy import Pointwise, Policy
from genre2_jax.stages import Stage

OFFICIAL_HYPERPARAMETERS = pathlib.Path(__file__).with_name(
  'genre2_hyperparameters.csv'
)
# Its columns -> config fields.
_OFFICIAL_FIELDS = {
  'base': 'tokenizer.base',
  'digits': 'tokenizer.digits',
  'd_model': 'model.width',
  'nhead': 'model.num_heads',
  'num_decoder_layers': 'model.num_layers',
  'dim_feedforward': 'model.feedforward',
  'hidden_dim': 'model.encoder_hidden',
  'dropout': 'model.dropout',
  'learning_rate': 'pretrain.learning_rate',
}
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """What turns rows into numbers, but for the parameters.

  Attributes:
    features: of the training rows, columns or prompts.
    scaler: of the training targets.
    codec: z-scores <-> tokens.
    network: the model.
  """

  features: Features | TextFeatures
  scaler: targets.Scaler
  codec: Codec
  network: Policy | Pointwise

  @property
  def widths(self):
    """That texts are padded to; () of tables."""
    return getattr(self.features, 'widths', ())

  def example_inputs(self):
    """Inputs of one row, all zero: for shapes."""
    return self.features.example_inputs()

  def examples(self, rows):
    """`Examples` of `tables.Rows`, or of `texts.TextRows`."""
    z = self.scaler.standardize(rows.target)
    return Examples(
      inputs=self.features.transform(rows),
      target=np.asarray(z, np.float32),
      tokens=self.codec.encode(z),
    )


def resolve(config):
  """The config with official hyperparameters filled in, values checked.

  Raises:
    InputError: a value that no run could use.
  """
  config = config.copy_and_resolve_references()
  if config.hyperparameters == 'official':
    official = _official(config.data.name)
    with config.unlocked():
      for column, field in _OFFICIAL_FIELDS.items():
        kind = type(_field(config, field))
        _set_field(config, field, kind(float(official[column])))
  else:
    _check_choice('hyperparameters', config.hyperparameters, ('config',))
  _check_values(config)
  return config


def with_defaults(saved):
  """A saved config, a dict, with the fields that came after it."""

  def overlaid(default, saved):
    for name, value in default.items():
      if isinstance(value, dict):
        saved[name] = overlaid(value, saved.get(name, {}))
      else:
        saved.setdefault(name, value)
    return saved

  return ConfigDict(overlaid(get_config().to_dict(), saved))


def read_table(config):
  """The task that `config.data` or `config.text` names."""
  if config.language_model.name:
    return _read_texts(config)
  data = config.data
  if data.path:
    table = tables.read_file(
      data.path,
      data.target,
      seed=config.seed,
      kinds=data.kinds,
      reading=data.reading,
    )
  elif data.openml:
    table = tables.load_openml(
      data.openml, data.target, seed=config.seed, kinds=data.kinds
    )
  elif data.root:
    table = talent.load(data.root, data.name)
  else:
    table = tables.load_sklearn(data.name, seed=config.seed, kinds=data.kinds)
  return table


def _read_texts(config):
  text = config.text
  choice = texts.Choice(
    prompt=text.prompt,
    target=text.target,
    seed=config.seed,
    max_rows=tuple(text.max_rows),
    drop_empty=text.drop_empty,
    split_column=text.split_column,
    reading=Reading.parse(config.data.reading),
  )
  if text.source == 'tfds':
    return text_sources.load_tfds(
      text.path, tuple(text.tfds_splits), choice, data_dir=text.tfds_folder
    )
  if text.source == 'movielens':
    return text_sources.load_movielens(text.path, choice)
  if text.source == 'synthetic':
    return text_sources.synthetic(choice)
  return texts.read(text.path, choice)


def read_rows(run, path):
  """Rows of a file for a finished run to predict."""
  features = run.model.features
  if isinstance(features, TextFeatures):
    return texts.read_rows(
      path,
      prompt=features.prompt,
      target_name=run.target_name,
      reading=run.config.data.reading,
    )
  rows = tables.read_rows(
    path,
    numeric_names=features.numeric_names,
    category_names=features.category_names,
    target_name=run.target_name,
    kinds=features.kinds,
    by_hand=run.config.data.kinds,
    reading=run.config.data.reading,
  )
  features.say_unseen(rows, str(path))
  return rows


def describe(table, model):
  """What a user should know of a task before it is learnt, as text."""
  lines = []
  if isinstance(table, texts.Texts):
    lines.append(texts.describe(table))
    widths = ', '.join(map(str, model.features.widths))
    lines.append(f'padded to {widths} subwords')
  else:
    lines.append(tables.describe(table))
    for split in ('val', 'test'):
      unseen = model.features.unseen(getattr(table, split))
      lines += [f'{split}: {line}' for line in unseen[:8]]
  if model.scaler.is_constant:
    lines.append(
      'The target is constant: the model can only learn to repeat it.'
    )
  lines += _out_of_reach(table, model.codec.tokenizer)
  return '\n'.join(lines)


def _out_of_reach(table, tokenizer):
  """What numbers in the target's own unit cannot say of its targets."""
  if tokenizer.domain != 'natural':
    return []
  least, most = tokenizer.range
  target = table.train.target
  count = int(((target < least) | (target > most)).sum())
  if not count:
    return []
  return [
    f'{count} of {len(target)} train targets lie outside of {least:g} .. '
    f'{most:g}, what the tokenizer writes: CE writes its nearest end, no mean '
    'of its numbers (RAFT, RAIL) goes beyond it; learnable RAFT can.'
  ]


def build_model(config, table):
  """The `Model` of a task, statistics from its training rows only."""
  if isinstance(table, texts.Texts):
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
    )
  scaler = targets.fit(config.data.transform, table.train.target)
  return model_of(config, features, scaler)


def features_from_json(data):
  """The features that `to_json` of either kind wrote."""
  kind = TextFeatures if 'prompt' in data else Features
  return kind.from_json(data)


def model_of(config, features, scaler):
  """The `Model` of given statistics."""
  tokenizer = build_tokenizer(config)
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
  return Model(
    features=features,
    scaler=scaler,
    codec=Codec(tokenizer, scaler.low, scaler.high, scaler.mean, scaler.std),
    network=_network(config, tokenizer, features),
  )


def build_tokenizer(config):
  """The tokenizer that `config.tokenizer` describes."""
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
    return text_model.build(
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
  }
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
  return histogram_policy(tokenizer, **fields)


def evaluation_options(config, model):
  """What `evaluate.predictor` is asked for."""
  return {
    'num_samples': config.eval.num_samples,
    'temperature': config.eval.temperature,
    'exact': _is_enumerable(config, model),
    'rail_numbers': config.eval.rail_numbers,
  }


def _is_enumerable(config, model):
  """Whether the whole distribution is to be evaluated exactly."""
  tokenizer = model.codec.tokenizer
  return (
    not isinstance(model.network, Pointwise)
    and trie.num_nodes(tokenizer) <= config.trie.max_nodes
    and bool(np.isfinite(model.codec.values()).all())
  )


def all_stages(config):
  """Every stage that the config's runs go through, 'pretrain' elsewhere too."""
  # Without 'finetune' its objective need not fit the model.
  sections = ('pretrain', 'finetune')[: 1 + ('finetune' in config.stages)]
  return [_stage(section, config) for section in sections]


def build_stages(config):
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
  has_weights = config.init_from or config.language_model.pretrained
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
    **_optimizer(config),
  )


def _optimizer(config):
  """The fields of a `Stage` that `config.optimizer` sets."""
  fields = config.optimizer.to_dict()
  # A run of before there was a choice has no name.
  return {'optimizer': fields.pop('name', 'adamw'), **fields}


def _terms_name(fields):
  return '_'.join(str(name) for name, *_ in fields.objective)


def _terms(section, parts, config):
  """The terms of `(name, weight, options)` parts, checked against the model."""
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
  names = [term.name for term in terms]
  if not terms or len(set(names)) < len(names):
    raise InputError(
      f'{field}={names}: give every objective once, at least one'
    )
  levels, head = {term.level for term in terms}, config.model.head
  if config.language_model.name:
    head = 'pointwise' if config.language_model.head else 'decoder'
  if (levels == {'point'}) != (head == 'pointwise') or (
    'point' in levels and len(levels) > 1
  ):
    if config.language_model.name:
      raise InputError(
        f'{field}={names} does not fit language_model.head='
        f'{config.language_model.head!r}: mse belongs to a head, all others to '
        "''"
      )
    raise InputError(
      f'{field}={names} does not fit model.head={head}: mse belongs to '
      'pointwise, all others to decoder and histogram'
    )
  if 'soft_ce' in names and config.tokenizer.name != 'bins':
    raise InputError(f'{field}: soft_ce needs tokenizer.name=bins')
  if names == ['kl']:
    raise InputError(f'{field}: kl alone keeps the weights as they are')
  unrewarded = sorted({'dar', 'real'} & set(names))
  if unrewarded and config.rollouts.num_updates > 1:
    raise InputError(
      f'rollouts.num_updates must be 1 with {unrewarded[0]}: it has no ratio'
    )
  in_reward = any(getattr(t.loss, 'in_reward', False) for t in terms)
  if in_reward and set(names) <= {'kl', 'dar', 'real', 'expert'}:
    raise InputError(
      f'{field}: kl with estimator k1 is taken from a reward, and none of '
      f'{", ".join(names)} looks at one: use k2 or k3'
    )
  group_size = config.rollouts.group_size
  for name, least in (('rloo', 2), ('real', 2), ('dar', 3)):
    if name in names and group_size < least:
      raise InputError(
        f'objective {name} needs rollouts.group_size of {least} or more'
      )
  if 'sequence' in levels and config[section].dropout:
    raise InputError(
      f'{section}.dropout must be False with {", ".join(names)}: numbers are '
      'sampled and scored without it'
    )
  return tuple(terms)


def _enumeration(section, config):
  """How the grid level sees the tokenizer's numbers, within trie.max_nodes."""
  tokenizer, fields = build_tokenizer(config), config.trie
  nodes = trie.num_nodes(tokenizer)
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
    return Enumeration(depth=0, samples=config.rollouts.group_size)
  if fields.beyond == 'prefix':
    depth = tokenizer.num_tokens - 1
    while depth and trie.num_nodes(tokenizer, depth + 1) > fields.max_nodes:
      depth -= 1
    return Enumeration(depth=depth)
  if any(term.level == 'grid' and not term.subset for term in parts):
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


def build_mesh(config):
  """The device mesh, checked against the batch sizes and the seeds."""
  mesh = sharding.make_mesh(config.mesh)
  check_mesh(config, mesh)
  return mesh


def check_mesh(config, mesh):
  """Raises InputError unless batches and seeds split over the mesh."""
  rows = sharding.ROW_AXES
  if not _groups_split(config, mesh):
    sharding.check_divides(mesh, 'batch_size', config.batch_size, *rows)
    micro_batch = config.batch_size // config.optimizer.accumulation
    sharding.check_divides(
      mesh, 'batch_size / optimizer.accumulation', micro_batch, *rows
    )
  sharding.check_divides(mesh, 'eval.batch_size', config.eval.batch_size, *rows)
  sharding.check_divides(mesh, 'num_seeds', config.num_seeds, 'replica')
  if config.model.head == 'decoder' and not config.language_model.name:
    heads = config.model.num_heads
    sharding.check_divides(mesh, 'model.num_heads', heads, 'model')


def _groups_split(config, mesh):
  """Whether samples go where there are too few rows for the mesh."""
  terms = [build_term(*part) for part in config.finetune.objective]
  if 'finetune' not in config.stages or all(
    term.level != 'sequence' for term in terms
  ):
    return False
  group_size = config.rollouts.group_size
  num_rows = config.batch_size // config.optimizer.accumulation
  axes = dict(sharding.row_rules(mesh, num_rows, group_size))['group']
  return group_size % math.prod(mesh.shape[a] for a in axes or ()) == 0


def environment(mesh):
  """What a run ran on: versions, commit, devices, mesh, command."""
  devices = jax.devices()
  return {
    'command': shlex.join(['python', '-m', 'genre2_jax.main', *sys.argv[1:]]),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
    'git_commit': _git_commit(),
    'platform': platform.platform(),
    'processor': _processor(),
    'device_kind': devices[0].device_kind,
    'num_devices': len(devices),
    'num_processes': jax.process_count(),
    'mesh': dict(mesh.shape),
  }


def summary(environment):
  """`environment` and memory in one line."""
  e = environment
  sizes = [f'{axis} {size}' for axis, size in e['mesh'].items() if size > 1]
  memory = e['device_memory'] and f' with {e["device_memory"]}'
  memory = memory or (e['host_memory'] and f', host with {e["host_memory"]}')
  return (
    f'{e["num_devices"]} x {e["device_kind"]}{memory}, '
    f'{e["num_processes"]} process(es), mesh {", ".join(sizes) or "of one"}'
  )


def _official(name):
  with open(OFFICIAL_HYPERPARAMETERS, encoding='utf-8') as file:
    rows = {row['dataset']: row for row in csv.DictReader(file)}
  if name not in rows:
    near = tables.suggestion(name, list(rows))
    raise InputError(
      f'hyperparameters=official knows no task {name!r}{near}: set data.name '
      'to one of the 100 tasks in genre2_jax/genre2_hyperparameters.csv'
    )
  return rows[name]


def _check_values(config):
  positive = (
    'num_seeds', 'batch_size', 'model.width', 'model.num_layers',
    'model.num_heads', 'model.feedforward', 'model.encoder_hidden',
    'model.head_hidden', 'model.num_frequencies', 'model.frequency_scale',
    'model.embedding_width', 'model.ensemble_members',
    'pretrain.learning_rate', 'finetune.learning_rate', 'rollouts.group_size',
    'rollouts.temperature', 'rollouts.num_updates', 'trie.max_nodes',
    'eval.num_samples', 'eval.temperature', 'eval.batch_size',
    'checkpoint.keep', 'optimizer.accumulation', 'text.max_length',
    'text.buckets',
  )  # fmt: skip
  not_negative = (
    'seed', 'model.encoder_layers', 'model.head_layers', 'model.dropout',
    'pretrain.epochs', 'finetune.epochs', 'pretrain.max_steps',
    'finetune.max_steps', 'pretrain.patience', 'finetune.patience',
    'optimizer.warmup_steps', 'optimizer.weight_decay',
    'optimizer.max_grad_norm', 'checkpoint.every_seconds',
    'steps_per_dispatch', 'baseline.trials', 'eval.rail_numbers',
  )  # fmt: skip
  for field in positive:
    if not _field(config, field) > 0:
      raise InputError(f'{field}={_field(config, field)} must be positive')
  for field in not_negative:
    if not _field(config, field) >= 0:
      raise InputError(f'{field}={_field(config, field)} must not be negative')
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
    ('trie.beyond', ('error', 'prefix', 'samples')),
    ('model.head', ('decoder', 'histogram', 'pointwise')),
    ('model.numeric_embedding', ('none', 'piecewise_linear', 'periodic')),
    ('model.category_embedding', ('ordinal', 'one_hot', 'learned')),
    ('baseline.name', ('', *BASELINES)),
    ('data.transform', targets.TRANSFORMS),
    ('text.source', ('files', 'tfds', 'movielens', 'synthetic')),
    ('text.truncate', subwords.TRUNCATE),
    ('language_model.name', ('', *text_model.NAMES)),
    ('language_model.preset', text_model.PRESETS),
    ('language_model.head', ('', *HEADS)),
    ('language_model.attention', ('causal', 'bidirectional')),
    ('language_model.vocabulary', ('numbers', 'all')),
    ('language_model.new_tokens', ('', 'zero', 'first', 'average')),
    ('language_model.compute_dtype', text_model.DTYPES),
    ('language_model.param_dtype', text_model.DTYPES),
    ('optimizer.name', optimizers.NAMES),
    ('optimizer.schedule', optimizers.SCHEDULES),
  ):
    _check_choice(field, _field(config, field), choices)
  profiling.parse_steps(config.profile.steps)
  parse_kinds(config.data.kinds)
  Reading.parse(config.data.reading)

  _check_text(config)


def _check_text(config):
  language, text = config.language_model, config.text
  if not language.name:
    if text.prompt or text.path or language.pretrained:
      raise InputError(
        'text and language_model are set but language_model.name is empty: '
        f'give one of {", ".join(text_model.NAMES)}'
      )
    if not config.stages:
      raise InputError('stages=() evaluates language models only')
    return
  if config.baseline.name:
    raise InputError(
      f'baseline.name={config.baseline.name} reads tables, not texts: leave '
      'language_model.name empty'
    )
  if not (language.tokenizer or language.pretrained):
    raise InputError(
      'texts need a tokenizer: set language_model.pretrained or '
      'language_model.tokenizer to a folder, or a name on the Hugging Face hub'
    )
  for field in ('prompt', 'target', 'path'):
    if not text[field] and not (field == 'path' and text.source == 'synthetic'):
      raise InputError(f'text.{field} is empty: the task needs one')
  texts.fields_of(text.prompt)
  sizes = text.max_rows
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


def _check_choice(field, value, choices):
  if value not in choices:
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise InputError(
      f'{field}={value!r} is not one of {", ".join(choices)}{hint}'
    )


def _field(config, dotted):
  for part in dotted.split('.'):
    config = config[part]
  return config


def _set_field(config, dotted, value):
  *parents, last = dotted.split('.')
  for part in parents:
    config = config[part]
  config[last] = value


def _git_commit():
  folder = pathlib.Path(__file__).parent
  try:
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=12'],
      cwd=folder, capture_output=True, text=True, timeout=10, check=True,
    ).stdout.strip()  # fmt: skip
  except (OSError, subprocess.SubprocessError):
    return 'unknown'


def _processor():
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except OSError:
    return platform.processor()
  names = [line for line in text.splitlines() if line.startswith('model name')]
  return f'{names[0].partition(":")[2].strip()} x {len(names)}' if names else ''
