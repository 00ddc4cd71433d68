"""What devices that share a language model's weights gather in a step.

As a program, `python gathers_test.py` prints the bytes for eight devices.
"""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from checks import environment_of_eight_devices

from genre2_jax import tokenizers
from genre2_jax.ahead_of_time import collectives_of
from genre2_jax.data.batches import Examples
from genre2_jax.devices import sharding
from genre2_jax.models.gemma.policy import gemma_policy
from genre2_jax.models.gemma.sizes import GemmaConfig
from genre2_jax.objectives import rollouts
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, supervised, total
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.tokenizers.codec import Codec

CODEC = Codec(tokenizers.build('normalized', base=3, digits=2), -1.0, 1.0)
CONFIG = GemmaConfig(
  vocab_size=64, width=64, num_layers=3, num_heads=4, num_kv_heads=2,
  head_dim=16, feedforward=128, query_scale=16, sliding_window=8,
)  # fmt: skip
NUM_ROWS, LENGTH, GROUP = 8, 6, 2


def gathered(policy, mesh, scores_samples):
  """Bytes that a device gathers for a loss and its gradient, of one layer.

  The compiler's text has a loop's body once.
  """
  z = np.linspace(-0.9, 0.9, NUM_ROWS).astype(np.float32)
  inputs = {
    'tokens': np.ones((NUM_ROWS, LENGTH), np.int32),
    'length': np.full(NUM_ROWS, LENGTH, np.int32),
  }
  batch = Examples(inputs, z, CODEC.encode(z))
  objective = Objective(
    terms=(build_term('raft'),), enumeration=Enumeration(depth=2)
  )
  network = sharding.constrained(policy, mesh)

  def loss(params, batch):
    params = {'policy': params}
    if scores_samples:
      tokens = batch.tokens[:, None].repeat(GROUP, 1)
      samples = rollouts._score(params, batch, tokens, network, objective)
      return samples.token_log_probs.mean()
    keys = jax.random.split(jax.random.key(0), NUM_ROWS)
    losses = supervised(
      params, batch, keys, network=network, codec=CODEC, objective=objective
    )
    return total(losses, objective)

  boxed = jax.eval_shape(policy.init, jax.random.key(0), inputs)
  params = sharding.abstract_params(boxed, mesh)
  rows = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.batch_sharding(mesh)
    ),
    batch,
  )
  out = jax.tree.map(lambda x: x.sharding, params)
  program = jax.jit(jax.grad(loss), out_shardings=out).lower(params, rows)
  found, _ = collectives_of(program.compile().as_text())
  return sum(c.size for c in found if c.kind == 'all-gather')


def main():
  sizes = {'replica': 1, 'data': 1, 'fsdp': 8, 'model': 1}
  mesh = sharding.make_mesh(sizes)
  policy = gemma_policy(
    CODEC.tokenizer, CONFIG, number_tokens=(5, 11, 7), remat=True,
    compute_dtype='float32',
  )  # fmt: skip
  params = jax.eval_shape(
    policy.init, jax.random.key(0),
    {'tokens': np.ones((1, 2), np.int32), 'length': np.ones(1, np.int32)},
  )  # fmt: skip
  layers = nn.unbox(params)['backbone']['layers']
  size = sum(4 * x.size for x in jax.tree.leaves(layers))
  found = {'layer': size // CONFIG.num_layers}
  for name, scores_samples in (('raft', False), ('remax', True)):
    for passes, network in (
      ('one', policy), ('two', policy._replace(at_once=None))
    ):  # fmt: skip
      found[f'{name} {passes}'] = gathered(network, mesh, scores_samples)
  print(json.dumps(found))


@pytest.fixture(scope='module')
def bytes_gathered():
  done = subprocess.run(
    [sys.executable, __file__],
    env=environment_of_eight_devices(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_prompt_and_nodes_in_one_pass_gather_the_layers_twice(bytes_gathered):
  """Forward and backward; passes of their own would gather as often again.

  ReMax's score has three passes otherwise, of prompt, trunk and branches.
  """
  layer = bytes_gathered['layer']
  for name, passes in (('raft', 2), ('remax', 3)):
    one, several = (bytes_gathered[f'{name} {n}'] for n in ('one', 'two'))
    assert one == pytest.approx(2 * layer, rel=0.05)
    assert several == pytest.approx(2 * passes * layer, rel=0.05)


if __name__ == '__main__':
  main()
