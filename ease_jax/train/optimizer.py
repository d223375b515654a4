"""AdamW or Muon with warm-up, cosine decay, clipping, rates per layer."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from ease_jax.checks import (
  Count,
  NotNegative,
  OneOf,
  Range,
  ReadIf,
  Share,
  Size,
  check_fields,
  need,
  plain,
)
from ease_jax.core.freeze import NOTHING, Freeze
from ease_jax.model import Params
from ease_jax.train import freezing
from ease_jax.train.paths import path_of

Decay = Annotated[float, Range(0, 1, below=True)]


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
  """What `build` needs; hashable, so that it can be a static argument.

  Attributes:
    name: adamw, or muon for the matrices of layers, injections and clocks and
      AdamW elsewhere.
    learning_rate: the peak of AdamW's parameters.
    muon_learning_rate: the peak of Muon's.
    warmup_steps: batches of linear warm-up; the last of them is at the peak.
    final_fraction: share of the peak that the last update has.
    b1: decay of Adam's first moment.
    b2: decay of its second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled, on arrays of two or more axes; under muon, on
      its matrices.
    clip_norm: largest global gradient norm; 0 = off.
    layer_decay: block b of N, from 1, learns at rate layer_decay^(N - b).
    num_blocks: N, layers that have parameters of their own.
    steps: batches in all.
    updates_per_step: updates that each batch makes.
    freeze: what is never updated, and has no moments.
  """

  name: Annotated[str, OneOf(lambda: OPTIMIZERS)]
  learning_rate: NotNegative
  muon_learning_rate: Annotated[NotNegative, ReadIf('name', ('muon',))]
  warmup_steps: Size
  final_fraction: Share
  b1: Decay
  b2: Decay
  eps: Annotated[float, Range(0, above=True)]
  weight_decay: NotNegative
  clip_norm: NotNegative
  layer_decay: Annotated[float, Range(0, 1, above=True)]
  num_blocks: Count
  steps: Size
  updates_per_step: Count = 1
  freeze: Freeze = NOTHING

  @classmethod
  def from_config(
    cls,
    section: Mapping[str, Any],
    *,
    num_blocks: int,
    steps: int,
    updates_per_step: int,
    freeze: Freeze = NOTHING,
  ) -> 'OptimizerSpec':
    """The spec of a config's section `optimizer`.

    Args:
      section: the section.
      num_blocks: layers of the model that have parameters of their own.
      steps: batches of the whole run.
      updates_per_step: updates that each batch makes.
      freeze: what is never updated.

    Raises:
      ConfigError: there is no optimizer of this name.
    """
    return cls(
      **plain(section),
      num_blocks=num_blocks,
      steps=steps,
      updates_per_step=updates_per_step,
      freeze=freeze,
    )

  def __post_init__(self):
    check_fields('optimizer', self)
    need(
      self.steps > 0 or self.warmup_steps == 0,
      'train.steps=0 trains nothing, as an imported model has it; raise it',
    )
    need(
      self.warmup_steps <= self.steps,
      f'optimizer.warmup_steps={self.warmup_steps} is more than train.steps='
      f'{self.steps}, so that the rate would never reach its peak; lower it',
    )


def schedule(spec: OptimizerSpec, update: jax.typing.ArrayLike) -> jax.Array:
  """Share of the peak rate: linear warm-up, then a cosine.

  No update is wasted on rate 0: the first has 1 / warmup_steps of the peak.

  Args:
    spec: its warm-up and length are in steps.
    update: its number, from 0.
  """
  done = (jnp.asarray(update, jnp.float32) + 1) / spec.updates_per_step
  warm = jnp.minimum(done / max(spec.warmup_steps, 1), 1.0)

  decay_steps = max(spec.steps - spec.warmup_steps, 1)
  progress = jnp.clip((done - spec.warmup_steps) / decay_steps, 0.0, 1.0)
  cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
  return warm * (spec.final_fraction + (1 - spec.final_fraction) * cosine)


def learning_rate(
  spec: OptimizerSpec, update: jax.typing.ArrayLike
) -> jax.Array:
  """AdamW's rate of an update, counted from 0."""
  return spec.learning_rate * schedule(spec, update)


def muon_learning_rate(
  spec: OptimizerSpec, update: jax.typing.ArrayLike
) -> jax.Array:
  """Muon's rate of an update, counted from 0."""
  return spec.muon_learning_rate * schedule(spec, update)


