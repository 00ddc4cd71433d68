"""Every field of a run, at its default: `genre2_jax/experiment/defaults.py`.

It lies in the package, so that an installed package has it too.
"""

from genre2_jax.experiment.defaults import get_config

__all__ = ['get_config']
