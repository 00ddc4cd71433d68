"""A run as plain objects: a ConfigDict ends in this folder.

What is wrong with a config or its data is found before a workdir is made: here,
or by `train.py` as soon as it knows the shapes of the stages' states.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from genre2_jax.data import tables
from genre2_jax.data.features import Features
from genre2_jax.data.subwords import TextFeatures
from genre2_jax.data.tables import Table
from genre2_jax.data.targets import AnyScaler, names_of
from genre2_jax.data.texts import Texts
from genre2_jax.devices import profiling
from genre2_jax.errors import InputError
from genre2_jax.experiment import official
from genre2_jax.experiment.checks import (
  check_choice,
  check_types,
  check_values,
)
from genre2_jax.experiment.defaults import (
  SIZES,
  get_config,
  sized,
  value_of,
)
from genre2_jax.experiment.fields import is_table
from genre2_jax.experiment.meshes import build_mesh
from genre2_jax.experiment.networks import build_model, model_of, with_numbers
from genre2_jax.experiment.stages import all_stages, build_stages
from genre2_jax.experiment.tasks import read_table
from genre2_jax.models import products
from genre2_jax.models.model import Model
from genre2_jax.models.text_columns import TextColumns
from genre2_jax.policy import Pointwise, trie
from genre2_jax.training.evaluation import Predictor, predictor
from genre2_jax.training.stages import Stage, evaluation_keys

# Groups of fields that a run and the one whose weights it takes share.
_SHARED_GROUPS = ('model', 'tokenizer', 'language_model')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """What a prediction is asked for: options of `evaluation.predictions`.

  Attributes:
    num_samples: G, per row.
    temperature: of sampling.
    exact: whether the whole trie is scored.
    rail_numbers: evenly spaced numbers scored for RAIL; 0: none.
    num_conditionals: of several targets, samples of the numbers before one
      whose trie is scored.
    max_nodes: of a joint trie that is enumerated.
  """

  num_samples: int
  temperature: float
  exact: bool
  rail_numbers: int
  num_conditionals: int
  max_nodes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """A run as plain objects, without data and devices: a finished run's.

  Attributes:
    fields: the resolved config, nested: what config.json holds.
    model: of the data.
    compute_dtype: of the network's products with weights; 'auto': a run has yet
      to measure it.
    stages: to train, in order; of a finished run those that have weights.
    seeds: S integers.
    batch_size: B, rows of a step.
    block_size: rows that are predicted at once.
    evaluation: how a run predicts.
    recalibrate: whether temperature and margin are fitted on validation rows.
    pretrained: folder or hub name of a pretrained language model, or ''.
    baseline: a name of `BASELINES` that runs instead of the stages, or ''.
    baseline_trials: of its search.
    checkpoint: options of `Checkpoints`.
    profile_steps: the first to trace and the first after them, or None.
    report: whether report.html is written.
    steps_per_dispatch: steps between two looks of the host; 0: chosen as the
      run goes.
    device_share: of a device's memory, that training rows may take.
    max_seconds: of the whole run; 0: no bound.
  """

  fields: dict[str, Any]
  model: Model
  compute_dtype: str
  stages: tuple[Stage, ...]
  seeds: tuple[int, ...]
  batch_size: int
  block_size: int
  evaluation: Evaluation
  recalibrate: bool
  pretrained: str
  baseline: str
  baseline_trials: int
  checkpoint: Mapping[str, Any]
  profile_steps: tuple[int, int] | None
  report: bool
  steps_per_dispatch: int
  device_share: float
  max_seconds: float

  def predictor(
    self,
    mesh: jax.sharding.Mesh | None = None,
    *,
    num_samples: int | None = None,
  ) -> Predictor:
    """Compiled predictions of blocks of rows, by all seeds.

    Args:
      mesh: that the network is laid out over; None: as it comes.
      num_samples: instead of the run's; 0, of an exact run: nothing is sampled.
    """
    options = dataclasses.asdict(self.evaluation)
    if num_samples is not None:
      options['num_samples'] = num_samples
    return predictor(self.model, evaluation_keys(self.seeds), mesh, **options)


class Source(Protocol):
  """What is asked of a finished run whose weights another starts from."""

  @property
  def workdir(self) -> pathlib.Path:
    """Where it is."""

  @property
  def experiment(self) -> Experiment:
    """What was run."""

  @property
  def stages(self) -> Sequence[str]:
    """Names of what was evaluated, in order."""

  @property
  def seeds(self) -> Sequence[int]:
    """S integers."""

  def weights(
    self, stage: str = '', mesh: jax.sharding.Mesh | None = None
  ) -> dict[str, Any]:
    """The best parameters of a stage, stacked [S, ...]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared(Experiment):
  """An experiment that can be run.

  Attributes:
    table: the data.
    mesh: the devices.
    source: the finished run whose weights it starts from, or None.
  """

  table: Table | Texts
  mesh: jax.sharding.Mesh
  source: Source | None


