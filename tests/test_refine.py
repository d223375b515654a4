"""Refinement: gradients between segments, first states, more segments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import segmented
from segmented import BATCH, LENGTH, gradient, key_of, spec_of, value_and_grad

import tiny
from ease_jax import config, specs
from ease_jax.checks import ConfigError
from ease_jax.core.objective import LossSpec
from ease_jax.model import with_segments
from ease_jax.model.attention import positions
from ease_jax.model.exits import before_exits, settled
from ease_jax.model.sight import Places
from ease_jax.model.walk import RUNNING, Travel, walk
from ease_jax.train.segment import begin
from ease_jax.train.setting import prepared


def setting_of(model):
  """What all segments of a batch share."""
  return prepared(tiny.params(model), model, spec_of(model), BATCH, key_of())


# --------------------------------------------------- gradients between them


def looped_loss(params, model, spec, joined):
  """The grid loss as a plain loop over three segments.

  `joined[s]` says whether gradients go from segment s + 1 back into s.
  """
  bound = model.bind({'params': params})
  state = bound.start(BATCH['tokens'], positions(LENGTH), key_of())
  total = 0.0
  k = 0
  for s in range(model.grid.segments):
    if s > 0 and not joined[s - 1]:
      state = state | {'z': jax.lax.stop_gradient(state['z'])}
    state, state_R = segmented.one_segment(bound, state)
    for h_BxTxD in state_R:
      nll = segmented.mean_nll(bound, k, h_BxTxD, BATCH)
      total += spec.weight_K[k] * nll
      k += 1
  return total


@pytest.mark.parametrize(
  'backprop, init, joined',
  [
    (1, 'zeros', (False, False)),
    (2, 'learned', (False, True)),
    (3, 'learned', (True, True)),
  ],
)
def test_gradients_reach_through_the_last_segments_only(backprop, init, joined):
  model = tiny.refine(carry_backprop=backprop, carry_init=init)
  params = tiny.params(model)
  spec = spec_of(model)
  loop = functools.partial(looped_loss, model=model, spec=spec, joined=joined)
  loss, expected = jax.jit(jax.value_and_grad(loop))(params)

  grads, metrics = gradient(params, model, spec, BATCH)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  tiny.assert_trees_close(grads, expected, rtol=1e-4, atol=1e-5)
  if backprop == 1:
    # Each segment was differentiated by itself; all at once is the same.
    (value, _), whole = value_and_grad(params, model, spec, BATCH)
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    tiny.assert_trees_close(whole, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('backprop, reached', [(1, False), (3, True)])
def test_a_detached_state_gets_no_gradient(backprop, reached):
  """R4, at the edge itself: exactly zero, and not zero where joined."""
  model = tiny.refine(
    num_layers=1, carry_init='learned', carry_backprop=backprop
  )
  # `first` enters segment 1 alone, the loss stands after segment 3.
  spec = LossSpec((0.0, 0.0, 1.0), segments=3, carry_backprop=backprop)
  grads, _ = gradient(tiny.params(model), model, spec, BATCH)
  grad_D = np.asarray(grads['streams']['first'])
  assert (grad_D != 0).all() == reached
  assert (grad_D == 0).all() != reached


@pytest.mark.parametrize('name', ['learned', 'random', 'hrm'])
def test_every_parameter_learns(name):
  model = segmented.BODIES[name]
  grads, _ = gradient(tiny.params(model), model, spec_of(model), BATCH)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    learns = np.asarray(grad) != 0
    if 'first' in name or 'embed' in name:
      assert learns.any(), name
    else:
      assert learns.mean() > 0.9, name


def test_a_projection_starts_as_the_input_alone():
  """So an untrained model is its twin of one segment, whatever it carries."""
  options = dict(carry_init='input', inject='concat', carry_norm=True)
  model = tiny.refine(segments=2, **options)
  tokens = BATCH['tokens']
  params = jax.jit(model.init)(key_of(), tokens)['params']
  logits_KxBxTxV = tiny.logits(params, tokens, model=model)

  twin = tiny.body(num_layers=2)
  of_layers = {name: x for name, x in params.items() if name != 'streams'}
  alone_RxBxTxV = tiny.logits(of_layers, tokens, model=twin)
  per_segment = model.grid.per_segment
  np.testing.assert_array_equal(logits_KxBxTxV[:per_segment], alone_RxBxTxV)
  np.testing.assert_array_equal(logits_KxBxTxV[per_segment:], alone_RxBxTxV)


# ------------------------------------------------- layers in the middle, again


def untied(model, params):
  """A stack of as many own layers as the model runs, all with its weights."""
  cells = *model.grid.cells, *model.grid.tail
  stack = tiny.body(num_layers=len(cells), readouts=(len(cells),))
  shared = {name: x for name, x in params.items() if 'layer_' not in name}
  own = {
    f'layer_{i}': params[f'layer_{cell.block}'] for i, cell in enumerate(cells)
  }
  return stack, shared | own


def repeated(segments, **changes):
  """Layers that go on from run to run, between two that run once."""
  fields = dict(num_layers=2, readouts=(2,), prelude=1, coda=1, inject='none')
  fields |= dict(segments=segments, carry_backprop=segments)
  return tiny.refine(**(fields | changes))


@pytest.mark.parametrize(
  'model',
  [
    repeated(1),
    repeated(2),
    repeated(2, num_layers=3, readouts=(3,), blocks=(0, 1, 0)),
    tiny.stack(num_layers=6, readouts=(6,), blocks=(0, 1, 2, 1, 2, 3)),
  ],
  ids=['1', '2', 'named', 'stack'],
)
def test_repeated_layers_are_own_ones_with_the_same_weights(model):
  """In value; and the gradient of a layer is the sum over its runs."""
  segments = model.grid.segments
  params = tiny.params(model)
  stack, copied = untied(model, params)
  tokens = BATCH['tokens']
  ours_BxTxV = jax.jit(model.apply)({'params': params}, tokens)[-1]
  theirs_BxTxV = jax.jit(stack.apply)({'params': copied}, tokens)[-1]
  np.testing.assert_allclose(ours_BxTxV, theirs_BxTxV, 1e-5, 1e-5)

  end = LossSpec(
    (0.0,) * (segments - 1) + (1.0,), segments=segments, carry_backprop=segments
  )
  grads, _ = gradient(params, model, end, BATCH)
  own, _ = gradient(copied, stack, LossSpec((1.0,)), BATCH)
  cells = *model.grid.cells, *model.grid.tail
  for block in range(model.grid.num_blocks):
    runs = [own[f'layer_{i}'] for i, c in enumerate(cells) if c.block == block]
    summed = jax.tree.map(lambda *each: sum(each), *runs)
    tiny.assert_trees_close(grads[f'layer_{block}'], summed, 1e-4, 1e-5)


def test_a_list_of_blocks_is_the_plan_that_it_spells_out():
  """0 1 2 3 2 3 4 5, as one stack, as a cycle, and as runs in the middle."""
  blocks = (0, 1, 2, 3, 2, 3, 4, 5)
  listed = tiny.body(num_layers=8, readouts=(8,), blocks=blocks)
  cycle = tiny.body(body='cycle', num_layers=8, times=2, own=2, readouts=(8,))
  assert listed.grid == cycle.grid
  runs = repeated(2, prelude=2, coda=2).grid
  cells = *runs.cells, *runs.tail
  assert tuple(cell.block for cell in cells) == blocks
  tokens = BATCH['tokens']
  tiny.assert_trees_equal(
    *(jax.jit(m.init)(jax.random.key(0), tokens) for m in (listed, cycle))
  )


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'model.blocks': (0, 1, 3, 1)},
      'model.blocks=(0, 1, 3, 1) runs block 3 and not [2], which it needs to '
      'exist; number blocks from 0 without a gap',
    ),
    (
      {'model.blocks': (0, 1, 0)},
      'model.blocks=(0, 1, 0) are 3 layers, and model.num_layers=4 counts them '
      'as they run; make both the same',
    ),
    (
      {'model.blocks': (0, 1, 0, 1), 'model.body': 'hrm'},
      'model.blocks=(0, 1, 0, 1) does not fit model.body=hrm, which has an '
      'order of its own; use (), or model.body=stack or refine',
    ),
    (
      {'model.blocks': (0, 1, 0, 1), 'model.router': 'mod'},
      'model.blocks=(0, 1, 0, 1) does not fit model.router=mod, which counts '
      'layers by their blocks; use (), or no router',
    ),
    (
      {'model.blocks': (0, -1, 0, 1)},
      'model.blocks=(0, -1, 0, 1) holds -1, which must be at least 0',
    ),
  ],
)
def test_a_list_that_names_no_plan_is_refused(changes, message):
  c = config.base()
  c.model.num_layers = 4
  c.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError) as error:
    specs.from_config(c)
  assert str(error.value) == message


def test_one_segment_between_own_layers_is_the_stack():
  """Bit for bit."""
  model = tiny.refine(
    num_layers=2, prelude=1, coda=1, segments=1, inject='none', readouts=(2,)
  )
  params = tiny.params(model)
  stack, same = untied(model, params)
  tiny.assert_trees_equal(params, same)
  np.testing.assert_array_equal(
    tiny.logits(params, BATCH['tokens'], model=model),
    tiny.logits(same, BATCH['tokens'], model=stack),
  )


def test_repeated_layers_start_as_those_of_a_stack_so_deep():
  """Branches are smaller the more of them add to one state."""
  repeated = tiny.refine(
    num_layers=2, segments=2, prelude=2, coda=2, inject='none', readouts=(2,)
  )
  cycle = tiny.body(body='cycle', num_layers=8, times=2, own=2, readouts=(8,))
  tokens = BATCH['tokens']
  ours = repeated.init(key_of(), tokens)['params']
  tiny.assert_trees_equal(ours, cycle.init(key_of(), tokens)['params'])


def test_a_core_begins_with_what_the_prelude_made():
  model = tiny.refine(
    num_layers=1,
    prelude=2,
    segments=2,
    carry_init='input',
    inject='concat',
    carry_norm=True,
  )
  bound = model.bind({'params': tiny.params(model)})
  started = begin(bound.variables['params'], setting_of(model))
  embedded = bound.start(BATCH['tokens'], positions(LENGTH))['x']
  np.testing.assert_array_equal(started['x'], started['z'])
  np.testing.assert_array_equal(started['x'], started['h'])
  assert (np.asarray(started['x']) != embedded).all()


def test_the_first_state_may_be_the_input():
  model = tiny.refine(carry_init='input')
  bound = model.bind({'params': tiny.params(model)})
  state = bound.start(BATCH['tokens'], positions(LENGTH))
  np.testing.assert_array_equal(state['z'], state['x'])
  assert np.ptp(state['z'], axis=(0, 1)).min() > 0  # not one for all tokens


def test_memory_does_not_grow_with_the_segments():
  def bytes_of(segments):
    model = tiny.refine(segments=segments, num_layers=1, dim=64, mlp_dim=256)
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(model.init, key_of(), tokens)['params']
    spec = spec_of(model)
    compiled = gradient.lower(shapes, model, spec, tiny.batch(8, 64)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert bytes_of(8) < 1.02 * bytes_of(2)


def test_weight_on_segment_ends_is_irt():
  model = segmented.REFINE
  params = tiny.params(model)
  irt = LossSpec((0.0, 1.0, 0.0, 1.0, 0.0, 1.0), segments=3)
  _, metrics = gradient(params, model, irt, BATCH)
  state_K = segmented.states(params, BATCH['tokens'], model=model)
  bound = model.bind({'params': params})
  ends = [segmented.mean_nll(bound, k, state_K[k], BATCH) for k in (1, 3, 5)]
  np.testing.assert_allclose(metrics['loss'], np.sum(ends), rtol=1e-5)
  np.testing.assert_allclose(
    [metrics[f'loss_{k}'] for k in (2, 4, 6)], ends, rtol=1e-5
  )
  assert 'loss_1' not in metrics


# -------------------------------------------------------------- first states


@pytest.mark.parametrize('name', ['random', 'hrm'])
def test_states_start_anew_in_each_row_and_for_any_length(name):
  """R31: the state belongs to a position, and is made for any of them."""
  model = segmented.BODIES[name]
  params = tiny.params(model)
  tokens = BATCH['tokens']

  def run(tokens):
    return np.stack(segmented.states(params, tokens, model=model))

  long_KxBxTxD = run(tokens)
  short_KxBxTxD = run(tokens[1:2, :5])
  np.testing.assert_allclose(
    short_KxBxTxD, long_KxBxTxD[:, 1:2, :5], rtol=1e-4, atol=1e-4
  )
  longer_KxBxTxD = run(np.tile(tokens, (1, 3)))
  np.testing.assert_allclose(
    longer_KxBxTxD[:, :, :LENGTH], long_KxBxTxD, rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize('kind', ['zeros', 'fixed', 'random'])
def test_first_states(kind):
  model = tiny.refine(carry_init=kind)
  bound = model.bind({'params': tiny.params(model)})
  tokens = np.zeros((2, 5), np.int32)

  def draw(seed, start):
    state = bound.start(tokens, start + positions(5), key_of(seed))
    return np.asarray(state['z'])

  a_BxTxD = draw(3, 0)
  b_BxTxD = draw(9, 0)
  np.testing.assert_array_equal(a_BxTxD[0], a_BxTxD[1])
  assert (a_BxTxD == b_BxTxD).all() == (kind != 'random')
  assert (a_BxTxD[:, 0] == a_BxTxD[:, 1]).all() == (kind != 'random')
  assert (a_BxTxD == 0).all() == (kind == 'zeros')
  # The same position, whatever else is asked for: as decoding needs it.
  np.testing.assert_array_equal(draw(3, 2)[:, 0], a_BxTxD[:, 2])
  if kind == 'random':
    assert 0.015 < a_BxTxD.std() < 0.025


# -------------------------------------------------------------- more segments


def test_more_segments_than_trained_on_share_the_parameters():
  three = segmented.REFINE
  six = with_segments(three, 6)
  params = tiny.params(three)
  tiny.assert_trees_equal(params, tiny.params(six))
  a = segmented.states(params, BATCH['tokens'], model=three)
  b = segmented.states(params, BATCH['tokens'], model=six)
  np.testing.assert_allclose(a, b[:6], rtol=1e-5, atol=1e-5)


def test_a_norm_per_readout_is_the_same_in_every_segment():
  model = tiny.refine(readout_norm='per_readout')
  params = tiny.params(model)
  norms = [name for name in params if name.startswith('readout_norm')]
  assert sorted(norms) == ['readout_norm_0', 'readout_norm_1']
  bound = model.bind({'params': params})
  h_BxTxD = jax.random.normal(key_of(), (1, 2, 16))
  normed = [np.asarray(bound.normed(k, h_BxTxD)) for k in range(6)]
  for k in range(2, 6):
    np.testing.assert_array_equal(normed[k], normed[k % 2])
  assert (normed[0] != normed[1]).any()


# ------------------------------------------------- a second run for hard tokens


@pytest.mark.parametrize('every', [1, 2, 0])
def test_tokens_may_stop_where_the_label_is_found(every):
  """All of them, each second one, none (TaH, 2511.08577)."""
  model = tiny.refine(segments=2, num_layers=1)
  params = tiny.params(model)
  tokens = BATCH['tokens']
  first_BxT = tiny.logits(params, tokens, model=model)[0].argmax(-1)
  found_BxT = np.zeros(first_BxT.shape, bool)
  if every:
    found_BxT[:, ::every] = True
  other_BxT = (first_BxT + 1) % tiny.VOCAB
  batch = BATCH | {'targets': np.where(found_BxT, first_BxT, other_BxT)}
  spec = LossSpec(
    (0.0, 1.0),
    segments=2,
    exit_threshold=1.0,
    exit_score='correct',
    exit_rows=1.0,
  )
  (loss, _), _ = value_and_grad(params, model, spec, batch)

  def stop(k, state, exits):
    stops_BxT = found_BxT if k == 0 else np.zeros_like(found_BxT)
    return settled(exits, k, stops_BxT, None), state[RUNNING]

  bound = model.bind({'params': params})
  walked = walk(
    bound,
    model.grid.cells,
    bound.start(tokens, positions(LENGTH)),
    before_exits(jnp.zeros_like(found_BxT)),
    layer=bound.windows(Places(positions(LENGTH))),
    travel=Travel(positions(LENGTH)),
    read=stop,
  )
  nll = segmented.mean_nll(bound, 1, walked.reads[-1], batch)
  np.testing.assert_allclose(loss, nll, rtol=1e-5)
