"""Frames from files: CSV, TSV, JSONL, Parquet and .xlsx, as they come.

A file that can be read in two ways is not guessed at: the error names the
separator, the encoding, the header or the quotes, and what to set.
"""

import ast
import codecs
import collections
import contextlib
import csv
import dataclasses
import gzip
import io
import json
import os
import pathlib
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from genre2_jax.data import columns
from genre2_jax.data.cells import MISSING, Formats
from genre2_jax.data.wording import counted, located, say
from genre2_jax.errors import (
  InputError,
  listed,
  one_line,
  shortened,
  suggestion,
)

PathLike = str | os.PathLike[str]

SEPARATORS = {'.csv': ',', '.csv.gz': ',', '.tsv': '\t', '.tsv.gz': '\t'}
PARQUET = ('.parquet', '.pq')
JSON_LINES = ('.jsonl', '.jsonl.gz')
EXCEL = ('.xlsx',)
EXTENSIONS = (*SEPARATORS, *PARQUET, *JSON_LINES, *EXCEL)

_WORDS = {
  'tab': '\t', '\\t': '\t', 'space': ' ', 'comma': ',', 'semicolon': ';',
  'point': '.', 'dot': '.', 'apostrophe': "'", 'pipe': '|',
}  # fmt: skip
_NAMES_OF = {',': 'a comma', ';': 'a semicolon', '\t': 'a tab', '|': 'a pipe'}
# pandas' names of what is called otherwise here.
_ALIASES = {
  'sep': 'separator',
  'delimiter': 'separator',
  'skiprows': 'skip_lines',
  'sheet_name': 'sheet',
}
_HOW = (
  'write "separator=; decimal=, encoding=cp1252", or a dict, '
  "{'separator': ';', 'decimal': ','}"
)
_BOMS = (
  (codecs.BOM_UTF8, 'utf-8-sig'),
  (codecs.BOM_UTF32_LE, 'utf-32'),
  (codecs.BOM_UTF32_BE, 'utf-32'),
  (codecs.BOM_UTF16_LE, 'utf-16'),
  (codecs.BOM_UTF16_BE, 'utf-16'),
)
_LINE_END = re.compile(r'\r\n|\r|\n')
_LARGEST_CELL = 2**31 - 1
_OFFICE = 'http://schemas.openxmlformats.org'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading(Formats):
  """How files are written, where that is not plain.

  separator: of cells; '': ',' of .csv, a tab of .tsv.
  encoding: of text files; '': UTF-8, or what a byte order mark says.
  skip_lines: above the header.
  header: 'first': the first line names the columns; 'none': they are
    column_1, column_2, ...
  quotes: whether a quotation mark that opens a cell belongs to the text:
    'cells' (RFC 4180), 'text', or '' for what the lines say themselves.
  sheet: of an .xlsx; '': the first.
  """

  separator: str = ''
  encoding: str = ''
  skip_lines: int = 0
  header: str = 'first'
  quotes: str = ''
  sheet: str = ''

  @classmethod
  def parse(cls, text: 'str | Mapping | Reading | None') -> 'Reading':
    """Of 'separator=; decimal=,' or of a dict, also as text.

    Raises InputError.
    """
    if isinstance(text, Reading):
      return text
    if not text:
      return cls()
    if isinstance(text, Mapping):
      given = dict(text)
    elif text.strip().startswith('{'):
      try:
        given = ast.literal_eval(text.strip())
      except (SyntaxError, ValueError) as error:
        raise InputError(f'data.reading={text!r}: {_HOW}') from error
    else:
      given = dict(columns.pairs('data.reading', text, _HOW, ' \t\n'))
    if not isinstance(given, dict):
      raise InputError(f'data.reading={text!r}: {_HOW}')
    known = {field.name: field.type for field in dataclasses.fields(cls)}
    fields = {}
    for name, value in given.items():
      name = _ALIASES.get(name, name)
      if name not in known:
        near = suggestion(str(name), list(known))
        raise InputError(f'data.reading: no option {name!r}; {near}')
      fields[name] = _option(name, value)
    return cls(**fields)


