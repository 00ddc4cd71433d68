"""Cross-entropy, then CRPS and the exact policy gradient together.

    python -m genre2_jax.main --config=configs/crps_exact_talent.py

The first keeps the uncertainty honest, the second looks at squared error.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.tokenizer.base, config.tokenizer.digits = 4, 4
  config.finetune.objective = (('crps', 1.0, {}), ('exact', 0.1, {}))
  return config
