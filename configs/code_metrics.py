"""Metrics of programs by a T5Gemma encoder and a number decoder.

RLM (arXiv 2509.26476): frozen T5Gemma-small encoder, 2-layer decoder with 8
heads, IEEE-like digits, 2,048 subwords, Adafactor, median of 64 samples. GenRe²
(arXiv 2512.06533): targets as quantiles, clipped rewards, groups of 4.

    python -m genre2_jax.main --config=configs/code_metrics.py:genre2 \
      --config.text.path=programs.jsonl

After the colon ce, the base of the other two, remax or genre2.

Data: JSONL of `input`, the program, and `target`; a `split` column of train,
validation and test if there is one. Another column, as in RLM's:

    --config.text.target=val_accuracy

Weights: the Hugging Face hub, or --config.language_model.pretrained=FOLDER.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('code_metrics', name)
