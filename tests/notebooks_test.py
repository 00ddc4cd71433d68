"""The notebooks of colab/ run, install nothing, and show what they gave."""

import json
import pathlib
import re
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest

from genre2_jax.files import metrics_log

pytestmark = pytest.mark.usefixtures('quick_compiles')

ROOT = pathlib.Path(__file__).parent.parent
PATHS = {path.stem: path for path in (ROOT / 'colab').glob('*.ipynb')}


def cells_of(name):
  return json.loads(PATHS[name].read_text(encoding='utf-8'))['cells']


def run(name, monkeypatch, **parameters):
  """Runs all code cells, as one session; the names and the figures.

  Without a kernel: what the notebooks write is plain Python.

  Args:
    name: of the notebook.
    monkeypatch: pytest's.
    **parameters: take the place of what the cell tagged `parameters` says.
  """

  def watched(command, run=subprocess.run, **options):
    assert 'pip' not in command, 'the package is there already'
    return run(command, **options)

  monkeypatch.setattr(subprocess, 'run', watched)
  plt.switch_backend('agg')
  names = {'__name__': name}
  try:
    for cell in cells_of(name):
      if cell['cell_type'] != 'code':
        continue
      where = f'{name}.ipynb:{cell["id"]}'
      exec(compile(''.join(cell['source']), where, 'exec'), names)
      if 'parameters' in cell['metadata'].get('tags', ()):
        assert parameters.keys() <= names.keys()
        names |= parameters
    figures = [plt.figure(number) for number in plt.get_fignums()]
    for figure in figures:
      figure.canvas.draw()
    return names, figures
  finally:
    plt.close('all')


@pytest.mark.parametrize('name', sorted(PATHS))
def test_what_is_in_git(name):
  """As it ran from top to bottom, and what Jupyter and colab ask for."""
  notebook = json.loads(PATHS[name].read_text(encoding='utf-8'))
  assert notebook['nbformat'] == 4 and notebook['nbformat_minor'] >= 5
  assert notebook['metadata']['kernelspec']['name'] == 'python3'
  cells = notebook['cells']
  assert len({cell['id'] for cell in cells}) == len(cells)
  assert cells[0]['cell_type'] == 'markdown'
  code = [cell for cell in cells if cell['cell_type'] == 'code']
  assert [cell['execution_count'] for cell in code] == [
    place for place, _ in enumerate(code, start=1)
  ]
  figures = 0
  for cell in code:
    kinds = {output['output_type'] for output in cell['outputs']}
    assert kinds <= {'stream', 'display_data', 'execute_result'}
    # No notice but what a stage says of itself.
    for output in cell['outputs']:
      if output.get('name') == 'stderr':
        assert 'kept its starting weights' in ''.join(output['text'])
    shown = [x for x in cell['outputs'] if 'image/png' in x.get('data', {})]
    assert len(shown) == ('plt.subplots(' in ''.join(cell['source'])) + (
      '.plot.' in ''.join(cell['source'])
    )
    figures += len(shown)
  assert figures
  assert PATHS[name].stat().st_size < 500_000
  installing = [c['id'] for c in code if "'pip'" in ''.join(c['source'])]
  assert installing == [code[0]['id']]


def test_all_install_alike_from_one_address_that_is_said_once():
  cells = {''.join(cells_of(name)[1]['source']) for name in PATHS}
  assert len(cells) == 1
  (line,) = re.findall("^ADDRESS = '(.*)'", *cells, re.MULTILINE)
  for name, path in PATHS.items():
    assert path.read_text(encoding='utf-8').count(line) == 1, name


def test_every_figure_names_its_axes():
  for name in PATHS:
    for cell in cells_of(name):
      source = ''.join(cell['source'])
      if 'plt.subplots(' in source or '.plot.' in source:
        assert 'title(' in source and 'xlabel' in source, cell['id']
        assert 'ylabel' in source or 'set_yticks' in source, cell['id']


@pytest.mark.slow
def test_quickstart(monkeypatch, tiny_regressor):
  code = [c for c in cells_of('quickstart') if c['cell_type'] == 'code']
  assert len(code) == 10
  names, figures = run('quickstart', monkeypatch)
  assert len(figures) == 3
  interval = names['interval']
  assert interval.shape == (111, 2) and (interval[:, 0] < interval[:, 1]).all()
  assert names['loaded'] is not names['model']


@pytest.mark.slow
def test_objectives(monkeypatch, tiny_regressor):
  names, figures = run(
    'objectives',
    monkeypatch,
    NUM_ROWS=200,
    NUM_SAMPLES=16,
    OBJECTIVES=('remax', 'crps'),
  )
  assert len(figures) == 3
  assert list(names['rows']) == ['ce', 'remax', 'crps']
  sources = [
    m._run.experiment.fields['init_from'] for m in names['models'].values()
  ]
  assert sources == ['', names['folder'], names['folder']]
  assert np.isfinite(
    [list(row.values()) for row in names['rows'].values()]
  ).all()


@pytest.mark.slow
def test_text(monkeypatch):
  pytest.importorskip('transformers')
  names, figures = run('text', monkeypatch)
  assert len(figures) == 1
  records = metrics_log.read(names['workdir'])
  best = {record['stage']: record['best_epoch'] for record in records}
  assert min(best.values()) > 0  # Each stage learned something.
  errors = names['stages']['RMSE of the mean (stars)']
  assert errors['raft'] < 0.95 * errors['ce']
  found = names['found']
  assert len(found) == len(names['prompts']) == 4
  assert found['exact_mean'].between(0, 9.9).all()
  assert (found['lower90'] <= found['upper90']).all()
