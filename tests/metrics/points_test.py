import numpy as np
import pytest
from scipy import stats

from genre2_jax.metrics import points


def test_point_metrics_by_hand():
  x, y = [1, 2, 4, 4], [1, 3, 2, 5]
  assert points.rmse(x, y) == pytest.approx(np.sqrt(6 / 4))
  assert points.mae(x, y) == 1.0
  assert points.r2(x, y) == pytest.approx(1 - 6 / 8.75)
  # 4 concordant pairs, 1 discordant, 1 tie in x: 3/√(5·6).
  assert points.kendall(x, y) == pytest.approx(3 / np.sqrt(30))
  # Ranks 1, 2, 3.5, 3.5 and 1, 3, 2, 4.
  assert points.spearman(x, y) == pytest.approx(3 / np.sqrt(4.5 * 5))
  # Deviations −1.75, −0.75, 1.25, 1.25 and −1.75, 0.25, −0.75, 2.25.
  assert points.pearson(x, y) == pytest.approx(4.75 / np.sqrt(6.75 * 8.75))


def test_correlations_equal_scipys():
  x, y = np.random.default_rng(0).normal(size=(2, 50)).round(1)
  assert points.spearman(x, y) == stats.spearmanr(x, y).statistic
  assert points.kendall(x, y) == stats.kendalltau(x, y).statistic
  assert points.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize(
  'metric', [points.spearman, points.kendall, points.pearson]
)
@pytest.mark.parametrize(
  ('x', 'y'), [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [0.1] * 3), ([1], [2])]
)
def test_correlation_with_a_constant_is_zero(metric, x, y):
  assert metric(x, y) == 0.0


def test_r2_of_a_constant_target():
  y = [0.1] * 10  # whose variance rounds to more than 0
  assert points.r2(y, y) == 1.0
  assert points.r2([0.1] * 9 + [0.2], y) == 0.0
  assert points.r2([3.0], [3.0]) == 1.0


def test_integers_do_not_wrap_around():
  x, y = np.array([0, 10], np.uint8), np.array([200, 10], np.uint8)
  assert points.mae(x, y) == 100.0
