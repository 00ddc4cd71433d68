"""One recipe for all tasks: piecewise-linear features, then CRPS on the trie.

    python -m genre2_jax.main --config=configs/best_talent.py

Chosen on validation rows only: benchmarks/README.md says how, and how it does.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.tokenizer.base, config.tokenizer.digits = 4, 4
  config.model.numeric_embedding = 'piecewise_linear'
  config.model.category_embedding = 'one_hot'
  config.finetune.objective = (('crps', 1.0, {}),)
  return config
