"""TALENT folders: what is published loads, what is hostile is refused."""

import io
import json
import os
import pathlib
import pickle
import struct

import numpy as np
import pytest
from checks import assert_refused

from genre2_jax.data import talent

SHARED = pathlib.Path(__file__).parents[3] / 'shared/data/talent'
SIZES = {'train': 6, 'val': 3, 'test': 2}


def _object_bytes(pickled: bytes, shape: tuple[int, ...]) -> bytes:
  """A .npy file that announces objects [*shape] and holds this pickle."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    file, {'descr': '|O', 'fortran_order': False, 'shape': shape}
  )
  return file.getvalue() + pickled


def _write_task(root, name='task', info=None, **arrays) -> pathlib.Path:
  """Folder of constant size; arrays: part → function of the row count."""
  folder = root / name
  folder.mkdir()
  (folder / 'info.json').write_text(
    json.dumps(info or {'task_type': 'regression'})
  )
  parts = {
    'N': lambda n: np.arange(2.0 * n).reshape(n, 2),
    'C': lambda n: np.array([['a', 1], ['b', 2]] * n, object)[:n],
    'y': lambda n: np.arange(n, dtype=np.uint8),
  } | arrays
  for part, make in parts.items():
    for split, n in SIZES.items():
      if make is not None:
        np.save(folder / f'{part}_{split}.npy', make(n), allow_pickle=True)
  return folder


class Marker:
  """Leaves a file when an ordinary pickle.load rebuilds it."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_loads_what_is_published(tmp_path):
  cells = np.array(
    [
      ['a', 1, None, np.str_('u')],
      ['b', 2.0, np.nan, ''],
      ['nan', np.int64(3), 2.5, np.float32(4)],
    ],
    object,
  )
  info = {
    'task_type': 'regression',
    'num_features': ['p', 'q'],
    'cat_features': ['too', 'few'],
    'num_feature_intro': {},
  }
  _write_task(tmp_path, info=info, C=lambda n: cells[np.arange(n) % 3])
  table = talent.load(tmp_path, 'task')
  assert table.numeric_names == ('p', 'q')
  assert table.category_names == ('C_0', 'C_1', 'C_2', 'C_3')
  assert table.train.categories[:3].tolist() == [
    ['a', '1', None, 'u'],
    ['b', '2', None, None],
    [None, '3', '2.5', '4'],
  ]
  assert [len(rows) for rows in (table.train, table.val, table.test)] == [
    6,
    3,
    2,
  ]
  assert table.train.target.dtype == np.float64
  assert table.train.target.tolist() == [0, 1, 2, 3, 4, 5]
  assert table.train.numeric.dtype == np.float64


def test_uint8_target_is_float_before_arithmetic(tmp_path):
  _write_task(tmp_path, y=lambda n: np.full((n, 1), 250, np.uint8))
  target = talent.load(tmp_path, 'task').train.target
  assert target.shape == (6,)
  assert (target + target).tolist() == [500.0] * 6


@pytest.mark.parametrize('absent', ['N', 'C'])
def test_one_kind_of_feature_suffices(tmp_path, absent):
  _write_task(tmp_path, **{absent: None})
  table = talent.load(tmp_path, 'task')
  shapes = {
    'N': table.train.numeric.shape,
    'C': table.train.categories.shape,
  }
  assert shapes == {'N': (6, 2), 'C': (6, 2)} | {absent: (6, 0)}


def test_numeric_objects_and_text(tmp_path):
  row = [1, 2.5, None, np.nan, True, '7', np.float32(0.5)]
  _write_task(tmp_path, N=lambda n: np.array([row] * n, object))
  numeric = talent.load(tmp_path, 'task').train.numeric
  np.testing.assert_array_equal(numeric[0], [1, 2.5, np.nan, np.nan, 1, 7, 0.5])
  _write_task(tmp_path, 'words', N=lambda n: np.array([[1, 'x']] * n, object))
  assert_refused(
    lambda: talent.load(tmp_path, 'words'), 'train', '6 rows: 1, 2, 3', 'text'
  )


