"""Programs for TPUs that are not there: read by hand, and compiled whole."""

import importlib.util
import subprocess
import sys

import pytest
from conftest import ROOT, assert_refused

from genre2_jax import ahead_of_time

PROGRAM = """
  %a = f32[8,16]{1,0} all-gather(f32[2,16]{1,0} %x), dimensions={0}
  %b = (f32[4]{0}, f32[4]{0}) all-reduce(f32[4]{0} %y, f32[4]{0} %z)
  %c = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(bf16[2,4]{1,0} %w)
  %d = bf16[8,4]{1,0} all-gather-done((bf16[2,4], bf16[8,4]) %c)
  %e = f32[] reduce-scatter(f32[] %v), metadata={op_name="all-gather("}
  ROOT %f = f32[9]{0} add(f32[9]{0} %g, f32[9]{0} %h)
"""


def test_bytes_of_collectives_by_hand():
  found = ahead_of_time.collective_bytes(PROGRAM)
  assert found == {
    'all-gather': 8 * 16 * 4 + 8 * 4 * 2,
    'all-reduce': 2 * 4 * 4,
    'reduce-scatter': 4,
  }


def test_a_description_names_what_there_is():
  compiled = ahead_of_time.Compiled(
    stage='remax',
    topology='v5e:2x4',
    mesh={'data': 8},
    parameters=1234567,
    arguments=2**20,
    temporaries=3 * 2**30,
    peak=4 * 2**30,
    memory=16 * 2**30,
    flops=1.5e12,
    collectives={'all-reduce': 2048},
  )
  text = ahead_of_time.describe(compiled)
  for part in ('1,234,567', '1 MiB', '3 GiB', '25.0% of 16 GiB', '2 KiB'):
    assert part in text


def test_without_the_compiler_there_is_the_line_that_installs_it(
  make_config, monkeypatch
):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert_refused(
    lambda: ahead_of_time.compile_for(make_config(), 'v5e:2x4'),
    "pip install 'jax[tpu]'",
  )


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu'
)
def test_a_step_is_compiled_for_eight_chips_and_sharded(data_file):
  """In a process of its own: the wheel keeps a lock and much memory."""
  code = f"""
from configs import ce_talent
from genre2_jax import ahead_of_time
config = ce_talent.get_config()
config.update_from_flattened_dict({{
  'data.path': {str(data_file)!r}, 'data.target': 'price', 'batch_size': 16,
  'model.width': 32, 'model.num_layers': 1, 'model.feedforward': 64,
  'model.encoder_hidden': 64, 'eval.batch_size': 16, 'mesh.fsdp': 8,
}})
(sharded,) = ahead_of_time.compile_for(config, 'v5e:2x4')
config.mesh.fsdp, config.mesh.data = 1, 8
(whole,) = ahead_of_time.compile_for(config, 'v5e:2x4')
assert sharded.parameters == whole.parameters
assert 'all-gather' in sharded.collectives
assert 'all-reduce' in whole.collectives
assert sharded.arguments < 0.6 * whole.arguments, (sharded, whole)
assert whole.peak < 0.1 * whole.memory
"""
  found = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert found.returncode == 0, found.stderr[-3000:]
