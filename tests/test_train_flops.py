"""Training FLOPs against XLA's own count of a whole update."""

import jax
import numpy as np
import pytest
import training

import tiny
from ease_jax import specs
from ease_jax.model import routed
from ease_jax.train import optimizer, targets, update
from ease_jax.train.stages import stage

LENGTH = 32
LONG = 256  # where most of the work is attention
ROWS = 4


def config_of(name, weights='uniform', length=LENGTH):
  c = training.make_plain_config()
  tiny.update_model(
    c.model, num_layers=2, dim=64, num_heads=2, num_kv_heads=1, mlp_dim=256
  )
  c.loss.weights = weights
  c.optimizer.name = name
  c.data.seq_len = length
  c.train.batch_size = ROWS
  return c


def xla_flops(function, *args, **static):
  return function.lower(*args, **static).compile().cost_analysis()['flops']


LARGE = 256  # tokens of a vocabulary whose heads weigh as much as the layers
PLAIN = {}
TAUGHT = {'loss.target': 'distill'}
LIKELIEST = TAUGHT | {'loss.teacher_top_k': 4}
BY_ANOTHER = TAUGHT | {'loss.teacher': 'runs/big'}
MOD = {'model.router': 'mod', 'model.mod.every': 1, 'model.mod.capacity': 0.25}
PREDICTOR = MOD | {'model.mod.choice': 'predictor'}
MOR = {
  'model.body': 'cycle',
  'model.cycle.times': 2,
  'model.cycle.own': 0,
  'model.router': 'mor',
  'model.mor.capacities': (0.5, 0.25),
}
DROPOUT = {'train.layer_dropout': 0.5}
CODA = {  # which gates look through
  'model.body': 'refine',
  'model.refine.coda': 1,
  'exit.signals': ('state_change',),
  'loss.gates': ('gain',),
}
BESIDE = {
  'model.lora_rank': 16,
  'train.freeze': 'lora',
  'train.init_from': 'runs/big',
}
RELAXED = {
  'model.body': 'refine',
  'model.segments': 2,
  'model.refine.inject': 'concat',
  'model.refine.carry_init': 'input',
  'model.refine.per_run': 'lora',
}


@pytest.mark.parametrize(
  'name, length, changes',
  [
    ('adamw', LENGTH, PLAIN),
    ('muon', LENGTH, PLAIN),
    ('adamw', LONG, PLAIN),
    ('adamw', LENGTH, BESIDE),
    ('adamw', LENGTH, TAUGHT),
    ('adamw', LENGTH, LIKELIEST),
    ('adamw', LENGTH, BY_ANOTHER),
    ('adamw', LONG, MOD),
    ('adamw', LENGTH, PREDICTOR),
    ('adamw', LONG, MOR),
    ('adamw', LENGTH, DROPOUT),
    ('adamw', LENGTH, CODA),
  ],
)
def test_an_update_is_what_xla_counts(name, length, changes, optimized):
  c = config_of(name, length=length)
  c.update_from_flattened_dict(changes)
  run_specs = specs.from_config(c, LARGE if changes else tiny.VOCAB)
  state = update.abstract_state(run_specs.body, run_specs.optimizer)
  teacher = None
  counted = run_specs.train_flops
  if run_specs.loss.teaching.run:  # one of the same size
    teacher = targets.Teacher(run_specs.body, state.params)
    prices = run_specs.body.costs(length)
    counted += prices.teaching(heads=2)
  flops = xla_flops(
    update.train_step,
    state,
    tiny.batch(ROWS, length),
    jax.random.key(0),
    teacher,
    model=routed(run_specs.body, run_specs.train.layer_dropout_at(0)),
    loss_spec=run_specs.loss,
    opt_spec=run_specs.optimizer,
    accumulate=1,
  )
  counted *= ROWS * length
  # Norms, softmax, activations and Adam come on top, on a model so small.
  assert counted == pytest.approx(flops, rel=0.15)
  assert counted < flops


