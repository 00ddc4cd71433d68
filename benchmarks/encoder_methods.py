"""STS-B by a sentence encoder: the recipes `encoder_*`, and its cosine alone.

    python benchmarks/encoder_methods.py --data=FOLDER --encoder=FOLDER \
      --workdir=runs/encoder_methods

FOLDER of --data has train.csv, validation.csv and test.csv with columns
sentence1, sentence2 and score, 0 to 5 (STS-B, Cer et al. 2017); that of
--encoder is all-MiniLM-L6-v2, or its name on the Hugging Face hub. Every method
sees all training rows, and keeps the epoch that is best on validation rows.

Everything is kept in the workdir: stopped, the same command goes on; --methods
runs some of them. It writes benchmarks/results/stsb_encoders.csv and .md from
all that are finished.
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
from scipy import stats

from genre2_jax import train
from genre2_jax.experiment import recipes
from genre2_jax.files import atomic
from genre2_jax.models import sentence
from genre2_jax.runs import environment

RESULTS = ROOT / 'benchmarks' / 'results'
# Recipe -> how its row is called, and the estimator that is read off.
METHODS = {
  'encoder_mse': ('frozen, MSE', 'greedy'),
  'encoder_ce': ('frozen, CE', 'exact_mean'),
  'encoder_raft': ('frozen, RAFT', 'exact_mean'),
  'encoder_crps': ('frozen, CRPS', 'exact_mean'),
  'encoder_tuned': ('trained with the rest, CRPS, one epoch', 'exact_mean'),
}
COLUMNS = (
  'method', 'seed', 'split', 'rmse', 'mae', 'pearson', 'spearman',
  'coverage90',
)  # fmt: skip
FILES = {'train': 'train', 'val': 'validation', 'test': 'test'}


def config_of(name, args):
  """The config of a recipe on the data at hand, several seeds at once."""
  config = recipes.get_config('stsb', name)
  config.update_from_flattened_dict(
    {
      'num_seeds': args.seeds,
      'text.source': 'files',
      'text.path': str(args.data),
      'text.target': 'score',
      'text.cache': str(args.workdir / 'cache'),
      'language_model.pretrained': args.encoder,
      'checkpoint.keep': 1,
      'report': False,
    }
  )
  return config


def run(name, args):
  """Trains and evaluates a method unless it is finished."""
  workdir = args.workdir / name
  if not (workdir / 'run.json').exists():
    began = time.process_time()
    train.train_and_evaluate(config_of(name, args), workdir, verbose=1)
    atomic.write_json(
      workdir / 'cpu.json', {'seconds': time.process_time() - began}
    )


def read_split(args, split):
  with open(
    args.data / f'{FILES[split]}.csv', encoding='utf-8', newline=''
  ) as file:
    rows = list(csv.DictReader(file))
  score = np.array([float(row['score']) for row in rows])
  return [[row[n] for row in rows] for n in ('sentence1', 'sentence2')], score


def cosine_rows(args):
  """The mean of the train scores, and a line through cosines, fitted on train.

  Also the seconds of CPU that reading all sentences took, 0 from the cache.
  """
  began = time.process_time()
  encoder = sentence.read_encoder(args.encoder)
  cosines, scores = {}, {}
  for split in FILES:
    texts, scores[split] = read_split(args, split)
    u, v = (
      sentence.embed(encoder, text, str(args.workdir / 'cache'))[0]
      for text in texts
    )
    lengths = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
    cosines[split] = (u * v).sum(1) / lengths
  seconds = time.process_time() - began
  slope, start = np.polyfit(cosines['train'], scores['train'], 1)
  found = []
  for split in ('val', 'test'):
    y = scores[split]
    for label, p in (
      ('mean of the training scores', np.full(len(y), scores['train'].mean())),
      (
        'linear fit of the cosine, within 0 .. 5',
        np.clip(start + slope * cosines[split], 0, 5),
      ),
    ):
      error, is_flat = p - y, np.ptp(p) == 0
      found.append(
        (
          label, '0', split, np.sqrt(np.mean(error**2)),
          np.mean(np.abs(error)),
          np.nan if is_flat else np.corrcoef(p, y)[0, 1],
          np.nan if is_flat else stats.spearmanr(p, y).statistic, np.nan,
        )
      )  # fmt: skip
  return found, seconds


def collect(args):
  """Rows of the table: of the last stage of all runs that are finished."""
  found = []
  for name, (label, estimator) in METHODS.items():
    path = args.workdir / name / 'run.json'
    if not path.exists():
      continue
    with open(path.with_name('results.csv'), encoding='utf-8') as file:
      rows = list(csv.DictReader(file))
    for split in ('val', 'test'):
      for seed in sorted({row['seed'] for row in rows}):
        of = [r for r in rows if (r['seed'], r['split']) == (seed, split)]
        values = {
          row['metric']: float(row['value'])
          for row in of
          if row['estimator'] == estimator
        }
        covered = [
          float(row['value'])
          for row in of
          if (row['estimator'], row['metric']) == ('exact', 'coverage90')
        ]
        found.append(
          (
            label, seed, split, values['rmse_unit'], values['mae_unit'],
            values['pearson'], values['spearman'], *(covered or [np.nan]),
          )
        )  # fmt: skip
  return found


def table(rows, args):
  """benchmarks/results/stsb_encoders.md, but for the reading."""
  cpu = {
    path.parent.name: json.loads(path.read_text())['seconds']
    for path in args.workdir.glob('*/cpu.json')
  }
  labels = list(dict.fromkeys(row[0] for row in rows))
  named = {label: name for name, (label, _) in METHODS.items()}
  lines = [
    '| method | seeds | RMSE | MAE | Pearson | Spearman | coverage of 90 % '
    '| RMSE, validation | CPU s |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for label in labels:
    cells = []
    for split, columns in (('test', (3, 4, 5, 6, 7)), ('val', (3,))):
      mine = {r[1]: r for r in rows if r[0] == label and r[2] == split}
      centre = mine.get('mean') or next(iter(mine.values()))
      spread = mine.get('std')
      for column in columns:
        text = f'{centre[column]:.3f}'
        if not np.isfinite(centre[column]):
          text = '-'
        elif spread is not None and column == 3:
          text += f' ± {spread[column]:.3f}'
        cells.append(text)
    seconds = cpu.get(named.get(label, ''))
    cells.append('-' if seconds is None else f'{seconds:.0f}')
    mine = [r[1] for r in rows if r[0] == label and r[2] == 'test']
    count = sum(seed.isdecimal() for seed in mine)
    lines.append(f'| {label} | {count} | {" | ".join(cells)} |')
  with contextlib.suppress(OSError, ValueError):
    cpu['reading'] = json.loads((args.workdir / 'reading.json').read_text())
  return '\n'.join(
    [
      '# STS-B by a sentence encoder',
      '',
      '`python benchmarks/encoder_methods.py --data=FOLDER --encoder=FOLDER '
      f'--seeds={args.seeds}`: seeds train side by side, '
      f'mean ± sd, {environment._processor()}, Python '
      f'{platform.python_version()}; CPU seconds are those of all seeds '
      'of a row together. Reading all 17,256 sentences once took '
      f'{cpu.get("reading", {}).get("seconds", 0):.0f} more, one core.',
      '',
      'Encoder: all-MiniLM-L6-v2, 22 million parameters, frozen; features u, '
      'v, |u - v|, u·v and the cosine of the two sentences; an MLP of 2 x 256 '
      'to the logits of the trie (MSE: to one number). All 5,749 training '
      'pairs; the best epoch on the 1,500 validation rows, by which rate, '
      'decay, dropout and features were chosen too, for CRPS, the same for '
      'all; nothing was chosen by test rows. CE, RAFT and CRPS predict the '
      "mean of all numbers. Coverage is of the model's own 90 % intervals.",
      '',
      'Test rows (1,379), in points of the score (0 to 5):',
      '',
      *lines,
      '',
    ]
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', type=pathlib.Path, required=True)
  parser.add_argument('--encoder', required=True)
  parser.add_argument(
    '--workdir', type=pathlib.Path, default=pathlib.Path('runs/encoder_methods')
  )
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--seeds', type=int, default=3)
  args = parser.parse_args()
  args.workdir.mkdir(parents=True, exist_ok=True)
  rows, seconds = cosine_rows(args)
  if not (args.workdir / 'reading.json').exists():
    atomic.write_json(args.workdir / 'reading.json', {'seconds': seconds})
  for name in filter(None, args.methods.split(',')):
    run(name, args)
  rows += collect(args)
  atomic.write_csv(RESULTS / 'stsb_encoders.csv', COLUMNS, rows)
  path = RESULTS / 'stsb_encoders.md'
  reading = ''
  with contextlib.suppress(OSError):  # What was written under it stays.
    reading = path.read_text(encoding='utf-8').partition('\n## Reading')[2]
  text = table(rows, args)
  if reading:
    text += '\n## Reading' + reading
  atomic.write_text(path, text)
  print(text)


if __name__ == '__main__':
  main()
