"""Columns of a frame by their kinds, as numbers and as labels."""

import ast
import datetime
import decimal
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from genre2_jax.data import cells, doubts
from genre2_jax.data.cells import PARTS, PLAIN, Cells, Formats
from genre2_jax.data.wording import counted, located, say
from genre2_jax.errors import InputError, listed, shortened, suggestion

# Kinds that a user can give a column; 'ignore' leaves it out.
BY_HAND = ('number', 'date', 'time', 'boolean', 'category', 'ignore')
_PLURALS = {
  'number': 'numbers',
  'date': 'dates',
  'datetime': 'dates',
  'time': 'times',
  'boolean': 'booleans',
}
_TYPES = (
  (str, 'text'),
  ((datetime.date, np.datetime64), 'dates'),
  ((datetime.time, datetime.timedelta, np.timedelta64), 'times'),
  ((bool, np.bool_), 'booleans'),
  ((int, float, decimal.Decimal, np.number), 'numbers'),
)
# Kind of a column of free text, and of the numbers that are made of one.
TEXT = 'text'
_PART_NAMES = frozenset(part for parts in PARTS.values() for part in parts)
_SIGNIFICANT = re.compile('[1-9]')
# Whole numbers up to here are all float64.
_EXACT = 2**53


class Column(NamedTuple):
  """A column of a frame: name, numbers or categories, and its kind.

  kind: as in `cells`, or 'ignore'; '' of runs that did not keep it yet.
  """

  name: str
  is_numeric: bool
  kind: str = ''


def parse_kinds(text: str | Mapping[str, str] | None) -> dict[str, str]:
  """{column: kind} of 'size=number,zip=category' or of a dict, also as text.

  Raises InputError.
  """
  if not text:
    return {}
  if isinstance(text, Mapping):
    kinds = dict(text)
  elif text.strip().startswith('{'):
    try:
      kinds = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError) as error:
      raise InputError(f'data.kinds={text!r}: {_HOW_KINDS}') from error
  else:
    kinds = dict(pairs('data.kinds', text, _HOW_KINDS, ', '))
  if not isinstance(kinds, dict):
    raise InputError(f'data.kinds={text!r}: {_HOW_KINDS}')
  for name, kind in kinds.items():
    base = kind.partition(' ')[0] if isinstance(kind, str) else kind
    if not isinstance(name, str) or base not in BY_HAND:
      raise InputError(
        f'data.kinds: {name!r} is {kind!r}, which is not one of '
        f"{', '.join(BY_HAND)} ('date %d.%m.%Y' with its format)"
      )
  return kinds


def parse_names(field: str, text: str | Sequence[str]) -> tuple[str, ...]:
  """Names of 'a,b', or of a list, also as text: "['a, b', 'c']".

  Raises InputError.
  """
  if isinstance(text, str) and text.strip().startswith(('[', '(')):
    try:
      text = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError) as error:
      raise InputError(
        f'{field}={text!r}: write "a,b", or a list, ["a", "b"]'
      ) from error
  if isinstance(text, str):
    text = [name.strip() for name in text.split(',') if name.strip()]
  names = tuple(text)
  if not all(isinstance(name, str) for name in names):
    raise InputError(f'{field}={names!r}: give names of columns')
  return tuple(dict.fromkeys(names))


def target_names(target: str, names: Sequence[str]) -> tuple[str, ...]:
  """The columns that a target names: one, or several as 'a,b'.

  Raises InputError.
  """
  if target in names or not target:
    return (target,)
  return parse_names('data.target', target)


def with_texts(
  kinds: Mapping[str, str], text_columns: Sequence[str]
) -> dict[str, str]:
  """Kinds of columns, those of free text among them.

  Raises InputError for a column that is given another kind, too.
  """
  twice = [name for name in text_columns if name in kinds]
  if twice:
    raise InputError(
      f'{twice[0]!r} is in data.text_columns and has the kind '
      f'{kinds[twice[0]]!r} in data.kinds: leave it out of either'
    )
  return {**kinds, **dict.fromkeys(text_columns, TEXT)}


