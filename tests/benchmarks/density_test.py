"""Curves of the density benchmark and their picture; no training."""

import importlib.util
import io
import pathlib

import numpy as np
import pytest
from matplotlib import image
from scipy import stats

PATH = pathlib.Path(__file__).parents[2] / 'benchmarks/density.py'
spec = importlib.util.spec_from_file_location('density', PATH)
density = importlib.util.module_from_spec(spec)
spec.loader.exec_module(density)


@pytest.mark.parametrize('name', density.CURVES)
def test_points_are_seeded_and_x_is_uniform(name):
  x, y = density.sample(name, 5000, seed=3)
  again = density.sample(name, 5000, seed=3)
  np.testing.assert_array_equal((x, y), again)
  assert (density.sample(name, 5000, seed=4)[1] != y).all()
  assert x.shape == y.shape == (5000,) and np.isfinite(y).all()
  assert stats.kstest(x, 'uniform').pvalue > 1e-3


def given(name, x):
  return density.sample_given(name, np.full(1, x), 20_000, seed=0)[0]


def test_the_laws_are_those_that_are_written_down():
  """Distribution functions at some x, by Kolmogorov and Smirnov."""
  noise = stats.norm(np.sin(1.6 * np.pi), 0.05 + 0.45 * 0.8)
  assert stats.kstest(given('growing_noise', 0.8), noise.cdf).pvalue > 1e-3

  branches = given('two_branches', 0.5)
  assert (branches > 0).mean() == pytest.approx(0.7, abs=0.02)
  upper = stats.norm(0.7, 0.08)
  assert stats.kstest(branches[branches > 0], upper.cdf).pvalue > 1e-3

  excess = stats.expon(scale=0.25)
  assert stats.kstest(given('skewed_step', 0.2), excess.cdf).pvalue > 1e-3
  assert stats.kstest(2 - given('skewed_step', 0.5), excess.cdf).pvalue > 1e-3

  y = given('circle', 0.1)
  assert abs(y.mean()) < 0.01
  radius = stats.norm(0.3, 0.03)  # √(¼ − 0.4²) = 0.3
  assert stats.kstest(abs(y), radius.cdf).pvalue > 1e-3
  # Marginal points have the same law as those at a given x.
  x, y = density.sample('circle', 20_000, seed=0)
  near = abs(y[abs(x - 0.1) < 0.005])
  assert near.mean() == pytest.approx(0.3, abs=0.01)


def test_density_counts_per_bin_and_unit():
  samples = np.array([[0.1, 0.1, 0.3, 9.0], [-1.0, 0.0, 0.5, 1.0]])
  edges = np.array([0.0, 0.25, 1.0])
  expected = [[2 / 4 / 0.25, 1 / 4 / 0.25], [1 / 4 / 0.75, 1 / 4 / 0.75]]
  np.testing.assert_allclose(density.density(samples, edges), expected)
  normal = np.random.default_rng(0).normal(size=(1, 200_000))
  edges = np.linspace(-3, 3, 31)
  middles = (edges[1:] + edges[:-1]) / 2
  np.testing.assert_allclose(
    density.density(normal, edges)[:, 0], stats.norm.pdf(middles), atol=0.01
  )


def test_the_figure_shows_samples_where_they_are():
  """Upper and lower half of a panel, by the ink in them."""
  x = np.linspace(0, 1, 20)
  random = np.random.default_rng(0)
  level = random.normal(0, 0.05, size=(20, 200))
  panels = {'circle': {'above': level + 0.5, 'below': level - 0.5}}
  y = np.array([-1.0, 1.0])
  figure = density.plot(
    panels,
    {'circle': (np.array([0.0, 1.0]), y)},
    {'circle': {'above': 0.25, 'below': 0.5}},
    x=x,
  )
  above, below = figure.axes
  assert [a.get_title() for a in figure.axes] == [
    'above, CRPS 0.250',
    'below, CRPS 0.500',
  ]
  assert above.get_ylabel() == 'circle'
  low, high = above.get_ylim()
  assert low < -1 and high > 1
  for ax, is_above in ((above, True), (below, False)):
    (heat,) = (i.get_array() for i in ax.images)
    middle = len(heat) // 2
    assert (heat[middle:].sum() > 0) == is_above
    assert (heat[:middle].sum() > 0) == (not is_above)
    np.testing.assert_array_equal(ax.collections[0].get_offsets()[:, 1], y)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  buffer.seek(0)
  assert np.ptp(image.imread(buffer)) > 0.5


def test_the_figure_has_a_panel_per_curve_and_method():
  grid = np.linspace(0, 1, 12)
  law = {
    name: {
      method: density.sample_given(name, grid, 40, seed=0)
      for method in ('a', 'b', 'c')
    }
    for name in density.CURVES
  }
  held_out = {name: density.sample(name, 50, seed=1) for name in law}
  figure = density.plot(law, held_out, x=grid, max_points=10)
  assert len(figure.axes) == 12
  assert all(len(a.collections[0].get_offsets()) == 10 for a in figure.axes)
  assert [a.get_title() for a in figure.axes[:3]] == ['a', 'b', 'c']
