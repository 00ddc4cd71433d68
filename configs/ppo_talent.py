"""Cross-entropy, then PPO with a value per prefix (arXiv 1707.06347).

    python -m genre2_jax.main --config=configs/ppo_talent.py

Without data: scikit-learn's diabetes set, 2 CPU cores, 3 to 5 minutes.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.finetune.objective = (('ppo', 1.0, {}),)
  return config
