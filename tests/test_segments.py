"""The segment axis: refinement and HRM, trained, evaluated and decoded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from ease_jax import config, decode
from ease_jax import model as model_lib
from ease_jax.core import signals
from ease_jax.core.objective import LossSpec
from ease_jax.evaluate import passes, results
from ease_jax.model import exits, halting
from ease_jax.model.exits import ExitSpec
from ease_jax.model.layers import positions
from ease_jax.train import loss as losses
from ease_jax.train import optimizer, update

INF = np.inf
ROWS, LENGTH = 3, 12


def refine(**changes):
  fields = dict(body='refine', num_layers=2, segments=3)
  return tiny.body(**(fields | changes))


def hrm(**changes):
  fields = dict(
    body='hrm', num_layers=1, segments=3, block_norm='post', carry_init='fixed'
  )
  return tiny.body(**(fields | changes))


def key_of(seed=3):
  """A new one each time: using a key twice is an error in these tests."""
  return jax.random.key(seed)


BODIES = {
  'refine': refine(),
  'learned': refine(carry_init='learned', carry_inject='gate'),
  'random': refine(carry_init='random', carry_inject='concat'),
  'hrm': hrm(),
}
every_body = pytest.mark.parametrize('model', BODIES.values(), ids=BODIES)


def spec_of(model, **changes):
  num = len(model.cfg.cells)
  fields = dict(
    weight_K=tuple(1.0 + 0.1 * k for k in range(num)),
    segments=model.cfg.segments,
  )
  if model.cfg.body == 'hrm':
    fields |= dict(halt_weight=0.5, halt_exploration=0.3)
  return LossSpec(**(fields | changes))


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def gradient(params, model, spec, batch, step=0):
  return losses.grid_gradient(params, model, spec, batch, step, key_of())


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def value_and_grad(params, model, spec, batch, step=0):
  return jax.value_and_grad(losses.grid_loss, has_aux=True)(
    params, model, spec, batch, step, key_of()
  )


def nll_of(model, params, h, k, batch):
  bound = model.bind({'params': params})
  logits = bound.normed(k, h) @ bound.unembedding().T
  log_p = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(log_p, batch['targets'][..., None], -1).mean()


def looped_loss(params, model, spec, batch, joined):
  """The grid loss as a plain loop; `joined[s]`: gradients enter from s + 1."""
  bound = model.bind({'params': params})
  x = bound.embed_tokens(batch['tokens'])
  carry = bound.init_carry(x, positions(LENGTH), key_of())
  total, k = 0.0, 0
  for s in range(model.cfg.segments):
    if s > 0 and not joined[s - 1]:
      carry = jax.lax.stop_gradient(carry)
    states = []
    read = lambda r, h, states=states: (states.append(h), h)[1]
    carry = bound.segment(x, carry, bound.through(LENGTH), read)
    for h in states:
      total += spec.weight_K[k] * nll_of(model, params, h, k, batch)
      k += 1
  return total


# ------------------------------------------------------------- one segment


def test_one_segment_is_the_stack_bit_for_bit():
  stack, one = tiny.body(num_layers=2), refine(segments=1)
  params, batch = tiny.params(stack), tiny.batch(ROWS, LENGTH)
  spec = LossSpec((0.3, 0.7))
  tiny.assert_trees_equal(
    value_and_grad(params, stack, spec, batch),
    value_and_grad(params, one, spec, batch),
  )
  tokens = batch['tokens']
  tiny.assert_trees_equal(
    jax.jit(stack.apply)({'params': params}, tokens),
    jax.jit(one.apply)({'params': params}, tokens),
  )


def test_weight_on_row_ends_is_irt():
  c = config.base()
  c.model.update(body='refine', segments=3, num_layers=2)
  c.loss.weights = 'segment_ends'
  irt = LossSpec.from_config(c)
  c.loss.weights, c.loss.matrix = 'matrix', ((0, 1), (0, 1), (0, 1))
  assert LossSpec.from_config(c) == irt
  assert irt.weight_K == (0, 1, 0, 1, 0, 1)
  model, batch = refine(), tiny.batch(ROWS, LENGTH)
  params = tiny.params(model)
  (loss, metrics), _ = value_and_grad(params, model, irt, batch)
  states = model.bind({'params': params}).states(batch['tokens'])
  ends = [nll_of(model, params, states[k], k, batch) for k in (1, 3, 5)]
  np.testing.assert_allclose(loss, np.mean(ends), rtol=1e-5)
  np.testing.assert_allclose(
    [metrics[f'loss_{k}'] for k in (2, 4, 6)], ends, rtol=1e-5
  )
  assert 'loss_1' not in metrics


def test_weights_of_updates_per_segment_sum_to_one_in_each():
  spec = LossSpec(
    (1.0, 3.0, 0.0, 2.0), normalize='sum_to_one', segments=2, per_segment=True
  )
  np.testing.assert_array_equal(spec.weights_at(0), [0.25, 0.75, 0, 1])


@pytest.mark.parametrize(
  'step, weight_K',
  [
    (0, (0, 0, 0, 0.5)),  # the last readout is always on
    (3, (0.125, 0.375, 0.25, 0.5)),
    (6, (0.25, 0.75, 0.5, 0.5)),
  ],
)
def test_a_warm_up_lowers_the_updates_of_whole_segments(step, weight_K):
  """Normalised by the unscheduled weights: 4 and 4 here, at every step."""
  spec = LossSpec(
    (1.0, 3.0, 2.0, 2.0),
    'linear_warmup',
    6,
    normalize='sum_to_one',
    segments=2,
    per_segment=True,
  )
  np.testing.assert_array_equal(spec.weights_at(step), weight_K)


@pytest.mark.parametrize(
  'normalize, per_segment, weight, scale',
  [
    ('none', False, 1.0, 0.5),
    ('none', True, 1.0, 0.5),
    ('sum_to_one', False, 0.25, 0.125),  # segments share the sum of one
    ('sum_to_one', True, 1.0, 0.5),  # each has its own
  ],
)
def test_halting_is_scaled_like_the_readouts(
  normalize, per_segment, weight, scale
):
  spec = LossSpec(
    (1.0,) * 4,
    normalize=normalize,
    segments=4,
    per_segment=per_segment,
    halt_weight=0.5,
  )
  np.testing.assert_array_equal(spec.weights_at(0), [weight] * 4)
  assert spec.halt_scale == scale


def test_a_token_fraction_spares_the_end_of_every_segment():
  spec = LossSpec((1.0, 2.0, 0.0, 1.0), token_fraction=0.25, segments=2)
  assert spec.supervised_fraction() == [0.25, 1, 0, 1]
  ends = LossSpec((1.0, 1.0, 1.0), token_fraction=0.25, segments=3)
  assert ends.supervised_fraction() == [1, 1, 1]


# --------------------------------------------------- gradients between them


@pytest.mark.parametrize('backprop', [1, 2, 3])
@pytest.mark.parametrize('init', ['zeros', 'learned'])
def test_gradients_reach_through_the_last_segments_only(backprop, init):
  model = refine(carry_backprop=backprop, carry_init=init)
  params, batch = tiny.params(model), tiny.batch(ROWS, LENGTH)
  spec = spec_of(model)
  joined = [backprop == 3, backprop >= 2]  # edges 1 -> 2 and 2 -> 3
  loop = jax.jit(
    jax.value_and_grad(
      functools.partial(
        looped_loss, model=model, spec=spec, batch=batch, joined=joined
      )
    )
  )
  loss, expected = loop(params)
  (got, _), grads = value_and_grad(params, model, spec, batch)
  np.testing.assert_allclose(got, loss, rtol=1e-5)
  tiny.assert_trees_close(grads, expected, rtol=1e-4, atol=1e-5)
  # The gradient inside the scan is the same one.
  inside, metrics = gradient(params, model, spec, batch)
  tiny.assert_trees_close(inside, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)


def test_a_detached_state_gets_no_gradient():
  """R4, at the edge itself: exactly zero, and not zero where joined."""
  model = refine(num_layers=1)
  params, batch = tiny.params(model), tiny.batch(ROWS, LENGTH)
  spec = LossSpec((0.0, 0.0, 1.0), segments=3)

  def first_segment_only(model):
    # `first` enters segment 1 alone, the loss stands after segment 3.
    return gradient(params | {'first': jnp.ones(16)}, model, spec, batch)[0]

  cut = refine(num_layers=1, carry_init='learned')
  whole = refine(num_layers=1, carry_init='learned', carry_backprop=3)
  assert (np.asarray(first_segment_only(cut)['first']) == 0).all()
  assert (np.asarray(first_segment_only(whole)['first']) != 0).all()


@every_body
def test_every_parameter_learns(model):
  params = tiny.params(model)
  grads, _ = gradient(params, model, spec_of(model), tiny.batch(ROWS, LENGTH))
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    if 'first' in name or 'embed' in name:
      assert (np.asarray(g) != 0).any(), name
    else:
      assert (np.asarray(g) != 0).mean() > 0.9, name


def test_memory_does_not_grow_with_the_segments():
  def bytes_of(segments):
    model = refine(segments=segments, num_layers=2, dim=64, mlp_dim=256)
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(model.init, key_of(), tokens)['params']
    run = jax.jit(
      lambda p, b: losses.grid_gradient(
        p, model, spec_of(model), b, 0, key_of()
      )
    )
    compiled = run.lower(shapes, tiny.batch(8, 64)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert bytes_of(8) < 1.02 * bytes_of(2)


@pytest.mark.parametrize(
  'schedule, step, on',
  [
    ('rotate', 1, (0, 1, 0, 1, 0, 1)),
    ('gradual', 3, (0, 0, 1, 1, 1, 1)),
    ('switch_off', 3, (0, 0, 0, 1, 1, 1)),
  ],
)
def test_a_schedule_runs_over_the_whole_grid(schedule, step, on):
  model, batch = refine(), tiny.batch(ROWS, LENGTH)
  params = tiny.params(model)
  spec = spec_of(model, schedule=schedule, schedule_steps=6, rotate_every=2)
  grads, metrics = gradient(params, model, spec, batch, step)
  weight_K = tuple(w * x for w, x in zip(spec.weight_K, on))
  expected, constant = gradient(
    params, model, spec_of(model, weight_K=weight_K), batch, step
  )
  tiny.assert_trees_close(grads, expected)
  np.testing.assert_allclose(metrics['loss'], constant['loss'], rtol=1e-6)
  for k, factor in enumerate(on, 1):
    assert (metrics[f'loss_{k}'] != 0) == bool(factor)


@pytest.mark.parametrize('name, threshold', [('refine', 0.6), ('hrm', 0.35)])
def test_training_on_exits_is_the_exit_consistent_evaluation(name, threshold):
  model, batch = BODIES[name], tiny.batch(ROWS, LENGTH)
  params = tiny.params(model)
  num = len(model.cfg.cells)
  spec = LossSpec(
    (0.0,) * (num - 1) + (1.0,),
    segments=3,
    exit_threshold=threshold,
    exit_rows=1.0,
  )
  out = exits.masked_pass(
    params,
    batch,
    jnp.full(num, threshold),
    model=model,
    spec=ExitSpec('max_prob', 'copy_state'),
  )
  assert len(np.unique(out.exit_BxT)) >= 3, 'the exits must be mixed'
  for loss in (
    gradient(params, model, spec, batch)[1]['loss'],
    value_and_grad(params, model, spec, batch)[0][0],
  ):
    np.testing.assert_allclose(loss, out.observation.nll.mean(), rtol=1e-5)


# ---------------------------------------------------------------- updates


@every_body
def test_updates_per_segment_are_that_many_manual_steps(model):
  opt_spec = optimizer.OptimizerSpec(
    'adamw',
    1e-2,
    0.02,
    0,
    0.1,
    0.9,
    0.95,
    1e-8,
    0.1,
    1.0,
    1.0,
    2,
    5,
    updates_per_step=3,
  )
  spec, batch = spec_of(model, per_segment=True), tiny.batch(ROWS, LENGTH)
  params = tiny.params(model)
  opt = optimizer.build(opt_spec)
  state = update.TrainState(jnp.int32(4), params, opt.init(params))
  grad = jax.jit(
    jax.grad(
      functools.partial(
        losses.segment_loss, model=model, spec=spec, batch=batch
      ),
      has_aux=True,
    )
  )
  progress = losses.first_progress(params, model, batch)
  key = jax.random.fold_in(key_of(), 4)
  key_S = [jax.random.clone(jax.random.fold_in(key, n)) for n in range(3)]
  p, s = params, state.opt_state
  for number in range(3):
    weight_R = jnp.asarray(spec.weight_K).reshape(3, -1)[number]
    grads, (progress, _) = grad(p, progress, number, weight_R, key_S[number])
    updates, s = opt.update(grads, s, p)
    p = optax.apply_updates(p, updates)
  copy = jax.tree.map(jnp.array, state)
  after, metrics = update.train_step(
    copy,
    batch,
    key_of(),
    model=model,
    loss_spec=spec,
    opt_spec=opt_spec,
    accumulate=1,
  )
  tiny.assert_trees_close(after.params, p, rtol=1e-4, atol=1e-5)
  assert int(after.step) == 5
  counts = optax.tree.get_all_with_path(after.opt_state, 'count')
  assert {int(count) for _, count in counts} == {3}
  np.testing.assert_allclose(
    metrics['learning_rate'], optimizer.learning_rate(opt_spec, 12), rtol=1e-6
  )


def test_the_schedule_counts_batches_whatever_the_updates():
  make = lambda per: optimizer.OptimizerSpec(
    'adamw',
    1.0,
    0.0,
    10,
    0.1,
    0.9,
    0.95,
    1e-8,
    0,
    0,
    1,
    2,
    50,
    updates_per_step=per,
  )
  last_of = lambda step, per: optimizer.schedule(
    make(per), step * per + per - 1
  )
  for step in (0, 9, 30, 49):
    np.testing.assert_allclose(last_of(step, 3), last_of(step, 1), rtol=1e-6)


# --------------------------------------------------------------------- HRM


def rms(x, scale):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def numpy_block(w, h_TxD, cfg):
  """One causal post-norm layer on one row."""
  length, half = len(h_TxD), cfg.head_dim // 2
  angle = np.arange(length)[:, None] * cfg.rope_base ** (
    -np.arange(half) / half
  )

  def heads(name, turn):
    x = (h_TxD @ w[name]['kernel']).reshape(length, -1, cfg.head_dim)
    if not turn:
      return x
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, None]
    return np.concatenate([z.real, z.imag], -1)

  q, k, v = heads('query', True), heads('key', True), heads('value', False)
  out = []
  for head in range(cfg.num_heads):
    group = head * cfg.num_kv_heads // cfg.num_heads
    score = q[:, head] @ k[:, group].T / np.sqrt(cfg.head_dim)
    score = np.where(np.tri(length, dtype=bool), score, -np.inf)
    p = np.exp(score - score.max(-1, keepdims=True))
    out.append(p / p.sum(-1, keepdims=True) @ v[:, group])
  h = h_TxD + np.concatenate(out, -1) @ w['out']['kernel']
  h = rms(h, w['attention_norm']['scale'])
  x = h @ w['mlp']['up']['kernel']
  x = x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  return rms(h + x @ w['mlp']['down']['kernel'], w['mlp_norm']['scale'])


def test_hrm_is_its_recurrence():
  model = hrm(num_layers=2, segments=2, cycles=3, cycle_steps=2)
  cfg, params, batch = model.cfg, tiny.params(model), tiny.batch(1, LENGTH)
  w = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  bound = model.bind({'params': params})
  first = bound.init_carry(
    jnp.zeros((1, LENGTH, 16)), positions(LENGTH), key_of()
  )
  assert (first.low_BxTxD[0, 0] != first.high_BxTxD[0, 0]).all()
  low, high = (np.asarray(z[0], np.float64) for z in first)
  x = w['embed'][batch['tokens'][0]] * 4  # sqrt(16)
  expected = []
  for _ in range(2):
    for _ in range(3):
      for _ in range(2):
        low = low + high + x
        for i in (0, 1):
          low = numpy_block(w[f'layer_{i}'], low, cfg)
      high = high + low
      for i in (2, 3):
        high = numpy_block(w[f'layer_{i}'], high, cfg)
    expected.append(high)
  got = bound.states(batch['tokens'])
  np.testing.assert_allclose(
    [h[0] for h in got], expected, rtol=1e-4, atol=1e-4
  )
  assert cfg.segment_depth == 3 * 3 * 2 and cfg.depth_K == (18, 36)


def test_only_the_last_update_of_each_state_learns():
  """The one-step gradient: earlier calls are constants to it."""
  model = hrm(segments=1, cycles=2, cycle_steps=2)
  params, batch = tiny.params(model), tiny.batch(ROWS, LENGTH)
  grads, _ = gradient(params, model, LossSpec((1.0,)), batch)

  def last_step(trained):
    fixed, bound = (model.bind({'params': p}) for p in (params, trained))
    low, high = fixed.init_carry(
      fixed.embed_tokens(batch['tokens']), positions(LENGTH), key_of()
    )
    x = fixed.embed_tokens(batch['tokens'])
    run = lambda body, i, h: body.through(LENGTH)(0, body.blocks[i], h)
    low = run(fixed, 0, low + high + x)
    low = run(fixed, 0, low + high + x)
    high = run(fixed, 1, high + low)
    low = run(fixed, 0, low + high + x)
    low = run(bound, 0, low + high + bound.embed_tokens(batch['tokens']))
    return nll_of(model, trained, run(bound, 1, high + low), 0, batch)

  tiny.assert_trees_close(
    grads, jax.jit(jax.grad(last_step))(params), rtol=1e-4, atol=1e-5
  )


def test_q_targets_by_hand():
  q_next = jnp.asarray([[0.0, 2.0], [3.0, -1.0]])
  correct = jnp.asarray([True, False])
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  np.testing.assert_allclose(
    halting.targets(correct, q_next, jnp.asarray(False)),
    [[1, sigmoid(2.0)], [0, sigmoid(3.0)]],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    halting.targets(correct, q_next, jnp.asarray(True)),
    [[1, sigmoid(0.0)], [0, sigmoid(3.0)]],
    rtol=1e-6,
  )
  # Binary cross-entropy of both: softplus(-q) and softplus(q).
  loss = halting.loss(jnp.asarray([[1.0, -2.0]]), jnp.asarray([[1.0, 0.25]]))
  by_hand = (
    np.log1p(np.exp(-1.0))
    + 0.25 * np.log1p(np.exp(2.0))
    + (0.75 * np.log1p(np.exp(-2.0)))
  )
  np.testing.assert_allclose(loss, [by_hand], rtol=1e-6)
  grad = jax.grad(
    lambda q: halting.targets(correct, q, jnp.asarray(False)).sum()
  )
  assert (grad(q_next) == 0).all()


def test_exploring_tokens_halt_late():
  q = jnp.broadcast_to(jnp.asarray([1.0, 0.0]), (4000, 2))
  rates = [
    float(halting.halts(q, number, key_of(), 0.4, 4).mean())
    for number in (1, 2, 3, 4)
  ]
  # 0.4 of them wait until a segment drawn from 2, 3, 4.
  np.testing.assert_allclose(
    rates, [0.6, 0.6 + 0.4 / 3, 0.6 + 0.8 / 3, 1], atol=0.03
  )
  assert rates[3] == 1
  assert not halting.halts(-q, 4, key_of(), 0.4, 4).any()


def test_a_halted_token_is_not_trained_on_any_more():
  model, batch = hrm(), tiny.batch(ROWS, LENGTH)
  params = dict(tiny.params(model))
  params['halt'] = params['halt'] | {'bias': jnp.zeros(2)}
  spec = spec_of(model, halt_weight=0.5, halt_exploration=0.0)
  part = jax.jit(
    functools.partial(losses.segment_loss, model=model, spec=spec, batch=batch)
  )
  progress = losses.first_progress(params, model, batch)
  _, (after, _) = part(params, progress, 0, jnp.ones(1), key_of())
  alive = np.asarray(after.alive_BxT)
  state = model.bind({'params': params}).states(batch['tokens'])[0]
  q = model.bind({'params': params}).halt_logits(state)
  np.testing.assert_array_equal(alive, np.asarray(q[..., 0] <= q[..., 1]))
  assert 0 < alive.mean() < 1, 'some must halt'
  changed = batch | {'targets': np.where(alive > 0, batch['targets'], 0)}
  again = jax.jit(
    functools.partial(
      losses.segment_loss, model=model, spec=spec, batch=changed
    )
  )
  tiny.assert_trees_equal(
    part(params, after, 1, jnp.ones(1), key_of(4))[0],
    again(params, after, 1, jnp.ones(1), key_of(4))[0],
  )
  # Once halted, for good: also where going on is worth more later.
  nobody = after._replace(alive_BxT=jnp.zeros_like(after.alive_BxT))
  _, (third, _) = part(params, nobody, 1, jnp.ones(1), key_of(4))
  assert (np.asarray(third.alive_BxT) == 0).all()


@pytest.mark.parametrize('number, is_last', [(0, False), (1, False), (2, True)])
def test_the_loss_of_halting_looks_one_segment_ahead(number, is_last):
  model, batch = hrm(), tiny.batch(ROWS, LENGTH)
  params = tiny.params(model)
  spec = spec_of(model)
  progress = losses.first_progress(params, model, batch)
  part = jax.jit(
    functools.partial(losses.segment_loss, model=model, spec=spec, batch=batch)
  )
  for s in range(number):
    progress = part(params, progress, s, jnp.ones(1), key_of(s))[1][0]
    progress = progress._replace(alive_BxT=jnp.ones((ROWS, LENGTH)))
  _, (_, got) = part(params, progress, number, jnp.ones(1), key_of(9))
  four = hrm(segments=4).bind({'params': params})
  states = four.states(batch['tokens'])
  q, next_q = (four.halt_logits(h) for h in states[number : number + 2])
  logits = four.normed(0, states[number]) @ four.unembedding().T
  target = halting.targets(
    logits.argmax(-1) == batch['targets'], next_q, jnp.asarray(is_last)
  )
  np.testing.assert_allclose(
    got.halt, halting.loss(q, target).mean(), rtol=1e-4
  )


# ------------------------------------------------- exits on the whole grid


EXITS = [
  *(('refine', 'max_prob', policy) for policy in config.KV_POLICIES),
  ('learned', 'kl', 'latest'),
  ('random', 'patience', 'copy_state'),
  *(('hrm', 'q_halt', policy) for policy in config.KV_POLICIES),
  ('hrm', 'max_prob', 'latest'),
]
every_exit = pytest.mark.parametrize('name, signal, policy', EXITS)
BATCH = tiny.batch(ROWS, LENGTH)


def parallel(model, params, spec, threshold_K, batch=BATCH):
  return jax.device_get(
    exits.masked_pass(
      params, batch, jnp.asarray(threshold_K), model=model, spec=spec
    )
  )


@every_exit
def test_the_parallel_pass_is_what_decoding_does(name, signal, policy):
  model, spec = BODIES[name], ExitSpec(signal, policy)
  params = tiny.params(model)
  threshold_K = tiny.thresholds(model, params, signal, BATCH)
  a = parallel(model, params, spec, threshold_K)
  b = tiny.decoded(model, params, spec, threshold_K, BATCH)
  assert len(np.unique(a.exit_BxT)) >= 3, 'the exits must be mixed'
  assert (np.diff(a.exit_BxT) > 0).any()
  np.testing.assert_array_equal(a.exit_BxT, b.exit_BxT)
  w_VxD = np.asarray(params['unembed'])
  np.testing.assert_allclose(
    b.logits_BxTxV, a.normed_BxTxD @ w_VxD.T, rtol=1e-4, atol=1e-4
  )
  # R22: what no token needs is not run, by the loop's own count.
  deepest_T = np.asarray(model.cfg.depth_K)[a.exit_BxT.max(0)]
  full_T = np.full(LENGTH, model.cfg.depth)
  expected_T = full_T if policy == 'recompute' else deepest_T
  np.testing.assert_array_equal(b.layers_run_T, expected_T)


@every_exit
def test_no_later_token_and_no_other_row_matters(name, signal, policy):
  model, spec = BODIES[name], ExitSpec(signal, policy)
  params = tiny.params(model)
  threshold_K = tiny.thresholds(model, params, signal, BATCH)
  a = parallel(model, params, spec, threshold_K)
  changed = {k: v.copy() for k, v in BATCH.items()}
  changed['tokens'][:, 6] = (changed['tokens'][:, 6] + 1) % tiny.VOCAB
  changed['tokens'][0] = 5
  b = parallel(model, params, spec, threshold_K, changed)
  early = lambda walk: jax.tree.map(lambda x: x[1:, :6], walk)
  tiny.assert_trees_equal(early(a), early(b))
  assert (a.normed_BxTxD[:, 6] != b.normed_BxTxD[:, 6]).any()


def test_latest_is_the_last_that_a_layer_computed_for_the_token():
  """Every layer's keys, as handed to attention, against the definition."""
  model = BODIES['refine']  # 3 segments of layers 1 and 2, readouts on both
  params = tiny.params(model)
  threshold_K = jnp.asarray(tiny.thresholds(model, params, 'max_prob', BATCH))
  cfg, causal = model.cfg, jnp.tril(jnp.ones((LENGTH, LENGTH), bool))[None]

  @functools.partial(jax.jit, static_argnames='policy')
  def keys(policy):
    bound = model.bind({'params': params})
    signal = signals.SIGNALS['max_prob']

    def head(k, state, previous, memory, done_BxT):
      obs = exits.observe(bound, state, previous, BATCH['targets'])
      memory, score_BxT = signal.step(memory, obs)
      return memory, score_BxT >= threshold_K[k], ()

    out = exits.walk(
      bound,
      ExitSpec('max_prob', policy),
      BATCH['tokens'],
      positions(LENGTH),
      lambda layer, done_BxT: (causal, ()),
      head,
    )
    return out.exit_BxT, jnp.stack([kv[0] for kv in out.kv])

  exit_BxT, key_6xBxTxGxD = jax.device_get(keys('latest'))
  checked = set()
  for b, t in np.ndindex(ROWS, LENGTH):
    depth = cfg.depth_K[exit_BxT[b, t]]  # layers 0 to depth - 1 were run
    for layer in range(depth, cfg.depth):
      # The same layer in the last segment where it was run, if it ever was;
      # otherwise segment 1, where it projected the frozen state.
      runs = [i for i in range(layer % 2, depth, 2)] or [layer % 2]
      np.testing.assert_array_equal(
        key_6xBxTxGxD[layer, b, t], key_6xBxTxGxD[runs[-1], b, t]
      )
      checked.add((layer, runs[-1]))
  assert {(4, 2), (5, 3), (2, 0), (3, 1)} <= checked
  # While a token runs, its keys are its own in each segment.
  deep = np.argwhere(exit_BxT == 5)
  assert len(deep)
  for b, t in deep:
    assert (key_6xBxTxGxD[0, b, t] != key_6xBxTxGxD[2, b, t]).any()


