"""Gemma-2 as a policy: its four operations say the same, whatever the parts."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from genre2_jax import tokenizers
from genre2_jax.data.batches import Examples
from genre2_jax.models.gemma.backbone import Backbone
from genre2_jax.models.gemma.head import HEADS, gemma_head
from genre2_jax.models.gemma.layers import Lora, Numerics, product
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import PRESETS, GemmaConfig
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, supervised
from genre2_jax.policy import (
  in_one_pass,
  sampling,
  scoring,
  teacher_forced,
  trie,
)
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import train_state

pytestmark = pytest.mark.usefixtures('quick_compiles')

DIGITS = tokenizers.build('normalized', base=2, digits=3)
TERNARY = tokenizers.build('normalized', base=3, digits=2)
SIGNED = tokenizers.build('p10', base=2, digits=1, max_exponent=1)
CONFIG = GemmaConfig(
  vocab_size=40,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  feedforward=24,
  query_scale=4,
  sliding_window=3,
  attention_softcap=3.0,
  final_softcap=4.0,
)
INPUTS = {
  'tokens': np.array(
    [[2, 7, 9, 4, 30, 8], [2, 5, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]], np.int32
  ),
  'length': np.array([6, 2, 1], np.int32),
}


def shaken(params, scale=0.5):
  """Every parameter moved at random, so that all matter."""
  leaves, structure = jax.tree.flatten(nn.unbox(params))
  keys = jax.random.split(jax.random.key(3), len(leaves))
  moved = [
    x + scale * jax.random.normal(key, x.shape)
    for x, key in zip(leaves, keys, strict=True)
  ]
  return jax.tree.unflatten(structure, moved)


@functools.cache
def built(tokenizer=DIGITS, number_tokens=(11, 5), **options):
  """A policy and shaken parameters."""
  options = {'compute_dtype': 'float32'} | options
  policy = gemma_policy(
    tokenizer, CONFIG, number_tokens=number_tokens, **options
  )
  return policy, shaken(jax.jit(policy.init)(jax.random.key(0), INPUTS))


@functools.partial(jax.jit, static_argnums=(2, 3))
def read_inputs(params, inputs, config, bidirectional):
  backbone = Backbone(config, Numerics(compute_dtype='float32'))

  def run(module):
    hidden, _ = module.read(inputs, bidirectional)
    return module.project(hidden[0], module.embedding), hidden[0]

  return nn.apply(run, backbone)({'params': params['backbone']})


def read(params, text, config=CONFIG, bidirectional=False):
  """Logits [L, vocabulary] and hidden states [L, D] of one text."""
  tokens = np.zeros((1, 10), np.int32)
  tokens[0, : len(text)] = text
  inputs = {'tokens': tokens, 'length': np.array([len(text)])}
  outputs = read_inputs(params, inputs, config, bidirectional)
  return tuple(np.asarray(x)[: len(text)] for x in outputs)


def exact(policy, params, normalized=True):
  def log_probs(params):
    context = policy.encode(params, INPUTS)
    return trie.log_probs(policy, params, context, normalized=normalized)

  return jax.jit(log_probs)(params)


def at_nodes(policy, params, tokens):
  """Logits [3, Q, V] at the nodes along tokens [3, Q]."""

  def logits(params):
    count = tokens.shape[1]
    nodes = tokens[:, None], np.arange(count), np.tri(count, dtype=bool)
    context = policy.encode(params, INPUTS)
    return policy.decode(params, context, *nodes)[0][:, 0]

  return jax.jit(logits)(params)


def test_sizes_are_the_published_ones():
  """Parameters as Hugging Face counts them."""
  for name, count in [
    ('gemma2_2b', 2_614_341_888),
    ('gemma2_9b', 9_241_705_984),
    ('gemma2_27b', 27_227_128_320),
  ]:
    policy = gemma_policy(DIGITS, PRESETS[name], number_tokens=(5, 11))
    params = jax.eval_shape(policy.init, jax.random.key(0), INPUTS)
    assert sum(x.size for x in jax.tree.leaves(nn.unbox(params))) == count
    backbone = params['backbone']
    assert backbone['embedding'].names == ('subword', 'embed')
    key = backbone['layers']['attention']['key']['kernel']
    down = backbone['layers']['mlp']['down']['kernel']
    assert key.names == ('layers', 'embed', 'heads')
    assert down.names == ('layers', 'mlp', 'embed')


@pytest.mark.parametrize(
  'vocabulary', ['numbers', pytest.param('all', marks=pytest.mark.slow)]
)
def test_all_ways_to_a_number_agree(vocabulary):
  """Trie, score, samples, and the language model run on prompt and number.

  With a grammar that forbids tokens, and tokens in any order of subwords.
  """
  V = SIGNED.vocab_size
  ids = tuple(np.random.default_rng(0).permutation(40)[:V].tolist())
  policy, params = built(SIGNED, ids, vocabulary=vocabulary)
  assert policy.open == (vocabulary == 'all')
  numbers = trie.sequences(SIGNED)
  rows = np.broadcast_to(numbers, (3, *numbers.shape))

  def everything(params, normalized):
    context = policy.encode(params, INPUTS)
    scored = scoring.score(
      policy, params, context, jnp.asarray(rows), normalized=normalized
    )
    exact = trie.log_probs(policy, params, context, normalized=normalized)
    return context, scored, exact

  for normalized in (True, False):
    context, scored, exact = jax.jit(everything, static_argnums=1)(
      params, normalized
    )
    total = jnp.sum(scored.token_log_probs(), -1)
    np.testing.assert_allclose(total, exact, atol=1e-4)
    mass = np.exp(exact).sum(-1)
    is_share = policy.open and not normalized
    assert (mass < 0.9).all() if is_share else np.allclose(mass, 1, atol=1e-5)
  # `exact` is now the one that is not normalised.
  for row in range(3):
    prompt = INPUTS['tokens'][row, : INPUTS['length'][row]]
    for k in (0, 3, len(numbers) - 1):
      text = np.concatenate([prompt, np.array(ids)[numbers[k]]])
      logits = np.float64(read(params, text[:-1])[0][len(prompt) - 1 :])
      expected = 0.0
      for position, token in enumerate(numbers[k]):
        among = np.array(ids)[SIGNED.allowed[position]]
        if vocabulary == 'all':
          among = np.arange(40)
        log_z = special.logsumexp(logits[position, among])
        expected += logits[position, ids[token]] - log_z
      np.testing.assert_allclose(exact[row, k], expected, atol=1e-4)
  keys = jax.random.split(jax.random.key(1), 3)
  rollout = jax.jit(
    lambda params, context: sampling.sample(
      policy, params, context, keys, num_samples=6, greedy=True
    )
  )(params, context)
  again = scoring.score(policy, params, context, rollout.tokens)
  np.testing.assert_allclose(
    rollout.token_log_probs(), again.token_log_probs(), atol=1e-4
  )
  positions = np.arange(SIGNED.num_tokens)
  assert SIGNED.allowed[positions, np.asarray(rollout.tokens)].all()


@pytest.mark.parametrize(
  'options',
  [
    {'vocabulary': 'all', 'remat': True},
    {'attention': 'bidirectional', 'lora': Lora(rank=2)},
  ],
)
@pytest.mark.slow
def test_one_pass_says_what_two_say_and_their_gradients(options):
  """Logits of all nodes, of a number, of several; with the trie's prefixes."""
  V = SIGNED.vocab_size
  policy, params = built(SIGNED, tuple(range(3, 3 + V)), **options)
  numbers = trie.sequences(SIGNED)
  chosen = np.random.default_rng(1).choice(len(numbers), (3, 5))
  rows = jnp.asarray(numbers[chosen])

  def looked_at(params, policy):
    context = policy.encode(params, INPUTS)
    parts = (
      trie.log_probs(policy, params, context, normalized=False),
      teacher_forced(policy, params, context, rows[:, 0]),
      scoring.score(policy, params, context, rows).log_probs,
    )
    # Of what the grammar forbids there is nothing to compare.
    parts = tuple(jnp.maximum(x, -1e3) for x in parts)
    return sum(jnp.sum(jnp.sin(x)) for x in parts), parts

  both = jax.jit(jax.value_and_grad(looked_at, has_aux=True), static_argnums=1)
  one, two = both(params, in_one_pass(policy)), both(params, policy)
  assert in_one_pass(policy).reads_inputs and not policy.reads_inputs
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    scale = np.abs(y).max()
    assert scale > 0
    np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * scale)


