"""Twenty TALENT tasks, every method: the comparison that claims are made from.

    python -m genre2_jax.benchmark --config=configs/talent_twenty.py \
      --config.root=TALENT --workdir=runs/talent_twenty

A run for each of METHODS on each of the twenty tasks; several processes can
share them: --index=0 --count=4. Tasks, methods and sizes:
`genre2_jax/benchmark/protocols.py`.

The tasks follow a rule that looks at nothing but row counts. Of the 44 tasks of
a folder of TALENT tasks, ordered by training rows (at equal rows by name), the
26 with at most 6,500 training rows; of those, numbered from 0, the twenty at
round(i · 25 / 19), i = 0 .. 19. No task is left out for its results, nor for
being akin to another.
"""

from genre2_jax.benchmark import protocols


def get_config():
  return protocols.talent_twenty()
