"""What tests of whole runs do with processes and their files."""

import time


def wait_until(condition, process, seconds=300):
  """Watches for a moment of a running process."""
  end = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < end, 'the moment never came'
    time.sleep(0.001)


def num_records(workdir, stage=''):
  path = workdir / 'metrics.jsonl'
  return path.read_text().count(f'"stage": "{stage}') if path.exists() else 0


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def largest_file(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)
