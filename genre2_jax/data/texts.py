"""Texts for regression: prompts and a target, split in three."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from genre2_jax.data import cells, tables
from genre2_jax.data import weights as weights_
from genre2_jax.data.reading import EXTENSIONS, Reading, header_hint, path_of
from genre2_jax.errors import InputError, listed, suggestion

# File names and cells of a split column -> the split they mean.
SPLIT_NAMES = {
  'train': 'train',
  'training': 'train',
  'val': 'val',
  'valid': 'val',
  'validation': 'val',
  'dev': 'val',
  'test': 'test',
}
_PLACEHOLDER = re.compile(r'\{\{|\}\}|\{([^{}]*)\}|[{}]')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRows:
  """Rows of one split, or rows to predict.

  text: [n] object: str, the prompts.
  target: [n] float64, finite; None for rows to predict.
  second: [n] object: str, of pairs; None where a text stands alone.
  rationale: [n] object: str, what is written before the target, '' where
    nothing is; None of rows to predict and of tasks without.
  weight: [n] float64, of mean 1 over the train rows; None: all count alike.
  """

  text: np.ndarray
  target: np.ndarray | None
  second: np.ndarray | None = None
  rationale: np.ndarray | None = None
  weight: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.text)

  @property
  def known_target(self) -> np.ndarray:
    """The target of rows that have one."""
    assert self.target is not None
    return self.target

  def cells(self) -> Iterator[bytes]:
    """Every cell, to tell data from other data."""
    yield self.known_target.tobytes()
    yield repr(self.text.tolist()).encode()
    for more in (self.second, self.rationale):
      if more is not None:
        yield repr(more.tolist()).encode()
    if self.weight is not None:
      yield self.weight.tobytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
  """A regression task on text. Loaders make it by `build`, which checks it.

  prompt: the template that made the rows' texts of columns.
  second: the same of the second texts of pairs, or ''.
  rationale: the same of what is written before the target, or ''.
  """

  name: str
  prompt: str
  target_name: str
  train: TextRows
  val: TextRows
  test: TextRows
  second: str = ''
  rationale: str = ''

  @property
  def prompts(self) -> tuple[str, ...]:
    """The templates: one, or two of pairs."""
    return tuple(filter(None, (self.prompt, self.second)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
  """Which rows of a source are taken.

  prompt: template with {column} in it; {{ and }} for braces.
  target: name of the target column.
  seed: of what is drawn.
  max_rows: of train, val and test; 0: all.
  drop_empty: whether rows with an empty text are left out, not refused.
  split_column: of a single file; '' or absent: rows are split at random.
  reading: how files are written, where that is not plain.
  second: template of a second text, or ''.
  rationale: template of the text that is written before the target, or ''.
  weight: name of the column of weights, or ''.
  non_finite: whether targets may be missing, which is NaN, or infinite.
  """

  prompt: str
  target: str
  seed: int = 0
  max_rows: Sequence[int] = (0, 0, 0)
  drop_empty: bool = False
  split_column: str = 'split'
  reading: Reading = dataclasses.field(default_factory=Reading)
  second: str = ''
  rationale: str = ''
  weight: str = ''
  non_finite: bool = False


def read(path: str | os.PathLike, choice: Choice) -> Texts:
  """`Texts` from a file, or a folder with one file for each split.

  Files are CSV, TSV, JSONL (all may be gzipped), Parquet or .xlsx; a folder's
  are named train, validation (or val, dev) and test. What a source does not
  split, `build` does. Raises InputError.
  """
  path = path_of(path)
  if not path.is_dir():
    frame = tables.read_frame(path, choice.reading)
    name = path.name.removesuffix(tables.extension_of(path))
    return build(name, str(path), by_column(frame, choice, str(path)), choice)
  frames = {}
  for file in sorted(path.iterdir()):
    stem = file.name.partition('.')[0].lower()
    split = SPLIT_NAMES.get(stem)
    if split is None or not file.name.lower().endswith(EXTENSIONS):
      continue
    if split in frames:
      raise InputError(f'{path}: two files for {split}; keep one of them')
    frames[split] = tables.read_frame(file, choice.reading)
  if 'train' not in frames:
    raise InputError(
      f'{path}: no train{EXTENSIONS[0]}, train{EXTENSIONS[1]}, ... in it; '
      'name the files train, validation and test'
    )
  return build(path.name, str(path), frames, choice)


def by_column(
  frame: pd.DataFrame, choice: Choice, where: str
) -> dict[str, pd.DataFrame]:
  """A frame's rows by its split column; all as 'train' without one."""
  column = choice.split_column
  if not column or column not in frame:
    return {'train': frame}
  cells = frame[column].astype(str).str.strip().str.lower()
  unknown = sorted(set(cells) - set(SPLIT_NAMES))
  if unknown:
    raise InputError(
      f'{where}: column {column!r} has {listed(unknown)}, not train, '
      "validation or test; correct it or set text.split_column=''"
    )
  splits = cells.map(SPLIT_NAMES)
  return {split: part for split, part in frame.groupby(splits, sort=False)}


