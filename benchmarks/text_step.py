"""RAFT's training step on Gemma-2 2B: fake devices, a named TPU, a real GPU.

    python benchmarks/text_step.py --mode=fsdp
    PYTHONPATH=FOLDER_WITH_LIBTPU python benchmarks/text_step.py \
      --mode=compile --topology=v5e:4x4
    python benchmarks/text_step.py --mode=time

fsdp: one step at the real width and reduced depth on 8 fake CPU devices, the
parameters in eighths. compile: the memory of a device at full depth, and what
the collectives move, for a TPU that is not there; --passes=2 reads prompts and
nodes one after the other, as was done before they went through the layers
together. time: steps and tokens per
second and the share of the device's peak, of all parameters and of LoRA, on the
accelerator at hand; it refuses a CPU. Weights are drawn. Defaults are RAFT's:
batch 16, prompts of 512 subwords, Adafactor, remat, bfloat16 compute.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

# Dense bfloat16 FLOP/s of a device: nvidia.com, cloud.google.com/tpu/docs.
PEAK = {
  'H200': 989e12,
  'H100': 989e12,
  'A100': 312e12,
  'L4': 121e12,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
}


@dataclasses.dataclass(frozen=True)
class Model:
  """What a stage wants to know of a model."""

  network: Any
  codec: Any
  length: int

  def example_inputs(self):
    return inputs_of(1, self.length)


def inputs_of(num_rows, length):
  """Prompts of drawn subwords, none padded."""
  import numpy as np

  draw = np.random.default_rng(0)
  return {
    'tokens': draw.integers(3, 1000, (num_rows, length)).astype(np.int32),
    'length': np.full(num_rows, length, np.int32),
  }


def model_of(args):
  """A preset's Gemma of so many layers; ten numbers, each one subword."""
  import numpy as np

  from genre2_jax import tokenizers
  from genre2_jax.models.gemma.layers import Lora
  from genre2_jax.models.gemma.policy import gemma_policy
  from genre2_jax.models.gemma.sizes import PRESETS
  from genre2_jax.tokenizers.codec import Codec

  config = PRESETS[getattr(args, 'preset', 'gemma2_2b')]
  if args.layers:
    config = dataclasses.replace(config, num_layers=args.layers)
  if getattr(args, 'small', False):
    config = dataclasses.replace(
      config, width=32, feedforward=64, head_dim=8, vocab_size=2048
    )
  tokenizer = tokenizers.build('normalized', base=10, digits=1)
  network = gemma_policy(
    tokenizer,
    config,
    number_tokens=np.arange(1000, 1000 + tokenizer.vocab_size),
    param_dtype=args.param_dtype,
    remat=True,
    lora=Lora() if args.lora else None,
  )
  if getattr(args, 'passes', 1) == 2:
    network = network._replace(at_once=None)
  return config, Model(network, Codec(tokenizer, -1.0, 1.0), args.length)


def stage_of(args):
  """RAFT on the whole grid, as published: Adafactor, a constant rate."""
  from genre2_jax.objectives.catalog import build_term
  from genre2_jax.objectives.objective import Objective
  from genre2_jax.policy.enumeration import Enumeration
  from genre2_jax.training.stages import Stage

  return Stage(
    section='pretrain',
    name='raft',
    objective=Objective(
      terms=(build_term('raft'),), enumeration=Enumeration(depth=1)
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
    accumulation=args.accumulation,
  )


def examples_of(args, model):
  import numpy as np

  from genre2_jax.data.batches import Examples

  z = np.linspace(-1, 1, args.batch).astype(np.float32)
  return Examples(inputs_of(args.batch, args.length), z, model.codec.encode(z))


def compiled_step(args, mesh):
  """(compiled `(state, rows, count) -> state`, init, abstract, examples)."""
  import jax
  import numpy as np

  from genre2_jax.devices import sharding
  from genre2_jax.training.initialization import state_program
  from genre2_jax.training.stage_functions import functions
  from genre2_jax.training.step import train_step

  _, model = model_of(args)
  stage, examples = stage_of(args), examples_of(args, model)
  run, _, optimizer = functions(
    train_step,
    stage,
    model,
    num_rows=args.batch,
    batch_size=args.batch,
    mesh=mesh,
  )
  abstract, init = state_program(
    stage, model, seeds=(0,), mesh=mesh, optimizer=optimizer
  )
  rows = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(mesh)
    ),
    examples,
  )
  function = jax.jit(
    run,
    donate_argnums=0,
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
  )
  compiled = function.lower(abstract, rows, np.int32(1)).compile()
  return compiled, init, abstract, examples


def count(tree):
  import jax

  return sum(x.size for x in jax.tree.leaves(tree))


def step_flops(config, batch, length, lora=False):
  """FLOPs of a step's matrix products without recomputation.

  A token meets every weight of the layers once, 2 FLOPs each, and half of the
  prompt in attention; the backward pass costs twice that, and once where the
  weights are frozen. The grid's logits and the root's second pass are left out:
  under 1 %.
  """
  attention = config.num_heads * config.head_dim
  weights = config.width * (
    2 * attention
    + 2 * config.num_kv_heads * config.head_dim
    + 3 * config.feedforward
  )
  seen = min(length, config.sliding_window) / 2
  token = config.num_layers * (2 * weights + 4 * attention * seen)
  return batch * length * token * (2 if lora else 3)


