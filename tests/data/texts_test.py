"""Texts from every source, as prompts, and as subword ids."""

import dataclasses
import gzip
import io
import json
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import tiny_text
from checks import assert_refused

from genre2_jax.data import (
  pieces,
  prompts,
  stored,
  subwords,
  tables,
  targets,
  text_sources,
  texts,
)
from genre2_jax.data.reading import Reading
from genre2_jax.data.subwords import TextFeatures
from genre2_jax.data.texts import Choice, split_at_random
from genre2_jax.data.wording import DataWarning

SHARED = pathlib.Path(__file__).parents[3] / 'shared/data/text'
CHOICE = Choice(prompt=tiny_text.PROMPT, target='stars')


def choice(**fields):
  return Choice(**{'prompt': tiny_text.PROMPT, 'target': 'stars'} | fields)


@pytest.fixture
def file(tmp_path):
  return tiny_text.write_json_lines(
    tmp_path / 'reviews.jsonl', tiny_text.reviews(50)
  )


def everything(task):
  """(text, target) of all splits, sorted."""
  return sorted(
    pair
    for rows in (task.train, task.val, task.test)
    for pair in zip(rows.text, rows.target, strict=True)
  )


# ---------------------------------------------------------------------- files


@pytest.fixture
def large(monkeypatch):
  """Files are read some rows at a time, and arrays lie in files."""
  monkeypatch.setattr(pieces, '_LETTERS', 500)
  monkeypatch.setattr(pieces, '_CELLS', 12)
  monkeypatch.setattr(stored, 'LARGE', 300)


def odd_frame():
  """Rows whose cells are of other types further down."""
  rows = tiny_text.reviews(60)
  frame = pd.DataFrame(rows)
  frame['stars'] = frame['stars'].astype(object)
  frame.loc[40:, 'stars'] = [3.5, *range(19)]
  frame['votes'] = [*range(30), *[None] * 10, *np.arange(20) / 4]
  frame['many'] = [2**60 + i for i in range(60)]
  frame['split'] = (['train'] * 3 + ['dev', 'Test']) * 12
  frame['count'] = [0, 1, 2] * 20
  return frame


@pytest.mark.filterwarnings('ignore:.*rows of weight 0')
@pytest.mark.parametrize('name', ['t.jsonl', 't.csv', 't.parquet'])
@pytest.mark.parametrize(
  'fields',
  [
    {'split_column': ''},
    {'split_column': '', 'max_rows': (20, 5, 7), 'weight': 'count'},
    {'drop_empty': True, 'weight': 'count', 'second': '{many}'},
    {'drop_empty': True, 'prompt': '{votes} {review}', 'rationale': 'r {many}'},
  ],
)
def test_texts_that_lie_in_files_are_the_same(tmp_path, name, fields, request):
  frame, path = odd_frame(), tmp_path / name
  if name == 't.jsonl':
    lines = [
      json.dumps({k: x for k, x in row.items() if x == x})
      for row in frame.astype(object).to_dict('records')
    ]
    path.write_text('\n'.join(lines))
  elif name == 't.csv':
    frame.to_csv(path, index=False)
  else:
    frame['stars'] = frame['stars'].astype(float)
    frame.to_parquet(path, index=False)
  expected = texts.read(path, choice(**fields))
  request.getfixturevalue('large')
  found = texts.read(path, choice(**fields))
  for split in tables.SPLITS:
    rows, whole = getattr(found, split), getattr(expected, split)
    assert isinstance(rows.text, stored.StoredStrings)
    assert isinstance(whole.text, np.ndarray)
    for own in ('text', 'second', 'rationale'):
      if getattr(whole, own) is None:
        assert getattr(rows, own) is None
      else:
        assert getattr(rows, own).tolist() == getattr(whole, own).tolist()
    np.testing.assert_array_equal(rows.target, whole.target)
    np.testing.assert_array_equal(rows.weight, whole.weight)
    assert b''.join(rows.cells()) == b''.join(whole.cells())
  assert texts.describe(found) == texts.describe(expected)


