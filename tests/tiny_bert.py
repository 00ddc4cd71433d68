"""A sentence encoder of a few thousand drawn weights, as a folder."""

import json

import numpy as np
import safetensors.numpy

WORDS = (
  'a', 'the', 'man', 'woman', 'dog', 'cat', 'is', 'eats', 'plays', 'runs',
  'good', 'bad', 'very', 'house', 'tree', 'big', 'small', '##s', '##ing', ',',
)  # fmt: skip
MARKS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
CONFIG = {
  'model_type': 'bert', 'hidden_size': 16, 'num_hidden_layers': 2,
  'num_attention_heads': 4, 'intermediate_size': 24,
  'max_position_embeddings': 32, 'type_vocab_size': 2, 'hidden_act': 'gelu',
  'layer_norm_eps': 1e-12, 'vocab_size': len(WORDS) + len(MARKS),
}  # fmt: skip


def write_tokenizer(folder):
  """WordPiece, as BERT's, whose file asks for padding and truncation."""
  import tokenizers
  import transformers

  vocabulary = {word: i for i, word in enumerate((*MARKS, *WORDS))}
  model = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(vocabulary, unk_token='[UNK]')
  )
  model.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]',
    pair='[CLS] $A [SEP] $B:1 [SEP]:1',
    special_tokens=[('[CLS]', 2), ('[SEP]', 3)],
  )
  model.enable_truncation(max_length=7)
  model.enable_padding(length=7, pad_token='[PAD]')
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=model, pad_token='[PAD]', unk_token='[UNK]',
    cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]',
  )  # fmt: skip
  fast.save_pretrained(str(folder))


def drawn_weights(config, seed=0):
  """{Hugging Face's name: float32 array}, large enough for all to matter."""
  draw = np.random.default_rng(seed)
  width, feedforward = config['hidden_size'], config['intermediate_size']
  shapes = {
    'embeddings.word_embeddings.weight': (config['vocab_size'], width),
    'embeddings.position_embeddings.weight': (
      config['max_position_embeddings'], width,
    ),
    'embeddings.token_type_embeddings.weight': (2, width),
  }  # fmt: skip
  linear = {}
  for layer in range(config['num_hidden_layers']):
    of = f'encoder.layer.{layer}.'
    for name in ('query', 'key', 'value'):
      linear[f'{of}attention.self.{name}'] = width, width
    linear[f'{of}attention.output.dense'] = width, width
    linear[f'{of}intermediate.dense'] = feedforward, width
    linear[f'{of}output.dense'] = width, feedforward
  for name, shape in linear.items():
    shapes[f'{name}.weight'], shapes[f'{name}.bias'] = shape, shape[:1]
  norms = ['embeddings.LayerNorm']
  for layer in range(config['num_hidden_layers']):
    of = f'encoder.layer.{layer}.'
    norms += [f'{of}attention.output.LayerNorm', f'{of}output.LayerNorm']
  weights = {n: draw.normal(0, 0.5, shape) for n, shape in shapes.items()}
  for name in norms:
    weights[f'{name}.weight'] = draw.uniform(0.5, 1.5, width)
    weights[f'{name}.bias'] = draw.normal(0, 0.3, width)
  return {name: x.astype(np.float32) for name, x in weights.items()}


def write_encoder(folder, *, pooling='mean', normalized=True, seed=0, **config):
  """A folder as sentence-transformers writes it."""
  folder.mkdir(exist_ok=True)
  write_tokenizer(folder)
  config = CONFIG | config
  write_json(folder / 'config.json', config)
  weights = drawn_weights(config, seed)
  weights['embeddings.position_ids'] = np.arange(4)
  safetensors.numpy.save_file(weights, folder / 'model.safetensors')
  kinds = ['Transformer', 'Pooling', 'Normalize'][: 2 + normalized]
  write_json(
    folder / 'modules.json',
    [
      {'path': path, 'type': f'sentence_transformers.models.{kind}'}
      for kind, path in zip(kinds, ('', '1_Pooling', '2_Normalize'))  # noqa: B905
    ],
  )
  (folder / '1_Pooling').mkdir(exist_ok=True)
  modes = {'mean': 'mean_tokens', 'cls': 'cls_token', 'max': 'max_tokens'}
  write_json(
    folder / '1_Pooling' / 'config.json',
    {'word_embedding_dimension': 16}
    | {f'pooling_mode_{m}': name == pooling for name, m in modes.items()},
  )
  write_json(folder / 'sentence_bert_config.json', {'max_seq_length': 12})
  return folder


def write_json(path, data):
  path.write_text(json.dumps(data), encoding='utf-8')


def sentences(num_rows, seed=0):
  """[str]: of 1 to 8 words."""
  draw = np.random.RandomState(seed)
  words = [word for word in WORDS if word.isalpha()]
  return [
    ' '.join(draw.choice(words, draw.randint(1, 9))) for _ in range(num_rows)
  ]
