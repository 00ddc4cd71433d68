"""Free text beside numbers and categories: from a frozen encoder to a run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny_bert
from checks import assert_refused
from tiny import TINY, TINY_REGRESSOR

from configs import base
from genre2_jax import DecodingRegressor, train
from genre2_jax.data import columns, doubts, tables
from genre2_jax.data.features import Features
from genre2_jax.data.wording import DataWarning
from genre2_jax.models import pairs, text_columns
from genre2_jax.models.text_columns import TextColumns
from genre2_jax.runs import finished, prediction

pytest.importorskip('transformers')
pytestmark = pytest.mark.usefixtures('quick_compiles')


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """A folder with an encoder and rows of text, a number and a category."""
  folder = tmp_path_factory.mktemp('home')
  tiny_bert.write_encoder(folder / 'encoder')
  frame = rows_of(120)
  frame.to_csv(folder / 'train.csv', index=False)
  return folder


def rows_of(count, seed=0):
  """A frame whose target hangs on one word of its text; some texts lack."""
  draw = np.random.RandomState(seed)
  text = np.array(tiny_bert.sentences(count, seed), object)
  size = draw.uniform(0, 1, count).round(3)
  good = np.array(['good' in words.split() for words in text])
  text[::13] = ''
  return pd.DataFrame(
    {
      'review': text,
      'size': size,
      'city': draw.choice(['Ulm', 'Rom'], count),
      'y': (3 * good + size + draw.normal(0, 0.05, count)).round(3),
    }
  )


@pytest.fixture(scope='module')
def run(home):
  """The workdir of a run on it."""
  config = base.get_config()
  config.update_from_flattened_dict(
    TINY
    | {
      'stages': ('pretrain',),
      'data.path': str(home / 'train.csv'),
      'data.target': 'y',
      'data.text_columns': 'review',
      'data.text_encoder': str(home / 'encoder'),
      'data.text_components': 5,
      'text.cache': str(home / 'cache'),
      'model.missing_features': True,
    }
  )
  return train.train_and_evaluate(config, home / 'run', verbose=0)


def test_a_run_reads_new_texts_by_its_encoder(run, home, tmp_path):
  """Of another order of columns, in a file; the same as one by one."""
  saved = json.loads((run / 'model.json').read_text())
  names = [f'review.{k}' for k in range(1, 6)]
  assert saved['features']['numeric_names'] == ['size', *names]
  # One indicator for what is missing, not one for each number.
  assert saved['features']['missing'] == [1]
  new = rows_of(9, seed=5)
  file = tmp_path / 'new.csv'
  new[['y', 'city', 'review', 'size']].to_csv(file, index=False)
  prediction.predict_file(run, file, tmp_path / 'out.csv')
  found = pd.read_csv(tmp_path / 'out.csv')
  assert (found['lower90'] <= found['upper90']).all()
  model = DecodingRegressor.load(run)
  values = model.predict(new.drop(columns='y'))
  np.testing.assert_allclose(values, found['prediction'], rtol=1e-5)
  # The text is what it looks at, too.
  other = new.assign(review=list(new['review'])[::-1])
  assert np.abs(model.predict(other) - values).max() > 1e-3
  told = json.loads((run / 'columns.json').read_text())['columns']
  (review,) = (c for c in told if c['name'] == 'review')
  assert review['kind'] == 'text' and review['missing']['train'] > 0
  shown = json.loads((run / 'importances.json').read_text())['importances']
  assert {c['column'] for c in shown} == {'review', 'size', 'city'}


def test_the_numbers_know_train_rows_only(home, run):
  saved = json.loads((run / 'model.json').read_text())
  texts = TextColumns.from_json(saved['texts'])
  table = tables.read_file(home / 'train.csv', 'y', text_columns=['review'])
  there = table.train.text[table.train.text[:, 0] != None, 0]  # noqa: E711
  vectors, _ = text_columns.sentence.embed(
    text_columns.sentence.read_encoder(str(home / 'encoder')), list(there)
  )
  np.testing.assert_allclose(texts.means[0], vectors.mean(0), atol=1e-6)
  centred = vectors - vectors.mean(0)
  components = np.array(texts.components[0])
  np.testing.assert_allclose(components @ components.T, np.eye(5), atol=1e-6)
  variances = np.linalg.eigvalsh(np.cov(centred.T, ddof=0))[::-1][:5]
  np.testing.assert_allclose(
    (centred @ components.T).var(0), variances, rtol=1e-4
  )
  again = texts.table(table)
  np.testing.assert_allclose(
    Features.from_json(saved['features']).means[1:],
    np.nanmean(again.train.numeric[:, 1:], 0),
    atol=1e-6,
  )


def test_an_encoder_that_is_gone_or_another_is_said_in_one_line(run, home):
  rows = rows_of(3).drop(columns='y')
  encoder, away = home / 'encoder', home / 'away'
  model = DecodingRegressor.load(run)
  encoder.rename(away)
  try:
    assert_refused(lambda: model.predict(rows), str(encoder), 'no such folder')
    tiny_bert.write_encoder(encoder, seed=1)
    assert_refused(lambda: model.predict(rows), str(encoder), 'has changed')
    shutil.rmtree(encoder)
  finally:
    away.rename(encoder)
  model.predict(rows)


@pytest.mark.slow
def test_the_estimator_reads_texts_and_keeps_them(home, tmp_path):
  frame = rows_of(60, seed=2)
  frame.loc[3, 'review'] = 'very ' * 40
  X, y = frame.drop(columns='y'), frame['y']
  model = DecodingRegressor(
    objective='ce',
    random_state=0,
    text_columns=['review'],
    text_encoder=str(home / 'encoder'),
    **TINY_REGRESSOR
    | {
      'config': {
        **TINY_REGRESSOR['config'],
        'text.cache': str(tmp_path / 'cache'),
        'data.text_components': 3,
      }
    },
  )
  with pytest.warns(DataWarning, match='1 texts are longer than the 12'):
    model.fit(X, y)
  values = model.predict(X)
  low, high = model.predict_interval(X).T
  assert (low <= high).all() and np.isfinite(values).all()
  assert model.n_features_in_ == 3
  model.save(tmp_path / 'saved')
  loaded = DecodingRegressor.load(tmp_path / 'saved')
  np.testing.assert_array_equal(loaded.predict(X), values)
  missing = X.assign(review=None)
  assert np.isfinite(loaded.predict(missing)).all()
  run = finished.open_run(tmp_path / 'saved')
  assert run.model.texts.names == ('review',)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'data.text_encoder': ''}, ['without data.text_encoder']),
    ({'data.text_columns': ''}, ['without data.text_columns']),
    ({'data.text_columns': 'reviews'}, ['data.text_columns', "'review'"]),
    ({'data.text_columns': 'y'}, ["'y'", 'gives no numbers']),
    ({'data.kinds': 'review=category'}, ["'review'", 'leave it out']),
    ({'data.text_encoder': '/none'}, ['data.text_encoder', 'no such folder']),
    ({'text.second': '{a}'}, ['language_model.name=bert']),
  ],
)
def test_what_cannot_be_read_is_refused(home, tmp_path, fields, words):
  config = base.get_config()
  config.update_from_flattened_dict(
    TINY
    | {
      'data.path': str(home / 'train.csv'),
      'data.target': 'y',
      'data.text_columns': 'review',
      'data.text_encoder': str(home / 'encoder'),
    }
    | fields
  )
  assert_refused(
    lambda: train.train_and_evaluate(config, tmp_path / 'run', verbose=0),
    *words,
  )
  assert not (tmp_path / 'run').exists()


def test_a_column_of_texts_that_nobody_named_is_noticed(home):
  frame = pd.DataFrame({'note': tiny_bert.sentences(200, seed=9)})
  frame['note'] += ' and that is all'
  said = doubts.of_column('note', frame['note'])
  assert 'data.text_columns=note' in said and 'data.text_encoder' in said
  with pytest.warns(DataWarning, match=r'data\.text_columns=note'):
    columns.plan(frame, {}, where='X')
  # Named, it is no doubt; nor are labels, names and short marks.
  frame['y'] = np.arange(200.0)
  planned = columns.plan(frame[['note']], {'note': columns.TEXT}, where='X')
  assert planned[0].kind == columns.TEXT
  for cells in (
    ['the same four words'] * 200,
    [f'Name Surname {i}' for i in range(200)],
    [f'id-{i}' for i in range(200)],
    ['one long text of words'] + ['short'] * 199,
  ):
    assert not doubts.of_column('x', pd.Series(cells))


def test_pairs_have_all_that_two_vectors_say():
  draw = np.random.default_rng(0)
  u, v = draw.normal(size=(2, 5, 4))
  found = pairs.features(u, v)
  assert found.shape == (5, 17)
  swapped = pairs.features(v, u)
  np.testing.assert_allclose(swapped[:, 8:], found[:, 8:])
  np.testing.assert_array_equal(swapped[:, :4], found[:, 4:8])
  same = pairs.features(u, 3 * u)
  np.testing.assert_allclose(same[:, -1], 1)
  assert np.abs(found[:, -1]).max() < 1


def test_components_are_fewer_where_texts_say_less():
  rows = np.tile(np.array([[1.0, 0, 0], [0, 1.0, 0]]), (5, 1))
  rows = np.concatenate([rows, np.full((1, 3), np.nan)])
  mean, components = text_columns.principal_components(rows, 3)
  np.testing.assert_allclose(mean, [0.5, 0.5, 0])
  assert components.shape == (1, 3)
  assert_refused(
    lambda: text_columns.principal_components(np.full((2, 3), np.nan), 3),
    'no train row has any text',
  )


@pytest.mark.parametrize(
  'damage',
  [
    lambda d: d.pop('encoder'),
    lambda d: d.update(components=[[[1.0, 2.0]]]),
    lambda d: d.update(means=[['x']]),
  ],
)
def test_damaged_text_columns_are_refused(run, damage):
  saved = json.loads((run / 'model.json').read_text())['texts']
  assert TextColumns.from_json(saved).names == ('review',)
  damage(saved)
  assert_refused(lambda: TextColumns.from_json(saved), 'saved TextColumns')


def test_names_are_read_as_they_are_written():
  assert columns.parse_names('f', 'a, b') == ('a', 'b')
  assert columns.parse_names('f', "['a, b', 'c']") == ('a, b', 'c')
  assert columns.parse_names('f', ['x', 'x']) == ('x',)
  assert_refused(lambda: columns.parse_names('f', "['a'"), 'f=', 'list')
