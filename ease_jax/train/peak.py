"""What devices could multiply at best, as their makers publish it."""

import dataclasses
import re

import jax

from ease_jax import sharding

BFLOAT16 = 'bfloat16'
# A device multiplies float32 with fewer bits unless it is told otherwise.
BY_DEFAULT = (None, 'default')


@dataclasses.dataclass(frozen=True)
class Peak:
  """Products of matrices of one kind of device, FLOP/s.

  Attributes:
    kinds: what JAX calls it, as a pattern for all of the name.
    bfloat16: dense, sums in float32.
    float32: dense, of float32 as JAX multiplies it by default: with the bits
      of TF32 on a GPU, with those of bfloat16 on a TPU.
  """

  kinds: str
  bfloat16: float
  float32: float


# Dense figures: where a data sheet has them with sparsity, half of them.
PEAKS = (
  # NVIDIA A100 data sheet, 2021.
  Peak(r'NVIDIA A100(-SXM4|-PCIE)?[- ]\d+GB( PCIe)?', 312e12, 156e12),
  # NVIDIA H100 and H200 data sheets, 2023 and 2024.
  Peak(r'NVIDIA H100 80GB HBM3', 989.5e12, 494.5e12),
  Peak(r'NVIDIA H100 PCIe', 756.5e12, 378e12),
  Peak(r'NVIDIA H(100|200) NVL', 835.5e12, 417.5e12),
  Peak(r'NVIDIA H200', 989.5e12, 494.5e12),
  # NVIDIA HGX B200 data sheet, 2024: an eighth of eight of them.
  Peak(r'NVIDIA B200', 2250e12, 1125e12),
  # NVIDIA L4 data sheet, 2023.
  Peak(r'NVIDIA L4', 121e12, 60e12),
  # NVIDIA Ada GPU architecture, 2022, appendix A.
  Peak(r'NVIDIA GeForce RTX 4090', 165.2e12, 82.6e12),
  # cloud.google.com/tpu/docs/v4, v5e, v5p, v6e; a device is a chip.
  Peak(r'TPU v4', 275e12, 275e12),
  Peak(r'TPU v5( lite|e)', 197e12, 197e12),
  Peak(r'TPU v5p?', 459e12, 459e12),
  Peak(r'TPU v6( lite|e)', 918e12, 918e12),
)


def of_kind(kind: str, dtype: str) -> float | None:
  """FLOP/s of one device; None where no figure is known for it.

  A part of a GPU (MIG) is another kind; a CPU is none of these.

  Args:
    kind: what JAX calls the device.
    dtype: that products are made in, bfloat16 or float32.
  """
  for peak in PEAKS:
    if re.fullmatch(peak.kinds, kind):
      return peak.bfloat16 if dtype == BFLOAT16 else peak.float32
  return None


def of_devices(dtype: str) -> float | None:
  """FLOP/s of all devices of the run; None where no figure is known.

  Args:
    dtype: that products are made in, bfloat16 or float32.
  """
  asked = jax.config.jax_default_matmul_precision  # pyright: ignore
  if dtype != BFLOAT16 and asked not in BY_DEFAULT:
    return None
  one = of_kind(jax.devices()[0].device_kind, dtype)
  return None if one is None else one * sharding.num_devices()


def described() -> str:
  """The devices of the run: `8 x TPU v4`."""
  return f'{sharding.num_devices()} x {jax.devices()[0].device_kind}'