def test_subwords_of_stored_texts_are_the_same(
  tmp_path, tokenizer, file, request
):
  def inputs(kind):
    task = texts.read(file, CHOICE)
    features = kind(task)
    return features, features.transform(task.train)

  def prompts(task):
    return TextFeatures.fit(task, tokenizer, max_length=64, cache='none')

  def kept(task):
    folder = str(tmp_path / 'cache')
    return TextFeatures.fit(task, tokenizer, max_length=64, cache=folder)

  def sentences(task):
    return subwords.SentenceFeatures.fit_texts(task, tokenizer, max_length=64)

  expected = [inputs(kind) for kind in (prompts, kept, sentences)]
  request.getfixturevalue('large')
  shutil.rmtree(tmp_path / 'cache')
  found = [inputs(kind) for kind in (prompts, kept, kept, sentences)]
  expected.insert(2, expected[1])
  for (features, own), (other, whole) in zip(found, expected, strict=True):
    assert features == other
    np.testing.assert_equal(own, whole)
    assert isinstance(own['tokens'].base, np.memmap)


def test_what_is_wrong_with_pieces_is_said_as_of_the_whole(tmp_path, large):
  frame = odd_frame()
  path = tmp_path / 't.csv'
  frame.loc[[41, 55], 'review'] = ''
  frame.to_csv(path, index=False)
  assert_refused(
    lambda: texts.read(path, choice(split_column='')),
    'empty text in 2 rows: 42, 56',
  )
  frame['stars'] = [*range(59), 'many']
  frame.to_csv(path, index=False)
  plain = choice(split_column='', drop_empty=True)
  assert_refused(lambda: texts.read(path, plain), 'stars', 'many')
  for field in ('target', 'weight', 'rationale'):
    absent = choice(**{field: '{nope}' if field == 'rationale' else 'nope'})
    assert_refused(lambda own=absent: texts.read(path, own), "'nope'")
  path = tmp_path / 't.jsonl'
  path.write_text('{"review": "a", "stars": 1}\n' * 40 + '{"review": }')
  assert_refused(lambda: texts.read(path, CHOICE), 'line 41 is no JSON')


def test_a_file_is_split_at_random(file):
  task = texts.read(file, CHOICE)
  assert [len(s) for s in (task.train, task.val, task.test)] == [32, 8, 10]
  rows = tiny_text.reviews(50)
  assert everything(task) == sorted(
    (f'Review: {row["review"]} Stars: ', row['stars']) for row in rows
  )
  again = texts.read(file, CHOICE)
  assert again.train.text.tolist() == task.train.text.tolist()
  other = texts.read(file, choice(seed=1))
  assert other.train.text.tolist() != task.train.text.tolist()
  assert 'stars, 1 to 5' in texts.describe(task)


@pytest.mark.parametrize('extension', ['csv', 'tsv', 'jsonl.gz', 'parquet'])
def test_every_format_reads_alike(file, tmp_path, extension):
  frame = pd.DataFrame(tiny_text.reviews(50))
  path = tmp_path / f'same.{extension}'
  if extension == 'parquet':
    frame.to_parquet(path)
  elif extension == 'jsonl.gz':
    path.write_bytes(gzip.compress(file.read_bytes()))
  else:
    separator = ',' if extension == 'csv' else '\t'
    frame.to_csv(path, index=False, sep=separator)
  expected = texts.read(file, CHOICE)
  got = texts.read(path, CHOICE)
  assert got.train.text.tolist() == expected.train.text.tolist()
  assert got.test.target.tolist() == expected.test.target.tolist()


def test_a_split_column_says_where_a_row_goes(file, tmp_path):
  rows = tiny_text.reviews(6)
  names = ['train', 'Training', 'dev', 'test', 'validation', 'train']
  for row, name in zip(rows, names, strict=True):
    row['split'] = name
  path = tiny_text.write_json_lines(tmp_path / 's.jsonl', rows)
  task = texts.read(path, CHOICE)
  assert [len(s) for s in (task.train, task.val, task.test)] == [3, 2, 1]
  random = texts.read(path, choice(split_column=''))
  assert len(random.test) == 2
  rows[0]['split'] = 'extra'
  tiny_text.write_json_lines(path, rows)
  assert_refused(lambda: texts.read(path, CHOICE), "'extra'", 'split_column')


