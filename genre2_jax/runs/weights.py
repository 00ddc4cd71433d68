"""The weights that a stage ends with: `weights/<stage>/`, enough to predict.

The best parameters alone, without an optimizer's moments: checkpoints are for
going on, and may be deleted once a run is finished. What a network never trains
lies in `weights/frozen/`, once for all stages. They are Orbax's files, so that
every process writes and reads the part that its devices hold, and a fingerprint
finds damage. What is frozen of a pretrained language model stays where it is:
`weights/frozen.json` has its fingerprint.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from genre2_jax.devices import processes
from genre2_jax.errors import InputError
from genre2_jax.experiment.experiment import Experiment
from genre2_jax.models import language_model
from genre2_jax.training import stages, train_state
from genre2_jax.training.checkpoints import (
  Checkpoints,
  Frozen,
  KeptFrozen,
  ReferredFrozen,
  StageCheckpoints,
  restored,
)
from genre2_jax.training.initialization import abstract_state
from genre2_jax.training.stages import Stage

FOLDER = 'weights'
# What a pretrained language model is called before it is trained.
ZERO_SHOT = 'zero_shot'
_FROZEN = 'frozen'


def frozen_files(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
  """What a workdir has of the parameters that no stage trains."""
  folder = pathlib.Path(workdir).absolute() / FOLDER
  kept = sorted((folder / _FROZEN).rglob('*'))
  return [path for path in (*kept, _reference(folder)) if path.is_file()]


def frozen_of(
  workdir: str | os.PathLike[str],
  experiment: Experiment,
  mesh: jax.sharding.Mesh,
) -> Frozen:
  """Where the parameters are that no stage trains.

  In the workdir, or with the pretrained weights that the run began with; runs
  from before that was so have those in the workdir too.
  """
  folder = pathlib.Path(workdir).absolute() / FOLDER
  is_kept = processes.from_first((folder / _FROZEN).exists())
  if is_kept or not experiment.pretrained:
    return KeptFrozen(folder / _FROZEN)

  def read():
    params = {'policy': pretrained(experiment, experiment.seeds, mesh)}
    return train_state.split(params, experiment.model.network.frozen)[1]

  return ReferredFrozen(_reference(folder), experiment.pretrained, read)


def _reference(folder):
  return folder / f'{_FROZEN}.json'


def write(
  workdir: str | os.PathLike[str], stage_name: str, params: dict[str, Any]
) -> None:
  """Writes a stage's best parameters, as `Trained.params` has them.

  Args:
    workdir: of the run.
    stage_name: of the stage.
    params: stacked [S, ...], None where a parameter is frozen.
  """
  folder = pathlib.Path(workdir).absolute() / FOLDER / stage_name
  with Checkpoints(folder, keep=1) as saved:
    saved.save(0, _predicting(params))


def read(
  workdir: str | os.PathLike[str],
  stage: Stage,
  experiment: Experiment,
  mesh: jax.sharding.Mesh,
) -> dict[str, Any] | None:
  """A stage's best parameters, whole, stacked [S, ...]; None if not there.

  Of a run from before there were weights, those in its last checkpoint.

  Args:
    workdir: of the run.
    stage: whose they are.
    experiment: of the run.
    mesh: where they will live.
  """
  abstract = abstract_state(
    stage, experiment.model, seeds=experiment.seeds, mesh=mesh
  )
  workdir = pathlib.Path(workdir).absolute()
  folder = workdir / FOLDER / stage.name
  if not processes.from_first(folder.exists()):
    return _of_checkpoint(workdir, stage, abstract)
  trained = restored(folder, _predicting(abstract.best_params))
  if trained is None or abstract.frozen is None:
    return trained
  frozen = frozen_of(workdir, experiment, mesh).restore(abstract.frozen)
  return None if frozen is None else train_state.merge(trained, frozen)


def is_written(workdir: str | os.PathLike[str], stage_name: str) -> bool:
  """Whether a stage came to its end: the same in every process."""
  folder = pathlib.Path(workdir) / FOLDER / stage_name
  return bool(processes.from_first(folder.exists()))


def pretrained(
  experiment: Experiment, seeds: Sequence[int], mesh: jax.sharding.Mesh
) -> Any:
  """A pretrained network's parameters [S, ...]; None without one."""
  if not experiment.pretrained:
    return None
  return language_model.load_params(
    experiment.pretrained,
    experiment.model.network,
    experiment.model.example_inputs(),
    stages.seed_keys(seeds, 'pretrain'),
    mesh,
  )


def _predicting(params):
  """What predictions look at: a critic served the training alone."""
  return {name: x for name, x in params.items() if name != 'critic'}


def _of_checkpoint(workdir, stage, abstract):
  folder = workdir / 'checkpoints' / stage.name
  if not processes.from_first(folder.exists()):
    return None
  beside = folder.with_name(f'{folder.name}_frozen')
  kept = KeptFrozen(beside)
  with StageCheckpoints(folder, kept, read_only=True) as checkpoints:
    state = checkpoints.restore(abstract)
  if state is None:
    return None
  return _predicting(train_state.merge(state.best_params, state.frozen))


def missing(workdir: str | os.PathLike[str], stage_name: str) -> InputError:
  """What to say where `read` finds nothing."""
  return InputError(
    f'{pathlib.Path(workdir) / FOLDER / stage_name} holds no whole weights: '
    'train again'
  )
