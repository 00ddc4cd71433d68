"""Scoring: numbers that are there, against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_policy import brute_force, random_table, sequences, table_policy

from genre2_jax import tokenizers
from genre2_jax.policy import scoring

pytestmark = pytest.mark.usefixtures('quick_compiles')

score = jax.jit(scoring.score, static_argnames=('policy', 'temperature'))


def test_scoring_all_numbers_is_one_pass_over_the_inner_nodes_of_the_trie():
  """Forbidden tokens open no branches: 1 + 2 signs + 4 + 40 exponents."""
  calls = []
  tokenizer = tokenizers.build('ieee', base=10, digits=1)
  score(
    table_policy(tokenizer, on_decode=calls.append),
    random_table(tokenizer),
    jnp.ones(1),
    sequences(tokenizer)[None],
  )
  assert calls == [47]


@pytest.mark.parametrize('num_rows', [1, 7, 40])
def test_scoring_equals_brute_force_for_any_number_of_rows(num_rows):
  """Rows in any order, equal ones among them, and other ones per input."""
  tokenizer = tokenizers.build('normalized', base=2, digits=5)
  table, scales = random_table(tokenizer), np.array([1, -2], np.float32)
  rng = np.random.default_rng(num_rows)
  tokens = rng.integers(0, 2, (2, num_rows, 5)).astype(np.int32)
  rollout = score(table_policy(tokenizer), table, scales, tokens)
  np.testing.assert_array_equal(rollout.tokens, tokens)
  for row, scale in enumerate(scales):
    expected = brute_force(tokenizer, table, scale, tokens[row])
    np.testing.assert_allclose(rollout.log_probs[row], expected, atol=1e-5)
