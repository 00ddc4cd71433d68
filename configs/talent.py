"""Tables by any recipe of `genre2_jax/experiment/recipes.py`, `TALENT`.

    python -m genre2_jax.main --config=configs/talent.py:crps

After the colon a name of that table, where each has a sentence and its paper.

Without data: scikit-learn's diabetes set, a minute on 2 CPU cores. What is to
be published says --config.size=paper, GenRe²'s sizes, which take minutes to
hours. Results on real tasks: benchmarks/README.md.

train_mean, linear, histogram_trees, random_forest, catboost, xgboost and
lightgbm have the same data, estimators and report, without decoding:
`--config.baseline.trials=50` searches their hyperparameters on validation rows.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('talent', name)
