"""Seconds per step and rows per second, here and in a PyTorch peer.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --against=../shared/bench/torch_peer.py \
      --peer-python=VENV_WITH_TORCH/bin/python

Without --data=DIR/TASK, a TALENT task, all sides read scikit-learn's diabetes
set. Ours and the peer's three ways (`released`, `tuned`, `cached`), each in
float32 and in bfloat16, run in processes of their own, in turn, so that a
machine whose speed drifts is as slow for one as for the other; medians over the
rounds, and the ratio of the medians, first of all that to the best peer. Sizes
are the paper's: D 256, 3 layers, (2, 8), batch 128, group 16, 128 samples for
evaluation. Timings leave compilation out.

--clock=cpu counts the CPU seconds of one thread on every side, for a machine
that others are using.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from genre2_jax.data import tables
from genre2_jax.experiment import experiment, meshes, networks, tasks
from genre2_jax.experiment.stages import build_stages
from genre2_jax.models.products import DTYPES
from genre2_jax.runs import environment
from genre2_jax.training.programs import compile_stage
from genre2_jax.training.step import train_step

FIGURES = ('ce_step_s', 'rl_step_s', 'eval_rows_per_s')
MODES = ('released', 'tuned', 'cached')
OURS = 'genre2_jax'
ONE_THREAD = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
# Runs a peer by another clock: its seconds are then CPU seconds.
BY_CPU = (
  'import runpy, sys, time; time.perf_counter = time.process_time; '
  'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
)


def flops_per_position(width=256, feedforward=1024, layers=3):
  """Forward FLOPs of one decoder position in matrix products with weights."""
  return 2 * layers * (4 * width**2 + 2 * width * feedforward)


def counted_flops(num_features, batch=128, rows=128):
  """FLOPs that the method needs with shared prefixes: CE step, RL step, row.

  A gradient costs twice its forward pass. Attention, embeddings and the
  optimizer are left out: under 5 % together.
  """
  encoder = 2 * (num_features * 1024 + 2 * 1024**2 + 1024 * 256)
  memory = 2 * 3 * 2 * 256**2  # cross-attention, once per input
  position = flops_per_position()
  return {
    'ce_step_s': batch * 3 * (encoder + memory + 8 * position),
    # Sampled with the greedy row: 31 shared nodes, 3 levels of 17; scored
    # without it and differentiated: 31 and 3 levels of 16.
    'rl_step_s': batch
    * (4 * (encoder + memory) + (31 + 51 + 3 * (31 + 48)) * position),
    'eval_rows_per_s': rows * (encoder + memory + 255 * position) / rows,
  }


def measure(data, steps, dtype='float32', clock=time.perf_counter):
  """Our side: one JSON line."""
  import jax
  import jax.numpy as jnp

  from configs import remax_talent
  from genre2_jax.data import batches
  from genre2_jax.devices import allocator
  from genre2_jax.training import evaluation, stages

  allocator.keep_freed()  # As a run of the main command does.
  data = pathlib.Path(data)
  config = remax_talent.get_config()
  config.size, config.model.compute_dtype = 'paper', dtype
  config.data.root, config.data.name = str(data.parent), data.name
  config = experiment.resolve(config)
  table = tasks.read_table(config)
  model = networks.build_model(config, table)
  mesh = meshes.build_mesh(config)
  examples = {s: model.examples(getattr(table, s)) for s in ('train', 'val')}
  seeds, params, record = (0,), {}, {}
  for stage, name, count in zip(
    build_stages(config), FIGURES, (3 * steps, steps), strict=False
  ):
    programs = compile_stage(
      train_step,
      stage,
      model,
      examples,
      seeds=seeds,
      batch_size=128,
      block_size=128,
      mesh=mesh,
    )
    state = programs.run(programs.init(params.get('policy')), 1)
    jax.block_until_ready(state.params)
    began = clock()
    for _ in range(count):
      state = programs.run(state, 1)
    jax.block_until_ready(state.params)
    record[name] = (clock() - began) / count
    params = state.params
  predict = evaluation.predictor(
    model,
    stages.evaluation_keys(seeds),
    num_samples=128,
    temperature=1.0,
    exact=False,  # The peer only samples.
  )
  inputs = model.features.transform(table.test)
  block, numbers = batches.blocks(
    jax.tree.map(lambda x: np.resize(x, (256, *x.shape[1:])), inputs), 128
  )
  blocks = [
    jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), block) for i in (0, 1)
  ]
  jax.block_until_ready(predict(params, blocks[0], numbers[0]))
  began = clock()
  for rows, number in zip(blocks, numbers, strict=True):
    jax.block_until_ready(predict(params, rows, number))
  record['eval_rows_per_s'] = 256 / (clock() - began)
  product = jax.jit(jnp.matmul)
  a, b = jnp.ones((2048, 1024)), jnp.ones((1024, 1024))
  product(a, b).block_until_ready()
  began = clock()
  for _ in range(20):
    product(a, b).block_until_ready()
  seconds = (clock() - began) / 20
  record['matmul_flops'] = 2 * 2048 * 1024 * 1024 / seconds
  record['num_features'] = model.features.num_features
  record['device'] = environment.environment(mesh)['processor']
  record['device_kind'] = jax.devices()[0].device_kind
  print(json.dumps(record))


def write_task(folder):
  """scikit-learn's diabetes set as a TALENT task, for both sides to read."""
  table = tables.load_sklearn(seed=0)
  for split in tables.SPLITS:
    rows = getattr(table, split)
    np.save(folder / f'N_{split}.npy', rows.numeric)
    np.save(folder / f'C_{split}.npy', rows.categories.astype(str))
    np.save(folder / f'y_{split}.npy', rows.target)
  (folder / 'info.json').write_text('{"task_type": "regression"}')


