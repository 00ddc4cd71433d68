"""Sentence encoders: BERT's own numbers, read once, kept by what they are."""

import os
import pathlib

import numpy as np
import pytest
import tiny_bert
from checks import assert_refused
from scipy import special

from genre2_jax.data import subwords
from genre2_jax.models import bert, safetensors, sentence

pytest.importorskip('transformers')
pytestmark = pytest.mark.usefixtures('quick_compiles')

# A folder of a real one, such as all-MiniLM-L6-v2.
REAL = os.environ.get('GENRE2_SENTENCE_ENCODER', '')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_bert.write_encoder(tmp_path_factory.mktemp('bert') / 'tiny')


def reference(weights, config, ids):
  """Hidden states [L, D] of one text: BERT by its paper, in float64."""

  def linear(x, name):
    return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.epsilon)
    return x * weights[f'{name}.weight'] + weights[f'{name}.bias']

  weights = {name: x.astype(np.float64) for name, x in weights.items()}
  of = 'embeddings.{}_embeddings.weight'
  x = weights[of.format('word')][ids]
  x = x + weights[of.format('position')][: len(ids)]
  x = norm(x + weights[of.format('token_type')][0], 'embeddings.LayerNorm')
  for layer in range(config.num_layers):
    name = f'encoder.layer.{layer}'
    q, k, v = (
      linear(x, f'{name}.attention.self.{part}')
      .reshape(len(ids), config.num_heads, -1)
      .swapaxes(0, 1)
      for part in ('query', 'key', 'value')
    )
    logits = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    y = (special.softmax(logits, -1) @ v).swapaxes(0, 1).reshape(len(ids), -1)
    y = linear(y, f'{name}.attention.output.dense')
    x = norm(x + y, f'{name}.attention.output.LayerNorm')
    y = linear(x, f'{name}.intermediate.dense')
    y = y * special.ndtr(y)  # GELU
    x = norm(x + linear(y, f'{name}.output.dense'), f'{name}.output.LayerNorm')
  return x


def weights_of(folder):
  return {
    name: stored[tuple(slice(0, n) for n in stored.shape)]
    for name, stored in safetensors.read(pathlib.Path(folder)).items()
  }


def assert_is_the_reference(encoder, texts):
  rows, _ = subwords.sentence_ids(encoder.folder, texts, encoder.max_length)
  weights = weights_of(encoder.folder)
  expected = []
  for ids in rows:
    x = reference(weights, encoder.config, ids)
    x = {'mean': x.mean(0), 'cls': x[0], 'max': x.max(0)}[encoder.pooling]
    expected.append(x / (np.linalg.norm(x) if encoder.normalized else 1))
  found, _ = sentence.embed(encoder, texts, 'none')
  np.testing.assert_allclose(
    found, expected, atol=1e-5 * np.abs(expected).max()
  )


@pytest.mark.parametrize(
  ('pooling', 'normalized'), [('mean', True), ('cls', False), ('max', False)]
)
def test_vectors_are_those_of_the_paper(tmp_path, pooling, normalized):
  """Texts of all lengths, side by side, each pooled within its own."""
  folder = tiny_bert.write_encoder(
    tmp_path / 'e', pooling=pooling, normalized=normalized
  )
  encoder = sentence.read_encoder(str(folder))
  assert (encoder.pooling, encoder.normalized) == (pooling, normalized)
  assert_is_the_reference(encoder, tiny_bert.sentences(20))


