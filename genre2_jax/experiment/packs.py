"""How the members of a run differ: `config.pack`."""

from typing import Any

from ml_collections import ConfigDict

from genre2_jax.errors import InputError
from genre2_jax.experiment.fields import is_table
from genre2_jax.models.pack import Pack

# Their least and greatest factor.
_RANGES = ('learning_rate', 'weight_decay', 'dropout', 'embedding_scale')
# Shares of members.
_SHARES = ('prior', 'neighbours')


def pack_of(config: ConfigDict) -> Pack:
  """The `Pack` that a config describes."""
  fields = config.pack
  ranges: dict[str, Any] = {
    name: tuple(map(float, fields[name])) for name in _RANGES
  }
  return Pack(**ranges, **{name: fields[name] for name in _SHARES})


def check_pack(config: ConfigDict) -> None:
  """Raises InputError where members could not be what the config says."""
  fields = config.pack
  for name in _RANGES:
    ends = fields[name]
    if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
      raise InputError(
        f'pack.{name}={ends}: give the least and the greatest factor, both '
        'positive'
      )
  for name in _SHARES:
    if not 0 <= fields[name] <= 1:
      raise InputError(f'pack.{name}={fields[name]}: give a share from 0 to 1')
  pack, model = pack_of(config), config.model
  rate = model.dropout * fields.dropout[1]
  if rate >= 1:
    raise InputError(
      f'pack.dropout={fields.dropout} times model.dropout={model.dropout} must '
      'stay below 1'
    )
  has_scale = model.feature_scale or model.numeric_embedding == 'periodic'
  reads_table = is_table(config)
  for name, is_there, needs in (
    ('dropout', reads_table and model.head != 'decoder', 'another model.head'),
    (
      'embedding_scale',
      reads_table and has_scale,
      'model.feature_scale or model.numeric_embedding=periodic',
    ),
    ('weight_decay', config.optimizer.name == 'adamw', 'optimizer.name=adamw'),
    ('prior', bool(model.prior), 'model.prior'),
    ('neighbours', bool(model.neighbours), 'model.neighbours'),
  ):
    if pack.varies(name) and not is_there:
      raise InputError(
        f'pack.{name}={fields[name]} finds nothing to differ in: set {needs}'
      )
  if fields.chosen and not model.marginal:
    raise InputError(
      'pack.chosen=True chooses among the members and the training targets: '
      'set model.marginal=True'
    )
