"""Files of any length, some rows at a time."""

import gzip
import json

import pandas as pd
import pytest
from checks import assert_refused

from genre2_jax.data import pieces
from genre2_jax.data.reading import Reading, read_frame


@pytest.fixture(autouse=True)
def small(monkeypatch):
  monkeypatch.setattr(pieces, '_LETTERS', 64)
  monkeypatch.setattr(pieces, '_CELLS', 12)


def lines(count, end='\n', quote=''):
  cells = (f'{i},{quote}b {i}{quote},{i / 4}' for i in range(count))
  return end.join(['n,label,x', *cells]) + end


def frames(folder, text, how='', name='t.csv', encoding='utf-8'):
  path = folder / name
  path.write_bytes(text.encode(encoding))
  how = Reading.parse(how)
  return list(pieces.read_pieces(path, how)), read_frame(path, how)


@pytest.mark.parametrize(
  ('text', 'how', 'encoding'),
  [
    (lines(40), '', 'utf-8'),
    (lines(40).rstrip('\n'), '', 'utf-8-sig'),
    (lines(40, '\r\n'), '', 'utf-8'),
    (lines(40, '\r'), '', 'utf-8'),
    (lines(40, quote='"'), '', 'utf-8'),
    (lines(40).replace('b ', 'ü "'), '', 'utf-8'),
    ('a title\n\n' + lines(40), 'skip_lines=1', 'utf-8'),
    (lines(40).replace(',', ';'), 'separator=;', 'utf-16'),
    (lines(40).replace('b', 'é'), 'encoding=cp1252', 'cp1252'),
    ('\n'.join(lines(40).split('\n')[1:]), 'header=none', 'utf-8'),
    (lines(40).replace('\n17', '\n\n17'), '', 'utf-8'),
  ],
)
def test_pieces_are_the_rows_of_the_whole(tmp_path, text, how, encoding):
  found, whole = frames(tmp_path, text, how, encoding=encoding)
  assert len(found) > 5
  joined = pd.concat(found, ignore_index=True)
  pd.testing.assert_frame_equal(joined, whole)


@pytest.mark.parametrize(
  ('text', 'how'),
  [
    (lines(40).replace('b 7', '"b\n7"'), ''),  # A cell of two lines.
    (lines(40).replace('b 7', '"b 7'), 'quotes=text'),
    (lines(40).replace('n,label', ',label'), ''),
  ],
)
def test_what_has_to_be_seen_whole_is_read_whole(tmp_path, text, how):
  (found,), whole = frames(tmp_path, text, how)
  pd.testing.assert_frame_equal(found, whole)


@pytest.mark.parametrize('name', ['t.jsonl', 't.jsonl.gz'])
def test_json_lines_have_the_columns_of_all(tmp_path, name):
  records = [
    {'n': i, 'label': f'b {i}'} | ({'x': i / 4} if i > 30 else {})
    for i in range(40)
  ]
  text = '\n'.join(map(json.dumps, records)).replace('b 7', '\\u00fc')
  opened = gzip.open if name.endswith('.gz') else open
  with opened(tmp_path / name, 'wt', encoding='utf-8-sig') as file:
    file.write(text.replace('\n', '\n\n', 5))
  found = list(pieces.read_pieces(tmp_path / name))
  whole = read_frame(tmp_path / name)
  assert len(found) > 5
  for frame in found:
    assert list(frame) == ['n', 'label', 'x']
    assert len(frame) < 10
  joined = pd.concat([frame.astype(object) for frame in found])
  pd.testing.assert_frame_equal(
    joined.reset_index(drop=True), whole.astype(object)
  )
  with opened(tmp_path / name, 'at') as file:
    file.write('\n{"n": 1, "n": 2}')
  parts = pieces.read_pieces(tmp_path / name)
  assert_refused(lambda: list(parts), "line 46: 'n' comes twice")


def test_pieces_do_not_grow_with_the_file(tmp_path):
  most = []
  for count in (100, 2000):
    path = tmp_path / f'{count}.csv'
    path.write_text(lines(count))
    most.append(max(map(len, pieces.read_pieces(path))))
    pd.read_csv(path).to_parquet(path.with_suffix('.parquet'))
    parts = pieces.read_pieces(path.with_suffix('.parquet'))
    assert max(map(len, parts)) == 4  # of three cells
  assert most[1] <= most[0]


def test_a_line_that_is_too_long_is_named_as_in_the_file(tmp_path):
  path = tmp_path / 't.csv'
  path.write_text(lines(40).replace('b 30', 'b,30'))
  assert_refused(
    lambda: list(pieces.read_pieces(path)), 'line 32 has 4 cells', "'n,label,x'"
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pieces, '_LETTERS', 10**6)
    assert_refused(lambda: list(pieces.read_pieces(path)), 'line 32 has 4')


def test_short_rows_are_counted_from_the_piece(tmp_path):
  path = tmp_path / 't.csv'
  path.write_text(lines(40).replace('30,b 30,7.5', '30'))
  with pytest.warns(UserWarning, match=r'after row \d+: fewer cells') as said:
    found = pd.concat(pieces.read_pieces(path), ignore_index=True)
  text = str(said[0].message)
  first = int(text.split('after row ')[1].split(':')[0])
  assert first + int(text.split('1 row: ')[1].split()[0]) == 31
  pd.testing.assert_frame_equal(
    found.iloc[[30]].isna() | (found.iloc[[30]] == ''),
    pd.DataFrame([[False, True, True]], columns=list(found), index=[30]),
  )


def test_blank_lines_alone_are_no_rows(tmp_path):
  path = tmp_path / 't.csv'
  path.write_text('n,label\n' + '\n' * 400)
  assert_refused(
    lambda: list(pieces.read_pieces(path)), str(path), 'no data rows'
  )


def test_damaged_gzip_is_said(tmp_path):
  path = tmp_path / 't.csv.gz'
  whole = gzip.compress(lines(400).encode())
  path.write_bytes(whole[:10] + b'\xff' * 400)  # There is no such block.
  assert_refused(
    lambda: list(pieces.read_pieces(path)), str(path), 'not those of gzip'
  )
