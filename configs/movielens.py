"""RAFT (Lukasik et al., ICLR 2025) with Gemma-2 2B on MovieLens-1M.

    python -m genre2_jax.main --config=configs/movielens.py:raft \
      --config.text.path=ml-1m

The folder is that of https://grouplens.org/datasets/movielens/1m. The paper's
numbers of rows, drawn at random; its prompt's intent in our words. Methods and
weights: configs/stsb.py.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('movielens', name)
