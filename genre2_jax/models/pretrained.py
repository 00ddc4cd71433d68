"""Weights of pretrained language models, ours by Hugging Face's names.

A checkpoint is a folder of `config.json` and safetensors files. Tensors are
read slice by slice, so that of a model no more is on the host than the part of
one parameter that goes to one device.
"""

import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from genre2_jax.errors import InputError
from genre2_jax.models import safetensors
from genre2_jax.models.gemma.layers import Lora
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.safetensors import Stored
from genre2_jax.policy import Params

# {'a/b/c': leaf} of nested dicts.
Flat = dict[str, Any]

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
_GEMMA_NORMS = {
  'attention_norm/scale': 'input_layernorm.weight',
  'attention_post_norm/scale': 'post_attention_layernorm.weight',
  'attention/query_norm/scale': 'self_attn.q_norm.weight',
  'attention/key_norm/scale': 'self_attn.k_norm.weight',
  'mlp_norm/scale': 'pre_feedforward_layernorm.weight',
  'mlp_post_norm/scale': 'post_feedforward_layernorm.weight',
}
_NORMS = {
  'gemma2': _GEMMA_NORMS,
  'gemma3_text': _GEMMA_NORMS,
  'gemma3': _GEMMA_NORMS,
  't5gemma': {
    'attention_norm/scale': 'pre_self_attn_layernorm.weight',
    'attention_post_norm/scale': 'post_self_attn_layernorm.weight',
    'mlp_norm/scale': 'pre_feedforward_layernorm.weight',
    'mlp_post_norm/scale': 'post_feedforward_layernorm.weight',
  },
}
# Of a model with a head, then of one without; of one that reads images too, as
# its files are named since 2025, and as `transformers` names them by itself.
_GEMMA_PREFIXES = (
  'model.', '', 'language_model.model.', 'model.language_model.',
  'language_model.',
)  # fmt: skip
_PREFIXES = {
  'gemma2': _GEMMA_PREFIXES,
  'gemma3_text': _GEMMA_PREFIXES,
  'gemma3': _GEMMA_PREFIXES,
  't5gemma': ('model.encoder.', 'encoder.'),
}
# What of config.json is the language model's, where that is a part.
_SECTIONS = {'t5gemma': 'encoder', 'gemma3': 'text_config'}
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

  def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
    """Of one tensor, given that of our parameter."""
    shape = ours[1:] if self.stacked else ours
    return shape[::-1] if self.transposed else shape


def folder_of(name: str) -> pathlib.Path:
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


def read_config(folder: str | pathlib.Path) -> GemmaConfig:
  """The `GemmaConfig` of a checkpoint.

  A T5Gemma's is that of its encoder, a multimodal Gemma 3's that of its text.

  Args:
    folder: of a checkpoint.

  Raises:
    InputError: no config.json, or of a model that is not known here.
  """
  path = pathlib.Path(folder) / 'config.json'
  config, kind = _read_json(path.parent)
  try:
    if kind in _SECTIONS:
      part = {'model_type': kind, **config[_SECTIONS[kind]]}
      if not config.get('tie_word_embeddings', True):
        part['tie_word_embeddings'] = False
      config = part
    return GemmaConfig.from_hf(config)
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(f'{path}: {error}') from error


def load(
  folder: str | pathlib.Path,
  abstract: Params,
  *,
  init: Callable[[Params], Params] | None = None,
) -> Params:
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
  tensors = safetensors.read(folder)
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
        f'{folder} has no weights for {safetensors.listed(rest)}: they have to '
        'be drawn'
      )
    shardings = {path: getattr(leaves[path], 'sharding', None) for path in rest}

    def draw(given: Flat) -> Flat:
      drawn = _flat(nn.unbox(init(_nested(given))))
      return {path: drawn[path].astype(leaves[path].dtype) for path in rest}

    given |= jax.jit(draw, out_shardings=shardings)(given)
  return _nested({path: given[path] for path in leaves})


