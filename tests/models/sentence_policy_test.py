"""A sentence encoder that is trained with the network behind it."""

import jax
import numpy as np
import pandas as pd
import pytest
import tiny_bert
import tiny_text
from checks import assert_refused, read_log
from tiny import TINY

from genre2_jax import train
from genre2_jax.data import subwords
from genre2_jax.data.subwords import SentenceFeatures
from genre2_jax.data.texts import TextRows
from genre2_jax.experiment import experiment, recipes
from genre2_jax.models import pairs, sentence, sentence_policy
from genre2_jax.policy import Policy
from genre2_jax.runs import prediction, weights

pytest.importorskip('transformers')
pytestmark = pytest.mark.usefixtures('quick_compiles')


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """A folder with an encoder and pairs whose score is the words they share."""
  folder = tmp_path_factory.mktemp('tuned')
  tiny_bert.write_encoder(folder / 'encoder')
  first, second = (tiny_bert.sentences(80, seed) for seed in (1, 2))
  rows = [
    {'a': a, 'b': b, 'y': len({*a.split()} & {*b.split()})}
    for a, b in zip(first, second, strict=True)
  ]
  tiny_text.write_json_lines(folder / 'pairs.jsonl', rows)
  return folder


@pytest.fixture(scope='module')
def config(home):
  config = recipes.get_config('stsb', 'encoder_tuned')
  config.update_from_flattened_dict(
    TINY
    | {
      'pretrain.epochs': 2,
      'text.source': 'files',
      'text.path': str(home / 'pairs.jsonl'),
      'text.prompt': '{a}',
      'text.second': '{b}',
      'text.target': 'y',
      'text.buckets': 2,
      'language_model.pretrained': str(home / 'encoder'),
      'report': False,
    }
  )
  return config


@pytest.fixture(scope='module')
def built(config):
  return experiment.build(config)


@pytest.fixture(scope='module')
def start(built):
  """The parameters that a run starts from, of its one seed."""
  params = weights.pretrained(built, (0,), built.mesh)
  return jax.tree.map(lambda x: np.asarray(x[0]), params)


def test_it_starts_from_the_encoder_as_it_is(built, start, home):
  """What the head sees is what the frozen encoder gives, whatever is padded."""
  rows = built.table.test
  encoder = sentence.read_encoder(str(home / 'encoder'))
  u, v = (
    sentence.embed(encoder, list(texts), 'none')[0]
    for texts in (rows.text, rows.second)
  )
  expected = pairs.features(u, v)
  width = encoder.config.width  # Vectors have length 1, as their files say.
  scale = np.repeat([width**0.5, width**0.5, width**0.5, width, 4], width)
  scale = scale[: -width + 1]
  inputs = built.model.inputs(rows)
  module = encoder.module

  def vectors(inputs):
    return [
      module.apply(
        {'params': start['backbone']},
        inputs['tokens'][:, place],
        inputs['lengths'][:, place],
      )
      for place in range(2)
    ]

  found = sentence_policy.scaled_numbers(*vectors(inputs))
  np.testing.assert_allclose(found, expected * scale, atol=2e-4)
  network = built.model.network
  assert isinstance(network, Policy)
  tokens = np.pad(inputs['tokens'], ((0, 0), (0, 0), (0, 3)))
  place = np.arange(tokens.shape[2])
  tokens[place >= inputs['lengths'][..., None]] = 9
  encode = jax.jit(network.encode)
  np.testing.assert_allclose(
    encode(start, {**inputs, 'tokens': tokens}),
    encode(start, inputs),
    atol=1e-4,
  )


@pytest.mark.slow
def test_all_of_it_is_trained_and_predicts_new_pairs(config, start, tmp_path):
  workdir = train.train_and_evaluate(config, tmp_path / 'run', verbose=0)
  losses = [record['val/loss'] for record in read_log(workdir)]
  assert min(losses[1:]) < losses[0]
  run = prediction.finished.open_run(workdir)
  after = jax.tree.map(lambda x: x[0], run.weights()['policy'])
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after, start)
  names = ('embedding', 'positions', 'layers')
  assert all(max(jax.tree.leaves(moved['backbone'][n])) > 1e-5 for n in names)
  rows = pd.DataFrame({'b': ['a dog runs'] * 2, 'a': ['a dog', 'very ' * 30]})
  rows.to_csv(tmp_path / 'new.csv', index=False)
  prediction.predict_file(workdir, tmp_path / 'new.csv', tmp_path / 'out.csv')
  found = pd.read_csv(tmp_path / 'out.csv')
  assert len(found) == 2 and np.isfinite(found['prediction']).all()


def test_one_text_has_one_vector(home):
  features = SentenceFeatures(
    prompt='{a}',
    tokenizer=str(home / 'encoder'),
    fingerprint=subwords.fingerprint(str(home / 'encoder')),
    max_length=12,
    widths=(8, 12),
  )
  again = SentenceFeatures.from_json(features.to_json())
  assert again == features
  texts = np.array(['a dog', 'the cat is very good'], object)
  found = features.transform(TextRows(text=texts, target=None))
  assert found['tokens'].shape == (2, 1, 12)
  assert found['lengths'].tolist() == [[4], [7]]
  u = np.random.default_rng(0).normal(size=(2, 4))
  scaled = sentence_policy.scaled_numbers(u)
  np.testing.assert_allclose(np.mean(np.square(scaled), 1), 1, rtol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'model.numeric_embedding': 'periodic'}, ['numeric_embedding', 'none']),
    ({'model.neighbours': 4}, ['nor with texts']),
    ({'language_model.lora.rank': 2}, ['lora.rank', 'not for bert']),
    ({'language_model.pretrained': ''}, ['needs language_model.pretrained']),
    ({'language_model.pretrained': '/none'}, ['language_model.pretrained']),
    ({'baseline.name': 'linear'}, ['reads tables, not texts']),
  ],
)
def test_what_does_not_go_with_it_is_refused(config, fields, words):
  other = config.copy_and_resolve_references()
  other.update_from_flattened_dict(fields)
  assert_refused(lambda: experiment.build(other), *words)
