"""Weights of pretrained language models: Hugging Face's safetensors, both ways.

A checkpoint is a folder of `config.json` and safetensors files, one or several
with an index. A file is a header in JSON with every tensor's type, shape and
place, then the bytes; tensors are mapped into memory and read slice by slice,
so that of a model no more is on the host than the part of one parameter that
goes to one device.
"""

import json
import logging
import math
import pathlib
import struct
from typing import NamedTuple

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np

from genre2_jax.errors import InputError
from genre2_jax.models.gemma.backbone import GemmaConfig

_DTYPES = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': ml_dtypes.bfloat16,
}
_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_NAMED = 4  # tensors that an error message lists

# Within a layer: our path, Hugging Face's name. Linear layers are [in, out]
# here and [out, in] there.
_PROJECTIONS = {
  'attention/query/kernel': 'self_attn.q_proj.weight',
  'attention/key/kernel': 'self_attn.k_proj.weight',
  'attention/value/kernel': 'self_attn.v_proj.weight',
  'attention/out/kernel': 'self_attn.o_proj.weight',
  'mlp/gate/kernel': 'mlp.gate_proj.weight',
  'mlp/up/kernel': 'mlp.up_proj.weight',
  'mlp/down/kernel': 'mlp.down_proj.weight',
}
_NORMS = {
  'gemma2': {
    'attention_norm/scale': 'input_layernorm.weight',
    'attention_post_norm/scale': 'post_attention_layernorm.weight',
    'mlp_norm/scale': 'pre_feedforward_layernorm.weight',
    'mlp_post_norm/scale': 'post_feedforward_layernorm.weight',
  },
  't5gemma': {
    'attention_norm/scale': 'pre_self_attn_layernorm.weight',
    'attention_post_norm/scale': 'post_self_attn_layernorm.weight',
    'mlp_norm/scale': 'pre_feedforward_layernorm.weight',
    'mlp_post_norm/scale': 'post_feedforward_layernorm.weight',
  },
}
# Of a model with a head, then of one without.
_PREFIXES = {
  'gemma2': ('model.', ''),
  't5gemma': ('model.encoder.', 'encoder.'),
}
_EMBEDDING = 'embed_tokens.weight'
# The path below which a network keeps the pretrained part.
_BACKBONE = 'backbone'
_log = logging.getLogger(__name__)


class _Source(NamedTuple):
  """What one of our parameters is in a checkpoint.

  Attributes:
    names: of tensors, one per layer where layers are stacked.
    stacked: whether they are.
    transposed: whether a tensor is the transpose of ours.
  """

  names: tuple[str, ...]
  stacked: bool
  transposed: bool

  def shape(self, ours):
    """Of one tensor, given that of our parameter."""
    shape = ours[1:] if self.stacked else ours
    return shape[::-1] if self.transposed else shape


def folder_of(name):
  """The folder of a checkpoint that is given as a folder or by a hub's name.

  Args:
    name: a folder, or 'owner/model' of the Hugging Face hub, which is
      downloaded to its cache.

  Raises:
    InputError: neither is there.
  """
  folder = pathlib.Path(name).expanduser()
  if folder.is_dir():
    return folder
  if len(folder.parts) != 2 or folder.is_absolute():
    raise InputError(
      f'{name}: no such folder; give one with config.json and safetensors '
      "files, or a model of the Hugging Face hub as 'owner/model'"
    )
  try:
    import huggingface_hub
  except ImportError as error:
    raise InputError(
      f'{name}: no such folder, and to download it huggingface_hub is '
      'missing: pip install huggingface_hub'
    ) from error
  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(
        name, allow_patterns=['*.json', '*.safetensors', 'tokenizer*']
      )
    )
  except Exception as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise InputError(
      f'{name}: no such folder, and the Hugging Face hub does not give it: '
      f'{reason[0]}'
    ) from error


