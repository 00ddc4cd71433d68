"""Networks mixed with the targets of training rows that are alike."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from genre2_jax import tokenizers
from genre2_jax.models import neighbours
from genre2_jax.models.encoders import feature_embedding
from genre2_jax.models.heads import trie_policy
from genre2_jax.models.neighbours import MEMORY, ROW, Memory, neighbour_policy
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.policy import sampling, scoring, trie

pytestmark = pytest.mark.usefixtures('quick_compiles')

TOKENIZER = tokenizers.build('normalized', base=3, digits=2)
FEATURES = {'cardinalities': (3,), 'category_embedding': 'one_hot'}
NUM_ROWS = 11


def inputs_of(count, seed):
  draw = np.random.default_rng(seed)
  return {
    'numeric': draw.normal(size=(count, 2)).astype(np.float32),
    'categories': draw.integers(0, 3, (count, 1)).astype(np.int32),
  }


def memory():
  places = np.random.default_rng(5).integers(0, 9, NUM_ROWS)
  return Memory(inputs_of(NUM_ROWS, 4), places.astype(np.int32))


@functools.cache
def policies(head='trie', candidates=100):
  """(base, mixed, the mixed policy's parameters moved from the first ones)."""
  if head == 'trie':
    base = trie_policy(TOKENIZER, hidden=8, num_layers=1, **FEATURES)
  else:
    base = tabular_policy(
      TOKENIZER,
      width=8,
      num_layers=1,
      num_heads=2,
      feedforward=8,
      encoder_hidden=8,
      encoder_layers=1,
      dropout=0.1,
      **FEATURES,
    )
  mixed = neighbour_policy(
    base,
    memory(),
    embedding=feature_embedding(**FEATURES),
    width=4,
    candidates=candidates,
  )
  params = nn.unbox(jax.jit(mixed.init)(jax.random.key(0), inputs_of(1, 0)))
  draw = np.random.default_rng(0)
  trained = {k: v for k, v in params.items() if k != MEMORY}
  trained = jax.tree.map(
    lambda x: x + draw.normal(0, 0.3, x.shape).astype(np.float32), trained
  )
  return base, mixed, {**trained, MEMORY: params[MEMORY]}


def log_probs(policy, params, inputs, key=None):
  @jax.jit
  def run(params, inputs):
    context = policy.encode(params, inputs, key)
    return trie.log_probs(policy, params, context)

  return run(params, inputs)


def by_hand(head, inputs, rows=None):
  """The mixture's p [B, 9] in float64; `rows` do not see themselves."""
  base, _, params = policies(head)
  known, lookup = memory(), params['lookup']

  def embed(inputs):
    labels = np.eye(3)[inputs['categories'][:, 0]]
    return np.concatenate([inputs['numeric'], labels], axis=1)

  queries, keys = embed(inputs), embed(known.inputs)
  E, t = lookup['map'], np.exp(lookup['log_scale'])
  apart = (queries[:, None] - keys) @ np.float64(E['kernel'])
  log_w = -t * np.linalg.norm(apart, axis=-1)
  if rows is not None:
    log_w[np.arange(len(rows)), rows] = -np.inf
  w = special.softmax(log_w, axis=1) @ np.eye(9)[known.places]
  g = special.expit(queries @ np.float64(lookup['gate']) + lookup['gate_bias'])
  own = np.exp(log_probs(base, params['network'], inputs))
  return (1 - g)[:, None] * own + g[:, None] * w


@pytest.mark.parametrize('head', ['trie', 'decoder'])
def test_the_distribution_is_the_mixture(head):
  _, mixed, params = policies(head)
  inputs = inputs_of(5, 1)
  got = jnp.exp(log_probs(mixed, params, inputs))
  expected = by_hand(head, inputs)
  np.testing.assert_allclose(got, expected, atol=2e-5)
  np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)


def test_a_training_row_does_not_see_its_own_target():
  _, mixed, params = policies()
  rows = np.array([3, 0, 10], np.int32)
  inputs = {k: x[rows] for k, x in memory().inputs.items()} | {ROW: rows}
  got = jnp.exp(log_probs(mixed, params, inputs))
  np.testing.assert_allclose(got, by_hand('trie', inputs, rows), atol=2e-5)
  # Its target is another, and nothing changes for it, but for others.
  places = params[MEMORY]['places']
  moved = places.at[3].set((places[3] + 4) % 9)
  other = {**params, MEMORY: {**params[MEMORY], 'places': moved}}
  again = jnp.exp(log_probs(mixed, other, inputs))
  np.testing.assert_allclose(again[0], got[0], atol=1e-6)
  assert np.abs(again[1] - got[1]).max() > 1e-3