def _option(name, value):
  if name == 'skip_lines':
    if str(value).isdecimal():
      return int(value)
    raise InputError(f'data.reading: skip_lines={value!r} is no whole number')
  value = str(value)
  if name in ('separator', 'decimal', 'thousands'):
    value = _WORDS.get(value, value)
    if len(value) > 1 or (name == 'decimal' and not value):
      raise InputError(
        f'data.reading: {name}={value!r}; give one character, or comma, '
        'semicolon, tab, space, point'
      )
  choices = {'header': ('first', 'none'), 'quotes': ('', 'cells', 'text')}
  if value not in choices.get(name, (value,)):
    raise InputError(
      f'data.reading: {name}={value!r} is not one of {listed(choices[name])}'
    )
  if name == 'encoding' and value:
    try:
      codecs.lookup(value)
    except LookupError as error:
      raise InputError(
        f'data.reading: encoding={value!r} is unknown; try utf-8, utf-16, '
        'cp1252 or latin-1'
      ) from error
  return value


PLAIN = Reading()


def path_of(path: str | os.PathLike) -> pathlib.Path:
  """A path with '~' as the home folder."""
  path = pathlib.Path(path)
  try:
    return path.expanduser()
  except RuntimeError:  # no such user
    return path


def user_cache() -> pathlib.Path:
  """Where this user's files go that can be made again: by XDG, or ~/.cache."""
  home = os.environ.get('XDG_CACHE_HOME') or path_of('~/.cache')
  return pathlib.Path(home) / 'genre2_jax'


def extension_of(path: pathlib.Path) -> str:
  """'.csv', '.csv.gz', ... as it stands. Raises InputError for others."""
  for extension in EXTENSIONS:
    if path.name.lower().endswith(extension):
      return path.name[-len(extension) :]
  raise InputError(
    f'{path}: unknown kind of file; its name must end in '
    f'{", ".join(EXTENSIONS)}'
  )


def read_frame(
  path: str | os.PathLike, reading: Reading = PLAIN
) -> pd.DataFrame:
  """Columns of a file, with unique names of type str, at least one row.

  Cells of CSV and TSV are text. Raises InputError.
  """
  path = path_of(path)
  extension = extension_of(path).lower()
  if not path.is_file():
    raise InputError(f'{path}: no such file; check the path')
  with refusals(path, extension):
    if extension in PARQUET:
      frame = _read_parquet(path)
    elif extension in JSON_LINES:
      frame = _read_json_lines(path)
    elif extension in EXCEL:
      frame = _read_excel(path, reading)
    else:
      text = _decoded(path, extension, reading.encoding)
      separator = reading.separator or SEPARATORS[extension]
      frame = frame_of_text(
        str(path), text, separator, reading, reading.skip_lines
      )
      frame = _named(frame)
  return checked(path, frame)


@contextlib.contextmanager
def refusals(path: pathlib.Path, extension: str) -> Iterator[None]:
  """Raises InputError, which names the file, for whatever is raised within."""
  try:
    yield
  except _UnreadableError as error:
    raise InputError(f'{path}: not readable: {error}') from None
  # Decompressors and parsers fail on foreign bytes in many ways, all of which
  # mean the same to the user.
  except Exception as error:
    raise InputError(
      f'{path}: not readable as {extension}, {one_line(error)}; check the file'
    ) from error


def checked(path: pathlib.Path, frame: pd.DataFrame) -> pd.DataFrame:
  """A frame whose columns have names of one level, each once.

  Raises InputError, too if it has no rows.
  """
  if frame.columns.nlevels > 1:
    raise InputError(
      f'{path}: column names of {frame.columns.nlevels} levels; save the table '
      'with one name for each column'
    )
  frame.columns = [str(name) for name in frame.columns]
  refuse_duplicates(str(path), list(frame.columns))
  if frame.empty:
    raise InputError(f'{path}: no data rows; at least one is needed')
  return frame


def refuse_duplicates(where: str, names: Sequence[str]) -> None:
  """Raises InputError for names that come twice."""
  twice = [name for name, n in collections.Counter(names).items() if n > 1]
  if twice:
    raise InputError(
      f'{where}: duplicate column names {listed(twice)}; rename them'
      f'{header_hint(names)}'
    )


def header_hint(names: Sequence[str]) -> str:
  """What names of columns make one ask, to end an error; '' if nothing."""
  names = [str(name) for name in names]
  numbers = pd.to_numeric(pd.Series(names, dtype=object), errors='coerce')
  if names and numbers.notna().all():
    return (
      '; the first line holds numbers only: is the header missing? add one, or '
      'set data.reading="header=none"'
    )
  if len(names) == 1:
    return _separator_hint(names[0])
  if names and sum(n.startswith('column_') for n in names) > len(names) / 2:
    return (
      '; most columns have no name: is there a title above the header? set '
      'data.reading="skip_lines=1"'
    )
  return ''


