"""What a report says in sentences: the verdict, what stages did, the run."""

import dataclasses
import math

import numpy as np

from genre2_jax.data import targets, wording
from genre2_jax.files import metrics_log
from genre2_jax.metrics import points
from genre2_jax.report import numbers
from genre2_jax.report.inputs import NOMINAL, Run, Stage

REFERENCES = {
  'train_mean': 'training mean',
  'histogram_trees': 'histogram trees',
}
_THE = {'training mean': 'the training mean'}
ESTIMATOR_NAMES = {'sample': 'one sample'}


@dataclasses.dataclass(frozen=True)
class Error:
  """The error of a predictor on test rows, in the target's own unit.

  Attributes:
    name: of the predictor.
    rmse: root mean squared error.
    text: of it.
    is_own: whether it is the run's own.
  """

  name: str
  rmse: float
  text: str
  is_own: bool = False


def headline(run: Run) -> str:
  """What was predicted."""
  task, target = run.info['task'], run.info['target']
  count = len({column['name'] for column in run.columns})
  of = f'{task}, from {numbers.count(count, "column")}' if count else task
  return f'{target} of {of}'


def estimator_name(name: str) -> str:
  """As the page calls it: 'exact mean'."""
  return ESTIMATOR_NAMES.get(name, name.replace('_', ' '))


def own_error(run: Run) -> float:
  """RMSE of what a reader would use, in the target's own unit."""
  best = run.best
  # Of results.csv where it is there: tables print the same.
  value = run.value(run.last, best.estimator, 'rmse_unit', run.together)
  if math.isfinite(value):
    return value
  return points.rmse(best.value, run.target, run.weight)


def errors(run: Run) -> list[Error]:
  """The run's and its references', the run's first."""
  name = f'{run.last.name}, {estimator_name(run.best.estimator)}'
  if run.is_point:
    name = run.last.name
  found = [(name, own_error(run), True)]
  for stage, said in REFERENCES.items():
    value = run.references.get(stage, {}).get('rmse_unit', math.nan)
    if math.isfinite(value):
      found.append((said, value, False))
  places = run.decimals('rmse_unit')
  return [
    Error(name, value, numbers.text(value, places), is_own)
    for name, value, is_own in found
  ]


def verdict(run: Run) -> str:
  """How far off, against what, and whether the interval held."""
  own, *others = errors(run)
  rows = numbers.count(run.info['num_test'], 'test row')
  said = f'On {rows} the prediction is off by {own.text} (root mean square)'
  if others:
    compared = [
      f'{_more_or_less(own, other)} {_THE.get(other.name, other.name)} '
      f'({other.text})'
      for other in others
    ]
    said += f': {numbers.listed(compared)}'
  said += '.'
  held = coverage(run)
  if held is not None:
    share = numbers.percent(held)
    said += f' The 90% interval held for {share} of the rows.'
  return said


def _more_or_less(own: Error, other: Error) -> str:
  if own.text == other.text:
    return 'as much as'
  if not other.rmse:
    return 'more than'
  change = own.rmse / other.rmse - 1
  if abs(change) < 0.005:
    return 'about as much as'
  if change > 9:
    return f'{own.rmse / other.rmse:.3g} times as much as'
  return f'{abs(change):.0%} {"less" if change < 0 else "more"} than'


def coverage(run: Run) -> float | None:
  """Share of test rows in the interval that a reader would use, if any."""
  best = run.best
  if best.low is None or best.high is None:
    return None
  # Ends that are the target may differ from it in float32's last bits.
  slack = 1e-6 * (float(np.ptp(run.target)) or 1.0)
  inside = (best.low - slack <= run.target) & (run.target <= best.high + slack)
  return float(points.mean(inside, run.weight))


def also(run: Run) -> str:
  """Other metrics of the same prediction."""
  said = []
  for name, metric in (
    ('Mean absolute error', 'mae_unit'),
    ('R²', 'r2'),
    ('Spearman', 'spearman'),
  ):
    value = run.value(run.last, run.best.estimator, metric, run.together)
    if math.isfinite(value):
      said.append(f'{name} {numbers.text(value, run.decimals(metric))}')
  return ', '.join(said) + '.' if said else ''


