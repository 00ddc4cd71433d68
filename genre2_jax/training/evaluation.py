"""Predictions on padded blocks of rows, on the device."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.data import batches
from genre2_jax.devices import compilation, processes
from genre2_jax.devices import sharding as sharding_rules
from genre2_jax.errors import InterruptedRunError
from genre2_jax.metrics.results import NON_FINITE
from genre2_jax.models.marginal import SHARE, share_of
from genre2_jax.models.model import Model, form_of
from genre2_jax.objectives.grid import expected_value
from genre2_jax.objectives.objective import StageParams
from genre2_jax.policy import (
  Inputs,
  Pointwise,
  Policy,
  joint,
  sampling,
  scoring,
  special,
  trie,
)
from genre2_jax.policy.enumeration import subset_numbers
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training.train_state import each_seed

# A stream of a seed's key, beside its rows' numbers.
_CONDITIONALS = 2**31 - 1


class Predictor:
  """Compiled predictions of blocks of rows.

  Args:
    block: `(params, inputs or their halves, numbers) -> predictions`.
    prepare: of stacked parameters, as `Policy.prepare`, or None.
    half: `(params, inputs) -> halves`, as `Policy.halves`, or None.
  """

  def __init__(
    self,
    block: Callable[..., dict[str, jax.Array]],
    prepare: Callable[[StageParams], StageParams] | None,
    half: Callable[..., Any] | None = None,
  ) -> None:
    self._block, self._prepare, self._half = block, prepare, half
    self._last: tuple[StageParams, StageParams] | None = None

  def __call__(
    self, params: StageParams, inputs: Inputs, numbers: jax.Array
  ) -> dict[str, jax.Array]:
    """`finish` of `begin`."""
    return self.finish(params, self.begin(params, inputs), numbers)

  def begin(self, params: StageParams, inputs: Inputs) -> Any:
    """What costs of a block: halves [S, b, ...], else the inputs themselves."""
    if self._half is None:
      return inputs
    return self._half(self._prepared(params), inputs)

  def finish(
    self, params: StageParams, begun: Any, numbers: jax.Array
  ) -> dict[str, jax.Array]:
    """Of b rows, of numbers int32 [b]: {name: [S, b, ...]}.

    Args:
      params: those of `begin`, but for what the second half alone reads.
      begun: of `begin`.
      numbers: of the rows.
    """
    if self._half is None:
      params = self._prepared(params)
    return self._block(params, begun, numbers)

  def _prepared(self, params):
    """What the parameters alone tell is computed when they are first seen."""
    if self._prepare is None:
      return params
    if self._last is None or self._last[0] is not params:
      self._last = params, self._prepare(params)
    return self._last[1]


class Begun(NamedTuple):
  """A block of rows, begun.

  Attributes:
    half: what `Predictor.begin` gave.
    numbers: int32 [b], of the rows, as the device has them.
    rows: [b], which they are of all, −1 where padded.
  """

  half: Any
  numbers: Any
  rows: np.ndarray


def predictions(
  params: StageParams,
  inputs: Inputs,
  numbers: jax.Array,
  key: jax.Array,
  *,
  network: Policy | Pointwise,
  codec: Codec,
  num_samples: int,
  temperature: float,
  exact: bool,
  rail_numbers: int = 0,
  num_conditionals: int = 16,
  max_nodes: int = 1024,
) -> dict[str, jax.Array]:
  """What one seed predicts for one block of rows.

  A row's samples depend on the key and on its number, not on the rows beside
  it. The greedy number is the sampler's: the likeliest token at every step.
  Numbers beyond the bounds of the target count as the nearer of them.

  Args:
    params: of one seed.
    inputs: of b rows.
    numbers: int32 [b], the rows' numbers.
    key: of this evaluation.
    network: a `Policy` or a `Pointwise`.
    codec: between tokens and z-scores.
    num_samples: G; 0, where the whole trie is asked for: nothing is sampled.
    temperature: of sampling.
    exact: whether the whole trie is asked for.
    rail_numbers: so many evenly spaced numbers are scored for RAIL; 0: none.
    num_conditionals: of several targets, samples of the numbers before a
      number whose trie is scored (`joint.marginals`).
    max_nodes: of several targets, of a joint trie that is enumerated.

  Returns:
    {'samples_z': [b, G], 'greedy_z': [b], 'entropy': [b]} if G > 0, and of a
    policy that writes free text 'text_length' [b], its mean, 'greedy_text' and
    'sample_text' int32 [b, W], of the first sample, −1 behind them; if exact
    'log_p' [b, K], at temperature 1, and where the numbers were trained
    'learned_mean_z' [b]; with tokens for what is no number 'non_finite' [b, 3],
    P(NaN), P(+inf) and P(−inf), and all else is given that the number is
    finite, K of them; with RAIL 'rail_z' [b], Σ p(y) y over its numbers,
    and 'rail_normalized_z', with p renormalised on them; an open policy has
    them over the whole trie too, if exact, and 'grid_mass' [b], the probability
    that it writes a number at all, exact or estimated from the samples. A
    member of a pack that was chosen from has its 'share' [b], the same for all
    rows. A `Pointwise` predicts a point mass: G is 1. Of k targets 'samples_z'
    are joint, [b, G, k]; 'greedy_z', 'entropy' and 'learned_mean_z' are [b, k],
    and 'log_p', of the marginals, is [b, k, K].
  """
  own = params['policy']
  if isinstance(network, Pointwise):
    point = codec.within(network.predict(own, inputs))
    return {
      'samples_z': point[:, None],
      'greedy_z': point,
      'entropy': jnp.zeros_like(point),
    }
  context = network.encode(own, inputs)
  predicted: dict[str, jax.Array] = {}
  share = share_of(own)
  if share is not None:
    predicted[SHARE] = jnp.broadcast_to(share, numbers.shape)
  writer = network
  if network.tokenizer.num_special:
    predicted[NON_FINITE] = special.probabilities(network, own, context)
    writer = special.numbers_only(network)
  if num_samples or not exact:
    rollout = sampling.sample(
      writer,
      own,
      context,
      row_keys(key, numbers),
      num_samples=num_samples,
      temperature=temperature,
      greedy=True,
    )
    samples, greedy_tokens = sampling.without_greedy(rollout)
    predicted |= {
      'samples_z': codec.within(codec.decode(samples.tokens)),
      'greedy_z': codec.within(codec.decode(greedy_tokens)),
      'entropy': jnp.mean(_entropy(samples, len(codec.parts)), 1),
      **text_length(samples),
    }
    if rollout.text is not None:
      written = jnp.arange(rollout.text.tokens.shape[-1])
      written = written < rollout.text.length[..., None]
      text = jnp.where(written, rollout.text.tokens, -1)
      predicted |= {'greedy_text': text[:, -1], 'sample_text': text[:, 0]}
  rail = None
  if exact and len(codec.parts) > 1:
    log_p = predicted['log_p'] = joint.marginals(
      network,
      own,
      context,
      jax.random.fold_in(key, _CONDITIONALS),
      max_nodes=max_nodes,
      num_conditionals=num_conditionals,
    )
    if 'numbers' in params:
      mean = jnp.sum(jnp.exp(log_p) * params['numbers'], -1)
      predicted['learned_mean_z'] = codec.within(mean)
  elif exact:
    log_p = predicted['log_p'] = trie.log_probs(network, own, context)
    if NON_FINITE in predicted:
      count = codec.finite.tokenizer.num_sequences
      predicted['log_p'] = jax.nn.log_softmax(log_p[:, :count])
    if network.open:
      # As the grid level trains it.
      log_p = trie.log_probs(network, own, context, normalized=False)
      rail = log_p, codec.values().astype(np.float32)
      predicted['grid_mass'] = jnp.sum(jnp.exp(log_p), -1)
    if 'numbers' in params:
      mean = jnp.exp(predicted['log_p']) @ params['numbers']
      predicted['learned_mean_z'] = codec.within(mean)
  elif network.open:
    # E_q[p / q] over numbers of the grammar's q is Σ p.
    shared = scoring.score(
      network, own, context, samples.tokens, normalized=False, text=samples.text
    )
    log_ratio = shared.token_log_probs() - samples.token_log_probs()
    predicted['grid_mass'] = jnp.mean(jnp.exp(jnp.sum(log_ratio, -1)), -1)
  if rail_numbers:
    rail = subset_numbers(network, codec, own, context, rail_numbers)
  if rail is not None:
    log_p, values = rail
    for name, normalize in (('rail_z', False), ('rail_normalized_z', True)):
      mean = expected_value(log_p, codec.within(values), normalize)
      predicted[name] = codec.within(mean)
  return predicted


def _entropy(samples: scoring.Rollout, num_targets: int) -> jax.Array:
  """Of each target's numbers, in nats: [b, G], of several [b, G, k]."""
  if num_targets == 1:
    return samples.entropy()
  parts = jnp.split(samples.log_probs, num_targets, axis=-2)
  own = [samples._replace(log_probs=part).entropy() for part in parts]
  return jnp.stack(own, axis=-1)


