"""The most memory that this process had resident, since it was last asked.

Linux keeps that peak (VmHWM in /proc/self/status) and lets a process take it
back to what it has now: proc(5), `clear_refs`.
"""

import contextlib
import pathlib
import re

_PROCESS = pathlib.Path('/proc/self')
_FORGET_PEAK = '5'


def forget_peak() -> None:
  """Begins anew with what is resident now, where the system can."""
  with contextlib.suppress(OSError):
    (_PROCESS / 'clear_refs').write_text(_FORGET_PEAK)


def peak() -> int:
  """Bytes; 0 where the system does not say."""
  try:
    status = (_PROCESS / 'status').read_text()
  except OSError:
    return 0
  found = re.search(r'^VmHWM:\s+(\d+) kB$', status, re.MULTILINE)
  return int(found[1]) * 1024 if found else 0
