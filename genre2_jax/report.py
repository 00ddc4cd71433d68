"""The report of a run: its numbers in words, tables and figures, on one page.

`write(workdir)` reads only what the run left in the workdir (run.json,
config.json, env.json, results.csv, metrics.jsonl, evaluation/*_test.npz,
profile/*/operations.json) and writes figures/*.png and report.html, which
carries its figures inside and asks the network for nothing. Again, later,
elsewhere:
`python -m genre2_jax.report --workdir=DIR`.
"""

import argparse
import base64
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from genre2_jax import (
  errors,
  figures,
  report_inputs,
  report_tables,
  report_words,
  writers,
)


def write(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes figures/*.png and report.html; returns the path of the latter.

  Missing or damaged inputs raise InputError.
  """
  workdir = pathlib.Path(workdir)
  run = report_inputs.load(workdir)
  sections = figures.draw(run)
  for section in sections:
    for panel in section.panels:
      path = workdir / 'figures' / f'{panel.name}.png'
      writers.write_bytes(path, panel.png)
  html = _template().render(
    title=run.info['task'],
    verdict=report_words.verdict(run),
    notes=report_words.notes(run),
    facts=report_words.facts(run),
    points=report_tables.points(run),
    distributions=report_tables.distributions(run),
    sections=sections,
    seeds=report_tables.seeds(run) if len(run.seeds) > 1 else None,
    operations=report_tables.operations(run),
    command=run.env.get('command'),
    config=_flatten(run.config),
    env=_flatten({k: v for k, v in run.env.items() if k != 'command'}),
  )
  path = workdir / 'report.html'
  writers.write_text(path, html)
  return path


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
      from genre2_jax import comparison_report

      print(comparison_report.write(workdir))
    else:
      print(write(workdir))
  except errors.InputError as error:
    print(error, file=sys.stderr)
    return 2
  return 0


def _template() -> jinja2.Template:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['base64'] = lambda data: base64.b64encode(data).decode()
  return environment.get_template('report.html.j2')


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, str]:
  """Nested dicts as dotted names and values: {'a': {'b': 1}} → a.b, 1."""
  items = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      items |= _flatten(value, f'{prefix}{key}.')
    elif isinstance(value, str):
      items[prefix + key] = value
    else:
      items[prefix + key] = json.dumps(value, ensure_ascii=False)
  return items


if __name__ == '__main__':
  sys.exit(main())
