"""HL-Gauss (Imani & White 2018): integrals of a Gaussian over the bins.

    python -m genre2_jax.main --config=configs/hl_gauss_talent.py

The Riemann head with the other way to smooth its targets.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.stages = ('pretrain',)
  config.model.head = 'histogram'
  config.tokenizer.name = 'bins'
  config.pretrain.objective = (('soft_ce', 1.0, {'kind': 'cdf'}),)
  return config
