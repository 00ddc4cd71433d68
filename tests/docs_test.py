"""The code that docs/ shows runs, its numbers are those that were measured."""

import functools
import importlib.util
import pathlib
import re
from html import unescape

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from drawn_runs import make_workdir, write_inspection

from genre2_jax.data.batches import Examples
from genre2_jax.experiment import defaults
from genre2_jax.files import atomic
from genre2_jax.objectives import catalog
from genre2_jax.objectives.advantages import ADVANTAGES
from genre2_jax.objectives.catalog import build_term
from genre2_jax.objectives.objective import Objective, Rollouts
from genre2_jax.policy import sampling
from genre2_jax.policy.enumeration import Enumeration
from genre2_jax.report import page as report
from genre2_jax.tokenizers import Normalized
from genre2_jax.tokenizers.codec import Codec
from genre2_jax.training import train_state
from genre2_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures('quick_compiles')

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / 'docs'
PAGES = [
  *sorted(DOCS.glob('*.md')),
  *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
]


def blocks(page):
  """The Python that a page of docs/ shows, block by block."""
  text = (DOCS / page).read_text(encoding='utf-8')
  return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


def run(code, names, where):
  names.setdefault('__name__', where)  # dataclasses look their module up
  exec(compile(code, where, 'exec'), names)
  return names


def test_all_that_is_shown_is_run():
  """Here: pages whose code no test knows would slip through."""
  counts = {page.name: len(blocks(page)) for page in PAGES}
  assert {page: n for page, n in counts.items() if n} == {
    'estimator.md': 6,
    'extending.md': 4,
    'README.md': 1,
    'several_targets.md': 1,
  }


def test_links_lead_somewhere():
  for page in PAGES:
    text = page.read_text(encoding='utf-8')
    links = re.findall(r'\]\(([^)#]+)[^)]*\)|src="([^"]+)"', text)
    for link in filter(None, (target for pair in links for target in pair)):
      if '://' not in link:
        assert (page.parent / link).exists(), f'{page.name}: {link}'


# ------------------------------------------------------------------ estimator


@pytest.mark.slow
def test_the_estimators_page_runs(tiny_regressor):
  names = {}
  for number, code in enumerate(blocks('estimator.md')):
    run(code, names, f'estimator.md:{number}')
  assert names['model'].width == 16  # tiny, and the model that it shows
  assert names['ensemble']._config(0).finetune.objective == (
    ('crps', 1.0, {}),
    ('ce', 0.05, {}),
  )
  (code,) = blocks(ROOT / 'README.md')
  table = {'X': names['X_train'], 'y': names['y_train']}
  shown = run(code, table | {'X_new': names['X_test']}, 'README.md')
  found = shown['model'].predict(names['X_test'])
  np.testing.assert_array_equal(found, names['model'].predict(names['X_test']))


# ------------------------------------------------------------------ extending


def extension(word):
  """Names that the one block of extending.md with `word` defines."""
  (code,) = (code for code in blocks('extending.md') if word in code)
  assert len(code.splitlines()) < 30
  return run(code, {}, word)


@pytest.fixture
def rows():
  numeric = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
  categories = np.zeros((32, 0), np.int32)
  target = np.tanh(numeric[:, 0])
  return {'numeric': numeric, 'categories': categories}, target


def trained(policy, codec, inputs, target, num_steps, name='ce', **options):
  """Mean reward on the rows before and after."""
  batch = Examples(
    inputs, jnp.asarray(target, jnp.float32), jnp.asarray(codec.encode(target))
  )
  optimizer = optax.adam(0.05)
  objective = Objective(
    terms=(build_term(name, 1.0, options),),
    rollouts=Rollouts(group_size=8),
    enumeration=Enumeration(depth=codec.tokenizer.num_tokens),
  )
  params = {'policy': policy.init(jax.random.key(0), inputs)}
  key = jax.random.key(1)
  step = jax.jit(
    functools.partial(
      train_step,
      network=policy,
      codec=codec,
      optimizer=optimizer,
      objective=objective,
    )
  )

  def reward(params):
    rollout = sampling.sample(
      policy,
      params['policy'],
      policy.encode(params['policy'], inputs),
      jax.random.split(key, len(target)),
      num_samples=32,
    )
    errors = codec.decode(rollout.tokens) - target[:, None]
    return -float(jnp.mean(errors**2))

  state = train_state.create(params, key, optimizer, objective.metrics)
  before = reward(state.params)
  for _ in range(num_steps):
    state = step(state, batch)
  return before, reward(state.params)


def test_the_model_shown_is_a_policy_that_learns(rows):
  policy = extension('def independent_digits')['independent_digits'](
    Normalized(2, 4)
  )
  codec = Codec(policy.tokenizer, -1.0, 1.0)
  for name in ('ce', 'remax', 'crps'):
    before, after = trained(policy, codec, *rows, num_steps=60, name=name)
    assert after > before + 0.1, name


def test_the_tokenizer_shown_round_trips_and_learns(rows):
  tokenizer = extension('class Cells')['Cells'](count=16)
  codec = Codec(tokenizer, -1.0, 1.0)
  inputs, target = rows
  assert np.abs(codec.decode(codec.encode(target)) - target).max() <= 1 / 16
  policy = extension('def independent_digits')['independent_digits'](tokenizer)
  before, after = trained(policy, codec, inputs, target, num_steps=60)
  assert after > before + 0.1


