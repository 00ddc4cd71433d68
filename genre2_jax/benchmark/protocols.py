"""Benchmarks that have a name: tasks, methods and the fields they share.

`configs/talent_twenty.py`, `configs/ablations.py:NAME` and
`--config=talent_twenty`, `--config=ablations:NAME` read them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from genre2_jax.experiment import official, recipes

# A recipe for tables, and what this method changes of it.
Method = tuple[str, tuple[tuple[str, Any], ...]]

# Tasks of a folder of TALENT tasks -> their training rows, at equal rows by
# name.
ROWS: Mapping[str, int] = {
  'chscase_foot': 336,
  'housing_price_prediction': 348,
  'sensory': 368,
  'qsar_fish_toxicity': 580,
  'concrete_compressive_strength': 659,
  'treasury': 671,
  'MIP-2016-regression': 697,
  'Moneyball': 788,
  'airfoil_self_noise': 961,
  'Wine_Quality_red': 1_023,
  'communities_and_crime': 1_276,
  'us_crime': 1_276,
  'CPMP-2015-regression': 1_348,
  'NHANES_age_prediction': 1_457,
  'analcatdata_supreme': 2_592,
  'Abalone_reg': 2_672,
  'SAT11-HAND-runtime-regression': 2_841,
  'wine+quality': 4_157,
  'wind': 4_207,
  'Bias_correction_r': 4_944,
  'Bias_correction_r_2': 4_944,
  'bank8FM': 5_242,
  'cpu_act': 5_242,
  'cpu_small': 5_242,
  'puma32H': 5_242,
  'combined_cycle_power_plant': 6_123,
  'Brazilian_houses_reproduced': 6_842,
  'Kaggle_bike_sharing_demand_challange': 6_966,
  'Ailerons': 8_800,
  'pol_reg': 9_600,
  'BNG(echoMonths)': 11_196,
  'avocado_sales': 11_679,
  'houses': 13_209,
  'house_sales_reduced': 13_832,
  'house_16H_reg': 14_581,
  'house_8L': 14_581,
  'CPS1988': 18_019,
  'BNG(lowbwt)': 19_906,
  'gas_turbine_CO_and_NOx_emission': 23_508,
  '2dplanes': 26_091,
  'fried': 26_091,
  'mv': 26_091,
  'Physicochemical_r': 29_267,
  'Diamonds': 34_521,
}
_SMALL = [task for task, rows in ROWS.items() if rows <= 6_500]
# Of those, twenty evenly spread.
TASKS = tuple(_SMALL[round(i * (len(_SMALL) - 1) / 19)] for i in range(20))
OTHERS = tuple(task for task in ROWS if task not in TASKS)
_SETS = {'all': tuple(ROWS), 'others': OTHERS}
# Of all tasks: what claims are made of, and what they are measured against.
FIELD = (
  'best',
  'boosted',
  'catboost',
  'xgboost',
  'realmlp',
  'tabm',
  'catboost_residuals',
  'xgboost_residuals',
  'random_forest_residuals',
  'catboost_uncertainty',
  'catboost_quantiles',
  'ngboost',
  'quantile_forest',
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
  'pointwise',
  'riemann',
  'random_forest',
  'histogram_trees',
  *FIELD,
)
# What the paper compares, by its own code: its base, its token-level rivals,
# its policy gradients and the dense expert.
PUBLISHED_METHODS = ('ce', 'ntl_was', 'dist2', 'remax', 'grpo', 'genre2')
FIELDS = (('report', False),)
MAX_TRAIN_ROWS = 20_000


def talent_twenty() -> ConfigDict:
  """Twenty TALENT tasks, every method: what all runs have in common."""
  return _benchmark(TASKS, METHODS, FIELDS)


def talent_all(name: str = 'all') -> ConfigDict:
  """All 44 TALENT tasks, or the 24 `others` than the twenty.

  More than 20,000 training rows are cut to so many.

  Raises:
    InputError: no such set of tasks, with the nearest names.
  """
  tasks = recipes.find(name, _SETS, 'sets of tasks')
  cut = ('data.max_train_rows', MAX_TRAIN_ROWS)
  return _benchmark(tasks, FIELD, (*FIELDS, cut))


def talent_hundred() -> ConfigDict:
  """GenRe²'s hundred tasks of TALENT, fewest rows first, its own protocol."""
  fields = (*FIELDS, ('hyperparameters', 'official'))
  return _benchmark(tuple(official.tasks()), PUBLISHED_METHODS, fields)


