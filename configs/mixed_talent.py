"""Cross-entropy, then ReMax with an expert and a remainder of cross-entropy.

    python -m genre2_jax.main --config=configs/mixed_talent.py

A sum of objectives, each with its weight: the rollout is sampled once.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.finetune.objective = (
    ('remax', 1.0, {}),
    ('expert', 0.05, {}),
    ('ce', 0.1, {}),
  )
  return config
