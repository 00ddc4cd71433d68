"""Where arrays live: one mesh, one table from logical to mesh axes."""

import math

import flax.linen as nn
import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from genre2_jax.errors import InputError

AXES = ('replica', 'data', 'fsdp', 'model')

# Logical axis -> mesh axes. Embeddings of a number vocabulary are small and
# stay whole.
RULES = (
  ('seed', 'replica'),
  ('batch', ('data', 'fsdp')),
  ('embed', 'fsdp'),
  ('heads', 'model'),
  ('mlp', 'model'),
  ('vocab', None),
  ('layers', None),
)


def make_mesh(sizes, num_devices=None, devices=None):
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
  return jax.make_mesh(shape, AXES, axis_types=axis_types, devices=devices)


def check_divides(mesh, what, size, *axes):
  """Raises InputError unless `size` splits evenly over the mesh axes."""
  parts = math.prod(mesh.shape[axis] for axis in axes)
  if size % parts:
    raise InputError(
      f'{what}={size} does not divide by the mesh, {" x ".join(axes)} = '
      f'{parts}: choose a multiple of {parts} or another mesh'
    )


def replicated(mesh):
  """The sharding of arrays that are whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh, *leading):
  """Rows over the batch axes, behind the logical axes in `leading`."""
  spec = nn.logical_to_mesh_axes((*leading, 'batch'), RULES)
  return NamedSharding(mesh, spec)


def abstract_params(boxed_params, mesh, *leading):
  """Shapes, dtypes and shardings of parameters.

  Args:
    boxed_params: abstract, with their logical names.
    mesh: where they will live.
    *leading: logical axes before the parameters' own, each of size 1 here.
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


def state_sharding(boxed_params, abstract_state, optimizer, mesh):
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
  per_seed = NamedSharding(mesh, nn.logical_to_mesh_axes(('seed',), RULES))
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


def check_shapes(abstract, shardings):
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
