"""Embeddings of features and implicit ensembles of encoders."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checks import assert_refused
from flax import traverse_util

from genre2_jax import tokenizers
from genre2_jax.data.features import LIMIT, Features
from genre2_jax.data.tables import Rows
from genre2_jax.devices import sharding
from genre2_jax.models.encoders import (
  FAST_PARAMETERS,
  MLPEncoder,
  feature_embedding,
  piecewise_linear,
)
from genre2_jax.models.layers import dense
from genre2_jax.models.tabular import tabular_policy
from genre2_jax.training import train_state

pytestmark = pytest.mark.usefixtures('quick_compiles')

QUANTILES = (
  (-2.0, -0.5, 0.0, 0.25, 3.0),
  (0.0,),
  (-1.0, 1.0),
  (-1.0, 0.0, 2.0),
)
CARDINALITIES = (3, 1, 4)
SIZES = {'width': 6, 'hidden': 8, 'num_layers': 2, 'dropout': 0.0}
CHOICES = [
  {},
  {'numeric_embedding': 'piecewise_linear'},
  {'numeric_embedding': 'periodic', 'frequency_scale': 1.0},
  {'category_embedding': 'one_hot'},
  {'category_embedding': 'learned'},
  {'numeric_embedding': 'periodic', 'category_embedding': 'learned'},
]


def embedding_of(cardinalities=CARDINALITIES, quantiles=QUANTILES, **choices):
  sizes = {'num_frequencies': 5, 'embedding_width': 3}
  return feature_embedding(
    cardinalities=cardinalities, quantiles=quantiles, **{**sizes, **choices}
  )


def inputs_of(batch, num_numeric=4, cardinalities=CARDINALITIES):
  rng = np.random.default_rng(0)
  numeric = rng.normal(size=(batch, num_numeric)).astype(np.float32)
  categories = rng.integers(0, cardinalities, (batch, len(cardinalities)))
  return {'numeric': numeric, 'categories': categories.astype(np.int32)}


def embed(inputs, seed=0, **choices):
  """The embedded rows and the parameters that embed them."""
  init = jax.jit(embedding_of(**choices).init_with_output)
  x, variables = init(jax.random.key(seed), inputs)
  return np.asarray(x), nn.unbox(variables).get('params', {})


# -------------------------------------------------------- piecewise linear


def place_by_definition(x, edges):
  """Equation 1 of arXiv 2203.05556, for one number, in float64."""
  num_bins, parts = len(edges) - 1, []
  for t in range(1, num_bins + 1):
    if x < edges[t - 1] and t > 1:
      parts.append(0.0)
    elif x >= edges[t] and t < num_bins:
      parts.append(1.0)
    else:
      parts.append((x - edges[t - 1]) / (edges[t] - edges[t - 1]))
  return parts


def test_piecewise_linear_is_the_papers():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200, 4)).astype(np.float32) * 2
  edges = sorted({edge for column in QUANTILES for edge in column})
  x = np.concatenate([x, np.tile(np.float32(edges)[:, None], 4)])
  expected = [
    [
      p
      for v, e in zip(row, QUANTILES, strict=True)
      for p in place_by_definition(v, e)
    ]
    for row in x.astype(float).tolist()
  ]
  places = piecewise_linear(x, QUANTILES)
  assert places.shape == (len(x), 4 + 0 + 1 + 2)
  np.testing.assert_allclose(places, expected, rtol=1e-5, atol=1e-6)


def test_piecewise_linear_is_continuous_monotone_and_full_inside():
  edges = QUANTILES[0]
  x = np.linspace(-4, 5, 9001, dtype=np.float32)
  places = np.asarray(piecewise_linear(x[:, None], (edges,)))
  steps = np.diff(places, axis=0)
  assert steps.min() >= 0
  steepest = 1 / np.diff(edges).min()
  assert steps.max() <= 1.01 * steepest * 1e-3
  # Every bin passed adds 1; between the ends the sum grows from 0 to Q.
  total = places.sum(-1)
  inside = (edges[0] <= x) & (x <= edges[-1])
  np.testing.assert_allclose(
    total[inside], np.interp(x[inside], edges, np.arange(5)), atol=1e-4
  )
  # Outside it goes on as a line of the outer bin.
  assert total[0] == pytest.approx((-4 + 2) / 1.5, rel=1e-5)
  assert total[-1] == pytest.approx(3 + (5 - 0.25) / 2.75, rel=1e-5)
  assert not places[x < edges[0], 1:].any()
  assert (places[x > edges[-1], :-1] == 1).all()


def test_the_number_itself_stays_beside_its_places():
  inputs = inputs_of(7)
  x, params = embed(inputs, numeric_embedding='piecewise_linear')
  assert params == {}
  np.testing.assert_array_equal(x[:, :4], inputs['numeric'])
  np.testing.assert_allclose(
    x[:, 4:11], piecewise_linear(inputs['numeric'], QUANTILES), atol=1e-6
  )
  np.testing.assert_array_equal(x[:, 11:], embed(inputs)[0][:, 4:])


def test_places_in_fitted_bins_are_finite_for_any_row():
  """Constant, narrow and heavy-tailed columns, and rows far outside them."""
  rng = np.random.default_rng(0)
  columns = np.column_stack(
    [
      np.zeros(50),
      1e-8 * rng.normal(size=50) + np.eye(50)[0],
      np.exp(30 * rng.normal(size=50)),
      np.full(50, np.nan),
    ]
  )
  far = np.array([[-1e300] * 4, [1e300] * 4, [np.nan] * 4])
  rows = [
    Rows(numeric=x, categories=np.empty((len(x), 0), object), target=None)
    for x in (columns, far)
  ]
  features = Features.fit(rows[0], list('abcd'), [])
  for part in rows:
    z = features.transform(part)['numeric']
    places = np.asarray(piecewise_linear(z, features.quantiles))
    assert places.shape[1] == sum(len(e) - 1 for e in features.quantiles)
    assert np.isfinite(np.square(places)).all()
  assert np.abs(z).max() == LIMIT
  places = piecewise_linear(
    features.transform(rows[0])['numeric'], features.quantiles
  )
  assert np.min(places) >= 0
  assert np.max(places) <= 1 + 1e-6


# ----------------------------------------------------------------- periodic


def test_periodic_by_hand():
  inputs = inputs_of(6)
  x, params = embed(inputs, numeric_embedding='periodic', frequency_scale=0.5)
  assert {k: v.shape for k, v in params.items()} == {
    'frequencies': (4, 5),
    'kernel': (4, 10, 3),
    'bias': (4, 3),
  }
  params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  for column, z in enumerate(inputs['numeric'].T.astype(float)):
    angles = 2 * np.pi * z[:, None] * params['frequencies'][column]
    waves = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    expected = waves @ params['kernel'][column] + params['bias'][column]
    np.testing.assert_allclose(
      x[:, 3 * column : 3 * column + 3], np.maximum(expected, 0), atol=1e-5
    )
  np.testing.assert_array_equal(x[:, 12:], embed(inputs)[0][:, 4:])


def test_frequencies_are_drawn_at_their_scale_and_learned():
  choices = {
    'numeric_embedding': 'periodic',
    'num_frequencies': 2000,
    'frequency_scale': 0.3,
  }
  inputs = inputs_of(8)
  _, params = embed(inputs, **choices)
  assert np.std(params['frequencies']) == pytest.approx(0.3, rel=0.05)
  assert np.mean(params['frequencies']) == pytest.approx(0, abs=0.02)

  def size(params):
    module = embedding_of(**choices)
    return jnp.square(module.apply({'params': params}, inputs)).sum()

  for gradient in jax.tree.leaves(jax.jit(jax.grad(size))(params)):
    # Every column's parameters are reached, and by finite gradients.
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).reshape(4, -1).max(-1) > 1e-6).all()


# --------------------------------------------------------------- categories


def test_one_hot_by_hand():
  codes = np.array([[0, 0, 3], [2, 0, 0], [1, 0, 2]], np.int32)
  inputs = {'numeric': np.zeros((3, 4), np.float32), 'categories': codes}
  x, params = embed(inputs, category_embedding='one_hot')
  assert params == {}
  assert x[:, 4:].tolist() == [
    [1, 0, 0, 1, 0, 0, 0, 1],
    [0, 0, 1, 1, 1, 0, 0, 0],
    [0, 1, 0, 1, 0, 0, 1, 0],
  ]


@pytest.mark.parametrize('choice', ['one_hot', 'learned'])
def test_unknown_and_missing_labels(choice):
  """Unknown is as the most frequent, missing is a category of its own."""
  labels = [['a'], ['b'], ['b'], [None]]
  new = [['zzz'], [None], ['a']]
  train, test = (
    Rows(
      numeric=np.empty((len(x), 0)),
      categories=np.array(x, object),
      target=None,
    )
    for x in (labels, new)
  )
  features = Features.fit(train, [], ['c'])
  a, b, _, missing = features.transform(train)['categories']
  codes = np.concatenate(
    [[a, b, missing], features.transform(test)['categories']]
  )
  inputs = {'numeric': np.empty((6, 0), np.float32), 'categories': codes}
  x, _ = embed(
    inputs,
    cardinalities=features.cardinalities,
    quantiles=(),
    category_embedding=choice,
  )
  np.testing.assert_array_equal(x[3:], x[[1, 2, 0]])
  apart = np.abs(x[:3, None] - x[:3]).max(-1)
  assert (apart[~np.eye(3, dtype=bool)] > 1e-3).all()
  if choice == 'one_hot':
    np.testing.assert_array_equal(x[:3], np.eye(3))


def test_learned_categories_are_rows_of_the_table():
  inputs = inputs_of(9)
  choices = {'category_embedding': 'learned', 'embedding_width': 400}
  x, params = embed(inputs, **choices)
  table = np.asarray(params['categories'])
  assert table.shape == (3 + 1 + 4, 400)
  assert np.square(table).sum(-1).mean() == pytest.approx(1, rel=0.1)
  rows = inputs['categories'] + np.array([0, 3, 4])
  np.testing.assert_array_equal(x[:, 4:], table[rows].reshape(9, -1))

  def size(params):
    module = embedding_of(**choices)
    return jnp.square(module.apply({'params': params}, inputs)).sum()

  gradient = jax.jit(jax.grad(size))(params)['categories']
  seen = np.bincount(rows.ravel(), minlength=8)
  np.testing.assert_allclose(gradient, 2 * table * seen[:, None], rtol=1e-5)


# ---------------------------------------------------------------- ensembles


def ensemble(num_members, **sizes):
  return MLPEncoder(
    embedding=embedding_of(), num_members=num_members, **{**SIZES, **sizes}
  )


def initial(model, inputs):
  return nn.unbox(jax.jit(model.init)(jax.random.key(0), inputs))['params']


def memory_of(model, params, inputs):
  return np.asarray(jax.jit(model.apply)({'params': params}, inputs))


def test_members_by_hand():
  """Each is the plain network of its own kernel r_m ⊙ W ⊙ s_m and bias."""
  inputs, model = inputs_of(5), ensemble(3)
  params = initial(model, inputs)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda p: p + rng.normal(0, 0.3, p.shape).astype(np.float32), params
  )
  x, _ = embed(inputs)
  memory = memory_of(model, params, inputs)
  assert memory.shape == (5, 3, 6)
  for m in range(3):
    y = x.astype(float)
    for layer in range(3):
      p = {
        k: np.asarray(v, float)
        for k, v in params[f'EnsembleDense_{layer}'].items()
      }
      kernel = p['r'][m][:, None] * p['kernel'] * p['s'][m]
      y = y @ kernel + p['bias'][m]
      y = np.maximum(y, 0) if layer < 2 else y
    np.testing.assert_allclose(memory[:, m], y, atol=2e-5)


def test_what_is_beside_comes_last_and_a_scale_begins_at_one():
  inputs = inputs_of(5)
  beside = np.arange(10, dtype=np.float32).reshape(5, 2)
  plain, _ = embed(inputs)
  model = embedding_of(scaled=True)
  inputs['beside'] = beside
  params = nn.unbox(model.init(jax.random.key(0), inputs))['params']
  assert set(params) == set(FAST_PARAMETERS)
  x = model.apply({'params': params}, inputs)
  np.testing.assert_array_equal(x, np.concatenate([plain, beside], axis=1))
  scale = jnp.arange(x.shape[1], dtype=jnp.float32)
  scaled = model.apply({'params': {'feature_scale': scale}}, inputs)
  np.testing.assert_allclose(scaled, x * scale, rtol=1e-6)


def test_a_rare_label_has_no_indicator():
  inputs = inputs_of(6)
  whole, _ = embed(inputs, category_embedding='one_hot')
  some, _ = embed(
    inputs, category_embedding='one_hot', indicators=((0, 2), (), (1, 2, 3))
  )
  np.testing.assert_array_equal(some, whole[:, [0, 1, 2, 3, 4, 6, 9, 10, 11]])


def test_members_begin_apart_by_signs_of_the_first_layer_only():
  inputs, model = inputs_of(5), ensemble(4)
  params = initial(model, inputs)
  signs = np.asarray(params['EnsembleDense_0']['r'])
  assert signs.shape == (4, 7)
  assert set(signs.ravel().tolist()) == {-1.0, 1.0}
  assert len(np.unique(signs, axis=0)) > 1
  for layer, p in params.items():
    assert (np.asarray(p['s']) == 1).all()
    assert not np.asarray(p['bias']).any()
    assert layer == 'EnsembleDense_0' or (np.asarray(p['r']) == 1).all()
  memory = memory_of(model, params, inputs)
  apart = np.abs(memory[:, :, None] - memory[:, None]).max((0, 3))
  same = (signs[:, None] == signs).all(-1)
  assert ((apart > 1e-3) == ~same).all()


def test_members_share_the_kernels():
  """Four members cost adapters, not four networks."""
  inputs = inputs_of(1)

  def count(num_members):
    model = ensemble(num_members, hidden=64)
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return sum(x.size for x in jax.tree.leaves(params))

  adapters = (7 + 2 * 64) + (64 + 2 * 64) + (64 + 2 * 6)
  assert count(5) - count(4) == adapters
  assert count(4) == count(1) - (64 + 64 + 6) + 4 * adapters


def test_every_member_learns_and_drops_out_by_itself():
  inputs, model = inputs_of(16), ensemble(3, dropout=0.5, hidden=32)
  params = initial(model, inputs)

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(params, key):
    memory = model.apply({'params': params}, inputs, rngs={'dropout': key})
    return jnp.square(memory - 1).sum(), memory

  first = params['EnsembleDense_0']
  equal = {**params, 'EnsembleDense_0': {**first, 'r': np.ones((3, 7), 'f')}}
  _, memory = gradient(equal, jax.random.key(0))
  plain = memory_of(model, equal, inputs)
  np.testing.assert_allclose(plain[:, 1], plain[:, 0], atol=1e-6)
  assert np.abs(memory[:, 1] - memory[:, 0]).max() > 1e-2
  grads, _ = gradient(params, jax.random.key(0))
  for p in grads.values():
    for name in ('r', 's', 'bias'):
      assert (np.abs(p[name]).max(-1) > 1e-4).all()


# --------------------------------------------------------- the whole encoder


class PapersEncoder(nn.Module):
  """GenRe²'s encoder without any choice: what the defaults must be."""

  @nn.compact
  def __call__(self, inputs):
    last = np.maximum(np.array(CARDINALITIES) - 1, 1)
    codes = 2 * inputs['categories'] / last.astype(np.float32) - 1
    x = jnp.concatenate([inputs['numeric'], codes], axis=-1)
    for axes in ((None, 'mlp'), ('mlp', 'embed')):
      x = jax.nn.relu(dense(8, axes)(x))
    return dense(6, ('embed', None))(x)[:, None]