def run(command, clock):
  """The last line of a command's output, from JSON."""
  environment = dict(os.environ)
  if clock == 'cpu':
    environment |= {'OMP_NUM_THREADS': '1', 'XLA_FLAGS': ONE_THREAD}
  done = subprocess.run(
    command, capture_output=True, text=True, env=environment
  )
  if done.returncode:
    sys.exit(f'{" ".join(command)} failed:\n{done.stderr[-2000:]}')
  return json.loads(done.stdout.splitlines()[-1])


def commands(args):
  """{(side, dtype): what measures it}."""
  found = {}
  for dtype in args.dtypes:
    found[OURS, dtype] = [
      sys.executable, __file__, '--measure', f'--data={args.data}',
      f'--steps={args.steps}', f'--clock={args.clock}', f'--dtypes={dtype}',
    ]  # fmt: skip
  for dtype in args.dtypes if args.against else ():
    for mode in MODES:
      by_cpu = ['-c', BY_CPU] if args.clock == 'cpu' else []
      found[mode, dtype] = [
        args.peer_python, *by_cpu, args.against, '--data', args.data, '--mode',
        mode, '--dtype', dtype, '--what', 'time', '--steps', str(args.steps),
      ]  # fmt: skip
  return found


def compare(args):
  """All sides in turn, and the tables."""
  sides = commands(args)
  records = {side: [] for side in sides}
  for number in range(1, args.rounds + 1):
    for side, command in sides.items():
      records[side].append(run(command, args.clock))
      done = f'round {number}/{args.rounds} {" ".join(side)}'
      print(done, records[side][-1], file=sys.stderr)
  ours = records[OURS, args.dtypes[0]]
  unit = 'CPU seconds of one thread' if args.clock == 'cpu' else 'seconds'
  print(f'{ours[0]["device"] or ours[0]["device_kind"]}; {unit}')
  print('\n'.join(table(records)))
  if args.against:
    print('\n'.join(ratios(records)))
  peak = statistics.median(record['matmul_flops'] for record in ours)
  for figure, flops in counted_flops(ours[0]['num_features']).items():
    rate = flops / seconds(records[OURS, args.dtypes[0]], figure)
    print(
      f'{figure:16} {flops / 1e9:.1f} GFLOP, {rate / 1e9:.0f} GFLOP/s, '
      f'{rate / peak:.0%} of a plain matrix product here'
    )


def seconds(records, figure):
  """Median, of an evaluation for a row."""
  value = statistics.median(record[figure] for record in records)
  return 1 / value if figure == 'eval_rows_per_s' else value


def table(records):
  """Lines of Markdown: a side each, median (min .. max)."""
  yield '| | ' + ' | '.join(FIGURES) + ' |'
  yield '|---' * (1 + len(FIGURES)) + '|'
  for side, found in records.items():
    cells = []
    for figure in FIGURES:
      values = sorted(record[figure] for record in found)
      cells.append(
        f'{statistics.median(values):.3f} ({values[0]:.3f} .. {values[-1]:.3f})'
      )
    yield f'| {", ".join(side)} | ' + ' | '.join(cells) + ' |'


def ratios(records):
  """Lines of Markdown: how often as fast as each peer, the best one first."""
  dtypes = [dtype for side, dtype in records if side == OURS]
  peers = [side for side in records if side[0] != OURS]
  yield ''
  yield '| | ' + ' | '.join(f'{f}, {d}' for f in FIGURES for d in dtypes) + ' |'
  yield '|---' * (1 + len(FIGURES) * len(dtypes)) + '|'
  fastest = {}
  for figure in FIGURES:
    fastest[figure] = min(
      peers, key=lambda peer, f=figure: seconds(records[peer], f)
    )
  for name, peer_of in [
    ('best peer', lambda figure: fastest[figure]),
    *((', '.join(peer), lambda _, peer=peer: peer) for peer in peers),
  ]:
    cells = []
    for figure in FIGURES:
      theirs = seconds(records[peer_of(figure)], figure)
      for dtype in dtypes:
        cells.append(f'{theirs / seconds(records[OURS, dtype], figure):.1f} x')
    yield f'| {name} | ' + ' | '.join(cells) + ' |'
  names = (f'{f}: {", ".join(fastest[f])}' for f in FIGURES)
  yield f'best peer of {"; ".join(names)}'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', help='a TALENT task folder')
  parser.add_argument('--against', help='torch_peer.py')
  parser.add_argument('--peer-python', default=sys.executable)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--clock', choices=('wall', 'cpu'), default='wall')
  parser.add_argument('--dtypes', default=','.join(DTYPES))
  parser.add_argument('--measure', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  args.dtypes = args.dtypes.split(',')
  if args.measure:
    cpu = args.clock == 'cpu'
    clock = time.process_time if cpu else time.perf_counter
    measure(args.data, args.steps, args.dtypes[0], clock)
  elif args.data:
    compare(args)
  else:
    with tempfile.TemporaryDirectory() as folder:
      args.data = folder
      write_task(pathlib.Path(folder))
      compare(args)


if __name__ == '__main__':
  main()
