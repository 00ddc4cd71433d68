"""A language model from plain texts: tokenizer, packing, training, saving."""

import importlib
import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from checks import assert_refused
from ml_collections import ConfigDict

from genre2_jax import pretrain_text
from genre2_jax.data import corpora
from genre2_jax.errors import InterruptedRunError
from genre2_jax.models import pretrained
from genre2_jax.models.gemma.causal import causal_language_model
from genre2_jax.runs import workdirs

pytestmark = pytest.mark.usefixtures('quick_compiles')

WORDS = 'a plane is taking off while the man plays his large flute'.split()


def write_texts(folder, num_rows=60):
  draw = np.random.default_rng(0)
  lines = ['first,second,score']
  for _ in range(num_rows):
    words = draw.choice(WORDS, 6)
    lines.append(f'{" ".join(words[:3])},{" ".join(words[3:])} 1,2.5')
  path = folder / 'pairs.csv'
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return path


@pytest.fixture
def config(tmp_path):
  config = importlib.import_module('configs.pretrain_text').get_config()
  config.update_from_flattened_dict(
    {
      'texts': (f'{write_texts(tmp_path)}:first,second',),
      'vocab_size': 400,
      'length': 12,
      'batch_size': 8,
      'epochs': 3,
      'held_out': 0.1,
      'optimizer.learning_rate': 2e-2,
      'optimizer.warmup_steps': 2,
      'checkpoint_seconds': 0.0,
      'model.width': 16,
      'model.num_layers': 2,
      'model.num_heads': 2,
      'model.num_kv_heads': 1,
      'model.head_dim': 8,
      'model.feedforward': 16,
      'model.sliding_window': 8,
    }
  )
  return config.to_dict()


def test_documents_are_files_or_columns(tmp_path):
  path = write_texts(tmp_path, 2)
  (tmp_path / 'empty.txt').write_text(' \n', encoding='utf-8')
  (tmp_path / 'rows.jsonl').write_text(
    '{"input": "x = 1", "n": 2}\n{"input": "", "n": 3}\n', encoding='utf-8'
  )
  rows = path.read_text(encoding='utf-8').splitlines()[1:]
  assert corpora.read_documents(f'{path}:first,second') == [
    '\n'.join(row.split(',')[:2]) for row in rows
  ]
  assert corpora.read_documents(f'{tmp_path}/rows.jsonl:input') == ['x = 1']
  assert corpora.read_documents(f'{tmp_path}/*.txt') == []
  assert corpora.read_documents(str(path)) == [path.read_text('utf-8')]
  for source, parts in {
    f'{path}:third': ['no column third', 'first, second, score'],
    f'{tmp_path}/none*.txt': ['no such file'],
    f'{tmp_path}/none.csv:a': ['cannot read it'],
  }.items():
    assert_refused(lambda s=source: corpora.read_documents(s), *parts)


def test_the_tokenizer_writes_any_text_and_every_digit_alone():
  documents = ['the man plays 1999 flutes'] * 5
  tokenizer = corpora.train_tokenizer(documents, 400)
  ids = [tokenizer.token_to_id(token) for token in corpora.SPECIAL_TOKENS]
  assert ids == [0, 1, 2, 3]
  for text in ('the man 25.13', 'größe 漢字 \t <0x0A>', ' a\n\nb '):
    encoded = tokenizer.encode(text)
    assert encoded.ids[0] == 2 and 3 not in encoded.ids
    assert tokenizer.decode(encoded.ids) == text
  assert '<0xE6>' in tokenizer.encode('漢').tokens
  assert tokenizer.encode('1999').tokens[1:] == ['1', '9', '9', '9']
  assert '▁flutes' in tokenizer.encode('the flutes').tokens
  assert_refused(lambda: corpora.train_tokenizer(documents, 300), '356')


def test_packing_keeps_all_tokens_in_order():
  tokenizer = corpora.train_tokenizer(['a man', 'the'], 400)
  packed = corpora.pack(tokenizer, ['a man', 'the', 'b'], 3)
  ids = [
    i for t in ('a man', 'the', 'b') for i in (*tokenizer.encode(t).ids, 1)
  ]
  assert packed.shape[1] == 3
  assert packed.ravel().tolist() == ids[: packed.size]
  assert len(ids) - packed.size < 3
  assert_refused(lambda: corpora.pack(tokenizer, ['b'], 9), 'do not fill')


