"""Numbers as short token sequences, as static tables.

A tokenizer says which tokens may stand at each position, which number a
sequence means, and which next token leads nearest to a target. It is a frozen
dataclass of plain values, so that it is hashable and static for `jax.jit`; what
one of them takes from training targets is among these.

Letters: T tokens per number, V vocabulary, K or D digits, N exponents.
Digit tokens come first in every vocabulary: token v < base is the digit v.
"""

from typing import Any

from genre2_jax.tokenizers.adaptive import Adaptive
from genre2_jax.tokenizers.base import Tokenizer, check_choice
from genre2_jax.tokenizers.bins import Bins
from genre2_jax.tokenizers.error_correcting import Hamming, Repetition
from genre2_jax.tokenizers.joint import Joint
from genre2_jax.tokenizers.non_finite import NonFinite
from genre2_jax.tokenizers.normalized import Normalized
from genre2_jax.tokenizers.scientific import Scientific
from genre2_jax.tokenizers.strings import Decimal, Strings, grid

__all__ = [
  'OPTIONS',
  'Adaptive',
  'Bins',
  'Decimal',
  'Hamming',
  'Joint',
  'NonFinite',
  'Normalized',
  'Repetition',
  'Scientific',
  'Strings',
  'Tokenizer',
  'build',
]

OPTIONS = {
  'normalized': ('rounding', 'edge'),
  'adaptive': (),
  'p10': ('max_exponent',),
  'ieee': ('exponent_digits', 'specials'),
  'exponent_first': ('max_exponent',),
  'repetition': ('repeats', 'rounding', 'edge'),
  'hamming': ('rounding', 'edge'),
  'bins': ('bins', 'low', 'high', 'tail_scale'),
  'strings': ('strings', 'values'),
  'decimal': ('integer_digits', 'fraction_digits'),
}


def build(name: str, *, base: int, digits: int, **options: Any) -> Tokenizer:
  """Tokenizer by name, one of `OPTIONS`, with the options listed there.

  `bins`, `strings` and `decimal` ignore base and digits.

  Raises:
    InputError: no such name or option, or a value out of range.
  """
  check_choice('tokenizer', name, tuple(OPTIONS))
  for option in options:
    check_choice(f'option of tokenizer {name!r}', option, OPTIONS[name])
  if name == 'bins':
    return Bins(**options)
  if name == 'strings':
    return grid(**options)
  if name == 'decimal':
    return Decimal(**options)
  if name == 'adaptive':
    return Adaptive(base, digits)
  if name == 'normalized':
    return Normalized(base, digits, **options)
  if name == 'hamming':
    return Hamming(Normalized(base, digits, **options))
  if name == 'repetition':
    repeats = {k: options.pop(k) for k in ('repeats',) if k in options}
    return Repetition(Normalized(base, digits, **options), **repeats)
  return Scientific(name, base, digits, **options)