def fsdp(args):
  """One step on eight CPU devices."""
  import jax
  import numpy as np

  from genre2_jax.devices import sharding

  sizes = {'replica': 1, 'data': 1, 'fsdp': 8, 'model': 1}
  mesh = sharding.make_mesh(sizes)
  compiled, init, _, examples = compiled_step(args, mesh)
  rows = jax.device_put(examples, sharding.replicated(mesh))
  state = init(None)
  whole = count(state.params)
  held = sum(
    x.addressable_shards[0].data.size for x in jax.tree.leaves(state.params)
  )
  kept = sum(
    x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)
  )
  before = [float(np.abs(x).sum()) for x in leaves_to_watch(state)]
  began = time.perf_counter()
  state = compiled(state, rows, np.int32(1))
  loss = float(state.totals['loss'][0])
  seconds = time.perf_counter() - began
  after = [float(np.abs(x).sum()) for x in leaves_to_watch(state)]
  return {
    'mesh': dict(mesh.shape),
    'parameters': whole,
    'parameters_per_device': held,
    'state_gib_per_device': round(kept / 2**30, 3),
    'loss': loss,
    'finite': bool(state.bad_step[0] < 0),
    'weights_moved': before != after,
    'seconds': round(seconds, 1),
  }


def leaves_to_watch(state):
  layers = state.params['policy']['backbone']['layers']
  return [layers['mlp']['up']['kernel'], layers['attention']['out']['kernel']]


def compile_only(args):
  """Memory of a device at full depth for a named topology."""
  from genre2_jax import ahead_of_time
  from genre2_jax.devices import sharding

  devices = getattr(ahead_of_time, 'devices', None) or ahead_of_time._devices
  sizes = {'replica': 1, 'data': 1, 'fsdp': -1, 'model': 1}
  mesh = sharding.make_mesh(sizes, devices=devices(args.topology))
  compiled, _, abstract, _ = compiled_step(args, mesh)
  memory = compiled.memory_analysis()
  peak = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )
  available = ahead_of_time.MEMORY.get(args.topology.partition(':')[0], 0)
  gib = 2**30
  return {
    'topology': args.topology,
    'mesh': dict(mesh.shape),
    'parameters': count(abstract.params),
    'state_gib_per_device': round(memory.argument_size_in_bytes / gib, 3),
    'temporary_gib_per_device': round(memory.temp_size_in_bytes / gib, 3),
    'peak_gib_per_device': round(peak / gib, 3),
    'memory_gib_per_device': round(available / gib, 3),
    'collectives_gib_per_device': moved_gib(compiled.as_text()),
    'fits': bool(peak < available),
  }


def moved_gib(program):
  """{kind: GiB of results on a device, in one step} of an HLO text."""
  from genre2_jax import ahead_of_time

  found = {}
  for part in ahead_of_time.collectives_of(program)[0]:
    found[part.kind] = found.get(part.kind, 0) + part.size
  return {kind: round(size / 2**30, 3) for kind, size in found.items()}


def measure(args):
  """Steps and tokens per second on one accelerator, all weights and LoRA."""
  import jax

  device = jax.devices()[0]
  if device.platform == 'cpu':
    raise SystemExit('text_step.py: --mode=time needs a GPU or a TPU')
  return {'device': device.device_kind} | dict(timings(args))


def timings(args):
  """Yields ('all' or 'lora', what was measured) of the first device."""
  import jax
  import numpy as np

  from genre2_jax.devices import sharding

  device = jax.devices()[0]
  peak = next((v for k, v in PEAK.items() if k in device.device_kind), None)
  mesh = sharding.make_mesh(
    {'replica': 1, 'data': 1, 'fsdp': 1, 'model': 1}, devices=[device]
  )
  for lora in (False, True):
    args.lora = lora
    config, _ = model_of(args)
    compiled, init, _, examples = compiled_step(args, mesh)
    rows = jax.device_put(examples, device)
    state = compiled(init(None), rows, np.int32(1))
    float(state.totals['loss'][0])
    began = time.perf_counter()
    state = compiled(state, rows, np.int32(args.steps))
    float(state.totals['loss'][0])  # Waits for the device.
    seconds = (time.perf_counter() - began) / args.steps
    flops = step_flops(config, args.batch, args.length, lora)
    found = {
      'steps_per_s': 1 / seconds,
      'tokens_per_s': args.batch * args.length / seconds,
      'share_of_peak': peak and flops / seconds / peak,
      'trained_parameters': count(state.params),
    }
    yield 'lora' if lora else 'all', found
    del state, compiled


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--mode', choices=('fsdp', 'compile', 'time'))
  parser.add_argument('--preset', default='gemma2_2b')
  parser.add_argument('--passes', type=int, choices=(1, 2), default=1)
  parser.add_argument('--layers', type=int, default=0, help='0: all, fsdp 2')
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--length', type=int, default=0, help='0: 512, fsdp 64')
  parser.add_argument('--accumulation', type=int, default=1)
  parser.add_argument('--param_dtype', default='float32')
  parser.add_argument('--lora', action='store_true')
  parser.add_argument('--topology', default='v5e:4x4')
  parser.add_argument('--steps', type=int, default=20, help='time: so many')
  args = parser.parse_args()
  small = args.mode == 'fsdp'
  args.layers = args.layers or (2 if small else 0)
  args.length = args.length or (64 if small else 512)
  if small:
    os.environ['JAX_PLATFORMS'] = 'cpu'
    os.environ['JAX_NUM_CPU_DEVICES'] = '8'
  modes = {'fsdp': fsdp, 'compile': compile_only, 'time': measure}
  if args.mode is None:
    parser.error('give --mode: fsdp, compile or time')
  began = time.perf_counter()
  found = modes[args.mode](args)
  sizes = {
    name: getattr(args, name)
    for name in (
      'preset', 'passes', 'layers', 'batch', 'length', 'accumulation',
      'param_dtype',
    )
  }  # fmt: skip
  seconds = round(time.perf_counter() - began, 1)
  print(json.dumps(sizes | found | {'total_seconds': seconds}, indent=2))


if __name__ == '__main__':
  main()
