"""Writes docs/config.md from `experiment/defaults.py` and its comments.

    python docs/config_reference.py

tests/docs_test.py fails when the two have come apart.
"""

import ast
import pathlib
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from genre2_jax.experiment.defaults import SIZES  # noqa: E402

SOURCE = ROOT / 'genre2_jax' / 'experiment' / 'defaults.py'
PAGE = ROOT / 'docs' / 'config.md'
INTRO = """\
# Config fields

Set a field on the command line with `--config.FIELD=VALUE`, in a recipe with
`config.FIELD = VALUE`, or with `DecodingRegressor(config={'FIELD': VALUE})`. A
field that is not here is an error. Two values are of the sizes `small`, the
default, and `paper`, `--config.size=paper`, which has GenRe²'s (arXiv
2512.06533); a field that you set is as you set it at either. A recipe,
`configs/talent.py:NAME`, changes a few fields; `config.json` in a workdir has
all that a run used.

Written by `python docs/config_reference.py` from
[`genre2_jax/experiment/defaults.py`](../genre2_jax/experiment/defaults.py).
"""


def sections(source):
  """[(section, what it is about, [(field, default, meaning)])], as in the file.

  A section is a ConfigDict inside the config, '' the config itself. A comment
  behind a field, and on the lines below it, is its meaning; comments above a
  section are about all of it.
  """
  (function,) = (
    node
    for node in ast.parse(source).body
    if isinstance(node, ast.FunctionDef) and node.name == 'get_config'
  )
  lines = source.splitlines()
  found = {'': ('', [])}
  names = {'config': ''}  # variable -> section
  for node in function.body:
    if not isinstance(node, ast.Assign):
      continue
    target, *others = node.targets
    if not isinstance(target, ast.Attribute):
      continue
    section = names[target.value.id]
    name = f'{section}.{target.attr}'.lstrip('.')
    meaning = _comment_behind(lines, node)
    if others:  # config.data = data = ConfigDict()
      names[others[0].id] = name
      about = [_sentence(meaning), _comment_above(lines, node)]
      found[name] = ('\n\n'.join(filter(None, about)), [])
    else:
      found[section][1].append((name, _default(name, node.value), meaning))
  return [(name, about, rows) for name, (about, rows) in found.items()]


def _default(name, value):
  """A field's default; of one that is by size, that of small and of paper."""
  of_sizes = [SIZES[size].get(name) for size in ('small', 'paper')]
  if None in of_sizes:
    return ast.unparse(value)
  return '`, `'.join(map(repr, of_sizes))


def _comment_behind(lines, node):
  """What follows a statement, on its line and on the lines of comment below."""
  parts = [lines[node.end_lineno - 1][node.end_col_offset :]]
  for line in lines[node.end_lineno :]:
    if not line.strip().startswith('#'):
      break
    parts.append(line)
  return ' '.join(part.strip().lstrip('# ') for part in parts).strip()


def _comment_above(lines, node):
  """The block of comment above a statement, where a blank line precedes it."""
  stop = node.lineno - 1
  start = stop
  while lines[start - 1].strip().startswith('#'):
    start -= 1
  if start == stop or lines[start - 1].strip():
    return ''  # None, or the end of what is said of a field.
  first, *rest = (
    line.strip()[1:].removeprefix(' ') for line in lines[start:stop]
  )
  if rest and all(line.startswith('  ') for line in rest):  # laid out
    table = textwrap.dedent('\n'.join(rest))
    return f'{first}\n\n```\n{table}\n```'
  return '\n'.join([first, *rest])


def _sentence(text):
  return f'{text[0].upper()}{text[1:]}.' if text else ''


def page(source):
  """The whole of docs/config.md."""
  parts = [INTRO]
  for section, about, rows in sections(source):
    parts.append(f'## {section or "the run"}\n')
    if about:
      parts.append(f'{about}\n')
    parts.append('| field | default | |\n|---|---|---|')
    for name, default, meaning in rows:
      meaning = meaning.replace('|', '\\|')
      parts.append(f'| `{name}` | `{default}` | {meaning} |')
    parts.append('')
  return '\n'.join(parts)


if __name__ == '__main__':
  PAGE.write_text(page(SOURCE.read_text(encoding='utf-8')), encoding='utf-8')