class _UnreadableError(Exception):
  """What is wrong with a file, in words."""


# ----------------------------------------------------------------- text files


def frame_of_text(
  where: str, text: str, separator: str, reading: Reading, skipped: int
) -> pd.DataFrame:
  """Rows of text, cells as text; columns without a name are among them.

  Args:
    where: begins what is said.
    text: whole lines.
    separator: of cells.
    reading: how it is written.
    skipped: lines of the file that are not among those read, to count by.
  """
  if reading.skip_lines:
    ends = [match.end() for match in _LINE_END.finditer(text)]
    text = text[ends[min(reading.skip_lines, len(ends)) - 1] :] if ends else ''
  if not text.strip():
    raise _UnreadableError('the file is empty; a header and rows are needed')
  is_tab = separator == '\t'
  text = _quoted(where, text, separator, reading, prefers_text=is_tab)
  try:
    # The header is read as data: pandas would rename duplicates and take
    # leading columns for an index. All is text, so that `cells` decides on
    # kinds the same way for every source.
    cells = pd.read_csv(
      # Of bytes: StringIO takes four for every letter.
      io.BytesIO(text.encode()),
      sep=separator,
      header=None,
      dtype=str,
      keep_default_na=False,
      quoting=csv.QUOTE_MINIMAL if '"' in text else csv.QUOTE_NONE,
    )
  except pd.errors.ParserError as error:
    raise _UnreadableError(
      _uneven(str(error), text, separator, skipped)
    ) from None
  except pd.errors.EmptyDataError:
    raise _UnreadableError(
      'the file is empty; a header and rows are needed'
    ) from None
  first = [] if reading.header == 'none' else cells.iloc[0].tolist()
  frame = cells.iloc[min(len(first), 1) :].reset_index(drop=True)
  frame.columns = _names(first, frame)
  if len(frame.columns) == 1 and not reading.separator:
    if hint := _separator_hint(frame.columns[0]):
      raise _UnreadableError(f'one column, {frame.columns[0]!r}{hint}')
  short = _short_rows(text, separator, cells)[min(len(first), 1) :]
  if short.any():
    say(
      f'{where}: fewer cells than columns in {located(short)}: read as missing '
      'at the end'
    )
  return frame


def _short_rows(text: str, separator: str, cells: pd.DataFrame) -> np.ndarray:
  """bool [n]: rows of which pandas filled up the end."""
  none = np.zeros(len(cells), bool)
  if not (cells.iloc[:, -1] == '').any():
    return none
  rows = csv.reader(
    io.StringIO(text, newline=''),
    delimiter=separator,
    quoting=csv.QUOTE_MINIMAL if '"' in text else csv.QUOTE_NONE,
  )
  limit = csv.field_size_limit(_LARGEST_CELL)
  try:
    widths = [
      len(row)
      for row in rows
      if any(cell.strip() for cell in row[:2]) or len(row) > 1
    ]
  finally:
    csv.field_size_limit(limit)
  found = np.array(widths) < cells.shape[1]
  return found if len(found) == len(cells) else none


def encoding_of(data: bytes) -> str:
  """What the first bytes of a text say of the others."""
  marks = (name for mark, name in _BOMS if data.startswith(mark))
  return next(marks, 'utf-8')


def count_lines(text: str) -> int:
  """How many lines end in a text."""
  if '\r' not in text:
    return text.count('\n')
  return sum(1 for _ in _LINE_END.finditer(text))


def first_line(text: str, skip_lines: int) -> str:
  """The line that tells columns, with its end; '' if there is none."""
  start = 0
  for number, end in enumerate(_LINE_END.finditer(text)):
    line = text[start : end.end()]
    if number >= skip_lines and line.strip():
      return line
    start = end.end()
  return ''


def is_plain(text: str, head: str, separator: str, reading: Reading) -> bool:
  """Whether every line of a text is a row by itself, quotation marks or not."""
  if not head:
    return False
  if '"' not in text and '"' not in head:
    return True
  if reading.quotes == 'text':
    return False
  width = len(_cells_of(head, separator) or ())
  return not any(
    _is_odd(line, separator, width)
    for line in _LINE_END.split(text)
    if '"' in line
  )