def test_the_command_leaves_at_once_where_nothing_is_lost(
  monkeypatch, config, tmp_path
):
  given = SimpleNamespace(
    CONFIG=SimpleNamespace(value=ConfigDict(config)),
    WORKDIR=SimpleNamespace(value=str(tmp_path)),
  )
  seen = []
  monkeypatch.setattr(pretrain_text, 'command_line', given)
  monkeypatch.setattr(
    pretrain_text, 'pretrain', lambda c, w, interrupts: seen.append(interrupts)
  )
  pretrain_text.main()
  assert seen[0]._leaves


def test_two_processes_do_not_share_a_folder(config, tmp_path):
  with workdirs.held(tmp_path):
    assert_refused(
      lambda: pretrain_text.pretrain(config, tmp_path), 'another process runs'
    )
  assert not (tmp_path / 'recipe.json').exists()


@pytest.mark.slow
def test_what_it_leaves_is_the_model_that_it_measured(config, tmp_path):
  """Through a stop; loaded here and by transformers, the loss is the same."""
  folder = tmp_path / 'model'
  asked = iter([False] * 3)

  class Stop:
    def __bool__(self):
      return next(asked, True)

  with pytest.raises(InterruptedRunError):
    pretrain_text.pretrain(config, folder, Stop(), verbose=0)
  assert not (folder / 'config.json').exists()
  found = pretrain_text.pretrain(config, folder, verbose=0)
  at_once = pretrain_text.pretrain(config, tmp_path / 'other', verbose=0)
  for name in ('model.safetensors', 'tokenizer.json', 'config.json'):
    ours, theirs = folder / name, tmp_path / 'other' / name
    assert ours.read_bytes() == theirs.read_bytes()
  assert found['held_out_loss'] == at_once['held_out_loss']
  assert found['held_out_loss'] < np.log(found['vocab_size']) - 1
  assert pretrain_text.pretrain(config, folder, verbose=0) == json.loads(
    (folder / 'pretraining.json').read_text(encoding='utf-8')
  )
  assert_refused(
    lambda: pretrain_text.pretrain(config | {'seed': 1}, folder),
    'another config',
  )
  # One that was begun before there was a choice of the family.
  path = folder / 'recipe.json'
  recipe = json.loads(path.read_text(encoding='utf-8'))
  assert recipe.pop('family') == 'gemma2'
  path.write_text(json.dumps(recipe), encoding='utf-8')
  pretrain_text.pretrain(config, folder, verbose=0)
  assert_loss_is_everyones(config, folder, found)


@pytest.mark.slow
def test_a_gemma3_is_pretrained_as_well(config, tmp_path):
  config = config | {'family': 'gemma3', 'epochs': 1}
  found = pretrain_text.pretrain(config, tmp_path, verbose=0)
  assert pretrained.read_config(tmp_path).qk_norm
  assert_loss_is_everyones(config, tmp_path, found)
  assert_refused(
    lambda: pretrain_text.pretrain(config | {'family': 'gemma4'}, tmp_path),
    "family='gemma4'", 'gemma3',
  )  # fmt: skip


def assert_loss_is_everyones(config, folder, found):
  """What was found is the loss of what is loaded, here and elsewhere."""
  documents = corpora.read_documents(config['texts'][0])
  places = np.linspace(0, 59, 6).astype(int)
  tokenizers = pytest.importorskip('tokenizers')
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  rows = corpora.pack(tokenizer, [documents[i] for i in places], 12)
  model = pretrained.read_config(folder)
  network = causal_language_model(model, compute_dtype='float32')
  abstract = jax.eval_shape(network.init, jax.random.key(0), rows)
  params = pretrained.load(folder, nn.unbox(abstract))
  ours = float(network.predict(params, rows).mean())
  assert ours == pytest.approx(found['held_out_loss'], abs=1e-5)

  transformers = pytest.importorskip('transformers')
  torch = pytest.importorskip('torch')
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager'
  )
  with torch.no_grad():
    inputs = torch.tensor(rows, dtype=torch.long)
    measured = theirs(input_ids=inputs, labels=inputs).loss.item()
  assert measured == pytest.approx(ours, abs=1e-4)
  loaded = transformers.AutoTokenizer.from_pretrained(folder)
  assert loaded('a man 12')['input_ids'] == tokenizer.encode('a man 12').ids
