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
