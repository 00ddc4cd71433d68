"""Two training steps whose numbers are written down.

Every other test of a step compares it with another computation, and a change
of both would pass. These notice that any number has changed.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genre2_jax import tokenizers
from genre2_jax.data.batches import Examples
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, Rollouts, init_params
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import train_state
from genre2_jax.training.step import train_step

CODEC = Codec(tokenizers.build('normalized', base=4, digits=3), -2.0, 2.0)
POLICY = tabular_policy(
  CODEC.tokenizer,
  cardinalities=(3,),
  width=16,
  num_layers=2,
  num_heads=2,
  feedforward=16,
  encoder_hidden=16,
  encoder_layers=1,
  dropout=0.0,
)
# Loss and norm of the gradient.
GOLDEN = {
  'ce': (1.754927158, 2.433809519),
  'remax': (7.415247917, 11.40300369),
}
CHANGED = """
A step of {name} is no longer the one that was written down: loss {loss:.10g},
norm of the gradient {norm:.10g}. That is right only where a change is meant to
change what is computed (a formula, how parameters begin, in which order random
numbers are drawn), or where a new JAX draws others. Then every result that was
measured before is of another program: say so in the changelog, and write the
new numbers down here. A change that only moves code must not come here.
"""


def batch():
  """Eight rows of two numbers and a category, nothing drawn."""
  x = np.linspace(-1.5, 1.5, 8)
  numeric = np.stack([x, np.cos(3 * x)], -1).astype(np.float32)
  target = np.sin(2 * x).astype(np.float32)
  inputs = {
    'numeric': jnp.asarray(numeric),
    'categories': jnp.arange(8)[:, None] % 3,
  }
  return Examples(
    inputs, jnp.asarray(target), jnp.asarray(CODEC.encode(target))
  )


@pytest.mark.parametrize('name', GOLDEN)
def test_a_step_is_the_one_that_was_written_down(name):
  objective = Objective(
    terms=(build_term(name),), rollouts=Rollouts(group_size=4)
  )
  shared = {'network': POLICY, 'codec': CODEC, 'objective': objective}
  params = nn.unbox(init_params(jax.random.key(0), batch().inputs, **shared))
  optimizer = optax.sgd(1.0)
  state = train_state.create(
    params, jax.random.key(1), optimizer, objective.metrics
  )
  step = functools.partial(train_step, optimizer=optimizer, **shared)
  totals = jax.jit(step)(state, batch()).totals
  loss, norm = float(totals['loss']), float(totals['grad_norm'])
  # Other processors differ by a few units in the seventh digit.
  assert (loss, norm) == pytest.approx(GOLDEN[name], rel=1e-5), CHANGED.format(
    name=name, loss=loss, norm=norm
  )
