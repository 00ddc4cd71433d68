"""Optimizers and learning-rate schedules, from optax."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genre2_jax.models import pack

# Of steps: on the host, or an argument of a program.
Count = int | jax.Array
NAMES = ('adamw', 'adafactor')
# Times the rate, of parameters that are to be fast: RealMLP's.
_FAST = 6.0
SCHEDULES = ('cosine', 'constant')


def warmup_cosine(
  peak: float, *, warmup_steps: int, total_steps: Count, floor: float = 0.1
) -> optax.Schedule:
  """Linear warm-up to `peak`, then a cosine to `floor · peak` at the end.

  It is optax's `warmup_cosine_decay_schedule`, but for the number of updates,
  which may be an argument of the program.

  Args:
    peak: the greatest rate.
    warmup_steps: updates of the warm-up; at most half of all.
    total_steps: updates of the whole schedule.
    floor: share of the peak that is left.
  """
  warmup = jnp.minimum(warmup_steps, total_steps // 2)
  length = jnp.maximum(total_steps - warmup, 1)

  def rate(count: jax.Array) -> jax.Array:
    after = jnp.minimum(count - warmup, length)
    wave = 0.5 * (1 + jnp.cos(math.pi * after / length))
    decayed = peak * ((1 - floor) * wave + floor)
    return jnp.where(count < warmup, _warming(peak, warmup, count), decayed)

  return rate


def warmup_constant(
  peak: float, *, warmup_steps: int, total_steps: Count
) -> optax.Schedule:
  """Linear warm-up to `peak`, then `peak`; arguments as `warmup_cosine`'s."""
  warmup = jnp.minimum(warmup_steps, total_steps // 2)

  def rate(count: jax.Array) -> jax.Array:
    return jnp.where(count < warmup, _warming(peak, warmup, count), peak)

  return rate


def _warming(peak, warmup, count):
  """From peak / (warmup + 1) at update 0 to the peak at update `warmup`."""
  first = peak / (warmup + 1)
  left = 1 - count / jnp.maximum(warmup, 1)
  return (first - peak) * left + peak


def schedule(
  name: str, peak: float, *, warmup_steps: int, total_steps: Count
) -> optax.Schedule:
  """A learning rate by name, one of `SCHEDULES`: updates so far -> rate."""
  functions: dict[str, Callable[..., optax.Schedule]] = {
    'cosine': warmup_cosine,
    'constant': warmup_constant,
  }
  return functions[name](
    peak, warmup_steps=warmup_steps, total_steps=total_steps
  )


def adamw(
  learning_rate: float | optax.Schedule,
  *,
  weight_decay: float,
  max_grad_norm: float,
  mask: Callable[[Any], Any] | None = None,
  own_decay: bool = False,
) -> optax.GradientTransformation:
  """AdamW; gradients clipped to a global norm unless that is 0.

  Of a tree of parameters `mask` gives which of them decay; None: all. With
  `own_decay` the decay is a number in the state, each member's own.
  """
  if own_decay:
    optimizer = optax.chain(
      optax.scale_by_adam(),
      _decayed(weight_decay, mask),
      optax.scale_by_learning_rate(learning_rate),
    )
  else:
    optimizer = optax.adamw(learning_rate, weight_decay=weight_decay, mask=mask)
  return _clipped(optimizer, max_grad_norm)


def adafactor(
  learning_rate: float | optax.Schedule,
  *,
  max_grad_norm: float,
  min_factored: int = 128,
) -> optax.GradientTransformation:
  """Adafactor (Shazeer & Stern 2018) with RAFT's constants, no momentum.

  ε1 = 1e-30, ε2 = 1e-3, β2_t = 1 − t^−0.8. Updates are relative: the rate is
  multiplied by max(ε2, RMS of the parameter), and the update's RMS is clipped
  to 1. A parameter of two axes of `min_factored` or more keeps the running
  means of its rows and of its columns, not of its elements.

  Args:
    learning_rate: or a schedule of it.
    max_grad_norm: gradients are clipped to it; 0: not.
    min_factored: smaller axes are not factored.
  """
  optimizer = optax.adafactor(
    learning_rate,
    min_dim_size_to_factor=min_factored,
    decay_rate=0.8,
    multiply_by_parameter_scale=True,  # At least 1e-3, ε2.
    clipping_threshold=1.0,
    momentum=None,
    eps=1e-30,
  )
  return _clipped(optimizer, max_grad_norm)


def build(
  name: str,
  learning_rate: float | optax.Schedule,
  *,
  weight_decay: float,
  max_grad_norm: float,
  fast_parameters: Sequence[str] = (),
  own: Collection[str] = (),
) -> optax.GradientTransformation:
  """An optimizer by name, one of `NAMES`; Adafactor decays no weights.

  Args:
    name: of the optimizer.
    learning_rate: or a schedule of it.
    weight_decay: of AdamW.
    max_grad_norm: gradients are clipped to it; 0: not.
    fast_parameters: names of parameters, the last of their paths, that have six
      times the rate and no decay (RealMLP's scaling layer, arXiv 2407.04491).
    own: of 'learning_rate' and 'weight_decay' what each member of a pack has
      for itself (`models/pack.py`): its state then has that number.
  """
  fast = frozenset(fast_parameters)
  if name == 'adafactor':
    optimizer = adafactor(learning_rate, max_grad_norm=max_grad_norm)
  else:
    optimizer = adamw(
      learning_rate,
      weight_decay=weight_decay,
      max_grad_norm=max_grad_norm,
      mask=_but(fast) if fast else None,
      own_decay='weight_decay' in own,
    )
  more = [_times(_FAST, fast)] if fast else []
  if 'learning_rate' in own:
    more.append(_paced())
  return optax.chain(optimizer, *more) if more else optimizer


def _paced() -> optax.GradientTransformation:
  """Updates times a number in the state: 1, but for a member's factor."""
  name = pack.own('learning_rate')

  def init(params):
    del params
    return {name: jnp.ones(())}

  def update(updates, state, params=None):
    del params
    return jax.tree.map(lambda x: x * state[name], updates), state

  return optax.GradientTransformation(init, update)


def _decayed(weight_decay, mask):
  """`optax.add_decayed_weights` by a number in the state."""
  name = pack.own('weight_decay')

  def init(params):
    del params
    return {name: jnp.asarray(weight_decay, jnp.float32)}

  def update(updates, state, params=None):
    decay = optax.add_decayed_weights(state[name], mask)
    updates, _ = decay.update(updates, decay.init(params), params)
    return updates, state

  return optax.GradientTransformation(init, update)


def _but(names):
  """Parameters -> whether each has another name than these."""

  def mask(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: _name(path) not in names, params
    )

  return mask


def _times(factor, names):
  """Updates of parameters with these names times a factor."""

  def scale(updates, params):
    del params
    return jax.tree_util.tree_map_with_path(
      lambda path, x: x * factor if _name(path) in names else x, updates
    )

  return optax.stateless(scale)


def _name(path):
  return jax.tree_util.keystr(path[-1:], simple=True)


def _clipped(optimizer, max_grad_norm):
  if max_grad_norm > 0:
    clip = optax.clip_by_global_norm(max_grad_norm)
    optimizer = optax.chain(clip, optimizer)
  return optimizer
