"""Training: the stages of a run, and the one loop that runs each of them.

A run is one stage after another: pretraining, as a rule by cross-entropy, then
fine-tuning from its best parameters. Every stage is the same loop, over
dispatches of `steps.train_step`; the seeds of a run are stacked and go through
one program. Several processes (`processes.py`) run the same loop side by side:
each reads the data, process 0 alone writes and talks.
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict

from genre2_jax.baselines import points
from genre2_jax.data import tables, texts
from genre2_jax.devices import memory, processes, profiling, sharding
from genre2_jax.errors import InputError, InterruptedRunError, NonFiniteError
from genre2_jax.experiment import experiment
from genre2_jax.files import atomic, metrics_log
from genre2_jax.metrics import results
from genre2_jax.models import language_model
from genre2_jax.report import page
from genre2_jax.runs import workdirs
from genre2_jax.training import evaluation, stages, train_state
from genre2_jax.training.checkpoints import StageCheckpoints

_logger = logging.getLogger('genre2_jax')

# What a pretrained language model is called before it is trained.
ZERO_SHOT = 'zero_shot'

# A dispatch aims at this long: short enough to leave within seconds of a
# signal, long enough that the host's part in it does not show.
_DISPATCH_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """What all stages of a run share.

  Attributes:
    config: resolved.
    workdir: where its files go.
    table: the data.
    model: of the data.
    examples: split -> `Examples`, on the host.
    seeds: S integers.
    mesh: the devices.
    predict_block: `evaluate.predictor` for the seeds.
    interrupts: true once the run is asked to leave, in all processes.
    verbose: 1: draws progress bars; 0: does not.
    is_first: whether this process writes the files.
    need: `memory.Need` of what is compiled.
  """

  config: ConfigDict
  workdir: pathlib.Path
  table: tables.Table | texts.Texts
  model: experiment.Model
  examples: dict
  seeds: tuple[int, ...]
  mesh: jax.sharding.Mesh
  predict_block: Any
  interrupts: Any
  verbose: int
  is_first: bool
  need: memory.Need


def train_and_evaluate(
  config, workdir='', interrupts=(), *, table=None, verbose=2
):
  """Runs a config from data to report, or goes on where it was stopped.

  Args:
    config: a ConfigDict of `configs/base.py`.
    workdir: folder for everything that the run leaves behind; '' for
      `runs/<task>_<stage>_<hash of the config>`.
    interrupts: true once the run is asked to leave.
    table: a `tables.Table` or `texts.Texts` instead of what the config names;
      its test split may have no rows.
    verbose: 0: silent; 1: draws progress bars; 2: prints what it sees, too.

  Returns:
    The workdir.

  Raises:
    InputError: nothing has been written then.
    InterruptedRunError: progress is saved; the same call goes on.
    NonFiniteError: the last good checkpoint is kept.
  """
  # ---------------------------------------------------- config, data, model
  source, params = None, None
  with processes.together():
    config = experiment.resolve(config)
    todo = experiment.build_stages(config)
    mesh = experiment.build_mesh(config)
    if table is None:
      table = experiment.read_table(config)
    seeds = tuple(range(config.seed, config.seed + config.num_seeds))
    if config.init_from:
      source = workdirs.open_finished(config.init_from)
      model = _model_from(source, config, table)
    else:
      model = experiment.build_model(config, table)
    examples = {s: model.examples(getattr(table, s)) for s in tables.SPLITS}
    epoch_steps = stages.steps_per_epoch(
      len(table.train),
      config.batch_size,
      stages.buckets_of(examples['train'], model.widths),
    )
    todo = [stage.bounded(epoch_steps) for stage in todo]
    # Checks that it fits the mesh.
    states = [_abstract_state(stage, model, seeds, mesh) for stage in todo]
    if config.baseline.name and jax.process_count() > 1:
      raise InputError(
        f'baseline.name={config.baseline.name} is fitted by one process: leave '
        'out --distributed'
      )
  processes.check_alike('config and data', workdirs.identity(config, table))
  if source is not None:
    params = _params_from(source, seeds, mesh)
  is_first = processes.is_first()
  verbose = verbose if is_first else 0
  workdir = workdirs.locate(workdir, config, table, todo)
  with processes.together():
    if is_first:
      workdirs.create(workdir, config, table, model)
  with processes.together():
    workdirs.check_seen(workdir)
  run = Run(
    config=config,
    workdir=workdir,
    table=table,
    model=model,
    examples=examples,
    seeds=seeds,
    mesh=mesh,
    predict_block=evaluation.predictor(
      dataclasses.replace(
        model, network=sharding.constrained(model.network, mesh)
      ),
      stages.evaluation_keys(seeds),
      **experiment.evaluation_options(config, model),
    ),
    interrupts=processes.Shared(interrupts),
    verbose=verbose,
    is_first=is_first,
    need=memory.Need(),
  )
  if verbose > 1:
    print(experiment.describe(table, model))
    if mesh.size > 1 and states and not config.baseline.name:
      layout = stages.describe_layout(
        todo[-1], model, states[-1], batch_size=config.batch_size, mesh=mesh
      )
      print(layout)
  environment = experiment.environment(mesh) | memory.describe()
  _logger.info('%s', experiment.summary(environment))
  if is_first:
    atomic.write_json(run.workdir / 'env.json', environment)
  # ----------------------------------------------------------------- stages
  with memory.shortage_in_words(run.need, config, mesh, run.workdir):
    names, rows, params = _run_stages(run, todo, source, params)
  # ----------------------------------------------------------------- report
  num_parameters = sum(
    x.size for x in jax.tree.leaves((params or {}).get('policy'))
  ) // len(seeds)
  with processes.together():
    if is_first:
      workdirs.write_run(
        run.workdir, table, model, names, seeds, num_parameters, len(rows)
      )
      if config.report:
        page.write(run.workdir)
  if verbose > 1:
    print(results.summary(rows, names))
    print(f'Workdir: {run.workdir}' + '/report.html' * config.report)
  return run.workdir


def _run_stages(run, todo, source, params):
  """Trains and evaluates: (names of stages, rows of results.csv, params)."""
  names, rows = [], []
  config, model, seeds, mesh = run.config, run.model, run.seeds, run.mesh
  if not todo:
    names.append(ZERO_SHOT)
    params = _pretrained_params(model, config, seeds, mesh)
    rows += _evaluate(run, ZERO_SHOT, params)
    _write_results(run, rows)
  elif source is not None and todo[0].section == 'finetune':
    names.append(source.stages[0])
    rows += _evaluate(run, names[0], params)
  if config.baseline.name:
    names.append(config.baseline.name)
    rows += _record(run, config.baseline.name, _fit_baseline(run))
    _write_results(run, rows)
    todo = []
  for stage in todo:
    if params is not None:
      start = functools.partial(params.get, 'policy')
    else:
      start = functools.partial(_pretrained, model, config, seeds, mesh)
    params = _train(run, stage, start)
    names.append(stage.name)
    rows += _evaluate(run, stage.name, params)
    _write_results(run, rows)
  return names, rows, params


def _train(run, stage, start):
  """Trains a stage, or what is left of it: the best parameters [S, ...].

  Args:
    run: a `Run`.
    stage: a `Stage`.
    start: `() -> stacked parameters of the network, or None`, for the first
      step only.
  """
  config = run.config
  abstract = _abstract_state(stage, run.model, run.seeds, run.mesh)
  run.need.of_state(abstract)
  with _stage_checkpoints(run.workdir, stage.name, config) as checkpoints:
    # Resuming: 1. the newest checkpoint that is whole, or the beginning;
    # 2. the log without what comes after it; 3. the same loop as ever.
    state = checkpoints.restore(abstract)
    at = None if state is None else _counters(state)
    if at is not None and stage.is_finished(at):
      return train_state.merge(state.best_params, state.frozen)
    step = -1 if at is None else int(at.step[0])
    if run.is_first:
      metrics_log.truncate(run.workdir, stage.name, step)
    programs = _compile(run, stage)
    if state is None:
      state = programs.init(start())
      at = _counters(state)
    with (
      _metric_writer(run) as writer,
      _progress_bar(stage, programs, step, run.verbose) as progress,
      _profile(run, stage, programs) as profile,
    ):
      if step < 0:
        state = _validate(run, stage, programs, state, writer, progress)
        at = _counters(state)
      chunk = config.steps_per_dispatch or 1
      while not stage.is_finished(at):
        if run.interrupts:
          checkpoints.save(int(at.step[0]), state)
          raise InterruptedRunError(
            f'interrupted at step {at.step[0]} of stage {stage.name}, saved'
          )
        left = _steps_left(at, programs)
        num_steps = min(chunk, left, profile.limit(int(at.step[0])))
        profile.begin(int(at.step[0]))
        began = time.monotonic()
        state = programs.run(state, num_steps)
        at = _counters(state)  # Waits for the device.
        profile.end(int(at.step[0]), programs.compiled.as_text)
        _check_finite(at, run, stage)
        seconds = time.monotonic() - began
        progress.update(num_steps)
        if num_steps == left:
          state = _validate(run, stage, programs, state, writer, progress)
          at = _counters(state)
        checkpoints.save_if_due(int(at.step[0]), state)
        if not config.steps_per_dispatch:
          chunk = processes.from_first(
            max(1, min(2 * chunk, int(num_steps * _DISPATCH_SECONDS / seconds)))
          )
      checkpoints.save(int(at.step[0]), state)
  return train_state.merge(state.best_params, state.frozen)


def _counters(state):
  return processes.fetch(train_state.counters(state))


def _compile(run, stage):
  _logger.info('compiling stage %s', stage.name)
  began = time.monotonic()
  programs = stages.compile_stage(
    stage,
    run.model,
    run.examples,
    seeds=run.seeds,
    batch_size=run.config.batch_size,
    block_size=run.config.eval.batch_size,
    mesh=run.mesh,
    widths=run.model.widths,
  )
  run.need.of_program(programs.compiled)
  _logger.info(
    'compiled in %.1f s: per device %s of state and rows, %s beside',
    time.monotonic() - began,
    memory.readable(run.need.arguments),
    memory.readable(run.need.temporaries),
  )
  return programs


def _validate(run, stage, programs, state, writer, progress):
  """Ends an epoch: validates, keeps the best, writes one record per seed."""
  state, metrics = programs.validate(state)
  metrics, step, epoch = processes.fetch((metrics, state.step, state.epoch))
  for index, seed in enumerate(run.seeds if run.is_first else ()):
    writer.write(
      stage=stage.name,
      seed=seed,
      epoch=int(epoch[index]),
      step=int(step[index]),
      seconds=round(progress.format_dict['elapsed'], 3),
      **{
        name: float(values[index])
        for name, values in metrics.items()
        # Before the first step there is nothing to say of training.
        if epoch[index] > 0 or not name.startswith('train/')
      },
    )
  shown = ('train/loss', 'train/reward', 'val/loss', 'val/reward')
  progress.set_postfix(
    {name: f'{metrics[name].mean():.4f}' for name in shown if name in metrics}
  )
  return state


def _evaluate(run, stage, params):
  """Predicts val and test with a stage's parameters: rows of results.csv."""
  predicted = {
    split: evaluation.predict(
      run.predict_block,
      params,
      run.examples[split].inputs,
      block_size=run.config.eval.batch_size,
      sharding=sharding.batch_sharding(run.mesh),
      interrupts=run.interrupts,
      widths=run.model.widths,
    )
    for split in ('val', 'test')
    if len(getattr(run.table, split))
  }
  return _record(run, stage, predicted)


