"""Programs for TPUs that are not there: read by hand, and compiled whole.

`GENRE2_LIBTPU=FOLDER python tests/ahead_of_time_test.py`, from the root, writes
the golden bounds again; FOLDER is where `pip install --target` put libtpu.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import pytest
import tiny_text
from checks import ROOT, assert_refused

from genre2_jax import ahead_of_time
from genre2_jax.ahead_of_time import Collective
from genre2_jax.experiment import recipes

GOLDEN = ROOT / 'tests' / 'golden' / 'compile' / 'bounds.json'
# Where libtpu lies by itself: importable for all, it would write to the stderr
# of every program.
LIBTPU = os.environ.get('GENRE2_LIBTPU', '')

PROGRAM = """
HloModule jit_run, num_partitions=8

%all-reduce-scatter.1 (p.1: f32[64]) -> f32[16] {
  %sum.1 = f32[64]{0} all-reduce(%p.1), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %slice.1 = f32[16]{0} dynamic-slice(%sum.1, %i)
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %m = f32[4,4]{1,0} convolution(%p, %q), dim_labels=bf_io->bf
  %f = f32[16]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
  %h = f32[] reduce-scatter(%v), replica_groups={}, metadata={op_name="all-gather("}
}

%turn (state: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(26)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%more (state: (s32[], f32[8])) -> pred[] {
  %bound = s32[] get-tuple-element(%state), index=1
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%steps (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %sum = f32[3]{0} all-reduce(%p), replica_groups={{0,1},{2,3},{4,5},{6,7}}
  %w2 = (s32[], f32[8]) while(%init), condition=%turn, body=%body
}

%async_collective_fusion.1 (p: bf16[9]) -> bf16[36] {
  %k = bf16[36]{0} all-gather(%p), replica_groups=[2,4]<=[8], frontend_attributes={chain_id="5"}
}

%async_collective_fusion.2 (p: bf16[9]) -> bf16[36] {
  %k = bf16[36]{0} all-gather(%p), replica_groups=[2,4]<=[8], frontend_attributes={chain_id="5"}
}

%gather (q: bf16[2,4]) -> bf16[8,4] {
  ROOT %g = bf16[8,4]{1,0} all-gather(%q), replica_groups={{0,1,2,3},{4,5,6,7}}
}

ENTRY %main (x: f32[2,16]) -> f32[9] {
  %a = f32[8,16]{1,0:T(8,128)S(1)} all-gather(%x), replica_groups=[2,4]<=[8]
  %b = (f32[4]{0}, f32[4]{0}) all-reduce(%y, %z), replica_groups=mesh['axis_0'=8] {'axis_0'}
  %b2 = f32[5]{0} all-reduce(%y), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0':(1)2,'axis_1'}
  %c = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%w), replica_groups={{0,1,2,3},{4,5,6,7}}
  %d = bf16[8,4]{1,0} all-gather-done(%c)
  %e = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%y), source_target_pairs={{0,1},{1,0}}
  %s = ((bf16[2,4]), bf16[8,4], u32[]) async-start(%w), calls=%gather
  %t = bf16[8,4] async-done(%s), calls=%gather
  %k1 = (bf16[36]{0}, u32[]) fusion(%p), kind=kCustom, calls=%async_collective_fusion.1
  %k2 = (bf16[36]{0}, u32[]) fusion(%k1), kind=kCustom, calls=%async_collective_fusion.2
  %w = (s32[], f32[8]) while(%init), condition=%more, body=%steps
  ROOT %r = f32[9]{0} add(%g, %h)
}
"""  # noqa: E501


def test_collectives_by_hand():
  """Loops multiplied out, asynchronous ones once, fused sums as scattered."""
  found, has_loops = ahead_of_time.collectives_of(PROGRAM)
  assert has_loops
  assert set(found) == {
    Collective('all-gather', 4, 8 * 16 * 4 + 2 * 8 * 4 * 2 + 36 * 2),
    Collective('all-reduce', 8, 2 * 4 * 4),
    Collective('all-reduce', 4, 5 * 4),
    Collective('all-reduce', 2, 3 * 4),
    Collective('collective-permute', 2, 4 * 4),
    Collective('reduce-scatter', 4, 26 * 64),
    Collective('reduce-scatter', 8, 26 * 4),
  }
  assert not ahead_of_time.collectives_of(PROGRAM.replace('(26)', '(1)'))[1]


@pytest.mark.parametrize(
  ('kind', 'sent'),
  [
    ('all-gather', 75),
    ('all-to-all', 75),
    ('all-reduce', 150),  # a scattered sum, and a gather
    ('reduce-scatter', 300),  # 100 bytes are left of 400
    ('collective-permute', 100),
  ],
)
def test_bytes_sent_by_a_ring_of_four(kind, sent):
  assert Collective(kind, 4, 100).sent == sent


def test_flops_of_products_by_hand():
  def step(x, w):
    def layer(x, _):
      return jnp.tanh(x @ w), None

    x, _ = jax.lax.scan(layer, x, length=5)
    x = jax.lax.fori_loop(
      0, x.shape[0] + jnp.int32(x[0, 0]), lambda _, x: x @ w, x
    )
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x, x).sum()

  def flops(function):
    x, w = jnp.zeros((3, 4)), jnp.zeros((4, 4))
    return ahead_of_time.product_flops(jax.make_jaxpr(function)(x, w))

  one = 2 * 3 * 4 * 4
  assert flops(step) == one * (5 + 1 + 2)
  # Backwards, a layer is two products more; a checkpoint computes it again.
  layers = lambda x, w: jax.lax.scan(  # noqa: E731
    jax.checkpoint(lambda x, _: (jnp.tanh(x @ w), None)), x, length=5
  )[0].sum()
  assert flops(jax.grad(layers, 1)) == one * 5 * 4


COMPILED = ahead_of_time.Compiled(
  stage='remax',
  topology='v5e:2x4',
  mesh={'data': 8},
  parameters=1234567,
  arguments=2**20,
  temporaries=3 * 2**30,
  peak=4 * 2**30,
  memory=16 * 2**30,
  flops=1.5e12,
  product_flops=8 * 10**12,
  has_loops=False,
  collectives=(
    Collective('all-reduce', 8, 1024),
    Collective('all-reduce', 4, 1024),
  ),
)


def test_a_description_names_what_there_is():
  text = ahead_of_time.describe(COMPILED)
  for part in (
    '1,234,567', '1 MiB', '3 GiB', '25.0% of 16 GiB', '2 KiB',
    '1e+12', '1.5e+12',
  ):  # fmt: skip
    assert part in text


def test_without_the_compiler_there_is_the_line_that_installs_it(
  make_config, monkeypatch
):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert_refused(
    lambda: ahead_of_time.compile_for(make_config(), 'v5e:2x4'),
    "pip install 'jax[tpu]'",
  )


# --------------------------------------------------------------- whole programs

MIXED = {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.model': 2}
POD = {'mesh.data': 32, 'mesh.fsdp': 4, 'mesh.model': 2}
# Of Gemma-2: what is wide in it is wide here.
SIZES = {
  'vocab_size': 16384, 'width': 256, 'num_layers': 4, 'num_heads': 8,
  'num_kv_heads': 4, 'head_dim': 32, 'feedforward': 1024, 'sliding_window': 64,
}  # fmt: skip
# name -> (recipe, topology, changed fields, what is broken)
CASES = {
  'ce': ('talent:ce', 'v5e:2x4', MIXED, ''),
  'remax': ('talent:remax', 'v5e:2x4', MIXED, ''),
  'grpo': ('talent:grpo', 'v5e:2x4', MIXED, ''),
  'raft': ('talent:raft', 'v5e:2x4', MIXED, ''),
  'raft on texts': ('stsb:raft', 'v5e:2x4', MIXED, ''),
  'raft on 256 chips': ('talent:raft', 'v5e:16x16', POD, ''),
  'without fsdp': ('talent:ce', 'v5e:2x4', MIXED, 'rule'),
  'without activations': ('talent:raft', 'v5e:2x4', MIXED, 'activations'),
}
# Of what is measured, when bounds are written.
SLACK = 1.25
# Bytes of a kind of collective that is nobody's concern.
NEGLIGIBLE = 2**19


def texts(folder):
  """Fields of a recipe for Gemma-2 on reviews, written to a folder."""
  home = tiny_text.write_home(folder)
  fields = tiny_text.source_fields(home) | tiny_text.drawn(SIZES)
  return fields | {'tokenizer.strings': '1..5'}


def figures(name):
  """What a case compiles to: {figure: number}. Needs libtpu."""
  recipe, topology, fields, broken = CASES[name]
  config = recipes.get_config(*recipe.split(':'))
  config.size = 'paper'
  config.update_from_flattened_dict(fields)
  if 'finetune' in config.stages:  # Compiles the one stage, from nothing.
    config.stages = ('pretrain',)
    config.pretrain.objective = config.finetune.objective
    config.pretrain.dropout = config.finetune.dropout
  sharding = ahead_of_time.sharding
  rules, constrained = sharding.RULES, sharding.constrained
  if broken == 'rule':
    sharding.RULES = tuple(r for r in rules if 'fsdp' not in (r[1] or ''))
  elif broken:
    sharding.constrained = lambda network, mesh: network
  try:
    with tempfile.TemporaryDirectory() as folder:
      if config.language_model.name:
        config.update_from_flattened_dict(texts(pathlib.Path(folder)))
      (compiled,) = ahead_of_time.compile_for(config, topology)
  finally:
    sharding.RULES, sharding.constrained = rules, constrained
  num_devices = 256 if topology == 'v5e:16x16' else 8
  flops = compiled.product_flops / num_devices
  return {
    'arguments': compiled.arguments,
    'peak': compiled.peak,
    # 1 where every device does its part, and nothing twice. XLA counts one
    # turn of a loop over layers.
    **(
      {}
      if compiled.has_loops
      else {'flops over products': compiled.flops / flops}
    ),
    **compiled.bytes_by_kind(),
  }


def breaches(found, bounds):
  """Figures beyond their bounds, and collectives that should not be there."""
  return {
    name: (value, bounds.get(name))
    for name, value in found.items()
    if value > bounds.get(name, NEGLIGIBLE)
  }


@pytest.fixture(scope='module')
def compiled():
  """{name: figures}, by one process for all: the wheel takes much memory."""
  if not LIBTPU:
    pytest.skip('needs libtpu in the folder GENRE2_LIBTPU')
  done = subprocess.run(
    [sys.executable, __file__, '--print'],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': f'{ROOT}{os.pathsep}{LIBTPU}'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n in CASES if not CASES[n][-1]])
def test_a_step_for_tpus_stays_within_its_golden_bounds(compiled, name):
  bounds = json.loads(GOLDEN.read_text(encoding='utf-8'))[name]
  assert not breaches(compiled[name], bounds)
  # Parameters are gathered where they are used, gradients summed.
  assert compiled[name]['all-gather'] > NEGLIGIBLE
  assert compiled[name]['all-reduce'] > NEGLIGIBLE


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'shows'),
  [
    ('without fsdp', {'arguments'}),
    ('without activations', {'peak', 'all-to-all'}),
  ],
)
def test_a_lost_sharding_breaks_the_bounds(compiled, name, shows):
  recipe = CASES[name][0].removeprefix('talent:')
  bounds = json.loads(GOLDEN.read_text(encoding='utf-8'))[recipe]
  assert shows <= breaches(compiled[name], bounds).keys()


@pytest.mark.slow
def test_the_command_compiles_for_a_topology(start_main):
  if not LIBTPU:
    pytest.skip('needs libtpu in the folder GENRE2_LIBTPU')
  process = start_main(
    '--mode=compile',
    '--topology=v5e:2x4',
    "--config.stages=('pretrain',)",
    PYTHONPATH=LIBTPU,
  )
  out, err = process.communicate()
  assert process.returncode == 0, err
  assert 'compiling a step of ce for v5e:2x4' in err
  assert 'no file is written' in err
  assert out.startswith('ce on v5e:2x4: replica 1, data 8, fsdp 1, model 1\n')
  for part in ('parameters', 'peak', 'of 16 GiB', 'FLOPs', 'all-reduce'):
    assert part in out
  process = start_main(
    '--mode=compile', '--topology=v5e:3x9', PYTHONPATH=LIBTPU
  )
  out, err = process.communicate()
  assert (process.returncode, out) == (2, '')
  assert "topology 'v5e:3x9' is not one that libtpu knows" in err


def write_bounds(found):
  """The golden file: measured figures with slack, to three digits."""
  bounds = {
    name: {k: float(f'{SLACK * v:.3g}') for k, v in values.items()}
    for name, values in found.items()
    if not CASES[name][-1]
  }
  GOLDEN.parent.mkdir(parents=True, exist_ok=True)
  GOLDEN.write_text(json.dumps(bounds, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
  if sys.argv[1:] == ['--print']:
    print(json.dumps({name: figures(name) for name in CASES}))
  else:
    done = subprocess.run(
      [sys.executable, __file__, '--print'],
      env=os.environ | {'PYTHONPATH': f'{ROOT}{os.pathsep}{LIBTPU}'},
      check=True,
      stdout=subprocess.PIPE,
      text=True,
    )
    write_bounds(json.loads(done.stdout.splitlines()[-1]))
