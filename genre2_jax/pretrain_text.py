"""Command line: pretrains a small Gemma-2 on plain texts, from nothing.

    python -m genre2_jax.pretrain_text --config=configs/pretrain_text.py \
      --config.texts="('train.csv:sentence1,sentence2',)" --workdir=runs/small

It trains a subword tokenizer, packs the texts into sequences, and trains by
next-token prediction. The workdir is then a checkpoint as Hugging Face lays it
out, for `--config.language_model.pretrained` and for `transformers`. Stopped or
killed, the same command goes on where it was.

config.json, model.safetensors, tokenizer.json, tokenizer_config.json: the model
recipe.json       the config: the run's identity
pretraining.json  what was trained on what, and the loss on held-out texts
checkpoints/      of the training
"""

import json
import pathlib
import shlex
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import flags

from genre2_jax import command_line
from genre2_jax.data import batches, corpora
from genre2_jax.devices import sharding
from genre2_jax.devices.interrupts import deferred
from genre2_jax.errors import InputError, InterruptedRunError, NonFiniteError
from genre2_jax.files import atomic
from genre2_jax.models import pretrained
from genre2_jax.models.gemma.backbone import GemmaConfig
from genre2_jax.models.gemma.causal import causal_language_model
from genre2_jax.training import optimizers
from genre2_jax.training.checkpoints import Checkpoints

flags.adopt_module_key_flags(command_line)  # --help shows them.
_DISPATCH_SECONDS = 1.0
_RECIPE, _STATED = 'recipe.json', 'pretraining.json'


def main():
  """Trains what --config says and leaves a checkpoint in --workdir."""
  config, workdir = command_line.CONFIG.value, command_line.WORKDIR.value
  if config is None:
    raise InputError('give a recipe: --config=configs/pretrain_text.py')
  if not workdir:
    raise InputError('give the folder to write to: --workdir=FOLDER')
  with deferred() as interrupts:
    pretrain(config.to_dict(), workdir, interrupts)


