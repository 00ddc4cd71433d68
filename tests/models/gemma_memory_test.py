"""What a step on a large vocabulary has in memory: compiled as it is run."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import tokenizers
from genre2_jax.data.batches import Examples
from genre2_jax.devices import compilation
from genre2_jax.models.gemma.layers import Lora
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.models.layers import rows_of
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, supervised
from genre2_jax.policy import scoring
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import train_state

DIGITS = tokenizers.build('normalized', base=2, digits=1)
CONFIG = GemmaConfig(
  vocab_size=2**15, width=64, num_layers=1, num_heads=2, num_kv_heads=1,
  head_dim=8, feedforward=16, query_scale=8, sliding_window=4,
)  # fmt: skip
INPUTS = {
  'tokens': np.ones((2, 6), np.int32),
  'length': np.array([6, 3], np.int32),
}


def test_a_step_has_no_copy_of_the_vocabulary():
  """Of a frozen embedding in bfloat16, over all whose rows the softmax goes.

  In a loop, before which XLA would convert and transpose what stays the same.
  """
  policy = gemma_policy(
    DIGITS, CONFIG, number_tokens=(11, 5), vocabulary='all',
    param_dtype='bfloat16', lora=Lora(rank=2),
  )  # fmt: skip
  abstract = jax.eval_shape(policy.init, jax.random.key(0), INPUTS)
  trained, frozen = train_state.split(
    {'policy': nn.unbox(abstract)}, policy.frozen
  )
  codec = Codec(DIGITS, -1.0, 1.0)
  z = np.linspace(-0.9, 0.9, 2).astype(np.float32)
  batch = Examples(INPUTS, z, codec.encode(z))
  objective = Objective(
    terms=(build_term('raft'),), enumeration=Enumeration(depth=1)
  )

  def steps(trained, frozen, count):
    def loss(trained):
      return supervised(
        train_state.merge(trained, frozen), batch, None, network=policy,
        codec=codec, objective=objective,
      )['raft'].sum()  # fmt: skip

    def step(_, trained):
      return jax.tree.map(lambda x, g: x - g, trained, jax.grad(loss)(trained))

    return jax.lax.fori_loop(0, count, step, trained)

  compiled = jax.jit(steps).lower(trained, frozen, 3).compile()
  embedding = 2 * CONFIG.vocab_size * CONFIG.width
  temporary = compiled.memory_analysis().temp_size_in_bytes
  assert temporary < 0.5 * embedding


@pytest.mark.slow
def test_layers_become_float32_one_by_one():
  """Of stacked bfloat16 layers, their weights and what the gradient needs."""
  config = dataclasses.replace(CONFIG, num_layers=4, feedforward=256)
  policy = gemma_policy(
    DIGITS, config, number_tokens=(11, 5), param_dtype='bfloat16',
    compute_dtype='bfloat16', lora=Lora(rank=2, targets=('gate', 'up', 'down')),
  )  # fmt: skip
  inputs = {'tokens': np.ones((2, 48), np.int32), 'length': np.array([48, 9])}
  abstract = jax.eval_shape(policy.init, jax.random.key(0), inputs)
  trained, frozen = train_state.split(
    {'policy': nn.unbox(abstract)}, policy.frozen
  )
  tokens = np.zeros((2, 1, 1), np.int32)

  def loss(trained, frozen):
    params = train_state.merge(trained, frozen)['policy']
    context = policy.encode(params, inputs)
    return (
      scoring.score(policy, params, context, tokens).token_log_probs().sum()
    )

  lowered = jax.jit(jax.grad(loss)).lower(trained, frozen)
  plain, ours = (
    lowered.compile(options).memory_analysis().temp_size_in_bytes
    for options in (None, compilation.options())
  )
  assert ours < 0.7 * plain


def test_rows_are_looked_up_without_a_copy_of_the_table():
  table = jnp.asarray(np.random.default_rng(0).normal(size=(4096, 64)))
  table = table.astype(jnp.bfloat16)
  index = jnp.arange(24).reshape(6, 4) * 100

  def summed(table, index):
    def add(i, total):
      return total + jnp.sin(rows_of(table, index[i]).astype(jnp.float32)).sum()

    return jax.lax.fori_loop(0, jnp.max(index) // 400, add, 0.0)

  compiled = jax.jit(summed).lower(table, index).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < table.nbytes / 2
  rows = table[index].astype(jnp.float32)
  np.testing.assert_allclose(
    compiled(table, index), jnp.sin(rows[:5]).sum(), rtol=1e-5
  )
  gradient = jax.grad(lambda table: rows_of(table, index[0]).sum())(table)
  assert float(gradient.sum()) == 4 * 64
