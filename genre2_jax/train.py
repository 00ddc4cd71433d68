"""A run, from a config to a report: read, build, train, evaluate, write.

A run is one stage after another: pretraining, as a rule by cross-entropy, then
fine-tuning from its best parameters. `training/loop.py` runs each of them, the
seeds of a run stacked in one program. Several processes do the same side by
side: each reads the data, process 0 alone writes and talks.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from genre2_jax.baselines import points
from genre2_jax.data import targets
from genre2_jax.data.batches import Examples
from genre2_jax.data.features import Features
from genre2_jax.data.tables import Table
from genre2_jax.data.texts import Texts
from genre2_jax.devices import compilation, memory, processes, sharding
from genre2_jax.experiment import tasks
from genre2_jax.experiment.experiment import (
  Prepared,
  build,
  with_compute_dtype,
)
from genre2_jax.files import atomic, formats
from genre2_jax.metrics import results
from genre2_jax.models import marginal
from genre2_jax.report import page
from genre2_jax.runs import (
  baselines,
  environment,
  estimates,
  finished,
  inspection,
  start,
  weights,
  workdirs,
)
from genre2_jax.training import (
  evaluation,
  initialization,
  loop,
  orders,
  train_state,
)
from genre2_jax.training.stages import Stage

_logger = logging.getLogger('genre2_jax')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """An experiment under way.

  Attributes:
    experiment: data, model, stages and options.
    workdir: where its files go.
    stages: to train, their numbers of epochs settled.
    examples: split -> `Examples`, on the host.
    options: of the loops.
    predict_block: `Experiment.predictor`.
  """

  experiment: Prepared
  workdir: pathlib.Path
  stages: tuple[Stage, ...]
  examples: dict[str, Examples]
  options: loop.Options
  predict_block: evaluation.Predictor


def train_and_evaluate(
  config: ConfigDict,
  workdir: str | os.PathLike[str] = '',
  interrupts: object = (),
  *,
  table: Table | Texts | None = None,
  verbose: int = 2,
) -> pathlib.Path:
  """Runs a config from data to report, or goes on where it was stopped.

  Args:
    config: with the fields of `experiment/defaults.py`.
    workdir: folder for everything that the run leaves behind; '' for
      `runs/<task>_<stage>_<hash of the config>`.
    interrupts: true once the run is asked to leave.
    table: instead of the data that the config names; its test split may have
      no rows.
    verbose: 0: silent; 1: shows progress; 2: prints what it sees, too.

  Returns:
    The workdir.

  Raises:
    InputError: a config, data or devices that cannot be used, before anything
      is written; or weights of this workdir that are damaged.
    OutOfMemoryError: a device or the host has too little memory.
    InterruptedRunError: progress is saved; the same call goes on.
    NonFiniteError: the last good checkpoint is kept.
  """
  began = time.monotonic()
  # ---------------------------------------------------- config, data, model
  with processes.at_once(interrupts, 'reading the data'):
    with processes.together():
      experiment = build(config, table=table, open_run=finished.open_run)
      examples, stages, states = _settled(experiment)
    processes.check_alike(
      'config and data', workdirs.identity(experiment.fields, experiment.table)
    )
    params = start.given_weights(experiment)
  compilation.keep_programs(experiment.fields['compilation_cache'])
  clock = _Clock(experiment.max_seconds or math.inf, began)
  model, mesh = experiment.model, experiment.mesh
  is_first = processes.is_first()
  verbose = verbose if is_first else 0
  workdir = workdirs.locate(workdir, experiment, stages)
  with contextlib.ExitStack() as held:
    # -------------------------------------------------------------- workdir
    with processes.together():
      if is_first:
        held.enter_context(workdirs.held(workdir))
        workdirs.create(workdir, experiment)
    with processes.together():
      workdirs.check_seen(workdir)
      dtype = workdirs.compute_dtype(workdir)
      if dtype not in ('', experiment.compute_dtype):
        experiment = with_compute_dtype(experiment, dtype)
        model = experiment.model
    # ---------------------------------------------------------------- prior
    if model.prior is not None:
      with processes.together():
        if is_first:
          start.write_prior(experiment, workdir, interrupts)
      with processes.together():
        experiment = start.with_prior(experiment, workdir)
        model, examples = experiment.model, _examples(experiment)
    if verbose > 1:
      print(tasks.describe(experiment.table, model))
      if mesh.size > 1 and states and not experiment.baseline:
        layout = initialization.describe_layout(
          stages[-1],
          model,
          states[-1],
          batch_size=experiment.batch_size,
          mesh=mesh,
        )
        print(layout)
    seen = environment.environment(mesh) | memory.describe()
    _logger.info('%s', environment.summary(seen))
    if is_first:
      atomic.write_json(workdir / 'env.json', seen)
    # ----------------------------------------------------------- references
    with processes.together():
      references = []
      if is_first:
        references = baselines.references(experiment, workdir, interrupts)
    # --------------------------------------------------------------- stages
    run = _begun(experiment, workdir, stages, examples, interrupts, verbose)
    need, settings = run.options.need, _settings(run)
    with memory.shortage_in_words(need, settings, mesh, workdir):
      names, rows, params, out_of_time = _run_stages(run, params, clock)
      if experiment.report:
        inspection.write(workdir, experiment, params, run.options.interrupts)
    # --------------------------------------------------------------- report
    num_parameters = _num_parameters(experiment, params)
    with processes.together():
      if is_first:
        workdirs.write_run(
          workdir, experiment, names, num_parameters, len(rows), out_of_time
        )
        if experiment.report:
          page.write(workdir)
  if verbose > 1:
    unit = targets.UNITS[experiment.fields['data']['transform']]
    names = [*dict.fromkeys(row[2] for row in references), *names]
    print(results.summary([*references, *rows], names, unit.says))
    print(f'Workdir: {workdir}')
    if experiment.report:
      print(f'Report: {workdir / "report.html"}')
  return workdir


def _settled(experiment):
  """(examples, stages with their epochs, their states' shapes on the mesh)."""
  model = experiment.model
  examples = _examples(experiment)
  epoch_steps = orders.steps_per_epoch(
    examples['train'], model.widths, experiment.batch_size
  )
  stages = tuple(stage.bounded(epoch_steps) for stage in experiment.stages)
  states = [
    initialization.abstract_state(
      stage, model, seeds=experiment.seeds, mesh=experiment.mesh
    )
    for stage in stages
  ]
  return examples, stages, states


def _examples(experiment):
  """{split: `Examples`}."""
  model, table = experiment.model, experiment.table
  examples = {s: model.examples(getattr(table, s)) for s in ('val', 'test')}
  return {'train': model.training_examples(table.train), **examples}


def _begun(
  experiment: Prepared,
  workdir: pathlib.Path,
  stages: tuple[Stage, ...],
  examples: dict[str, Examples],
  interrupts: object,
  verbose: int,
) -> Run:
  mesh = experiment.mesh
  options = loop.Options(
    workdir=workdir,
    seeds=experiment.seeds,
    mesh=mesh,
    batch_size=experiment.batch_size,
    block_size=experiment.block_size,
    checkpoint=experiment.checkpoint,
    frozen=weights.frozen_of(workdir, experiment, mesh),
    profile_steps=experiment.profile_steps,
    steps_per_dispatch=experiment.steps_per_dispatch,
    device_share=experiment.device_share,
    interrupts=processes.Shared(interrupts),
    verbose=verbose,
    need=memory.Need(),
  )
  return Run(
    experiment=experiment,
    workdir=workdir,
    stages=stages,
    examples=examples,
    options=options,
    predict_block=experiment.predictor(mesh),
  )


@dataclasses.dataclass(frozen=True)
class _Clock:
  """What a run may take, from when it began; infinite without a bound."""

  max_seconds: float
  began: float

  def share(self, stages_left: int) -> float:
    """Seconds for the next of so many stages, a tenth kept for predicting."""
    left = self.began + self.max_seconds - time.monotonic()
    return max(0.0, 0.9 * left / stages_left)


def _run_stages(run, params, clock):
  """Trains and evaluates.

  Args:
    run: a `Run`.
    params: stacked weights to start from, or None.
    clock: a `_Clock`.

  Returns:
    (names of stages, rows of results.csv, params, names of the stages that the
    clock ended).
  """
  experiment = run.experiment
  if experiment.baseline:
    fitted = baselines.fit(
      experiment,
      experiment.baseline,
      experiment.seeds,
      run.options.interrupts,
    )
    rows = _record(run, experiment.baseline, fitted)
    _write_results(run, rows)
    return [experiment.baseline], rows, params, []
  names: list[str] = []
  out_of_time: list[str] = []
  rows = []
  if not run.stages:
    names.append(weights.ZERO_SHOT)
    params = {'policy': _pretrained(experiment)}
    rows += _evaluate(run, names[0], params)
    _write_results(run, rows)
  elif experiment.source and run.stages[0].section == 'finetune':
    names.append(experiment.source.stages[0])
    rows += _evaluate(run, names[0], params)
  for index, stage in enumerate(run.stages):
    seconds = clock.share(len(run.stages) - index)
    params, stopped, begun = _trained(run, stage, params, seconds)
    names.append(stage.name)
    if stopped:
      out_of_time.append(stage.name)
      _logger.warning(
        'stage %s stopped by max_seconds=%g; its best epoch is kept',
        stage.name,
        experiment.max_seconds,
      )
    rows += _evaluate(run, stage.name, params, begun)
    del begun
    _write_results(run, rows)
  return names, rows, params, out_of_time


def _trained(run, stage, params, seconds):
  """A stage's best parameters, there or trained now.

  Returns:
    (stacked parameters, whether time was up, validation rows as far as they are
    predicted, or None).
  """
  if weights.is_written(run.workdir, stage.name):
    found = weights.read(
      run.workdir, stage, run.experiment, run.experiment.mesh
    )
    if found is not None:
      return found, False, None
  if params is not None:
    start = functools.partial(params.get, 'policy')
  else:
    start = functools.partial(_pretrained, run.experiment)
  trained = loop.train(
    stage,
    run.experiment.model,
    run.examples,
    start,
    run.options,
    seconds=seconds,
  )
  trained, begun = _mixed(run, trained)
  weights.write(run.workdir, stage.name, trained.params)
  return trained.merged(), trained.out_of_time, begun


def _mixed(run, trained):
  """A stage's end, mixed with the train marginal as validation rows ask for.

  Returns:
    (the stage's end, validation rows as far as they are predicted whatever the
    marginal weighs, or None).
  """
  network, model = trained.params['policy'], run.experiment.model
  if not (isinstance(network, dict) and marginal.MARGINAL in network):
    return trained, None
  if not len(run.experiment.table.val):
    return trained, None
  old = network[marginal.MARGINAL]
  alone = marginal.with_weight(network, jnp.zeros_like(old[marginal.WEIGHT]))
  alone = dataclasses.replace(
    trained, params={**trained.params, 'policy': alone}
  )
  doing = 'weighing the train marginal'
  with processes.at_once(run.options.interrupts, doing):
    params = alone.merged()
    begun = list(_begin(run, params, 'val'))
    log_p = evaluation.finish(run.predict_block, params, begun)['log_p']
  log_g = processes.fetch(trained.frozen[marginal.MARGINAL]['log_p'])[0]
  values, _ = model.codec.grid()
  val = run.experiment.table.val
  kept = np.isfinite(val.target)
  weight = None if val.weight is None else val.weight[kept]
  known = values, model.scaler.standardize(val.target[kept]), weight
  log_p, log_g = log_p[:, kept], log_g[: len(values)]
  share = None
  if marginal.SHARE in old:
    share, weight = marginal.chosen(log_p, log_g, *known)
    weights = [weight] * len(log_p)
  else:
    weights = [marginal.best_weight(p, log_g, *known) for p in log_p]

  def stacked(x):
    sharding = old[marginal.WEIGHT].sharding
    return processes.place(np.array(x, np.float32), sharding)

  network = marginal.with_weight(
    network, stacked(weights), None if share is None else stacked(share)
  )
  mixed = dataclasses.replace(
    trained, params={**trained.params, 'policy': network}
  )
  return mixed, begun


def _begin(run, params, split):
  """A split's blocks, begun with a stage's parameters."""
  experiment = run.experiment
  return evaluation.begin(
    run.predict_block,
    params,
    run.examples[split].inputs,
    block_size=experiment.block_size,
    sharding=sharding.batch_sharding(experiment.mesh),
    interrupts=run.options.interrupts,
    widths=experiment.model.widths,
  )


def _evaluate(run, stage, params, begun=None):
  """Predicts val and test with a stage's parameters: rows of results.csv.

  Args:
    run: a `Run`.
    stage: its name.
    params: stacked over seeds.
    begun: validation rows, if they are begun already.
  """
  experiment = run.experiment
  doing = f'predicting after stage {stage}'
  with processes.at_once(run.options.interrupts, doing):
    predicted = {
      split: evaluation.finish(
        run.predict_block,
        params,
        (split == 'val' and begun) or _begin(run, params, split),
      )
      for split in ('val', 'test')
      if len(getattr(experiment.table, split))
    }
  return _record(run, stage, predicted)


def _record(run, stage, predicted):
  """Writes what a stage predicted, split by split: rows of results.csv.

  By process 0; the others have no rows.
  """
  rows: list[tuple] = []
  validation = None
  margins: estimates.Margins = ()
  if not processes.is_first():
    return rows
  experiment = run.experiment
  model, table = experiment.model, experiment.table
  has_interval = estimates.has_distribution(model) and (
    experiment.baseline not in points.BASELINES
  )
  for split, arrays in predicted.items():
    target, weight = getattr(table, split).target, getattr(table, split).weight
    target_z = model.scaler.standardize(target)
    workdirs.write_evaluation(
      run.workdir, stage, split, arrays, target, model.scaler, weight
    )
    rows += results.rows(
      arrays,
      target_z,
      model=model,
      seeds=experiment.seeds,
      task=table.name,
      stage=stage,
      split=split,
      validation=validation,
      weight=weight,
      validation_weight=table.val.weight,
    )
    if split == 'val':
      if experiment.recalibrate:
        validation = arrays, target_z
      if has_interval:
        margins = estimates.fit_margins(arrays, model, target, weight)
  # Of the test rows, which come last; the last stage's are what stays.
  columns = estimates.columns(arrays, model, margins, has_interval=has_interval)
  known = {'row': np.arange(1, len(target) + 1)}
  known |= estimates.by_name({'target': target}, model.target_names)
  if weight is not None:
    known['weight'] = weight
  with formats.growing(run.workdir / 'predictions.csv') as write:
    write(known | columns)
  estimates.write_margins(run.workdir, margins)
  return rows


def _num_parameters(experiment, params):
  """Of a seed's network; what is frozen of a table's is its training rows."""
  network = (params or {}).get('policy')
  model = experiment.model
  if network is not None and isinstance(model.features, Features):
    trained, _ = train_state.split({'policy': network}, model.network.frozen)
    network = trained['policy']
  return sum(x.size for x in jax.tree.leaves(network)) // len(experiment.seeds)


def _pretrained(experiment):
  return weights.pretrained(experiment, experiment.seeds, experiment.mesh)


def _settings(run):
  stages = run.stages
  language = run.experiment.fields['language_model']
  return memory.Settings(
    batch_size=run.experiment.batch_size,
    accumulation=stages[0].accumulation if stages else 1,
    keeps_activations=bool(language['name'] and not language['remat']),
  )


def _write_results(run, rows):
  if processes.is_first():
    workdirs.write_results(run.workdir, rows)
