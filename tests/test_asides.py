"""Readouts with a block of their own, which nobody goes on from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

import tiny
from ease_jax import decode
from ease_jax import run as run_lib
from ease_jax.core import costs
from ease_jax.core.freeze import Freeze, all_but_exits
from ease_jax.core.objective import LossSpec
from ease_jax.core.policies import OperatingPoint
from ease_jax.decode import step as steps
from ease_jax.train import loss
from ease_jax.train.freezing import learned_of
from ease_jax.train.paths import leaves
from ease_jax.workdir import read_config

READOUTS = (1, 2, 4)
MODEL = tiny.stack(readouts=READOUTS, readout_adapters=('block',))
BARE = tiny.stack(readouts=READOUTS)
BATCH = tiny.batch(rows=2, length=8)
PARAMS = tiny.params(MODEL)
OWN = ('readout_block_0', 'readout_block_1')
NEVER = np.full(3, np.inf, np.float32)


def without_blocks(params):
  return {name: group for name, group in params.items() if name not in OWN}


def logits_of(model, params):
  return np.asarray(tiny.logits(params, BATCH['tokens'], model=model))


def test_layers_are_counted_without_them():
  grid = MODEL.grid
  assert grid.names_K == BARE.grid.names_K == ((1, 1), (1, 2), (1, 4))
  assert grid.depth_K == BARE.grid.depth_K == READOUTS
  assert grid.depth == 4
  assert grid.num_cells == 6
  assert grid.reach_K == (2, 4, 6)


def test_they_move_their_own_readout_alone():
  assert set(PARAMS) - set(without_blocks(PARAMS)) == set(OWN)
  with_KxBxTxV = logits_of(MODEL, PARAMS)
  without_KxBxTxV = logits_of(BARE, without_blocks(PARAMS))
  moved_K = np.abs(with_KxBxTxV - without_KxBxTxV).max((1, 2, 3))
  assert (moved_K[:-1] > 0.1).all()
  assert moved_K[-1] == 0

  other = PARAMS | {OWN[0]: jax.tree.map(jnp.zeros_like, PARAMS[OWN[0]])}
  moved_K = np.abs(logits_of(MODEL, other) - with_KxBxTxV).max((1, 2, 3))
  assert moved_K[0] > 0.1
  assert (moved_K[1:] == 0).all()


def gradient_of(freeze):
  spec = LossSpec((1.0,) * 3, freeze=freeze)
  key = jax.random.key(0)
  grads, _ = loss.grid_gradient(PARAMS, MODEL, spec, BATCH, jnp.int32(0), key)
  return leaves(grads)


def test_they_learn_the_same_where_the_model_stays_as_it_is():
  free = gradient_of(Freeze())
  frozen = gradient_of(all_but_exits(3))
  for name, x in frozen.items():
    if name.startswith(OWN):
      tiny.assert_trees_close(x, free[name], rtol=1e-4, atol=1e-6)
      assert np.abs(x).max() > 0
    else:
      assert not np.asarray(x).any()
  learned = learned_of(all_but_exits(3), leaves(PARAMS))
  assert learned == (0, 2, 2)


# ------------------------------------------------------------------ their price


def exit_costs(model, policy, threshold):
  point = OperatingPoint('max_prob', policy, threshold)
  active_K = point.threshold_K(3) < np.inf
  return model.costs(8).exit_K(point.rule, active_K)


BLOCK = costs.block_flops(MODEL.cfg, 8)
FILL = costs.kv_flops(MODEL.cfg)


@pytest.mark.parametrize(
  'policy, threshold, more_K',
  [
    # One on the way to each; deeper ones still get keys and values.
    ('drop', 0.5, [BLOCK, 2 * BLOCK, 2 * BLOCK]),
    ('copy_state', 0.5, [BLOCK + FILL, 2 * BLOCK, 2 * BLOCK]),
    # The second is not asked: nothing but keys and values of it are made.
    (
      'copy_state',
      (0.5, np.inf, np.inf),
      [BLOCK + FILL, 2 * BLOCK + FILL, BLOCK + FILL],
    ),
  ],
)
def test_a_block_is_charged_where_it_runs(policy, threshold, more_K):
  more = exit_costs(MODEL, policy, threshold)
  more = more - exit_costs(BARE, policy, threshold)
  may = np.isfinite(np.broadcast_to(threshold, 3))
  may[-1] = True
  np.testing.assert_allclose(more[may], np.asarray(more_K)[may])


def test_without_exits_they_cost_nothing():
  prices = MODEL.costs(8)
  bare = BARE.costs(8)
  assert prices.full == bare.full
  more_K = prices.static_K - bare.static_K
  np.testing.assert_allclose(more_K, [BLOCK, BLOCK, 0])


def test_training_them_is_charged_forward_and_backward():
  for passes in (2, 3):
    trained, bare = (
      model.costs(8).train_per_token(
        (1.0,) * 3, cell_passes=0, head_passes=passes, early_passes=passes
      )
      for model in (MODEL, BARE)
    )
    assert trained - bare == pytest.approx(3 * 2 * BLOCK)


# --------------------------------------------------------------------- decoding


def prefilled(params, rule):
  token_1xT = jnp.asarray(BATCH['tokens'][:1])
  return steps.prefill(
    params,
    token_1xT,
    jnp.asarray([8]),
    jnp.asarray(NEVER),
    slots=8,
    model=MODEL,
    rule=rule,
  )


def test_a_prompt_without_exits_leaves_what_later_tokens_look_at():
  rule = OperatingPoint('max_prob', 'copy_state', 0.5).rule
  cache = prefilled(PARAMS, None)
  slowly = tiny.prefilled(
    MODEL, PARAMS, rule, NEVER, BATCH['tokens'][0].tolist(), 8
  )
  tiny.assert_trees_close(cache.key, slowly.key, atol=1e-5)
  tiny.assert_trees_close(cache.value, slowly.value, atol=1e-5)
  tiny.assert_trees_equal(cache.seen_LxBxC, slowly.seen_LxBxC)
  aside = [cell.number for cell in MODEL.grid.cells if cell.aside]
  assert all(np.asarray(cache.key[number][0]).any() for number in aside)


@pytest.mark.parametrize('point', [None, OperatingPoint('max_prob', 'drop', 1)])
def test_what_is_not_asked_is_not_looked_at(point):
  """Blocks that are no numbers change nothing where none is asked."""
  broken = jax.tree.map(lambda x: x * jnp.nan, {n: PARAMS[n] for n in OWN})
  rule = None if point is None else point.rule

  def step(params):
    cache = decode.init_cache(MODEL, 1, 8)
    stepped, logits, *_ = tiny.one_step(
      MODEL, params, rule, NEVER, [3], 0, cache
    )
    return stepped, logits

  stepped, logits = step(PARAMS)
  _, same = step(PARAMS | broken)
  np.testing.assert_array_equal(logits, same)
  assert stepped.layers_run == 4


# -------------------------------------------------------------------- as a run


def config_of(finished_run, **changes):
  """Blocks that learn beside a finished run what its last readout says."""
  c = small_run.make_beside(finished_run)
  c.train.steps = 4
  c.model.readout_adapters = ('block',)
  c.loss.weights = 'uniform'
  c.loss.target = 'distill'
  c.loss.teacher_weight = 1.0
  c.exit.policies = ('copy_state',)
  c.update_from_flattened_dict(changes)
  return c


def test_a_run_trains_evaluates_and_writes_with_them(
  finished_run, tmp_path, capsys
):
  run_lib.run(config_of(finished_run), tmp_path / 'run')
  source = read_config(finished_run[1])
  before = run_lib.load_model(source, finished_run[1]).params
  there = read_config(tmp_path / 'run')
  after = dict(run_lib.load_model(there, tmp_path / 'run').params)
  own = after.pop('readout_block_0')
  tiny.assert_trees_equal(before, after)
  assert all(np.asarray(x).any() for x in jax.tree.leaves(own))
  assert (tmp_path / 'run' / 'report.html').exists()

  run_lib.run(there, tmp_path / 'run', 'generate', 'The ')
  assert '3 tokens' in capsys.readouterr().err


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'exit.policies': ('recompute',)}, 'exit.policies names recompute'),
    ({'generate.method': 'speculative'}, 'readouts with blocks of their own'),
    ({'model.readout_adapters': ('map', 'block')}, 'name it first'),
    ({'model.readout_adapters': ('block', 'block')}, 'name it first'),
    ({'model.router': 'mod'}, 'does not fit a model with a coda or with'),
  ],
)
def test_what_does_not_fit_is_refused(finished_run, tmp_path, changes, words):
  c = config_of(finished_run, **changes)
  if 'exit.policies' in changes:
    c.exit.policy = 'recompute'
  assert words in small_run.refusal(c, tmp_path / 'run')
