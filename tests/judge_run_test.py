"""Runs of a judge, from recipe to predictions."""

import csv
import json

import numpy as np
import pytest
import tiny_judge
import tiny_text
from checks import assert_refused, assert_takes_a_step

from genre2_jax import train
from genre2_jax.data.subwords import JudgeFeatures
from genre2_jax.data.wording import DataWarning
from genre2_jax.errors import InterruptedRunError
from genre2_jax.experiment import experiment, networks, recipes, tasks
from genre2_jax.experiment.stages import build_stages
from genre2_jax.runs import finished, prediction

pytest.importorskip('transformers')
pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('quick_compiles'),
]


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """A folder with judgements.jsonl and their tokenizer."""
  return tiny_judge.write_home(tmp_path_factory.mktemp('judgements'))


@pytest.fixture(scope='module')
def make(home):
  """`(recipe, {field: value}) -> config`: tiny."""

  def make(name, fields=()):
    config = recipes.get_config('judge', name)
    config.update_from_flattened_dict(
      tiny_judge.tiny_fields(home) | {'steps_per_dispatch': 1} | dict(fields)
    )
    return config

  return make


@pytest.fixture(scope='module')
def run(make, tmp_path_factory):
  """The workdir of a run."""
  return train.train_and_evaluate(
    make('genre2'), tmp_path_factory.mktemp('run') / 'run', verbose=0
  )


def model_of(config):
  table = tasks.read_table(config)
  return networks.build_model(config, table), table


OTHERWISE = {
  'tokenizer.name': 'decimal', 'language_model.vocabulary': 'all',
  'language_model.lora.rank': 2, 'language_model.attention_block': 8,
}  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'fields'),
  [*((name, {}) for name in recipes.JUDGE.recipes), ('genre2', OTHERWISE)],
)
def test_a_recipe_takes_a_step(make, name, fields):
  """Its last stage's, traced: every shape fits, every metric is there."""
  config = experiment.resolve(make(name, fields))
  model, table = model_of(config)
  stage = build_stages(config)[-1]
  assert_takes_a_step(stage, model, model.examples(table.train))


def test_a_run_writes_texts_and_scores(run, home, tmp_path):
  """On test rows, and on new ones that have a prompt and nothing else."""
  with open(run / 'results.csv', encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  stages = {row['stage'] for row in rows}
  assert stages == {'ce', 'remax_expert_kl'}
  lengths = [
    float(row['value']) for row in rows if row['metric'] == 'text_length'
  ]
  assert len(lengths) == 4  # Stages times validation and test.
  assert all(0 <= x <= tiny_judge.BUDGET for x in lengths)
  new = [{'prompt': row['prompt']} for row in tiny_judge.judgements(5)]
  path = tiny_text.write_json_lines(tmp_path / 'new.jsonl', new)
  prediction.predict_file(run, path, tmp_path / 'out.jsonl')
  lines = (tmp_path / 'out.jsonl').read_text(encoding='utf-8').splitlines()
  records = [json.loads(line) for line in lines]
  assert len(records) == 5
  for record in records:
    assert 1 <= record['prediction'] <= 5
    assert record['greedy'] in range(1, 6)
    assert isinstance(record['greedy_rationale'], str)
  # The samples of a row are texts of their own.
  assert any(
    record['greedy_rationale'] != record['sample_rationale']
    for record in records
  )
  with open(run / 'predictions.csv', encoding='utf-8', newline='') as file:
    assert all('sample_rationale' in row for row in csv.DictReader(file))


def test_the_mean_is_over_scores_after_sampled_texts(run, home):
  opened = finished.open_run(run)
  rows = tasks.read_rows(
    opened.model, opened.target_name, home / 'judgements.jsonl'
  )
  predicted = opened.predict(rows)
  assert 'log_p' not in predicted  # Of numbers after no text.
  assert predicted['samples_z'].shape == (1, len(rows), 3)
  texts = predicted['sample_text']
  assert texts.shape == (1, len(rows), tiny_judge.BUDGET)
  assert ((texts >= 0) | (texts == -1)).all()
  restored = opened.model.features.from_json(opened.model.features.to_json())
  assert isinstance(restored, JudgeFeatures)
  assert restored.decode(texts[0]) == opened.model.features.decode(texts[0])


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_at_the_same_bits(make, run, tmp_path):
  class After:
    left = 8

    def __bool__(self):
      self.left -= 1
      return self.left < 0

  config = make('genre2')
  with pytest.raises(InterruptedRunError):
    train.train_and_evaluate(config, tmp_path / 'run', After(), verbose=0)
  again = train.train_and_evaluate(config, tmp_path / 'run', verbose=0)
  for name in ('predictions.csv', 'results.csv'):
    assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_rationales_are_cut_empty_or_refused(make, tmp_path):
  rows = tiny_judge.judgements(24)
  rows[0]['rationale'] = ''
  rows[1]['rationale'] = '0123456789'
  path = tiny_text.write_json_lines(tmp_path / 'cut.jsonl', rows)
  fields = {'text.path': str(path), 'text.split_column': ''}
  model, table = model_of(experiment.resolve(make('ce', fields)))
  splits = ('train', 'val', 'test')
  with pytest.warns(DataWarning, match='longer than text.budget=6'):
    inputs = [model.inputs(getattr(table, split)) for split in splits]
  lengths = np.concatenate([part['text_length'] for part in inputs])
  assert lengths.min() == 0
  assert lengths.max() == tiny_judge.BUDGET
  rows[2]['rationale'] = f'good {tiny_judge.END} indeed'
  tiny_text.write_json_lines(path, rows)
  config = experiment.resolve(make('ce', fields))

  def read():
    model, table = model_of(config)
    for split in splits:
      model.inputs(getattr(table, split))

  assert_refused(read, 'which ends a text', 'text.end')


def test_a_missing_rationale_is_an_empty_one(make, tmp_path):
  rows = tiny_judge.judgements(24)
  for row in rows[:12]:
    del row['rationale']
  for row in rows[12:]:
    row['rationale'] = None if row['score'] == 1 else ''
  path = tiny_text.write_json_lines(tmp_path / 'missing.jsonl', rows)
  fields = {'text.path': str(path), 'text.split_column': ''}
  table = tasks.read_table(experiment.resolve(make('ce', fields)))
  for split in (table.train, table.val, table.test):
    assert set(split.rationale) == {''}


@pytest.mark.parametrize(
  ('fields', 'part'),
  [
    ({'language_model.name': 't5gemma'}, 'language_model.name'),
    ({'language_model.head': 'mean'}, 'language_model.head'),
    ({'eval.rail_numbers': 5}, 'eval.rail_numbers'),
    ({'finetune.objective': (('crps', 1.0, {}),)}, 'crps'),
    ({'finetune.objective': (('ppo', 1.0, {}),)}, 'ppo'),
    ({'text.rationale': 'why'}, 'text.rationale'),
    ({'text.rationale': '{wyh}'}, 'wyh'),
    ({'text.rationale': '{why'}, "text.rationale has '{' at character 1"),
    ({'text.end': '<nowhere>'}, '<nowhere>'),
    ({'text.target': 'score,rationale'}, 'there are 2 targets: name one'),
  ],
)
def test_what_does_not_go_with_a_rationale_is_refused(make, fields, part):
  assert_refused(lambda: experiment.build(make('genre2', fields)), part)
