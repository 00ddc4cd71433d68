"""A policy is a distribution over numbers; the trie of its numbers."""

from genre2_jax.policy.base import (
  Cache,
  Context,
  Inputs,
  Params,
  Pointwise,
  Policy,
  Text,
  Writer,
  grammatical,
  in_one_pass,
  teacher_forced,
)

__all__ = [
  'Cache',
  'Context',
  'Inputs',
  'Params',
  'Pointwise',
  'Policy',
  'Text',
  'Writer',
  'grammatical',
  'in_one_pass',
  'teacher_forced',
]
