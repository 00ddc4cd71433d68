"""Sizes measured one after the other, each in a process of its own: a page."""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time


class Laps:
  """Seconds of the processor between one lap and the next, by name."""

  def __init__(self):
    self.found = {}
    self.restart()

  def restart(self):
    """What was since the last lap belongs to none."""
    self._last = time.process_time()

  def __call__(self, name):
    now = time.process_time()
    self.found[name], self._last = now - self._last, now


def parser_of(doc, sizes, what, steps):
  """Arguments of all such scripts; --file is of the process of a size."""
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  parser.add_argument('--sizes', default=sizes, help=what)
  parser.add_argument('--steps', type=int, default=steps, help='timed')
  parser.add_argument('--output', default='', help='a page, .md')
  parser.add_argument('--file', default='', help=argparse.SUPPRESS)
  return parser


def compare(script, args, *, title, columns, figures, file, write, options):
  """Measures every size; prints the table, and writes the page.

  Args:
    script: path of the one that prints a JSON line of figures for a --file.
    args: of `parser_of`; a size is numbers as in 1000x20.
    title: of the page.
    columns: what the numbers of a size are.
    figures: names, in order.
    file: name of the data.
    write: `(path, *numbers of the size)`.
    options: of the script, beside sizes and file, as they are given.
  """
  lines = [
    f'| {" | ".join(columns)} | MB | ' + ' | '.join(figures) + ' |',
    '|' + '---|' * (1 + len(columns) + len(figures)),
  ]
  print(*lines, sep='\n')
  for size in args.sizes.split(','):
    numbers = tuple(map(int, size.split('x')))
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, file)
      write(path, *numbers)
      command = [sys.executable, script, f'--file={path}', *options]
      done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
      if done.returncode:
        sys.exit(f'{size} failed')
      found = json.loads(done.stdout.splitlines()[-1])
      megabytes = os.path.getsize(path) / 1e6
    cells = [
      *(f'{number:,}' for number in numbers),
      f'{megabytes:.0f}',
      *(f'{found[name]:.3g}' for name in figures),
    ]
    lines.append(f'| {" | ".join(cells)} |')
    print(lines[-1], flush=True)
    if args.output:
      text = _page(title, script, ['--sizes=' + args.sizes, *options], lines)
      pathlib.Path(args.output).write_text(text)


def _page(title, script, options, lines):
  """Markdown: what was run, on what, and the table."""
  import jax

  commit = subprocess.run(
    ['git', 'rev-parse', '--short', 'HEAD'], stdout=subprocess.PIPE, text=True
  ).stdout.strip()
  command = f'python benchmarks/{pathlib.Path(script).name}'
  return '\n'.join(
    [
      f'# {title}',
      '',
      f'`{" ".join([command, *options])}`, commit {commit}, jax '
      f'{jax.__version__}, {platform.machine()}, {os.cpu_count()} cores, '
      f'`XLA_FLAGS={os.environ.get("XLA_FLAGS", "")}`, seed 0. Seconds are of '
      'the processor but for those of the clock; rows per second, too. Other '
      'programs ran beside it.',
      '',
      *lines,
      '',
    ]
  )