def text_length(samples: scoring.Rollout) -> dict[str, jax.Array]:
  """Subwords of free text, the mean over samples, where there is any."""
  if samples.text is None:
    return {}
  return {'text_length': jnp.mean(samples.text.length.astype(jnp.float32), -1)}


def prepared(params: StageParams, network: Policy | Pointwise) -> StageParams:
  """Of one seed, for many rows."""
  if isinstance(network, Pointwise) or network.prepare is None:
    return params
  return {**params, 'policy': network.prepare(params['policy'])}


def predictor(
  model: Model,
  keys: jax.Array,
  mesh: jax.sharding.Mesh | None = None,
  **options: Any,
) -> Predictor:
  """`predictions` for stacked seeds, compiled.

  Compiled once per block shape and shared by all stages and splits, and by all
  models of one form.

  Args:
    model: whose network and codec predict.
    keys: [S], one per seed.
    mesh: that the network is laid out over; None: as it comes.
    **options: what else `predictions` is asked for.
  """
  form = form_of(model)
  build = form.build  # Without the numbers: programs outlive them.

  def parts(held):
    network, codec = build(held)
    if mesh is not None:
      network = sharding_rules.constrained(network, mesh)
    return network, codec

  def stacked(held, params, inputs, numbers, keys):
    network, codec = parts(held)
    has_halves = isinstance(network, Policy) and network.halves is not None
    if has_halves:  # The inputs are halves, and every seed has its own.
      network = network._replace(encode=network.halves[1])
    function: Callable[..., Any] = functools.partial(
      predictions, network=network, codec=codec, **options
    )
    run = each_seed(function, (0, 0 if has_halves else None, None, 0))
    return run(params, inputs, numbers, keys)

  def begin(held, params, inputs):
    network, _ = parts(held)
    return each_seed(network.halves[0], (0, None))(params['policy'], inputs)

  def prepare(held, params):
    network, _ = build(held)
    return jax.vmap(lambda params: prepared(params, network))(params)

  key = form.key and ('predict', form.key, mesh, *sorted(options.items()))
  own = form.key and ('prepare', form.key)
  held = jax.tree.map(jnp.asarray, form.numbers)
  compiler_options = compilation.options(mesh)
  compiled = compilation.shared(
    key, lambda: jax.jit(stacked, compiler_options=compiler_options)
  )
  prepare_all = compilation.shared(own, lambda: jax.jit(prepare))
  half = None
  if getattr(model.network, 'halves', None) is not None:
    own_half = form.key and ('begin', form.key, mesh)
    begun = compilation.shared(
      own_half, lambda: jax.jit(begin, compiler_options=compiler_options)
    )
    half = functools.partial(begun, held)
  is_plain = getattr(model.network, 'prepare', None) is None
  return Predictor(
    lambda *args: compiled(held, *args, keys),
    None if is_plain else functools.partial(prepare_all, held),
    half,
  )


