"""Decoding-based regression as a scikit-learn estimator.

The same run as the command line's, by `train.train_and_evaluate`: this module
turns arguments into a config, and what the run leaves into predictions;
`data/frames.py` makes a table of X and y.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state, check_X_y
from sklearn.utils.validation import (
  _check_sample_weight,
  check_is_fitted,
  validate_data,
)

from genre2_jax import train
from genre2_jax.data import columns as data_columns
from genre2_jax.data import frames
from genre2_jax.data import weights as data_weights
from genre2_jax.data.columns import Column
from genre2_jax.data.features import Features
from genre2_jax.data.reading import path_of
from genre2_jax.errors import InputError
from genre2_jax.experiment import defaults, recipes
from genre2_jax.experiment.fields import near_field
from genre2_jax.files import atomic
from genre2_jax.metrics import results
from genre2_jax.objectives.catalog import LEVELS
from genre2_jax.runs import estimates, workdirs
from genre2_jax.runs.finished import FinishedRun, open_run, write_files
from genre2_jax.runs.workdirs import InUseError
from genre2_jax.training.checkpoints import without_warnings

# What `predict` returns.
ESTIMATORS = ('exact_mean', 'exact_median', 'mean', 'median', 'greedy')

# Constructor arguments that are config fields.
_FIELDS = {
  'tokenizer': 'tokenizer.name',
  'base': 'tokenizer.base',
  'digits': 'tokenizer.digits',
  'non_finite': 'tokenizer.non_finite',
  'width': 'model.width',
  'num_layers': 'model.num_layers',
  'num_heads': 'model.num_heads',
  'feedforward': 'model.feedforward',
  'encoder_hidden': 'model.encoder_hidden',
  'encoder_layers': 'model.encoder_layers',
  'dropout': 'model.dropout',
  'numeric_embedding': 'model.numeric_embedding',
  'category_embedding': 'model.category_embedding',
  'batch_size': 'batch_size',
  'learning_rate': 'pretrain.learning_rate',
  'epochs': 'pretrain.epochs',
  'max_steps': 'pretrain.max_steps',
  'patience': 'pretrain.patience',
  'finetune_learning_rate': 'finetune.learning_rate',
  'finetune_epochs': 'finetune.epochs',
  'finetune_max_steps': 'finetune.max_steps',
  'finetune_patience': 'finetune.patience',
  'group_size': 'rollouts.group_size',
  'num_samples': 'eval.num_samples',
  'n_seeds': 'num_seeds',
  'max_seconds': 'max_seconds',
  'text_encoder': 'data.text_encoder',
}
_OWN_FILE = 'estimator.json'
# Features that the paper leaves as they are: other defaults than a recipe's,
# where it has none of its own.
_FEATURES = {
  'model.numeric_embedding': 'piecewise_linear',
  'model.category_embedding': 'one_hot',
}
# Fields of what only the command line does.
_NOT_HERE = ('report', 'baseline.name', 'language_model.name')


class DecodingRegressor(RegressorMixin, BaseEstimator):
  """A regressor that writes its prediction digit by digit.

  A small network gives a probability to every number that the tokenizer can
  write: a whole predictive distribution, of which `predict` returns the mean.
  `objective` says how it is trained: by CRPS, by RAFT (ICLR 2025), by
  cross-entropy on digits, by reinforcement learning on whole numbers (GenRe²,
  arXiv 2512.06533).

  The defaults are for tables of a few hundred to ten thousand rows; beyond that
  `max_steps` bounds the time, whatever the number of rows, and `max_seconds`
  does by the clock.

  Of several targets, y [n, k], the numbers are written one after another, each
  given those before it: samples are joint, and everything that is returned has
  an axis of targets, the last one. The default objective writes one number:
  take 'crps', 'ce', 'remax' or another decoder's.

  Attributes after `fit`: `n_features_in_`, `feature_names_in_` (frames),
  `n_outputs_`: k, `target_names_`, `exact_`: whether all numbers are scored,
  rather than some sampled, `workdir_` (with `workdir`): where the fit is.

  Args:
    objective: a recipe for tables ('best', 'ce', 'remax', 'genre2', 'crps',
      'raft', ...), taken whole, or one term ('mse', 'reinforce', ...), or a
      list of (name, weight, options). Terms that look at tokens ('ce',
      'ntl_was', 'ntl_mse', 'dist2', 'soft_ce') and 'mse' are trained from
      scratch, all others from the best weights of cross-entropy. Arguments that
      are None are the recipe's, or those of the size `small`.
    tokenizer: 'normalized', 'bins', 'p10', ...; 'bins' is a histogram.
    base: of the digits.
    digits: of a number.
    non_finite: 'refuse', the default, or 'tokens': y may be NaN or infinite,
      which have tokens of their own: `predict_non_finite` gives their
      probabilities, all else is said given that the value is finite.
    estimator: what `predict` returns: 'exact_mean' and 'exact_median' of all
      numbers, 'mean' and 'median' of samples, or 'greedy', the likeliest digit
      at every step. Where there are too many numbers to score all of them
      (`exact_` is False), the exact ones are of samples too.
    n_seeds: models that train side by side and predict together.
    random_state: of the split, the weights, the shuffling and the samples: an
      integer gives the same bits again; a generator or None draws one.
    width: of the decoder, and of the memory that it attends to.
    num_layers: of the decoder.
    num_heads: divides width.
    feedforward: width inside the decoder's layers.
    encoder_hidden: width of the MLP that reads a row.
    encoder_layers: of the MLP.
    dropout: of cross-entropy.
    numeric_embedding: 'none', 'piecewise_linear' or 'periodic'; None:
      piecewise_linear, unless the recipe has another.
    category_embedding: 'ordinal', 'one_hot' or 'learned'; None: one_hot, unless
      the recipe has another.
    batch_size: rows per step.
    learning_rate: peak, from scratch.
    epochs: from scratch, at most.
    max_steps: from scratch, at most; 0: no bound.
    patience: epochs without a better validation before it stops; 0: never.
    finetune_learning_rate: peak, in fine-tuning.
    finetune_epochs: as `epochs`.
    finetune_max_steps: as `max_steps`.
    finetune_patience: as `patience`.
    group_size: numbers sampled per row in reinforcement learning.
    num_samples: numbers sampled per row where estimates are of samples.
    max_seconds: of a fit, compiling included, if not 0; the best weights so
      far are kept, and the same arguments need not give the same bits again.
    kinds: {column: kind} of columns that their cells don't tell: 'number',
      'date', 'date %d.%m.%Y', 'time', 'boolean', 'category', 'ignore'
      (docs/reading_data.md). Columns of arrays are 'x0', 'x1', ...
    text_columns: names of columns of free text, which the text_encoder reads.
    text_encoder: a sentence encoder for them, a folder or a name on the Hugging
      Face hub; it is not trained. The fitted estimator refers to it, and needs
      it to predict.
    config: {field: value} for any other field of docs/config.md, such as
      {'optimizer.weight_decay': 0.1}.
    workdir: folder for checkpoints, curves and results; a fit that was killed
      goes on from there. Clones, which searches and cross-validation fit, each
      have a folder of their own in it. None: a temporary one.
    verbose: 1 shows progress, 2 prints the table and the results, too.
  """

  def __init__(
    self,
    *,
    objective: str | Sequence[tuple[str, float, Mapping]] = 'best',
    tokenizer: str | None = None,
    base: int | None = None,
    digits: int | None = None,
    non_finite: str | None = None,
    estimator: str = 'exact_mean',
    n_seeds: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    width: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    feedforward: int | None = None,
    encoder_hidden: int | None = None,
    encoder_layers: int | None = None,
    dropout: float | None = None,
    numeric_embedding: str | None = None,
    category_embedding: str | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    patience: int | None = None,
    finetune_learning_rate: float | None = None,
    finetune_epochs: int | None = None,
    finetune_max_steps: int | None = None,
    finetune_patience: int | None = None,
    group_size: int | None = None,
    num_samples: int | None = None,
    max_seconds: float | None = None,
    kinds: Mapping[str, str] | None = None,
    text_columns: Sequence[str] | None = None,
    text_encoder: str | None = None,
    config: Mapping[str, Any] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    verbose: int = 0,
  ):
    self.objective = objective
    self.tokenizer = tokenizer
    self.base = base
    self.digits = digits
    self.non_finite = non_finite
    self.estimator = estimator
    self.n_seeds = n_seeds
    self.random_state = random_state
    self.width = width
    self.num_layers = num_layers
    self.num_heads = num_heads
    self.feedforward = feedforward
    self.encoder_hidden = encoder_hidden
    self.encoder_layers = encoder_layers
    self.dropout = dropout
    self.numeric_embedding = numeric_embedding
    self.category_embedding = category_embedding
    self.batch_size = batch_size
    self.learning_rate = learning_rate
    self.epochs = epochs
    self.max_steps = max_steps
    self.patience = patience
    self.finetune_learning_rate = finetune_learning_rate
    self.finetune_epochs = finetune_epochs
    self.finetune_max_steps = finetune_max_steps
    self.finetune_patience = finetune_patience
    self.group_size = group_size
    self.num_samples = num_samples
    self.max_seconds = max_seconds
    self.kinds = kinds
    self.text_columns = text_columns
    self.text_encoder = text_encoder
    self.config = config
    self.workdir = workdir
    self.verbose = verbose

  # Whether it was made by `sklearn.base.clone`, and shares its workdir.
  _is_clone = False

  # -------------------------------------------------------------------- fit

  def fit(
    self,
    X: Any,
    y: ArrayLike,
    X_val: Any = None,
    y_val: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    sample_weight_val: ArrayLike | None = None,
  ) -> Self:
    """Trains on X [n, F] and y [n], or y [n, k] of k targets.

    The best weights on validation rows are kept. Columns of text and of
    pandas' type `category` are categories; all others are numbers, dates among
    them. Missing values may be anywhere in X, infinite ones count as missing.

    Args:
      X: a numpy array, or a frame of pandas, polars or any library with
        `to_pandas` or `__dataframe__`.
      y: numbers, finite unless non_finite='tokens'; of several targets an
        array or a frame.
      X_val: rows to validate on; None: a fifth of X, drawn by `random_state`.
      y_val: their targets.
      sample_weight: how much each row of X counts, [n], 0 or more: in losses,
        in the choice of the best weights, and in conformal margins. A row of
        weight 0 is left out. None: all alike.
      sample_weight_val: of the rows of X_val; None: all alike.

    Raises:
      InputError: an argument or data that cannot be used.
      NonFiniteError: the loss left the finite numbers.
    """
    self._choose(None)
    if (X_val is None) != (y_val is None):
      raise InputError('X_val and y_val belong together: give both or neither')
    if X_val is None and sample_weight_val is not None:
      raise InputError('sample_weight_val is of X_val: give that too')
    frame, target = self._read(X, _filled(y, sample_weight), reset=True)
    weight = _weights('sample_weight', sample_weight, frame)
    frame, target, weight = _counted(frame, target, weight)
    seed = _seed(self.random_state)
    config = self._config(seed)
    reading = frames.how_read(config.to_dict())
    data_columns.check_kinds('X', reading.by_hand, list(frame))
    columns = tuple(
      data_columns.plan(
        frame,
        reading.by_hand,
        reading.formats,
        where='X',
        booleans_are_numbers=True,
      )
    )
    weights = None
    if X_val is None:
      train_rows, val_rows = frames.split(len(frame), seed)
      if sample_weight is not None:
        weights = {'train': weight[train_rows], 'val': weight[val_rows]}
      parts = {
        'train': (frame.iloc[train_rows], target[train_rows]),
        'val': (frame.iloc[val_rows], target[val_rows]),
      }
    else:
      known = _filled(y_val, sample_weight_val)
      val_frame, val_target = self._read(X_val, known, reset=False)
      val_weight = _weights('sample_weight_val', sample_weight_val, val_frame)
      *val, val_weight = _counted(val_frame, val_target, val_weight)
      parts = {'train': (frame, target), 'val': tuple(val)}
      if not (sample_weight is None and sample_weight_val is None):
        weights = {'train': weight, 'val': val_weight}
    table = frames.table(
      parts,
      columns,
      target_name=frames.name_of(y),
      target_names=frames.names_of(y),
      reading=reading,
      val_is_new=X_val is not None,
      weights=weights,
      non_finite=self._takes_non_finite(),
    )
    with contextlib.ExitStack() as held:
      held.enter_context(without_warnings())
      for workdir in self._workdirs(held, config, table):
        try:
          workdir = train.train_and_evaluate(
            config, workdir, table=table, verbose=self.verbose
          )
          break
        except InUseError:
          # Another clone of a search has the same config and rows.
          if not self._is_clone:
            raise
      if self.workdir is not None:
        self.workdir_ = str(workdir)
      run = _finished(workdir)
    self._install(run, columns)
    return self

  def _workdirs(self, held, config, table):
    """Folders to train in, until one is free.

    Those of clones, as searches and cross-validation make them, lie in the
    folder that they were all given, named by a hash of config and rows: the
    same fit goes on where it was, another has its own.
    """
    if self.workdir is None:
      yield held.enter_context(tempfile.TemporaryDirectory())
      return
    if not self._is_clone:
      yield self.workdir
      return
    identity = workdirs.identity(config.to_dict(), table)
    name = f'fit_{hashlib.sha256(identity.encode()).hexdigest()[:12]}'
    for number in itertools.count(1):
      yield path_of(self.workdir) / (name + f'_{number}' * (number > 1))

  def _config(self, seed):
    """The whole config, which `experiment` checks."""
    fields = {
      'seed': seed,
      'report': False,
      'data.name': '',
      'checkpoint.keep': 1,
      'eval.recalibrate': False,
    }
    if self._recipe():
      config = recipes.get_config('talent', self._recipe())
      own = recipes.TALENT.recipes[self._recipe()].changes
      fields |= {field: x for field, x in _FEATURES.items() if field not in own}
      if self.tokenizer == 'bins' and 'model.head' not in own:
        fields['model.head'] = 'histogram'
    else:
      config = defaults.get_config()
      fields |= _FEATURES
      fields |= self._stages()
    given = {field: getattr(self, name) for name, field in _FIELDS.items()}
    fields |= {field: x for field, x in given.items() if x is not None}
    if self.encoder_hidden is not None:
      fields['model.head_hidden'] = self.encoder_hidden
    fields['data.kinds'] = repr(dict(self.kinds)) if self.kinds else ''
    names = data_columns.parse_names('text_columns', self.text_columns or '')
    fields['data.text_columns'] = repr(list(names)) if names else ''
    if self.text_encoder is not None:
      fields['data.text_encoder'] = os.fspath(self.text_encoder)
    fields |= _flat(self.config or {})
    config = _updated(config, fields)
    if fields.get('data.weight'):
      raise InputError(
        'config: data.weight is of the command line: give fit sample_weight='
      )
    if any(fields.get(name) for name in _NOT_HERE):
      raise InputError(
        'config: report, baseline.name and language_model.name belong to the '
        'command line, which has test rows and texts: leave them out'
      )
    return config

  def _takes_non_finite(self):
    """Whether targets may be NaN or infinite."""
    own = _flat(self.config or {}).get('tokenizer.non_finite')
    return 'tokens' in (self.non_finite, own)

  def _recipe(self):
    """The recipe that the objective names; '' if it is of terms."""
    name = self.objective
    if not isinstance(name, str) or name not in recipes.TALENT.recipes:
      return ''
    changes = recipes.TALENT.recipes[name].changes
    return '' if 'baseline.name' in changes else name

  def _stages(self):
    """Fields of an objective that is a term or a sum of them."""
    objective = self.objective
    if isinstance(objective, str):
      objective = ((objective, 1.0, {}),)
    try:
      objective = _terms(objective)
    except (TypeError, ValueError) as error:
      raise InputError(
        f'objective={self.objective!r}: give a name, or a list of '
        "(name, weight, options) such as [('remax', 1.0, {})]"
      ) from error
    names = {name for name, _, _ in objective}
    head = 'histogram' if self.tokenizer == 'bins' else 'decoder'
    if names <= set(LEVELS['point']):
      head = 'pointwise'
    if names <= {*LEVELS['token'], *LEVELS['point']}:
      stages = {'stages': ('pretrain',), 'pretrain.objective': objective}
    else:
      stages = {'finetune.objective': objective}
    return {'model.head': head, **stages}

  def _install(self, run, columns):
    self._run, self._columns = run, columns
    self.exact_ = run.experiment.evaluation.exact
    self.n_outputs_ = len(run.model.codec.parts)
    self.target_names_ = run.model.target_names or (run.target_name,)

  # ------------------------------------------------------------- prediction

  def predict(self, X: Any, estimator: str | None = None) -> np.ndarray:
    """One number per row, [n], in the unit of y; of k targets [n, k].

    Args:
      X: rows with the columns of `fit`. Categories that `fit` did not see
        count as the most frequent one.
      estimator: instead of the constructor's.
    """
    check_is_fitted(self)
    name = self._choose(estimator)
    model = self._run.model
    num_samples = None
    if self.exact_ and not name.startswith('exact_'):
      # The greedy number is the sampler's, which draws one at least.
      num_samples = 1 if name == 'greedy' else self._samples()

    # A median sorts all numbers: of one row, a tenth of the time.
    needless = () if name.endswith('median') else ('exact_median',)

    def chosen(predicted):
      found = estimates.points(predicted, model, needless=needless)
      return found[name if name in found else name.removeprefix('exact_')]

    return model.scaler.restore(self._reduced(X, chosen, num_samples))

  def predict_quantiles(
    self, X: Any, q: float | Sequence[float] = (0.05, 0.5, 0.95)
  ) -> np.ndarray:
    """Quantiles of the predictive distributions: [n, Q] for Q levels q.

    Of k targets those of the marginals: [n, Q, k].

    As the model has them; `predict_interval` corrects them.
    """
    check_is_fitted(self)
    levels = np.atleast_1d(np.asarray(q, np.float64))
    if levels.ndim != 1 or not np.all((levels >= 0) & (levels <= 1)):
      raise InputError(f'q={q!r}: give levels between 0 and 1')
    self._refuse_points('quantiles')
    model = self._run.model
    z = self._reduced(X, lambda p: estimates.quantiles(p, model, levels))
    return model.scaler.restore(z)

  def predict_interval(
    self,
    X: Any,
    coverage: float = estimates.DEFAULT_COVERAGE,
    method: str | None = None,
  ) -> np.ndarray:
    """Central intervals, low and high: [n, 2]; of k targets [n, 2, k].

    Each target's intervals hold its share, not all targets' at once.

    Args:
      X: rows.
      coverage: share of new targets that intervals are to hold.
      method: 'model': the quantiles (1 ∓ coverage)/2 of the distributions. Far
        too narrow after reinforcement learning, which sharpens them.
        'conformal': widened or narrowed by as much, for all rows alike, as
        makes them hold that share of the validation rows (Romano et al. 2019).
        The coverage is rounded up to whole percent. None: 'conformal', but
        'model', and a warning, of a run from before margins were kept.
    """
    check_is_fitted(self)
    if method not in (None, 'conformal', 'model'):
      raise InputError(f'method={method!r} is not one of conformal, model')
    if not 0 < coverage < 1:
      raise InputError(f'coverage={coverage!r}: give a share between 0 and 1')
    self._refuse_points('intervals')
    model, margins = self._run.model, self._run.margins
    if method == 'conformal' and not margins:
      raise InputError(
        'this run kept no conformal margins: train it again, or give '
        "method='model'"
      )
    if method is None and not margins:
      warnings.warn(
        "this run kept no conformal margins: the intervals are the model's own",
        stacklevel=2,
      )
    if method == 'model':
      margins = ()
    z = self._reduced(
      X, lambda p: estimates.interval(p, model, coverage, margins)
    )
    return model.scaler.restore(z)

  def predict_non_finite(self, X: Any) -> np.ndarray:
    """P(NaN), P(+inf) and P(−inf) of each row: [n, 3].

    Raises:
      InputError: the fit had no tokens for them.
    """
    check_is_fitted(self)
    if not self._run.model.codec.tokenizer.num_special:
      raise InputError(
        "this fit predicts finite numbers alone: fit with non_finite='tokens'"
      )
    return self._reduced(X, estimates.non_finite)

  def sample(self, X: Any, n: int = 1) -> np.ndarray:
    """n numbers per row from its distribution: [rows, n].

    Of k targets, from the joint one: [rows, n, k].

    A row's samples depend on its cells, its place in X, n and `random_state`:
    the same call returns the same samples. All are finite: samples given
    that the value is.
    """
    check_is_fitted(self)
    if not isinstance(n, int | np.integer) or n < 1:
      raise InputError(f'n={n!r}: give a positive integer')
    self._refuse_points('samples')
    # Of members that were chosen one alone may be asked for all of them.
    is_chosen = self._run.experiment.fields['pack']['chosen']
    each = int(n) if is_chosen else -(-int(n) // len(self._run.seeds))
    z = self._reduced(X, lambda p: results.pooled(p)['samples_z'][:, :n], each)
    return self._run.model.scaler.restore(z)

  def _samples(self):
    return self.num_samples or self._run.experiment.evaluation.num_samples

  def _reduced(self, X, reduce, num_samples=None):
    """`reduce` of what is predicted for X, block by block."""
    frame, _ = self._read(X, reset=False)
    if num_samples is None:
      num_samples = 0 if self.exact_ else self._samples()
    rows = frames.rows(
      frame, self._columns, 'X', frames.how_read(self._run.experiment.fields)
    )
    rows = self._run.model.with_numbers(rows)
    self._run.model.features.say_unseen(rows, 'X')
    return self._run.reduced(rows, reduce, num_samples=num_samples)

  def _choose(self, estimator):
    name = self.estimator if estimator is None else estimator
    if name not in ESTIMATORS:
      raise InputError(
        f'estimator={name!r} is not one of {", ".join(ESTIMATORS)}'
      )
    return name

  def _refuse_points(self, what):
    if not estimates.has_distribution(self._run.model):
      raise InputError(
        f'objective mse predicts a number and no distribution: there are no '
        f'{what}; choose another objective'
      )

  # ------------------------------------------------------------------ files

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the fitted estimator into a new folder, for `load`.

    The files are those of a finished run, so that `python -m genre2_jax.main
    --mode=predict --workdir=PATH` reads them too. They are JSON and arrays:
    loading them cannot run code, unlike a pickle.

    Raises:
      InputError: the folder is not empty.
    """
    check_is_fitted(self)
    path = path_of(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
      raise InputError(f'{path} is there already: give a new folder')
    params = self.get_params(deep=False)
    # The run knows the seed that was drawn; its folder is of this machine.
    params |= {'random_state': self._run.seeds[0], 'workdir': None}
    atomic.write_json(
      path / _OWN_FILE,
      {
        'params': params,
        'columns': [list(column) for column in self._columns],
        'is_frame': hasattr(self, 'feature_names_in_'),
        'by_name': self._by_name,
      },
    )
    write_files(path, self._run.files())

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Self:
    """The estimator that `save` wrote, or one of any finished run's workdir.

    Of a run of the command line, frames are read as its files are: columns by
    name, in any order, others beside them ignored.

    Raises:
      InputError: the folder is not there, not whole or damaged.
    """
    path = path_of(path)
    run = _finished(path)
    features = run.model.features
    if not isinstance(features, Features):
      raise InputError(
        f'{path} is a run on texts: predict with python -m genre2_jax.main '
        '--mode=predict'
      )
    columns = data_columns.of_features(
      features.numeric_names, features.category_names, features.kinds
    )
    if (path / _OWN_FILE).exists():
      loaded, columns, is_frame, by_name = cls._read_own(path, set(columns))
    else:
      arguments = _arguments(run.experiment.fields)
      loaded, is_frame, by_name = cls(**arguments), True, True
    loaded.n_features_in_ = len(columns)
    if is_frame:
      names = [column.name for column in columns]
      loaded.feature_names_in_ = np.array(names, object)
    loaded._by_name = by_name
    loaded._install(run, tuple(columns))
    return loaded

  @classmethod
  def _read_own(cls, path, known):
    try:
      own = json.loads((path / _OWN_FILE).read_text(encoding='utf-8'))
      columns = [Column(*column) for column in own['columns']]
      if not _fit(columns, known):
        raise ValueError('it does not fit model.json')
      count = own['params'].get('num_samples')
      if count is not None and (type(count) is not int or count < 1):
        raise ValueError(f'num_samples is {count!r}')
      ways = bool(own['is_frame']), bool(own.get('by_name'))
      return cls(**own['params']), columns, *ways
    except (AttributeError, OSError, KeyError, TypeError, ValueError) as error:
      raise InputError(
        f'{path / _OWN_FILE} is damaged ({error}): save it again'
      ) from error

  # ---------------------------------------------------------- scikit-learn's

  def __sklearn_clone__(self):
    clone = super().__sklearn_clone__()
    clone._is_clone = True
    return clone

  def __sklearn_is_fitted__(self):
    return hasattr(self, '_run')

  def __sklearn_tags__(self):
    tags = super().__sklearn_tags__()
    tags.input_tags.allow_nan = True
    tags.input_tags.string = True
    tags.target_tags.multi_output = self._writes_several()
    return tags

  def _writes_several(self):
    """Whether the objective's network is a decoder."""
    try:
      return self._config(0).model.head == 'decoder'
    except InputError:  # Which `fit` will say.
      return False

  def _read(self, X, y=None, *, reset):
    """X as a frame, y as an array; checked against `fit`, or noted in it."""
    X = frames.frame_or_array(X)
    if reset:
      self._by_name = False
      frames.say_index(X, y)
    elif self._by_name and isinstance(X, pd.DataFrame):
      return frames.by_name(X.rename(columns=str), self.feature_names_in_), y
    validate_data(self, X, reset=reset, skip_check_array=True)
    if isinstance(X, np.ndarray):
      names = [f'x{i}' for i in range(X.shape[1])]
      names = getattr(self, 'feature_names_in_', names)
      X = pd.DataFrame(X, columns=names)
    if y is not None or reset:
      frames.refuse_target(y)
      known, lets_through = y, self._takes_non_finite()
      if lets_through:
        known = _with_zeros(y)
      try:
        _, known = check_X_y(
          np.zeros((len(X), 1)),
          known,
          y_numeric=True,
          multi_output=math.prod(np.asarray(y).shape[1:]) > 1,
          estimator=self,
        )
      except ValueError as error:
        if 'y contains' not in str(error):
          raise
        raise InputError(
          f'{" ".join(str(error).split())} Drop these rows, or fit with '
          "non_finite='tokens'"
        ) from error
      if lets_through:
        known = np.asarray(y, np.float64).reshape(known.shape)
      y = known
    return X.rename(columns=str), y


# ------------------------------------------------------------ a finished run


def _finished(workdir):
  """A finished run on tables, in memory."""
  run = open_run(workdir)  # Says what is wrong with it.
  if run.experiment.fields['language_model']['name']:
    raise InputError(
      f'{workdir} is a run on texts, which are not X: predict with '
      'python -m genre2_jax.main --mode=predict'
    )
  with without_warnings():
    return FinishedRun.of_files(run.files())


# -------------------------------------------------------------------- targets


def _with_zeros(y):
  """y with 0 for what is not finite, for checks of all else."""
  if y is None:
    return y
  values = np.asarray(y)
  if values.dtype.kind == 'O':
    values = values.astype(np.float64)
  if values.dtype.kind != 'f':
    return y
  return np.where(np.isfinite(values), values, 0)


# -------------------------------------------------------------------- weights


def _weights(name, values, frame):
  """Weights of a frame's rows, float64 [n]; 1 where none are given."""
  if values is None:
    return np.ones(len(frame))
  rows = np.zeros((len(frame), 1))
  try:
    found = _check_sample_weight(values, rows, dtype=np.float64)
  except (TypeError, ValueError) as error:
    raise InputError(f'{name}: {" ".join(str(error).split())}') from error
  return data_weights.checked(name, found)


def _filled(y, weight):
  """y; of rows of weight 0, where anything may be, the first one that counts.

  What is wrong with either is said by whoever reads it.
  """
  if y is None or weight is None:
    return y
  left_out = np.asarray(weight) == 0
  if left_out.shape != np.asarray(y).shape[:1] or left_out.all():
    return y
  rows = np.where(left_out, left_out.argmin(), np.arange(len(left_out)))
  if isinstance(y, pd.Series | pd.DataFrame):
    return y.iloc[rows].set_axis(y.index)
  return (y if isinstance(y, np.ndarray) else np.asarray(y))[rows]


def _counted(frame, target, weight):
  """The same, of the rows that count."""
  kept = weight > 0
  if kept.all():
    return frame, target, weight
  return frame.loc[kept], target[kept], weight[kept]


# ------------------------------------------------------------------- a config


def _seed(random_state):
  if isinstance(random_state, int | np.integer):
    if not 0 <= random_state < 2**32:
      raise InputError(f'random_state={random_state}: a seed is 0 .. 2^32 - 1')
    return int(random_state)
  return int(check_random_state(random_state).randint(2**31 - 1))


def _flat(fields, prefix=''):
  """{'a': {'b': 1}} and {'a.b': 1} as {'a.b': 1}."""
  if not hasattr(fields, 'items'):
    raise InputError(
      f"config={fields!r}: give {{field: value}}, as in {{'batch_size': 64}}"
    )
  flat: dict[str, Any] = {}
  for name, value in fields.items():
    if hasattr(value, 'items'):
      flat |= _flat(value, f'{prefix}{name}.')
    else:
      flat[f'{prefix}{name}'] = value
  return flat


def _updated(config, fields):
  """The config with fields set.

  Raises:
    InputError: a field or a type that there is not.
  """
  for field, value in fields.items():
    if isinstance(value, np.generic):  # What a search draws from an array.
      value = value.item()
    *parents, last = field.split('.')
    group = config
    try:
      for parent in parents:
        group = group[parent]
      group[last]  # A field that is not there is not made.
    except (AttributeError, KeyError, TypeError) as error:
      raise InputError(
        f'config: there is no field {field!r}{near_field(field)}'
      ) from error
    try:
      if value is None:
        raise TypeError('None is no value')
      group[last] = value
    except (TypeError, ValueError) as error:
      reason = ' '.join(str(error.args[0] if error.args else error).split())
      raise InputError(f'{field}={value!r}: {reason}') from error
  return config


def _terms(objective):
  return tuple((name, weight, dict(more)) for name, weight, more in objective)


def _arguments(fields):
  """Constructor's arguments of a config; other fields are left to the run."""
  arguments = {}
  for name, field in _FIELDS.items():
    group, _, last = field.rpartition('.')
    arguments[name] = (fields[group] if group else fields)[last]
  tuned = 'finetune' in fields['stages']
  section = fields['finetune' if tuned else 'pretrain']
  return arguments | {
    'objective': list(_terms(section['objective'])),
    'random_state': fields['seed'],
  }


def _fit(columns, known):
  """Whether columns are those of model.json, whose kinds may be newer."""
  read = {column[:2] for column in columns if column.kind != 'ignore'}
  return read == {column[:2] for column in known}


def _column(frame, place):
  """A column's name and kind, from all of its cells."""
  name, column = frame.columns[place], frame.iloc[:, place]
  return data_columns.column_of(name, column, booleans_are_numbers=True)
