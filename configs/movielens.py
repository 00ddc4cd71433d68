"""RAFT (Lukasik et al., ICLR 2025) with Gemma-2 2B on ratings of MovieLens-1M.

    python -m genre2_jax.main --config=configs/movielens.py:raft \
      --config.text.path=ml-1m

The folder is that of https://grouplens.org/datasets/movielens/1m. As in the
paper the prompt has what the viewer rated before, the last ten films
(--config.text.history), and the optimizer is AdamW with warm-up and a cosine;
numbers of rows are the paper's, drawn at random. The wording, how many films,
the rate and the length of the warm-up are ours, and no rating of a validation
or test row is in any prompt. New rows bring their own column `history`. Methods
and weights: configs/stsb.py.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('movielens', name)
