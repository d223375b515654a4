"""Bodies: one file each; a body says which layers a segment runs."""

from ease_jax.config import ModelConfig
from ease_jax.model.body import Body
from ease_jax.model.hrm import HRM
from ease_jax.model.refine import Refine
from ease_jax.model.stack import Stack

BODIES: dict[str, type[Body]] = {'stack': Stack, 'refine': Refine, 'hrm': HRM}


def build(cfg: ModelConfig) -> Body:
  """The body that a config describes."""
  return BODIES[cfg.body](cfg)