def _record(run, stage, predicted):
  """Writes what a stage predicted, split by split: rows of results.csv.

  By process 0; the others have no rows.
  """
  rows, validation = [], None
  if not run.is_first:
    return rows
  for split, arrays in predicted.items():
    target = getattr(run.table, split).target
    target_z = run.model.scaler.standardize(target)
    workdirs.write_evaluation(
      run.workdir, stage, split, arrays, target, run.model.scaler
    )
    rows += results.rows(
      arrays,
      target_z,
      model=run.model,
      seeds=run.seeds,
      task=run.table.name,
      stage=stage,
      split=split,
      validation=validation,
    )
    if run.config.eval.recalibrate:
      validation = arrays, target_z
  # Of the test rows, which come last; the last stage's are what stays.
  workdirs.write_predictions(
    run.workdir / 'predictions.csv',
    results.prediction_columns(arrays, run.model),
    target,
  )
  return rows


def _fit_baseline(run):
  """What `baselines` predict, every seed's: point masses, split by split."""
  fitted = [
    points.fit_predict(
      run.config.baseline.name,
      run.table,
      run.model.scaler,
      seed=seed,
      num_trials=run.config.baseline.trials,
      interrupts=run.interrupts,
    )
    for seed in run.seeds
  ]
  predicted = {}
  for split in ('val', 'test'):
    z = np.stack([member[split] for member in fitted]).astype(np.float32)
    predicted[split] = {
      'samples_z': z[..., None],
      'greedy_z': z,
      'entropy': np.zeros_like(z),
    }
  return predicted


