"""Optimizers: the learning rate's course, clipping, weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genre2_jax.training import optimizers


def test_the_rate_rises_to_its_peak_and_falls_to_a_tenth():
  rate = optimizers.warmup_cosine(2.0, warmup_steps=10, total_steps=110)
  rates = np.array([rate(step) for step in range(111)])
  np.testing.assert_allclose(rates[:11], 2 * np.arange(1, 12) / 11, rtol=1e-5)
  assert rates.argmax() == 10
  assert (np.diff(rates[10:]) < 0).all()
  assert rates[60] == pytest.approx(2 * (0.9 * 0.5 + 0.1))  # half-way
  assert rates[110] == pytest.approx(0.2)


def test_the_first_step_already_learns():
  for warmup in (0, 1, 100):
    rate = optimizers.warmup_cosine(1.0, warmup_steps=warmup, total_steps=1000)
    assert rate(0) == pytest.approx(1 / (warmup + 1))


def test_a_run_shorter_than_its_warm_up_still_reaches_the_peak():
  rate = optimizers.warmup_cosine(1.0, warmup_steps=100, total_steps=20)
  assert max(float(rate(step)) for step in range(20)) == pytest.approx(1)
  assert rate(20) == pytest.approx(0.1)


@pytest.mark.parametrize('total_steps', [0, 1, 2, 3])
def test_the_shortest_runs_have_finite_positive_rates(total_steps):
  rate = optimizers.warmup_cosine(
    1.0, warmup_steps=100, total_steps=total_steps
  )
  rates = [float(rate(step)) for step in range(5)]
  assert min(rates) >= 0.0999 and max(rates) <= 1.0001


def update_of(gradient, params, **options):
  optimizer = optimizers.adamw(0.1, **options)
  updates, _ = jax.jit(optimizer.update)(
    gradient, optimizer.init(params), params
  )
  return updates


def test_the_first_update_has_the_size_of_the_rate_and_decays_weights():
  params, gradient = jnp.array([2.0, -4.0]), jnp.array([1e-2, -3.0])
  plain = update_of(gradient, params, weight_decay=0.0, max_grad_norm=0.0)
  np.testing.assert_allclose(plain, [-0.1, 0.1], rtol=1e-4)
  decayed = update_of(gradient, params, weight_decay=0.5, max_grad_norm=0.0)
  np.testing.assert_allclose(decayed - plain, -0.1 * 0.5 * params, rtol=1e-5)


def test_gradients_are_clipped_to_their_global_norm_unless_it_is_zero():
  """Seen in Adam's first moment, 0.1 times the gradient."""

  def moment(max_grad_norm):
    params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
    optimizer = optimizers.adamw(
      0.1, weight_decay=0.0, max_grad_norm=max_grad_norm
    )
    gradient = {'a': jnp.array([3.0]), 'b': jnp.array([-4.0])}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    mu = optax.tree_utils.tree_get(state, 'mu')
    return [mu['a'].item() * 10, mu['b'].item() * 10]

  assert moment(0.0) == pytest.approx([3, -4])
  assert moment(1.0) == pytest.approx([0.6, -0.8])
  assert moment(10.0) == pytest.approx([3, -4])


def test_the_constant_rate_rises_to_its_peak_and_stays():
  for warmup in (0, 10):
    rate = optimizers.schedule(
      'constant', 2.0, warmup_steps=warmup, total_steps=110
    )
    rates = np.array([rate(step) for step in range(111)])
    rising = 2 * np.arange(1, warmup + 1) / (warmup + 1)
    np.testing.assert_allclose(rates[:warmup], rising, rtol=1e-5)
    np.testing.assert_allclose(rates[warmup:], 2.0, rtol=1e-6)


def adafactor_by_hand(x, gradients, rate):
  """Shazeer & Stern 2018, algorithms 4 and 5, in float64."""
  row, col, full = np.zeros(len(x)), np.zeros(x.shape[-1]), np.zeros(x.shape)
  for t, g in enumerate(gradients, 1):
    decay = 1 - t**-0.8
    square = g**2 + 1e-30
    if x.ndim == 2:
      row = decay * row + (1 - decay) * square.mean(1)
      col = decay * col + (1 - decay) * square.mean(0)
      second = np.outer(row, col) / row.mean()
    else:
      second = full = decay * full + (1 - decay) * square
    update = g / np.sqrt(second)
    update /= max(1.0, np.sqrt(np.mean(update**2)))
    x = x - rate * max(1e-3, np.sqrt(np.mean(x**2))) * update
  return x


def test_adafactor_is_the_papers_factored_or_not():
  draw = np.random.default_rng(0)
  params = {
    'matrix': draw.normal(size=(3, 5)),
    'vector': draw.normal(size=4),
    'small': 1e-6 * draw.normal(size=(4, 4)),
  }
  gradients = [
    jax.tree.map(lambda x: draw.normal(size=x.shape), params) for _ in range(3)
  ]
  optimizer = optimizers.adafactor(0.1, max_grad_norm=0.0, min_factored=2)
  ours = jax.tree.map(jnp.float32, params)
  state = optimizer.init(ours)
  for gradient in gradients:
    updates, state = jax.jit(optimizer.update)(
      jax.tree.map(jnp.float32, gradient), state, ours
    )
    ours = optax.apply_updates(ours, updates)
  for name, x in params.items():
    expected = adafactor_by_hand(x, [g[name] for g in gradients], 0.1)
    np.testing.assert_allclose(ours[name], expected, rtol=2e-4, atol=1e-7)
  assert max(x.size for x in jax.tree.leaves(state[0].v['matrix'])) == 1


@pytest.mark.parametrize('name', optimizers.NAMES)
def test_fast_parameters_have_six_times_the_rate_and_no_decay(name):
  params = {'layer': {'fast': jnp.full(3, 2.0), 'slow': jnp.full(3, 2.0)}}
  grads = jax.tree.map(lambda x: jnp.array([1.0, -1.0, 0.5]), params)
  options = {'weight_decay': 0.5, 'max_grad_norm': 1.0}
  optimizer = optimizers.build(name, 0.1, fast_parameters=('fast',), **options)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  plain = optimizers.build(name, 0.1, **options | {'weight_decay': 0.0})
  expected, _ = plain.update(grads, plain.init(params), params)
  decay = 0.1 * 0.5 * 2.0 if name == 'adamw' else 0.0
  np.testing.assert_allclose(
    updates['layer']['fast'], 6 * expected['layer']['fast'], rtol=1e-6
  )
  np.testing.assert_allclose(
    updates['layer']['slow'], expected['layer']['slow'] - decay, atol=1e-6
  )
