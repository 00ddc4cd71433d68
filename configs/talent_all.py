"""All 44 TALENT tasks: the recipes that win on tables, against trees.

    python -m genre2_jax.benchmark --config=configs/talent_all.py \
      --config.root=TALENT --workdir=runs/talent_all

With `configs/talent_all.py:others`, the 24 that are not of
`configs/talent_twenty.py`. Of a task with more than 20,000 training rows so
many are drawn at random, the same for every method (`data.max_train_rows`);
validation and test rows are all there. Tasks and methods:
`genre2_jax/benchmark/protocols.py`.
"""

from genre2_jax.benchmark import protocols


def get_config(name='all'):
  return protocols.talent_all(name)