def build(
  name: str,
  where: str,
  frames: Mapping[str, pd.DataFrame],
  choice: Choice,
) -> Texts:
  """Checked `Texts` from frames by split: every loader ends here.

  A sole 'train' is split at random: into `max_rows` where all three are given
  and there are so many rows, otherwise 64/16/20. Without 'test' the rows of
  'val' take its place, as those of GLUE whose test targets are secret; without
  'val' a fifth of 'train' validates.

  Raises:
    InputError: a template, a column or rows that cannot be used.
  """
  parts = {}
  for split, frame in frames.items():
    here = where if len(frames) == 1 else f'{where}: {split}'
    parts[split] = _checked(frame, choice, here)
  if 'train' not in parts:
    raise InputError(f'{where}: no train rows; at least one is needed')
  draw = np.random.RandomState(choice.seed)
  if set(parts) == {'train'}:
    frame, y = parts['train']
    parts = {
      split: (frame.iloc[index], y[index])
      for split, index in split_at_random(len(frame), choice, where).items()
    }
  if 'test' not in parts:
    parts['test'] = parts.pop('val')
  if 'val' not in parts:
    frame, y = parts['train']
    order = draw.permutation(len(frame))
    cut = -(-len(frame) // 5)
    for split, index in (('val', order[:cut]), ('train', order[cut:])):
      parts[split] = frame.iloc[index], y[index]
  rows, weights = {}, {}
  for split, most in zip(tables.SPLITS, choice.max_rows, strict=True):
    frame, y = parts[split]
    if not len(frame):
      raise InputError(f'{where}: no {split} rows; at least one is needed')
    if 0 < most < len(frame):
      index = np.sort(draw.permutation(len(frame))[:most])
      frame, y = frame.iloc[index], y[index]
    rows[split] = _rendered(
      frame, choice.prompt, choice.second, y, choice.rationale
    )
    if choice.weight:
      weights[split] = weights_.of_column(
        where, frame, choice.weight, choice.reading
      )
  if choice.weight:
    weighted = tables.weighted(rows.values(), weights)
    rows = dict(zip(tables.SPLITS, weighted, strict=True))
  return Texts(
    name=name,
    prompt=choice.prompt,
    second=choice.second,
    rationale=choice.rationale,
    target_name=choice.target,
    **rows,
  )


def read_rows(
  path: str | os.PathLike,
  *,
  prompt: str,
  target_name: str = '',
  reading: Reading | Mapping | str | None = None,
  frame: pd.DataFrame | None = None,
  second: str = '',
) -> TextRows:
  """Rows to predict from a file; the target column is never read.

  `frame` is what `read_frame` gave of it, or None to read it. `second` is the
  template of the second texts of pairs.

  Raises InputError.
  """
  if frame is None:
    frame = tables.read_frame(path, Reading.parse(reading))
  for template in filter(None, (prompt, second)):
    _check_columns(frame, template, f'{path}')
  bad = _is_empty(frame, prompt + second)
  if bad.any():
    raise InputError(
      f'{path}: empty text in {tables.located(bad)}; fill or remove these rows'
    )
  return _rendered(frame, prompt, second, None)


def _rendered(
  frame: pd.DataFrame,
  prompt: str,
  second: str,
  target: np.ndarray | None,
  rationale: str = '',
) -> TextRows:
  return TextRows(
    text=render(frame, prompt),
    target=target,
    second=render(frame, second) if second else None,
    rationale=render(frame, rationale) if rationale else None,
  )


def as_table(texts: Texts) -> tables.Table:
  """The same task as a table of text columns, one or two of a pair."""
  return tables.Table(
    name=texts.name,
    numeric_names=(),
    category_names=(),
    target_name=texts.target_name,
    text_names=texts.prompts,
    train=as_rows(texts.train),
    val=as_rows(texts.val),
    test=as_rows(texts.test),
  )


def as_rows(rows: TextRows) -> tables.Rows:
  """Rows of `as_table`."""
  parts = [part for part in (rows.text, rows.second) if part is not None]
  return tables.Rows(
    numeric=np.empty((len(rows), 0)),
    categories=np.empty((len(rows), 0), object),
    target=rows.target,
    text=np.stack(parts, axis=1),
    weight=rows.weight,
  )


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


def _texts(column: pd.Series) -> list[str]:
  plain = zip(cells.plain(column), column.isna(), strict=True)
  return ['' if is_missing else cells.text_of(x) for x, is_missing in plain]


def describe(texts: Texts) -> str:
  """Summary to print: rows, targets and the first prompt."""
  splits = [getattr(texts, split) for split in tables.SPLITS]
  counts = ', '.join(
    f'{split} {len(rows)}'
    for split, rows in zip(tables.SPLITS, splits, strict=True)
  )
  target = splits[0].known_target
  target = target[np.isfinite(target)]
  first = splits[0].text[0]
  if splits[0].second is not None:
    first = f'{first} | {splits[0].second[0]}'
  first = first if len(first) <= 400 else f'{first[:200]} … {first[-200:]}'
  return '\n'.join(
    [
      f'{texts.name}: target {texts.target_name}, '
      f'{target.min():g} to {target.max():g}, mean {target.mean():g}',
      f'rows: {counts}',
      f'first prompt: {first!r}',
    ]
  )


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


def _checked(
  frame: pd.DataFrame, choice: Choice, where: str
) -> tuple[pd.DataFrame, np.ndarray]:
  """A frame and its targets; empty texts refused, or left out."""
  if choice.target not in frame:
    several = [name.strip() for name in choice.target.split(',')]
    if len(several) > 1 and set(several) <= set(frame):
      raise InputError(
        f'text.target={choice.target}: of a text one number is written, and '
        f'there are {len(several)} targets: name one'
      )
    raise tables.no_column(where, choice.target, list(frame))
  prompts = list(filter(None, (choice.prompt, choice.second)))
  for prompt in prompts:
    _check_columns(frame, prompt, where)
    if choice.target in fields_of(prompt):
      raise InputError(
        f'text.prompt shows the target, {{{choice.target}}}: take it out'
      )
  if choice.rationale:  # That may be empty.
    _check_columns(frame, choice.rationale, where, 'text.rationale')
  if choice.weight:
    frame, _, where = weights_.counted(
      where, frame, choice.weight, (choice.target,), choice.reading
    )
  bad = _is_empty(frame, ''.join(prompts))
  if bad.any():
    if not choice.drop_empty:
      raise InputError(
        f'{where}: empty text in {tables.located(bad)}; fill them, or set '
        'text.drop_empty=True'
      )
    frame = frame[~bad]
  y = tables.target_column(
    f'{where}: target {choice.target!r}',
    frame[choice.target],
    choice.reading,
    non_finite=choice.non_finite,
  )
  return frame, y


def _check_columns(
  frame: pd.DataFrame, prompt: str, where: str, field: str = 'text.prompt'
) -> None:
  fields = fields_of(prompt)
  absent = [field for field in fields if field not in frame]
  if absent:
    raise InputError(
      f'{where}: no column {absent[0]!r}, which {field} names; '
      f'{suggestion(absent[0], list(frame))}'
      f'{header_hint(list(frame))}'
    )


def _is_empty(frame: pd.DataFrame, prompt: str) -> np.ndarray:
  """bool [n]: rows without text in a column that the template names."""
  bad = np.zeros(len(frame), bool)
  for field in fields_of(prompt):
    column = frame[field]
    bad |= column.isna().to_numpy()
    if not pd.api.types.is_numeric_dtype(column):
      bad |= (column.astype(str).str.strip() == '').to_numpy(bool)
  return bad


def split_at_random(
  n: int, choice: Choice, where: str
) -> dict[str, np.ndarray]:
  """Row numbers of each split, of n rows that come in one piece."""
  sizes = list(choice.max_rows)
  if not all(sizes) or sum(sizes) > n:
    return tables.split_rows(n, choice.seed, where)
  order = np.random.RandomState(choice.seed).permutation(n)
  cuts = np.cumsum(sizes)
  return dict(zip(tables.SPLITS, np.split(order, cuts)[:3], strict=True))
