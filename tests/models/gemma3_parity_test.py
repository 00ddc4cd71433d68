"""Gemma 3: what transformers computes, at drawn weights and at real ones.

GENRE2_JAX_GEMMA3 names the folder of a real Gemma 3, for the last of these
tests.
"""

import json
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.models import pretrained
from genre2_jax.models.gemma.backbone import Backbone
from genre2_jax.models.gemma.layers import Lora, Numerics
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.policy import teacher_forced

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.usefixtures('quick_compiles')

DIGITS = tokenizers.build('normalized', base=3, digits=3)
NUMBERS = (60, 7, 33)  # subwords of the digits
SIZES = {
  'vocab_size': 96, 'hidden_size': 32, 'intermediate_size': 48,
  'num_hidden_layers': 7, 'num_attention_heads': 4, 'num_key_value_heads': 2,
  'head_dim': 16, 'query_pre_attn_scalar': 12, 'sliding_window': 4,
}  # fmt: skip
# Positions must matter in both kinds of layers, and bases and factor differ.
ROPES = {
  'sliding_attention': {'rope_type': 'default', 'rope_theta': 50.0},
  'full_attention': {
    'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 300.0,
  },
}  # fmt: skip
RNG = np.random.default_rng(0)
LENGTHS = np.array([19, 2, 1, 6])  # of windows of 4
PROMPTS = [RNG.integers(3, 96, n) for n in LENGTHS]
DIGIT_ROWS = RNG.integers(0, 3, (4, 3))


def assert_near(ours, theirs):
  """Within 1e-4 of the largest."""
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def randomize(model):
  torch.manual_seed(0)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.normal_(0, 1.0 if 'embed' in name else 0.3)
  return model.eval()


@pytest.fixture(scope='module')
def gemma3():
  config = transformers.Gemma3TextConfig(
    **SIZES, rope_parameters=ROPES, attn_implementation='eager'
  )
  return randomize(transformers.Gemma3ForCausalLM(config))


@pytest.fixture(scope='module')
def folder(gemma3, tmp_path_factory):
  folder = tmp_path_factory.mktemp('gemma3')
  gemma3.save_pretrained(folder)
  return folder


def padded(prompts):
  tokens = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[: len(prompt)] = prompt
  length = np.array([len(p) for p in prompts], np.int32)
  return {'tokens': tokens, 'length': length}


INPUTS = padded(PROMPTS)


def build(folder, **options):
  options = {'number_tokens': NUMBERS, 'compute_dtype': 'float32'} | options
  config = pretrained.read_config(folder)
  policy = gemma_policy(DIGITS, config, **options)

  def init(given=None):
    return policy.init(jax.random.key(0), INPUTS, given)

  abstract = nn.unbox(jax.eval_shape(init))
  return policy, pretrained.load(folder, abstract, init=init)


def states(config, params, inputs):
  """Hidden states [B, L, D] and logits of all subwords."""

  def run(module):
    hidden, _ = module.read(inputs)
    return hidden, module.project(hidden, module.embedding)

  backbone = Backbone(config, Numerics(compute_dtype='float32'))
  return jax.jit(nn.apply(run, backbone))({'params': params['backbone']})


def run_torch(model, prompt, digits=()):
  """Hidden states and logits of a text."""
  tokens = [*np.asarray(prompt).tolist(), *(NUMBERS[d] for d in digits)]
  with torch.no_grad():
    out = model(torch.tensor([tokens]), output_hidden_states=True)
  return out.hidden_states[-1][0].numpy(), out.logits[0].numpy()


def test_states_and_logits_are_those_of_transformers(gemma3, folder):
  """Padded prompts, five windows long, and in a window; every subword."""
  config = pretrained.read_config(folder)
  assert config.rope_factor == 2 and config.is_local.sum() == 6
  _, params = build(folder)
  hidden, logits = states(config, params, INPUTS)
  for row, prompt in enumerate(PROMPTS):
    expected = run_torch(gemma3, prompt)
    assert_near(hidden[row, : len(prompt)], expected[0])
    assert_near(logits[row, : len(prompt)], expected[1])


def test_numbers_after_a_prompt_are_those_of_transformers(gemma3, folder):
  """Teacher-forced, and node by node with a cache."""
  policy, params = build(folder)
  expected = np.stack(
    [
      run_torch(gemma3, prompt, digits[:-1])[1][len(prompt) - 1 :, NUMBERS]
      for prompt, digits in zip(PROMPTS, DIGIT_ROWS, strict=True)
    ]
  )

  @jax.jit
  def both(params):
    context = policy.encode(params, INPUTS)
    forced = teacher_forced(policy, params, context, jnp.asarray(DIGIT_ROWS))
    cache, last, steps = None, np.zeros((4, 1, 1), np.int32), []
    for position in range(3):
      visible = np.ones((1, position + 1), bool)
      logits, cache = policy.decode(
        params, context, last, np.array([position]), visible, cache
      )
      steps.append(logits[:, 0, 0])
      last = DIGIT_ROWS[:, None, position : position + 1]
    return forced, jnp.stack(steps, 1)

  for logits in both(params):
    assert_near(logits, expected)