_HOW_KINDS = (
  'write "size=number,zip=category", or a dict, '
  "{'size': 'number', 'zip': 'category'}"
)


def pairs(
  field: str, text: str, how: str, blanks: str
) -> Iterator[tuple[str, str]]:
  """(name, value) of 'name=value' words, of which quotes may hold blanks.

  Raises InputError, which names the field and how to write it.
  """
  words = shlex.shlex(text, posix=True)
  words.whitespace, words.whitespace_split = blanks, True
  words.commenters, words.escape = '', ''
  try:
    for word in words:
      name, equals, value = word.rpartition('=')
      if not equals or not name:
        raise ValueError(f'{word!r} has no name and value')
      yield name, value
  except ValueError as error:
    raise InputError(f'{field}={text!r}: {error}; {how}') from error


def check_kinds(
  where: str, kinds: Mapping[str, str], names: Sequence[str]
) -> None:
  """Raises InputError for a kind of a column that there is not."""
  for name, kind in kinds.items():
    if name not in names:
      field = 'data.text_columns' if kind == TEXT else 'data.kinds'
      raise InputError(
        f'{where}: {field} names {name!r}, which is no column; '
        f'{suggestion(name, list(names))}'
      )


def plan(
  frame: pd.DataFrame,
  kinds: Mapping[str, str],
  formats: Formats = PLAIN,
  *,
  where: str,
  booleans_are_numbers: bool = False,
) -> list[Column]:
  """The columns of training rows; what is doubtful about them is said.

  Args:
    frame: names are unique and text.
    kinds: of columns that the user chose.
    formats: of text.
    where: begins every message.
    booleans_are_numbers: 1 and 0 of typed ones, instead of labels.

  Raises:
    InputError: cells that are not of the kind that the user chose.
  """
  columns, said = [], []
  for name in frame:
    kind = kinds.get(name, '')
    if kind in ('ignore', TEXT):
      columns.append(Column(name, False, kind))
      continue
    seen = Cells(frame[name])
    column = column_of(
      name,
      seen,
      kind,
      formats,
      where=where,
      booleans_are_numbers=booleans_are_numbers,
    )
    columns.append(column)
    said += _doubts(column, seen, kind, formats)
  _say_some(where, said)
  return columns


def read(
  parts: dict[str, pd.Series],
  kinds: Mapping[str, str],
  formats: Formats = PLAIN,
  *,
  num_rows: int,
  where: str,
) -> tuple[list[Column], np.ndarray, np.ndarray]:
  """`plan`, and `arrays` of it: each column is looked at once, then let go.

  Args:
    parts: {name: column [n]}, left without those that were read: text takes
      many times the room of its numbers.
    kinds: of columns that the user chose.
    formats: of text.
    num_rows: n.
    where: begins every message.

  Returns:
    (columns, numbers float64 [n, F_num], labels object [n, F_cat]).

  Raises:
    InputError: as `plan` and `arrays`.
  """
  columns, said = [], []
  found: dict[str, np.ndarray] = {}
  for name in list(parts):
    kind = kinds.get(name, '')
    if kind in ('ignore', TEXT):
      columns.append(Column(name, False, kind))
      continue
    seen = Cells(parts.pop(name))
    column = column_of(name, seen, kind, formats, where=where)
    columns.append(column)
    said += _doubts(column, seen, kind, formats)
    by_hand = name in kinds
    found[name] = _content(column, seen, formats, where, by_hand=by_hand)
  _say_some(where, said)
  return columns, *_joined(columns, found, num_rows)


def _doubts(
  column: Column, seen: Cells, by_hand: str, formats: Formats
) -> list[str]:
  """What is to be said of a column of training rows."""
  doubt = '' if by_hand else _doubt(column, seen, formats)
  return [doubt, _lost(column, seen, formats)]


