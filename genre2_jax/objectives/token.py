"""Token-level losses under teacher forcing, for one number."""

import chex
import jax
import jax.numpy as jnp


def cross_entropy(logits, tokens):
  """Mean over positions of −log p(y_t | y_<t).

  Args:
    logits: [T, V].
    tokens: int [T], the target number.

  Returns:
    A scalar, nats per token.
  """
  chex.assert_rank([logits, tokens], [2, 1])
  log_probs = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log_probs, tokens[:, None], axis=-1)
  return -jnp.mean(picked)