def pretrain(config, workdir, interrupts=(), verbose=1):
  """Trains tokenizer and model; writes a checkpoint in Hugging Face's layout.

  Args:
    config: dict, as `configs/pretrain_text.py` describes it.
    workdir: folder of everything that is left behind.
    interrupts: true once the run is asked to leave.
    verbose: 0: silent.

  Returns:
    What pretraining.json says: sizes, number of subwords, and the loss on
    held-out texts in nats per subword.

  Raises:
    InputError: texts or sizes that can't be used, or another run's workdir.
    InterruptedRunError: progress is saved; the same call goes on.
    NonFiniteError: the loss is not finite.
  """
  workdir = pathlib.Path(workdir).absolute()
  recipe = json.loads(json.dumps(config))
  known = _read_json(workdir / _RECIPE)
  if known not in (None, recipe):
    raise InputError(
      f'{workdir} was begun with another config: give another --workdir'
    )
  finished = _read_json(workdir / _STATED)
  if finished is not None:
    return finished
  _check(config)
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
      'held_out': [documents[i] for i in sorted(aside)],
    }.items()
  }
  try:
    model = GemmaConfig(
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
    'held_out_subwords': sequences['held_out'].size,
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


def _train(config, model, sequences, workdir, interrupts, verbose):
  """(params, losses at the end): the loop, from the newest checkpoint on."""
  size = config['batch_size']
  mesh = sharding.make_mesh({'replica': 1, 'data': -1, 'fsdp': 1, 'model': 1})
  sharding.check_divides(mesh, 'batch_size', size, 'data')
  windows = jax.device_put(sequences['train'], sharding.replicated(mesh))
  per_epoch = -(-len(windows) // size)
  total = per_epoch * config['epochs']
  fields = dict(config['optimizer'])
  optimizer = optimizers.adamw(
    optimizers.warmup_cosine(
      fields['learning_rate'],
      warmup_steps=fields['warmup_steps'],
      total_steps=total,
    ),
    weight_decay=fields['weight_decay'],
    max_grad_norm=fields['max_grad_norm'],
  )
  init, loss = causal_language_model(
    model, compute_dtype=config['compute_dtype']
  )
  draw = np.random.default_rng(config['seed'])
  # The same rows whenever the run goes on.
  order = np.stack(
    [
      np.resize(draw.permutation(len(windows)), (per_epoch, size))
      for _ in range(config['epochs'])
    ]
  )
  order = jax.device_put(
    order.reshape(total, size).astype(np.int32), sharding.replicated(mesh)
  )

  def create(key):
    params = init(key)
    zero = jnp.zeros((), jnp.int32)
    return {
      'step': zero,
      'params': params,
      'opt_state': optimizer.init(params),
      'loss': jnp.zeros(()),  # Running mean, about the last hundred steps'.
    }

  def step(state, windows, rows):
    batch = jnp.take(windows, rows, axis=0)
    batch = jax.lax.with_sharding_constraint(
      batch, sharding.batch_sharding(mesh)
    )
    value, grads = jax.value_and_grad(
      lambda params: jnp.mean(loss(params, batch))
    )(state['params'])
    updates, opt_state = optimizer.update(
      grads, state['opt_state'], state['params']
    )
    rate = jnp.maximum(0.01, 1 / (state['step'] + 1.0))
    return {
      'step': state['step'] + 1,
      'params': optax.apply_updates(state['params'], updates),
      'opt_state': opt_state,
      'loss': state['loss'] + rate * (value - state['loss']),
    }

  def run(state, windows, order, count):
    def body(_, state):
      return step(state, windows, order[state['step']])

    return jax.lax.fori_loop(0, count, body, state)

  key = jax.random.key(config['seed'])
  where = sharding.replicated(mesh)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    jax.eval_shape(create, key),
  )
  run = jax.jit(run, donate_argnums=0)
  with (
    Checkpoints(
      workdir / 'checkpoints', every_seconds=config['checkpoint_seconds']
    ) as checkpoints,
    tqdm.tqdm(total=total, unit='step', disable=not verbose) as progress,
  ):
    state = checkpoints.restore(abstract)
    if state is None:
      state = jax.jit(create, out_shardings=where)(key)
    done, chunk = int(state['step']), 1
    progress.update(done)
    while done < total:
      if interrupts:
        checkpoints.save(done, state)
        raise InterruptedRunError(f'interrupted at step {done}, saved')
      count, began = min(chunk, total - done), time.monotonic()
      state = run(state, windows, order, np.int32(count))
      if not np.isfinite(state['loss']):  # Waits for the device.
        raise NonFiniteError(
          f'the loss is not finite by step {done + count}: lower '
          'optimizer.learning_rate, in a new workdir'
        )
      seconds = time.monotonic() - began
      done += count
      chunk = max(1, min(2 * chunk, int(count * _DISPATCH_SECONDS / seconds)))
      progress.update(count)
      progress.set_postfix(loss=f'{state["loss"]:.3f}')
      checkpoints.save_if_due(done, state)
    checkpoints.save(done, state)
  evaluate = jax.jit(lambda params, rows: jnp.mean(loss(params, rows), -1))
  rows, numbers = batches.blocks(sequences['held_out'], size)
  values = [np.asarray(evaluate(state['params'], block)) for block in rows]
  held_out = np.concatenate(values)[numbers.ravel() >= 0]
  return state['params'], {
    'steps': total,
    'train_loss': float(state['loss']),
    'held_out_loss': float(held_out.mean()),
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
  if config['length'] < 2:
    raise InputError('length=1 has no next token: 2 or more')
  if not 0 < config['held_out'] < 1:
    raise InputError(f'held_out={config["held_out"]} must be within (0, 1)')


if __name__ == '__main__':
  command_line.run(main)
