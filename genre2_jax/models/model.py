"""A model: what turns rows into numbers, but for the parameters."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import numpy as np

from genre2_jax.data import targets
from genre2_jax.data.batches import Examples
from genre2_jax.data.features import Features
from genre2_jax.data.subwords import TextFeatures
from genre2_jax.data.tables import Rows
from genre2_jax.data.texts import TextRows
from genre2_jax.models.neighbours import ROW
from genre2_jax.models.prior import PRIOR, Prior
from genre2_jax.models.text_columns import TextColumns
from genre2_jax.policy import Pointwise, Policy
from genre2_jax.tokenizers.codec import Codec


@dataclasses.dataclass(frozen=True)
class Form:
  """A network and a codec without the numbers of their data.

  What programs are made of: they take the numbers as arguments, so that models
  with one key share them, compiled once.

  Attributes:
    key: equal where nothing but the numbers differs.
    build: (numbers, memory) -> (network, codec), both on the device; without a
      memory a network that draws no parameters.
    numbers: bin edges, the span of the targets: small arrays in a dict.
    memory: what its parameters hold of the training rows.
  """

  key: Hashable
  build: Callable[..., tuple[Policy | Pointwise, Codec]]
  numbers: Any
  memory: Any = None


class Formed(Protocol):
  """What has a network, a codec, and a form if it has one."""

  @property
  def network(self) -> Policy | Pointwise:
    """Of it all."""

  @property
  def codec(self) -> Codec:
    """Between tokens and z-scores."""


def form_of(model: Formed) -> Form:
  """The form of a model; where it has none, its own alone, of key None."""
  form = getattr(model, 'form', None)
  if form is not None:
    return form
  return Form(None, lambda *_: (model.network, model.codec), {})


@dataclasses.dataclass(frozen=True)
class Target:
  """One target's scales.

  Attributes:
    scaler: of its training rows.
    codec: z-scores <-> tokens of its number.
  """

  scaler: targets.Scaler
  codec: Codec

  @functools.cached_property
  def grid(self) -> tuple[np.ndarray, np.ndarray]:
    """`Codec.grid`, computed once; not to be written to."""
    return self.codec.grid()


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
    num_memory: rows that its parameters have room for where it does.
    prior: the distributions that it starts from, if it does
      (`models/prior.py`).
    texts: what makes numbers of the text in its rows, if there is any
      (`models/text_columns.py`).
    form: what programs are made of; None: of this network and this codec.
  """

  features: Features | TextFeatures
  scaler: targets.AnyScaler
  codec: Codec
  network: Policy | Pointwise
  looks_up: bool = False
  num_memory: int = 0
  prior: Prior | None = None
  texts: TextColumns | None = None
  form: Form | None = None

  @property
  def target_names(self) -> tuple[str, ...]:
    """Of several targets; () of one."""
    return targets.names_of(self.scaler)

  def by_target(self) -> tuple[Target, ...]:
    """What is known of each target by itself."""
    return self._targets

  @functools.cached_property
  def _targets(self):
    scalers = targets.parts_of(self.scaler)
    pairs = zip(scalers, self.codec.parts, strict=True)
    return tuple(Target(scaler, codec) for scaler, codec in pairs)

  @property
  def widths(self) -> tuple[int, ...]:
    """That texts are padded to; () of tables."""
    return getattr(self.features, 'widths', ())

  def with_numbers(self, rows: Rows) -> Rows:
    """Rows with the numbers of their text, as the features know them."""
    return rows if self.texts is None else self.texts.rows(rows)

  def example_inputs(self) -> Any:
    """Inputs of one row, all zero: for shapes."""
    inputs = self.features.example_inputs()
    if self.prior is None:
      return inputs
    count = self.codec.tokenizer.num_sequences
    return {**inputs, PRIOR: np.zeros((1, count), np.float32)}

  def inputs(self, rows: Rows | TextRows) -> Any:
    """What the network encodes, of rows of the kind that the features know."""
    return self.with_prior(self.own_inputs(rows), rows)

  def own_inputs(self, rows: Rows | TextRows) -> Any:
    """The same, but for the prior."""
    transform: Callable[[Any], Any] = self.features.transform
    return transform(rows)

  def with_prior(self, inputs: Any, rows: Rows | TextRows) -> Any:
    """`own_inputs` of rows with their prior, K numbers a row, if it has one."""
    if self.prior is None:
      return inputs
    assert isinstance(rows, Rows)
    return {**inputs, PRIOR: self.prior.log_p(rows)}

  def examples(self, rows: Rows | TextRows) -> Examples:
    """`Examples` of rows with targets, but not of training rows."""
    return self._examples(rows, self.inputs(rows))

  def _examples(self, rows, inputs):
    z = self.scaler.standardize(rows.known_target)
    return Examples(
      inputs=inputs,
      target=np.asarray(z, np.float32),
      tokens=self.codec.encode(z),
      weight=None if rows.weight is None else rows.weight.astype(np.float32),
    )

  def training_examples(self, rows: Rows | TextRows) -> Examples:
    """`Examples` of the training rows, with their numbers where it wants them.

    A row must not find itself among its neighbours, and its prior must not know
    its target.
    """
    inputs = self.own_inputs(rows)
    if self.prior is not None:
      inputs = {**inputs, PRIOR: self.prior.train_log_p()}
    if self.looks_up:
      inputs = {**inputs, ROW: np.arange(len(rows), dtype=np.int32)}
    return self._examples(rows, inputs)