@pytest.mark.parametrize('name', ['BNG(lowbwt)', 'wine+quality'])
def test_odd_names_are_valid(tmp_path, name):
  _write_task(tmp_path, name)
  assert talent.load(tmp_path, name).name == name


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('old', [False, True], ids=['numpy2', 'numpy1'])
@pytest.mark.parametrize('order', 'CF')
def test_pickle_of_every_protocol(tmp_path, protocol, old, order):
  scalars = [np.str_('é'), np.str_(''), np.bool_(True), np.uint8(200)]
  scalars += [np.int64(-5), np.float64(1.5), np.float16(0.5), np.array('>')[()]]
  plain = ['ä\0x', '', -(10**20), 2.5, None, False, 'ä\0x', 3]
  array = np.array([scalars, plain], object, order=order)
  pickled = pickle.dumps(array, protocol)
  if old:
    if protocol >= 4:  # The name's length precedes it.
      pickled = pickled.replace(
        b'\x16numpy._core.multiarray', b'\x15numpy.core.multiarray'
      )
      frame = struct.pack('<Q', len(pickled) - 11)
      pickled = pickled[:3] + frame + pickled[11:]
    else:
      pickled = pickled.replace(b'numpy._core', b'numpy.core')
    assert b'_core' not in pickled
  path = tmp_path / 'C.npy'
  path.write_bytes(_object_bytes(pickled, array.shape))
  read = talent.read_array(path)
  assert read.tolist() == [
    ['é', '', True, 200, -5, 1.5, 0.5, '>'],
    plain,
  ]
  assert {type(cell) for cell in read.ravel()} <= {
    *(str, int, float, bool, type(None))
  }


def test_big_endian_scalar(tmp_path):
  scalar = np.array([1.5], '>f8').astype(object)
  scalar[0] = np.array(1.5, '>f8')[()]
  pickled = pickle.dumps(scalar, 4)
  little, big = struct.pack('<d', 1.5), struct.pack('>d', 1.5)
  assert pickled.count(little) == 1
  # '<' is the order of the scalar alone; the array's is '|'.
  pickled = pickled.replace(little, big).replace(b'\x8c\x01<', b'\x8c\x01>')
  path = tmp_path / 'C.npy'
  path.write_bytes(_object_bytes(pickled, (1,)))
  assert talent.read_array(path).tolist() == [1.5]


@pytest.mark.parametrize('file', ['C_train', 'N_val', 'y_test'])
@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('nested', [False, True], ids=['whole', 'nested'])
def test_pickled_code_does_not_run(tmp_path, file, protocol, nested):
  folder = _write_task(tmp_path)
  marker = tmp_path / 'marker'
  bomb = Marker(marker)
  content = np.array([['a', 'b'], ['c', [bomb]]], object) if nested else bomb
  pickled = pickle.dumps(content, protocol)
  (folder / f'{file}.npy').write_bytes(_object_bytes(pickled, (2, 2)))
  assert_refused(
    lambda: talent.load(tmp_path, 'task'), f'{file}.npy', f'{os.name}.mkdir'
  )
  assert not marker.exists()
  # The same bytes do run where nothing holds them.
  pickle.loads(pickled)
  assert marker.exists()


@pytest.mark.parametrize(
  'name',
  [
    *('builtins eval', 'builtins getattr', 'builtins exec', '__builtin__ eval'),
    *('numpy load', 'numpy.ndarray tofile', 'numpy fromfile', 'codecs open'),
    *(
      '_codecs lookup',
      'numpy.core.multiarray fromfile',
      'operator attrgetter',
    ),
    *('numpy dtype.__class__', 'functools partial', 'copyreg _reconstructor'),
  ],
)
@pytest.mark.parametrize('stacked', [False, True], ids=['GLOBAL', 'STACK'])
def test_no_other_global(tmp_path, name, stacked):
  module, attribute = name.split()
  if stacked:
    short = [
      b'\x8c' + bytes([len(part)]) + part.encode()
      for part in (module, attribute)
    ]
    pickled = b'\x80\x04' + b''.join(short) + b'\x93.'
  else:
    pickled = f'c{module}\n{attribute}\n.'.encode()
  path = tmp_path / 'C.npy'
  path.write_bytes(_object_bytes(pickled, (1,)))
  assert_refused(
    lambda: talent.read_array(path), str(path), f'{module}.{attribute}'
  )


@pytest.mark.parametrize(
  'pickled',
  [
    # A real dtype would take forged flags from this state, and numpy would
    # then read the bytes as pointers.
    b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt'
    b'C\x01btR(I1\n(I1\ntcnumpy\ndtype\n(VO8\nI00\nI01\ntR(I3\nV|\n'
    b'NNNI-1\nI-1\nI0\ntbI00\nC\x08AAAAAAAAtb.',
    b'cnumpy\ndtype\n}Vcode\nVx\nsb.',
    b'c__builtin__\nbytes\n(I999999999999\ntR.',
    b'cnumpy.core.multiarray\nscalar\n(Va\nVb\ntR.',
    pickle.dumps([1]),
    pickle.dumps('a'),
    pickle.dumps({'a': 1}),
    pickle.dumps(np.array([1.0])),  # no objects
    pickle.dumps(np.array([np.bytes_(b'x')], object)),
    pickle.dumps(np.array([np.datetime64('2020-01-01')], object)),
    pickle.dumps(np.array([np.void(b'x')], object)),
    pickle.dumps(np.array([(1,), None], object)[:1]),
    pickle.dumps(np.array(['a'], object))[:-9],
    b'\x96' + b'\xff' * 7 + b'\x7f.',
    b'\x80\x04\x95' + b'\xff' * 7 + b'\x7fN.',
    b'\x82\x01.',
    b'Vid\nP.',
    b'(' * 100_000 + b'.',
    b'',
    b'.',
  ],
)
def test_hostile_or_damaged_pickles(tmp_path, pickled):
  path = tmp_path / 'C.npy'
  path.write_bytes(_object_bytes(pickled, (1,)))
  assert_refused(lambda: talent.read_array(path), str(path))