def _say_some(where: str, said: Sequence[str]) -> None:
  said = list(filter(None, said))
  for message in said[:8]:
    say(f'{where}: {message}')
  if len(said) > 8:
    say(f'{where}: {len(said) - 8} more columns are as doubtful as these')


def column_of(
  name: str,
  column: pd.Series | Cells,
  kind: str = '',
  formats: Formats = PLAIN,
  *,
  where: str = '',
  booleans_are_numbers: bool = False,
) -> Column:
  """A column with the kind of its cells, or with the one given by hand."""
  here = f'{where}: column {name!r}' if where else f'column {name!r}'
  column = Cells.of(column)
  if kind:
    kind = _completed(here, name, column, kind, formats)
  else:
    kind = cells.kind_of(column, formats)
  is_numeric = kind != 'category'
  if kind == 'boolean':
    is_numeric = booleans_are_numbers and not (
      column.has_text and len(column.texts.distinct)
    )
  return Column(name, is_numeric, kind)


def _completed(
  here: str, name: str, column: Cells, kind: str, formats: Formats
) -> str:
  """A kind by hand, with the unit or the format that its text turns out."""
  base, _, how = kind.partition(' ')
  if base not in ('number', 'date'):
    return kind
  bad = cells.read(column, base, formats)[1]
  if not how and 2 * bad.sum() > np.sum(~column.missing):
    texts = column.texts
    text = list(texts.spread(texts.distinct))
    if base == 'number':
      how = doubts.common_unit(text)
    elif not formats.date_format:
      how = _compact(column, formats) or _one_format(here, name, text)
    kind = f'{base} {how}' if how else base
  if base != 'date':
    return kind
  return cells.with_hours(kind, cells.read(column, kind, formats)[0])


def _one_format(here: str, name: str, text: Sequence[str]) -> str:
  """The one format of dates that reads most of the text; '' if none does."""
  found = doubts.date_formats(text)[0] if len(text) else []
  if len(found) > 1:
    settings = ' or '.join(
      doubts.setting(name, f'date {how}') for how in found[:3]
    )
    raise InputError(
      f'{here}: dates such as {text[0]!r} have the day or the month first: '
      f'set {settings}'
    )
  return found[0] if found else ''


def _compact(column: Cells, formats: Formats) -> str:
  """The format of numbers that are dates, as 20200131; '' if they are none."""
  return doubts.compact_format(cells.read(column, 'number', formats)[0])


def _doubt(column: Column, seen: Cells, formats: Formats) -> str:
  """What is to be said of how a column was read; '' if nothing."""
  name, dtype = column.name, seen.column.dtype
  if column.kind == 'category':
    if isinstance(dtype, pd.CategoricalDtype):
      return ''
    return doubts.of_column(name, seen, formats)
  if column.kind != 'number' or dtype.kind == 'b':
    return ''
  values = cells.read(seen, 'number', formats)[0]
  if lost := distinct_lost(seen, values):
    return (
      f'column {name!r}: {lost[0]} different numbers are {lost[1]} in '
      'float64: if they are identifiers, set '
      f'{doubts.setting(name, "category")} or "ignore"'
    )
  if _counts_rows(name, values):
    return (
      f'column {name!r}: has no name and counts the rows, but is read as a '
      f'feature; set {doubts.setting(name, "ignore")} to leave it out'
    )
  said = doubts.of_compact(name, values)
  if not said and seen.has_text:
    said = doubts.of_points(list(seen.texts.distinct), formats)
  return f'column {name!r}: {said}' if said else ''


