"""A subword tokenizer of a few hundred pieces, and reviews that it reads."""

import json

import numpy as np

STARS = {'awful': 1, 'poor': 2, 'average': 3, 'good': 4, 'superb': 5}
THINGS = ('phone', 'case', 'charger', 'cable', 'headset', 'screen')
PROMPT = 'Review: {review} Stars: '


def write_tokenizer(folder):
  """A folder of Hugging Face's format: BPE, every digit a subword."""
  import tokenizers
  import transformers

  model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token='<unk>'))
  model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Digits(individual_digits=True),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=120,
    special_tokens=['<pad>', '<eos>', '<bos>', '<unk>'],
    initial_alphabet=list('0123456789.abcdeABCDE'),
    show_progress=False,
  )
  lines = [f'Review: this {t} is {w} Stars: ' for t in THINGS for w in STARS]
  model.train_from_iterator([*lines, *lines, '12 3.45 06789'], trainer)
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=model, pad_token='<pad>', eos_token='<eos>',
    bos_token='<bos>', unk_token='<unk>',
  )  # fmt: skip
  fast.save_pretrained(str(folder))
  return folder


def reviews(num_rows=80, seed=0):
  """[{review, stars}]: texts of several lengths whose stars are learnable."""
  draw = np.random.RandomState(seed)
  words = list(STARS)
  rows = []
  for _ in range(num_rows):
    word = words[draw.randint(len(words))]
    things = draw.choice(THINGS, draw.randint(1, 10))
    rows.append(
      {'review': f'this {" ".join(things)} is {word}', 'stars': STARS[word]}
    )
  return rows


def write_json_lines(path, rows):
  """A JSONL file."""
  path.write_text(
    ''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8'
  )
  return path


SIZES = {
  'vocab_size': 128, 'width': 16, 'num_layers': 2, 'num_heads': 4,
  'num_kv_heads': 2, 'head_dim': 8, 'feedforward': 16, 'sliding_window': 8,
}  # fmt: skip


def drawn(sizes):
  """{field: value} of a language model of some sizes, its weights drawn."""
  return {'language_model.pretrained': ''} | {
    f'language_model.sizes.{name}': size for name, size in sizes.items()
  }


def write_home(folder):
  """A folder with reviews.jsonl and their tokenizer."""
  write_json_lines(folder / 'reviews.jsonl', reviews(60))
  write_tokenizer(folder / 'tokenizer')
  return folder


def source_fields(home):
  """{field: value} to read the reviews and the tokenizer in `home`."""
  return {
    'text.source': 'files', 'text.path': str(home / 'reviews.jsonl'),
    'text.prompt': PROMPT, 'text.target': 'stars',
    'text.max_rows': (0, 0, 0), 'text.cache': str(home / 'cache'),
    'language_model.tokenizer': str(home / 'tokenizer'), 'text.buckets': 1,
  }  # fmt: skip


def tiny_fields(home):
  """{field: value} that make a recipe for texts tiny, on what is in `home`."""
  return drawn(SIZES) | source_fields(home) | {
    'language_model.special_token': '<unk>',
    'language_model.compute_dtype': 'float32',
    'language_model.remat': False,
    'model.width': 16, 'model.num_layers': 1, 'model.num_heads': 2,
    'model.feedforward': 16, 'model.head_hidden': 8,
    'batch_size': 16, 'eval.batch_size': 16, 'eval.num_samples': 4,
    'pretrain.epochs': 2, 'finetune.epochs': 2, 'rollouts.group_size': 4,
    'pretrain.learning_rate': 0.01, 'finetune.learning_rate': 0.01,
    'optimizer.name': 'adamw', 'optimizer.warmup_steps': 1,
    'report': False,
  }  # fmt: skip