def test_the_defaults_are_the_papers_network():
  inputs = inputs_of(5)
  model = MLPEncoder(
    embedding=feature_embedding(cardinalities=CARDINALITIES), **SIZES
  )
  ours, theirs = (
    jax.jit(m.init)(jax.random.key(7), inputs) for m in (model, PapersEncoder())
  )
  assert nn.get_partition_spec(ours) == nn.get_partition_spec(theirs)
  ours, theirs = nn.unbox((ours, theirs))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  np.testing.assert_allclose(
    jax.jit(model.apply)(ours, inputs),
    jax.jit(PapersEncoder().apply)(theirs, inputs),
    atol=1e-6,
  )


@pytest.mark.parametrize('choices', CHOICES, ids=str)
@pytest.mark.parametrize(
  ('quantiles', 'cardinalities'),
  [((), (3, 2)), (QUANTILES, ()), (((1.0,),), (1,))],
)
def test_columns_of_one_kind_may_be_missing(choices, quantiles, cardinalities):
  embedding = embedding_of(cardinalities, quantiles, **choices)
  inputs = inputs_of(5, len(quantiles), cardinalities)
  init = jax.jit(embedding.init_with_output)
  x, variables = init(jax.random.key(0), inputs)
  assert x.ndim == 2
  assert len(x) == 5
  assert x.shape[1] > 0
  assert np.isfinite(x).all()
  for path, p in traverse_util.flatten_dict(nn.unbox(variables)).items():
    assert p.size, path


