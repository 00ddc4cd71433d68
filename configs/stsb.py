"""Similarity of two sentences (STS-B): RAFT on a Gemma, or a sentence encoder.

Lukasik et al., ICLR 2025: Gemma-2 2B, all parameters, batch 16, dropout 0.1,
Adafactor at a constant rate of {1e-4, 1e-5, 1e-6}, best step on validation. The
prompt has the paper's intent in our words.

    python -m genre2_jax.main --config=configs/stsb.py:raft

After the colon a name of `STSB` in `genre2_jax/experiment/recipes.py`. Decoding
and RAIL are estimators of the same run: `greedy` is decoding, `mean` is RAIL
from 32 samples, `rail` and `rail_normalized` are RAIL from the scored grid. So
of zero_shot they are zero-shot decoding and zero-shot RAIL, and of ce CE +
decoding and CE + RAIL.

Data: TFDS's glue/stsb, whose train rows are split 4,887 / 862 and whose
validation rows test, as the paper's. Or a folder with train.csv, validation.csv
and test.csv of sentence1, sentence2 and score:

    --config.text.source=files --config.text.path=FOLDER \
      --config.text.target=score

encoder_crps, encoder_ce, encoder_raft and encoder_mse read both sentences by a
frozen sentence encoder, all-MiniLM-L6-v2 or any other of BERT's family:

    python -m genre2_jax.main --config=configs/stsb.py:encoder_crps

Weights: the Hugging Face hub (google/gemma-2-2b asks for its licence first),
or any folder of a Gemma 2 or 3: --config.language_model.pretrained=FOLDER. Of a
Gemma 3 270M CPU cores train low-rank updates, at a peak of 3.2 GB:

    --config.language_model.lora.rank=16 --config.finetune.learning_rate=5e-4 \
      --config.language_model.param_dtype=bfloat16 --config.optimizer.name=adamw

A small model to begin with takes minutes on a CPU: configs/pretrain_text.py.
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('stsb', name)
