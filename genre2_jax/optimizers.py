"""Optimizers and learning-rate schedules, from optax."""

import optax


def warmup_cosine(peak, *, warmup_steps, total_steps, floor=0.1):
  """Linear warm-up to `peak`, then a cosine to `floor · peak`."""
  warmup_steps = min(warmup_steps, total_steps // 2)
  return optax.warmup_cosine_decay_schedule(
    init_value=peak / (warmup_steps + 1),
    peak_value=peak,
    warmup_steps=warmup_steps,
    decay_steps=max(total_steps, warmup_steps + 1),
    end_value=floor * peak,
  )


def adamw(learning_rate, *, weight_decay, max_grad_norm):
  """AdamW; gradients clipped to a global norm unless that is 0."""
  optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)
  if max_grad_norm > 0:
    clip = optax.clip_by_global_norm(max_grad_norm)
    optimizer = optax.chain(clip, optimizer)
  return optimizer
