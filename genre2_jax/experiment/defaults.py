"""Every field of a run, with its unit and its values. Recipes change a few.

Set a field on the command line with `--config.x.y=value`. A field that is not
declared here is an error. A placeholder stands for the number of `size`; the
others are GenRe²'s (arXiv 2512.06533) unless a comment says otherwise.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Size -> the fields that nobody has set.
SIZES: Mapping[str, Mapping[str, Any]] = {
  # A minute or two on 2 CPU cores. Fixed before any of the twenty tasks of
  # `benchmark/protocols.py` was run at it.
  'small': {
    'batch_size': 64,
    'model.width': 64,
    'model.num_layers': 2,
    'model.feedforward': 128,
    'model.encoder_hidden': 256,
    'model.encoder_layers': 2,
    'model.head_hidden': 256,
    'model.compute_dtype': 'float32',
    'tokenizer.base': 4,
    'tokenizer.digits': 4,
    'pretrain.learning_rate': 1e-3,
    'pretrain.max_steps': 1200,
    'pretrain.patience': 15,
    'finetune.learning_rate': 3e-4,
    'finetune.epochs': 100,
    'finetune.max_steps': 240,
    'finetune.patience': 8,
  },
  # GenRe²'s, whose rates are searched in 1e-5 .. 1e-4 and whose base and digits
  # are swept over (2, 8), (4, 4), (6, 4), (8, 3), (10, 3).
  'paper': {
    'batch_size': 128,
    'model.width': 256,
    'model.num_layers': 3,
    'model.feedforward': 1024,
    'model.encoder_hidden': 1024,
    'model.encoder_layers': 3,
    'model.head_hidden': 2048,
    'model.compute_dtype': 'auto',
    'tokenizer.base': 2,
    'tokenizer.digits': 8,
    'pretrain.learning_rate': 5e-5,
    'pretrain.max_steps': 0,
    'pretrain.patience': 20,
    'finetune.learning_rate': 5e-5,
    'finetune.epochs': 40,  # The paper: 100, at 1e-5 or the searched rate.
    'finetune.max_steps': 0,
    'finetune.patience': 20,
  },
}


def get_config() -> ConfigDict:
  """All fields at their defaults: cross-entropy, then ReMax."""
  config = ConfigDict()
  config.seed = 0  # of the data split, the weights, the shuffling, the samples
  config.num_seeds = 1  # seed, seed + 1, ... train side by side in one program
  config.stages = ('pretrain', 'finetune')  # or ('pretrain',) or ('finetune',)
  config.init_from = ''  # workdir to take weights from; replaces 'pretrain'
  config.size = 'small'  # or 'paper': of all fields that have two defaults
  config.batch_size = placeholder(int)  # rows per step, of each seed
  config.max_seconds = 0.0  # of a whole run, if not 0: its stages share what is
  # left, stop in time and keep their best; compiling is never cut short, the
  # test rows are always predicted
  config.device_share = 0.5  # of a device's memory (of the host's, on a CPU)
  # that training rows may take; more stay on the host and come in blocks, with
  # the same results to the bit
  config.hyperparameters = 'config'  # or 'official': the paper's, by data.name

  config.data = data = ConfigDict()  # first of path, openml, root that is set
  data.path = ''  # .csv, .tsv, .jsonl (all also .gz), .parquet, .xlsx
  data.openml = ''  # an OpenML dataset's name or id; needs the network
  data.root = ''  # folder of TALENT tasks
  data.name = 'diabetes'  # task under root; without root, scikit-learn's set
  data.target = ''  # target column, of path and openml; several: 'a,b', whose
  # numbers are written one after another
  data.weight = ''  # column of how much each row counts, which is no feature:
  # 0 or more; rows of 0 are left out. Of path, openml and texts
  data.kinds = ''  # of columns, by hand: 'size=number,zip=category'; date,
  # 'date %d.%m.%Y', time, boolean, ignore (docs/reading_data.md)
  data.reading = ''  # how files are written: 'separator=; decimal=,
  # thousands=. encoding=cp1252 date_format=%d.%m.%Y skip_lines=1 header=none
  # quotes=text sheet=2020', each where needed; new rows too. Texts too
  data.text_columns = ''  # 'review,title': free text, read by text_encoder
  data.text_encoder = ''  # a sentence encoder: a folder, or a name on the
  # Hugging Face hub; it stays as it is
  data.text_components = 32  # numbers of a text column; 0: all that it has
  data.max_train_rows = 0  # more are cut to so many, drawn at random by seed;
  # validation and test rows are all kept; 0: no cut
  data.transform = 'standard'  # of the target: z-scores; none: its own unit;
  # quantile: ranks in [0, 1]; quantile_normal: ranks made normal. Texts too

  config.text = text = ConfigDict()  # instead of data, with a language_model
  text.source = 'files'  # tfds, movielens (MovieLens-1M's folder), synthetic
  text.path = ''  # .csv, .tsv, .jsonl (all also .gz), .parquet; a folder of
  # train, validation and test; a set's name in TFDS; MovieLens's folder
  text.prompt = ''  # template, as in 'Review: {review_body} Stars: '
  text.second = ''  # bert: template of a second text, read as a pair with it
  text.rationale = ''  # template of free text that a gemma writes before the
  # number: a judge; rows to predict need none
  text.budget = 128  # subwords of that text at most; more lose their end
  text.end = '<end_of_turn>'  # the subword that ends it
  text.target = ''  # target column
  text.history = (
    0  # movielens: films of the column 'history' at most, those that
  )
  # the viewer rated last before; 0: there is no such column
  text.split_column = 'split'  # of one file: train, validation, test
  text.max_rows = (0, 0, 0)  # of train, val and test; 0: all
  text.drop_empty = False  # leaves rows with an empty text out
  text.tfds_splits = ('train', 'validation', 'test')  # or one, split at random
  text.tfds_folder = ''  # of prepared sets; '': TFDS's own
  text.max_length = 512  # subwords of a prompt, with the first, BOS
  text.truncate = ''  # longer ones are refused, or lose their start or end
  text.buckets = 3  # lengths that prompts are padded to, at most
  text.cache = ''  # folder of tokenised texts, and of vectors of an encoder;
  # '': ~/.cache/genre2_jax; none

  config.language_model = language = ConfigDict()  # of texts
  language.name = ''  # gemma (2 or 3; gemma2 is its older name); t5gemma: its
  # encoder and model's decoder; bert: a sentence encoder, the model of tables
  language.pretrained = ''  # folder of config.json and safetensors, or a name
  # on the Hugging Face hub; '': weights are drawn
  language.tokenizer = ''  # the same of a tokenizer; '': that of pretrained
  language.preset = 'gemma2_2b'  # gemma2_9b, gemma2_27b, gemma3_270m,
  # gemma3_1b, gemma3_4b, gemma3_12b, gemma3_27b; sizes to draw
  language.sizes = sizes = ConfigDict()  # if not 0, instead of the preset's
  sizes.vocab_size = 0
  sizes.width = 0
  sizes.num_layers = 0
  sizes.num_heads = 0
  sizes.num_kv_heads = 0
  sizes.head_dim = 0
  sizes.feedforward = 0
  sizes.sliding_window = 0
  language.head = ''  # writes numbers; special_token, mlp, mean, min, max,
  # projection: RAFT's predictive heads, one number, no distribution; the MLP
  # has model.head_hidden units
  language.head_activation = 'sigmoid'  # mlp: of its units, the paper's; relu
  language.special_token = '<unused0>'  # a subword that texts don't have
  language.attention = 'causal'  # within the prompt; bidirectional
  language.attention_block = 512  # prompts that are padded to more are read in
  # blocks of so many subwords: memory is linear in their length; 0: never
  language.vocabulary = 'numbers'  # softmax over the grammar; all: over all
  # subwords, so that numbers have a share of it (RAIL as published)
  language.new_tokens = ''  # zero, first, average: strings that are no single
  # subword become tokens whose embedding begins so; '': they are refused
  language.compute_dtype = 'bfloat16'
  language.param_dtype = 'float32'
  language.remat = False  # layers are computed again in the backward pass
  language.frozen = True  # t5gemma, bert: whether the encoder stays as it is
  language.freeze_embedding = False  # gemma: the subwords' embedding stays
  # 168 of the 268 million parameters of Gemma 3 270M; with lora it does anyway
  language.lora = lora = ConfigDict()
  lora.rank = 0  # 0: all parameters are trained
  lora.alpha = 16.0
  lora.targets = ('query', 'key', 'value', 'out')  # gate, up, down

  config.tokenizer = tokenizer = ConfigDict()
  tokenizer.name = 'normalized'  # normalized, adaptive (numbers where the
  # training targets are), p10, ieee, exponent_first, repetition, hamming,
  # bins; in the target's own unit: strings, decimal
  tokenizer.base = placeholder(int)  # of the digits
  tokenizer.digits = placeholder(int)  # digits, or mantissa digits
  tokenizer.rounding = 'round'  # normalized: round (GenRe²), truncate (DBR)
  tokenizer.edge = 'left'  # normalized: left or midpoint of the cell
  tokenizer.max_exponent = 10  # p10, exponent_first: E-10 .. E10
  tokenizer.exponent_digits = 1  # ieee
  tokenizer.repeats = 3  # repetition: copies that vote, 1 .. 5
  tokenizer.bins = 256  # bins: on [-3, 3] in z-scores, beside two tails
  tokenizer.strings = '1..5'  # strings: 00..99, 9..0, a..e, January..December,
  # or a list: bad,fair,good
  tokenizer.values = ''  # strings: what they mean, 0..4 or 0,0.5,1; '': the
  # numbers that they are, else 1, 2, 3, ...
  tokenizer.integer_digits = 1  # decimal: before the point
  tokenizer.fraction_digits = 1  # decimal: after it

  tokenizer.non_finite = 'refuse'  # targets that are NaN (or missing) or
  # infinite; tokens: NaN, +inf and -inf have tokens of their own, whose
  # probabilities are predicted beside the distribution of the numbers

  config.model = model = ConfigDict()
  model.head = 'decoder'  # writes digits; trie: writes them too, the logits of
  # all prefixes at once from an MLP; histogram: one of tokenizer bins;
  # pointwise: a number, no distribution
  model.width = placeholder(int)  # D, of memory and decoder
  model.num_layers = placeholder(int)  # decoder layers
  model.num_heads = 4  # divides width
  model.feedforward = placeholder(int)  # in the decoder
  model.encoder_hidden = placeholder(int)  # MLP encoder
  model.encoder_layers = placeholder(int)  # hidden layers of it
  model.head_hidden = placeholder(int)  # MLP of trie, histogram and pointwise
  model.head_layers = 3  # hidden layers of it
  model.dropout = 0.1  # where a stage's `dropout` says so
  model.compute_dtype = placeholder(
    str
  )  # of the factors of products with weights, of
  # tables and T5Gemma's decoder; bfloat16; auto: the faster of the two, as
  # measured when the run begins, and kept in its model.json
  model.numeric_embedding = 'none'  # piecewise_linear (12 train quantiles),
  # periodic (learned frequencies)
  model.num_frequencies = 16  # periodic: per feature
  model.frequency_scale = 0.1  # periodic: of the first frequencies
  model.category_embedding = 'ordinal'  # one_hot, learned
  model.embedding_width = 8  # periodic and learned: per feature
  model.least_category_rows = 0  # one_hot: labels with fewer training rows have
  # no indicator
  model.rank_features = False  # beside numbers their ranks, made normal
  model.missing_features = False  # and whether they are missing
  model.feature_scale = False  # a learned factor per feature: RealMLP's
  model.ensemble_members = 1  # TabM-style: members that share their weights
  model.neighbours = (
    0  # if not 0, the distribution is mixed with the targets of
  )
  # training rows that are near in a learned map of so many dimensions: 32
  model.candidates = 512  # random training rows that a step with dropout looks
  # up; all others, and predictions, look all of them up
  model.marginal = False  # the distribution is mixed with that of the training
  # targets, by a share that validation rows choose at the end of a stage (CRPS)
  model.prior = ''  # trie: a baseline whose distribution the logits start from,
  # out of fold on training rows: catboost_residuals, xgboost_residuals

  config.pack = pack = ConfigDict()  # how the seeds, members of a run, differ
  pack.learning_rate = (1.0, 1.0)  # times the rate: each member's own factor,
  # between these two, even in log; as are the next ones
  pack.weight_decay = (1.0, 1.0)  # times optimizer.weight_decay
  pack.dropout = (1.0, 1.0)  # times model.dropout; not of a decoder
  pack.embedding_scale = (1.0, 1.0)  # times the learned scale of features and
  # the frequencies of periodic ones, at the start
  pack.prior = 1.0  # share of members that start from model.prior
  pack.neighbours = 1.0  # share of members that model.neighbours are mixed with
  pack.chosen = False  # which members predict, and how often, is chosen by the
  # CRPS of validation rows at the end of a stage; False: all alike

  # An objective is a sum of (name, weight, options):
  #   token level      ce, ntl_mse, ntl_was, dist2, soft_ce (bins)
  #   grid level       exact (policy gradient), raft, mbr, log_loss, crps
  #   sequence level   remax, grpo, dr_grpo, rloo, reinforce, no_baseline, ppo,
  #                    dar, real, expert, kl
  #   regression head  mse
  config.pretrain = pretrain = ConfigDict()  # from scratch
  pretrain.objective = (('ce', 1.0, {}),)  # each (name, weight, options)
  pretrain.epochs = 200  # at most
  pretrain.max_steps = placeholder(int)  # if not 0, at most; cuts the last
  # epoch short
  pretrain.learning_rate = placeholder(float)  # peak
  pretrain.patience = placeholder(int)  # epochs without a better validation; 0:
  # never stop
  pretrain.dropout = True  # at the rate of model.dropout

  config.finetune = finetune = ConfigDict()  # from the best of 'pretrain'
  finetune.objective = (('remax', 1.0, {}),)  # each (name, weight, options)
  finetune.epochs = placeholder(int)  # at most
  finetune.max_steps = placeholder(int)  # if not 0, at most; cuts the last
  # epoch short
  finetune.learning_rate = placeholder(float)  # peak
  finetune.patience = placeholder(int)  # epochs without a better validation; 0:
  # never stop
  finetune.dropout = False  # never with objectives at the sequence level

  config.rollouts = rollouts = ConfigDict()  # numbers that the policy writes
  rollouts.group_size = 16  # samples per row
  rollouts.temperature = 1.0  # of sampling
  rollouts.reward = 'squared'  # -error^2; clipped: -min(error^2, 50), for p10,
  # ieee and exponent_first; absolute: -|error|; rank: in the group. In z-scores
  rollouts.num_updates = 1  # updates per rollout; beyond 1 the ratio is clipped
  rollouts.credit = 'all'  # of several targets, which rewards a token is
  # credited with: all; later: of its own number and those behind it

  config.trie = trie = ConfigDict()  # all numbers at once
  trie.max_nodes = 1024  # larger tries are not enumerated
  trie.beyond = 'error'  # there: prefix (first digits exactly, the rest
  # sampled once each: what differs within a prefix is left out of pairs),
  # samples (rollouts.group_size of them, 3 or more; unbiased but for log_loss,
  # the logarithm of a mean)

  config.optimizer = optimizer = ConfigDict()
  optimizer.name = 'adamw'  # adafactor: RAFT's, whose rate is relative to the
  # size of a parameter
  optimizer.schedule = 'cosine'  # to 0.1 · peak; constant
  optimizer.warmup_steps = 100  # updates until the learning rate peaks
  optimizer.weight_decay = 0.01  # adamw: PyTorch's default, as in the paper
  optimizer.max_grad_norm = 0.0  # gradients are scaled down to it; 0: never
  optimizer.accumulation = 1  # micro-batches of a step: less memory

  config.baseline = baseline = ConfigDict()  # instead of a network
  baseline.name = ''  # train_mean, linear, histogram_trees, random_forest,
  # catboost, xgboost, lightgbm, realmlp, tabm: one number; catboost_residuals,
  # xgboost_residuals, random_forest_residuals, realmlp_residuals,
  # catboost_uncertainty,
  # catboost_quantiles, ngboost, quantile_forest: a distribution
  baseline.trials = 0  # of an Optuna search on validation rows, of those of
  # one number; 0: defaults

  config.eval = evaluation = ConfigDict()
  evaluation.num_samples = 128  # per row
  evaluation.temperature = 1.0  # of sampling
  evaluation.batch_size = 128  # rows per dispatch
  evaluation.num_conditionals = 16  # of several targets: samples of the numbers
  # before one whose trie is scored, unless trie.max_nodes holds the joint trie
  evaluation.rail_numbers = 0  # evenly spaced, for the estimators rail and
  # rail_normalized (RAIL on a subset); the whole grid's is exact_mean
  evaluation.recalibrate = True  # temperature and conformal, on validation rows

  config.mesh = mesh = ConfigDict()  # devices along each axis; -1: the rest
  mesh.replica = 1  # seeds
  mesh.data = -1  # rows; where they are too few for it, a row's samples
  mesh.fsdp = 1  # the same, and the embed axis of parameters
  mesh.model = 1  # heads, feed-forward and subwords

  config.checkpoint = checkpoint = ConfigDict()
  checkpoint.every_seconds = 60.0  # 0: after every dispatch, waiting for disk
  checkpoint.keep = 2  # newest ones kept per stage

  config.profile = profile = ConfigDict()
  profile.steps = ''  # '10:13' traces steps 10 to 12 of each stage

  config.report = True  # report.html and figures
  config.compilation_cache = ''  # folder of compiled programs, which JAX reads
  # back; '': ~/.cache/genre2_jax/compiled; none
  config.steps_per_dispatch = 0  # 0: about half a second's worth
  config.lock()  # A recipe that misspells a field says so.
  return config


def sized(config: ConfigDict) -> ConfigDict:
  """A copy in which the fields that nobody has set are those of its size.

  Raises:
    KeyError: no such size.
  """
  config = config.copy_and_resolve_references()
  fields = SIZES[config.size]
  unset = {
    name: x for name, x in fields.items() if value_of(config, name) is None
  }
  config.update_from_flattened_dict(unset)
  return config


def value_of(config: ConfigDict, dotted: str) -> Any:
  """The value of a dotted field."""
  for part in dotted.split('.'):
    config = config[part]
  return config
