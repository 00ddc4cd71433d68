"""Names of all baselines, points and distributions, and what they need."""

from genre2_jax.baselines import distributions, packages, points

BASELINES = (*points.BASELINES, *distributions.NAMES)


def missing(name: str, num_trials: int = 0) -> str:
  """How to install what a baseline needs and this machine lacks; '' if nothing.

  Args:
    name: one of `BASELINES`.
    num_trials: of its search.
  """
  module = points if name in points.BASELINES else distributions
  needed = [module.package_of(name), 'optuna' if num_trials else '']
  found = (packages.missing(package) for package in needed if package)
  return next(filter(None, found), '')
