"""RAFT (Lukasik et al., ICLR 2025) with Gemma-2 2B on MovieLens-1M.

    python -m genre2_jax.main --config=configs/raft_movielens.py \
      --config.text.path=ml-1m

The folder is that of https://grouplens.org/datasets/movielens/1m. The paper's
numbers of rows, drawn at random; its prompt's intent in our words. Weights:
configs/stsb.py, whose methods fit here too.
"""

from configs import base, stsb

PROMPT = (
  'A viewer ({gender}, {age} years, {occupation}) rates the film "{title}" '
  '({genres}) from 1 to 5 stars.\nStars: '
)


def get_config(method='raft'):
  config = base.get_config()
  config.text.source = 'movielens'
  config.text.prompt, config.text.target = PROMPT, 'rating'
  config.text.max_rows = (797_758, 10_145, 10_145)
  config.text.max_length = 128
  stsb.gemma(config)
  config.tokenizer.strings = '1..5'
  config.finetune.epochs = 1
  config.update_from_flattened_dict(stsb.METHODS[method])
  return config
