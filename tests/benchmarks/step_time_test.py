"""Ratios between ours and the peers, from seconds that are known."""

import sys

import pytest
from checks import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))
import step_time


def record(ce, rl, rows):
  return dict(zip(step_time.FIGURES, (ce, rl, rows), strict=True))


RECORDS = {
  ('genre2_jax', 'float32'): [record(1, 10, 100), record(3, 10, 100)],
  ('genre2_jax', 'bfloat16'): [record(1, 5, 300)],
  ('released', 'float32'): [record(6, 100, 1)],
  ('cached', 'float32'): [record(8, 20, 50)],
  ('cached', 'bfloat16'): [record(9, 15, 60)],
}


def test_the_first_ratio_is_to_the_best_peer_of_each_figure():
  lines = list(step_time.ratios(RECORDS))
  (best,) = (line for line in lines if line.startswith('| best peer'))
  # The medians of ours in float32 are 2 and 10 seconds, and 100 rows.
  cells = [cell.strip() for cell in best.split('|')[2:-1]]
  assert cells == ['3.0 x', '6.0 x', '1.5 x', '3.0 x', '1.7 x', '5.0 x']
  assert lines[-1] == (
    'best peer of ce_step_s: released, float32; rl_step_s: cached, bfloat16; '
    'eval_rows_per_s: cached, bfloat16'
  )
  assert sum(line.startswith('| released') for line in lines) == 1


def test_the_table_has_a_line_for_every_side():
  lines = list(step_time.table(RECORDS))
  assert len(lines) == 2 + len(RECORDS)
  assert lines[2] == (
    '| genre2_jax, float32 | 2.000 (1.000 .. 3.000) | 10.000 (10.000 .. '
    '10.000) | 100.000 (100.000 .. 100.000) |'
  )


@pytest.mark.parametrize('clock', ['wall', 'cpu'])
def test_every_peer_is_asked_in_both_dtypes(clock):
  class Args:
    dtypes = ('float32', 'bfloat16')
    data, against, peer_python, steps = 'DATA', 'peer.py', 'python', 1

  Args.clock = clock
  found = step_time.commands(Args)
  assert len(found) == 2 * (1 + len(step_time.MODES))
  command = found['cached', 'bfloat16']
  assert ('process_time' in ' '.join(command)) == (clock == 'cpu')
  assert command[command.index('--dtype') + 1] == 'bfloat16'
