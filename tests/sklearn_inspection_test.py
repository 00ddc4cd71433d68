"""What scikit-learn's inspection does with the estimator, as the docs say."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from sklearn import inspection
from tiny import TINY_REGRESSOR

from genre2_jax import DecodingRegressor

matplotlib.use('agg')
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_compiles')]


@pytest.fixture(scope='module')
def fitted():
  """(model, X, y): y is of `area`, and not of `noise` or `city`."""
  draw = np.random.default_rng(0)
  X = pd.DataFrame(
    {
      'area': draw.uniform(0, 1, 150),
      'noise': draw.normal(size=150),
      'city': pd.Categorical(draw.choice(['Ulm', 'Köln'], 150)),
    }
  )
  y = 10 * X['area'].to_numpy()
  model = DecodingRegressor(
    objective='ce', random_state=0, **TINY_REGRESSOR | {'max_steps': 300}
  )
  return model.fit(X, y), X, y


def test_permutation_importance(fitted):
  model, X, y = fitted
  found = inspection.permutation_importance(
    model, X, y, n_repeats=2, random_state=0,
    scoring='neg_root_mean_squared_error',
  )  # fmt: skip
  means = dict(zip(X, found.importances_mean, strict=True))
  assert means['area'] > 1 > 3 * max(abs(means['noise']), abs(means['city']))


def test_partial_dependence(fitted):
  model, X, _ = fitted
  found = inspection.partial_dependence(model, X, ['area'], grid_resolution=5)
  assert np.all(np.diff(found['average'][0]) > 0)
  found = inspection.partial_dependence(
    model, X, ['city'], categorical_features=['city']
  )
  assert found['average'].shape == (1, 2)


def test_partial_dependence_display(fitted):
  model, X, _ = fitted
  shown = inspection.PartialDependenceDisplay.from_estimator(
    model,
    X,
    ['area', 'city'],
    categorical_features=['city'],
    grid_resolution=4,
    kind='average',
  )
  assert len(shown.axes_.ravel()) == 2
  both = inspection.PartialDependenceDisplay.from_estimator(
    model, X[:20], ['area'], grid_resolution=4, kind='both'
  )
  assert both.lines_.size == 21
