"""The paper's ablations, each a benchmark of variants of one recipe.

    python -m genre2_jax.benchmark --config=configs/ablations.py:reward \
      --config.root=TALENT --tasks=airfoil_self_noise --workdir=runs/reward

After the colon: tokenizer, group_size, reward, baseline, std, expert, kl. Every
variant starts from the weights of the method `ce`, where it can.
"""

from ml_collections import ConfigDict

from configs import talent_twenty


def _remax(**fields):
  return 'remax_talent', tuple(fields.items())


def _objective(*parts):
  return {'finetune.objective': tuple(parts)}


def _with_tokenizer(recipe, base, digits):
  return recipe, (('tokenizer.base', base), ('tokenizer.digits', digits))


VARIANTS = {
  # The paper's five (base, digits); method@tokenizer draws a heat map.
  'tokenizer': {
    f'{method}@({base},{digits})': _with_tokenizer(recipe, base, digits)
    for base, digits in ((2, 8), (4, 4), (6, 4), (8, 3), (10, 3))
    for method, recipe in (
      ('ce', 'ce_talent'),
      ('remax', 'remax_talent'),
      ('crps', 'crps_talent'),
    )
  },
  'group_size': {
    f'remax_{size}': _remax(**{'rollouts.group_size': size})
    for size in (1, 4, 16, 64)
  },
  'reward': {
    f'remax_{reward}': _remax(**{'rollouts.reward': reward})
    for reward in ('squared', 'absolute', 'clipped', 'rank')
  },
  'baseline': {
    name: _remax(**_objective((objective, 1.0, {})))
    for name, objective in (
      ('greedy', 'remax'),
      ('group_mean', 'dr_grpo'),
      ('others_mean', 'rloo'),
      ('batch_mean', 'reinforce'),
      ('none', 'no_baseline'),
    )
  },
  'std': {
    name: _remax(**_objective((name, 1.0, {}))) for name in ('grpo', 'dr_grpo')
  },
  'expert': {
    f'expert_{percent}_percent': _remax(
      **_objective(('remax', 1.0, {}), ('expert', percent / 100, {}))
    )
    for percent in (1, 5, 20)
  }
  | {'no_expert': _remax()},
  'kl': {
    f'kl_{estimator}_{percent}_percent': _remax(
      **_objective(
        ('remax', 1.0, {}), ('kl', percent / 100, {'estimator': estimator})
      )
    )
    for estimator in ('k1', 'k3')
    for percent in (1, 10)
  }
  | {'no_kl': _remax()},
}


def get_config(ablation='reward'):
  """The benchmark of one ablation."""
  if ablation not in VARIANTS:
    raise ValueError(f'{ablation!r} is not one of {", ".join(VARIANTS)}')
  config = talent_twenty.get_config()
  recipes = dict(VARIANTS[ablation])
  if ablation != 'tokenizer':
    recipes = {'ce': ('ce_talent', ())} | recipes
  with config.unlocked():
    config.recipes = ConfigDict(recipes)
  config.methods = tuple(recipes)
  return config
