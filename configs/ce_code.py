"""Cross-entropy on programs: the base of the other two.

    python -m genre2_jax.main --config=configs/ce_code.py \
      --config.text.path=programs.jsonl

Data and weights: configs/code_metrics.py.
"""

from configs import code_metrics


def get_config():
  return code_metrics.get_config()
