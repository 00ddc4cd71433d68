"""Cross-entropy, then ReMax with the dense expert: GenRe², ICML 2026.

    python -m genre2_jax.main --config=configs/genre2_talent.py

Without data: scikit-learn's diabetes set, 2 CPU cores, 3 to 5 minutes.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.finetune.objective = (('remax', 1.0, {}), ('expert', 0.05, {}))
  return config
