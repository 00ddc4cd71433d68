"""Networks mixed with the distribution of the training targets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.models import marginal
from genre2_jax.objectives.grid import crps
from genre2_jax.policy import Policy, tables, trie

TOKENIZER = tokenizers.build('normalized', base=3, digits=2)
draw = np.random.default_rng(0)
TABLE = draw.normal(size=(5, 4, 3)).astype(np.float32)
SHARES = np.array([0, 3, 1, 0, 0, 2, 0, 4, 0]) / 10


def mixed():
  """A policy whose network has a table for every input, and its parameters."""
  base = Policy(
    TOKENIZER,
    init=lambda key, inputs: {'table': jnp.asarray(TABLE)},
    encode=lambda params, inputs, dropout_key=None: params['table'][inputs],
    decode=tables.decode_of(TOKENIZER),
    is_table=True,
  )
  log_p = marginal.log_shares(np.repeat(np.arange(9), SHARES_IN_TENTHS), 9)
  policy = marginal.marginal_policy(base, log_p)
  return base, policy, nn.unbox(policy.init(jax.random.key(0), None))


SHARES_IN_TENTHS = (10 * SHARES).round().astype(int)


def probabilities(policy, params, inputs=(0, 3)):
  context = policy.encode(params, jnp.array(inputs))
  return np.exp(trie.log_probs(policy, params, context))


@pytest.mark.parametrize('weight', [0.0, 0.3, 1.0])
def test_the_distribution_is_the_mixture(weight):
  base, policy, params = mixed()
  alone = probabilities(base, params['network'])
  got = probabilities(policy, marginal.with_weight(params, weight))
  expected = (1 - weight) * alone + weight * SHARES
  np.testing.assert_allclose(got, expected, atol=2e-6)
  if weight == 0:
    assert params['marginal']['weight'] == 0  # So it begins.


def test_no_gradient_moves_the_share():
  _, policy, params = mixed()
  params = marginal.with_weight(params, jnp.asarray(0.3))

  def loss(params):
    context = policy.encode(params, jnp.array([1, 2]))
    return -trie.log_probs(policy, params, context)[:, 7].sum()

  gradient = jax.grad(loss)(params)
  assert gradient['marginal']['weight'] == 0
  assert np.abs(gradient['network']['table']).max() > 0
  assert policy.frozen(('marginal', 'log_p'))
  assert not policy.frozen(('marginal', 'weight'))
  assert not policy.frozen(('network', 'table'))


@pytest.mark.parametrize('seed', range(3))
def test_the_best_share_has_the_least_crps(seed):
  draw = np.random.default_rng(seed)
  values = draw.permutation(np.sort(draw.normal(size=9)))
  target = draw.normal(size=30)
  p = draw.dirichlet(np.full(9, 0.2), 30)
  found = marginal.best_weight(
    np.log(p), np.log(SHARES + 1e-30), values, target
  )

  def loss(weight):
    mixture = (1 - weight) * p + weight * SHARES
    return float(
      np.mean(crps(jnp.log(mixture + 1e-30), jnp.asarray(values), target))
    )

  grid = np.linspace(0, 1, 101)
  best = grid[np.argmin([loss(w) for w in grid])]
  assert 0 < best < 1
  assert abs(found - best) < 0.011


def test_a_network_that_knows_keeps_all_and_one_that_errs_gives_all():
  values, target = np.arange(9.0), np.array([1.0, 5.0, 7.0])
  right = np.log(np.eye(9)[[1, 5, 7]] + 1e-30)
  wrong = np.log(np.eye(9)[[8, 0, 0]] + 1e-30)
  shares = np.log(SHARES + 1e-30)
  assert marginal.best_weight(right, shares, values, target) < 1e-9
  assert marginal.best_weight(wrong, shares, values, target) > 0.9
  same = np.tile(shares, (3, 1))
  assert marginal.best_weight(same, shares, values, target) == 0
