"""The clairvoyant frontier: what exits could save if losses were known.

At a price of compute, every token is answered where its own loss plus the
price of what it costs is lowest. No rule that sees less can do better at that
price, as long as deeper states are the true ones. Under another K/V policy
than `recompute` an exit changes what later tokens see, sometimes for the
better, so that points of the sweep may lie below.
"""

from collections.abc import Iterator

import numpy as np

from ease_jax.core.policies import POLICIES, UNITS
from ease_jax.evaluate import compute, traces
from ease_jax.evaluate.passes import Dump
from ease_jax.evaluate.results import ClairvoyantRow, Cost
from ease_jax.evaluate.sweep import Evaluator
from ease_jax.model import Body

# Nats that one full pass is worth; at 0 losses alone decide.
PRICES = (0.0, *np.geomspace(1e-3, 1e2, 31).tolist())


def frontier(split: Evaluator, policy: str) -> Iterator[ClairvoyantRow]:
  """Points from the lowest loss to the lowest cost, each once.

  Args:
    split: whose tokens.
    policy: name of the K/V policy whose keys and values are charged.
  """
  dump = split.dump
  mask = dump.mask_RxT > 0
  cost_KxRxT = costs(split.model, policy, dump)
  before_RxT = None

  for price in PRICES:
    exit_RxT = exits(dump, cost_KxRxT, price, split.task.unit)
    if before_RxT is not None and np.array_equal(exit_RxT, before_RxT):
      continue
    before_RxT = exit_RxT
    trace = traces.trace_from_dump(dump, exit_RxT)
    cost_RxT = np.take_along_axis(cost_KxRxT, exit_RxT[None], 0)[0]
    stopped = compute.where_stopped(split.model, exit_RxT[mask])
    stopped['exit_fraction'] = tuple(stopped['exit_fraction'])
    yield ClairvoyantRow(
      split=split.role,
      kv_policy=policy,
      price=price,
      quality=split.quality(trace.nll_RxT, trace.correct_RxT),
      cost=Cost(compute=float(cost_RxT[mask].mean()), **stopped),
    )


def costs(model: Body, policy: str, dump: Dump) -> np.ndarray:
  """What each token costs at each readout, over a full pass, [K, R, T].

  Cells, the head that answers, and keys and values of skipped cells; nothing
  is asked. What `recompute` makes up later depends on other tokens, and is
  left out.
  """
  prices = model.costs_of_windows(dump.mask_RxT.shape[1])
  answered_K = prices.answered_K(POLICIES[policy])
  flops_KxRxT = np.broadcast_to(answered_K[:, None, None], dump.nll_KxRxT.shape)
  if dump.run_LxRxT is not None:
    flops_KxRxT = flops_KxRxT - compute.spared(model, dump.run_LxRxT)
  return flops_KxRxT / prices.full


def exits(
  dump: Dump, cost_KxRxT: np.ndarray, price: float, unit: str
) -> np.ndarray:
  """The readout of the lowest loss plus price times cost, [R, T] int32.

  Args:
    dump: losses of every readout.
    cost_KxRxT: see `costs`.
    price: nats that one full pass is worth.
    unit: what exits as one, 'token' or 'sequence'.
  """
  objective_KxRxT = dump.nll_KxRxT + price * cost_KxRxT
  if unit != UNITS[0]:
    of_unit_KxRxT = np.where(dump.mask_RxT > 0, objective_KxRxT, 0.0)
    objective_KxRxT = np.broadcast_to(
      of_unit_KxRxT.sum(2, keepdims=True), objective_KxRxT.shape
    )
  # Of equal ones the first, which is the cheapest.
  return objective_KxRxT.argmin(0).astype(np.int32)