def _lost(column: Column, seen: Cells, formats: Formats) -> str:
  """What is to be said of cells that are something and count as missing."""
  base = column.kind.partition(' ')[0]
  said = []
  if seen.has_text:
    texts = seen.texts
    gaps = dict(texts.errors)
    if column.is_numeric:
      is_gap = texts.distinct.isin(cells.GAPS).to_numpy(bool)
      gaps |= dict(
        zip(texts.distinct[is_gap], texts.counts[is_gap], strict=True)
      )
    if gaps:
      among = _PLURALS.get(base, 'labels')
      said.append(f'{counted(gaps)} among {among} are read as missing')
  if base == 'number' and seen.column.dtype.kind not in 'biu':
    values = cells.read(seen, column.kind, formats)[0]
    infinite = np.isinf(values)
    if infinite.any():
      first = shortened(repr(seen.plain[infinite.argmax()]))
      said.append(
        f'{first} in {located(infinite)}: infinite in float64, which counts as '
        'missing'
      )
    if seen.has_text and not values.all():
      texts = seen.texts
      zeros = values[texts.where] == 0
      tiny = [
        text
        for text in texts.distinct[np.unique(texts.codes[zeros])]
        if _SIGNIFICANT.search(text.lower().partition('e')[0])
      ]
      if tiny:
        said.append(f'{listed(tiny, 3)} are too small for float64: read as 0')
  if not said:
    return ''
  return f'column {column.name!r}: {"; ".join(said)}'


def say_of_target(where: str, name: str, values: np.ndarray) -> None:
  """Says what is doubtful of a target's values [n]."""
  if said := doubts.of_compact(name, values):
    say(f'{where}: target {name!r}: {said}')


def say_index(where: str, frame: pd.DataFrame, how: str) -> None:
  """Says that the index of a frame, which is no feature, is not used.

  An index of whole numbers without a name counts the rows, shuffled or not.

  Args:
    where: begins the message.
    frame: of any index.
    how: what makes a column of it, to end the message.
  """
  index = frame.index
  names = [
    '' if name is None else str(name)
    for name in index.names
    if name is None or str(name) not in frame
  ]
  counts = index.nlevels == 1 and index.dtype.kind in 'iu'
  if any(names) or (names and not counts):
    first = index[0] if index.nlevels == 1 else ', '.join(map(str, index[0]))
    called = ''.join(f' {name!r}' for name in names if name)
    say(
      f'{where}: the index{called} of the frame, such as {shortened(first)!r}, '
      f'is not used as a feature; {how}'
    )


def say_order(where: str, rows: pd.Index, targets: pd.Index) -> None:
  """Says that two indices name the same rows in another order."""
  if len(rows) != len(targets) or rows.equals(targets):
    return
  if rows.is_unique and targets.is_unique and rows.isin(targets).all():
    say(
      f'{where}: the index of X is that of y in another order, but rows belong '
      'together by their place: give y.loc[X.index] if they do not'
    )


def _counts_rows(name: str, values: np.ndarray) -> bool:
  if not name.startswith(('column_', 'Unnamed: ')):
    return False
  steps = np.diff(values[np.isfinite(values)])
  return 1 < len(steps) == len(values) - 1 and bool((steps == 1).all())


def distinct_lost(
  series: pd.Series | Cells, values: np.ndarray
) -> tuple[int, int] | None:
  """(distinct numbers, distinct float64 of them) where the two differ."""
  seen = Cells.of(series)
  kind = seen.column.dtype.kind
  if kind in 'fbmM':
    return None
  finite = np.isfinite(values)
  if kind in 'iu' and (np.abs(values[finite]) < _EXACT).all():
    return None
  texts = seen.texts
  of_text = np.full(len(texts.distinct), np.nan)
  of_text[texts.codes] = values[texts.where]
  is_number = np.isfinite(of_text)
  others = texts.others & finite
  codes, cells_ = pd.factorize(seen.plain[others])
  of_others = np.empty(len(cells_))
  of_others[codes] = values[others]
  numbers = pd.Series([*of_text[is_number], *of_others], dtype=np.float64)
  shared = numbers.duplicated(keep=False).to_numpy()
  if not shared.any():
    return None
  # Only what has its float64 in common can have lost something: exact numbers
  # of them all would take as long as the rest of reading.
  raw = np.array([*texts.distinct[is_number], *cells_], object)
  exact = {_exact(cell) for cell in raw[shared]} - {None}
  lost = len(exact) - numbers[shared].nunique()
  kept = numbers.nunique()
  return (kept + lost, kept) if lost > 0 else None


