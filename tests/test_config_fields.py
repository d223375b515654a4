"""Each number has a range, each tuple a shape, each change an effect."""

import math

import pytest

from ease_jax import config, presets, specs
from ease_jax.checks import ConfigError
from ease_jax.evaluate.sweep import SweepSpec

HUGE = pytest.param(10**320, id='1e320')  # no float can hold it
ENDLESS = pytest.param(10**5000, id='1e5000')  # nor does Python print it
# What makes the fields below be read.
READ = {
  'model.body': 'refine',
  'model.segments': 2,
  'model.refine.per_run': 'lora',
  'model.readout_adapters': ('map', 'mlp'),
  'model.screen_rank': 4,
  'model.frequent_tokens': 2,
  'train.init_from': 'runs/x',
  'train.fit_tokens': 64,
  'train.freeze': 'exits',
  'model.router': 'mod',
  'model.mod.choice': 'predictor',
  'data.source': 'text',
  'data.path': ('x',),
  'data.tokenizer': 'bpe',
  'optimizer.name': 'muon',
  'loss.weights': 'layerskip',
  'loss.schedule': 'rotate',
  'loss.exit_threshold': 0.5,
  'loss.target': 'distill',
  'generate.temperature': 1.0,
}


def leaves(section, prefix=''):
  for name, value in section.items():
    if hasattr(value, 'items'):
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


DEFAULTS = dict(leaves(config.base()))
WHOLE = [name for name, v in DEFAULTS.items() if type(v) is int]
REAL = [name for name, v in DEFAULTS.items() if type(v) is float]
TUPLES = [name for name, v in DEFAULTS.items() if type(v) is tuple]


def refusal(changes):
  """The line that refuses a config with changes."""
  c = config.base()
  with c.ignore_type():
    c.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError) as error:
    specs.from_config(c)
  assert str(error.value).isprintable()
  return str(error.value)


def test_the_fields_are_valid_when_they_are_read():
  c = config.base()
  c.update_from_flattened_dict(READ)
  specs.from_config(c)  # or it raises
  assert len(WHOLE) > 30 and len(REAL) > 15 and len(TUPLES) > 10


@pytest.mark.parametrize('name', REAL)
@pytest.mark.parametrize('value', [math.nan, math.inf, -1.0])
def test_every_number_has_a_range(name, value):
  assert name in refusal(READ | {name: value})


@pytest.mark.parametrize('name', WHOLE)
@pytest.mark.parametrize('value', [-1, 2**63, HUGE, ENDLESS, None])
def test_every_whole_number_has_a_range(name, value):
  if (name, value) == ('mesh.data', -1):
    return  # what the other axes leave
  # A batch that nothing divides is refused for that.
  assert name in refusal(READ | {name: value})


@pytest.mark.parametrize('name', TUPLES)
@pytest.mark.parametrize('value', [3, 'x', None, ((3,),), ENDLESS])
def test_every_tuple_has_a_shape(name, value):
  assert name in refusal(READ | {name: value})


def test_the_shape_is_shown():
  assert refusal({'loss.chosen': (2, 0.7)}) == (
    'loss.chosen=(2, 0.7) holds 2, which must look like (1, 0.5)'
  )
  assert refusal({'data.path': 'x.txt'}) == (
    "data.path='x.txt' must look like ('text', ...)"
  )
  assert refusal({'data.path': ('',)}) == (
    "data.path=('',) holds '', which is empty; give a text"
  )


