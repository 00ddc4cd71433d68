"""Recipes: changes of the defaults that have a name, in families by their data.

A family says what the data and the model are, a recipe of it what is trained.
`configs/<family>.py:NAME`, `--config=<family>:NAME`, the benchmark and the
estimator's `objective=` all read `FAMILIES`.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from genre2_jax.errors import InputError, suggestion
from genre2_jax.experiment import defaults

_T = TypeVar('_T')
# Of an objective: name, weight, options.
Term = tuple[str, float, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A name's meaning.

  Attributes:
    says: one sentence, with its paper if it has one.
    changes: {field: value} of the family's config.
  """

  says: str
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Family:
  """Recipes for one kind of data.

  Attributes:
    says: one sentence.
    fields: {field: value} of the defaults that all recipes change.
    recipes: by name.
    default: the recipe that is meant where none is named.
  """

  says: str
  fields: Mapping[str, Any]
  recipes: Mapping[str, Recipe]
  default: str


def get_config(family: str, name: str = '') -> ConfigDict:
  """A recipe's config, locked; '' is the family's default recipe.

  Raises:
    InputError: no such family or recipe, with the nearest names.
  """
  found = find(family, FAMILIES, 'families of recipes')
  recipe = find(name or found.default, found.recipes, f'recipes of {family}')
  config = defaults.get_config()
  # Options are dicts: a config that changes its own leaves the table alone.
  changes = copy.deepcopy({**found.fields, **recipe.changes})
  config.update_from_flattened_dict(changes)
  return config


def find(name: str, table: Mapping[str, _T], kind: str) -> _T:
  """A table's entry of that name.

  Args:
    name: of the entry.
    table: name -> entry.
    kind: what the names are, for the message.

  Raises:
    InputError: there is none; the message has the nearest names.
  """
  if name in table:
    return table[name]
  raise InputError(
    f'{name!r} is none of the {kind}: {suggestion(name, list(table))}'
  )


# ---------------------------------------------------------------------- tables

# Few enough numbers to score every one of them in one pass.
_SCORED = {'tokenizer.base': 4, 'tokenizer.digits': 4}
# Numbers where the training targets are.
_ADAPTIVE = {'tokenizer.name': 'adaptive', **_SCORED}
# What reads a table best, chosen on validation rows.
_MIXED = {
  **_ADAPTIVE,
  'num_seeds': 6,
  'model.head': 'trie',
  'model.head_hidden': 256,
  'model.head_layers': 2,
  'model.numeric_embedding': 'piecewise_linear',
  'model.category_embedding': 'one_hot',
  'model.feature_scale': True,
  'model.rank_features': True,
  'model.missing_features': True,
  'model.least_category_rows': 5,
  'model.neighbours': 32,
  'model.marginal': True,
  'pretrain.learning_rate': 2e-3,
  # What has many rows takes more steps to read.
  'pretrain.epochs': 60,
  'pretrain.max_steps': 3000,
  'pretrain.patience': 0,
  'pack.learning_rate': (0.75, 2.5),
  'pack.dropout': (0.3, 1.5),
  'pack.neighbours': 2 / 3,
  'pack.chosen': True,
}
# Half of the members from CatBoost's distribution, in turn.
_BOOSTED = {
  **_MIXED,
  'num_seeds': 8,
  'model.prior': 'catboost_residuals',
  'pack.prior': 0.5,
  'pack.neighbours': 0.75,
}
_HISTOGRAM = {'model.head': 'histogram', 'tokenizer.name': 'bins'}
_NOTHING: Mapping[str, Any] = {}


def _from_scratch(
  says: str, *terms: Term, fields: Mapping[str, Any] = _NOTHING
) -> Recipe:
  trained = {'stages': ('pretrain',), 'pretrain.objective': terms}
  return Recipe(says, {**trained, **fields})


def _after_ce(
  says: str, *terms: Term, fields: Mapping[str, Any] = _NOTHING
) -> Recipe:
  return Recipe(says, {'finetune.objective': terms, **fields})