def test_the_advantage_shown_raises_the_reward(rows):
  try:
    best = extension('def best_of_others')['best_of_others']
    rewards = jnp.array([[-1.0, -3.0, -2.0], [-4.0, -4.0, 0.0]])
    np.testing.assert_allclose(
      best(rewards, rewards[:, 0]), [[1, -2, -1], [-4, -4, 4]]
    )
    policy = extension('def independent_digits')['independent_digits'](
      Normalized(2, 4)
    )
    codec = Codec(policy.tokenizer, -1.0, 1.0)
    before, after = trained(
      policy, codec, *rows, num_steps=60, name='best_of_others'
    )
    assert after > before + 0.1
  finally:
    del catalog.SEQUENCE['best_of_others'], ADVANTAGES['best_of_others']


def test_the_objective_shown_raises_the_reward(rows):
  try:
    extension('class ExpectedError')
    assert 'expected_error' in catalog.GRID
    policy = extension('def independent_digits')['independent_digits'](
      Normalized(2, 4)
    )
    codec = Codec(policy.tokenizer, -1.0, 1.0)
    before, after = trained(
      policy, codec, *rows, num_steps=60, name='expected_error', power=1.5
    )
    assert after > before + 0.1
  finally:
    del catalog.GRID['expected_error']


# ------------------------------------------------------------ what is measured


def rows_of(page, width):
  """Rows of a method each, of the tables of `width` columns."""
  text = (ROOT / page).read_text(encoding='utf-8')
  rows = [
    [cell.strip(' `*') for cell in line.strip('|').split('|')]
    for line in re.findall(r'^\| *`?[a-z]\w*`? *\|.*$', text, re.MULTILINE)
  ]
  found = {row[0]: row[1:] for row in rows if len(row) == width}
  del found['method']  # The head.
  return found


def test_the_table_of_objectives_is_the_measured_one():
  results = pd.read_csv(ROOT / 'benchmarks/results/talent_twenty.csv')
  means = results.groupby(['method', 'estimator', 'metric'])['value'].mean()
  table = rows_of('docs/choosing_an_objective.md', 7)
  seconds = rows_of('benchmarks/results/talent_twenty.md', 10)
  assert len(table) >= 15 and table.keys() <= seconds.keys()
  for method, shown in table.items():
    found = means[method]
    has_digits = ('exact_mean', 'r2') in found.index
    expected = [found['exact_mean' if has_digits else 'mean', 'r2']]
    for key in (
      ('sample', 'r2'),
      ('sample', 'crps'),
      ('sample', 'coverage90'),
      ('conformal', 'width90'),
    ):
      expected.append(found[key] if has_digits else None)
    texts = ['\N{EN DASH}' if x is None else f'{x:.3f}' for x in expected]
    assert shown == [*texts, seconds[method][-1]], method


# ------------------------------------------------------------ config reference


def reference():
  spec = importlib.util.spec_from_file_location(
    'config_reference', DOCS / 'config_reference.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_config_reference_is_up_to_date():
  module = reference()
  page = module.page(module.SOURCE.read_text(encoding='utf-8'))
  assert page == module.PAGE.read_text(encoding='utf-8'), (
    'run python docs/config_reference.py'
  )
  for field, default in leaves(defaults.get_config().to_dict()):
    (cell,) = re.findall(rf'^\| `{re.escape(field)}` \| `(.*?)` \|', page, re.M)
    of_sizes = [defaults.SIZES[size].get(field) for size in ('small', 'paper')]
    if default is None:
      assert cell == f'{of_sizes[0]!r}`, `{of_sizes[1]!r}', field
    else:
      assert cell == repr(default), field


def leaves(fields, prefix=''):
  for name, value in fields.items():
    if isinstance(value, dict):
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def test_a_config_reference_reads_comments_around_fields():
  source = '''
def get_config():
  """Fields."""
  config = ConfigDict()
  config.seed = 0  # of all
  # that is random
  config.lonely = ''

  # One of:
  #   a  first
  #   bb second
  config.part = part = ConfigDict()  # of a | whole
  part.size = (1, 2)
  config.last = 5e-5  # a|b
  return config
'''
  page = reference().page(source)
  (root, part) = page.split('## part\n')
  assert "| `seed` | `0` | of all that is random |\n| `lonely` | `''` |" in root
  assert '| `last` | `5e-05` | a\\|b |' in root
  assert part == (
    '\nOf a | whole.\n\nOne of:\n\n```\na  first\nbb second\n```\n\n'
    '| field | default | |\n|---|---|---|\n| `part.size` | `(1, 2)` |  |\n'
  )


# -------------------------------------------------------- reading the report


def test_every_part_of_the_report_is_explained_in_its_order(tmp_path):
  make_workdir(tmp_path, seeds=(0, 1), exact=('remax',), n=6, num_epochs=2)
  write_inspection(tmp_path)
  operation = {'name': 'decoder', 'milliseconds': 1.0, 'calls': 1, 'share': 1}
  atomic.write_json(
    tmp_path / 'profile/ce/operations.json',
    {'modules': [operation], 'operations': []},
  )
  html = report.write(tmp_path).read_text(encoding='utf-8')
  shown = [unescape(t) for t in re.findall(r'<h2 id="[^"]*">(.*?)</h2>', html)]
  text = (DOCS / 'reading_the_report.md').read_text(encoding='utf-8')
  explained = re.findall(r'^## (.*)$', text, re.MULTILINE)
  assert explained == [*shown, 'Files', 'Estimators, metrics, units']
  assert len(shown) == 13


def test_files_that_the_page_on_reports_names_are_written(finished):
  text = (DOCS / 'reading_the_report.md').read_text(encoding='utf-8')
  names = set(re.findall(r'`(\w+\.(?:csv|json|html))`', text))
  names |= {f'figures/{n}' for n in re.findall(r'figures/(\w+\.svg)', text)}
  assert len(names) > 8
  for name in names:
    assert (finished / name).exists(), name
