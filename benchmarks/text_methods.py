"""RAFT's methods on STS-B, on a small decoder or on really pretrained weights.

    python benchmarks/text_methods.py --data=FOLDER --workdir=runs/text_methods
    python benchmarks/text_methods.py --data=FOLDER --workdir=runs/stsb \
      --model=GEMMA3

FOLDER has train.csv, validation.csv and test.csv with columns sentence1,
sentence2 and score, 0 to 5 (STS-B, Cer et al. 2017). Without --model a Gemma-2
of two layers is pretrained by next-token prediction on the sentences of the
training rows, without their scores, and nothing else. Each method then trains
from it with the same rate, batch and number of epochs; the best epoch is the
best on validation rows. ReMax and the exact gradient go on from cross-entropy.
About 25 minutes on one CPU core.

With --model, a folder of pretrained weights such as a Gemma 3 270M, low-rank
updates of all its linear layers are trained for one epoch on 2,000 pairs, and
500 validation pairs are looked at; all test pairs are predicted. Rate, rank and
sizes were fixed before any test row was predicted.

Everything is kept in the workdir: stopped, the same command goes on; --methods
runs some of them. It writes benchmarks/results/stsb.csv and .md, or
stsb_pretrained.csv and .md, from all that are finished.
"""

import argparse
import contextlib
import csv
import json
import pathlib
import platform
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from configs import base
from configs import pretrain_text as small_config
from genre2_jax import pretrain_text, train
from genre2_jax.files import atomic
from genre2_jax.runs import environment

RESULTS = ROOT / 'benchmarks' / 'results'
PROMPT = '{sentence1}\n{sentence2}\n'
TRAINED = {
  'pretrain.epochs': 2,
  'pretrain.learning_rate': 2e-4,
  'pretrain.patience': 0,
  'pretrain.dropout': True,
  'finetune.epochs': 1,
  'finetune.learning_rate': 1e-4,
  'finetune.patience': 0,
  'optimizer.warmup_steps': 50,
  'optimizer.max_grad_norm': 1.0,
}
# With --model. A prompt is about 40 subwords.
LORA = {
  'text.max_rows': (2000, 500, 0),
  'text.prompt': '{sentence1}\n{sentence2}\nSimilarity from 0 to 5: ',
  'text.max_length': 160,
  'text.buckets': 3,
  'language_model.lora.rank': 16,
  'language_model.lora.targets': (
    'query', 'key', 'value', 'out', 'gate', 'up', 'down',
  ),
  'language_model.compute_dtype': 'bfloat16',
  'language_model.param_dtype': 'bfloat16',
  'model.dropout': 0.0,
  'pretrain.epochs': 1,
  'pretrain.learning_rate': 5e-4,
  'finetune.learning_rate': 2e-4,
  'optimizer.warmup_steps': 10,
  'eval.num_samples': 16,
  'eval.batch_size': 16,
  'checkpoint.every_seconds': 120.0,
}  # fmt: skip
# Lukasik et al., ICLR 2025: Gemma-2 2B, all parameters trained, on the
# rows that are the validation split here.
PUBLISHED = {'CE, decoding': 0.59, 'RAFT': 0.54}


def fields_of(name, low, high):
  """{config field: value} of a method; low and high: 0 and 5 in z-scores."""
  after_ce = {'stages': ('finetune',)}
  # 59 % of the test scores are no integers: cross-entropy on 0..5 never sees
  # their decimals, RAFT does.
  decimal = {'tokenizer.name': 'decimal'}
  return {
    'zero_shot': {'stages': ()},
    'ce': {},
    'raft': {'pretrain.objective': (('raft', 1.0, {}),)},
    'learnable_raft': {
      'pretrain.objective': (('raft', 1.0, {'learnable': True}),)
    },
    'mbr': {'pretrain.objective': (('mbr', 1.0, {}),)},
    'log_loss': {
      'pretrain.objective': (('log_loss', 1.0, {'low': low, 'high': high}),)
    },
    'mlp_head': {
      'pretrain.objective': (('mse', 1.0, {}),),
      'language_model.head': 'mlp',
      'model.head_hidden': 256,
    },
    'remax': after_ce | {'finetune.objective': (('remax', 1.0, {}),)},
    'exact': after_ce | {'finetune.objective': (('exact', 1.0, {}),)},
    'special_token': {
      'pretrain.objective': (('mse', 1.0, {}),),
      'language_model.head': 'special_token',
    },
    'mean_head': {
      'pretrain.objective': (('mse', 1.0, {}),),
      'language_model.head': 'mean',
    },
    'ce_decimal': decimal,
    'raft_decimal': decimal | {'pretrain.objective': (('raft', 1.0, {}),)},
  }[name]


