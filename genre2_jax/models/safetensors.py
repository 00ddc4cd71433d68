"""Files of tensors as Hugging Face keeps them, by the safetensors library.

A checkpoint's tensors are in one file, or in several with an index in JSON.
Files are mapped into memory, and of a tensor only the part that is asked for is
copied.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from genre2_jax.errors import InputError

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
_DTYPES = ('F64', 'F32', 'F16', 'BF16')
_COUNTS = 'position_ids'  # 0, 1, 2, ..., which older checkpoints keep.
_NAMED = 4  # tensors that an error message lists


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor in a file, not yet read.

  Attributes:
    shape: of the tensor.
    handle: what the library reads slices by.
  """

  shape: tuple[int, ...]
  handle: Any

  def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
    """A copy of a part."""
    return self.handle[index]


def read(folder: pathlib.Path) -> dict[str, Stored]:
  """The tensors of all files of a checkpoint by name.

  Args:
    folder: of the checkpoint.

  Raises:
    InputError: a file is missing or not whole, or the library is not there.
  """
  index, single = folder / INDEX, folder / SINGLE
  places: Mapping[str, str] = {}
  files = [single.name]
  if index.exists():
    try:
      places = json.loads(index.read_text(encoding='utf-8'))['weight_map']
      files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise InputError(f'{index} is no index of safetensors files') from error
  missing = [name for name in files if not (folder / name).exists()]
  if missing:
    of = f'{len(missing)} of {len(files)} files ' if places else ''
    raise InputError(
      f'{folder}: {of}missing: {listed(missing)}; download it again, or '
      'convert the weights to safetensors'
    )
  tensors: dict[str, Stored] = {}
  for name in files:
    tensors |= _read_file(folder / name)
  absent = [name for name in places if name not in tensors]
  if absent:
    raise InputError(
      f'{index} names tensors that no file has: {listed(absent)}'
    )
  return tensors


def _read_file(path: pathlib.Path) -> dict[str, Stored]:
  """The tensors of one file by name."""
  library = _library()
  try:
    file = library.safe_open(path, framework='numpy')
    names = [name for name in file.keys() if not name.endswith(_COUNTS)]
    handles = {name: file.get_slice(name) for name in names}
  except library.SafetensorError as error:
    raise InputError(
      f'{path} is not a whole safetensors file: {error}'
    ) from error
  for name, handle in handles.items():
    if handle.get_dtype() not in _DTYPES:
      raise InputError(
        f'{path}: {name} has type {handle.get_dtype()}, known are '
        f'{", ".join(_DTYPES)}'
      )
  return {
    name: Stored(tuple(handle.get_shape()), handle)
    for name, handle in handles.items()
  }


def write(
  folder: pathlib.Path,
  described: Mapping[str, tuple[tuple[int, ...], np.dtype]],
  tensor: Callable[[str], np.ndarray],
  shard_bytes: int,
) -> None:
  """Writes tensors to files; those of one file are in memory at a time.

  Args:
    folder: to write to.
    described: {name: (shape, dtype)}.
    tensor: `(name) -> array` of that shape.
    shard_bytes: a file holds no more, unless a single tensor does.

  Raises:
    InputError: the library is not there.
  """
  save_file = _library().numpy.save_file

  def num_bytes(name: str) -> int:
    shape, dtype = described[name]
    return math.prod(shape) * dtype.itemsize

  shards: list[list[str]] = [[]]
  filled = 0
  for name in described:
    if shards[-1] and filled + num_bytes(name) > shard_bytes:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += num_bytes(name)
  count = len(shards)
  places: dict[str, str] = {}
  for number, names in enumerate(shards, 1):
    file_name = SINGLE
    if count > 1:
      file_name = f'model-{number:05d}-of-{count:05d}.safetensors'
    places |= dict.fromkeys(names, file_name)
    # The library takes the memory as it lies, so it must be in order.
    tensors = {
      name: np.ascontiguousarray(tensor(name), dtype=described[name][1])
      for name in names
    }
    save_file(tensors, folder / file_name, {'format': 'pt'})
  (folder / INDEX).unlink(missing_ok=True)
  if count > 1:
    total = sum(map(num_bytes, described))
    index = {'metadata': {'total_size': total}, 'weight_map': places}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding='utf-8')


def listed(names: Iterable[str], separator: str = ', ') -> str:
  """The first names, and how many more there are."""
  names = list(names)
  shown = separator.join(names[:_NAMED])
  left = len(names) - _NAMED
  return f'{shown} and {left} more' if left > 0 else shown


def _library() -> Any:
  try:
    import safetensors
    import safetensors.numpy
  except ImportError as error:
    raise InputError(
      'weights of language models need safetensors: pip install safetensors'
    ) from error
  return safetensors
