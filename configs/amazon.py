"""RAFT (Lukasik et al., ICLR 2025) with Gemma-2 2B on Amazon reviews.

    python -m genre2_jax.main --config=configs/amazon.py:raft

Stars of reviews of wireless products; the paper's others are
--config.text.path=amazon_us_reviews/Personal_Care_Appliances_v1_00 and
amazon_us_reviews/Music_v1_00. The paper's numbers of rows, drawn at random, and
a prompt of our own: its figures are of other rows. JSONL with the same columns
does as well: --config.text.source=files --config.text.path=FILE. Methods and
weights: configs/stsb.py.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('amazon', name)
