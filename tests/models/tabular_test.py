"""The model for tables: causality, grammar, caches, dropout, sizes."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.models.decoder import CrossAttention, sinusoidal_positions
from genre2_jax.models.encoders import MLPEncoder, feature_embedding
from genre2_jax.models.layers import Dropout
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.policy import sampling, scoring, teacher_forced, trie

pytestmark = pytest.mark.usefixtures('quick_compiles')

SIZES = {
  'cardinalities': (3, 5),
  'width': 16,
  'num_layers': 2,
  'num_heads': 2,
  'feedforward': 24,
  'encoder_hidden': 16,
  'encoder_layers': 1,
  'dropout': 0.3,
}
TOKENIZERS = {
  'normalized': tokenizers.build('normalized', base=6, digits=5),
  'p10': tokenizers.build('p10', base=10, digits=3, max_exponent=2),
  'ieee': tokenizers.build('ieee', base=10, digits=2),
}


def inputs_of(batch, num_numeric=4, cardinalities=SIZES['cardinalities']):
  rng = np.random.default_rng(0)
  numeric = rng.normal(size=(batch, num_numeric)).astype(np.float32)
  categories = rng.integers(0, cardinalities, (batch, len(cardinalities)))
  return {'numeric': numeric, 'categories': categories.astype(np.int32)}


def build(tokenizer, **sizes):
  return tabular_policy(tokenizer, **{**SIZES, **sizes})


@functools.cache
def parameters(name):
  """Parameters of the tiny policy, the same ones for any dropout rate."""
  init = jax.jit(build(TOKENIZERS[name]).init)
  return nn.unbox(init(jax.random.key(0), inputs_of(1)))


def logits_of(name, tokens, **sizes):
  """Teacher-forced logits of tokens [B, T], as a function of parameters."""
  policy, inputs = build(TOKENIZERS[name], **sizes), inputs_of(len(tokens))

  def logits(params, key=None):
    context = policy.encode(params, inputs, key)
    return teacher_forced(policy, params, context, tokens, key)

  return logits


# --------------------------------------------------------------- causality


def test_no_gradient_flows_from_a_position_to_its_own_or_later_tokens():
  """Through the embeddings: every position holds another token."""
  tokens = jnp.array([[3, 0, 4, 1, 2]])
  logits = logits_of('normalized', tokens)
  jacobian = jax.jit(jax.jacobian(lambda p: logits(p)[0].sum(-1)))
  rows = jacobian(parameters('normalized'))['decoder']['embedding']
  influence = np.abs(rows).max(-1)  # [T, V + 1]
  for t, (position, token) in itertools.product(
    range(5), enumerate(tokens[0].tolist())
  ):
    assert (influence[t, token] > 1e-4) == (position < t)
    assert (influence[t, token] == 0) == (position >= t)
  assert not influence[:, 5].any()  # the token that is not there
  assert (influence[:, 6] > 1e-4).all()  # the start


def test_later_tokens_change_nothing():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 6, (4, 5)).astype(np.int32)
  policy, params = build(TOKENIZERS['normalized']), parameters('normalized')
  context = policy.encode(params, inputs_of(4))
  logits = jax.jit(functools.partial(teacher_forced, policy))
  before = np.asarray(logits(params, context, tokens))
  for t in range(5):
    other = tokens.copy()
    other[:, t:] = (other[:, t:] + 1) % 6
    after = np.asarray(logits(params, context, other))
    np.testing.assert_array_equal(before[:, : t + 1], after[:, : t + 1])
    assert (np.abs(before - after)[:, t + 1 :] > 1e-4).any(-1).all()


def test_a_node_sees_what_it_is_told_to_see_and_nothing_else():
  """Two numbers side by side in one pass do not see one another."""
  name = 'normalized'
  policy, params = build(TOKENIZERS[name]), parameters(name)
  tokens = np.array([[3, 0, 4, 1, 2], [1, 1, 5, 0, 2]], np.int32)
  visible = np.kron(np.eye(2, dtype=bool), np.tri(5, dtype=bool))

  @jax.jit
  def both(params):
    context = policy.encode(params, inputs_of(1))
    side_by_side, _ = policy.decode(
      params,
      context,
      jnp.roll(tokens, 1, axis=-1).reshape(1, 1, 10),
      np.tile(np.arange(5), 2),
      visible,
    )
    return side_by_side.reshape(2, 5, -1), teacher_forced(
      policy, params, context.repeat(2, 0), tokens
    )

  np.testing.assert_allclose(*both(params), atol=1e-5)


def test_a_chain_of_cached_steps_equals_one_pass():
  """Token by token, for two numbers of every input."""
  name = 'ieee'
  policy, params = build(TOKENIZERS[name]), parameters(name)
  tokens = TOKENIZERS[name].encode([[0.37, -51.0], [-2e6, 0.0]])
  length = policy.tokenizer.num_tokens

  @jax.jit
  def both(params):
    context, cache, chain = policy.encode(params, inputs_of(2)), None, []
    for t in range(length):
      logits, cache = policy.decode(
        params,
        context,
        tokens[..., [t - 1]],  # [B, 2, 1]
        np.array([t]),
        np.ones((1, t + 1), bool),
        cache,
      )
      chain.append(logits)
    return jnp.concatenate(chain, 2), teacher_forced(
      policy, params, context.repeat(2, 0), tokens.reshape(4, length)
    ).reshape(2, 2, length, -1)

  np.testing.assert_allclose(*both(params), atol=1e-5)


# ----------------------------------------------------------------- grammar


@pytest.mark.parametrize('name', TOKENIZERS)
def test_forbidden_tokens_have_probability_zero_and_gradients_are_finite(name):
  tokenizer = TOKENIZERS[name]
  tokens = tokenizer.encode(np.array([0.1, 0.93]))
  logits = logits_of(name, tokens)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def entropy(params):
    log_probs = jax.nn.log_softmax(logits(params))
    return jnp.sum(jnp.exp(log_probs) * log_probs), log_probs

  (_, log_probs), gradient = entropy(parameters(name))
  assert log_probs.dtype == jnp.float32
  probs = np.exp(log_probs)
  assert (probs[:, ~tokenizer.allowed] == 0).all()
  assert (probs[:, tokenizer.allowed] > 0).all()
  np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


# ----------------------------------------------------------------- dropout


def test_there_is_dropout_only_with_a_key():
  tokens = TOKENIZERS['normalized'].encode(np.array([0.1, 0.93]))
  params = parameters('normalized')
  logits = jax.jit(logits_of('normalized', tokens))
  without = jax.jit(logits_of('normalized', tokens, dropout=0.0))
  keys = jax.random.split(jax.random.key(0))
  np.testing.assert_array_equal(logits(params), without(params))
  np.testing.assert_array_equal(
    logits(params, keys[0]), logits(params, keys[0])
  )
  assert not np.allclose(logits(params, keys[0]), logits(params), atol=1e-2)
  assert not np.allclose(
    logits(params, keys[0]), logits(params, keys[1]), atol=1e-2
  )
  np.testing.assert_array_equal(without(params, keys[0]), without(params))


def test_encoder_and_decoder_both_drop_out():
  name, tokens = 'normalized', np.zeros((8, 5), np.int32)
  policy, params = build(TOKENIZERS[name]), parameters(name)

  @jax.jit
  def of(params, key):
    context = policy.encode(params, inputs_of(8))
    return (
      jnp.abs(policy.encode(params, inputs_of(8), key) - context).max(),
      jnp.abs(
        teacher_forced(policy, params, context, tokens, key)
        - teacher_forced(policy, params, context, tokens)
      ).max(),
    )

  assert min(of(params, jax.random.key(3))) > 1e-2


@pytest.mark.parametrize('width', [100, 101])
def test_dropout_zeroes_its_rate_and_keeps_the_mean(width):
  x = jnp.ones((100, width))
  y = Dropout(0.2).apply({}, x, rngs={'dropout': jax.random.key(0)})
  np.testing.assert_allclose(np.unique(y), [0, 1.25])
  assert np.mean(y == 0) == pytest.approx(0.2, abs=0.02)
  # Neighbours, of which two come from one word, are dropped apart.
  both = np.mean((y[:, :-1] == 0) & (y[:, 1:] == 0))
  assert both == pytest.approx(0.04, abs=0.01)


# ----------------------------------------------------------------- encoder


def test_the_context_has_one_row_per_input_and_knows_nothing_of_groups():
  policy = build(TOKENIZERS['normalized'])
  context = jax.eval_shape(
    policy.encode, parameters('normalized'), inputs_of(7)
  )
  assert context.shape == (7, 1, SIZES['width'])


@pytest.mark.parametrize(
  ('cardinality', 'codes'),
  [(5, [-1, -0.5, 0, 0.5, 1]), (2, [-1, 1]), (1, [-1])],
)
def test_categories_are_read_as_codes_from_minus_one_to_one(cardinality, codes):
  numeric = np.random.default_rng(0).normal(size=(1, 2)).astype(np.float32)
  numeric = numeric.repeat(cardinality, 0)
  sizes = {'width': 4, 'hidden': 8, 'num_layers': 1, 'dropout': 0.0}
  with_codes = MLPEncoder(
    embedding=feature_embedding(cardinalities=(cardinality,)), **sizes
  )
  inputs = {
    'numeric': numeric,
    'categories': np.arange(cardinality, dtype=np.int32)[:, None],
  }
  params = with_codes.init(jax.random.key(0), inputs)
  plain = {
    'numeric': np.column_stack([numeric, np.array(codes, np.float32)]),
    'categories': np.zeros((cardinality, 0), np.int32),
  }
  np.testing.assert_allclose(
    with_codes.apply(params, inputs),
    MLPEncoder(embedding=feature_embedding(cardinalities=()), **sizes).apply(
      params, plain
    ),
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ('num_numeric', 'cardinalities'), [(0, (3, 2)), (4, ()), (1, (1,))]
)
def test_columns_of_one_kind_may_be_missing(num_numeric, cardinalities):
  policy = build(TOKENIZERS['normalized'], cardinalities=cardinalities)
  inputs = inputs_of(3, num_numeric, cardinalities)
  params = nn.unbox(jax.jit(policy.init)(jax.random.key(0), inputs))
  context = policy.encode(params, inputs)
  assert context.shape == (3, 1, SIZES['width'])
  assert np.isfinite(context).all()
  if sum(cardinalities) != 1:
    assert np.abs(context[0] - context[1]).max() > 1e-3


@pytest.mark.parametrize('ensemble_members', [1, 3])
def test_the_decoder_reads_every_ensemble_member(ensemble_members):
  """A slot that changes changes the logits, and their grammar is kept."""
  policy = build(TOKENIZERS['p10'], ensemble_members=ensemble_members)
  inputs, tokenizer = inputs_of(2), TOKENIZERS['p10']
  params = nn.unbox(jax.jit(policy.init)(jax.random.key(0), inputs))
  cross = params['decoder']['layer_0']['cross_attention']
  assert ('query' in cross) == (ensemble_members > 1)
  tokens = jnp.asarray(tokenizer.encode(np.array([0.1, -9.0])))

  @jax.jit
  def logits(context):
    return teacher_forced(policy, params, context, tokens)

  context = jax.jit(policy.encode)(params, inputs)
  assert context.shape == (2, ensemble_members, SIZES['width'])
  before = logits(context)
  probs = jax.nn.softmax(before)
  assert (np.asarray(probs)[:, ~tokenizer.allowed] == 0).all()
  for member in range(ensemble_members):
    after = logits(
      context.at[:, member].add(
        jax.random.normal(jax.random.key(member), (2, SIZES['width']))
      )
    )
    assert np.abs(after - before)[:, tokenizer.allowed].max() > 1e-3


def test_embeddings_reach_the_policy():
  """Every plain argument changes the encoder's parameters, none the others'."""
  inputs, base = inputs_of(1, 2), 2 + 2
  quantiles = ((-1.0, 0.0, 1.0), (0.0, 2.0))

  def inputs_of_first_layer(**features):
    policy = build(TOKENIZERS['normalized'], **features)
    shapes = jax.eval_shape(policy.init, jax.random.key(0), inputs)
    encoder = nn.unbox(shapes)['encoder']
    return encoder['Dense_0']['kernel'].shape[0], encoder.get('embedding', {})

  assert inputs_of_first_layer() == (base, {})
  assert inputs_of_first_layer(
    numeric_embedding='piecewise_linear', quantiles=quantiles
  ) == (base + 3, {})
  assert inputs_of_first_layer(category_embedding='one_hot') == (2 + 3 + 5, {})
  size, tables = inputs_of_first_layer(
    category_embedding='learned', embedding_width=7
  )
  assert size == 2 + 2 * 7
  assert tables['categories'].shape == (3 + 5, 7)
  size, tables = inputs_of_first_layer(
    numeric_embedding='periodic', embedding_width=7, num_frequencies=5
  )
  assert size == 2 * 7 + 2
  assert tables['frequencies'].shape == (2, 5)
  assert tables['kernel'].shape == (2, 10, 7)


# ----------------------------------------------------------------- decoder


def test_one_memory_slot_equals_several_identical_ones():
  """Over one key the softmax is 1: no need of query and key projections."""
  layer = CrossAttention(num_heads=2, compute_dtype='float32')
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 5, 16)).astype(np.float32)
  memory = rng.normal(size=(2, 1, 16)).astype(np.float32)
  slots = memory.repeat(3, 1)
  params = nn.unbox(layer.init(jax.random.key(0), x, slots))['params']
  single = {name: params[name] for name in ('value', 'out')}
  one = layer.apply({'params': single}, x, memory)
  several = layer.apply({'params': params}, x, slots)
  np.testing.assert_allclose(
    np.broadcast_to(one, several.shape), several, atol=1e-5
  )
  needed = nn.unbox(layer.init(jax.random.key(0), x, memory))['params']
  assert set(needed) == {'value', 'out'}
  # And slots that differ are told apart, by each node in its own way.
  slots = rng.normal(size=slots.shape).astype(np.float32)
  apart = layer.apply({'params': params}, x, slots)
  assert np.abs(apart[:, :, 0] - apart[:, :, 1]).max() > 1e-3
  np.testing.assert_allclose(
    apart[:, 2:, 3:],
    layer.apply({'params': params}, x[:, 2:, 3:], slots),
    atol=1e-5,
  )


@pytest.mark.parametrize('members', [1, 3])
@pytest.mark.slow
def test_nodes_that_inputs_share_are_those_of_every_input(members):
  """Drawn, scored and enumerated, with gradients; beyond the dense levels."""
  tokenizer = tokenizers.build('normalized', base=6, digits=3)
  shared = build(tokenizer, ensemble_members=members)
  own = shared._replace(shares_nodes=False)
  assert shared.shares_nodes
  inputs = inputs_of(4)
  params = nn.unbox(jax.jit(shared.init)(jax.random.key(0), inputs))
  keys = jax.random.split(jax.random.key(1), 4)

  def found(params, policy):
    context = policy.encode(params, inputs)
    drawn = sampling.sample(
      policy, params, context, keys, num_samples=7, greedy=True
    )
    scored = scoring.score(policy, params, context, drawn.tokens)
    log_p = trie.log_probs(policy, params, context)
    weights = jnp.cos(jnp.arange(log_p.size)).reshape(log_p.shape)
    value = jnp.sum(weights * log_p) + jnp.sum(scored.token_log_probs())
    return value, (drawn, scored, log_p)

  both = jax.jit(
    lambda params: [
      jax.value_and_grad(found, has_aux=True)(params, policy)
      for policy in (shared, own)
    ]
  )
  once, each = both(params)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
    once,
    each,
  )


def test_what_inputs_share_is_computed_once():
  tokenizer = tokenizers.build('normalized', base=4, digits=3)
  shared = build(tokenizer, num_layers=1)
  params = jax.eval_shape(
    lambda: nn.unbox(shared.init(jax.random.key(0), inputs_of(1)))
  )

  def work(policy):
    def log_probs(params):
      context = policy.encode(params, inputs_of(16))
      return trie.log_probs(policy, params, context)

    return jax.jit(log_probs).lower(params).cost_analysis()['flops']

  own = shared._replace(shares_nodes=False)
  assert work(shared) < 0.7 * work(own)


def test_shared_nodes_drop_out_row_by_row():
  policy = build(TOKENIZERS['normalized'], dropout=0.5)
  inputs = jax.tree.map(lambda x: x[:1].repeat(2, 0), inputs_of(1))
  params = parameters('normalized')
  logits, _ = policy.decode(
    params,
    policy.encode(params, inputs),
    jnp.zeros((1, 1, 1), jnp.int32),
    np.zeros(1, int),
    np.ones((1, 1), bool),
    dropout_key=jax.random.key(0),
  )
  assert logits.shape[0] == 2
  assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.parametrize('width', [6, 7])
def test_sinusoidal_positions_by_hand(width):
  table = sinusoidal_positions(4, width)
  assert table.shape == (4, width)
  for position, i in itertools.product(range(4), range(width)):
    angle = position / 10_000 ** (i // 2 * 2 / width)
    expected = (np.sin, np.cos)[i % 2](angle)
    assert table[position, i] == pytest.approx(expected, abs=1e-6)


def test_the_papers_model_has_about_five_million_parameters():
  policy = tabular_policy(
    tokenizers.build('normalized', base=2, digits=8),
    cardinalities=(2,) * 2,
    width=256,
    num_layers=3,
    num_heads=4,
    feedforward=1024,
    encoder_hidden=1024,
    encoder_layers=3,
    dropout=0.1,
  )
  shapes = jax.eval_shape(
    policy.init, jax.random.key(0), inputs_of(1, 10, (2, 2))
  )
  count = sum(x.size for x in jax.tree.leaves(nn.unbox(shapes)))
  assert count == pytest.approx(5.13e6, abs=2e4)
