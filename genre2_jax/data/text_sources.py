"""Text sets by name: TFDS, MovieLens-1M and RAFT's synthetic function."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from genre2_jax.data import tables, texts
from genre2_jax.data.reading import path_of
from genre2_jax.errors import InputError, one_line

# MovieLens-1M's own README.
_AGES = {
  '1': 'under 18',
  '18': '18-24',
  '25': '25-34',
  '35': '35-44',
  '45': '45-49',
  '50': '50-55',
  '56': '56 or older',
}
_OCCUPATIONS = (
  'other', 'academic or educator', 'artist', 'clerical or administrative',
  'college or graduate student', 'customer service', 'doctor or health care',
  'executive or managerial', 'farmer', 'homemaker', 'K-12 student', 'lawyer',
  'programmer', 'retired', 'sales or marketing', 'scientist', 'self-employed',
  'technician or engineer', 'tradesman or craftsman', 'unemployed', 'writer',
)  # fmt: skip
_MOVIELENS = {
  'ratings.dat': ('user', 'movie', 'rating', 'timestamp'),
  'movies.dat': ('movie', 'title', 'genres'),
  'users.dat': ('user', 'gender', 'age', 'occupation', 'zip'),
}
# RAFT's sizes (Lukasik et al., ICLR 2025) of the synthetic set.
_SYNTHETIC_ROWS = (10_000, 1_000, 1_000)
_BATCH = 4096  # rows of a source that are read at once


def load_tfds(
  name: str,
  splits: Sequence[str],
  choice: texts.Choice,
  *,
  data_dir: str = '',
) -> texts.Texts:
  """A set of TensorFlow Datasets, read without TensorFlow.

  Nested features are columns by their last name: `review_body` of Amazon's
  `data/review_body`.

  Args:
    name: as in TFDS: 'glue/stsb', 'amazon_us_reviews/Wireless_v1_00'.
    splits: one for train, val and test each, in TFDS's notation, as in
      'train[:85%]'; a sole one is split by `texts.build`.
    choice: which rows and columns.
    data_dir: where prepared sets lie; '' for TFDS's own.

  Raises:
    InputError: tensorflow-datasets is not installed, or the set cannot be
      read; the message says how to prepare it.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise InputError(
      f'TFDS {name}: needs tensorflow-datasets: '
      "pip install 'tensorflow-datasets>=4.9.7' array_record"
    ) from error
  if len(splits) not in (1, 3):
    raise InputError(
      f'text.tfds_splits={tuple(splits)}: give one split, or train, '
      'validation and test'
    )
  try:
    sources = [
      tfds.data_source(
        name, split=split, data_dir=str(path_of(data_dir)) if data_dir else None
      )
      for split in splits
    ]
  # TFDS raises what it likes: the hub of many builders and of their imports.
  except Exception as error:
    reason = one_line(error).partition(' Available datasets')[0]
    raise InputError(
      f'TFDS {name}: not read, {reason}; prepare it once as array_record, '
      'which takes TensorFlow: pip install tensorflow, then python -c '
      f'"import tensorflow_datasets as t; t.data_source({name!r})"'
    ) from error
  names = ('train',) if len(splits) == 1 else tables.SPLITS
  frames = {
    split: _frames_of(source, choice if len(splits) == 1 else None)
    for split, source in zip(names, sources, strict=True)
  }
  return texts.build(name, f'TFDS {name}', frames, choice)


def load_movielens(
  folder: str | pathlib.Path, choice: texts.Choice, history: int = 0
) -> texts.Texts:
  """MovieLens-1M from its folder of ratings.dat, movies.dat and users.dat.

  Columns: user, movie, rating, timestamp, title, genres, gender, age and
  occupation in words, zip; with a history, 'history': what the viewer rated
  before that moment, the last so many, oldest first. Ratings of validation and
  test rows are in nobody's history: they are what is asked for.

  Args:
    folder: of the three files.
    choice: which rows and columns.
    history: films in a history at most; 0: there is no such column.

  Raises:
    InputError: files that are not there or damaged, or no such column.
  """
  folder = path_of(folder)
  read = {
    name: _read_dat(folder / name, columns)
    for name, columns in _MOVIELENS.items()
  }
  users = read['users.dat']
  users['gender'] = users['gender'].replace({'F': 'female', 'M': 'male'})
  users['age'] = users['age'].map(_AGES)
  users['occupation'] = users['occupation'].map(
    {str(code): words for code, words in enumerate(_OCCUPATIONS)}
  )
  movies = read['movies.dat']
  movies['genres'] = movies['genres'].str.replace('|', ', ')
  frame = read['ratings.dat']
  for other, key in ((movies, 'movie'), (users, 'user')):
    frame = frame.merge(other, on=key, how='left', validate='many_to_one')
  frames = {'train': [frame]}
  if history:
    # Which rows are asked for must be known first.
    split = texts.split_at_random(len(frame), choice, str(folder))
    frame['history'] = _histories(frame, split['train'], history)
    frames = {name: [frame.iloc[index]] for name, index in split.items()}
  return texts.build('movielens_1m', str(folder), frames, choice)


