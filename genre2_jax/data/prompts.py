"""Prompts of texts: templates that rows are filled into."""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from genre2_jax.data import cells
from genre2_jax.data.reading import header_hint
from genre2_jax.errors import InputError, suggestion

_PLACEHOLDER = re.compile(r'\{\{|\}\}|\{([^{}]*)\}|[{}]')


def fields_of(prompt: str, name: str = 'text.prompt') -> tuple[str, ...]:
  """Columns that a template names, each once.

  Raises InputError: a lone brace, or no column at all.
  """
  pieces = _pieces(prompt, name)
  fields = dict.fromkeys(field for _, field in pieces if field)
  if not fields:
    raise InputError(
      f'{name}={prompt!r} names no column: write {{column}} where its text goes'
    )
  return tuple(fields)


def render(frame: pd.DataFrame, prompt: str) -> np.ndarray:
  """The template filled in for every row: [n] object of str.

  Missing cells have no text.
  """
  pieces = list(_pieces(prompt))
  columns = {field: _texts(frame[field]) for field in fields_of(prompt)}
  texts = np.empty(len(frame), object)
  texts[:] = [
    ''.join(
      literal + columns[field][row] if field else literal
      for literal, field in pieces
    )
    for row in range(len(frame))
  ]
  return texts


def check_columns(
  frame: pd.DataFrame, prompt: str, where: str, name: str = 'text.prompt'
) -> None:
  """Raises InputError for a column that the template names and is not there."""
  fields = fields_of(prompt)
  absent = [field for field in fields if field not in frame]
  if absent:
    raise InputError(
      f'{where}: no column {absent[0]!r}, which {name} names; '
      f'{suggestion(absent[0], list(frame))}'
      f'{header_hint(list(frame))}'
    )


def is_empty(frame: pd.DataFrame, prompt: str) -> np.ndarray:
  """bool [n]: rows without text in a column that the template names."""
  bad = np.zeros(len(frame), bool)
  for field in fields_of(prompt):
    column = frame[field]
    bad |= column.isna().to_numpy()
    if not pd.api.types.is_numeric_dtype(column):
      bad |= (column.astype(str).str.strip() == '').to_numpy(bool)
  return bad


def _texts(column: pd.Series) -> list[str]:
  plain = zip(cells.plain(column), column.isna(), strict=True)
  return ['' if is_missing else cells.text_of(x) for x, is_missing in plain]


def _pieces(
  prompt: str, name: str = 'text.prompt'
) -> Iterator[tuple[str, str]]:
  """A template as (text, column after it), the last with column ''."""
  literal, last = '', 0
  for match in _PLACEHOLDER.finditer(prompt):
    literal += prompt[last : match.start()]
    last = match.end()
    if match.group() in ('{{', '}}'):
      literal += match.group()[0]
    elif match.group(1):
      yield literal, match.group(1)
      literal = ''
    else:
      raise InputError(
        f'{name} has {match.group()!r} at character {match.start() + 1}: '
        'write {column}, or {{ and }} for braces'
      )
  yield literal + prompt[last:], ''
