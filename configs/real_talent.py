"""Cross-entropy, then REAL (arXiv 2603.17145): RAIL's error as reward.

    python -m genre2_jax.main --config=configs/real_talent.py

Without data: scikit-learn's diabetes set, 2 CPU cores, 3 to 5 minutes.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.finetune.objective = (('real', 1.0, {}),)
  return config
