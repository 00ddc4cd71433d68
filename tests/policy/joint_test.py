"""Several numbers, one after another: against every pair, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_policy import drawn_policy
from table_policy import log_probs, random_table, sequences, table_policy

from genre2_jax import tokenizers
from genre2_jax.policy import joint, sampling, trie
from genre2_jax.tokenizers.joint import Joint

PART = tokenizers.build('normalized', base=2, digits=2)
PAIR, TRIPLE = Joint((PART,) * 2), Joint((PART,) * 3)
SCALES = np.array([1.0, -0.5, 2.0], np.float32)
pytestmark = pytest.mark.usefixtures('quick_compiles')


def joint_p(tokenizer, table):
  """p of every combination, [B, K, ..., K], read off the table."""
  p = np.exp(np.asarray(log_probs(tokenizer, table, SCALES), np.float64))
  return p.reshape(len(SCALES), *(4,) * len(tokenizer.parts))


def marginals(tokenizer, table, **options):
  policy = table_policy(tokenizer)
  options = {'max_nodes': 1024, 'num_conditionals': 16} | options
  found = joint.marginals(
    policy, table, jnp.asarray(SCALES), jax.random.key(3), **options
  )
  return np.exp(np.asarray(found, np.float64))


@pytest.mark.parametrize('tokenizer', [PAIR, TRIPLE], ids=['two', 'three'])
def test_marginals_of_an_enumerated_trie_are_sums_of_the_joint(tokenizer):
  table = random_table(tokenizer)
  p = joint_p(tokenizer, table)
  np.testing.assert_allclose(p.sum(axis=tuple(range(1, p.ndim))), 1, rtol=1e-6)
  found = marginals(tokenizer, table)
  assert found.shape == (3, len(tokenizer.parts), 4)
  for place in range(len(tokenizer.parts)):
    others = tuple(i + 1 for i in range(p.ndim - 1) if i != place)
    np.testing.assert_allclose(found[:, place], p.sum(axis=others), rtol=1e-5)


@pytest.mark.parametrize('place', [0, 1, 2])
def test_a_conditional_is_the_joint_given_the_true_numbers(place):
  table = random_table(TRIPLE)
  p = joint_p(TRIPLE, table)
  numbers = sequences(PART)
  for index in np.ndindex(*(4,) * place):
    earlier = np.concatenate([numbers[i] for i in index] or [np.zeros(0, int)])
    earlier = jnp.asarray(np.tile(earlier, (3, 1)), jnp.int32)
    policy, context = joint.given(
      table_policy(TRIPLE), table, jnp.asarray(SCALES), earlier
    )
    found = np.exp(trie.log_probs(policy, table, context))
    wanted = p[(slice(None), *index)].reshape(3, 4, -1).sum(axis=-1)
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_later_marginals_are_means_of_conditionals_over_samples():
  table = random_table(TRIPLE)
  p = joint_p(TRIPLE, table)
  # The trie of two has 15 nodes, of three 63.
  found = marginals(TRIPLE, table, max_nodes=15, num_conditionals=5)
  np.testing.assert_allclose(found[:, 0], p.sum((2, 3)), rtol=1e-5)
  np.testing.assert_allclose(found[:, 1], p.sum((1, 3)), rtol=1e-5)
  earlier = sampling.sample(
    joint.first(table_policy(TRIPLE), 2),
    table,
    jnp.asarray(SCALES),
    jnp.broadcast_to(jax.random.key(3), (3,)),
    num_samples=5,
  ).tokens
  codes = np.asarray(earlier) @ [8, 4, 2, 1]
  given = p.reshape(3, 16, 4)
  given = given / given.sum(axis=2, keepdims=True)
  rows = given[np.arange(3)[:, None], codes].mean(axis=1)
  np.testing.assert_allclose(found[:, 2], rows, rtol=1e-5)
  np.testing.assert_allclose(found.sum(axis=2), 1, rtol=1e-5)
  # Without any bias: of many samples they come near the sums of the joint.
  many = marginals(TRIPLE, table, max_nodes=3, num_conditionals=2000)
  np.testing.assert_allclose(many[:, 1], p.sum((1, 3)), atol=0.03)
  np.testing.assert_allclose(many[:, 2], p.sum((1, 2)), atol=0.03)


def test_samples_come_as_often_as_the_joint_says():
  table = random_table(PAIR)
  count = 20_000
  tokens = sampling.sample(
    table_policy(PAIR),
    table,
    jnp.asarray(SCALES),
    jax.random.split(jax.random.key(0), 3),
    num_samples=count,
  ).tokens
  codes = np.asarray(tokens) @ [8, 4, 2, 1]
  p = joint_p(PAIR, table).reshape(3, 16)
  for row in range(3):
    share = np.bincount(codes[row], minlength=16) / count
    deviation = np.sqrt(p[row] * (1 - p[row]) / count)
    assert (abs(share - p[row]) < 5 * deviation + 1e-4).all()


def test_a_decoder_is_conditioned_as_its_whole_trie_says():
  policy, params, context = drawn_policy(PAIR)
  whole = np.exp(trie.log_probs(policy, params, context)).reshape(3, 4, 4)
  for index, tokens in enumerate(sequences(PART)):
    own, inner = joint.given(
      policy, params, context, jnp.asarray(np.tile(tokens, (3, 1)))
    )
    wanted = whole[:, index] / whole[:, index].sum(axis=1, keepdims=True)
    found = np.exp(trie.log_probs(own, params, inner))
    np.testing.assert_allclose(found, wanted, rtol=2e-5)
    assert np.ptp(found, axis=0).max() > 1e-3  # Rows do differ.


def test_of_one_number_nothing_is_conditioned():
  policy = table_policy(PART)
  table = random_table(PART)
  same, _ = joint.given(
    policy, table, jnp.asarray(SCALES), jnp.zeros((3, 0), jnp.int32)
  )
  assert same == policy
  assert joint.num_exact(policy, 1) == 1
