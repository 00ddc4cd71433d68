r"""Command line: pretrains a small Gemma on plain texts, from nothing.

    python -m genre2_jax.pretrain_text --config=configs/pretrain_text.py \
      --config.texts="('train.csv:sentence1,sentence2',)" --workdir=runs/small

It trains a subword tokenizer, packs the texts into sequences, and trains by
next-token prediction, as a stage like any other: the best weights on texts that
were held out are kept. The workdir is then a checkpoint as Hugging Face lays it
out, for `--config.language_model.pretrained` and for `transformers`. Stopped or
killed, the same command goes on where it was.

config.json, model.safetensors, tokenizer.json, tokenizer_config.json: the model
recipe.json       the config: the run's identity
pretraining.json  what was trained on what, and the loss on held-out texts
metrics.jsonl     losses, epoch by epoch
checkpoints/      to go on from
"""

import dataclasses
import json
import math
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from genre2_jax import command_line
from genre2_jax.data import corpora
from genre2_jax.data.batches import Examples
from genre2_jax.devices import compilation, memory, sharding
from genre2_jax.devices.interrupts import deferred
from genre2_jax.errors import InputError
from genre2_jax.files import atomic, metrics_log
from genre2_jax.models import pretrained
from genre2_jax.models.gemma.causal import causal_language_model
from genre2_jax.models.gemma.sizes import GEMMA3, GemmaConfig
from genre2_jax.objectives import point
from genre2_jax.objectives.catalog import Term
from genre2_jax.objectives.objective import Objective
from genre2_jax.policy import Pointwise
from genre2_jax.runs import workdirs
from genre2_jax.training import loop
from genre2_jax.training.checkpoints import KeptFrozen
from genre2_jax.training.stages import Stage

flags.adopt_module_key_flags(command_line)  # --help shows them.
_RECIPE, _STATED = 'recipe.json', 'pretraining.json'
_FAMILIES = {'gemma2': GemmaConfig(), 'gemma3': GEMMA3}


def main() -> None:
  """Trains what --config says and leaves a checkpoint in --workdir."""
  config, workdir = command_line.CONFIG.value, command_line.WORKDIR.value
  if config is None:
    raise InputError('give a recipe: --config=configs/pretrain_text.py')
  if not workdir:
    raise InputError('give the folder to write to: --workdir=FOLDER')
  with deferred(leaves=True) as interrupts:
    pretrain(config.to_dict(), workdir, interrupts)


def pretrain(
  config: Mapping[str, Any],
  workdir: str | os.PathLike[str],
  interrupts: object = (),
  verbose: int = 1,
) -> dict[str, Any]:
  """Trains tokenizer and model; writes a checkpoint in Hugging Face's layout.

  Args:
    config: nested, as `configs/pretrain_text.py` describes it.
    workdir: folder of everything that is left behind.
    interrupts: true once the run is asked to leave.
    verbose: 0: silent.

  Returns:
    What pretraining.json says: sizes, number of subwords, and the loss on
    held-out texts in nats per subword.

  Raises:
    InputError: texts or sizes that can't be used, another run's workdir, or
      another process runs in it.
    InterruptedRunError: progress is saved; the same call goes on.
    NonFiniteError: the loss is not finite.
  """
  workdir = pathlib.Path(workdir).absolute()
  _check(config)
  with workdirs.held(workdir):
    recipe = json.loads(json.dumps(config))
    begun = _read_json(workdir / _RECIPE)
    # Before there was a choice it was a Gemma 2.
    if begun is not None and {'family': 'gemma2', **begun} != recipe:
      raise InputError(
        f'{workdir} was begun with another config: give another --workdir'
      )
    finished = _read_json(workdir / _STATED)
    if finished is None:
      finished = _pretrain(config, recipe, workdir, interrupts, verbose)
  return finished


