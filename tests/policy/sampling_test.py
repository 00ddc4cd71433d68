"""Sampling: exact against brute force over all sequences of a grammar."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_policy import BATCH, drawn_policy
from scipy import stats
from table_policy import brute_force, random_table, sequences, table_policy

from genre2_jax import tokenizers
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.policy import sampling, scoring, teacher_forced, trie

pytestmark = pytest.mark.usefixtures('quick_compiles')

TOKENIZERS = {
  'binary': tokenizers.build('normalized', base=2, digits=5),
  'ternary': tokenizers.build('normalized', base=3, digits=3),
  'decimal': tokenizers.build('normalized', base=10, digits=2),
  'p10': tokenizers.build('p10', base=10, digits=2, max_exponent=2),
  'ieee': tokenizers.build('ieee', base=10, digits=1),
}
SEVEN_DIGITS = tokenizers.build('normalized', base=2, digits=7)
each_tokenizer = pytest.mark.parametrize('name', TOKENIZERS)


def token_log_probs(log_probs, tokens):
  return np.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]


@functools.cache
def transformer(name, num_layers=1):
  """A tiny policy of the package, its parameters and two contexts."""
  policy = tabular_policy(
    TOKENIZERS[name],
    cardinalities=(3,),
    width=16,
    num_layers=num_layers,
    num_heads=2,
    feedforward=16,
    encoder_hidden=16,
    encoder_layers=1,
    dropout=0.1,
  )
  rng = np.random.default_rng(0)
  inputs = {
    'numeric': rng.normal(size=(2, 3)).astype(np.float32),
    'categories': np.array([[0], [2]], np.int32),
  }
  params = jax.jit(policy.init)(jax.random.key(0), inputs)
  params = jax.tree.map(lambda x: 1.5 * x, nn_unbox(params))
  return policy, params, jax.jit(policy.encode)(params, inputs)


def nn_unbox(params):
  return jax.tree.map(
    lambda x: x.unbox() if hasattr(x, 'unbox') else x,
    params,
    is_leaf=lambda x: hasattr(x, 'unbox'),
  )


sample = jax.jit(
  sampling.sample,
  static_argnames=('policy', 'num_samples', 'temperature', 'greedy'),
)
score = jax.jit(scoring.score, static_argnames=('policy', 'temperature'))


def nodes_decoded(num_rows, **options):
  """Nodes of every decoding step of binary numbers with eight digits."""
  nodes = []
  tokenizer = tokenizers.build('normalized', base=2, digits=8)
  policy = table_policy(tokenizer, on_decode=nodes.append)
  function = functools.partial(
    sampling.sample, policy, num_samples=num_rows, **options
  )
  table = random_table(tokenizer)
  jax.eval_shape(function, table, jnp.ones(1), row_keys(0, 1))
  return nodes


def row_keys(seed, batch):
  return jax.random.split(jax.random.key(seed), batch)


# ------------------------------------------- one distribution, three ways


@pytest.mark.parametrize(
  ('name', 'num_samples'),
  [
    ('binary', 3),
    ('binary', 4),
    ('binary', 40),
    ('ternary', 10),
    ('decimal', 10),
    ('p10', 5),
    ('ieee', 5),
  ],
)
def test_sampled_log_probs_equal_teacher_forced_ones(name, num_samples):
  """With groups below, at and above the sizes of the trie's levels."""
  policy, params, context = transformer(name)

  @jax.jit
  def both(params, context):
    rollout = sampling.sample(
      policy, params, context, row_keys(1, 2), num_samples=num_samples
    )
    rows = rollout.tokens.reshape(-1, policy.tokenizer.num_tokens)
    logits = teacher_forced(
      policy, params, context.repeat(num_samples, 0), rows
    )
    scored = jax.nn.log_softmax(logits)
    return rollout, scored.reshape(rollout.log_probs.shape)

  rollout, scored = both(params, context)
  allowed = np.broadcast_to(policy.tokenizer.allowed, scored.shape)
  np.testing.assert_allclose(
    rollout.log_probs[allowed], scored[allowed], atol=2e-5
  )
  picked = token_log_probs(np.asarray(scored), np.asarray(rollout.tokens))
  np.testing.assert_allclose(rollout.token_log_probs(), picked, atol=2e-5)


