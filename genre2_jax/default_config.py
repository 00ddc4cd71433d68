"""Every field of a run, with its unit and its values. Recipes change a few.

Set a field on the command line with `--config.x.y=value`. A field that is not
declared here is an error. The numbers are GenRe²'s (arXiv 2512.06533) unless a
comment says otherwise.
"""

from ml_collections import ConfigDict


def get_config():
  """All fields at their defaults: cross-entropy, then ReMax."""
  config = ConfigDict()
  config.seed = 0  # of the data split, the weights, the shuffling, the samples
  config.num_seeds = 1  # seed, seed + 1, ... train side by side in one program
  config.stages = ('pretrain', 'finetune')  # or ('pretrain',) or ('finetune',)
  config.init_from = ''  # workdir to take weights from; replaces 'pretrain'
  config.batch_size = 128  # rows per step, of each seed
  config.hyperparameters = 'config'  # or 'official': the paper's, by data.name

  config.data = data = ConfigDict()  # first of path, openml, root that is set
  data.path = ''  # a .csv, .tsv, .csv.gz or .parquet file
  data.openml = ''  # an OpenML dataset's name or id; needs the network
  data.root = ''  # folder of TALENT tasks
  data.name = 'diabetes'  # task under root; without root, scikit-learn's set
  data.target = ''  # target column, of path and openml

  config.tokenizer = tokenizer = ConfigDict()
  tokenizer.name = 'normalized'  # normalized, p10, ieee, exponent_first,
  # repetition, hamming, bins
  tokenizer.base = 2  # paper's sweep (base, digits): (2,8) (4,4) (6,4) (8,3)
  tokenizer.digits = 8  # digits, or mantissa digits
  tokenizer.rounding = 'round'  # normalized: round (GenRe²), truncate (DBR)
  tokenizer.edge = 'left'  # normalized: left or midpoint of the cell
  tokenizer.max_exponent = 10  # p10, exponent_first: E-10 .. E10
  tokenizer.exponent_digits = 1  # ieee
  tokenizer.repeats = 3  # repetition: copies that vote, 1 .. 5
  tokenizer.bins = 256  # bins: on [-3, 3] in z-scores, beside two tails

  config.model = model = ConfigDict()
  model.head = 'decoder'  # writes digits; histogram: one of tokenizer bins;
  # pointwise: a number, no distribution
  model.width = 256  # D, of memory and decoder
  model.num_layers = 3  # decoder layers
  model.num_heads = 4  # divides width
  model.feedforward = 1024  # in the decoder
  model.encoder_hidden = 1024  # MLP encoder
  model.encoder_layers = 3
  model.head_hidden = 2048  # MLP of histogram and pointwise
  model.head_layers = 3
  model.dropout = 0.1  # where a stage's `dropout` says so
  model.numeric_embedding = 'none'  # piecewise_linear (12 train quantiles),
  # periodic (learned frequencies)
  model.num_frequencies = 16  # periodic: per feature
  model.frequency_scale = 0.1  # periodic: of the first frequencies
  model.category_embedding = 'ordinal'  # one_hot, learned
  model.embedding_width = 8  # periodic and learned: per feature
  model.ensemble_members = 1  # TabM-style: members that share their weights

  # An objective is a sum of (name, weight, options):
  #   token level      ce, ntl_mse, ntl_was, dist2, soft_ce (bins)
  #   grid level       exact (policy gradient), raft, mbr, log_loss, crps
  #   sequence level   remax, grpo, dr_grpo, rloo, reinforce, no_baseline, ppo,
  #                    dar, real, expert, kl
  #   regression head  mse
  config.pretrain = pretrain = ConfigDict()  # from scratch
  pretrain.objective = (('ce', 1.0, {}),)
  pretrain.epochs = 200
  pretrain.max_steps = 0  # if not 0, fewer epochs where they have more steps
  pretrain.learning_rate = 5e-5  # peak; the paper searches 1e-5 .. 1e-4
  pretrain.patience = 20  # epochs without a better validation; 0: never stop
  pretrain.dropout = True

  config.finetune = finetune = ConfigDict()  # from the best of 'pretrain'
  finetune.objective = (('remax', 1.0, {}),)
  finetune.epochs = 40  # the paper: 100, at the rate of 1e-5
  finetune.max_steps = 0  # if not 0, fewer epochs where they have more steps
  finetune.learning_rate = 5e-5  # peak; the paper: 1e-5, or the searched rate
  finetune.patience = 20  # epochs without a better validation; 0: never stop
  finetune.dropout = False  # never with objectives at the sequence level

  config.rollouts = rollouts = ConfigDict()  # numbers that the policy writes
  rollouts.group_size = 16  # samples per row
  rollouts.temperature = 1.0  # of sampling
  rollouts.reward = 'squared'  # -error^2; clipped: -min(error^2, 50), for p10,
  # ieee and exponent_first; absolute: -|error|; rank: in the group. In z-scores
  rollouts.num_updates = 1  # updates per rollout; beyond 1 the ratio is clipped

  config.trie = trie = ConfigDict()  # all numbers at once
  trie.max_nodes = 1024  # larger tries are not enumerated
  trie.beyond = 'error'  # there: prefix (first digits exactly, the rest
  # sampled), samples (rollouts.group_size of them)

  config.optimizer = optimizer = ConfigDict()  # AdamW, cosine to 0.1 · peak
  optimizer.warmup_steps = 100
  optimizer.weight_decay = 0.01  # PyTorch's default, which the paper keeps
  optimizer.max_grad_norm = 0.0  # 0: no clipping

  config.baseline = baseline = ConfigDict()  # instead of a network
  baseline.name = ''  # linear, random_forest, catboost, xgboost, lightgbm
  baseline.trials = 0  # of an Optuna search on validation rows; 0: defaults

  config.eval = evaluation = ConfigDict()
  evaluation.num_samples = 128  # per row
  evaluation.temperature = 1.0
  evaluation.batch_size = 128  # rows per dispatch
  evaluation.rail_numbers = 0  # evenly spaced, for the estimators rail and
  # rail_normalized (RAIL on a subset); the whole grid's is exact_mean
  evaluation.recalibrate = True  # temperature and conformal, on validation rows

  config.mesh = mesh = ConfigDict()  # devices along each axis; -1: the rest
  mesh.replica = 1  # seeds
  mesh.data = -1  # rows
  mesh.fsdp = 1  # rows, and the embed axis of parameters
  mesh.model = 1  # heads and feed-forward

  config.checkpoint = checkpoint = ConfigDict()
  checkpoint.every_seconds = 60.0  # 0: after every dispatch, waiting for disk
  checkpoint.keep = 2  # newest ones kept per stage

  config.profile = profile = ConfigDict()
  profile.steps = ''  # '10:13' traces steps 10 to 12 of each stage

  config.report = True  # report.html and figures
  config.steps_per_dispatch = 0  # 0: about a second's worth
  config.lock()  # A recipe that misspells a field says so.
  return config
