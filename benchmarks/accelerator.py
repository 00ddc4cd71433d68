"""What an accelerator makes of this package, in minutes, by itself.

    python benchmarks/accelerator.py --minutes=8
    python benchmarks/accelerator.py --minutes=8 --peer=FOLDER/torch_peer.py \
      --peer-python=VENV_WITH_TORCH/bin/python

In this order, and never past its time: a few steps of every recipe for tables,
and what fails; the CE step, the RL step and predictions, beside a PyTorch peer
on the same chip if one is given; seeds side by side, 1 to 64; the share of the
chip's peak that an RL step reaches, in float32 and bfloat16; a RAFT step at
Gemma-2 2B's size with drawn weights. Each part is a process of its own, which
is ended when its share of the time is over; what it had found by then counts.
The page benchmarks/results/accelerator_DEVICE.md is written anew after every
part. --small takes tiny sizes and a minute: for a CPU, to see that it runs.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]

import step_time
import text_step

# What a part may take of the time that is left, if those after it take theirs.
SHARES = {'recipes': 3.0, 'peer': 2.0, 'packs': 1.5, 'use': 1.0, 'raft': 1.5}
SAYS = {
  'recipes': 'A few steps of every recipe',
  'peer': 'Steps and predictions, beside the peer',
  'packs': 'Seeds side by side in one program',
  'use': 'Share of the peak in an RL step',
  'raft': "RAFT at Gemma-2 2B's size, drawn weights",
}
SEEDS = (1, 2, 4, 8, 16, 32, 64)
SMALL = {
  'size': 'small',
  'batch_size': 16,
  'model.width': 16,
  'model.num_layers': 1,
  'model.num_heads': 2,
  'model.feedforward': 16,
  'model.encoder_hidden': 16,
  'model.encoder_layers': 1,
  'model.head_hidden': 16,
  'model.head_layers': 1,
  'rollouts.group_size': 4,
  'eval.num_samples': 8,
  'eval.batch_size': 16,
}
PAPER = {'size': 'paper'}


# ------------------------------------------------------------- parts: a process


def say(**found: Any) -> None:
  """A finding, as a line that the process outside keeps."""
  print(json.dumps(found), flush=True)


def experiment_of(recipe, args, **fields):
  """The experiment of a recipe for tables on scikit-learn's diabetes set."""
  from genre2_jax.experiment import experiment, recipes

  config = recipes.get_config('talent', recipe)
  sizes = SMALL if args.small else PAPER
  config.update_from_flattened_dict({**sizes, **fields})
  return experiment.build(config)


def programs_of(built, stage, seeds):
  """A stage of an experiment, compiled for so many seeds."""
  from genre2_jax.training.programs import compile_stage
  from genre2_jax.training.step import train_step

  model, table = built.model, built.table
  return compile_stage(
    train_step,
    stage,
    model,
    {
      'train': model.training_examples(table.train),
      'val': model.examples(table.val),
    },
    seeds=tuple(range(seeds)),
    batch_size=built.batch_size,
    block_size=built.block_size,
    mesh=built.mesh,
  )


def seconds_per_step(programs, count):
  """(seconds, the last state) of steps after the first."""
  import jax

  state = programs.run(programs.init(None), 1)
  jax.block_until_ready(state.params)
  count = min(count, programs.epoch_steps - 1)
  began = time.perf_counter()
  state = programs.run(state, count)
  jax.block_until_ready(state.params)
  return (time.perf_counter() - began) / count, state


def recipes(args):
  """Two steps and a validation of every recipe that trains a network."""
  from genre2_jax.experiment.recipes import TALENT

  for name, recipe in TALENT.recipes.items():
    if 'baseline.name' in recipe.changes:
      continue
    began = time.perf_counter()
    # One that fails must not keep the others from being tried.
    try:
      built = experiment_of(name, args)
      losses = {}
      for stage in built.stages:
        programs = programs_of(built, stage, seeds=1)
        state, _ = programs.validate(programs.run(programs.init(None), 2))
        at = int(state.bad_step[0])
        losses[stage.name] = 'finite' if at < 0 else f'not finite at step {at}'
    except Exception as error:
      losses = {'failed': f'{type(error).__name__}: {error}'.split('\n')[0]}
    seconds = round(time.perf_counter() - began, 1)
    say(recipe=name, seconds=seconds, found=losses)


