"""What layers that run again have of their own in each run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from segmented import BATCH, LENGTH, gradient, mean_nll

import tiny
from ease_jax import config, presets, specs
from ease_jax.checks import ConfigError
from ease_jax.core.flops import low_rank_flops
from ease_jax.core.objective import LossSpec
from ease_jax.core.policies import POLICIES
from ease_jax.evaluate import passes
from ease_jax.model import attention as attention_lib
from ease_jax.model import with_segments
from ease_jax.model.attention import positions, rotate
from ease_jax.model.exits import before_exits, settled
from ease_jax.model.per_run import PER_RUN, sines
from ease_jax.model.sight import Sight
from ease_jax.model.walk import RUNNING, Travel, walk
from ease_jax.train import loss as losses
from ease_jax.train import optimizer, update
from ease_jax.train.stages import stage

RUNS = 3
OPTIONS = dict(
  num_layers=1, segments=RUNS, carry_backprop=RUNS, inject='none', prelude=1
)
KINDS = ('film', 'lora')
every_kind = pytest.mark.parametrize('kind', KINDS)
END = LossSpec((0.0, 0.0, 1.0), segments=RUNS, carry_backprop=RUNS)


def model_of(kind, **options):
  rank = dict(rank=2) if kind == 'lora' else {}
  return tiny.refine(per_run=kind, **(OPTIONS | rank | options))


def untrained(model):
  return model.init(jax.random.key(0), BATCH['tokens'])['params']


def shared(params):
  """Without what runs have of their own."""
  params = {name: x for name, x in params.items() if name != 'clock'}
  for name in params:
    if name.startswith('layer_'):
      block = params[name].items()
      params[name] = {part: x for part, x in block if part != 'of_runs'}
  return params


# ------------------------------------------------------ at first, nothing


@every_kind
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_an_untrained_model_is_the_one_without(kind, dtype):
  """Bit for bit: what it says, and what it loses while training."""
  model = model_of(kind, coda=1, dtype=dtype)
  twin = tiny.refine(coda=1, dtype=dtype, **OPTIONS)
  params = untrained(model)
  plain = untrained(twin)
  tiny.assert_trees_equal(shared(params), plain)
  tokens = BATCH['tokens']
  np.testing.assert_array_equal(
    tiny.logits(params, tokens, model=model),
    tiny.logits(plain, tokens, model=twin),
  )
  grads, metrics = gradient(params, model, END, BATCH)
  plain_grads, plain_metrics = gradient(plain, twin, END, BATCH)
  assert metrics['loss'] == plain_metrics['loss']
  close = 1e-5 if dtype == 'float32' else 1e-1
  tiny.assert_trees_close(shared(grads), plain_grads, close, close)


@every_kind
def test_what_starts_as_zero_is_not_drawn_anew(kind):
  """The state that training starts from, as an initialiser may undo it."""
  spec = specs.from_config(config.base()).optimizer
  model = model_of(kind)
  state = update.init_state(jax.random.key(3), model=model, opt_spec=spec)
  own = state.params['layer_1']['of_runs']
  first = [own['kernel']] if kind == 'film' else []
  for run in own.values() if kind == 'lora' else ():
    first += [both['out_of'] for both in run.values()]
    assert all(np.asarray(both['into']).all() for both in run.values())
  assert first and not any(np.asarray(x).any() for x in first)


# ---------------------------------------------------------- the equations


def with_products(params, run):
  """The core's layer with W + A B in place of each W (2410.20672)."""
  layer = dict(shared(params)['layer_1'])
  if run == 0:
    return layer
  layer['mlp'] = dict(layer['mlp'])
  products = params['layer_1']['of_runs'][f'run_{run}']
  for name, both in products.items():
    place = layer['mlp'] if name in ('up', 'down', 'gate') else layer
    added = both['into'] @ both['out_of']
    place[name] = {'kernel': place[name]['kernel'] + added}
  return layer


def silu(x):
  return x / (1 + np.exp(-x))


