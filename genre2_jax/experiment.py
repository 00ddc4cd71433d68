"""From a config to plain objects: the only reader of ConfigDict.

Everything that can be wrong with a config or its data is found here, before a
workdir is made.
"""

import csv
import dataclasses
import difflib
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys

import jax
import numpy as np

from genre2_jax import sharding, tokenizers
from genre2_jax.codec import Codec
from genre2_jax.data import tables, talent
from genre2_jax.data.batches import Examples
from genre2_jax.data.features import Features, TargetScaler
from genre2_jax.errors import InputError
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.objectives.advantages import ADVANTAGES
from genre2_jax.objectives.policy_gradient import KL_ESTIMATORS
from genre2_jax.objectives.rewards import REWARDS
from genre2_jax.policy import Policy
from genre2_jax.stages import Stage
from genre2_jax.steps import SequenceObjective

OFFICIAL_HYPERPARAMETERS = (
  pathlib.Path(__file__).parent.parent / 'configs/genre2_hyperparameters.csv'
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
  'learning_rate': 'ce.learning_rate',
}
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """What turns rows into numbers, but for the parameters.

  Attributes:
    features: of the training rows.
    scaler: of the training targets.
    codec: z-scores <-> tokens.
    policy: the model.
  """

  features: Features
  scaler: TargetScaler
  codec: Codec
  policy: Policy

  def example_inputs(self):
    """Inputs of one row, all zero: for shapes."""
    return {
      'numeric': np.zeros((1, len(self.features.numeric_names)), np.float32),
      'categories': np.zeros((1, len(self.features.category_names)), np.int32),
    }

  def examples(self, rows):
    """`Examples` of `tables.Rows`."""
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


def read_table(config):
  """The table that `config.data` names; prints the types it inferred."""
  data = config.data
  if data.path:
    table = tables.read_file(data.path, data.target, seed=config.seed)
  elif data.openml:
    table = tables.load_openml(data.openml, data.target, seed=config.seed)
  elif data.root:
    table = talent.load(data.root, data.name)
  else:
    table = tables.load_sklearn(data.name, seed=config.seed)
  return table


def build_model(config, table):
  """The `Model` of a table, statistics from its training rows only."""
  features = Features.fit(
    table.train, table.numeric_names, table.category_names
  )
  scaler = TargetScaler.fit(table.train.target)
  return model_of(config, features, scaler)


def model_of(config, features, scaler):
  """The `Model` of given statistics."""
  fields = config.tokenizer
  options = tokenizers.OPTIONS.get(fields.name, ())
  tokenizer = tokenizers.build(
    fields.name,
    base=fields.base,
    digits=fields.digits,
    **{name: fields[name] for name in options if name in fields},
  )
  model = config.model
  if model.width % model.num_heads:
    raise InputError(
      f'model.width={model.width} does not divide by '
      f'model.num_heads={model.num_heads}: change either'
    )
  return Model(
    features=features,
    scaler=scaler,
    codec=Codec(tokenizer, scaler.low, scaler.high),
    policy=tabular_policy(
      tokenizer, cardinalities=features.cardinalities, **model
    ),
  )


def all_stages(config):
  """Every stage that the config describes, to be run or not."""
  return [_stage('ce', config), _stage('rl', config)]


def build_stages(config):
  """The stages to run, in order.

  With `init_from` the weights stand in for stage 'ce' where another follows.
  """
  names = [str(name) for name in config.stages]
  if names not in (['ce'], ['ce', 'rl'], ['rl']):
    raise InputError(
      f"stages={tuple(names)} is not one of ('ce',), ('ce', 'rl'), ('rl',)"
    )
  if names == ['rl'] and not config.init_from:
    raise InputError(
      "stages=('rl',) has no weights to start from: set "
      '--config.init_from=WORKDIR, or run ce too'
    )
  if config.init_from and 'rl' in names:
    names = ['rl']
  return [_stage(name, config) for name in names]


def _stage(name, config):
  if name == 'ce':
    objective, fields = None, config.ce
  else:
    fields = config.rl
    objective = SequenceObjective(
      **{
        field.name: fields[field.name]
        for field in dataclasses.fields(SequenceObjective)
      }
    )
    name = fields.advantage + ('_expert' if fields.expert_weight else '')
  return Stage(
    name=name,
    objective=objective,
    epochs=fields.epochs,
    learning_rate=fields.learning_rate,
    patience=fields.patience,
    **config.optimizer,
  )


def build_mesh(config):
  """The device mesh, checked against the batch sizes and the seeds."""
  mesh = sharding.make_mesh(config.mesh)
  rows = ('data', 'fsdp')
  sharding.check_divides(mesh, 'batch_size', config.batch_size, *rows)
  sharding.check_divides(mesh, 'eval.batch_size', config.eval.batch_size, *rows)
  sharding.check_divides(mesh, 'num_seeds', config.num_seeds, 'replica')
  return mesh


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


def _official(name):
  with open(OFFICIAL_HYPERPARAMETERS, encoding='utf-8') as file:
    rows = {row['dataset']: row for row in csv.DictReader(file)}
  if name not in rows:
    near = tables.suggestion(name, list(rows))
    raise InputError(
      f'hyperparameters=official knows no task {name!r}{near}: set data.name '
      'to one of the 100 tasks in configs/genre2_hyperparameters.csv'
    )
  return rows[name]


def _check_values(config):
  positive = (
    'num_seeds', 'batch_size', 'model.width', 'model.num_layers',
    'model.num_heads', 'model.feedforward', 'model.encoder_hidden',
    'ce.learning_rate', 'rl.learning_rate', 'rl.group_size', 'rl.temperature',
    'rl.num_updates', 'eval.num_samples', 'eval.temperature',
    'eval.batch_size', 'checkpoint.keep',
  )  # fmt: skip
  not_negative = (
    'seed', 'model.encoder_layers', 'model.dropout', 'ce.epochs', 'rl.epochs',
    'ce.patience', 'rl.patience', 'rl.clip_low', 'rl.clip_high',
    'rl.kl_weight', 'rl.expert_weight', 'optimizer.warmup_steps',
    'optimizer.weight_decay', 'optimizer.max_grad_norm',
    'checkpoint.every_seconds', 'steps_per_dispatch',
  )  # fmt: skip
  for field in positive:
    if not _field(config, field) > 0:
      raise InputError(f'{field}={_field(config, field)} must be positive')
  for field in not_negative:
    if not _field(config, field) >= 0:
      raise InputError(f'{field}={_field(config, field)} must not be negative')
  if config.seed + config.num_seeds > 2**32:
    raise InputError(f'seed={config.seed} must be below 2^32 - num_seeds')
  if config.model.dropout >= 1:
    raise InputError(f'model.dropout={config.model.dropout} must be below 1')
  if config.rl.advantage == 'rloo' and config.rl.group_size < 2:
    raise InputError('rl.advantage=rloo needs rl.group_size of 2 or more')
  _check_choice('rl.advantage', config.rl.advantage, ADVANTAGES)
  _check_choice('rl.reward', config.rl.reward, REWARDS)
  _check_choice('rl.kl_estimator', config.rl.kl_estimator, KL_ESTIMATORS)


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