@pytest.mark.parametrize(
  'changes, parts',
  [
    ({'data.path': ('x',)}, ('data.path', 'data.source is text or tfds')),
    ({'data.select_path': ('x',)}, ('data.select_path', 'data.source')),
    (
      {
        'data.source': 'text',
        'data.path': ('x',),
        'data.test_path': ('y',),
        'data.test_fraction': 0.1,
      },
      ('data.test_fraction=0.1', 'data.test_path is ()'),
    ),
    (
      {
        'data.source': 'tfds',
        'data.path': ('x',),
        'data.select_fraction': 0.1,
      },
      ('data.select_fraction=0.1', 'data.source is stdlib or text'),
    ),
    ({'data.vocab_size': 300}, ('data.vocab_size=300', 'tokenizer is bpe')),
    ({'loss.chosen': ((8, 1.0),)}, ('loss.chosen', 'loss.weights is chosen')),
    ({'loss.matrix': ((1.0,),)}, ('loss.matrix', 'loss.weights is matrix')),
    ({'loss.e_scale': 0.3}, ('loss.e_scale=0.3', 'is layerskip')),
    ({'loss.rotate_every': 2}, ('loss.rotate_every=2', 'is rotate')),
    ({'loss.schedule_steps': 9}, ('loss.schedule_steps=9', 'loss.schedule')),
    ({'loss.exit_rows': 0.3}, ('loss.exit_rows=0.3', 'exit_threshold is on')),
    ({'loss.teacher': 'x'}, ("loss.teacher='x'", 'loss.target is distill')),
    ({'loss.teacher_weight': 0.1}, ('teacher_weight', 'target is distill')),
    ({'loss.teacher_temperature': 2.0}, ('temperature', 'is distill')),
    ({'loss.teacher_divergence': 'reverse_kl'}, ('teacher_divergence',)),
    ({'loss.teacher_top_k': 5}, ('teacher_top_k=5', 'is distill')),
    ({'loss.gate_weight': 0.1}, ('loss.gate_weight', 'loss.gates is on')),
    ({'loss.gate_exploration': 0.2}, ('gate_exploration', 'is q_halt')),
    (
      {'loss.gates': ('calm',), 'loss.gate_price': 0.2},
      ('gate_price=0.2', 'loss.gates is dat'),
    ),
    ({'loss.token_fraction': 0.5}, ('loss.token_fraction', 'no readout')),
    ({'loss.schedule': 'rotate'}, ('loss.schedule=rotate', 'no readout')),
    (
      {'loss.exit_threshold': 0.5, 'model.readouts': (8,)},
      ('loss.exit_threshold=0.5', 'one readout'),
    ),
    ({'optimizer.muon_learning_rate': 0.1}, ('muon_learning_rate', 'is muon')),
    (
      {'exit.max_compute': 0.9, 'exit.max_ppl_ratio': 1.5},
      ('exit.max_ppl_ratio=1.5', 'exit.max_compute is 0'),
    ),
    ({'generate.seed': 1}, ('generate.seed=1', 'temperature is on')),
    ({'generate.top_k': 5}, ('generate.top_k=5', 'temperature is on')),
    ({'generate.top_p': 0.5}, ('generate.top_p=0.5', 'temperature is on')),
    ({'generate.draft': (0, 2, 0.5)}, ('generate.draft', 'is speculative')),
    ({'generate.drafting': 'adaptive'}, ('drafting', 'is speculative')),
    (
      {'generate.adaptive.decay': 0.5},
      ('generate.adaptive.decay=0.5', 'generate.drafting is adaptive'),
    ),
    (
      {
        'generate.method': 'speculative',
        'generate.drafting': 'adaptive',
        'generate.draft': (0, 2, 0.5),
      },
      ('generate.draft=(0, 2, 0.5)', 'generate.drafting is fixed'),
    ),
    (
      {'generate.method': 'full', 'generate.prefill': 'full'},
      ("generate.prefill='full'", 'generate.method is exits'),
    ),
  ],
  ids=lambda x: ' '.join(x),
)
def test_a_change_without_effect_is_refused(changes, parts):
  message = refusal(changes)
  for part in ('no effect', *parts):
    assert part in message, message


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'loss.weights': 'chosen', 'loss.chosen': ((8, 0.0),)},
      'loss.weights gives every readout the weight 0, so that nothing is '
      'learned; give one of them a weight',
    ),
    (
      {'loss.weights': 'chosen', 'loss.chosen': ((8, 0.5), (8, 0.7))},
      'loss.chosen=((8, 0.5), (8, 0.7)) names a layer twice; give each one '
      'weight',
    ),
    (
      {'loss.weights': 'chosen', 'loss.chosen': ((8, -0.5),)},
      'loss.chosen=((8, -0.5),) holds (8, -0.5), which holds -0.5, which must '
      'be at least 0',
    ),
    (
      {
        'loss.weights': 'chosen',
        'loss.chosen': ((2, 1.0),),
        'loss.schedule': 'rotate',
      },
      'loss.schedule=rotate may turn all readouts off but the last, which has '
      'no weight: nothing is left to sum to one; give it a weight, or use '
      'loss.normalize=none',
    ),
    (
      {'exit.signals': ('max_prob', 'max_prob')},
      "exit.signals=('max_prob', 'max_prob') names 'max_prob' twice",
    ),
    (
      {'exit.max_compute': 0.2},
      'exit.max_compute=0.2 is below 0.260, which a token costs that stops at '
      'the first readout; raise it, or name earlier model.readouts',
    ),
    (
      {'generate.method': 'speculative', 'generate.draft': (9, 2, 0.5)},
      'generate.draft: readout=9 of a model with 8 readouts; only 0 to 6 are '
      'before the last',
    ),
    (
      {'train.steps': 99},
      'optimizer.warmup_steps=100 is more than train.steps=99, so that the '
      'rate would never reach its peak; lower it',
    ),
    (
      {'loss.exit_threshold': 0.5, 'train.batch_size': 1},
      'loss.exit_rows=0.5 of train.batch_size=1 are 0 rows, which '
      'train.accumulate=1 micro-batches cannot share evenly; change one of '
      'them',
    ),
    (
      {'loss.exit_threshold': 0.5, 'train.accumulate': 8},
      'loss.exit_rows=0.5 of train.batch_size=8 are 4 rows, which '
      'train.accumulate=8 micro-batches cannot share evenly; change one of '
      'them',
    ),
  ],
)
def test_what_fails_later_is_said_before_training(changes, message):
  assert refusal(changes) == message


