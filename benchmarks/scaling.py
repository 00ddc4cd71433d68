"""What a step costs on 1 to 8 fake devices, and on 8 to 4,096 TPU chips.

    python benchmarks/scaling.py --part=cpu
    PYTHONPATH=FOLDER_WITH_LIBTPU python benchmarks/scaling.py --part=tabular
    PYTHONPATH=FOLDER_WITH_LIBTPU python benchmarks/scaling.py --part=gemma

Writes results/scaling.csv, a row per case as soon as it is there, and
results/scaling.md from it. Cases with a row are left out unless --again is
given; --only=TEXT takes those whose name has it in it.

cpu: ReMax at the paper's size, timed on devices that share this machine's
cores: memory and collectives are those of real devices, seconds are not.
tabular, gemma: programs compiled for chips that are not there. The cost model
is a lower bound by two terms, FLOPs in matrix products over the chip's rate and
bytes that a ring sends over its links' bandwidth.
"""

import argparse
import csv
import dataclasses
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

RESULTS = pathlib.Path(__file__).parent / 'results'


class Chip(NamedTuple):
  """A generation: cloud.google.com/tpu/docs/v5e and .../v5p.

  Attributes:
    flops: bfloat16 FLOP/s at peak.
    link: bytes per second of one port, one way: the bidirectional bandwidth of
      a chip (400 GB/s with 4 ports, 1200 GB/s with 6) by ports, halved.
  """

  flops: float
  link: float


CHIPS = {'v5e': Chip(197e12, 50e9), 'v5p': Chip(459e12, 100e9)}
# A ring runs along one axis of the torus, both ways round: two ports.
PORTS = 2

COLUMNS = (
  'case', 'chips', 'mesh', 'seeds', 'rows', 'parameters', 'arguments_bytes',
  'temporaries_bytes', 'peak_bytes', 'memory_bytes', 'product_flops',
  'all_gather_bytes', 'all_reduce_bytes', 'reduce_scatter_bytes',
  'other_bytes', 'sent_bytes', 'compute_s', 'communication_s', 'step_s',
  'compile_s', 'note',
)  # fmt: skip


# ------------------------------------------------------------------------- CPU

# name -> (devices, mesh)
CPU = {
  f'cpu {n} {axis}': (n, {axis: n})
  for n in (1, 2, 4, 8)
  for axis in ('data', 'fsdp')
  if (n, axis) != (1, 'fsdp')
}


def on_cpu(name):
  """One case on fake devices, in a process of its own: a row."""
  num_devices, _ = CPU[name]
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(num_devices),
  }
  environment.pop('XLA_FLAGS', None)
  done = subprocess.run(
    [sys.executable, __file__, '--child', name],
    env=environment,
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def _config():
  from configs import remax_talent
  from genre2_jax.experiment import experiment

  config = remax_talent.get_config()
  config.size = 'paper'
  return experiment.resolve(config)


def cpu_child(name):
  import jax
  import numpy as np

  from genre2_jax import ahead_of_time
  from genre2_jax.devices import sharding
  from genre2_jax.experiment import meshes, networks, tasks
  from genre2_jax.experiment.stages import build_stages
  from genre2_jax.training.initialization import state_program
  from genre2_jax.training.programs import trace_run
  from genre2_jax.training.stage_functions import functions
  from genre2_jax.training.step import train_step

  _, mesh = CPU[name]
  config = _config()
  config.mesh.update({'data': 1, 'fsdp': 1} | mesh)
  table = tasks.read_table(config)
  model = networks.build_model(config, table)
  mesh = meshes.build_mesh(config)
  stage = build_stages(config)[-1]
  run, _, optimizer = functions(
    train_step,
    stage,
    model,
    num_rows=len(table.train),
    batch_size=config.batch_size,
    mesh=mesh,
  )
  abstract, init = state_program(
    stage, model, seeds=(0,), mesh=mesh, optimizer=optimizer
  )
  rows = jax.device_put(model.examples(table.train), sharding.replicated(mesh))
  traced = trace_run(run, abstract, rows)
  began = time.monotonic()
  compiled = traced.lower().compile()
  compile_s = time.monotonic() - began
  found, _ = ahead_of_time.collectives_of(compiled.as_text())
  state = dataclasses.replace(init(None), epoch=np.zeros(1, np.int32))
  state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, abstract))
  seconds = []
  for _ in range(3):
    began = time.monotonic()
    state = jax.block_until_ready(compiled(state, rows, np.int32(1)))
    seconds.append(time.monotonic() - began)
  memory = compiled.memory_analysis()
  row = _row(
    name,
    mesh,
    (0,),
    config.batch_size,
    parameters=sum(x.size for x in jax.tree.leaves(abstract.params)),
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    product_flops=ahead_of_time.product_flops(traced.jaxpr),
    collectives=found,
  )
  row |= {'step_s': statistics.median(seconds[1:]), 'compile_s': compile_s}
  print(json.dumps(row))


