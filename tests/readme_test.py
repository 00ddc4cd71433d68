"""What README.md names is there."""

import pathlib
import re

from configs import base, pretrain_text, talent_twenty
from genre2_jax.experiment import recipes

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_every_recipe_is_named():
  start = README.index('Recipes, in')
  table = README[start : README.index('Every field', start)]
  named = set(re.findall(r'`(\w+)`', table))
  assert named == set(recipes.TALENT.recipes)


def has(config, field):
  for part in field.split('.'):
    if part not in config:
      return False
    config = config[part]
  return True


def test_commands_name_fields_and_files_that_are_there():
  configs = [
    recipe.get_config() for recipe in (base, pretrain_text, talent_twenty)
  ]
  fields = set(re.findall(r'--config\.([\w.]+)=', README))
  assert len(fields) > 5
  for field in fields:
    assert any(has(config, field) for config in configs), field
  for path in re.findall(
    r'(?:--config=|\]\()((?:configs|genre2_jax)/[\w/.]+)', README
  ):
    assert (ROOT / path).is_file(), path


def test_code_shown_is_that_of_the_docs_and_short():
  """The docs' is run by docs_test.py."""
  blocks = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  added = [
    block for block in blocks if 'import jax' in block or 'class' in block
  ]
  docs = (ROOT / 'docs' / 'extending.md').read_text(encoding='utf-8')
  assert len(added) == 3
  for block in added:
    assert block in docs
    assert len(block.splitlines()) < 31
