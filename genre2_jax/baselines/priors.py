"""A baseline's distribution that is kept: fitted once, asked for new rows.

What a decoder starts from has to be there as long as the decoder: trees lie in
their library's own format beside the errors that they made out of fold, as JSON
and arrays. Reading them runs no code.
"""

import dataclasses
import functools
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from genre2_jax.baselines import distributions, frames, packages, points
from genre2_jax.baselines.distributions import RESIDUALS, Errors
from genre2_jax.baselines.frames import Columns
from genre2_jax.data.tables import Rows, Table
from genre2_jax.data.targets import Scaler
from genre2_jax.errors import InputError, one_line
from genre2_jax.files import atomic
from genre2_jax.metrics import points as metrics

# Of a run, in its workdir.
FOLDER = 'prior'
# Files of it; the first is written last, and says that all are there.
_JSON, _ARRAYS, _TRAIN = 'prior.json', 'prior.npz', 'train.npz'
_TREES = 'trees'
# Rows whose distributions are made at once.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
  """A baseline of trees with the density of its out-of-fold errors.

  Attributes:
    name: of `NAMES`.
    columns: how its trees read rows.
    trees: in the library's own format; b'' where there was nothing to learn.
    center: z-score that is predicted then.
    errors: out of fold.
    values: [K], z-scores of the numbers.
    train_target: [n], z-scores of the rows that it was fitted to.
    train_centers: [n], what the folds without a row say of it.
  """

  name: str
  columns: Columns
  trees: bytes
  center: float
  errors: Errors
  values: np.ndarray
  train_target: np.ndarray
  train_centers: np.ndarray

  @classmethod
  def fit(
    cls,
    name: str,
    table: Table,
    scaler: Scaler,
    values: np.ndarray,
    *,
    seed: int,
    num_threads: int | None = None,
    interrupts: Any = (),
  ) -> Self:
    """Fits trees to all train rows, and to all but those of each fold.

    Args: as of `distributions.fit_predict`; the targets of the test rows are
      not read.

    Raises:
      InputError: an unknown name or a missing package.
      InterruptedRunError: asked to leave.
    """
    check_name(name)
    points_name = name.removesuffix(RESIDUALS)
    z = scaler.standardize(table.train.known_target)
    options: dict[str, Any] = {
      'seed': seed,
      'num_threads': num_threads or os.cpu_count() or 1,
      'interrupts': interrupts,
    }
    trees, center, centers = b'', 0.0, np.zeros(len(z))
    if distributions.has_folds(z):
      model = points.fit_model(points_name, table, scaler, **options)
      if model is not None:
        trees = _FORMATS[points_name].write(model)
      center = float(metrics.mean(z, table.train.weight))
      centers = distributions.out_of_fold(points_name, table, scaler, **options)
    return cls(
      name=name,
      columns=Columns.fit(table.train),
      trees=trees,
      center=center,
      errors=Errors.smoothed(z - centers, table.train.weight),
      values=np.asarray(values, np.float64),
      train_target=z,
      train_centers=centers,
    )

  def log_p(self, rows: Rows) -> np.ndarray:
    """Of the numbers, for rows that it was not fitted to: float32 [n, K]."""
    centers = np.full(len(rows), self.center)
    if self.trees and len(rows):
      centers = self._predict(self.columns.frame(rows))
    return self._around(centers)

  def train_log_p(self) -> np.ndarray:
    """The same of the train rows, each out of fold."""
    return self._around(self.train_centers)

  def _around(self, centers):
    blocks = [
      distributions.on_grid(part, self.errors.around(part), self.values).log_p
      for part in np.array_split(centers, max(1, -(-len(centers) // _BLOCK)))
    ]
    return np.concatenate(blocks).astype(np.float32)

  @functools.cached_property
  def _predict(self) -> Callable[[pd.DataFrame], np.ndarray]:
    form = _FORMATS[self.name.removesuffix(RESIDUALS)]
    packages.require(form.package)
    try:
      model = form.read(self.trees)
    except Exception as error:  # Those of the libraries share no base class.
      raise InputError(
        f'the trees of {self.name} are damaged ({one_line(error)}): train again'
      ) from error
    counts = self.columns.counts

    def predict(frame: pd.DataFrame) -> np.ndarray:
      found = model.predict(form.inputs(frame, counts))
      return np.asarray(found, np.float64).reshape(-1)

    return predict

  # ------------------------------------------------------------------ files

  def files(self) -> dict[str, bytes]:
    """{name: content}; that which says it is whole comes last."""
    fields = {
      'name': self.name,
      'center': self.center,
      'labels': self.columns.labels,
      'varying': self.columns.varying,
    }
    arrays = {**self.errors._asdict(), 'values': self.values}
    text = json.dumps(atomic.plain(fields), indent=2, allow_nan=False) + '\n'
    train = {'target': self.train_target, 'centers': self.train_centers}
    return {
      _TREES: self.trees,
      _TRAIN: _npz(train),
      _ARRAYS: _npz(arrays),
      _JSON: text.encode(),
    }

  def write(self, folder: str | os.PathLike[str]) -> None:
    """Writes its files."""
    for name, content in self.files().items():
      atomic.write_bytes(pathlib.Path(folder, name), content)

  @classmethod
  def read(cls, folder: str | os.PathLike[str]) -> Self:
    """What `write` wrote.

    Raises:
      InputError: it is damaged, not whole or not there.
    """
    folder = pathlib.Path(folder)
    try:
      fields = json.loads((folder / _JSON).read_text(encoding='utf-8'))
      arrays = _arrays(folder / _ARRAYS)
      train = _arrays(folder / _TRAIN)
      check_name(fields['name'])
      return cls(
        name=fields['name'],
        columns=Columns(
          tuple(tuple(map(str, labels)) for labels in fields['labels']),
          tuple(map(bool, fields['varying'])),
        ),
        trees=(folder / _TREES).read_bytes(),
        center=float(fields['center']),
        errors=Errors(arrays['at'], arrays['below']),
        values=arrays['values'],
        train_target=train['target'],
        train_centers=train['centers'],
      )
    except InputError:
      raise
    except Exception as error:  # Those of numpy and zipfile share no base.
      raise InputError(
        f'{folder} is damaged ({one_line(error)}): train again'
      ) from error


def check_name(name: str) -> None:
  """Raises InputError unless a baseline can be kept, and its package is there.

  scikit-learn's have no format but pickles, which run code.
  """
  if name not in NAMES:
    raise InputError(
      f'{name!r} is no baseline that can be kept: choose from '
      f'{", ".join(NAMES)}'
    )
  packages.require(_FORMATS[name.removesuffix(RESIDUALS)].package)


def is_written(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder has a whole one."""
  return pathlib.Path(folder, _JSON).exists()


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
  file = io.BytesIO()
  np.savez_compressed(file, allow_pickle=False, **arrays)
  return file.getvalue()


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  with np.load(path, allow_pickle=False) as arrays:
    return {name: arrays[name] for name in arrays.files}


# -------------------------------------------------------------------- formats


def _write_catboost(model: Any) -> bytes:
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'trees.cbm')
    model.save_model(path, format='cbm')
    return path.read_bytes()


def _read_catboost(content: bytes) -> Any:
  import catboost

  return catboost.CatBoostRegressor().load_model(blob=content)


def _write_xgboost(model: Any) -> bytes:
  return bytes(model.get_booster().save_raw('ubj'))


def _read_xgboost(content: bytes) -> Any:
  import xgboost

  model = xgboost.XGBRegressor(enable_categorical=True)
  model.load_model(bytearray(content))
  return model


class _Format(NamedTuple):
  """How the trees of a library are kept.

  package: what it needs.
  write: model -> bytes.
  read: bytes -> model.
  inputs: (frame, number of labels of each column of codes) -> what it reads.
  """

  package: str
  write: Callable[[Any], bytes]
  read: Callable[[bytes], Any]
  inputs: Callable[[pd.DataFrame, Mapping[str, int]], pd.DataFrame]


_FORMATS = {
  'catboost': _Format(
    'catboost', _write_catboost, _read_catboost, lambda frame, counts: frame
  ),
  'xgboost': _Format(
    'xgboost', _write_xgboost, _read_xgboost, frames.categorical
  ),
}
NAMES = tuple(f'{name}{RESIDUALS}' for name in _FORMATS)
