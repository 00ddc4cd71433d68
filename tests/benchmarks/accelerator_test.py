"""The page that an accelerator's owner gets: what is on it, and its time."""

import importlib.util
import json
import subprocess
import sys
import time

import pytest
from checks import ROOT

SCRIPT = ROOT / 'benchmarks' / 'accelerator.py'
spec = importlib.util.spec_from_file_location('accelerator', SCRIPT)
accelerator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(accelerator)


def test_the_parts_share_what_is_left():
  left, taken = 480.0, []
  for part in accelerator.PARTS:
    taken.append(accelerator.seconds_of(part, left))
    left -= taken[-1]
  assert left == pytest.approx(0)
  assert min(taken) > 30
  # A part that was quick leaves its time to the others.
  assert accelerator.seconds_of('raft', 100.0) == 100.0


def test_what_a_part_found_counts_when_its_time_is_over(tmp_path, monkeypatch):
  slow = tmp_path / 'slow.py'
  found = json.dumps({'recipe': 'ce', 'seconds': 1.5})
  slow.write_text(
    f'import time\nprint({found!r}, flush=True)\nprint("noise", flush=True)\n'
    'time.sleep(600)\n'
  )
  monkeypatch.setattr(accelerator, '__file__', str(slow))
  began = time.monotonic()
  rows, ending = accelerator.run_part('recipes', [], 3.0)
  assert time.monotonic() - began < 60
  assert rows == [{'recipe': 'ce', 'seconds': 1.5}]
  assert ending == 'ended after its 3 s'


def test_a_part_that_fails_says_why(tmp_path, monkeypatch):
  broken = tmp_path / 'broken.py'
  broken.write_text('raise SystemExit("no chip")')
  monkeypatch.setattr(accelerator, '__file__', str(broken))
  rows, ending = accelerator.run_part('use', [], 60.0)
  assert (rows, ending) == ([], 'failed: no chip')
  text = accelerator.page('cpu', 1.0, {'use': (rows, ending, 2.0)})
  assert 'failed: no chip' in text


def test_findings_are_a_table():
  rows = [{'seeds': 1, 'step_s': 0.5}, {'seeds': 2, 'failed': 'a | b'}]
  text = accelerator.page('cpu', 1.0, {'packs': (rows, '', 2.0)})
  assert '| seeds | step_s | failed |' in text
  assert '| 2 |  | a / b |' in text


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu(tmp_path):
  command = [sys.executable, SCRIPT, '--small', f'--output={tmp_path}']
  began = time.monotonic()
  subprocess.run([*command, '--minutes=3'], check=True, capture_output=True)
  assert time.monotonic() - began < 240
  (path,) = tmp_path.glob('accelerator_*.md')
  text = path.read_text()
  for heading in accelerator.SAYS.values():
    assert f'## {heading}' in text
  assert 'finite' in text
  assert 'not finite' not in text
