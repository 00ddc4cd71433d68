"""A training step compiled for TPUs that are not there.

XLA compiles for a named topology on any machine that has the `libtpu` wheel.
What comes out is the program that a pod would run: its memory per device, its
FLOPs, and the bytes that its collectives move.
"""

import collections
import dataclasses
import importlib.util
import math
import os
import re

import jax
import numpy as np

from genre2_jax import experiment, sharding, stages, train_state
from genre2_jax.errors import InputError

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
    flops: per device of one step.
    collectives: kind -> bytes per device that one step moves.
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
  collectives: dict[str, int]


def compile_for(config, topology):
  """Compiles every stage of a config for a topology: [`Compiled`].

  Args:
    config: a ConfigDict of `configs/base.py`.
    topology: 'v5e:2x4', 'v5p:4x4x4', ...: generation and shape of the slice.

  Raises:
    InputError: no libtpu, no such topology, or a mesh that does not fit it.
  """
  devices = _devices(topology)
  config = experiment.resolve(config)
  todo = experiment.build_stages(config)
  table = experiment.read_table(config)
  model = experiment.build_model(config, table)
  mesh = sharding.make_mesh(config.mesh, devices=devices)
  experiment.check_mesh(config, mesh)
  seeds = tuple(range(config.seed, config.seed + config.num_seeds))
  rows = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(mesh)
    ),
    model.examples(table.train),
  )
  found = []
  for stage in todo:
    run, _, optimizer = stages.functions(
      stage,
      model,
      num_rows=len(table.train),
      batch_size=config.batch_size,
      mesh=mesh,
    )
    abstract, _ = stages.state_program(
      stage, model, seeds=seeds, mesh=mesh, optimizer=optimizer
    )
    compiled = stages.lower_run(run, abstract, rows).compile()
    memory = compiled.memory_analysis()
    parameters = train_state.merge(abstract.params, abstract.frozen)
    parameters = jax.tree.leaves(parameters['policy'])
    found.append(
      Compiled(
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
        collectives=collective_bytes(compiled.as_text()),
      )
    )
  return found


def collective_bytes(program):
  """Bytes of the results of each kind of collective in an HLO text."""
  kinds = '|'.join(_COLLECTIVES)
  found = collections.Counter()
  pattern = re.compile(rf'= (.*?) ({kinds})(-start)?\(')
  for line in program.splitlines():
    match = pattern.search(line)
    if not match:
      continue
    sizes = [
      _BYTES.get(kind, 4) * math.prod(map(int, filter(None, shape.split(','))))
      for kind, shape in re.findall(r'(\w+)\[([\d,]*)\]', match[1])
    ]
    if match[3]:  # (operands, results): the results are the second half.
      sizes = sizes[len(sizes) // 2 :] or sizes
    found[match[2]] += sum(sizes)
  return dict(found)


def describe(compiled):
  """`Compiled` as lines of text."""
  mesh = ', '.join(f'{axis} {size}' for axis, size in compiled.mesh.items())
  lines = [
    f'{compiled.stage} on {compiled.topology}: {mesh}',
    f'  parameters          {compiled.parameters:,}',
    f'  arguments           {_size(compiled.arguments)} per device',
    f'  temporaries         {_size(compiled.temporaries)} per device',
    f'  peak                {_size(compiled.peak)} per device'
    + (
      f', {compiled.peak / compiled.memory:.1%} of {_size(compiled.memory)}'
      if compiled.memory
      else ''
    ),
    f'  FLOPs of a step     {compiled.flops:.3g} per device',
  ]
  for kind, size in sorted(compiled.collectives.items()):
    lines.append(f'  {kind:20}{_size(size)} per device and step')
  return '\n'.join(lines)


def _devices(topology):
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(
      "compiling for a TPU needs its compiler: pip install 'jax[tpu]'"
    )
  # Without these the wheel looks for a TPU, and asks the cloud for one.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
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
