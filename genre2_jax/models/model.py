"""A model: what turns rows into numbers, but for the parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from genre2_jax.data.batches import Examples
from genre2_jax.data.features import Features
from genre2_jax.data.subwords import TextFeatures
from genre2_jax.data.tables import Rows
from genre2_jax.data.targets import Scaler
from genre2_jax.data.texts import TextRows
from genre2_jax.models.neighbours import ROW
from genre2_jax.policy import Pointwise, Policy
from genre2_jax.tokenizers.codec import Codec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """Features, scaler, codec and network, fitted to one data set.

  Attributes:
    features: of the training rows, columns or prompts.
    scaler: of the training targets.
    codec: z-scores <-> tokens.
    network: a `Policy`, or a `Pointwise`.
    looks_up: whether it looks training rows up, and is told of each of them
      which it is (`models/neighbours.py`).
  """

  features: Features | TextFeatures
  scaler: Scaler
  codec: Codec
  network: Policy | Pointwise
  looks_up: bool = False

  @property
  def widths(self) -> tuple[int, ...]:
    """That texts are padded to; () of tables."""
    return getattr(self.features, 'widths', ())

  def example_inputs(self) -> Any:
    """Inputs of one row, all zero: for shapes."""
    return self.features.example_inputs()

  def inputs(self, rows: Rows | TextRows) -> Any:
    """What the network encodes, of rows of the kind that the features know."""
    transform: Callable[[Any], Any] = self.features.transform
    return transform(rows)

  def examples(self, rows: Rows | TextRows) -> Examples:
    """`Examples` of rows with targets."""
    z = self.scaler.standardize(rows.known_target)
    return Examples(
      inputs=self.inputs(rows),
      target=np.asarray(z, np.float32),
      tokens=self.codec.encode(z),
    )

  def training_examples(self, rows: Rows | TextRows) -> Examples:
    """`examples` of the training rows, with their numbers where it wants them.

    A row must not find itself among its neighbours.
    """
    examples = self.examples(rows)
    if not self.looks_up:
      return examples
    numbers = np.arange(len(examples.target), dtype=np.int32)
    return examples._replace(inputs={**examples.inputs, ROW: numbers})
