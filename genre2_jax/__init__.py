"""Decoding-based regression: models that write numbers, token by token."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from genre2_jax.estimator import DecodingRegressor

__all__ = ['DecodingRegressor', '__version__']
__version__ = '0.1.0'


def __getattr__(name: str) -> object:
  # Imported once it is asked for: it brings JAX along, which takes a second.
  if name == 'DecodingRegressor':
    from genre2_jax.estimator import DecodingRegressor

    return DecodingRegressor
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
