"""Cross-entropy, then ReMax with the dense expert, on programs: GenRe².

    python -m genre2_jax.main --config=configs/genre2_code.py \
      --config.text.path=programs.jsonl

Data and weights: configs/code_metrics.py.
"""

from configs import code_metrics


def get_config():
  return code_metrics.get_config(('remax', 1.0, {}), ('expert', 0.1, {}))
