"""RAFT (Lukasik et al., ICLR 2025) on its synthetic set, "Original #1".

    python -m genre2_jax.main --config=configs/raft_synthetic.py \
      --config.language_model.tokenizer=FOLDER

y = x + 10·sin(5πx/100) + 10·cos(6πx/100), scaled to [0, 9], from x as text; the
paper's run with random weights: pretrained is empty. The methods of
configs/stsb.py fit here too, as in raft_synthetic.py:ce.
"""

from configs import base, stsb


def get_config(method='raft'):
  config = base.get_config()
  config.text.source = 'synthetic'
  config.text.prompt, config.text.target = 'x = {x}\ny = ', 'y'
  config.text.max_length = 64
  stsb.gemma(config)
  config.language_model.pretrained = ''
  config.language_model.tokenizer = 'google/gemma-2-2b'
  config.tokenizer.strings = '0..9'
  config.update_from_flattened_dict(stsb.METHODS[method])
  if config.stages == ('finetune',):  # From random weights.
    config.pretrain = config.finetune.copy_and_resolve_references()
    config.stages = ('pretrain',)
  return config
