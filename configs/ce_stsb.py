"""Cross-entropy with Gemma-2 2B on STS-B: CE + decoding, CE + RAIL.

    python -m genre2_jax.main --config=configs/ce_stsb.py

Data, weights and the other methods: configs/stsb.py.
"""

from configs import stsb


def get_config():
  return stsb.get_config('ce')
