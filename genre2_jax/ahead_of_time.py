"""A training step compiled for TPUs that are not there.

XLA compiles for a named topology on any machine that has the `libtpu` wheel.
What comes out is the program that a pod would run: its memory per device, its
FLOPs, and the bytes that its collectives move.
"""

import collections
import dataclasses
import functools
import importlib.util
import logging
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from genre2_jax.data.batches import Examples
from genre2_jax.devices import compilation, sharding
from genre2_jax.errors import InputError
from genre2_jax.experiment.experiment import build
from genre2_jax.training import (
  initialization,
  orders,
  programs,
  stage_functions,
  train_state,
)
from genre2_jax.training.stages import Stage
from genre2_jax.training.step import train_step

_logger = logging.getLogger('genre2_jax')

# Memory of a device as jax sees it, bytes: cloud.google.com/tpu/docs.
MEMORY = {
  'v4': 32 * 2**30,
  'v5e': 16 * 2**30,
  'v5p': 95 * 2**30,
  'v6e': 32 * 2**30,
}
_COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2}
_BYTES |= {'f32': 4, 's32': 4, 'u32': 4, 'f64': 8, 's64': 8, 'u64': 8}


class Collective(NamedTuple):
  """Collectives of one kind among groups of one size.

  Attributes:
    kind: 'all-reduce', ...
    group: devices that exchange, each with all of them.
    size: bytes of the results on one device, in one step.
  """

  kind: str
  group: int
  size: int

  @property
  def sent(self) -> float:
    """Bytes that a device sends in a step, by a ring of the group.

    A ring gathers N bytes by sending N·(g−1)/g; a sum is a scattered sum and a
    gather (Chan et al. 2007, Collective communication, section 4).
    """
    share = 1 - 1 / self.group
    scale = {
      'all-reduce': 2 * share,
      'reduce-scatter': self.group * share,
      'collective-permute': 1,
    }
    return self.size * scale.get(self.kind, share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """What a compiled step says of itself.

  Attributes:
    stage: its name.
    topology: its name.
    mesh: axis -> size.
    parameters: of one seed's network.
    arguments: bytes per device of state and data.
    temporaries: bytes per device beside them.
    peak: bytes per device at once, at most.
    memory: bytes that a device has; 0 where unknown.
    flops: per device of one step, as XLA counts the compiled program; it counts
      the body of a loop once.
    product_flops: of one step in matrix products, as traced, loops multiplied
      out, all devices together.
    has_loops: whether the step has matrix products in loops.
    collectives: what one step moves, each kind and size of group once.
  """

  stage: str
  topology: str
  mesh: dict[str, int]
  parameters: int
  arguments: int
  temporaries: int
  peak: int
  memory: int
  flops: float
  product_flops: int
  has_loops: bool
  collectives: tuple[Collective, ...]

  def bytes_by_kind(self) -> dict[str, int]:
    """Kind -> bytes of results per device and step."""
    found = collections.Counter[str]()
    for collective in self.collectives:
      found[collective.kind] += collective.size
    return dict(sorted(found.items()))


def compile_for(config: ConfigDict, topology: str) -> list[Compiled]:
  """Compiles every stage of a config for a topology.

  Args:
    config: with the fields of `experiment/defaults.py`.
    topology: 'v5e:2x4', 'v5p:4x4x4', ...: generation and shape of the slice.

  Raises:
    InputError: no libtpu, no such topology, or a mesh that does not fit it.
  """
  experiment = build(config, devices=devices(topology))
  _logger.info(
    'compiling a step of %s for %s, which need not be there: its needs are '
    'printed, nothing is trained and no file is written',
    ' and of '.join(stage.name for stage in experiment.stages) or 'no stage',
    topology,
  )
  model = experiment.model
  examples = model.training_examples(experiment.table.train)
  epoch_steps = orders.steps_per_epoch(
    examples, model.widths, experiment.batch_size
  )
  return [
    compile_step(
      stage.bounded(epoch_steps),
      model,
      examples,
      batch_size=experiment.batch_size,
      seeds=experiment.seeds,
      mesh=experiment.mesh,
      topology=topology,
    )
    for stage in experiment.stages
  ]


def compile_step(
  stage: Stage,
  model: initialization.Trainable,
  rows: Examples,
  *,
  batch_size: int,
  seeds: Sequence[int],
  mesh: jax.sharding.Mesh,
  topology: str,
) -> Compiled:
  """Compiles a stage's step.

  Args:
    stage: with its number of epochs settled.
    model: what is trained.
    rows: `Examples` of the training split; where texts are padded to one width
      their shapes will do.
    batch_size: B, rows of a step.
    seeds: S integers.
    mesh: of the topology's devices.
    topology: its name.
  """
  buckets = orders.buckets_of(rows, model.widths)
  rows = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(mesh)
    ),
    rows,
  )
  run, _, optimizer = stage_functions.functions(
    train_step,
    stage,
    model,
    num_rows=len(rows.target),
    batch_size=batch_size,
    mesh=mesh,
    buckets=buckets,
  )
  abstract, _ = initialization.state_program(
    stage, model, seeds=seeds, mesh=mesh, optimizer=optimizer
  )
  traced = programs.trace_run(run, abstract, rows)
  compiled = traced.lower().compile(compilation.options(mesh))
  memory = compiled.memory_analysis()
  found, has_loops = collectives_of(compiled.as_text())
  whole = train_state.merge(abstract.params, abstract.frozen)
  parameters = jax.tree.leaves(whole['policy'])
  return Compiled(
    stage=stage.name,
    topology=topology,
    mesh=dict(mesh.shape),
    parameters=sum(math.prod(x.shape) for x in parameters) // len(seeds),
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    peak=memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
    memory=MEMORY.get(topology.partition(':')[0], 0),
    flops=float((compiled.cost_analysis() or {}).get('flops', math.nan)),
    product_flops=product_flops(traced.jaxpr),
    has_loops=has_loops,
    collectives=found,
  )


