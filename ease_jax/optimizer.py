"""AdamW with warm-up, cosine decay, clipping and per-layer learning rates."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
  """What `build` needs; hashable, so that it can be a static argument.

  Attributes:
    learning_rate: the peak.
    warmup_steps: updates of linear warm-up; the last of them is at the peak.
    final_fraction: share of the peak that the last update has.
    b1: decay of Adam's first moment.
    b2: decay of its second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled, on arrays of two or more axes.
    clip_norm: largest global gradient norm; 0 = off.
    layer_decay: layer l of L learns at rate layer_decay^(L - l).
    num_layers: L.
    steps: updates in all.
  """

  learning_rate: float
  warmup_steps: int
  final_fraction: float
  b1: float
  b2: float
  eps: float
  weight_decay: float
  clip_norm: float
  layer_decay: float
  num_layers: int
  steps: int

  @classmethod
  def from_config(cls, config: Any) -> 'OptimizerSpec':
    return cls(
        num_layers=config.model.num_layers, steps=config.train.steps,
        **dict(config.optimizer))  # pyformat: disable


def learning_rate(spec: OptimizerSpec, step: Any) -> jax.Array:
  """Rate of update `step` (from 0): linear warm-up, then a cosine.

  No update is wasted on rate 0: the first has 1 / warmup_steps of the peak.
  """
  done = jnp.asarray(step, jnp.float32) + 1
  warm = jnp.minimum(done / max(spec.warmup_steps, 1), 1.0)
  decay_steps = max(spec.steps - spec.warmup_steps, 1)
  progress = jnp.clip((done - spec.warmup_steps) / decay_steps, 0.0, 1.0)
  cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
  shape = spec.final_fraction + (1 - spec.final_fraction) * cosine
  return spec.learning_rate * warm * shape


def layer_scale(name: str, num_layers: int, layer_decay: float) -> float:
  """Learning rate of a top-level parameter group relative to the schedule.

  `layer_{l-1}` is layer l, the embedding is layer 0; what comes after the
  layers (norms of the readouts, unembedding) learns at the full rate.
  """
  if name == 'embed':
    return layer_decay**num_layers
  match = re.fullmatch(r'layer_(\d+)', name)
  if not match:
    return 1.0
  return layer_decay ** (num_layers - 1 - int(match[1]))


def _scale_layers(spec: OptimizerSpec) -> optax.GradientTransformation:
  def scale(updates: Any, params: Any) -> Any:
    del params
    scaled = {}
    for name, group in updates.items():
      scale = layer_scale(name, spec.num_layers, spec.layer_decay)
      scaled[name] = jax.tree.map(
          functools.partial(jnp.multiply, scale), group)
    return scaled

  return optax.stateless(scale)


def build(spec: OptimizerSpec) -> optax.GradientTransformation:
  """The update rule; its rate is `learning_rate(spec, step)`."""
  steps: list[optax.GradientTransformation] = [
      optax.adamw(
          lambda step: learning_rate(spec, step), b1=spec.b1, b2=spec.b2,
          eps=spec.eps, weight_decay=spec.weight_decay,
          mask=lambda tree: jax.tree.map(lambda x: x.ndim >= 2, tree))
  ]  # pyformat: disable
  if spec.clip_norm > 0:
    steps.insert(0, optax.clip_by_global_norm(spec.clip_norm))
  if spec.layer_decay != 1:
    steps.append(_scale_layers(spec))
  return optax.chain(*steps)
