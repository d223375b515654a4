"""Mixture-of-Recursions: who has left does not come back, and costs nothing.

What it has in common with Mixture-of-Depths is in test_mod.py, that decoding
equals the parallel pass in test_bodies_and_signals.py.
"""

import functools
import math

import jax
import numpy as np
import pytest
import segmented
from test_mod import (
  BATCH,
  LENGTH,
  ROWS,
  assert_decoded_tokens_cost_what_they_ran,
  evaluated,
  gradient,
  trained_walk,
)

import tiny
from ease_jax.core import mor
from ease_jax.core.grid import Cell, Grid
from ease_jax.evaluate import passes

CAPACITIES = (1.0, 0.5, 0.25)
FIELDS = dict(readouts=(1, 3, 4, 6), capacities=CAPACITIES, loss_weight=1.0)
MODELS = {
  choice: tiny.recursions(choice=choice, **FIELDS) for choice in mor.CHOICES
}
each_choice = pytest.mark.parametrize('choice', mor.CHOICES)


@each_choice
def test_no_gradient_flows_from_a_later_token(choice):
  model = MODELS[choice]

  def logits_KxTxV(params, token_1xT):
    return evaluated(params, token_1xT, model=model)[:, 0]

  segmented.assert_causal(tiny.params(model), logits_KxTxV)


@each_choice
def test_at_capacity_1_nothing_is_left_to_choose(choice):
  """No router, no gate, and the bits of a model that knows of none."""
  plain = tiny.recursions(router='none', readouts=FIELDS['readouts'])
  fields = FIELDS | {'capacities': (1.0, 1.0, 1.0)}
  full = tiny.recursions(choice=choice, **fields)
  assert full.grid == plain.grid
  params = tiny.params(plain)
  tiny.assert_trees_equal(
    gradient(params, model=plain), gradient(params, model=full)
  )


def assert_they_only_leave(run_4xBxT):
  """Two layers of the second run, then two of the third."""
  second, with_it, third, with_that = np.asarray(run_4xBxT)
  np.testing.assert_array_equal(second, with_it)
  np.testing.assert_array_equal(third, with_that)
  assert not (third & ~second).any()
  assert third.any() and (second & ~third).any() and not second.all()


@each_choice
def test_in_training_some_of_those_who_ran_run_again(choice):
  model = MODELS[choice]
  _, goes_4xBxT, losses = trained_walk(tiny.params(model), model=model)
  assert_they_only_leave(goes_4xBxT)
  count_4xB = np.asarray(goes_4xBxT).sum(2)
  most_4 = [math.ceil(CAPACITIES[run] * LENGTH) for run in (1, 1, 2, 2)]
  assert (count_4xB.T <= most_4).all()
  if choice == mor.EXPERT:
    assert (count_4xB.T == most_4).all()
  assert len(losses) == (2 if choice == mor.EXPERT else 1)
  for loss_BxT in losses:
    assert loss_BxT.shape == (ROWS, LENGTH)
    assert (np.asarray(loss_BxT) >= 0).all() and np.asarray(loss_BxT).any()


@each_choice
def test_at_evaluation_as_well(choice):
  model = MODELS[choice]
  dump = passes.grid_dump(model, tiny.params(model), lambda: [BATCH], ())
  assert_they_only_leave(dump.run_LxRxT[2:])


@each_choice
def test_to_gather_is_to_mask(choice, monkeypatch):
  """Those who are left over among the places are seen by nobody."""
  roomy = FIELDS | dict(capacities=(1.0, 0.9, 0.9))  # more places than wanted
  model = tiny.recursions(choice=choice, **roomy)
  params = tiny.params(model)
  gathered = trained_walk(params, model=model)
  monkeypatch.setattr(mor, '_taken', lambda token, runs: None)
  walk = functools.partial(trained_walk.__wrapped__, model=model)
  masked = jax.jit(walk)(params)
  np.testing.assert_array_equal(gathered[1], masked[1])
  np.testing.assert_allclose(gathered[0], masked[0], 1e-4, 1e-4)


@pytest.mark.parametrize('share_O', [(0.5, 0.25, 0.25), (0.5, 0.0, 0.5)])
def test_depths_that_are_balanced_lose_nothing(share_O):
  p_O = np.asarray(share_O) + 1e-9
  p_1x4xO = np.broadcast_to(p_O, (1, 4, 3))
  near = np.asarray(mor._unbalanced(p_1x4xO, share_O))
  np.testing.assert_allclose(near, 0, atol=1e-6)
  uneven = np.asarray(mor._unbalanced(p_1x4xO[..., ::-1], (0.8, 0.1, 0.1)))
  assert (uneven > 0.1).all()


@each_choice
def test_a_decoded_token_costs_what_it_ran(choice):
  model = MODELS[choice]
  outputs = 2 if choice == mor.EXPERT else 3
  assert_decoded_tokens_cost_what_they_ran(model, outputs)
  prices = model.costs_of_windows(LENGTH)
  shares_L = prices.trained_L / prices.block_L
  assert (np.diff(shares_L[1:]) <= 0).all() and shares_L[-1] < 0.25


def test_layers_that_repeat_in_another_order_are_no_runs():
  cells = (Cell(0), Cell(1), Cell(1), Cell(0, readout=0))
  assert mor.runs(Grid(cells)) == (0, 0, 0, 0)
  assert mor.runs(MODELS['expert'].grid) == (1, 1, 2, 2, 3, 3)


def test_who_left_is_not_asked_again():
  """However high its own number is: the filter is hierarchical."""
  model = MODELS['expert']
  params = tiny.params(model)
  kernel = np.asarray(params['router_0']['router']['kernel'])
  same = np.stack([kernel[:, 0], -kernel[:, 0]], 1)  # who left says yes
  params = params | {'router_0': {'router': {'kernel': same}}}
  dump = passes.grid_dump(model, params, lambda: [BATCH], ())
  second, third = dump.run_LxRxT[2], dump.run_LxRxT[4]
  assert not (third & ~second).any()
  _, goes_4xBxT, _ = trained_walk(params, model=model)
  assert not (goes_4xBxT[2] & ~goes_4xBxT[0]).any()
