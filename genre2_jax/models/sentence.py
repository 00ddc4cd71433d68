"""Vectors of texts by a frozen sentence encoder, each text read once.

An encoder is a folder as sentence-transformers writes it: a BERT's config.json
and safetensors, its tokenizer, `modules.json` and a folder of pooling. Vectors
are kept on disk by the encoder's fingerprint and a hash of the text.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from genre2_jax.data import subwords
from genre2_jax.data.reading import path_of, user_cache
from genre2_jax.data.stored import Ragged
from genre2_jax.errors import InputError
from genre2_jax.models import pretrained
from genre2_jax.models.bert import POOLINGS, Bert, BertConfig, read_params
from genre2_jax.policy import Params

# Texts are padded to the least of these that holds them: a program for each.
_WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_SUBWORDS = 1024  # of a batch; more are no faster on a CPU
_FEW = 8  # Fewer texts do not wait for a whole batch.
_KEPT_AT_ONCE = 4096  # vectors of a file of the cache
_LEAST_KEPT = 64  # Fewer are not worth a file.
_INDEX = 'index'  # Of which file has which vectors.
_MODULES = ('Transformer', 'Pooling', 'Normalize')
# Of the folder of pooling, as older files have it.
_MODES = {
  'pooling_mode_mean_tokens': 'mean',
  'pooling_mode_cls_token': 'cls',
  'pooling_mode_max_tokens': 'max',
}
_FILES = (
  'config.json', 'modules.json', 'sentence_bert_config.json', 'tokenizer.json',
  'tokenizer_config.json', 'special_tokens_map.json', 'vocab.txt',
  '*.safetensors', '*.safetensors.index.json', '*_Pooling/config.json',
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
  """A sentence encoder, but for its weights.

  Attributes:
    folder: where it lies.
    fingerprint: hash of the files that say what it does, weights included.
    config: sizes of its BERT.
    pooling: of `bert.POOLINGS`.
    normalized: whether vectors have length 1.
    max_length: subwords that it reads, its marks among them.
    lowercase: whether texts are written small before it reads them.
  """

  folder: str
  fingerprint: str
  config: BertConfig
  pooling: str
  normalized: bool
  max_length: int
  lowercase: bool = False

  @property
  def module(self) -> Bert:
    """Its network, without dropout."""
    return Bert(self.config, self.pooling, self.normalized)


def read_encoder(name: str, field: str = 'data.text_encoder') -> Encoder:
  """The encoder in a folder, or of a name on the Hugging Face hub.

  Args:
    name: of either.
    field: that names it, for messages.

  Raises:
    InputError: it is not there, or not of a kind that is known here.
  """
  try:
    folder = pretrained.folder_of(name)
  except InputError as error:
    raise InputError(f'{field}: {error}') from error
  state = tuple(
    (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime)
    for path in _files(folder)
  )
  return _read(str(folder), state)


@functools.lru_cache(maxsize=4)
def _read(name: str, state: tuple) -> Encoder:
  """`read_encoder` of a folder whose files are in a state."""
  folder = pathlib.Path(name)
  path = folder / 'config.json'
  try:
    config = BertConfig.from_hf(_json(path))
  except (KeyError, ValueError, AttributeError) as error:
    raise InputError(f'{path}: {error}') from error
  pooling, normalized = _pooling(folder)
  own = _json(folder / 'sentence_bert_config.json', {})
  digest = hashlib.sha256()
  for file in _files(folder):
    with file.open('rb') as opened:
      part = hashlib.file_digest(opened, 'sha256').digest()
    digest.update(str(file.relative_to(folder)).encode() + part)
  return Encoder(
    folder=name,
    fingerprint=digest.hexdigest()[:40],
    config=config,
    pooling=pooling,
    normalized=normalized,
    max_length=min(
      own.get('max_seq_length') or config.max_length, config.max_length
    ),
    lowercase=bool(own.get('do_lower_case')),
  )


def embed(
  encoder: Encoder, texts: Sequence[str], cache: str = ''
) -> tuple[np.ndarray, int]:
  """Vectors of texts, each text read once in the life of the cache.

  Args:
    encoder: that reads them.
    texts: n texts.
    cache: folder; '' for the user's cache, 'none' for none.

  Returns:
    (float32 [n, D], how many of those read now lost their end).
  """
  texts = [text.lower() for text in texts] if encoder.lowercase else list(texts)
  folder = None
  if cache != 'none':
    root = path_of(cache) if cache else user_cache()
    folder = root / 'vectors' / encoder.fingerprint
  keys = [
    hashlib.blake2b(
      text.encode('utf-8', 'surrogatepass'), digest_size=16
    ).digest()
    for text in texts
  ]
  wanted = dict(zip(keys, texts, strict=True))
  vectors = _cached(folder, set(wanted), encoder.config.width)
  unread = [key for key in wanted if key not in vectors]
  num_cut = 0
  if unread:
    rows, num_cut = subwords.sentence_ids(
      encoder.folder, [wanted[key] for key in unread], encoder.max_length
    )
    kept: list[bytes] = []
    for places, found in _vectors(encoder, rows):
      for place, vector in zip(places, found, strict=True):
        vectors[unread[place]] = vector
        kept.append(unread[place])
      if len(kept) >= _KEPT_AT_ONCE:
        _keep(folder, kept, vectors)
        kept = []
    if len(kept) >= _LEAST_KEPT or (kept and len(unread) >= _LEAST_KEPT):
      _keep(folder, kept, vectors)
  out = np.empty((len(texts), encoder.config.width), np.float32)
  for row, key in enumerate(keys):
    out[row] = vectors[key]
  return out, num_cut


def _vectors(
  encoder: Encoder, rows: Ragged
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(places in rows, their vectors [b, D]), the shortest first.

  A text's batch is of a shape that its own length says, so that its bits do
  not depend on the texts beside it.
  """
  params, run = _program(encoder)
  lengths = rows.lengths
  order = np.argsort(lengths, kind='stable')
  widths = [w for w in _WIDTHS if w < encoder.max_length]
  widths.append(encoder.max_length)
  start = 0
  for width in widths:
    end = int(np.searchsorted(lengths[order], width, side='right'))
    size = max(_FEW, _SUBWORDS // width)
    if len(rows) <= _FEW:
      size = _FEW
    for first in range(start, end, size):
      places = order[first : min(first + size, end)]
      tokens = np.zeros((size, width), np.int32)
      length = np.ones(size, np.int32)
      for row, place in enumerate(places):
        tokens[row, : lengths[place]] = rows[place]
        length[row] = lengths[place]
      yield places, np.asarray(run(params, tokens, length))[: len(places)]
    start = end


@functools.lru_cache(maxsize=2)
def _program(encoder: Encoder) -> tuple[Params, Any]:
  """Its parameters on a device, and what gives vectors of token ids."""
  folder = pathlib.Path(encoder.folder)
  params = jax.tree.map(jax.numpy.asarray, read_params(folder, encoder.config))
  size = subwords.vocabulary_size(encoder.folder)
  if size > encoder.config.vocab_size:
    raise InputError(
      f'{folder}: the tokenizer has {size} subwords, the model embeds '
      f'{encoder.config.vocab_size}: they belong to different models'
    )
  module = encoder.module

  def run(params: Params, tokens: jax.Array, length: jax.Array) -> Any:
    return module.apply({'params': params}, tokens, length)

  return params, jax.jit(run)


def _cached(
  folder: pathlib.Path | None, keys: set[bytes], width: int
) -> dict[bytes, np.ndarray]:
  """{key: vector} of those that the cache knows."""
  found: dict[bytes, np.ndarray] = {}
  for path in _files_with(folder, keys) if folder else ():
    try:
      with np.load(path, allow_pickle=False) as arrays:
        names = [name.tobytes() for name in arrays['keys']]
        if keys.isdisjoint(names):
          continue
        vectors = arrays['vectors']
    # Whatever a damaged archive raises, its vectors are made again.
    except Exception:
      continue
    if vectors.shape == (len(names), width) and np.isfinite(vectors).all():
      found |= {
        name: vector
        for name, vector in zip(names, vectors.astype(np.float32), strict=True)
        if name in keys
      }
  return found


def _files_with(folder: pathlib.Path, keys: set[bytes]) -> list[pathlib.Path]:
  """The files of the cache that have some of the keys.

  Which file has which is in the index; files that are not in it yet are looked
  into and join it.
  """
  paths = {path.name: path for path in sorted(folder.glob('*.npz'))}
  if not (paths and keys):
    return []
  known = _read_index(folder)
  starts = {name: known[name] for name in paths if name in known}
  for name in paths.keys() - starts.keys():
    try:
      with np.load(paths[name], allow_pickle=False) as arrays:
        starts[name] = _starts(arrays['keys'])
    except Exception:  # Damaged: `_cached` sees no vectors in it either.
      continue
  if starts.keys() != known.keys():
    names = list(starts)
    _write(
      folder / _INDEX,
      names=np.array(names),
      counts=np.array([len(starts[name]) for name in names]),
      starts=np.concatenate([np.empty(0, np.uint64), *starts.values()]),
    )
  wanted = _starts(np.frombuffer(b''.join(keys), np.uint8).reshape(-1, 16))
  return [
    paths[name]
    for name, own in sorted(starts.items())
    if np.isin(own, wanted).any()
  ]


def _read_index(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """{name of a file: how its keys start}; {} where there is no whole index."""
  try:
    with np.load(folder / _INDEX, allow_pickle=False) as arrays:
      cuts = np.cumsum(arrays['counts'])
      parts = np.split(arrays['starts'], cuts)[:-1]
      return dict(zip(arrays['names'].tolist(), parts, strict=True))
  except Exception:  # Whatever a damaged archive raises.
    return {}


def _starts(keys: np.ndarray) -> np.ndarray:
  """The first half of keys uint8 [n, 16]: two alike open one file too many."""
  return np.ascontiguousarray(keys[:, :8]).view(np.uint64).ravel()


def _keep(
  folder: pathlib.Path | None,
  keys: Sequence[bytes],
  vectors: dict[bytes, np.ndarray],
) -> None:
  """Writes a file of vectors."""
  if folder is None:
    return
  name = hashlib.blake2b(b''.join(keys), digest_size=16).hexdigest()
  _write(
    folder / f'{name}.npz',
    keys=np.frombuffer(b''.join(keys), np.uint8).reshape(-1, 16),
    vectors=np.stack([vectors[key] for key in keys]),
  )


def _write(path: pathlib.Path, **arrays: np.ndarray) -> None:
  """A file of arrays, whole or not at all; a full disk is no error."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile(
      dir=path.parent, prefix=f'.{path.stem}', delete=False
    )
    try:
      with file:
        np.savez(file, allow_pickle=False, **arrays)
      os.replace(file.name, path)
    except BaseException:
      os.unlink(file.name)
      raise
  except OSError:
    pass


def _pooling(folder: pathlib.Path) -> tuple[str, bool]:
  """(pooling, whether vectors are made length 1) of modules.json.

  Of a folder without one: the mean, as sentence-transformers takes it.
  """
  modules = _json(folder / 'modules.json', [])
  if not modules:
    return 'mean', False
  try:
    kinds = [str(module['type']).rpartition('.')[2] for module in modules]
    places = [str(module.get('path', '')) for module in modules]
  except (AttributeError, KeyError, TypeError) as error:
    raise InputError(f'{folder / "modules.json"} is damaged') from error
  other = [kind for kind in kinds if kind not in _MODULES]
  if other or kinds[:2] != list(_MODULES[:2]):
    raise InputError(
      f'{folder / "modules.json"}: {", ".join(kinds)} is not known, only '
      'Transformer, Pooling and then Normalize'
    )
  path = folder / places[1] / 'config.json'
  config = _json(path)
  mode = config.get('pooling_mode')
  modes = [mode] if mode else [
    _MODES.get(name, name.removeprefix('pooling_mode_'))
    for name, value in config.items()
    if name.startswith('pooling_mode') and value is True
  ]  # fmt: skip
  if len(modes) != 1 or modes[0] not in POOLINGS:
    raise InputError(
      f'{path}: pooling by {" and ".join(map(str, modes)) or "nothing"} is not '
      f'known, only one of {", ".join(POOLINGS)}'
    )
  return modes[0], 'Normalize' in kinds


def _json(path: pathlib.Path, default: Any = None) -> Any:
  """What a file of JSON holds; the default if it is not there."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError as error:
    if default is not None:
      return default
    raise InputError(
      f'{path} is missing: give the folder of a sentence encoder'
    ) from error
  except (OSError, ValueError) as error:
    raise InputError(f'{path} is no JSON: {error}') from error


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files that say what an encoder does."""
  return sorted({p for name in _FILES for p in folder.glob(name)})