def test_norms_of_queries_and_keys_come_before_the_rotation(gemma3, folder):
  """Their scales differ along the head's width, so the order shows."""
  config, (_, params) = pretrained.read_config(folder), build(folder)
  scale = params['backbone']['layers']['attention']['query_norm']['scale']
  theirs = gemma3.model.layers[3].self_attn.q_norm.weight.detach().numpy()
  assert scale.shape == (7, 16)
  np.testing.assert_array_equal(scale[3], theirs)
  one = {'tokens': INPUTS['tokens'][:1], 'length': INPUTS['length'][:1]}
  expected, _ = run_torch(gemma3, PROMPTS[0])
  assert_near(states(config, params, one)[0][0], expected)
  # With the scale of half the width the other way round it is another model.
  turned = jax.tree.map(lambda x: x, params)
  attention = turned['backbone']['layers']['attention']
  attention['query_norm']['scale'] = jnp.roll(scale, 8, axis=1)
  other = states(config, turned, one)[0][0]
  assert np.abs(other - expected).max() > 0.01


@pytest.mark.parametrize(
  'prefix', ['language_model.model.', 'model.language_model.']
)
def test_the_text_of_a_multimodal_checkpoint_is_read(
  gemma3, folder, tmp_path, prefix
):
  """Its config is a section, its tensors lie below another name."""
  from safetensors.numpy import load_file, save_file

  tensors = load_file(folder / 'model.safetensors')
  named = {
    name.replace('model.', prefix, 1): x
    for name, x in tensors.items()
    if name.startswith('model.')
  }
  named['vision_tower.layers.0.weight'] = np.zeros((3, 3), np.float32)
  save_file(named, tmp_path / 'model.safetensors')
  text = json.loads((folder / 'config.json').read_text())
  config = {'model_type': 'gemma3', 'text_config': text, 'vision_config': {}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  ours, theirs = build(tmp_path)[1], build(folder)[1]
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert pretrained.read_config(tmp_path) == pretrained.read_config(folder)


def test_transformers_loads_what_is_saved(folder, tmp_path):
  """Low-rank updates added in; new tokens behind a subword without a row."""
  lora = Lora(rank=2, alpha=3.0, targets=('query', 'value', 'down'))
  policy, params = build(
    folder, lora=lora, number_tokens=(60, 96, 97), new_embedding='average'
  )
  draw = np.random.default_rng(1)

  def perturbed(path, leaf):
    if path[-1].key in ('lora_b', 'new_embedding'):
      return jnp.asarray(draw.normal(0, 0.5, leaf.shape), jnp.float32)
    return leaf

  params = jax.tree_util.tree_map_with_path(perturbed, params)
  config = pretrained.read_config(folder)
  pretrained.save(tmp_path, params, config, lora=lora, unused=1)
  model, info = transformers.Gemma3ForCausalLM.from_pretrained(
    tmp_path, attn_implementation='eager', output_loading_info=True
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  context = policy.encode(params, INPUTS)
  logits, _ = policy.decode(
    params,
    context,
    np.zeros((4, 1, 1), int),
    np.zeros(1, int),
    np.ones((1, 1)) > 0,
  )
  for row, prompt in zip(logits[:, 0, 0], PROMPTS, strict=True):
    expected = run_torch(model.eval(), prompt)[1][-1, [60, 97, 98]]
    assert_near(row, expected)


def test_a_config_is_what_transformers_takes_it_for(folder):
  """Ours to theirs and back, with what they fill in."""
  config = pretrained.read_config(folder)
  theirs = transformers.Gemma3TextConfig(**config.to_hf())
  for name, value in SIZES.items():
    assert getattr(theirs, name) == value
  for kind, rope in ROPES.items():
    for name, value in rope.items():
      assert theirs.rope_parameters[kind][name] == value
  silent = transformers.Gemma3TextConfig()
  ours = GemmaConfig.from_hf({'model_type': 'gemma3_text'})
  assert ours.windows.tolist() == [
    2**30 if kind == 'full_attention' else silent.sliding_window
    for kind in silent.layer_types
  ]
  for field, name in (
    ('vocab_size', 'vocab_size'), ('num_heads', 'num_attention_heads'),
    ('num_kv_heads', 'num_key_value_heads'), ('head_dim', 'head_dim'),
    ('query_scale', 'query_pre_attn_scalar'),
    ('max_length', 'max_position_embeddings'),
    ('attention_softcap', 'attn_logit_softcapping'),
    ('final_softcap', 'final_logit_softcapping'),
  ):  # fmt: skip
    assert getattr(ours, field) == getattr(silent, name)


REAL = os.environ.get('GENRE2_JAX_GEMMA3', '')


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason='GENRE2_JAX_GEMMA3 names no folder')
def test_a_real_gemma3_says_what_it_says_in_transformers():
  """In float32: a prompt longer than the window, digits after each prompt."""
  config = pretrained.read_config(REAL)
  draw = np.random.default_rng(0)
  prompts = [
    np.array([2, *draw.integers(1000, 50_000, n)])
    for n in (11, config.sliding_window + 40)
  ]
  inputs = padded(prompts)
  policy = gemma_policy(
    DIGITS, config, number_tokens=(5, 6, 7), compute_dtype='float32'
  )
  abstract = nn.unbox(jax.eval_shape(policy.init, jax.random.key(0), inputs))
  params = pretrained.load(REAL, abstract)
  hidden, _ = jax.jit(
    nn.apply(
      lambda module: module.read(inputs),
      Backbone(config, Numerics(compute_dtype='float32')),
    )
  )({'params': params['backbone']})
  model = transformers.Gemma3ForCausalLM.from_pretrained(
    REAL, dtype=torch.float32, attn_implementation='eager'
  ).eval()
  table = np.asarray(params['backbone']['embedding'][:1000])
  for row, prompt in enumerate(prompts):
    with torch.no_grad():
      expected = model.model(torch.tensor([prompt.tolist()]))
    expected = expected.last_hidden_state[0].numpy()
    ours = np.asarray(hidden[row, : len(prompt)])
    assert_near(ours, expected)
    assert_near(ours[-1] @ table.T, expected[-1] @ table.T)
