"""Cross-entropy, then GRPO: GenRe² (arXiv 2512.06533), arXiv 2402.03300.

    python -m genre2_jax.main --config=configs/grpo_talent.py \
      --config.data.path=houses.csv --config.data.target=price

2 CPU cores, 3 to 5 minutes on scikit-learn's diabetes set. What to expect on
ten other tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.rl.advantage = 'grpo'
  return config
