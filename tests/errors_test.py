"""How errors name things."""

import pytest

from genre2_jax import errors


@pytest.mark.parametrize(
  ('name', 'names', 'said'),
  [
    ('SISE', ['size', 'Area'], "did you mean 'size'?"),
    ('area', ['size', 'Area'], "did you mean 'Area'?"),
    ('roms', ['row', 'rooms'], "did you mean 'rooms', 'row'?"),
    ('qqq', ['size', 'Area'], "there is 'size', 'Area'"),
    ('qqq', [], 'there is none'),
    (3, ['size'], "there is 'size'"),
  ],
)
def test_what_may_have_been_meant(name, names, said):
  assert errors.suggestion(name, names) == said
  hint = errors.near_hint(name, names)
  assert not hint or hint.rstrip('?') in f'; {said}'
  assert bool(hint) == said.startswith('did')


def test_an_error_in_one_line():
  assert errors.one_line(ValueError('a\n  b')) == 'a b'
  assert errors.one_line(ValueError()) == 'ValueError'
  assert len(errors.one_line(ValueError('x' * 999))) == 200
