"""Cross-entropy, then ReMax: GenRe² (arXiv 2512.06533).

    python -m genre2_jax.main --config=configs/remax_talent.py

Without data: scikit-learn's diabetes set. 2 CPU cores, 1 minute; seed 0, test,
base -> ReMax: R² of the mean 0.54 -> 0.53, CRPS 0.40 -> 0.53, coverage of the
central 90 % 0.92 -> 0.30. 89 test rows. With --config.size=paper, the sizes of
the paper, 3 to 5 minutes; 0.47 -> 0.57, 0.45 -> 0.52, 0.90 -> 0.27.
"""

from genre2_jax.experiment import recipes


def get_config():
  return recipes.get_config('talent', 'remax')