def _row(
  name,
  mesh,
  seeds,
  rows,
  *,
  parameters,
  arguments,
  temporaries,
  product_flops,
  collectives,
):
  sizes = {'all-gather': 0, 'all-reduce': 0, 'reduce-scatter': 0, 'other': 0}
  for part in collectives:
    sizes[part.kind if part.kind in sizes else 'other'] += part.size
  return {
    'case': name,
    'chips': mesh.size,
    'mesh': ' '.join(f'{a}={n}' for a, n in mesh.shape.items() if n > 1),
    'seeds': len(seeds),
    'rows': rows,
    'parameters': parameters,
    'arguments_bytes': arguments,
    'temporaries_bytes': temporaries,
    'product_flops': product_flops // mesh.size,
    'all_gather_bytes': sizes['all-gather'],
    'all_reduce_bytes': sizes['all-reduce'],
    'reduce_scatter_bytes': sizes['reduce-scatter'],
    'other_bytes': sizes['other'],
    'sent_bytes': round(sum(part.sent for part in collectives)),
  }


# -------------------------------------------------------------------- TPU chips

TOPOLOGIES = ('v5e:2x4', 'v5e:8x8', 'v5e:16x16', 'v5p:16x16x16')


def _num_chips(topology):
  return math.prod(map(int, topology.partition(':')[2].split('x')))


class Case(NamedTuple):
  """A program for a topology.

  Attributes:
    topology: its name.
    mesh: axis -> size, 1 where it has none.
    objective: 'remax' or 'raft'.
    size: a preset of `PRESETS`, or '' for the tabular decoder.
    seeds: side by side.
    rows: of a batch, of each seed.
  """

  topology: str
  mesh: dict[str, int]
  objective: str
  size: str = ''
  seeds: int = 1
  rows: int = 128


