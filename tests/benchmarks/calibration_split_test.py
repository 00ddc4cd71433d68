"""The calibration split: which rows, which tasks, which margin; no training."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from checks import assert_refused

from genre2_jax.data.tables import Rows

PATH = pathlib.Path(__file__).parents[2] / 'benchmarks/calibration_split.py'
spec = importlib.util.spec_from_file_location('calibration_split', PATH)
calibration_split = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calibration_split)


def test_the_smallest_tasks_are_chosen_by_training_rows(tmp_path):
  for name, rows, kind in (
    ('large', 30, 'regression'),
    ('b', 10, 'regression'),
    ('a', 10, 'regression'),
    ('classes', 5, 'multiclass'),
    ('small', 7, 'regression'),
  ):
    (tmp_path / name).mkdir()
    np.save(tmp_path / name / 'y_train.npy', np.zeros(rows))
    info = json.dumps({'task_type': kind})
    (tmp_path / name / 'info.json').write_text(info)
  found = calibration_split.smallest_tasks(tmp_path, 3)
  assert found == [(7, 'small'), (10, 'a'), (10, 'b')]
  assert_refused(
    lambda: calibration_split.smallest_tasks(tmp_path, 5), 'has 4 tasks'
  )


def test_halves_are_apart_and_all_there_is():
  rows = Rows(
    numeric=np.arange(11.0)[:, None],
    categories=np.array([[str(i)] for i in range(11)], object),
    target=np.arange(11.0) * 2,
  )
  chooses, apart = calibration_split.halves(rows, 0)
  assert (len(chooses), len(apart)) == (6, 5)
  both = np.concatenate([chooses.target, apart.target])
  assert set(both) == set(rows.target) and len(both) == 11
  for half in (chooses, apart):
    np.testing.assert_array_equal(half.target, 2 * half.numeric[:, 0])
    assert half.categories[:, 0].tolist() == [
      str(int(x)) for x in half.numeric[:, 0]
    ]
  again = calibration_split.halves(rows, 0)[1]
  np.testing.assert_array_equal(again.target, apart.target)


def test_a_margin_of_rows_alike_covers_and_none_does_not():
  """Intervals half as wide as they should be, on rows of one law."""
  random = np.random.default_rng(0)

  def intervals(n):
    centre = random.normal(size=n)
    return centre - 0.8, centre, centre + 0.8, centre + random.normal(size=n)

  *test, target = intervals(4000)
  coverage, width, margin = calibration_split.judged(test, target)
  assert margin == 0 and width == pytest.approx(1.6)
  assert coverage == pytest.approx(0.576, abs=0.03)
  mended, wider, margin = calibration_split.judged(
    test, target, intervals(2000)
  )
  assert mended == pytest.approx(0.9, abs=0.02)
  assert wider == pytest.approx(1.6 + 2 * margin) and margin > 0.7
  # However narrow it gets, it does not turn inside out.
  low, high = calibration_split.widened(*test, -5.0)
  np.testing.assert_array_equal(low, test[1])
  np.testing.assert_array_equal(high, test[1])


def row(task, seed, margin_of, coverage):
  return (task, 10, seed, margin_of, 5, coverage, 1.0, 0.1, 0.2, 0.5)


def test_differences_are_paired_by_task():
  rows = [
    row(task, seed, kind, base + shift + 0.01 * seed)
    for task, base in (('a', 0.8), ('b', 0.5))
    for seed in (0, 1)
    for kind, shift in (('half_apart', 0.05), ('chose', 0.0))
  ]
  mean, interval = calibration_split.paired(rows, 'half_apart', 'chose', 5)
  assert mean == pytest.approx(0.05)
  np.testing.assert_allclose(interval, 0.05)
