"""Judgements that a tiny judge can read: a rationale, then a score."""

import tiny_text

END = '<eos>'
BUDGET = 6


def judgements(num_rows=48):
  """[{prompt, rationale, score}]: the word of a review, and its stars."""
  return [
    {
      'prompt': f'Review: {row["review"]} ',
      'rationale': f'is {row["review"].split()[-1]}',
      'score': row['stars'],
    }
    for row in tiny_text.reviews(num_rows)
  ]


def write_home(folder):
  """A folder with judgements.jsonl and their tokenizer."""
  tiny_text.write_json_lines(folder / 'judgements.jsonl', judgements())
  tiny_text.write_tokenizer(folder / 'tokenizer')
  return folder


def tiny_fields(home):
  """{field: value} that make a recipe of the judge tiny."""
  return tiny_text.tiny_fields(home) | {
    'text.path': str(home / 'judgements.jsonl'), 'text.prompt': '{prompt}',
    'text.target': 'score', 'text.end': END, 'text.budget': BUDGET,
    'tokenizer.name': 'strings', 'tokenizer.strings': '1..5',
    'rollouts.group_size': 3, 'eval.num_samples': 3,
  }  # fmt: skip
