"""What fields say together, and what a misspelt one may have meant."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from genre2_jax.errors import near_names
from genre2_jax.experiment.defaults import get_config


def is_table(config: ConfigDict) -> bool:
  """Whether a network reads numbers and categories, of frozen texts too."""
  language = config.language_model
  return not language.name or (language.name == 'bert' and language.frozen)


def has_table_head(config: ConfigDict) -> bool:
  """Whether numbers come from `model.head`, not from a language model."""
  return config.language_model.name in ('', 'bert')


def head_of(config: ConfigDict) -> str:
  """What writes or predicts numbers: a name of `model.head`."""
  if has_table_head(config):
    return config.model.head
  return 'pointwise' if config.language_model.head else 'decoder'


def near_field(name: str) -> str:
  """'; did you mean optimizer.weight_decay?' of a name that is no field."""
  known = list(_flat_names(get_config().to_dict()))
  last = name.rpartition('.')[2]
  near = [field for field in known if field.rpartition('.')[2] == last]
  near = near or near_names(name, known, cutoff=0.7)
  if not near:
    lasts = {field.rpartition('.')[2] for field in known}
    close = near_names(last, lasts, limit=1, cutoff=0.7)
    near = [field for field in known if field.rpartition('.')[2] in close]
  if not near:
    return '; docs/config.md has them all'
  nearest = near_names(name, near, limit=2, cutoff=0)
  return f'; did you mean {" or ".join(nearest)}?'


def _flat_names(fields: Mapping[str, Any], prefix: str = '') -> Iterator[str]:
  for name, value in fields.items():
    if isinstance(value, dict):
      yield from _flat_names(value, f'{prefix}{name}.')
    else:
      yield prefix + name