def _exact(cell):
  """A number without rounding; None for what is written in another way."""
  try:
    if isinstance(cell, float | np.floating):
      return decimal.Decimal(float(cell))
    if isinstance(cell, int | np.integer):
      return decimal.Decimal(int(cell))
    if isinstance(cell, str):
      return decimal.Decimal(cell.strip())
    return cell if isinstance(cell, decimal.Decimal) else None
  except decimal.InvalidOperation:
    return None


# -------------------------------------------------------------------- reading


def numeric_columns(columns: Sequence[Column]) -> list[Column]:
  """The numeric columns, behind every date its month, weekday and hour.

  A part is named as 'sold.month', unless a column has that name.
  """
  taken = {column.name for column in columns}
  out = []
  for column in columns:
    if column.is_numeric:
      out.append(column)
      for part in PARTS.get(column.kind.partition(' ')[0], ()):
        if f'{column.name}.{part}' not in taken:
          out.append(Column(f'{column.name}.{part}', True, part))
  return out


def category_columns(columns: Sequence[Column]) -> list[Column]:
  """The columns of categories."""
  return [
    c for c in columns if not c.is_numeric and c.kind not in ('ignore', TEXT)
  ]


def text_names(columns: Sequence[Column]) -> list[str]:
  """Names of the columns of free text."""
  return [column.name for column in columns if column.kind == TEXT]


def texts(frame: pd.DataFrame, columns: Sequence[Column]) -> list[np.ndarray]:
  """[the text, [n, T] object of str] of a frame; [] without columns of text.

  None where a cell is missing or blank.
  """
  names = text_names(columns)
  if not names:
    return []
  found = np.empty((len(frame), len(names)), object)
  for place, name in enumerate(names):
    text = [
      None if cell is None else cells.text_of(cell)
      for cell in cells.plain(frame[name])
    ]
    found[:, place] = [cell if cell and cell.strip() else None for cell in text]
  return [found]


def text_of_part(name: str) -> str:
  """'review.3' -> 'review': whose number it is."""
  return name.rpartition('.')[0]


def of_features(
  numeric_names: Sequence[str],
  category_names: Sequence[str],
  kinds: Sequence[str] = (),
) -> list[Column]:
  """The columns of a frame that features were made of.

  kinds: of all of them, numeric first; () if they were not kept.
  """
  names = (*numeric_names, *category_names)
  kinds = kinds or ('',) * len(names)
  found = [
    Column(text_of_part(name), False, kind)
    if kind == TEXT
    else Column(name, place < len(numeric_names), kind)
    for place, (name, kind) in enumerate(zip(names, kinds, strict=True))
    if kind not in _PART_NAMES
  ]
  return list(dict.fromkeys(found))


