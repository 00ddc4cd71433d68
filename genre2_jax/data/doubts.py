"""What looks like numbers or dates and is read as categories, in words.

Nothing is guessed: a column of "1,234" or "31/12/2019" stays a category, and
the user is told what would make it numbers.
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from genre2_jax.data import cells
from genre2_jax.data.cells import PLAIN, Cells, Formats
from genre2_jax.data.wording import counted, located
from genre2_jax.errors import shortened

# Cells that decide whether all of them are worth a look.
_SAMPLE = 1000
# Ways to write numbers that are tried, the likeliest first.
_WAYS = (
  {'thousands': ','},
  {'decimal': ','},
  {'decimal': ',', 'thousands': '.'},
  {'thousands': ' '},
  {'decimal': ',', 'thousands': ' '},
  {'thousands': "'"},
)
# Spellings of dates that are told from each other by trying.
_DAYS = (
  '%Y-%m-%d', '%d.%m.%Y', '%d/%m/%Y', '%m/%d/%Y', '%d-%m-%Y', '%m-%d-%Y',
  '%Y/%m/%d', '%Y.%m.%d', '%d.%m.%y', '%d/%m/%y', '%m/%d/%y', '%d %b %Y',
  '%d %B %Y', '%b %d, %Y', '%B %d, %Y', '%b %d %Y', '%d-%b-%Y', '%d-%b-%y',
  '%Y-%m', '%m/%Y', '%m.%Y',
)  # fmt: skip
_HOURS = ('', ' %H:%M', ' %H:%M:%S', ' %I:%M %p', 'T%H:%M:%S')
# Dates of digits alone, by how many they are.
_COMPACT = {
  6: '%Y%m', 8: '%Y%m%d', 12: '%Y%m%d%H%M', 14: '%Y%m%d%H%M%S',
}  # fmt: skip
_LIKE_A_DATE = re.compile(
  r'\d{4}-\d\d|\d\d[./]\d{4}|\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b.*'
  r'|\d{1,2}[ -][A-Za-z]{3,9}[ -]\d{2,4}.*'
  r'|[A-Za-z]{3,9} \d{1,2},? \d{4}.*'
)
# Digits and marks, no letters: a quantity or a date in some notation.
_DIGITS = re.compile(r'[\W\d]*\d[\W\d]*')
# 0x1f; 1_000; 1D3; 2020-W05; 2020Q1, Q1 2020; Jan-20; 1h 30m; PT1H; (1+2j).
_SPAN = (
  r'\d+(\.\d+)? ?(d|days?|h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)'
)
_NOTATION = re.compile(
  r'0x[\da-f]+|[+-]?\d{1,3}(_\d{3})+(\.\d+)?|[+-]?\d+(\.\d*)?d[+-]?\d+'
  r'|\d{4}-?W\d\d(-?\d)?|\d{4}[ -]?Q[1-4]|Q[1-4][ /-]?\d{4}'
  r'|[A-Z][a-z]{2,8}[ -]\d{2}(\d{2})?'
  rf'|{_SPAN}([ ,]*{_SPAN})+|\d+ days?,? \d\d:\d\d:\d\d(\.\d+)?'
  r'|P(?=.)(\d+[YMWD])*(T(\d+(\.\d+)?[HMS])+)?'
  r'|\(?[+-]?[\d.]+([+-][\d.]+)?j\)?',
  re.IGNORECASE,
)
_WORD = re.compile(r'[^\W\d_]{2,}')
# Of free text: words of most cells, and cells that differ.
_LEAST_WORDS = 4
_LEAST_TEXTS = 20
_WORDS = {' ': 'space', "'": 'apostrophe'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way(Formats):
  """A way to write numbers, and the unit beside them."""

  unit: str = ''

  @property
  def setting(self) -> str:
    """'data.reading="decimal=,"', what reads it; '' for plain numbers."""
    fields = [
      f'{field}={_WORDS.get(value, value)}'
      for field, value, default in (
        ('decimal', self.decimal, PLAIN.decimal),
        ('thousands', self.thousands, PLAIN.thousands),
      )
      if value != default
    ]
    return f'data.reading="{" ".join(fields)}"' if fields else ''


def of_column(
  name: str, column: pd.Series | Cells, formats: Formats = PLAIN
) -> str:
  """What to say of a column of categories; '' where it looks like no numbers.

  name: of the column, whose cells are at least half numbers, dates or times if
  there is something to say.
  """
  column = Cells.of(column)
  nested = [
    cell
    for cell in column.plain[column.texts.others]
    if isinstance(cell, list | tuple | dict | set | np.ndarray)
  ]
  if nested:
    return (
      f'column {name!r}: {len(nested)} cells are lists or objects such as '
      f'{shortened(nested[0])}: each is read as one label; give every element '
      'a column of its own'
    )
  found = column.labels
  rows = np.flatnonzero(~pd.isna(found))
  text = found[rows]
  if not len(text):
    return ''
  step = -(-len(text) // _SAMPLE)
  sample = list(text[::step])
  for doubt in _KINDS_OF_DOUBT:
    # Most columns of categories are done with after the sample.
    if doubt(name, sample, rows[::step], len(found), formats):
      if said := doubt(name, list(text), rows, len(found), formats):
        return f'column {name!r}: {said}'
  return ''


def way_to_read(text: Sequence[str], formats: Formats = PLAIN) -> str:
  """The setting that makes numbers of most of the text; '' if there is none."""
  way, num = _best_way(text, formats)
  if 2 * num <= len(text) or way.unit:
    return ''
  if (way.decimal, way.thousands) == (formats.decimal, formats.thousands):
    return ''
  if way.thousands == ',' and all(
    re.fullmatch(r'[+-]?\d{1,3},\d{3}', cell.strip()) for cell in text
  ):
    return f'{way.setting} (or "decimal=," if the commas are decimal ones)'
  return way.setting


def common_unit(text: Sequence[str]) -> str:
  """The unit of most of the text that is no plain number; '' without one."""
  units = [unit for cell in text if (unit := cells.unit_of(cell))]
  best = max(units, key=units.count, default='') if len(units) else ''
  return best if 2 * units.count(best) > len(text) else ''


def date_formats(text: Sequence[str]) -> tuple[list[str], int]:
  """The formats that read most of the text as dates, and how many they read."""
  series = pd.Series(list(text), dtype=object)
  sample = series[:: -(-len(series) // _SAMPLE) or 1]
  like = sample[[bool(_LIKE_A_DATE.fullmatch(cell)) for cell in sample]]
  if 2 * len(like) <= len(sample):
    return [], 0
  counts = {
    day + hour: _num_dates(like, day + hour) for day in _DAYS for hour in _HOURS
  }
  most = max(counts.values())
  best = [how for how, count in counts.items() if count == most > 0]
  counts = {how: _num_dates(series, how) for how in best}
  most = max(counts.values(), default=0)
  return [how for how, count in counts.items() if count == most], most


def compact_format(values: np.ndarray) -> str:
  """'%Y%m%d' of numbers [n] that are dates written as 20200131; '' of others.

  They are days of 1900 .. 2100, or moments of them, but for at most a tenth,
  which may be marks for "open"; of months, 202001, without any other.
  """
  values = values[np.isfinite(values)]
  # The first rows tell most columns.
  if not len(values) or not _are_moments(values[:256]):
    return ''
  if not _are_moments(values) or len(pd.unique(values)) < 3:
    return ''
  return _COMPACT[_num_digits(values)]


def of_points(text: Sequence[str], formats: Formats) -> str:
  """What to say of numbers as 1.250 and 850, whose points may be thousands'.

  A column of decimals has also other numbers of them, or a zero before them.
  """
  mark = re.escape(formats.decimal)
  pattern = re.compile(rf'[+-]?[1-9]\d{{0,2}}({mark}\d{{3}})?|0')
  if formats.thousands or not all(map(pattern.fullmatch, text)):
    return ''
  first = next((cell for cell in text if formats.decimal in cell), '')
  if not first:
    return ''
  other = ',' if formats.decimal == '.' else '.'
  way = Way(decimal=other, thousands=formats.decimal)
  whole = first.replace(formats.decimal, '')
  return (
    f'numbers such as {first!r} are read with three decimals; set '
    f'{way.setting} if it is {whole}'
  )


def of_compact(name: str, values: np.ndarray) -> str:
  """What to say of numbers [n] that are dates written as 20200131."""
  how = compact_format(values)
  if not how:
    return ''
  first = int(values[np.isfinite(values)][0])
  return (
    f'whole numbers such as {first} look like dates: read as numbers; set '
    f'{setting(name, f"date {how}")} to read them as dates'
  )


def _num_digits(values):
  return len(str(int(np.abs(np.median(values)))))


def _are_moments(values):
  digits = _num_digits(values)
  if digits not in _COMPACT:
    return False
  unit = 10.0 ** (digits - 4)
  good = (values >= 1900 * unit) & (values < 2101 * unit)
  good &= values == np.floor(values)
  moments = np.where(good, values, 0).astype(np.int64)
  moments *= 10 ** (14 - digits)
  moments += 10**6 * (digits == 6)  # The first of the month.
  seconds, minutes, hours, day, month = (
    moments // 100**place % 100 for place in range(5)
  )
  good &= (seconds < 60) & (minutes < 60) & (hours < 24)
  good &= (month >= 1) & (month <= 12) & (day >= 1)
  months = 12 * (moments // 10**10 - 1970) + month - 1
  begins, ends = (
    (months + more).astype('datetime64[M]').astype('datetime64[D]')
    for more in (0, 1)
  )
  good &= day <= (ends - begins).astype(np.int64)
  return bool(good.all() if digits == 6 else good.mean() > 0.9)


def setting(name: str, kind: str) -> str:
  """'data.kinds="size=number"', which reads a column as a kind."""
  if not re.fullmatch(r'\w+', name):
    return f'data.kinds="{{{name!r}: {kind!r}}}"'
  kind = f"'{kind}'" if ' ' in kind else kind
  return f'data.kinds="{name}={kind}"'


def _num_dates(series: pd.Series, how: str) -> int:
  times = pd.to_datetime(series, format=how, errors='coerce')
  return int(times.notna().sum())


def _best_way(text: Sequence[str], formats: Formats) -> tuple[Way, int]:
  """The way that makes most of the text numbers, and how many of it."""
  series = pd.Series([cell.strip() for cell in text], dtype=object)
  gaps = series.isin(cells.GAPS).to_numpy(bool)
  given = {'decimal': formats.decimal, 'thousands': formats.thousands}
  best = Way(**given), 0
  for unit in dict.fromkeys(('', common_unit(text))):
    for fields in (given, {}, *_WAYS):
      way = Way(unit=unit, **fields)
      _, bad = cells.text_numbers(series, way, unit)
      num = int((~bad & ~gaps).sum())
      if num > best[1]:
        best = way, num
  return best


def _share(num: int, text: Sequence[str]) -> str:
  return f'all {num}' if num == len(text) else f'{num} of {len(text)}'


def _plain_numbers(
  name: str, text: Sequence[str], rows: np.ndarray, n: int, formats: Formats
) -> str:
  series = pd.Series(text, dtype=object)
  _, bad = cells.text_numbers(series, formats)
  num = len(text) - int(bad.sum())
  if 2 * num <= len(text):
    return ''
  if not bad.any():
    codes = sum(map(cells.is_code, text))
    if not codes:
      return ''
    return (
      f'{codes} of {len(text)} cells are numbers with leading zeros: read as '
      f'categories; set {setting(name, "number")} if they are quantities'
    )
  where = np.zeros(n, bool)
  where[rows[bad]] = True
  others = list(series[bad])
  hint = way_to_read(others, formats)
  hint = f', or set {hint}' if hint else ''
  return (
    f'{num} of {len(text)} cells are numbers, but not {counted(others)} in '
    f'{located(where)}: read as categories; correct these cells{hint}, or set '
    f'{setting(name, "number")} to read them as missing'
  )


def _written_numbers(
  name: str, text: Sequence[str], rows: np.ndarray, n: int, formats: Formats
) -> str:
  way, num = _best_way(text, formats)
  if 2 * num <= len(text):
    return ''
  hint = way.setting if way.unit else way_to_read(text, formats)
  needs_kind = way.unit or num < len(text) or not hint
  by_hand = setting(name, 'number') if needs_kind else ''
  unit = f' with {way.unit!r}' if way.unit else ''
  return (
    f'{_share(num, text)} cells are numbers{unit} such as '
    f'{shortened(text[0])!r}: read as categories; set '
    f'{" and ".join(filter(None, (hint, by_hand)))} to read them as numbers'
  )


def _dates(
  name: str, text: Sequence[str], rows: np.ndarray, n: int, formats: Formats
) -> str:
  found, num = date_formats(text)
  if 2 * num <= len(text):
    return ''
  settings = ' or '.join(
    setting(name, 'date' if how == '%Y-%m-%d' else f'date {how}')
    for how in found[:3]
  )
  order = ' (day or month first?)' if len(found) > 1 else ''
  return (
    f'{_share(num, text)} cells are dates such as {text[0]!r}{order}: read as '
    f'categories; set {settings} to read them as dates'
  )


def _times(
  name: str, text: Sequence[str], rows: np.ndarray, n: int, formats: Formats
) -> str:
  num = sum(bool(cells.CLOCK.fullmatch(cell)) for cell in text)
  if 2 * num <= len(text):
    return ''
  return (
    f'{_share(num, text)} cells are times such as {text[0]!r}: read as '
    f'categories; set {setting(name, "time")} to read them as numbers of '
    'seconds'
  )


def _units(
  name: str, text: Sequence[str], rows: np.ndarray, n: int, formats: Formats
) -> str:
  units = collections.Counter(filter(None, map(cells.unit_of, text)))
  num = units.total()
  # A unit of every other cell, a letter of a code.
  if 2 * num <= len(text) or not 2 <= len(units) <= min(8, num // 3):
    return ''
  return (
    f'{_share(num, text)} cells are numbers with different units, '
    f'{counted(units)}: read as categories; write them all in one unit, or set '
    f'{setting(name, "category")} if they are labels'
  )


def _notations(
  name: str, text: Sequence[str], rows: np.ndarray, n: int, formats: Formats
) -> str:
  num = sum(bool(_NOTATION.fullmatch(cell)) for cell in text)
  if 2 * num <= len(text):
    return ''
  return (
    f'{_share(num, text)} cells are numbers, dates or durations in a notation '
    f'that is not read, such as {shortened(text[0])!r}: read as categories; '
    f'write them as plain numbers or ISO dates, or set '
    f'{setting(name, "category")} if they are labels'
  )


def _free_text(
  name: str, text: Sequence[str], rows: np.ndarray, n: int, formats: Formats
) -> str:
  """Sentences: most cells differ, and have several words of letters."""
  distinct = len(set(text))
  if distinct < _LEAST_TEXTS or 2 * distinct <= len(text):
    return ''
  num = sum(len(_WORD.findall(cell)) >= _LEAST_WORDS for cell in text)
  if 2 * num <= len(text):
    return ''
  shown = repr(name) if re.search(r'\W', name) else name
  return (
    f'{distinct} of {len(text)} cells are different texts such as '
    f'{shortened(text[0])!r}: read as categories, a label each; set '
    f'data.text_columns={shown} and data.text_encoder to the folder of a '
    f'sentence encoder to read them, or {setting(name, "ignore")}'
  )


def _digits(
  name: str, text: Sequence[str], rows: np.ndarray, n: int, formats: Formats
) -> str:
  num = sum(bool(_DIGITS.fullmatch(cell)) for cell in text)
  if 2 * num <= len(text) or 5 * len(set(text)) < len(text):
    return ''
  return (
    f'{_share(num, text)} cells are digits and marks such as '
    f'{shortened(text[0])!r}, which are read as categories, not as numbers or '
    f'dates: write them all in one plain way, or set '
    f'{setting(name, "category")} if they are labels'
  )


# (name, text of the present cells, their rows [len(text)], number of all rows,
# formats) -> what is to be said, or ''. The first that says something is heard.
_KINDS_OF_DOUBT = (
  _plain_numbers, _units, _written_numbers, _dates, _times, _notations, _digits,
  _free_text,
)  # fmt: skip
