"""Words of messages."""

import pytest

from genre2_jax.data import wording


@pytest.mark.parametrize(
  ('seconds', 'said'),
  [
    (0, '0 s'),
    (62.4, '62 s'),
    (90, '2 min'),
    (5399, '90 min'),
    (5400, '1.5 h'),
    (3.6e6, '1,000.0 h'),
  ],
)
def test_a_duration_is_said_in_one_unit(seconds, said):
  assert wording.duration(seconds) == said
