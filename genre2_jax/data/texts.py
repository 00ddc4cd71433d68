"""Texts for regression: prompts and a target, split in three."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from genre2_jax.data import prompts, stored, tables
from genre2_jax.data import weights as weights_
from genre2_jax.data.pieces import read_pieces
from genre2_jax.data.reading import EXTENSIONS, Reading, path_of
from genre2_jax.data.stored import GrowingStrings, StoredStrings
from genre2_jax.errors import InputError, listed

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRows:
  """Rows of one split, or rows to predict.

  Texts are [n] object: str, or lie in a file (`data/stored.py`).

  text: the prompts.
  target: [n] float64, finite; None for rows to predict.
  second: of pairs; None where a text stands alone.
  rationale: what is written before the target, '' where nothing is; None of
    rows to predict and of tasks without.
  weight: [n] float64, of mean 1 over the train rows; None: all count alike.
  """

  text: np.ndarray | StoredStrings
  target: np.ndarray | None
  second: np.ndarray | StoredStrings | None = None
  rationale: np.ndarray | StoredStrings | None = None
  weight: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.text)

  @property
  def known_target(self) -> np.ndarray:
    """The target of rows that have one."""
    assert self.target is not None
    return self.target

  def part(self, index: np.ndarray) -> 'TextRows':
    """The rows with these numbers, or of this mask."""
    return dataclasses.replace(
      self,
      text=self.text[index],
      target=None if self.target is None else self.target[index],
      second=None if self.second is None else self.second[index],
      rationale=None if self.rationale is None else self.rationale[index],
      weight=None if self.weight is None else self.weight[index],
    )

  def cells(self) -> Iterator[bytes]:
    """Every cell, to tell data from other data."""
    yield self.known_target.tobytes()
    for texts in (self.text, self.second, self.rationale):
      if texts is not None:
        yield from stored.representation(texts)
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
    name = path.name.removesuffix(tables.extension_of(path))
    read = _gathered(str(path), read_pieces(path, choice.reading), choice)
    return _build(name, str(path), _by_column(read, choice, str(path)), choice)
  files: dict[str, pathlib.Path] = {}
  for file in sorted(path.iterdir()):
    stem = file.name.partition('.')[0].lower()
    split = SPLIT_NAMES.get(stem)
    if split is None or not file.name.lower().endswith(EXTENSIONS):
      continue
    if split in files:
      raise InputError(f'{path}: two files for {split}; keep one of them')
    files[split] = file
  if 'train' not in files:
    raise InputError(
      f'{path}: no train{EXTENSIONS[0]}, train{EXTENSIONS[1]}, ... in it; '
      'name the files train, validation and test'
    )
  frames = {
    split: read_pieces(file, choice.reading) for split, file in files.items()
  }
  return build(path.name, str(path), frames, choice)


def build(
  name: str,
  where: str,
  frames: Mapping[str, Iterable[pd.DataFrame]],
  choice: Choice,
) -> Texts:
  """Checked `Texts` from frames by split: every loader ends here.

  A sole 'train' is split at random: into `max_rows` where all three are given
  and there are so many rows, otherwise 64/16/20. Without 'test' the rows of
  'val' take its place, as those of GLUE whose test targets are secret; without
  'val' a fifth of 'train' validates.

  Args:
    name: of the task.
    where: the frames come from, to begin messages with.
    frames: of each split some rows after the others, in one frame or several:
      at no time more than one is in memory.
    choice: of rows and columns.

  Raises:
    InputError: a template, a column or rows that cannot be used.
  """
  parts = {}
  for split, pieces in frames.items():
    here = where if len(frames) == 1 else f'{where}: {split}'
    parts[split] = _gathered(here, pieces, choice)
  return _build(name, where, parts, choice)


class _Gathered(NamedTuple):
  """Rows of a source, whose texts may be larger than memory.

  Attributes:
    frame: the columns that are no text.
    rows: the texts, filled in.
    is_empty: bool [n], without text in a column that the template names.
  """

  frame: pd.DataFrame
  rows: TextRows
  is_empty: np.ndarray

  def part(self, index: np.ndarray) -> '_Gathered':
    return _Gathered(
      self.frame.iloc[index].reset_index(drop=True),
      self.rows.part(index),
      self.is_empty[index],
    )


def _gathered(
  where: str, pieces: Iterable[pd.DataFrame], choice: Choice
) -> _Gathered:
  """Rows of some frames. Raises InputError: a column that they lack."""
  templates = {
    'text': choice.prompt,
    'second': choice.second,
    'rationale': choice.rationale,
  }
  texts = {name: GrowingStrings() for name, own in templates.items() if own}
  kept: list[pd.DataFrame] = []
  is_empty = []
  for frame in pieces:
    if not kept:
      _check_choice(where, frame, choice)
    for name, grown in texts.items():
      grown.append(prompts.render(frame, templates[name]))
    is_empty.append(prompts.is_empty(frame, choice.prompt + choice.second))
    names = {choice.target, choice.weight, choice.split_column}
    kept.append(frame[[name for name in frame if name in names]])
  types = [tuple(frame.dtypes) for frame in kept]
  if len(set(types)) > 1:  # As objects, all cells stay what they are.
    kept = [frame.astype(object) for frame in kept]
  whole = kept[0] if len(kept) == 1 else pd.concat(kept, ignore_index=True)
  filled = {name: grown.finish() for name, grown in texts.items()}
  rows = TextRows(
    text=filled['text'],
    target=None,
    second=filled.get('second'),
    rationale=filled.get('rationale'),
  )
  return _Gathered(whole.reset_index(drop=True), rows, np.concatenate(is_empty))


def _by_column(
  read: _Gathered, choice: Choice, where: str
) -> dict[str, _Gathered]:
  """Rows by their split column; all as 'train' without one."""
  column = choice.split_column
  if not column or column not in read.frame:
    return {'train': read}
  cells = read.frame[column].astype(str).str.strip().str.lower()
  unknown = sorted(set(cells) - set(SPLIT_NAMES))
  if unknown:
    raise InputError(
      f'{where}: column {column!r} has {listed(unknown)}, not train, '
      "validation or test; correct it or set text.split_column=''"
    )
  splits = cells.map(SPLIT_NAMES)
  found = splits.unique()
  return {split: read.part(np.flatnonzero(splits == split)) for split in found}


def _build(
  name: str, where: str, read: Mapping[str, _Gathered], choice: Choice
) -> Texts:
  """`build`, of what was gathered."""
  parts = {}
  for split, own in read.items():
    here = where if len(read) == 1 else f'{where}: {split}'
    parts[split] = _checked(own, choice, here)
  if 'train' not in parts:
    raise InputError(f'{where}: no train rows; at least one is needed')
  draw = np.random.RandomState(choice.seed)
  if set(parts) == {'train'}:
    whole = parts['train']
    drawn = split_at_random(len(whole), choice, where)
    parts = {split: whole.part(index) for split, index in drawn.items()}
  if 'test' not in parts:
    parts['test'] = parts.pop('val')
  if 'val' not in parts:
    whole = parts['train']
    order = draw.permutation(len(whole))
    cut = -(-len(whole) // 5)
    for split, index in (('val', order[:cut]), ('train', order[cut:])):
      parts[split] = whole.part(index)
  rows = {}
  for split, most in zip(tables.SPLITS, choice.max_rows, strict=True):
    found = parts[split]
    if not len(found):
      raise InputError(f'{where}: no {split} rows; at least one is needed')
    if 0 < most < len(found):
      found = found.part(np.sort(draw.permutation(len(found))[:most]))
    rows[split] = found
  if choice.weight:
    weights = {
      split: own.weight for split, own in rows.items() if own.weight is not None
    }
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
    prompts.check_columns(frame, template, f'{path}')
  bad = prompts.is_empty(frame, prompt + second)
  if bad.any():
    raise InputError(
      f'{path}: empty text in {tables.located(bad)}; fill or remove these rows'
    )
  return TextRows(
    text=prompts.render(frame, prompt),
    target=None,
    second=prompts.render(frame, second) if second else None,
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


def _check_choice(where: str, frame: pd.DataFrame, choice: Choice) -> None:
  """Raises InputError for columns that there are not."""
  if choice.target not in frame:
    several = [name.strip() for name in choice.target.split(',')]
    if len(several) > 1 and set(several) <= set(frame):
      raise InputError(
        f'text.target={choice.target}: of a text one number is written, and '
        f'there are {len(several)} targets: name one'
      )
    raise tables.no_column(where, choice.target, list(frame))
  for prompt in filter(None, (choice.prompt, choice.second)):
    prompts.check_columns(frame, prompt, where)
    if choice.target in prompts.fields_of(prompt):
      raise InputError(
        f'text.prompt shows the target, {{{choice.target}}}: take it out'
      )
  if choice.rationale:  # That may be empty.
    prompts.check_columns(frame, choice.rationale, where, 'text.rationale')


def _checked(read: _Gathered, choice: Choice, where: str) -> TextRows:
  """Rows with their targets and weights; empty texts refused, or left out."""
  frame, weight = read.frame, None
  if choice.weight:
    frame, weight, where = weights_.counted(
      where, frame, choice.weight, (choice.target,), choice.reading
    )
  index = frame.index.to_numpy()
  bad = read.is_empty[index]
  if bad.any():
    if not choice.drop_empty:
      raise InputError(
        f'{where}: empty text in {tables.located(bad)}; fill them, or set '
        'text.drop_empty=True'
      )
    frame, index = frame[~bad], index[~bad]
    weight = weight if weight is None else weight[~bad]
  y = tables.target_column(
    f'{where}: target {choice.target!r}',
    frame[choice.target],
    choice.reading,
    non_finite=choice.non_finite,
  )
  whole = len(index) == len(read.is_empty)
  rows = read.rows if whole else read.rows.part(index)
  return dataclasses.replace(rows, target=y, weight=weight)


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
