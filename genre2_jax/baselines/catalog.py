"""Names of all baselines, points and distributions."""

from genre2_jax.baselines import distributions, points

BASELINES = (*points.BASELINES, *distributions.NAMES)
