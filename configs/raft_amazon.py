"""RAFT (Lukasik et al., ICLR 2025) with Gemma-2 2B on Amazon reviews.

    python -m genre2_jax.main --config=configs/raft_amazon.py

Stars of reviews of wireless products; the paper's others are
--config.text.path=amazon_us_reviews/Personal_Care_Appliances_v1_00 and
amazon_us_reviews/Music_v1_00. The paper's numbers of rows, drawn at random; its
prompt's intent in our words. JSONL with the same columns does as well:
--config.text.source=files --config.text.path=FILE. Weights: configs/stsb.py,
whose methods fit here too.
"""

from configs import base, stsb

PROMPT = (
  'A review of "{product_title}" on Amazon: {review_headline}\n{review_body}\n'
  'Stars, from 1 to 5: '
)


def get_config(method='raft'):
  config = base.get_config()
  config.text.source = 'tfds'
  config.text.path = 'amazon_us_reviews/Wireless_v1_00'
  config.text.tfds_splits = ('train',)
  config.text.prompt, config.text.target = PROMPT, 'star_rating'
  config.text.max_rows = (10_000, 1_500, 1_500)
  config.text.drop_empty = True
  config.text.truncate = 'start'  # The question comes last.
  stsb.gemma(config)
  config.tokenizer.strings = '1..5'
  config.update_from_flattened_dict(stsb.METHODS[method])
  return config