def read_config(folder):
  """The `GemmaConfig` of a checkpoint, a T5Gemma's that of its encoder.

  Args:
    folder: of a checkpoint.

  Raises:
    InputError: no config.json, or of a model that is not known here.
  """
  path = pathlib.Path(folder) / 'config.json'
  config, kind = _read_json(path.parent)
  try:
    if kind == 't5gemma':
      config = config['encoder']
    return GemmaConfig.from_hf(config)
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(f'{path}: {error}') from error


def load(folder, abstract, *, init=None):
  """Parameters of a network, the pretrained ones read from a checkpoint.

  Args:
    folder: of a checkpoint.
    abstract: the network's parameters as `jax.ShapeDtypeStruct`s, unboxed,
      with shardings where they are to be sharded: nested dicts. Those below
      'backbone' are read.
    init: `(given) -> params`, boxed or not: draws what the checkpoint does not
      have (low-rank updates, new embeddings, a decoder), given what it has. For
      a policy, `lambda given: policy.init(key, inputs, given)`.

  Returns:
    The parameters, where and of what dtype `abstract` says.

  Raises:
    InputError: the checkpoint is incomplete, or disagrees with `abstract`.
  """
  folder = pathlib.Path(folder)
  kind = _read_json(folder)[1]
  tensors = _open(folder)
  leaves = _flat(abstract)
  prefix = next(
    (p for p in _PREFIXES[kind] if p + _EMBEDDING in tensors),
    _PREFIXES[kind][0],
  )
  sources = _sources(leaves, kind, prefix)
  _check_agreement(folder, prefix, tensors, leaves, sources)
  given = {
    path: _place(leaves[path], source, [tensors[n] for n in source.names])
    for path, source in sources.items()
  }
  rest = [path for path in leaves if path not in given]
  if rest:
    if init is None:
      raise InputError(
        f'{folder} has no weights for {_listed(rest)}: they have to be drawn'
      )
    shardings = {path: getattr(leaves[path], 'sharding', None) for path in rest}

    def draw(given):
      drawn = _flat(nn.unbox(init(_nested(given))))
      return {path: drawn[path].astype(leaves[path].dtype) for path in rest}

    given |= jax.jit(draw, out_shardings=shardings)(given)
  return _nested({path: given[path] for path in leaves})


