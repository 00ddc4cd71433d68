"""Members of a pack: what each of them has for itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genre2_jax import tokenizers
from genre2_jax.models import pack
from genre2_jax.models.encoders import feature_embedding
from genre2_jax.models.layers import Dropout
from genre2_jax.models.neighbours import Memory, neighbour_policy
from genre2_jax.models.pack import Pack
from genre2_jax.models.prior import with_prior
from genre2_jax.policy import Policy, tables, trie
from genre2_jax.training import optimizers

VARIED = Pack(
  learning_rate=(0.5, 2.0),
  weight_decay=(1.0, 9.0),
  dropout=(0.1, 3.0),
  embedding_scale=(0.5, 1.5),
  prior=0.5,
  neighbours=0.5,
)
TOKENIZER = tokenizers.build('normalized', base=3, digits=2)


def test_a_seed_has_its_numbers_whoever_is_beside_it():
  together = VARIED.factors(range(3, 11))
  for place, seed in enumerate(range(3, 11)):
    for field, values in VARIED.factors([seed]).items():
      np.testing.assert_array_equal(values, together[field][place : place + 1])


def test_factors_fill_their_ranges_and_members_go_without_in_turn():
  found = VARIED.factors(range(64))
  for field in ('learning_rate', 'weight_decay', 'dropout', 'embedding_scale'):
    low, high = getattr(VARIED, field)
    places = np.log(found[field] / low) / np.log(high / low)
    counts, _ = np.histogram(places, bins=8, range=(0, 1))
    assert counts.sum() == 64 and counts.min() >= 5, field
  assert found['prior'][:4].tolist() == [1, 0, 1, 0]
  assert found['neighbours'][:4].tolist() == [1, 1, 0, 0]
  for share in (1 / 3, 2 / 3):
    thirds = Pack(prior=share).factors(range(9))['prior']
    assert thirds.sum() == 9 * share


def test_members_that_are_alike_have_no_numbers():
  assert Pack().factors(range(4)) == {}
  assert list(Pack(dropout=(0.5, 0.5)).factors([0, 7])['dropout']) == [0.5] * 2
  tree = {'member_dropout': jnp.ones(())}
  assert pack.placed(tree, {}) is tree


def test_a_factor_finds_its_numbers_and_no_other():
  tree = {
    'a': {'member_dropout': 0.1, 'kernel': 3.0},
    'feature_scale': 1.0,
    'dropout': 5.0,
  }
  found = pack.placed(tree, {'dropout': 2.0, 'embedding_scale': 0.5})
  assert found == {
    'a': {'member_dropout': 0.2, 'kernel': 3.0},
    'feature_scale': 0.5,
    'dropout': 5.0,
  }
  assert pack.frozen(None)(('a', 'member_dropout'))
  assert not pack.frozen(None)(('a', 'kernel'))
  assert pack.frozen(lambda path: path[0] == 'a')(('a', 'kernel'))


@pytest.mark.parametrize(
  'factors', [{'learning_rate': 3.0}, {'weight_decay': 5.0}]
)
def test_a_factor_in_the_state_is_one_in_the_options(factors):
  """Clipping, fast parameters and all."""
  params = {'kernel': jnp.array([2.0, -4.0]), 'feature_scale': jnp.ones(2)}
  gradient = {'kernel': jnp.array([1e-2, -3.0]), 'feature_scale': jnp.ones(2)}

  def updates(rate, decay, own=(), factors=None):
    optimizer = optimizers.build(
      'adamw', 0.1 * rate, weight_decay=0.5 * decay, max_grad_norm=1.0,
      fast_parameters=('feature_scale',), own=own,
    )  # fmt: skip
    state = pack.placed(optimizer.init(params), factors or {})
    for _ in range(2):
      found, state = optimizer.update(gradient, state, params)
    return found

  expected = updates(
    factors.get('learning_rate', 1.0), factors.get('weight_decay', 1.0)
  )
  found = updates(1.0, 1.0, own=tuple(factors), factors=factors)
  for name in params:
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
  plain = updates(1.0, 1.0, own=tuple(factors))
  for name, x in updates(1.0, 1.0).items():
    np.testing.assert_allclose(plain[name], x, rtol=1e-6)
  assert optax.tree.norm(jax.tree.map(jnp.subtract, found, plain)) > 1e-3


def test_dropout_at_a_rate_of_its_own():
  x, rngs = jnp.ones((64, 32)), {'dropout': jax.random.key(0)}
  own = Dropout(0.2, own_rate=True)
  params = nn.unbox(own.init(jax.random.key(1), x))['params']
  assert params['member_dropout'] == np.float32(0.2)
  for rate in (0.2, 0.5):
    given = {'params': {'member_dropout': jnp.float32(rate)}}
    expected = Dropout(rate).apply({}, x, rngs=rngs)
    found = own.apply(given, x, rngs=rngs)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def table_policy():
  table = np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32)
  return Policy(
    TOKENIZER,
    init=lambda key, inputs: {'table': jnp.asarray(table)},
    encode=lambda params, inputs, dropout_key=None: jnp.repeat(
      params['table'], len(inputs['numeric']), axis=0
    ),
    decode=tables.decode_of(TOKENIZER),
    is_table=True,
  )


INPUTS = {
  'numeric': np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2),
  'categories': np.zeros((5, 0), np.int32),
}


def log_p_of(policy, params, inputs):
  return trie.log_probs(policy, params, policy.encode(params, inputs))


def test_a_member_goes_with_or_without_the_prior():
  base, inputs = table_policy(), {**INPUTS, 'prior': -np.ones((5, 9)).cumsum(1)}
  own, whole = with_prior(base, is_own=True), with_prior(base)
  params = nn.unbox(own.init(jax.random.key(0), inputs))
  for share, expected in (
    (1.0, log_p_of(whole, params['network'], inputs)),
    (0.0, log_p_of(base, params['network'], INPUTS)),
  ):
    given = {**params, 'member_prior': jnp.float32(share)}
    np.testing.assert_allclose(
      log_p_of(own, given, inputs), expected, atol=1e-5
    )


def test_a_member_goes_with_or_without_neighbours():
  base = table_policy()
  memory = Memory(INPUTS, np.arange(5, dtype=np.int32))
  options = dict(
    embedding=feature_embedding(cardinalities=()), width=2, candidates=9
  )
  own = neighbour_policy(base, memory, **options, is_own=True)
  whole = neighbour_policy(base, memory, **options)
  params = nn.unbox(own.init(jax.random.key(0), INPUTS))
  for share, expected in (
    (1.0, log_p_of(whole, params, INPUTS)),
    (0.0, log_p_of(base, params['network'], INPUTS)),
  ):
    given = {**params, 'member_neighbours': jnp.float32(share)}
    np.testing.assert_allclose(
      log_p_of(own, given, INPUTS), expected, atol=1e-5
    )
