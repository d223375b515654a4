"""Side by side timing: every contender runs in every round."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def side_by_side(
  contenders: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, tuple[float, float]]:
  """Median seconds of each, and its interquartile range, warmed up.

  Each is called once before it is timed, in every round: what the one before
  left behind (other arrays in the caches, threads that still look for work)
  is nobody else's time.
  """
  for run in contenders.values():
    jax.block_until_ready(run())
  seconds = {name: [] for name in contenders}
  for _ in range(rounds):
    for name, run in contenders.items():
      jax.block_until_ready(run())
      start = time.perf_counter()
      jax.block_until_ready(run())
      seconds[name].append(time.perf_counter() - start)
  result = {}
  for name, values in seconds.items():
    low, middle, high = statistics.quantiles(values, n=4)
    result[name] = middle, high - low
  return result
