"""The cycle: the same layers several times, between layers of their own.

  own layers -> (layers) x times -> own layers,  one segment, one gradient

What universal transformers, recurrent depth without injection and
Mixture-of-Recursions ("middle cycle", 2507.10524) run. In contrast to
`refine` nothing is carried past a segment: every run is a place of its own on
the grid, and may have readouts and routers.
"""

import dataclasses

from ease_jax.checks import Depth, Size, check_fields, need
from ease_jax.core.grid import Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model import stack
from ease_jax.model.kind import Kind


@dataclasses.dataclass(frozen=True)
class CycleSpec:
  """Section `model.cycle`.

  Attributes:
    times: how often the layers in the middle run.
    own: layers before and after them, each, that run once.
  """

  times: Depth
  own: Size

  def __post_init__(self):
    check_fields('model.cycle', self)


def schedule(cfg: ModelConfig) -> Grid:
  """`num_layers` cells, counted as they run; those in the middle are tied."""
  spec: CycleSpec = cfg.options
  need(
    cfg.segments == 1,
    f'model.body=cycle runs layers again within one segment, and model.segments'
    f'={cfg.segments}; use model.cycle.times, or model.body=refine',
  )
  middle = cfg.num_layers - 2 * spec.own
  need(
    middle > 0 and middle % spec.times == 0,
    f'model.num_layers={cfg.num_layers} less model.cycle.own={spec.own} before '
    f'and after leave {middle} cells, which are no multiple of model.cycle.'
    f'times={spec.times}; change one of them',
  )

  own = tuple(range(spec.own))
  tied = tuple(range(spec.own, spec.own + middle // spec.times))
  last = tuple(range(spec.own + len(tied), 2 * spec.own + len(tied)))
  return Grid(stack.layers(cfg, own + tied * spec.times + last))


CYCLE = Kind('cycle', schedule, options=CycleSpec)
