"""Cross-entropy, then the exact CRPS of the whole trie.

    python -m genre2_jax.main --config=configs/crps_talent.py

Every number that the tokenizer can write is scored in one pass (`trie.py`).
Without data: scikit-learn's diabetes set, (4, 4), 2 CPU cores, minutes.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.tokenizer.base, config.tokenizer.digits = 4, 4
  config.finetune.objective = (('crps', 1.0, {}),)
  return config
