"""The device mesh of a config, checked against what is to be split over it."""

import math
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from genre2_jax.devices import sharding
from genre2_jax.experiment.fields import has_table_head
from genre2_jax.objectives.catalog import build_term


def build_mesh(
  config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """The device mesh, checked against the batch sizes and the seeds.

  Args:
    config: resolved.
    devices: to lay out; None: those at hand.

  Raises:
    InputError: they do not split over it.
  """
  mesh = sharding.make_mesh(config.mesh.to_dict(), devices=devices)
  check_mesh(config, mesh)
  return mesh


def check_mesh(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
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
  if has_table_head(config) and config.model.head == 'decoder':
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