def _decoded(path: pathlib.Path, extension: str, encoding: str) -> str:
  data = path.read_bytes()
  if extension.endswith('.gz'):
    try:
      data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
      raise _UnreadableError(
        f'{extension}, but its bytes are not those of gzip, or not all of '
        'them; fetch it again or take .gz off its name'
      ) from None
  for magic, kind in ((b'\x1f\x8b', '.gz'), (b'PK\x03\x04', 'a zip or .xlsx')):
    if data.startswith(magic):
      raise _UnreadableError(
        f'its bytes are those of {kind}, not of text; rename it'
      )
  encoding = encoding or encoding_of(data)
  try:
    text = data.decode(encoding)
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise _UnreadableError(
      f'not text as {encoding.upper()}, byte 0x{data[error.start]:02x} in line '
      f'{line}; Windows and Excel often write cp1252 (or latin-1): set '
      'data.reading="encoding=cp1252"'
    ) from None
  if '\0' in text:
    raise _UnreadableError(
      'it holds NUL characters: UTF-16 text, or no text at all; try '
      'data.reading="encoding=utf-16-le"'
    )
  return text.removeprefix('\ufeff')


def _names(first: Sequence[Any], frame: pd.DataFrame) -> list[str]:
  given = [str(name).strip() if isinstance(name, str) else '' for name in first]
  given += [''] * (frame.shape[1] - len(given))
  return [name or f'column_{place}' for place, name in enumerate(given, 1)]


def _named(frame: pd.DataFrame) -> pd.DataFrame:
  """Without columns that have neither name nor cells: a comma at line ends."""
  kept = [
    not (
      name == f'column_{place + 1}'
      and all(
        not isinstance(cell, str) or cell.strip() in MISSING
        for cell in frame.iloc[:, place]
      )
    )
    for place, name in enumerate(frame.columns)
  ]
  return frame.loc[:, kept]


def _separator_hint(name: str) -> str:
  """What a sole column's name says of the separator; '' if nothing."""
  counts = {mark: name.count(mark) for mark in _NAMES_OF}
  mark = max(counts, key=counts.__getitem__)
  if not counts[mark]:
    return ''
  word = {'\t': 'tab'}.get(mark, mark)
  return (
    f': is {_NAMES_OF[mark]} the separator? set data.reading="separator={word}"'
  )


def _uneven(message: str, text: str, separator: str, skipped: int) -> str:
  """Words for a line with more cells than the first."""
  found = re.search(r'Expected (\d+) fields in line (\d+), saw (\d+)', message)
  first = next((line for line in _LINE_END.split(text) if line.strip()), '')
  name = _NAMES_OF.get(separator, repr(separator))
  if not found:
    return (
      f'its lines are no cells with {name} between them; check its separator '
      'and its quotation marks'
    )
  have, line, saw = map(int, found.groups())
  said = (
    f'line {line + skipped} has {saw} cells, the header, {shortened(first)!r}, '
    f'has {have} (the separator is {name})'
  )
  if have == 1 and (hint := _separator_hint(first)):
    return said + hint
  if have == 1:
    return (
      f'{said}; if the first line is a title, set '
      f'data.reading="skip_lines={skipped + 1}"'
    )
  return (
    f'{said}; put quotation marks around cells that hold the separator'
    f'{header_hint(first.split(separator))}'
  )


def _quoted(
  where: str,
  text: str,
  separator: str,
  reading: Reading,
  *,
  prefers_text: bool,
) -> str:
  """Text in which every quotation mark is one of RFC 4180.

  A cell that opens with a quotation mark may go over several lines, or the
  mark may be a letter as any other; read the wrong way, lines are lost. Where
  every line by itself has the cells of the header, and the marks do not pair,
  they are letters.
  """
  if '"' not in text:
    return text
  limit = csv.field_size_limit(_LARGEST_CELL)
  try:
    return _requoted(where, text, separator, reading, prefers_text)
  finally:
    csv.field_size_limit(limit)


def _requoted(
  where: str,
  text: str,
  separator: str,
  reading: Reading,
  prefers_text: bool,
) -> str:
  ends = list(_LINE_END.finditer(text))
  starts = [0, *(end.end() for end in ends)]
  stops = [*(end.start() for end in ends), len(text)]
  lines = [text[a:b] for a, b in zip(starts, stops, strict=True)]
  marked = [place for place, line in enumerate(lines) if '"' in line]
  if reading.quotes == 'text':
    return _as_text(lines, marked, separator)
  first = next(line for line in lines if line.strip())
  width = len(_cells_of(first, separator) or first.split(separator))
  odd = [p for p in marked if _is_odd(lines[p], separator, width)]
  if not odd:
    return text
  even = all(len(lines[place].split(separator)) == width for place in odd)
  spans = _spans_pair(text, separator, width)
  rows = ', '.join(str(p + 1 + reading.skip_lines) for p in odd[:5])
  rows += ', ...' if len(odd) > 5 else ''
  is_text = prefers_text and even and reading.quotes != 'cells'
  if not spans and not is_text:
    raise _UnreadableError(
      f'quotation marks that open a cell and do not close it, in line {rows}; '
      'double those inside of cells, or set data.reading="quotes=text" if they '
      'belong to the text'
    )
  if even and spans and not reading.quotes:
    how, other = 'parts of longer cells', 'quotes=text'
    if is_text:
      how, other = 'rows that hold quotation marks', 'quotes=cells'
    say(
      f'{where}: quotation marks open a cell in line {rows} and close one '
      f'below: read as {how}; set data.reading="{other}" if they are not'
    )
  return _as_text(lines, odd, separator) if is_text else text


