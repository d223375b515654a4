"""What makes a body: a schedule, and streams where it has some of its own."""

import dataclasses
from collections.abc import Callable

from ease_jax.core.grid import Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model.per_run import PerRun
from ease_jax.model.streams import Plain, Streams


def _num_layers(cfg: ModelConfig) -> int:
  return cfg.num_layers


def _no(cfg: ModelConfig) -> bool:
  del cfg
  return False


@dataclasses.dataclass(frozen=True)
class Reach:
  """How far back the gradient of a body goes, and how to make it go less far.

  Attributes:
    field: of the config, that says how far.
    full: config -> how far, in what the body counts: runs, or updates of a
      state.
    cut: (config, fewer) -> the config of the same parameters whose gradient
      goes back so far.
  """

  field: str
  full: Callable[[ModelConfig], int]
  cut: Callable[[ModelConfig, int], ModelConfig]


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
    reach: how far back the gradient goes; None = through all that is run.
    runs_differ: config -> whether runs of a segment have parameters of their
      own, by their number.
    per_run: config -> what blocks of a segment have of their own in each run.
    elastic: config -> whether fewer runs make the whole way, in longer steps.
    lists_blocks: whether `model.blocks` may say which block a layer is.
  """

  name: str
  schedule: Callable[[ModelConfig], Grid]
  streams: Callable[..., Streams] = Plain
  options: type | None = None
  unit_embedding: bool = False
  residual_layers: Callable[[ModelConfig], int] = _num_layers
  reach: Reach | None = None
  runs_differ: Callable[[ModelConfig], bool] = _no
  per_run: Callable[[ModelConfig], PerRun | None] = _nothing
  elastic: Callable[[ModelConfig], bool] = _no
  lists_blocks: bool = False