@pytest.mark.slow
def test_what_asks_for_one_set_of_nodes_reads_in_one_pass():
  """Losses by one pass are those by two; several sets share a context."""
  tokenizer, (policy, params) = DIGITS, built(vocabulary='all')
  codec = Codec(tokenizer, -1.0, 1.0)
  z = np.linspace(-0.9, 0.9, 3).astype(np.float32)
  batch = Examples(INPUTS, z, codec.encode(z))
  passes = []
  counted = policy._replace(
    encode=lambda *args: passes.append(2) or policy.encode(*args),
    at_once=lambda *args: passes.append(1) or policy.at_once(*args),
  )

  def losses(policy, *names, depth=3):
    objective = Objective(
      terms=tuple(build_term(name) for name in names),
      enumeration=Enumeration(depth=depth, samples=2),
    )
    return supervised(
      params, batch, jax.random.split(jax.random.key(0), 3),
      network=policy, codec=codec, objective=objective,
    )  # fmt: skip

  params = {'policy': params}
  for names, depth, ways in [
    (('ce',), 3, [1]),
    (('raft', 'crps'), 3, [1]),
    (('ce', 'raft'), 3, [2]),
    (('crps',), 1, [2]),
  ]:
    passes.clear()
    found = losses(counted, *names, depth=depth)
    assert passes == ways
    alone = losses(policy._replace(at_once=None), *names, depth=depth)
    for name in names:
      np.testing.assert_allclose(found[name], alone[name], rtol=2e-5)