def _baseline(name: str, says: str) -> Recipe:
  return Recipe(says, {'baseline.name': name})


def _distribution(name: str, says: str) -> Recipe:
  return Recipe(says, {'baseline.name': name, **_ADAPTIVE})


TALENT = Family(
  says='Tables of numbers and categories: TALENT, CSV, Parquet, OpenML.',
  fields={},
  default='remax',
  recipes={
    # Tokens.
    'ce': Recipe(
      'Cross-entropy on digits, the base that the others start from: GenRe² '
      '(arXiv 2512.06533), section 4.',
      {'stages': ('pretrain',)},
    ),
    'ntl_was': _from_scratch(
      'NTL-WAS (Zausinger et al., ICML 2025): CE + 0.3 · absolute digit error.',
      ('ce', 1.0, {}),
      ('ntl_was', 0.3, {}),
    ),
    'ntl_mse': _from_scratch(
      'NTL-MSE (Zausinger et al., ICML 2025): CE + 0.3 · squared digit error.',
      ('ce', 1.0, {}),
      ('ntl_mse', 0.3, {}),
    ),
    'dist2': _from_scratch(
      'DIST² (arXiv 2503.02379): CE + 0.1 · KL to distance-smoothed digits.',
      ('ce', 1.0, {}),
      ('dist2', 0.1, {}),
    ),
    # The whole distribution, after cross-entropy.
    'raft': _after_ce(
      'RAFT (Lukasik et al., ICLR 2025): squared error of the mean of all '
      'numbers that the tokenizer can write.',
      ('raft', 1.0, {}),
      fields=_SCORED,
    ),
    'learnable_raft': _after_ce(
      'RAFT with trained numbers: ŷ = Σ p(y | x) w_y, w_y trained from y; its '
      'estimator in results.csv is learned_mean.',
      ('raft', 1.0, {'learnable': True}),
      fields=_SCORED,
    ),
    'crps': _after_ce(
      'The exact CRPS of the whole trie: uncertainty stays honest.',
      ('crps', 1.0, {}),
      fields=_SCORED,
    ),
    'crps_ce': _after_ce(
      'CRPS with a remainder of cross-entropy.',
      ('crps', 1.0, {}),
      ('ce', 0.05, {}),
      fields=_SCORED,
    ),
    'crps_exact': _after_ce(
      'CRPS, which keeps the uncertainty honest, and the exact policy '
      'gradient, which looks at squared error.',
      ('crps', 1.0, {}),
      ('exact', 0.1, {}),
      fields=_SCORED,
    ),
    'exact': _after_ce(
      'The exact policy gradient: every number scored, so no samples and no '
      'variance.',
      ('exact', 1.0, {}),
      fields=_SCORED,
    ),
    'mbr': _after_ce(
      "Minimum Bayes risk (RAFT's Lemma 4) over all numbers.",
      ('mbr', 1.0, {}),
      fields=_SCORED,
    ),
    'log_loss': _after_ce(
      "The log loss of the scaled mean, RAFT's baseline: the z-scores low and "
      'high count as 0 and 1, so set them to the range of the targets.',
      ('log_loss', 1.0, {'low': -4.0, 'high': 4.0}),
      fields=_SCORED,
    ),
    'crps_piecewise': _after_ce(
      'CRPS on piecewise-linear features.',
      ('crps', 1.0, {}),
      fields=_SCORED
      | {
        'model.numeric_embedding': 'piecewise_linear',
        'model.category_embedding': 'one_hot',
      },
    ),
    'joint': _after_ce(
      'For several targets, as for one: CRPS of every number given those '
      'before it, with a remainder of cross-entropy, on adaptive grids.',
      ('crps', 1.0, {}),
      ('ce', 0.05, {}),
      fields=_ADAPTIVE
      | {
        'model.numeric_embedding': 'piecewise_linear',
        'model.category_embedding': 'one_hot',
      },
    ),
    # What validation rows chose (benchmarks/README.md).
    'best': _from_scratch(
      'CRPS by an MLP to all prefixes of an adaptive grid, mixed with targets '
      'of neighbours and of all rows; six members that differ, chosen from.',
      ('crps', 1.0, {}),
      fields=_MIXED,
    ),
    'boosted': _from_scratch(
      'Not a decoder alone: `best` with eight members, half of them from '
      "CatBoost's number and its out-of-fold errors, in the logits.",
      ('crps', 1.0, {}),
      fields=_BOOSTED,
    ),
    # Numbers sampled, after cross-entropy.
    'remax': _after_ce(
      'ReMax: the reward of the greedy number is the baseline; GenRe² '
      '(arXiv 2512.06533).',
      ('remax', 1.0, {}),
    ),
    'grpo': _after_ce(
      'GRPO (arXiv 2402.03300): rewards standardised in their group; GenRe² '
      '(arXiv 2512.06533).',
      ('grpo', 1.0, {}),
    ),
    'dr_grpo': _after_ce(
      "Dr. GRPO (arXiv 2503.20783): without the group's standard deviation.",
      ('dr_grpo', 1.0, {}),
    ),
    'rloo': _after_ce(
      'RLOO (Ahmadian et al. 2024): the mean of the other samples is the '
      'baseline.',
      ('rloo', 1.0, {}),
    ),
    'ppo': _after_ce(
      'PPO (arXiv 1707.06347) with a value per prefix.',
      ('ppo', 1.0, {}),
    ),
    'dar': _after_ce(
      "DAR (arXiv 2605.20740): credit in the samples' CRPS.",
      ('dar', 1.0, {}),
    ),
    'real': _after_ce(
      "REAL (arXiv 2603.17145): RAIL's error as reward.",
      ('real', 1.0, {}),
    ),
    'genre2': _after_ce(
      'ReMax with the dense expert: GenRe², ICML 2026.',
      ('remax', 1.0, {}),
      ('expert', 0.05, {}),
    ),
    'mixed': _after_ce(
      'ReMax with an expert and a remainder of cross-entropy, a sum whose '
      'rollout is sampled once.',
      ('remax', 1.0, {}),
      ('expert', 0.05, {}),
      ('ce', 0.1, {}),
    ),
    # No digits.
    'riemann': _from_scratch(
      "GenRe²'s Riemann head, an MLP of 3 x 2048: 256 bins and two half-normal "
      'tails with smoothed targets, a decoder of one token.',
      ('soft_ce', 1.0, {'kind': 'density'}),
      fields=_HISTOGRAM,
    ),
    'hl_gauss': _from_scratch(
      'HL-Gauss (Imani & White 2018): the Riemann head with integrals of a '
      'Gaussian over the bins as targets.',
      ('soft_ce', 1.0, {'kind': 'cdf'}),
      fields=_HISTOGRAM,
    ),
    'pointwise': _from_scratch(
      "GenRe²'s regression head, an MLP of 3 x 2048 with squared error: one "
      'number, a point mass in the results.',
      ('mse', 1.0, {}),
      fields={'model.head': 'pointwise'},
    ),
    'train_mean': _baseline('train_mean', 'The mean of the train targets.'),
    'histogram_trees': _baseline(
      'histogram_trees', 'Histogram gradient boosting of scikit-learn.'
    ),
    'linear': _baseline('linear', 'Linear regression.'),
    'random_forest': _baseline(
      'random_forest', 'Random forest of scikit-learn.'
    ),
    'catboost': _baseline('catboost', 'CatBoost.'),
    'xgboost': _baseline('xgboost', 'XGBoost.'),
    'lightgbm': _baseline('lightgbm', 'LightGBM.'),
    'realmlp': _baseline(
      'realmlp', 'RealMLP-TD (Holzmüller et al., NeurIPS 2024), of pytabkit.'
    ),
    'tabm': _baseline(
      'tabm', 'TabM-D (Gorishniy et al., ICLR 2025), of pytabkit.'
    ),
    # Distributions on the numbers of a decoder, for a fair comparison.
    **{
      f'{name}_residuals': _distribution(
        f'{name}_residuals',
        f'{says}, and the density of its out-of-fold errors around its number.',
      )
      for name, says in (
        ('catboost', 'CatBoost'),
        ('xgboost', 'XGBoost'),
        ('random_forest', 'The random forest'),
        ('realmlp', 'RealMLP-TD'),
      )
    },
    'catboost_uncertainty': _distribution(
      'catboost_uncertainty', "CatBoost's RMSEWithUncertainty, a normal one."
    ),
    'catboost_quantiles': _distribution(
      'catboost_quantiles', "CatBoost's MultiQuantile at 21 levels."
    ),
    'ngboost': _distribution(
      'ngboost', 'NGBoost (Duan et al., ICML 2020), a normal one.'
    ),
    'quantile_forest': _distribution(
      'quantile_forest', 'A quantile regression forest (Meinshausen 2006).'
    ),
  },
)