def save(
  folder, params, config, *, lora=None, dtype=None, shard_bytes=5 * 10**9
):
  """Writes a Gemma-2 as Hugging Face's Gemma2ForCausalLM reads it.

  Low-rank updates are added to their matrices. Embeddings of new number tokens
  become further rows of the embedding, in the order of their ids.

  Args:
    folder: to write to, made if it is not there.
    params: of a `gemma_policy`, unboxed.
    config: its `GemmaConfig`.
    lora: its `Lora`, if it has one.
    dtype: 'float32' or 'bfloat16'; None: as the parameters are.
    shard_bytes: a file holds no more, unless a single tensor does.

  Returns:
    The folder.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  leaves = _flat(params)
  sources = _sources(leaves, 'gemma2', _PREFIXES['gemma2'][0])
  more = len(params.get('new_embedding', ()))
  described, getters = {}, {}
  for path, source in sources.items():
    shape = source.shape(leaves[path].shape)
    if path == f'{_BACKBONE}/embedding':
      shape = (shape[0] + more, shape[1])
    for layer, name in enumerate(source.names):
      described[name] = (shape, np.dtype(dtype or leaves[path].dtype))
      getters[name] = (path, source, layer)

  def tensor(name):
    path, source, layer = getters[name]
    index = layer if source.stacked else slice(None)
    value = np.asarray(leaves[path][index])
    low_rank = path.replace('/kernel', '/lora_a')
    if low_rank != path and low_rank in leaves:
      a = np.asarray(leaves[low_rank][index])
      b = np.asarray(leaves[low_rank.replace('lora_a', 'lora_b')][index])
      value = value.astype(np.float32) + lora.scale * (a @ b)
    if more and path == f'{_BACKBONE}/embedding':
      new = np.asarray(params['new_embedding'])
      value = np.concatenate([value, new.astype(value.dtype)])
    return value.T if source.transposed else value

  _write(folder, described, tensor, shard_bytes)
  written = config.to_hf()
  written['vocab_size'] = config.vocab_size + more
  written['dtype'] = str(
    np.dtype(dtype or params[_BACKBONE]['embedding'].dtype)
  )
  (folder / 'config.json').write_text(
    json.dumps(written, indent=2) + '\n', encoding='utf-8'
  )
  return folder


def _read_json(folder):
  """The dict in config.json, and which of the known models it is."""
  path = folder / 'config.json'
  try:
    config = json.loads(path.read_text(encoding='utf-8'))
    kind = config.get('model_type')
  except FileNotFoundError as error:
    raise InputError(
      f'{path} is missing: give the folder of a checkpoint'
    ) from error
  except (OSError, ValueError, AttributeError) as error:
    raise InputError(f'{path} is no config in JSON: {error}') from error
  if kind not in _PREFIXES:
    raise InputError(
      f'{path}: model_type {kind!r} is not known, only {", ".join(_PREFIXES)}'
    )
  return config, kind


def _sources(leaves, kind, prefix):
  """{our path: `_Source`} of the parameters that a checkpoint has."""
  fixed = {
    f'{_BACKBONE}/embedding': _EMBEDDING,
    f'{_BACKBONE}/final_norm/scale': 'norm.weight',
  }
  sources = {}
  for path, leaf in leaves.items():
    if path in fixed:
      sources[path] = _Source((prefix + fixed[path],), False, False)
    within = path.removeprefix(f'{_BACKBONE}/layers/')
    if within == path:
      continue
    name = _PROJECTIONS.get(within) or _NORMS[kind].get(within)
    if name is not None:
      names = tuple(
        f'{prefix}layers.{layer}.{name}' for layer in range(leaf.shape[0])
      )
      sources[path] = _Source(names, True, within in _PROJECTIONS)
  return sources


def _check_agreement(folder, prefix, tensors, leaves, sources):
  """Raises InputError unless the files have just what the parameters are."""
  missing, wrong, known = [], [], set()
  for path, source in sources.items():
    shape = source.shape(leaves[path].shape)
    for name in source.names:
      known.add(name)
      if name not in tensors:
        missing.append(name)
      elif tensors[name].shape != shape:
        wrong.append(f'{name} is {tensors[name].shape}, not {shape}')
  others = [name for name in tensors if name not in known]
  extra = [
    name
    for name in others
    if name.startswith(f'{prefix}layers.') and 'rotary_emb' not in name
  ]
  faults = []
  if wrong:
    faults.append(f'other shapes: {_listed(wrong, "; ")}')
  if missing:
    faults.append(f'missing: {_listed(missing)}')
  if extra:
    faults.append(f'not in the model: {_listed(extra)}')
  if faults:
    raise InputError(
      f'{folder}: the weights disagree with the config, {"; ".join(faults)}; '
      'give the config.json that belongs to them'
    )
  ignored = sorted({name.split('layers.')[0] for name in others})
  if ignored:
    _log.info(
      '%s: %d tensors are not of this model and are left out: %s',
      folder,
      len(others),
      ', '.join(ignored),
    )


def _place(leaf, source, tensors):
  """A parameter on its devices, one device's part on the host at a time."""
  sharding = leaf.sharding
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def part(index):
    if not source.stacked:
      return _slice(tensors[0], index, source.transposed, leaf.dtype)
    layers, *index = index
    return np.stack(
      [_slice(t, index, source.transposed, leaf.dtype) for t in tensors[layers]]
    )

  where = sharding.addressable_devices_indices_map(leaf.shape)
  parts = [jax.device_put(part(i), device) for device, i in where.items()]
  return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)


def _slice(tensor, index, transposed, dtype):
  """tensor[index], or of its transpose: a copy of that part only."""
  part = tensor.T[tuple(index)] if transposed else tensor[tuple(index)]
  return np.ascontiguousarray(part, dtype=dtype)