# Method, and what is read off it: name in the table -> estimator.
METHODS = {
  'zero_shot': {
    'zero-shot, decoding': 'greedy',
    'zero-shot, RAIL': 'exact_mean',
  },
  'ce': {'CE, decoding': 'greedy', 'CE, RAIL': 'exact_mean'},
  'raft': {'RAFT': 'exact_mean', 'RAFT, decoding': 'greedy'},
  'learnable_raft': {'learnable RAFT': 'learned_mean'},
  'mbr': {'MBR, RAIL': 'exact_mean'},
  'log_loss': {'log loss, RAIL': 'exact_mean'},
  'mlp_head': {'MLP head': 'greedy'},
  'special_token': {'special-token head': 'greedy'},
  'mean_head': {'mean head': 'greedy'},
  'remax': {
    'CE then ReMax, decoding': 'greedy',
    'CE then ReMax, RAIL': 'exact_mean',
  },
  'exact': {
    'CE then exact gradient, decoding': 'greedy',
    'CE then exact gradient, RAIL': 'exact_mean',
  },
  'ce_decimal': {
    'CE, one decimal, decoding': 'greedy',
    'CE, one decimal, RAIL': 'exact_mean',
  },
  'raft_decimal': {'RAFT, one decimal': 'exact_mean'},
}
COLUMNS = (
  'method', 'seed', 'split', 'rmse', 'mae', 'pearson', 'spearman',
)  # fmt: skip


def pretrained_model(args):
  """The small decoder's folder, trained unless it is there."""
  config = small_config.get_config()
  config.update_from_flattened_dict(
    {
      'texts': (f'{args.data}/train.csv:sentence1,sentence2',),
      'epochs': 6,
      'model.feedforward': 256,
    }
  )
  folder = args.workdir / 'model'
  return folder, pretrain_text.pretrain(config.to_dict(), folder)


def config_of(name, args, folder):
  """The config of a method's run."""
  scores = read_scores(args.data / 'train.csv')
  low, high = (float((x - scores.mean()) / scores.std()) for x in (0, 5))
  config = base.get_config()
  fields = {
    'size': 'paper',
    'num_seeds': args.seeds,
    'stages': ('pretrain',),
    'batch_size': 16,
    'text.path': str(args.data),
    'text.prompt': PROMPT,
    'text.target': 'score',
    'text.max_length': 64,
    'text.truncate': 'start',
    'text.cache': str(args.workdir / 'subwords'),
    'language_model.name': 'gemma',
    'language_model.pretrained': str(folder),
    'language_model.compute_dtype': 'float32',
    'tokenizer.name': 'strings',
    'tokenizer.strings': '0..5',
    'rollouts.group_size': 8,
    'eval.num_samples': 16,
    'eval.batch_size': 100,
    'checkpoint.keep': 1,
    'report': False,
    **TRAINED,
    **(LORA if args.model else {}),
    **fields_of(name, low, high),
  }
  if 'finetune' in fields['stages']:
    fields['init_from'] = str(args.workdir / 'ce')
  config.update_from_flattened_dict(fields)
  return config


def read_scores(path):
  with open(path, encoding='utf-8', newline='') as file:
    return np.array([float(row['score']) for row in csv.DictReader(file)])


def run(name, args, folder):
  """Trains and evaluates a method unless it is finished."""
  workdir = args.workdir / name
  if not (workdir / 'run.json').exists():
    began = time.process_time()
    train.train_and_evaluate(config_of(name, args, folder), workdir, verbose=1)
    atomic.write_json(
      workdir / 'cpu.json', {'seconds': time.process_time() - began}
    )


