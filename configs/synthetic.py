"""RAFT (Lukasik et al., ICLR 2025) on its synthetic set, "Original #1".

    python -m genre2_jax.main --config=configs/synthetic.py:raft \
      --config.language_model.tokenizer=FOLDER

y = x + 10·sin(5πx/100) + 10·cos(6πx/100), scaled to [0, 9], from x as text; the
paper's run with random weights: pretrained is empty. Methods: configs/stsb.py.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('synthetic', name)
