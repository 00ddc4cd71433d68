"""Parts of a benchmark together are the whole; nothing is run."""

import importlib.util
import json
import pathlib
import shutil

import pytest
from drawn_runs import write_benchmark

PATH = pathlib.Path(__file__).parents[2] / 'benchmarks/join.py'
spec = importlib.util.spec_from_file_location('join', PATH)
join = importlib.util.module_from_spec(spec)
spec.loader.exec_module(join)

TASKS = ['sensory', 'wind', 'houses']
METHODS = ['ce', 'remax', 'catboost_residuals']


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return write_benchmark(tmp_path_factory.mktemp('whole'), METHODS, TASKS)


def part(whole, folder, tasks=TASKS, methods=METHODS):
  for task in tasks:
    for method in methods:
      shutil.copytree(whole / task / method, folder / task / method)
  shutil.copy(whole / 'benchmark.json', folder)
  return folder


def texts(output):
  files = [output.with_suffix(ending) for ending in ('.md', '.csv', '.json')]
  return [file.read_text() for file in files]


def test_tasks_of_two_machines_are_one_benchmark(whole, tmp_path):
  first = part(whole, tmp_path / 'first', tasks=TASKS[:1])
  second = part(whole, tmp_path / 'second', tasks=TASKS[1:])
  all_of_it = tmp_path / 'all'
  join.write(all_of_it, join.read(whole))
  # What is left of the first machine is its file.
  join.write(tmp_path / 'kept', join.read(first))
  kept = join.read(tmp_path / 'kept.json')
  joined = tmp_path / 'joined'
  join.write(joined, join.join([kept, join.read(second)]))
  assert texts(joined) == texts(all_of_it)
  # Written again, it stays.
  join.write(tmp_path / 'again', join.read(joined.with_suffix('.json')))
  assert texts(tmp_path / 'again') == texts(joined)


def test_a_failure_stays_until_another_part_has_the_run(whole, tmp_path):
  first = part(whole, tmp_path / 'first', methods=METHODS[:2])
  said = {'task': TASKS[0], 'method': METHODS[2], 'type': 'Error'}
  (first / 'failures').mkdir()
  (first / 'failures/one.json').write_text(json.dumps(said))
  join.write(tmp_path / 'kept', join.read(first))
  kept = join.read(tmp_path / 'kept.json')
  assert [*map(tuple, kept.failures)] == [(TASKS[0], METHODS[2], 'Error')]
  assert '1 run failed' in (tmp_path / 'kept.md').read_text()
  second = part(whole, tmp_path / 'second', methods=METHODS[2:])
  assert not join.join([kept, join.read(second)]).failures


def test_methods_are_added_and_chosen(whole, tmp_path):
  first = part(whole, tmp_path / 'first', methods=METHODS[1:])
  second = part(whole, tmp_path / 'second', methods=METHODS[:1])
  found = join.join([join.read(first), join.read(second)])
  assert found.methods == [*METHODS[1:], METHODS[0]]
  assert set(found.seconds) == {(t, m) for t in TASKS for m in METHODS}
  chosen = join.chosen(found, METHODS[:2])
  assert set(chosen.results.method) == set(METHODS[:2])
  with pytest.raises(SystemExit, match='no part has boosted'):
    join.chosen(found, ['boosted'])


def test_seeds_stand_side_by_side_and_none_twice(whole, tmp_path):
  other = write_benchmark(tmp_path / 'other', METHODS, TASKS, seeds=(5, 6))
  found = join.join([join.read(whole), join.read(other)])
  assert found.seeds == ['0', '1', '5', '6']
  numbered = found.results[found.results.seed != 'ensemble']
  counts = numbered.groupby(['task', 'method']).seed.nunique()
  assert (counts == 4).all()
  with pytest.raises(SystemExit, match='is in two of the parts'):
    join.join([join.read(whole), join.read(whole)])
