"""What the decoding loop did, by its own count, is what exits are charged."""

import jax
import numpy as np
import pytest
from generation import (
  BODIES,
  INF,
  PROMPTS,
  STACK,
  WARM,
  alone,
  generate,
  point_of,
  sampled,
)

import tiny
from ease_jax import decode
from ease_jax.core.gates import GateShape
from ease_jax.core.policies import thresholds
from ease_jax.decode import charges, deferred, loop
from ease_jax.decode import step as steps

GRID = STACK.grid


@pytest.mark.parametrize(
  'name, signal, policy',
  [
    ('stack', 'max_prob', 'copy_state'),
    ('stack', 'max_prob', 'drop'),
    ('stack', 'kl', 'copy_state'),
    ('stack', 'state_cosine', 'copy_state'),
    ('stack', 'shortlist', 'copy_state'),
    ('refine', 'max_prob', 'latest'),
  ],
)
def test_the_loops_own_counts_are_the_cost_model(name, signal, policy):
  """R22: layers, heads and fills are counted where they are executed."""
  model = BODIES[name]
  point = point_of(name, signal, policy)
  text, counts = alone(name, signal, policy)
  assert len(np.unique(text.exits)) > 1
  assert counts.steps == len(text.exits)
  depth_K = np.asarray(model.grid.depth_K)
  assert counts.layers_run == depth_K[text.exits].sum()
  assert counts.layers_run < counts.steps * model.grid.depth

  prices = model.costs(context=7.0)
  spent = (
    counts.layers_run * prices.cell_L[0]
    + counts.heads_run * prices.head
    + counts.fills_run * prices.fill_L[0]
  )
  if not point.rule.signal.needs_head(1):  # asked at the second readout
    shape = GateShape(model.cfg.dim, 0, model.grid.num_readouts)
    spent += point.rule.signal.flops(shape, 1) * (text.exits > 0).sum()
  active_K = point.threshold_K(model.grid.num_readouts) < INF
  charged_K = prices.exit_K(point.rule, active_K)
  assert spent == pytest.approx(charged_K[text.exits].sum())


def test_rows_share_the_layers_that_are_run():
  texts, counts = sampled('stack', 'max_prob', 'copy_state')
  longest = max(len(text.exits) for text in texts)
  depth_BxT = np.zeros((len(texts), longest), int)
  for b, text in enumerate(texts):
    depth_BxT[b, : len(text.exits)] = np.asarray(GRID.depth_K)[text.exits]
  assert counts.layers_run == depth_BxT.max(0).sum()


# ----------------------------------------------------------- what is made up


def read(model, point, length):
  """Three texts, decoded as they stand, and in how many cells each is seen."""
  tokens = tiny.batch(3, length)['tokens']
  zero_B = np.zeros(3, np.int32)
  slot = loop.least_slot(point)
  stepped, _, cache = steps.many_steps(
    tiny.params(model),
    decode.init_cache(model, 3, slot + length),
    loop.start(model, point, tokens[:, 0], zero_B, zero_B + 99, 0),
    np.int32(slot),
    thresholds(point, model.grid.num_readouts),
    np.int32(-1),
    np.roll(tokens, -1, 1).T,
    num=length,
    model=model,
    rule=loop.rule_of(point),
    sampling=decode.Sampling(),
  )
  seen_LxBxT = np.asarray(cache.seen_LxBxC)[:, :, slot : slot + length]
  return stepped, seen_LxBxT.sum(0)


