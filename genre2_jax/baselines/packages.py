"""Packages that baselines need beside the project's own."""

import importlib
import importlib.util
from typing import Any

from genre2_jax.errors import InputError

_INSTALL = {
  'catboost': 'catboost>=1.2',
  'lightgbm': 'lightgbm>=4.3',
  'ngboost': 'ngboost>=0.5.5,<0.6',
  'optuna': 'optuna>=4.0',
  'pytabkit': 'pytabkit>=1.7,<2',
  'quantile_forest': 'quantile-forest>=1.4',
  'sklearn': 'scikit-learn>=1.7',
  'xgboost': 'xgboost>=2.1',
}


def require(package: str) -> Any:
  """The package, or how to install it."""
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise InputError(_missing(package)) from error


def missing(package: str) -> str:
  """How to install a package that is not here; '' if it is. Imports nothing."""
  return '' if importlib.util.find_spec(package) else _missing(package)


def _missing(package):
  return f'{package} is not installed: pip install {_INSTALL[package]!r}'
