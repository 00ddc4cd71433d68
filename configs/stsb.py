"""Similarity of two sentences (STS-B) by a Gemma-2: the methods of RAFT.

Lukasik et al., ICLR 2025: Gemma-2 2B, all parameters, batch 16, dropout 0.1,
Adafactor at a constant rate of {1e-4, 1e-5, 1e-6}, best step on validation. The
prompt has the paper's intent in our words.

    python -m genre2_jax.main --config=configs/stsb.py:raft

After the colon one of METHODS, each a line. Decoding and RAIL are estimators
of the same run: `greedy` is decoding, `mean` is RAIL from 32 samples, `rail`
and `rail_normalized` are RAIL from the scored grid. So of zero_shot they are
zero-shot decoding and zero-shot RAIL, and of ce CE + decoding and CE + RAIL.

Data: TFDS's glue/stsb, whose train rows are split 4,887 / 862 and whose
validation rows test, as the paper's. Or a folder with train.csv, validation.csv
and test.csv of sentence1, sentence2 and score:

    --config.text.source=files --config.text.path=FOLDER \
      --config.text.target=score

Weights: the Hugging Face hub (google/gemma-2-2b asks for its licence first),
or any folder: --config.language_model.pretrained=FOLDER. A small model to begin
with takes minutes on a CPU: configs/pretrain_text.py.
"""

from configs import base

PROMPT = (
  'How similar in meaning are these two sentences, from 0 (unrelated) to 5 '
  '(the same)?\nSentence 1: {sentence1}\nSentence 2: {sentence2}\nSimilarity: '
)

_RAFT = {'stages': ('finetune',), 'finetune.dropout': True}
_AFTER_CE = {'stages': ('pretrain', 'finetune'), 'finetune.dropout': False}


def _raft(name, **options):
  return _RAFT | {'finetune.objective': ((name, 1.0, options),)}


def _head(kind):
  return {
    'stages': ('pretrain',),
    'pretrain.objective': (('mse', 1.0, {}),),
    'language_model.head': kind,
  }


def _policy_gradient(name, **options):
  return _AFTER_CE | {'finetune.objective': ((name, 1.0, options),)}


METHODS = {
  'zero_shot': {'stages': ()},
  'ce': {'stages': ('pretrain',)},
  'raft': _raft('raft'),
  'raft_normalized': _raft('raft', normalize=True),
  'learnable_raft': _raft('raft', learnable=True),
  'mbr': _raft('mbr'),
  'log_loss': _raft('log_loss', low=0.0, high=5.0),
  'special_token': _head('special_token'),
  'mlp': _head('mlp'),
  'mean': _head('mean'),
  'min': _head('min'),
  'max': _head('max'),
  'projection': _head('projection'),
  # Not in the paper.
  'crps': _raft('crps', normalize=True),
  'exact': _policy_gradient('exact'),
  'remax': _policy_gradient('remax'),
  'grpo': _policy_gradient('grpo'),
}


def get_config(method='raft'):
  """A method's config."""
  if method not in METHODS:
    raise ValueError(f'{method!r} is not one of {", ".join(METHODS)}')
  config = base.get_config()
  config.text.source, config.text.path = 'tfds', 'glue/stsb'
  config.text.tfds_splits = ('train[:85%]', 'train[85%:]', 'validation')
  config.text.prompt, config.text.target = PROMPT, 'label'
  config.text.max_length = 256
  gemma(config)
  # RAFT's grid for it; here with 0, which the scores reach.
  config.tokenizer.strings = '0..5'
  config.update_from_flattened_dict(METHODS[method])
  return config


def gemma(config):
  """Sets what RAFT's runs of Gemma-2 share."""
  language = config.language_model
  language.name, language.pretrained = 'gemma2', 'google/gemma-2-2b'
  language.vocabulary = 'all'
  language.remat = True
  config.tokenizer.name = 'strings'
  config.data.transform = 'none'  # Losses in the target's own unit.
  config.model.dropout = 0.1
  config.batch_size = 16
  optimizer = config.optimizer
  optimizer.name, optimizer.schedule = 'adafactor', 'constant'
  optimizer.warmup_steps = 0
  for stage in (config.pretrain, config.finetune):
    stage.learning_rate = 1e-5
    stage.epochs, stage.patience = 10, 3
  config.eval.num_samples = 32
  config.eval.batch_size = 32
  config.mesh.data, config.mesh.fsdp = 1, -1
