"""What a report says in sentences: the verdict, its caveats, the run."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from genre2_jax.data import targets
from genre2_jax.files import metrics_log
from genre2_jax.report.inputs import NOMINAL, Run, Stage


@dataclasses.dataclass(frozen=True)
class Claim:
  """A metric that the verdict speaks of; `format` prints its values."""

  words: str
  estimator: str
  metric: str
  format: str = '{:.3f}'
  # ≥ 0, so that a change in percent means something, and with a unit.
  is_error: bool = False


CLAIMS = (
  Claim('the RMSE of the mean', 'mean', 'rmse', is_error=True),
  Claim('the R² of the median', 'median', 'r2'),
  Claim('CRPS', 'sample', 'crps', is_error=True),
  Claim(
    'the coverage of the central 90% interval', 'sample', 'coverage90', '{:.0%}'
  ),
)


# Of runs that predict one number per row.
POINT_CLAIMS = (
  Claim('RMSE', 'mean', 'rmse', is_error=True),
  Claim('R²', 'mean', 'r2'),
  Claim('MAE', 'mean', 'mae', is_error=True),
)


def verdict(run: Run) -> str:
  """One sentence: what the last stage did to the first, on test."""
  first, last = run.stages[0], run.stages[-1]
  rows = run.info['num_test']
  where = f'On {rows:,} test row{"s" * (rows != 1)}'
  if first is last:
    states = [f'{c.words} is {_text(run, c, last)}' for c in _claims(run)]
    return f'{where} with {last.name}, {_enumerate(states)}.'
  changes = [_change(run, claim) for claim in _claims(run)]
  if run.is_point:
    return f'{where}, {last.name} after {first.name} {_enumerate(changes)}.'
  *gains, coverage = changes
  # 'but' where accuracy and coverage move in opposite directions.
  old_error, new_error = _ends(run, CLAIMS[0])
  old_gap, new_gap = (abs(c - NOMINAL) for c in _ends(run, CLAIMS[-1]))
  is_mixed = (old_error - new_error) * (old_gap - new_gap) < 0
  return (
    f'{where}, {last.name} after {first.name} {", ".join(gains)}, '
    f'{"but" if is_mixed else "and"} {coverage}.'
  )


def notes(run: Run) -> list[str]:
  """What a reader must know before believing the verdict."""
  sentences = []
  if len(run.seeds) == 1:
    sentences.append('One seed: there is no spread to judge the numbers by.')
  else:
    sentences.append(f'Numbers are means over {len(run.seeds)} seeds.')
    doubtful = [c.words for c in _claims(run) if _is_within_noise(run, c)]
    if doubtful:
      sentences.append(
        f'The change in {_enumerate(doubtful)} is less than two standard '
        'errors of the paired differences between seeds.'
      )
  kept = (
    metrics_log.kept_start(run.records, stage.key, stage.name)
    for stage in run.stages
  )
  sentences += filter(None, kept)
  if run.unit != targets.UNITS['standard']:
    sentences.append(f'Errors are in {run.unit.says}.')
  if run.is_point:
    sentences.append(
      'One number is predicted per row: its CRPS is its absolute error, and '
      'there are no intervals to judge.'
    )
  if run.info['constant_target']:
    sentences.append(
      'The train target is constant. Where the test target is constant too, '
      'R² is 1 for exact predictions and 0 for others, and rank correlations '
      'are 0.'
    )
  if run.info['num_test'] == 1:
    sentences.append('One test row: R², ranks and coverage mean nothing.')
  return sentences


def facts(run: Run) -> dict[str, str]:
  """What was run."""
  info, parameters = run.info, run.info['parameters']
  return {
    'Target': info['target'],
    'Rows': (
      f'{info["num_train"]:,} train, {info["num_val"]:,} validation, '
      f'{info["num_test"]:,} test'
    ),
    'Stages': ' → '.join(stage.name for stage in run.stages),
    **_tokenizer(run),
    **({'Parameters': f'{parameters:,}'} if parameters else {}),
    'Seeds': ', '.join(run.seeds),
    **({} if run.is_point else {'Samples': f'{run.num_samples} per test row'}),
  }


def _tokenizer(run: Run) -> dict[str, str]:
  """What numbers are written in, if they are written."""
  head = run.config.get('model', {}).get('head')
  if head == 'pointwise' or run.config.get('baseline', {}).get('name'):
    return {}
  fields = run.config['tokenizer']
  match fields['name']:
    case 'bins':
      text = f'{fields["bins"]} bins and two tails'
    case 'strings':
      text = f'strings {fields["strings"]}'
    case 'decimal':
      text = (
        f'decimals, {fields["integer_digits"]} digits before the point and '
        f'{fields["fraction_digits"]} after it'
      )
    case name:
      text = f'{name}, base {fields["base"]}, {fields["digits"]} digits'
  return {'Tokenizer': text}


def _claims(run: Run) -> Sequence[Claim]:
  return POINT_CLAIMS if run.is_point else CLAIMS


def _ends(run: Run, claim: Claim, seed: str = '') -> tuple[float, float]:
  """Its values before and after."""
  before, after = (
    run.value(stage, claim.estimator, claim.metric, seed)
    for stage in (run.stages[0], run.stages[-1])
  )
  return before, after


def _text(run: Run, claim: Claim, stage: Stage) -> str:
  value = run.value(stage, claim.estimator, claim.metric)
  if not math.isfinite(value):
    return 'undefined'
  text = claim.format.format(value)
  if claim.is_error:
    if value and not 1e-3 <= value < 1e6:
      text = f'{value:.2e}'
    text += run.unit.suffix
  return text.replace('-', '\N{MINUS SIGN}')


def _change(run: Run, claim: Claim) -> str:
  """For example 'lowered CRPS by 3.4% from 0.233 z to 0.225 z'."""
  before, after = (
    _text(run, claim, stage) for stage in (run.stages[0], run.stages[-1])
  )
  if before == after:  # as far as one can read
    return f'left {claim.words} at {before}'
  old, new = _ends(run, claim)
  verb = 'raised' if new > old else 'lowered'
  has_percent = claim.is_error and old > 0
  percent = f' by {abs(new / old - 1):.1%}' if has_percent else ''
  return f'{verb} {claim.words}{percent} from {before} to {after}'


def _is_within_noise(run: Run, claim: Claim) -> bool:
  change = np.diff([_ends(run, claim, seed) for seed in run.seeds])
  standard_error = np.std(change, ddof=1) / math.sqrt(len(change))
  return bool(abs(np.mean(change)) < 2 * standard_error)


def _enumerate(words: Sequence[str]) -> str:
  *head, tail = words
  return f'{", ".join(head)} and {tail}' if head else tail
