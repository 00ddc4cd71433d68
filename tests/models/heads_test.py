"""Heads: a histogram is a policy of one token, and a number is a number."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.devices import sharding
from genre2_jax.models.heads import (
  histogram_policy,
  pointwise_head,
  trie_policy,
)
from genre2_jax.policy import sampling, scoring, tables, teacher_forced, trie

pytestmark = pytest.mark.usefixtures('quick_compiles')

FEATURES = {
  'cardinalities': (3, 2),
  'quantiles': ((-1.0, 0.0, 1.0), (0.0, 1.0)),
  'numeric_embedding': 'piecewise_linear',
  'category_embedding': 'one_hot',
}
SIZES = {'hidden': 16, 'num_layers': 2, 'dropout': 0.4}
BINS = tokenizers.build('normalized', base=16, digits=1)


class OddBins(tokenizers.Normalized):
  """Sixteen bins, of which the grammar forbids every other one."""

  @property
  def allowed(self):
    return np.arange(16)[None] % 2 == 0


def inputs_of(batch):
  rng = np.random.default_rng(0)
  return {
    'numeric': rng.normal(size=(batch, 2)).astype(np.float32),
    'categories': rng.integers(0, (3, 2), (batch, 2)).astype(np.int32),
  }


@functools.cache
def histogram(members=1, tokenizer=BINS):
  """A policy and its parameters, moved away from the initial ones."""
  policy = histogram_policy(
    tokenizer, ensemble_members=members, **SIZES, **FEATURES
  )
  return policy, scattered(policy.init)


def scattered(init):
  params = nn.unbox(jax.jit(init)(jax.random.key(0), inputs_of(1)))
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda p: p + rng.normal(0, 0.3, p.shape).astype(np.float32), params
  )


def mlp(params, inputs, member=0):
  """The head by hand, in float64: [B, out]."""
  x = inputs['numeric'].astype(float)
  x = np.column_stack(
    [
      x,
      np.minimum(x[:, 0] + 1, 1),  # the first bin has no floor
      np.maximum(x[:, 0], 0),  # the last no ceiling
      x[:, 1],
      np.eye(3)[inputs['categories'][:, 0]],
      np.eye(2)[inputs['categories'][:, 1]],
    ]
  )
  for layer in range(3):
    if layer:
      x = np.maximum(x, 0)
    if 'Dense_0' in params:
      p = params[f'Dense_{layer}']
      x = x @ np.float64(p['kernel']) + p['bias']
    else:
      p = jax.tree.map(np.float64, params[f'EnsembleDense_{layer}'])
      x = (x * p['r'][member]) @ p['kernel'] * p['s'][member]
      x = x + p['bias'][member]
  return x


def softmax(logits):
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


# --------------------------------------------------------------------- trie


@functools.cache
def trie_head(members=1, tokenizer=None):
  """A policy and its parameters, moved away from the initial ones."""
  tokenizer = tokenizer or tokenizers.build('normalized', base=3, digits=2)
  policy = trie_policy(tokenizer, ensemble_members=members, **SIZES, **FEATURES)
  return policy, scattered(policy.init)


@pytest.mark.parametrize('members', [1, 3])
def test_the_trie_head_is_the_mean_of_its_members_distributions(members):
  policy, params = trie_head(members)
  inputs = inputs_of(6)
  context = jax.jit(policy.encode)(params, inputs)
  assert context.shape == (6, 4, 3)
  assert context.dtype == jnp.float32
  expected = 0
  for member in range(members):
    p = softmax(mlp(params, inputs, member).reshape(6, 4, 3))
    expected += p[:, 0, :, None] * p[:, 1:] / members
  got = jnp.exp(trie.log_probs(policy, params, context))
  np.testing.assert_allclose(got, expected.reshape(6, 9), atol=1e-5)
  assert np.std(expected, axis=0).max() > 1e-2  # the inputs matter


@pytest.mark.parametrize(
  'members', [1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_the_trie_head_writes_the_grammar_only(members):
  tokenizer = tokenizers.build(
    'ieee', base=2, digits=2, exponent_digits=1, specials=False
  )
  policy, params = trie_head(members, tokenizer)
  context = policy.encode(params, inputs_of(2))
  allowed = tables.allowed_at_nodes(tokenizer)
  assert np.asarray(jax.nn.softmax(context))[:, ~allowed].max() == 0
  log_p = trie.log_probs(policy, params, context)
  np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1, rtol=1e-5)


def test_the_trie_head_drops_out_with_a_key_only():
  policy, params = trie_head()
  inputs = inputs_of(4)
  once, again = (policy.encode(params, inputs) for _ in range(2))
  np.testing.assert_array_equal(once, again)
  dropped = policy.encode(params, inputs, jax.random.key(1))
  assert np.abs(np.asarray(dropped - once)).max() > 1e-3


# ---------------------------------------------------------------- histogram


@pytest.mark.parametrize('members', [1, 3])
def test_the_histogram_is_the_mean_of_its_members_softmax(members):
  policy, params = histogram(members)
  inputs = inputs_of(6)
  context = jax.jit(policy.encode)(params, inputs)
  expected = np.mean(
    [softmax(mlp(params, inputs, m)) for m in range(members)], axis=0
  )
  assert context.shape == (6, 16)
  assert context.dtype == jnp.float32
  np.testing.assert_allclose(jax.nn.softmax(context), expected, atol=1e-5)
  assert np.std(expected, axis=0).max() > 1e-2  # the inputs matter


@pytest.mark.parametrize('members', [1, 3])
def test_every_node_is_the_root(members):
  policy, params = histogram(members)
  context = jax.jit(policy.encode)(params, inputs_of(4))
  tokens = np.random.default_rng(0).integers(0, 16, (4, 2, 3))
  logits, cache = policy.decode(
    params, context, tokens, np.zeros(3, int), np.eye(3, dtype=bool)
  )
  assert jax.tree.leaves(cache) == []
  assert logits.shape == (4, 2, 3, 16)
  np.testing.assert_array_equal(
    logits, np.broadcast_to(context[:, None, None], logits.shape)
  )
  np.testing.assert_allclose(jax.nn.softmax(logits).sum(-1), 1, rtol=1e-5)
  one = teacher_forced(policy, params, context, tokens[:, 0, :1])
  np.testing.assert_array_equal(one[:, 0], context)


@pytest.mark.parametrize('members', [1, 3])
def test_samples_come_as_often_as_the_histogram_says(members):
  policy, params = histogram(members)
  num_samples = 20_000

  @jax.jit
  def sample(keys):
    context = policy.encode(params, inputs_of(2))
    return context, sampling.sample(
      policy,
      params,
      context,
      keys,
      num_samples=num_samples,
      temperature=0.7,
      greedy=True,
    )

  context, rollout = sample(jax.random.split(jax.random.key(0)))
  samples, greedy = sampling.without_greedy(rollout)
  probs = np.asarray(jax.nn.softmax(context / 0.7))
  for row in range(2):
    counts = np.bincount(np.asarray(samples.tokens)[row, :, 0], minlength=16)
    error = np.sqrt(probs[row] * (1 - probs[row]) / num_samples)
    assert (np.abs(counts / num_samples - probs[row]) < 5 * error + 1e-5).all()
  np.testing.assert_array_equal(greedy[:, 0], probs.argmax(-1))


def test_scores_are_the_log_softmax():
  policy, params = histogram(3)
  tokens = np.random.default_rng(0).integers(0, 16, (5, 7, 1))

  @jax.jit
  def score(tokens):
    context = policy.encode(params, inputs_of(5))
    return context, scoring.score(policy, params, context, tokens, 1.3)

  context, rollout = score(tokens)
  log_probs = np.asarray(jax.nn.log_softmax(context / 1.3))
  np.testing.assert_allclose(
    rollout.token_log_probs()[..., 0],
    np.take_along_axis(log_probs, tokens[..., 0], -1),
    rtol=1e-5,
  )


@pytest.mark.parametrize('members', [1, 3])
def test_forbidden_bins_have_probability_zero(members):
  policy, params = histogram(members, OddBins(16, 1))

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def entropy(params):
    log_probs = jax.nn.log_softmax(policy.encode(params, inputs_of(3)))
    return jnp.sum(jnp.exp(log_probs) * log_probs), jnp.exp(log_probs)

  gradient, probs = entropy(params)
  assert (probs[:, 1::2] == 0).all()
  assert (probs[:, ::2] > 0).all()
  np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_a_histogram_writes_one_token():
  with pytest.raises(ValueError, match='writes 2: give'):
    histogram_policy(
      tokenizers.build('normalized', base=4, digits=2), cardinalities=()
    )


# ---------------------------------------------------------------- pointwise


@pytest.mark.parametrize('members', [1, 3])
def test_the_pointwise_head_is_the_mean_of_its_members(members):
  head = pointwise_head(ensemble_members=members, **SIZES, **FEATURES)
  params, inputs = scattered(head.init), inputs_of(6)
  z = jax.jit(head.predict)(params, inputs)
  expected = [mlp(params, inputs, m)[:, 0] for m in range(members)]
  assert z.shape == (6,)
  assert z.dtype == jnp.float32
  np.testing.assert_allclose(z, np.mean(expected, axis=0), atol=1e-5)
  assert members == 1 or np.std(expected, axis=0).min() > 1e-3


@pytest.mark.parametrize('members', [1, 2])
def test_it_learns_a_line(members):
  head = pointwise_head(
    ensemble_members=members, **{**SIZES, 'dropout': 0.0}, **FEATURES
  )
  inputs = inputs_of(64)
  target = inputs['numeric'] @ np.array([0.5, -1.0], np.float32)

  @jax.jit
  def train(params):
    def loss(params):
      return jnp.square(head.predict(params, inputs) - target).mean()

    def step(params, _):
      error, gradient = jax.value_and_grad(loss)(params)
      return jax.tree.map(lambda p, g: p - 0.02 * g, params, gradient), error

    return jax.lax.scan(step, params, length=300)[1]

  params = nn.unbox(jax.jit(head.init)(jax.random.key(0), inputs))
  errors = train(params)
  assert errors[-1] < 0.05 * np.var(target)
  assert errors[-1] < errors[0] / 10


# --------------------------------------------------------------------- both


def function_of(kind, **sizes):
  """init, and what it says of an input, as a function of parameters and key."""
  arguments = {**SIZES, **FEATURES, **sizes}
  if kind == 'pointwise':
    return pointwise_head(**arguments)[:2]
  policy = histogram_policy(BINS, **arguments)
  return policy.init, policy.encode


@pytest.mark.parametrize('kind', ['histogram', 'pointwise'])
def test_there_is_dropout_only_with_a_key(kind):
  init, apply = function_of(kind)
  params, inputs = scattered(init), inputs_of(6)
  apply, without = jax.jit(apply), jax.jit(function_of(kind, dropout=0.0)[1])
  keys = jax.random.split(jax.random.key(0))
  plain, first, second = (apply(params, inputs, k) for k in (None, *keys))
  np.testing.assert_array_equal(plain, without(params, inputs))
  np.testing.assert_array_equal(first, apply(params, inputs, keys[0]))
  np.testing.assert_array_equal(plain, without(params, inputs, keys[0]))
  assert np.abs(first - plain).max() > 1e-2
  assert np.abs(first - second).max() > 1e-2


@pytest.mark.parametrize('kind', ['histogram', 'pointwise'])
def test_stacked_seeds_are_the_seeds_alone(kind):
  init, apply = function_of(kind, ensemble_members=2)
  inputs = inputs_of(3)

  @jax.jit
  def stacked(keys):
    params = nn.unbox(jax.vmap(init, (0, None))(keys, inputs))
    return params, jax.vmap(apply, (0, None))(params, inputs)

  params, said = stacked(jax.vmap(jax.random.key)(jnp.array([4, 5, 4])))
  np.testing.assert_array_equal(said[0], said[2])
  assert np.abs(said[0] - said[1]).max() > 1e-3
  one = jax.tree.map(lambda p: np.asarray(p)[1], params)
  np.testing.assert_allclose(jax.jit(apply)(one, inputs), said[1], atol=1e-5)


@pytest.mark.parametrize('members', [1, 2])
@pytest.mark.parametrize('kind', ['histogram', 'pointwise'])
def test_every_parameter_has_logical_names(kind, members):
  init, _ = function_of(
    kind,
    ensemble_members=members,
    numeric_embedding='periodic',
    category_embedding='learned',
  )
  boxed = jax.eval_shape(init, jax.random.key(0), inputs_of(1))
  known = {name for name, _ in sharding.RULES} | {None}

  def check(p, names):
    assert len(names) == p.ndim
    assert set(names) <= known

  jax.tree.map(check, nn.unbox(boxed), nn.get_partition_spec(boxed))
  kernel = ('EnsembleDense_2' if members > 1 else 'Dense_2', 'kernel')
  last = 'vocab' if kind == 'histogram' else None
  spec = nn.get_partition_spec(boxed)[kernel[0]][kernel[1]]
  assert tuple(spec) == ('embed', last)
