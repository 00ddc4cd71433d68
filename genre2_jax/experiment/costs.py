"""What a run costs, known before it begins: FLOPs of a decoder of numbers."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genre2_jax.experiment.experiment import resolve
from genre2_jax.experiment.networks import build_tokenizer
from genre2_jax.experiment.stages import build_stages
from genre2_jax.policy import trie
from genre2_jax.training.stages import Stage

# A gradient costs a forward pass and twice that.
_TRAINED = 3


def run_flops(
  config: ConfigDict, num_rows: Mapping[str, int], num_columns: int
) -> float:
  """FLOPs of a run in matrix products with weights; no stage stops early.

  Attention, embeddings, the optimizer and the exact distribution are left out.
  Numbers that are sampled share their prefixes (`policy/sampling.py`).

  Args:
    config: of a decoder of digits on a table.
    num_rows: of 'train', 'val' and 'test'.
    num_columns: features.

  Returns:
    FLOPs of all seeds; nan of a model that is no decoder of digits.
  """
  config = resolve(config)
  if not _is_decoder(config):
    return math.nan
  encoder = _encoder_flops(config, num_columns)
  position = _decoder_flops(config)
  predicted = (num_rows['val'] + num_rows['test']) * _predicted_flops(
    config, num_columns, config.eval.num_samples + 1
  )
  total = 0.0
  for stage in build_stages(config):
    epoch_steps = max(1, math.ceil(num_rows['train'] / config.batch_size))
    steps = stage.num_steps(epoch_steps)
    trained, validated = _stage_positions(stage, config)
    encoded = _TRAINED + stage.objective.is_sequence
    total += (
      steps * config.batch_size * (encoded * encoder + trained * position)
    )
    epochs = math.ceil(steps / epoch_steps)
    total += epochs * num_rows['val'] * (encoder + validated * position)
    total += predicted
  return config.num_seeds * total


def row_flops(
  fields: Mapping[str, Any], num_columns: int, *, exact: bool = False
) -> float:
  """FLOPs of predicting one row, counted as `run_flops` does.

  Args:
    fields: of a resolved config, nested.
    num_columns: features.
    exact: whether every number is scored, and none sampled.

  Returns:
    FLOPs of all seeds; nan of a model that is no decoder of digits.
  """
  config = ConfigDict(fields)
  if not _is_decoder(config):
    return math.nan
  count = config.trie.max_nodes if exact else config.eval.num_samples + 1
  return config.num_seeds * _predicted_flops(config, num_columns, count)


def _is_decoder(config):
  return config.model.head == 'decoder' and not config.baseline.name


def _predicted_flops(config, num_columns, num_samples):
  """Of a row and one seed."""
  positions = _positions(config, num_samples)
  return _encoder_flops(config, num_columns) + positions * _decoder_flops(
    config
  )


def _encoder_flops(config, num_columns):
  """Of a row: the MLP and the keys and values of its memory."""
  model = config.model
  hidden = [model.encoder_hidden] * model.encoder_layers
  sizes = [num_columns, *hidden, model.width]
  products = sum(a * b for a, b in itertools.pairwise(sizes))
  return 2 * (products + 2 * model.num_layers * model.width**2)


def _decoder_flops(config):
  """Of one decoder position: self-attention and feed-forward."""
  model = config.model
  layer = 4 * model.width**2 + 2 * model.width * model.feedforward
  return 2 * model.num_layers * layer


def _stage_positions(stage: Stage, config: ConfigDict) -> tuple[int, int]:
  """Forward passes of a decoder position, a row: (of a step, to validate)."""
  group = stage.objective.rollouts.group_size
  if stage.objective.is_sequence:
    sampled = _positions(config, group + 1)
    scored = _positions(config, group) * stage.objective.num_updates
    return sampled + _TRAINED * scored, sampled
  if stage.objective.at('grid'):
    nodes = _positions(config, config.trie.max_nodes)
    return _TRAINED * nodes, nodes
  length = _positions(config, 1)
  return _TRAINED * length, length


def _positions(config, num_samples):
  """Decoder positions of numbers that share their prefixes."""
  widths = trie.level_widths(build_tokenizer(config).allowed)
  return sum(min(width, num_samples) for width in widths)
