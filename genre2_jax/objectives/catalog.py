"""Every objective by name: what a config can ask for."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from genre2_jax.errors import near_hint
from genre2_jax.objectives import grid, point, requirements, sequence, token
from genre2_jax.objectives.advantages import ADVANTAGES
from genre2_jax.objectives.requirements import Requirements

Loss = Callable[..., Any]

# By the level at which they look at a number.
TOKEN: dict[str, Callable[..., Loss]] = {
  'ce': token.CrossEntropy,
  'ntl_mse': token.NTLMSE,
  'ntl_was': token.NTLWAS,
  'dist2': token.DIST2,
  'soft_ce': token.SoftCrossEntropy,
}
GRID: dict[str, Callable[..., Loss]] = {
  'exact': grid.ExpectedReward,
  'raft': grid.RAFT,
  'mbr': grid.MBR,
  'log_loss': grid.LogLoss,
  'crps': grid.CRPS,
}
SEQUENCE: dict[str, Callable[..., Loss]] = {
  **{
    name: functools.partial(sequence.PolicyGradient, name)
    for name in ADVANTAGES
  },
  'ppo': sequence.PPO,
  'dar': sequence.DAR,
  'real': sequence.REAL,
  'expert': sequence.Expert,
  'kl': sequence.KL,
}
POINT: dict[str, Callable[..., Loss]] = {'mse': point.SquaredError}
LEVELS = {'token': TOKEN, 'grid': GRID, 'sequence': SEQUENCE, 'point': POINT}


class Term(NamedTuple):
  """One part of an objective.

  Attributes:
    name: of the catalog.
    weight: that it is multiplied by.
    loss: with its options.
    level: 'token', 'grid', 'sequence' or 'point'.
    subset: grid level: so many evenly spaced numbers instead of all; 0: all.
    learnable: 'raft': trains the numbers that the grid's rows count as.
  """

  name: str
  weight: float
  loss: Loss
  level: str
  subset: int = 0
  learnable: bool = False

  @property
  def requires(self) -> Requirements:
    """What the loss declares."""
    return requirements.of(self.loss)

  @property
  def enumerates(self) -> bool:
    """Whether it looks at the grid that the `Enumeration` says."""
    return self.level == 'grid' and not self.subset

  @property
  def in_reward(self) -> bool:
    """Whether it is taken from the reward instead of added to the loss."""
    return getattr(self.loss, 'in_reward', False)


def build_term(
  name: str, weight: float = 1.0, options: Mapping[str, Any] | tuple = ()
) -> Term:
  """A `Term` from what a config says.

  Args:
    name: of an objective.
    weight: positive.
    options: mapping of the loss's fields, and of `subset` and `learnable`.

  Raises:
    ValueError: one line: no such objective, option or value.
  """
  options = dict(options)
  catalog = {n: level for level, names in LEVELS.items() for n in names}
  if name not in catalog:
    raise ValueError(
      f'objective {name!r} is not one of {", ".join(catalog)}'
      f'{near_hint(name, catalog)}'
    )
  if not isinstance(weight, int | float) or not 0 < weight < float('inf'):
    raise ValueError(f'objective {name}: weight {weight!r} must be positive')
  level = catalog[name]
  more = {}
  if level == 'grid':
    more['subset'] = options.pop('subset', 0)
    if type(more['subset']) is not int or more['subset'] < 0:
      raise ValueError(f'objective {name}: subset must be 0 or more numbers')
  if name == 'raft':
    more['learnable'] = options.pop('learnable', False)
    if type(more['learnable']) is not bool:
      raise ValueError(f'objective {name}: learnable must be True or False')
    if more['learnable'] and more['subset']:
      raise ValueError(
        f'objective {name}: learnable trains every number: drop subset'
      )
  build: Any = LEVELS[level][name]
  fields = {
    f.name: f for f in dataclasses.fields(getattr(build, 'func', build))
  }
  if level == 'sequence':
    fields.pop('advantage', None)
  for option, value in options.items():
    if option not in fields:
      known = ', '.join([*fields, *more]) or 'none'
      raise ValueError(
        f'objective {name} has no option {option!r}: its options are {known}'
      )
    kind = type(fields[option].default)
    if kind is float and type(value) is int:
      options[option] = float(value)
    elif type(value) is not kind:
      raise ValueError(
        f'objective {name}: {option}={value!r} must be a {kind.__name__}'
      )
  try:
    loss = build(**options)
  except ValueError as error:
    raise ValueError(f'objective {name}: {error}') from None
  return Term(name, float(weight), loss, level, **more)