def test_the_root_is_the_last_token_of_a_prompt_that_sees_itself():
  policy, params = built(attention='bidirectional')
  causal, _ = built()
  root = np.zeros((3, 1), np.int32)
  logits = at_nodes(policy, params, root)
  for row in range(3):
    prompt = INPUTS['tokens'][row, : INPUTS['length'][row]]
    expected = read(params, prompt, bidirectional=True)[0][-1, [11, 5]]
    np.testing.assert_allclose(logits[row, 0], expected, atol=1e-4)
  other = at_nodes(causal, params, root)
  assert np.abs(other - logits)[0].max() > 0.01


def test_new_tokens_begin_as_they_are_told():
  expected = {
    'zero': lambda table: np.zeros((2, 16)),
    'average': lambda table: np.tile(table.mean(0), (2, 1)),
    'first': lambda table: table[[4, 30]],
  }
  for how, rows in expected.items():
    policy = gemma_policy(
      TERNARY,
      CONFIG,
      number_tokens=(41, 7, 40),
      new_embedding=how,
      first_tokens=(4, 30),
    )
    given = {'backbone': {'embedding': jnp.ones((40, 16)).at[4].set(2.0)}}
    for start in (None, given) if how == 'average' else (given,):
      params = nn.unbox(jax.jit(policy.init)(jax.random.key(0), INPUTS, start))
      table = np.asarray(params['backbone']['embedding'])
      if start:
        np.testing.assert_array_equal(table, start['backbone']['embedding'])
      np.testing.assert_allclose(
        params['new_embedding'], rows(table), atol=1e-6
      )
  # And are fed and asked for in the order of the tokens.
  params = shaken(params)
  order = np.concatenate(
    [params['backbone']['embedding'], params['new_embedding']]
  )
  extended = {'backbone': {**params['backbone'], 'embedding': order}}
  larger = dataclasses.replace(CONFIG, vocab_size=42)
  policy = gemma_policy(
    TERNARY, CONFIG, number_tokens=(41, 7, 40), compute_dtype='float32'
  )
  logits = at_nodes(policy, params, np.array([[0, 0], [0, 2], [0, 1]]))
  for row, token in enumerate((41, 40, 7)):
    prompt = INPUTS['tokens'][row, : INPUTS['length'][row]]
    text = np.array([*prompt, token])
    expected = read(extended, text, larger)[0][-2:, [41, 7, 40]]
    np.testing.assert_allclose(logits[row], expected, atol=1e-4)


