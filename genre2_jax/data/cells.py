"""What a cell means: a number, a date, a time, a boolean, or a label.

A column has one kind. It is found once, on the training rows, kept with the
run, and rows to predict are read as it says:

  number      float64; 'number €' where every cell carries that unit
  date        seconds since 1970, UTC; 'date %d.%m.%Y' where text is no ISO date
  datetime    the same, where one of them has an hour
  time        seconds, of durations or since midnight
  boolean     1 and 0 among numbers, 'True' and 'False' among categories
  category    a label

Typed cells (int, numpy.bool_, Decimal, Timestamp, ...) and their text mean the
same. docs/reading_data.md is the user's page of this.
"""

import dataclasses
import datetime
import decimal
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

# A spreadsheet's errors: no value, but where one was meant.
ERRORS = frozenset(
  '#N/A #DIV/0! #VALUE! #REF! #NAME? #NUM! #NULL! #NV #WERT! #BEZUG!'.split()
)
# Spellings of "no value", in every source alike: 'nan', 'None', 'NaT' and
# '<NA>' are what Python makes of missing values as text, '?' is ARFF's mark.
MISSING = (
  frozenset('? NA N/A n/a <NA> NULL null None NaN nan -nan NaT'.split())
  | {''}
  | ERRORS
)
# No value among numbers and dates, but maybe a label among labels.
GAPS = frozenset(
  ('-', '--', '---', '\N{EN DASH}', '\N{EM DASH}', '.', '..', 'n.a.', 'N.A.')
)

KINDS = ('number', 'date', 'datetime', 'time', 'boolean', 'category')
# What a date also gives, each a numeric column of its own.
PARTS = {'date': ('month', 'weekday'), 'datetime': ('month', 'weekday', 'hour')}

# What nanoseconds since 1970 can hold: dates beyond are marks for "none" or
# "open", and would leave no difference between the others.
_FIRST_SECOND, _LAST_SECOND = -9223372036.0, 9223372036.0
_EPOCH = datetime.datetime(1970, 1, 1)
_DAY = 86400.0