@pytest.mark.parametrize(
  ('pickled', 'part'),
  [
    (b'cnumpy\ndtype\n(N}V_function\nNstb.', 'alters a function'),
    (b'c_codecs\nencode\n(Va\nVrot13\ntR.', 'unknown form'),
    (b'c_codecs\nencode\n(Va\nVutf-8\ntR.', 'unknown form'),
    # The memo of this entry would take 32 GiB.
    (b'Nr\xff\xff\xff\x7f.', 'forged index'),
    (pickle.dumps(np.array([1, 2], object)), 'announces'),
    (pickle.dumps(np.array([2**1100], object)), 'beyond float64'),
  ],
)
def test_hostile_pickles_fail_for_their_own_reason(tmp_path, pickled, part):
  path = tmp_path / 'C.npy'
  path.write_bytes(_object_bytes(pickled, (1,)))
  assert_refused(lambda: talent.read_array(path), part)


@pytest.mark.parametrize(
  'listed', [['p', 'p'], ['p'], ['p', 1], {'p': 1}, 'pq']
)
def test_names_that_do_not_fit_are_replaced(tmp_path, listed):
  info = {'task_type': 'regression', 'num_features': listed}
  _write_task(tmp_path, info=info)
  assert talent.load(tmp_path, 'task').numeric_names == ('N_0', 'N_1')


def test_cells_may_not_be_containers(tmp_path):
  cells = np.empty(2, object)
  cells[:] = ['a', None]
  cells[1] = ['b']
  path = tmp_path / 'C.npy'
  np.save(path, cells, allow_pickle=True)
  assert_refused(lambda: talent.read_array(path), str(path), 'list')
  cells[1] = np.array(['b'], object)
  np.save(path, cells, allow_pickle=True)
  assert_refused(lambda: talent.read_array(path), str(path), 'Array')


def _npy(descr: str, shape: str, data: bytes = b'') -> bytes:
  header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"
  size = struct.pack('<H', len(header))
  return b'\x93NUMPY\x01\x00' + size + header.encode('latin1') + data


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'garbage',
    b'\x93NUMPY',
    b'\x93NUMPY\x09\x00' + b'\0' * 80,
    b'\x93NUMPY\x02\x00\xff\xff\xff\xff{',
    b'PK\x03\x04' + b'\0' * 60,
    _npy("'<f8'", '(2,)', b'\0' * 15),
    _npy("'<f8'", '(2,)', b'\0' * 17),
    _npy("'<f8'", '(4000000000000,)', b'\0' * 8),
    _npy("'<f8'", '(4611686018427387904, 4)', b''),  # wraps to 0 in int64
    _npy("'<f8'", '(-1, -1)', b'\0' * 8),
    _npy("'<U0'", '(4000000000000,)'),
    _npy("'|V8'", '(1,)', b'\0' * 8),
    _npy("[('a', '<f8')]", '(1,)', b'\0' * 8),
    _npy("[('a', '|O')]", '(1,)', b'N.'),
    _npy("('<f8', (2,))", '(1,)', b'\0' * 16),
    _npy("'<M8[s]'", '(1,)', b'\0' * 8),
    _npy("'<c16'", '(1,)', b'\0' * 16),
    _npy("'|S1'", '(1,)', b'a'),
    _npy("__import__('os')", '(1,)', b'\0' * 8),
    _npy("'<f8'", '(' * 3000, b'\0' * 8),
    _npy("'<f8'", '(1,)' + ' ' * 20_000, b'\0' * 8),
  ],
)
def test_damaged_files(tmp_path, content):
  path = tmp_path / 'N.npy'
  path.write_bytes(content)
  assert_refused(lambda: talent.read_array(path), str(path))


@pytest.mark.parametrize(
  'dtype', ['?', 'u1', '<i8', '>i4', '<f2', '>f8', '<U3', '>U3']
)
def test_plain_arrays(tmp_path, dtype):
  path = tmp_path / 'N.npy'
  for array in (np.eye(3).astype(dtype), np.eye(3).astype(dtype).T[:, :2]):
    np.save(path, array)
    read = talent.read_array(path)
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
  'name', ['../outside', '/etc', '..', '.', '', 'a/b', 'a\\b', 'a\0b', 'task/']
)
def test_name_stays_under_root(tmp_path, name):
  root = tmp_path / 'root'
  root.mkdir()
  _write_task(tmp_path, 'outside')
  _write_task(root)
  assert_refused(lambda: talent.load(root, name), repr(name))