def save(
  folder: str | pathlib.Path,
  params: Params,
  config: GemmaConfig,
  *,
  lora: Lora | None = None,
  unused: int = 0,
  dtype: str | None = None,
  shard_bytes: int = 10**9,
) -> pathlib.Path:
  """Writes a Gemma as Gemma2ForCausalLM or Gemma3ForCausalLM reads it.

  Low-rank updates are added to their matrices. Embeddings of new number tokens
  become further rows of the embedding, in the order of their ids.

  Args:
    folder: to write to, made if it is not there.
    params: of a `gemma_policy`, unboxed.
    config: its `GemmaConfig`.
    lora: its `Lora`, if it has one.
    unused: rows of zeros before those of new number tokens, for subwords that
      the tokenizer knows and the embedding does not.
    dtype: 'float32' or 'bfloat16'; None: as the parameters are.
    shard_bytes: a file holds no more, unless a single tensor does; while it is
      written its tensors are in memory once more.

  Returns:
    The folder.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  leaves = _flat(params)
  sources = _sources(leaves, 'gemma2', _GEMMA_PREFIXES[0])
  new = np.asarray(params.get('new_embedding', np.zeros((0, config.width))))
  if len(new):
    new = np.concatenate([np.zeros((unused, config.width), new.dtype), new])
  more = len(new)
  described: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
  getters: dict[str, tuple[str, _Source, int]] = {}
  for path, source in sources.items():
    shape = source.shape(leaves[path].shape)
    if path == f'{_BACKBONE}/embedding':
      shape = (shape[0] + more, shape[1])
    for layer, name in enumerate(source.names):
      described[name] = (shape, np.dtype(dtype or leaves[path].dtype))
      getters[name] = (path, source, layer)

  def tensor(name: str) -> np.ndarray:
    path, source, layer = getters[name]
    index: Any = layer if source.stacked else slice(None)
    value = np.asarray(leaves[path][index])
    low_rank = path.replace('/kernel', '/lora_a')
    if lora is not None and low_rank != path and low_rank in leaves:
      a = np.asarray(leaves[low_rank][index])
      b = np.asarray(leaves[low_rank.replace('lora_a', 'lora_b')][index])
      value = value.astype(np.float32) + lora.scale * (a @ b)
    if more and path == f'{_BACKBONE}/embedding':
      value = np.concatenate([value, new.astype(value.dtype)])
    return value.T if source.transposed else value

  safetensors.write(folder, described, tensor, shard_bytes)
  written = config.to_hf()
  written['vocab_size'] = config.vocab_size + more
  written['dtype'] = str(
    np.dtype(dtype or params[_BACKBONE]['embedding'].dtype)
  )
  (folder / 'config.json').write_text(
    json.dumps(written, indent=2) + '\n', encoding='utf-8'
  )
  return folder


def _read_json(folder: pathlib.Path) -> tuple[dict[str, Any], str]:
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


def _sources(leaves: Flat, kind: str, prefix: str) -> dict[str, _Source]:
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


def _check_agreement(
  folder: pathlib.Path,
  prefix: str,
  tensors: Mapping[str, Stored],
  leaves: Flat,
  sources: Mapping[str, _Source],
) -> None:
  """Raises InputError unless the files have just what the parameters are."""
  missing: list[str] = []
  wrong: list[str] = []
  known: set[str] = set()
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
    faults.append(f'other shapes: {safetensors.listed(wrong, "; ")}')
  if missing:
    faults.append(f'missing: {safetensors.listed(missing)}')
  if extra:
    faults.append(f'not in the model: {safetensors.listed(extra)}')
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


def _place(leaf: Any, source: _Source, tensors: Sequence[Stored]) -> jax.Array:
  """A parameter on its devices, one device's part on the host at a time."""
  sharding = leaf.sharding
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def part(index: tuple[slice, ...]) -> np.ndarray:
    if not source.stacked:
      return _slice(tensors[0], index, source.transposed, leaf.dtype)
    layers, *within = index
    return np.stack(
      [
        _slice(tensor, within, source.transposed, leaf.dtype)
        for tensor in tensors[layers]
      ]
    )

  where = sharding.addressable_devices_indices_map(leaf.shape)
  parts = [jax.device_put(part(i), device) for device, i in where.items()]
  return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)


def _slice(
  tensor: Stored, index: Iterable[slice], transposed: bool, dtype: Any
) -> np.ndarray:
  """tensor[index], or of its transpose: a copy of that part only."""
  index = tuple(index)
  part = tensor[index[::-1]].T if transposed else tensor[index]
  return np.ascontiguousarray(part, dtype=dtype)


def _flat(tree: Params) -> Flat:
  """{'a/b/c': leaf} of nested dicts."""
  flat = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    flat['/'.join(str(key.key) for key in path)] = leaf
  return flat


def _nested(flat: Flat) -> Params:
  """Nested dicts of {'a/b/c': leaf}."""
  tree: Params = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree
