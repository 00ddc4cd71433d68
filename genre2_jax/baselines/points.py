"""Tree ensembles, linear regression and nets, to stand beside decoding.

The libraries that others keep do the work; this module gives all of them the
same rows, the same target (z-scores) and the same protocol: fit on train, stop
and choose on validation, predict test.

The search spaces are TALENT's (github.com/LAMDA-Tabular/TALENT), those of
CatBoost and XGBoost in turn from Gorishniy et al. 2021 (arXiv 2106.11959).
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from genre2_jax.baselines import frames, packages
from genre2_jax.data.tables import Table
from genre2_jax.data.targets import Scaler
from genre2_jax.data.texts import Texts
from genre2_jax.errors import InputError, InterruptedRunError
from genre2_jax.metrics import points

FOREST_TREES = 500
# Trees of a boosted ensemble, and how many without a better validation error
# end it: TALENT's numbers.
MAX_TREES = 2000
PATIENCE = 50


def names() -> tuple[str, ...]:
  """Names of all baselines, the simplest first."""
  return BASELINES


def fit_predict(
  name: str,
  table: Table | Texts,
  scaler: Scaler,
  *,
  seed: int,
  num_trials: int = 0,
  num_threads: int | None = None,
  interrupts: Any = (),
) -> dict[str, np.ndarray]:
  """Predictions of one baseline: 'val' and 'test' -> z-scores float64 [n].

  Same arguments, same predictions. The targets of the test rows are not read.

  Args:
    name: one of `BASELINES`.
    table: the data; infinite numbers count as missing. Texts have a train
      mean and nothing else.
    scaler: of the train targets.
    seed: of the ensemble and the search, 0 or more.
    num_trials: Optuna trials (TPE) beside the defaults; the best R² on the
      validation rows wins. 0: the defaults.
    num_threads: of the library; None: all cores.
    interrupts: true once the run is asked to leave; looked at between fits.

  Raises:
    InputError: an unknown name, a missing package, a negative number.
    InterruptedRunError: asked to leave.
  """
  if name not in BASELINES:
    raise InputError(
      f'unknown baseline {name!r}: choose from {", ".join(BASELINES)}'
    )
  for argument, value in {'seed': seed, 'num_trials': num_trials}.items():
    if value < 0:
      raise InputError(f'{argument}={value} must not be negative')
  y = scaler.standardize(table.train.known_target)
  mean = points.mean(y, table.train.weight)
  means = {s: np.full(len(getattr(table, s)), mean) for s in ('val', 'test')}
  if name == 'train_mean':
    return means
  if isinstance(table, Texts):
    raise InputError(f'baseline {name} reads tables, not texts')
  found = _fitted(
    name, table, scaler, seed, num_trials, num_threads, interrupts
  )
  if found is None:
    return means
  model, inputs = found
  return {s: _float64(model.predict(inputs[s])) for s in ('val', 'test')}


def fit_model(
  name: str,
  table: Table,
  scaler: Scaler,
  *,
  seed: int,
  num_threads: int | None = None,
  interrupts: Any = (),
) -> Any:
  """The library's model with its `predict`, fitted as `fit_predict` does.

  None where there is nothing to learn.
  """
  found = _fitted(name, table, scaler, seed, 0, num_threads, interrupts)
  return None if found is None else found[0]


def _fitted(name, table, scaler, seed, num_trials, num_threads, interrupts):
  """(model, {split: inputs}), or None where there is nothing to learn."""
  baseline = _BASELINES[name]
  packages.require(baseline.package)
  y = {
    s: scaler.standardize(getattr(table, s).target) for s in ('train', 'val')
  }
  weights = {s: getattr(table, s).weight for s in y}
  if weights['train'] is not None and not baseline.weighs:
    raise InputError(
      f'baseline {name} takes no weights of rows: choose another, or leave '
      'them out'
    )
  columns = frames.columns_of(table)
  if np.ptp(y['train']) == 0 or not columns['train'].shape[1]:
    # Some of the libraries refuse to learn nothing.
    return None
  inputs = baseline.inputs(columns, table)
  if num_threads is None:
    num_threads = os.cpu_count() or 1

  def fit(parameters):
    if interrupts:
      raise InterruptedRunError(f'interrupted at baseline {name}')
    return baseline.fit(
      {s: Fold(inputs[s], y[s], weights[s]) for s in ('train', 'val')},
      parameters,
      seed=seed % 2**31,  # the libraries' seeds are int32
      num_threads=num_threads,
    )

  model = fit({})
  if num_trials and baseline.suggest is not None:
    val = Fold(inputs['val'], y['val'], weights['val'])
    model = _search(fit, baseline.suggest, model, val, num_trials, seed)
  return model, inputs


def _search(fit, suggest, default, val, num_trials, seed):
  """The model with the best R² on a `Fold` of validation rows."""
  optuna = packages.require('optuna')
  optuna.logging.set_verbosity(optuna.logging.WARNING)

  def score(model):
    return points.r2(_float64(model.predict(val.x)), val.y, val.weight)

  best = [score(default), default]

  def objective(trial):
    model = fit(suggest(trial))
    value = score(model)
    if value > best[0]:
      best[:] = value, model
    return value

  sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
  study = optuna.create_study(direction='maximize', sampler=sampler)
  study.optimize(objective, n_trials=num_trials)
  return best[1]


# -------------------------------------------------------------------- models
# Each fits on {'train': Fold, 'val': Fold}; its result has a `predict`.


class Fold(NamedTuple):
  """Rows as a library reads them.

  Attributes:
    x: [n, F].
    y: [n], z-scores.
    weight: [n], or None.
  """

  x: Any
  y: np.ndarray
  weight: np.ndarray | None


def _fit_linear(data, parameters, *, seed, num_threads):
  """Ordinary least squares, as in TALENT; the search is over ridge."""
  del seed, num_threads
  from sklearn import linear_model

  if parameters:
    model = linear_model.Ridge(**parameters)
  else:
    model = linear_model.LinearRegression()
  return model.fit(*data['train'])


def _suggest_linear(trial):
  return {'alpha': trial.suggest_float('alpha', 1e-3, 1e4, log=True)}


def _fit_random_forest(data, parameters, *, seed, num_threads):
  """scikit-learn's defaults, with TALENT's depth of 12 and 500 trees."""
  from sklearn import ensemble

  model = ensemble.RandomForestRegressor(
    n_estimators=FOREST_TREES,
    max_depth=12,
    random_state=seed,
    n_jobs=num_threads,
    **parameters,
  )
  model.fit(*data['train'])
  # Threads add up the trees in the order in which they finish.
  return model.set_params(n_jobs=1)


def _suggest_random_forest(trial):
  return {
    'min_samples_split': trial.suggest_int('min_samples_split', 2, 10),
    'min_samples_leaf': trial.suggest_int('min_samples_leaf', 1, 10),
  }


def _fit_histogram_trees(data, parameters, *, seed, num_threads):
  """scikit-learn's boosted trees at its defaults, validation rows stop them."""
  del parameters, num_threads
  from sklearn import ensemble

  train, val = data['train'], data['val']
  model = ensemble.HistGradientBoostingRegressor(
    max_iter=MAX_TREES,
    early_stopping=True,
    n_iter_no_change=PATIENCE,
    random_state=seed,
  )
  return model.fit(
    *train, X_val=val.x, y_val=val.y, sample_weight_val=val.weight
  )


def fit_catboost(
  data: Mapping[str, Fold],
  parameters: Mapping[str, Any],
  *,
  seed: int,
  num_threads: int,
) -> Any:
  """CatBoost's defaults and its use of validation rows: the best iteration.

  The learning rate is the one that CatBoost derives from the number of rows.

  Args:
    data: 'train' and 'val', of frames.
    parameters: instead of the defaults.
    seed: int32.
    num_threads: of the library.
  """
  import catboost

  names = frames.category_names(data['train'].x)
  model = catboost.CatBoostRegressor(
    iterations=MAX_TREES,
    early_stopping_rounds=PATIENCE,
    random_seed=seed,
    thread_count=num_threads,
    cat_features=names,
    allow_writing_files=False,
    verbose=False,
    **parameters,
  )
  train, val = (
    catboost.Pool(fold.x, fold.y, cat_features=names, weight=fold.weight)
    for fold in (data['train'], data['val'])
  )
  return model.fit(train, eval_set=val)


def _suggest_catboost(trial):
  return {
    'learning_rate': trial.suggest_float('learning_rate', 1e-5, 1, log=True),
    'depth': trial.suggest_int('depth', 3, 10),
    'l2_leaf_reg': trial.suggest_float('l2_leaf_reg', 1, 10, log=True),
    'bagging_temperature': trial.suggest_float('bagging_temperature', 0, 1),
    'leaf_estimation_iterations': trial.suggest_int(
      'leaf_estimation_iterations', 1, 10
    ),
  }


def _fit_xgboost(data, parameters, *, seed, num_threads):
  """XGBoost's defaults, with TALENT's subsampling of rows and columns."""
  import xgboost

  model = xgboost.XGBRegressor(
    n_estimators=MAX_TREES,
    early_stopping_rounds=PATIENCE,
    tree_method='hist',
    enable_categorical=True,
    random_state=seed,
    n_jobs=num_threads,
    **({'subsample': 0.8, 'colsample_bytree': 0.8} | parameters),
  )
  (x, y, weight), val = data['train'], data['val']
  val_weight = None if val.weight is None else [val.weight]
  model.fit(
    x,
    y,
    sample_weight=weight,
    eval_set=[(val.x, val.y)],
    sample_weight_eval_set=val_weight,
    verbose=False,
  )
  return model  # Predicts with its best iteration.


def _suggest_xgboost(trial):
  return {
    'learning_rate': trial.suggest_float('learning_rate', 1e-5, 1, log=True),
    'max_depth': trial.suggest_int('max_depth', 3, 10),
    'min_child_weight': trial.suggest_float(
      'min_child_weight', 1e-8, 1e5, log=True
    ),
    'subsample': trial.suggest_float('subsample', 0.5, 1),
    'colsample_bytree': trial.suggest_float('colsample_bytree', 0.5, 1),
    'colsample_bylevel': trial.suggest_float('colsample_bylevel', 0.5, 1),
    'gamma': _suggest_zero_or_log(trial, 'gamma', 1e-8, 100),
    'reg_lambda': _suggest_zero_or_log(trial, 'reg_lambda', 1e-8, 100),
    'reg_alpha': _suggest_zero_or_log(trial, 'reg_alpha', 1e-8, 100),
  }


def _fit_lightgbm(data, parameters, *, seed, num_threads):
  """LightGBM's defaults, but for the number of trees, which validation sets."""
  import lightgbm

  val = data['val']
  train = lightgbm.Dataset(
    data['train'].x, data['train'].y, weight=data['train'].weight
  )
  model = lightgbm.train(
    {
      'objective': 'regression',
      'seed': seed,
      'num_threads': num_threads,
      'deterministic': True,
      'force_row_wise': True,  # Else two layouts are timed, the faster used.
      'verbose': -1,
    }
    | parameters,
    train,
    num_boost_round=MAX_TREES,
    valid_sets=[
      lightgbm.Dataset(val.x, val.y, weight=val.weight, reference=train)
    ],
    callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
  )
  return model  # Predicts with its best iteration.


def _suggest_lightgbm(trial):
  return {
    'learning_rate': trial.suggest_float('learning_rate', 1e-3, 1, log=True),
    'num_leaves': trial.suggest_int('num_leaves', 10, 100),
    'max_depth': trial.suggest_int('max_depth', 3, 10),
    'min_child_weight': trial.suggest_float(
      'min_child_weight', 1e-5, 0.1, log=True
    ),
    'min_child_samples': trial.suggest_int('min_child_samples', 2, 100),
    'subsample': trial.suggest_float('subsample', 0.5, 1),
    'subsample_freq': 1,  # 0, the default, would ignore subsample.
    'colsample_bytree': trial.suggest_float('colsample_bytree', 0.5, 1),
    'reg_lambda': _suggest_zero_or_log(trial, 'reg_lambda', 1e-5, 1),
  }


