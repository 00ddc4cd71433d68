"""Cross-entropy, then RAFT with trained numbers (Lukasik et al., ICLR 2025).

    python -m genre2_jax.main --config=configs/learnable_raft_talent.py

ŷ = Σ p(y | x) w_y with w_y trained from w_y = y; its estimator in results.csv
is learned_mean.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.tokenizer.base, config.tokenizer.digits = 4, 4
  config.finetune.objective = (('raft', 1.0, {'learnable': True}),)
  return config
