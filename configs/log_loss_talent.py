"""Cross-entropy, then the log loss of the scaled mean (RAFT's baseline).

    python -m genre2_jax.main --config=configs/log_loss_talent.py

The options low and high are the z-scores that scale to 0 and 1: set them to
the range of the targets.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.tokenizer.base, config.tokenizer.digits = 4, 4
  config.finetune.objective = (('log_loss', 1.0, {'low': -4.0, 'high': 4.0}),)
  return config
