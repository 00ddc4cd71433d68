"""The loop of a stage: dispatches, validations and checkpoints until it ends.

Every stage of every run goes through `train`, and so do language models that
are pretrained on texts. Seeds are stacked and go through one program.
Several processes run the loop side by side; process 0 alone writes and talks.
"""

import contextlib
import dataclasses
import logging
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from genre2_jax.data.batches import Examples
from genre2_jax.devices import memory, processes, profiling
from genre2_jax.errors import InterruptedRunError, NonFiniteError
from genre2_jax.files import metrics_log
from genre2_jax.objectives.objective import StageParams
from genre2_jax.policy import Params
from genre2_jax.training import train_state
from genre2_jax.training.checkpoints import Frozen, StageCheckpoints
from genre2_jax.training.initialization import Trainable, abstract_state
from genre2_jax.training.programs import Programs, compile_stage
from genre2_jax.training.progress import Progress
from genre2_jax.training.stages import Stage
from genre2_jax.training.step import train_step
from genre2_jax.training.train_state import Counters, TrainState

_logger = logging.getLogger('genre2_jax')

# A dispatch aims at this long: short enough to leave within seconds of a
# signal, long enough that the host's part in it does not show.
_DISPATCH_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What the loops of a run's stages share.

  Attributes:
    workdir: where its files go.
    seeds: S integers.
    mesh: the devices.
    batch_size: B, rows of a step.
    block_size: rows that are validated at once.
    checkpoint: options of `Checkpoints`.
    frozen: where parameters are that no stage trains.
    profile_steps: the first to trace and the first after them, or None.
    steps_per_dispatch: steps that the device takes before the host looks, at
      most those left of the epoch; 0: chosen as it goes, for half a second.
    device_share: of a device's memory, that training rows may take.
    interrupts: true once the run is asked to leave, in all processes.
    verbose: 0: shows no progress.
    need: told what the programs need.
  """

  workdir: pathlib.Path
  seeds: tuple[int, ...]
  mesh: jax.sharding.Mesh
  batch_size: int
  block_size: int
  checkpoint: Mapping[str, Any]
  frozen: Frozen
  profile_steps: tuple[int, int] | None
  steps_per_dispatch: int
  device_share: float
  interrupts: object
  verbose: int
  need: memory.Need


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
  """What a stage ends with.

  Attributes:
    params: the best parameters, stacked [S, ...]; None where one is frozen.
    frozen: the parameters that are never trained, or None.
    out_of_time: whether the clock ended it.
  """

  params: StageParams
  frozen: Params
  out_of_time: bool = False

  def merged(self) -> StageParams:
    """All parameters in one tree."""
    return train_state.merge(self.params, self.frozen)


def train(
  stage: Stage,
  model: Trainable,
  examples: Mapping[str, Examples],
  start: Callable[[], Params],
  options: Options,
  *,
  seconds: float = math.inf,
) -> Trained:
  """Trains a stage, or what is left of it.

  Args:
    stage: with its number of epochs settled.
    model: what is trained.
    examples: of the splits 'train' and 'val', on the host.
    start: gives the network's stacked parameters, or None to draw them; asked
      before the first step only.
    options: of the run.
    seconds: it may take, compiling included; then it is validated as it is.

  Raises:
    InputError: the state does not split over the mesh, or the frozen
      parameters that its checkpoints need are damaged.
    InterruptedRunError: progress is saved; the same call goes on.
    NonFiniteError: the last good checkpoint is kept.
  """
  ends = time.monotonic() + seconds
  out_of_time = False
  abstract = abstract_state(
    stage, model, seeds=options.seeds, mesh=options.mesh
  )
  options.need.of_state(abstract)
  with (
    StageCheckpoints(
      (options.workdir / 'checkpoints' / stage.name).absolute(),
      options.frozen,
      **options.checkpoint,
    ) as checkpoints,
    Progress(stage.name, verbose=options.verbose) as progress,
  ):
    # Resuming: 1. the newest checkpoint that is whole, or the beginning;
    # 2. the log without what comes after it; 3. the same loop as ever.
    state = checkpoints.restore(abstract)
    step = -1
    if state is not None:
      at = _counters(state)
      if stage.is_finished(at):
        return Trained(params=state.best_params, frozen=state.frozen)
      step = int(at.step[0])
    if processes.is_first():
      metrics_log.truncate(options.workdir, stage.name, step)
    with processes.at_once(options.interrupts, f'compiling stage {stage.name}'):
      progress.compiling()
      programs = _compile(stage, model, examples, options)
      if state is None:
        state = programs.init(start())
    with (
      _metric_writer(options) as writer,
      _profile(stage, programs, options) as profile,
    ):
      at = _counters(state)
      progress.start(
        max(step, 0),
        programs.num_steps,
        stage.epochs - max(int(at.epoch[0]), 0),
      )
      if step < 0:
        state = _validate(stage, programs, state, options, writer, progress)
        at = _counters(state)
      chunk = options.steps_per_dispatch or 1
      while not stage.is_finished(at):
        now = int(at.step[0])
        if options.interrupts:
          checkpoints.save(now, state)
          raise InterruptedRunError(
            f'interrupted at step {now} of stage {stage.name}, saved'
          )
        left = programs.end_of_epoch(int(at.epoch[0])) - now
        num_steps = min(chunk, left, profile.limit(now))
        profile.begin(now)
        began = time.monotonic()
        state = programs.run(state, num_steps)
        at = _counters(state)  # Waits for the device.
        seconds = time.monotonic() - began
        profile.end(int(at.step[0]), programs.compiled.as_text)
        _check_finite(at, stage, options.seeds)
        progress.advanced(num_steps)
        out_of_time = _is_over(ends)
        if num_steps == left or out_of_time:
          state = _validate(stage, programs, state, options, writer, progress)
          at = _counters(state)
        if out_of_time:
          break
        checkpoints.save_if_due(int(at.step[0]), state)
        if not options.steps_per_dispatch:
          chunk = processes.from_first(
            max(1, min(2 * chunk, int(num_steps * _DISPATCH_SECONDS / seconds)))
          )
      checkpoints.save(int(at.step[0]), state)
  if processes.is_first():
    _say_unmoved(options.workdir, stage.name)
  return Trained(
    params=state.best_params, frozen=state.frozen, out_of_time=out_of_time
  )


def _is_over(ends: float) -> bool:
  """Whether the time is up, on the clock of process 0."""
  if ends == math.inf:
    return False
  return bool(processes.from_first(int(time.monotonic() >= ends)))


def _counters(state: TrainState) -> Counters:
  return processes.fetch(train_state.counters(state))


def _compile(
  stage: Stage,
  model: Trainable,
  examples: Mapping[str, Examples],
  options: Options,
) -> Programs:
  began = time.monotonic()
  programs = compile_stage(
    train_step,
    stage,
    model,
    examples,
    seeds=options.seeds,
    batch_size=options.batch_size,
    block_size=options.block_size,
    mesh=options.mesh,
    device_share=options.device_share,
  )
  options.need.of_program(programs.compiled)
  _logger.info(
    'compiled in %.1f s: per device %s of state and rows, %s beside',
    time.monotonic() - began,
    memory.readable(options.need.arguments),
    memory.readable(options.need.temporaries),
  )
  return programs


def _validate(stage, programs, state, options, writer, progress):
  """Ends an epoch: validates, keeps the best, writes one record per seed."""
  state, metrics = programs.validate(state)
  metrics, at = processes.fetch((metrics, train_state.counters(state)))
  for index, seed in enumerate(options.seeds if writer else ()):
    writer.write(
      stage=stage.name,
      seed=seed,
      epoch=int(at.epoch[index]),
      step=int(at.step[index]),
      seconds=round(progress.seconds, 3),
      **{
        name: float(values[index])
        for name, values in metrics.items()
        # Before the first step there is nothing to say of training.
        if at.epoch[index] > 0 or not name.startswith('train/')
      },
      best_epoch=int(at.best_epoch[index]),
    )
  progress.validated(
    int(at.epoch[0]),
    at.best_epoch.tolist(),
    {name: float(values.mean()) for name, values in metrics.items()},
  )
  return state


def _say_unmoved(workdir, name):
  said = metrics_log.kept_start(metrics_log.read_intact(workdir), name)
  if said:
    _logger.warning('%s', said)


def _metric_writer(options):
  """Process 0's writer of metrics.jsonl; None for the others."""
  if not processes.is_first():
    return contextlib.nullcontext()
  return metrics_log.MetricWriter(options.workdir, len(options.seeds))


def _profile(stage, programs, options):
  return profiling.Profile(
    options.profile_steps,
    options.workdir,
    stage.name,
    programs.num_steps,
    processes.is_first(),
  )


def _check_finite(at, stage, seeds):
  for seed, step in zip(seeds, at.bad_step, strict=True):
    if step >= 0:
      raise NonFiniteError(
        f'the loss of stage {stage.name}, seed {seed} is not finite at step '
        f'{step}: the last checkpoint before it is kept; lower the learning '
        'rate or set optimizer.max_grad_norm, in a new workdir'
      )
