"""What makes a body: a schedule, and streams where it has some of its own."""

import dataclasses
from collections.abc import Callable

from ease_jax.core.grid import Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model.per_run import PerRun
from ease_jax.model.streams import Plain, Streams


def _num_layers(cfg: ModelConfig) -> int:
  return cfg.num_layers


def _nothing(cfg: ModelConfig) -> PerRun | None:
  del cfg
  return None


@dataclasses.dataclass(frozen=True)
class Kind:
  """What makes a body.

  Attributes:
    name: as `model.body` calls it.
    schedule: config -> grid.
    streams: the states that its cells read and write: a module's class, made
      with the config.
    options: frozen dataclass of the config's section `model.<name>`, with the
      fields of that section; None = there is no such section.
    unit_embedding: embeddings have the size of one in every dimension, that
      of the normed states they are added to.
    residual_layers: config -> layers that add to one state before it is normed
      or begins anew.
    per_run: config -> what blocks of a segment have of their own in each run.
  """

  name: str
  schedule: Callable[[ModelConfig], Grid]
  streams: Callable[..., Streams] = Plain
  options: type | None = None
  unit_embedding: bool = False
  residual_layers: Callable[[ModelConfig], int] = _num_layers
  per_run: Callable[[ModelConfig], PerRun | None] = _nothing