def _fit_realmlp(data, parameters, *, seed, num_threads):
  """RealMLP-TD (Holzmüller et al., NeurIPS 2024): tuned defaults."""
  del parameters
  import pytabkit

  return _fit_net(pytabkit.RealMLP_TD_Regressor, data, seed, num_threads)


def _fit_tabm(data, parameters, *, seed, num_threads):
  """TabM-D (Gorishniy et al., ICLR 2025): its defaults."""
  del parameters
  import pytabkit

  return _fit_net(pytabkit.TabM_D_Regressor, data, seed, num_threads)


def _fit_net(kind, data, seed, num_threads):
  """A net of pytabkit on the CPU; validation rows choose its epoch."""
  (x, y, _), (x_val, y_val, _) = data['train'], data['val']
  model = kind(device='cpu', random_state=seed, n_threads=num_threads)
  with warnings.catch_warnings():
    # Of torch and Lightning, to the authors of pytabkit.
    warnings.simplefilter('ignore')
    return model.fit(x, y, X_val=x_val, y_val=y_val)


def _suggest_zero_or_log(trial, name, low, high):
  """0, or log-uniform: '?loguniform' of Gorishniy et al."""
  if trial.suggest_categorical(f'{name}_is_zero', (True, False)):
    return 0.0
  return trial.suggest_float(name, low, high, log=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Baseline:
  """How one of `BASELINES` is fitted.

  package: what it needs.
  inputs: `(columns, table) -> {split: x [n, F]}`.
  fit: `(data, parameters, *, seed, num_threads)` -> the library's model, whose
    `predict` is x -> [n].
  suggest: `trial -> parameters`; None if there is nothing to search.
  weighs: whether the library takes weights of rows.
  """

  package: str
  inputs: Callable[..., Mapping[str, Any]]
  fit: Callable[..., Any]
  suggest: Callable[[Any], dict[str, Any]] | None
  weighs: bool = True


_BASELINES = {
  'linear': _Baseline(
    package='sklearn',
    inputs=frames.standardized_and_one_hot,
    fit=_fit_linear,
    suggest=_suggest_linear,
  ),
  'random_forest': _Baseline(
    package='sklearn',
    inputs=frames.filled,
    fit=_fit_random_forest,
    suggest=_suggest_random_forest,
  ),
  'histogram_trees': _Baseline(
    package='sklearn',
    inputs=frames.with_small_category_types,
    fit=_fit_histogram_trees,
    suggest=None,
  ),
  'catboost': _Baseline(
    package='catboost',
    inputs=frames.as_they_are,
    fit=fit_catboost,
    suggest=_suggest_catboost,
  ),
  'xgboost': _Baseline(
    package='xgboost',
    inputs=frames.with_category_types,
    fit=_fit_xgboost,
    suggest=_suggest_xgboost,
  ),
  'lightgbm': _Baseline(
    package='lightgbm',
    inputs=frames.with_category_types,
    fit=_fit_lightgbm,
    suggest=_suggest_lightgbm,
  ),
  'realmlp': _Baseline(
    package='pytabkit',
    inputs=frames.filled_with_category_types,
    fit=_fit_realmlp,
    suggest=None,
    weighs=False,
  ),
  'tabm': _Baseline(
    package='pytabkit',
    inputs=frames.filled_with_category_types,
    fit=_fit_tabm,
    suggest=None,
    weighs=False,
  ),
}

BASELINES = ('train_mean', *_BASELINES)


def package_of(name: str) -> str:
  """What one of `BASELINES` needs; '' of the train mean."""
  return _BASELINES[name].package if name in _BASELINES else ''


def _float64(values: ArrayLike) -> np.ndarray:
  return np.asarray(values, np.float64).reshape(-1)
