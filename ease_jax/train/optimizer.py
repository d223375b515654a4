"""AdamW or Muon with warm-up, cosine decay, clipping, per-layer rates."""

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
    name: adamw, or muon for the matrices inside layers and AdamW elsewhere.
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
    layer_decay: layer l of L learns at rate layer_decay^(L - l).
    num_layers: layers with parameters of their own.
    steps: batches in all.
    updates_per_step: updates that each batch makes.
  """

  name: str
  learning_rate: float
  muon_learning_rate: float
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
  updates_per_step: int = 1

  @classmethod
  def from_config(cls, config: Any) -> 'OptimizerSpec':
    m = model_config(config, vocab_size=1)
    per_segment = config.train.updates == 'per_segment'
    return cls(
      num_layers=m.num_blocks,
      steps=config.train.steps,
      updates_per_step=m.segments if per_segment else 1,
      **dict(config.optimizer),
    )


def schedule(spec: OptimizerSpec, update: Any) -> jax.Array:
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


def learning_rate(spec: OptimizerSpec, update: Any) -> jax.Array:
  """AdamW's rate of an update, counted from 0."""
  return spec.learning_rate * schedule(spec, update)


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
      scaled[name] = jax.tree.map(functools.partial(jnp.multiply, scale), group)
    return scaled

  return optax.stateless(scale)


def _adamw(spec: OptimizerSpec) -> optax.GradientTransformation:
  return optax.adamw(
    functools.partial(learning_rate, spec),
    b1=spec.b1,
    b2=spec.b2,
    eps=spec.eps,
    weight_decay=spec.weight_decay,
    mask=lambda tree: jax.tree.map(lambda x: x.ndim >= 2, tree),
  )


def _muon(spec: OptimizerSpec) -> optax.GradientTransformation:
  """Jordan et al. 2024 (kellerjordan.github.io/posts/muon)."""
  muon = optax.contrib.muon(
    lambda count: spec.muon_learning_rate * schedule(spec, count),
    weight_decay=spec.weight_decay,
  )

  def label(path: Any, x: jax.Array) -> str:
    inside = path[0].key.startswith('layer_')
    return 'muon' if inside and x.ndim == 2 else 'adamw'

  labels = functools.partial(jax.tree_util.tree_map_with_path, label)
  return optax.partition({'muon': muon, 'adamw': _adamw(spec)}, labels)


def build(spec: OptimizerSpec) -> optax.GradientTransformation:
  """The update rule; its rate is `learning_rate(spec, update)`."""
  steps = [{'adamw': _adamw, 'muon': _muon}[spec.name](spec)]
  if spec.clip_norm > 0:
    steps.insert(0, optax.clip_by_global_norm(spec.clip_norm))
  if spec.layer_decay != 1:
    steps.append(_scale_layers(spec))
  return optax.chain(*steps)
