"""Ablations, each a benchmark of variants of one recipe.

    python -m genre2_jax.benchmark --config=configs/ablations.py:reward \
      --config.root=TALENT --tasks=airfoil_self_noise --workdir=runs/reward

After the colon: tokenizer, group_size, reward, baseline, std, expert, kl, whose
variants start from the weights of the method `ce`, where they can; levers: the
recipe `best` with one of its parts taken out. The variants:
`genre2_jax/benchmark/protocols.py`.
"""

from genre2_jax.benchmark import protocols


def get_config(name='reward'):
  return protocols.ablation(name)
