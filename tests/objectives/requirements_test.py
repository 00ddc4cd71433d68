"""What losses require of a run: declared, true, and refused in one line."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax.objectives import catalog
from genre2_jax.objectives.advantages import ADVANTAGES
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import (
  Objective,
  Rollouts,
  check_objective,
)
from genre2_jax.objectives.requirements import Requirements
from genre2_jax.objectives.sequence import leave_one_out_credit


def check(*terms, tokenizer='normalized', dropout=False, **rollouts):
  """`check_objective` of (name, weight, options) or lone names."""
  parts = [(t,) if isinstance(t, str) else t for t in terms]
  objective = Objective(
    terms=tuple(build_term(*part) for part in parts),
    rollouts=Rollouts(**rollouts),
    dropout=dropout,
  )
  check_objective(objective, tokenizer)


@pytest.mark.parametrize('name', ADVANTAGES)
def test_estimators_learn_from_the_group_that_they_declare_and_none_less(name):
  least = build_term(name).requires.least_group

  def advantages(group):
    rng = np.random.default_rng(0)
    rewards, greedy = rng.normal(size=(5, group)), rng.normal(size=5)
    return ADVANTAGES[name](jnp.asarray(rewards), jnp.asarray(greedy))

  assert np.isfinite(advantages(least)).all()
  assert np.any(advantages(least) != 0)
  for group in range(1, least):
    try:
      found = advantages(group)
    except ZeroDivisionError:  # A mean of the others where there are none.
      continue
    assert not found.any()


def test_credit_in_a_set_takes_three():
  numbers = np.random.default_rng(0).normal(size=(5, 3))
  target = jnp.zeros(5)
  assert build_term('dar').requires.least_group == 3
  assert np.isfinite(leave_one_out_credit(numbers, target)).all()
  assert not np.isfinite(leave_one_out_credit(numbers[:, :2], target)).any()


@pytest.mark.parametrize(
  ('name', 'least'),
  [('grpo', 2), ('dr_grpo', 2), ('rloo', 2), ('real', 2), ('dar', 3)],
)
def test_groups_that_teach_nothing_are_refused(name, least):
  with pytest.raises(ValueError) as caught:
    check(name, group_size=least - 1)
  assert str(caught.value) == (
    f'objective: {name} needs rollouts.group_size of {least} or more'
  )
  check(name, group_size=least)


@pytest.mark.parametrize(
  'name', ['remax', 'reinforce', 'no_baseline', 'ppo', 'expert', 'ce', 'exact']
)
def test_what_learns_from_one_number_may(name):
  check(name, group_size=1)


K1 = ('kl', 0.1, {'estimator': 'k1'})


@pytest.mark.parametrize(
  ('terms', 'options', 'message'),
  [
    ([], {}, 'objective=[]: give every objective once, at least one'),
    (
      ['ce', 'ce'],
      {},
      "objective=['ce', 'ce']: give every objective once, at least one",
    ),
    (['soft_ce'], {}, 'objective: soft_ce needs tokenizer.name=bins'),
    (['kl'], {}, 'objective: kl alone keeps the weights as they are'),
    (
      ['remax', 'real'],
      {'num_updates': 2},
      'objective: rollouts.num_updates must be 1 with real: it has no ratio',
    ),
    (
      ['dar'],
      {'num_updates': 2},
      'objective: rollouts.num_updates must be 1 with dar: it has no ratio',
    ),
    (
      ['expert', K1],
      {},
      'objective: kl with estimator k1 is taken from a reward, and none of '
      'expert, kl looks at one: use k2 or k3',
    ),
    (
      ['ce', K1],
      {},
      'objective: kl with estimator k1 is taken from a reward, and none of '
      'ce, kl looks at one: use k2 or k3',
    ),
    (
      ['remax', 'ce'],
      {'dropout': True},
      'dropout must be False with remax, ce: numbers are sampled and scored '
      'without it',
    ),
  ],
)
def test_what_does_not_go_together_is_refused(terms, options, message):
  with pytest.raises(ValueError) as caught:
    check(*terms, **options)
  assert str(caught.value) == message


def test_what_goes_together_is_not_refused():
  check('soft_ce', tokenizer='bins')
  check('ce', dropout=True)
  check('ce', 'remax', 'kl', num_updates=2)
  check('remax', 'expert', K1)
  check('expert', ('kl', 0.1, {'estimator': 'k3'}))


@dataclasses.dataclass(frozen=True)
class Plain:
  """A loss that declares nothing."""

  def __call__(self, samples, judgement):
    return jnp.mean(-samples.token_log_probs), {}


@dataclasses.dataclass(frozen=True)
class OfFive(Plain):
  """One that declares its group."""

  requires = Requirements(least_group=5)


def test_losses_from_elsewhere_may_declare_theirs(monkeypatch):
  monkeypatch.setitem(catalog.SEQUENCE, 'plain', Plain)
  monkeypatch.setitem(catalog.SEQUENCE, 'of_five', OfFive)
  check('plain', K1, group_size=1, num_updates=2)
  check('of_five', group_size=5)
  with pytest.raises(ValueError, match='of_five needs'):
    check('plain', 'of_five', group_size=4)
