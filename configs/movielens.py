"""RAFT (Lukasik et al., ICLR 2025) with Gemma-2 2B on ratings of MovieLens-1M.

    python -m genre2_jax.main --config=configs/movielens.py:raft \
      --config.text.path=ml-1m

The folder is that of https://grouplens.org/datasets/movielens/1m. This is not
the paper's task, and its figures are no neighbours: there the prompt has what
the viewer rated before, and the optimizer is AdamW with warm-up and a cosine;
here it has viewer and film alone, and the optimizer is that of configs/stsb.py.
The paper's numbers of rows, drawn at random. Methods and weights:
configs/stsb.py.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('movielens', name)
