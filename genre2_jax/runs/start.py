"""What a run starts from: another run's weights, and a prior."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.baselines import priors
from genre2_jax.data.tables import Table
from genre2_jax.devices import processes
from genre2_jax.errors import InputError
from genre2_jax.experiment.experiment import Prepared
from genre2_jax.models.neighbours import memory_of


def write_prior(
  experiment: Prepared, workdir: pathlib.Path, interrupts: object
) -> None:
  """Fits what the network starts from and keeps it, once in a run's life."""
  folder = workdir / priors.FOLDER
  if priors.is_written(folder):
    return
  prior: Any = experiment.model.prior  # Of the source, if there is one.
  table = experiment.table
  assert isinstance(table, Table)
  if experiment.source is None:
    (target,) = experiment.model.by_target()
    prior = priors.Prior.fit(
      experiment.fields['model']['prior'],
      table,
      target.scaler,
      target.codec.grid()[0],
      seed=experiment.seeds[0],
      interrupts=interrupts,
    )
  prior.write(folder)


def with_prior(experiment: Prepared, workdir: pathlib.Path) -> Prepared:
  """The experiment, its model with the prior of the workdir."""
  prior = priors.Prior.read(workdir / priors.FOLDER)
  model = dataclasses.replace(experiment.model, prior=prior)
  return dataclasses.replace(experiment, model=model)


def given_weights(experiment: Prepared) -> dict[str, Any] | None:
  """Parameters of the source's first stage, for this run's seeds, or None."""
  source, seeds = experiment.source, experiment.seeds
  if source is None:
    return None
  if len(source.seeds) not in (1, len(seeds)):
    raise InputError(
      f'init_from={source.workdir} has {len(source.seeds)} seeds, this run '
      f'{len(seeds)}: set num_seeds to that'
    )
  params = source.weights(source.stages[0], experiment.mesh)
  if experiment.model.looks_up:
    _check_memory(experiment, memory_of(params['policy']))
  if experiment.model.prior is not None:
    _check_prior(experiment)
  if len(source.seeds) < len(seeds):
    # Compiled: no process has all of what is sharded over several.
    repeat = jax.jit(lambda x: jnp.repeat(x, len(seeds), 0))
    params = jax.tree.map(repeat, params)
  return params


def _check_memory(experiment, memory):
  """Raises InputError unless the rows that are looked up are those at hand.

  A row that is trained on must not find itself among them.
  """
  model, train = experiment.model, experiment.table.train
  places = model.codec.index(model.scaler.standardize(train.known_target))
  known = processes.fetch(memory['places'])[0]
  alike = np.array_equal(known[known >= 0], places)
  if alike and ('log_weight' in memory or train.weight is not None):
    weights = processes.fetch(memory.get('log_weight', memory['places']))[0]
    own = np.zeros(len(places)) if train.weight is None else train.weight
    alike = 'log_weight' in memory and np.allclose(
      np.exp(weights[: len(places)]), own, rtol=1e-5
    )
  if not alike:
    raise InputError(
      f'init_from={experiment.source.workdir} looks up training rows, and they '
      f'are not those of {experiment.table.name}, or weigh otherwise: train '
      'from scratch'
    )


def _check_prior(experiment):
  """Raises InputError unless the prior's training rows are those at hand.

  A row must not be told what trees say that were fitted to it.
  """
  model, train = experiment.model, experiment.table.train
  z = model.scaler.standardize(train.known_target)
  if not np.array_equal(model.prior.train_target, z):
    raise InputError(
      f'init_from={experiment.source.workdir} has a prior of training rows '
      f'that are not those of {experiment.table.name}: train from scratch'
    )