# ----------------------------------------------------------------------- texts

# What RAFT's runs of Gemma-2 share.
_GEMMA = {
  'size': 'paper',
  'model.compute_dtype': 'float32',
  'language_model.name': 'gemma',
  'language_model.pretrained': 'google/gemma-2-2b',
  'language_model.vocabulary': 'all',
  'language_model.remat': True,
  'tokenizer.name': 'strings',
  'data.transform': 'none',  # Losses in the target's own unit.
  'model.dropout': 0.1,
  'batch_size': 16,
  'optimizer.name': 'adafactor',
  'optimizer.schedule': 'constant',
  'optimizer.warmup_steps': 0,
  'pretrain.learning_rate': 1e-5,
  'pretrain.epochs': 10,
  'pretrain.patience': 3,
  'finetune.learning_rate': 1e-5,
  'finetune.epochs': 10,
  'finetune.patience': 3,
  'eval.num_samples': 32,
  'eval.batch_size': 32,
  'mesh.data': 1,
  'mesh.fsdp': -1,
}


def _from_weights(says: str, name: str, **options: Any) -> Recipe:
  """On all numbers of the grid, from the pretrained weights."""
  changes = {
    'stages': ('finetune',),
    'finetune.dropout': True,
    'finetune.objective': ((name, 1.0, options),),
  }
  return Recipe(says, changes)


def _head(kind: str, says: str) -> Recipe:
  changes: dict[str, Any] = {
    'stages': ('pretrain',),
    'pretrain.objective': (('mse', 1.0, {}),),
    'language_model.head': kind,
  }
  return Recipe(says, changes)


def _policy_gradient(says: str, name: str) -> Recipe:
  changes = {
    'stages': ('pretrain', 'finetune'),
    'finetune.dropout': False,
    'finetune.objective': ((name, 1.0, {}),),
  }
  return Recipe(says, changes)


# Decoding and RAIL are estimators of the same run: `greedy` is decoding, `mean`
# RAIL from samples, `rail` and `rail_normalized` RAIL from the scored grid.
_OF_RAFT = {
  'zero_shot': Recipe(
    'No training: zero-shot decoding and zero-shot RAIL.', {'stages': ()}
  ),
  'ce': Recipe(
    'Cross-entropy: CE + decoding, CE + RAIL.', {'stages': ('pretrain',)}
  ),
  'raft': _from_weights(
    'RAFT (Lukasik et al., ICLR 2025): squared error of the mean over the '
    'grid.',
    'raft',
  ),
  'raft_normalized': _from_weights(
    'RAFT with the probabilities of the grid made to sum to one.',
    'raft',
    normalize=True,
  ),
  'learnable_raft': _from_weights(
    'RAFT with trained numbers, which may leave the grid.',
    'raft',
    learnable=True,
  ),
  'mbr': _from_weights(
    "Minimum Bayes risk (RAFT's Lemma 4), the probabilities of the grid made "
    'to sum to one.',
    'mbr',
  ),
  'mbr_unnormalized': _from_weights(
    'Minimum Bayes risk as published, over all subwords: it pays for moving '
    'mass off the grid, which grid_mass shows.',
    'mbr',
    normalize=False,
  ),
  'log_loss': _from_weights(
    'The log loss of the scaled mean: low and high count as 0 and 1.',
    'log_loss',
    low=0.0,
    high=5.0,
  ),
  'special_token': _head(
    'special_token',
    'A head: the logit of a subword that texts lack, after the text, and a '
    'bias.',
  ),
  'mlp': _head(
    'mlp', 'A head: an MLP of sigmoid units on the logits after the text.'
  ),
  'mean': _head('mean', 'A head: a linear map of the mean of the last states.'),
  'min': _head(
    'min', 'A head: a linear map of the minimum of the last states.'
  ),
  'max': _head(
    'max', 'A head: a linear map of the maximum of the last states.'
  ),
  'projection': _head(
    'projection', 'A head: Σ p(v | text) · w_v over all subwords v.'
  ),
  # Not in the paper.
  'crps': _from_weights(
    'CRPS of the normalised grid; not in the paper.', 'crps'
  ),
  'exact': _policy_gradient(
    'CE, then the exact policy gradient; not in the paper.', 'exact'
  ),
  'remax': _policy_gradient('CE, then ReMax; not in the paper.', 'remax'),
  'grpo': _policy_gradient('CE, then GRPO; not in the paper.', 'grpo'),
}


