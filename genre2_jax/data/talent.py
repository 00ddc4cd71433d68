"""Tasks in the folder format of the TALENT benchmark.

A folder holds `{N,C,y}_{train,val,test}.npy` (N numeric features, C
categories, y target, [n], or of several targets [n, k], which `target` in the
info may name in a list; N or C may be absent) and `info.json`. Published C are
pickled object arrays. They are read here without letting the pickle reach
any function outside this file.
"""

import contextlib
import io
import json
import math
import os
import pathlib
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from genre2_jax.data import tables
from genre2_jax.data.reading import path_of
from genre2_jax.errors import InputError, suggestion


def load(
  root: str | os.PathLike, name: str, *, non_finite: bool = False
) -> tables.Table:
  """Table from the folder `name` under `root`. Raises InputError."""
  folder = _folder(path_of(root), name)
  info = _info(folder / 'info.json')
  arrays = {
    part: _read_part(folder, part, optional=part != 'y') for part in 'NCy'
  }
  splits = {
    split: tuple(arrays[part].get(split) for part in 'NCy')
    for split in tables.SPLITS
  }
  target = info.get('target') or 'y'
  listed = target if isinstance(target, list) else []
  return tables.build(
    name,
    splits,
    numeric_names=_names(info.get('num_features'), arrays['N'], 'N'),
    category_names=_names(info.get('cat_features'), arrays['C'], 'C'),
    target_name='y' if len(listed) > 1 else str((listed or [target])[0]),
    target_names=[str(own) for own in listed],
    non_finite=non_finite,
  )


def sizes(root: str | os.PathLike, name: str) -> tuple[dict[str, int], int]:
  """(rows of each split, number of features) of a task, data unread.

  Raises InputError.
  """
  folder = _folder(path_of(root), name)
  rows = {s: _length(folder / f'y_{s}.npy', 0) for s in tables.SPLITS}
  parts = [folder / f'{part}_train.npy' for part in 'NC']
  return rows, sum(_length(path, -1) for path in parts if path.is_file())


def read_array(path: str | os.PathLike) -> np.ndarray:
  """Array of one .npy file; pickled cells are str, int, float, bool or None.

  Raises InputError for any other content and for damaged files.
  """
  path = path_of(path)
  with _parsed(path), path.open('rb') as file:
    shape, dtype = _header(file)
    if dtype.kind == 'O':
      return _unpickled(file.read(), shape)
    _check_size(shape, dtype, path.stat().st_size - file.tell())
    file.seek(0)
    return np.load(file, allow_pickle=False)


def _length(path: pathlib.Path, axis: int) -> int:
  """Of an axis of the array in a .npy file."""
  with _parsed(path), path.open('rb') as file:
    shape, _ = _header(file)
    return shape[axis]