def restore_params(finished, stage_name, mesh):
  """The best parameters of a finished run's stage, stacked [S, ...].

  Raises:
    InputError: no checkpoint of it is whole.
  """
  if stage_name == ZERO_SHOT:
    return _pretrained_params(
      finished.model, finished.config, finished.seeds, mesh
    )
  stages_by_name = {s.name: s for s in experiment.all_stages(finished.config)}
  if stage_name not in stages_by_name:
    raise InputError(
      f'{finished.workdir} was made by {stage_name}, which keeps no weights: '
      'give the workdir of a network'
    )
  stage = stages_by_name[stage_name]
  abstract = _abstract_state(stage, finished.model, finished.seeds, mesh)
  folder = finished.workdir / 'checkpoints' / stage_name
  state = None
  if folder.exists():
    with StageCheckpoints(folder.absolute(), read_only=True) as checkpoints:
      state = checkpoints.restore(abstract)
  if state is None:
    raise InputError(f'{folder} has no whole checkpoint: train again')
  return train_state.merge(state.best_params, state.frozen)


def _pretrained(model, config, seeds, mesh):
  """A pretrained network's parameters [S, ...]; None without one."""
  folder = config.language_model.pretrained
  if not folder:
    return None
  return language_model.load_params(
    folder,
    model.network,
    model.example_inputs(),
    stages.seed_keys(seeds, 'pretrain'),
    mesh,
  )


