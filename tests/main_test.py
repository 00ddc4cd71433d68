"""The real command: exit codes, and one line for what a user can mend."""

import pytest

from genre2_jax import command_line
from genre2_jax.benchmark import protocols
from genre2_jax.data import wording
from genre2_jax.experiment import recipes


def run_main(start_main, *arguments, **options):
  process = start_main(*arguments, **options)
  out, err = process.communicate()
  return process.returncode, out, err


# Found while reading the flags, before anything heavy is imported.
@pytest.mark.parametrize(
  ('arguments', 'parts'),
  [
    (['--config.finetune.epohcs=3'], ['epohcs', 'Did you mean "epochs"']),
    (['--config.finetune.epohcs.x=3'], ['unknown config field', 'epohcs']),
    (['--config.tokeniser.name=p10'], ['Did you mean "tokenizer"']),
    (['--config.weight_decay=1'], ['or optimizer.weight_decay?']),
    (
      ["--config.optimizer={'weight_decay': 1}"],
      ['--config.optimizer is a section', '--config.optimizer.weight_decay='],
    ),
    (['--config.finetune.epochs=abc'], ['--config.finetune.epochs=abc', 'int']),
    (
      ['--config.rollouts.temperature=hot'],
      ['--config.rollouts.temperature=hot'],
    ),
    (
      ["--config.finetune.objective=(('grpo', 1.0, {})"],
      ['--config.finetune.objective='],
    ),
    (['--config=configs/nowhere.py'], ['configs/nowhere.py', 'No such file']),
    (
      ['--config=configs/nowhere.py', '--config.seed=1'],
      ['configs/nowhere.py', 'No such file'],
    ),
    (['--config=configs/talent.py:rmax'], ["'rmax'", "'remax'"]),
    (['--config=configs/stsb.py:rft', '--config.seed=1'], ["'rft'", "'raft'"]),
    (['--config=talent:rmax'], ["'rmax'", "did you mean 'remax'"]),
    (['--config=tallent:remax'], ["'tallent'", "did you mean 'talent'"]),
    (['--config=configs/base.py:x'], ['get_config() takes 0']),
    (['--config=talent:remax', '--config.seeed=1'], ['seeed']),
    (['--config=talent_twenty'], ['no recipe', 'genre2_jax.benchmark']),
    ([], ['--config=configs/remax_talent.py']),
    (['--epochs=3'], ["'epochs'"]),
    (['epochs=3'], ["'epochs=3'", 'begin with --']),
    (['--mode=forecast'], ['forecast', 'predict']),
    (['--distributed'], ['nothing says', '--coordinator=HOST:PORT']),
    (['--process_id=x'], ['--process_id=x']),
    (['--mode=predict', '--input=a.csv', '--output=b.csv'], ['--input=']),
  ],
)
def test_a_wrong_command_is_one_line_and_code_2(
  start_main, tmp_path, arguments, parts
):
  workdir = tmp_path / 'run'
  recipe = ['--config=configs/remax_talent.py']
  if not arguments or arguments[0].startswith(('--config=', '--mode')):
    recipe = []
  flag = [] if '--mode=predict' in arguments else [f'--workdir={workdir}']
  code, out, err = run_main(
    start_main, *recipe, *arguments, *flag, tiny_config=False
  )
  parts = ['--mode=predict needs --workdir'] if not flag else parts
  assert (code, out) == (2, '')
  assert err.count('\n') == 1 and err.startswith('genre2_jax: '), err
  for part in parts:
    assert part in err, err
  assert not workdir.exists()


@pytest.mark.parametrize(
  ('arguments', 'parts'),
  [
    (['--config.data.path=nowhere.csv'], ['nowhere.csv: no such file']),
    (
      ["--config.finetune.objective=(('grop', 1.0, {}),)"],
      ["finetune.objective: objective 'grop'", "did you mean 'grpo'?"],
    ),
    (
      ["--config.pretrain.objective=(('ce', 1.0, {}))"],
      ["pretrain.objective: 'ce' is not (name, weight, options)"],
    ),
    # An objective that is right: the next thing is wrong.
    (
      [
        "--config.finetune.objective=(('grpo', 1.0, {'clip_high': 0.3}), "
        "('kl', 0.1, {'estimator': 'k2'}))",
        '--config.data.path=nowhere.csv',
      ],
      ['nowhere.csv: no such file'],
    ),
    (['--config.data.target=prize'], ["did you mean 'price'?"]),
    (
      ['--config.batch_size=30'],
      ['batch_size=30 does not divide', 'multiple of 8'],
    ),
    (
      ['--config.mesh.fsdp=8', '--config.model.width=12'],
      ['does not split over the mesh'],
    ),
  ],
)
def test_bad_input_is_one_line_and_code_2(
  start_main, tmp_path, arguments, parts
):
  workdir = tmp_path / 'run'
  code, out, err = run_main(
    start_main,
    f'--workdir={workdir}',
    *arguments,
    XLA_FLAGS='--xla_force_host_platform_device_count=8',
  )
  assert (code, out) == (2, '')
  assert err.count('\n') == 1 and err.startswith('genre2_jax: '), err
  for part in parts:
    assert part in err, err
  assert not workdir.exists()


@pytest.mark.slow  # train_test has it without the process
def test_a_loss_that_is_not_finite_is_one_line_and_code_1(start_main, tmp_path):
  workdir = tmp_path / 'run'
  code, _, err = run_main(
    start_main,
    f'--workdir={workdir}',
    '--config.pretrain.learning_rate=1e38',
    "--config.stages=('pretrain',)",
  )
  assert code == 1
  assert 'Traceback' not in err
  last = err.splitlines()[-1]
  assert last.startswith('genre2_jax: the loss of stage ce, seed 0 is not')
  assert 'at step ' in last
  assert not (workdir / 'run.json').exists()


def test_prediction_by_command(start_main, finished, data_file, tmp_path):
  output = tmp_path / 'out.csv'
  arguments = ('--mode=predict', f'--workdir={finished}')
  code, out, err = run_main(
    start_main,
    *arguments,
    f'--input={data_file}',
    f'--output={output}',
    tiny_config=False,
  )
  assert (code, err) == (0, '')
  assert '120 rows' in out
  assert output.read_text().startswith('row,prediction,')
  assert output.read_text().count('\n') == 121


def test_help_names_recipes_fields_and_where_to_read(start_main):
  code, out, err = run_main(start_main, '--help', tiny_config=False)
  assert err == '' and code in (0, 1)  # absl: 1
  said = ' '.join(out.split())
  for family in recipes.FAMILIES:
    assert f'{family}:NAME' in said
  for name in (*recipes.TALENT.recipes, *protocols.PROTOCOLS, 'remax, genre2'):
    assert name in said
  assert 'docs/config.md' in said and 'docs/running.md' in said
  assert '--input=new_rows.csv' in out and '\\\n' in out


def test_warnings_of_data_are_one_line(capsys):
  doubt = wording.DataWarning('t.csv: column\n"size"')
  command_line._one_line(doubt, wording.DataWarning, 'file.py', 3)
  assert capsys.readouterr().err == 'genre2_jax: t.csv: column "size"\n'
  command_line._one_line(UserWarning('else'), UserWarning, 'file.py', 3)
  assert 'file.py:3: UserWarning: else' in capsys.readouterr().err
