"""A judge that writes before it scores: free text, then a number.

The third domain of GenRe² (arXiv 2512.06533, ICML 2026: generative reward
models): a prompt, a rationale up to a budget of subwords, a score by the
grammar. Cross-entropy on all of it, then ReMax on text and score with the
score's reward, beside it the dense expert on the score and a KL to the start.

    python -m genre2_jax.main --config=configs/judge.py:genre2 \
      --config.text.path=judgements.jsonl

After the colon ce, the base of the others, remax, rloo or genre2.

Data: JSONL of `prompt`, `rationale` and `score` from 0 to 9.9; a `split` column
of train, validation and test if there is one. Other columns by templates:

    --config.text.prompt='Question: {question} Answer: {answer} Judge: ' \
      --config.text.rationale='{why}' --config.text.target=grade

Weights: the Hugging Face hub (google/gemma-3-270m asks for its licence first),
or any folder of a Gemma 2 or 3: --config.language_model.pretrained=FOLDER. Of a
Gemma 3 270M CPU cores train low-rank updates
(--config.language_model.lora.rank=16).
"""

from genre2_jax.experiment import recipes


def get_config(name=''):
  return recipes.get_config('judge', name)