def test_low_rank_updates_are_all_that_is_trained():
  lora = Lora(rank=2, alpha=4.0, targets=('query', 'down'))
  policy, params = built(number_tokens=(11, 40), lora=lora)
  trained, frozen = train_state.split({'policy': params}, policy.frozen)
  paths = {
    '/'.join(k.key for k in path)
    for path, _ in jax.tree_util.tree_flatten_with_path(trained)[0]
  }
  layers = 'policy/backbone/layers'
  assert paths == {
    'policy/new_embedding',
    *(
      f'{layers}/{part}/lora_{x}'
      for part in ('attention/query', 'mlp/down')
      for x in 'ab'
    ),
  }
  assert len(jax.tree.leaves(frozen)) == 13
  # x·(W + alpha/rank·A·B): as without, with the product added in.
  merged = jax.tree.map(lambda x: x, params)
  for part, name in [('attention', 'query'), ('mlp', 'down')]:
    linear = merged['backbone']['layers'][part][name]
    update = jnp.einsum('lir,lro->lio', linear['lora_a'], linear['lora_b'])
    linear['kernel'] += 2.0 * update
    del linear['lora_a'], linear['lora_b']
  plain, _ = built(number_tokens=(11, 40))
  ours, theirs = exact(policy, params), exact(plain, merged)
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  fresh = nn.unbox(jax.jit(policy.init)(jax.random.key(0), INPUTS))
  for path, x in jax.tree_util.tree_flatten_with_path(fresh)[0]:
    assert path[-1].key != 'lora_b' or not x.any()


def test_losses_on_a_shared_vocabulary_and_their_gradients():
  """The parts are known otherwise; nothing is kept for the backward pass."""
  policy, params = built(vocabulary='all', remat=True)
  codec = Codec(DIGITS, -1.0, 1.0)
  target = np.array([0.3, -0.5, 1.0], np.float32)
  batch = Examples(INPUTS, target, codec.encode(target))
  objective = Objective(
    terms=(build_term('ce'), build_term('raft'), build_term('ntl_was')),
    enumeration=Enumeration(depth=3),
  )

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(params):
    losses = supervised(
      {'policy': params},
      batch,
      jax.random.split(jax.random.key(0), 3),
      network=policy,
      codec=codec,
      objective=objective,
    )
    return sum(jnp.mean(x) for x in losses.values()), losses

  (_, losses), gradients = loss(params)
  for path, gradient in jax.tree_util.tree_flatten_with_path(gradients)[0]:
    # Along itself, so that every parameter counts on its own.
    size = float(jnp.linalg.norm(gradient))
    assert size > 1e-3, path

    def at(step, path=path, direction=gradient / size):
      moved = jax.tree_util.tree_map_with_path(
        lambda p, x: x + step * direction if p == path else x, params
      )
      return float(loss(moved)[0][0])

    slope = (at(0.01) - at(-0.01)) / 0.02
    np.testing.assert_allclose(slope, size, rtol=0.05, atol=1e-3)
  log_p = exact(policy, params, normalized=False)
  mean = np.exp(log_p) @ codec.values()
  np.testing.assert_allclose(losses['raft'], (target - mean) ** 2, rtol=1e-3)
  own = np.asarray(log_p)[np.arange(3), codec.index(target)]
  np.testing.assert_allclose(losses['ce'], -own / 3, rtol=1e-4)


def test_products_of_bfloat16_and_their_gradients_are_rounded_once():
  draw = np.random.default_rng(0)
  x, kernel = draw.normal(size=(3, 2, 24)), draw.normal(size=(24, 16))
  weight = jnp.asarray(draw.normal(size=(3, 2, 16)), jnp.bfloat16)
  x, kernel = (jnp.asarray(v, jnp.bfloat16) for v in (x, kernel))

  def loss(product, x, kernel):
    return jnp.sum(product(x, kernel).astype(jnp.float32) * weight)

  ours = jax.grad(loss, (1, 2))(product, x, kernel)
  exact = [np.float64(v) for v in (x, kernel, weight)]
  expected = (
    np.einsum('abo,io->abi', exact[2], exact[1]),
    np.einsum('abi,abo->io', exact[0], exact[2]),
  )
  for gradient, right in zip(ours, expected, strict=True):
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(gradient), right, rtol=2**-8)
  np.testing.assert_allclose(
    np.float64(product(x, kernel)), exact[0] @ exact[1], rtol=2**-8, atol=1e-6
  )
  # Neither the product nor its gradients see a factor in float32 and one not.
  text = str(jax.make_jaxpr(jax.grad(loss, (1, 2)), static_argnums=0)(
    product, x, kernel
  ))  # fmt: skip
  dots = [line for line in text.splitlines() if 'dot_general' in line]
  # The weight's in two orders, one of them for CPUs.
  assert len(dots) == 4