def test_a_folder_has_a_file_for_each_split(tmp_path):
  for name in ('train.jsonl', 'dev.jsonl', 'test.jsonl'):
    tiny_text.write_json_lines(tmp_path / name, tiny_text.reviews(5))
  (tmp_path / 'README.md').write_text('not data')
  task = texts.read(tmp_path, CHOICE)
  assert [len(s) for s in (task.train, task.val, task.test)] == [5, 5, 5]
  # Without a test set validation rows test, and a fifth of train validates.
  (tmp_path / 'test.jsonl').unlink()
  task = texts.read(tmp_path, CHOICE)
  assert [len(s) for s in (task.train, task.val, task.test)] == [4, 1, 5]
  tiny_text.write_json_lines(tmp_path / 'val.jsonl', tiny_text.reviews(5))
  assert_refused(lambda: texts.read(tmp_path, CHOICE), 'two files for val')
  (tmp_path / 'train.jsonl').unlink()
  (tmp_path / 'val.jsonl').unlink()
  assert_refused(lambda: texts.read(tmp_path, CHOICE), 'no train')


def test_rows_are_limited(file):
  exact = texts.read(file, choice(max_rows=(20, 5, 7)))
  assert [len(exact.train), len(exact.val), len(exact.test)] == [20, 5, 7]
  some = texts.read(file, choice(max_rows=(20, 0, 0)))
  assert [len(some.train), len(some.val), len(some.test)] == [20, 8, 10]


@pytest.mark.parametrize(
  ('change', 'fields', 'words'),
  [
    ({}, {'prompt': 'no column'}, ['names no column']),
    ({}, {'prompt': 'a {review'}, ["'{'", 'character 3']),
    ({}, {'prompt': '{reviw}'}, ["'reviw'", "mean 'review'"]),
    ({}, {'prompt': '{stars} {review}'}, ['shows the target']),
    ({}, {'target': 'star'}, ["'star'", "mean 'stars'"]),
    ({3: {'review': '  '}, 4: {'review': None}}, {}, ['empty text in 2 rows: 4, 5', 'drop_empty']),  # noqa: E501
    ({2: {'stars': None}}, {}, ['1 row: 3']),
    ({2: {'stars': 'many'}}, {}, ['1 row: 3']),
  ],
)  # fmt: skip
def test_bad_rows_are_refused_by_number(tmp_path, change, fields, words):
  rows = tiny_text.reviews(10)
  for row, cells in change.items():
    rows[row].update(cells)
  path = tiny_text.write_json_lines(tmp_path / 'bad.jsonl', rows)
  assert_refused(lambda: texts.read(path, choice(**fields)), *words)


def test_rows_without_text_are_left_out_on_demand(tmp_path):
  rows = tiny_text.reviews(10)
  rows[3]['review'] = ''
  path = tiny_text.write_json_lines(tmp_path / 'bad.jsonl', rows)
  task = texts.read(path, choice(drop_empty=True))
  assert len(everything(task)) == 9


def test_damaged_lines_are_named(tmp_path):
  path = tmp_path / 'bad.jsonl'
  path.write_text('{"review": "a", "stars": 1}\n{"review":\n')
  assert_refused(lambda: texts.read(path, CHOICE), 'bad.jsonl', 'line 2')


def test_a_template_fills_in_columns_as_they_are():
  frame = pd.DataFrame({'a b': ['{x} ', 'None'], 'n': [1.0, 2.5]})
  filled = prompts.render(frame, '{{{a b}}}:{n}{n}')
  assert filled.tolist() == ['{{x} }:11', '{None}:2.52.5']


def test_rows_to_predict_need_no_target(file, tmp_path):
  rows = texts.read_rows(file, prompt=tiny_text.PROMPT)
  assert rows.target is None and len(rows) == 50
  assert rows.text[0] == f'Review: {tiny_text.reviews(1)[0]["review"]} Stars: '
  assert_refused(lambda: texts.read_rows(file, prompt='{other}'), "'other'")


# -------------------------------------------------------------- sets by name


