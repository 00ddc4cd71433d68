"""The report of a run: its numbers in words, tables and figures, on one page.

`write(workdir)` reads only what the run left in the workdir (run.json,
config.json, env.json, results.csv, references.csv, predictions.csv,
metrics.jsonl, columns.json, importances.json, evaluation/*_test.npz,
profile/*/operations.json) and writes figures/*.svg and report.html, which
carries its figures inside and asks the network for nothing. Again, later,
elsewhere:
`python -m genre2_jax.report --workdir=DIR`.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2

from genre2_jax.files import atomic
from genre2_jax.files.atomic import PathLike
from genre2_jax.report import (
  drawing,
  figures,
  inputs,
  numbers,
  palette,
  result_tables,
  words,
)


def write(workdir: PathLike) -> pathlib.Path:
  """Writes figures/*.svg and report.html; returns the path of the latter.

  Of several targets each has a page and figures of its own, and report.html is
  what they say together. Missing or damaged inputs raise InputError.
  """
  workdir = pathlib.Path(workdir)
  path = workdir / 'report.html'
  names = inputs.target_names(workdir)
  if not names:
    return _write_one(workdir, inputs.load(workdir), path)
  runs, links = [], []
  for place, name in enumerate(names, start=1):
    slug = ''.join(c if c.isalnum() or c in '-_' else '_' for c in name)
    own = workdir / f'report_{place}_{slug}.html'
    runs.append(inputs.load(workdir, name))
    links.append(result_tables.Link(name, own.name))
    _write_one(workdir, runs[-1], own, f'{place}_{slug}')
  together = inputs.overall(workdir, runs[-1])
  html = template('report/targets.html.j2').render(
    title=f'{numbers.listed(names)} of {together.info["task"]}',
    targets=result_tables.of_targets(runs, links),
    joint=result_tables.joint(together),
    facts=words.facts(together),
    unit=words.unit(together),
  )
  atomic.write_text(path, with_contents(html))
  return path


def _write_one(
  workdir: pathlib.Path, run: inputs.Run, path: pathlib.Path, folder: str = ''
) -> pathlib.Path:
  """Writes the page of one target, and figures/<folder>/*.svg."""
  drawn = figures.draw(run)
  write_figures(workdir, drawn.values(), folder)
  (predicted,) = drawn.pop(figures.PREDICTED, _NO_FIGURES).panels or (None,)
  html = template('report/report.html.j2').render(
    title=words.headline(run),
    target=run.info['target'],
    color=run.last.color,
    verdict=words.verdict(run),
    also=words.also(run),
    errors=words.errors(run),
    interval=words.interval(run),
    notes=words.notes(run),
    facts=words.facts(run),
    predicted=predicted,
    unit=words.unit(run),
    stages=result_tables.stages(run),
    stages_said=words.stages(run),
    estimates=result_tables.estimates(run),
    points=result_tables.points(run),
    distributions=result_tables.distributions(run),
    importances=result_tables.importances(run),
    num_columns=len((run.importances or {}).get('importances', ())),
    importances_said=words.importances(run),
    data=result_tables.data(run),
    learning=drawn.pop(figures.LEARNING, None),
    dependence=drawn.pop(figures.DEPENDENCE, None),
    sections=list(drawn.values()),
    seeds=result_tables.seeds(run) if len(run.seeds) > 1 else None,
    operations=result_tables.operations(run),
    command=run.env.get('command'),
    config=_flatten(run.config),
    env=_flatten({k: v for k, v in run.env.items() if k != 'command'}),
  )
  atomic.write_text(path, with_contents(html))
  return path


_NO_FIGURES = drawing.Section('', '', ())


def write_figures(
  workdir: pathlib.Path, sections: Iterable[drawing.Section], folder: str = ''
) -> None:
  """Writes figures/*.svg of a workdir, or figures/<folder>/*.svg."""
  for section in sections:
    for panel in section.panels:
      path = workdir / 'figures' / folder / f'{panel.name}.svg'
      atomic.write_text(path, panel.file())


def template(name: str) -> jinja2.Template:
  """A page's template, by its path in the package."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent.parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['themed'] = palette.themed
  environment.globals['palette'] = palette.variables()
  return environment.get_template(name)


CONTENTS = '<!-- contents -->'


def with_contents(html: str) -> str:
  """A page whose headings have ids, with a list of them where it is asked for.

  Two headings or fewer need no list.
  """
  titles = re.findall(r'<h2>(.*?)</h2>', html)
  links = []
  for number, title in enumerate(titles, start=1):
    html = html.replace(
      f'<h2>{title}</h2>', f'<h2 id="part-{number}">{title}</h2>', 1
    )
    links.append(f'<li><a href="#part-{number}">{title}</a></li>')
  listed = ''
  if len(links) > 2:
    listed = (
      f'<nav aria-label="Contents"><ul>\n{chr(10).join(links)}\n</ul></nav>'
    )
  return html.replace(CONTENTS, listed, 1)


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
