"""How a report prints numbers: a value reads the same wherever it stands."""

import math
from collections.abc import Iterable

import numpy as np

_MINUS = '\N{MINUS SIGN}'
_TIMES = '\N{MULTIPLICATION SIGN}'
_SUPERSCRIPTS = str.maketrans('0123456789-', '⁰¹²³⁴⁵⁶⁷⁸⁹⁻')
_HUGE, _TINY = 1e7, 1e-4


def decimals(values: Iterable[float]) -> int:
  """Decimals that give a typical one of the values three digits."""
  sizes = [abs(value) for value in values if math.isfinite(value) and value]
  if not sizes:
    return 3
  return min(max(2 - math.floor(math.log10(np.median(sizes))), 0), 6)


def text(value: float, decimals: int) -> str:
  """1,234.5; powers of ten where decimals say nothing, '' of what is none."""
  if not math.isfinite(value):
    return ''
  if value == 0 or _TINY <= abs(value) < _HUGE:
    written = f'{value:,.{decimals}f}'
    # A minus of what rounds to 0 would only puzzle.
    if not float(written.replace(',', '')):
      written = written.removeprefix('-')
    return written.replace('-', _MINUS)
  mantissa, exponent = f'{value:.2e}'.split('e')
  power = str(int(exponent)).translate(_SUPERSCRIPTS)
  return f'{mantissa} {_TIMES} 10{power}'.replace('-', _MINUS)


def percent(share: float) -> str:
  """0.874 -> 87%."""
  return f'{share:.0%}'.replace('-', _MINUS) if math.isfinite(share) else ''


def count(number: int, noun: str) -> str:
  """1 row, 2,000 rows."""
  return f'{number:,} {noun}{"s" * (number != 1)}'


def listed(words: Iterable[str]) -> str:
  """'a, b and c'."""
  *head, tail = words
  return f'{", ".join(head)} and {tail}' if head else tail
