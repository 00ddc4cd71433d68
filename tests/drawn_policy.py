"""A transformer with drawn parameters: a policy of the package, but tiny."""

import functools

import flax.linen as nn
import jax
import numpy as np

from genre2_jax.models.tabular import tabular_policy

BATCH = 3


@functools.cache
def drawn_policy(tokenizer):
  """A policy with two layers, its parameters, and `BATCH` contexts."""
  policy = tabular_policy(
    tokenizer,
    cardinalities=(),
    width=16,
    num_layers=2,
    num_heads=2,
    feedforward=16,
    encoder_hidden=16,
    encoder_layers=1,
    dropout=0.0,
  )
  numeric = np.random.default_rng(0).normal(size=(BATCH, 3))
  inputs = {
    'numeric': numeric.astype(np.float32),
    'categories': np.zeros((BATCH, 0), np.int32),
  }
  params = nn.unbox(jax.jit(policy.init)(jax.random.key(0), inputs))
  params = jax.tree.map(lambda x: 1.5 * x, params)
  return policy, params, jax.jit(policy.encode)(params, inputs)