def _open(folder):
  """{name: array mapped into memory} of all files of a checkpoint."""
  index, single = folder / _INDEX, folder / _SINGLE
  if index.exists():
    try:
      places = json.loads(index.read_text(encoding='utf-8'))['weight_map']
      files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise InputError(f'{index} is no index of safetensors files') from error
  else:
    places, files = None, [single.name]
  missing = [name for name in files if not (folder / name).exists()]
  if missing:
    of = f'{len(missing)} of {len(files)} files ' if places else ''
    raise InputError(
      f'{folder}: {of}missing: {_listed(missing)}; download it again, or '
      'convert the weights to safetensors'
    )
  tensors = {}
  for name in files:
    tensors |= _open_file(folder / name)
  absent = [name for name in places or () if name not in tensors]
  if absent:
    raise InputError(
      f'{index} names tensors that no file has: {_listed(absent)}'
    )
  return tensors


def _open_file(path):
  """{name: array mapped into memory} of one safetensors file."""
  try:
    with path.open('rb') as file:
      (length,) = struct.unpack('<Q', file.read(8))
      size = path.stat().st_size
      if length > size:
        raise ValueError('its header is longer than the file')
      header = json.loads(file.read(length))
    header.pop('__metadata__', None)
    tensors = {}
    for name, entry in header.items():
      start, stop = entry['data_offsets']
      dtype, shape = entry['dtype'], tuple(entry['shape'])
      if dtype not in _DTYPES:
        raise ValueError(
          f'{name} has type {dtype}, known are {", ".join(_DTYPES)}'
        )
      if 8 + length + stop > size:
        raise ValueError(f'it ends before {name} does')
      dtype = np.dtype(_DTYPES[dtype])
      if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f'{name} of shape {shape} has {stop - start} bytes')
      raw = np.memmap(path, np.uint8, 'r', 8 + length + start, (stop - start,))
      tensors[name] = raw.view(dtype).reshape(shape)
  except (struct.error, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is not a whole safetensors file: {error}'
    ) from error
  return tensors


def _write(folder, described, tensor, shard_bytes):
  """Writes tensors to files, one at a time on the host.

  Args:
    folder: to write to.
    described: {name: (shape, dtype)}.
    tensor: `(name) -> array`.
    shard_bytes: most bytes of a file.
  """

  def num_bytes(name):
    shape, dtype = described[name]
    return math.prod(shape) * dtype.itemsize

  shards, filled = [[]], 0
  for name in described:
    if shards[-1] and filled + num_bytes(name) > shard_bytes:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += num_bytes(name)
  count, places = len(shards), {}
  codes = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
  for number, names in enumerate(shards, 1):
    file_name = _SINGLE
    if count > 1:
      file_name = f'model-{number:05d}-of-{count:05d}.safetensors'
    places |= dict.fromkeys(names, file_name)
    header, stop = {'__metadata__': {'format': 'pt'}}, 0
    for name in names:
      shape, dtype = described[name]
      start, stop = stop, stop + num_bytes(name)
      header[name] = {
        'dtype': codes[dtype],
        'shape': list(shape),
        'data_offsets': [start, stop],
      }
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with (folder / file_name).open('wb') as file:
      file.write(struct.pack('<Q', len(text)) + text)
      for name in names:
        dtype = described[name][1]
        file.write(np.ascontiguousarray(tensor(name), dtype=dtype).tobytes())
  (folder / _INDEX).unlink(missing_ok=True)
  if count > 1:
    total = sum(map(num_bytes, described))
    index = {'metadata': {'total_size': total}, 'weight_map': places}
    (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding='utf-8')


def _flat(tree):
  """{'a/b/c': leaf} of nested dicts."""
  flat = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    flat['/'.join(str(key.key) for key in path)] = leaf
  return flat


def _nested(flat):
  """Nested dicts of {'a/b/c': leaf}."""
  tree = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def _listed(names, separator=', '):
  """The first names, and how many more there are."""
  names = list(names)
  shown = separator.join(names[:_NAMED])
  left = len(names) - _NAMED
  return f'{shown} and {left} more' if left > 0 else shown
