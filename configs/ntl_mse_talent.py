"""NTL-MSE (Zausinger et al., ICML 2025): CE + 0.3 · squared digit error.

    python -m genre2_jax.main --config=configs/ntl_mse_talent.py

Without data: scikit-learn's diabetes set, 2 CPU cores, 1 minute.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.stages = ('pretrain',)
  config.pretrain.objective = (('ce', 1.0, {}), ('ntl_mse', 0.3, {}))
  return config
