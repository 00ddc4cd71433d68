"""Neighbours: a network mixed with the targets of training rows that are alike.

  F(y|x) = (1 − g(x))·F_net(y|x) + g(x)·Σ_i w_i(x)·1[y_i ≤ y]
  w_i(x) = softmax_i(−t·‖E·x − E·x_i‖),  g(x) = σ(a·x + b)

over training rows i, with E, t, a and b learned together with the network.
ModernNCA (Ye et al. 2024, arXiv 2407.03257) and TabR (Gorishniy et al. 2023,
arXiv 2307.14338) learn such distances. It is a policy over the same numbers as
the network's.

The training rows are parameters that are never trained: a run saves them once,
and a program takes them as an argument.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre2_jax.data import batches
from genre2_jax.models import pack
from genre2_jax.models.encoders import FeatureEmbedding
from genre2_jax.models.layers import MASKED, dense, parameter
from genre2_jax.models.prior import PRIOR
from genre2_jax.policy import Inputs, Params, Policy, tables, trie

# Where the training rows lie among a network's parameters.
MEMORY = 'memory'
# Of prepared parameters: where its rows lie in the map.
_PLACES = 'map'
# The number of a row in the memory, an input of training rows alone.
ROW = 'row'
# Rows that are looked at together: bounds the memory, not the result.
_BLOCK = 4096
_TINY = 1e-12
_SHARE = pack.own('neighbours')
# At the start: log t, and the log-odds of g.
_LOG_SCALE = 1.0
_GATE = 0.0


@dataclasses.dataclass(frozen=True)
class Memory:
  """Training rows that a policy looks up.

  Attributes:
    inputs: of them, arrays [n, ...] in a dict.
    places: int32 [n], of their targets among the numbers of the trie; −1 where
      there is no row.
    log_weight: float32 [n], of the rows' weights, which their w_i are times;
      None: all count alike.
  """

  inputs: dict[str, np.ndarray]
  places: np.ndarray
  log_weight: np.ndarray | None = None

  def padded(self, candidates: int) -> 'Memory':
    """With rows behind that are none, for programs of other tables as well.

    Where a step looks at all rows, it does so still.
    """
    count = len(self.places)
    size = batches.ladder(count)
    if count <= candidates < size:
      size = candidates
    return Memory(
      batches.padded(self.inputs, size),
      batches.padded(self.places + 1, size) - 1,
      batches.padded(self.log_weight, size),
    )

  def as_dict(self) -> dict[str, Any]:
    """As it lies among parameters."""
    rows: dict[str, Any] = {'inputs': self.inputs, 'places': self.places}
    if self.log_weight is not None:
      rows['log_weight'] = self.log_weight
    return rows

  @classmethod
  def blank(
    cls,
    example: dict[str, np.ndarray],
    num_rows: int,
    is_weighted: bool = False,
  ) -> 'Memory':
    """Of a run whose rows are yet to be read: n rows, all zero."""
    return cls(
      {
        name: np.broadcast_to(np.zeros_like(x), (num_rows, *x.shape[1:]))
        for name, x in example.items()
      },
      np.broadcast_to(np.zeros(1, np.int32), num_rows),
      np.zeros(num_rows, np.float32) if is_weighted else None,
    )


def memory_of(params: Params) -> dict[str, Any]:
  """The training rows among a policy's parameters, however it is wrapped."""
  while MEMORY not in params:
    params = params['network']
  return params[MEMORY]