def test_runs_that_differ_are_what_xla_counts(optimized):
  """One that learns behind one in a loop, whose body XLA counts once."""
  c = config_of('adamw', weights='final')
  c.update_from_flattened_dict(RELAXED)
  run_specs = specs.from_config(c, LARGE)
  now = stage(run_specs.body, run_specs.loss, 2)
  assert now.before == 1
  flops = xla_flops(
    update.train_step,
    update.abstract_state(run_specs.body, run_specs.optimizer),
    tiny.batch(ROWS, LENGTH),
    jax.random.key(0),
    None,
    np.int32(now.before),
    model=now.model,
    loss_spec=now.loss,
    opt_spec=run_specs.optimizer,
    accumulate=1,
  )
  counted = run_specs.train_flops * ROWS * LENGTH
  assert counted == pytest.approx(flops, rel=0.15)
  assert counted < flops


@pytest.mark.parametrize('shape', [(48, 80), (80, 48), (64, 64)])
def test_muon_on_one_matrix_is_what_xla_counts(shape, optimized):
  spec = training.make_specs(config_of('muon')).optimizer
  params = {'layer_0': {'kernel': np.ones(shape, np.float32)}}
  rule = optimizer.build(spec)

  @jax.jit
  def step(grads, state):
    return rule.update(grads, state, params)[0]

  flops = xla_flops(step, params, rule.init(params))
  assert optimizer.update_flops(spec, params) == pytest.approx(flops, rel=0.1)


def test_only_muon_multiplies_matrices_and_only_those_on_states():
  params = {
    'embed': np.ones((9, 4)),
    'layer_0': {'kernel': np.ones((2, 3)), 'scale': np.ones(4)},
    'streams': {'inject': {'kernel': np.ones((4, 2))}},
  }
  muon = training.make_specs(config_of('muon')).optimizer
  assert optimizer.update_flops(muon, params) == 5 * (
    4 * 4 * 3 + 2 * 8 + 4 * 4 * 4 + 2 * 8
  )
  adamw = training.make_specs(config_of('adamw')).optimizer
  assert optimizer.update_flops(adamw, params) == 0


def test_several_segments_are_run_before_they_teach():
  c = config_of('adamw')
  c.model.update(body='refine', segments=3)
  label = training.make_specs(c)
  c.loss.target = 'distill'
  taught = training.make_specs(c)
  prices = taught.body.costs(LENGTH)
  more = taught.train_flops - label.train_flops
  assert taught.loss.asked_K == [0, 0, 0, 0, 0, 5]
  assert more == pytest.approx(prices.full + 4 * prices.head)


def test_each_segment_may_be_an_update_of_its_own():
  flops = {}
  for updates in ('joint', 'per_segment'):
    c = config_of('muon', weights='segment_ends')
    c.model.update(body='refine', segments=3)
    c.train.updates = updates
    run_specs = training.make_specs(c)
    params = update.abstract_state(run_specs.body, run_specs.optimizer).params
    flops[updates] = run_specs.train_flops * ROWS * LENGTH
    own = optimizer.update_flops(run_specs.optimizer, params)
  assert flops['per_segment'] - flops['joint'] == pytest.approx(2 * own)


def test_segments_with_gradients_of_their_own_each_make_the_prelude():
  flops = {}
  for joined in (1, 3):
    c = config_of('adamw', weights='segment_ends')
    c.model.update(body='refine', segments=3, carry_backprop=joined)
    c.model.refine.prelude = 2
    run_specs = training.make_specs(c)
    flops[joined] = run_specs.train_flops
  prices = run_specs.body.costs(LENGTH)
  assert prices.prelude == pytest.approx(2 * prices.block_L[0])
  again = 2 * 3 * prices.prelude
  assert flops[1] - flops[3] == pytest.approx(again)