def _from_random_weights(recipe: Recipe) -> Recipe:
  """The recipe, where what starts from weights has none to start from."""
  changes = recipe.changes
  if changes['stages'] != ('finetune',):
    return recipe
  scratch = {
    field.replace('finetune.', 'pretrain.'): value
    for field, value in changes.items()
  }
  return Recipe(recipe.says, {**changes, **scratch, 'stages': ('pretrain',)})


# A frozen sentence encoder and the model of tables, on pairs; what is not
# MiniLM's own was chosen on validation rows (benchmarks/results).
_ENCODER = {
  'size': 'small',
  'language_model.name': 'bert',
  'language_model.pretrained': 'sentence-transformers/all-MiniLM-L6-v2',
  'language_model.remat': False,
  'text.prompt': '{sentence1}',
  'text.second': '{sentence2}',
  'data.transform': 'standard',
  'tokenizer.name': 'adaptive',
  'tokenizer.base': 4,
  'tokenizer.digits': 4,
  'model.head': 'trie',
  'model.head_hidden': 256,
  'model.head_layers': 2,
  'model.dropout': 0.3,
  'batch_size': 64,
  'optimizer.name': 'adamw',
  'optimizer.schedule': 'cosine',
  'optimizer.warmup_steps': 100,
  'optimizer.weight_decay': 1.0,
  'pretrain.learning_rate': 2e-4,
  'pretrain.epochs': 20,
  'pretrain.patience': 6,
  'eval.batch_size': 128,
  'mesh.data': -1,
  'mesh.fsdp': 1,
}


def _on_vectors(
  says: str, *terms: Term, fields: Mapping[str, Any] = _NOTHING
) -> Recipe:
  """On vectors of a frozen encoder, from scratch."""
  return _from_scratch(says, *terms, fields={**_ENCODER, **fields})


