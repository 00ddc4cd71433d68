"""A regression head with squared error: no tokens, no distribution.

    python -m genre2_jax.main --config=configs/pointwise_talent.py

GenRe²'s: an MLP of width 2048, ReLU, dropout 0.1. Results carry its one
number as a point mass.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.stages = ('pretrain',)
  config.model.head = 'pointwise'
  config.pretrain.objective = (('mse', 1.0, {}),)
  return config
