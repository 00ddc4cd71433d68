"""The report of a run: its numbers in words, tables and figures, on one page.

`write(workdir)` reads only what the run left in the workdir (run.json,
config.json, env.json, results.csv, metrics.jsonl, evaluation/*_test.npz,
profile/*/operations.json) and writes figures/*.png and report.html, which
carries its figures inside and asks the network for nothing. Again, later,
elsewhere:
`python -m genre2_jax.report --workdir=DIR`.
"""

import base64
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2

from genre2_jax.files import atomic
from genre2_jax.files.atomic import PathLike
from genre2_jax.report import drawing, figures, inputs, result_tables, words


def write(workdir: PathLike) -> pathlib.Path:
  """Writes figures/*.png and report.html; returns the path of the latter.

  Missing or damaged inputs raise InputError.
  """
  workdir = pathlib.Path(workdir)
  run = inputs.load(workdir)
  sections = figures.draw(run)
  write_figures(workdir, sections)
  html = template('report/report.html.j2').render(
    title=run.info['task'],
    unit=run.unit,
    verdict=words.verdict(run),
    notes=words.notes(run),
    facts=words.facts(run),
    points=result_tables.points(run),
    distributions=result_tables.distributions(run),
    sections=sections,
    seeds=result_tables.seeds(run) if len(run.seeds) > 1 else None,
    operations=result_tables.operations(run),
    command=run.env.get('command'),
    config=_flatten(run.config),
    env=_flatten({k: v for k, v in run.env.items() if k != 'command'}),
  )
  path = workdir / 'report.html'
  atomic.write_text(path, html)
  return path


def write_figures(
  workdir: pathlib.Path, sections: Iterable[drawing.Section]
) -> None:
  """Writes figures/*.png of a workdir."""
  for section in sections:
    for panel in section.panels:
      path = workdir / 'figures' / f'{panel.name}.png'
      atomic.write_bytes(path, panel.png)


def template(name: str) -> jinja2.Template:
  """A page's template, by its path in the package."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent.parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['base64'] = lambda data: base64.b64encode(data).decode()
  return environment.get_template(name)


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, str]:
  """Nested dicts as dotted names and values: {'a': {'b': 1}} → a.b, 1."""
  items: dict[str, str] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      items |= _flatten(value, f'{prefix}{key}.')
    elif isinstance(value, str):
      items[prefix + key] = value
    else:
      items[prefix + key] = json.dumps(value, ensure_ascii=False)
  return items