STSB = Family(
  says='Similarity of two sentences, STS-B, by Gemma-2 2B or another Gemma.',
  fields=_GEMMA
  | {
    'text.source': 'tfds',
    'text.path': 'glue/stsb',
    'text.tfds_splits': ('train[:85%]', 'train[85%:]', 'validation'),
    'text.prompt': 'How similar in meaning are these two sentences, from 0 '
    '(unrelated) to 5 (the same)?\nSentence 1: {sentence1}\n'
    'Sentence 2: {sentence2}\nSimilarity: ',
    'text.target': 'label',
    'text.max_length': 256,
    # RAFT's grid for it; here with 0, which the scores reach.
    'tokenizer.strings': '0..5',
  },
  recipes=_OF_RAFT
  | {
    'ce_decimal': Recipe(
      'Cross-entropy on one decimal: most scores are no integers, which ce on '
      '0..5 rounds before it learns.',
      {
        'stages': ('pretrain',),
        'tokenizer.name': 'decimal',
        'tokenizer.integer_digits': 1,
        'tokenizer.fraction_digits': 1,
      },
    ),
    'encoder_crps': _on_vectors(
      'CRPS on u, v, |u - v|, u·v and the cosine of a pair, the vectors of a '
      'frozen sentence encoder, MiniLM.',
      ('crps', 1.0, {}),
    ),
    'encoder_ce': _on_vectors(
      'Cross-entropy on the vectors of a frozen sentence encoder.',
      ('ce', 1.0, {}),
    ),
    'encoder_raft': _on_vectors(
      'RAFT on the vectors of a frozen sentence encoder.', ('raft', 1.0, {})
    ),
    'encoder_mse': _on_vectors(
      'Squared error on the vectors of a frozen sentence encoder: one number.',
      ('mse', 1.0, {}),
      fields={'model.head': 'pointwise'},
    ),
    'encoder_tuned': _on_vectors(
      'CRPS, and the sentence encoder is trained with the rest.',
      ('crps', 1.0, {}),
      fields={
        'language_model.frozen': False,
        'text.max_length': 128,
        'text.buckets': 4,
        'model.dropout': 0.1,
        'batch_size': 32,
        'optimizer.weight_decay': 0.01,
        'optimizer.warmup_steps': 20,
        'pretrain.learning_rate': 1e-4,
        'pretrain.epochs': 1,
      },
    ),
  },
  default='raft',
)

MOVIELENS = Family(
  says='Ratings of films by Gemma-2 2B, from film and viewer, and what the '
  'viewer rated before.',
  fields=_GEMMA
  | {
    'text.source': 'movielens',
    'text.prompt': 'Films that a viewer ({gender}, {age} years, {occupation}) '
    'rated from 1 to 5 stars, the last at the end: {history}.\nNow the viewer '
    'rates "{title}" ({genres}).\nStars: ',
    'text.history': 10,
    'text.target': 'rating',
    'text.max_rows': (797_758, 10_145, 10_145),
    'text.max_length': 384,
    'text.truncate': 'start',  # The oldest ratings, the question comes last.
    'tokenizer.strings': '1..5',
    'finetune.epochs': 1,
    'optimizer.name': 'adamw',
    'optimizer.schedule': 'cosine',
    'optimizer.warmup_steps': 500,
  },
  recipes=_OF_RAFT,
  default='raft',
)

AMAZON = Family(
  says='Stars of Amazon reviews by Gemma-2 2B; rows and prompt are ours, not '
  "RAFT's.",
  fields=_GEMMA
  | {
    'text.source': 'tfds',
    'text.path': 'amazon_us_reviews/Wireless_v1_00',
    'text.tfds_splits': ('train',),
    'text.prompt': 'A review of "{product_title}" on Amazon: '
    '{review_headline}\n{review_body}\nStars, from 1 to 5: ',
    'text.target': 'star_rating',
    'text.max_rows': (10_000, 1_500, 1_500),
    'text.drop_empty': True,
    'text.truncate': 'start',  # The question comes last.
    'tokenizer.strings': '1..5',
  },
  recipes=_OF_RAFT,
  default='raft',
)

SYNTHETIC = Family(
  says="RAFT's synthetic set, a number from x as text, from random weights.",
  fields=_GEMMA
  | {
    'text.source': 'synthetic',
    'text.prompt': 'x = {x}\ny = ',
    'text.target': 'y',
    'text.max_length': 64,
    'language_model.pretrained': '',
    'language_model.tokenizer': 'google/gemma-2-2b',
    'tokenizer.strings': '0..9',
  },
  recipes={
    name: _from_random_weights(recipe) for name, recipe in _OF_RAFT.items()
  },
  default='raft',
)


def _after_ce_on_code(says: str, *terms: Term) -> Recipe:
  changes = {'stages': ('pretrain', 'finetune'), 'finetune.objective': terms}
  return Recipe(says, changes)