def resolve(config: ConfigDict) -> ConfigDict:
  """The config with all fields that its size and the paper set, checked.

  Raises:
    InputError: a value that no run could use.
  """
  check_choice('size', config.size, tuple(SIZES))
  if config.hyperparameters == 'official':
    fields = official.fields_of(config.data.name)
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({'size': 'paper', **official.PROTOCOL})
    config = sized(config)
    config.update_from_flattened_dict(
      {
        name: type(value_of(config, name))(number)
        for name, number in fields.items()
      }
    )
  else:
    check_choice('hyperparameters', config.hyperparameters, ('config',))
    config = sized(config)
  check_values(config)
  return config


def build(
  config: ConfigDict,
  *,
  table: Table | Texts | None = None,
  open_run: Callable[[str], Source] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Prepared:
  """Reads the data and builds what a run needs.

  Args:
    config: its fields are those of `defaults.get_config`.
    table: instead of the data that the config names.
    open_run: opens the finished run that `init_from` names.
    devices: instead of those at hand.

  Raises:
    InputError: a value, data, weights or a mesh that do not fit.
  """
  config = resolve(config)
  stages = build_stages(config)
  mesh = build_mesh(config, devices)
  if table is None:
    table = read_table(config)
  if isinstance(table, Table):
    table = tables.cut(table, config.data.max_train_rows, config.seed)
  source, compute_dtype = None, config.model.compute_dtype
  if config.init_from and open_run is not None:
    source = open_run(config.init_from)
    model = source.experiment.model
    compute_dtype = source.experiment.compute_dtype
    if model.texts is not None and isinstance(table, Table):
      table = model.texts.table(table)
    _check_fits(source, config, table)
  else:
    texts, table = with_numbers(config, table)
    model = build_model(config, table, texts)
  if config.baseline.name and jax.process_count() > 1:
    raise InputError(
      f'baseline.name={config.baseline.name} is fitted by one process: leave '
      'out --distributed'
    )
  return Prepared(
    **_shared(config, model, stages, compute_dtype),
    table=table,
    mesh=mesh,
    source=source,
  )


def with_compute_dtype(experiment: Prepared, dtype: str) -> Prepared:
  """The experiment, its network with products of another dtype.

  Parameters are the same, and what was fitted to the data stays.
  """
  config = ConfigDict(experiment.fields)
  config.model.compute_dtype = dtype
  old = experiment.model
  new = model_of(
    config,
    old.features,
    old.scaler,
    old.codec.tokenizer.numbers,
    memory=experiment.table.train,
  )
  model = dataclasses.replace(
    old, network=new.network, codec=new.codec, form=new.form
  )
  return dataclasses.replace(experiment, model=model, compute_dtype=dtype)


def reopened(
  fields: dict[str, Any],
  features: Features | TextFeatures,
  scaler: AnyScaler,
  where: str = 'config.json',
  numbers: Sequence[float] = (),
  num_memory: int = 0,
  texts: TextColumns | None = None,
  compute_dtype: str = '',
  is_weighted: bool = False,
) -> Experiment:
  """The experiment of a finished run, without its data.

  Args:
    fields: of its config.json; fields that came later get their defaults.
    features: that it saved.
    scaler: that it saved.
    where: begins the message of an error.
    numbers: that it saved, of its tokenizer.
    num_memory: training rows that its parameters have room for.
    texts: that it saved, of its text.
    compute_dtype: that it decided on, if it was to.
    is_weighted: whether its training rows had weights.

  Raises:
    InputError: a value that no run could have had, or a head that has another
      form today.
  """
  config = ConfigDict(with_defaults(fields, where))
  try:
    check_values(config)
    decided = config.copy_and_resolve_references()
    if compute_dtype:
      check_choice('compute_dtype', compute_dtype, products.DTYPES)
      decided.model.compute_dtype = compute_dtype
    model = model_of(
      decided,
      features,
      scaler,
      numbers,
      memory=num_memory,
      texts=texts,
      is_weighted=is_weighted,
    )
    dtype = decided.model.compute_dtype
    return Experiment(**_shared(config, model, all_stages(config), dtype))
  except InputError as error:
    raise InputError(f'{where}: {error}') from error


def with_defaults(
  fields: Mapping[str, Any], where: str = 'config.json'
) -> dict[str, Any]:
  """Saved fields, with the defaults of those that came later.

  Raises:
    InputError: a field is not of its default's type.
  """
  defaults = sized(get_config()).to_dict()
  check_types(fields, defaults, f'{where}: ')
  return _overlaid(defaults, _dated(fields))


def _shared(
  config: ConfigDict,
  model: Model,
  stages: Sequence[Stage],
  compute_dtype: str,
) -> dict[str, Any]:
  """What running and finished experiments have."""
  return dict(
    fields=config.to_dict(),
    model=model,
    compute_dtype=compute_dtype,
    stages=tuple(stages),
    seeds=tuple(range(config.seed, config.seed + config.num_seeds)),
    batch_size=config.batch_size,
    block_size=config.eval.batch_size,
    evaluation=Evaluation(
      num_samples=config.eval.num_samples,
      temperature=config.eval.temperature,
      exact=_is_enumerable(config, model),
      rail_numbers=config.eval.rail_numbers,
      num_conditionals=config.eval.num_conditionals,
      max_nodes=config.trie.max_nodes,
    ),
    recalibrate=config.eval.recalibrate,
    pretrained=('' if is_table(config) else config.language_model.pretrained),
    baseline=config.baseline.name,
    baseline_trials=config.baseline.trials,
    checkpoint=config.checkpoint.to_dict(),
    profile_steps=profiling.parse_steps(config.profile.steps),
    report=config.report,
    steps_per_dispatch=config.steps_per_dispatch,
    device_share=config.device_share,
    max_seconds=config.max_seconds,
  )


def _is_enumerable(config, model):
  """Whether the whole distribution is to be evaluated exactly."""
  tokenizer = model.codec.parts[0].tokenizer
  return (
    not isinstance(model.network, Pointwise)
    and model.network.writer is None
    and trie.num_nodes(tokenizer) <= config.trie.max_nodes
    and bool(np.isfinite(model.codec.finite.values()).all())
  )


def _check_fits(source, config, table):
  """Raises InputError unless config and table are those of the source."""
  for group in _SHARED_GROUPS:
    theirs, ours = source.experiment.fields[group], config[group].to_dict()
    if _as_json(theirs) != _as_json(ours):
      raise InputError(
        f'init_from={source.workdir} was trained with another {group} config: '
        f'{theirs}'
      )
  theirs = len(names_of(source.experiment.model.scaler))
  ours = len(table.target_names) if isinstance(table, Table) else 0
  if theirs != ours:
    raise InputError(
      f'init_from={source.workdir} writes {max(1, theirs)} targets, and '
      f'{table.name} has {max(1, ours)}: train from scratch'
    )
  if not source.experiment.model.features.fits(table):
    raise InputError(
      f'init_from={source.workdir} was trained on other columns, or another '
      f'prompt, than those of {table.name}: train from scratch'
    )


def _as_json(value):
  """As it comes back from a file: without tuples."""
  if isinstance(value, Mapping):
    return {key: _as_json(part) for key, part in value.items()}
  if isinstance(value, list | tuple):
    return [_as_json(part) for part in value]
  return value


def _dated(fields):
  """A saved config that says what was no choice yet when it was saved."""
  if 'size' not in fields:  # Then all of its fields were set.
    fields = {**fields, 'size': 'paper'}
  language = fields.get('language_model', {})
  if 'head_activation' in language:
    return fields
  if language.get('head') == 'special_token':
    raise InputError(
      'language_model.head=special_token had no bias when this run was '
      'trained: train again'
    )
  if language.get('head') == 'mlp':
    language = {**language, 'head_activation': 'relu'}
    return fields | {'language_model': language}
  return fields


def _overlaid(default, saved):
  """Nested `saved` with what `default` has beside it."""
  whole = dict(saved)
  for name, value in default.items():
    if isinstance(value, dict):
      whole[name] = _overlaid(value, saved.get(name, {}))
    else:
      whole.setdefault(name, value)
  return whole