def interval(run: Run) -> str:
  """Where the interval comes from, and how wide it is; '' without one."""
  best = run.best
  if best.low is None or best.high is None:
    return ''
  width = numbers.text(
    float(np.mean(best.high - best.low)), run.decimals('rmse_unit')
  )
  origin = 'of the model itself, no validation rows were kept for a margin'
  if best.is_conformal:
    origin = "the model's own, with a margin fitted on validation rows"
  said = f'The interval is {width} wide on average: {origin}.'
  if run.cells is not None:
    said += (
      f' The target takes {len(run.cells)} values: an interval of whole ones '
      'holds at least as often as it says, as a rule more often.'
    )
  return said


def stages(run: Run) -> str:
  """What the last stage did to the first, in a sentence; '' of one stage."""
  first, last = run.stages[0], run.last
  if first is last:
    return ''
  name = run.best.estimator
  changes = [_change(run, name, 'rmse_unit', 'the error')]
  kind = distribution(run)
  if not run.is_point:
    changes.append(
      _change(
        run, kind, 'coverage90', "the coverage of the model's own interval"
      )
    )
    changes.append(_change(run, kind, 'crps', 'CRPS'))
  said = numbers.listed(filter(None, changes))
  return f'{last.name} after {first.name} {said}.' if said else ''


def distribution(run: Run) -> str:
  """Which rows of results.csv describe the model's own distribution."""
  return 'exact' if run.has('exact', 'coverage90') else 'sample'


def _change(run: Run, estimator: str, metric: str, what: str) -> str:
  """For example 'lowered CRPS by 3.4%, from 0.233 z to 0.225 z'."""
  old, new = (
    run.value(stage, estimator, metric) for stage in (run.stages[0], run.last)
  )
  if not (math.isfinite(old) and math.isfinite(new)):
    return ''
  is_share = metric == 'coverage90'
  before, after = (
    numbers.percent(value)
    if is_share
    else numbers.text(value, run.decimals(metric)) + _suffix(run, metric)
    for value in (old, new)
  )
  if before == after:  # as far as one can read
    return f'left {what} at {before}'
  verb = 'raised' if new > old else 'lowered'
  says_percent = not is_share and 0 < new < 10 * old
  percent = f' by {abs(new / old - 1):.1%},' if says_percent else ''
  return f'{verb} {what}{percent} from {before} to {after}'


def _suffix(run: Run, metric: str) -> str:
  return '' if metric.endswith('_unit') else run.unit.suffix


def notes(run: Run) -> list[str]:
  """What a reader must know before believing the verdict."""
  sentences = []
  if len(run.seeds) == 1:
    sentences.append(
      'One seed: there is no spread to judge the numbers by '
      '(num_seeds=5 gives one).'
    )
  else:
    sentences.append(
      f'{len(run.seeds)} seeds predict together; tables have their means.'
    )
    if _is_within_noise(run):
      sentences.append(
        'The change in the error between stages is less than two standard '
        'errors of the paired differences between seeds.'
      )
  if not run.references and not run.config.get('baseline', {}).get('name'):
    sentences.append('No references were fitted beside this run.')
  sentences += kept(run)
  for stage in run.stages:
    if stage.key in run.info.get('out_of_time', ()):
      sentences.append(
        f'Stage {stage.name} was ended by max_seconds: more time may help.'
      )
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


def kept(run: Run) -> list[str]:
  """Stages that changed nothing."""
  found = (
    metrics_log.kept_start(run.records, stage.key, stage.name)
    for stage in run.stages
  )
  return list(filter(None, found))


def facts(run: Run) -> dict[str, str]:
  """What was run."""
  info, parameters = run.info, run.info['parameters']
  seeds = f'{len(run.seeds)} ({", ".join(run.seeds)})'
  drawn_from = info.get('drawn_from', 0)
  drawn = f' (drawn from {drawn_from:,})' if drawn_from else ''
  weighted = ''
  if run.weight is not None:
    column = run.config['data'].get('weight', '')
    weighted = ', all metrics weighted' + (f' by {column}' if column else '')
  if len(run.seeds) == 1:
    seeds = f'1 (seed {run.seeds[0]})'
  found = {
    'Target': info['target'],
    'Rows': (
      f'{info["num_train"]:,} train{drawn}, {info["num_val"]:,} validation, '
      f'{info["num_test"]:,} test{weighted}'
    ),
    **_non_finite(run),
    'Objective': ', then '.join(objective(run, stage) for stage in run.stages),
    **_tokenizer(run),
    'Parameters': f'{parameters:,}' if parameters else '',
    'Seeds': seeds,
    'Samples': '' if run.is_point else f'{run.num_samples} per test row',
    'Training': _training_time(run),
    'Device': _device(run),
  }
  return {name: text for name, text in found.items() if text}


