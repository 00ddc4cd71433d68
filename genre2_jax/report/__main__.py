"""`python -m genre2_jax.report --workdir=DIR`: report.html, again."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from genre2_jax import errors


def main(argv: Sequence[str] | None = None) -> int:
  """Command line: `--workdir=DIR`; the exit code is 2 for unusable input."""
  parser = argparse.ArgumentParser(
    prog='python -m genre2_jax.report', description='Writes report.html.'
  )
  parser.add_argument(
    '--workdir', required=True, help='folder of a run or of a benchmark'
  )
  workdir = pathlib.Path(parser.parse_args(argv).workdir)
  try:
    if (workdir / 'benchmark.json').exists():
      from genre2_jax.benchmark import page as comparison

      print(comparison.write(workdir))
    else:
      from genre2_jax.report import page

      print(page.write(workdir))
  except errors.RunError as error:
    print(error, file=sys.stderr)
    return error.exit_code
  return 0


if __name__ == '__main__':
  sys.exit(main())
