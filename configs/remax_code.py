"""Cross-entropy, then ReMax, on programs (GenRe², arXiv 2512.06533).

    python -m genre2_jax.main --config=configs/remax_code.py \
      --config.text.path=programs.jsonl

Data and weights: configs/code_metrics.py.
"""

from configs import code_metrics


def get_config():
  return code_metrics.get_config(('remax', 1.0, {}))
