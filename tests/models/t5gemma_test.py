"""T5Gemma's encoder: what transformers computes; a number decoder behind it."""

import functools
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import assert_refused

from genre2_jax import tokenizers
from genre2_jax.models import pretrained
from genre2_jax.models.gemma.layers import Lora
from genre2_jax.models.t5gemma import t5gemma_policy
from genre2_jax.policy import sampling, scoring, trie
from genre2_jax.training import train_state

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.usefixtures('quick_compiles')

IEEE = tokenizers.build('p10', base=2, digits=1, max_exponent=1)
SIZES = {
  'vocab_size': 50,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 8,
  'query_pre_attn_scalar': 12,
  'sliding_window': 2,
  'attn_logit_softcapping': 3.0,
}
RNG = np.random.default_rng(0)
LENGTH = np.array([9, 5, 1], np.int32)
TOKENS = RNG.integers(3, 50, (3, 9)).astype(np.int32)
TOKENS[np.arange(9) >= LENGTH[:, None]] = 0
INPUTS = {'tokens': TOKENS, 'length': LENGTH}


@pytest.fixture(scope='module')
def t5gemma():
  config = transformers.T5GemmaConfig(
    encoder=SIZES, decoder=SIZES, vocab_size=50, attn_implementation='eager'
  )
  model = transformers.T5GemmaForConditionalGeneration(config)
  torch.manual_seed(0)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.normal_(0, 1.0 if 'embed' in name else 0.3)
  return model.eval()


@pytest.fixture(scope='module')
def folder(t5gemma, tmp_path_factory):
  folder = tmp_path_factory.mktemp('t5gemma')
  t5gemma.save_pretrained(folder, max_shard_size='30KB')
  return folder


@pytest.fixture(scope='module')
def build(folder):
  """`(**options) -> (policy, params)`, the encoder from the checkpoint."""

  def make(width=16, **options):
    policy = t5gemma_policy(
      IEEE,
      pretrained.read_config(folder),
      width=width,
      num_layers=1,
      num_heads=2,
      feedforward=16,
      compute_dtype='float32',
      **options,
    )
    init = functools.partial(policy.init, jax.random.key(0), INPUTS)
    abstract = nn.unbox(jax.eval_shape(init))
    return policy, pretrained.load(folder, abstract, init=init)

  return make


def test_memories_are_those_of_transformers(t5gemma, build, caplog):
  """At the texts' own places; the decoder of the checkpoint is left out."""
  with caplog.at_level(logging.INFO, 'genre2_jax.models.pretrained'):
    policy, params = build(width=32)
  assert 'model.decoder.' in caplog.text
  memory, mask = jax.jit(policy.encode)(params, INPUTS)
  np.testing.assert_array_equal(mask, TOKENS > 0)
  with torch.no_grad():
    expected = t5gemma.get_encoder()(
      torch.tensor(TOKENS), attention_mask=torch.tensor(np.array(mask))
    )
  np.testing.assert_allclose(
    memory[mask], expected.last_hidden_state.numpy()[np.array(mask)], atol=3e-5
  )


def test_all_ways_to_a_number_agree_and_see_no_padding(build):
  policy, params = build()
  numbers = trie.sequences(IEEE)
  keys = jax.random.split(jax.random.key(1), 3)

  @jax.jit
  def everything(params, inputs):
    context = policy.encode(params, inputs)
    rows = jnp.broadcast_to(numbers, (3, *numbers.shape))
    rollout = sampling.sample(policy, params, context, keys, num_samples=5)
    return (
      trie.log_probs(policy, params, context),
      jnp.sum(
        scoring.score(policy, params, context, rows).token_log_probs(), -1
      ),
      rollout.token_log_probs(),
      scoring.score(policy, params, context, rollout.tokens).token_log_probs(),
    )

  exact, scored, sampled, again = everything(params, INPUTS)
  np.testing.assert_allclose(np.exp(exact).sum(-1), 1, atol=1e-5)
  np.testing.assert_allclose(exact, scored, atol=1e-4)
  np.testing.assert_allclose(sampled, again, atol=1e-4)
  # Other texts behind the end of a text, and more room, are nothing to it.
  tokens = np.pad(TOKENS, ((0, 0), (0, 2)))
  tokens[np.arange(11) >= LENGTH[:, None]] = 7
  padded, *_ = everything(params, {'tokens': tokens, 'length': LENGTH})
  np.testing.assert_allclose(padded, exact, atol=1e-5)
  assert np.abs(np.diff(exact, axis=0)).max() > 0.01


def test_a_frozen_encoder_is_all_that_is_not_trained(build):
  for options, trained_backbone in [
    ({'frozen': True}, set()),
    ({'lora': Lora(rank=1, targets=('out',))}, {'lora_a', 'lora_b'}),
    ({'frozen': False}, {'embedding', 'scale', 'kernel'}),
  ]:
    policy, params = build(**options)
    trained, _ = train_state.split({'policy': params}, policy.frozen)
    trained = trained['policy']
    leaves = jax.tree_util.tree_flatten_with_path(trained['backbone'])[0]
    assert {path[-1].key for path, _ in leaves} == trained_backbone
    for part in ('decoder', 'bridge'):
      sizes = jax.tree.map(jnp.shape, (trained[part], params[part]))
      assert sizes[0] == sizes[1]


def test_weights_of_another_size_are_named(folder, build):
  policy = t5gemma_policy(
    IEEE,
    pretrained.GemmaConfig.from_hf({**SIZES, 'num_hidden_layers': 4}),
    num_heads=2,
    width=16,
  )
  init = functools.partial(policy.init, jax.random.key(0), INPUTS)
  abstract = nn.unbox(jax.eval_shape(init))
  assert_refused(
    lambda: pretrained.load(folder, abstract, init=init),
    'missing: model.encoder.layers.3.',
  )
