"""Seconds per step and rows per second, here and in a PyTorch peer.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --against=../shared/bench/torch_peer.py \
      --peer-python=VENV_WITH_TORCH/bin/python

Without --data=DIR/TASK, a TALENT task, both read scikit-learn's diabetes set.
Both sides run in processes of their own, in turn, so that a machine whose
speed drifts is as slow for one as for the other; medians over the rounds, and
the ratio of the medians. Sizes are the paper's: D 256, 3 layers, (2, 8), batch
128, group 16, 128 samples for evaluation. Timings leave compilation out.
"""

import argparse
import json
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
from genre2_jax.runs import environment
from genre2_jax.training.programs import compile_stage
from genre2_jax.training.step import train_step

FIGURES = ('ce_step_s', 'rl_step_s', 'eval_rows_per_s')


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


def measure(data, steps):
  """Our side: one JSON line."""
  import jax
  import jax.numpy as jnp

  from configs import remax_talent
  from genre2_jax.data import batches
  from genre2_jax.training import evaluation, stages

  data = pathlib.Path(data)
  config = remax_talent.get_config()
  config.size = 'paper'
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
    began = time.perf_counter()
    for _ in range(count):
      state = programs.run(state, 1)
    jax.block_until_ready(state.params)
    record[name] = (time.perf_counter() - began) / count
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
  began = time.perf_counter()
  for rows, number in zip(blocks, numbers, strict=True):
    jax.block_until_ready(predict(params, rows, number))
  record['eval_rows_per_s'] = 256 / (time.perf_counter() - began)
  product = jax.jit(jnp.matmul)
  a, b = jnp.ones((2048, 1024)), jnp.ones((1024, 1024))
  product(a, b).block_until_ready()
  began = time.perf_counter()
  for _ in range(20):
    product(a, b).block_until_ready()
  seconds = (time.perf_counter() - began) / 20
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


def run(command):
  """The last line of a command's output, from JSON."""
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    sys.exit(f'{" ".join(command)} failed:\n{done.stderr[-2000:]}')
  return json.loads(done.stdout.splitlines()[-1])


def compare(args):
  """Both sides in turn, and the table."""
  sides = {
    'genre2_jax': [
      sys.executable, __file__, '--measure', f'--data={args.data}',
      f'--steps={args.steps}',
    ]
  }  # fmt: skip
  if args.against:
    for mode in ('released', 'tuned'):
      sides[mode] = [
        args.peer_python, args.against, '--data', args.data, '--mode', mode,
        '--what', 'time', '--steps', str(args.steps),
      ]  # fmt: skip
  records = {side: [] for side in sides}
  for number in range(1, args.rounds + 1):
    for side, command in sides.items():
      records[side].append(run(command))
      print(f'round {number}/{args.rounds} {side}', file=sys.stderr)
  ours = records['genre2_jax']
  print(f'{ours[0]["device"] or ours[0]["device_kind"]}; median (min .. max)')
  medians = {}
  for side, found in records.items():
    for figure in FIGURES:
      values = sorted(record[figure] for record in found)
      medians[side, figure] = statistics.median(values)
      print(
        f'{side:12} {figure:16} {medians[side, figure]:8.3f} '
        f'({values[0]:.3f} .. {values[-1]:.3f})'
      )
  peak = statistics.median(record['matmul_flops'] for record in ours)
  for figure, flops in counted_flops(ours[0]['num_features']).items():
    rate = medians['genre2_jax', figure]
    rate = flops * rate if figure == 'eval_rows_per_s' else flops / rate
    print(
      f'{figure:16} {flops / 1e9:.1f} GFLOP, {rate / 1e9:.0f} GFLOP/s, '
      f'{rate / peak:.0%} of a plain matrix product here'
    )
  for side in list(sides)[1:]:
    for figure in FIGURES:
      ratio = medians[side, figure] / medians['genre2_jax', figure]
      if figure == 'eval_rows_per_s':
        ratio = 1 / ratio
      print(f'{figure:16} {ratio:5.1f} x as fast as {side}')


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', help='a TALENT task folder')
  parser.add_argument('--against', help='torch_peer.py')
  parser.add_argument('--peer-python', default=sys.executable)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--measure', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.measure:
    measure(args.data, args.steps)
  elif args.data:
    compare(args)
  else:
    with tempfile.TemporaryDirectory() as folder:
      args.data = folder
      write_task(pathlib.Path(folder))
      compare(args)


if __name__ == '__main__':
  main()
