"""A Riemann head: 256 bins and two half-normal tails, smoothed targets.

    python -m genre2_jax.main --config=configs/riemann_talent.py

GenRe²'s: an MLP of 3 x 2048. A histogram is a decoder of one token, so every
estimator of the digits is there for it.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.stages = ('pretrain',)
  config.model.head = 'histogram'
  config.tokenizer.name = 'bins'
  config.pretrain.objective = (('soft_ce', 1.0, {'kind': 'density'}),)
  return config