def _benchmark(
  tasks: tuple[str, ...],
  methods: tuple[str, ...],
  fields: tuple[tuple[str, Any], ...],
) -> ConfigDict:
  config = ConfigDict()
  config.root = ''  # folder of TALENT tasks
  config.tasks = tasks
  config.methods = methods
  config.seed = 0  # seed, seed + 1, ... go through one program
  config.num_seeds = 1
  config.fields = fields  # (field, value) for every recipe
  # Method -> recipe for tables, and (field, value) for it alone.
  config.recipes = ConfigDict({method: (method, ()) for method in methods})
  config.lock()
  return config


def _variant(recipe: str, fields: Mapping[str, Any] | None = None) -> Method:
  return recipe, tuple((fields or {}).items())


def _remax_with(*terms: recipes.Term) -> Method:
  return _variant('remax', {'finetune.objective': terms})


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
    f'remax_{size}': _variant('remax', {'rollouts.group_size': size})
    for size in (1, 4, 16, 64)
  },
  'reward': {
    f'remax_{reward}': _variant('remax', {'rollouts.reward': reward})
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
  | {'no_expert': _variant('remax')},
  'kl': {
    f'kl_{estimator}_{percent}_percent': _remax_with(
      ('remax', 1.0, {}), ('kl', percent / 100, {'estimator': estimator})
    )
    for estimator in ('k1', 'k3')
    for percent in (1, 10)
  }
  | {'no_kl': _variant('remax')},
  # What `best` has beyond a trie's logits from an MLP, one taken out at a time.
  'levers': {
    'best': _variant('best'),
    'even_grid': _variant('best', {'tokenizer.name': 'normalized'}),
    'no_feature_scale': _variant('best', {'model.feature_scale': False}),
    'no_ranks_and_gaps': _variant(
      'best',
      {
        'model.rank_features': False,
        'model.missing_features': False,
        'model.least_category_rows': 0,
      },
    ),
    'no_neighbours': _variant(
      'best', {'model.neighbours': 0, 'pack.neighbours': 1.0}
    ),
    'no_marginal': _variant(
      'best', {'model.marginal': False, 'pack.chosen': False}
    ),
    'members_alike': _variant(
      'best',
      {
        'pack.learning_rate': (1.0, 1.0),
        'pack.dropout': (1.0, 1.0),
        'pack.neighbours': 1.0,
        'pack.chosen': False,
      },
    ),
    'one_seed': _variant('best', {'num_seeds': 1}),
  },
}
# Whose variants all start from random weights.
_FROM_SCRATCH = ('tokenizer', 'levers')


def ablation(name: str = 'reward') -> ConfigDict:
  """Variants of one recipe on the twenty tasks, most from the weights of `ce`.

  Raises:
    InputError: no such ablation, with the nearest names.
  """
  methods = dict(recipes.find(name, ABLATIONS, 'ablations'))
  if name not in _FROM_SCRATCH:
    methods = {'ce': ('ce', ())} | methods
  config = talent_twenty()
  with config.unlocked():
    config.recipes = ConfigDict(methods)
  config.methods = tuple(methods)
  return config


PROTOCOLS: Mapping[str, Callable[..., ConfigDict]] = {
  'talent_twenty': talent_twenty,
  'talent_all': talent_all,
  'talent_hundred': talent_hundred,
  'ablations': ablation,
}