def collect(args):
  """Rows of the table: of the last stage of all runs that are finished."""
  found = []
  for name, estimators in METHODS.items():
    path = args.workdir / name / 'run.json'
    if not path.exists():
      continue
    stage = json.loads(path.read_text(encoding='utf-8'))['stages'][-1]
    with open(path.with_name('results.csv'), encoding='utf-8') as file:
      rows = [row for row in csv.DictReader(file) if row['stage'] == stage]
    for label, estimator in estimators.items():
      for split in ('val', 'test'):
        for seed in sorted({row['seed'] for row in rows}):
          values = {
            row['metric']: float(row['value'])
            for row in rows
            if (row['estimator'], row['split'], row['seed'])
            == (estimator, split, seed)
          }
          found.append(
            (
              label, seed, split, values['rmse_unit'], values['mae_unit'],
              values['pearson'], values['spearman'],
            )
          )  # fmt: skip
  train_mean = read_scores(args.data / 'train.csv').mean()
  for split, file in (('val', 'validation'), ('test', 'test')):
    error = read_scores(args.data / f'{file}.csv') - train_mean
    rmse, mae = np.sqrt(np.mean(error**2)), np.mean(np.abs(error))
    found.append(
      ('mean of the training scores', '0', split, rmse, mae, np.nan, np.nan)
    )
  return found


def behind_raft(args):
  """{label: (RMSE less RAFT's, its 95 % interval)} over the same test rows.

  The interval is of 2,000 bootstrap samples of the rows.
  """
  target = read_scores(args.data / 'test.csv')
  errors = {}
  for name, estimators in METHODS.items():
    path = args.workdir / name / 'predictions.csv'
    if not (args.workdir / name / 'run.json').exists():
      continue
    with open(path, encoding='utf-8', newline='') as file:
      predictions = list(csv.DictReader(file))
    for label, estimator in estimators.items():
      values = np.array([float(row[estimator]) for row in predictions])
      errors[label] = (values - target) ** 2
  if 'RAFT' not in errors:
    return {}
  draw = np.random.default_rng(0).integers(0, len(target), (2000, len(target)))
  raft = np.sqrt(errors['RAFT'][draw].mean(1))
  found = {}
  for label, squares in errors.items():
    gap = np.sqrt(squares.mean()) - np.sqrt(errors['RAFT'].mean())
    gaps = np.sqrt(squares[draw].mean(1)) - raft
    found[label] = gap, *np.quantile(gaps, (0.025, 0.975))
  return found


