"""Length buckets: batches of one width, and what they must not change."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre2_jax import ahead_of_time, tokenizers
from genre2_jax.data import batches
from genre2_jax.devices import sharding
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective
from genre2_jax.policy import Policy
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import evaluation, programs, stages
from genre2_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures('quick_compiles')

CODEC = Codec(tokenizers.build('strings', base=2, digits=1, strings='1..4'),
              -1.5, 1.5, 2.5, 1.0)  # fmt: skip
WIDTHS = (4, 8, 12)
SEEN = []  # widths that `encode` was traced at


def bag_of_subwords():
  """p(number | the sum of its text's embeddings); padding has none."""

  def init(key, inputs):
    return {'embedding': jax.random.normal(key, (9, 4)) / 3}

  def encode(params, inputs, dropout_key=None):
    width = inputs['tokens'].shape[-1]
    SEEN.append(width)
    inside = jnp.arange(width) < inputs['length'][:, None]
    rows = params['embedding'][inputs['tokens']]
    return jnp.sum(rows * inside[..., None], axis=1)

  def decode(params, context, tokens, positions, visible, cache=None, **_):
    return context[:, None, None] + jnp.zeros((*tokens.shape, 1)), tokens

  return Policy(CODEC.tokenizer, init, encode, decode)


class Model(NamedTuple):
  widths: tuple = ()
  network: Policy = bag_of_subwords()
  codec: Codec = CODEC

  def example_inputs(self):
    return {
      'tokens': np.zeros((1, 12), np.int32),
      'length': np.ones(1, np.int32),
    }


def examples(num_rows, seed):
  draw = np.random.RandomState(seed)
  length = draw.choice([2, 3, 4, 5, 8, 12], num_rows).astype(np.int32)
  tokens = draw.randint(1, 9, (num_rows, 12)).astype(np.int32)
  tokens *= np.arange(12) < length[:, None]
  z = CODEC.decode(draw.randint(0, 4, (num_rows, 1)))
  return batches.Examples(
    inputs={'tokens': tokens, 'length': length},
    target=z.astype(np.float32),
    tokens=CODEC.encode(z),
  )


EXAMPLES = {'train': examples(30, 0), 'val': examples(17, 1)}


def stage_of():
  return stages.Stage(
    section='pretrain', name='ce', epochs=4, max_steps=0, patience=0,
    objective=Objective(terms=(build_term('ce'),)), learning_rate=0.1,
    warmup_steps=1, weight_decay=0.0, max_grad_norm=0.0,
  )  # fmt: skip


def compiled(seeds, widths):
  mesh = {'replica': 1, 'data': 1, 'fsdp': 1, 'model': 1}
  return programs.compile_stage(
    train_step, stage_of(), Model(widths), EXAMPLES, seeds=seeds, batch_size=4,
    block_size=4, mesh=sharding.make_mesh(mesh, 1),
  )  # fmt: skip


def test_rows_go_to_the_least_width_that_holds_them():
  inputs = EXAMPLES['train'].inputs
  parts = batches.by_width(inputs, WIDTHS)
  rows = np.concatenate([rows for rows, _ in parts])
  assert sorted(rows) == list(range(30))
  for (rows, cut), width, least in zip(parts, WIDTHS, (0, 4, 8), strict=True):
    assert cut['tokens'].shape == (30, width)
    assert (inputs['length'][rows] <= width).all()
    assert (inputs['length'][rows] > least).all()
  ((rows, same),) = batches.by_width(inputs, (12,))
  assert same is inputs and rows.tolist() == list(range(30))


def test_an_epoch_has_every_row_and_no_mixed_batch():
  sizes = [
    len(r) for r, _ in batches.by_width(EXAMPLES['train'].inputs, WIDTHS)
  ]
  buckets = [
    rows for rows, _ in batches.by_width(EXAMPLES['train'].inputs, WIDTHS)
  ]
  orders = set()
  for seed in range(3):
    indices, which = batches.bucketed_epoch(
      jax.random.key(seed), jax.random.key(7), buckets, 4
    )
    assert indices.shape == (sum(-(-size // 4) for size in sizes), 4)
    assert set(np.ravel(indices)) == set(range(30))
    for row, bucket in zip(np.asarray(indices), which, strict=True):
      assert set(row) <= set(buckets[bucket])
    orders.add(tuple(which.tolist()))
  # Whoever shares the order's key has the same buckets in turn.
  (order,) = orders
  assert order != tuple(sorted(order))


def test_buckets_change_no_evaluation():
  """Of the state before the first step, and of any predictions."""
  states, metrics = {}, {}
  for widths in ((12,), WIDTHS):
    built = compiled((0, 1), widths)
    states[widths], metrics[widths] = built.validate(built.init(None))
  for name, value in metrics[12,].items():
    np.testing.assert_allclose(metrics[WIDTHS][name], value, rtol=1e-6)
  model = Model()
  predict_block = evaluation.predictor(
    model, stages.evaluation_keys((0, 1)), num_samples=3, temperature=1.0,
    exact=True,
  )  # fmt: skip
  whole, parts = (
    evaluation.predict(
      predict_block, states[12,].params, EXAMPLES['val'].inputs, block_size=4,
      sharding=None, widths=widths,
    )
    for widths in ((12,), WIDTHS)
  )  # fmt: skip
  for name, value in whole.items():
    np.testing.assert_allclose(parts[name], value, rtol=1e-5, atol=1e-6)


def test_a_seed_trains_the_same_alone_and_every_width_has_its_program():
  SEEN.clear()
  both, alone = compiled((0, 1), WIDTHS), compiled((1,), WIDTHS)
  assert set(SEEN) == set(WIDTHS)
  assert both.epoch_steps == alone.epoch_steps > -(-30 // 4)
  ends = []
  for built in (both, alone):
    state, first = built.validate(built.init(None))
    for _ in range(2):
      state = built.run(state, built.epoch_steps)
      state, last = built.validate(state)
    assert (last['val/loss'] != first['val/loss']).all()
    ends.append(state)
  np.testing.assert_allclose(
    ends[0].params['policy']['embedding'][1],
    ends[1].params['policy']['embedding'][0],
    rtol=1e-5, atol=1e-6,
  )  # fmt: skip


def test_what_is_compiled_for_a_topology_is_what_the_run_executes(monkeypatch):
  """Every width's step, one switch between them: the same program text."""
  texts, trace_run = [], programs.trace_run

  def traced(*arguments):
    found = trace_run(*arguments)
    texts.append(found.lower().as_text())
    return found

  monkeypatch.setattr(programs, 'trace_run', traced)
  compiled((0, 1), WIDTHS)
  mesh = {'replica': 1, 'data': 1, 'fsdp': 1, 'model': 1}
  ahead_of_time.compile_step(
    stage_of(), Model(WIDTHS), EXAMPLES['train'], batch_size=4, seeds=(0, 1),
    mesh=sharding.make_mesh(mesh, 1), topology='cpu',
  )  # fmt: skip
  executed, shown = texts
  assert shown == executed
  assert 'stablehlo.case' in shown