def arrays(
  frame: pd.DataFrame,
  columns: Sequence[Column],
  formats: Formats = PLAIN,
  *,
  where: str,
  by_hand: Mapping[str, str] | None = None,
  are_new: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers float64 [n, F_num] and labels object [n, F_cat] of a frame.

  Args:
    frame: with the columns, by name.
    columns: as `plan` found them.
    formats: of text.
    where: begins every message.
    by_hand: columns whose cells of another kind are missing, not refused.
    are_new: rows that `plan` has not seen: what counts as missing is said.

  Raises:
    InputError: cells of another kind than the column's.
  """
  said = []
  found: dict[str, np.ndarray] = {}
  for column in columns:
    name = column.name
    if column.kind in ('ignore', TEXT):
      continue
    seen = Cells(frame[name])
    is_by_hand = name in (by_hand or {})
    found[name] = _content(column, seen, formats, where, by_hand=is_by_hand)
    if are_new:
      said.append(_lost(column, seen, formats))
  _say_some(where, said)
  return _joined(columns, found, len(frame))


def _content(
  column: Column, seen: Cells, formats: Formats, where: str, *, by_hand: bool
) -> np.ndarray:
  """A column's numbers float64 [n], or its labels object [n]."""
  if not column.is_numeric:
    return cells.labels_of(seen, column.kind)
  here = f'{where}: column {column.name!r}'
  return read_as(here, seen, column.kind, formats, by_hand=by_hand)


def _joined(
  columns: Sequence[Column], found: Mapping[str, np.ndarray], n: int
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers [n, F_num], parts of dates among them, and labels [n, F_cat]."""
  numbers = numeric_columns(columns)
  numeric = np.empty((n, len(numbers)))
  for place, column in enumerate(numbers):
    if column.kind in _PART_NAMES:
      source = column.name.removesuffix(f'.{column.kind}')
      numeric[:, place] = cells.parts_of(found[source], column.kind)
    else:
      numeric[:, place] = found[column.name]
  labels = category_columns(columns)
  categories = np.empty((n, len(labels)), object)
  for place, column in enumerate(labels):
    categories[:, place] = found[column.name]
  return numeric, categories


def read_as(
  where: str,
  column: pd.Series | Cells,
  kind: str = '',
  formats: Formats = PLAIN,
  *,
  by_hand: bool = False,
  rows: np.ndarray | None = None,
) -> np.ndarray:
  """Values float64 [n] of a column of a kind, NaN where missing.

  Dates that nanoseconds since 1970 cannot hold are missing, and said to be.

  Args:
    where: begins every message.
    column: of any dtype.
    kind: of numbers, as in `cells`; '' takes that of the cells.
    formats: of text.
    by_hand: cells of another kind are missing, and said, not refused, if they
      are at most half of those present.
    rows: int [n], of the cells, to count them by; None: each has its own.

  Raises:
    InputError: cells of another kind.
  """
  column = Cells.of(column)
  if not kind:
    kind = cells.kind_of(column, formats)
    if kind in ('category', 'boolean'):
      kind = 'number'
  values, bad = cells.read(column, kind, formats)
  if kind.partition(' ')[0] in PARTS:
    beyond = cells.is_beyond(values)
    if beyond.any():
      first = shortened(column.plain[beyond.argmax()])
      say(
        f'{where}: dates before 1678 or after 2262 in {located(beyond)}, such '
        f'as {first!r}: read as missing'
      )
      values = np.where(beyond, np.nan, values)
  if not bad.any():
    return values
  found = column.plain
  num_present = np.sum(~column.missing)
  if by_hand and 2 * bad.sum() <= num_present:
    say(
      f'{where}: {counted(map(str, found[bad]))} in {located(bad)} are no '
      f'{_PLURALS[kind.partition(" ")[0]]}: read as missing'
    )
    return np.where(bad, np.nan, values)
  raise InputError(_refusal(where, found, bad, kind, formats, rows))


def _refusal(
  where: str,
  found: np.ndarray,
  bad: np.ndarray,
  kind: str,
  formats: Formats,
  rows: np.ndarray | None,
) -> str:
  base, _, how = kind.partition(' ')
  in_rows = bad
  if rows is not None:
    in_rows = np.zeros(rows.max() + 1, bool)
    in_rows[rows[bad]] = True
  first = found[bad.argmax()]
  what = next((name for t, name in _TYPES if isinstance(first, t)), 'objects')
  mend = 'correct or clear these cells'
  if base == 'number' and how:
    mend = f'the training cells carry {how!r}: write it in these, too'
  elif base == 'number':
    text = [cell for cell in found[bad] if isinstance(cell, str)]
    if hint := doubts.way_to_read(text, formats) if text else '':
      mend += f', or set {hint}'
    elif unit := doubts.common_unit(text):
      mend += f", or give the column the kind 'number' by hand for {unit!r}"
  elif base in PARTS:
    mend = f'write dates as {how or formats.date_format or "2020-12-31"}'
  elif base == 'time':
    mend = 'write times as 10:30:00'
  elif base == 'boolean':
    mend = 'write True and False, or 1 and 0'
  return (
    f'{where}: {what} instead of {_PLURALS[base]} in {located(in_rows)}, such '
    f'as {shortened(first)!r}; {mend}'
  )
