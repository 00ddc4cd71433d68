"""The data that a config names, read."""

import os

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from genre2_jax.data import (
  columns,
  tables,
  talent,
  text_sources,
  texts,
)
from genre2_jax.data.features import Features
from genre2_jax.data.reading import Reading
from genre2_jax.data.subwords import TextFeatures
from genre2_jax.data.tables import Rows, Table
from genre2_jax.data.texts import TextRows, Texts
from genre2_jax.data.wording import place_of
from genre2_jax.errors import InputError, shortened
from genre2_jax.experiment.fields import is_table
from genre2_jax.models.model import Model
from genre2_jax.tokenizers.joint import columns_of

PathLike = str | os.PathLike[str]


def read_table(config: ConfigDict) -> Table | Texts:
  """The data that `config.data` or `config.text` names.

  Raises:
    InputError: they are not there, or cannot be used.
  """
  if config.language_model.name:
    found = _read_texts(config)
    return texts.as_table(found) if is_table(config) else found
  data = config.data
  non_finite = config.tokenizer.non_finite == 'tokens'
  text_columns = columns.parse_names('data.text_columns', data.text_columns)
  if data.path:
    table = tables.read_file(
      data.path,
      data.target,
      seed=config.seed,
      kinds=data.kinds,
      reading=data.reading,
      text_columns=text_columns,
      weight=data.weight,
      non_finite=non_finite,
    )
  elif data.openml:
    table = tables.load_openml(
      data.openml,
      data.target,
      seed=config.seed,
      kinds=data.kinds,
      text_columns=text_columns,
      weight=data.weight,
      non_finite=non_finite,
    )
  elif data.weight:
    raise InputError(
      f'data.weight={data.weight} is a column of data.path, data.openml or '
      'text.path: give one of them'
    )
  elif data.root:
    table = talent.load(data.root, data.name, non_finite=non_finite)
  else:
    table = tables.load_sklearn(data.name, seed=config.seed, kinds=data.kinds)
  return table


def _read_texts(config):
  text = config.text
  choice = texts.Choice(
    prompt=text.prompt,
    second=text.second,
    rationale=text.rationale,
    target=text.target,
    seed=config.seed,
    max_rows=tuple(text.max_rows),
    drop_empty=text.drop_empty,
    split_column=text.split_column,
    reading=Reading.parse(config.data.reading),
    weight=config.data.weight,
    non_finite=config.tokenizer.non_finite == 'tokens',
  )
  if config.data.weight and text.source in ('movielens', 'synthetic'):
    raise InputError(
      f'data.weight={config.data.weight}: text.source={text.source} has no '
      'such column; leave it out'
    )
  if text.source == 'tfds':
    return text_sources.load_tfds(
      text.path, tuple(text.tfds_splits), choice, data_dir=text.tfds_folder
    )
  if text.source == 'movielens':
    return text_sources.load_movielens(text.path, choice, text.history)
  if text.source == 'synthetic':
    return text_sources.synthetic(choice)
  return texts.read(text.path, choice)


def read_rows(
  model: Model,
  target_name: str,
  path: PathLike,
  *,
  kinds: str = '',
  reading: str = '',
  frame: pd.DataFrame | None = None,
  first_row: int = 0,
) -> Rows | TextRows:
  """Rows of a file for a finished run to predict.

  Args:
    model: of the run.
    target_name: of its target, which the file need not have.
    path: of the file.
    kinds: `data.kinds` of the run.
    reading: `data.reading` of the run.
    frame: what `read_frame` gave of the file, or None to read it.
    first_row: rows of the file that come before those of the frame.

  Raises:
    InputError: the file or its columns cannot be used.
  """
  features = model.features
  if isinstance(features, TextFeatures):
    return texts.read_rows(
      path,
      prompt=features.prompt,
      second=getattr(features, 'second', ''),
      target_name=target_name,
      reading=reading,
      frame=frame,
    )
  if model.texts is not None and model.texts.prompts:
    prompt, *second = model.texts.prompts
    found = texts.read_rows(
      path,
      prompt=prompt,
      second=''.join(second),
      target_name=target_name,
      reading=reading,
      frame=frame,
    )
    return model.with_numbers(texts.as_rows(found))
  rows = tables.read_rows(
    path,
    numeric_names=features.numeric_names,
    category_names=features.category_names,
    target_name=target_name,
    kinds=features.kinds,
    by_hand=kinds,
    reading=reading,
    frame=frame,
    first_row=first_row,
  )
  rows = model.with_numbers(rows)
  features.say_unseen(rows, place_of(path, first_row))
  return rows


def describe(table: Table | Texts, model: Model) -> str:
  """What a user should know of a task before it is learnt, as text."""
  lines = []
  if isinstance(table, Texts):
    lines.append(texts.describe(table))
    widths = ', '.join(map(str, model.widths))
    lines.append(f'padded to {widths} subwords')
    if table.train.rationale is not None:
      rationale = shortened(repr(table.train.rationale[0]), 200)
      lines.append(f'first rationale: {rationale}')
  else:
    lines.append(tables.describe(table))
  if isinstance(model.features, Features):
    for split in ('val', 'test'):
      unseen = model.features.unseen(getattr(table, split))
      lines += [f'{split}: {line}' for line in unseen[:8]]
  if model.scaler.is_constant:
    lines.append(
      'The target is constant: the model can only learn to repeat it.'
    )
  targets = columns_of(table.train.target, len(model.codec.parts))
  for target, codec in zip(targets, model.codec.parts, strict=True):
    lines += _out_of_reach(target, codec.tokenizer)
  return '\n'.join(lines)


def _out_of_reach(target, tokenizer):
  """What numbers in the target's own unit cannot say of its targets."""
  if tokenizer.domain != 'natural':
    return []
  least, most = tokenizer.range
  target = target[np.isfinite(target)]
  count = int(((target < least) | (target > most)).sum())
  if not count:
    return []
  return [
    f'{count} of {len(target)} train targets lie outside of {least:g} .. '
    f'{most:g}, what the tokenizer writes: CE writes its nearest end, no mean '
    'of its numbers (RAFT, RAIL) goes beyond it; learnable RAFT can.'
  ]
