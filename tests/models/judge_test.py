"""A judge's texts and numbers: what is sampled is what is scored.

On six subwords, texts of two at most and numbers of two binary digits all that
it can write is enumerated.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.data.batches import Examples
from genre2_jax.models.gemma.backbone import Backbone
from genre2_jax.models.gemma.judge import gemma_judge
from genre2_jax.models.gemma.layers import Numerics
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, Rollouts, supervised
from genre2_jax.objectives.rollouts import roll_out, sequence_losses
from genre2_jax.objectives.sequence import Judgement
from genre2_jax.policy import Text, trie
from genre2_jax.policy.sampling import sample, without_greedy
from genre2_jax.policy.scoring import score
from genre2_jax.tokenizers.codec import Codec

pytestmark = pytest.mark.usefixtures('quick_compiles')

VOCABULARY, END, BUDGET = 6, 1, 2
DIGITS = tokenizers.build('normalized', base=2, digits=2)
CODEC = Codec(DIGITS, 0.0, 1.0)
CONFIG = GemmaConfig(
  vocab_size=VOCABULARY,
  width=8,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  feedforward=8,
  query_scale=4,
  sliding_window=3,
  attention_softcap=3.0,
  final_softcap=2.0,
)
INPUTS = {
  'tokens': np.array([[2, 5, 4, 0], [2, 0, 0, 0]], np.int32),
  'length': np.array([3, 1], np.int32),
}
OTHERS = [v for v in range(VOCABULARY) if v != END]
TEXTS = [
  text
  for count in range(BUDGET + 1)
  for text in itertools.product(OTHERS, repeat=count)
]


@pytest.fixture(scope='module')
def judge():
  """(policy, parameters that all matter)."""
  policy = gemma_judge(
    DIGITS,
    CONFIG,
    end=END,
    budget=BUDGET,
    number_tokens=(3, 6),  # A digit that is a subword, and one that is new.
    compute_dtype='float32',
  )
  params = nn.unbox(policy.init(jax.random.key(0), INPUTS))
  wave = lambda x: jnp.cos(1.7 * jnp.arange(x.size)).reshape(x.shape)  # noqa: E731
  return policy, jax.tree.map(lambda x: x + 0.5 * wave(x), params)


def everything(rows):
  """All that can be written, for each of some rows: (`Text`, numbers)."""
  numbers = np.array(list(itertools.product((0, 1), repeat=2)))
  texts = np.zeros((len(TEXTS), BUDGET), int)
  for row, text in enumerate(TEXTS):
    texts[row, : len(text)] = text
  length = np.array([len(text) for text in TEXTS])
  each = len(numbers)
  pairs = (
    np.repeat(texts, each, axis=0),
    np.repeat(length, each),
    np.tile(numbers, (len(TEXTS), 1)),
  )
  tokens, length, numbers = (
    np.broadcast_to(x, (rows, *x.shape)).astype(np.int32) for x in pairs
  )
  return Text(jnp.asarray(tokens), jnp.asarray(length)), jnp.asarray(numbers)


def log_p_of_all(policy, params, inputs, temperature=1.0):
  """[B, all]: of everything that can be written."""
  text, numbers = everything(len(inputs['length']))

  @jax.jit
  def run(params):
    context = policy.encode(params, inputs)
    rollout = score(policy, params, context, numbers, temperature, text=text)
    return jnp.sum(rollout.token_log_probs(), -1)

  return np.asarray(run(params))


def test_probabilities_of_all_texts_and_numbers_sum_to_one(judge):
  log_p = log_p_of_all(*judge, INPUTS)
  assert log_p.shape == (2, 31 * 4)
  np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, atol=1e-5)


def test_scores_are_those_of_the_plain_model_on_the_longer_prompt(judge):
  """Places, windows and caps: text and end are a prompt like any other."""
  policy, params = judge
  text = Text(jnp.array([[[4, 2]], [[5, 0]]]), jnp.array([[2], [1]]))
  numbers = jnp.array([[[0, 1]], [[1, 1]]])

  @jax.jit
  def own(params):
    context = policy.encode(params, INPUTS)
    return policy.writer.score(params, context, text, numbers)

  text_log_p, logits = own(params)
  longer = [[2, 5, 4, 4, 2, END], [2, 5, END, 0, 0, 0]]
  inputs = {
    'tokens': np.array(longer, np.int32), 'length': np.array([6, 3], np.int32),
  }  # fmt: skip

  @jax.jit
  def plain(params):
    model = Backbone(CONFIG, Numerics(compute_dtype='float32'))
    own = {'params': params['backbone']}
    x, _ = model.apply(own, inputs, method=Backbone.read)
    subwords = model.apply(
      own, x, params['backbone']['embedding'], method=Backbone.project
    )
    return jax.nn.log_softmax(subwords), trie.log_probs(
      policy, params, policy.encode(params, inputs)
    )

  subwords, of_numbers = plain(params)
  # The full text ends by itself, the other by a draw; behind it is nothing.
  expected = [
    [subwords[0, 2, 4], subwords[0, 3, 2], 0],
    [subwords[1, 0, 5], subwords[1, 1, END], 0],
  ]
  np.testing.assert_allclose(text_log_p[:, 0], expected, atol=1e-5)
  digits = jax.nn.log_softmax(logits)[:, 0]
  found = jnp.take_along_axis(digits, numbers[:, 0, :, None], -1).sum((1, 2))
  np.testing.assert_allclose(
    found, [of_numbers[0, 1], of_numbers[1, 3]], atol=1e-5
  )


def sampled(policy, params, num_samples, temperature):
  @jax.jit
  def run(params):
    context = policy.encode(params, INPUTS)
    rollout = sample(
      policy,
      params,
      context,
      jax.random.split(jax.random.key(3), 2),
      num_samples=num_samples,
      temperature=temperature,
      greedy=True,
    )
    again = score(
      policy, params, context, rollout.tokens, temperature, text=rollout.text
    )
    return rollout, again

  return run(params)


def test_what_is_sampled_is_scored_alike_and_as_often_as_it_is_likely(judge):
  policy, params = judge
  temperature, count = 1.3, 1500
  rollout, again = sampled(policy, params, count, temperature)
  np.testing.assert_allclose(
    rollout.token_log_probs(), again.token_log_probs(), atol=1e-5
  )
  np.testing.assert_allclose(rollout.log_probs, again.log_probs, atol=1e-5)
  text, numbers = everything(2)
  samples, _ = without_greedy(rollout)
  p = np.exp(log_p_of_all(policy, params, INPUTS, temperature))

  def code(text, numbers):
    """One integer for each text and number."""
    used = np.arange(BUDGET) < text.length[..., None]
    parts = [np.where(used, text.tokens + 1, 0), numbers]
    parts = np.concatenate(parts, -1)
    return parts @ (10 ** np.arange(parts.shape[-1]))

  known, drawn = code(text, numbers), code(samples.text, samples.tokens)
  for row in range(2):
    shares = (drawn[row][:, None] == known[row]).mean(0)
    assert shares.sum() == pytest.approx(1)  # Nothing else is written.
    often = p[row] * count > 5
    assert often.sum() > 20
    error = np.abs(shares - p[row]) / np.sqrt(p[row] * (1 - p[row]) / count)
    assert error[often].max() < 4.5


def test_the_greedy_row_takes_the_likeliest_at_every_step(judge):
  policy, params = judge
  rollout, _ = sampled(policy, params, 2, 1.0)
  greedy = jax.tree.map(lambda x: x[:, -1], rollout)
  tokens = np.zeros((2, 3 + BUDGET), np.int32)
  for row in range(2):
    count, length = INPUTS['length'][row], int(greedy.text.length[row])
    tokens[row, :count] = INPUTS['tokens'][row, :count]
    tokens[row, count:][:length] = greedy.text.tokens[row, :length]

  @jax.jit
  def plain(params):
    model = Backbone(CONFIG, Numerics(compute_dtype='float32'))
    own, table = {'params': params}, params['embedding']
    inputs = {'tokens': tokens, 'length': np.full(2, tokens.shape[1])}
    x, _ = model.apply(own, inputs, method=Backbone.read)
    return model.apply(own, x, table, method=Backbone.project)

  likeliest = np.argmax(plain(params['backbone']), -1)
  for row in range(2):
    count, length = INPUTS['length'][row], int(greedy.text.length[row])
    expected = likeliest[row, count - 1 :]
    np.testing.assert_array_equal(
      expected[:length], tokens[row, count:][:length]
    )
    assert length == BUDGET or expected[length] == END
  best = np.argmax(greedy.log_probs, -1)
  np.testing.assert_array_equal(best, greedy.tokens)


def batch():
  target = np.array([0.2, 0.8], np.float32)
  inputs = INPUTS | {
    'text': np.array([[4, 0], [5, 3]], np.int32),
    'text_length': np.array([1, 2], np.int32),
  }
  return Examples(inputs, target, CODEC.encode(target))


def test_cross_entropy_is_of_text_end_and_number(judge):
  policy, params = judge
  run = functools.partial(
    supervised,
    network=policy,
    codec=CODEC,
    objective=Objective(terms=(build_term('ce'),)),
  )
  keys = jax.random.split(jax.random.key(0), 2)
  losses = jax.jit(run)({'policy': params}, batch(), keys)
  all_log_p = log_p_of_all(policy, params, INPUTS)
  for row, text in enumerate([(4,), (5, 3)]):
    digits = batch().tokens[row]
    place = TEXTS.index(text) * 4 + int(digits @ [2, 1])
    # A full text has no end to draw.
    count = len(text) + (len(text) < BUDGET) + 2
    expected = -all_log_p[row, place] / count
    np.testing.assert_allclose(losses['ce'][row], expected, rtol=1e-4)


@pytest.mark.slow
def test_the_policy_gradient_is_that_of_the_expected_reward(judge):
  """Of text and number: Σ p · r over all that is written, differentiated."""
  policy, params = judge
  text, numbers = everything(2)
  rewards = -jnp.square(CODEC.decode(numbers) - batch().target[:, None])
  p = jnp.exp(log_p_of_all(policy, params, INPUTS))
  baseline = jnp.mean(rewards, -1, keepdims=True)
  judgement = Judgement(
    target=batch().target,
    predictions=CODEC.decode(numbers),
    # Each as often as it is likely.
    rewards=numbers.shape[1] * p * (rewards - baseline),
    greedy_rewards=jnp.zeros(2),
    token_log_probs=jnp.zeros((2, numbers.shape[1], BUDGET + 3)),
    text=text,
  )

  @jax.jit
  @jax.grad
  def both(params):
    losses, _ = sequence_losses(
      {'policy': params},
      batch(),
      numbers,
      judgement,
      policy=policy,
      objective=Objective(terms=(build_term('remax'),)),
    )
    context = policy.encode(params, INPUTS)
    rollout = score(policy, params, context, numbers, text=text)
    log_p = jnp.sum(rollout.token_log_probs(), -1)
    exact = -jnp.mean(jnp.sum(jnp.exp(log_p) * rewards, -1))
    return losses['remax'] - exact

  for leaf in jax.tree.leaves(both(params)):
    np.testing.assert_allclose(leaf, 0, atol=2e-5)


def test_a_rollout_knows_its_texts_the_expert_and_the_divergence(judge):
  policy, params = judge
  names = ('remax', 'expert', 'kl')
  objective = Objective(
    terms=tuple(map(build_term, names)), rollouts=Rollouts(group_size=4)
  )

  @jax.jit
  def run(params):
    own = {'policy': params}
    tokens, judgement, metrics = roll_out(
      own,
      own,
      batch(),
      jax.random.split(jax.random.key(5), 2),
      policy=policy,
      codec=CODEC,
      objective=objective,
    )
    losses, _ = sequence_losses(
      own, batch(), tokens, judgement, policy=policy, objective=objective
    )
    return judgement, metrics, losses

  judgement, metrics, losses = run(params)
  assert judgement.text.tokens.shape == (2, 4, BUDGET)
  assert judgement.token_log_probs.shape == (2, 4, BUDGET + 1 + 2)
  np.testing.assert_allclose(metrics['kl'], 0, atol=1e-5)
  np.testing.assert_allclose(losses['kl'], 0, atol=1e-5)
  assert 0 < losses['expert'] < 10