def test_decoding_two_layers_with_a_cache_equals_decoding_without():
  policy, params, context = transformer('ternary', num_layers=2)
  tokens = jnp.asarray(sequences(policy.tokenizer)[[5, 5, 19, 26]])

  @jax.jit
  def both(params, context):
    cached = scoring.score(policy, params, context, jnp.stack([tokens] * 2))
    scored = teacher_forced(
      policy, params, context.repeat(4, 0), jnp.tile(tokens, (2, 1))
    )
    return cached.log_probs, jax.nn.log_softmax(scored).reshape(2, 4, 3, 3)

  np.testing.assert_allclose(*both(params, context), atol=2e-5)


@each_tokenizer
def test_the_whole_trie_sums_to_one_and_equals_brute_force(name):
  tokenizer = TOKENIZERS[name]
  table, scales = random_table(tokenizer), np.array([1, 2], np.float32)
  tokens = sequences(tokenizer)
  assert len(tokens) == tokenizer.num_sequences
  rollout = score(
    table_policy(tokenizer), table, scales, jnp.stack([tokens] * 2)
  )
  found = rollout.token_log_probs()
  np.testing.assert_allclose(np.exp(found.sum(-1)).sum(-1), 1, rtol=1e-5)
  for row, scale in enumerate(scales):
    expected = brute_force(tokenizer, table, scale, tokens)
    np.testing.assert_allclose(
      found[row], token_log_probs(expected, tokens), atol=1e-5
    )
    np.testing.assert_allclose(
      np.exp(rollout.log_probs[row]), np.exp(expected), atol=1e-6
    )


def test_the_transformers_trie_sums_to_one_for_every_input():
  policy, params, context = transformer('binary')
  tokens = jnp.stack([sequences(policy.tokenizer)] * 2)
  total = score(policy, params, context, tokens).token_log_probs().sum(-1)
  np.testing.assert_allclose(np.exp(total).sum(-1), 1, rtol=1e-5)
  assert abs(total[0] - total[1]).max() > 0.01  # The inputs do differ.


@pytest.mark.slow
def test_jit_equals_no_jit():
  args = *transformer('decimal'), row_keys(2, 2)
  options = {'num_samples': 11, 'temperature': 0.8, 'greedy': True}
  eager = sampling.sample(*args, **options)
  jitted = sample(*args, **options)
  np.testing.assert_array_equal(eager.tokens, jitted.tokens)
  np.testing.assert_allclose(eager.log_probs, jitted.log_probs, atol=2e-5)


def test_the_pass_that_samples_has_the_gradient_of_the_one_that_scores():
  tokenizer = TOKENIZERS['ternary']
  policy, table = table_policy(tokenizer), random_table(tokenizer)
  scales, weights = jnp.array([1.0, 2.0]), jnp.arange(10.0).reshape(2, 5)

  def of_samples(table):
    rollout = sampling.sample(
      policy, table, scales, row_keys(3, 2), num_samples=5
    )
    return jnp.sum(weights * rollout.token_log_probs().sum(-1)), rollout.tokens

  def of_scores(table, tokens):
    logits = teacher_forced(
      policy, table, scales.repeat(5), tokens.reshape(10, -1)
    )
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, tokens.reshape(10, -1, 1), -1)
    return jnp.sum(weights * picked[..., 0].sum(-1).reshape(2, 5))

  sampled, tokens = jax.jit(jax.grad(of_samples, has_aux=True))(table)
  scored = jax.jit(jax.grad(of_scores))(table, tokens)
  assert abs(scored).max() > 1
  np.testing.assert_allclose(sampled, scored, atol=1e-4)


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize('name', ['p10', 'ieee'])
def test_every_sample_is_grammatical(name):
  tokenizer = TOKENIZERS[name]
  rollout = sample(
    table_policy(tokenizer),
    # Forbidden tokens would be by far the likeliest.
    random_table(tokenizer) - 30 * tokenizer.allowed.any(0),
    jnp.ones(50),
    row_keys(0, 50),
    num_samples=7,
    greedy=True,
  )
  slots = np.arange(tokenizer.num_tokens)
  assert tokenizer.allowed[slots, rollout.tokens].all()
  assert rollout.tokens.shape == (50, 8, tokenizer.num_tokens)
  assert rollout.tokens.dtype == jnp.int32


