"""Where arrays live: one mesh, one table from logical to mesh axes."""

import collections
import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genre2_jax.errors import InputError
from genre2_jax.policy import Pointwise, Policy

Network = TypeVar('Network', bound=Policy | Pointwise)
# A logical axis, and the mesh axes that it may be split over.
Rule = tuple[str, str | tuple[str, ...] | None]

AXES = ('replica', 'data', 'fsdp', 'model')

# The axes that rows, or the samples of a row, are spread over.
ROW_AXES = ('data', 'fsdp')

# Logical axis -> mesh axes, of parameters and what the optimizer keeps of them.
# A rule holds where no other axis of the array has taken its mesh axes: arrays
# without 'embed' (biases, first layers) are over 'fsdp' all the same.
RULES: tuple[Rule, ...] = (
  ('seed', 'replica'),
  ('embed', 'fsdp'),
  ('heads', ('model', 'fsdp')),
  ('heads', 'model'),
  ('mlp', ('model', 'fsdp')),
  ('mlp', 'model'),
  ('vocab', None),
  ('subword', 'model'),
  ('layers', None),
)


def make_mesh(
  sizes: Mapping[str, int],
  num_devices: int | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh over all devices; one size may be −1, for the rest.

  Args:
    sizes: mapping from each of `AXES` to its size.
    num_devices: defaults to all.
    devices: to use instead of those at hand.

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  if devices is not None:
    num_devices = len(devices)
  num_devices = num_devices or jax.device_count()
  shape = [sizes[axis] for axis in AXES]
  described = ', '.join(
    f'mesh.{a}={s}' for a, s in zip(AXES, shape, strict=True)
  )
  known = math.prod(s for s in shape if s != -1)
  open_axes = shape.count(-1)
  if (
    known < 1
    or open_axes > 1
    or num_devices % known
    or (not open_axes and known != num_devices)
  ):
    raise InputError(
      f'{described} does not fit {num_devices} device(s): sizes must be '
      'positive and multiply to that, one may be -1 for the rest'
    )
  shape = [num_devices // known if s == -1 else s for s in shape]
  axis_types = (AxisType.Auto,) * len(AXES)
  try:
    return jax.make_mesh(shape, AXES, axis_types=axis_types, devices=devices)
  except NotImplementedError:  # An axis that is part of one of the torus.
    placed = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=axis_types)


def mesh_at_hand() -> Mesh:
  """All devices that there are, along `data`."""
  return make_mesh({'replica': 1, 'data': -1, 'fsdp': 1, 'model': 1})


def check_divides(mesh: Mesh, what: str, size: int, *axes: str) -> None:
  """Raises InputError unless `size` splits evenly over the mesh axes."""
  parts = math.prod(mesh.shape[axis] for axis in axes)
  if size % parts:
    raise InputError(
      f'{what}={size} does not divide by the mesh, {" x ".join(axes)} = '
      f'{parts}: choose a multiple of {parts} or another mesh'
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of arrays that are whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def row_rules(
  mesh: Mesh, num_rows: int | None = None, num_samples: int = 1
) -> tuple[Rule, ...]:
  """Rules of rows, 'batch', and of the samples of a row, 'group'.

  Rows take as many of the mesh axes for them as they divide by, from the left;
  samples of a row, where there are several, take the others. So fewer rows than
  devices still keep all of them busy while numbers are sampled and scored.

  Args:
    mesh: the mesh.
    num_rows: B; None where it is known to divide by all axes.
    num_samples: U, decodings of a row side by side.

  Returns:
    (('batch', mesh axes), ('data_batch', those of 'batch' that no parameter is
    split over), ('group', mesh axes)).
  """
  taken, parts = [], 1
  for axis in ROW_AXES:
    parts *= mesh.shape[axis]
    if num_rows is not None and num_rows % parts:
      break
    taken.append(axis)
  left = tuple(axis for axis in ROW_AXES if axis not in taken)
  group = left if num_samples > 1 else ()
  return (
    ('batch', tuple(taken) or None),
    ('data_batch', 'data' if 'data' in taken else None),
    ('group', group or None),
  )


def batch_sharding(
  mesh: Mesh, *leading: str | None, num_rows: int | None = None
) -> NamedSharding:
  """Rows over the axes for them, behind the logical axes in `leading`."""
  rules = (*row_rules(mesh, num_rows), *RULES)
  return _sharding(mesh, (*leading, 'batch'), rules)


def constrained(network: Network, mesh: Mesh) -> Network:
  """A network whose activations are laid out over the rows, not the width.

  Left to itself the partitioner lets the layout of the parameters spread into
  the activations: under FSDP it then sums activations over devices, layer by
  layer, where it should gather weights. A model names the axes of its
  activations by `nn.with_logical_constraint`; here the names get a meaning.

  Args:
    network: a `Policy` or a `Pointwise`.
    mesh: where it runs.

  Returns:
    The same kind of network, with the same parameters.
  """
  if mesh.size == 1:
    return network

  @contextlib.contextmanager
  def layout(*sizes):
    with (
      jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
      nn.logical_axis_rules((*row_rules(mesh, *sizes), *RULES)),
    ):
      yield

  def rows(tree, *axes):
    def constrain(x):
      names = (*axes, *[None] * (x.ndim - len(axes)))
      return nn.with_logical_constraint(x, names)

    return jax.tree.map(constrain, tree)

  def per_row(function):
    """Of `encode`, its halves and `predict`: rows in, rows out."""

    def run(params, inputs, dropout_key=None):
      with layout(len(jax.tree.leaves(inputs)[0])):
        inputs = rows(inputs, 'batch')
        return rows(function(params, inputs, dropout_key), 'batch')

    return run

  if isinstance(network, Pointwise):
    return network._replace(predict=per_row(network.predict))

  def decode(
    params, context, tokens, positions, visible, cache=None, dropout_key=None
  ):
    with layout(*tokens.shape[:2]):
      tokens = rows(tokens, 'batch', 'group')
      logits, cache = network.decode(
        params, context, tokens, positions, visible, cache, dropout_key
      )
      return rows(logits, 'batch', 'group'), cache

  at_once, halves = network.at_once, network.halves

  def read_and_decode(
    params, inputs, tokens, positions, visible, dropout_key=None
  ):
    assert at_once is not None
    with layout(len(tokens)):
      inputs, tokens = rows((inputs, tokens), 'batch')
      logits = at_once(params, inputs, tokens, positions, visible, dropout_key)
      return rows(logits, 'batch')

  # Nodes that all rows share would be whole on every device.
  return network._replace(
    encode=per_row(network.encode),
    decode=decode,
    at_once=at_once and read_and_decode,
    shares_nodes=False,
    halves=halves and (per_row(halves[0]), per_row(halves[1])),
    writer=network.writer and _constrained_writer(network.writer, layout, rows),
  )


def _constrained_writer(writer, layout, rows):
  """`constrained` of a `Writer`: its rows are decodings too."""

  def write(params, context, keys, is_greedy, temperature):
    with layout(*keys.shape):
      written = writer.write(
        params, context, rows(keys, 'batch', 'group'), is_greedy, temperature
      )
      return rows(written, 'batch', 'group')

  def score(params, context, text, numbers, temperature=1.0, dropout_key=None):
    with layout(*numbers.shape[:2]):
      text, numbers = rows((text, numbers), 'batch', 'group')
      scored = writer.score(
        params, context, text, numbers, temperature, dropout_key
      )
      return rows(scored, 'batch', 'group')

  return writer._replace(write=write, score=score)


def abstract_params(boxed_params: Any, mesh: Mesh, *leading: str) -> Any:
  """Shapes, dtypes and shardings of parameters.

  Args:
    boxed_params: abstract, with their logical names.
    mesh: where they will live.
    *leading: logical axes before the parameters' own, each of size 1 here.

  Returns:
    A tree of `jax.ShapeDtypeStruct` like the parameters, unboxed.
  """
  specs = jax.tree.map(
    lambda spec: PartitionSpec(*leading, *spec),
    nn.get_partition_spec(boxed_params),
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )
  shardings = nn.logical_to_mesh_sharding(specs, mesh, RULES)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(
      (1,) * len(leading) + x.shape, x.dtype, sharding=s
    ),
    nn.unbox(boxed_params),
    shardings,
  )


def state_sharding(
  boxed_params: Any,
  abstract_state: Any,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
) -> Any:
  """Shardings of a stacked `TrainState`, the optimizer's as its parameters'.

  What an optimizer keeps of a parameter without one of its axes, as Adafactor
  does, lies as the axes that are left, and whole where one can't tell which.

  Args:
    boxed_params: one seed's abstract parameters with their logical names.
    abstract_state: the stacked state of shapes and dtypes.
    optimizer: whose state it holds.
    mesh: the mesh.

  Returns:
    A tree of `NamedSharding` like the state.
  """
  logical = nn.get_partition_spec(boxed_params)
  stacked = jax.tree.map(
    lambda spec: PartitionSpec('seed', *spec),
    logical,
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )
  whole = nn.logical_to_mesh_sharding(stacked, mesh, RULES)
  params = _where(abstract_state.params, whole)
  frozen = abstract_state.frozen
  if frozen is not None:
    frozen = _where(frozen, whole['policy'])
  per_seed = _sharding(mesh, ('seed',), RULES)
  shardings = jax.tree.map(lambda _: per_seed, abstract_state)
  opt_state = optax.tree_utils.tree_map_params(
    optimizer,
    _like,
    abstract_state.opt_state,
    abstract_state.params,
    params,
    transform_non_params=lambda _: per_seed,
  )
  return type(abstract_state)(
    **{
      **{k: getattr(shardings, k) for k in shardings.__dataclass_fields__},
      'params': params,
      'frozen': frozen,
      'best_params': params,
      'opt_state': opt_state,
      'reference': None if abstract_state.reference is None else params,
    }
  )


def _sharding(mesh, names, rules):
  """The sharding of an array with logical axes."""
  spec = nn.logical_to_mesh_axes(names, rules)
  assert spec is not None  # There are names.
  return NamedSharding(mesh, spec)


def _where(present, shardings):
  """`shardings` without those of what is None in `present`."""
  return jax.tree.map(
    lambda x, y: None if x is None else y,
    present,
    shardings,
    is_leaf=lambda x: x is None,
  )


def _like(kept, param, sharding):
  """The sharding of what an optimizer keeps of a parameter [S, ...]."""
  if kept.shape == param.shape:
    return sharding
  spec = (*sharding.spec, *[None] * (param.ndim - len(sharding.spec)))
  found = {
    spec[:i] + spec[i + 1 :]
    for i in range(1, param.ndim)
    if param.shape[:i] + param.shape[i + 1 :] == kept.shape
  }
  spec = found.pop() if len(found) == 1 else spec[:1]
  return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def check_shapes(abstract: Any, shardings: Any) -> None:
  """Raises InputError where a parameter's axis does not split evenly."""

  def check(path, leaf, sharding):
    try:
      sharding.shard_shape(leaf.shape)
    except ValueError as error:
      raise InputError(
        f'{jax.tree_util.keystr(path)} of shape {leaf.shape} does not split '
        f'over the mesh as {sharding.spec}: choose other mesh or model sizes'
      ) from error

  jax.tree_util.tree_map_with_path(check, abstract, shardings)


def describe(boxed_params: Any, state: Any, batch: Any, mesh: Mesh) -> str:
  """A table of what lives where: every array of a state, and a batch.

  Arrays that lie alike (of the layers; parameters and what the optimizer keeps
  of them) are one line. Bytes are of one device, of all its seeds.

  Args:
    boxed_params: one seed's abstract parameters with their logical names.
    state: the stacked abstract `TrainState`, with shardings.
    batch: `Examples` of shapes [S, B, ...] and shardings.
    mesh: the mesh.

  Returns:
    Lines of text.
  """
  names = {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(spec)
    for path, spec in jax.tree_util.tree_leaves_with_path(
      nn.get_partition_spec(boxed_params),
      is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
  }
  # line -> who keeps it: of how many arrays
  found: dict[tuple, collections.Counter[str]] = {}
  total, rest, num_rest = 0, 0, 0
  for keys, x in jax.tree_util.tree_leaves_with_path(state):
    total += _bytes_per_device(x)
    path = jax.tree_util.keystr(keys, simple=True, separator='/')
    keeper, name = _parameter_of(path, names)
    if name is None:
      rest, num_rest = rest + _bytes_per_device(x), num_rest + 1
      continue
    axes = names[name] if x.ndim - 1 == len(names[name]) else ()
    line = (re.sub(r'layer_\d+', 'layer_*', name), axes, x.sharding.spec)
    alike = (line, x.shape, str(x.dtype))
    found.setdefault(alike, collections.Counter())[keeper] += 1
  kept_as: dict[tuple[str, ...], list] = {}
  for (line, shape, dtype), keepers in found.items():
    count = max(keepers.values())
    x = jax.ShapeDtypeStruct(
      shape, dtype, sharding=NamedSharding(mesh, line[2])
    )
    kept_as.setdefault(tuple(keepers), []).append((*line[:2], x, count))
  # Rows of cells, and headings in between.
  table: list[tuple[str, ...] | str] = [
    ('', 'axes', 'shape', 'over', 'per device', 'KiB')
  ]
  for who, kept in kept_as.items():
    size = sum(_bytes_per_device(x) * count for *_, x, count in kept)
    times = f', {len(who)} times' if len(who) > 1 else ''
    table.append(f'{", ".join(who)}: {size / 1024:,.1f} KiB{times}')
    table += [_cells(*row) for row in kept]
  table.append('batch:')
  for keys, x in jax.tree_util.tree_leaves_with_path(batch):
    path = jax.tree_util.keystr(keys, simple=True, separator='/')
    axes = ('batch', *[None] * (x.ndim - 2))
    table.append(_cells(path, axes, x, 1))
  lines = [_mesh_words(mesh), *_aligned(table)]
  lines.append(f'  counters and sums: {num_rest} arrays, {rest} bytes')
  lines.append(f'  state: {total / 1024:,.1f} KiB per device')
  return '\n'.join(lines)


def _aligned(table):
  """Lines of text: rows in columns, headings as they are."""
  rows = [row for row in table if isinstance(row, tuple)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in table:
    text = f'  {row}'
    if isinstance(row, tuple):
      parts = [c.ljust(w) for c, w in zip(row[:-1], widths, strict=False)]
      text = '    ' + '  '.join((*parts, row[-1].rjust(widths[-1])))
    yield text.rstrip()


def _parameter_of(path, names):
  """Who keeps the array at a path of the state, and of which parameter."""
  parts = path.split('/')
  for i in range(1, len(parts)):
    for prefix in ((), ('policy',)):
      name = '/'.join((*prefix, *parts[i:]))
      if name in names:
        return '/'.join(parts[:i]), name
  return path, None


def _cells(name, axes, x, count):
  """A line of the table; the seeds' axis is left out."""

  def over(part):
    part = (part,) if isinstance(part, str) else part or ()
    return '+'.join(axis for axis in part if x.sharding.mesh.shape[axis] > 1)

  ndim = x.ndim - 1
  spec = (*x.sharding.spec, *[None] * x.ndim)[1 : x.ndim]
  local = x.sharding.shard_shape(x.shape)
  size = _bytes_per_device(x) * count / 1024
  return (
    name + (f' ({count})' if count > 1 else ''),
    ', '.join(axis or '-' for axis in (*axes, *[None] * ndim)[:ndim]),
    ' x '.join(map(str, x.shape[1:])),
    ', '.join(over(part) or '-' for part in spec),
    ' x '.join(map(str, local[1:])),
    f'{size:,.1f}' if size >= 0.05 else '<0.1',
  )


def _bytes_per_device(x):
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _mesh_words(mesh):
  sizes = ', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
  return f'Mesh of {mesh.size} devices: {sizes}'
