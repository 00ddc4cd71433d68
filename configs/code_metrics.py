"""Metrics of programs by a T5Gemma encoder and a number decoder.

RLM (arXiv 2509.26476): frozen T5Gemma-small encoder, 2-layer decoder with 8
heads, IEEE-like digits, 2,048 subwords, Adafactor, median of 64 samples. GenRe²
(arXiv 2512.06533): targets as quantiles, clipped rewards, groups of 4.

    python -m genre2_jax.main --config=configs/ce_code.py \
      --config.text.path=programs.jsonl

Data: JSONL of `input`, the program, and `target`; a `split` column of train,
validation and test if there is one. Another column, as in RLM's:

    --config.text.target=val_accuracy

Weights: the Hugging Face hub, or --config.language_model.pretrained=FOLDER.
"""

from configs import base


def get_config(*objective):
  """Cross-entropy, then (name, weight, options) ... if there are any."""
  config = base.get_config()
  config.text.prompt, config.text.target = '{input}', 'target'
  config.text.max_length, config.text.truncate = 2048, 'end'
  config.text.buckets = 4
  config.data.transform = 'quantile'
  language = config.language_model
  language.name, language.pretrained = 't5gemma', 'google/t5gemma-s-s-ul2'
  config.tokenizer.name = 'ieee'
  config.tokenizer.base, config.tokenizer.digits = 10, 4
  model = config.model
  model.width, model.feedforward = 512, 2048
  model.num_layers, model.num_heads = 2, 8
  optimizer = config.optimizer
  optimizer.name, optimizer.schedule = 'adafactor', 'constant'
  config.pretrain.learning_rate = 1e-3
  config.finetune.learning_rate = 1e-4
  config.batch_size, config.eval.batch_size = 32, 32
  config.rollouts.group_size, config.rollouts.reward = 4, 'clipped'
  config.eval.num_samples = 64
  config.stages = ('pretrain',)
  if objective:
    config.stages = ('pretrain', 'finetune')
    config.finetune.objective = objective
  return config
