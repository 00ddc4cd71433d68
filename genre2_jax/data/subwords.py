"""Texts as a language model reads them: subword ids, padded on the right.

The subword tokenizer is one of Hugging Face's. What it makes of a set of texts
is kept on disk, under a hash of texts and tokenizer, so that a set is tokenised
once. `transformers` is imported where it is used.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from genre2_jax.data import stored, tables
from genre2_jax.data.reading import path_of, user_cache
from genre2_jax.data.stored import GrowingRagged, Ragged, StoredStrings
from genre2_jax.data.texts import TextRows, Texts
from genre2_jax.data.wording import say
from genre2_jax.errors import InputError, one_line

PADDING = 0
TRUNCATE = ('', 'start', 'end')
_INSTALL = "pip install 'transformers>=5.0'"
# Widths are multiples of this: rows a few tokens longer compile nothing new.
_MULTIPLE = 8
# Tokenised at once: texts, and letters of them, of which each may take a
# hundred bytes meanwhile.
_BATCH, _LETTERS = 4096, 2**20
# Of a subword, on average: what is beyond them is not even looked at.
_MOST_CHARACTERS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFeatures:
  """How prompts become subword ids.

  Attributes:
    prompt: the template of the training rows.
    tokenizer: a folder, or a name on the Hugging Face hub.
    fingerprint: hash of the tokenizer, to tell it from a changed one.
    max_length: subwords of a prompt at most, with the one that begins it.
    truncate: what longer ones lose: 'start', 'end', or '': they are refused.
    widths: ascending; rows are padded to the least that holds them.
    embedded: subwords that the language model embeds; 0: all.
    cache: folder of tokenised texts; '' for the user's cache, 'none' for none.
  """

  prompt: str
  tokenizer: str
  fingerprint: str
  max_length: int
  truncate: str = ''
  widths: tuple[int, ...] = ()
  embedded: int = 0
  cache: str = dataclasses.field(default='', compare=False)

  @classmethod
  def fit(
    cls,
    texts: Texts,
    tokenizer: str,
    *,
    max_length: int,
    truncate: str = '',
    num_buckets: int = 1,
    embedded: int = 0,
    cache: str = '',
    **own: Any,
  ) -> Self:
    """Features of a set's prompts; widths hold those of all its splits.

    Args:
      texts: the set.
      tokenizer: a folder, or a name on the Hugging Face hub.
      max_length: of prompts.
      truncate: what longer ones lose.
      num_buckets: widths at most, those that pad the training rows least.
      embedded: subwords that the language model embeds; 0: all.
      cache: folder of tokenised texts.
      **own: fields that `TextFeatures` does not have.

    Raises:
      InputError: no such tokenizer, or prompts longer than max_length.
    """
    features = cls(
      prompt=texts.prompt,
      tokenizer=tokenizer,
      fingerprint=fingerprint(tokenizer),
      max_length=max_length,
      truncate=truncate,
      embedded=embedded,
      cache=cache,
      **own,
    )
    lengths = {
      split: features.encode(getattr(texts, split).text).lengths
      for split in tables.SPLITS
    }
    _check_lengths(
      f'{texts.name}: {tokenizer}',
      np.concatenate(list(lengths.values())),
      max_length,
      truncate,
    )
    widths = _widths(lengths, max_length, num_buckets)
    return dataclasses.replace(features, widths=widths)

  def fits(self, table: object) -> bool:
    """Whether a task has prompts of the same template."""
    return isinstance(table, Texts) and table.prompt == self.prompt

  def example_inputs(self) -> dict[str, np.ndarray]:
    """Inputs of one row, for shapes."""
    return {
      'tokens': np.zeros((1, self.widths[-1]), np.int32),
      'length': np.ones(1, np.int32),
    }

  def transform(self, rows: TextRows) -> dict[str, np.ndarray]:
    """'tokens': int32 [n, L], right-padded with 0, 'length': int32 [n].

    Raises:
      InputError: prompts longer than max_length, unless they are truncated.
    """
    ids = self.encode(rows.text)
    lengths = ids.lengths
    _check_lengths(self.tokenizer, lengths, self.max_length, self.truncate)
    longest = min(lengths.max(), self.max_length)
    fitting = [width for width in self.widths if width >= longest]
    width = self.widths[-1] if fitting else self.max_length
    tokens = stored.zeros((len(rows), width), np.int32)  # All padding.
    for row, own in enumerate(ids):
      part = self._truncated(own)
      tokens[row, : len(part)] = part
    return {
      'tokens': tokens,
      'length': np.minimum(lengths, self.max_length).astype(np.int32),
    }

  def encode(self, texts: Sequence[str] | np.ndarray | StoredStrings) -> Ragged:
    """Subword ids of each text: int32.

    Each begins with the tokenizer's BOS, if it has one. From the cache, if it
    knows the texts.
    """
    path = self._cache_path(texts)
    ids = _read_cache(path, len(texts)) if path else None
    if ids is None:
      ids = self._encoded(texts, path)
    if self.embedded and ids.values.max(initial=0) >= self.embedded:
      first = int(np.argmax(ids.values >= self.embedded))
      row = np.arange(len(texts)) == ids.row_of(first)
      subword = load_tokenizer(self.tokenizer).convert_ids_to_tokens(
        int(ids.values[first])
      )
      raise InputError(
        f'{self.tokenizer}: the text in {tables.located(row)}, has '
        f'{subword!r}, which the language model does not embed; remove it'
      )
    return ids

  def _encoded(self, texts, path):
    """What `encode` returns, made and kept at `path` unless that is None."""
    tokenizer = load_tokenizer(self.tokenizer)
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    grown = GrowingRagged(np.int32)
    for part in _parts_of(texts):
      encoded = tokenizer(
        part,
        add_special_tokens=False,
        return_attention_mask=False,
        verbose=False,
      )
      grown.append([first + own for own in encoded['input_ids']])
    ids = grown.finish()
    if not ids.lengths.all():
      raise InputError(
        f'{self.tokenizer}: makes no subword of the text in '
        f'{tables.located(ids.lengths == 0)}; remove these rows'
      )
    if path:
      _write_cache(path, ids)
    return ids

  def to_json(self) -> dict[str, Any]:
    """Plain lists and numbers, for json.dump."""
    data = dataclasses.asdict(self)
    del data['cache']  # of this machine
    return data | {'widths': list(self.widths)}

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`.

    Raises:
      InputError: anything else, or a tokenizer that has changed since.
    """
    kinds = {
      'prompt': str, 'tokenizer': str, 'fingerprint': str, 'max_length': int,
      'truncate': str, 'widths': list, 'embedded': int,
    }  # fmt: skip
    data = {'embedded': 0, **data}  # Older runs had none.
    if set(data) != set(kinds) or any(
      type(data[key]) is not kind for key, kind in kinds.items()
    ):
      raise InputError(
        f'saved TextFeatures: the keys must be {", ".join(kinds)}; save it '
        'again'
      )
    features = cls(**{**data, 'widths': tuple(data['widths'])})
    if fingerprint(features.tokenizer) != features.fingerprint:
      raise InputError(
        f'the tokenizer {features.tokenizer} has changed since training: '
        'restore it'
      )
    return features

  def _truncated(self, ids):
    if len(ids) <= self.max_length:
      return ids
    if self.truncate == 'end':
      return ids[: self.max_length]
    # BOS stays, where there is one.
    has_bos = load_tokenizer(self.tokenizer).bos_token_id is not None
    kept = ids[: int(has_bos)]
    return np.concatenate([kept, ids[len(ids) - self.max_length + len(kept) :]])

  def _cache_path(self, texts):
    if self.cache == 'none':
      return None
    folder = self.cache or user_cache()
    digest = hashlib.sha256(self.fingerprint.encode())
    for text in texts:
      data = text.encode('utf-8', 'surrogatepass')
      digest.update(len(data).to_bytes(8, 'little') + data)
    return path_of(folder) / f'{digest.hexdigest()[:40]}.npy'


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceFeatures(TextFeatures):
  """How one text or a pair becomes subword ids for a sentence encoder.

  Longer ones lose their end, not the marks around them.

  Attributes:
    second: the template of the second texts of pairs, or ''.
  """

  second: str = ''

  @classmethod
  def fit_texts(
    cls, texts: Texts, tokenizer: str, *, max_length: int, num_buckets: int = 1
  ) -> Self:
    """Features of a set's texts; widths hold those of all its splits.

    Args:
      texts: the set, of texts or pairs.
      tokenizer: a folder, or a name on the Hugging Face hub.
      max_length: subwords of a text at most, with its marks.
      num_buckets: widths at most, those that pad the training rows least.

    Raises:
      InputError: no such tokenizer.
    """
    features = cls(
      prompt=texts.prompt,
      second=texts.second,
      tokenizer=tokenizer,
      fingerprint=fingerprint(tokenizer),
      max_length=max_length,
    )
    lengths = {}
    num_cut = 0
    for split in tables.SPLITS:
      parts, cut = features._read(getattr(texts, split))
      lengths[split] = _lengths(parts).max(axis=1)
      num_cut += cut
    if num_cut:
      say(
        f'{texts.name}: {num_cut} texts are longer than {max_length} subwords: '
        'their ends are left out'
      )
    widths = _widths(lengths, max_length, num_buckets)
    return dataclasses.replace(features, widths=widths)

  def fits(self, table: object) -> bool:
    """Whether a task has texts of the same templates."""
    return super().fits(table) and getattr(table, 'second', '') == self.second

  def example_inputs(self) -> dict[str, np.ndarray]:
    """Inputs of one row, for shapes."""
    count = 1 + bool(self.second)
    return {
      'tokens': np.zeros((1, count, self.widths[-1]), np.int32),
      'lengths': np.ones((1, count), np.int32),
      'length': np.ones(1, np.int32),
    }

  def transform(self, rows: TextRows) -> dict[str, np.ndarray]:
    """'tokens' int32 [n, P, L], 'lengths' [n, P], and the longest 'length' [n].

    P is 2 of pairs, otherwise 1.
    """
    parts, _ = self._read(rows)
    lengths = _lengths(parts)
    fitting = [width for width in self.widths if width >= lengths.max()]
    width = self.widths[-1] if fitting else self.max_length
    tokens = stored.zeros((*lengths.shape, width), np.int32)  # All padding.
    for place, texts in enumerate(parts):
      for row, ids in enumerate(texts):
        tokens[row, place, : len(ids)] = ids
    return {
      'tokens': tokens, 'lengths': lengths, 'length': lengths.max(axis=1),
    }  # fmt: skip

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`.

    Raises:
      InputError: anything else, or a tokenizer that has changed since.
    """
    second = data.get('second')
    if not isinstance(second, str):
      raise InputError(
        'saved SentenceFeatures: second is no text; save it again'
      )
    own = {name: x for name, x in data.items() if name != 'second'}
    return dataclasses.replace(super().from_json(own), second=second)

  def _read(self, rows):
    """([subword ids of each text] of one or two, how many were cut)."""
    parts = [rows.text, *([] if rows.second is None else [rows.second])]
    read = [
      sentence_ids(self.tokenizer, part, self.max_length) for part in parts
    ]
    return [ids for ids, _ in read], sum(cut for _, cut in read)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeFeatures(TextFeatures):
  """How prompts, and what a judge writes behind them, become subword ids.

  Attributes:
    rationale: the template of what is written.
    end: the subword that ends it.
    budget: W, subwords of it at most, without the end.
  """

  rationale: str = ''
  end: str = ''
  budget: int = 1

  @property
  def end_id(self) -> int:
    """Of the subword that ends a text. Raises InputError without one."""
    return id_of(self.tokenizer, self.end)

  def fits(self, table: object) -> bool:
    """Whether a task has texts of the same templates."""
    return (
      super().fits(table) and getattr(table, 'rationale', '') == self.rationale
    )

  def example_inputs(self) -> dict[str, np.ndarray]:
    """Inputs of one row, for shapes."""
    return super().example_inputs() | {
      'text': np.zeros((1, self.budget), np.int32),
      'text_length': np.zeros(1, np.int32),
    }

  def transform(self, rows: TextRows) -> dict[str, np.ndarray]:
    """`TextFeatures.transform`, and what is written where it is known.

    'text': int32 [n, W], right-padded, and 'text_length': int32 [n]; longer
    ones lose their end.
    """
    inputs = super().transform(rows)
    if rows.rationale is None:
      return inputs
    ids = self._written(rows.rationale)
    text = np.full((len(ids), self.budget), PADDING, np.int32)
    for row, own in enumerate(ids):
      text[row, : len(own)] = own[: self.budget]
    length = np.array([min(len(own), self.budget) for own in ids], np.int32)
    return inputs | {'text': text, 'text_length': length}

  def decode(self, tokens: np.ndarray) -> list[str]:
    """Texts of subword ids [n, W], of which negative ones are none."""
    tokenizer = load_tokenizer(self.tokenizer)
    return [tokenizer.decode(row[row >= 0].tolist()) for row in tokens]

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`.

    Raises:
      InputError: anything else, or a tokenizer that has changed since.
    """
    kinds = {'rationale': str, 'end': str, 'budget': int}
    if any(type(data.get(name)) is not kind for name, kind in kinds.items()):
      raise InputError(
        f'saved JudgeFeatures: {", ".join(kinds)} are needed; save it again'
      )
    rest = {name: x for name, x in data.items() if name not in kinds}
    own = {name: data[name] for name in kinds}
    return dataclasses.replace(super().from_json(rest), **own)

  def _written(self, texts):
    """[subword ids of each text], none of which has the end in it."""
    tokenizer = load_tokenizer(self.tokenizer)
    encoded = tokenizer(
      list(texts), add_special_tokens=False, return_attention_mask=False,
      verbose=False,
    )['input_ids']  # fmt: skip
    bad = np.array([self.end_id in ids for ids in encoded], bool)
    if bad.any():
      raise InputError(
        f'text.rationale has {self.end!r}, which ends a text, in '
        f'{tables.located(bad)}: set text.end to a subword that none has'
      )
    over = np.array(
      [max(ids, default=0) >= (self.embedded or np.inf) for ids in encoded]
    )
    if over.any():
      raise InputError(
        f'{self.tokenizer}: the rationale in {tables.located(over)}, has a '
        'subword that the language model does not embed; remove it'
      )
    cut = sum(len(ids) > self.budget for ids in encoded)
    if cut:
      say(
        f'{cut} of {len(encoded)} rationales are longer than text.budget='
        f'{self.budget} subwords: their ends are left out'
      )
    return encoded


def _lengths(parts):
  """int32 [n, P] of the subword ids of texts."""
  return np.stack([part.lengths for part in parts], axis=1)


@contextlib.contextmanager
def _without_advice():
  """What `transformers` misses on import is not needed.

  PyTorch, and in a notebook the widgets of progress bars.
  """
  name = 'TRANSFORMERS_NO_ADVISORY_WARNINGS'
  before = os.environ.get(name)
  os.environ[name] = before or '1'
  try:
    with warnings.catch_warnings():
      warnings.filterwarnings('ignore', 'IProgress not found')
      yield
  finally:
    if before is None:
      del os.environ[name]


@functools.lru_cache(maxsize=4)
def load_tokenizer(name: str) -> Any:
  """A tokenizer of `transformers`, from a folder or the Hugging Face hub.

  Raises:
    InputError: there is none, or `transformers` is not installed.
  """
  try:
    with _without_advice():
      from transformers import AutoTokenizer
  except ImportError as error:
    raise InputError(f'texts need transformers: {_INSTALL}') from error
  is_path = name.startswith(('.', '/', '~')) or name.count('/') > 1
  if not name or (is_path and not os.path.isdir(os.path.expanduser(name))):
    raise InputError(
      f'language_model.tokenizer={name!r}: no such folder; give one with '
      'tokenizer.json, or a name on the Hugging Face hub'
    )
  try:
    return AutoTokenizer.from_pretrained(os.path.expanduser(name))
  # The network, the hub's answers and several parsers are behind this call.
  except Exception as error:
    raise InputError(
      f'language_model.tokenizer={name!r}: not loaded, '
      f'{one_line(error)}; give a folder with tokenizer.json, or a name '
      'on the Hugging Face hub'
    ) from error


@functools.lru_cache(maxsize=4)
def fingerprint(name: str) -> str:
  """Hash of what a tokenizer does: vocabulary, rules and BOS.

  Padding and truncation are left out: a fast tokenizer keeps those of the last
  call, and we ask for neither.
  """
  tokenizer = load_tokenizer(name)
  backend = getattr(tokenizer, 'backend_tokenizer', None)
  if backend is not None:
    same = type(backend).from_str(backend.to_str())
    same.no_padding()
    same.no_truncation()
    said = same.to_str()
  else:
    said = repr(sorted(tokenizer.get_vocab().items()))
  said += repr((type(tokenizer).__name__, tokenizer.bos_token_id))
  return hashlib.sha256(said.encode()).hexdigest()[:40]


def sentence_ids(
  name: str, texts: Sequence[str] | np.ndarray | StoredStrings, max_length: int
) -> tuple[Ragged, int]:
  """Subword ids of texts with the marks that the tokenizer puts around one.

  Such as [CLS] and [SEP]. A longer text loses its end, not its marks.

  Args:
    name: of the tokenizer.
    texts: n texts.
    max_length: subwords at most, with the marks.

  Returns:
    (int32 [length] of each, how many texts were cut).
  """
  tokenizer = load_tokenizer(name)
  grown = GrowingRagged(np.int32)
  num_cut = 0
  most = _MOST_CHARACTERS * max_length
  for part in _parts_of(text[:most] for text in texts):
    found = _with_marks(tokenizer, part)
    long = [i for i, ids in enumerate(found) if len(ids) > max_length]
    if long:
      cut = _with_marks(
        tokenizer, [part[i] for i in long], truncation=True,
        max_length=max_length,
      )  # fmt: skip
      for i, ids in zip(long, cut, strict=True):
        found[i] = ids
    num_cut += len(long)
    grown.append(found)
  return grown.finish(), num_cut


def _parts_of(texts: Iterable[str]) -> Iterator[list[str]]:
  """Texts in order, as many as are tokenised at once."""
  part: list[str] = []
  letters = 0
  for text in texts:
    part.append(text)
    letters += len(text)
    if len(part) == _BATCH or letters >= _LETTERS:
      yield part
      part, letters = [], 0
  if part:
    yield part


def _with_marks(tokenizer, texts, **options):
  encoded = tokenizer(
    texts,
    add_special_tokens=True,
    return_attention_mask=False,
    verbose=False,
    **options,
  )
  return encoded['input_ids']


def vocabulary_size(name: str) -> int:
  """Subwords of a tokenizer, special ones included."""
  return len(load_tokenizer(name))


def has_unembedded(name: str, embedded: int) -> bool:
  """Whether texts are made of subwords that a language model does not embed.

  Marks that no text has do not count, as the place of an image in a Gemma 3:
  `TextFeatures.encode` refuses a text that has one all the same.

  Args:
    name: of the tokenizer.
    embedded: subwords that the model embeds.
  """
  tokenizer = load_tokenizer(name)
  beyond = {i for i in tokenizer.get_vocab().values() if i >= embedded}
  return not beyond <= set(tokenizer.added_tokens_decoder)


def id_of(name: str, subword: str) -> int:
  """The id of one subword. Raises InputError if the vocabulary lacks it."""
  vocabulary = load_tokenizer(name).get_vocab()
  if subword not in vocabulary:
    raise InputError(
      f'the tokenizer {name} has no subword {subword!r}: give one that it has'
    )
  return vocabulary[subword]


def number_subwords(
  name: str, strings: Sequence[str], new_from: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """The subword that each number token is.

  A string that is several subwords, or none, is refused, or gets an id of its
  own, from `new_from` on. A mark of a word's beginning alone does not count.

  Args:
    name: of the tokenizer.
    strings: V token strings.
    new_from: first id of new tokens; None: there are none.

  Returns:
    (ids int32 [V], the first subword of each new token's string).

  Raises:
    InputError: a string that is no single subword, or two that are the same.
  """
  tokenizer = load_tokenizer(name)
  ids: list[int] = []
  first: list[int] = []
  refused = []
  for string in strings:
    found = tokenizer(string, add_special_tokens=False)['input_ids']
    pieces = tokenizer.convert_ids_to_tokens(found)
    if len(found) > 1 and pieces[0] == '▁':
      found, pieces = found[1:], pieces[1:]
    if len(found) == 1 and found[0] != tokenizer.unk_token_id:
      ids.append(found[0])
    elif new_from is not None:
      ids.append(new_from + len(first))
      first.append(found[0] if found else 0)
    else:
      refused.append((string, pieces))
  if refused:
    string, pieces = refused[0]
    raise InputError(
      f'{len(refused)} of {len(strings)} number tokens are no single subword '
      f'of {name}: {string!r} is {" + ".join(map(repr, pieces)) or "none"}; '
      'take other strings, tokenizer.name=decimal, or set '
      'language_model.new_tokens'
    )
  for i, string in enumerate(strings):
    if ids[i] in ids[:i]:
      raise InputError(
        f'number tokens {strings[ids.index(ids[i])]!r} and {string!r} are one '
        f'subword of {name}: take other strings'
      )
  return np.array(ids, np.int32), np.array(first, np.int32)


def _check_lengths(where, lengths, max_length, truncate):
  too_long = int((lengths > max_length).sum())
  if too_long and not truncate:
    raise InputError(
      f'{where}: {too_long} of {len(lengths)} prompts are longer than '
      f'text.max_length={max_length} subwords, the longest has '
      f'{lengths.max()}: raise it, or set text.truncate=start or end'
    )


def _widths(
  lengths: Mapping[str, np.ndarray], max_length: int, num_buckets: int
) -> tuple[int, ...]:
  """Widths that pad the training rows least and hold those of all splits."""
  longest = max(part.max() for part in lengths.values())
  return _least_padding(
    [_rounded(length, max_length) for length in lengths['train']],
    _rounded(longest, max_length),
    num_buckets,
  )


def _least_padding(
  lengths: Sequence[int], longest: int, num_buckets: int
) -> tuple[int, ...]:
  """At most so many widths, ascending, that pad texts to least subwords.

  A width is one of the lengths, the last is `longest`; each text has the least
  that holds it. With fewer widths where more save nothing.
  """
  choices, counts = np.unique([*lengths, longest], return_counts=True)
  counts[-1] -= 1  # No text's own.
  below = np.concatenate([[0], np.cumsum(counts)])
  # (subwords, widths) of the texts up to choice k, which is the last width.
  best: list[tuple[int, tuple[int, ...]]] = [
    (int(below[k + 1] * width), (int(width),))
    for k, width in enumerate(choices)
  ]
  for _ in range(num_buckets - 1):
    found = []
    for k, width in enumerate(choices):
      split = [
        (size + int((below[k + 1] - below[j + 1]) * width), (*w, int(width)))
        for j, (size, w) in enumerate(best[:k])
      ]
      found.append(min([best[k], *split], key=lambda x: (x[0], len(x[1]))))
    best = found
  return best[-1][1]


def _rounded(width, max_length):
  return int(min(-(-width // _MULTIPLE) * _MULTIPLE, max_length))


def _read_cache(path, num_texts):
  """What `_write_cache` wrote, or None: absent, damaged or foreign."""
  if not path.exists():
    return None
  try:
    # Read when asked for: a large set does not fit into memory.
    array = np.asarray(np.load(path, mmap_mode='r', allow_pickle=False))
  # Whatever a damaged file raises, it is made again.
  except Exception:
    return None
  if array.dtype != np.int32 or array.ndim != 1 or len(array) < num_texts:
    return None
  lengths, values = np.split(array, [num_texts])
  total = lengths.sum(dtype=np.int64)
  is_whole = bool((lengths > 0).all()) and total == len(values)
  return Ragged(values, lengths) if is_whole else None


def _write_cache(path, ids):
  """Keeps tokenised texts, whole or not at all; a full disk is no error.

  One array: how many subwords each text has, and then they themselves.
  """
  parts = ids.lengths, ids.values
  header = np.lib.format.header_data_from_array_1_0(ids.values)
  header['shape'] = (sum(map(len, parts)),)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile(
      dir=path.parent, prefix=f'.{path.stem}', delete=False
    )
    try:
      with file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
          file.write(part.data)
      os.replace(file.name, path)
    except BaseException:
      os.unlink(file.name)
      raise
  except OSError:
    pass