@pytest.mark.parametrize('split', ['train', 'select'])
def test_numbers_are_reported_on_a_split_that_chose_nothing(split):
  other = 'test' if split == 'select' else 'select'
  message = refusal(
    {'evaluate.report_split': split, 'evaluate.select_split': other}
  )
  assert message.startswith(f"evaluate.report_split='{split}': train made")


def test_a_window_to_time_is_asked_for_before_training():
  class Short:
    seq_len = 8
    splits = {'select': 2, 'test': 8}

  spec = SweepSpec.from_config(config.base())
  with pytest.raises(ConfigError) as error:
    spec.check_data(Short())
  assert str(error.value) == (
    'the test split has 8 tokens, less than a window of data.seq_len=8 to '
    'time; set evaluate.speed_tokens=0'
  )
  Short.splits = {'select': 2, 'test': 9}
  spec.check_data(Short())


@pytest.mark.parametrize(
  'changes',
  [
    {'exit.policies': (10**5000,)},
    {'model.hrm.cycles': 10**5000},
    {'exit.thresholds.max_prob': (10**5000,)},
  ],
  ids=lambda changes: ' '.join(changes),
)
def test_what_python_does_not_print_is_refused_all_the_same(changes):
  (name,) = changes
  assert name in refusal(changes)


def test_a_section_of_ones_own_is_no_mistake():
  specs.from_config(config.with_section(config.base(), 'mine', a=1))
  c = config.with_section(config.base(), 'model.mine', a=1)
  with pytest.raises(ConfigError, match='model.mine is the section of a body'):
    specs.from_config(c)
  c = config.base()
  with c.unlocked():
    c.train.step = 3
  with pytest.raises(ConfigError, match='config.train.step=3: there is no'):
    specs.from_config(c)


@pytest.mark.parametrize('c', [None, {}, config.base().model, 'x'])
def test_what_is_no_config_is_refused(c):
  with pytest.raises(ConfigError, match='change its fields and return it'):
    specs.from_config(c)


def test_smoke_keeps_the_text_of_ones_own():
  c = presets.wikitext2('folder')
  c.data.train_chars = 20_000
  smoke = config.with_argument(c, 'smoke')
  assert smoke.data.path == ('folder/train.txt',)
  assert smoke.data.source == 'text'
  assert smoke.data.train_chars == 20_000
  c.data.train_chars = 0
  assert config.with_argument(c, 'smoke').data.train_chars == 200_000


def test_smoke_does_not_start_the_clock():
  c = config.base()
  assert config.with_argument(c, 'smoke').evaluate.speed_tokens == 64
  c.evaluate.speed_tokens = 0
  assert config.with_argument(c, 'smoke').evaluate.speed_tokens == 0