def test_bfloat16_is_near():
  policy, params = built()
  rough, _ = built(compute_dtype='bfloat16')
  ours, theirs = np.exp(exact(policy, params)), np.exp(exact(rough, params))
  assert theirs.dtype == np.float32
  assert 0 < np.abs(ours - theirs).max() < 0.1


@pytest.mark.parametrize('kind', HEADS)
def test_heads_predict_what_their_formulas_say(kind):
  head = gemma_head(
    kind, CONFIG, special_token=9, hidden=5, compute_dtype='float32'
  )
  params = shaken(jax.jit(head.init)(jax.random.key(0), INPUTS))
  predicted = jax.jit(head.predict)(params, INPUTS)
  assert predicted.dtype == jnp.float32
  weight = np.asarray(params.get('out', {}).get('kernel', 0.0))
  bias = np.asarray(params.get('out_bias', 0.0))
  for row in range(3):
    text = INPUTS['tokens'][row, : INPUTS['length'][row]]
    logits, hidden = read(params, text)
    logits = logits[-1]
    if kind == 'special_token':
      expected = logits[9] + bias
    elif kind == 'projection':
      expected = special.softmax(logits) @ weight + bias
    elif kind == 'mlp':
      inner = logits @ params['hidden_layer']['kernel'] + params['hidden_bias']
      expected = special.expit(inner) @ weight + bias
    else:
      pooled = getattr(np, kind)(hidden, axis=0)
      expected = pooled @ weight + bias
    np.testing.assert_allclose(predicted[row], np.squeeze(expected), atol=1e-4)


def test_parameters_drawn_in_bfloat16_have_no_mean():
  """Which a sum over a vocabulary would make units of the MLP saturate by."""
  config = dataclasses.replace(CONFIG, vocab_size=2**14)
  head = gemma_head('mlp', config, hidden=64, param_dtype='bfloat16')
  params = nn.unbox(jax.jit(head.init)(jax.random.key(0), INPUTS))
  for drawn in (
    params['hidden_layer']['kernel'], params['backbone']['embedding'],
  ):  # fmt: skip
    values = np.asarray(drawn, np.float64)
    assert drawn.dtype == jnp.bfloat16
    assert abs(values.mean()) < 4 * values.std() / values.size**0.5


def test_the_units_of_the_mlp_may_be_those_of_old():
  params, predicted = None, {}
  for activation in ('sigmoid', 'relu'):
    head = gemma_head(
      'mlp', CONFIG, hidden=5, activation=activation, compute_dtype='float32'
    )
    if params is None:
      params = shaken(jax.jit(head.init)(jax.random.key(0), INPUTS))
    predicted[activation] = np.asarray(jax.jit(head.predict)(params, INPUTS))
  logits = read(params, INPUTS['tokens'][0, : INPUTS['length'][0]])[0][-1]
  inner = logits @ params['hidden_layer']['kernel'] + params['hidden_bias']
  expected = np.maximum(inner, 0) @ params['out']['kernel'] + params['out_bias']
  np.testing.assert_allclose(predicted['relu'][0], expected[0], atol=1e-4)
  assert np.abs(predicted['sigmoid'] - predicted['relu']).max() > 1e-2


def test_arguments_that_do_not_fit_are_refused():
  for options, part in [
    ({'number_tokens': (1, 2, 3)}, '3 subwords for the 2 tokens'),
    ({'number_tokens': (1, 1)}, 'subword 1 stands for two'),
    ({'number_tokens': (1, 41)}, 'without gaps'),
    ({'number_tokens': (1, -1)}, 'negative'),
    ({'number_tokens': (1, 40), 'new_embedding': 'first'}, 'first_tokens'),
    ({'number_tokens': (1, 2), 'vocabulary': 'digits'}, 'vocabulary='),
  ]:
    with pytest.raises(ValueError, match=part):
      gemma_policy(DIGITS, CONFIG, **options)
  with pytest.raises(ValueError, match='special_token=None'):
    gemma_head('special_token', CONFIG)
  with pytest.raises(ValueError, match='targets'):
    Lora(targets=('querry',))