def test_blocks_of_rows_change_nothing(monkeypatch):
  _, mixed, params = policies()
  rows = np.array([3, 0, 10], np.int32)
  inputs = {k: x[rows] for k, x in memory().inputs.items()} | {ROW: rows}

  def gradient():
    trained = {k: v for k, v in params.items() if k != MEMORY}

    def loss(trained):
      p = {**trained, MEMORY: params[MEMORY]}
      log_p = trie.log_probs(mixed, p, mixed.encode(p, inputs))
      return jnp.sum(jnp.exp(log_p) * jnp.arange(9))

    return jax.jit(jax.value_and_grad(loss))(trained)

  whole = gradient()
  monkeypatch.setattr(neighbours, '_BLOCK', 4)
  in_blocks = gradient()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), whole, in_blocks
  )
  flat = jax.tree.leaves(whole)
  assert all(np.isfinite(x).all() for x in flat)
  assert np.abs(whole[1]['lookup']['map']['kernel']).max() > 1e-4


@pytest.mark.slow
def test_equal_rows_keep_gradients_finite():
  _, mixed, params = policies()
  rows = np.array([2], np.int32)
  twins = {
    k: np.repeat(x[2:3], NUM_ROWS, 0) for k, x in memory().inputs.items()
  }
  inputs = {k: x[rows] for k, x in twins.items()} | {ROW: rows}
  places = params[MEMORY]['places']

  def loss(lookup):
    rows = {'inputs': twins, 'places': places}
    p = {**params, 'lookup': lookup, MEMORY: rows}
    log_p = trie.log_probs(mixed, p, mixed.encode(p, inputs))
    return jnp.sum(jnp.exp(log_p) * jnp.arange(9))

  for x in jax.tree.leaves(jax.grad(loss)(params['lookup'])):
    assert np.isfinite(x).all()


def test_a_step_with_dropout_looks_at_random_rows_only():
  inputs, key = inputs_of(4, 1), jax.random.key(1)
  _, all_rows, params = policies()  # Fewer rows than candidates.
  np.testing.assert_array_equal(
    *(
      policy.encode(params, inputs, key)
      for policy in (all_rows, policies(candidates=NUM_ROWS)[1])
    )
  )
  _, one_row, _ = policies(candidates=1)
  p = np.exp(log_probs(one_row, params, inputs, key))
  closed = {**params, 'lookup': {**params['lookup'], 'gate_bias': -1e3}}
  without = np.exp(log_probs(one_row, closed, inputs, key))
  (seen,) = np.flatnonzero((p > without + 1e-6).all(axis=0))
  assert seen in memory().places  # All that is looked up is of one row.
  np.testing.assert_array_equal(
    log_probs(one_row, params, inputs), log_probs(all_rows, params, inputs)
  )


def test_it_writes_what_it_says():
  _, mixed, params = policies('decoder')
  context = jax.jit(mixed.encode)(params, inputs_of(2, 1))
  log_p = np.asarray(trie.log_probs(mixed, params, context))
  keys = jax.random.split(jax.random.key(0), 2)
  rollout = sampling.sample(mixed, params, context, keys, num_samples=4000)
  place = np.asarray(rollout.tokens) @ [3, 1]
  for row in range(2):
    share = np.bincount(place[row], minlength=9) / 4000
    np.testing.assert_allclose(share, np.exp(log_p[row]), atol=0.03)
  scored = scoring.score(mixed, params, context, rollout.tokens[:, :5])
  np.testing.assert_allclose(
    scored.token_log_probs().sum(-1),
    np.take_along_axis(log_p, place[:, :5], 1),
    atol=1e-5,
  )


def test_the_rows_are_never_trained():
  _, mixed, params = policies()
  paths = [
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  frozen = {path for path in paths if mixed.frozen(path)}
  assert frozen == {
    (MEMORY, 'places'),
    (MEMORY, 'inputs', 'numeric'),
    (MEMORY, 'inputs', 'categories'),
  }


def test_rows_that_are_none_have_no_weight():
  _, mixed, params = policies()
  # Where a step looks at all rows, it does so still.
  assert len(memory().padded(candidates=NUM_ROWS).places) == NUM_ROWS
  known = memory().padded(candidates=100)
  assert len(known.places) > NUM_ROWS
  rows = {'inputs': known.inputs, 'places': jnp.asarray(known.places)}
  inputs = inputs_of(5, 1)
  for key in (None, jax.random.key(3)):
    np.testing.assert_allclose(
      log_probs(mixed, {**params, MEMORY: rows}, inputs, key),
      log_probs(mixed, params, inputs, key),
      atol=1e-5,
    )


@pytest.mark.parametrize('block', [4, 4096])
def test_rows_are_placed_once_for_many_calls(block, monkeypatch):
  monkeypatch.setattr(neighbours, '_BLOCK', block)
  _, mixed, params = policies()
  ready = jax.jit(mixed.prepare)(params)
  calls = []
  monkeypatch.setattr(
    neighbours.Lookup,
    '__call__',
    lambda *args, own=neighbours.Lookup.__call__: (
      calls.append(len(args[1]['numeric'])) or own(*args)
    ),
  )
  inputs = inputs_of(5, 1)
  found = log_probs(mixed, ready, inputs)
  assert calls == [5]  # The queries alone.
  expected = log_probs(mixed, params, inputs)
  np.testing.assert_allclose(found, expected, atol=1e-5)