def predict(
  predict_block: Predictor, params: StageParams, inputs: Inputs, **layout: Any
) -> dict[str, np.ndarray]:
  """Predictions of all rows, block by block: `finish` of `begin`.

  Args:
    predict_block: what `predictor` gave.
    params: stacked over S seeds.
    inputs: of n rows, on the host.
    **layout: what else `begin` takes.

  Returns:
    numpy, what `predictions` gives: {'samples_z': [S, n, G], ...}.
  """
  begun = begin(predict_block, params, inputs, **layout)
  return finish(predict_block, params, begun)


def begin(
  predict_block: Predictor,
  params: StageParams,
  inputs: Inputs,
  *,
  block_size: int,
  sharding: jax.sharding.Sharding | None,
  interrupts: object = (),
  widths: Sequence[int] = (),
  first: int = 0,
) -> Iterator[Begun]:
  """Blocks of rows, each begun when it is asked for.

  Whoever keeps them can finish them with several parameters: of a policy with
  halves they take [S, n, K] on the device.

  Args:
    predict_block: what `predictor` gave.
    params: stacked over S seeds.
    inputs: of n rows, on the host.
    block_size: rows per dispatch.
    sharding: of a block's rows; None: as they come.
    interrupts: true once the run is asked to leave.
    widths: that texts are padded to; rows of one go together.
    first: number of the first row, which its samples depend on.
  """
  if sharding is not None and len(sharding.device_set) == 1:
    sharding = None  # One device takes them sooner than they are laid out.
  for rows, part in batches.by_width(inputs, widths):
    blocks, taken = batches.blocks(part, block_size, rows)
    numbers = np.where(taken < 0, -1, taken + first)
    for index, number in enumerate(numbers):
      if interrupts:
        raise InterruptedRunError('interrupted while predicting')
      block = jax.tree.map(lambda x, i=index: x[i], blocks)
      if sharding is not None:
        block, number = processes.place((block, number), sharding)
      yield Begun(predict_block.begin(params, block), number, taken[index])


def finish(
  predict_block: Predictor, params: StageParams, begun: Iterable[Begun]
) -> dict[str, np.ndarray]:
  """Predictions of all rows whose blocks `begin` gave.

  Args:
    predict_block: what `predictor` gave.
    params: as `Predictor.finish` takes them.
    begun: all blocks.
  """
  outputs: list[dict[str, np.ndarray]] = []
  rows = []
  for block in begun:
    found = predict_block.finish(params, block.half, block.numbers)
    outputs.append(processes.fetch(found))
    rows.append(block.rows)
  taken = np.concatenate(rows)  # Row numbers, in the order of the outputs.
  real = np.flatnonzero(taken >= 0)
  place = real[np.argsort(taken[real])]
  return {
    name: np.concatenate([o[name] for o in outputs], axis=1)[:, place]
    for name in outputs[0]
  }


def row_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """A key for each row [b] by its number, whatever rows are beside it."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