def product_flops(jaxpr: Any) -> int:
  """FLOPs in matrix products of a traced program, all devices together.

  A scan's body counts as often as it runs, a while loop's once, of branches the
  dearest.

  Args:
    jaxpr: a `jax.core.Jaxpr`, closed or open.
  """
  jaxpr, total = getattr(jaxpr, 'jaxpr', jaxpr), 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      size = math.prod(equation.outvars[0].aval.shape)
      total += 2 * size * math.prod(shape[i] for i in contracted)
    bodies = [
      product_flops(part)
      for value in params.values()
      for part in (value if isinstance(value, tuple | list) else [value])
      if hasattr(part, 'eqns') or hasattr(part, 'jaxpr')
    ]
    if bodies:
      inside = max(bodies) if name == 'cond' else sum(bodies)
      total += inside * (params['length'] if name == 'scan' else 1)
  return total


_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*->.*\{$')
_INSTRUCTION = re.compile(r'%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)')
_CALLED = re.compile(
  r'(?:calls|to_apply|body|condition|branch_computations|called_computations'
  r'|true_computation|false_computation)=(?:\{([^}]*)\}|(%?[\w.\-]+))'
)


def collectives_of(program: str) -> tuple[tuple[Collective, ...], bool]:
  """The collectives of an HLO text, and whether products are in loops.

  A loop that counts from 0 to a constant, as `jax.lax.scan` does, multiplies
  what is in its body; another counts once, and so does that over the steps.

  Returns:
    (`Collective`s, whether a matrix product is run more than once).
  """
  own = collections.defaultdict[str, collections.Counter[tuple[str, int]]](
    collections.Counter
  )
  calls = collections.defaultdict[str, list[tuple[str, int]]](list)
  turns, chains = _turns(program), set()
  partitions = re.search(r'num_partitions=(\d+)', program)
  num_devices = int(partitions[1]) if partitions else 1
  here, entry = '', ''
  for line in program.splitlines():
    header = _HEADER.match(line)
    if header:
      here = header[2]
      entry = here if header[1] else entry
      continue
    match = _INSTRUCTION.search(line)
    if not match:
      continue
    _, shapes, code, _ = match.groups()
    kind = code.removesuffix('-start')
    if kind in _COLLECTIVES:
      # A TPU spreads one collective over the fusions that it runs beside.
      chain = re.search(r'chain_id="(\d+)"', line)
      if chain and chain[1] in chains:
        continue
      chains.add(chain and chain[1])
      size = _result_bytes(shapes, code)
      group = _group_size(line, num_devices)
      # A TPU sums and scatters by a fusion around the sum of everything.
      if kind == 'all-reduce' and here.startswith('all-reduce-scatter'):
        kind, size = 'reduce-scatter', size // group
      own[here][kind, group] += size
    elif code in ('dot', 'convolution'):
      own[here]['products', 0] = 1
    elif not code.endswith(('-done', '-update')):
      names = [
        name.strip().lstrip('%')
        for several, one in _CALLED.findall(line)
        for name in (several or one).split(',')
      ]
      times = max((turns.get(name, 1) for name in names), default=1)
      calls[here] += [(name, times if code == 'while' else 1) for name in names]

  @functools.cache
  def total(name: str) -> collections.Counter[tuple[str, int]]:
    found = collections.Counter(own[name])
    for callee, times in calls[name]:
      for key, size in total(callee).items():
        found[key] = (
          max(found[key], times * size)
          if key[0] == 'products'
          else found[key] + times * size
        )
    return found

  found = total(entry)
  has_loops = found.pop(('products', 0), 0) > 1
  return tuple(
    Collective(kind, group, size)
    for (kind, group), size in sorted(found.items())
  ), has_loops


def _turns(program):
  """{condition of a loop: how often it holds}, where that is a constant."""
  found: dict[str, int] = {}
  constants: dict[str, str] = {}
  here = ''
  for line in program.splitlines():
    header = _HEADER.match(line)
    if header:
      here, constants = header[2], {}
      continue
    match = _INSTRUCTION.search(line)
    if not match:
      continue
    name, _, code, operands = match.groups()
    if code == 'constant':
      constants[name] = operands.partition(')')[0]
    elif code == 'compare' and 'direction=LT' in operands:
      bound = operands.partition(')')[0].rpartition('%')[2]
      if constants.get(bound, '').isdigit():
        found[here] = int(constants[bound])
  return found


def _result_bytes(shapes, code):
  """Bytes of an instruction's result, of an asynchronous one's own result."""
  sizes = [
    _BYTES.get(kind, 4) * math.prod(map(int, filter(None, shape.split(','))))
    for kind, shape in re.findall(r'(\w+)\[([\d,]*)\]', shapes)
  ]
  if code == 'all-gather-start':  # (operands, results)
    sizes = sizes[len(sizes) // 2 :]
  elif code == 'collective-permute-start':  # (operand, result, contexts)
    sizes = sizes[1:2]
  return sum(sizes)


def _group_size(line, num_devices):
  """Devices of a group, however the text says it."""
  mesh = re.search(r'replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}', line)
  if mesh:  # mesh['a'=4,'b'=2] {'a':(1)2,'b'}: half of axis a, and axis b
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  iota = re.search(r'replica_groups=\[\d+,(\d+)\]', line)
  if iota:
    return int(iota[1])
  first = re.search(r'replica_groups=\{\{([\d,]+)\}', line)
  if first:
    return len(first[1].split(','))
  return 2 if 'source_target_pairs' in line else num_devices


def describe(compiled: Compiled) -> str:
  """`Compiled` as lines of text."""
  mesh = ', '.join(f'{axis} {size}' for axis, size in compiled.mesh.items())
  num_devices = math.prod(compiled.mesh.values())
  products = f'{compiled.product_flops / num_devices:.3g}'
  share = ''
  if compiled.memory:
    share = f', {compiled.peak / compiled.memory:.1%} of '
    share += _size(compiled.memory)
  lines = [
    f'{compiled.stage} on {compiled.topology}: {mesh}',
    f'  parameters          {compiled.parameters:,}',
    f'  arguments           {_size(compiled.arguments)} per device',
    f'  temporaries         {_size(compiled.temporaries)} per device',
    f'  peak                {_size(compiled.peak)} per device{share}',
    f'  FLOPs of a step     {products} per device in matrix products, '
    'spread evenly',
  ]
  if not compiled.has_loops:  # XLA counts one turn of a loop.
    lines.append(f'  FLOPs as compiled   {compiled.flops:.3g} per device')
  for kind, size in compiled.bytes_by_kind().items():
    lines.append(f'  {kind:20}{_size(size)} per device and step')
  return '\n'.join(lines)


def devices(topology: str) -> list[jax.Device]:
  """The devices of a named topology, none of which is there.

  Raises:
    InputError: no libtpu, or no such topology.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(
      "compiling for a TPU needs its compiler: pip install 'jax[tpu]'"
    )
  # Without these the wheel looks for a TPU, asks the cloud for one, and lets
  # one process at a time load it.
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-8'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(name, value)
  jax.config.update('jax_platforms', 'cpu')
  from jax.experimental import topologies

  try:
    found = topologies.get_topology_desc(topology_name=topology, platform='tpu')
  except Exception as error:
    reason = ' '.join(str(error).split())[:120]
    raise InputError(
      f'topology {topology!r} is not one that libtpu knows ({reason}): give '
      'one such as v5e:2x4 or v5p:4x4x4'
    ) from error
  return np.array(found.devices).tolist()


def _size(count):
  for unit in ('B', 'KiB', 'MiB', 'GiB'):
    if count < 1024:
      return f'{count:.4g} {unit}'
    count /= 1024
  return f'{count:.4g} TiB'