_ISO_DATE = re.compile(r'\d{4}-\d\d-\d\d')
_MOMENT = re.compile(
  r'\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?'
)
CLOCK = re.compile(r'-?\d{1,3}:\d\d(:\d\d(\.\d+)?)?')
_CODE = re.compile(r'[+-]?0\d+')
_SOME_CODE = re.compile(r'^[+-]?0\d+$', re.MULTILINE)
_WHOLE = re.compile(r'([+-]?)((?:0|[1-9]\d*))\.0+')
_UNITS_BEFORE = r'(?:[€$£¥₹]|EUR|USD|GBP|CHF|JPY)'
_UNIT_AFTER = r'[^\d\s.,+-][^\d\s,+-]{0,5}'
_WITH_UNIT = re.compile(
  rf'(?P<sign>[+-]?)(?:(?P<before>{_UNITS_BEFORE})[ \u00a0]?(?P<a>[+-]?[\d.,]'
  rf"[\d.,' \u00a0\u202f]*?)|(?P<b>[\d.,][\d.,' \u00a0\u202f]*?)"
  rf'[ \u00a0\u202f]?(?P<after>{_UNIT_AFTER}))'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Formats:
  """How text writes numbers and dates.

  decimal: the mark before the decimals.
  thousands: the mark between groups of three digits; '': there is none.
  date_format: of dates that are not ISO's, as in '%d.%m.%Y %H:%M'.
  """

  decimal: str = '.'
  thousands: str = ''
  date_format: str = ''


PLAIN = Formats()


# --------------------------------------------------------------------- labels


def label(cell: Any) -> str | None:
  """The one spelling of a value, whatever it came in; None if missing.

  1, 1.0, Decimal('1.00'), '1' and '1.0' are '1'; True, numpy.True_ and 'true'
  are 'True'; a date and its midnight are '2020-12-31'. Blanks around text are
  no part of it; '007' stays as it is.
  """
  if isinstance(cell, bytes):
    cell = cell.decode('utf-8', 'replace')
  if isinstance(cell, str):
    return _text_label(cell.strip())
  if isinstance(cell, bool | np.bool_):
    return str(bool(cell))
  if isinstance(cell, float | np.floating):
    if np.isnan(cell):
      return None
    return str(int(cell)) if float(cell).is_integer() else str(cell)
  if isinstance(cell, decimal.Decimal):
    if cell.is_nan():
      return None
    whole = cell.is_finite() and cell == cell.to_integral_value()
    return str(int(cell)) if whole else format(cell.normalize(), 'f')
  if isinstance(cell, np.datetime64):
    cell = cell.astype('datetime64[us]').item()
  if cell is None or cell is pd.NA or cell is pd.NaT or cell is np.ma.masked:
    return None
  if isinstance(cell, datetime.datetime):
    return _moment_label(cell)
  if isinstance(cell, datetime.date | datetime.time):
    return cell.isoformat()
  return _text_label(str(cell))


def _text_label(text: str) -> str | None:
  if text in MISSING:
    return None
  if text.lower() in ('true', 'false'):
    return text.capitalize()
  if whole := _WHOLE.fullmatch(text):
    sign, digits = whole.groups()
    return digits if sign != '-' or digits == '0' else f'-{digits}'
  if _MOMENT.fullmatch(text):
    try:
      return _moment_label(datetime.datetime.fromisoformat(text))
    except ValueError:
      return text
  return text


def _moment_label(moment: datetime.datetime) -> str:
  if moment.tzinfo is not None:
    moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
  text = moment.isoformat(sep=' ')
  return text.removesuffix(' 00:00:00')


def unmasked(cells: np.ndarray) -> np.ndarray:
  """Cells [...] with missing ones where a numpy.ma array masks them."""
  if not isinstance(cells, np.ma.MaskedArray):
    return cells
  if cells.dtype.kind in 'biuf':
    return np.ma.filled(cells.astype(np.float64), np.nan)
  out = np.array(cells.data, object)
  out[np.ma.getmaskarray(cells)] = None
  return out


def labels(cells: np.ndarray) -> np.ndarray:
  """`label` of every cell: an object array of the same shape."""
  flat = _shortest(unmasked(cells)).ravel()
  return _labels(flat, texts_of(flat)).reshape(cells.shape)


def _labels(flat: np.ndarray, texts: 'Texts') -> np.ndarray:
  out = np.full(flat.shape, None, object)
  out[texts.where] = texts.spread(texts.each(_text_label))
  known: dict = {}
  for place in np.flatnonzero(texts.others):
    cell = flat[place]
    try:
      # With the type: 1, 1.0 and True are one key.
      key = (type(cell), cell)
      if key not in known:
        known[key] = label(cell)
      out[place] = known[key]
    except TypeError:  # no key: a list, say
      out[place] = label(cell)
  return out


def labels_of(
  column: 'pd.Series | Cells', kind: str = 'category'
) -> np.ndarray:
  """Labels [n] of a column of categories."""
  found = Cells.of(column).labels
  if kind == 'boolean':
    names = {'1': 'True', '0': 'False'}
    found = np.array([names.get(name, name) for name in found], object)
  return found


def text_of(cell: Any) -> str:
  """Text of a cell as a prompt shows it: text as it is, else its label."""
  if isinstance(cell, str):
    return cell
  found = label(cell)
  return str(cell) if found is None else found


def plain(column: pd.Series) -> np.ndarray:
  """Cells [n] as Python has them, object; None where missing."""
  dtype = column.dtype
  if isinstance(dtype, pd.CategoricalDtype):
    none = np.array([None], object)
    values = np.concatenate([plain(pd.Series(dtype.categories)), none])
    # A missing cell has the code −1, the last.
    return values[column.cat.codes.to_numpy()]
  if dtype.kind == 'f':
    size = min(getattr(dtype, 'itemsize', 8), 8)
    values = column.to_numpy(np.dtype(f'f{size}'), na_value=np.nan)
    cells = _shortest(values)
  else:
    cells = column.astype(object).to_numpy(object, copy=True)
  cells[pd.isna(cells)] = None
  return cells


def _shortest(cells: np.ndarray) -> np.ndarray:
  """As objects; float32 as its shortest decimal, 0.1 and not 0.10000000149."""
  if cells.dtype.kind == 'f' and cells.dtype.itemsize < 8:
    flat = [float(str(cell)) for cell in cells.ravel()]
    cells = np.array(flat, np.float64).reshape(cells.shape)
  return cells.astype(object)


# -------------------------------------------------------------------- reading


class Texts(NamedTuple):
  """The text among cells, each spelling once.

  Attributes:
    where: bool [n], cells that are text and present.
    codes: int [m], of each of these, its place in `distinct`.
    distinct: object [k], present text without blanks around it.
    others: bool [n], cells that are neither text nor missing.
    errors: how many cells hold each of `ERRORS`, which are missing.
  """

  where: np.ndarray
  codes: np.ndarray
  distinct: pd.Series
  others: np.ndarray
  errors: dict[str, int]

  def each(self, function: Callable[[str], Any]) -> np.ndarray:
    """What a function says of the distinct text: object [k]."""
    out = np.empty(len(self.distinct), object)
    out[:] = [function(text) for text in self.distinct]
    return out

  def spread(self, values: np.ndarray) -> np.ndarray:
    """[k], of the distinct text, as [m], of all of it."""
    return np.asarray(values)[self.codes]

  @property
  def counts(self) -> np.ndarray:
    """How many cells each distinct text has: int [k]."""
    return np.bincount(self.codes, minlength=len(self.distinct))


def texts_of(cells: np.ndarray) -> Texts:
  """The text among object cells [n]."""
  is_text = np.ones(len(cells), bool)
  if pd.api.types.infer_dtype(cells, skipna=False) != 'string':
    is_text[:] = [isinstance(cell, str) for cell in cells]
  others = ~is_text
  if others.any():
    others[others] = ~pd.isna(cells[others])
  codes, distinct = pd.factorize(cells[is_text])
  stripped = np.empty(len(distinct), object)
  stripped[:] = list(map(str.strip, distinct))
  present = np.ones(len(stripped), bool)
  if not MISSING.isdisjoint(stripped):
    present[:] = [text not in MISSING for text in stripped]
  where, errors = is_text, dict[str, int]()
  if not present.all():
    counts = np.bincount(codes, minlength=len(stripped))
    for place in np.flatnonzero(~present):
      if (text := stripped[place]) in ERRORS:
        errors[text] = errors.get(text, 0) + int(counts[place])
    kept = present[codes]
    where = is_text.copy()
    where[is_text] = kept
    codes = (np.cumsum(present) - 1)[codes[kept]]
    stripped = stripped[present]
  distinct = pd.Series(stripped, dtype=object)
  return Texts(where, codes, distinct, others, errors)


class Cells:
  """A column's cells, looked at once: what is found of them is kept."""

  def __init__(self, column: pd.Series) -> None:
    self.column = column
    self._read: dict[tuple[str, Formats], tuple[np.ndarray, np.ndarray]] = {}

  @classmethod
  def of(cls, column: 'pd.Series | Cells') -> 'Cells':
    """Of a column; itself if it is one."""
    return column if isinstance(column, Cells) else cls(column)

  def __len__(self) -> int:
    return len(self.column)

  @functools.cached_property
  def plain(self) -> np.ndarray:
    """`plain` of the column: object [n]."""
    return plain(self.column)

  @functools.cached_property
  def texts(self) -> Texts:
    """The text among them."""
    return texts_of(self.plain)

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """`label` of each: object [n], None where missing."""
    return _labels(self.plain, self.texts)

  @property
  def has_text(self) -> bool:
    """Whether there could be text among them, by their type."""
    dtype = self.column.dtype
    is_category = isinstance(dtype, pd.CategoricalDtype)
    return is_category or _is_arrow(dtype) or dtype.kind not in 'biufmMc'

  @property
  def missing(self) -> np.ndarray:
    """bool [n]: no value, in one of its spellings."""
    return ~(self.texts.where | self.texts.others)

  def read(self, kind: str, formats: Formats) -> tuple[np.ndarray, np.ndarray]:
    """As the function `read`."""
    key = kind, formats
    if key not in self._read:
      self._read[key] = _read(self, kind, formats)
    return self._read[key]


def kind_of(column: pd.Series | Cells, formats: Formats = PLAIN) -> str:
  """The kind that all present cells of a column agree on, else 'category'.

  Text is a number only as a plain one, a date only as an ISO date (or in
  `formats`): all else could be meant otherwise.
  """
  cells = Cells.of(column)
  column, dtype = cells.column, cells.column.dtype
  if isinstance(dtype, pd.CategoricalDtype):
    return 'category'
  if dtype.kind in 'biufm' and not _is_arrow(dtype):
    kinds = {'b': 'boolean', 'm': 'time'}
    return kinds.get(dtype.kind, 'number')
  texts, others = cells.texts, cells.plain[cells.texts.others]
  if not (len(texts.distinct) or len(others)):
    return 'date' if dtype.kind == 'M' else 'number'
  if all(map(_is_boolean, texts.distinct)) and all(map(_is_boolean, others)):
    return 'boolean'
  for kind in ('number', 'date', 'time'):
    if kind == 'time' and len(texts.distinct):
      continue  # '10:30' is a time, a score, or a ratio.
    if read(column.iloc[:256], kind, formats)[1].any():
      continue  # Most columns of text are done with here.
    values, bad = cells.read(kind, formats)
    if bad.any() or np.isnan(values).all():
      continue
    if kind == 'number' and _SOME_CODE.search('\n'.join(texts.distinct)):
      continue
    return with_hours(kind, values)
  return 'category'


def with_hours(kind: str, values: np.ndarray) -> str:
  """'datetime' for 'date' where one of the seconds [n] has an hour."""
  base, space, how = kind.partition(' ')
  if base != 'date':
    return kind
  within = values[np.isfinite(values)] % _DAY
  return f'{"datetime" if within.any() else "date"}{space}{how}'


def read(
  column: pd.Series | Cells, kind: str, formats: Formats = PLAIN
) -> tuple[np.ndarray, np.ndarray]:
  """Values float64 [n], NaN if missing; bool [n]: cells of another kind."""
  return Cells.of(column).read(kind, formats)


def _read(
  cells: Cells, kind: str, formats: Formats
) -> tuple[np.ndarray, np.ndarray]:
  base, _, how = kind.partition(' ')
  column, dtype = cells.column, cells.column.dtype
  own = {'number': 'iufb', 'boolean': 'b', 'time': 'm'}.get(base, 'M')
  simple = not (isinstance(dtype, pd.CategoricalDtype) or _is_arrow(dtype))
  if simple and dtype.kind in own and not (how and base == 'number'):
    good = np.zeros(len(column), bool)
    if dtype.kind == 'm':
      return column.dt.total_seconds().to_numpy(np.float64), good
    if dtype.kind == 'M':
      return _seconds(column), good
    return column.to_numpy(np.float64, na_value=np.nan), good
  readers = {'number': _numbers, 'boolean': _booleans, 'time': _times}
  return readers.get(base, _dates)(cells, how, formats)


def parts_of(seconds: np.ndarray, part: str) -> np.ndarray:
  """Month 1 .. 12, weekday 0 (Monday) .. 6 or hour 0 .. 23 of UTC times [n]."""
  finite = np.isfinite(seconds)
  whole = np.floor(np.where(finite, seconds, 0.0)).astype(np.int64)
  if part == 'month':
    months = whole.astype('datetime64[s]').astype('datetime64[M]')
    found = months.astype(np.int64) % 12 + 1
  elif part == 'weekday':
    found = (whole // int(_DAY) + 3) % 7  # 1970 began on a Thursday.
  else:
    found = whole % int(_DAY) // 3600
  return np.where(finite, found, np.nan)


def is_beyond(seconds: np.ndarray) -> np.ndarray:
  """bool [n]: times that nanoseconds since 1970 cannot hold."""
  with np.errstate(invalid='ignore'):
    return (seconds < _FIRST_SECOND) | (seconds > _LAST_SECOND)


def is_code(cell: Any) -> bool:
  """Whether it is digits with a zero before them, as ZIP codes are."""
  return isinstance(cell, str) and bool(_CODE.fullmatch(cell.strip()))


def is_missing(cell: Any) -> bool:
  """Whether there is no value, in one of its spellings."""
  if isinstance(cell, str):
    return cell.strip() in MISSING
  return cell is None or (isinstance(cell, float) and cell != cell)


def _is_arrow(dtype: Any) -> bool:
  return isinstance(dtype, pd.ArrowDtype)


def _is_boolean(cell: Any) -> bool:
  if isinstance(cell, str):
    return cell.strip().lower() in ('true', 'false')
  return isinstance(cell, bool | np.bool_)


def _filled(
  cells: Cells,
  of_text: tuple[np.ndarray, np.ndarray],
  of_others: Callable[[Any], float | None],
) -> tuple[np.ndarray, np.ndarray]:
  """(values, bad) [n] of what the distinct text and the other cells are.

  of_others: a value, NaN if missing, or None if it is of another kind.
  """
  texts = cells.texts
  values = np.full(len(cells), np.nan)
  bad = np.zeros(len(cells), bool)
  values[texts.where], bad[texts.where] = map(texts.spread, of_text)
  for place in np.flatnonzero(texts.others):
    value = of_others(cells.plain[place])
    values[place] = np.nan if value is None else value
    bad[place] = value is None
  return values, bad


def _numbers(cells, unit, formats):
  def number(cell):
    known = bool | np.bool_ | int | float | decimal.Decimal | np.number
    if not isinstance(cell, known):
      return None
    try:
      return float(cell)
    except OverflowError:  # as '1e400' does
      return np.inf if cell > 0 else -np.inf

  found = text_numbers(cells.texts.distinct, formats, unit)
  return _filled(cells, found, number)


def unit_of(text: str) -> str:
  """'€' of '10 €', '%' of '3.5%', '$' of '$5'; '' without one."""
  match = _WITH_UNIT.fullmatch(text.strip())
  return (match['before'] or match['after']) if match else ''


def text_numbers(
  text: pd.Series, formats: Formats, unit: str = ''
) -> tuple[np.ndarray, np.ndarray]:
  """Values float64 [n] of present text; bool [n]: neither number nor gap."""
  gap = text.isin(GAPS).to_numpy(bool)
  if not len(text):
    return np.empty(0), gap
  wrong = np.zeros(len(text), bool)
  if unit:
    found = text.map(_WITH_UNIT.fullmatch)
    wrong = np.array(
      [not m or (m['before'] or m['after']) != unit for m in found], bool
    )
    text = pd.Series(
      [
        t if w else m['sign'] + (m['a'] or m['b'] or '').strip()
        for t, m, w in zip(text, found, wrong, strict=True)
      ],
      dtype=object,
    )
  mark, group = re.escape(formats.decimal), formats.thousands
  if group:
    group = r'[ \u00a0\u202f]' if group.isspace() else re.escape(group)
    grouped = rf'[+-]?\d{{1,3}}(?:{group}\d{{3}})+(?:{mark}\d*)?'
    mask = text.str.fullmatch(grouped).to_numpy(bool)
    text = text.where(~mask, text.str.replace(group, '', regex=True))
  if formats.decimal != '.':
    wrong |= text.str.contains('.', regex=False).to_numpy(bool)
    text = text.str.replace(formats.decimal, '.', regex=False)
  values = np.asarray(pd.to_numeric(text, errors='coerce'), np.float64)
  values = np.where(wrong | gap, np.nan, values)
  return values, (wrong | np.isnan(values)) & ~gap


def _booleans(cells, how, formats):
  names = {'true': 1.0, 'false': 0.0, '1': 1.0, '0': 0.0}
  values = np.full(len(cells), np.nan)
  bad = np.zeros(len(cells), bool)
  for place, name in enumerate(cells.labels):
    if name is not None:
      values[place] = names.get(name.lower(), np.nan)
      bad[place] = np.isnan(values[place])
  return values, bad


def _dates(cells, how, formats):
  how = how or formats.date_format

  def seconds(cell):
    if isinstance(cell, np.datetime64):
      cell = cell.astype('datetime64[us]').item()
    if isinstance(cell, datetime.date):
      return _seconds_of(cell)
    if not how or isinstance(cell, bool | np.bool_):
      return None
    # 20200131, as %Y%m%d: a number is its digits.
    found, bad = _text_dates(pd.Series([label(cell)], dtype=object), how)
    return None if bad[0] else found[0]

  numeric = how and cells.column.dtype.kind in 'iuf'
  if numeric and not isinstance(cells.column.dtype, pd.CategoricalDtype):
    cells = Cells(pd.Series(cells.labels, dtype=object))
  return _filled(cells, _text_dates(cells.texts.distinct, how), seconds)


def _text_dates(text: pd.Series, how: str) -> tuple[np.ndarray, np.ndarray]:
  """As `text_numbers`, of dates: seconds since 1970."""
  gap = text.isin(GAPS).to_numpy(bool)
  values = np.full(len(text), np.nan)
  if how and len(text):
    values = _parsed(text, how)
  iso = np.isnan(values) & np.array(
    [bool(_ISO_DATE.match(t)) for t in text], bool
  )
  if iso.any():
    values[iso] = _parsed(text[iso], 'ISO8601')
  # What lies beyond nanoseconds is NaT to some versions of pandas.
  for place in np.flatnonzero(iso & np.isnan(values)):
    try:
      moment = datetime.datetime.fromisoformat(text.iloc[place])
      values[place] = _seconds_of(moment)
    except ValueError:
      pass
  return values, np.isnan(values) & ~gap


def _parsed(text: pd.Series, how: str) -> np.ndarray:
  times = pd.to_datetime(text, format=how, utc=True, errors='coerce')
  return _seconds(times)


def _times(cells, how, formats):
  def seconds(cell):
    if isinstance(cell, datetime.time):
      clock = cell.hour * 3600 + cell.minute * 60 + cell.second
      return clock + cell.microsecond / 1e6
    if isinstance(cell, datetime.timedelta | np.timedelta64):
      return pd.Timedelta(cell).total_seconds()
    return None

  text = cells.texts.distinct
  gap = text.isin(GAPS).to_numpy(bool)
  text = text.map(
    lambda t: f'{t}:00' if CLOCK.fullmatch(t) and t.count(':') == 1 else t
  )
  spans = pd.to_timedelta(text.where(text.str.contains(':')), errors='coerce')
  values = spans.dt.total_seconds().to_numpy(np.float64)
  return _filled(cells, (values, np.isnan(values) & ~gap), seconds)


def _seconds(times: pd.Series) -> np.ndarray:
  if getattr(times.dt, 'tz', None) is not None:
    times = times.dt.tz_convert('UTC').dt.tz_localize(None)
  moments = times.to_numpy('datetime64[us]')
  out = moments.astype(np.int64) / 1e6
  return np.where(np.isnat(moments), np.nan, out)


def _seconds_of(cell: datetime.date) -> float:
  if isinstance(cell, datetime.datetime):
    moment = cell
  else:
    moment = datetime.datetime(cell.year, cell.month, cell.day)
  if moment.tzinfo is not None:
    moment = moment.astimezone(datetime.UTC)
  if isinstance(moment, pd.Timestamp):
    moment = moment.to_pydatetime(warn=False)
  return (moment.replace(tzinfo=None) - _EPOCH).total_seconds()
