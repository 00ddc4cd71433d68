"""Cross-entropy, then ReMax, with Gemma-2 2B on STS-B.

    python -m genre2_jax.main --config=configs/remax_stsb.py

Data, weights and the other methods: configs/stsb.py.
"""

from configs import stsb


def get_config():
  return stsb.get_config('remax')
