"""Whether what gates foretell happens."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ease_jax.core.gates import GridLesson
from ease_jax.core.gating import GateSpec
from ease_jax.core.grid import Grid
from ease_jax.core.signals import SIGNALS
from ease_jax.evaluate.passes import Dump
from ease_jax.evaluate.reliability import GateRow, reliability


def gate_rows(grid: Grid, gating: GateSpec, dump: Dump) -> tuple[GateRow, ...]:
  """Every gate that foretells something, at each readout that it says it of.

  Args:
    grid: the model's.
    gating: what its gates have learned.
    dump: of the report split.
  """
  rows = []
  for name, output_KxRxTxO in dump.output_KxRxTxO.items():
    gate = SIGNALS[name].gate
    if gate is None or gate.foretells is None:
      continue
    lesson = GridLesson(
      output_KxBxTxO=jnp.asarray(output_KxRxTxO),
      nll_KxBxT=jnp.asarray(dump.nll_KxRxT),
      argmax_KxBxT=jnp.asarray(dump.argmax_KxRxT),
      kl_KxBxT=None,
      target_BxT=jnp.asarray(dump.target_RxT),
      mask_BxT=jnp.asarray(dump.mask_RxT),
      depth_K=grid.depth_K,
      settings=dataclasses.asdict(gating),
    )
    foretold = gate.foretells(lesson)
    if foretold is None:
      continue

    for k, (segment, layer) in enumerate(grid.names_K[:-1]):
      counts = np.asarray(foretold.asked_KxBxT[k]) & (dump.mask_RxT > 0)
      if not counts.any():
        continue
      error, bins = reliability(
        np.asarray(foretold.foretold_KxBxT[k])[counts],
        np.asarray(foretold.happened_KxBxT[k])[counts],
      )
      rows.append(GateRow(name, foretold.what, segment, layer, error, bins))

  return tuple(rows)
