"""Mixture-of-Depths: what training runs, what learns, what evaluation sees.

That decoding equals the parallel pass, with exits on top, is in
test_bodies_and_signals.py.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import segmented

import reference
import tiny
from ease_jax.core import routers
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.objective import LossSpec
from ease_jax.core.routers import Route, Router, Taken
from ease_jax.evaluate import compute
from ease_jax.model import BODIES, Kind
from ease_jax.model import attention as attention_lib
from ease_jax.model.sight import Places
from ease_jax.model.walk import RUNNING, Travel, walk
from ease_jax.train import loss as losses

ROWS = 3
LENGTH = 12
BATCH = tiny.batch(ROWS, LENGTH)
LAST = LossSpec((0.0, 0.0, 0.0, 1.0))
CHOICES = ('auxiliary', 'predictor', 'token')
RUNS = ('expert runs', 'token runs')  # of Mixture-of-Recursions
each_choice = pytest.mark.parametrize('choice', CHOICES)
every_choice = pytest.mark.parametrize('choice', CHOICES + RUNS)


@functools.cache
def routed(choice='auxiliary', **changes):
  if choice in RUNS:
    return tiny.recursions(
      readouts=(1, 3, 4, 6),
      choice=choice.split()[0],
      capacities=(1.0, 0.5, 0.25),
      loss_weight=1.0,
    )
  fields = dict(router='mod', capacity=0.4, choice=choice, loss_weight=1.0)
  return tiny.stack(**(fields | changes))


@functools.partial(jax.jit, static_argnames='model')
def trained_walk(params, *, model):
  """The walk of a training step: states, who ran each cell, router losses."""
  bound = model.bind({'params': params})
  travel = Travel(attention_lib.positions(LENGTH), jax.random.key(0))
  walked = walk(
    bound,
    model.grid.first,
    bound.start(BATCH['tokens'], travel.position_BxT),
    None,
    layer=bound.windows(Places(attention_lib.positions(LENGTH))),
    travel=travel,
  )
  goes = [call.goes_BxT for call in walked.calls if call.cell.router]
  return walked.state[RUNNING], jnp.stack(goes), walked.router_losses


@functools.partial(jax.jit, static_argnames='model')
def gradient(params, batch=BATCH, *, model):
  return losses.grid_gradient(params, model, LAST, batch, 0, jax.random.key(0))


# ---------------------------------------------------------------- training


def expert_choice(model, params, token_T):
  """States after the last layer, and who ran the routed ones, in NumPy."""
  plain = tiny.plain(model, params)
  h_TxD = plain.params['embed'][token_T]
  ran = []

  for cell in plain.cells:
    number_T = [reference.router_number(plain, cell, h_D) for h_D in h_TxD]
    num = math.ceil(0.4 * LENGTH) if cell.routed else LENGTH
    chosen = sorted(np.argsort(number_T)[::-1][:num])
    if cell.routed:
      ran.append(np.isin(np.arange(LENGTH), chosen))
    cache = []
    after_TxD = h_TxD.copy()
    for t in chosen:
      h_D = h_TxD[t]
      cache.append(reference.key_value(plain, cell.block, h_D, t))
      new_D = reference.through_block(plain, cell.block, h_D, t, cache)
      after_TxD[t] = h_D + number_T[t] * (new_D - h_D)
    h_TxD = after_TxD

  return h_TxD, np.stack(ran)


@pytest.mark.parametrize('window', [0, 3])
def test_training_runs_the_highest_of_each_row_alone(window):
  """Of the last few tokens they see those that run, and none before."""
  model = routed(window=window)
  params = tiny.params(model)
  state_BxTxD, goes_NxBxT, _ = trained_walk(params, model=model)
  for b in range(ROWS):
    h_TxD, ran_NxT = expert_choice(model, params, BATCH['tokens'][b])
    np.testing.assert_array_equal(goes_NxBxT[:, b], ran_NxT)
    np.testing.assert_allclose(state_BxTxD[b], h_TxD, 1e-4, 1e-4)


def test_at_capacity_1_nothing_is_left_to_choose():
  """No router, no gate, and the bits of a model that knows of none."""
  plain = tiny.stack()
  full = routed(capacity=1.0)
  assert full.grid == plain.grid
  params = tiny.params(plain)
  tiny.assert_trees_equal(
    gradient(params, model=plain), gradient(params, model=full)
  )


def everybody(params, h_BxTxD, position_BxT, key):
  del params, position_BxT, key
  runs_BxT = jnp.ones(h_BxTxD.shape[:2], bool)
  token_BxT = jnp.broadcast_to(jnp.arange(LENGTH)[None], runs_BxT.shape)
  return Route(runs_BxT, taken=Taken(token_NxM=token_BxT))


def test_gathering_everybody_changes_nothing(monkeypatch):
  """Without a gate: a model with no router, but for a rounding."""

  def schedule(cfg):
    cells = [Cell(i, router='everybody') for i in range(cfg.num_layers)]
    cells[-1] = dataclasses.replace(cells[-1], readout=0)
    return Grid(tuple(cells))

  router = Router('everybody', None, everybody, flops=lambda dim: 0.0)
  monkeypatch.setitem(routers.ROUTERS, 'everybody', router)
  monkeypatch.setitem(BODIES, 'gathered', Kind('gathered', schedule))
  plain = tiny.stack(readouts=(4,))
  gathered = tiny.stack(body='gathered')
  params = tiny.params(plain)

  @functools.partial(jax.jit, static_argnames='model')
  def of_one_readout(model):
    key = jax.random.key(0)
    spec = LossSpec((1.0,))
    return losses.grid_gradient(params, model, spec, BATCH, 0, key)

  (grads, metrics), (other, others) = map(of_one_readout, (plain, gathered))
  np.testing.assert_allclose(metrics['loss'], others['loss'], rtol=1e-6)
  tiny.assert_trees_close(grads, other, rtol=1e-4, atol=1e-6)


@each_choice
def test_so_many_tokens_of_a_row_run(choice):
  model = routed(choice)
  params = tiny.params(model)
  _, goes_NxBxT, router_losses = trained_walk(params, model=model)
  num = math.ceil(0.4 * LENGTH)
  count_NxB = np.asarray(goes_NxBxT).sum(2)
  assert (count_NxB <= num).all()
  assert (count_NxB == num).all() == (choice != 'token')
  for loss_BxT in router_losses:
    assert loss_BxT.shape == (ROWS, LENGTH)
    assert (np.asarray(loss_BxT) > 0).all()


# ---------------------------------------------------------------- learning


@every_choice
def test_every_parameter_of_a_router_learns(choice):
  """R3, those of the predictor and of the routed layers included."""
  model = routed(choice)
  grads, metrics = gradient(tiny.params(model), model=model)
  assert metrics['loss_routers'] > 0
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all(), path
    assert (np.asarray(grad) != 0).any(), path
  for name, router in grads.items():
    if name.startswith('router_'):  # each of its runs has a column
      assert (np.asarray(router['router']['kernel']) != 0).any(0).all()


@each_choice
def test_only_a_predictor_leaves_the_model_alone(choice):
  """Its loss moves itself; that of the router moves what it looks at."""
  loud, silent = (
    gradient(tiny.params(routed(choice)), model=routed(choice, loss_weight=w))
    for w in (1.0, 0.0)
  )
  alone = choice == 'predictor'
  for name in ('embed', 'layer_0', 'layer_1'):
    same = jax.tree.map(np.array_equal, loud[0][name], silent[0][name])
    assert all(jax.tree.leaves(same)) == alone, name
  names = ('up', 'down') if alone else ('router',)
  for name in names:
    a, b = loud[0]['router_1'][name], silent[0]['router_1'][name]
    assert (a['kernel'] != b['kernel']).any()


def test_the_gate_is_the_way_of_the_loss_to_the_router():
  model = routed(loss_weight=0.0)
  grads, _ = gradient(tiny.params(model), model=model)
  assert (grads['router_1']['router']['kernel'] != 0).any()


# ------------------------------------------------- causal where it must be


@functools.partial(jax.jit, static_argnames='model')
def evaluated(params, tokens, *, model):
  return model.apply({'params': params}, tokens)


@every_choice
def test_no_gradient_flows_from_a_later_token(choice):
  model = routed(choice)

  def logits_KxTxV(params, token_1xT):
    return evaluated(params, token_1xT, model=model)[:, 0]

  segmented.assert_causal(tiny.params(model), logits_KxTxV)


@functools.partial(jax.jit, static_argnames='model')
def decisions(params, tokens, key=None, *, model):
  """Who runs each routed layer."""
  bound = model.bind({'params': params})
  travel = Travel(attention_lib.positions(LENGTH), key)
  start = bound.start(tokens, travel.position_BxT)
  layer = bound.windows(Places(attention_lib.positions(LENGTH)))
  walked = walk(
    bound, model.grid.first, start, None, layer=layer, travel=travel
  )
  return jnp.stack([c.goes_BxT for c in walked.calls if c.cell.router])


@every_choice
def test_who_runs_depends_on_later_tokens_in_training_only(choice):
  model = routed(choice)
  params = tiny.params(model)
  moved = {True: False, False: False}
  for seed in range(8):
    tokens = tiny.batch(ROWS, LENGTH, seed=seed)['tokens']
    changed = tokens.copy()
    changed[:, -1] = (changed[:, -1] + 1) % tiny.VOCAB
    for trains in (True, False):
      key = jax.random.key(0) if trains else None
      a = np.asarray(decisions(params, tokens, key, model=model))
      b = np.asarray(decisions(params, changed, key, model=model))
      moved[trains] |= (a[..., :-1] != b[..., :-1]).any()
  assert moved == {True: True, False: False}


# -------------------------------------------------------------------- price


def assert_decoded_tokens_cost_what_they_ran(model, outputs):
  """By the loop's own count; what kept them out is paid for, too.

  Args:
    model: whose routers let some tokens pass two cells at least.
    outputs: of all routers, for a token.
  """
  params = tiny.params(model)
  never = tiny.point('max_prob', 'copy_state', np.inf)
  row = {name: x[:1] for name, x in BATCH.items()}
  run_LxBxT = tiny.masked(model, params, never, row).run_LxBxT
  layers_run_T = tiny.decoded(model, params, never, row).layers_run_T
  np.testing.assert_array_equal(layers_run_T, run_LxBxT.sum(0)[0])
  assert 2 <= layers_run_T.min() < layers_run_T.max() <= model.grid.depth

  prices = model.costs_of_windows(LENGTH)
  routers = outputs * 2 * model.cfg.dim
  done_T = layers_run_T * prices.block_L[0] + routers + prices.head
  spared_T = compute.spared(model, run_LxBxT)[-1, 0]
  np.testing.assert_allclose(prices.full - spared_T, done_T)


def test_a_decoded_token_costs_what_it_ran():
  assert_decoded_tokens_cost_what_they_ran(routed(), outputs=2)
