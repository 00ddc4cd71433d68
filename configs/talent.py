"""Tables by any recipe of `genre2_jax/experiment/recipes.py`, `TALENT`.

    python -m genre2_jax.main --config=configs/talent.py:crps

After the colon a name of that table, where each has a sentence and its paper.

Without data: scikit-learn's diabetes set, 2 CPU cores. What looks at tokens
takes 1 minute; what samples numbers, 3 to 5 minutes; what scores every number
that the tokenizer can write in one pass, at (base, digits) = (4, 4), minutes.
Results on real tasks: benchmarks/README.md.

linear, random_forest, catboost, xgboost and lightgbm have the same data,
estimators and report, without decoding: `--config.baseline.trials=50` searches
their hyperparameters on validation rows.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('talent', name)
