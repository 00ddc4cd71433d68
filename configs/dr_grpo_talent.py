"""Cross-entropy, then Dr. GRPO (arXiv 2503.20783): no group std.

    python -m genre2_jax.main --config=configs/dr_grpo_talent.py

Without data: scikit-learn's diabetes set, 2 CPU cores, 3 to 5 minutes.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.finetune.objective = (('dr_grpo', 1.0, {}),)
  return config