CODE_METRICS = Family(
  says='Metrics of programs by a frozen T5Gemma encoder and a decoder.',
  fields={
    'size': 'paper',
    'model.compute_dtype': 'float32',
    'text.prompt': '{input}',
    'text.target': 'target',
    'text.max_length': 2048,
    'text.truncate': 'end',
    'text.buckets': 4,
    'data.transform': 'quantile',
    'language_model.name': 't5gemma',
    'language_model.pretrained': 'google/t5gemma-s-s-ul2',
    'tokenizer.name': 'ieee',
    'tokenizer.base': 10,
    'tokenizer.digits': 4,
    'model.width': 512,
    'model.feedforward': 2048,
    'model.num_layers': 2,
    'model.num_heads': 8,
    'optimizer.name': 'adafactor',
    'optimizer.schedule': 'constant',
    'pretrain.learning_rate': 1e-3,
    'finetune.learning_rate': 1e-4,
    'batch_size': 32,
    'eval.batch_size': 32,
    'rollouts.group_size': 4,
    'rollouts.reward': 'clipped',
    'eval.num_samples': 64,
    'stages': ('pretrain',),
  },
  recipes={
    'ce': Recipe('Cross-entropy: RLM (arXiv 2509.26476).'),
    'remax': _after_ce_on_code(
      'Cross-entropy, then ReMax: GenRe² (arXiv 2512.06533).',
      ('remax', 1.0, {}),
    ),
    'genre2': _after_ce_on_code(
      'Cross-entropy, then ReMax with the dense expert: GenRe².',
      ('remax', 1.0, {}),
      ('expert', 0.1, {}),
    ),
  },
  default='ce',
)


def _of_judge(says: str, *terms: Term) -> Recipe:
  """Cross-entropy on text and number, then these on its own."""
  changes = {'stages': ('pretrain', 'finetune'), 'finetune.objective': terms}
  return Recipe(says, changes)


# Weights of the dense expert and of the KL are ours: the paper has none for it.
_EXPERT: Term = ('expert', 0.1, {})
_KL: Term = ('kl', 0.01, {})

JUDGE = Family(
  says='A judge that writes free text, then a score: a Gemma 3 270M, or more.',
  fields={
    **_GEMMA,
    'language_model.pretrained': 'google/gemma-3-270m',
    'language_model.vocabulary': 'numbers',
    'text.prompt': '{prompt}',
    'text.rationale': '{rationale}',
    'text.target': 'score',
    'text.max_length': 2048,
    'tokenizer.name': 'decimal',
    'tokenizer.integer_digits': 1,
    'tokenizer.fraction_digits': 1,
    'model.dropout': 0.0,
    'optimizer.name': 'adamw',
    'optimizer.warmup_steps': 20,
    'pretrain.learning_rate': 2e-5,
    'finetune.learning_rate': 2e-6,
    'finetune.dropout': False,
    'rollouts.group_size': 4,
    'eval.num_samples': 8,
  },
  recipes={
    'ce': Recipe(
      'Cross-entropy on the whole: text, its end and the score.',
      {'stages': ('pretrain',)},
    ),
    'remax': _of_judge(
      "ReMax on text and score with the score's reward, near the start.",
      ('remax', 1.0, {}),
      _KL,
    ),
    'genre2': _of_judge(
      'ReMax, the dense expert on the score after a text of its own, KL.',
      ('remax', 1.0, {}),
      _EXPERT,
      _KL,
    ),
    'rloo': _of_judge(
      'RLOO on text and score, near the start.', ('rloo', 1.0, {}), _KL
    ),
  },
  default='genre2',
)

FAMILIES: Mapping[str, Family] = {
  'talent': TALENT,
  'stsb': STSB,
  'movielens': MOVIELENS,
  'amazon': AMAZON,
  'synthetic': SYNTHETIC,
  'code_metrics': CODE_METRICS,
  'judge': JUDGE,
}