def _is_odd(line: str, separator: str, width: int) -> bool:
  """Whether a line alone is a row only if its quotation marks are letters."""
  cells = _cells_of(line, separator)
  if cells is None:
    return True
  return len(cells) < width == len(line.split(separator))


def _as_text(
  lines: Sequence[str], places: Sequence[int], separator: str
) -> str:
  """The lines, at these places with quotation marks as letters."""
  out = list(lines)
  for place in places:
    row = io.StringIO()
    writer = csv.writer(row, delimiter=separator, lineterminator='')
    writer.writerow(lines[place].split(separator))
    out[place] = row.getvalue()
  return '\n'.join(out)


def _cells_of(line: str, separator: str) -> list[str] | None:
  """Cells of one line; None where a quotation mark opens and does not close."""
  try:
    return next(csv.reader([line], delimiter=separator, strict=True), [])
  except csv.Error:
    return None


def _spans_pair(text: str, separator: str, width: int) -> bool:
  """Whether the whole text is RFC 4180, cells over several lines among it."""
  rows = csv.reader(
    io.StringIO(text, newline=''), delimiter=separator, strict=True
  )
  try:
    return all(len(row) <= width for row in rows)
  except csv.Error:
    return False


# ---------------------------------------------------------------- other files


_SAVE_INDEX = 'save frame.reset_index() to make a column of it'


def _read_parquet(path: pathlib.Path) -> pd.DataFrame:
  # Imported where used, as by pandas.
  from pyarrow import parquet

  # As objects, integers beside missing values stay what they are.
  frame = parquet.read_table(path).to_pandas(integer_object_nulls=True)
  columns.say_index(str(path), frame, _SAVE_INDEX)
  return frame


