"""A trained language model as a checkpoint that `transformers` reads."""

import os
import pathlib

import jax

from genre2_jax.data import subwords
from genre2_jax.data.reading import path_of
from genre2_jax.errors import InputError
from genre2_jax.models import language_model, pretrained
from genre2_jax.runs.finished import FinishedRun, open_run


def export_workdir(
  workdir: str | os.PathLike[str], output: str | os.PathLike[str]
) -> None:
  """Writes the weights of a finished run's last stage for `transformers`.

  Args:
    workdir: of a finished run of a Gemma that writes numbers.
    output: folder to make: a checkpoint of Gemma2ForCausalLM or
      Gemma3ForCausalLM with its tokenizer, or one per seed, `seed_<n>`, if
      there are several.

  Raises:
    InputError: the run or the folder cannot be used.
  """
  folders = export_run(open_run(workdir), output)
  print(f'exported: {", ".join(map(str, folders))}')


def export_run(
  run: FinishedRun, output: str | os.PathLike[str]
) -> list[pathlib.Path]:
  """`export_workdir` of a `FinishedRun`: the folders that it wrote."""
  output = path_of(output)
  language = run.experiment.fields['language_model']
  if language['name'] not in ('gemma', 'gemma2') or language['head']:
    name = language['name'] or 'no language model'
    kind = f'{name} {language["head"]}'.strip()
    raise InputError(
      f'{run.workdir} was trained with {kind}: only a gemma that writes '
      'numbers has the form of a checkpoint'
    )
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise InputError(f'{output} is there already: give --output a new folder')
  sizes = language_model.config_of(
    language['pretrained'], language['preset'], language['sizes']
  )
  lora = language_model.lora_of(language['lora'])
  features = run.model.features
  assert isinstance(features, subwords.TextFeatures)  # A gemma reads texts.
  known = subwords.vocabulary_size(features.tokenizer)
  unused = max(0, known - sizes.vocab_size)
  stacked = run.weights()['policy']
  folders = []
  for index, seed in enumerate(run.seeds):
    folder = output / f'seed_{seed}' if len(run.seeds) > 1 else output
    params = jax.tree.map(lambda x, i=index: x[i], stacked)
    pretrained.save(folder, params, sizes, lora=lora, unused=unused)
    _save_tokenizer(folder, run, sizes.vocab_size, language['new_tokens'])
    folders.append(folder)
  return folders


def _save_tokenizer(folder, run, vocab_size, new_tokens):
  """The run's tokenizer, new number tokens behind the rows of the embedding."""
  name = run.model.features.tokenizer
  tokenizer = subwords.load_tokenizer(name)
  strings = run.model.codec.tokenizer.token_names
  if new_tokens:
    ids, _ = subwords.number_subwords(name, strings, vocab_size)
    new = [s for s, i in zip(strings, ids, strict=True) if i >= vocab_size]
    if new:
      # Embeddings are often made for more subwords than there are.
      spare = range(len(tokenizer), vocab_size)
      tokenizer.add_tokens([f'<spare{i}>' for i in spare])
      tokenizer.add_tokens(new)
  tokenizer.save_pretrained(folder)
