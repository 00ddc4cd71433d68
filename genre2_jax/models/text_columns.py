"""Numbers of free text, for tables: a frozen encoder's, fitted to train rows.

A column becomes the principal components of its vectors; a pair of texts
becomes u, v, |u − v|, u·v and their cosine. They are numeric columns like any
other from then on, behind those that the table has.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from genre2_jax.data import tables
from genre2_jax.data.columns import TEXT
from genre2_jax.data.tables import Rows, Table
from genre2_jax.data.wording import say
from genre2_jax.errors import InputError
from genre2_jax.models import pairs, sentence


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextColumns:
  """What makes numbers of the text of rows.

  Attributes:
    names: of the columns of text; of a pair those of its two texts.
    encoder: a folder, or a name on the Hugging Face hub.
    fingerprint: of the encoder, to tell it from a changed one.
    prompts: templates of the texts, of rows that come from `text.prompt`; ().
    is_pair: whether the two columns are read together.
    means: of each column's vectors [T][D]; () where they are not reduced.
    components: of each column [T][K][D], of length 1.
    cache: folder of vectors; '' for the user's cache, 'none' for none.
  """

  names: tuple[str, ...]
  encoder: str
  fingerprint: str
  prompts: tuple[str, ...] = ()
  is_pair: bool = False
  means: tuple[tuple[float, ...], ...] = ()
  components: tuple[tuple[tuple[float, ...], ...], ...] = ()
  cache: str = dataclasses.field(default='', compare=False)

  @classmethod
  def fit(
    cls,
    table: Table,
    encoder: str,
    *,
    prompts: Sequence[str] = (),
    is_pair: bool = False,
    num_components: int = 0,
    cache: str = '',
  ) -> tuple[Self, Table]:
    """Of the train rows of a table with text, and the table with its numbers.

    Args:
      table: `text_names` are those of its columns of text.
      encoder: a folder, or a name on the Hugging Face hub.
      prompts: templates that made the texts.
      is_pair: whether two columns are read together.
      num_components: K, numbers of a column at most; 0: as many as a vector
        has. A pair has all of its numbers.
      cache: folder of vectors.

    Raises:
      InputError: no such encoder, or a column without any text.
    """
    known = sentence.read_encoder(encoder, _field(prompts))
    found = cls(
      names=table.text_names,
      encoder=encoder,
      fingerprint=known.fingerprint,
      prompts=tuple(prompts),
      is_pair=is_pair,
      cache=cache,
    )
    splits = {split: getattr(table, split) for split in tables.SPLITS}
    vectors = found._read(splits)
    if num_components and not is_pair:
      reduced = [
        principal_components(
          vectors['train'][:, place], num_components, f'{table.name}: {name!r}'
        )
        for place, name in enumerate(table.text_names)
      ]
      found = dataclasses.replace(
        found,
        means=tuple(tuple(mean.tolist()) for mean, _ in reduced),
        components=tuple(
          tuple(map(tuple, components.tolist())) for _, components in reduced
        ),
      )
    rows = {
      split: found._with_numbers(splits[split], vectors[split])
      for split in tables.SPLITS
    }
    return found, found._named(table, rows)

  def table(self, table: Table) -> Table:
    """A table with the numbers of its text: it may be another than was fitted.

    Raises:
      InputError: other columns of text, or an encoder that is no longer there.
    """
    if table.text_names != self.names:
      raise InputError(
        f'{table.name}: columns of text are {", ".join(table.text_names)}, not '
        f'{", ".join(self.names)}'
      )
    splits = {split: getattr(table, split) for split in tables.SPLITS}
    vectors = self._read(splits)
    return self._named(
      table, {s: self._with_numbers(splits[s], vectors[s]) for s in splits}
    )

  def rows(self, rows: Rows) -> Rows:
    """Rows with the numbers of their text, if they have them not yet.

    Raises:
      InputError: the encoder is no longer there, or has changed.
    """
    if rows.text is None or rows.num_embedded:
      return rows
    return self._with_numbers(rows, self._read({'': rows})[''])

  def to_json(self) -> dict[str, Any]:
    """Plain lists and numbers, for json.dump."""
    data = dataclasses.asdict(self)
    del data['cache']  # of this machine
    return data

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`.

    Raises:
      InputError: anything else.
    """
    try:
      found = cls(
        names=tuple(data['names']),
        encoder=data['encoder'],
        fingerprint=data['fingerprint'],
        prompts=tuple(data['prompts']),
        is_pair=bool(data['is_pair']),
        means=tuple(tuple(map(float, mean)) for mean in data['means']),
        components=tuple(
          tuple(tuple(map(float, row)) for row in rows)
          for rows in data['components']
        ),
      )
      shapes = [np.array(rows, float).shape for rows in found.components]
      widths = [len(mean) for mean in found.means]
      if [shape[1:] for shape in shapes] != [(width,) for width in widths]:
        raise ValueError('means and components differ in width')
      if widths and len(widths) != len(found.names):
        raise ValueError('names and means differ in length')
    except (KeyError, TypeError, ValueError) as error:
      raise InputError(f'saved TextColumns: {error}; save it again') from error
    return found

  def _named(self, table: Table, rows: Mapping[str, Rows]) -> Table:
    """The table with new rows, and the names and kinds of their numbers."""
    count = rows['train'].num_embedded
    names = self._numbers(count)
    kinds = table.kinds or ('',) * (
      len(table.numeric_names) + len(table.category_names)
    )
    own = len(table.numeric_names)
    taken = {*table.numeric_names, *table.category_names} & set(names)
    if taken:
      raise InputError(
        f'{table.name}: a column is called {min(taken)!r}, as a number of a '
        'text is: rename it'
      )
    new = tuple('number' if name == pairs.COSINE else TEXT for name in names)
    return dataclasses.replace(
      table,
      numeric_names=(*table.numeric_names, *names),
      kinds=(*kinds[:own], *new, *kinds[own:]),
      train=rows['train'],
      val=rows['val'],
      test=rows['test'],
    )

  def _numbers(self, count: int) -> list[str]:
    """Names of all numbers: 'review.1', 'review.2', ..."""
    if self.is_pair:
      each = (count - 1) // len(pairs.PARTS)
      parts = [f'{p}.{k + 1}' for p in pairs.PARTS for k in range(each)]
      return [*parts, pairs.COSINE]
    widths = [len(rows) for rows in self.components]
    widths = widths or [count // len(self.names)] * len(self.names)
    return [
      f'{name}.{k + 1}'
      for name, width in zip(self.names, widths, strict=True)
      for k in range(width)
    ]

  def _read(self, splits: Mapping[str, Rows]) -> dict[str, np.ndarray]:
    """{split: vectors [n, T, D], NaN where a text is missing}."""
    encoder = self._encoder()
    text = np.concatenate([_text_of(rows) for rows in splits.values()])
    there = text != None  # noqa: E711
    vectors = np.full((*text.shape, encoder.config.width), np.nan, np.float32)
    if there.any():
      read, num_cut = sentence.embed(encoder, text[there].tolist(), self.cache)
      vectors[there] = read
      if num_cut:
        say(
          f'{num_cut} texts are longer than the {encoder.max_length} subwords '
          f'that {self.encoder} reads: their ends are left out'
        )
    cuts = np.cumsum([len(rows) for rows in splits.values()])[:-1]
    return dict(zip(splits, np.split(vectors, cuts), strict=True))

  def _encoder(self) -> sentence.Encoder:
    encoder = sentence.read_encoder(self.encoder, _field(self.prompts))
    if encoder.fingerprint != self.fingerprint:
      raise InputError(
        f'the encoder {self.encoder} has changed since training: restore it'
      )
    return encoder

  def _with_numbers(self, rows: Rows, vectors: np.ndarray) -> Rows:
    """Rows with the numbers of vectors [n, T, D] behind their own."""
    if self.is_pair:
      u, v = vectors.astype(np.float64).swapaxes(0, 1)
      numbers = pairs.features(u, v)
    elif self.means:
      numbers = np.concatenate(
        [
          (vectors[:, place].astype(np.float64) - np.array(mean))
          @ np.array(components).T
          for place, (mean, components) in enumerate(
            zip(self.means, self.components, strict=True)
          )
        ],
        axis=1,
      )
    else:
      numbers = vectors.reshape(len(vectors), -1).astype(np.float64)
    return dataclasses.replace(
      rows,
      numeric=np.concatenate([rows.numeric, numbers], axis=1),
      num_embedded=numbers.shape[1],
    )


def principal_components(
  vectors: np.ndarray, most: int, where: str = 'text'
) -> tuple[np.ndarray, np.ndarray]:
  """The mean [D] and the first principal components [K, D] of vectors [n, D].

  Missing ones, NaN, are left out. Each has its largest number positive, so that
  the same rows give the same signs.

  Args:
    vectors: of train rows.
    most: K at most; directions without any variance are left out.
    where: begins the message of an error.

  Raises:
    InputError: no vector at all.
  """
  there = vectors[np.isfinite(vectors).all(axis=1)].astype(np.float64)
  if not len(there):
    raise InputError(f'{where}: no train row has any text; leave it out')
  mean = there.mean(axis=0)
  centred = there - mean
  variances, directions = np.linalg.eigh(centred.T @ centred / len(there))
  variances, directions = variances[::-1], directions.T[::-1]
  is_some = variances > 1e-9 * max(variances[0], 1e-12)
  count = min(most, max(int(is_some.sum()), 1))
  components = directions[:count]
  largest = np.abs(components).argmax(axis=1)
  signs = np.sign(components[np.arange(count), largest])
  # Few enough digits for a file that people read, and more than float32 has.
  return mean.round(9), (components * signs[:, None]).round(9)


def _field(prompts: Sequence[str]) -> str:
  """The field that names an encoder."""
  return 'language_model.pretrained' if prompts else 'data.text_encoder'


def _text_of(rows: Rows) -> np.ndarray:
  assert rows.text is not None
  return rows.text