def test_the_synthetic_set_is_its_formula():
  task = text_sources.synthetic(Choice(prompt='{x}', target='y'))
  assert [len(task.train), len(task.val), len(task.test)] == [
    10_000, 1_000, 1_000,
  ]  # fmt: skip
  x = np.concatenate(
    [np.array(s.text, float) for s in (task.train, task.val, task.test)]
  )
  y = np.concatenate([s.target for s in (task.train, task.val, task.test)])
  raw = x + 10 * np.sin(np.pi * x / 20) + 10 * np.cos(3 * np.pi * x / 50)
  np.testing.assert_allclose(
    y, 9 * (raw - raw.min()) / (raw.max() - raw.min()), atol=1e-12
  )
  assert (y.min(), y.max()) == (0, 9) and 0 <= x.min() and x.max() <= 100


def write_movielens(folder):
  (folder / 'users.dat').write_text('1::F::25::12::48067\n2::M::56::0::9\n')
  (folder / 'movies.dat').write_bytes(
    "7::Amélie (2001)::Comedy|Romance\n8::It's: a film::Drama\n".encode(
      'latin-1'
    )
  )
  ratings = [f'{1 + i % 2}::{7 + i % 3 % 2}::{1 + i % 5}::9' for i in range(10)]
  (folder / 'ratings.dat').write_text('\n'.join(ratings) + '\n')


def test_movielens_joins_its_three_files(tmp_path):
  write_movielens(tmp_path)
  task = text_sources.load_movielens(
    tmp_path,
    Choice(prompt='{gender} {age} {occupation}: {title}, {genres}',
           target='rating'),
  )  # fmt: skip
  said = {text for text, _ in everything(task)}
  assert len(everything(task)) == 10
  assert 'female 25-34 programmer: Amélie (2001), Comedy, Romance' in said
  assert "male 56 or older other: It's: a film, Drama" in said
  (tmp_path / 'ratings.dat').write_text('1::2\n')
  load = text_sources.load_movielens
  assert_refused(lambda: load(tmp_path, CHOICE), 'ratings.dat', '1 row: 1')
  (tmp_path / 'ratings.dat').unlink()
  assert_refused(lambda: load(tmp_path, CHOICE), 'ratings.dat', 'ml-1m')


def test_a_history_has_earlier_ratings_of_train_rows_only(tmp_path):
  """No rating of its own moment or later, and none that is asked for."""
  write_movielens(tmp_path)
  draw = np.random.RandomState(0)
  ratings = [
    (f'{1 + draw.randint(2)}', f'{7 + draw.randint(2)}',
     f'{1 + draw.randint(5)}', draw.randint(100, 130))
    for _ in range(60)
  ]  # fmt: skip
  (tmp_path / 'ratings.dat').write_text(
    ''.join('::'.join(map(str, row)) + '\n' for row in ratings)
  )
  titles = {'7': 'Amélie (2001)', '8': "It's: a film"}
  choice = Choice(
    prompt='{user}|{timestamp}|{title}|{history}',
    target='rating', max_rows=(40, 10, 10),
  )  # fmt: skip
  index = split_at_random(60, choice, '')
  task = text_sources.load_movielens(tmp_path, choice, history=3)
  train, longest = set(index['train'].tolist()), 0
  for split in ('train', 'val', 'test'):
    rows = getattr(task, split)
    assert len(rows) == len(index[split])
    for place, text in zip(index[split], rows.text, strict=True):
      user, movie, _, time = ratings[place]
      before = sorted(
        (other[3], number)
        for number, other in enumerate(ratings)
        if number in train and other[0] == user and other[3] < time
      )
      said = [f'{titles[ratings[n][1]]}: {ratings[n][2]}' for _, n in before]
      said = '; '.join(said[-3:]) or 'nothing'
      assert text == f'{user}|{time}|{titles[movie]}|{said}'
      longest = max(longest, len(before))
    expected = [float(ratings[n][2]) for n in index[split]]
    assert rows.target.tolist() == expected
  assert longest > 3
  alone = text_sources.load_movielens(
    tmp_path, dataclasses.replace(choice, prompt='{user}|{timestamp}')
  )
  np.testing.assert_array_equal(alone.test.target, task.test.target)
  assert_refused(
    lambda: text_sources.load_movielens(tmp_path, choice), 'history'
  )


