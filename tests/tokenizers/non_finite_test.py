"""NaN, +inf and −inf have tokens of their own, in any tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from table_policy import (
  log_probs,
  objective_of,
  random_table,
  sequences,
  table_policy,
)

from genre2_jax import tokenizers
from genre2_jax.data.batches import Examples
from genre2_jax.objectives import non_finite
from genre2_jax.objectives.grid import crps
from genre2_jax.objectives.objective import supervised
from genre2_jax.objectives.rewards import REWARDS
from genre2_jax.policy import sampling, trie
from genre2_jax.policy import special as special_tokens
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.tokenizers import NonFinite
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import evaluation

pytestmark = pytest.mark.usefixtures('quick_compiles')

SPECIAL = np.array([np.nan, np.inf, -np.inf])
FIELDS = {
  'normalized': {'base': 3, 'digits': 2},
  'adaptive': {'base': 3, 'digits': 2},
  'p10': {'base': 3, 'digits': 1, 'max_exponent': 1},
  'ieee': {'base': 2, 'digits': 1},
  'exponent_first': {'base': 3, 'digits': 1, 'max_exponent': 1},
  'repetition': {'base': 2, 'digits': 2, 'repeats': 2},
  'hamming': {'base': 2, 'digits': 2},
  'bins': {'base': 2, 'digits': 1, 'bins': 5},
  'strings': {'base': 2, 'digits': 1, 'strings': '1..5'},
  'decimal': {'base': 2, 'digits': 1},
}


def tokenizer_of(name):
  inner = tokenizers.build(name, **FIELDS[name])
  return NonFinite(inner).fitted(np.linspace(-1.0, 2.0, 50))


@pytest.fixture(params=FIELDS)
def codec(request):
  return Codec(tokenizer_of(request.param), -1.0, 2.0, mean=3.0, std=0.5)


def test_what_is_written_is_read(codec):
  """Beside numbers, which are written as without the special tokens."""
  z = np.array([0.3, *SPECIAL, -0.9])
  tokens = codec.encode(z)
  allowed = codec.tokenizer.allowed
  assert allowed[np.arange(codec.tokenizer.num_tokens), tokens].all()
  np.testing.assert_array_equal(codec.decode(tokens)[1:4], SPECIAL)
  kept = [0, 4]
  np.testing.assert_array_equal(tokens[kept], codec.finite.encode(z[kept]))
  np.testing.assert_array_equal(
    codec.decode(tokens)[kept], codec.finite.decode(tokens[kept])
  )
  on_device = np.asarray(codec.decode(jnp.asarray(tokens)))
  np.testing.assert_allclose(on_device, codec.decode(tokens), atol=1e-5)


def test_numbers_come_first_in_the_trie_then_each_of_the_three(codec):
  values, count = codec.values(), codec.finite.tokenizer.num_sequences
  np.testing.assert_array_equal(values[:count], codec.finite.values())
  rest = values[count:].reshape(3, -1)
  np.testing.assert_array_equal(
    rest, np.repeat(SPECIAL[:, None], rest.shape[1], 1)
  )
  z = np.array([0.3, *SPECIAL])
  np.testing.assert_array_equal(values[codec.index(z)][1:], SPECIAL)
  assert codec.index(z)[0] == codec.finite.index(z[0])
  grid, cells = codec.grid()
  assert len(grid) == len(cells) == count and np.isfinite(cells).all()


def test_the_expert_stays_in_the_grammar_and_knows_the_target(codec):
  tokenizer = codec.tokenizer
  every = sequences(tokenizer)
  every = every[np.random.default_rng(0).permutation(len(every))[:200]]
  for z in (0.3, *SPECIAL):
    target = codec.encode(z)
    best = tokenizer.best_tokens(every, np.broadcast_to(target, every.shape))
    assert tokenizer.allowed[np.arange(tokenizer.num_tokens), best].all()
    assert (best[:, 0] == target[0]).all()
    own = np.asarray(
      tokenizer.best_tokens(jnp.asarray(every), jnp.asarray(target))
    )
    np.testing.assert_array_equal(own[:, 0], best[:, 0])
  # Among numbers the advice is the inner tokenizer's.
  numbers = every[every[:, 0] < tokenizer.inner.vocab_size]
  target = np.broadcast_to(codec.encode(0.3), numbers.shape)
  np.testing.assert_array_equal(
    tokenizer.best_tokens(numbers, target),
    tokenizer.inner.best_tokens(numbers, target),
  )


# ------------------------------------------------------------- distributions

TOKENIZER = tokenizer_of('normalized')
CODEC = Codec(TOKENIZER, -1.0, 2.0)
POLICY, TABLE = table_policy(TOKENIZER), random_table(TOKENIZER)
SCALES = np.array([0.5, -1.0, 1.5, 0.7, 1.1], np.float32)
TARGETS = np.array([0.3, np.nan, np.inf, -np.inf, 1.4], np.float32)
LOG_P = np.asarray(log_probs(TOKENIZER, TABLE, SCALES), np.float64)
COUNT = TOKENIZER.inner.num_sequences
KINDS = np.stack(
  [
    np.exp(LOG_P[:, :COUNT]).sum(1),
    *np.exp(LOG_P[:, COUNT:]).reshape(5, 3, -1).sum(2).T,
  ],
  axis=1,
)


def test_probabilities_are_those_of_the_whole_trie():
  found = special_tokens.probabilities(POLICY, TABLE, SCALES)
  np.testing.assert_allclose(found, KINDS[:, 1:], rtol=1e-5)
  np.testing.assert_allclose(KINDS.sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(
    np.exp(non_finite.log_kinds(jnp.asarray(LOG_P), COUNT)), KINDS, rtol=1e-5
  )
  np.testing.assert_allclose(
    trie.log_probs(POLICY, TABLE, SCALES), LOG_P, rtol=1e-4
  )


def predict(exact, num_samples=400):
  return evaluation.predictions(
    {'policy': TABLE},
    SCALES,
    np.arange(5),
    jax.random.key(0),
    network=POLICY,
    codec=CODEC,
    num_samples=num_samples,
    temperature=1.0,
    exact=exact,
  )


def test_predictions_are_of_numbers_given_that_it_is_one():
  found = predict(exact=True)
  np.testing.assert_allclose(found['non_finite'], KINDS[:, 1:], rtol=1e-5)
  finite = special.log_softmax(LOG_P[:, :COUNT], axis=1)
  np.testing.assert_allclose(found['log_p'], finite, atol=1e-4)
  samples = np.asarray(found['samples_z'])
  assert np.isfinite(samples).all() and np.isfinite(found['greedy_z']).all()
  grid, _ = CODEC.grid()
  shares = (abs(samples[..., None] - grid) < 1e-5).mean(1)
  np.testing.assert_allclose(shares, np.exp(finite), atol=0.12)
  alone = predict(exact=False)
  np.testing.assert_array_equal(alone['non_finite'], found['non_finite'])


def test_samples_in_training_are_what_is_no_number_as_often_as_it_is():
  keys = jax.random.split(jax.random.key(1), 5)
  tokens = sampling.sample(POLICY, TABLE, SCALES, keys, num_samples=2000).tokens
  values = np.asarray(CODEC.decode(tokens))
  found = [
    np.isfinite(values),
    np.isnan(values),
    values == np.inf,
    values == -np.inf,
  ]
  np.testing.assert_allclose(
    np.stack([x.mean(1) for x in found], 1), KINDS, atol=0.05
  )


# --------------------------------------------------------------------- losses


def losses_of(*names):
  objective = objective_of(*names)
  objective = objective.__class__(
    terms=objective.terms, enumeration=Enumeration(depth=2)
  )
  batch = Examples(
    SCALES, jnp.asarray(TARGETS), jnp.asarray(CODEC.encode(TARGETS))
  )

  def loss(table):
    found = supervised(
      {'policy': table}, batch, None,
      network=POLICY, codec=CODEC, objective=objective,
    )  # fmt: skip
    return sum(map(jnp.sum, found.values())), found

  (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(
    jnp.asarray(TABLE)
  )
  assert np.isfinite(gradient).all()
  return found


def test_cross_entropy_is_that_of_the_value_whatever_follows_its_token():
  found = losses_of('ce', 'ntl_was', 'ntl_mse', 'dist2')
  own = np.take_along_axis(LOG_P, CODEC.index(TARGETS)[:, None], 1)[:, 0]
  own[1:4] = np.log(KINDS[[1, 2, 3], [1, 2, 3]])
  np.testing.assert_allclose(found['ce'], -own / 2, rtol=1e-5)
  for name in ('ntl_was', 'ntl_mse', 'dist2'):
    assert (np.asarray(found[name])[1:4] == 0).all()
    assert (np.asarray(found[name])[[0, 4]] > 0).all()


def test_crps_is_of_numbers_beside_the_log_loss_of_the_kinds():
  found = losses_of('crps', 'raft', 'mbr', 'exact')
  kind_loss = -np.log(KINDS[np.arange(5), [0, 1, 2, 3, 0]])
  grid, _ = CODEC.grid()
  finite = special.log_softmax(LOG_P[:, :COUNT], axis=1)
  own = np.zeros(5)
  own[[0, 4]] = crps(jnp.asarray(finite), grid, jnp.asarray(TARGETS))[
    np.array([0, 4])
  ]
  np.testing.assert_allclose(found['crps'], own + kind_loss, rtol=1e-4)
  for name in ('raft', 'mbr', 'exact'):
    np.testing.assert_allclose(found[name][1:4], kind_loss[1:4], rtol=1e-4)


def test_soft_targets_of_bins_are_the_token_of_what_is_no_number():
  codec = Codec(tokenizer_of('bins'), -1.0, 2.0)
  policy, table = table_policy(codec.tokenizer), random_table(codec.tokenizer)
  tokens = jnp.asarray(codec.encode(TARGETS))
  found = supervised(
    {'policy': table},
    Examples(SCALES, jnp.asarray(TARGETS), tokens),
    None,
    network=policy,
    codec=codec,
    objective=objective_of('soft_ce'),
  )['soft_ce']
  log_p = special.log_softmax(SCALES[:, None] * table[0], axis=1)
  np.testing.assert_allclose(
    found[1:4], -log_p[[1, 2, 3], tokens[1:4, 0]], rtol=1e-5
  )
  inner = codec.finite.encode(TARGETS[[0, 4]])
  assert (inner == tokens[np.array([0, 4])]).all()
  assert np.isfinite(found).all()


# -------------------------------------------------------------------- rewards


@pytest.mark.parametrize('name', ['squared', 'absolute', 'clipped'])
def test_what_is_no_number_is_as_far_as_the_ends_of_the_targets(name):
  """No number within their range is worse; the same one has reward 0."""
  written = jnp.array([[0.5, np.nan, np.inf, -np.inf]] * 4)
  target = jnp.array([0.1, np.nan, np.inf, -np.inf])
  found, near = non_finite.stand_ins(written, target, CODEC.span)
  rewards = np.asarray(REWARDS[name](found, near[:, None]))
  worst = float(REWARDS[name](jnp.array(2.0), jnp.array(-1.0)))
  expected = np.full((4, 4), worst)
  np.fill_diagonal(expected, 0)
  expected[0, 0] = float(REWARDS[name](jnp.array(0.5), jnp.array(0.1)))
  np.testing.assert_allclose(rewards, expected, rtol=1e-5)