def peer(args):
  """This package's figures, then the peer's, of the same task."""
  with tempfile.TemporaryDirectory() as folder:
    step_time.write_task(pathlib.Path(folder))
    if not args.small:
      step_time.measure(folder, args.steps)
    else:
      built = experiment_of('remax', args)
      for stage in built.stages:
        seconds, _ = seconds_per_step(programs_of(built, stage, 1), args.steps)
        say(stage=stage.name, step_s=seconds)
    if not args.peer:
      say(note='no --peer was given')
      return
    import jax

    device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
    for mode in ('cached', 'tuned', 'released'):
      for dtype in ('float32', 'bfloat16'):
        command = [
          args.peer_python, args.peer, '--data', folder, '--mode', mode,
          '--what', 'time', '--steps', str(args.steps), '--dtype', dtype,
          '--device', device,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        if done.returncode or not lines:
          last = (done.stderr.strip().splitlines() or ['no output'])[-1]
          say(peer=mode, dtype=dtype, failed=last)
        else:
          say(peer=mode, dtype=dtype, **json.loads(lines[-1]))


def packs(args):
  """Seconds of an RL step of S seeds."""
  built = experiment_of('remax', args)
  alone = None
  for seeds in SEEDS:
    try:
      programs = programs_of(built, built.stages[-1], seeds)
      seconds, _ = seconds_per_step(programs, args.steps)
    except Exception as error:  # Memory, mostly: more seeds need more.
      say(seeds=seeds, failed=f'{type(error).__name__}: {error}'.split('\n')[0])
      return
    alone = alone or seconds
    say(seeds=seeds, step_s=seconds, speedup=seeds * alone / seconds)


def use(args):
  """FLOP/s of an RL step, of the products that the method needs."""
  import jax

  from genre2_jax.experiment.defaults import get_config

  peak = peak_flops()
  flops = step_time.counted_flops(10)['rl_step_s']
  has_types = 'compute_dtype' in get_config().model
  for dtype in ('float32', 'bfloat16'):
    fields = {'model.compute_dtype': dtype} if has_types else {}
    if not has_types and dtype != 'float32':
      say(dtype=dtype, note='this version has no model.compute_dtype')
      continue
    built = experiment_of('remax', args, **fields)
    programs = programs_of(built, built.stages[-1], 1)
    seconds, _ = seconds_per_step(programs, 4 * args.steps)
    found = {'dtype': dtype, 'step_s': seconds}
    if not args.small:
      found['tflops'] = flops / seconds / 1e12
      found['share_of_bfloat16_peak'] = peak and flops / seconds / peak
    memory = jax.devices()[0].memory_stats() or {}
    say(**found, peak_gib=memory.get('peak_bytes_in_use', 0) / 2**30)


def raft(args):
  """RAFT's training step, all weights and LoRA."""
  import jax

  sizes = {'layers': 1, 'batch': 2, 'length': 16}
  if not args.small:
    sizes = {'layers': 26, 'batch': 16, 'length': 512}
  options = argparse.Namespace(
    **sizes,
    accumulation=1,
    param_dtype='float32',
    lora=False,
    small=args.small,
    steps=args.steps,
  )
  for name, found in text_step.timings(options):
    memory = jax.devices()[0].memory_stats() or {}
    peak = memory.get('peak_bytes_in_use', 0) / 2**30
    say(weights=name, **found, peak_gib=peak)


def peak_flops():
  """Dense bfloat16 FLOP/s of the device; None where they are not known."""
  import jax

  kind = jax.devices()[0].device_kind
  return next((v for k, v in text_step.PEAK.items() if k in kind), None)


PARTS = {
  'recipes': recipes,
  'peer': peer,
  'packs': packs,
  'use': use,
  'raft': raft,
}


# ------------------------------------------------------------ outside of them


def seconds_of(part: str, left: float) -> float:
  """What a part may take of the seconds that are left."""
  names = list(SHARES)
  after = sum(SHARES[name] for name in names[names.index(part) :])
  return left * SHARES[part] / after


def run_part(
  part: str, options: list[str], seconds: float
) -> tuple[list[dict[str, Any]], str]:
  """(what a part found, how it ended: '' of itself)."""
  command = [sys.executable, __file__, f'--part={part}', *options]
  with tempfile.TemporaryFile('w+') as errors:
    process = subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    late = threading.Event()

    def end() -> None:
      late.set()
      process.kill()

    clock = threading.Timer(max(seconds, 0.0), end)
    clock.start()
    assert process.stdout is not None
    found = [
      json.loads(line) for line in process.stdout if line.startswith('{')
    ]
    process.wait()
    clock.cancel()
    if late.is_set():
      return found, f'ended after its {seconds:.0f} s'
    if process.returncode:
      errors.seek(0)
      lines = errors.read().strip().splitlines() or ['no word']
      return found, f'failed: {lines[-1]}'
  return found, ''


def page(device: str, minutes: float, found: dict[str, Any]) -> str:
  """The findings as Markdown."""
  commit = subprocess.run(
    ['git', 'rev-parse', '--short', 'HEAD'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  ).stdout.strip()
  lines = [
    f'# {device}',
    '',
    f'`benchmarks/accelerator.py`, {minutes:g} min, commit {commit}, jax '
    f'{metadata.version("jax")}, seed 0.',
  ]
  for part, (rows, ending, seconds) in found.items():
    lines += ['', f'## {SAYS[part]}', '']
    names = list(dict.fromkeys(name for row in rows for name in row))
    if rows:
      lines.append('| ' + ' | '.join(names) + ' |')
      lines.append('|' + '---|' * len(names))
    lines += [
      '| ' + ' | '.join(_cell(row.get(name, '')) for name in names) + ' |'
      for row in rows
    ]
    lines += [''] if rows else []
    lines.append(f'{seconds:.0f} s' + (f', {ending}' if ending else '') + '.')
  return '\n'.join(lines) + '\n'


def _cell(value):
  if isinstance(value, float):
    return f'{value:.4g}'
  if isinstance(value, dict):
    value = ', '.join(f'{name}: {_cell(x)}' for name, x in value.items())
  return str(value).replace('|', '/')


def device_name() -> str:
  """Of the first device; asked in a process that lets go of it."""
  code = 'import jax; print(jax.devices()[0].device_kind)'
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  return done.stdout.strip().splitlines()[-1]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--minutes', type=float, default=0, help='0: 8, small 1')
  parser.add_argument('--small', action='store_true', help='tiny sizes')
  parser.add_argument('--steps', type=int, default=0, help='timed; 0: 5')
  parser.add_argument('--peer', default='', help='torch_peer.py')
  parser.add_argument('--peer-python', default=sys.executable)
  parser.add_argument('--output', default='', help='folder of the page')
  parser.add_argument('--part', choices=PARTS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  args.steps = args.steps or (2 if args.small else 5)
  if args.part:
    PARTS[args.part](args)
    return
  began = time.monotonic()
  minutes = args.minutes or (1.0 if args.small else 8.0)
  options = [f'--steps={args.steps}', f'--peer={args.peer}']
  options += [f'--peer-python={args.peer_python}']
  options += ['--small'] if args.small else []
  device = device_name()
  folder = pathlib.Path(args.output or ROOT / 'benchmarks' / 'results')
  name = re.sub(r'[^a-z0-9]+', '_', device.lower()).strip('_')
  found: dict[str, Any] = {}
  for part in PARTS:
    now = time.monotonic()
    left = 60 * minutes - (now - began)
    rows, ending = run_part(part, options, seconds_of(part, left))
    found[part] = rows, ending, time.monotonic() - now
    text = page(device, minutes, found)
    (folder / f'accelerator_{name}.md').write_text(text)
    print(f'{part}: {len(rows)} findings {ending}', file=sys.stderr)
  print(text)


if __name__ == '__main__':
  main()