def test_tfds_is_read_without_tensorflow(tmp_path):
  """A set that is prepared here, as array_record; features are nested."""
  tfds = pytest.importorskip('tensorflow_datasets')
  pytest.importorskip('array_record')

  class TinyReviews(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      row = {'review': tfds.features.Text(), 'stars': np.int32}
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict({'data': row})
      )

    def _split_generators(self, download_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i, row in enumerate(tiny_text.reviews(40)):
        yield i, {'data': row}

  folder = str(tmp_path)
  TinyReviews(data_dir=folder, file_format='array_record').download_and_prepare(
    download_config=tfds.download.DownloadConfig(register_checksums=False)
  )

  def load(*splits, **fields):
    return text_sources.load_tfds(
      'tiny_reviews', splits, choice(**fields), data_dir=folder
    )

  task = load('train[:50%]', 'train[50%:75%]', 'train[75%:]')
  assert [len(task.train), len(task.val), len(task.test)] == [20, 10, 10]
  assert everything(task) == sorted(
    (f'Review: {row["review"]} Stars: ', row['stars'])
    for row in tiny_text.reviews(40)
  )
  assert len(load('train').train) == 25
  few = load('train', max_rows=(5, 4, 3))
  assert [len(few.train), len(few.val), len(few.test)] == [5, 4, 3]
  assert_refused(lambda: load('train', 'train'), 'tfds_splits')
  assert_refused(
    lambda: text_sources.load_tfds(
      'no_such_set', ('train',), CHOICE, data_dir=folder
    ),
    'TFDS no_such_set', 'pip install tensorflow',
  )  # fmt: skip


# ------------------------------------------------------------------- subwords


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  pytest.importorskip('transformers')
  return str(tiny_text.write_tokenizer(tmp_path_factory.mktemp('tokenizer')))


@pytest.fixture
def fit(file, tokenizer, tmp_path):
  def make(**fields):
    fields = {'max_length': 64, 'cache': str(tmp_path / 'cache')} | fields
    task = texts.read(file, CHOICE)
    return task, TextFeatures.fit(task, tokenizer, **fields)

  return make


def test_prompts_become_padded_subwords(fit, tokenizer):
  task, features = fit()
  inputs = features.transform(task.train)
  model = subwords.load_tokenizer(tokenizer)
  assert inputs['tokens'].shape == (32, features.widths[-1])
  for row, length, text in zip(*inputs.values(), task.train.text, strict=True):
    assert row[0] == model.bos_token_id
    assert model.decode(row[1:length]) == text
    assert (row[length:] == 0).all()
  shapes = {k: v.shape[1:] for k, v in inputs.items()}
  example = features.example_inputs()
  assert shapes == {k: v.shape[1:] for k, v in example.items()}


def test_texts_are_tokenised_once(fit, tmp_path, monkeypatch):
  task, features = fit()
  expected = features.transform(task.val)
  files = sorted((tmp_path / 'cache').iterdir())
  assert len(files) == 3

  def fail(name):
    raise AssertionError('tokenised again')

  with monkeypatch.context() as patch:
    patch.setattr(subwords, 'load_tokenizer', fail)
    again = features.transform(task.val)
  np.testing.assert_equal(again, expected)
  # Whatever is wrong with a file, it is made again.
  for path in files:
    path.unlink()
  features.transform(task.val)
  (path,) = (tmp_path / 'cache').iterdir()
  whole = path.read_bytes()
  foreign = io.BytesIO()
  np.save(foreign, np.load(path)[:-1])
  for damage in (b'', b'\x93NUMPY torn', whole[:-30], foreign.getvalue()):
    path.write_bytes(damage)
    np.testing.assert_equal(features.transform(task.val), expected)
    assert path.read_bytes() == whole
  assert list((tmp_path / 'cache').iterdir()) == [path]


def test_texts_are_tokenised_by_letters_and_by_number(monkeypatch):
  texts_ = ['a' * 4, 'b' * 9, 'c' * 2, 'd', 'e']
  monkeypatch.setattr(subwords, '_LETTERS', 8)
  by_letters = [texts_[:2], texts_[2:]]
  assert list(subwords._parts_of(texts_)) == by_letters
  monkeypatch.setattr(subwords, '_BATCH', 2)
  assert list(subwords._parts_of(texts_)) == [texts_[:2], texts_[2:4], ['e']]
  assert list(subwords._parts_of([])) == []


def test_long_prompts_are_counted_or_truncated(fit):
  task, features = fit()
  whole = features.transform(task.train)
  assert_refused(
    lambda: fit(max_length=11), 'of 50 prompts', 'text.max_length=11',
    f'longest has {whole["length"].max()}', 'text.truncate',
  )  # fmt: skip
  for truncate in ('end', 'start'):
    _, cut = fit(max_length=11, truncate=truncate)
    inputs = cut.transform(task.train)
    assert inputs['tokens'].shape == (32, 11)
    for row, long, length in zip(
      inputs['tokens'], *whole.values(), strict=True
    ):
      kept = long[:length]
      if length > 11:
        kept = kept[:11] if truncate == 'end' else [kept[0], *kept[-10:]]
      assert row[row > 0].tolist() == list(kept)


def test_widths_follow_the_lengths(fit):
  task, one = fit()
  lengths = one.transform(task.train)['length']
  assert one.widths == (-(-max(lengths) // 8) * 8,)
  _, features = fit(num_buckets=2)
  assert features.widths[-1] == one.widths[-1]
  low, high = features.widths
  lengths = -(-np.array(lengths) // 8) * 8

  def padded(width):
    return np.where(lengths <= width, width, high).sum()

  assert padded(low) == min(padded(width) for width in set(lengths))
  # No more widths than save something.
  _, many = fit(num_buckets=50)
  assert set(many.widths) == {*lengths, high}


def test_features_are_read_back(fit, tokenizer):
  _, features = fit(num_buckets=2)
  assert TextFeatures.from_json(features.to_json()) == features
  for change in ({'fingerprint': 'x'}, {'widths': 3}, {'more': 1}):
    data = features.to_json() | change
    assert_refused(lambda d=data: TextFeatures.from_json(d), 'again' * (
      'fingerprint' not in change) or 'has changed')  # fmt: skip


def test_number_tokens_are_single_subwords_or_new(tokenizer):
  ids, first = subwords.number_subwords(tokenizer, list('0123456789.'))
  model = subwords.load_tokenizer(tokenizer)
  assert model.convert_ids_to_tokens(ids.tolist()) == list('0123456789.')
  assert not len(first)
  assert_refused(
    lambda: subwords.number_subwords(tokenizer, ['1', '10', '2']),
    "'10' is '1' + '0'", '1 of 3', 'new_tokens',
  )  # fmt: skip
  ids, first = subwords.number_subwords(tokenizer, ['10', '2', '25'], 500)
  assert ids[[0, 2]].tolist() == [500, 501]
  assert model.convert_ids_to_tokens([ids[1], *first.tolist()]) == [
    '2', '1', '2',
  ]  # fmt: skip


def test_a_missing_tokenizer_says_what_to_give(tmp_path):
  assert_refused(
    lambda: subwords.load_tokenizer(str(tmp_path / 'none')), 'no such folder'
  )
  assert_refused(lambda: subwords.load_tokenizer(str(tmp_path)), 'not loaded')


def test_nothing_is_said_of_a_missing_pytorch(tmp_path):
  pytest.importorskip('transformers')
  code = (
    'import os; from genre2_jax.data import subwords; before = dict(os.environ)'
    f'\ntry: subwords.load_tokenizer({str(tmp_path)!r})'
    '\nexcept ValueError: assert before == dict(os.environ)'
  )
  process = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert process.stderr == ''


# -------------------------------------------------------------------- targets


@pytest.mark.parametrize('normal', [False, True])
def test_quantiles_are_those_of_scikit_learn(normal):
  from sklearn.preprocessing import QuantileTransformer

  y = np.exp(np.random.RandomState(0).normal(size=300))
  new = np.concatenate([y, [-1.0, 1e9], np.linspace(0.1, 5, 50)])
  scaler = targets.QuantileScaler.fit(y, normal=normal)
  theirs = QuantileTransformer(
    n_quantiles=300, output_distribution='normal' if normal else 'uniform'
  ).fit(y[:, None])
  z = scaler.standardize(new)
  np.testing.assert_allclose(z, theirs.transform(new[:, None])[:, 0], atol=1e-6)
  np.testing.assert_allclose(
    scaler.restore(z), np.clip(new, y.min(), y.max()), rtol=1e-2, atol=1e-9
  )
  assert (scaler.low, scaler.high) == (z.min(), z.max())
  assert targets.from_json(scaler.to_json()) == scaler


def test_targets_that_many_rows_share_are_the_middle_of_their_step():
  y = np.array([1.0] * 10 + [2.0] * 30 + [3.0] * 20)
  scaler = targets.fit('quantile', y)
  rank = np.linspace(0, 1, 60)
  np.testing.assert_allclose(
    scaler.standardize([1, 2, 3]), [0, (rank[10] + rank[39]) / 2, 1]
  )
  np.testing.assert_allclose(scaler.restore(scaler.standardize(y)), y)


def test_a_target_in_its_own_unit_stays_as_it_is():
  y = np.array([1.0, 5.0, 2.0])
  scaler = targets.fit('none', y)
  assert scaler.standardize(y).tolist() == y.tolist()
  assert (scaler.low, scaler.high, scaler.mean, scaler.std) == (1, 5, 0, 1)
  assert targets.from_json(scaler.to_json()) == scaler
  constant = targets.fit('quantile', np.ones(4))
  assert constant.is_constant and constant.restore(0.3) == 1
  assert_refused(lambda: targets.fit('quantile', [1.0, np.nan]), 'not finite')


# ------------------------------------------------------------------ real sets


@pytest.mark.skipif(not SHARED.exists(), reason='needs the data beside')
def test_real_sets_are_read():
  prompt = '{sentence1} / {sentence2}'
  task = texts.read(SHARED / 'stsb', Choice(prompt=prompt, target='score'))
  assert [len(task.train), len(task.val), len(task.test)] == [5749, 1500, 1379]
  code = Choice(prompt='{input}', target='target')
  task = texts.read(SHARED / 'code/kernelbench_latency.jsonl', code)
  assert [len(task.train), len(task.val), len(task.test)] == [800, 100, 100]


def test_targets_that_float32_makes_one_are_refused_or_said():
  far = 1e9 + np.arange(1000.0)
  assert_refused(
    lambda: targets.fit('none', far), '1000 different', 'data.transform'
  )
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    z = targets.fit('standard', far).standardize(far)
    targets.fit('none', far - 1e9)
    targets.fit('standard', np.random.RandomState(0).normal(size=20_000))
  assert len(np.unique(z.astype(np.float32))) == 1000
  with pytest.warns(DataWarning, match='transform=quantile'):
    targets.fit('standard', np.append(np.arange(1000.0), 1e12))


def test_quotation_marks_take_no_rows(tmp_path):
  words = ['"one', 'two', '"three', 'four', 'five']
  path = tmp_path / 't.tsv'
  path.write_text(
    'text\ty\n' + ''.join(f'{w}\t{i}\n' for i, w in enumerate(words))
  )
  read = texts.read(path, Choice(prompt='{text}', target='y'))
  found = [*read.train.text, *read.val.text, *read.test.text]
  assert sorted(found) == sorted(words)
  rows = texts.read_rows(path, prompt='{text}')
  assert rows.text.tolist() == words


def test_texts_are_read_as_they_are_written(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  path = tmp_path / 't.csv'
  text = 'text;y\n' + ''.join(f'größer {i};{i},5\n' for i in range(9))
  path.write_bytes(text.encode('cp1252'))
  reading = Reading.parse('separator=; decimal=, encoding=cp1252')
  choice = Choice(prompt='{text}', target='y', reading=reading)
  read = texts.read('~/t.csv', choice)
  assert read.train.text[0].startswith('größer')
  assert (read.train.target % 1 == 0.5).all()
  rows = texts.read_rows('~/t.csv', prompt='{text}', reading=reading)
  assert len(rows) == 9
  assert_refused(
    lambda: texts.read(path, Choice(prompt='{text}', target='y')), 'cp1252'
  )


def test_prompts_keep_text_and_write_values_plainly(tmp_path):
  frame = pd.DataFrame(
    {
      'a': ['007', 'true', '1.0'],
      'b': [1.0, 2.5, 3.0],
      'c': [True, False, True],
    }
  )
  found = prompts.render(frame, '{a} {b} {c}').tolist()
  assert found == ['007 1 True', 'true 2.5 False', '1.0 3 True']