def parquet_pieces(
  path: pathlib.Path, num_cells: int
) -> Iterator[pd.DataFrame]:
  """The rows of a Parquet file, at most so many cells at a time.

  Raises InputError.
  """
  from pyarrow import parquet

  is_first = True
  with contextlib.ExitStack() as held:
    with refusals(path, path.suffix):
      file = held.enter_context(parquet.ParquetFile(path))
      width = max(len(file.schema_arrow.names), 1)
      parts = file.iter_batches(max(1, num_cells // width))
    while True:
      with refusals(path, path.suffix):
        part = next(parts, None)
        if part is None:
          break
        frame = part.to_pandas(integer_object_nulls=True)
      if is_first:
        columns.say_index(str(path), frame, _SAVE_INDEX)
      yield checked(path, frame)
      is_first = False
  if is_first:
    raise InputError(f'{path}: no data rows; at least one is needed')


def _record(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  record = dict(items)
  if len(record) < len(items):
    names = [name for name, _ in items]
    twice = [name for name in record if names.count(name) > 1]
    raise _UnreadableError(f'{listed(twice)} comes twice; rename one of them')
  return record


def _read_json_lines(path: pathlib.Path) -> pd.DataFrame:
  with opened_json_lines(path) as file:
    records = [record for _, record in json_records(file)]
  return frame_of_records(records)


def opened_json_lines(path: pathlib.Path) -> TextIO:
  """A file of JSON lines, to be read."""
  is_zipped = path.name.lower().endswith('.gz')
  return (gzip.open if is_zipped else open)(path, 'rt', encoding='utf-8-sig')


def json_records(file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
  """(Letters of the line, its object) of every line that is not empty."""
  for number, line in enumerate(file, 1):
    if line.strip():
      try:
        record = json.loads(line, object_pairs_hook=_record)
      except _UnreadableError as error:
        raise _UnreadableError(f'line {number}: {error}') from None
      except ValueError:
        raise _UnreadableError(
          f'line {number} is no JSON: {shortened(line.strip())!r}; each '
          'line must be one object'
        ) from None
      if not isinstance(record, dict):
        raise _UnreadableError(
          f'line {number} is no object: {shortened(line.strip())!r}'
        )
      yield len(line), record


def frame_of_records(
  records: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> pd.DataFrame:
  """Objects of JSON as rows, with these columns or all that they have."""
  frame = pd.DataFrame.from_records(records, columns=names)
  # As objects, integers beside missing values stay what they are.
  for name in frame.columns:
    if frame[name].dtype.kind == 'f':
      column = [record.get(name) for record in records]
      if any(type(cell) is int and abs(cell) > 2**53 for cell in column):
        frame[name] = pd.Series(column, dtype=object)
  return frame


def _read_excel(path: pathlib.Path, reading: Reading) -> pd.DataFrame:
  try:
    import openpyxl  # noqa: F401
  except ImportError:
    raise _UnreadableError(
      'an .xlsx needs openpyxl: pip install openpyxl, or save it as .csv'
    ) from None
  with pd.ExcelFile(path, engine='openpyxl') as book:
    sheet = reading.sheet or book.sheet_names[0]
    if sheet not in book.sheet_names:
      raise _UnreadableError(
        f'no sheet {sheet!r}; {suggestion(sheet, book.sheet_names)}'
      )
    if not reading.sheet and len(book.sheet_names) > 1:
      say(
        f'{path}: sheet {sheet!r} is read, the first of '
        f'{listed(book.sheet_names)}; set data.reading="sheet=..." for another'
      )
    cells = pd.read_excel(
      book, sheet_name=sheet, header=None, dtype=object, keep_default_na=False
    )
  _say_of_sheet(path, sheet, first_row=reading.skip_lines + 2)
  cells = cells.iloc[reading.skip_lines :].replace('', None)
  cells = cells[cells.notna().any(axis=1)]
  if cells.empty:
    raise _UnreadableError(
      f'sheet {sheet!r} is empty; a header and rows are needed'
    )
  first = [] if reading.header == 'none' else cells.iloc[0].tolist()
  frame = cells.iloc[min(len(first), 1) :].reset_index(drop=True)
  first = [None if pd.isna(name) else str(name) for name in first]
  frame.columns = _names(first, frame)
  return _named(frame)


def _say_of_sheet(path: pathlib.Path, sheet: str, first_row: int) -> None:
  """Says which cells of a sheet's rows look full and are read as missing.

  first_row: of the data, from 1.
  """
  text = _sheet_xml(path, sheet)
  merged = [
    area
    for area in re.findall(r'<mergeCell ref="(\w+:\w+)"', text)
    if int(re.findall(r'\d+', area)[-1]) >= first_row
  ]
  if merged:
    say(
      f'{path}: merged cells {listed(merged, 3)}: the first of each has the '
      'value, the others are read as missing; unmerge and fill them'
    )
  formula = r'(?:<f[^>]*/>|<f[^>]*>[^<]*</f>)'
  unknown = re.findall(
    rf'<c r="(\w+)"[^>]*>{formula}(?:<v ?/>|<v></v>)?</c>', text
  )
  if unknown:
    say(
      f'{path}: {len(unknown)} formulas without a value, {listed(unknown, 3)}: '
      'read as missing; open the file in a spreadsheet and save it, so that '
      'they are computed'
    )
  # pandas makes them missing.
  wrong = re.findall(
    rf'<c r="(\w+)"[^>]* t="e"[^>]*>{formula}?<v>([^<]*)</v>', text
  )
  if wrong:
    cells, errors = zip(*wrong, strict=True)
    say(
      f'{path}: errors {counted(errors)} in {listed(cells, 3)}: read as missing'
    )


def _sheet_xml(path: pathlib.Path, sheet: str) -> str:
  """The part of an .xlsx that holds a sheet; '' where it is elsewhere."""
  relation = f'{{{_OFFICE}/officeDocument/2006/relationships}}id'
  with zipfile.ZipFile(path) as parts:
    try:
      book = ElementTree.fromstring(parts.read('xl/workbook.xml'))
      links = ElementTree.fromstring(parts.read('xl/_rels/workbook.xml.rels'))
      key = next(e.get(relation) for e in book.iter() if e.get('name') == sheet)
      target = next(e.get('Target', '') for e in links if e.get('Id') == key)
      return parts.read(
        posixpath.normpath(posixpath.join('/xl', target))[1:]
      ).decode()
    except (KeyError, StopIteration):
      return ''
