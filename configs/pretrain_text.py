"""A small Gemma from plain texts: `python -m genre2_jax.pretrain_text`."""

from ml_collections import ConfigDict


def get_config():
  """All fields at their defaults: a model that a CPU trains in minutes."""
  config = ConfigDict()
  config.seed = 0  # of weights and order
  config.texts = ('',)  # files or globs; 'FILE.csv:a,b' (also .tsv, .jsonl):
  # columns a and b of each row, a line each, as one text
  config.vocab_size = 2048  # subwords at most
  config.length = 64  # subwords of a sequence
  config.batch_size = 32  # sequences per step
  config.epochs = 4  # over all sequences
  config.held_out = 0.02  # share of the texts that is not trained on
  config.compute_dtype = 'float32'  # or bfloat16
  config.checkpoint_seconds = 60.0  # between two

  config.optimizer = optimizer = ConfigDict()  # AdamW, cosine to 0.1 · peak
  optimizer.learning_rate = 3e-3  # peak
  optimizer.warmup_steps = 100
  optimizer.weight_decay = 0.01
  optimizer.max_grad_norm = 1.0

  config.family = 'gemma2'  # or gemma3: normed queries and keys, two rotary
  # bases, five local layers to a global one
  config.model = model = ConfigDict()  # its sizes
  model.width = 128
  model.num_layers = 2
  model.num_heads = 4
  model.num_kv_heads = 2
  model.head_dim = 32
  model.feedforward = 512
  model.sliding_window = 64
  model.max_length = 512  # context that it is said to be made for
  config.lock()
  return config