@contextlib.contextmanager
def _parsed(path: pathlib.Path) -> Iterator[None]:
  """Whatever goes wrong is the file's fault, as an InputError."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{path}: {error}') from None
  # Whatever a parser stumbles over, the bytes are at fault.
  except Exception as error:
    reason = ' '.join(str(error).split())[:120] or type(error).__name__
    raise InputError(
      f'{path}: not a readable .npy file, {reason}; fetch it again'
    ) from error


def _folder(root: pathlib.Path, name: str) -> pathlib.Path:
  if name in ('', '.', '..') or any(mark in name for mark in '/\\\0'):
    raise InputError(
      f'task {name!r} is not the name of a folder; give one under {root}'
    )
  if not root.is_dir():
    raise InputError(f'{root}: no such folder of tasks; check the path')
  if not (root / name).is_dir():
    known = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    raise InputError(f'{root}: no task {name!r}; {suggestion(name, known)}')
  return root / name


def _info(path: pathlib.Path) -> dict:
  try:
    info = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise InputError(f'{path}: missing; it must name the task_type') from None
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f'{path}: not readable as JSON; correct it') from error
  kind = info.get('task_type') if isinstance(info, dict) else None
  if kind != 'regression':
    raise InputError(
      f"{path}: task_type is {kind!r}; only 'regression' can be used"
    )
  return info


def _read_part(
  folder: pathlib.Path, part: str, *, optional: bool
) -> dict[str, np.ndarray]:
  paths = {split: folder / f'{part}_{split}.npy' for split in tables.SPLITS}
  there = {split: path.is_file() for split, path in paths.items()}
  if optional and not any(there.values()):
    return {}
  for split, path in paths.items():
    if not there[split]:
      raise InputError(f'{path}: missing; every split needs this file')
  arrays = {split: read_array(path) for split, path in paths.items()}
  for split, array in arrays.items():
    if array.ndim != 2 and part != 'y':
      raise InputError(
        f'{paths[split]}: shape {array.shape}; it must be rows by columns'
      )
  return arrays


def _names(
  listed: Any, arrays: Mapping[str, np.ndarray], prefix: str
) -> list[str]:
  """Names in info.json if they fit the train columns, else prefix_0, ...

  Published info.json disagree on keys, so names that do not fit are no
  error.
  """
  width = arrays['train'].shape[1] if arrays else 0
  fits = (
    isinstance(listed, list)
    and len(listed) == width
    and all(isinstance(name, str) for name in listed)
    and len(set(listed)) == width
  )
  return listed if fits else [f'{prefix}_{place}' for place in range(width)]


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  version = np.lib.format.read_magic(file)
  if version not in readers:
    raise InputError(f'.npy version {version} is unknown; save it by np.save')
  shape, _, dtype = readers[version](file)
  return shape, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype, n_bytes: int) -> None:
  """Refuses before allocation what the file cannot hold."""
  if dtype.kind not in 'biufU' or dtype.itemsize == 0:
    raise InputError(f'dtype {dtype} is no plain number or text; convert it')
  needed = math.prod(shape) * dtype.itemsize
  if min(shape, default=0) < 0 or needed != n_bytes:
    raise InputError(
      f'shape {shape} needs {needed} bytes, the file has {n_bytes}; fetch it '
      'again'
    )


def _unpickled(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
  """Object array [*shape] of plain cells from what np.save pickled."""
  for opcode, argument, _ in pickletools.genops(data):
    # genops refuses lengths beyond the data. An index beyond it would make
    # the unpickler's table of 2 * index entries fill the memory.
    if opcode.name.endswith('PUT') and (argument or 0) > len(data):
      raise InputError('its pickle holds a forged index; refused')
  pickled = _Unpickler(io.BytesIO(data)).load()
  if type(pickled) is not _PickledArray or pickled.shape != shape:
    raise InputError('its pickle is not the array it announces; refused')
  for cell in pickled.cells:
    if type(cell) not in (str, int, float, bool, type(None)):
      raise InputError(
        f'a cell is a {type(cell).__name__.lstrip("_")}; only text, numbers '
        'and None can be used'
      )
    if type(cell) is int and cell.bit_length() > 1023:
      raise InputError('a cell is an integer beyond float64; correct it')
  flat = np.fromiter(pickled.cells, object, count=len(pickled.cells))
  return flat.reshape(shape)


class _Unpickler(pickle.Unpickler):
  """Reads the object arrays that np.save pickles, and nothing else.

  numpy's own reconstruction functions are not offered: a pickle that sets
  the state of a real dtype or array can make numpy follow forged pointers.
  The names that numpy writes stand for the functions below, which see only
  plain values.
  """

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _OFFERED:
      raise InputError(
        f'its pickle asks for {f"{module}.{name}"[:80]!r}, which could run '
        'code; save it as plain text or numbers'
      )
    return _OFFERED[module, name]


class _PickledArray:
  """State of an object array: shape and cells in C order."""

  __slots__ = ('cells', 'shape')

  def __setstate__(self, state):
    _, self.shape, _, _, self.cells = state
    if type(self.cells) is not list or type(self.shape) is not tuple:
      raise InputError('its pickle holds a damaged array; refused')


class _PickledDtype:
  """State of the dtype of a numpy scalar: a code such as f8, a byte order."""

  __slots__ = ('code', 'order')

  def __init__(self, code: str):
    self.code, self.order = code, '='

  def __setstate__(self, state):
    self.order = state[1]

  def scalar(self, data: bytes) -> Any:
    """The Python value of the scalar's bytes."""
    if not re.fullmatch(r'b1|[iu][1248]|f[248]|U\d{1,6}', self.code):
      raise InputError(f'a cell is a numpy {self.code[:20]!r}; convert it')
    if self.order not in ('<', '>', '=', '|'):
      raise InputError('its pickle holds an unknown byte order; refused')
    if self.code == 'U0':
      return ''
    dtype = np.dtype(self.order + self.code)
    if len(data) != dtype.itemsize:
      raise InputError('its pickle holds a scalar of a wrong size; refused')
    return np.frombuffer(data, dtype)[0].item()


class _Function:
  """Function whose attributes a pickle cannot set."""

  __slots__ = ('_function',)

  def __init__(self, function: Callable[..., Any]):
    self._function = function

  def __call__(self, *args):
    return self._function(*args)

  def __setstate__(self, state):
    raise InputError('its pickle alters a function; refused')


def _encode(text: Any, encoding: Any) -> bytes:
  if type(text) is not str or encoding != 'latin1':
    raise InputError('its pickle holds bytes in an unknown form; refused')
  return text.encode('latin1')


# _reconstruct is always given ndarray, (0,) and b'b'; the state follows.
_RECONSTRUCT = _Function(lambda kind, shape, code: _PickledArray())
_SCALAR = _Function(lambda dtype, data: dtype.scalar(data))

_OFFERED = {
  ('numpy', 'ndarray'): 'ndarray',
  ('numpy', 'dtype'): _Function(
    lambda code, align=False, copy=False: _PickledDtype(code)
  ),
  ('numpy._core.multiarray', '_reconstruct'): _RECONSTRUCT,
  ('numpy._core.multiarray', 'scalar'): _SCALAR,
  # numpy 1
  ('numpy.core.multiarray', '_reconstruct'): _RECONSTRUCT,
  ('numpy.core.multiarray', 'scalar'): _SCALAR,
  # Bytes below pickle protocol 3; the empty ones are a call of their own.
  ('_codecs', 'encode'): _Function(_encode),
  ('__builtin__', 'bytes'): _Function(lambda: b''),
}
