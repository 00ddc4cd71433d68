"""Every script of benchmarks/ starts by itself, as its page says to call it."""

import os
import subprocess
import sys

import pytest
from checks import ROOT

# The others are what several scripts share.
SCRIPTS = [
  path
  for path in sorted((ROOT / 'benchmarks').glob('*.py'))
  if "__name__ == '__main__'" in path.read_text(encoding='utf-8')
]


@pytest.mark.slow
@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.stem)
def test_a_script_finds_the_package_beside_it(path, tmp_path):
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  process = subprocess.run(
    [sys.executable, path, '--help'],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert process.returncode == 0, process.stderr
  assert process.stdout.startswith('usage: ')