@pytest.mark.parametrize(
  ('choices', 'members'), [(CHOICES[0], 1), (CHOICES[1], 2), (CHOICES[-1], 2)]
)
def test_equal_seeds_equal_parameters_stacked_and_jitted(choices, members):
  inputs = inputs_of(3)
  model = MLPEncoder(
    embedding=embedding_of(**choices), num_members=members, **SIZES
  )

  @jax.jit
  def stacked(keys):
    params = nn.unbox(jax.vmap(model.init, (0, None))(keys, inputs))
    return params, jax.vmap(model.apply, (0, None))(params, inputs)

  @jax.jit
  @jax.grad
  def gradient(params):
    return jnp.square(model.apply(params, inputs)).sum()

  keys = jax.vmap(jax.random.key)(jnp.array([4, 5, 4]))
  params, memory = stacked(keys)
  assert memory.shape == (3, 3, members, 6)
  np.testing.assert_array_equal(memory[0], memory[2])
  assert np.abs(memory[0] - memory[1]).max() > 1e-3
  one = jax.tree.map(lambda p: np.asarray(p)[1], params)
  np.testing.assert_allclose(
    memory_of(model, one['params'], inputs), memory[1], atol=1e-5
  )
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient(one)))


@pytest.mark.parametrize('members', [1, 2])
@pytest.mark.parametrize('choices', CHOICES, ids=str)
def test_every_parameter_has_a_sharding(choices, members):
  policy = tabular_policy(
    tokenizers.build('normalized', base=3, digits=2),
    cardinalities=CARDINALITIES,
    quantiles=QUANTILES,
    width=4,
    num_layers=1,
    num_heads=2,
    feedforward=4,
    encoder_hidden=4,
    encoder_layers=1,
    dropout=0.0,
    ensemble_members=members,
    **choices,
  )
  boxed = jax.eval_shape(policy.init, jax.random.key(0), inputs_of(1))
  names = traverse_util.flatten_dict(nn.get_partition_spec(boxed))
  known = {name for name, _ in sharding.RULES} | {None}
  for path, p in traverse_util.flatten_dict(nn.unbox(boxed)).items():
    assert len(names[path]) == p.ndim, path
    assert set(names[path]) <= known, path
  optimizer = optax.adam(1e-3)

  def create(key):
    params = jax.tree.map(lambda p: jnp.zeros(p.shape), nn.unbox(boxed))
    return train_state.create(params, key, optimizer, ['loss'])

  state = jax.eval_shape(jax.vmap(create), jax.random.split(jax.random.key(0)))
  mesh = sharding.make_mesh({'replica': 1, 'data': -1, 'fsdp': 1, 'model': 1})
  shardings = sharding.state_sharding(boxed, state, optimizer, mesh)
  assert jax.tree.structure(shardings) == jax.tree.structure(state)
  sharding.check_shapes(state, shardings)


# ------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  ('arguments', 'part'),
  [
    ({'numeric_embedding': 'ple'}, 'piecewise_linear'),
    ({'category_embedding': 'onehot'}, 'one_hot'),
    ({'num_frequencies': 0}, 'num_frequencies=0'),
    ({'frequency_scale': -1.0}, 'frequency_scale=-1.0'),
    ({'embedding_width': 0}, 'embedding_width=0'),
    ({'quantiles': ((0.0, 0.0),)}, 'ascend'),
    ({'quantiles': ((1.0, 1.0 + 1e-12),)}, 'float32'),
  ],
)
def test_wrong_arguments_are_refused(arguments, part):
  assert_refused(
    lambda: feature_embedding(cardinalities=(), **arguments),
    part,
    error=ValueError,
  )


def test_other_columns_than_told_are_refused():
  inputs = inputs_of(2)
  for choices in (
    {'cardinalities': (3, 1)},
    {'quantiles': QUANTILES[:3], 'numeric_embedding': 'piecewise_linear'},
  ):
    with pytest.raises(ValueError, match=r'\d \w+ columns, but'):
      embed(inputs, **choices)
  with pytest.raises(ValueError, match='at least 1'):
    initial(ensemble(0), inputs)
