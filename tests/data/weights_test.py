"""Weights of rows of tables and texts: read, checked, of mean 1 on train."""

import numpy as np
import pandas as pd
import pytest
from checks import assert_refused

from genre2_jax.data import frames, tables, texts
from genre2_jax.data.wording import DataWarning


def write(tmp_path, weights, name='rows.csv', **columns):
  n = len(weights)
  frame = pd.DataFrame(
    {
      'x': np.arange(n) * 1.0,
      'w': weights,
      'y': np.arange(n) * 2.0 + 1,
      **columns,
    }
  )
  path = tmp_path / name
  if name.endswith('.parquet'):
    frame.to_parquet(path)
  else:
    frame.to_csv(path, index=False)
  return path


def splits_of(table):
  return [getattr(table, split) for split in tables.SPLITS]


@pytest.mark.parametrize('name', ['rows.csv', 'rows.parquet'])
def test_a_column_of_weights_is_no_feature(tmp_path, name):
  path = write(tmp_path, np.arange(1, 21) * 10.0, name)
  table = tables.read_file(path, 'y', weight='w')
  assert table.numeric_names == ('x',)
  assert table.train.weight.mean() == pytest.approx(1)
  ratios = [rows.weight / (rows.numeric[:, 0] + 1) for rows in splits_of(table)]
  np.testing.assert_allclose(np.concatenate(ratios), ratios[0][0])
  # The same rows are in the same split, whatever they weigh.
  plain = tables.read_file(path, 'y', kinds={'w': 'ignore'})
  np.testing.assert_array_equal(plain.test.target, table.test.target)
  assert plain.train.weight is None


def test_equal_weights_are_none(tmp_path):
  path = write(tmp_path, np.full(20, 3.0))
  table = tables.read_file(path, 'y', weight='w')
  assert all(rows.weight is None for rows in splits_of(table))
  plain = tables.read_file(path, 'y', kinds={'w': 'ignore'})
  assert list(plain.train.cells()) == list(table.train.cells())


def test_a_row_of_weight_0_is_absent_whatever_is_in_it(tmp_path):
  weights = np.arange(1, 24) * 1.0
  weights[[2, 9, 21]] = 0
  y = np.arange(23) * 2.0 + 1
  y[[2, 9]] = np.nan
  path = write(tmp_path, weights, y=y)
  with pytest.warns(DataWarning, match='rows of weight 0 are left out: 3'):
    table = tables.read_file(path, 'y', weight='w')
  kept = write(
    tmp_path, weights[weights > 0], 'kept.csv',
    x=np.arange(23.0)[weights > 0], y=y[weights > 0],
  )  # fmt: skip
  expected = splits_of(tables.read_file(kept, 'y', weight='w'))
  for own, its in zip(splits_of(table), expected, strict=True):
    assert list(own.cells()) == list(its.cells())


def test_what_rows_weigh_tells_data_apart(tmp_path):
  first = tables.read_file(write(tmp_path, np.arange(1, 21)), 'y', weight='w')
  other = tables.read_file(write(tmp_path, np.arange(2, 22)), 'y', weight='w')
  assert list(first.train.cells()) != list(other.train.cells())


def test_train_rows_that_are_drawn_have_mean_1_again(tmp_path):
  path = write(tmp_path, np.arange(1, 41) ** 2)
  table = tables.read_file(path, 'y', weight='w')
  cut = tables.cut(table, 9, seed=0)
  assert cut.train.weight.mean() == pytest.approx(1)
  ratio = cut.test.weight / table.test.weight
  np.testing.assert_allclose(ratio, ratio[0])
  assert ratio[0] != pytest.approx(1)
  np.testing.assert_allclose(
    cut.train.weight / (cut.train.numeric[:, 0] + 1) ** 2,
    cut.test.weight[0] / (cut.test.numeric[0, 0] + 1) ** 2,
  )


@pytest.mark.parametrize(
  'weights, words',
  [
    ([1, None, 2, 3], r'missing or infinite in 1 row: 2'),
    ([1, 2, np.inf, 3], r'missing or infinite in 1 row: 3'),
    ([1, -2, 2, 3], r'negative in 1 row: 2'),
    ([0, 0, 0, 0], r'all are 0'),
    (['a', '1', '2', '3'], r"weight 'w'"),
    ([1, 2, 1e308, 1e308], 'from 1 to 1e+308, too far apart'),
    ([1, 2, 3, 1e-300], r'from 1e-300 to 3, too far apart'),
    (
      ['2020-01-01'] * 2 + ['2020-01-02'] * 2,
      r"weight 'w': text instead of numbers",
    ),
  ],
)
def test_what_is_no_weight_is_refused(tmp_path, weights, words):
  path = write(tmp_path, weights)
  assert_refused(lambda: tables.read_file(path, 'y', weight='w'), words)


def test_a_column_that_is_not_there_or_is_the_target_is_refused(tmp_path):
  path = write(tmp_path, np.arange(1, 21))
  for name, words in (
    ('ww', "no column 'ww' to be the weight"),
    ('y', "'y' is the target, and no weight"),
  ):
    assert_refused(lambda n=name: tables.read_file(path, 'y', weight=n), words)


def test_rows_are_counted_as_is_said_where_some_weigh_0(tmp_path):
  y = np.arange(20) * 1.0
  y[9] = np.nan
  path = write(tmp_path, [0.0] * 4 + [1.0] * 16, y=y)
  choice = texts.Choice(prompt='x is {x}', target='y', weight='w')
  for read in (
    lambda: tables.read_file(path, 'y', weight='w'),
    lambda: texts.read(path, choice),
  ):
    with pytest.warns(DataWarning, match='left out: 4'):
      assert_refused(
        read, 'counting no rows of weight 0: target', 'in 1 row: 6 '
      )


def test_an_empty_text_of_weight_0_is_absent(tmp_path):
  prompts = ['a', '', *'cdefghijkl']
  path = write(tmp_path, [1.0, 0.0, *range(1, 11)], p=prompts)
  choice = texts.Choice(prompt='{p}', target='y', weight='w')
  with pytest.warns(DataWarning, match='left out: 1'):
    found = texts.read(path, choice)
  assert sum(map(len, (found.train, found.val, found.test))) == 11


def test_texts_have_weights_too(tmp_path):
  n = 20
  path = write(
    tmp_path, np.arange(n), split=['train'] * 12 + ['val'] * 4 + ['test'] * 4
  )
  choice = texts.Choice(prompt='x is {x}', target='y', weight='w')
  with pytest.warns(DataWarning, match='rows of weight 0 are left out: 1'):
    found = texts.read(path, choice)
  assert len(found.train) == 11
  assert found.train.weight.mean() == pytest.approx(1)
  np.testing.assert_allclose(
    found.test.weight, np.arange(16, 20) / np.arange(1, 12).mean()
  )
  table = texts.as_table(found)
  np.testing.assert_array_equal(table.val.weight, found.val.weight)


def test_rows_of_frames_have_weights_of_their_own():
  part = pd.DataFrame({'x': [1.0, 2.0, 3.0]}), np.array([1.0, 2.0, 3.0])
  weights = np.array([1.0, 2.0, 3.0])
  table = frames.table(
    {'train': part, 'val': part},
    tuple(frames.columns.plan(part[0], {}, where='X')),
    target_name='y',
    reading=frames.HowRead(frames.Reading(), {}),
    val_is_new=False,
    weights={'train': weights, 'val': 4 * weights},
  )
  np.testing.assert_allclose(table.train.weight, weights / 2)
  np.testing.assert_allclose(table.val.weight, 2 * weights)
  assert len(table.test.weight) == 0
