"""Cross-entropy, then ReMax with the dense expert: GenRe², ICML 2026.

    python -m genre2_jax.main --config=configs/genre2_talent.py

2 CPU cores, 3 to 5 minutes on scikit-learn's diabetes set. What to expect on
ten other tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.rl.advantage = 'remax'
  config.rl.expert_weight = 0.05
  return config
