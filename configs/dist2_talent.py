"""DIST² (arXiv 2503.02379): CE + 0.1 · KL to distance-smoothed digits.

    python -m genre2_jax.main --config=configs/dist2_talent.py

Without data: scikit-learn's diabetes set, 2 CPU cores, 1 minute.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.stages = ('pretrain',)
  config.pretrain.objective = (('ce', 1.0, {}), ('dist2', 0.1, {}))
  return config
