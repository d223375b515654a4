"""Models that others have trained: what they are made of, and their tensors."""

from ease_jax.pretrained.families import FAMILIES as FAMILIES
from ease_jax.pretrained.families import Family as Family
from ease_jax.pretrained.mapping import their_tensors as their_tensors
from ease_jax.pretrained.said import Said as Said
from ease_jax.pretrained.source import Source as Source
from ease_jax.pretrained.source import params_of as params_of