def test_missing_folders_name_near_ones(tmp_path):
  _write_task(tmp_path, 'wine+quality')
  assert_refused(
    lambda: talent.load(tmp_path, 'Wine_quality'), "mean 'wine+quality'?"
  )
  assert_refused(
    lambda: talent.load(tmp_path, 'zzz'), "there is 'wine+quality'"
  )
  assert_refused(
    lambda: talent.load(tmp_path / 'no', 'a'), str(tmp_path / 'no')
  )


@pytest.mark.parametrize(
  'content',
  [
    '{"task_type": "multiclass"}',
    '{}',
    '[]',
    '{"task_type"',
    '\xff',
    '[' * 100_000,
    None,
  ],
)
def test_info_must_say_regression(tmp_path, content):
  path = _write_task(tmp_path) / 'info.json'
  path.unlink()
  if content is not None:
    path.write_bytes(content.encode('latin1'))
  assert_refused(lambda: talent.load(tmp_path, 'task'), str(path))


@pytest.mark.parametrize(
  ('arrays', 'parts'),
  [
    ({'N': None, 'C': None}, ['no feature columns']),
    ({'y': None}, ['y_train.npy', 'missing']),
    ({'N': np.arange}, ['N_train.npy', '(6,)']),
    ({'N': lambda n: np.ones((n, n))}, ['val', '(3, 3)', '(3, 6)']),
    ({'C': lambda n: np.ones((n + 1, 2), 'U1')}, ['train', '7', '6']),
    ({'y': lambda n: np.arange(n + 1)}, ['train', '6', '7']),
    ({'y': lambda n: np.ones((n, 2, 2))}, ['target', '(6, 2, 2)']),
    ({'y': lambda n: np.ones(())}, ['single value']),
    ({'y': lambda n: np.array([1, np.nan] * n)[:n]}, ['3 rows: 2, 4, 6']),
    ({'y': lambda n: np.array([np.inf] + [0] * (n - 1))}, ['1 row: 1']),
    ({'y': lambda n: np.array(['1', 'x'] * n)[:n]}, ['text', '3 rows: 2, 4']),
    (dict.fromkeys('NC', lambda n: np.ones((0, 2)))
     | {'y': lambda n: np.ones(0)}, ['train', 'no rows']),
  ],
)  # fmt: skip
def test_arrays_that_do_not_fit(tmp_path, arrays, parts):
  _write_task(tmp_path, **arrays)
  assert_refused(lambda: talent.load(tmp_path, 'task'), 'task', *parts)


def test_a_split_may_not_lack_a_file(tmp_path):
  folder = _write_task(tmp_path)
  (folder / 'C_val.npy').unlink()
  assert_refused(lambda: talent.load(tmp_path, 'task'), 'C_val.npy', 'missing')


def test_constant_target_and_empty_columns_load(tmp_path):
  _write_task(tmp_path, y=np.ones, N=lambda n: np.full((n, 2), np.nan))
  table = talent.load(tmp_path, 'task')
  assert table.train.target.tolist() == [1.0] * 6
  assert np.isnan(table.test.numeric).all()


@pytest.mark.skipif(not SHARED.is_dir(), reason='no ../shared/data/talent')
def test_real_tasks():
  names = sorted(path.name for path in SHARED.iterdir() if path.is_dir())
  assert len(names) > 40
  for name in names:
    table = talent.load(SHARED, name)
    info = json.loads((SHARED / name / 'info.json').read_text())
    for split in SIZES:
      rows = getattr(table, split)
      assert len(rows) == info[f'{split}_size'], (name, split)
      assert rows.numeric.shape[1] == info['n_num_features'], name
      assert rows.categories.shape[1] == info['n_cat_features'], name
    assert list(table.numeric_names) == info['num_features'], name
    assert list(table.category_names) == info['cat_features'], name


@pytest.mark.skipif(not SHARED.is_dir(), reason='no ../shared/data/talent')
def test_real_categories_pickled_read_alike(tmp_path):
  source, folder = SHARED / 'Moneyball', tmp_path / 'Moneyball'
  folder.mkdir()
  for path in source.iterdir():
    if path.name.startswith('C_'):
      cells = np.load(path).astype(object)
      cells[cells == 'nan'] = np.nan
      np.save(folder / path.name, cells, allow_pickle=True)
    else:
      (folder / path.name).write_bytes(path.read_bytes())
  plain = talent.load(SHARED, 'Moneyball')
  pickled = talent.load(tmp_path, 'Moneyball')
  assert None in plain.train.categories.ravel().tolist()
  for split in SIZES:
    np.testing.assert_array_equal(
      getattr(plain, split).categories, getattr(pickled, split).categories
    )
