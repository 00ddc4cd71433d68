"""Cross-entropy, then GRPO: GenRe² (arXiv 2512.06533), arXiv 2402.03300.

    python -m genre2_jax.main --config=configs/grpo_talent.py

Without data: scikit-learn's diabetes set, 2 CPU cores, 3 to 5 minutes.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.finetune.objective = (('grpo', 1.0, {}),)
  return config
