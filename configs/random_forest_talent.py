"""scikit-learn's random forest: the same data and report, without decoding.

    python -m genre2_jax.main --config=configs/random_forest_talent.py

--config.baseline.trials=50 searches its hyperparameters on validation rows.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.baseline.name = 'random_forest'
  return config