def seen(clock, name, time, dim):
  """A small network on sines of a time."""
  angle = time * 1000.0 ** (np.arange(dim // 2) / (dim // 2))
  wave = np.concatenate([np.sin(angle), np.cos(angle)])
  inner = silu(wave @ clock[f'{name}_in']['kernel'])
  return inner @ clock[f'{name}_out']['kernel']


def with_scaling(params, run):
  """The core's layer with (1 + s) in its norms, (1 + g) in its last matrices.

  In a pre-norm block these are the same (2602.11451).
  """
  params = jax.tree.map(np.asarray, params)
  layer = dict(shared(params)['layer_1'])
  dim = len(layer['attention_norm']['scale'])
  clock = params['clock']
  told = seen(clock, 'time', run / RUNS, dim)
  told = told + seen(clock, 'step', 1 / RUNS, dim)
  numbers = silu(told) @ params['layer_1']['of_runs']['kernel']
  g_attention, g_mlp, s_attention, s_mlp = 1 + numbers.reshape(4, dim)
  for name, s in (('attention_norm', s_attention), ('mlp_norm', s_mlp)):
    layer[name] = {'scale': layer[name]['scale'] * s}
  layer['out'] = {'kernel': layer['out']['kernel'] * g_attention}
  down = {'kernel': layer['mlp']['down']['kernel'] * g_mlp}
  layer['mlp'] = layer['mlp'] | {'down': down}
  return layer


BY_HAND = {'lora': with_products, 'film': with_scaling}


@every_kind
@pytest.mark.parametrize('mlp', ['gelu', 'swiglu'])
def test_each_run_is_a_layer_with_other_parameters(kind, mlp):
  """A stack of own layers, whose parameters are made by the equations."""
  model = model_of(kind, mlp=mlp, coda=1)
  params = tiny.params(model)
  core = [BY_HAND[kind](params, run) for run in range(RUNS)]
  layers = [shared(params)['layer_0'], *core, shared(params)['layer_2']]
  stack = tiny.body(mlp=mlp, num_layers=len(layers), readouts=(len(layers),))
  rest = {name: params[name] for name in ('embed', 'unembed', 'readout_norm')}
  untied = rest | {f'layer_{i}': layer for i, layer in enumerate(layers)}
  np.testing.assert_allclose(
    tiny.logits(params, BATCH['tokens'], model=model)[-1],
    tiny.logits(untied, BATCH['tokens'], model=stack)[-1],
    rtol=1e-3,
    atol=1e-3,
  )


def test_no_two_times_look_alike():
  wave_RxD = np.stack([sines(jnp.float32(t), 16) for t in np.arange(8) / 8])
  far_RxR = np.linalg.norm(wave_RxD[:, None] - wave_RxD, axis=-1)
  assert far_RxR[~np.eye(8, dtype=bool)].min() > 1


@every_kind
def test_keys_of_skipped_cells_are_those_of_their_run(kind):
  """Of a frozen state, by the matrices that the run has."""
  model = model_of(kind)
  params = tiny.params(model)
  bound = model.bind({'params': params})
  tokens = BATCH['tokens']

  def stop(k, state, exits):
    return settled(exits, k, jnp.ones(tokens.shape, bool), ()), None

  walked = walk(
    bound,
    model.grid.cells,
    bound.start(tokens, positions(LENGTH)),
    before_exits(jnp.zeros(tokens.shape, bool), ()),
    layer=passes.windowed(bound, LENGTH),
    travel=Travel(positions(LENGTH)),
    read=stop,
    policy=POLICIES['copy_state'],
  )
  h_BxTxD = walked.state[RUNNING]
  rms = jnp.sqrt(jnp.mean(h_BxTxD**2, -1, keepdims=True) + 1e-6)
  keys = []
  for run in range(1, RUNS):
    layer = BY_HAND[kind](params, run)
    scale_D = layer['attention_norm']['scale']
    x_BxTxD = h_BxTxD / rms * scale_D[None, None]
    key = x_BxTxD @ layer['key']['kernel']
    key = key.reshape(*tokens.shape, -1, model.cfg.head_dim)
    rotation = attention_lib.rotation(model.cfg, positions(LENGTH))
    key = rotate(key, rotation.everywhere)
    keys.append(key)
    made, _ = walked.kv[1 + run]
    np.testing.assert_allclose(made, key, rtol=1e-3, atol=1e-3)
  assert np.abs(keys[0] - keys[1]).max() > 0.1


# ---------------------------------------------------------------- training


@every_kind
@pytest.mark.parametrize('remat', [False, True])
def test_training_gives_each_run_its_own(kind, remat):
  """One program runs all segments, and which one it is is no constant."""
  model = model_of(kind, remat=remat)
  params = tiny.params(model)
  grads, metrics = gradient(params, model, END, BATCH)
  bound = model.bind({'params': params})
  last = bound.states(BATCH['tokens'])[-1]
  nll = mean_nll(bound, RUNS - 1, last, BATCH)
  np.testing.assert_allclose(metrics['loss'], nll, rtol=1e-5)

  own = grads['layer_1']['of_runs'], grads.get('clock', {})
  leaves = jax.tree_util.tree_leaves_with_path(own)
  assert len(leaves) == {'lora': 2 * 6 * (RUNS - 1), 'film': 5}[kind]
  for path, grad in leaves:
    assert (np.asarray(grad) != 0).mean() > 0.9, path


@every_kind
def test_a_run_that_learns_is_told_how_many_were_before_it(kind):
  """One that is differentiated alone, behind others in a loop."""
  options = dict(inject='concat', carry_init='input', carry_backprop=1)
  model = model_of(kind, **options)
  params = tiny.params(model)
  spec = LossSpec((0.0, 0.0, 1.0), segments=RUNS)
  key = jax.random.key(0)
  whole, _ = jax.grad(losses.grid_loss, has_aux=True)(
    params, model, spec, BATCH, 0, key
  )
  now = stage(model, spec, RUNS)
  assert now.before == RUNS - 1
  grads, _ = losses.grid_gradient(
    params, now.model, now.loss, BATCH, 0, key, None, np.int32(now.before)
  )
  tiny.assert_trees_close(grads, whole, 1e-4, 1e-6)
  own = jax.tree.leaves(whole['layer_1']['of_runs'])
  assert any(np.asarray(x).any() for x in own)


@every_kind
def test_runs_beyond_those_trained_do_as_the_last(kind):
  model = model_of(kind)
  params = tiny.params(model)
  more = with_segments(model, RUNS + 2)
  tiny.assert_trees_equal(params, tiny.params(more))
  states = tiny_states(params, more)
  np.testing.assert_allclose(
    states[:RUNS], tiny_states(params, model), rtol=1e-5, atol=1e-5
  )
  bound = more.bind({'params': params})
  cell = more.grid.cells[-1]
  last, beyond = (bound.block(cell, run).own for run in (RUNS - 1, RUNS + 1))
  tiny.assert_trees_equal(last, beyond)
  before = bound.block(cell, RUNS - 2).own
  for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(last), strict=True):
    assert (np.asarray(a) != b).all()


def tiny_states(params, model):
  return np.stack(model.bind({'params': params}).states(BATCH['tokens']))


@every_kind
def test_fewer_runs_have_the_same_parameters(kind):
  model = model_of(kind)
  params = tiny.params(model)
  one = with_segments(model, 1)
  tiny.assert_trees_equal(params, tiny.params(one))
  np.testing.assert_allclose(
    tiny_states(params, one)[0],
    tiny_states(params, model)[0],
    rtol=1e-5,
    atol=1e-5,
  )


@every_kind
def test_muon_moves_all_matrices_of_runs(kind):
  """AdamW's rate is that of embeddings."""
  spec = specs.from_config(presets.small()).optimizer
  params = untrained(model_of(kind))
  rule = optimizer.build(spec)
  updates, _ = rule.update(
    jax.tree.map(jnp.ones_like, params), rule.init(params), params
  )
  own = updates['layer_1']['of_runs'], updates.get('clock', {})
  rate = float(optimizer.muon_learning_rate(spec, 0))
  for update_ in jax.tree.leaves(own):
    # Of rank one, so that all of an update is in one direction.
    taken, made = update_.shape
    size = np.linalg.norm(update_) / max(1, made / taken) ** 0.5
    assert size == pytest.approx(rate, rel=0.35)


# ------------------------------------------------------------------- costs


def test_products_are_counted_in_all_runs_but_the_first():
  model = model_of('lora', coda=1)
  prices = model.costs(6.5)
  plain = tiny.refine(coda=1, **OPTIONS).costs(6.5)
  # D=16, two K/V heads of four, F=32, rank 2: six matrices.
  beside = 2 * 2 * (2 * (16 + 16) + 2 * (16 + 8) + 2 * (16 + 32))
  keys = 2 * 2 * 2 * (16 + 8)
  np.testing.assert_array_equal(
    prices.cell_L - plain.cell_L, [0, 0, beside, beside, 0]
  )
  np.testing.assert_array_equal(
    prices.fill_L - plain.fill_L, [0, 0, keys, keys, 0]
  )
  # One program is all runs, and multiplies zeros in the first.
  np.testing.assert_array_equal(
    prices.trained_L - plain.trained_L, [0, beside, beside, beside, 0]
  )
  one = with_segments(model, 1)
  np.testing.assert_array_equal(one.costs(6.5).trained_L, plain.trained_L[:3])
  any_run = one.costs(6.5, any_run=True)
  np.testing.assert_array_equal(any_run.trained_L, prices.trained_L[[0, 1, 4]])


def test_filled_keys_cost_what_their_runs_cost():
  model = model_of('lora')
  prices = model.costs(6.5)
  policy = POLICIES['copy_state']
  first, second, third = prices.fill_L[1:]
  assert first < second == third
  np.testing.assert_array_equal(
    prices.fills_K(policy), [second + third, third, 0]
  )
  latest = POLICIES['latest']
  np.testing.assert_array_equal(prices.fills_K(latest), np.zeros(3))
  whole = prices.block_L[1:]
  np.testing.assert_array_equal(
    prices.deferred_KxK,
    [[0, second, whole[1] + third], [0, 0, third], [0, 0, 0]],
  )


@pytest.mark.parametrize('kind, mlp', [('lora', 'gelu'), ('lora', 'swiglu')])
def test_a_run_is_within_ten_percent_of_xla(kind, mlp):
  rows, length = 2, 64
  model = tiny.refine(
    dim=64, mlp_dim=256, mlp=mlp, per_run=kind, rank=16, **OPTIONS
  )
  params = tiny.params(model)
  h_BxTxD = jnp.ones((rows, length, 64))
  layer_of = functools.partial(model.bind, {'params': params})

  def run_of(run):
    def program(h_BxTxD):
      bound = layer_of()
      position = attention_lib.rotation(model.cfg, positions(length))
      sight = Sight('causal', 0, positions(length))
      block = bound.block(model.grid.cells[1], run)
      return block(h_BxTxD, sight, position)

    compiled = jax.jit(program).lower(h_BxTxD).compile()
    return compiled.cost_analysis()['flops'] / (rows * length)

  prices = model.costs(length)
  for run in range(RUNS):
    counted = prices.block_L[1 + run]
    assert counted == pytest.approx(run_of(run), rel=0.1)
  beside = low_rank_flops(model.cfg, 16)
  assert beside == pytest.approx(run_of(1) - run_of(0), rel=0.1)


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'model.segments': 1, 'model.carry_backprop': 1},
      'model.refine.per_run=film has no effect with model.segments=1: nothing '
      'runs again; use none, or raise model.segments',
    ),
    (
      {'model.refine.per_run': 'loras'},
      "model.refine.per_run='loras' is unknown; use one of: none, film, lora",
    ),
    (
      {'model.refine.rank': 4},
      'model.refine.rank=4 has no effect: it is read where '
      "model.refine.per_run is lora only, and that is 'film'; change that, or "
      'leave rank at 16',
    ),
    (
      {'model.body': 'stack', 'model.segments': 1},
      "model.refine.per_run='film' has no effect: it is read where model.body "
      "is refine only, and that is 'stack'; change that, or leave per_run at "
      "'none'",
    ),
  ],
)
def test_what_has_no_effect_is_refused(changes, message):
  c = presets.timed(presets.small(), segments=2, num_layers=4)
  if 'model.body' in changes:
    c = config.base()
    c.model.refine.per_run = 'film'
  c.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError) as error:
    specs.from_config(c)
  assert str(error.value) == message


@pytest.mark.parametrize(
  'preset, kind', [(presets.relaxed, 'lora'), (presets.timed, 'film')]
)
def test_presets_make_runs_differ(preset, kind):
  c = preset(presets.small(), segments=2, num_layers=4)
  body = specs.from_config(c).body
  assert body.kind.per_run(body.cfg) is PER_RUN[kind]
