"""The cache of compiled programs: where it is, and that it is used."""

import subprocess
import sys

import jax
import pytest

from genre2_jax.devices import compilation

CODE = """
import sys
import jax
from genre2_jax.devices import compilation
compilation._MIN_SECONDS = 0
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: x + 1)(1.0)  # Before the folder is known.
compilation.keep_programs(*sys.argv[1:])
jax.jit(lambda x: x * 3)(1.0)
print(hits.count('/jax/compilation_cache/cache_hits'))
"""


def run(*arguments, **environment):
  done = subprocess.run(
    [sys.executable, '-c', CODE, *map(str, arguments)],
    env={'PATH': '', 'JAX_PLATFORMS': 'cpu'} | environment,
    capture_output=True,
    text=True,
    check=True,
  )
  return int(done.stdout)


def test_the_second_process_reads_what_the_first_compiled(tmp_path):
  home = {'XDG_CACHE_HOME': str(tmp_path)}
  assert [run(**home), run(**home)] == [0, 1]
  (folder,) = (tmp_path / 'genre2_jax' / 'compiled').iterdir()
  assert folder.stat().st_mode & 0o077 == 0
  assert any(path.name.endswith('-cache') for path in folder.iterdir())


@pytest.mark.parametrize('given', ['none', '/dev/null/no'])
def test_no_folder_keeps_nothing(tmp_path, given):
  home = {'HOME': str(tmp_path)}
  assert run(given, **home) == 0
  assert not list(tmp_path.rglob('*-cache'))


def test_the_folder_is_the_processors(monkeypatch, tmp_path):
  """Programs may hold instructions that another processor lacks."""
  flags = tmp_path / 'cpuinfo'
  names = set()
  for text in ('flags : avx2', 'flags : avx2 amx', 'flags : avx2'):
    flags.write_text(f'processor : 0\ncpu MHz : 1\n{text}\n')
    monkeypatch.setattr(compilation, '_CPU', flags)
    names.add(compilation._machine())
  assert len(names) == 2


def test_a_folder_that_is_set_stays(tmp_path):
  before = jax.config.jax_compilation_cache_dir
  assert before  # the tests' own
  compilation.keep_programs(str(tmp_path))
  assert jax.config.jax_compilation_cache_dir == before
