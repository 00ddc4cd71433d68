"""Cross-entropy, then ReMax: GenRe² (arXiv 2512.06533).

python -m genre2_jax.main --config=configs/remax_talent.py
"""

from configs import base


def get_config():
  config = base.get_config()
  config.rl.advantage = 'remax'
  return config