def _pretrained_params(model, config, seeds, mesh):
  return {'policy': _pretrained(model, config, seeds, mesh)}


def _abstract_state(stage, model, seeds, mesh):
  """Shapes, dtypes and shardings of a stage's state, for any number of rows.

  Raises:
    InputError: an array does not split over the mesh.
  """
  abstract, _ = stages.state_program(
    stage,
    model,
    seeds=seeds,
    mesh=mesh,
    optimizer=stages.optimizer_of(stage, 1),
  )
  return abstract


def _model_from(source, config, table):
  """The source's model, once config and table are seen to fit it."""
  for group in ('model', 'tokenizer', 'language_model'):
    # As JSON, which knows no tuples.
    theirs, ours = (
      json.dumps(c[group].to_dict()) for c in (source.config, config)
    )
    if json.loads(theirs) != json.loads(ours):
      raise InputError(
        f'init_from={source.workdir} was trained with another {group} config: '
        f'{source.config[group].to_dict()}'
      )
  if not source.model.features.fits(table):
    raise InputError(
      f'init_from={source.workdir} was trained on other columns, or another '
      f'prompt, than those of {table.name}: train from scratch'
    )
  return source.model


def _params_from(source, seeds, mesh):
  """Parameters of the source's first stage, for this run's seeds."""
  if len(source.seeds) not in (1, len(seeds)):
    raise InputError(
      f'init_from={source.workdir} has {len(source.seeds)} seeds, this run '
      f'{len(seeds)}: set num_seeds to that'
    )
  params = restore_params(source, source.stages[0], mesh)
  if len(source.seeds) < len(seeds):
    # Compiled: no process has all of what is sharded over several.
    repeat = jax.jit(lambda x: jnp.repeat(x, len(seeds), 0))
    params = jax.tree.map(repeat, params)
  return params


def _stage_checkpoints(workdir, name, config):
  return StageCheckpoints(
    (workdir / 'checkpoints' / name).absolute(), **config.checkpoint
  )


def _write_results(run, rows):
  if run.is_first:
    workdirs.write_results(run.workdir, rows)


def _metric_writer(run):
  """Process 0's writer of metrics.jsonl."""
  if not run.is_first:
    return contextlib.nullcontext()
  return metrics_log.MetricWriter(run.workdir, len(run.seeds))


def _profile(run, stage, programs):
  return profiling.Profile(
    profiling.parse_steps(run.config.profile.steps),
    run.workdir,
    stage.name,
    stage.epochs * programs.epoch_steps,
    run.is_first,
  )


def _progress_bar(stage, programs, step, verbose):
  terminal = sys.stderr.isatty()
  return tqdm.tqdm(
    total=stage.epochs * programs.epoch_steps,
    initial=max(step, 0),
    desc=stage.name,
    unit='step',
    mininterval=0.2 if terminal else 10,
    dynamic_ncols=terminal,
    # One that is disabled would not count the seconds.
    file=None if verbose else io.StringIO(),
  )


def _steps_left(at, programs):
  return (int(at.epoch[0]) + 1) * programs.epoch_steps - int(at.step[0])


def _check_finite(at, run, stage):
  for seed, step in zip(run.seeds, at.bad_step, strict=True):
    if step >= 0:
      raise NonFiniteError(
        f'the loss of stage {stage.name}, seed {seed} is not finite at step '
        f'{step}: the last checkpoint before it is kept; lower the learning '
        'rate or set optimizer.max_grad_norm, in a new workdir'
      )
