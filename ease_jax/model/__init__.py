"""Bodies on the grid: one file each; a body is a schedule and its streams."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ease_jax.checks import need, one_of, plain
from ease_jax.core import mod, mor
from ease_jax.core.block import BlockSpec
from ease_jax.core.routers import NONE, Routing
from ease_jax.core.spec import BLOCK, CAUSAL, READOUT_NORMS, ModelConfig
from ease_jax.model.body import Body as Body
from ease_jax.model.body import Params as Params
from ease_jax.model.cycle import CYCLE
from ease_jax.model.hrm import HRM
from ease_jax.model.kind import Kind as Kind
from ease_jax.model.refine import REFINE
from ease_jax.model.stack import STACK

BODIES: dict[str, Kind] = {}
# What `model.router` may be, and who reads the section of its name.
ROUTINGS: dict[str, type[Routing] | None] = {
  NONE: None,
  mod.NAME: mod.MoDSpec,
  mor.NAME: mor.MoRSpec,
}


def register(kind: Kind) -> Kind:
  """Makes a body known by its name to configs."""
  BODIES[kind.name] = kind
  return kind


register(STACK)
register(REFINE)
register(HRM)
register(CYCLE)


def model_config(
  section: Mapping[str, Any],
  vocab_size: int,
  *,
  gates: Sequence[str] = (),
  gate_dim: int = 0,
  attention: str = CAUSAL,
  document_start: int | None = None,
) -> ModelConfig:
  """The frozen description of a model.

  Args:
    section: `model` of a config.
    vocab_size: V, which the tokenizer knows.
    gates: learned signals that the model has.
    gate_dim: width of their hidden layer; 0 = none.
    attention: whom tokens see, which the task knows.
    document_start: the token that begins a document; None = none does.

  Raises:
    ConfigError: two fields clash.
  """
  one_of('model.body', section['body'], BODIES)
  kind = BODIES[section['body']]
  options = kind.options and kind.options(**dict(section[kind.name]))
  own = ('block', 'router', *BODIES, *ROUTINGS)
  fields = plain(section)
  fields = {name: value for name, value in fields.items() if name not in own}
  for name, value in fields.items():
    need(
      not isinstance(value, dict),
      f'model.{name} is the section of a body that is not known; make it known '
      'by model.register, or leave the section out',
    )
  return ModelConfig(
    block=BlockSpec.from_config(section['block']),
    options=options,
    routing=_routing(section),
    vocab_size=vocab_size,
    attention=attention,
    document_start=document_start,
    gates=tuple(gates),
    gate_dim=gate_dim,
    **fields,
  )


def _routing(section: Mapping[str, Any]) -> Routing | None:
  name = section['router']
  one_of('model.router', name, tuple(ROUTINGS))
  kind = ROUTINGS[name]
  return kind and kind(**plain(section[name]))


def build(cfg: ModelConfig) -> Body:
  """The body that a config describes.

  Raises:
    ConfigError: its schedule makes no grid.
  """
  kind = BODIES[cfg.body]
  need(
    kind.lists_blocks or not cfg.blocks,
    f'model.blocks={cfg.blocks} does not fit model.body={cfg.body}, which has '
    'an order of its own; use (), or model.body=stack or refine',
  )
  router = cfg.routing and cfg.routing.field
  need(
    router is None or not cfg.blocks,
    f'model.blocks={cfg.blocks} does not fit {router}, which counts layers by '
    'their blocks; use (), or no router',
  )
  body = Body(cfg, kind)
  grid = body.grid  # a schedule that does not fit says so now
  every = cfg.block.attention.global_every
  cells = [cell for cell in (*grid.cells, *grid.tail) if not cell.aside]
  blocks = [cell.block for cell in cells]
  need(
    not every or blocks == list(range(len(blocks))),
    f'model.block.attention.global_every={every} counts layers, which in '
    f'model.body={cfg.body} with model.blocks={cfg.blocks} are not in order of '
    'their blocks; use 0, or model.body=stack',
  )
  need(
    not cfg.readout_adapters or grid.per_segment > 1,
    f'model.readout_adapters={cfg.readout_adapters} has no effect: the one '
    'readout of a segment is the last; name more model.readouts, or use ()',
  )
  need(
    not (grid.has_asides and (grid.coda or grid.routed)),
    f'model.readout_adapters={cfg.readout_adapters} has a {BLOCK!r}, which '
    'does not fit a model with a coda or with routers; leave one of them out',
  )
  need(
    not grid.coda or cfg.readout_norm == READOUT_NORMS[0],
    f'model.readout_norm={cfg.readout_norm} does not fit model.body='
    f'{cfg.body}, whose coda reads all readouts alike; use {READOUT_NORMS[0]}',
  )
  return body


def routed(body: Body, routing: Routing | None) -> Body:
  """The same parameters with routers of a routing; None = as it is.

  Raises:
    ConfigError: the body has routers already, or can have none there.
  """
  if routing is None:
    return body
  own = body.cfg.routing
  need(
    own is None,
    f'{routing.field} does not fit {own and own.field}: a layer has one '
    'router; leave one of them at its default',
  )
  return build(dataclasses.replace(body.cfg, routing=routing))


def with_reach(body: Body, reach: int) -> Body:
  """The same parameters; gradients go back so far (`Kind.reach`).

  Args:
    body: one whose gradient can be cut.
    reach: how far, in what its kind counts.
  """
  assert body.kind.reach is not None
  if reach == body.kind.reach.full(body.cfg):
    return body
  return build(body.kind.reach.cut(body.cfg, reach))


def with_segments(body: Body, segments: int) -> Body:
  """The same parameters with another number of segments.

  With another number it has no gates, which may know the readouts by theirs.
  """
  if segments == body.cfg.segments:
    return body
  cfg = dataclasses.replace(
    body.cfg,
    segments=segments,
    own_runs=body.cfg.trained_runs,
    carry_backprop=min(body.cfg.carry_backprop, segments),
    gates=(),
  )
  return build(cfg)
