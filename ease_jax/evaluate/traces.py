"""Where every token of a split stops at an operating point."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax import arrays
from ease_jax.core.grid import first_exit
from ease_jax.core.policies import UNITS, ExitRule, OperatingPoint, thresholds
from ease_jax.evaluate.passes import Batches, Dump, joined, masked_pass
from ease_jax.model import Body, Params


class Trace(NamedTuple):
  """Where each token stopped, and its loss there."""

  exit_RxT: np.ndarray
  nll_RxT: np.ndarray
  correct_RxT: np.ndarray
  argmax_RxT: np.ndarray  # what it says is likeliest
  run_LxRxT: np.ndarray | None = None  # who ran each cell before its exit


def trace_from_dump(dump: Dump, exit_RxT: np.ndarray) -> Trace:
  """The trace of given exits when deeper keys and values are the true ones."""

  def chosen(x_KxRxT: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x_KxRxT, exit_RxT[None], 0)[0]

  return Trace(
    exit_RxT,
    chosen(dump.nll_KxRxT),
    chosen(dump.correct_KxRxT),
    chosen(dump.argmax_KxRxT),
    dump.run_LxRxT,
  )


def trace(
  model: Body,
  params: Params,
  batches: Batches,
  dump: Dump,
  point: OperatingPoint | None,
) -> Trace:
  """Where tokens stop at an operating point; None = exits off.

  Where nobody can exit the policy is irrelevant, and where exited tokens run
  on, and no coda stands behind them, the trace is a reduction of the dump.
  """
  num = len(dump.nll_KxRxT)
  threshold_K = thresholds(point, num)
  if point is None or np.all(threshold_K[:-1] == np.inf):
    last = num - 1
    return trace_from_dump(dump, np.full(dump.mask_RxT.shape, last))

  rule = point.rule
  model.check(rule)
  # The coda of a token sees the states that answered the others.
  if rule.policy.runs_on and not model.grid.coda:
    score_KxRxT = unit_scores(rule, dump)
    exit_RxT = np.array(_first_exit(score_KxRxT, threshold_K))
    return trace_from_dump(dump, exit_RxT)

  traces = []
  for batch in batches():
    spread = arrays.from_all_rows(batch)
    masked = arrays.get(
      masked_pass(
        params, spread, jnp.asarray(threshold_K), model=model, rule=rule
      )
    )
    obs = masked.observation
    correct_BxT = obs.argmax == batch['targets']
    traces.append(
      Trace(masked.exit_BxT, obs.nll, correct_BxT, obs.argmax, masked.run_LxBxT)
    )

  return Trace(
    exit_RxT=np.concatenate([t.exit_RxT for t in traces]),
    nll_RxT=np.concatenate([t.nll_RxT for t in traces]),
    correct_RxT=np.concatenate([t.correct_RxT for t in traces]),
    argmax_RxT=np.concatenate([t.argmax_RxT for t in traces]),
    run_LxRxT=joined([t.run_LxRxT for t in traces], 1),
  )


def unit_scores(rule: ExitRule, dump: Dump) -> np.ndarray:
  """Scores as they decide, [K, R, T]: a whole row's is its lowest."""
  score_KxRxT = dump.score_KxRxT[rule.signal.name]
  if rule.unit == UNITS[0]:
    return score_KxRxT
  lowest = np.where(dump.mask_RxT > 0, score_KxRxT, np.inf).min(
    2, keepdims=True
  )
  return np.broadcast_to(lowest, score_KxRxT.shape)


_first_exit = jax.jit(first_exit)
