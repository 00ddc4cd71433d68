"""Checkpoints: whole and right, or not used."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_same_bits

from genre2_jax.devices import sharding
from genre2_jax.training import checkpoints
from genre2_jax.training.checkpoints import Checkpoints

# Orbax leaves coroutines behind where a read fails.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


def make_state(seed):
  """Leaves of several dtypes; too random to be compressed or inlined."""
  draw = np.random.RandomState(seed)
  state = {
    'step': jnp.full(2, seed, jnp.int32),
    'key': jnp.array(draw.randint(0, 2**31, (2, 2)), jnp.uint32),
    'weights': jnp.array(draw.normal(size=(2, 64, 64)), jnp.float32),
    'few': jnp.array(draw.normal(size=(2, 3)), jnp.float32),
    'done': jnp.array([True, False]),
  }
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), num_devices=1)
  return jax.device_put(state, sharding.replicated(mesh))


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def restore(folder, **options):
  with Checkpoints(folder, **options) as opened:
    return opened.restore(abstract(make_state(0)))


@pytest.fixture
def saved(tmp_path):
  """A folder with checkpoints of steps 1 and 2."""
  with Checkpoints(tmp_path / 'ce') as opened:
    for step in (1, 2):
      opened.save(step, make_state(step))
  return tmp_path / 'ce'


def data_files(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return sorted(files, key=lambda path: -path.stat().st_size)


def warnings_of(caplog):
  return [
    record.getMessage()
    for record in caplog.records
    if record.name == 'genre2_jax' and record.levelno == logging.WARNING
  ]


def test_what_is_restored_is_what_was_saved(saved, caplog):
  assert_same_bits(restore(saved), make_state(2))
  assert_same_bits(restore(saved, read_only=True), make_state(2))
  assert warnings_of(caplog) == []


def test_orbax_does_not_warn_of_what_it_was_asked_for(saved, caplog):
  logger = logging.getLogger('absl')
  with caplog.at_level(logging.WARNING, logger='absl'):
    logger.addHandler(caplog.handler)
    try:
      restore(saved, read_only=True)
    finally:
      logger.removeHandler(caplog.handler)
    assert logger.level == logging.WARNING
  assert [r for r in caplog.records if r.name == 'absl'] == []


def test_nothing_saved_restores_nothing(tmp_path):
  assert restore(tmp_path / 'ce') is None


def test_only_the_newest_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as opened:
    for step in range(5):
      opened.save(step, make_state(step))
  assert {path.name for path in tmp_path.iterdir()} == {'3', '4'}


def test_a_step_is_saved_once(saved):
  with Checkpoints(saved) as opened:
    opened.save(2, make_state(7))
  assert_same_bits(restore(saved), make_state(2))


def test_saving_waits_until_it_is_due(tmp_path):
  with Checkpoints(tmp_path, every_seconds=1e6) as opened:
    opened.save_if_due(1, make_state(1))
    assert not list(tmp_path.iterdir())
  with Checkpoints(tmp_path, every_seconds=0) as opened:
    opened.save_if_due(1, make_state(1))
  assert {path.name for path in tmp_path.iterdir()} == {'1'}


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
  path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
  'damage', [truncate, overwrite, lambda path: path.unlink()],
  ids=['truncated', 'zeroed', 'deleted'],
)  # fmt: skip
def test_a_damaged_newest_falls_back_to_the_one_before(saved, caplog, damage):
  damage(data_files(saved / '2')[0])
  assert_same_bits(restore(saved), make_state(1))
  (warning,) = warnings_of(caplog)
  assert f'{saved}/2 is damaged' in warning and '\n' not in warning
  # It is gone, and its step can be saved again.
  assert {path.name for path in saved.iterdir()} == {'1'}
  with Checkpoints(saved) as opened:
    opened.save(2, make_state(2))
  assert_same_bits(restore(saved), make_state(2))


def test_all_damaged_is_as_nothing_saved(saved, caplog):
  for step in ('1', '2'):
    truncate(data_files(saved / step)[0])
  assert restore(saved) is None
  assert len(warnings_of(caplog)) == 2


def test_reading_deletes_nothing(saved):
  truncate(data_files(saved / '2')[0])
  assert_same_bits(restore(saved, read_only=True), make_state(1))
  assert {path.name for path in saved.iterdir()} == {'1', '2'}


def test_no_flipped_bit_changes_what_is_restored(saved, tmp_path):
  """Whichever file it is in: the right state, or the one before."""
  fallbacks = 0
  for path in data_files(saved / '2'):
    for place in {0.3, 0.8}:
      copy = tmp_path / 'copy'
      shutil.copytree(saved, copy)
      target = copy / path.relative_to(saved)
      data = bytearray(target.read_bytes())
      if data:
        data[int(place * len(data))] ^= 4
      target.write_bytes(data)
      restored = restore(copy)
      step = int(restored['step'][0])
      assert_same_bits(restored, make_state(step))
      fallbacks += step == 1
      shutil.rmtree(copy)
  assert fallbacks > 0


def test_arrays_that_belie_their_fingerprint_are_damaged(
  tmp_path, monkeypatch, caplog
):
  """What files with sound checksums of their own can still hold."""
  honest = checkpoints._fingerprint
  with Checkpoints(tmp_path) as opened:
    opened.save(1, make_state(1))
    changed = make_state(2)
    changed['weights'] = changed['weights'].at[1, 2, 3].multiply(-1)
    monkeypatch.setattr(checkpoints, '_fingerprint', lambda _: honest(changed))
    opened.save(2, make_state(2))
  monkeypatch.undo()
  assert_same_bits(restore(tmp_path), make_state(1))
  (warning,) = warnings_of(caplog)
  assert 'do not match their fingerprint' in warning


@pytest.mark.parametrize(
  'change',
  [
    lambda s: s | {'weights': s['weights'].at[0, 0, 0].add(1e-6)},
    lambda s: s | {'weights': s['weights'][:, ::-1]},
    lambda s: s | {'weights': jnp.swapaxes(s['weights'], 1, 2)},
    lambda s: s | {'few': s['few'].at[0, 0].set(jnp.nan)},
    lambda s: s | {'step': s['step'][::-1] + jnp.array([0, 1])},
    lambda s: s | {'done': ~s['done']},
    lambda s: s | {'few': -s['few']},
  ],
)
def test_every_change_changes_the_fingerprint(change):
  state = make_state(3)
  changed = change(state)
  differs = checkpoints._fingerprint(state) != checkpoints._fingerprint(changed)
  assert int(differs.sum()) == 1  # one leaf was changed


def test_large_arrays_are_hashed_by_parts_with_the_same_sums(monkeypatch):
  state = make_state(3)
  leaves = jax.tree.leaves(state)
  whole = [int(checkpoints._leaf_sum(x, False)) for x in leaves]
  monkeypatch.setattr(checkpoints, '_HASHED_AT_ONCE', 5)
  by_parts = [int(checkpoints._leaf_sum.__wrapped__(x, True)) for x in leaves]
  assert by_parts == whole
  monkeypatch.undo()
  large = jax.ShapeDtypeStruct((2**25,), jnp.bfloat16)
  compiled = checkpoints._leaf_sum.lower(large, True).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 2**26


def test_signed_zeros_and_nans_have_fingerprints():
  zeros = jnp.zeros(3)
  assert checkpoints._fingerprint(zeros) != checkpoints._fingerprint(-zeros)
  nans = jnp.full(3, jnp.nan)
  assert checkpoints._fingerprint(nans) == checkpoints._fingerprint(nans)