def test_policies_differ_across_segments():
  model = BODIES['refine']
  params = tiny.params(model)
  threshold_K = tiny.thresholds(model, params, 'max_prob', BATCH)
  walks = [
    parallel(model, params, ExitSpec('max_prob', p), threshold_K)
    for p in config.KV_POLICIES
  ]
  for i, a in enumerate(walks):
    for b in walks[:i]:
      assert np.abs(a.normed_BxTxD - b.normed_BxTxD).max() > 1e-3


def test_never_is_the_last_readout_and_always_the_first():
  for model in BODIES.values():
    params, num = tiny.params(model), len(model.cfg.cells)
    dump = passes.grid_dump(model, params, lambda: [BATCH], ('max_prob',))
    for value, k in ((INF, num - 1), (-INF, 0)):
      walk = parallel(
        model, params, ExitSpec('max_prob', 'latest'), np.full(num, value)
      )
      assert (walk.exit_BxT == k).all()
      np.testing.assert_allclose(
        walk.observation.nll, dump.nll_KxRxT[k], rtol=1e-5
      )


def test_a_cache_for_fewer_segments_is_refused():
  two, three = refine(segments=2), refine(segments=3)
  cache = decode.init_cache(two.cfg, ROWS, LENGTH)
  with pytest.raises(config.ConfigError) as error:
    tiny.decoded(
      three, tiny.params(three), ExitSpec(), np.full(6, INF), BATCH, cache
    )
  assert str(error.value) == (
    'the cache has 4 layers; model.segments=3 runs 6; use init_cache with '
    'the same config'
  )


