"""Both pages in a browser: wide and narrow, light and dark."""

import browser
import pytest
from drawn_runs import (
  make_workdir,
  write_benchmark,
  write_inspection,
  write_references,
)

from genre2_jax.benchmark import page as comparison
from genre2_jax.report import page

CHROMIUM = browser.find()
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason='no browser is here'),
]


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
  """The two pages, with everything that they can have."""
  run, many = (tmp_path_factory.mktemp(name) for name in ('run', 'many'))
  make_workdir(run, exact=('remax',), seeds=(0, 1), target='a_' * 40)
  write_references(run, train_mean=1.0, histogram_trees=0.3)
  write_inspection(run)
  methods = ['ce', 'remax', 'dr_grpo', 'catboost']
  write_benchmark(many, methods, [f'task {i}' for i in range(6)], n=12, G=8)
  return {'run': page.write(run), 'comparison': comparison.write(many)}


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
  with browser.Browser(CHROMIUM, tmp_path_factory.mktemp('profile')) as opened:
    yield opened


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 400])
@pytest.mark.parametrize('name', ['run', 'comparison'])
def test_a_page_reads_well(shown, chromium, name, width, scheme):
  found, problems = chromium.visit(shown[name].as_uri(), width, scheme)
  assert problems == []
  assert found['beyond'] <= 0  # no scrolling sideways
  assert found['count'] > 100 and found['unnamed'] == 0
  assert found['faint'] == []
  assert (max(found['background']) < 60) == (scheme == 'dark')


def test_what_is_wrong_is_noticed(tmp_path, chromium):
  bad = tmp_path / 'bad.html'
  bad.write_text(
    '<body style="background: #fff"><p style="width: 900px; color: #ddd">faint'
    '</p><img src="missing.png"><script>nowhere()</script>'
  )
  found, problems = chromium.visit(bad.as_uri(), 400, 'light')
  assert found['beyond'] > 400 and found['faint'] == ['faint']
  text = ' '.join(problems)
  assert 'exception' in text and 'failed' in text
