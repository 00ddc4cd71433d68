"""What a run ran on: versions, commit, devices, mesh, command."""

import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def environment(mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """What a run ran on: versions, commit, devices, mesh, command."""
  devices = jax.devices()
  return {
    'command': shlex.join(['python', '-m', 'genre2_jax.main', *sys.argv[1:]]),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
    'git_commit': _git_commit(),
    'platform': platform.platform(),
    'processor': _processor(),
    'device_kind': devices[0].device_kind,
    'num_devices': len(devices),
    'num_processes': jax.process_count(),
    'mesh': dict(mesh.shape),
  }


def summary(environment: dict[str, Any]) -> str:
  """`environment` and memory in one line."""
  e = environment
  sizes = [f'{axis} {size}' for axis, size in e['mesh'].items() if size > 1]
  memory = e['device_memory'] and f' with {e["device_memory"]}'
  memory = memory or (e['host_memory'] and f', host with {e["host_memory"]}')
  return (
    f'{e["num_devices"]} x {e["device_kind"]}{memory}, '
    f'{e["num_processes"]} process(es), mesh {", ".join(sizes) or "of one"}'
  )


def _git_commit():
  folder = pathlib.Path(__file__).parent
  try:
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=12'],
      cwd=folder, capture_output=True, text=True, timeout=10, check=True,
    ).stdout.strip()  # fmt: skip
  except (OSError, subprocess.SubprocessError):
    return 'unknown'


def _processor():
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except OSError:
    return platform.processor()
  names = [line for line in text.splitlines() if line.startswith('model name')]
  return f'{names[0].partition(":")[2].strip()} x {len(names)}' if names else ''