def objective(run: Run, stage: Stage) -> str:
  """Terms of a stage with their weights where these are not 1."""
  place = run.stages.index(stage)
  sections = run.config.get('stages')
  if not isinstance(sections, list) or len(sections) != len(run.stages):
    return stage.name
  section = run.config.get(sections[place])
  terms = section.get('objective') if isinstance(section, dict) else None
  weights = [
    term[1]
    for term in (terms if isinstance(terms, list) else ())
    if isinstance(term, list) and len(term) > 1
  ]
  names = stage.name.removesuffix(', again').split(' + ')
  if len(weights) != len(names) or not all(
    isinstance(weight, int | float) for weight in weights
  ):
    return stage.name
  return ' + '.join(
    name if weight == 1 else f'{weight:g} {name}'
    for name, weight in zip(names, weights, strict=True)
  )


def seconds(run: Run, stage: Stage) -> float:
  """That a stage trained, by its records; NaN where they do not say."""
  found = [
    record['seconds']
    for record in run.records
    if record['stage'] == stage.key
    and isinstance(record.get('seconds'), int | float)
  ]
  return max(found, default=math.nan)


def epochs(run: Run, stage: Stage) -> str:
  """'12 of 40': the epoch that is kept, of those that were run."""
  last = {r['seed']: r for r in run.records if r['stage'] == stage.key}
  best = {
    epoch
    for record in last.values()
    if isinstance(epoch := record.get('best_epoch'), int)
  }
  if not best:
    return ''
  ran = max(record['epoch'] for record in last.values())
  return f'{numbers.listed(map(str, sorted(best)))} of {ran}'


def _training_time(run: Run) -> str:
  total = [seconds(run, stage) for stage in run.stages]
  known = [value for value in total if math.isfinite(value)]
  return f'{wording.duration(sum(known))}, compiling aside' if known else ''


def _device(run: Run) -> str:
  kind, count = run.env.get('device_kind'), run.env.get('num_devices')
  if not isinstance(kind, str) or not isinstance(count, int):
    return ''
  processor, times = run.env.get('processor'), '\N{MULTIPLICATION SIGN}'
  if kind == 'cpu' and isinstance(processor, str) and processor:
    return processor.replace(' x ', f' {times} ')
  return f'{count} {times} {kind}'


def _non_finite(run: Run) -> dict[str, str]:
  """How often a target was no number, and how well that was foreseen."""
  share, predicted, brier, log_loss = (
    run.value(run.last, 'non_finite', metric, run.together)
    for metric in ('share', 'predicted', 'brier', 'log_loss')
  )
  if not math.isfinite(share):
    return {}
  return {
    'No numbers': (
      f'{share:.1%} of the test targets are NaN or infinite, {predicted:.1%} '
      f'predicted; Brier score {brier:.3g}, log loss {log_loss:.3g} nats; all '
      'else is of finite targets'
    )
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


def importances(run: Run) -> str:
  """Which columns the predictions hang on; '' where nobody asked."""
  if run.importances is None or not run.importances['importances']:
    return ''
  first, *_ = found = run.importances['importances']
  places = run.decimals('rmse_unit')
  rows, repeats = run.importances['rows'], run.importances['repeats']
  if first['mean'] <= 0:
    said = 'No column matters: shuffling it leaves the error as it is.'
  else:
    more = numbers.text(first['mean'], places)
    said = (
      f'{first["column"]} matters most of {numbers.count(len(found), "column")}'
      f': shuffled among the rows, it raises the error by {more}.'
    )
  return (
    f'{said} Increase of the RMSE, in the unit of the target, when one column '
    f'is shuffled among {numbers.count(rows, "validation row")}; mean ± '
    f'standard deviation of {numbers.count(repeats, "shuffle")}. Columns that '
    'say the same share their importance.'
  )


def _is_within_noise(run: Run) -> bool:
  changes = [
    np.diff(
      [
        run.value(stage, run.best.estimator, 'rmse_unit', seed)
        for stage in (run.stages[0], run.last)
      ]
    )
    for seed in run.seeds
  ]
  if len(run.stages) < 2:
    return False
  standard_error = np.std(changes, ddof=1) / math.sqrt(len(changes))
  return bool(abs(np.mean(changes)) < 2 * standard_error)


def unit(run: Run) -> str:
  """What errors of the tables are in."""
  if run.unit == targets.UNITS['none']:
    return run.unit.says
  return f'{run.unit.says}, or in the unit of the target'


assert NOMINAL == 0.9  # The words say 90%.
