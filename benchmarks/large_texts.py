"""What texts that do not fit into memory cost before the first step and after.

    python benchmarks/large_texts.py
    python benchmarks/large_texts.py --sizes=20000,200000 --words=400

Rows of drawn words and a number that they hold are written as JSON lines, and
read by a process of their own, a size after the other, as a run of a small
Gemma with drawn weights does it; their subwords stay on the host. Of each, in
seconds of the processor: to read the file and fill in the prompts; to tokenise
and pad them; to know the data again; rows per second after the first step. And
the most memory of the process that no file stands behind, in GiB: what is left
when the kernel needs the rest for others.
"""

import functools
import json
import pathlib
import sys
import threading
import time

import sizes

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

SIZES = '20000,80000,240000'
FIGURES = (
  'read_s', 'tokenise_s', 'describe_s', 'rows_per_s', 'anonymous_gib',
  'subwords_gib',
)  # fmt: skip
WORDS = 2000  # that texts are made of


def words_of(draw):
  """Different words of three to nine letters."""
  letters = list('abcdefghijklmnopqrstuvwxyz')
  lengths = draw.integers(3, 10, WORDS)
  return [
    ''.join(draw.choice(letters, n)) + str(i) for i, n in enumerate(lengths)
  ]


def write(path, num_rows, num_words):
  """Texts as JSON lines, some thousand rows at a time; and a tokenizer."""
  import numpy as np

  from genre2_jax.data import corpora

  draw = np.random.default_rng(0)
  words = np.array(words_of(draw), object)
  with open(path, 'w', encoding='utf-8') as file:
    for start in range(0, num_rows, 1000):
      count = min(1000, num_rows - start)
      chosen = draw.integers(0, WORDS, (count, num_words))
      target = (chosen < WORDS // 4).mean(1) * 10
      for row, y in zip(words[chosen], target, strict=True):
        line = {'text': ' '.join(row), 'y': round(float(y), 3)}
        file.write(json.dumps(line) + '\n')
  folder = path.parent / 'tokenizer'
  tokenizer = corpora.train_tokenizer([' '.join(words)], 4096)
  corpora.save_tokenizer(tokenizer, folder)


class Anonymous(threading.Thread):
  """The most anonymous memory of this process while it runs, in bytes."""

  def __init__(self):
    super().__init__(daemon=True)
    self.most = 0
    self.start()

  def run(self):
    while True:
      status = pathlib.Path('/proc/self/status').read_text()
      (line,) = (x for x in status.splitlines() if x.startswith('RssAnon'))
      self.most = max(self.most, int(line.split()[1]) * 1024)
      time.sleep(0.02)


def measure(args):
  """One size: a JSON line."""
  anonymous = Anonymous()
  import jax

  from genre2_jax.experiment import experiment, recipes
  from genre2_jax.experiment.tasks import read_table
  from genre2_jax.runs import workdirs
  from genre2_jax.training import streaming
  from genre2_jax.training.programs import compile_stage
  from genre2_jax.training.step import train_step

  lap = sizes.Laps()
  found = lap.found
  config = recipes.get_config('synthetic', 'raft')
  folder = pathlib.Path(args.file).parent
  config.update_from_flattened_dict(
    {
      'text.source': 'files',
      'text.path': args.file,
      'text.prompt': '{text}',
      'text.target': 'y',
      'text.max_length': 2048,
      'text.max_rows': (0, 200, 200),
      'text.cache': str(folder / 'cache'),
      'language_model.pretrained': '',
      'language_model.tokenizer': str(folder / 'tokenizer'),
      'language_model.remat': False,
      'device_share': args.share,
      'batch_size': 8,
      'tokenizer.strings': '0..9',
    }
  )
  drawn = {
    'vocab_size': 4096, 'width': 32, 'num_layers': 2, 'num_heads': 2,
    'num_kv_heads': 1, 'head_dim': 16, 'feedforward': 64,
    'sliding_window': 64,
  }  # fmt: skip
  config.language_model.sizes.update(drawn)
  config = experiment.resolve(config)
  table = read_table(config)
  lap('read_s')
  built = experiment.build(config, table=table)
  model = built.model
  examples = {
    'train': model.training_examples(table.train),
    'val': model.examples(table.val),
  }
  found['subwords_gib'] = streaming.size_of(examples['train']) / 2**30
  lap('tokenise_s')
  workdirs.identity(built.fields, table)
  lap('describe_s')
  programs = compile_stage(
    train_step,
    built.stages[0],
    model,
    examples,
    seeds=built.seeds,
    batch_size=built.batch_size,
    block_size=built.block_size,
    mesh=built.mesh,
    device_share=built.device_share,
  )
  state = programs.run(programs.init(None), 1)
  jax.block_until_ready(state.params)
  lap.restart()
  state = programs.run(state, args.steps)
  jax.block_until_ready(state.params)
  lap('steps_s')
  found['rows_per_s'] = args.steps * built.batch_size / found['steps_s']
  found['anonymous_gib'] = anonymous.most / 2**30
  print(json.dumps(found))


def main():
  parser = sizes.parser_of(__doc__, SIZES, 'rows', steps=20)
  parser.add_argument('--words', type=int, default=300, help='of a text')
  parser.add_argument(
    '--share', type=float, default=0.005, help='device_share, of the rows'
  )
  args = parser.parse_args()
  if args.file:
    measure(args)
    return
  sizes.compare(
    __file__,
    args,
    title='Large texts',
    columns=('rows',),
    figures=FIGURES,
    file='texts.jsonl',
    write=functools.partial(write, num_words=args.words),
    options=[
      f'--words={args.words}',
      f'--steps={args.steps}',
      f'--share={args.share}',
    ],
  )


if __name__ == '__main__':
  main()
