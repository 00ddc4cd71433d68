"""Out of memory: what helps, and by how much."""

import shutil
import types

import jax
import jax.numpy as jnp
import pytest

from genre2_jax import train
from genre2_jax.devices import memory
from genre2_jax.errors import FullDiskError, OutOfMemoryError
from genre2_jax.training import loop

GIB = 2**30
SETTINGS = memory.Settings(
  batch_size=12, accumulation=1, keeps_activations=False
)


def need(arguments, temporaries):
  found = memory.Need()
  found.arguments, found.temporaries = arguments, temporaries
  return found


def advice(found, **axes):
  mesh = types.SimpleNamespace(shape={'data': 1, 'fsdp': 1} | axes)
  return memory.advice(found, SETTINGS, mesh)


def test_each_setting_says_what_it_saves():
  text = advice(need(3 * GIB, 8 * GIB), data=4)
  assert '\n' not in text
  assert 'needs 3 GiB per device for its state and rows and 8 GiB be' in text
  # 12 rows over 4 devices: 3 on each, which divide by 3 only.
  assert 'optimizer.accumulation=3 (about 5.333 GiB less)' in text
  assert 'mesh.fsdp=4 (about 2.25 GiB less)' in text
  text = advice(need(3 * GIB, 8 * GIB))
  assert 'optimizer.accumulation=2 (about 4 GiB less)' in text
  assert 'mesh.fsdp=2 (about 1.5 GiB less) with 2 times the devices' in text
  assert text.count(';') == 2


def test_before_compiling_only_the_state_is_known():
  text = advice(need(3 * GIB, 0), data=4)
  assert 'the state needs 3 GiB per device. What helps: ' in text
  assert 'optimizer.accumulation=3;' in text  # It has no number to give.


def test_what_the_compiler_says_is_what_is_needed():
  found = memory.Need()
  found.of_program(
    jax.jit(lambda x: jnp.sort(x @ x).std()).lower(jnp.ones((64, 64))).compile()
  )
  assert found.arguments == 64 * 64 * 4
  assert found.temporaries >= 64 * 64 * 4


def exhaust(*_):
  return jnp.zeros(2**45, jnp.uint8).block_until_ready()


def test_a_run_that_needs_too_much_ends_in_one_line(
  make_config, tmp_path, monkeypatch
):
  monkeypatch.setattr(loop, '_check_finite', exhaust)
  with pytest.raises(OutOfMemoryError) as caught:
    train.train_and_evaluate(make_config(), tmp_path / 'run', verbose=0)
  text = str(caught.value)
  assert text.startswith('out of memory: a step needs ') and '\n' not in text
  assert 'mesh.fsdp=' in text and 'less)' in text


def test_a_full_disk_is_no_lack_of_memory():
  """TensorStore, behind the checkpoints, calls both an exhausted resource."""
  with pytest.raises(FullDiskError, match=r'^the disk of /data/run is full'):
    with memory.shortage_in_words(memory.Need(), None, None, '/data/run'):
      raise ValueError(
        'RESOURCE_EXHAUSTED: Error writing "x/0.0" in "/data/run/9/d/": Failed '
        "to write 8 bytes to file 4: No space left on device [os_error='28']"
      )


def test_a_checkpoint_without_room_ends_the_run_in_one_line(
  make_config, tmp_path, monkeypatch
):
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: (2**30, 2**30, 1000))
  with pytest.raises(FullDiskError) as caught:
    train.train_and_evaluate(make_config(), tmp_path / 'run', verbose=0)
  text = str(caught.value)
  assert f'{tmp_path}/run/checkpoints' in text and '\n' not in text
  # Nothing is half written, and with room the same call goes on.
  steps = tmp_path.glob('run/checkpoints/*/*')
  assert not list(steps)
  monkeypatch.undo()
  train.train_and_evaluate(make_config(), tmp_path / 'run', verbose=0)
  assert (tmp_path / 'run' / 'run.json').exists()


def test_other_errors_stay_what_they_are():
  with pytest.raises(ValueError, match=r'^no$'):
    with memory.shortage_in_words(memory.Need(), None, None):
      raise ValueError('no')
