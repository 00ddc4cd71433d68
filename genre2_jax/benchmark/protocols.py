"""Benchmarks that have a name: tasks, methods and the fields they share.

`configs/talent_twenty.py`, `configs/ablations.py:NAME` and
`--config=talent_twenty`, `--config=ablations:NAME` read them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from genre2_jax.experiment import recipes

# A recipe for tables, and what this method changes of it.
Method = tuple[str, tuple[tuple[str, Any], ...]]

TASKS = (  # training rows
  'chscase_foot',  # 336
  'housing_price_prediction',  # 348
  'qsar_fish_toxicity',  # 580
  'concrete_compressive_strength',  # 659
  'treasury',  # 671
  'Moneyball',  # 788
  'airfoil_self_noise',  # 961
  'Wine_Quality_red',  # 1023
  'us_crime',  # 1276
  'CPMP-2015-regression',  # 1348
  'NHANES_age_prediction',  # 1457
  'analcatdata_supreme',  # 2592
  'SAT11-HAND-runtime-regression',  # 2841
  'wine+quality',  # 4157
  'wind',  # 4207
  'Bias_correction_r_2',  # 4944
  'bank8FM',  # 5242
  'cpu_act',  # 5242
  'puma32H',  # 5242
  'combined_cycle_power_plant',  # 6123
)
METHODS = (
  'ce',
  'ntl_was',
  'ntl_mse',
  'dist2',
  'raft',
  'crps',
  'remax',
  'grpo',
  'rloo',
  'exact',
  'genre2',
  'crps_piecewise',
  'best',
  'boosted',
  'pointwise',
  'riemann',
  'catboost',
  'xgboost',
  'random_forest',
  'histogram_trees',
  'catboost_residuals',
  'xgboost_residuals',
  'random_forest_residuals',
  'catboost_uncertainty',
  'catboost_quantiles',
  'quantile_forest',
)
FIELDS = (('report', False),)


def talent_twenty() -> ConfigDict:
  """Twenty TALENT tasks, every method: what all runs have in common."""
  config = ConfigDict()
  config.root = ''  # folder of TALENT tasks
  config.tasks = TASKS
  config.methods = METHODS
  config.seed = 0  # seed, seed + 1, ... go through one program
  config.num_seeds = 1
  config.fields = FIELDS  # (field, value) for every recipe
  # Method -> recipe for tables, and (field, value) for it alone.
  config.recipes = ConfigDict({method: (method, ()) for method in METHODS})
  config.lock()
  return config


def _remax(fields: Mapping[str, Any] | None = None) -> Method:
  return 'remax', tuple((fields or {}).items())


def _remax_with(*terms: recipes.Term) -> Method:
  return _remax({'finetune.objective': terms})


# Ablation -> its methods.
ABLATIONS: Mapping[str, Mapping[str, Method]] = {
  # The paper's five (base, digits); method@tokenizer draws a heat map.
  'tokenizer': {
    f'{method}@({base},{digits})': (
      method,
      (('tokenizer.base', base), ('tokenizer.digits', digits)),
    )
    for base, digits in ((2, 8), (4, 4), (6, 4), (8, 3), (10, 3))
    for method in ('ce', 'remax', 'crps')
  },
  'group_size': {
    f'remax_{size}': _remax({'rollouts.group_size': size})
    for size in (1, 4, 16, 64)
  },
  'reward': {
    f'remax_{reward}': _remax({'rollouts.reward': reward})
    for reward in ('squared', 'absolute', 'clipped', 'rank')
  },
  'baseline': {
    name: _remax_with((objective, 1.0, {}))
    for name, objective in (
      ('greedy', 'remax'),
      ('group_mean', 'dr_grpo'),
      ('others_mean', 'rloo'),
      ('batch_mean', 'reinforce'),
      ('none', 'no_baseline'),
    )
  },
  'std': {name: _remax_with((name, 1.0, {})) for name in ('grpo', 'dr_grpo')},
  'expert': {
    f'expert_{percent}_percent': _remax_with(
      ('remax', 1.0, {}), ('expert', percent / 100, {})
    )
    for percent in (1, 5, 20)
  }
  | {'no_expert': _remax()},
  'kl': {
    f'kl_{estimator}_{percent}_percent': _remax_with(
      ('remax', 1.0, {}), ('kl', percent / 100, {'estimator': estimator})
    )
    for estimator in ('k1', 'k3')
    for percent in (1, 10)
  }
  | {'no_kl': _remax()},
}


def ablation(name: str = 'reward') -> ConfigDict:
  """Variants of one recipe on the twenty tasks, from the weights of `ce`.

  Raises:
    InputError: no such ablation, with the nearest names.
  """
  methods = dict(recipes.find(name, ABLATIONS, 'ablations'))
  if name != 'tokenizer':  # Its variants differ in their base.
    methods = {'ce': ('ce', ())} | methods
  config = talent_twenty()
  with config.unlocked():
    config.recipes = ConfigDict(methods)
  config.methods = tuple(methods)
  return config


PROTOCOLS: Mapping[str, Callable[..., ConfigDict]] = {
  'talent_twenty': talent_twenty,
  'ablations': ablation,
}
