"""Cross-entropy only: the base that the others start from.

GenRe² (arXiv 2512.06533), section 4.

    python -m genre2_jax.main --config=configs/ce_talent.py

Without data: scikit-learn's diabetes set. 2 CPU cores, half a minute; seed 0,
test: R² of the mean 0.54, CRPS 0.40, coverage of the central 90 % 0.92.
"""

from genre2_jax.experiment import recipes


def get_config():
  return recipes.get_config('talent', 'ce')
