"""Cross-entropy, then CRPS with a remainder of cross-entropy.

    python -m genre2_jax.main --config=configs/crps_ce_talent.py

Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.tokenizer.base, config.tokenizer.digits = 4, 4
  config.finetune.objective = (('crps', 1.0, {}), ('ce', 0.05, {}))
  return config
