"""GenRe²'s hundred tasks of TALENT by its own protocol.

    python -m genre2_jax.benchmark --config=configs/talent_hundred.py \
      --config.root=TALENT --workdir=runs/talent_hundred

Cross-entropy, the token-level losses, the policy gradients and the dense
expert, each with the paper's hyperparameters of the task
(`hyperparameters=official`), fewest training rows first. Tasks that TALENT
lacks are left out, and said; a forecast of the hours comes first. The same
command goes on where it was stopped; several processes can share it:
--index=0 --count=4.
"""

from genre2_jax.benchmark import protocols


def get_config():
  return protocols.talent_hundred()
