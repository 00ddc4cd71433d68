"""Cross-entropy, then minimum Bayes risk (RAFT's Lemma 4) on the trie.

    python -m genre2_jax.main --config=configs/mbr_talent.py

Every number that the tokenizer can write is scored in one pass (`trie.py`).
Without data: scikit-learn's diabetes set, (4, 4), 2 CPU cores, minutes.
Results on real tasks: benchmarks/README.md.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.tokenizer.base, config.tokenizer.digits = 4, 4
  config.finetune.objective = (('mbr', 1.0, {}),)
  return config