# -------------------------------------------------------------- first states


@every_body
def test_states_start_anew_in_each_row_and_for_any_length(model):
  """R31: the state belongs to a position, and is made for any of them."""
  params = tiny.params(model)
  run = lambda tokens: np.asarray(model.apply({'params': params}, tokens))
  long = run(BATCH['tokens'])
  np.testing.assert_allclose(
    run(BATCH['tokens'][:, :5]), long[:, :, :5], rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    run(BATCH['tokens'][1:2]), long[:, 1:2], rtol=1e-4, atol=1e-4
  )
  longer = np.tile(BATCH['tokens'], (1, 3))
  np.testing.assert_allclose(
    run(longer)[:, :, :LENGTH], long, rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize('kind', ['zeros', 'fixed', 'random'])
def test_first_states(kind):
  model = refine(carry_init=kind)
  bound = model.bind({'params': tiny.params(model)})
  x = jnp.ones((2, 5, 16))
  draw = lambda key, start: np.asarray(
    bound.init_carry(x, start + positions(5), key)
  )
  a, b = draw(key_of(), 0), draw(jax.random.key(9), 0)
  np.testing.assert_array_equal(a[0], a[1])
  assert (a == b).all() == (kind != 'random')
  assert (a[:, 0] == a[:, 1]).all() == (kind != 'random')
  assert (a == 0).all() == (kind == 'zeros')
  # The same position, whatever else is asked for: as decoding needs it.
  np.testing.assert_array_equal(draw(key_of(), 2)[:, 0], a[:, 2])
  if kind == 'random':
    assert 0.015 < a.std() < 0.025


def test_more_segments_than_trained_on_share_the_parameters():
  three = BODIES['refine']
  six = model_lib.build(
    tiny.model_config(body='refine', num_layers=2, segments=6)
  )
  params = tiny.params(three)
  a = three.apply({'params': params}, BATCH['tokens'])
  b = six.apply({'params': params}, BATCH['tokens'])
  np.testing.assert_array_equal(a, b[:6])


def test_a_norm_per_readout_is_the_same_in_every_segment():
  model = refine(readout_norm='per_readout')
  params = tiny.params(model)
  norms = [name for name in params if name.startswith('readout_norm')]
  assert sorted(norms) == ['readout_norm_0', 'readout_norm_1']
  bound = model.bind({'params': params})
  h = jax.random.normal(key_of(), (1, 2, 16))
  got = [np.asarray(bound.normed(k, h)) for k in range(6)]
  for k in range(2, 6):
    np.testing.assert_array_equal(got[k], got[k % 2])
  assert (got[0] != got[1]).any()


def test_quality_after_one_to_twice_the_segments():
  model, c = BODIES['refine'], config.base()
  params = tiny.params(model)
  six = model_lib.build(
    tiny.model_config(body='refine', num_layers=2, segments=6)
  )
  dump = passes.grid_dump(six, params, lambda: [BATCH], ())

  class Split:
    batches = staticmethod(lambda: [BATCH])
    dump_quality = staticmethod(
      lambda dump, k: {'nll': float(dump.nll_KxRxT[k].mean())}
    )

  rows = results._segment_rows(c, params, model.cfg, (Split, Split))
  assert [row['segments'] for row in rows] == [1, 2, 3, 4, 5, 6]
  for s, row in enumerate(rows, 1):  # at each segment's last layer
    assert row['test']['nll'] == float(dump.nll_KxRxT[2 * s - 1].mean())
  assert len({row['test']['nll'] for row in rows}) == 6
  c.evaluate.segments = 2
  short = results._segment_rows(c, params, model.cfg, (Split, Split))
  np.testing.assert_allclose(
    [row['test']['nll'] for row in short],
    [row['test']['nll'] for row in rows[:2]],
    rtol=1e-6,
  )
