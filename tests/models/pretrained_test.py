"""Weights of language models: what transformers computes, there and back."""

import functools
import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import ROOT, assert_refused

from genre2_jax import tokenizers
from genre2_jax.models import pretrained
from genre2_jax.models.gemma.layers import Lora
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.policy import teacher_forced

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.usefixtures('quick_compiles')

DIGITS = tokenizers.build('normalized', base=3, digits=3)
NUMBERS = (60, 7, 33)  # subwords of the digits
SIZES = {
  'vocab_size': 96,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 4,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 8,
  'query_pre_attn_scalar': 12,
  'sliding_window': 4,
  # Low enough to bend.
  'attn_logit_softcapping': 3.0,
  'final_logit_softcapping': 4.0,
}
RNG = np.random.default_rng(0)
LENGTHS = np.array([9, 2, 1, 6])
PROMPTS = [RNG.integers(3, 96, n) for n in LENGTHS]
DIGIT_ROWS = RNG.integers(0, 3, (4, 3))


def randomize(model):
  """Weights large enough that every part of a model matters."""
  torch.manual_seed(0)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.normal_(0, 1.0 if 'embed' in name else 0.3)
  return model.eval()


@pytest.fixture(scope='module')
def gemma2():
  config = transformers.Gemma2Config(**SIZES, attn_implementation='eager')
  return randomize(transformers.Gemma2ForCausalLM(config))


@pytest.fixture(scope='module')
def folder(gemma2, tmp_path_factory):
  """A checkpoint in several files."""
  folder = tmp_path_factory.mktemp('gemma2')
  gemma2.save_pretrained(folder, max_shard_size='20KB')
  assert len(list(folder.glob('*.safetensors'))) > 2
  return folder


