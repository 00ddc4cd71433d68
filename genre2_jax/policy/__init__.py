"""A policy is a distribution over numbers; the trie of its numbers."""

from genre2_jax.policy.base import (
  Pointwise,
  Policy,
  grammatical,
  teacher_forced,
)

__all__ = ['Pointwise', 'Policy', 'grammatical', 'teacher_forced']
