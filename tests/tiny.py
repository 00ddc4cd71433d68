"""A table, a config, a regressor and a stage so small that all take seconds."""

import types

import jax
import numpy as np

from genre2_jax.devices.sharding import AXES
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, Rollouts
from genre2_jax.training.stages import Stage

_ROLLOUTS = Rollouts()
TINY = {
  'batch_size': 16,
  'tokenizer.base': 4,
  'tokenizer.digits': 2,
  'model.width': 16,
  'model.num_layers': 1,
  'model.num_heads': 2,
  'model.feedforward': 16,
  'model.encoder_hidden': 16,
  'model.encoder_layers': 1,
  'model.head_hidden': 16,
  'model.head_layers': 1,
  'pretrain.epochs': 12,
  'pretrain.learning_rate': 1e-2,
  'finetune.epochs': 3,
  'finetune.learning_rate': 5e-3,
  'rollouts.group_size': 4,
  'optimizer.warmup_steps': 5,
  'eval.num_samples': 8,
  'eval.batch_size': 16,
}

# The same for `DecodingRegressor`.
TINY_REGRESSOR = {
  'base': 4,
  'digits': 2,
  'width': 16,
  'num_layers': 1,
  'num_heads': 2,
  'feedforward': 16,
  'encoder_hidden': 16,
  'encoder_layers': 1,
  'batch_size': 16,
  'max_steps': 60,
  'learning_rate': 1e-2,
  'finetune_max_steps': 12,
  'finetune_learning_rate': 3e-3,
  'group_size': 4,
  'num_samples': 8,
  'config': {'optimizer.warmup_steps': 5, 'eval.batch_size': 16},
}


def write_table(path, num_rows=120, target=None):
  """A CSV of numbers and a category, with gaps; `target` for all rows."""
  draw = np.random.RandomState(7)
  area = draw.uniform(30, 200, num_rows).round(1)
  rooms = draw.randint(1, 7, num_rows)
  age = draw.uniform(0, 90, num_rows).round(2)
  city = draw.choice(['Ulm', 'Köln', 'Bad "X", Süd'], num_rows)
  price = 900 * area + 5000 * rooms - 300 * age + 20000 * (city == 'Ulm')
  price = (price + draw.normal(0, 3000, num_rows)).round(2)
  lines = ['area,rooms,age,city,price']
  for i in range(num_rows):
    cells = [
      '' if i % 11 == 3 else str(area[i]),
      str(rooms[i]),
      'nan' if i % 7 == 5 else str(age[i]),
      '' if i % 13 == 6 else '"' + city[i].replace('"', '""') + '"',
      str(price[i] if target is None else target),
    ]
    lines.append(','.join(cells))
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return path


def tiny_stage(name, rollouts=_ROLLOUTS, **options):
  """A `Stage` of four epochs that minimises one term, or what it is given."""
  if 'objective' not in options:
    term = build_term(name)
    options['objective'] = Objective(terms=(term,), rollouts=rollouts)
  return Stage(
    **{
      'section': 'pretrain',
      'name': name,
      'epochs': 4,
      'max_steps': 0,
      'learning_rate': 1e-2,
      'patience': 1,
      'warmup_steps': 2,
      'weight_decay': 0.01,
      'max_grad_norm': 0.0,
      **options,
    }
  )


def abstract_mesh(sizes):
  sizes = dict.fromkeys(AXES, 1) | sizes
  types = (jax.sharding.AxisType.Auto,) * len(sizes)
  return jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes), types)


def one_target(codec, scaler, **more):
  """What metrics and estimates ask of a `Model` of one target."""
  own = types.SimpleNamespace(codec=codec, scaler=scaler, grid=codec.grid())
  return types.SimpleNamespace(
    codec=codec,
    scaler=scaler,
    target_names=(),
    by_target=lambda: [own],
    features=None,
    **more,
  )