def layer_scale(name: str, num_blocks: int, layer_decay: float) -> float:
  """Learning rate of a top-level parameter group relative to the schedule.

  Embeddings of tokens and positions count as layer 0. What comes after the
  layers (norms of the readouts, unembedding) learns at the full rate.

  Args:
    name: of the group; `layer_{b-1}` is block b.
    num_blocks: N, layers that have parameters of their own.
    layer_decay: block b learns at rate layer_decay^(N - b).
  """
  if name in ('embed', 'positions'):
    return layer_decay**num_blocks
  match = re.fullmatch(r'layer_(\d+)', name)
  if not match:
    return 1.0
  block = int(match[1]) + 1
  return layer_decay ** (num_blocks - block)


def _scale_layers(spec: OptimizerSpec) -> optax.GradientTransformation:
  def scale(updates: Params, params: Params | None) -> Params:
    del params
    scaled = {}
    for name, group in updates.items():
      factor = layer_scale(name, spec.num_blocks, spec.layer_decay)
      scaled[name] = jax.tree.map(
        functools.partial(jnp.multiply, factor), group
      )
    return scaled

  return optax.stateless(scale)


def _is_matrix(tree: Params) -> Params:
  return jax.tree.map(lambda x: x.ndim >= 2, tree)


def _adamw(spec: OptimizerSpec) -> optax.GradientTransformation:
  return optax.adamw(
    functools.partial(learning_rate, spec),
    b1=spec.b1,
    b2=spec.b2,
    eps=spec.eps,
    weight_decay=spec.weight_decay,
    mask=_is_matrix,
  )


NEWTON_SCHULZ_STEPS = 5


def _is_muons(path: jax.tree_util.KeyPath, shape: tuple[int, ...]) -> bool:
  """Whether Muon updates a parameter: a matrix that states multiply.

  Those of layers, of injections, and of what runs have of their own: factors
  of a low rank are multiplied as the matrices beside them, and what a clock
  says is as large as a normed state. AdamW's rate is that of embeddings, some
  ten times what a matrix can stand.
  """
  group = path[0].key
  return group.startswith(('layer_', 'streams', 'clock')) and len(shape) == 2


def _muon(spec: OptimizerSpec) -> optax.GradientTransformation:
  """Jordan et al. 2024 (kellerjordan.github.io/posts/muon)."""

  def label(path: jax.tree_util.KeyPath, x: jax.Array) -> str:
    return 'muon' if _is_muons(path, x.shape) else 'adamw'

  muon = optax.contrib.muon(
    functools.partial(muon_learning_rate, spec),
    ns_steps=NEWTON_SCHULZ_STEPS,
    weight_decay=spec.weight_decay,
  )
  labels = functools.partial(jax.tree_util.tree_map_with_path, label)
  return optax.partition({'muon': muon, 'adamw': _adamw(spec)}, labels)


def update_flops(spec: OptimizerSpec, params: Params) -> float:
  """FLOPs of the products of matrices that one update of the rule takes.

  Muon's Newton-Schulz iteration on a matrix of m <= n makes X X^T (2 m^2 n),
  its square (2 m^3), and their sum times X (2 m^2 n), five times. What rules
  do to each number alone is left out: some 20 FLOPs for each parameter, where
  a batch of N tokens takes 6 N.

  Args:
    spec: which rule.
    params: parameters, or their shapes.
  """
  if spec.name != 'muon':
    return 0.0

  flops = 0.0
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    if _is_muons(path, x.shape) and spec.freeze.learns(path_of(path)):
      m, n = sorted(x.shape)
      flops += NEWTON_SCHULZ_STEPS * (4 * m**2 * n + 2 * m**3)
  return flops


Rule = Callable[[OptimizerSpec], optax.GradientTransformation]

OPTIMIZERS: dict[str, Rule] = {'adamw': _adamw, 'muon': _muon}


def build(spec: OptimizerSpec) -> optax.GradientTransformation:
  """The update rule; its rate is `learning_rate(spec, update)`."""
  rule = OPTIMIZERS[spec.name](spec)
  if spec.freeze.held:
    rule = optax.partition(
      {freezing.LEARNS: rule, freezing.STAYS: optax.set_to_zero()},
      functools.partial(freezing.labels, freeze=spec.freeze),
    )
  transformations = [rule]
  if spec.clip_norm > 0:
    transformations.insert(0, optax.clip_by_global_norm(spec.clip_norm))
  if spec.layer_decay != 1:
    transformations.append(_scale_layers(spec))
  return optax.chain(*transformations)