@pytest.mark.parametrize('threshold', [-INF, 0.5, (0.45, 0.5, INF), INF])
def test_recompute_makes_up_what_it_is_charged(threshold):
  """How deep each token went stands in the cache."""
  length = 36
  point = tiny.point('max_prob', 'recompute', threshold)
  threshold_K = point.threshold_K(3)
  stepped, depth_BxT = read(STACK, point, length)
  exit_BxT = np.asarray(stepped.exit_B.T)
  np.testing.assert_array_equal(depth_BxT[:, : -deferred.WINDOW - 1], 4)

  prices = STACK.costs_of_windows(length)
  asks_K = np.append(threshold_K[:-1] < INF, True)
  heads_BxT = np.cumsum(asks_K)[exit_BxT]
  spent_BxT = depth_BxT * prices.cell_L[0] + heads_BxT * prices.head
  charged = decode.compute_decoder(STACK, point, exit_BxT)
  assert charged == pytest.approx(prices.relative(spent_BxT.mean()))
  # Fewer layers were run than that: each for many tokens at a time.
  if np.max(exit_BxT) < 2:
    assert stepped.layers_run.sum() < depth_BxT[0].sum() / 2


def test_hrm_is_charged_all_its_layers_under_recompute():
  """Its first readout is so deep that little can be left for later."""
  model = BODIES['hrm']
  point = tiny.point('q_halt', 'recompute', -INF)
  (text,), counts = generate(PROMPTS[:1], point, 'hrm', sampling=WARM)
  assert (text.exits == 0).all()
  new = len(text.exits)
  first, depth = model.grid.depth_K
  dragged = new // (deferred.WINDOW + 1)
  assert counts.layers_run == new * first + dragged * (depth - first)
  assert counts.heads_run == new
  charged = decode.compute_decoder(model, point, text.exits[None])
  assert 0.9 < charged < 1


def test_the_oldest_drags_the_window_through_before_it_leaves():
  """`recompute` at its bound: every ninth token makes up for all nine."""
  point = tiny.point('max_prob', 'recompute', -INF)
  (text,), counts = generate(PROMPTS[:1], point, sampling=WARM)
  new = len(text.exits)
  assert new == 29
  assert (text.exits == 0).all()
  assert counts.layers_run == new + new // 9 * (GRID.depth - 1)
  assert counts.heads_run == new


ROUTED = tiny.stack(readouts=(1, 3, 4), router='mod')


@pytest.mark.parametrize('policy', ['off', 'drop', 'recompute'])
def test_what_routers_spare_is_not_charged(policy):
  """Seen in the cache is who ran; a router is paid for by all it was asked."""
  point = None
  if policy != 'off':
    point = tiny.point('max_prob', policy, (0.5, 0.5, INF))
  length = 20
  stepped, seen_BxT = read(ROUTED, point, length)
  exit_BxT = np.asarray(stepped.exit_B.T)
  taken_BxT = exit_BxT
  if policy == 'recompute':
    taken_BxT = charges.reached(2, exit_BxT)
  assert (len(np.unique(exit_BxT)) > 1) == (policy != 'off')

  prices = ROUTED.costs_of_windows(length)
  routers_K = np.cumsum([0, 1, 1])  # behind layers 1, 3 and 4
  heads_BxT = 1 if policy == 'off' else exit_BxT + 1
  spent_BxT = (
    seen_BxT * prices.block_L[0]
    + routers_K[taken_BxT] * 2 * ROUTED.cfg.dim
    + heads_BxT * prices.head
  )
  passed_BxTxL = np.asarray(stepped.passed_BxL).swapaxes(0, 1)
  assert passed_BxTxL.any()
  charged = decode.compute_decoder(ROUTED, point, exit_BxT, passed_BxTxL)
  assert charged == pytest.approx(prices.relative(spent_BxT.mean()))


# ----------------------------------------------------------------- compiling


def test_a_length_compiles_nothing():
  point = point_of('stack', 'max_prob', 'copy_state')

  def run(length, new):
    generate([[1] * length], point, context=200, max_new_tokens=new)
    programs = steps.many_steps, steps.prefill
    return [program._cache_size() for program in programs]

  compiled = run(30, 30)
  for length, new in ((2, 5), (17, 1), (31, 32), (29, 3)):
    assert run(length, new) == compiled
  assert jax.tree.reduce(min, compiled) > 0
