"""Frames of files of any length, some rows at a time.

CSV, TSV, JSONL and Parquet. What has to be seen whole to be read, is: quotation
marks that may be letters, columns without a name, other kinds of files.
"""

import contextlib
import dataclasses
import gzip
import pathlib
import zlib
from collections.abc import Iterator
from typing import TextIO

import pandas as pd

from genre2_jax.data import reading
from genre2_jax.data.reading import PLAIN, PathLike, Reading
from genre2_jax.data.wording import place_of
from genre2_jax.errors import InputError

# Letters of a text file, and cells of another one, that are read at once.
_LETTERS = 2**23
_CELLS = 2**20
_GZIPPED = 10  # times that a file grows, or thereabouts


def read_pieces(path: PathLike, how: Reading = PLAIN) -> Iterator[pd.DataFrame]:
  """The rows that `reading.read_frame` gives, in order, a frame of some of
  them after the other.

  Args:
    path: of the file.
    how: it is written.

  Raises:
    InputError: as `read_frame`, when the rows in question come.
  """
  path = reading.path_of(path)
  extension = reading.extension_of(path).lower()
  if extension in reading.PARQUET and path.is_file():
    yield from reading.parquet_pieces(path, _CELLS)
    return
  if extension in reading.JSON_LINES and _is_large(path, extension):
    yield from _of_json_lines(path, extension)
    return
  head = None
  if extension in reading.SEPARATORS and _is_large(path, extension):
    head = _head_of(path, extension, how)
  if head is None:
    yield reading.read_frame(path, how)
  else:
    yield from _of_text(path, extension, how, head)


def _is_large(path, extension):
  grows = _GZIPPED if extension.endswith('.gz') else 1
  return path.is_file() and path.stat().st_size * grows > _LETTERS


def _of_text(path, extension, how, head):
  separator = how.separator or reading.SEPARATORS[extension]
  names: list[str] | None = None
  num_rows = num_lines = 0
  with _opened(path, extension, how) as file:
    for text in _whole_lines(file):
      skipped, own = how.skip_lines, how
      if names is not None:
        # The line that has all cells says how many there are.
        text, skipped = head + text, num_lines - 1
        own = dataclasses.replace(how, skip_lines=0, header='first')
      num_lines += reading.count_lines(text) - (names is not None)
      where = place_of(path, num_rows)
      with reading.refusals(path, extension):
        frame = reading.frame_of_text(where, text, separator, own, skipped)
      if names is None:
        names = list(frame.columns)
        reading.refuse_duplicates(str(path), names)
      frame.columns = names
      num_rows += len(frame)
      if len(frame):
        yield frame
  if not num_rows:
    raise InputError(f'{path}: no data rows; at least one is needed')


def _of_json_lines(path, extension):
  # What columns there are is known once every line was seen.
  names: dict[str, None] = {}
  with contextlib.ExitStack() as held:
    with reading.refusals(path, extension):
      with reading.opened_json_lines(path) as file:
        for _, record in reading.json_records(file):
          names |= dict.fromkeys(record)
      file = held.enter_context(reading.opened_json_lines(path))
      rest = reading.json_records(file)
    is_first = True
    while True:
      records, letters = [], 0
      with reading.refusals(path, extension):
        while letters < _LETTERS and (found := next(rest, None)):
          letters += found[0]
          records.append(found[1])
        if not records and not is_first:
          return
        frame = reading.frame_of_records(records, list(names))
      yield reading.checked(path, frame)
      is_first = False


def _head_of(path, extension, how):
  """The line that tells columns; None where the file is to be read whole.

  Whatever is wrong with the file is said by whoever reads it whole.
  """
  separator = how.separator or reading.SEPARATORS[extension]
  head = None
  try:
    with _opened(path, extension, how) as file:
      for text in _whole_lines(file):
        if head is None:
          head = reading.first_line(text, how.skip_lines)
          cells = head.rstrip('\r\n').split(separator)
          if how.header == 'first' and not all(map(str.strip, cells)):
            return None
        if '\0' in text or not reading.is_plain(text, head, separator, how):
          return None
  except (OSError, EOFError, LookupError, ValueError, zlib.error):
    return None
  return head


@contextlib.contextmanager
def _opened(
  path: pathlib.Path, extension: str, how: Reading
) -> Iterator[TextIO]:
  is_zipped = extension.endswith('.gz')
  with (gzip.open if is_zipped else open)(path, 'rb') as file:
    encoding = how.encoding or reading.encoding_of(file.read(4))
  with (gzip.open if is_zipped else open)(
    path, 'rt', encoding=encoding, newline=''
  ) as file:
    yield file


def _whole_lines(file: TextIO) -> Iterator[str]:
  """The text, cut at ends of lines."""
  rest, is_first = '', True
  while letters := file.read(_LETTERS):
    if is_first:
      letters, is_first = letters.removeprefix('\ufeff'), False
    text = rest + letters
    # A carriage return at the end may be half of an end.
    end = max(text.rfind('\n'), text.rfind('\r', 0, -1)) + 1
    if end:
      yield text[:end]
    rest = text[end:]
  if rest:
    yield rest
