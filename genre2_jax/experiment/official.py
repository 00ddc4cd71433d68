"""GenRe²'s protocol for the hundred tasks of TALENT (arXiv 2512.06533).

Its hyperparameters of each task were searched on validation rows by its
authors. What is left of a difference: tables are encoded by `data/features.py`,
weights are drawn by JAX, and a stage's best epoch is looked for at every epoch.
"""

import csv
import pathlib
from collections.abc import Mapping

from genre2_jax.errors import InputError, suggestion

HYPERPARAMETERS = pathlib.Path(__file__).with_name('genre2_hyperparameters.csv')
# What all tasks share, beside the fields of the paper's size.
PROTOCOL: Mapping[str, object] = {
  'batch_size': 128,
  'pretrain.epochs': 200,
  'pretrain.max_steps': 0,
  'pretrain.patience': 20,
  'finetune.epochs': 100,
  'finetune.max_steps': 0,
  'finetune.patience': 20,
  'optimizer.name': 'adamw',
  'optimizer.schedule': 'cosine',
  'optimizer.warmup_steps': 100,
  'eval.num_samples': 128,
  'eval.temperature': 1.0,
  'model.compute_dtype': 'float32',
}
# Columns of the file -> fields. The searched rate is both stages' (the paper:
# that, or 1e-5 in fine-tuning).
_FIELDS: Mapping[str, tuple[str, ...]] = {
  'base': ('tokenizer.base',),
  'digits': ('tokenizer.digits',),
  'd_model': ('model.width',),
  'nhead': ('model.num_heads',),
  'num_decoder_layers': ('model.num_layers',),
  'dim_feedforward': ('model.feedforward',),
  'hidden_dim': ('model.encoder_hidden',),
  'dropout': ('model.dropout',),
  'learning_rate': ('pretrain.learning_rate', 'finetune.learning_rate'),
}


def fields_of(task: str) -> dict[str, float]:
  """Field -> number, of a task.

  Raises:
    InputError: none of the hundred, with the nearest names.
  """
  rows = _rows()
  if task not in rows:
    raise InputError(
      f'hyperparameters=official knows no task {task!r}'
      f'{suggestion(task, list(rows))}: set data.name to one of the 100 tasks '
      f'in {HYPERPARAMETERS.name}'
    )
  return {
    field: float(rows[task][column])
    for column, fields in _FIELDS.items()
    for field in fields
  }


def tasks() -> dict[str, int]:
  """The hundred, fewest training rows first: name -> rows."""
  rows = {name: int(row['train_size']) for name, row in _rows().items()}
  return dict(sorted(rows.items(), key=lambda item: (item[1], item[0])))


def _rows():
  with open(HYPERPARAMETERS, encoding='utf-8') as file:
    return {row['dataset']: row for row in csv.DictReader(file)}