def test_hidden_states_are_those_of_transformers(folder):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  model = transformers.BertModel.from_pretrained(folder).eval()
  encoder = sentence.read_encoder(str(folder))
  rows, _ = subwords.sentence_ids(str(folder), tiny_bert.sentences(8), 12)
  tokens = np.zeros((8, 12), np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  inside = np.arange(12) < np.array([[len(ids)] for ids in rows])
  with torch.no_grad():
    expected = model(
      torch.tensor(tokens), attention_mask=torch.tensor(inside)
    ).last_hidden_state.numpy()
  params = bert.read_params(folder, encoder.config)
  found = encoder.module.apply(
    {'params': params}, tokens, inside.sum(1), method='read'
  )
  scale = np.abs(expected[inside]).max()
  np.testing.assert_allclose(
    np.asarray(found)[inside], expected[inside], atol=1e-4 * scale
  )


@pytest.mark.skipif(not REAL, reason='GENRE2_SENTENCE_ENCODER names no folder')
def test_a_real_encoder_is_the_reference():
  encoder = sentence.read_encoder(REAL)
  texts = [
    'A plane is taking off.',
    'x',
    'Ein langer Satz, der nie endet. ' * 9,
  ]
  assert_is_the_reference(encoder, texts)


def test_marks_are_the_tokenizers_and_a_cut_keeps_them(folder):
  texts = ['a dog', 'very ' * 30, '']
  rows, num_cut = subwords.sentence_ids(str(folder), texts, 12)
  assert [ids.tolist()[:1] for ids in rows] == [[2], [2], [2]]
  assert [ids.tolist()[-1] for ids in rows] == [3, 3, 3]
  assert [len(ids) for ids in rows] == [4, 12, 2] and num_cut == 1
  _, num_cut = sentence.embed(
    sentence.read_encoder(str(folder)), ['very ' * 10**5, 'a cat'], 'none'
  )
  assert num_cut == 1


def test_a_fingerprint_does_not_know_what_a_tokenizer_did_before(folder):
  """Fast tokenizers keep the padding and the truncation of their last call."""
  name = str(folder)
  found = []
  for options in ({}, {'padding': True, 'truncation': True, 'max_length': 5}):
    subwords.fingerprint.cache_clear()
    subwords.load_tokenizer(name)(['a dog eats'], **options)
    found.append(subwords.fingerprint(name))
  subwords.fingerprint.cache_clear()
  subwords.load_tokenizer.cache_clear()
  found.append(subwords.fingerprint(name))
  assert len(set(found)) == 1


def test_a_vector_does_not_depend_on_the_texts_beside_it(folder):
  """To the bit among many, to rounding where few are read alone."""
  encoder = sentence.read_encoder(str(folder))
  texts = tiny_bert.sentences(300, seed=3)
  whole, _ = sentence.embed(encoder, texts, 'none')
  order = np.random.default_rng(0).permutation(300)[:77]
  part, _ = sentence.embed(encoder, [texts[i] for i in order], 'none')
  np.testing.assert_array_equal(part, whole[order])
  alone, _ = sentence.embed(encoder, texts[:2], 'none')
  np.testing.assert_allclose(alone, whole[:2], atol=1e-6)


def test_a_text_is_read_once(folder, tmp_path, monkeypatch):
  encoder = sentence.read_encoder(str(folder))
  texts = tiny_bert.sentences(200, seed=4)
  cache = tmp_path / 'cache'
  first, _ = sentence.embed(encoder, texts, str(cache))
  (file,) = cache.rglob('*.npz')
  read = []
  original = sentence._vectors

  def counted(encoder, rows):
    read.append(len(rows))
    return original(encoder, rows)

  monkeypatch.setattr(sentence, '_vectors', counted)
  again, _ = sentence.embed(encoder, texts[::-1], str(cache))
  np.testing.assert_array_equal(again, first[::-1])
  assert not read
  sentence.embed(encoder, [*texts, 'a small house'], str(cache))
  assert read == [1]
  # What is damaged is made again, what is not asked for not written.
  file.write_bytes(file.read_bytes()[:-100])
  again, _ = sentence.embed(encoder, texts, str(cache))
  np.testing.assert_array_equal(again, first)
  before = sorted(tmp_path.rglob('*'))
  sentence.embed(encoder, ['the cat'], 'none')
  assert sorted(tmp_path.rglob('*')) == before


def test_only_files_with_wanted_vectors_are_opened(
  folder, tmp_path, monkeypatch
):
  encoder = sentence.read_encoder(str(folder))
  texts = tiny_bert.sentences(400, seed=5)
  texts = list(dict.fromkeys(texts))
  parts = [texts[:70], texts[70:140], texts[140:210]]
  cache = tmp_path / 'cache'
  vectors = [sentence.embed(encoder, part, str(cache))[0] for part in parts]
  assert len(sorted(cache.rglob('*.npz'))) == 3
  opened = []
  load = np.load

  def counted(path, **options):
    opened.append(path.name)
    return load(path, **options)

  monkeypatch.setattr(sentence.np, 'load', counted)

  def files_for(part):
    opened.clear()
    found, _ = sentence.embed(encoder, part, str(cache))
    return found, [name for name in opened if name != sentence._INDEX]

  files_for(parts[0])  # The last file joins the index.
  found, files = files_for(parts[1][:5])
  np.testing.assert_array_equal(found, vectors[1][:5])
  assert len(files) == 1
  assert not files_for(['never seen'])[1]
  # Without an index that is whole every file is looked into, once.
  (index,) = cache.rglob(sentence._INDEX)
  index.write_bytes(b'damaged')
  found, files = files_for(parts[2][:5])
  np.testing.assert_array_equal(found, vectors[2][:5])
  assert len(set(files)) == 3
  assert len(files_for(parts[2][:5])[1]) == 1


def test_another_encoder_has_another_fingerprint(folder, tmp_path):
  same = tiny_bert.write_encoder(tmp_path / 'same')
  other = tiny_bert.write_encoder(tmp_path / 'other', seed=1)
  pooled = tiny_bert.write_encoder(tmp_path / 'pooled', pooling='cls')
  found = [
    sentence.read_encoder(str(f)).fingerprint
    for f in (folder, same, other, pooled)
  ]
  assert found[0] == found[1] and len(set(found)) == 3
  # A folder that changes is read again.
  tiny_bert.write_encoder(tmp_path / 'same', seed=2, num_hidden_layers=1)
  assert sentence.read_encoder(str(same)).fingerprint not in found


@pytest.mark.parametrize(
  ('break_it', 'words'),
  [
    (lambda f: change(f / 'config.json', model_type='mpnet'), ['mpnet']),
    (lambda f: change(f / 'config.json', num_attention_heads=3), ['divide']),
    (lambda f: change(f / 'config.json', hidden_act='swish'), ['swish']),
    (
      lambda f: change(f / 'config.json', num_hidden_layers=3),
      ['lack encoder.layer.2.'],
    ),
    (
      lambda f: change(f / 'config.json', num_hidden_layers=1),
      ['more layers than the 1'],
    ),
    (lambda f: change(f / 'config.json', intermediate_size=25), ['(24, 16)']),
    (
      lambda f: change(
        f / '1_Pooling' / 'config.json', pooling_mode_cls_token=True
      ),
      ['mean and cls', 'only one of'],
    ),
    (
      lambda f: tiny_bert.write_json(
        f / 'modules.json',
        [{'type': f'x.{k}', 'path': ''} for k in ('Transformer', 'Dense')],
      ),
      ['Dense is not known'],
    ),
    (
      lambda f: (f / 'model.safetensors').rename(f / 'pytorch_model.bin'),
      ['missing: model.safetensors', 'convert'],
    ),
    (lambda f: (f / 'config.json').unlink(), ['config.json is missing']),
    (lambda f: (f / 'config.json').write_text('{'), ['no JSON']),
  ],
)
def test_what_is_no_sentence_encoder_is_refused(tmp_path, break_it, words):
  folder = tiny_bert.write_encoder(tmp_path / 'e')
  break_it(folder)
  assert_refused(
    lambda: sentence.embed(sentence.read_encoder(str(folder)), ['a'], 'none'),
    *words,
  )


def change(path, **fields):
  import json

  tiny_bert.write_json(path, json.loads(path.read_text()) | fields)


def test_a_folder_that_is_not_there_is_refused_by_the_name_of_its_field():
  assert_refused(
    lambda: sentence.read_encoder('/none/at/all'),
    'data.text_encoder', '/none/at/all: no such folder',
  )  # fmt: skip