def cases():
  """name -> `Case`."""
  found = {}
  for topology in TOPOLOGIES:
    n = _num_chips(topology)
    for name, data in (('', 8), (' a seed a chip', 1)):
      mesh = {'replica': n // data, 'data': data}
      found[f'tabular remax{name} {topology}'] = Case(
        topology, mesh, 'remax', seeds=n
      )
  for size, name, fsdp, model in (
    ('gemma2_2b', '', 2, 4),
    ('gemma2_2b', ' by fsdp alone', 8, 1),
    ('gemma2_27b', '', 16, 4),
    ('gemma2_27b', ' by fsdp alone', 64, 1),
  ):
    for topology in TOPOLOGIES if not name else ('v5e:8x8',):
      n = _num_chips(topology)
      split = min(fsdp, n // model)
      mesh = {'data': n // split // model, 'fsdp': split, 'model': model}
      for objective in ('raft', 'remax'):
        found[f'{size} {objective}{name} {topology}'] = Case(
          topology, mesh, objective, size=size, rows=2 * n
        )
  return found


@dataclasses.dataclass(frozen=True)
class TextModel:
  """What a stage wants to know of a model that reads prompts."""

  network: Any
  codec: Any
  length: int = 512

  def example_inputs(self):
    return self.inputs(1)

  def inputs(self, num_rows):
    import numpy as np

    return {
      'tokens': np.ones((num_rows, self.length), np.int32),
      'length': np.full(num_rows, self.length, np.int32),
    }


def gemma_stage(case):
  """(stage, model, training rows): Adafactor, remat, bfloat16 compute."""
  import numpy as np

  from genre2_jax import tokenizers
  from genre2_jax.data.batches import Examples
  from genre2_jax.models.gemma.policy import gemma_policy
  from genre2_jax.models.gemma.sizes import PRESETS
  from genre2_jax.objectives.catalog import build_term
  from genre2_jax.objectives.objective import Objective, Rollouts
  from genre2_jax.policy.enumeration import Enumeration
  from genre2_jax.tokenizers.codec import Codec
  from genre2_jax.training.stages import Stage

  tokenizer = tokenizers.build('normalized', base=10, digits=2)
  network = gemma_policy(
    tokenizer,
    PRESETS[case.size],
    number_tokens=np.arange(1000, 1000 + tokenizer.vocab_size),
    remat=True,
  )
  model = TextModel(network, Codec(tokenizer, -1.0, 1.0))
  stage = Stage(
    section='finetune',
    name=case.objective,
    objective=Objective(
      terms=(build_term(case.objective),),
      rollouts=Rollouts(group_size=16),
      enumeration=Enumeration(depth=tokenizer.num_tokens),
    ),
    epochs=1,
    max_steps=0,
    learning_rate=1e-5,
    patience=0,
    warmup_steps=0,
    weight_decay=0.0,
    max_grad_norm=0.0,
    optimizer='adafactor',
    schedule='constant',
  )
  z = np.zeros(case.rows, np.float32)
  return (
    stage,
    model,
    Examples(model.inputs(case.rows), z, model.codec.encode(z)),
  )


def tabular_stage():
  """ReMax at the paper's size on scikit-learn's diabetes set."""
  from genre2_jax.experiment import networks, tasks
  from genre2_jax.experiment.stages import build_stages

  config = _config()
  table = tasks.read_table(config)
  model = networks.build_model(config, table)
  stage = build_stages(config)[-1]
  return stage, model, model.examples(table.train)


def on_tpus(name, case):
  """One case compiled: a row."""
  from genre2_jax import ahead_of_time
  from genre2_jax.devices import sharding

  mesh = sharding.make_mesh(
    dict.fromkeys(sharding.AXES, 1) | case.mesh,
    devices=ahead_of_time.devices(case.topology),
  )
  stage, model, rows = gemma_stage(case) if case.size else tabular_stage()
  seeds = tuple(range(case.seeds))
  chip = CHIPS[case.topology.partition(':')[0]]
  began = time.monotonic()
  try:
    compiled = ahead_of_time.compile_step(
      stage,
      model,
      rows,
      batch_size=case.rows,
      seeds=seeds,
      mesh=mesh,
      topology=case.topology,
    )
  except Exception as error:
    used = re.search(
      r'Used ([\d.]+\w) of ([\d.]+\w) hbm'
      r'|temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)',
      str(error),
    )
    if not used:
      raise
    return {
      'case': name,
      'chips': mesh.size,
      'mesh': ' '.join(f'{a}={n}' for a, n in case.mesh.items() if n > 1),
      'seeds': len(seeds),
      'rows': case.rows,
      'compile_s': time.monotonic() - began,
      'note': f'does not fit: {used[1] or used[3]} of {used[2] or used[4]}',
    }
  row = _row(
    name,
    mesh,
    seeds,
    case.rows,
    parameters=compiled.parameters,
    arguments=compiled.arguments,
    temporaries=compiled.temporaries,
    product_flops=compiled.product_flops,
    collectives=compiled.collectives,
  )
  return row | {
    'peak_bytes': compiled.peak,
    'memory_bytes': compiled.memory,
    'compute_s': row['product_flops'] / chip.flops,
    'communication_s': row['sent_bytes'] / (PORTS * chip.link),
    'compile_s': time.monotonic() - began,
  }


# ---------------------------------------------------------------------- results


def read():
  """Rows that are there: {case: row}."""
  path = RESULTS / 'scaling.csv'
  if not path.exists():
    return {}
  with open(path, encoding='utf-8', newline='') as file:
    return {row['case']: row for row in csv.DictReader(file)}


def write(rows):
  """results/scaling.csv and results/scaling.md, in the order of the cases."""
  order = [*CPU, *cases()]
  rows = [rows[name] for name in order if name in rows]
  path = RESULTS / 'scaling.csv'
  with open(path, 'w', encoding='utf-8', newline='') as file:
    writer = csv.DictWriter(file, COLUMNS, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
  (RESULTS / 'scaling.md').write_text(report(rows), encoding='utf-8')


def report(rows):
  """The tables, as Markdown."""
  rows = [{k: str(v) for k, v in row.items()} for row in rows]
  cpu = [row for row in rows if row['case'] in CPU]
  tabular = [row for row in rows if row['case'].startswith('tabular')]
  backbone = [row for row in rows if row['case'].startswith('gemma')]
  lines = ['# Scaling', '', 'Made by `python benchmarks/scaling.py`; what the']
  lines += ['columns mean is in `benchmarks/README.md`.', '']
  lines += ['## Fake devices on shared CPU cores', '']
  head = 'mesh', 'step s', 'state and data MiB', 'temporaries MiB'
  head += 'all-gather MiB', 'all-reduce MiB', 'other MiB', 'sent MiB'
  body = [
    (
      row['mesh'] or 'one device',
      f'{float(row["step_s"]):.2f}',
      *(
        _mib(row, *names)
        for names in (
          ('arguments_bytes',),
          ('temporaries_bytes',),
          ('all_gather_bytes',),
          ('all_reduce_bytes',),
          ('reduce_scatter_bytes', 'other_bytes'),
          ('sent_bytes',),
        )
      ),
    )
    for row in cpu
  ]
  lines += [*_table(head, body), '']
  for title, part in (('The tabular decoder', tabular), ('Gemma-2', backbone)):
    lines += [f'## {title}, compiled for TPUs', '']
    head = 'case', 'mesh', 'peak GiB', 'of', 'TFLOPs', 'gather MiB'
    head += 'reduce MiB', 'sent MiB', 'compute ms', 'links ms', 'compute share'
    lines += [*_table(head, map(_tpu_line, part)), '']
  return '\n'.join(lines)


def _tpu_line(row):
  name = row['case'].removeprefix('tabular ')
  if row.get('note'):
    return (name, row['mesh'], row['note'], *[''] * 8)
  compute, links = float(row['compute_s']), float(row['communication_s'])
  return (
    name,
    row['mesh'],
    f'{float(row["peak_bytes"]) / 2**30:.2f}',
    f'{float(row["memory_bytes"]) / 2**30:.0f}',
    f'{float(row["product_flops"]) / 1e12:.3g}',
    _mib(row, 'all_gather_bytes'),
    _mib(row, 'all_reduce_bytes', 'reduce_scatter_bytes'),
    _mib(row, 'sent_bytes'),
    _ms(compute),
    _ms(links),
    f'{compute / max(compute + links, 1e-12):.0%}',
  )


def _ms(seconds):
  return f'{1000 * seconds:,.0f}' if seconds >= 0.1 else f'{1000 * seconds:.2f}'


def _mib(row, *names):
  return f'{sum(float(row[name]) for name in names) / 2**20:,.1f}'


def _table(head, body):
  yield '| ' + ' | '.join(head) + ' |'
  yield '|' + '---|' * len(head)
  for row in body:
    yield '| ' + ' | '.join(row) + ' |'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--part', choices=['cpu', 'tabular', 'gemma', 'none'], default='none'
  )
  parser.add_argument('--only', default='')
  parser.add_argument('--again', action='store_true')
  parser.add_argument('--child', default='')
  args = parser.parse_args()
  if args.child:
    cpu_child(args.child)
    return
  todo = CPU if args.part == 'cpu' else cases()
  prefix = args.part if args.part != 'none' else None
  for name in todo:
    if prefix is None or not name.startswith(prefix) or args.only not in name:
      continue
    if name in read() and not args.again:
      continue
    row = on_cpu(name) if args.part == 'cpu' else on_tpus(name, todo[name])
    print(json.dumps(row), flush=True)
    write(read() | {name: row})
  write(read())


if __name__ == '__main__':
  main()