@pytest.mark.parametrize('temperature', [1.0, 0.5])
def test_frequencies_match_the_probabilities_of_the_trie(temperature):
  """A group's samples of one input, by Pearson's chi-square."""
  tokenizer = tokenizers.build('normalized', base=3, digits=2)
  table, num_samples = random_table(tokenizer), 20_000
  rollout = sample(
    table_policy(tokenizer),
    table,
    jnp.array([1.0, -1.0]),
    row_keys(4, 2),
    num_samples=num_samples,
    temperature=temperature,
  )
  tokens = sequences(tokenizer)
  for row, scale in enumerate([1, -1]):
    log_probs = brute_force(tokenizer, table, scale, tokens, temperature)
    probs = np.exp(token_log_probs(log_probs, tokens).sum(-1))
    leaf = np.asarray(rollout.tokens[row]) @ [3, 1]
    counts = np.bincount(leaf, minlength=9)
    assert stats.chisquare(counts, probs * num_samples).pvalue > 1e-3


def test_two_samples_of_an_input_are_independent():
  """Their joint frequencies are products, also while they share prefixes."""
  tokenizer = tokenizers.build('normalized', base=2, digits=2)
  table, batch = random_table(tokenizer, seed=3), 20_000
  rollout = sample(
    table_policy(tokenizer),
    table,
    jnp.ones(batch),
    row_keys(5, batch),
    num_samples=2,
  )
  tokens = sequences(tokenizer)
  log_probs = brute_force(tokenizer, table, 1, tokens)
  probs = np.exp(token_log_probs(log_probs, tokens).sum(-1))
  leaf = np.asarray(rollout.tokens) @ [2, 1]  # [B, 2]
  counts = np.bincount(leaf @ [4, 1], minlength=16)
  joint = np.outer(probs, probs).ravel()
  assert stats.chisquare(counts, joint * batch).pvalue > 1e-3


@pytest.mark.parametrize('name', ['binary', 'ieee'])
def test_the_greedy_row_takes_the_likeliest_token_at_every_step(name):
  tokenizer = TOKENIZERS[name]
  table, scales = random_table(tokenizer), np.linspace(-2, 2, 8)
  rollout = sample(
    table_policy(tokenizer),
    table,
    scales,
    row_keys(0, 8),
    num_samples=4,
    greedy=True,
  )
  samples, greedy = sampling.without_greedy(rollout)
  assert samples.tokens.shape[1] == samples.log_probs.shape[1] == 4
  for row, scale in enumerate(scales):
    code, expected = 0, []
    for allowed in tokenizer.allowed:
      token = np.where(allowed, scale * table[code], -np.inf).argmax()
      expected.append(token)
      code = code * tokenizer.vocab_size + token + 1
    assert greedy[row].tolist() == expected


def test_the_greedy_row_leaves_the_samples_as_they_are():
  tokenizer = TOKENIZERS['binary']
  args = (
    table_policy(tokenizer),
    random_table(tokenizer),
    jnp.ones(3),
    row_keys(6, 3),
  )
  both = sample(*args, num_samples=4, greedy=True)
  samples, _ = sampling.without_greedy(both)
  alone = sample(*args, num_samples=4)
  np.testing.assert_array_equal(samples.tokens, alone.tokens)


