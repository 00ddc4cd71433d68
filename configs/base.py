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
  config.stages = ('ce', 'rl')  # what to run: ('ce',), ('ce', 'rl') or ('rl',)
  config.init_from = ''  # workdir to take weights from; replaces stage 'ce'
  config.batch_size = 128  # rows per step, of each seed
  config.hyperparameters = 'config'  # or 'official': the paper's, by data.name

  config.data = data = ConfigDict()  # first of path, openml, root that is set
  data.path = ''  # a .csv, .tsv, .csv.gz or .parquet file
  data.openml = ''  # an OpenML dataset's name or id; needs the network
  data.root = ''  # folder of TALENT tasks
  data.name = 'diabetes'  # task under root; without root, scikit-learn's set
  data.target = ''  # target column, of path and openml

  config.tokenizer = tokenizer = ConfigDict()
  tokenizer.name = 'normalized'  # normalized, p10, ieee, exponent_first
  tokenizer.base = 2  # paper's sweep (base, digits): (2,8) (4,4) (6,4) (8,3)
  tokenizer.digits = 8  # digits, or mantissa digits
  tokenizer.rounding = 'round'  # normalized: round (GenRe²), truncate (DBR)
  tokenizer.edge = 'left'  # normalized: left or midpoint of the cell
  tokenizer.max_exponent = 10  # p10, exponent_first: E-10 .. E10
  tokenizer.exponent_digits = 1  # ieee

  config.model = model = ConfigDict()
  model.width = 256  # D, of memory and decoder
  model.num_layers = 3  # decoder layers
  model.num_heads = 4  # divides width
  model.feedforward = 1024  # in the decoder
  model.encoder_hidden = 1024  # MLP encoder
  model.encoder_layers = 3
  model.dropout = 0.1  # in stage 'ce' only

  config.ce = ce = ConfigDict()  # cross-entropy
  ce.epochs = 200
  ce.learning_rate = 5e-5  # peak; the paper searches 1e-5 .. 1e-4 per task
  ce.patience = 20  # epochs without a better validation loss; 0: never stop

  config.rl = rl = ConfigDict()  # reinforcement learning on whole numbers
  rl.advantage = 'remax'  # remax, grpo, dr_grpo, rloo, reinforce
  rl.epochs = 40  # the paper: 100, at the rate of 1e-5
  rl.learning_rate = 5e-5  # peak; the paper: 1e-5, or the searched CE rate
  rl.patience = 20  # epochs without a better validation reward; 0: never stop
  rl.group_size = 16  # samples per row
  rl.temperature = 1.0  # of sampling
  rl.reward = 'squared'  # -error^2; clipped: -min(error^2, 50), for p10, ieee
  # and exponent_first; absolute: -|error|. In z-scores.
  rl.num_updates = 1  # updates per rollout; beyond 1 the ratio is clipped
  rl.clip_low = 0.2  # ratio stays above 1 - clip_low
  rl.clip_high = 0.2  # and below 1 + clip_high
  rl.kl_weight = 0.0  # to the weights the stage starts from; 0: no reference
  rl.kl_estimator = 'k3'  # k1 (in the reward), k2, k3 (in the loss)
  rl.expert_weight = 0.0  # dense expert; the paper uses 0.05 for tables

  config.optimizer = optimizer = ConfigDict()  # AdamW, cosine to 0.1 · peak
  optimizer.warmup_steps = 100
  optimizer.weight_decay = 0.01  # PyTorch's default, which the paper keeps
  optimizer.max_grad_norm = 0.0  # 0: no clipping

  config.eval = evaluation = ConfigDict()
  evaluation.num_samples = 128  # per row
  evaluation.temperature = 1.0
  evaluation.batch_size = 128  # rows per dispatch

  config.mesh = mesh = ConfigDict()  # devices along each axis; -1: the rest
  mesh.replica = 1  # seeds
  mesh.data = -1  # rows
  mesh.fsdp = 1  # rows, and the embed axis of parameters
  mesh.model = 1  # heads and feed-forward

  config.checkpoint = checkpoint = ConfigDict()
  checkpoint.every_seconds = 60.0  # 0: after every dispatch
  checkpoint.keep = 2  # newest ones kept per stage

  config.steps_per_dispatch = 0  # 0: about a second's worth
  config.lock()  # A recipe that misspells a field says so.
  return config
