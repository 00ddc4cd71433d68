"""Cross-entropy only: the base that the others start from.

GenRe² (arXiv 2512.06533), section 4.

    python -m genre2_jax.main --config=configs/ce_talent.py

See README.md for the time it takes and what to expect.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.stages = ('ce',)
  return config