def _pretrain(config, recipe, workdir, interrupts, verbose):
  """What `pretrain` returns, of a workdir that is this process's alone."""
  compilation.keep_programs()
  began = time.monotonic()
  documents = [d for s in config['texts'] for d in corpora.read_documents(s)]
  if not documents:
    raise InputError(f'texts={config["texts"]}: they are all empty')
  # Spread evenly, so that every source is held out in part.
  held_out = max(1, round(config['held_out'] * len(documents)))
  places = np.linspace(0, len(documents) - 1, held_out).astype(int)
  aside = set(places.tolist())
  train = [d for i, d in enumerate(documents) if i not in aside]
  tokenizer = corpora.train_tokenizer(train, config['vocab_size'])
  sequences = {
    name: corpora.pack(tokenizer, texts, config['length'])
    for name, texts in {
      'train': train,
      'val': [documents[i] for i in sorted(aside)],
    }.items()
  }
  try:
    model = dataclasses.replace(
      _FAMILIES[config.get('family', 'gemma2')],
      vocab_size=tokenizer.get_vocab_size(),
      query_scale=config['model']['head_dim'],
      **config['model'],
    )
  except ValueError as error:
    raise InputError(f'model: {error}') from error
  atomic.write_json(workdir / _RECIPE, recipe)
  params, losses = _train(
    config, model, sequences, workdir, interrupts, verbose
  )
  corpora.save_tokenizer(tokenizer, workdir)
  pretrained.save(workdir, jax.device_get(params), model)
  stated = {
    'command': shlex.join(
      ['python', '-m', 'genre2_jax.pretrain_text', *sys.argv[1:]]
    ),
    'texts': len(documents),
    'vocab_size': model.vocab_size,
    'parameters': sum(x.size for x in jax.tree.leaves(params)),
    'train_subwords': sequences['train'].size,
    'held_out_subwords': sequences['val'].size,
    **losses,
    'seconds': round(time.monotonic() - began, 1),
  }
  atomic.write_json(workdir / _STATED, stated)  # Last: it is finished.
  if verbose:
    print(
      f'{stated["train_subwords"]:,} subwords, '
      f'{stated["parameters"]:,} parameters; held-out loss '
      f'{stated["held_out_loss"]:.3f} nats per subword: {workdir}'
    )
  return stated


class _Packed(NamedTuple):
  """A language model on packed texts of one length: a `Trainable`."""

  network: Pointwise
  length: int
  codec: Any = None  # It writes no numbers.
  widths: tuple[int, ...] = ()

  def example_inputs(self) -> np.ndarray:
    """int32 [1, length]."""
    return np.zeros((1, self.length), np.int32)


def _train(config, model, sequences, workdir, interrupts, verbose):
  """(best parameters, what was seen of them), by the loop of every stage."""
  size = config['batch_size']
  mesh = sharding.mesh_at_hand()
  sharding.check_divides(mesh, 'batch_size', size, 'data')
  network = causal_language_model(model, compute_dtype=config['compute_dtype'])
  examples = {
    split: Examples(
      inputs=rows,
      target=np.zeros(len(rows), np.float32),
      tokens=np.zeros((len(rows), 0), np.int32),
    )
    for split, rows in sequences.items()
  }
  next_token = Term('next_token', 1.0, point.Predicted(), 'point')
  stage = Stage(
    section='pretrain',
    name='next_token',
    objective=Objective(terms=(next_token,)),
    epochs=config['epochs'],
    max_steps=0,
    patience=0,
    **config['optimizer'],
  )
  trained = loop.train(
    stage,
    _Packed(network, config['length']),
    examples,
    lambda: None,
    loop.Options(
      workdir=workdir,
      seeds=(config['seed'],),
      mesh=mesh,
      batch_size=size,
      block_size=size,
      checkpoint={'keep': 2, 'every_seconds': config['checkpoint_seconds']},
      frozen=KeptFrozen(workdir / 'weights' / 'frozen'),
      profile_steps=None,
      steps_per_dispatch=0,
      device_share=0.5,
      interrupts=interrupts,
      verbose=verbose,
      need=memory.Need(),
    ),
  )
  records = metrics_log.read(workdir)
  best = min(records, key=lambda record: record['val/loss'])
  return jax.tree.map(lambda x: x[0], trained.params['policy']), {
    'steps': records[-1]['step'],
    'best_epoch': best['epoch'],
    'train_loss': best.get('train/loss', math.nan),
    'held_out_loss': best['val/loss'],
  }


def _read_json(path):
  """What is in a file, or None without one."""
  if not path.exists():
    return None
  return json.loads(path.read_text(encoding='utf-8'))


def _check(config):
  for field in ('length', 'batch_size', 'epochs', 'vocab_size'):
    if config[field] < 1:
      raise InputError(f'{field}={config[field]} must be positive')
  if config.get('family', 'gemma2') not in _FAMILIES:
    raise InputError(
      f'family={config["family"]!r} is not one of {", ".join(_FAMILIES)}'
    )
  if config['length'] < 2:
    raise InputError('length=1 has no next token: 2 or more')
  if not 0 < config['held_out'] < 1:
    raise InputError(f'held_out={config["held_out"]} must be within (0, 1)')


if __name__ == '__main__':
  command_line.run(main)