def _histories(frame: pd.DataFrame, train: np.ndarray, most: int) -> np.ndarray:
  """What the viewer of each rating had rated before it, as text: [n] object.

  Args:
    frame: ratings with their titles.
    train: numbers of the rows that may be told.
    most: films at most.
  """
  known = np.zeros(len(frame), bool)
  known[train] = True
  time = frame['timestamp'].astype(np.int64).to_numpy()
  # Of one moment in the order of the file.
  order = np.argsort(time, kind='stable')
  said = (frame['title'] + ': ' + frame['rating']).to_numpy(object)
  found = np.empty(len(frame), object)
  users = frame['user'].to_numpy(object)[order]
  for rows in pd.Series(order).groupby(users, sort=False):
    own = rows[1].to_numpy()
    told = own[known[own]]
    # At the same moment is not before.
    ends = np.searchsorted(time[told], time[own], side='left')
    for row, end in zip(own, ends, strict=True):
      films = said[told[max(0, end - most) : end]]
      found[row] = '; '.join(films) or 'nothing'
  return found


def synthetic(choice: texts.Choice) -> texts.Texts:
  """RAFT's synthetic set, "Original #1" of Vacareanu et al. 2024.

  x ~ U(0, 100), y = x + 10·sin(5πx/100) + 10·cos(6πx/100); 10,000, 1,000 and
  1,000 rows; targets scaled to [0, 9] (Lukasik et al., ICLR 2025). The papers
  leave open, and this is how it is here: x is rounded to 4 decimals before y
  is taken, and written with them, column 'x'; y, column 'y', is scaled by the
  least and the greatest of all 12,000 rows; the seed draws the rows with
  numpy's RandomState, train first, then val, then test.

  Raises:
    InputError: a template that names other columns.
  """
  draw = np.random.RandomState(choice.seed)
  x = draw.uniform(0, 100, sum(_SYNTHETIC_ROWS)).round(4)
  y = x + 10 * np.sin(5 * np.pi * x / 100) + 10 * np.cos(6 * np.pi * x / 100)
  y = 9 * (y - y.min()) / (y.max() - y.min())
  frame = pd.DataFrame({'x': [f'{value:.4f}' for value in x], 'y': y})
  cuts = np.cumsum((0, *_SYNTHETIC_ROWS))
  frames = {
    split: [frame.iloc[start:stop]]
    for split, start, stop in zip(
      tables.SPLITS, cuts[:-1], cuts[1:], strict=True
    )
  }
  return texts.build('original_1', 'synthetic', frames, choice)


def _frames_of(
  source: Any, choice: texts.Choice | None
) -> Iterator[pd.DataFrame]:
  """A TFDS source as text and numbers, some rows after the others.

  With `choice` only what it may take: a single split may have millions.
  """
  rows = np.arange(len(source))
  if choice is not None and all(choice.max_rows):
    wanted = sum(choice.max_rows)
    if wanted < len(rows):
      rows = np.random.RandomState(choice.seed).permutation(len(rows))[:wanted]
  for start in range(0, max(len(rows), 1), _BATCH):
    part = rows[start : start + _BATCH]
    yield pd.DataFrame.from_records([_flat(source[int(row)]) for row in part])


def _flat(example: Mapping[str, Any]) -> dict[str, Any]:
  """Nested features of one example, by their last name."""
  flat: dict[str, Any] = {}
  for key, value in example.items():
    if isinstance(value, dict):
      flat |= _flat(value)
    elif isinstance(value, bytes):
      flat[key] = value.decode('utf-8', 'replace')
    else:
      flat[key] = np.asarray(value).item() if np.ndim(value) == 0 else value
  return flat


def _read_dat(path: pathlib.Path, columns: Sequence[str]) -> pd.DataFrame:
  """A file of MovieLens, all cells text."""
  try:
    text = path.read_text(encoding='latin-1')
  except OSError as error:
    raise InputError(
      f'{path}: not read ({error.strerror}); give the folder ml-1m of '
      'MovieLens-1M'
    ) from error
  rows = [line.split('::') for line in text.splitlines()]
  wrong = np.array([len(row) != len(columns) for row in rows], bool)
  if wrong.any() or not rows:
    raise InputError(
      f'{path}: not {len(columns)} cells divided by :: in '
      f'{tables.located(wrong)}; get the file again'
    )
  return pd.DataFrame(rows, columns=list(columns))
