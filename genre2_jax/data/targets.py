"""Scales of a regression target: z-scores, quantiles, or its own unit."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from genre2_jax.data.features import TargetScaler, mid_ranks
from genre2_jax.data.wording import say
from genre2_jax.errors import InputError


class Unit(NamedTuple):
  """What errors in z are measured in.

  Attributes:
    name: in tables and on axes.
    says: in a sentence, 'errors in ...'.
    suffix: behind a number.
  """

  name: str
  says: str
  suffix: str


# Of z, by the transform that makes it.
UNITS = {
  'standard': Unit('z', 'z (standard deviations of the train target)', ' z'),
  'none': Unit('original unit', "the target's own unit", ''),
  'quantile': Unit('rank', 'ranks in [0, 1] among the train targets', ' rank'),
  'quantile_normal': Unit(
    'normal rank', 'ranks among the train targets, made normal', ' normal rank'
  ),
}
TRANSFORMS = tuple(UNITS)
_MAX_QUANTILES = 1000
# Ranks are kept this far from 0 and 1 before the normal quantile function.
_EDGE = 1e-7


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantileScaler:
  """A target by its rank among the training targets: z = F(y).

  F is the empirical distribution function of train, linear between at most
  1,000 quantiles, and at a value that many rows share the middle of its step
  (as scikit-learn's QuantileTransformer). `normal` puts the normal quantile
  function behind it: z = Φ⁻¹(F(y)), within ±5.2. Beyond the range of train,
  z is that of its nearer end.

  Attributes:
    quantiles: ascending, of F = 0, ..., 1, in the target's unit.
    normal: whether z is normal, otherwise uniform in [0, 1].
  """

  quantiles: tuple[float, ...]
  normal: bool

  @classmethod
  def fit(cls, y: np.ndarray, *, normal: bool) -> Self:
    """Scales of train targets y [n]. Raises InputError if not finite."""
    TargetScaler.fit(y)  # It says what is wrong with y.
    y = np.sort(np.asarray(y, np.float64))
    count = max(2, min(_MAX_QUANTILES, len(y)))
    # In integers: a rank that is off by rounding would part equal targets.
    place, rest = np.divmod(np.arange(count) * (len(y) - 1), count - 1)
    following = y[np.minimum(place + 1, len(y) - 1)]
    share = rest / (count - 1)
    quantiles = np.where(
      rest, y[place] * (1 - share) + following * share, y[place]
    )
    quantiles = np.maximum.accumulate(quantiles)
    return cls(quantiles=tuple(quantiles.tolist()), normal=normal)

  @property
  def is_constant(self) -> bool:
    return self.quantiles[0] == self.quantiles[-1]

  @property
  def is_linear(self) -> bool:
    """Whether z is a straight line of the target."""
    return False

  @property
  def mean(self) -> float:
    """z = (z − mean) / std: quantiles are not scaled again."""
    return 0.0

  @property
  def std(self) -> float:
    return 1.0

  @property
  def low(self) -> float:
    """z of the least train target."""
    return float(self.standardize(self.quantiles[0]))

  @property
  def high(self) -> float:
    """z of the greatest train target."""
    return float(self.standardize(self.quantiles[-1]))

  @property
  def bounds(self) -> tuple[float, float] | None:
    """Of z, of any target."""
    return self.low, self.high

  def standardize(self, y: npt.ArrayLike) -> np.ndarray:
    """z of targets y [...]; of what is not finite itself."""
    y = np.asarray(y, np.float64)
    finite = np.isfinite(y)
    if not finite.all():
      z = y.copy()
      z[finite] = self.standardize(y[finite])
      return z
    edges = np.array(self.quantiles)
    rank = mid_ranks(y, edges)
    if not self.is_constant:
      rank = np.where(y <= edges[0], 0.0, np.where(y >= edges[-1], 1.0, rank))
    if not self.normal:
      return rank
    from scipy import special

    return special.ndtri(np.clip(rank, _EDGE, 1 - _EDGE))

  def restore(self, z: npt.ArrayLike) -> np.ndarray:
    """y of z [...]; beyond the range of train its nearer end."""
    rank = np.asarray(z, np.float64)
    if self.normal:
      from scipy import special

      rank = special.ndtr(rank)
    return np.interp(rank, _ranks(len(self.quantiles)), self.quantiles)

  def to_json(self) -> dict[str, Any]:
    """Plain lists and numbers, for json.dump."""
    return {'quantiles': list(self.quantiles), 'normal': self.normal}

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`. Raises InputError for anything else."""
    quantiles, normal = data.get('quantiles'), data.get('normal')
    if (
      set(data) != {'quantiles', 'normal'}
      or type(normal) is not bool
      or not isinstance(quantiles, list)
      or not all(type(q) in (int, float) for q in quantiles)
      or len(quantiles) < 2
      or not np.isfinite(quantiles).all()
      or (np.diff(quantiles) < 0).any()
    ):
      raise InputError(
        'saved QuantileScaler: it needs normal and ascending quantiles; save '
        'it again'
      )
    return cls(quantiles=tuple(map(float, quantiles)), normal=normal)


@dataclasses.dataclass(frozen=True)
class JointScaler:
  """The scales of k targets, each its own: arrays [..., k].

  Attributes:
    names: of the targets.
    parts: their scalers.
  """

  names: tuple[str, ...]
  parts: tuple[TargetScaler | QuantileScaler, ...]

  @property
  def is_constant(self) -> bool:
    """Whether all of them are."""
    return all(part.is_constant for part in self.parts)

  @property
  def is_linear(self) -> bool:
    """Whether z is a straight line of the target; they are of one kind."""
    return self.parts[0].is_linear

  def standardize(self, y: npt.ArrayLike) -> np.ndarray:
    """z of targets y [..., k]."""
    columns = np.moveaxis(np.asarray(y, np.float64), -1, 0)
    z = [p.standardize(x) for p, x in zip(self.parts, columns, strict=True)]
    return np.stack(z, axis=-1)

  def restore(self, z: npt.ArrayLike) -> np.ndarray:
    """y of z [..., k]."""
    columns = np.moveaxis(np.asarray(z, np.float64), -1, 0)
    y = [p.restore(x) for p, x in zip(self.parts, columns, strict=True)]
    return np.stack(y, axis=-1)

  def to_json(self) -> dict[str, Any]:
    """Plain lists and numbers, for json.dump."""
    parts = [part.to_json() for part in self.parts]
    return {'names': list(self.names), 'parts': parts}

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`. Raises InputError for anything else."""
    names, parts = data.get('names'), data.get('parts')
    if (
      not isinstance(names, list)
      or not isinstance(parts, list)
      or len(names) != len(parts)
      or not all(isinstance(name, str) for name in names)
      or not all(isinstance(part, Mapping) for part in parts)
    ):
      raise InputError(
        'saved JointScaler: it needs a name and a scaler for each target; save '
        'it again'
      )
    return cls(tuple(names), tuple(map(_one_from_json, parts)))


Scaler = TargetScaler | QuantileScaler
AnyScaler = Scaler | JointScaler


def fit_all(
  transform: str, y: np.ndarray, names: tuple[str, ...] = ()
) -> AnyScaler:
  """`fit` of train targets y [n], or of each column of y [n, k]."""
  if y.ndim == 1:
    return fit(transform, y)
  return JointScaler(names, tuple(fit(transform, column) for column in y.T))


def parts_of(scaler: AnyScaler) -> tuple[Scaler, ...]:
  """Of the targets, one by one."""
  return scaler.parts if isinstance(scaler, JointScaler) else (scaler,)


def names_of(scaler: AnyScaler) -> tuple[str, ...]:
  """Of several targets; () of one."""
  return scaler.names if isinstance(scaler, JointScaler) else ()


def fit(transform: str, y: np.ndarray) -> Scaler:
  """The scaler of train targets y [n] that a config names.

  Args:
    transform: one of `TRANSFORMS`: 'standard' for z-scores, 'none' for the
      target's own unit, 'quantile' for ranks in [0, 1], 'quantile_normal'.
    y: finite.

  Raises:
    InputError: y is no column of finite numbers, or most of them fall together
      in float32.
  """
  scaler: Scaler
  if transform == 'standard':
    scaler = TargetScaler.fit(y)
  elif transform == 'none':
    TargetScaler.fit(y)
    low, high = float(np.min(y)), float(np.max(y))
    scaler = TargetScaler(mean=0.0, std=1.0, low=low, high=high)
  else:
    scaler = QuantileScaler.fit(y, normal=transform == 'quantile_normal')
  _check_resolution(scaler, y, transform)
  return scaler


def _check_resolution(scaler: Scaler, y: np.ndarray, transform: str) -> None:
  """Refuses, or says, that different targets are one float32 of z.

  Networks are trained on float32. A few that fall together among many are too
  close to matter.
  """
  numbers = np.unique(np.asarray(y, np.float64))
  with np.errstate(over='ignore'):
    z = np.asarray(scaler.standardize(numbers), np.float32)
  kept = len(np.unique(z))
  if kept >= 0.99 * len(numbers) - 1:
    return
  said = (
    f'target: {len(numbers)} different training values are {kept} in float32 '
    f'with data.transform={transform}'
  )
  if transform == 'none' and 2 * kept < len(numbers):
    raise InputError(f'{said}; set data.transform=standard')
  if scaler.is_linear:
    other = 'standard' if transform == 'none' else 'quantile'
    say(f'{said}; data.transform={other} may tell them apart')


def from_json(data: Mapping[str, Any]) -> AnyScaler:
  """The scaler that `to_json` of any kind wrote. Raises InputError."""
  if 'parts' in data:
    return JointScaler.from_json(data)
  return _one_from_json(data)


def _one_from_json(data: Mapping[str, Any]) -> Scaler:
  kind = QuantileScaler if 'quantiles' in data else TargetScaler
  return kind.from_json(data)


def _ranks(count):
  return np.linspace(0, 1, count)
