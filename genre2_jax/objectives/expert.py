"""The dense expert of GenRe² (ICML 2026): advice at every position."""

import chex
import jax.numpy as jnp


def expert_loss(log_probs, best_tokens):
  """−mean_t log π(best token | prefix) on the policy's own rollouts.

  After any prefix the best token is that of the number nearest the target
  that still can be written (`Tokenizer.best_tokens`).

  Args:
    log_probs: [..., T, V], the policy's, along its own prefixes.
    best_tokens: int [..., T].

  Returns:
    A scalar, nats per token.
  """
  chex.assert_shape(best_tokens, log_probs.shape[:-1])
  index = best_tokens[..., None]
  return -jnp.mean(jnp.take_along_axis(log_probs, index, axis=-1))
