"""A trace of steps: it is there, it opens, and its table adds up."""

import gzip
import json
import types

import pytest
from checks import assert_refused, read_log

from genre2_jax import train
from genre2_jax.devices import profiling
from genre2_jax.report import inputs, result_tables


@pytest.fixture(scope='module')
def traced(make_config, tmp_path_factory):
  """Workdir of a run whose steps 3 and 4 of each stage were traced."""
  workdir = tmp_path_factory.mktemp('traced') / 'run'
  config = make_config({'profile.steps': '3:5', 'report': False})
  return train.train_and_evaluate(config, workdir)


def test_a_trace_changes_nothing(traced, finished):
  assert read_log(traced) == read_log(finished)
  for name in ('results.csv', 'predictions.csv'):
    assert (traced / name).read_bytes() == (finished / name).read_bytes()


def test_the_trace_is_what_the_viewers_read(traced):
  for stage in ('ce', 'remax'):
    folder = traced / 'profile' / stage
    (path,) = folder.rglob('*.trace.json.gz')  # Perfetto
    with gzip.open(path) as file:
      events = json.load(file)['traceEvents']
    assert any('run' in event.get('name', '') for event in events)
    (path,) = folder.rglob('*.xplane.pb')
    assert path.parent.parent.name == 'profile'  # where TensorBoard looks
    assert path.parent.parent.parent.name == 'plugins'


def test_the_table_has_the_largest_operations(traced):
  for stage in ('ce', 'remax'):
    path = traced / 'profile' / stage / 'operations.json'
    found = json.loads(path.read_text())
    assert found['steps'] == [3, 5]
    operations = found['operations']
    times = [operation['milliseconds'] for operation in operations]
    assert times == sorted(times, reverse=True) and times[-1] > 0
    shares = [operation['share'] for operation in operations]
    assert 0.1 < sum(shares) <= 1 + 1e-9
    ratio = times[0] / shares[0]
    assert all(
      t / s == pytest.approx(ratio) for t, s in zip(times, shares, strict=True)
    )
    names = [operation['name'] for operation in operations]
    assert not [name for name in names if name.startswith('while')]
    assert any(operation['source'] for operation in operations)
    modules = {module['name']: module for module in found['modules']}
    assert sum(m['share'] for m in modules.values()) == pytest.approx(1)
    # Products of matrices, whose source the compiler drops, are among them.
    assert modules['decoder/layer_*/self_attention']['share'] > 0.01
    assert modules.get('unknown', {'share': 0})['share'] < 0.4


def test_the_report_shows_it(traced, finished):
  table = result_tables.operations(inputs.load(traced))
  assert [stage.key for stage, _ in table.groups] == ['ce', 'remax']
  label, cells = table.groups[0][1][0]
  path = traced / 'profile' / 'ce' / 'operations.json'
  first = json.loads(path.read_text())['modules'][0]
  assert label == first['name']
  assert cells[0]['text'] == f'{first["share"]:.1%}'
  assert float(cells[1]['text']) == pytest.approx(first['milliseconds'], 0.1)
  assert result_tables.operations(inputs.load(finished)) is None


def event(name, duration, **stats):
  return types.SimpleNamespace(name=name, duration_ns=duration, stats=stats)


def test_operations_are_added_up_by_name():
  lines = [
    types.SimpleNamespace(
      name='worker',
      events=[
        event('dot.1', 600, hlo_op='dot.1'),
        event('end: dot.1', 5, hlo_op='dot.1'),
        event('dot.1', 200, hlo_op='dot.1'),
        event('while.2', 5000, hlo_op='while.2'),
        event('python', 9000),
      ],
    ),
    types.SimpleNamespace(
      name='XLA Ops', events=[event('%add.7 = f32[3] add(...)', 200)]
    ),
  ]
  trace = types.SimpleNamespace(planes=[types.SimpleNamespace(lines=lines)])
  assert profiling.all_operations(
    trace, {'dot.1': 'jit(run)/dot_general'}, num_steps=2, num_devices=1
  ) == [
    {
      'name': 'dot.1',
      'source': 'jit(run)/dot_general',
      'milliseconds': 400 / 1e6,
      'calls': 1.0,
      'share': 0.8,
    },
    {
      'name': 'add.7',
      'source': '',
      'milliseconds': 100 / 1e6,
      'calls': 0.5,
      'share': 0.2,
    },
  ]


@pytest.mark.parametrize(
  ('source', 'module'),
  [
    ('jit(run)/vmap()/jvp(Model.decode)/decoder/layer_1/attention/dot',
     'decoder/layer_*/attention'),
    ('jit(run)/transpose(jvp(Model.encode))/encoder/Dense_2/reduce_sum',
     'encoder/Dense_*'),
    ('jit(run)/Model.decode/decoder/layer_0/Dropout_0/jit(_bernoulli)/while/lt',
     'decoder/layer_*/Dropout_*'),
    ('jit(run)/jvp(Model.decode)/dot_general', 'Model.decode'),
    ('jit(run)/while/body/vmap()/add', ''),
    ('', ''),
  ],
)  # fmt: skip
def test_an_operation_has_a_module(source, module):
  assert profiling.module_of(source) == module


def test_what_the_compiler_forgets_counts_to_what_is_near():
  where = 'metadata={op_name="jit(run)/jvp(M.decode)/decoder/up/dot_general"}'
  text = f"""
%fused (p: f32[2]) -> f32[2] {{
  %p = f32[2] parameter(0)
  ROOT %dot.1 = f32[2] dot(%p, %p), metadata={{stack_frame_id=4}}
}}
ENTRY %main (a: f32[2]) -> f32[2] {{
  %a = f32[2] parameter(0)
  %fusion.1 = f32[2] fusion(%a), kind=kLoop, calls=%fused
  ROOT %add.1 = f32[2] add(%fusion.1, %a), {where}
}}
"""
  found = profiling.sources(text)
  assert profiling.module_of(found['dot.1']) == 'decoder/up'
  assert profiling.module_of(found['fusion.1']) == 'decoder/up'


@pytest.mark.parametrize('text', ['10', '13:10', '10:10', 'a:b', '1:2:3'])
def test_steps_that_are_none(text):
  assert_refused(lambda: profiling.parse_steps(text), text, '10:13')


def test_dispatches_end_where_the_trace_does(tmp_path):
  profile = profiling.Profile((10, 13), tmp_path, 'ce', 50, is_writer=False)
  assert [profile.limit(step) for step in (0, 9, 10, 12)] == [10, 1, 3, 1]
  assert profile.limit(13) > 1e9
  assert profiling.Profile((10, 13), tmp_path, 'ce', 12).limit(10) == 2
  assert profiling.Profile(None, tmp_path, 'ce', 50).limit(50) > 1e9


def test_a_trace_beyond_the_stage_is_none_and_said_so(tmp_path, caplog):
  with profiling.Profile((10, 13), tmp_path, 'ce', 10) as profile:
    profile.begin(9)
  assert 'beyond the 10 steps of stage ce' in caplog.text
  assert list(tmp_path.iterdir()) == []