class Lookup(nn.Module):
  """Where rows lie in the map, and how much their neighbours count.

  Attributes:
    embedding: of the features.
    width: of the map.
  """

  embedding: FeatureEmbedding
  width: int

  @nn.compact
  def __call__(self, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """(t·E·x [B, width], log-odds of the gate [B])."""
    x = self.embedding(inputs)
    constant, zeros = nn.initializers.constant, nn.initializers.zeros_init()
    log_scale = parameter(self, 'log_scale', constant(_LOG_SCALE), (), ())
    # Distances know no bias.
    place = dense(self.width, (None, 'embed'), name='map', use_bias=False)(x)
    kernel = parameter(self, 'gate', zeros, (None,), x.shape[-1:])
    bias = parameter(self, 'gate_bias', constant(_GATE), (), ())
    return jnp.exp(log_scale) * place, x @ kernel + bias


def neighbour_policy(
  base: Policy,
  memory: Memory,
  *,
  embedding: FeatureEmbedding,
  width: int,
  candidates: int,
  is_own: bool = False,
) -> Policy:
  """A policy mixed with the targets of training rows that are alike.

  A training row, whose inputs have `row`, its number in the memory, never sees
  itself. Where there is a dropout key, so many random rows are looked at;
  otherwise all of them.

  Args:
    base: whose numbers can be enumerated.
    memory: training rows, for `init`; what `encode` reads are the parameters.
    embedding: of the features, for the map and the gate.
    width: of the map.
    candidates: rows that a step looks at.
    is_own: whether each member of a pack is mixed or not, g(x) times 1 or 0.

  Returns:
    A `Policy` whose parameters are {'network': the base's, 'lookup', 'memory'},
    and 'member_neighbours' if `is_own`, and whose context is a table.
  """
  tokenizer = base.tokenizer
  lookup = Lookup(embedding, width)
  example = {name: x[:1] for name, x in memory.inputs.items()}

  def look_up(params: Params, inputs: Inputs) -> Any:
    return lookup.apply({'params': params['lookup']}, inputs)

  def init(key: jax.Array, inputs: Inputs) -> Params:
    base_key, lookup_key = jax.random.split(key)
    one = jax.tree.map(lambda x: x[:1], _features(inputs))
    # No file holds arrays without elements, of tables without categories.
    some = {name: x for name, x in memory.inputs.items() if x.size}
    rows = {**memory.as_dict(), 'inputs': some}
    share = {_SHARE: _whole(jnp.ones(()))} if is_own else {}
    return {
      'network': base.init(base_key, one),
      'lookup': lookup.init(lookup_key, one)['params'],
      MEMORY: jax.tree.map(_whole, rows),
      **share,
    }

  def encode(
    params: Params, inputs: Inputs, dropout_key: jax.Array | None = None
  ) -> jax.Array:
    own, rows = _features(inputs), params[MEMORY]
    num_rows = len(rows['places'])
    if _PLACES in rows and dropout_key is None:
      rows = {name: x for name, x in rows.items() if name != 'inputs'}
    else:
      rows = _with_all(rows, own)
    numbers = jnp.arange(num_rows)
    base_key = None
    if dropout_key is not None:
      base_key, draw_key = jax.random.split(dropout_key)
      if candidates < num_rows:
        real = jnp.sum(rows['places'] >= 0)
        numbers = jax.random.randint(draw_key, (candidates,), 0, real)
        rows = jax.tree.map(lambda x: jnp.take(x, numbers, axis=0), rows)

    def place_of(rows):
      if _PLACES in rows:
        return rows[_PLACES]
      return look_up(params, rows['inputs'])[0]

    context = base.encode(params['network'], own, base_key)
    log_p = trie.log_probs(base, params['network'], context)
    place, gate = look_up(params, own)
    masses = _masses(
      place,
      place_of,
      rows,
      numbers,
      inputs.get(ROW),
      log_p.shape[-1],
    )
    gate = gate[:, None]
    kept, given = jax.nn.log_sigmoid(-gate), jax.nn.log_sigmoid(gate)
    if is_own:
      is_mixed = params[_SHARE] > 0
      kept = jnp.where(is_mixed, kept, 0.0)
      given = jnp.where(is_mixed, given, MASKED)
    mixture = jnp.logaddexp(kept + log_p, given + tables.log_of(masses))
    return tables.logits_of(tokenizer, mixture)

  def prepare(params: Params) -> Params:
    rows = params[MEMORY]
    count = len(rows['places'])
    inputs = _with_all(rows, example)['inputs']
    if count <= _BLOCK:
      places = look_up(params, inputs)[0]
    else:
      blocks = jax.tree.map(_in_blocks, inputs)
      places = jax.lax.map(lambda block: look_up(params, block)[0], blocks)
      places = places.reshape(-1, places.shape[-1])[:count]
    return {**params, MEMORY: {**rows, _PLACES: places}}

  return Policy(
    tokenizer,
    init,
    encode,
    tables.decode_of(tokenizer),
    frozen=lambda path: path[0] == MEMORY,
    is_table=True,
    prepare=prepare,
  )


def _with_all(rows, own):
  """The memory with inputs that no file holds: arrays without elements."""
  count = len(rows['places'])
  empty = {
    name: jnp.zeros((count, *x.shape[1:]), x.dtype)
    for name, x in own.items()
    if name != PRIOR
  }
  kept = {name: x for name, x in rows.items() if name != _PLACES}
  return {**kept, 'inputs': empty | rows['inputs']}


def _features(inputs):
  return {name: x for name, x in inputs.items() if name != ROW}


def _whole(x):
  """A parameter that is whole on every device."""
  return nn.LogicallyPartitioned(jnp.asarray(x), (None,) * x.ndim)


def _masses(
  place: jax.Array,
  place_of: Any,
  rows: dict[str, Any],
  numbers: jax.Array,
  own: jax.Array | None,
  count: int,
) -> jax.Array:
  """Σ_i w_i·1[y_i = v_k]: [B, K], a block of rows after the other.

  Args:
    place: of the queries in the map, [B, D].
    place_of: rows [m, ...] -> their places in the map [m, D].
    rows: 'inputs' or 'map' [n, ...], 'places' among the numbers [n], and their
      'log_weight' [n] where they have one.
    numbers: of the rows, [n].
    own: number of each query among the rows, [B]; None where it is none.
    count: K.
  """
  batch, num_rows = len(place), len(numbers)

  def add(carry, block):
    most, sums = carry
    rows, numbers = block
    log_w = -_distance(place, place_of(rows))  # [B, m]
    if 'log_weight' in rows:
      log_w = log_w + rows['log_weight']
    seen = (numbers >= 0) & (rows['places'] >= 0)
    if own is not None:
      seen = seen & (numbers != own[:, None])
    log_w = jnp.where(seen, log_w, MASKED)
    higher = jnp.maximum(most, jax.lax.stop_gradient(log_w.max(-1)))
    weights = jnp.exp(log_w - higher[:, None])
    numbers_of = jax.nn.one_hot(rows['places'], count)
    sums = sums * jnp.exp(most - higher)[:, None] + weights @ numbers_of
    return (higher, sums), None

  carry = jnp.full(batch, 2 * MASKED), jnp.zeros((batch, count))
  blocks = (rows, numbers)
  if num_rows <= _BLOCK:
    (_, sums), _ = add(carry, blocks)
  else:
    blocks = jax.tree.map(_in_blocks, (rows, numbers + 1))
    blocks = (blocks[0], blocks[1] - 1)  # Padded with −1.
    (_, sums), _ = jax.lax.scan(jax.checkpoint(add), carry, blocks)
  return sums / sums.sum(-1, keepdims=True)


def _in_blocks(x):
  """[n, ...] as [blocks, block, ...], padded with zeros."""
  num_blocks = -(-len(x) // _BLOCK)
  missing = num_blocks * _BLOCK - len(x)
  x = jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1)))
  return x.reshape(num_blocks, _BLOCK, *x.shape[1:])


def _distance(a, b):
  """‖a − b‖ of [B, D] and [m, D]: [B, m]; its gradient is finite at 0."""
  product = jnp.matmul(a, b.T, precision='highest')
  squares = jnp.sum(a**2, -1)[:, None] + jnp.sum(b**2, -1) - 2 * product
  return jnp.sqrt(jnp.maximum(squares, _TINY))
