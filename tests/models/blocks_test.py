"""Attention in blocks says what whole matrices say, and is linear in memory."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.data.batches import Examples
from genre2_jax.models.gemma.backbone import Backbone
from genre2_jax.models.gemma.blocks import View, blockwise_attention
from genre2_jax.models.gemma.layers import Numerics
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import GEMMA3, GemmaConfig
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, supervised
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.tokenizers.codec import Codec

pytestmark = pytest.mark.usefixtures('quick_compiles')

SIZES = {
  'vocab_size': 40, 'width': 8, 'num_layers': 2, 'num_heads': 2,
  'num_kv_heads': 1, 'head_dim': 4, 'feedforward': 8, 'query_scale': 4,
  'sliding_window': 5,
}  # fmt: skip
# Capped logits; normed queries and keys. A local layer and a global one.
MODELS = {
  'gemma2': GemmaConfig(**SIZES, attention_softcap=2.0),
  'gemma3': dataclasses.replace(GEMMA3, **SIZES, global_every=2),
}
DIGITS = tokenizers.build('normalized', base=2, digits=2)


def dense(query, key, value, window, length, view):
  """The formula, with whole matrices."""
  count = query.shape[1]
  place = np.arange(count)
  distance = place[:, None] - place
  logits = jnp.einsum('bqkgd,bnkd->bkgqn', query, key)
  if view.cap is not None:
    logits = view.cap * jnp.tanh(logits / view.cap)
  if view.bidirectional:
    seen = (abs(distance) <= window) & (place < length[:, None])[:, None]
  else:
    seen = ((distance >= 0) & (distance < window))[None]
  weights = jax.nn.softmax(jnp.where(seen[:, None, None], logits, -1e9))
  return jnp.einsum('bkgqn,bnkd->bqkgd', weights, value)


@pytest.mark.parametrize(
  ('count', 'view'),
  [(17, View(4, 2.0, False)), (16, View(8, None, True))],
)
def test_blocks_are_the_formula_and_so_are_their_derivatives(count, view):
  """Windows narrower and wider than a block, than all; lengths of all kinds."""
  keys = jax.random.split(jax.random.key(count), 4)
  query, gradient = (
    jax.random.normal(key, (2, count, 2, 3, 6)) for key in keys[:2]
  )
  pair = [jax.random.normal(key, (2, count, 2, 6)) for key in keys[2:]]

  def differentiated(function):
    def weighed(arrays, gradient, window, length):
      return jnp.sum(function(*arrays, window, length, view) * gradient)

    return jax.jit(jax.value_and_grad(weighed))

  blocks, formula = map(differentiated, (blockwise_attention, dense))
  for window in (1, 3, 8, 20, 2**30):
    length = np.array([count, window % count + 1])
    real = np.arange(count) < length[:, None]
    given = gradient * real[..., None, None, None]
    args = (query, *pair), given, np.int32(window), length
    for ours, theirs in zip(
      *map(jax.tree.leaves, (blocks(*args), formula(*args))), strict=True
    ):
      np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=3e-5)


def test_a_local_layer_leaves_blocks_out_of_its_window_alone():
  """NaN there does not reach it: 0 · NaN would."""
  shape = 1, 16, 1, 2
  clean = jnp.ones(shape)
  bad = clean.at[:, :4].set(jnp.nan)
  window, length = jnp.int32(3), jnp.full(1, 16)
  for bidirectional in (False, True):
    view = View(4, None, bidirectional)

    def out(value, view=view):
      return blockwise_attention(
        clean[..., None, :], value, value, window, length, view
      )

    mixed = np.asarray(out(bad))[0, :, 0, 0]
    assert np.isnan(mixed[:4]).all()
    assert np.isfinite(mixed[8:]).all()
    # Those that see NaN pull, if by 0, at what else they see.
    grads = jax.grad(lambda x, out=out: jnp.sum(out(x)[:, 12:]))(bad)
    assert np.isfinite(np.asarray(grads)[:, 12:]).all()


def raft(config, block, inputs, bidirectional=False, remat=False):
  """(loss of a policy's parameters, parameters): RAFT on the whole trie."""
  policy = gemma_policy(
    DIGITS,
    config,
    number_tokens=(11, 5),
    attention='bidirectional' if bidirectional else 'causal',
    compute_dtype='float32',
    remat=remat,
    attention_block=block,
  )
  codec = Codec(DIGITS, 0.0, 1.0)
  rows = len(inputs['length'])
  batch = Examples(
    inputs=inputs,
    target=np.linspace(0, 1, rows, dtype=np.float32),
    tokens=np.zeros((rows, 2), np.int32),
  )
  objective = Objective(
    terms=(build_term('raft'),), enumeration=Enumeration(depth=2)
  )

  def loss(params):
    losses = supervised(
      {'policy': params},
      batch,
      jax.random.split(jax.random.key(0), rows),
      network=policy,
      codec=codec,
      objective=objective,
    )
    return jnp.mean(losses['raft'])

  return loss, functools.partial(policy.init, jax.random.key(1), inputs)


def prompts(count):
  tokens = np.random.RandomState(0).randint(1, 40, (3, count))
  return {
    'tokens': tokens.astype(np.int32),
    'length': np.array([count, count - 5, 1], np.int32),
  }


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'bidirectional'), [('gemma2', True), ('gemma3', False)]
)
def test_a_policy_reads_a_prompt_in_blocks_as_it_does_whole(
  name, bidirectional
):
  """Losses and gradients: caps, norms, windows, padding, layers of a scan."""
  found = []
  for block in (0, 4):
    loss, init = raft(MODELS[name], block, prompts(18), bidirectional)
    params = jax.tree.map(
      lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape),
      nn.unbox(init()),
    )
    found.append(jax.jit(jax.value_and_grad(loss))(params))
  (whole, of_whole), (blocks, of_blocks) = found
  np.testing.assert_allclose(blocks, whole, rtol=1e-5)
  scale = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(of_whole))
  for ours, theirs in zip(
    *map(jax.tree.leaves, (of_blocks, of_whole)), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


def shapes(jaxpr):
  """Of every array in a traced program, those of its loops with it."""
  jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
  for equation in jaxpr.eqns:
    yield from (getattr(x.aval, 'shape', ()) for x in equation.outvars)
    for value in equation.params.values():
      for part in value if isinstance(value, tuple | list) else [value]:
        if hasattr(part, 'eqns') or hasattr(part, 'jaxpr'):
          yield from shapes(part)


@pytest.mark.parametrize('bidirectional', [False, True])
def test_no_array_has_the_prompt_on_two_axes(bidirectional):
  """Neither forward nor backward; of whole matrices there are some."""
  count = 1000
  for block, expected in ((64, False), (0, True)):
    loss, init = raft(
      MODELS['gemma2'], block, prompts(count), bidirectional, remat=True
    )
    params = jax.eval_shape(lambda init=init: nn.unbox(init()))
    traced = jax.make_jaxpr(jax.grad(loss))(params)
    square = [x for x in shapes(traced) if sum(n >= count for n in x) > 1]
    assert bool(square) == expected


@pytest.mark.slow
def test_temporary_memory_is_linear_in_the_prompt():
  """Of a gradient as XLA compiles it; four times in whole matrices."""

  def temporaries(block, count):
    numerics = Numerics(
      compute_dtype='float32', remat=True, attention_block=block
    )
    model = Backbone(MODELS['gemma3'], numerics)

    def loss(params):
      x, _ = model.apply(params, prompts(count), method=Backbone.read)
      return jnp.sum(jnp.square(x))

    params = jax.eval_shape(
      lambda: nn.unbox(
        model.init(jax.random.key(0), prompts(count), method=Backbone.read)
      )
    )
    compiled = jax.jit(jax.grad(loss)).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(32, 1024) < 2.2 * temporaries(32, 512)
  assert temporaries(0, 1024) > 3 * temporaries(0, 512)
  assert temporaries(32, 1024) < temporaries(0, 1024) / 8
