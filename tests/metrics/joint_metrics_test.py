"""Metrics of several targets, against loops."""

import numpy as np
import pytest

from genre2_jax.metrics import joint, sampled

DRAW = np.random.default_rng(0)
SAMPLES = DRAW.normal(size=(5, 7, 3))
TARGET = DRAW.normal(size=(5, 3))


@pytest.mark.parametrize('fair', [True, False])
def test_the_energy_score_is_what_a_loop_gives(fair, monkeypatch):
  monkeypatch.setattr(joint, '_CHUNK', 300)  # Two rows at once.
  group, scores = 7, []
  for x, y in zip(SAMPLES, TARGET, strict=True):
    near = np.mean([np.linalg.norm(own - y) for own in x])
    apart = sum(np.linalg.norm(a - b) for a in x for b in x)
    pairs = group * (group - 1) if fair else group**2
    scores.append(near - apart / (2 * pairs))
  found = joint.energy_score(SAMPLES, TARGET, fair=fair)
  np.testing.assert_allclose(found, np.mean(scores), rtol=1e-12)


def test_of_one_target_the_energy_score_is_the_crps():
  found = joint.energy_score(SAMPLES[..., :1], TARGET[:, :1])
  crps = sampled.crps(SAMPLES[..., 0], TARGET[:, 0])
  np.testing.assert_allclose(found, crps, rtol=1e-12)


def test_one_sample_is_its_distance():
  found = joint.energy_score(SAMPLES[:, :1], TARGET)
  wanted = np.linalg.norm(SAMPLES[:, 0] - TARGET, axis=1).mean()
  np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_the_energy_score_knows_what_goes_together():
  """Both have the same marginals, and one of them the true dependence."""
  draw = np.random.default_rng(1)
  x = draw.normal(size=(300, 60))
  y = draw.normal(size=300)
  together = np.stack([x, x], axis=-1)
  apart = np.stack([x, -x], axis=-1)
  truth = np.stack([y, y], axis=-1)
  assert joint.energy_score(together, truth) < joint.energy_score(apart, truth)


def test_means_are_over_targets_of_what_has_no_unit():
  values = {
    'a': [('mean', 'rmse', 1.0), ('mean', 'rmse_unit', 10.0)],
    'b': [('mean', 'rmse', 3.0), ('mean', 'rmse_unit', 7.0)],
  }
  assert joint.together(values, ('a', 'b')) == [
    ('mean', 'rmse', 2.0),
    ('mean', 'rmse:a', 1.0),
    ('mean', 'rmse_unit:a', 10.0),
    ('mean', 'rmse:b', 3.0),
    ('mean', 'rmse_unit:b', 7.0),
  ]


def test_rows_count_as_often_as_they_weigh():
  times = np.array([2, 0, 1, 3, 1])
  again = np.repeat(np.arange(5), times)
  found = joint.energy_score(SAMPLES, TARGET, weight=times)
  wanted = joint.energy_score(SAMPLES[again], TARGET[again])
  np.testing.assert_allclose(found, wanted, rtol=1e-12)
