"""Plain texts to pretrain a language model on, and a tokenizer of their own.

The tokenizer is one of Hugging Face's, laid out like Gemma's: byte-pair
encoding with byte fallback, digits apart, a space as part of the word behind
it, <pad> 0, <eos> 1, <bos> 2, <unk> 3. `tokenizers` is imported where it is
used.
"""

import glob
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from genre2_jax.data.reading import path_of, read_frame
from genre2_jax.errors import InputError

SPECIAL_TOKENS = ('<pad>', '<eos>', '<bos>', '<unk>')
_BOS, _EOS = 2, 1
_INSTALL = "pip install 'tokenizers>=0.20'"


def read_documents(source: str) -> list[str]:
  """The texts that a source names, the empty ones left out.

  Args:
    source: 'FILE' or a glob of files, each one document; 'FILE:A,B' of a .csv,
      .tsv or .jsonl file, of which columns A and B of every row, a line each,
      are one document.

  Raises:
    InputError: no such file or column.
  """
  path, _, columns = source.rpartition(':')
  if not path or '.' not in pathlib.Path(path).name:
    path, columns = source, ''
  if not columns:
    return [text for text in map(_read, _files(path)) if text.strip()]
  try:
    frame = read_frame(path)
  except InputError as error:
    raise InputError(f'texts={source}: cannot read it ({error})') from error
  names = columns.split(',')
  missing = [name for name in names if name not in frame]
  if missing:
    raise InputError(
      f'texts={source}: no column {", ".join(missing)}; there are '
      f'{", ".join(map(str, frame))}'
    )
  rows = zip(
    *(frame[name].fillna('').astype(str) for name in names), strict=True
  )
  texts = ('\n'.join(row) for row in rows)
  return [text for text in texts if text.strip()]


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Any:
  """A `tokenizers.Tokenizer` of the documents' most frequent pieces.

  Args:
    documents: texts.
    vocab_size: subwords at most, the 4 special ones and 256 bytes included;
      fewer where the texts have no more pairs to merge.

  Raises:
    InputError: too few subwords for bytes and ASCII, or no `tokenizers`.
  """
  least = len(SPECIAL_TOKENS) + 256 + 96
  if vocab_size < least:
    raise InputError(
      f'vocab_size={vocab_size} has no room for bytes and letters: {least} or '
      'more'
    )
  try:
    import tokenizers
  except ImportError as error:
    raise InputError(f'tokenizers is not installed: {_INSTALL}') from error
  parts = tokenizers.pre_tokenizers
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.normalizer = tokenizers.normalizers.Replace(' ', '▁')
  tokenizer.pre_tokenizer = parts.Sequence(
    [
      parts.Split('▁', 'merged_with_next'),
      parts.Split('\n', 'isolated'),
      parts.Digits(individual_digits=True),
      parts.Punctuation('isolated'),
    ]
  )
  fallback = [f'<0x{byte:02X}>' for byte in range(256)]
  tokenizer.train_from_iterator(
    documents,
    tokenizers.trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=[*SPECIAL_TOKENS, *fallback],
      # All of ASCII is there even if the texts miss some of it.
      initial_alphabet=['▁', '\n', *map(chr, range(33, 127))],
      limit_alphabet=max(96, (vocab_size - 260) // 4),
      show_progress=False,
    ),
  )
  layout = json.loads(tokenizer.to_str())
  layout['model'] |= {
    'byte_fallback': True,
    'unk_token': '<unk>',
    'fuse_unk': True,
  }
  # Bytes are subwords like others: '<0x0A>' in a text is six letters.
  layout['added_tokens'] = layout['added_tokens'][: len(SPECIAL_TOKENS)]
  tokenizer = tokenizers.Tokenizer.from_str(json.dumps(layout))
  tokenizer.decoder = tokenizers.decoders.Sequence(
    [
      tokenizers.decoders.Replace('▁', ' '),
      tokenizers.decoders.ByteFallback(),
      tokenizers.decoders.Fuse(),
    ]
  )
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='<bos> $A',
    pair='<bos> $A $B',
    special_tokens=[('<bos>', _BOS)],
  )
  return tokenizer


def save_tokenizer(tokenizer: Any, folder: str | os.PathLike[str]) -> None:
  """Writes tokenizer.json and what `transformers` wants to know of it."""
  folder = path_of(folder)
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / 'tokenizer.json'))
  pad, eos, bos, unknown = SPECIAL_TOKENS
  described = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'pad_token': pad,
    'eos_token': eos,
    'bos_token': bos,
    'unk_token': unknown,
    'clean_up_tokenization_spaces': False,
  }
  (folder / 'tokenizer_config.json').write_text(
    json.dumps(described, indent=2) + '\n', encoding='utf-8'
  )


def pack(tokenizer: Any, documents: Sequence[str], length: int) -> np.ndarray:
  """Documents one after another, cut into sequences: int32 [N, length].

  Each document begins with <bos> and ends with <eos>; what does not fill a
  sequence at the end is left out.

  Raises:
    InputError: not even one sequence.
  """
  encoded = tokenizer.encode_batch(list(documents))  # <bos> is the template's.
  ids = [token for text in encoded for token in (*text.ids, _EOS)]
  count = len(ids) // length
  if not count:
    raise InputError(
      f'{len(ids)} tokens of text do not fill one sequence of {length}: give '
      'more texts, or shorter sequences'
    )
  return np.array(ids[: count * length], np.int32).reshape(count, length)


def _files(pattern):
  found = sorted(
    path
    for path in glob.glob(str(path_of(pattern)), recursive=True)
    if pathlib.Path(path).is_file()
  )
  if not found:
    raise InputError(f'texts={pattern}: no such file')
  return found


def _read(path):
  try:
    return pathlib.Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'texts={path}: no text in UTF-8 ({error})') from error