def table(rows, pretraining, args):
  """The page, but for the reading."""
  shown = [row for row in rows if row[2] == 'test' and row[1] != 'ensemble']
  several = any(row[1] == 'mean' for row in shown)
  labels = list(dict.fromkeys(row[0] for row in rows))
  cpu = {
    path.parent.name: json.loads(path.read_text())['seconds']
    for path in args.workdir.glob('*/cpu.json')
  }
  lines = [
    '| method | RMSE | MAE | Pearson | Spearman | RMSE, validation |',
    '|---|---|---|---|---|---|',
  ]
  if args.model:
    lines = [
      f'{lines[0]} published, 2B, validation | RMSE less that of RAFT |',
      f'{lines[1]}---|---|',
    ]
    behind = behind_raft(args)
  for label in labels:
    cells = []
    for split, columns in (('test', (3, 4, 5, 6)), ('val', (3,))):
      mine = {r[1]: r for r in rows if r[0] == label and r[2] == split}
      centre = mine.get('mean') or next(iter(mine.values()))
      spread = mine.get('std')
      for column in columns:
        text = f'{centre[column]:.3f}'
        if column > 4 and not np.isfinite(centre[column]):
          text = '-'
        if spread is not None and column == 3:
          text += f' ± {spread[column]:.3f}'
        cells.append(text)
    if args.model:
      cells.append(str(PUBLISHED.get(label, '')))
      gap, low, high = behind.get(label, (0.0,) * 3)
      cells.append(f'{gap:.3f} ({low:.3f} to {high:.3f})' if high > low else '')
    lines.append(f'| {label} | {" | ".join(cells)} |')
  seeds = f'{args.seeds} seeds, mean ± sd' if several else 'one seed'
  command = 'python benchmarks/text_methods.py --data=FOLDER' + (
    f' --seeds={args.seeds}' if args.seeds > 1 else ''
  )
  if args.model:
    return _page(
      [
        '# Methods of RAFT on STS-B, on pretrained weights',
        '',
        f'`{command} --model=GEMMA3`: {seeds}, {environment._processor()}, '
        f'Python {platform.python_version()}; {sum(cpu.values()) / 60:.0f} '
        'CPU-minutes.',
        '',
        f'Weights: `{args.model.name}`, kept in bfloat16; low-rank updates of '
        f'rank {LORA["language_model.lora.rank"]} of all linear layers are '
        f'trained on {LORA["text.max_rows"][0]:,} of the 5,749 pairs for one '
        f'epoch of batch 16 at {LORA["pretrain.learning_rate"]:g} (AdamW, '
        'cosine), ReMax and the exact gradient for one more from CE at '
        f'{LORA["finetune.learning_rate"]:g}. Validation: '
        f'{LORA["text.max_rows"][1]} of 1,500 pairs; test: all 1,379. Grid: '
        'the subwords 0 to 5, over which the softmax is. Nothing was chosen by '
        'test rows. The published figures (Lukasik et al., ICLR 2025) are of '
        'Gemma-2 2B, all of it trained, on the validation rows, which are '
        'their test rows.',
        '',
        'Test rows, in points of the score (0 to 5); behind RAFT with 95 % '
        'intervals, by 2,000 bootstrap samples of the test rows:',
        '',
        *lines,
      ]
    )
  return _page(
    [
      '# Methods of RAFT on STS-B',
      '',
      f'`{command}`: {seeds}, {environment._processor()}, Python '
      f'{platform.python_version()}; {sum(cpu.values()) / 60:.0f} CPU-minutes '
      'for the methods, '
      f'{pretraining["seconds"] / 60:.0f} minutes for pretraining.',
      '',
      f'Decoder: Gemma-2 of {pretraining["parameters"]:,} parameters, '
      f'{pretraining["vocab_size"]} subwords, two layers of width 128, '
      f'pretrained on the {pretraining["train_subwords"]:,} subwords of the '
      'training sentences (both columns of train.csv, no scores, no other '
      f'text), {pretraining["steps"]} steps; held-out loss '
      f'{pretraining["held_out_loss"]:.2f} nats per subword. Prompt '
      "'{sentence1}\\n{sentence2}\\n', 64 subwords at most. "
      f'{TRAINED["pretrain.epochs"]} epochs of batch 16 at '
      f'{TRAINED["pretrain.learning_rate"]:g} (AdamW, cosine), best epoch on '
      'validation rows; ReMax and the exact gradient: '
      f'{TRAINED["finetune.epochs"]} more from CE at '
      f'{TRAINED["finetune.learning_rate"]:g}. Grid: the subwords 0 to 5; '
      "'one decimal': 0.0 to 9.9 in three subwords. Rate and dropout, the same "
      "for all, were the better of two settings by RAFT's validation loss; "
      'nothing was chosen by test rows.',
      '',
      'Test rows, in points of the score (0 to 5):',
      '',
      *lines,
    ]
  )


def _page(lines):
  return '\n'.join([*lines, ''])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', type=pathlib.Path, required=True)
  parser.add_argument(
    '--workdir', type=pathlib.Path, default=pathlib.Path('runs/text_methods')
  )
  parser.add_argument('--model', type=pathlib.Path, default=None)
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--seeds', type=int, default=1)
  args = parser.parse_args()
  args.workdir.mkdir(parents=True, exist_ok=True)
  folder, pretraining = args.model, None
  if folder is None:
    folder, pretraining = pretrained_model(args)
  for name in filter(None, args.methods.split(',')):
    run(name, args, folder)
    write(args, pretraining)


def write(args, pretraining):
  """The table of what is finished, over the reading that is there."""
  rows = collect(args)
  path = RESULTS / ('stsb_pretrained.md' if args.model else 'stsb.md')
  atomic.write_csv(path.with_suffix('.csv'), COLUMNS, rows)
  reading = ''
  with contextlib.suppress(OSError):  # What was written under it stays.
    reading = path.read_text(encoding='utf-8').partition('\n## Reading')[2]
  text = table(rows, pretraining, args)
  if reading:
    text += '\n## Reading' + reading
  atomic.write_text(path, text)
  print(text)


if __name__ == '__main__':
  main()