def test_a_rows_samples_depend_on_its_own_key_only():
  """Not on the rows beside it, nor on its place in the batch."""
  tokenizer = TOKENIZERS['binary']
  scales, keys = jnp.arange(6.0), row_keys(7, 6)

  def tokens_of(rows):
    rollout = sample(
      table_policy(tokenizer),
      random_table(tokenizer),
      scales[rows],
      keys[rows],
      num_samples=5,
      greedy=True,
    )
    return np.asarray(rollout.tokens)

  together = tokens_of(np.arange(6))
  assert (together[0, :5] != together[1, :5]).any()
  np.testing.assert_array_equal(tokens_of(np.arange(6)[::-1]), together[::-1])
  np.testing.assert_array_equal(tokens_of(np.array([3])), together[[3]])


def test_log_probs_are_those_at_the_temperature():
  temperature = 0.5
  tokenizer = TOKENIZERS['p10']
  table = random_table(tokenizer)
  rollout = sample(
    table_policy(tokenizer),
    table,
    jnp.ones(1),
    row_keys(8, 1),
    num_samples=30,
    temperature=temperature,
    greedy=True,
  )
  tokens = np.asarray(rollout.tokens[0])
  expected = brute_force(tokenizer, table, 1, tokens, temperature)
  np.testing.assert_allclose(
    np.exp(rollout.log_probs[0]), np.exp(expected), atol=1e-6
  )
  scored = score(
    table_policy(tokenizer), table, jnp.ones(1), tokens[None], temperature
  )
  np.testing.assert_allclose(
    scored.log_probs[0], rollout.log_probs[0], atol=1e-5
  )


def test_the_mean_entropy_of_all_numbers_is_the_entropy_of_their_distribution():
  for name in ('ternary', 'ieee'):
    tokenizer = TOKENIZERS[name]
    tokens = sequences(tokenizer)
    rollout = score(
      table_policy(tokenizer),
      random_table(tokenizer),
      jnp.ones(1),
      tokens[None],
    )
    log_probs = np.float64(rollout.token_log_probs()[0].sum(-1))
    probs = np.exp(log_probs)
    exact = -np.sum(probs * log_probs)
    assert np.sum(probs * rollout.entropy()[0]) == pytest.approx(
      exact, rel=1e-4
    )
    assert rollout.entropy().std() > 0.01  # One number's alone is not.


# --------------------------------------------------------- shared prefixes


@pytest.mark.parametrize(
  ('num_rows', 'levels'),
  [
    (1, [1] * 8),
    (16, [1, 2, 4, 8, 16, 16, 16, 16]),  # 79 positions
    (17, [1, 2, 4, 8, 16, 17, 17, 17]),
    (31, [1, 2, 4, 8, 16, 31, 31, 31]),
    (128, [1, 2, 4, 8, 16, 32, 64, 128]),  # 255, the trie's inner nodes
    (256, [1, 2, 4, 8, 16, 32, 64, 128]),
    (300, [1, 2, 4, 8, 16, 32, 64, 128]),
  ],
)
def test_numbers_share_the_prefixes_that_they_can(num_rows, levels):
  assert nodes_decoded(num_rows) == levels


def test_the_greedy_number_is_one_more_row_of_the_same_decoding():
  assert nodes_decoded(16, greedy=True) == nodes_decoded(17)


def test_prefixes_that_are_given_are_kept_and_the_rest_is_sampled():
  policy, params, context = drawn_policy(SEVEN_DIGITS)
  prefixes = trie.sequences(policy.tokenizer, 2)
  keys = jax.random.split(jax.random.key(1), BATCH)
  given = functools.partial(
    sampling.sample, policy, num_samples=4, prefixes=prefixes
  )
  found = jax.jit(given)(params, context, keys)
  assert (np.asarray(found.tokens)[..., :2] == prefixes).all()
  assert len(np.unique(np.asarray(found.tokens)[..., 2:])) == 2
  again = score(policy, params, context, found.tokens)
  np.testing.assert_allclose(found.log_probs, again.log_probs, atol=2e-5)