def padded(prompts, width):
  """Inputs, right-padded: the pads must not matter."""
  tokens = np.zeros((len(prompts), width), np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[: len(prompt)] = prompt
  length = np.array([len(p) for p in prompts], np.int32)
  return {'tokens': tokens, 'length': length}


def build(config, **options):
  options = {'number_tokens': NUMBERS, 'compute_dtype': 'float32'} | options
  return gemma_policy(DIGITS, config, **options)


def loaded(folder, policy):
  """Parameters of a policy, from the checkpoint and drawn."""
  init = functools.partial(policy.init, jax.random.key(0), padded(PROMPTS, 9))
  abstract = nn.unbox(jax.eval_shape(init))
  return pretrained.load(folder, abstract, init=init)


def torch_logits(model, prompt, digits=()):
  """Next-token logits after a prompt and after each of its digits."""
  tokens = [*prompt.tolist(), *(NUMBERS[d] for d in digits)]
  with torch.no_grad():
    logits = model(torch.tensor([tokens])).logits[0]
  return logits.numpy()[len(prompt) - 1 :]


def test_logits_are_those_of_transformers(gemma2, folder):
  """Padded or not, teacher-forced and node by node with a cache."""
  policy = build(pretrained.read_config(folder))
  params = loaded(folder, policy)
  expected = np.stack(
    [
      torch_logits(gemma2, prompt, digits[:-1])[:, NUMBERS]
      for prompt, digits in zip(PROMPTS, DIGIT_ROWS, strict=True)
    ]
  )

  @jax.jit
  def both(params):
    context = policy.encode(params, padded(PROMPTS, max(LENGTHS)))
    forced = teacher_forced(policy, params, context, jnp.asarray(DIGIT_ROWS))
    cache, last, steps = None, np.zeros((4, 1, 1), np.int32), []
    for position in range(3):
      visible = np.ones((1, position + 1), bool)
      logits, cache = policy.decode(
        params, context, last, np.array([position]), visible, cache
      )
      steps.append(logits[:, 0, 0])
      last = DIGIT_ROWS[:, None, position : position + 1]
    return forced, jnp.stack(steps, 1), cache

  forced, steps, cache = both(params)
  np.testing.assert_allclose(forced, expected, atol=3e-5)
  np.testing.assert_allclose(steps, expected, atol=3e-5)
  assert {x.shape[:3] for x in jax.tree.leaves(cache)} == {(4, 1, 3)}


def test_the_rest_of_the_vocabulary_is_one_column(gemma2, folder):
  policy = build(pretrained.read_config(folder), vocabulary='all')
  params = loaded(folder, policy)
  context = policy.encode(params, padded(PROMPTS, 9))
  logits = teacher_forced(policy, params, context, jnp.asarray(DIGIT_ROWS))
  assert logits.shape == (4, 3, 4)
  log_p = jax.nn.log_softmax(logits)
  for row, prompt, digits in zip(log_p, PROMPTS, DIGIT_ROWS, strict=True):
    full = torch_logits(gemma2, prompt, digits[:-1])
    full = jax.nn.log_softmax(full)
    np.testing.assert_allclose(row[:, :3], full[:, NUMBERS], atol=3e-5)


def test_weights_in_bfloat16_there_and_back(folder, tmp_path):
  config = pretrained.read_config(folder)
  policy = build(config)
  params = loaded(folder, policy)
  pretrained.save(tmp_path, params, config, dtype='bfloat16')
  for kept, original in zip(
    jax.tree.leaves(loaded(tmp_path, policy)),
    jax.tree.leaves(params),
    strict=True,
  ):
    assert kept.dtype == jnp.float32
    np.testing.assert_array_equal(kept, original.astype(jnp.bfloat16))
  model = transformers.Gemma2ForCausalLM.from_pretrained(tmp_path)
  assert model.dtype == torch.bfloat16


@pytest.mark.parametrize('shard_bytes', [10**9, 20_000])
def test_transformers_loads_what_is_saved(folder, tmp_path, shard_bytes):
  """With low-rank updates added in and new tokens as new rows."""
  config = pretrained.read_config(folder)
  lora = Lora(rank=2, alpha=3.0, targets=('query', 'value', 'down'))
  policy = build(
    config, lora=lora, number_tokens=(60, 96, 97), new_embedding='average'
  )
  params = loaded(folder, policy)
  draw = np.random.default_rng(1)

  def perturbed(path, leaf):
    name = path[-1].key
    if name == 'lora_b' or name == 'new_embedding':
      return jnp.asarray(draw.normal(0, 0.5, leaf.shape), jnp.float32)
    return leaf

  params = jax.tree_util.tree_map_with_path(perturbed, params)
  pretrained.save(tmp_path, params, config, lora=lora, shard_bytes=shard_bytes)
  assert len(list(tmp_path.glob('*.safetensors'))) > (shard_bytes < 10**9)
  model, info = transformers.Gemma2ForCausalLM.from_pretrained(
    tmp_path, attn_implementation='eager', output_loading_info=True
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  context = policy.encode(params, padded(PROMPTS, 9))
  logits, _ = policy.decode(
    params,
    context,
    np.zeros((4, 1, 1), int),
    np.zeros(1, int),
    np.ones((1, 1)) > 0,
  )
  for row, prompt in zip(logits[:, 0, 0], PROMPTS, strict=True):
    expected = torch_logits(model.eval(), prompt)[0, [60, 96, 97]]
    np.testing.assert_allclose(row, expected, atol=3e-5)


def test_a_config_there_and_back(gemma2, folder):
  config = pretrained.read_config(folder)
  assert config == GemmaConfig.from_hf(config.to_hf())
  assert config.windows.tolist() == [4, 2**30, 4, 2**30]
  theirs = transformers.Gemma2Config(**config.to_hf())
  for name, value in SIZES.items():
    assert getattr(theirs, name) == value
  assert theirs.layer_types == gemma2.config.layer_types
  assert theirs.rope_parameters == gemma2.config.rope_parameters


def copied(folder, target):
  for path in folder.iterdir():
    (target / path.name).write_bytes(path.read_bytes())
  return target


def test_a_config_that_disagrees_names_the_tensors(folder, tmp_path):
  copied(folder, tmp_path)
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text())
  for field, value, part in [
    ('intermediate_size', 40, 'layers.0.mlp.down_proj.weight is (32, 48), not'),
    ('num_hidden_layers', 5, 'missing: model.layers.4.self_attn.'),
    ('num_hidden_layers', 3, 'not in the model: model.layers.3.'),
  ]:
    kinds = config['layer_types'][:1] * value
    more = {'layer_types': kinds} if field == 'num_hidden_layers' else {}
    path.write_text(json.dumps({**config, field: value, **more}))
    policy = build(pretrained.read_config(tmp_path))
    assert_refused(lambda p=policy: loaded(tmp_path, p), str(tmp_path), part)


def test_a_missing_or_short_file_is_named(folder, tmp_path):
  copied(folder, tmp_path)
  policy = build(pretrained.read_config(tmp_path))
  *_, last = sorted(tmp_path.glob('*.safetensors'))
  last.write_bytes(last.read_bytes()[:-5])
  assert_refused(lambda: loaded(tmp_path, policy), last.name, 'not a whole')
  last.unlink()
  assert_refused(lambda: loaded(tmp_path, policy), last.name, '1 of ')
  (tmp_path / 'model.safetensors.index.json').unlink()
  assert_refused(lambda: loaded(tmp_path, policy), 'model.safetensors')


def test_other_models_are_refused(folder, tmp_path):
  copied(folder, tmp_path)
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text())
  for changes, part in [
    ({'model_type': 'llama'}, "'llama'"),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings=False'),
    ({'hidden_activation': 'relu'}, "hidden_activation='relu'"),
  ]:
    path.write_text(json.dumps(config | changes))
    assert_refused(
      lambda: pretrained.read_config(tmp_path), 'config.json', part
    )
  assert_refused(lambda: pretrained.folder_of('a/b/c'), 'a/b/c', 'no such')


def test_weights_go_straight_to_the_shards_of_eight_devices(folder):
  """No more of a parameter is on the host than one device's part."""
  done = subprocess.run(
    [sys.executable, '-c', SHARDED, str(folder)],
    cwd=ROOT,
    env=os.environ
    | {
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) == 4 * 48 * 32 // 4  # of four layers' down: a fourth


SHARDED = """
import sys
import jax, numpy as np
import flax.linen as nn
from genre2_jax import tokenizers
from genre2_jax.devices import sharding
from genre2_jax.models import pretrained
from genre2_jax.models.gemma.policy import gemma_policy

folder, sizes = sys.argv[1], []
policy = gemma_policy(
  tokenizers.build('normalized', base=3, digits=3),
  pretrained.read_config(folder),
  number_tokens=(60, 7, 33),
)
inputs = {'tokens': np.ones((1, 4), int), 'length': np.array([4])}
boxed = jax.eval_shape(policy.init, jax.random.key(0), inputs)
mesh = sharding.make_mesh({'replica': 1, 'data': 2, 'fsdp': 2, 'model': 2})
whole = pretrained.load(folder, nn.unbox(boxed))
put = jax.device_put
jax.device_put = lambda x, *where: sizes.append(x.size) or put(x, *where)
parts = pretrained.load(folder, sharding.abstract_params(boxed, mesh))
jax.device_put = put
jax.tree.map(np.testing.assert_array_equal, parts, whole)
kernel = parts['backbone']['layers']['mlp']['down']['kernel']
assert kernel.addressable_shards[0].data.shape == (4, 24, 16)
print(max(sizes))
"""
