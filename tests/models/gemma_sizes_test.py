"""Sizes of Gemma 2 and 3: presets, and what a config.json means."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import GEMMA3, PRESETS, GemmaConfig

FAR = 2**30
# As google/gemma-3-4b-pt has it: no heads, no vocabulary.
OF_4B = {
  'model_type': 'gemma3_text',
  'hidden_size': 2560,
  'intermediate_size': 10240,
  'num_hidden_layers': 34,
  'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'},
  'sliding_window': 1024,
}


def test_parameters_of_gemma3_are_as_many_as_published():
  """Of the 4B and larger the text alone, as `transformers` counts it."""
  digits = tokenizers.build('normalized', base=2, digits=3)
  inputs = {'tokens': np.zeros((1, 4), np.int32), 'length': np.ones(1, int)}
  for name, count in [
    ('gemma3_270m', 268_098_176),
    ('gemma3_1b', 999_885_952),
    ('gemma3_4b', 3_880_263_168),
    ('gemma3_12b', 11_766_034_176),
    ('gemma3_27b', 27_009_346_304),
  ]:
    policy = gemma_policy(digits, PRESETS[name], number_tokens=(5, 11))
    params = jax.eval_shape(policy.init, jax.random.key(0), inputs)
    params = nn.unbox(params)
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    layers = params['backbone']['layers']['attention']
    head_dim = PRESETS[name].head_dim
    assert layers['query_norm']['scale'].shape[1:] == (head_dim,)
    assert layers['key_norm']['scale'].shape[1:] == (head_dim,)


def test_what_a_gemma3_config_leaves_out_is_the_family_s():
  read = GemmaConfig.from_hf(OF_4B)
  assert read == PRESETS['gemma3_4b']
  assert (read.num_heads, read.num_kv_heads, read.vocab_size) == (8, 4, 262208)
  assert read.attention_softcap is None and read.final_softcap is None
  assert (read.rope_theta, read.local_theta, read.rope_factor) == (1e6, 1e4, 8)
  assert read.windows[:7].tolist() == [1024] * 5 + [FAR, 1024]
  # A Gemma 2 that says as little is capped.
  capped = GemmaConfig.from_hf({'model_type': 'gemma2'})
  assert (capped.attention_softcap, capped.final_softcap) == (50.0, 30.0)


@pytest.mark.parametrize(
  ('said', 'theta', 'local', 'factor'),
  [
    ({}, 1e6, 1e4, 1.0),
    ({'rope_theta': 5e5, 'rope_local_base_freq': 2e4}, 5e5, 2e4, 1.0),
    ({'rope_scaling': {'type': 'linear', 'factor': 4}}, 1e6, 1e4, 4.0),
    ({'rope_scaling': None}, 1e6, 1e4, 1.0),
    ({'rope_parameters': {
        'full_attention': {
          'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 7e5},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 3e4}}},
     7e5, 3e4, 8.0),
    ({'rope_parameters': {'full_attention': {'rope_theta': 7e5}}},
     7e5, 1e4, 1.0),
  ],
)  # fmt: skip
def test_rotary_bases_nest_or_not(said, theta, local, factor):
  config = GemmaConfig.from_hf({'model_type': 'gemma3_text', **said})
  found = config.rope_theta, config.local_theta, config.rope_factor
  assert found == (theta, local, factor)
  powers = -np.arange(128) / 128
  is_local = config.is_local
  assert is_local[:6].tolist() == [True] * 5 + [False]
  np.testing.assert_allclose(config.rates[0], local**powers, rtol=1e-6)
  np.testing.assert_allclose(config.rates[5], theta**powers / factor, rtol=1e-6)


def test_layers_are_listed_or_every_so_many_th_is_global():
  base = {'model_type': 'gemma3_text', 'num_hidden_layers': 4}
  kinds = ['full_attention', 'sliding_attention'] * 2
  for more, expected in [
    ({'layer_types': kinds}, [False, True, False, True]),
    ({'sliding_window_pattern': 2}, [True, False, True, False]),
    ({'_sliding_window_pattern': 3}, [True, True, False, True]),
    ({}, [True] * 4),
  ]:
    config = GemmaConfig.from_hf(base | more)
    assert config.is_local.tolist() == expected


@pytest.mark.parametrize(
  ('said', 'part'),
  [
    ({'use_bidirectional_attention': True}, 'use_bidirectional_attention=True'),
    ({'attn_logit_softcapping': 50.0}, 'attn_logit_softcapping=50.0'),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings=False'),
    ({'rope_scaling': {'rope_type': 'yarn', 'factor': 2}}, "rope_type='yarn'"),
    ({'rope_parameters': {'rope_theta': 1e4}}, 'sliding_attention and full'),
    ({'rope_parameters': {'sliding_attention': {
      'rope_type': 'linear', 'factor': 2}}}, "rope_type='linear'"),
    ({'model_type': 'gemma2', 'rope_parameters': {
      'full_attention': {'rope_theta': 1e6}}}, 'full_attention in rope_par'),
    ({'layer_types': ['chunked_attention']}, 'chunked_attention'),
  ],
)  # fmt: skip
def test_what_would_silently_be_another_model_is_refused(said, part):
  with pytest.raises(ValueError, match=part) as error:
    GemmaConfig.from_hf({'model_type': 'gemma3_text', **said})
  assert '\n' not in str(error.value)


def test_a_gemma3_config_there_and_back():
  for name, config in PRESETS.items():
    again = GemmaConfig.from_hf(config.to_hf())
    np.testing.assert_array_equal(again.windows, config.windows)
    np.testing.assert_array_equal(again.rates, config.rates)
    said = dataclasses.replace(
      again,
      local=None,
      global_every=config.global_every,
      local_theta=config.local_theta,
    )
    assert said == config, name
  assert GEMMA3.to_hf()['model_type'] == 'gemma3_text'
  assert GEMMA3.to_hf()['attn_logit_softcapping'] is None
