"""A pack: seeds that train side by side, and differ in more than their draws.

Each member, a seed, has factors of its own: of its learning rate, its decay,
its dropout, the scale of its features; and may do without the prior or without
neighbours. They are numbers in the stacked state, so that one program trains
all members, whatever theirs are: TabPack (ICML 2026) and TabM (Gorishniy et al.
2024, arXiv 2410.24210) go from there. Which members predict, and how often, is
chosen when a stage is over (`metrics/mixing.py`).

A number that a member has for itself is a parameter, or a part of the
optimizer's state, whose name begins with `member_`. It is never trained.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Range = tuple[float, float]

_OWN = 'member_'
# A factor in the range of a field comes from a sequence of its own.
_ROOTS = {
  'learning_rate': 2**0.5,
  'dropout': 3**0.5,
  'embedding_scale': 5**0.5,
  'weight_decay': 7**0.5,
}
# How many seeds in a row are alike in what they do without.
_STRIDES = {'prior': 1, 'neighbours': 2}
# Fields whose numbers are a network's.
IN_NETWORKS = ('dropout', 'prior', 'neighbours')
# What a member's factor scales at the start, where it is no number of its own.
_SCALED = {'feature_scale': 'embedding_scale', 'frequencies': 'embedding_scale'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack:
  """How members differ.

  Attributes:
    learning_rate: least and greatest factor of the stage's.
    weight_decay: likewise.
    dropout: likewise, of the network's rate.
    embedding_scale: likewise, of `feature_scale` and of periodic frequencies at
      the start.
    prior: share of the members that start from the prior.
    neighbours: share of those that are mixed with neighbours.
  """

  learning_rate: Range = (1.0, 1.0)
  weight_decay: Range = (1.0, 1.0)
  dropout: Range = (1.0, 1.0)
  embedding_scale: Range = (1.0, 1.0)
  prior: float = 1.0
  neighbours: float = 1.0

  def varies(self, field: str) -> bool:
    """Whether members have a number of their own for a field."""
    return getattr(self, field) != getattr(Pack(), field)

  def factors(self, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Each member's numbers, float32 [S], of the fields that vary.

    A seed's are its own, whoever is beside it. Factors are even in log over
    their range, frac(½ + seed·√prime) of it, so that seeds in a row are spread
    over all of it, which draws are not. Who goes without comes in turn, and is
    never seed 0.
    """
    numbers = np.asarray(seeds, np.float64)
    found = {}
    for field, root in _ROOTS.items():
      if self.varies(field):
        low, high = np.log(getattr(self, field))
        place = (0.5 + numbers * root) % 1
        found[field] = np.exp(low + (high - low) * place)
    for field, stride in _STRIDES.items():
      if self.varies(field):
        group, without = numbers // stride, 1 - getattr(self, field)
        # Those before, rounded: a third of three is one.
        before, after = ((g * without + 1e-9) // 1 for g in (group, group + 1))
        found[field] = after == before
    return {name: x.astype(np.float32) for name, x in found.items()}


def own(field: str) -> str:
  """What a member's own number of a field is called."""
  return _OWN + field


def placed(tree: Any, factors: Mapping[str, Any]) -> Any:
  """A tree of one member's arrays, its own numbers times their factors.

  Args:
    tree: parameters or an optimizer's state, as they begin.
    factors: field -> scalar.
  """
  if not factors:
    return tree

  def scaled(path, x):
    name = _name(path)
    field = _SCALED.get(name, name.removeprefix(_OWN))
    if field not in factors or name == field:
      return x
    return x * factors[field]

  return jax.tree_util.tree_map_with_path(scaled, tree)


def frozen(
  others: Callable[[tuple[str, ...]], bool] | None,
) -> Callable[[tuple[str, ...]], bool]:
  """`Policy.frozen` of a network with numbers of its members' own."""

  def is_frozen(path: tuple[str, ...]) -> bool:
    return path[-1].startswith(_OWN) or (others is not None and others(path))

  return is_frozen


def _name(path):
  return jax.tree_util.keystr(path[-1:], simple=True)
